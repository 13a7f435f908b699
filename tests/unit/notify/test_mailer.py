from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import itertools
import json
import sqlite3
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portspec.config import MailConfig
from portspec.notify import DeliveryError, Mailer, MailStatus, message
from portspec.notify import DeliveryErrorReason as Reason
from portspec.notify import decision as decision_module
from portspec.notify import mailer as module
from portspec.notify.alertmanager import CHECK_INTERVAL
from portspec.notify.content import Links
from portspec.notify.encoding import decode_notification, encode_notification
from portspec.notify.mailer import (
    MAX_MAIL_BACKOFF,
    MAX_QUEUE_LIFETIME,
    MAX_REFUSALS,
    MAX_ROUND_WAIT,
    MAX_SERVER_BACKOFF,
    MIN_MAIL_BACKOFF,
    MIN_SERVER_BACKOFF,
    POLL_INTERVAL,
    STORE_RETRY_INTERVAL,
)
from portspec.notify.notification import NOTHING_NOTIFIED, DeviationLine, Event, Notification
from portspec.scan import Reason as Unseen
from portspec.state.snapshot import HostState
from portspec.store import StoreError, database, outbox, schema
from portspec.store.trouble import Kind, Trouble
from tests.unit.factories import NOW, result, seen, settle, target
from tests.unit.store.scenes import PATIENCE, Logs, commit, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from email.message import EmailMessage
    from pathlib import Path

    from portspec.inventory import Target
    from portspec.notify import AlertmanagerHealth
    from portspec.store import Store

A, B, C = "a@example.org", "b@example.org", "c@example.org"
HOSTS = [target(f"web{number}", expect=[22], address=f"192.0.2.{number}") for number in range(1, 13)]
WEB = HOSTS[0]
SHORT, LONG = WEB.config.interval, 3600.0  # of the hosts above, and of these
SELDOM = [target(f"db{number}", expect=[22], address=f"198.51.100.{number}", interval=LONG) for number in range(1, 13)]
DAY = 86_400.0
DOWN = DeliveryError(Reason.CONNECT, "no connection to 192.0.2.9 port 587: connection refused")


def mail_config(*recipients: str, **parts: Any) -> MailConfig:
    """Make the settings of mail."""
    given = {"mode": "on", "server": "smtp.example.org", "port": 587, "tls": "starttls", "sender": "p@example.org"}
    return MailConfig(**{**given, **parts, "recipients": recipients or (A,)})


def text_of(mail: EmailMessage) -> str:
    """Give the text of a mail."""
    part = mail.get_body(("plain",))
    assert part
    return str(part.get_content()).replace("\r\n", "\n")


def refused(reason: Reason) -> DeliveryError:
    """Make the refusal of one mail."""
    return DeliveryError(reason, "the server answered 550 no such user", is_of_mail=True)


class Server:
    """A mail server that follows a script, in the place of the Session with it.

    Without connection while it `is_down`, as another error if that is one. `answers` by recipient are errors in place
    of an acceptance. `on_taken` is called when a mail is taken, before the session hears of it.
    """

    def __init__(self) -> None:
        self.is_down: bool | DeliveryError = False
        self.answers: dict[str, DeliveryError] = {}
        self.on_taken: Callable[[], object] = lambda: None
        self.taken: list[tuple[str, EmailMessage]] = []
        self.asked: list[str] = []
        self.connections = 0
        self.is_connected = False

    def __call__(self, mail: MailConfig) -> Self:
        """Begin a session."""
        assert mail.server == "smtp.example.org"
        return self

    async def __aenter__(self) -> Self:
        assert not self.is_connected
        self.connections += 1
        if self.is_down:
            raise DOWN if self.is_down is True else self.is_down
        self.is_connected = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_connected = False

    async def send(self, recipient: str, message: bytes) -> str:
        """Take a mail, or not."""
        assert self.is_connected
        self.asked.append(recipient)
        if error := self.answers.get(recipient):
            raise error
        parsed = email.message_from_bytes(message, policy=email.policy.default)
        assert parsed["To"] == recipient
        self.taken.append((recipient, parsed))
        self.on_taken()
        return "250 queued"

    def told(self) -> list[tuple[str, str]]:
        """Give recipient and alert, as PortSpec had it in its subject, of the mails since the last call."""
        taken, self.taken = self.taken, []
        return [(to, str(mail["X-PortSpec-Alert"]).removeprefix("PortSpec Alert ")) for to, mail in taken]


class FaultyStore:
    """A store whose file cannot be written when the script says so, between a mailer and the real one."""

    def __init__(self, store: Store) -> None:
        self.script: list[bool] = []  # of the next calls; True fails
        self._store = store

    def perform(self, job: Any) -> Any:
        """Do a job, or not."""
        if self.script and self.script.pop(0):
            raise StoreError("portspec.db", Trouble(Kind.FULL, "database or disk is full"))
        return self._store.perform(job)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Scene:
    """Hosts that are scanned, a store, a mailer, and the time."""

    def __init__(self, store: Store, mail: MailConfig, clock: Clock) -> None:
        self.clock = clock
        self.store = FaultyStore(store)
        self.under_way: dict[float | None, int] = {}  # rounds that ended before, by interval
        self.states: dict[str, HostState] = {}
        self.mailer = self.made(mail)

    def made(self, mail: MailConfig, **parts: Any) -> Mailer:
        """Make a mailer."""
        return Mailer(
            mail,
            self.store,  # type: ignore[arg-type]
            under_way=lambda: dict(self.under_way),
            states=lambda: self.states,
            wall_clock=self.clock,
            **parts,
        )

    def reload(self, mail: MailConfig) -> None:
        """Go on with other settings, as after a reload."""
        self.mailer = self.made(mail, memory=self.mailer.memory)

    def scan(self, of: Target = WEB, *is_open: int, reason: Unseen | None = None) -> None:
        """Scan a host."""
        before = self.states.get(of.host, HostState(of))
        observed = seen(of.address or "", is_open=is_open, reason=reason)
        self.states[of.host] = before.after(result(of, observed, at=self.clock.now))
        self.mailer.on_state(before, self.states[of.host])

    def process(self) -> float:
        """Have the mailer look once."""
        return asyncio.run(self.mailer.process_outbox())

    def waits(self) -> tuple[int, int]:
        """Give how many notifications and mails wait."""
        found = self.store.perform(outbox.waiting)
        return found.notices, found.mails

    def letters(self) -> list[outbox.Letter]:
        """Give the mails that wait."""
        found: list[outbox.Letter] = self.store.perform(lambda file: outbox.read_due(file, 1e18, 10**6))
        return found


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """Give the time in Unix seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands still."""
    return Clock()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Give a mail server, and lead every session to it."""
    scripted = Server()
    monkeypatch.setattr(module, "Session", scripted)
    return scripted


@pytest.fixture
def logs() -> Iterator[Logs]:
    """Give the events that the test logs."""
    with Logs() as found:
        yield found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a state file that is not there yet."""
    return tmp_path / "portspec.db"


