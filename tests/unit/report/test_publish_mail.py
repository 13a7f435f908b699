"""The report of all machines as a mail a day, to a mail server that speaks SMTP, by a clock that a test sets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from datetime import datetime
from datetime import time as time_of_day
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec.config import MailConfig, WeeklyTime
from portspec.report import publish_mail, scheduled_mail
from portspec.report.publish_mail import DailyReport, WeeklyWorklists
from portspec.report.scheduled_mail import MAX_DELAY, RETRY_INTERVAL, MailedEditions, ScheduledMail
from portspec.state.snapshot import HostState, Snapshot
from portspec.state.table import HostTable
from portspec.store import StoreError, write_value
from tests.faults.registry import fault
from tests.unit.app.exporter import running, until, write
from tests.unit.factories import result, seen, target
from tests.unit.notify.mailbox import Mailbox
from tests.unit.report.fleets import SETTINGS, audited, fleet, never, vulnerability
from tests.unit.store.scenes import Logs, opened
from tests.unit.store.test_faults import locked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    from portspec.report import Edition, ReportSettings
    from portspec.store import Store

A, B = "a@example.org", "b@example.org"
SEVEN: Final = time_of_day(7, 0)
MINUTE, HOUR = 60.0, 3600.0


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Have the machine in a time zone, by default Berlin's, and give how to move it."""

    def move(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    move("Europe/Berlin")
    yield move
    monkeypatch.undo()
    time.tzset()


def at(text: str, fold: int = 0) -> float:
    """Return the Unix time of a local one, as "2026-11-22 07:00"; `fold` 1 for the second of two."""
    return datetime.fromisoformat(text).replace(fold=fold).timestamp()


class Scene:
    """A mail server, a state file, the time, and what mails the report."""

    def __init__(self, store: Store, mailbox: Mailbox, snapshot: Snapshot, now: float) -> None:
        self.store = store
        self.mailbox = mailbox
        self.snapshot = snapshot
        self.now = now
        self.mailed: MailedEditions | None = None
        self.mail = MailConfig("off", "127.0.0.1", mailbox.port, "none", "portspec@example.org", (A, B))
        self.begin()

    def begin(self, when: time_of_day = SEVEN, settings: ReportSettings = SETTINGS) -> None:
        """Begin anew, as after a restart or a reload."""
        self.publish(DailyReport(when, self.mail, settings))

    def publish(self, edition: Edition) -> None:
        """Begin with something to be mailed."""
        self.part = ScheduledMail(
            edition, self.mail, lambda: self.snapshot, self.store, self.mailed, wall_clock=lambda: self.now, poll=0.01
        )

    async def look(self, text: str | float, fold: int = 0) -> list[str]:
        """Look at a local time, or so many seconds later; give to whom mails were sent."""
        self.now = at(text, fold) if isinstance(text, str) else self.now + text
        await self.part.send_if_due()
        return self.mailbox.told()

    async def is_begun(self) -> None:
        """See that it has begun, the evening before."""
        assert await self.look("2026-11-21 20:00") == []


@contextlib.asynccontextmanager
async def mailing(path: Path, snapshot: Snapshot | None = None) -> AsyncIterator[Scene]:
    """Make a scene."""
    mailbox = Mailbox()
    await mailbox.start()
    try:
        with opened(path, (), retry=0.01) as (store, _):
            yield Scene(store, mailbox, snapshot or fleet(), 0.0)
    finally:
        await mailbox.stop()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on an event loop of its own."""
    asyncio.run(asyncio.wait_for(scenario(), 60.0))


# --- What is sent, and when ---


def test_report_is_mailed_to_each_recipient_when_it_is_time(path: Path) -> None:
    """At the time of day everybody gets a mail with a summary, and the page attached; a minute before nobody does."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            assert await scene.look("2026-11-22 06:59:59") == []
            scene.now = at("2026-11-22 07:00")
            await scene.part.send_if_due()
            assert [message["To"] for message in scene.mailbox.taken] == [A, B]
            (message, _) = scene.mailbox.taken
            assert message["From"].addresses[0].addr_spec == "portspec@example.org"
            assert str(message["Subject"]).startswith("[portspec] report: ")
            body, page = message.get_body(("plain",)), next(message.iter_attachments())
            assert body
            assert "shop" in body.get_content()
            assert (page.get_content_type(), page.get_filename()) == ("text/html", "portspec.html")
            assert page.get_content().startswith("<!doctype html>")
            assert scene.mailbox.connections == 1

    run(scenario)


def test_report_is_mailed_once_a_day(path: Path) -> None:
    """However often it is looked, and after a restart, there is one mail a day for each."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            assert await scene.look("2026-11-22 07:00") == [A, B]
            assert await scene.look(20) == []
            assert await scene.look(HOUR) == []
            scene.begin()
            assert await scene.look(20) == []
            assert await scene.look("2026-11-23 06:59") == []
            assert await scene.look("2026-11-23 07:00:10") == [A, B]
            scene.begin()
            assert await scene.look(20) == []

    run(scenario)


@pytest.mark.parametrize(("first", "is_sent_today"), [("06:00", True), ("07:00", False), ("12:00", False)])
def test_it_begins_with_the_next_one(path: Path, first: str, is_sent_today: bool) -> None:  # noqa: FBT001 - of the table
    """Who sets it up before the time gets the first report that day, who does so after it the day after."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            assert await scene.look(f"2026-11-22 {first}") == []
            assert await scene.look("2026-11-22 12:30") == ([A, B] if is_sent_today else [])
            assert await scene.look("2026-11-23 07:00") == [A, B]

    run(scenario)


@pytest.mark.parametrize(("start", "is_sent"), [("07:05", True), ("12:59", True), ("13:00", False), ("23:59", False)])
def test_report_that_was_due_while_nothing_ran_is_sent_within_six_hours(
    path: Path,
    start: str,
    is_sent: bool,  # noqa: FBT001 - of the table
) -> None:
    """An exporter that is started late sends what is not too late, and otherwise waits for the next day."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            scene.begin()
            assert await scene.look(f"2026-11-22 {start}") == ([A, B] if is_sent else [])
            assert await scene.look("2026-11-23 07:00") == [A, B]

    run(scenario)


def test_time_is_that_of_the_machine(path: Path, zone: Callable[[str], None]) -> None:
    """In Auckland seven o'clock is six in the evening of the day before, in UTC."""
    zone("Pacific/Auckland")

    async def scenario() -> None:
        async with mailing(path) as scene:
            assert await scene.look("2026-11-21 20:00") == []
            scene.now = datetime.fromisoformat("2026-11-21T17:59:59Z").timestamp()
            assert await scene.look(0) == []
            assert await scene.look(1) == [A, B]

    run(scenario)


def test_other_time_of_day_after_a_reload(path: Path) -> None:
    """A time that is set anew after the report was sent is that of tomorrow's; one that has passed counts at once."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            assert await scene.look("2026-11-22 07:00") == [A, B]
            scene.begin(time_of_day(9, 30))
            assert await scene.look("2026-11-22 09:30") == []
            assert await scene.look("2026-11-23 09:00") == []
            scene.begin(time_of_day(8, 0))
            assert await scene.look("2026-11-23 09:01") == [A, B]

    run(scenario)


def test_page_that_is_too_large_is_left_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that servers would not take is not attached, and the mail says where the whole report is to be had."""
    monkeypatch.setattr(publish_mail, "MAX_ATTACHMENT", 1000)

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            scene.now = at("2026-11-22 07:00")
            await scene.part.send_if_due()
            message = scene.mailbox.taken[0]
            assert list(message.iter_attachments()) == []
            assert "too large for a mail: use reportfile or `portspec report`." in message.get_content()

    run(scenario)


@pytest.mark.parametrize(("findings", "is_attached"), [(1000, True), (6000, False)])
def test_five_megabytes_are_attached(path: Path, findings: int, is_attached: bool) -> None:  # noqa: FBT001 - of the table
    """A page of a megabyte goes through whole; one of more than five does not."""
    found = (vulnerability(f"CVE-2023-{number}", title=f"{number} {'x' * 1000}") for number in range(findings))

    async def scenario() -> None:
        async with mailing(path, Snapshot(audits=HostTable([audited("db1", *found)]))) as scene:
            await scene.is_begun()
            scene.now = at("2026-11-22 07:00")
            await scene.part.send_if_due()
            pages = [page.get_content() for page in scene.mailbox.taken[0].iter_attachments()]
            assert [page.rstrip().endswith("</html>") for page in pages] == [True] * is_attached
            assert all(len(page) > 1 << 20 for page in pages)

    run(scenario)


def test_hostile_names_are_no_headers(path: Path) -> None:
    """A name with a line feed and markup is text in the mail and on the page."""
    name = "evil\nBcc: x@example.org\n\n<script>alert(1)</script>"

    async def scenario() -> None:
        async with mailing(path, Snapshot(audits=HostTable([never(name)]))) as scene:
            await scene.is_begun()
            scene.now = at("2026-11-22 07:00")
            await scene.part.send_if_due()
            message = scene.mailbox.taken[0]
            assert message["Bcc"] is None
            assert "<script>" not in next(message.iter_attachments()).get_content()

    run(scenario)


# --- Trouble with the mail server ---


def test_mail_that_cannot_be_sent_is_tried_again_every_ten_minutes(path: Path, logs: Logs) -> None:
    """While the server is down it is tried at times, and the mails go when it is back."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            await scene.mailbox.stop()
            assert await scene.look("2026-11-22 07:00") == []
            assert logs.levels == ["warning"] * 2
            assert await scene.look(RETRY_INTERVAL - 1) == []
            assert logs.levels == ["warning"] * 2
            assert await scene.look(1) == []
            assert logs.levels == ["warning"] * 4
            await scene.mailbox.start()
            assert await scene.look(MINUTE) == []
            assert await scene.look(RETRY_INTERVAL) == [A, B]
            assert await scene.look(RETRY_INTERVAL) == []

    run(scenario)


def test_who_has_got_it_does_not_get_it_again(path: Path, logs: Logs) -> None:
    """When one address is refused the others are served once, and it alone is tried again, also after a restart."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            scene.mailbox.refused.add(A)
            assert await scene.look("2026-11-22 07:00") == [B]
            assert await scene.look(RETRY_INTERVAL) == []
            scene.begin()
            scene.mailbox.refused.clear()
            assert await scene.look(MINUTE) == [A]
            assert await scene.look(RETRY_INTERVAL) == []

    run(scenario)
    assert [event["recipient"] for event in logs.events if event["level"] == "warning"] == [A, A]


def test_mail_is_given_up_after_six_hours(path: Path, logs: Logs) -> None:
    """What could not be sent until then is an error once; the next day's report is sent."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            scene.mailbox.refused.add(B)
            assert await scene.look("2026-11-22 07:00") == [A]
            assert await scene.look("2026-11-22 12:59") == []
            scene.mailbox.refused.clear()
            for _ in range(2):
                assert await scene.look("2026-11-22 13:00") == []
            errors = [event for event in logs.events if event["level"] == "error"]
            told = {"event": "gave up mailing the report to some recipients", "level": "error", "recipients": (B,)}
            assert errors == [told]
            scene.begin()
            assert await scene.look("2026-11-22 13:10") == []
            assert await scene.look("2026-11-23 07:00") == [A, B]

    run(scenario)


@pytest.mark.usefixtures("logs")
def test_midnight_is_not_the_end(path: Path) -> None:
    """A report of the late evening that could not be sent is tried again past midnight, too."""
    late = time_of_day(23, 30)

    async def scenario() -> None:
        async with mailing(path) as scene:
            scene.begin(late)
            await scene.is_begun()
            await scene.mailbox.stop()
            assert await scene.look("2026-11-22 23:30") == []
            await scene.mailbox.start()
            assert await scene.look("2026-11-23 00:10") == [A, B]
            assert await scene.look("2026-11-23 05:00") == []
            assert await scene.look("2026-11-23 23:30") == [A, B]

    run(scenario)


def test_recipient_that_is_gone_after_a_reload_gets_nothing(path: Path, logs: Logs) -> None:
    """Who is no longer in alertemail is not tried again, and is no trouble."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            scene.mailbox.refused.add(A)
            assert await scene.look("2026-11-22 07:00") == [B]
            scene.mail = replace(scene.mail, recipients=(B,))
            scene.begin()
            scene.mailbox.refused.clear()
            assert await scene.look(RETRY_INTERVAL) == []
            assert await scene.look("2026-11-22 13:00") == []

    run(scenario)
    assert "error" not in logs.levels


def test_reload_while_mails_are_sent_makes_no_second_mail(path: Path) -> None:
    """The one before has its answer, and has ended, before the next one mails who is left."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            scene.mailed = MailedEditions()
            scene.begin()
            tasks = [asyncio.create_task(scene.part.run())]

            def reload() -> None:
                scene.mailbox.on_taken = lambda: None
                tasks[0].cancel()
                scene.begin()
                tasks.append(asyncio.create_task(scene.part.run()))

            await asyncio.sleep(0)
            scene.mailbox.on_taken = reload
            scene.now = at("2026-11-22 07:00")
            await until(lambda: len(scene.mailbox.taken) >= 2 and tasks[0].done())
            tasks[1].cancel()
            await asyncio.wait(tasks)
            assert scene.mailbox.told() == [A, B]

    run(scenario)


# --- Trouble with the state file ---


@fault(
    "disk full",
    "mails",
    "The daily report waits until the state file can be written, so that no report is sent twice.",
)
@pytest.mark.usefixtures("logs", "no_lock_timeout")
def test_nothing_is_sent_while_nobody_knows_what_was_sent(path: Path) -> None:
    """While the state file cannot be written there is no mail; when it can, there is one."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            with locked(path, "immediate"):
                for _ in range(3):
                    with pytest.raises(StoreError):
                        await scene.look("2026-11-22 07:00")
                assert scene.mailbox.told() == []
            await until(lambda: scene.store.status.is_up)
            assert await scene.look("2026-11-22 07:20") == [A, B]

    run(scenario)


@pytest.mark.usefixtures("logs", "no_lock_timeout")
def test_state_file_that_fails_while_mails_are_sent_makes_no_second_mail(path: Path) -> None:
    """What was sent and could not be noted is not sent again, in whatever way the file comes and goes."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            with contextlib.ExitStack() as stack:

                def hold() -> None:
                    scene.mailbox.on_taken = lambda: None
                    stack.enter_context(locked(path, "immediate"))

                scene.mailbox.on_taken = hold
                assert await scene.look("2026-11-22 07:00") == [A, B]  # the other process holds it from the first on
                with pytest.raises(StoreError):
                    await scene.look(20)
            await until(lambda: scene.store.status.is_up)
            assert scene.mailbox.told() == []
            assert await scene.look(20) == []
            scene.begin()
            assert await scene.look(RETRY_INTERVAL) == []

    run(scenario)


@pytest.mark.usefixtures("logs", "no_lock_timeout")
def test_reload_while_the_state_file_fails_makes_no_second_mail(path: Path) -> None:
    """What was sent and could not be noted is known to the one that comes next."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            scene.mailed = MailedEditions()
            scene.begin()
            await scene.is_begun()
            with contextlib.ExitStack() as stack:

                def hold() -> None:
                    scene.mailbox.on_taken = lambda: None
                    stack.enter_context(locked(path, "immediate"))

                scene.mailbox.on_taken = hold
                assert await scene.look("2026-11-22 07:00") == [A, B]
                scene.begin()
            await until(lambda: scene.store.status.is_up)
            assert await scene.look(RETRY_INTERVAL) == []

    run(scenario)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"day": 5}', '{"day": "2026-11-22", "left": 7}'])
