"""Passwords are checked one at a time, beside the event loop, and each once."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import TYPE_CHECKING

import bcrypt
import pytest

from portspec import threads
from portspec.access.passwords import MAX_KEPT, MAX_WAITING, BusyError, Passwords
from portspec.errors import NoThreadError
from tests.unit.factories import settle

if TYPE_CHECKING:
    from collections.abc import Awaitable

PASSWORD = "correct horse"  # noqa: S105 - of nobody
HASHES = {name: bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode() for name in ("alice", "bob")}
LONG = "x" * 73


def asked(*checks: tuple[str, str]) -> list[bool]:
    """Ask one object, one after the other, whether passwords are right."""

    async def scenario() -> list[bool]:
        found = Passwords()
        return [await found.check(user, password, HASHES) for user, password in checks]

    return asyncio.run(scenario())


class Bench:
    """Stands for bcrypt: each check waits until the test gives its result."""

    def __init__(self) -> None:
        self.asked: queue.Queue[tuple[bytes, bytes]] = queue.Queue()
        self.results: queue.Queue[bool] = queue.Queue()
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        """Check a password, as bcrypt.checkpw() does."""
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.asked.put((password, hashed))
        try:
            return self.results.get()
        finally:
            with self._lock:
                self.at_once -= 1


async def all_of(*waiting: Awaitable[bool]) -> list[bool | BaseException]:
    """Wait for all, whatever comes of them."""
    return await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize(
    ("user", "password", "is_right"),
    [
        ("alice", PASSWORD, True),
        ("alice", "wrong", False),
        ("alice", "", False),
        ("nobody", PASSWORD, False),
        ("", PASSWORD, False),
        ("alice", LONG, False),
        ("alice", "a\0b", False),
        ("alice", "\udcff", False),
        ("alice", "a\ud800b", False),
        ("\ud800", "x", False),
        ("alice", "é" * 36, False),
    ],
)
def test_passwords(user: str, password: str, is_right: bool) -> None:  # noqa: FBT001 - a column
    """The password of the user is right, the first time and from the cache; nothing else is, nor does it raise."""
    assert asked((user, password), (user, password)) == [is_right, is_right]


def test_a_password_of_more_than_72_bytes_is_wrong() -> None:
    """Bcrypt would compare its first 72 bytes, or raise."""
    hashes = {"alice": bcrypt.hashpw(LONG[:72].encode(), bcrypt.gensalt(4)).decode()}

    async def scenario() -> list[bool]:
        return [await Passwords().check("alice", LONG[:length], hashes) for length in (72, 73)]

    assert asyncio.run(scenario()) == [True, False]


@pytest.mark.parametrize("hashed", ["no hash", "$2y$04$" + "." * 53])  # the loader refuses what is too short
def test_a_hash_that_bcrypt_refuses_matches_nothing(hashed: str) -> None:
    """The password is wrong then."""
    assert asyncio.run(Passwords().check("alice", PASSWORD, {"alice": hashed})) is False


def test_without_users_no_password_is_right() -> None:
    """There is nothing to compare with, and nothing to hide."""
    assert asyncio.run(Passwords().check("alice", PASSWORD, {})) is False


def test_an_unknown_user_costs_as_much_as_a_known_one() -> None:
    """Its password is checked against the hash of one of the users, always the same one, and is wrong if it matches."""
    seen: list[bytes] = []

    def checkpw(_: bytes, hashed: bytes) -> bool:
        seen.append(hashed)
        return True

    async def scenario() -> list[bool]:
        found = Passwords(checkpw)
        return [await found.check("mallory", guess, HASHES) for guess in ("1", "2", "3")]

    assert asyncio.run(scenario()) == [False, False, False]
    assert len(set(seen)) == 1
    assert seen[0].decode() in HASHES.values()
    assert len(seen) == 3


def test_each_password_is_checked_once_and_one_at_a_time() -> None:
    """Requests with the same password share a check, and checks follow each other."""

    async def scenario(bench: Bench) -> list[bool | BaseException]:
        found = Passwords(bench)
        asking = [found.check(user, PASSWORD, HASHES) for user in ("alice", "alice", "bob", "alice", "bob")]
        waiting = asyncio.ensure_future(all_of(*asking))
        await settle()
        for result in (True, False):
            bench.results.put(result)
        return await waiting

    bench = Bench()
    assert asyncio.run(scenario(bench)) == [True, True, False, True, False]
    assert bench.most_at_once == 1
    assert bench.asked.qsize() == 2


def test_a_full_queue_refuses_at_once_and_known_passwords_pass() -> None:
    """Guesses beyond the queue are told to retry; who was let in before is still let in."""

    async def scenario(bench: Bench) -> None:
        found = Passwords(bench)
        bench.results.put(True)  # noqa: FBT003 - a queue of results
        assert await found.check("alice", PASSWORD, HASHES)
        guesses = [asyncio.ensure_future(found.check("alice", f"{guess}", HASHES)) for guess in range(MAX_WAITING + 1)]
        await settle()
        with pytest.raises(BusyError) as caught:
            await found.check("alice", "one more", HASHES)
        assert caught.value.retry_after > 0
        assert await found.check("alice", PASSWORD, HASHES)
        for _ in guesses:
            bench.results.put(False)  # noqa: FBT003 - as above
        assert await all_of(*guesses) == [False] * len(guesses)

    asyncio.run(scenario(Bench()))


def test_nothing_is_begun_for_those_who_have_gone() -> None:
    """A check whose askers have all gone leaves the queue, and makes room in it."""

    async def scenario(bench: Bench) -> None:
        found = Passwords(bench)
        first = asyncio.ensure_future(found.check("alice", "first", HASHES))
        gone = [asyncio.ensure_future(found.check("alice", f"{guess}", HASHES)) for guess in range(MAX_WAITING)]
        shared = asyncio.ensure_future(found.check("alice", "0", HASHES))
        await settle()
        for task in gone:
            task.cancel()
        await settle()
        last = asyncio.ensure_future(found.check("alice", "last", HASHES))
        await settle()
        first.cancel()  # its check is under way, and goes on
        for result in (False, False, True):
            bench.results.put(result)
        assert await shared is False
        assert await last is True

    bench = Bench()
    asyncio.run(scenario(bench))
    assert [bench.asked.get()[0] for _ in range(bench.asked.qsize())] == [b"first", b"0", b"last"]


def test_guesses_do_not_displace_the_users() -> None:
    """The cache of wrong passwords is bounded, and apart from that of right ones."""

    async def scenario() -> int:
        calls = 0

        def checkpw(password: bytes, _: bytes) -> bool:
            nonlocal calls
            calls += 1
            return password == PASSWORD.encode()

        found = Passwords(checkpw)
        assert await found.check("alice", PASSWORD, HASHES)
        for guess in range(MAX_KEPT + 1):
            assert not await found.check("alice", f"{guess}", HASHES)
        assert await found.check("alice", PASSWORD, HASHES)
        assert not await found.check("alice", "0", HASHES)
        return calls

    assert asyncio.run(scenario()) == 1 + MAX_KEPT + 1 + 1


def test_another_hash_is_another_check() -> None:
    """A password that was changed is not remembered."""

    async def scenario() -> list[bool]:
        found = Passwords()
        changed = {"alice": bcrypt.hashpw(b"changed", bcrypt.gensalt(4)).decode()}
        return [await found.check("alice", PASSWORD, hashes) for hashes in (HASHES, changed, HASHES)]

    assert asyncio.run(scenario()) == [True, False, True]


def test_a_user_who_gets_the_hash_of_another_one_is_let_in() -> None:
    """What was wrong for an unknown user is not remembered for a known one."""

    async def scenario() -> list[bool]:
        found = Passwords()
        shared = {"alice": HASHES["alice"]}
        return [
            await found.check("carol", PASSWORD, hashes) for hashes in (shared, shared | {"carol": shared["alice"]})
        ]

    assert asyncio.run(scenario()) == [False, True]


def test_no_thread_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a thread the client is told to retry, and the next check works."""

    def fail(_: threading.Thread) -> None:
        raise NoThreadError

    async def scenario() -> bool:
        found = Passwords()
        with monkeypatch.context() as patched:
            patched.setattr(threads, "start", fail)
            with pytest.raises(BusyError):
                await found.check("alice", PASSWORD, HASHES)
        return await found.check("alice", PASSWORD, HASHES)

    assert asyncio.run(scenario())


def test_what_bcrypt_raises_reaches_the_one_who_asks() -> None:
    """A fault that is not the password's is not taken for a wrong one, nor kept."""

    async def scenario() -> bool:
        outcomes: list[type[Exception] | None] = [MemoryError, None]

        def checkpw(_password: bytes, _hashed: bytes) -> bool:
            error = outcomes.pop(0)
            if error:
                raise error
            return True

        found = Passwords(checkpw)
        with pytest.raises(MemoryError):
            await found.check("alice", PASSWORD, HASHES)
        return await found.check("alice", PASSWORD, HASHES)

    assert asyncio.run(scenario())