class Stage:
    """Makes scenes on the same file, one after the other."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    @contextlib.contextmanager
    def scene(self, *recipients: str, path: Path | None = None, **mail: Any) -> Iterator[Scene]:
        """Open the file, and make a mailer on it; what is restored is known."""
        with opened(path or self._path, HOSTS + SELDOM, wall_clock=self._clock) as (store, restored):
            made = Scene(store, mail_config(*recipients, **mail), self._clock)
            made.states.update(restored)
            yield made


@pytest.fixture
def stage(path: Path, clock: Clock, server: Server) -> Stage:
    """Give a maker of scenes."""
    return Stage(path, clock)


def events(logs: Logs, *levels: str) -> list[str]:
    """Give what was logged at these levels."""
    return [event["event"] for event in logs.events if event["level"] in (levels or ("error",))]


def test_each_recipient_gets_a_mail_of_its_own(stage: Stage, server: Server) -> None:
    """A host out of specification is one mail to each address, over one connection, and then nothing waits."""
    with stage.scene(A, B, C) as scene:
        scene.scan(WEB, 22, 80)
        assert scene.process() == MAX_SERVER_BACKOFF
        assert server.told() == [(A, "[web1]"), (B, "[web1]"), (C, "[web1]")]
        assert server.connections == 1
        assert scene.waits() == (0, 0)
        assert scene.mailer.status == MailStatus(0, 3, 0, {reason.value: 0 for reason in Reason})


def test_nothing_is_sent_where_nothing_is_told(stage: Stage, server: Server) -> None:
    """Hosts in specification cause no mail and no connection."""
    with stage.scene() as scene:
        for of in HOSTS:
            scene.scan(of, 22)
        assert scene.process() == MAX_SERVER_BACKOFF
        assert (server.connections, scene.waits()) == (0, (0, 0))


def test_each_change_is_one_mail_over_many_rounds(stage: Stage, server: Server, clock: Clock) -> None:
    """Over ten rounds there is a mail when a host goes out, when it deviates otherwise and when it is back."""
    with stage.scene() as scene:
        for ports in ([22], [22, 80], [22, 80], [22, 80], [80], [80], [22], [22], [22], [22]):
            scene.scan(WEB, *ports)
            scene.process()
            clock.now += 600
        assert server.told() == [(A, "[web1]")] * 3


def test_what_was_told_is_not_told_again_after_a_restart(stage: Stage, server: Server, clock: Clock) -> None:
    """The story of a host is in the state file: it goes on where it was."""
    with stage.scene() as scene:
        scene.scan(WEB, 22, 80)
        scene.process()
    server.told()
    for _ in range(3):
        clock.now += 600
        with stage.scene() as scene:
            scene.scan(WEB, 22, 80)
            scene.process()
    assert server.told() == []
    with stage.scene() as scene:
        scene.scan(WEB, 22)
        scene.process()
    assert server.told() == [(A, "[web1]")]


def test_notice_is_sent_by_the_exporter_that_comes_next(stage: Stage, server: Server) -> None:
    """What was noted and not yet sent when portspec ended is sent by the next one."""
    with stage.scene() as scene:
        scene.under_way[SHORT] = 0
        scene.scan(WEB, 22, 80)
        scene.process()
    assert server.told() == []
    with stage.scene() as scene:
        scene.process()
    assert server.told() == [(A, "[web1]")]


def test_notices_wait_for_the_end_of_the_round(stage: Stage, server: Server, clock: Clock) -> None:
    """While hosts are scanned nothing is sent, but for `MAX_ROUND_WAIT` seconds at most; it is looked at again soon."""
    with stage.scene() as scene:
        scene.under_way[SHORT] = 0
        scene.scan(WEB, 22, 80)
        commit(scene.store)  # type: ignore[arg-type]
        clock.now += MAX_ROUND_WAIT - 1
        assert scene.process() == POLL_INTERVAL
        assert server.told() == []
        assert scene.mailer.status.waiting == 1
        scene.under_way.clear()
        scene.process()
        assert server.told() == [(A, "[web1]")]


def test_notices_do_not_wait_for_a_round_without_end(stage: Stage, server: Server, clock: Clock) -> None:
    """After five minutes what is known is sent, and with it what came later; then the next five begin."""
    with stage.scene() as scene:
        scene.under_way[SHORT] = 0
        scene.scan(HOSTS[0], 22, 80)
        commit(scene.store)  # type: ignore[arg-type]
        clock.now += MAX_ROUND_WAIT - 1
        scene.scan(HOSTS[1], 22, 80)
        scene.process()
        assert server.told() == []
        clock.now += 1
        scene.process()
        assert server.told() == [(A, "[web1]"), (A, "[web2]")]
        scene.scan(HOSTS[2], 22, 80)
        scene.process()
        assert server.told() == []


def test_notices_of_the_next_round_wait_for_its_end(stage: Stage, server: Server) -> None:
    """What is noted while the mails of a round are sent belongs to the round that has begun."""
    with stage.scene() as scene:
        scene.under_way[SHORT] = 0
        scene.scan(HOSTS[0], 22, 80)
        scene.process()
        scene.under_way[SHORT] += 1
        server.on_taken = lambda: scene.scan(HOSTS[1], 22, 80)
        scene.process()
        server.on_taken = lambda: None
        assert server.told() == [(A, "[web1]")]
        pauses = [scene.process() for _ in range(3)]
        assert (server.told(), pauses) == ([], [POLL_INTERVAL] * 3)
        scene.under_way[SHORT] += 1
        scene.process()
        assert server.told() == [(A, "[web2]")]


def test_clock_that_is_set_back_holds_no_notice_up(stage: Stage, server: Server, clock: Clock) -> None:
    """A notification of a future that is no more is sent at once."""
    with stage.scene() as scene:
        scene.under_way[SHORT] = 0
        scene.scan(WEB, 22, 80)
        commit(scene.store)  # type: ignore[arg-type]
        clock.now -= 1000 * DAY
        scene.process()
        assert server.told() == [(A, "[web1]")]


def test_round_that_ended_sends_what_it_found_though_the_next_has_begun(stage: Stage, server: Server) -> None:
    """Where rounds follow each other without a pause, notifications wait for the end of their round, not for a pause."""
    with stage.scene() as scene:
        scene.under_way[SHORT] = 0
        scene.scan(WEB, 22, 80)
        scene.process()
        assert server.told() == []
        scene.under_way[SHORT] += 1
        scene.process()
        assert server.told() == [(A, "[web1]")]
        scene.scan(WEB, 22)
        scene.process()
        assert server.told() == []


def test_each_interval_waits_for_a_round_of_its_own(stage: Stage, server: Server) -> None:
    """What short rounds find is sent at the end of each; what a long one finds meanwhile is one mail at its end."""
    with stage.scene() as scene:
        scene.under_way = {SHORT: 0, LONG: 0}
        for number, of in enumerate(SELDOM):
            scene.scan(of, 22, 80)
            scene.scan(HOSTS[number], 22, 80)
            scene.process()
            assert server.told() == []
            scene.under_way[SHORT] += 1  # and the next has begun
            scene.process()
            assert server.told() == [(A, f"[{HOSTS[number].host}]")]
        assert scene.waits() == (len(SELDOM), 0)
        scene.under_way = {SHORT: 0}
        scene.process()
        assert server.told() == [(A, "[12 hosts]")]


def test_long_round_takes_no_other_along_after_five_minutes(stage: Stage, server: Server, clock: Clock) -> None:
    """When a round has gone on for too long, only what waits for its end is sent without it."""
    with stage.scene() as scene:
        scene.under_way = {SHORT: 0, LONG: 0}
        scene.scan(SELDOM[0], 22, 80)
        commit(scene.store)  # type: ignore[arg-type]
        clock.now += MAX_ROUND_WAIT
        scene.scan(HOSTS[0], 22, 80)
        scene.process()
        assert server.told() == [(A, "[db1]")]
        scene.under_way[SHORT] += 1
        scene.process()
        assert server.told() == [(A, "[web1]")]


def test_new_hosts_are_one_mail_when_all_were_scanned(stage: Stage, server: Server) -> None:
    """What is found of hosts that a reload brings, which are scanned beside the rounds, waits for the end of that."""
    with stage.scene() as scene:
        scene.under_way[None] = 0
        for of in HOSTS:
            scene.scan(of, 22, 80)
            scene.process()
        assert server.told() == []
        scene.under_way.clear()
        scene.process()
        assert server.told() == [(A, "[12 hosts]")]


def test_scan_beside_the_rounds_does_not_hold_up_what_a_round_found(stage: Stage, server: Server) -> None:
    """What was noted in a round is sent at its end, while a scan that somebody asked for goes on."""
    with stage.scene() as scene:
        scene.under_way = {SHORT: 0, None: 0}
        scene.scan(WEB, 22, 80)
        scene.process()
        assert server.told() == []
        del scene.under_way[SHORT]
        scene.process()
        assert server.told() == [(A, "[web1]")]


def test_notice_of_a_host_that_is_gone_is_sent_at_once(stage: Stage, server: Server) -> None:
    """A host that has left conf.yml is in no round."""
    with stage.scene() as scene:
        scene.under_way = {SHORT: 0, None: 0}
        scene.scan(WEB, 22, 80)
        scene.process()
        assert server.told() == []
        del scene.states[WEB.host]
        scene.process()
        assert server.told() == [(A, "[web1]")]


def test_clock_that_is_set_back_holds_no_mail_up(stage: Stage, server: Server, clock: Clock) -> None:
    """A mail that is due in a future that is no more is tried within the longest pause there is."""
    with stage.scene() as scene:
        server.answers[A] = refused(Reason.TEMPORARY)
        scene.scan(WEB, 22, 80)
        scene.process()
        server.answers.clear()
        clock.now -= 1000 * DAY
        scene.process()
        clock.now += MAX_MAIL_BACKOFF
        scene.process()
        assert server.told() == [(A, "[web1]")]


def test_clock_that_is_set_back_does_not_keep_from_a_server(stage: Stage, server: Server, clock: Clock) -> None:
    """A server that was to be tried again in a future that is no more is tried within the longest pause there is."""
    with stage.scene() as scene:
        server.is_down = True
        scene.scan(WEB, 22, 80)
        scene.process()
        server.is_down = False
        clock.now -= 1000 * DAY
        scene.process()
        clock.now += MAX_MAIL_BACKOFF
        scene.process()
        assert server.told() == [(A, "[web1]")]


def test_ten_hosts_are_ten_mails(stage: Stage, server: Server) -> None:
    """Up to ten hosts of a round have a mail each for each address."""
    with stage.scene(A, B) as scene:
        for of in HOSTS[:10]:
            scene.scan(of, 22, 80)
        scene.process()
        assert Counter(server.told()) == {(to, f"[web{number}]"): 1 for to in (A, B) for number in range(1, 11)}


def test_more_hosts_are_one_digest(stage: Stage, server: Server) -> None:
    """More than ten hosts of a round are one mail for each address, in which each host is told."""
    with stage.scene(A, B) as scene:
        for of in HOSTS:
            scene.scan(of, 22, 80)
        scene.process()
        texts = [text_of(mail) for _, mail in server.taken]
        assert server.told() == [(A, "[12 hosts]"), (B, "[12 hosts]")]
        names = ", ".join(sorted(f"web{number}" for number in range(1, 13)))
        assert all(f"\n- 80 (http) open, not expected\n  {names}\n" in text for text in texts)


def test_many_mails_are_sent_some_at_a_time(stage: Stage, server: Server) -> None:
    """More mails than one connection takes are sent over the next, at once."""
    recipients = [f"r{number}@example.org" for number in range(30)]
    with stage.scene(*recipients) as scene:
        for of in HOSTS[:2]:
            scene.scan(of, 22, 80)
        assert scene.process() == 0.0
        assert scene.process() == MAX_SERVER_BACKOFF
        assert server.connections == 2
        assert Counter(server.told()) == {(to, f"[{of.host}]"): 1 for to in recipients for of in HOSTS[:2]}


@pytest.mark.parametrize(
    "reason",
    [Reason.CONNECT, Reason.TLS, Reason.AUTH, Reason.REFUSED],
)
def test_server_that_fails_is_left_alone_for_longer_and_longer(
    stage: Stage, server: Server, clock: Clock, reason: Reason
) -> None:
    """A server is tried after 5 seconds, 10, 20, up to 15 minutes, never before; then everything is sent."""
    with stage.scene(A, B) as scene:
        server.is_down = DeliveryError(reason, "no")
        scene.scan(WEB, 22, 80)
        pauses = []
        for tries in range(1, 12):
            pauses.append(scene.process())
            assert server.connections == tries
            clock.now += pauses[-1] - 0.5
            assert scene.process() == 0.5
            assert server.connections == tries
            clock.now += 0.5
        assert pauses == [MIN_SERVER_BACKOFF * 2**number for number in range(8)] + [MAX_SERVER_BACKOFF] * 3
        assert scene.mailer.status.failed[reason.value] == 11
        assert scene.mailer.status.waiting == 2
        server.is_down = False
        scene.process()
        assert server.told() == [(A, "[web1]"), (B, "[web1]")]
        server.is_down = True
        scene.scan(WEB, 22, 443)
        assert scene.process() == MIN_SERVER_BACKOFF


def test_new_mails_wait_for_a_server_that_failed_too(stage: Stage, server: Server, clock: Clock) -> None:
    """What is new gives no reason to try a dead server earlier."""
    with stage.scene() as scene:
        server.is_down = True
        scene.scan(HOSTS[0], 22, 80)
        scene.process()
        scene.scan(HOSTS[1], 22, 80)
        assert scene.process() == MIN_SERVER_BACKOFF
        assert server.connections == 1
        server.is_down = False
        clock.now += MIN_SERVER_BACKOFF
        scene.process()
        assert server.told() == [(A, "[web1]"), (A, "[web2]")]


def test_server_that_fails_in_between_keeps_what_it_took(stage: Stage, server: Server, clock: Clock) -> None:
    """Mails that were taken before the connection was lost are not sent again; the others are."""
    with stage.scene(A, B, C) as scene:
        server.answers[B] = DeliveryError(Reason.CLOSED, "the server closed the connection")
        scene.scan(WEB, 22, 80)
        assert scene.process() == MIN_SERVER_BACKOFF
        clock.now += MIN_SERVER_BACKOFF
        assert server.told() == [(A, "[web1]")]
        server.answers.clear()
        while any(scene.waits()):
            clock.now += scene.process()
            assert clock.now < NOW + MAX_MAIL_BACKOFF
        assert sorted(server.told()) == [(B, "[web1]"), (C, "[web1]")]


def test_mail_at_which_the_server_hangs_up_does_not_stop_the_others(stage: Stage, server: Server, clock: Clock) -> None:
    """A mail that ends the dialogue each time it is sent is no reason why others are not."""
    with stage.scene(A, B, C) as scene:
        server.answers[B] = DeliveryError(Reason.TIMEOUT, "no reply in 30 s")
        scene.scan(WEB, 22, 80)
        for _ in range(10):
            clock.now += scene.process()
        assert server.told() == [(A, "[web1]"), (C, "[web1]")]
        assert scene.waits() == (0, 1)


@pytest.mark.parametrize("reason", [Reason.TIMEOUT, Reason.CLOSED])
def test_mail_at_which_the_server_hangs_up_is_given_up(
    stage: Stage, server: Server, clock: Clock, reason: Reason
) -> None:
    """A mail that ends the dialogue each time is not tried for ever either, but for five days."""
    with stage.scene() as scene:
        server.answers[A] = DeliveryError(reason, "no")
        scene.scan(WEB, 22, 80)
        while any(scene.waits()):
            assert clock.now < NOW + 2 * MAX_QUEUE_LIFETIME
            clock.now += max(scene.process(), 1.0)
        assert (
            NOW + MAX_QUEUE_LIFETIME <= clock.now < NOW + MAX_QUEUE_LIFETIME + 2 * MAX_MAIL_BACKOFF + MAX_SERVER_BACKOFF
        )
        assert scene.mailer.status.given_up == 1


def test_refusal_of_one_recipient_is_its_own(stage: Stage, server: Server, clock: Clock, logs: Logs) -> None:
    """A 5xx stops nobody else; it is tried again after 1 and 2 minutes, and given up at the third."""
    with stage.scene(A, B, C) as scene:
        server.answers[B] = refused(Reason.REFUSED)
        scene.scan(WEB, 22, 80)
        assert scene.process() == MIN_MAIL_BACKOFF
        assert server.told() == [(A, "[web1]"), (C, "[web1]")]
        clock.now += MIN_MAIL_BACKOFF
        assert scene.process() == 2 * MIN_MAIL_BACKOFF
        assert events(logs) == []
        clock.now += 2 * MIN_MAIL_BACKOFF
        assert scene.process() == MAX_SERVER_BACKOFF
        assert server.asked.count(B) == MAX_REFUSALS
        assert (server.told(), scene.waits()) == ([], (0, 0))
        status = scene.mailer.status
        assert (status.sent, status.given_up, status.failed["refused"]) == (2, 1, MAX_REFUSALS)
        (event,) = [event for event in logs.events if event["level"] == "error"]
        assert (event["recipient"], event["why"]) == (B, "the server answered 550 no such user")
        scene.scan(WEB, 22, 443)
        scene.process()
        assert server.told() == [(A, "[web1]"), (C, "[web1]")]
        assert server.asked.count(B) == MAX_REFUSALS + 1  # a new mail is tried anew


def test_refusal_does_not_slow_the_server_down(stage: Stage, server: Server) -> None:
    """While one mail is put off, new ones are sent at once."""
    with stage.scene(A, B) as scene:
        server.answers[B] = refused(Reason.TEMPORARY)
        scene.scan(HOSTS[0], 22, 80)
        scene.process()
        scene.scan(HOSTS[1], 22, 80)
        scene.process()
        assert server.told() == [(A, "[web1]"), (A, "[web2]")]
        assert server.asked == [A, B, A, B]


def test_mail_that_is_refused_for_now_is_tried_for_five_days(
    stage: Stage, server: Server, clock: Clock, logs: Logs
) -> None:
    """A 4xx is tried again after 1, 2, 4 minutes up to an hour, and given up when the mail is five days old."""
    with stage.scene(A, B) as scene:
        server.answers[B] = refused(Reason.TEMPORARY)
        scene.scan(WEB, 22, 80)
        tried: list[float] = []
        while scene.mailer.status.given_up == 0:
            assert clock.now < NOW + 2 * MAX_QUEUE_LIFETIME
            now, pause = clock.now, scene.process()
            if server.asked.count(B) > len(tried):
                tried.append(now - NOW)
            clock.now += pause
        pauses = [second - first for first, second in itertools.pairwise(tried)]
        assert pauses[:7] == [60, 120, 240, 480, 960, 1920, 3600]
        assert set(pauses[7:]) == {3600}
        assert MAX_QUEUE_LIFETIME <= tried[-1] < MAX_QUEUE_LIFETIME + MAX_MAIL_BACKOFF
        assert server.told() == [(A, "[web1]")]
        assert scene.waits() == (0, 0)
        assert scene.mailer.status.failed["temporary"] == len(tried)
        (event,) = [event for event in logs.events if event["level"] == "error"]
        assert (event["recipient"], round(event["days"])) == (B, 5)


def test_refusals_in_between_do_not_give_a_mail_up(stage: Stage, server: Server, clock: Clock) -> None:
    """Of answers in turn, 4xx and 5xx, only those for good count to three."""
    with stage.scene() as scene:
        scene.scan(WEB, 22, 80)
        answers = [
            Reason.REFUSED,
            Reason.TEMPORARY,
            Reason.REFUSED,
            Reason.TEMPORARY,
            Reason.REFUSED,
        ]
        for number, reason in enumerate(answers):
            assert scene.mailer.status.given_up == 0, number
            server.answers[A] = refused(reason)
            scene.process()
            clock.now += MAX_MAIL_BACKOFF
        assert scene.mailer.status.given_up == 1


def test_mails_that_no_server_takes_for_five_days_are_given_up(stage: Stage, server: Server, clock: Clock) -> None:
    """With a server that is down for days mails are kept for five, and each is tried once more after that."""
    with stage.scene(A, B) as scene:
        server.is_down = True
        scene.scan(WEB, 22, 80)
        scene.process()
        clock.now += MAX_QUEUE_LIFETIME - 60
        scene.scan(HOSTS[1], 22, 80)
        scene.process()
        assert scene.waits() == (0, 4)
        clock.now += MAX_SERVER_BACKOFF
        scene.process()
        assert scene.waits() == (0, 2)
        assert scene.mailer.status.given_up == 2
        server.is_down = False
        clock.now += MAX_SERVER_BACKOFF
        scene.process()
        assert server.told() == [(A, "[web2]"), (B, "[web2]")]


def test_old_mail_is_tried_before_it_is_given_up(stage: Stage, server: Server, clock: Clock) -> None:
    """A mail that waited while portspec was away for a week is sent by a server that takes it."""
    with stage.scene() as scene:
        server.is_down = True
        scene.scan(WEB, 22, 80)
        scene.process()
    clock.now += 7 * DAY
    server.is_down = False
    with stage.scene() as scene:
        scene.process()
    assert server.told() == [(A, "[web1]")]


def test_taken_mail_is_not_sent_again_though_it_could_not_be_removed(
    stage: Stage, server: Server, clock: Clock, logs: Logs
) -> None:
    """A mail that the server has and a full disk keeps in the outbox is removed before anything else is sent."""
    with stage.scene(A, B) as scene:
        scene.scan(WEB, 22, 80)
        scene.store.script = [False, True]
        assert scene.process() == STORE_RETRY_INTERVAL
        assert server.told() == [(A, "[web1]")]
        assert not server.is_connected
        scene.store.script = [True]
        clock.now += STORE_RETRY_INTERVAL
        assert scene.process() == STORE_RETRY_INTERVAL
        assert server.told() == []
        clock.now += STORE_RETRY_INTERVAL
        scene.process()
        assert server.told() == [(B, "[web1]")]
        assert scene.waits() == (0, 0)
        assert scene.mailer.status.sent == 2
        assert events(logs) == ["writing the state file fails, mails wait"]


def test_taken_mail_is_not_sent_again_after_a_reload(stage: Stage, server: Server) -> None:
    """Who goes on with other settings knows what the one before could not remove."""
    with stage.scene() as scene:
        scene.scan(WEB, 22, 80)
        scene.store.script = [False, True]
        scene.process()
        scene.reload(mail_config(A, remind=3600.0))
        scene.process()
        assert server.told() == [(A, "[web1]")]
        assert scene.waits() == (0, 0)


def test_mail_of_a_fresh_file_is_not_mistaken_for_one_that_was_taken(
    stage: Stage, server: Server, path: Path, clock: Clock
) -> None:
    """A file that was made anew counts from 1 again: a mail in it is sent, though one of its number was taken."""
    with stage.scene() as scene:
        scene.scan(HOSTS[0], 22, 80)
        scene.store.script = [False, True]
        scene.process()
        scene.process()
        assert server.told() == [(A, "[web1]")]
        path.unlink()
        server.is_down = True
        scene.scan(HOSTS[1], 22, 80)
        commit(scene.store)  # type: ignore[arg-type]
        scene.process()
        server.is_down = False
        clock.now += MIN_SERVER_BACKOFF
        scene.process()
        assert server.told() == [(A, "[web2]")]


def test_mail_whose_removal_was_killed_is_the_same_mail(
    stage: Stage, server: Server, path: Path, tmp_path: Path
) -> None:
    """Killed after the server's answer, portspec sends the mail once more, with the same Message-ID and content."""
    killed = tmp_path / "killed.db"

    def keep_what_a_kill_would_leave() -> None:
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(killed)) as copy,
        ):
            source.backup(copy)

    with stage.scene(A, B) as scene:
        scene.scan(WEB, 22, 80)
        server.on_taken = keep_what_a_kill_would_leave
        scene.process()
    server.on_taken = lambda: None
    with stage.scene(A, B, path=killed) as scene:
        scene.scan(WEB, 22, 80)
        scene.process()
        assert scene.waits() == (0, 0)
    (_, first), (_, second), (_, again) = server.taken
    assert server.told() == [(A, "[web1]"), (B, "[web1]"), (B, "[web1]")]
    assert first["Message-ID"] != second["Message-ID"] == again["Message-ID"]
    assert bytes(second) == bytes(again)


