"""Checks passwords against bcrypt hashes, one at a time, beside the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from portspec.errors import NoThreadError, PortspecError
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_PASSWORD: Final = 72  # bytes; bcrypt knows no more of a password
MAX_WAITING: Final = 16  # checks: at cost 10, the last one waits for a second
MAX_KEPT: Final = 100  # results of either kind, as in exporter-toolkit's cache (web/cache.go)
_RETRY_AFTER: Final = 1.0  # seconds


class BusyError(PortspecError):
    """Too many passwords wait to be checked; ask again after `retry_after` seconds."""

    def __init__(self, retry_after: float = _RETRY_AFTER) -> None:
        self.retry_after = retry_after
        super().__init__("too many passwords are being checked; retry later")


def _checkpw(password: bytes, hashed: bytes) -> bool:
    from bcrypt import checkpw

    return checkpw(password, hashed)


@dataclass(slots=True, eq=False)
class _Check:
    """One password that waits to be checked, or is being checked, for all who ask for it."""

    key: bytes
    password: bytes
    hashed: str
    is_known: bool
    result: asyncio.Future[bool]
    waiting: int = 0


class Passwords:
    """Checks the passwords of one process, for one event loop.

    A password is checked once, and its result kept under a digest with a key of this process: no password stays in
    memory. Right and wrong ones are kept apart, so that guesses do not displace the users. `checkpw` is bcrypt's.
    """

    def __init__(self, checkpw: Callable[[bytes, bytes], bool] = _checkpw) -> None:
        self._checkpw = checkpw
        self._secret = secrets.token_bytes(32)
        self._kept: dict[bool, OrderedDict[bytes, None]] = {True: OrderedDict(), False: OrderedDict()}
        self._checks: dict[bytes, _Check] = {}
        self._queue: deque[_Check] = deque()
        self._is_busy = False

    async def check(self, user: str, password: str, hashes: Mapping[str, str]) -> bool:
        """Return whether a password is that of a user; `hashes` are the bcrypt hashes of all users.

        The password of an unknown user is checked against the hash of another one, so that it takes as long. One of
        more than 72 bytes in UTF-8 is wrong. Raises BusyError if too many others wait.
        """
        try:
            secret = password.encode("utf-8", "surrogateescape")  # how aiohttp carries bytes that are no text
        except UnicodeEncodeError:
            return False
        if not hashes or len(secret) > MAX_PASSWORD:
            return False
        hashed = hashes.get(user)
        is_known = hashed is not None
        if hashed is None:
            others = sorted(hashes.values())
            hashed = others[int.from_bytes(self._digest(user.encode("utf-8", "replace")), "big") % len(others)]
        key = self._digest(user.encode("utf-8", "replace"), hashed.encode(), secret, b"known" if is_known else b"")
        for is_right, kept in self._kept.items():
            if key in kept:
                kept.move_to_end(key)
                return is_right
        check = self._checks.get(key) or self._enqueue(key, secret, hashed, is_known=is_known)
        check.waiting += 1
        try:
            return await asyncio.shield(check.result)
        finally:
            check.waiting -= 1
            if not check.waiting and check in self._queue:  # all who asked have gone
                self._queue.remove(check)
                del self._checks[check.key]

    def _digest(self, *parts: bytes) -> bytes:
        digest = hashlib.blake2b(key=self._secret, digest_size=32)
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()

    def _enqueue(self, key: bytes, password: bytes, hashed: str, *, is_known: bool) -> _Check:
        if len(self._queue) >= MAX_WAITING:
            raise BusyError
        result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        check = _Check(key, password, hashed, is_known, result)
        self._checks[key] = check
        self._queue.append(check)
        self._begin()
        return check

    def _begin(self) -> None:
        """Begin the next check, unless one is under way."""
        while self._queue and not self._is_busy:
            check = self._queue.popleft()
            self._is_busy = True
            try:
                work = in_daemon_thread(partial(self._is_right, check), self._end)
            except NoThreadError:
                self._is_busy = False
                del self._checks[check.key]
                check.result.set_exception(BusyError())
            else:
                work.add_done_callback(partial(self._deliver, check))

    def _is_right(self, check: _Check) -> bool:
        try:
            is_right = self._checkpw(check.password, check.hashed.encode())
        except ValueError:  # bcrypt takes the hash or the password for invalid
            return False
        return is_right and check.is_known

    def _end(self) -> None:
        self._is_busy = False
        self._begin()

    def _deliver(self, check: _Check, work: asyncio.Future[bool]) -> None:
        del self._checks[check.key]
        error = work.exception()
        if error is not None:
            check.result.set_exception(error)
            return
        kept = self._kept[work.result()]
        kept[check.key] = None
        if len(kept) > MAX_KEPT:
            kept.popitem(last=False)
        check.result.set_result(work.result())
