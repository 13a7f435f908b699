"""Mailers that are replaced or ended during a session with a real mail server."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
from aiosmtplib.protocol import SMTPProtocol

from portspec.notify import Session, discard_queued_mails, smtp
from portspec.notify import mailer as module
from tests.unit.app.exporter import until
from tests.unit.factories import settle
from tests.unit.notify.mailbox import Mailbox
from tests.unit.notify.test_mailer import WEB, Clock, Scene, Stage, mail_config
from tests.unit.store.scenes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PEOPLE: Final = ("a@example.org", "b@example.org", "c@example.org")
ANSWERS: Final = 2 + 4 * len(PEOPLE) + 1  # greeting, EHLO; MAIL, RCPT, DATA and the message for each; QUIT
COMMANDS: Final = ANSWERS - 1
BRIEF: Final = 0.05  # seconds that an answer is waited for where it does not come


class Dialogues:
    """Counts sessions, and checks that they do not overlap."""

    def __init__(self) -> None:
        self.is_open = False
        dialogues = self

        class Counted(Session):
            async def __aenter__(self) -> Self:
                assert not dialogues.is_open
                dialogues.is_open = True
                try:
                    return await super().__aenter__()
                except BaseException:
                    dialogues.is_open = False
                    raise

            async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
                try:
                    await super().__aexit__(kind, *rest)
                finally:
                    dialogues.is_open = False

        self.session = Counted


class AlwaysFailed:
    """An Alertmanager that is down; the second health check never ends."""

    url = "http://127.0.0.1:9093"
    is_healthy = False
    has_failed = False

    async def check(self) -> None:
        """Check once; the second check never ends."""
        if self.has_failed:
            await asyncio.get_running_loop().create_future()
        self.has_failed = True


@pytest.fixture(autouse=True)
def dialogues(monkeypatch: pytest.MonkeyPatch) -> Dialogues:
    """Count every session."""
    counted = Dialogues()
    monkeypatch.setattr(module, "Session", counted.session)
    return counted


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return hosts, a store and a mailer."""
    clock = Clock()
    with Stage(tmp_path / "portspec.db", clock).scene(*PEOPLE) as made:
        yield made


def run_replaced(
    scene: Scene,
    begin: Callable[[Callable[[], object]], None],
    *,
    times: int = 1,
    seconds: float = PATIENCE,
    on_mailbox: Callable[[Mailbox], object] = lambda _: None,
    **mail: Any,
) -> list[tuple[str, str]]:
    """Run a mailer, and replace it when `begin` has its argument called; return recipient and Message-ID of each mail.

    Each mailer has ended in so many seconds.
    """

    async def scenario() -> list[tuple[str, str]]:
        mailbox = Mailbox()
        await mailbox.start()
        on_mailbox(mailbox)
        settings = mail_config(*PEOPLE, server="127.0.0.1", port=mailbox.port, tls="none", **mail)
        tasks: list[asyncio.Task[None]] = []

        def start(remind: float) -> None:
            scene.reload(replace(settings, remind=remind))
            if scene.mailer._alertmanager:
                scene.mailer._alertmanager = AlwaysFailed()  # type: ignore[assignment]
            tasks.append(asyncio.create_task(scene.mailer.run()))

        def again() -> None:
            for number in range(times):
                tasks[-1].cancel()
                start(1.0 + number)

        begin(again)
        scene.scan(WEB, 22, 80)
        start(0.0)
        await until(lambda: len(tasks) > times and all(task.done() for task in tasks[:-1]))
        await until(lambda: scene.waits() == (0, 0))
        tasks[-1].cancel()
        done, _ = await asyncio.wait(tasks, timeout=seconds)
        assert len(done) == len(tasks)
        assert all(task.cancelled() for task in tasks)
        await mailbox.stop()
        return [(str(mail["To"]), str(mail["Message-ID"])) for mail in mailbox.taken]

    return asyncio.run(scenario())