def test_repeated_mail_is_byte_for_byte_the_same(stage: Stage, server: Server, clock: Clock) -> None:
    """However often a mail is tried, it is the one that was written at first."""
    with stage.scene() as scene:
        server.answers[A] = refused(Reason.TEMPORARY)
        scene.scan(WEB, 22, 80)
        scene.process()
        (before,) = scene.letters()
        clock.now += MIN_MAIL_BACKOFF
        scene.process()
        (after,) = scene.letters()
        assert after == replace(before, attempts=2)


def test_recipient_that_left_gets_no_more_mails(stage: Stage, server: Server, clock: Clock) -> None:
    """An address that is no longer in alertemail gets neither new mails nor those that wait, and that is no failure."""
    with stage.scene(A, B) as scene:
        server.is_down = True
        scene.scan(HOSTS[0], 22, 80)
        scene.process()
        server.is_down = False
        scene.reload(mail_config(B))
        scene.scan(HOSTS[1], 22, 80)
        scene.process()
        assert server.told() == [(B, "[web1]"), (B, "[web2]")]
        assert scene.waits() == (0, 0)
        assert (scene.mailer.status.sent, scene.mailer.status.given_up) == (2, 0)


def test_counts_go_on_under_other_settings(stage: Stage, server: Server, clock: Clock) -> None:
    """Counters never fall at a reload."""
    with stage.scene(A, B) as scene:
        server.answers[B] = refused(Reason.REFUSED)
        scene.scan(WEB, 22, 80)
        for _ in range(3):
            scene.process()
            clock.now += MAX_MAIL_BACKOFF
        before = scene.mailer.status
        assert (before.sent, before.given_up, before.failed["refused"]) == (1, 1, 3)
        scene.reload(mail_config(A))
        assert scene.mailer.status == before
        scene.scan(WEB, 22)
        scene.process()
        assert scene.mailer.status == replace(before, sent=2)


