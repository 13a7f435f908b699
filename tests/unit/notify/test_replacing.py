"""Mailers that are replaced or ended in the middle of a dialogue with a real mail server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
from aiosmtplib.protocol import SMTPProtocol

from portspec.notify import Session, discard_queued_mails, smtp
from portspec.notify import mailer as module
from portspec.notify.cancellation import abandon_on_cancel, finish_on_cancel
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
    """Counts sessions, and sees that one begins only when the one before has ended."""

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
    """A watch over an Alertmanager that has failed, and whoever asks it waits."""

    url = "http://127.0.0.1:9093"
    is_healthy = False
    has_failed = False

    async def check(self) -> None:
        """Ask once; the second question has no answer."""
        if self.has_failed:
            await asyncio.get_running_loop().create_future()
        self.has_failed = True


@pytest.fixture(autouse=True)
def dialogues(monkeypatch: pytest.MonkeyPatch) -> Dialogues:
    """Have every session counted."""
    counted = Dialogues()
    monkeypatch.setattr(module, "Session", counted.session)
    return counted


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give hosts, a store and a mailer."""
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
    """Run a mailer, and replace it when `begin` has its argument called; gives recipient and Message-ID of each mail.

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
    """Have something called when an answer of the server has come, and nobody has seen it yet."""

    def begin(act: Callable[[], object]) -> None:
        count, real = itertools.count(1), SMTPProtocol.data_received

        def data_received(self: SMTPProtocol, data: bytes) -> None:
            real(self, data)
            if next(count) == number:
                act()

        patch.setattr(SMTPProtocol, "data_received", data_received)

    return begin


def at_command(number: int, patch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something called when a command is sent, or a message, and is not answered yet."""

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
def test_mailer_that_is_replaced_when_an_answer_comes_sends_each_mail_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, number: int, parts: dict[str, Any]
) -> None:
    """Whichever answer comes in the moment of a reload, the old mailer ends, then the new one sends what is left."""
    told = run_replaced(scene, at_answer(number, monkeypatch), **parts)
    assert sorted(to for to, _ in told) == sorted(PEOPLE)
    assert scene.mailer.memory.sent == len(PEOPLE)
    assert scene.mailer.memory.delivered == {}


@pytest.mark.parametrize("number", range(1, COMMANDS + 1))
def test_mailer_that_is_replaced_while_it_waits_for_an_answer_sends_each_mail_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever answer is on its way in the moment of a reload, no mail is sent by both."""
    told = run_replaced(scene, at_command(number, monkeypatch))
    assert sorted(to for to, _ in told) == sorted(PEOPLE)
    assert scene.mailer.memory.sent == len(PEOPLE)


@pytest.mark.parametrize("number", [1, 6, ANSWERS])
def test_mailers_that_are_replaced_at_once_wait_for_each_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Of three reloads at once the last one counts, and still no two mailers send at the same time."""
    told = run_replaced(scene, at_answer(number, monkeypatch), times=3)
    assert sorted(to for to, _ in told) == sorted(PEOPLE)


@pytest.mark.parametrize("turns", range(0, 60, 3))
def test_mailer_may_be_replaced_at_any_time(scene: Scene, turns: int) -> None:
    """Also while the outbox is read or the name of the server is looked up."""

    def begin(act: Callable[[], object]) -> None:
        async def later() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            act()

        pending.append(asyncio.get_running_loop().create_task(later()))

    pending: list[asyncio.Task[None]] = []
    told = run_replaced(scene, begin)
    assert sorted(to for to, _ in told) == sorted(PEOPLE)


def test_server_that_takes_a_mail_and_does_not_answer_is_not_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a few seconds the new mailer begins; it sends that mail again, with the same Message-ID."""
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


def test_withdrawal_waits_for_the_mailer(scene: Scene) -> None:
    """Mails are withdrawn only when nobody sends any more."""

    async def scenario() -> None:
        scene.scan(WEB, 22, 80)
        async with scene.mailer.memory.lock:
            task = asyncio.create_task(discard_queued_mails(scene.store, scene.mailer.memory))  # type: ignore[arg-type]
            await settle()
            assert scene.waits() == (1, 0)
        await task
        assert scene.waits() == (0, 0)

    asyncio.run(scenario())


async def hiding(answer: asyncio.Future[str], told: list[str]) -> str:
    """Wait for an answer, hide that one is cancelled, and go on."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait({answer})
    told.append("went on")
    await asyncio.sleep(0)
    told.append("went further")
    return "answer"


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and let everything run."""
    await settle()
    task.cancel()
    await settle()


def test_step_cannot_hide_a_cancellation() -> None:
    """Whoever waits for a step hears of its cancellation at once, and not from the step."""

    async def scenario() -> None:
        told: list[str] = []
        task = asyncio.create_task(abandon_on_cancel(hiding(asyncio.get_running_loop().create_future(), told)))
        await cancel(task)
        assert task.cancelled()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "way", [abandon_on_cancel, lambda work: finish_on_cancel(work, PATIENCE)], ids=["step", "last"]
)
def test_step_gives_its_result_or_raises_its_error(way: Callable[[Any], Any]) -> None:
    """Without a cancellation a step is like any await."""

    async def work(error: Exception | None) -> str:
        await asyncio.sleep(0)
        if error:
            raise error
        return "answer"

    async def scenario() -> None:
        assert await way(work(None)) == "answer"
        with pytest.raises(ValueError, match="why"):
            await way(work(ValueError("why")))

    asyncio.run(scenario())


def test_last_step_ends_before_the_cancellation_comes() -> None:
    """What cannot be broken off gives its result; the next await is cancelled, and the task counts one cancellation."""

    async def scenario() -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        told: list[object] = []

        async def work() -> None:
            told.append(await finish_on_cancel(answer, PATIENCE))
            this = asyncio.current_task()
            told.append(this and this.cancelling())
            await asyncio.sleep(0)
            told.append("too far")

        task = asyncio.create_task(work())
        await cancel(task)
        assert not task.done()
        answer.set_result("answer")
        await settle()
        assert task.cancelled()
        assert told == ["answer", 1]

    asyncio.run(scenario())


@pytest.mark.parametrize("is_impatient", [True, False])
def test_last_step_is_not_waited_for_for_ever(*, is_impatient: bool) -> None:
    """After its patience, or a second cancellation, the task is cancelled without the step's result."""

    async def scenario() -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(finish_on_cancel(answer, 0.0 if is_impatient else PATIENCE))
        await cancel(task)
        if not is_impatient:
            await cancel(task)
        await asyncio.wait({task}, timeout=PATIENCE)
        assert task.cancelled()
        assert answer.cancelled()

    asyncio.run(scenario())