def test_note_that_makes_no_sense_is_none(path: Path, text: str) -> None:
    """A garbled note costs a day's mail at most."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            scene.store.transact(lambda file: write_value(file, "report_mail", text))
            assert await scene.look("2026-11-22 08:00") == []
            assert await scene.look("2026-11-23 07:00") == [A, B]

    run(scenario)


# --- Clocks ---


@fault("clock", "mails", "The daily report is not sent twice.")
def test_clock_that_is_set_back_brings_no_second_mail(path: Path) -> None:
    """An hour that comes twice has one report, and so has one after which the clock is put right by minutes."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            assert await scene.look("2026-11-22 07:00") == [A, B]
            for text in ("2026-11-22 06:58", "2026-11-22 06:59", "2026-11-22 07:00", "2026-11-22 07:01"):
                assert await scene.look(text) == []

    run(scenario)


@pytest.mark.usefixtures("logs")
def test_clock_that_is_set_back_does_not_put_the_next_try_off(path: Path) -> None:
    """After a try the next one is within ten minutes of the clock, wherever it is set to."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            await scene.is_begun()
            await scene.mailbox.stop()
            assert await scene.look("2026-11-22 12:00") == []
            await scene.mailbox.start()
            assert await scene.look("2026-11-22 08:00") == [A, B]

    run(scenario)


@fault("clock", "mails", "The daily reports continue once the clock is right.")
def test_clock_of_a_year_ahead_costs_no_report_after_it_is_right(path: Path) -> None:
    """A clock that was far ahead at the start does not keep the reports of the days before that from being sent."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            assert await scene.look("2027-11-22 12:00") == []
            assert await scene.look("2026-11-22 07:00") == [A, B]
            assert await scene.look("2026-11-22 07:01") == []

    run(scenario)