def test_settings_after_a_reload_try_the_server_at_once(stage: Stage, server: Server) -> None:
    """Whoever has corrected the settings does not wait for the pause of the wrong ones."""
    with stage.scene() as scene:
        server.is_down = DeliveryError(Reason.AUTH, "no")
        scene.scan(WEB, 22, 80)
        scene.process()
        server.is_down = False
        scene.reload(mail_config(A, username="portspec", password="right"))  # noqa: S106 - of nothing
        scene.process()
        assert server.told() == [(A, "[web1]")]


@pytest.mark.parametrize(
    "document",
    [
        "garbage",
        "{}",
        "[]",
        '{"host": 5}',
        '{"host":5,"news":"in_spec","at":1,"expected":"22","open":"22","lines":[],"over":[],"expiring":[]}',
        '{"host":"x","news":"in_spec","at":1e300,"expected":"22","open":"22","lines":[],"over":[],"expiring":[]}',
        '{"host":"x","news":"in_spec","at":1,"expected":22,"open":"22","lines":[],"over":[],"expiring":[]}',
    ],
)
def test_notice_that_cannot_be_read_costs_itself_alone(stage: Stage, server: Server, logs: Logs, document: str) -> None:
    """A notification that is garbled is told in the log and left out; the others are sent."""
    with stage.scene() as scene:
        state = HostState(HOSTS[1])
        scene.store.put(state, state, None, document)
        scene.scan(WEB, 22, 80)
        scene.process()
        assert server.told() == [(A, "[web1]")]
        assert scene.waits() == (0, 0)
        assert [event["host"] for event in logs.events if event["level"] == "error"] == ["web2"]