def at_answer(number: int, patch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Call something when a reply was received, before the session reads it."""

    def begin(act: Callable[[], object]) -> None:
        count, real = itertools.count(1), SMTPProtocol.data_received

        def data_received(self: SMTPProtocol, data: bytes) -> None:
            real(self, data)
            if next(count) == number:
                act()

        patch.setattr(SMTPProtocol, "data_received", data_received)

    return begin


def at_command(number: int, patch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Call something when a command or a message was sent, before the reply."""

    def begin(act: Callable[[], object]) -> None:
        count, real = itertools.count(1), SMTPProtocol.write

        def write(self: SMTPProtocol, data: bytes) -> None:
            real(self, data)
            if next(count) == number:
                asyncio.get_running_loop().call_soon(act)

        patch.setattr(SMTPProtocol, "write", write)

    return begin


@pytest.mark.parametrize("number", range(1, ANSWERS + 1))
@pytest.mark.parametrize("parts", [{}, {"mode": "fallback", "alertmanager": AlwaysFailed.url}], ids=["on", "fallback"])
def test_reload_at_any_reply_sends_each_mail_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, number: int, parts: dict[str, Any]
) -> None:
    """The old mailer ends, whichever reply is received at that moment, then the new one sends the other mails."""
    told = run_replaced(scene, at_answer(number, monkeypatch), **parts)
    assert sorted(to for to, _ in told) == sorted(PEOPLE)
    assert scene.mailer.memory.sent == len(PEOPLE)
    assert scene.mailer.memory.delivered == {}


@pytest.mark.parametrize("number", range(1, COMMANDS + 1))
def test_reload_while_a_reply_is_awaited_sends_each_mail_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No mail is sent by both mailers, whichever reply is awaited at that moment."""
    told = run_replaced(scene, at_command(number, monkeypatch))
    assert sorted(to for to, _ in told) == sorted(PEOPLE)
    assert scene.mailer.memory.sent == len(PEOPLE)


@pytest.mark.parametrize("number", [1, 6, ANSWERS])
def test_several_reloads_do_not_overlap(scene: Scene, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Of three reloads the last one counts, and no two mailers send at the same time."""
    told = run_replaced(scene, at_answer(number, monkeypatch), times=3)
    assert sorted(to for to, _ in told) == sorted(PEOPLE)


@pytest.mark.parametrize("turns", range(0, 60, 3))
def test_reload_at_any_turn_of_the_event_loop_sends_each_mail_once(scene: Scene, turns: int) -> None:
    """Also while the outbox is read or the server is looked up."""

    def begin(act: Callable[[], object]) -> None:
        async def later() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            act()

        pending.append(asyncio.get_running_loop().create_task(later()))

    pending: list[asyncio.Task[None]] = []
    told = run_replaced(scene, begin)
    assert sorted(to for to, _ in told) == sorted(PEOPLE)


def test_reload_waits_for_a_reply_for_a_limited_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new mailer sends the mail again, with the same Message-ID."""
    monkeypatch.setattr(smtp, "_CANCELLED_REPLY_TIMEOUT", BRIEF)

    def hold(mailbox: Mailbox) -> None:
        mailbox.is_awake.clear()

        def release() -> None:
            if len(mailbox.taken) > 1:
                mailbox.is_awake.set()

        mailbox.on_taken = release

    told = run_replaced(scene, at_command(5, monkeypatch), on_mailbox=hold)
    assert sorted(to for to, _ in told) == sorted((PEOPLE[0], *PEOPLE))
    assert len(set(told)) == len(PEOPLE)


def test_mails_are_discarded_after_the_mailer_ended(scene: Scene) -> None:
    """Discarding waits for the lock of the mailer."""

    async def scenario() -> None:
        scene.scan(WEB, 22, 80)
        async with scene.mailer.memory.lock:
            task = asyncio.create_task(discard_queued_mails(scene.store, scene.mailer.memory))  # type: ignore[arg-type]
            await settle()
            assert scene.waits() == (1, 0)
        await task
        assert scene.waits() == (0, 0)

    asyncio.run(scenario())