def test_hour_that_is_skipped_has_its_report(path: Path) -> None:
    """When clocks go forward over the time of day, the report is sent right after."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            scene.begin(time_of_day(2, 30))
            assert await scene.look("2026-03-28 20:00") == []
            assert await scene.look("2026-03-29 01:59:59") == []
            assert await scene.look("2026-03-29 03:29") == []
            assert await scene.look("2026-03-29 03:30") == [A, B]
            assert await scene.look("2026-03-29 04:00") == []
            assert await scene.look("2026-03-30 02:30") == [A, B]

    run(scenario)


def test_hour_that_comes_twice_has_one_report(path: Path) -> None:
    """When clocks go back over the time of day, the report is sent the first time."""

    async def scenario() -> None:
        async with mailing(path) as scene:
            scene.begin(time_of_day(2, 30))
            assert await scene.look("2026-10-24 20:00") == []
            assert await scene.look("2026-10-25 02:29") == []
            assert await scene.look("2026-10-25 02:30") == [A, B]
            assert await scene.look("2026-10-25 02:10", fold=1) == []
            assert await scene.look("2026-10-25 02:30", fold=1) == []
            assert await scene.look("2026-10-26 02:30") == [A, B]

    run(scenario)


# --- Worklists ---

MONDAY: Final = WeeklyTime(0, SEVEN)
C: Final = "web@example.org"


def owned(host: str, owner: str, *is_open: int) -> HostState:
    """Make a host of an owner, with some ports open that are not expected."""
    of = target(host, owner=owner, interval=1e9)
    return HostState(of).after(result(of, seen(is_open=is_open)))


def test_worklists_are_mailed_on_their_day_to_the_owners(path: Path) -> None:
    """What nobody has an address for goes to alertemail; 2026-11-23 is a Monday."""
    hosts = HostTable([owned("web1", "web", 22, 80), owned("db1", "db", 22), owned("old", "", 443)])

    async def scenario() -> None:
        async with mailing(path, Snapshot(hosts)) as scene:
            scene.publish(WeeklyWorklists(MONDAY, scene.mail, {"web": (C,), "app": (A,)}))
            assert await scene.look("2026-11-21 20:00") == []
            assert await scene.look("2026-11-22 07:00") == []
            assert await scene.look("2026-11-23 06:59") == []
            scene.now = at("2026-11-23 07:00")
            await scene.part.send_if_due()
            mails = {str(message["To"]): message for message in scene.mailbox.taken}
            assert set(mails) == {A, B, C}
            assert str(mails[C]["Subject"]) == "[portspec] worklist: 1 item, 0 overdue"
            body, table = mails[C].get_body(("plain",)), next(mails[C].iter_attachments())
            assert body
            assert "web1: unexpected 22, 80 (warning): close, or accept in conf.yml" in body.get_content()
            assert "db1" not in body.get_content()
            assert (table.get_content_type(), table.get_filename()) == ("text/csv", "portspec-worklist.csv")
            assert len(table.get_content().splitlines()) == 2
            assert str(mails[B]["Subject"]) == "[portspec] worklist: 2 items, 0 overdue"
            assert scene.mailbox.told() == [C, A, B]
            assert await scene.look("2026-11-24 07:00") == []
            assert await scene.look("2026-11-30 07:00") == [C, A, B]

    run(scenario)


def test_owner_with_nothing_to_do_is_told_so_and_others_get_no_mail(path: Path) -> None:
    """Silence could as well mean that mails do not arrive."""
    hosts = HostTable([owned("web1", "web"), owned("old", "")])

    async def scenario() -> None:
        async with mailing(path, Snapshot(hosts)) as scene:
            scene.publish(WeeklyWorklists(MONDAY, scene.mail, {"web": (C,)}))
            assert await scene.look("2026-11-21 20:00") == []
            scene.now = at("2026-11-23 07:00")
            await scene.part.send_if_due()
            (message,) = scene.mailbox.taken
            assert (str(message["To"]), str(message["Subject"])) == (C, "[portspec] worklist: nothing to do")
            assert await scene.look(RETRY_INTERVAL) == [C]  # that mail, and no other

    run(scenario)


def test_owner_without_a_host_here_is_not_told_that_there_is_nothing_to_do(path: Path) -> None:
    """The hosts may be those of another shard."""

    async def scenario() -> None:
        async with mailing(path, Snapshot(HostTable([owned("web1", "web")]))) as scene:
            scene.publish(WeeklyWorklists(MONDAY, scene.mail, {"db": (C,)}))
            assert await scene.look("2026-11-21 20:00") == []
            scene.now = at("2026-11-23 07:00")
            await scene.part.send_if_due()
            (message,) = scene.mailbox.taken
            assert str(message["Subject"]) == "[portspec] worklist: an owner has no hosts"

    run(scenario)


# --- As a part of the exporter ---


def test_exporter_mails_the_report_also_if_it_sends_no_alerts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    """`reportmail` needs server, sender and addresses, and does not ask for `sendemail`."""
    monkeypatch.setattr(
        scheduled_mail, "MAX_DELAY", 4 * MAX_DELAY
    )  # so that midnight's is not too late, whenever this runs
    conf = tmp_path / "conf.yml"

    async def scenario() -> None:
        mailbox = Mailbox()
        await mailbox.start()
        write(
            conf,
            {"192.0.2.1": [22]},
            sendemail=False,
            smtpserver="127.0.0.1",
            smtpport=mailbox.port,
            smtptls="none",
            fromemail="portspec@example.org",
            alertemail=[A, B],
            reportmail="0:00",
        )
        with opened(tmp_path / "portspec.db", ()) as (store, _):
            store.transact(lambda file: write_value(file, "report_mail", '{"day": "2000-01-01", "left": []}'))
        async with running(conf):
            await until(lambda: len(mailbox.taken) == 2)
        await mailbox.stop()
        assert mailbox.told() == [A, B]

    run(scenario)
    assert [event["recipient"] for event in logs.events if event["event"] == "report mailed"] == [A, B]