def faulty(monkeypatch: pytest.MonkeyPatch, name: str, *hosts: str) -> None:
    """Have letter() or digest() fail about some hosts; about none named, whenever there are several."""
    write = getattr(message, name)

    def failing(told: Any, number: int, **given: Any) -> bytes:
        found = [notification.host for notification in (told if isinstance(told, list) else [told])]
        if not set(found).isdisjoint(hosts) or (not hosts and len(found) > 1):
            raise ZeroDivisionError("somewhere")
        message: bytes = write(told, number, **given)
        return message

    monkeypatch.setattr(message, name, failing)


def test_notice_that_makes_no_mail_stops_no_other(
    stage: Stage, server: Server, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notification of which no mail can be written is told in the log and counted as given up; the others are sent."""
    faulty(monkeypatch, "render_mail", "web2")
    with stage.scene(A, B) as scene:
        for of in HOSTS[:3]:
            scene.scan(of, 22, 80)
        scene.process()
        assert server.told() == [(to, f"[{host}]") for to in (A, B) for host in ("web1", "web3")]
        assert (scene.waits(), scene.mailer.status.given_up) == ((0, 0), 2)
    found = [(event["host"], event["why"]) for event in logs.events if event["level"] == "error"]
    assert found == [("web2", "ZeroDivisionError: somewhere")] * 2


def test_notice_that_spoils_a_digest_is_left_out_of_it(
    stage: Stage, server: Server, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many notifications those that fail alone are left out, and the others are one mail."""
    faulty(monkeypatch, "render_digest", "web1", "web5")
    with stage.scene() as scene:
        for of in HOSTS:
            scene.scan(of, 22, 80)
        scene.process()
        assert server.told() == [(A, "[10 hosts]")]
        assert (scene.waits(), scene.mailer.status.given_up) == ((0, 0), 2)
    assert [event["host"] for event in logs.events if event["level"] == "error"] == ["web1", "web5"]


def test_digest_that_cannot_be_is_one_mail_for_each_host(
    stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where notifications make no mail together, each is told by one of its own."""
    faulty(monkeypatch, "render_digest")
    with stage.scene() as scene:
        for of in HOSTS:
            scene.scan(of, 22, 80)
        scene.process()
        assert server.told() == [(A, f"[{of.host}]") for of in HOSTS]
        assert (scene.waits(), scene.mailer.status.given_up) == ((0, 0), 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.sampled_from(["22", "all"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TIME = st.floats(0, 2.6e11)
WORDS = st.text(st.characters(), max_size=20)  # lone surrogates are among them
LIKE_A_NOTICE = st.fixed_dictionaries(
    {
        "host": WORDS,
        "news": st.sampled_from(Event),
        "at": TIME,
        "expected": WORDS,
        "open": WORDS,
        "lines": st.lists(
            st.fixed_dictionaries(
                {"address": WORDS, "kind": WORDS, "state": WORDS, "ports": st.just("22,80-90"), "since": TIME},
                optional={"opened": TIME, "seen": TIME, "end": WORDS},
            ),
            max_size=3,
        ),
        "over": st.just([]) | JSON,
        "since": st.none() | TIME,
        "reason": WORDS,
        "is_unknown": st.booleans(),
        "expiring": st.lists(st.tuples(st.just("22"), TIME, WORDS, WORDS), max_size=2) | JSON,
    },
    optional=dict.fromkeys(("last_seen", "until", "lapsed", "accepted", "gap", "holders", "audited_at"), JSON),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(documents=st.lists(WORDS | st.binary(max_size=20) | (JSON | LIKE_A_NOTICE).map(json.dumps), max_size=4))
def test_good_notices_are_told_whatever_stands_among_them(logs: Logs, documents: list[str | bytes]) -> None:
    """Whatever documents stand in the table, the mails of the others are in the outbox, and no notification is left."""
    good = Notification(
        "web1", Event.OUT_OF_SPEC, NOW, "22", "22,80", (DeviationLine("192.0.2.1", "unexpected", "open", "80", NOW),)
    )
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as file:
        schema.migrate(file)
        for number, document in enumerate(
            [encode_notification(good), *documents, encode_notification(replace(good, host="web2"))]
        ):
            spelled = document if isinstance(document, bytes) else document.encode("utf-8", "surrogatepass")
            file.execute(
                "INSERT INTO notice (at, host, document) VALUES (?, ?, CAST(? AS TEXT))",
                (NOW, f"h{number}", spelled),
            )
        rows = outbox.read_notices(file)
        written = message.render_queued(rows, (A, B), "p@example.org", NOW, Links())
        outbox.post(file, rows, written.mails, NOW)
        told = Counter(
            (
                mail.recipient,
                str(email.message_from_bytes(mail.message, policy=email.policy.default)["X-PortSpec-Alert"]),
            )
            for mail in outbox.read_due(file, NOW, 100)
        )
        assert outbox.waiting(file).notices == 0
    for recipient, host in itertools.product((A, B), ("web1", "web2")):
        assert told[recipient, f"PortSpec Alert [{host}]"] >= 1
    assert sum(told.values()) + written.failed == 2 * (len(documents) + 2)


def test_story_that_is_of_no_use_is_told_anew(
    stage: Stage, server: Server, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A story that can be read and leads to a fault costs a second mail, and is replaced."""

    def decide(story: Any, *given: Any) -> Any:
        if story != NOTHING_NOTIFIED:
            raise ZeroDivisionError
        return decision_module.decide(story, *given)

    with stage.scene() as scene:
        scene.scan(WEB, 22, 80)
        scene.process()
        with monkeypatch.context() as faulty:
            faulty.setattr(module, "decide", decide)
            scene.scan(WEB, 22, 80)
        scene.process()
        assert server.told() == [(A, "[web1]")] * 2
        scene.scan(WEB, 22, 80)
        scene.process()
        assert server.told() == []
    assert events(logs) == ["discarding the notification state of a host, recipients are notified again"]


def test_host_is_told_of_without_its_audit(stage: Stage, server: Server, logs: Logs) -> None:
    """A fault in what is known of the listeners costs the mail their names alone."""

    def audit(_: str) -> NoReturn:
        raise ZeroDivisionError

    with stage.scene() as scene:
        scene.mailer = scene.made(mail_config(), audit=audit)
        scene.scan(WEB, 22, 80)
        scene.process()
    assert server.told() == [(A, "[web1]")]
    assert events(logs) == ["failed to add listening processes to the notification"]


@pytest.mark.parametrize(
    "story",
    [
        "garbage",
        '{"told":"in_spec","told_at":0,"findings":[],"unknown_scans":Infinity,"unknown_at":0,"unknown_since":0,"expiring":null}',
        '{"told":"in_spec","told_at":0,"findings":[["a","missing",22,0]],"unknown_scans":0,"unknown_at":0,"unknown_since":0,"expiring":null}',
    ],
    ids=["garbage", "infinity", "port"],
)
def test_story_that_cannot_be_read_is_told_anew(stage: Stage, server: Server, path: Path, story: str) -> None:
    """What was told of a host and is garbled in the file costs a second mail, never the scan."""
    with stage.scene() as scene:
        scene.scan(WEB, 22, 80)
        scene.process()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE state SET story = ?", (story,))
    with stage.scene() as scene:
        scene.scan(WEB, 22, 80)
        scene.process()
    assert server.told() == [(A, "[web1]")] * 2


def test_garbled_notices_alone_are_no_mail(stage: Stage, server: Server) -> None:
    """Where no notification can be read nothing is sent, and they are gone."""
    with stage.scene() as scene:
        for of in HOSTS:
            scene.store.put(HostState(of), HostState(of), None, "garbage")
        scene.process()
        assert (server.connections, scene.waits()) == (0, (0, 0))


def stuck(scene: Scene, clock: Clock, seconds: float) -> None:
    """Have the state file fail for so long, while the mailer looks as often as it wants."""
    end = clock.now + seconds
    while clock.now < end:
        scene.store.script = [True]
        clock.now += scene.process()
    scene.store.script = []


def test_state_file_that_fails_for_long_is_told_by_mail_past_it(
    stage: Stage, server: Server, clock: Clock, logs: Logs
) -> None:
    """After five minutes one mail to each address says that mails wait, and no second one while it lasts."""
    with stage.scene(A, B) as scene:
        stuck(scene, clock, MAX_ROUND_WAIT)
        assert server.told() == []
        assert events(logs) == ["writing the state file fails, mails wait"]
        stuck(scene, clock, 2 * STORE_RETRY_INTERVAL)
        assert server.told() == [(A, "[portspec]"), (B, "[portspec]")]
        stuck(scene, clock, 10 * MAX_ROUND_WAIT)
        assert server.told() == []
        assert len(events(logs)) == 1


def test_state_file_that_fails_over_a_reload_is_told_once(stage: Stage, server: Server, clock: Clock) -> None:
    """A mailer with other settings knows since when the file cannot be written, and who was told."""
    with stage.scene() as scene:
        stuck(scene, clock, MAX_ROUND_WAIT - STORE_RETRY_INTERVAL)
        scene.reload(mail_config(remind=3600.0))
        stuck(scene, clock, 3 * STORE_RETRY_INTERVAL)
        assert server.told() == [(A, "[portspec]")]
        scene.reload(mail_config(A, B))
        stuck(scene, clock, 2 * MAX_ROUND_WAIT)
        assert server.told() == [(B, "[portspec]")]


def test_state_file_that_fails_again_is_told_again(stage: Stage, server: Server, clock: Clock) -> None:
    """Between two failures the file was written: the second is news; a short one is none."""
    with stage.scene() as scene:
        for _ in range(3):
            stuck(scene, clock, MAX_ROUND_WAIT - STORE_RETRY_INTERVAL)
            scene.process()
        assert server.told() == []
        for _ in range(2):
            stuck(scene, clock, MAX_ROUND_WAIT + 2 * STORE_RETRY_INTERVAL)
            scene.process()
            assert server.told() == [(A, "[portspec]")]


@pytest.mark.parametrize("who", [A, B, C])
def test_refusal_of_the_mail_about_the_state_file_is_the_recipients_own(
    stage: Stage, server: Server, clock: Clock, who: str
) -> None:
    """One recipient that is refused keeps nobody from that mail, and nobody gets it twice."""
    with stage.scene(A, B, C) as scene:
        server.answers[who] = refused(Reason.REFUSED)
        stuck(scene, clock, MAX_ROUND_WAIT + 20 * STORE_RETRY_INTERVAL)
        assert server.told() == [(to, "[portspec]") for to in (A, B, C) if to != who]
        assert server.asked.count(who) <= MAX_REFUSALS


def test_mail_about_the_state_file_waits_for_the_server_too(stage: Stage, server: Server, clock: Clock) -> None:
    """Where neither file nor server works, the mail is sent when the server does."""
    with stage.scene() as scene:
        server.is_down = True
        stuck(scene, clock, MAX_ROUND_WAIT + 3600)
        assert server.told() == []
        assert 0 < scene.mailer.status.failed["connect"] < 20  # with growing pauses, as otherwise
        server.is_down = False
        stuck(scene, clock, 2 * MAX_SERVER_BACKOFF)
        assert server.told() == [(A, "[portspec]")]


def test_mails_wait_in_memory_while_the_file_cannot_be_written(
    stage: Stage, server: Server, clock: Clock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found while another process holds the file is told when that is over, each change of it."""
    monkeypatch.setattr(database, "WRITE_PATIENCE", 0.0)
    with stage.scene() as scene:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            scene.scan(WEB, 22, 80)
            assert scene.process() == STORE_RETRY_INTERVAL
            scene.scan(WEB, 22)
            assert scene.process() == STORE_RETRY_INTERVAL
            other.execute("ROLLBACK")
        commit(scene.store)  # type: ignore[arg-type]
        clock.now += STORE_RETRY_INTERVAL
        scene.process()
        assert server.told() == [(A, "[web1]"), (A, "[web1]")]


class Ended(BaseException):
    """The script of an Alertmanager is over."""


class ScriptedWatch:
    """A watch over an Alertmanager that is healthy, ailing or failed as its script says; runs something at each."""

    url = "http://127.0.0.1:9093"

    def __init__(self, *script: str | Callable[[], object]) -> None:
        self.is_healthy = self.has_failed = False
        self._script = list(script)

    async def check(self) -> None:
        """Go on to the next state."""
        while self._script and callable(self._script[0]):
            self._script.pop(0)()  # type: ignore[operator]
        if not self._script:
            raise Ended
        word = self._script.pop(0)
        self.is_healthy, self.has_failed = word == "healthy", word == "failed"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no pause between two questions."""
    monkeypatch.setattr(module, "CHECK_INTERVAL", 0.0)
    monkeypatch.setattr(module, "POLL_INTERVAL", 0.0)


def stand_in(scene: Scene, *script: str | Callable[[], object]) -> None:
    """Have the mailer watch an Alertmanager to the end of a script."""
    watch: AlertmanagerHealth = ScriptedWatch(*script)  # type: ignore[assignment]
    with pytest.raises(Ended):
        asyncio.run(scene.mailer._fall_back(watch))


FALLBACK: dict[str, Any] = {"mode": "fallback", "alertmanager": ScriptedWatch.url}


@pytest.mark.usefixtures("at_once")
def test_stand_in_is_silent_while_alertmanager_notifies(stage: Stage, server: Server) -> None:
    """With `sendemail: fallback` and a healthy Alertmanager no mail is noted or sent; nor while it ails."""
    with stage.scene(**FALLBACK) as scene:
        scene.scan(HOSTS[0], 22, 80)
        stand_in(scene, "ailing", lambda: scene.scan(HOSTS[1], 22, 80), "healthy", "ailing")
        scene.scan(HOSTS[2], 22, 80)
        assert scene.process() == MAX_SERVER_BACKOFF
        assert (server.connections, scene.waits()) == (0, (0, 0))


@pytest.mark.usefixtures("at_once")
def test_stand_in_tells_what_is_wrong_when_alertmanager_has_failed(stage: Stage, server: Server) -> None:
    """When it has failed, the hosts that are out of specification by then are told, once, and then what changes."""
    with stage.scene(**FALLBACK) as scene:
        scene.scan(HOSTS[0], 22, 80)
        scene.scan(HOSTS[1], 22)
        scene.scan(HOSTS[2], 22, 80)
        scene.scan(HOSTS[2], 22)
        stand_in(scene, "healthy", "ailing", "failed", "failed")
        scene.process()
        assert server.told() == [(A, "[web1]")]
        scene.scan(HOSTS[0], 22, 80)
        scene.scan(HOSTS[1], 22, 80)
        scene.process()
        assert server.told() == [(A, "[web2]")]


@pytest.mark.usefixtures("at_once")
def test_stand_in_tells_of_unknown_hosts_when_alertmanager_has_failed(stage: Stage, server: Server) -> None:
    """A host that nobody can see for long is among those that are not in specification."""
    with stage.scene(**FALLBACK) as scene:
        for _ in range(3):
            scene.scan(WEB, reason=Unseen.NO_ROUTE)
            scene.clock.now += 60
        stand_in(scene, "healthy", "failed")
        scene.scan(WEB, reason=Unseen.NO_ROUTE)
        scene.process()
        assert server.told() == [(A, "[web1]")]


@pytest.mark.usefixtures("at_once")
def test_stand_in_withdraws_when_alertmanager_is_back(stage: Stage, server: Server) -> None:
    """Mails that wait when it is healthy again are not sent, nor is what changes from then on."""
    with stage.scene(**FALLBACK) as scene:
        server.is_down = True
        scene.scan(HOSTS[0], 22, 80)
        scene.scan(HOSTS[1], 22)
        stand_in(scene, "healthy", "failed", "healthy")
        assert scene.waits() == (0, 0)
        stand_in(scene, "failed", "failed")
        scene.process()
        assert scene.waits() == (0, 1)
        scene.scan(HOSTS[1], 22, 80)
        stand_in(scene, "healthy")
        server.is_down = False
        scene.clock.now += MAX_SERVER_BACKOFF
        scene.scan(HOSTS[2], 22, 80)
        assert scene.process() == MAX_SERVER_BACKOFF
        assert server.told() == []
        assert scene.waits() == (0, 0)
        assert scene.mailer.status.waiting == 0


@pytest.mark.usefixtures("at_once")
def test_stand_in_withdraws_later_what_it_cannot_withdraw_at_once(stage: Stage, server: Server) -> None:
    """When the state file cannot be written just then, mails are withdrawn while Alertmanager goes on to be healthy."""
    with stage.scene(**FALLBACK) as scene:
        server.is_down = True
        scene.scan(WEB, 22, 80)
        stand_in(scene, "failed")
        scene.process()
        scene.store.script = [True]
        stand_in(scene, "healthy", "healthy")
        scene.store.script = []
        assert scene.waits() == (0, 0)


@pytest.mark.usefixtures("at_once")
def test_stand_in_tells_everything_anew_at_the_next_failure(stage: Stage, server: Server) -> None:
    """What was told in the last failure is told again: meanwhile somebody else told of it."""
    with stage.scene(**FALLBACK) as scene:
        scene.scan(WEB, 22, 80)
        for _ in range(2):
            stand_in(scene, "failed")
            scene.process()
            assert server.told() == [(A, "[web1]")]
            stand_in(scene, "healthy")


@pytest.mark.usefixtures("at_once")
def test_stand_in_sends_what_waited_when_it_is_started_anew(stage: Stage, server: Server) -> None:
    """Mails that waited at a restart in the middle of a failure are sent once that is known to go on, not later."""
    with stage.scene(**FALLBACK) as scene:
        server.is_down = True
        scene.scan(WEB, 22, 80)
        stand_in(scene, "failed")
        scene.process()
    server.is_down = False
    with stage.scene(**FALLBACK) as scene:
        assert scene.process() == MAX_SERVER_BACKOFF
        stand_in(scene, "ailing", "failed")
        assert scene.mailer._wake_up.is_set()
        scene.process()
        assert server.told() == [(A, "[web1]")]


@pytest.mark.usefixtures("at_once")
def test_stand_in_tells_hosts_as_they_are_by_then(
    stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is scanned, or leaves, while others are told of is not told as it was before; nor is it stored so."""
    monkeypatch.setattr(module, "_HOSTS_PER_TURN", 1)

    def meanwhile() -> None:
        scene.scan(HOSTS[1], 22)
        del scene.states[HOSTS[2].host]

    with stage.scene(**FALLBACK) as scene:
        for of in HOSTS[:3]:
            scene.scan(of, 22, 80)
        stand_in(scene, lambda: asyncio.get_running_loop().call_soon(meanwhile), "failed")
        scene.process()
        assert server.told() == [(A, "[web1]")]
    with stage.scene() as scene:
        assert not scene.states[HOSTS[1].host].deviations


@pytest.mark.parametrize(("fallback_after", "pause"), [(300.0, CHECK_INTERVAL), (8.0, 2.0)])
def test_alertmanager_is_asked_often_enough(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fallback_after: float, pause: float
) -> None:
    """Between two questions are 30 seconds, or a quarter of `fallback_after` if that is less."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with stage.scene(**FALLBACK, fallback_after=fallback_after) as scene:
        stand_in(scene, "healthy", "ailing")
    assert pauses == [pause] * 2


async def cancelled(task: asyncio.Task[None]) -> None:
    """End a task."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def run_until(scene: Scene, condition: Callable[[], object], begin: Callable[[], object] = lambda: None) -> None:
    """Run the mailer until a condition holds."""

    async def scenario() -> None:
        task = asyncio.create_task(scene.mailer.run())
        await settle()
        begin()
        async with asyncio.timeout(PATIENCE):
            while not condition():
                assert not task.done()
                await asyncio.sleep(0)
        await cancelled(task)

    asyncio.run(scenario())


@pytest.mark.usefixtures("at_once")
def test_running_mailer_sends_what_is_told(stage: Stage, server: Server) -> None:
    """A mailer that has nothing to do wakes up when there is something to tell."""
    with stage.scene() as scene:
        run_until(scene, lambda: server.taken, lambda: scene.scan(WEB, 22, 80))
        assert server.told() == [(A, "[web1]")]


@pytest.mark.usefixtures("at_once")
def test_running_mailer_survives_what_goes_wrong(
    stage: Stage, server: Server, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the mailer itself is told in the log, and it goes on."""
    monkeypatch.setattr(module, "MAX_SERVER_BACKOFF", 0.0)
    real, calls = module.Mailer.process_outbox, []

    async def look(of: Mailer) -> float:
        calls.append(of)
        if len(calls) == 1:
            raise RuntimeError("a fault")
        return await real(of)

    monkeypatch.setattr(module.Mailer, "process_outbox", look)
    with stage.scene() as scene:
        scene.scan(WEB, 22, 80)
        run_until(scene, lambda: server.taken)
        assert server.told() == [(A, "[web1]")]
        assert "failed to process the outbox" in events(logs)


@pytest.mark.usefixtures("at_once")
def test_running_mailer_survives_a_watch_that_goes_wrong(stage: Stage, logs: Logs) -> None:
    """A fault in asking Alertmanager does not end the mailer, and with it the exporter."""
    with stage.scene(**FALLBACK) as scene:
        asked = []

        def fault() -> None:
            asked.append(1)
            raise RuntimeError("a fault")

        watch = ScriptedWatch(*[fault] * 10_000)
        scene.mailer._alertmanager = watch  # type: ignore[assignment]
        run_until(scene, lambda: len(asked) > 1)


def test_mailer_that_is_cancelled_leaves_everything_in_the_outbox(stage: Stage, server: Server) -> None:
    """A reload or the end in the middle of a dialogue loses no mail."""
    with stage.scene(A, B) as scene:

        async def scenario() -> None:
            waits = asyncio.Event()

            async def send(*_: object) -> str:
                waits.set()
                forever: asyncio.Future[str] = asyncio.get_running_loop().create_future()
                return await forever

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(server, "send", send)
                task = asyncio.create_task(scene.mailer.run())
                scene.scan(WEB, 22, 80)
                async with asyncio.timeout(PATIENCE):
                    await waits.wait()
                await cancelled(task)

        asyncio.run(scenario())
        assert not server.is_connected
        scene.reload(mail_config(A, B, remind=0.0))
        scene.process()
        assert server.told() == [(A, "[web1]"), (B, "[web1]")]


def test_reminder_is_sent_after_its_time(stage: Stage, server: Server, clock: Clock) -> None:
    """What lasts is told again after `remind` seconds."""
    with stage.scene(remind=3600.0) as scene:
        for _ in range(6):
            scene.scan(WEB, 22, 80)
            scene.process()
            clock.now += 1200
        texts = [text_of(mail) for _, mail in server.taken]
        assert len(texts) == 2
        assert texts[1].startswith("web1 is still out of specification, for 1 h.")


def test_mails_of_a_host_are_one_conversation(stage: Stage, server: Server) -> None:
    """Every mail about a host refers to the same, also when a notification was written by another mailer."""
    for ports in ([22, 80], [22, 80, 443], [22]):
        with stage.scene() as scene:
            scene.scan(WEB, *ports)
            scene.process()
    threads = {str(mail["References"]) for _, mail in server.taken}
    assert len(threads) == 1
    assert len({str(mail["Message-ID"]) for _, mail in server.taken}) == 3


def test_notice_in_the_file_is_what_was_told(stage: Stage) -> None:
    """What waits in the state file can be read back whole."""
    with stage.scene() as scene:
        scene.scan(WEB, 22, 80)
        rows: Sequence[outbox.NoticeRow] = scene.store.perform(outbox.read_notices)
        (row,) = rows
        assert (row.host, row.at) == ("web1", NOW)
        assert encode_notification(decode_notification(row.document)) == row.document
