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
from portspec.notify.encoding import encode_notification
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
from portspec.store import StoreError, outbox, schema
from portspec.store.faults import StoreFault, StoreFaultKind
from tests.faults.registry import fault
from tests.unit.factories import NOW, result, seen, settle, target
from tests.unit.store.scenes import PATIENCE, Logs, commit, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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
    """Return the settings of mail."""
    given = {"mode": "on", "server": "smtp.example.org", "port": 587, "tls": "starttls", "sender": "p@example.org"}
    return MailConfig(**{**given, **parts, "recipients": recipients or (A,)})


def text_of(mail: EmailMessage) -> str:
    """Return the text of a mail."""
    part = mail.get_body(("plain",))
    assert part
    return str(part.get_content()).replace("\r\n", "\n")


def refused(reason: Reason) -> DeliveryError:
    """Return the refusal of one mail."""
    return DeliveryError(reason, "the server answered 550 no such user", is_of_mail=True)


class Server:
    """A scripted mail server that replaces a Session.

    While it `is_down`, sessions fail, with that error if it is one. `answers` are errors by recipient. `on_taken` is
    called when a mail is accepted, before the session returns.
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
        """Accept or reject a mail."""
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
        """Return recipient and alert, as in the subject of PortSpec, of the mails since the last call."""
        taken, self.taken = self.taken, []
        return [(to, str(mail["X-PortSpec-Alert"]).removeprefix("PortSpec Alert ")) for to, mail in taken]


class FaultyStore:
    """A store that fails according to a script, in front of the real one."""

    def __init__(self, store: Store) -> None:
        self.script: list[bool] = []  # of the next calls; True fails
        self._store = store

    def transact(self, job: Any) -> Any:
        """Do a job, or not."""
        if self.script and self.script.pop(0):
            raise StoreError("portspec.db", StoreFault(StoreFaultKind.FULL, "database or disk is full"))
        return self._store.transact(job)

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
        """Return a mailer."""
        return Mailer(
            mail,
            self.store,  # type: ignore[arg-type]
            under_way=lambda: dict(self.under_way),
            states=lambda: self.states,
            wall_clock=self.clock,
            **parts,
        )

    def reload(self, mail: MailConfig) -> None:
        """Continue with other settings, as after a reload."""
        self.mailer = self.made(mail, memory=self.mailer.memory)

    def scan(self, of: Target = WEB, *is_open: int, reason: Unseen | None = None) -> None:
        """Scan a host."""
        before = self.states.get(of.host, HostState(of))
        observed = seen(of.address or "", is_open=is_open, reason=reason)
        self.states[of.host] = before.after(result(of, observed, at=self.clock.now))
        self.mailer.on_state(before, self.states[of.host])

    def process(self) -> float:
        """Process the outbox once."""
        return asyncio.run(self.mailer.process_outbox())

    def waits(self) -> tuple[int, int]:
        """Return how many notifications and mails wait."""
        found = self.store.transact(outbox.read_status)
        return found.notifications, found.mails

    def letters(self) -> list[outbox.QueuedMail]:
        """Return the mails that wait."""
        found: list[outbox.QueuedMail] = self.store.transact(lambda file: outbox.read_due(file, 1e18, 10**6))
        return found


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """Return the time in Unix seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return a mail server, and lead every session to it."""
    scripted = Server()
    monkeypatch.setattr(module, "Session", scripted)
    return scripted


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
    """Return a maker of scenes."""
    return Stage(path, clock)


def events(logs: Logs, *levels: str) -> list[str]:
    """Return what was logged at these levels."""
    return [event["event"] for event in logs.events if event["level"] in (levels or ("error",))]


def test_each_recipient_gets_a_mail(stage: Stage, server: Server) -> None:
    """A host out of specification is one mail to each address in one session, and the queue is empty afterwards."""
    with stage.scene(A, B, C) as scene:
        scene.scan(WEB, 22, 80)
        assert scene.process() == MAX_SERVER_BACKOFF
        assert server.told() == [(A, "[web1]"), (B, "[web1]"), (C, "[web1]")]
        assert server.connections == 1
        assert scene.waits() == (0, 0)
        assert scene.mailer.status == MailStatus(0, 3, 0, {reason.value: 0 for reason in Reason})


def test_queued_notification_is_sent_after_a_restart(stage: Stage, server: Server) -> None:
    """A notification that was queued when portspec ended is sent by the next process."""
    with stage.scene() as scene:
        scene.under_way[SHORT] = 0
        scene.scan(WEB, 22, 80)
        scene.process()
    assert server.told() == []
    with stage.scene() as scene:
        scene.process()
    assert server.told() == [(A, "[web1]")]


def test_notifications_wait_for_the_end_of_the_round(stage: Stage, server: Server, clock: Clock) -> None:
    """While the round runs, nothing is sent and the outbox is polled."""
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


def test_notifications_wait_for_a_limited_time(stage: Stage, server: Server, clock: Clock) -> None:
    """After `MAX_ROUND_WAIT` all queued notifications of the round are sent, and the wait begins again."""
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


def test_notifications_of_the_next_round_wait_for_its_end(stage: Stage, server: Server) -> None:
    """A notification that is queued while mails are sent belongs to the round that has begun."""
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


@fault("clock", "mails", "A notification with a time in the future is sent at once.")
def test_clock_that_is_set_back_does_not_delay_notifications(stage: Stage, server: Server, clock: Clock) -> None:
    """A notification with a time in the future is sent at once."""
    with stage.scene() as scene:
        scene.under_way[SHORT] = 0
        scene.scan(WEB, 22, 80)
        commit(scene.store)  # type: ignore[arg-type]
        clock.now -= 1000 * DAY
        scene.process()
        assert server.told() == [(A, "[web1]")]


def test_notifications_wait_for_the_round_of_their_interval(stage: Stage, server: Server) -> None:
    """Short rounds send at their ends, while the notifications of a long round are collected."""
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


def test_round_that_takes_too_long_sends_its_own_notifications_only(stage: Stage, server: Server, clock: Clock) -> None:
    """Notifications of other rounds still wait."""
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


def test_new_hosts_share_a_digest(stage: Stage, server: Server) -> None:
    """Notifications about hosts that a reload adds wait until all of them are scanned."""
    with stage.scene() as scene:
        scene.under_way[None] = 0
        for of in HOSTS:
            scene.scan(of, 22, 80)
            scene.process()
        assert server.told() == []
        scene.under_way.clear()
        scene.process()
        assert server.told() == [(A, "[12 hosts]")]


@pytest.mark.parametrize("is_removed", [False, True], ids=["the round ends", "the host leaves conf.yml"])
def test_scan_outside_rounds_does_not_delay_a_notification(
    stage: Stage,
    server: Server,
    *,
    is_removed: bool,
) -> None:
    """Notifications of a round are sent at its end, or once their host is in none, while a requested scan continues."""
    with stage.scene() as scene:
        scene.under_way = {SHORT: 0, None: 0}
        scene.scan(WEB, 22, 80)
        scene.process()
        assert server.told() == []
        if is_removed:
            del scene.states[WEB.host]
        else:
            del scene.under_way[SHORT]
        scene.process()
        assert server.told() == [(A, "[web1]")]


@fault("clock", "mails", "A mail that failed is tried again within an hour, whatever its due time.")
def test_clock_that_is_set_back_does_not_delay_mails(stage: Stage, server: Server, clock: Clock) -> None:
    """A mail is retried within `MAX_MAIL_BACKOFF`, whatever its due time."""
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


def test_clock_that_is_set_back_does_not_delay_the_server(stage: Stage, server: Server, clock: Clock) -> None:
    """A server is retried within `MAX_SERVER_BACKOFF`, whatever its due time."""
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
    """More than ten hosts of a round are one digest for each address, which names them all."""
    with stage.scene(A, B) as scene:
        for of in HOSTS:
            scene.scan(of, 22, 80)
        scene.process()
        texts = [text_of(mail) for _, mail in server.taken]
        assert server.told() == [(A, "[12 hosts]"), (B, "[12 hosts]")]
        names = ", ".join(sorted(f"web{number}" for number in range(1, 13)))
        assert all(f"\n- 80 (http) open, not expected\n  {names}\n" in text for text in texts)


def test_many_mails_are_sent_in_batches(stage: Stage, server: Server) -> None:
    """The mails that exceed a batch are sent in the next session, at once."""
    recipients = [f"r{number}@example.org" for number in range(30)]
    with stage.scene(*recipients) as scene:
        for of in HOSTS[:2]:
            scene.scan(of, 22, 80)
        assert scene.process() == 0.0
        assert scene.process() == MAX_SERVER_BACKOFF
        assert server.connections == 2
        assert Counter(server.told()) == {(to, f"[{of.host}]"): 1 for to in recipients for of in HOSTS[:2]}


@fault(
    "mail server",
    "mails",
    "The server is tried again after 5 seconds, then after pauses that double up to 15 minutes.",
)
@pytest.mark.parametrize(
    "reason",
    [Reason.CONNECT, Reason.TLS, Reason.AUTH, Reason.REFUSED],
)
def test_server_that_fails_is_retried_with_exponential_backoff(
    stage: Stage, server: Server, clock: Clock, reason: Reason
) -> None:
    """Pauses double from 5 seconds to 15 minutes; a success resets them."""
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


def test_new_mails_do_not_shorten_the_backoff(stage: Stage, server: Server, clock: Clock) -> None:
    """A new notification does not cause an earlier connection to a server that failed."""
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


def test_accepted_mails_are_not_sent_again_after_a_failure(stage: Stage, server: Server, clock: Clock) -> None:
    """If the connection is lost, only the mails that were not accepted are sent again."""
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


def test_mail_that_ends_the_session_does_not_stop_others(stage: Stage, server: Server, clock: Clock) -> None:
    """A mail that ends each session in which it is sent is deferred."""
    with stage.scene(A, B, C) as scene:
        server.answers[B] = DeliveryError(Reason.TIMEOUT, "no reply in 30 s")
        scene.scan(WEB, 22, 80)
        for _ in range(10):
            clock.now += scene.process()
        assert server.told() == [(A, "[web1]"), (C, "[web1]")]
        assert scene.waits() == (0, 1)


@pytest.mark.parametrize("reason", [Reason.TIMEOUT, Reason.CLOSED])
def test_mail_that_ends_the_session_expires(stage: Stage, server: Server, clock: Clock, reason: Reason) -> None:
    """A mail that ends each session is discarded after `MAX_QUEUE_LIFETIME`."""
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


@fault(
    "mail server",
    "mails",
    "A mail that is rejected with 5xx three times is discarded (PortspecMailGivenUp); the others are sent.",
)
def test_rejected_recipient_does_not_affect_others(stage: Stage, server: Server, clock: Clock, logs: Logs) -> None:
    """A mail that is rejected with 5xx is retried after 1 and 2 minutes, and discarded at the third rejection."""
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


def test_deferred_mail_does_not_delay_new_ones(stage: Stage, server: Server) -> None:
    """While one mail is deferred, new mails are sent at once."""
    with stage.scene(A, B) as scene:
        server.answers[B] = refused(Reason.TEMPORARY)
        scene.scan(HOSTS[0], 22, 80)
        scene.process()
        scene.scan(HOSTS[1], 22, 80)
        scene.process()
        assert server.told() == [(A, "[web1]"), (A, "[web2]")]
        assert server.asked == [A, B, A, B]


@fault("mail server", "mails", "A mail that is rejected with 4xx is tried for five days.")
def test_mail_with_temporary_rejections_expires(stage: Stage, server: Server, clock: Clock, logs: Logs) -> None:
    """Pauses after 4xx double from 1 minute to 1 hour; the mail is discarded after five days."""
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


def test_only_permanent_rejections_are_counted(stage: Stage, server: Server, clock: Clock) -> None:
    """Of alternating 4xx and 5xx replies only three 5xx discard the mail."""
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


def test_mails_expire_while_the_server_is_down(stage: Stage, server: Server, clock: Clock) -> None:
    """After five days each mail is tried once more and discarded."""
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


def test_old_mail_is_tried_before_it_expires(stage: Stage, server: Server, clock: Clock) -> None:
    """A mail that waited while portspec was down for a week is sent."""
    with stage.scene() as scene:
        server.is_down = True
        scene.scan(WEB, 22, 80)
        scene.process()
    clock.now += 7 * DAY
    server.is_down = False
    with stage.scene() as scene:
        scene.process()
    assert server.told() == [(A, "[web1]")]


def test_accepted_mail_that_cannot_be_removed_is_not_sent_again(
    stage: Stage, server: Server, clock: Clock, logs: Logs
) -> None:
    """It is removed from the outbox before another mail is sent."""
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
        assert scene.mailer.memory.delivered == {}
        assert scene.mailer.status.sent == 2
        assert events(logs) == ["writing the state file fails, mails wait"]


def test_accepted_mail_is_not_sent_again_after_a_reload(stage: Stage, server: Server) -> None:
    """The new mailer knows which accepted mails are still in the outbox."""
    with stage.scene() as scene:
        scene.scan(WEB, 22, 80)
        scene.store.script = [False, True]
        scene.process()
        scene.reload(mail_config(A, remind=3600.0))
        scene.process()
        assert server.told() == [(A, "[web1]")]
        assert scene.waits() == (0, 0)


def test_mail_of_a_new_file_with_a_used_number_is_sent(stage: Stage, server: Server, path: Path, clock: Clock) -> None:
    """Numbers start at 1 again in a new state file."""
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


def test_deferred_mail_is_not_rendered_again(stage: Stage, server: Server, clock: Clock) -> None:
    """Each attempt sends the same bytes."""
    with stage.scene() as scene:
        server.answers[A] = refused(Reason.TEMPORARY)
        scene.scan(WEB, 22, 80)
        scene.process()
        (before,) = scene.letters()
        clock.now += MIN_MAIL_BACKOFF
        scene.process()
        (after,) = scene.letters()
        assert after == replace(before, attempts=2)


def test_removed_recipient_gets_no_more_mails(stage: Stage, server: Server, clock: Clock) -> None:
    """Queued mails to an address that was removed from alertemail are dropped, which is no failure."""
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


def test_reload_resets_the_backoff_of_the_server(stage: Stage, server: Server) -> None:
    """Corrected settings are used at once."""
    with stage.scene() as scene:
        server.is_down = DeliveryError(Reason.AUTH, "no")
        scene.scan(WEB, 22, 80)
        scene.process()
        server.is_down = False
        scene.reload(mail_config(A, username="portspec", password="right"))  # noqa: S106 - of nothing
        scene.process()
        assert server.told() == [(A, "[web1]")]


def faulty(monkeypatch: pytest.MonkeyPatch, name: str, *hosts: str) -> None:
    """Let render_mail() or render_digest() fail for some hosts; without hosts, for several notifications."""
    write = getattr(message, name)

    def failing(told: Any, number: int, **given: Any) -> bytes:
        found = [notification.host for notification in (told if isinstance(told, list) else [told])]
        if not set(found).isdisjoint(hosts) or (not hosts and len(found) > 1):
            raise ZeroDivisionError("somewhere")
        message: bytes = write(told, number, **given)
        return message

    monkeypatch.setattr(message, name, failing)


def test_notification_that_cannot_be_rendered_is_discarded(
    stage: Stage, server: Server, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged and counted, and the other notifications are sent."""
    faulty(monkeypatch, "render_mail", "web2")
    with stage.scene(A, B) as scene:
        for of in HOSTS[:3]:
            scene.scan(of, 22, 80)
        scene.process()
        assert server.told() == [(to, f"[{host}]") for to in (A, B) for host in ("web1", "web3")]
        assert (scene.waits(), scene.mailer.status.given_up) == ((0, 0), 2)
    found = [(event["host"], event["why"]) for event in logs.events if event["level"] == "error"]
    assert found == [("web2", "ZeroDivisionError: somewhere")] * 2


def test_digest_leaves_out_what_cannot_be_rendered(
    stage: Stage, server: Server, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notifications that fail on their own are left out, the others are one digest."""
    faulty(monkeypatch, "render_digest", "web1", "web5")
    with stage.scene() as scene:
        for of in HOSTS:
            scene.scan(of, 22, 80)
        scene.process()
        assert server.told() == [(A, "[10 hosts]")]
        assert (scene.waits(), scene.mailer.status.given_up) == ((0, 0), 2)
    assert [event["host"] for event in logs.events if event["level"] == "error"] == ["web1", "web5"]


def test_digest_that_cannot_be_rendered_is_replaced_by_single_mails(
    stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only the combination fails, each host has a mail."""
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
LIKE_A_NOTIFICATION = st.fixed_dictionaries(
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
@given(documents=st.lists(WORDS | st.binary(max_size=20) | (JSON | LIKE_A_NOTIFICATION).map(json.dumps), max_size=4))
def test_valid_notifications_are_sent_whatever_else_is_queued(logs: Logs, documents: list[str | bytes]) -> None:
    """Any documents in the table leave the mails about the others unaffected, and no notification remains."""
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
                "INSERT INTO notification (at, host, document) VALUES (?, ?, CAST(? AS TEXT))",
                (NOW, f"h{number}", spelled),
            )
        rows = outbox.read_notifications(file)
        written = message.render_queued(rows, (A, B), "p@example.org", NOW, Links())
        outbox.enqueue(file, rows, written.mails, NOW)
        told = Counter(
            (
                mail.recipient,
                str(email.message_from_bytes(mail.message, policy=email.policy.default)["X-PortSpec-Alert"]),
            )
            for mail in outbox.read_due(file, NOW, 100)
        )
        assert outbox.read_status(file).notifications == 0
    for recipient, host in itertools.product((A, B), ("web1", "web2")):
        assert told[recipient, f"PortSpec Alert [{host}]"] >= 1
    assert sum(told.values()) + written.failed == 2 * (len(documents) + 2)


def test_state_that_causes_a_fault_is_discarded(
    stage: Stage, server: Server, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that is valid but causes a fault costs a second mail, and is replaced."""

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


def test_fault_in_listeners_does_not_stop_the_notification(stage: Stage, server: Server, logs: Logs) -> None:
    """The mail is sent without the processes."""

    def audit(_: str) -> NoReturn:
        raise ZeroDivisionError

    with stage.scene() as scene:
        scene.mailer = scene.made(mail_config(), audit=audit)
        scene.scan(WEB, 22, 80)
        scene.process()
    assert server.told() == [(A, "[web1]")]
    assert events(logs) == ["failed to add listening processes to the notification"]


def stuck(scene: Scene, clock: Clock, seconds: float) -> None:
    """Have the state file fail for so long, while the mailer looks as often as it wants."""
    end = clock.now + seconds
    while clock.now < end:
        scene.store.script = [True]
        clock.now += scene.process()
    scene.store.script = []


@fault("disk full", "mails", "After five minutes each recipient gets one mail that the state file cannot be written.")
def test_state_file_that_fails_is_reported_by_mail(stage: Stage, server: Server, clock: Clock, logs: Logs) -> None:
    """After `MAX_ROUND_WAIT` each address gets one mail, which does not go through the outbox."""
    with stage.scene(A, B) as scene:
        stuck(scene, clock, MAX_ROUND_WAIT)
        assert server.told() == []
        assert events(logs) == ["writing the state file fails, mails wait"]
        stuck(scene, clock, 2 * STORE_RETRY_INTERVAL)
        assert server.told() == [(A, "[portspec]"), (B, "[portspec]")]
        stuck(scene, clock, 10 * MAX_ROUND_WAIT)
        assert server.told() == []
        assert len(events(logs)) == 1


def test_state_file_that_fails_is_reported_once_over_a_reload(stage: Stage, server: Server, clock: Clock) -> None:
    """The new mailer knows since when the file fails, and who was notified."""
    with stage.scene() as scene:
        stuck(scene, clock, MAX_ROUND_WAIT - STORE_RETRY_INTERVAL)
        scene.reload(mail_config(remind=3600.0))
        stuck(scene, clock, 3 * STORE_RETRY_INTERVAL)
        assert server.told() == [(A, "[portspec]")]
        scene.reload(mail_config(A, B))
        stuck(scene, clock, 2 * MAX_ROUND_WAIT)
        assert server.told() == [(B, "[portspec]")]


def test_state_file_that_fails_again_is_reported_again(stage: Stage, server: Server, clock: Clock) -> None:
    """Each long failure is reported once; short ones are not."""
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
def test_rejected_mail_about_the_state_file_does_not_affect_others(
    stage: Stage, server: Server, clock: Clock, who: str
) -> None:
    """The other recipients get the mail, once."""
    with stage.scene(A, B, C) as scene:
        server.answers[who] = refused(Reason.REFUSED)
        stuck(scene, clock, MAX_ROUND_WAIT + 20 * STORE_RETRY_INTERVAL)
        assert server.told() == [(to, "[portspec]") for to in (A, B, C) if to != who]
        assert server.asked.count(who) <= MAX_REFUSALS


def test_mail_about_the_state_file_waits_for_the_server(stage: Stage, server: Server, clock: Clock) -> None:
    """If both fail, the mail is sent when the server works again, with the usual backoff."""
    with stage.scene() as scene:
        server.is_down = True
        stuck(scene, clock, MAX_ROUND_WAIT + 3600)
        assert server.told() == []
        assert 0 < scene.mailer.status.failed["connect"] < 20  # with growing pauses, as otherwise
        server.is_down = False
        stuck(scene, clock, 2 * MAX_SERVER_BACKOFF)
        assert server.told() == [(A, "[portspec]")]


class Ended(BaseException):
    """The script of an Alertmanager is over."""


class ScriptedAlertmanager:
    """An Alertmanager that is healthy, ailing or failed according to a script, which may contain functions to call."""

    url = "http://127.0.0.1:9093"

    def __init__(self, *script: str | Callable[[], object]) -> None:
        self.is_healthy = self.has_failed = False
        self.script = list(script)

    async def check(self) -> None:
        """Go on to the next state."""
        while self.script and callable(self.script[0]):
            self.script.pop(0)()  # type: ignore[operator]
        if not self.script:
            raise Ended
        word = self.script.pop(0)
        self.is_healthy, self.has_failed = word == "healthy", word == "failed"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no pause between two questions."""
    monkeypatch.setattr(module, "CHECK_INTERVAL", 0.0)
    monkeypatch.setattr(module, "POLL_INTERVAL", 0.0)


def fall_back(scene: Scene, *script: str | Callable[[], object]) -> None:
    """Let the mailer check an Alertmanager until its script ends."""
    health: AlertmanagerHealth = ScriptedAlertmanager(*script)  # type: ignore[assignment]
    with pytest.raises(Ended):
        asyncio.run(scene.mailer._fall_back(health))


FALLBACK: dict[str, Any] = {"mode": "fallback", "alertmanager": ScriptedAlertmanager.url}


@fault(
    "Alertmanager",
    "mails",
    "After `fallback_after` portspec sends mails itself: first of every present problem, then of changes.",
)
@pytest.mark.usefixtures("at_once")
def test_fallback_notifies_of_present_problems(stage: Stage, server: Server) -> None:
    """When Alertmanager is down, hosts out of specification are notified once, then changes."""
    with stage.scene(**FALLBACK) as scene:
        scene.scan(HOSTS[0], 22, 80)
        scene.scan(HOSTS[1], 22)
        scene.scan(HOSTS[2], 22, 80)
        scene.scan(HOSTS[2], 22)
        fall_back(scene, "healthy", "ailing", "failed", "failed")
        scene.process()
        assert server.told() == [(A, "[web1]")]
        scene.scan(HOSTS[0], 22, 80)
        scene.scan(HOSTS[1], 22, 80)
        scene.process()
        assert server.told() == [(A, "[web2]")]


@pytest.mark.usefixtures("at_once")
def test_fallback_notifies_of_unknown_hosts(stage: Stage, server: Server) -> None:
    """A host that has been unknown for several scans is a present problem."""
    with stage.scene(**FALLBACK) as scene:
        for _ in range(3):
            scene.scan(WEB, reason=Unseen.NO_ROUTE)
            scene.clock.now += 60
        fall_back(scene, "healthy", "failed")
        scene.scan(WEB, reason=Unseen.NO_ROUTE)
        scene.process()
        assert server.told() == [(A, "[web1]")]


@fault(
    "Alertmanager",
    "mails",
    "Once Alertmanager is healthy again, portspec sends no mails, and discards those that wait.",
)
@pytest.mark.usefixtures("at_once")
def test_fallback_discards_mails_when_alertmanager_recovers(stage: Stage, server: Server) -> None:
    """Neither queued mails nor later changes are sent."""
    with stage.scene(**FALLBACK) as scene:
        server.is_down = True
        scene.scan(HOSTS[0], 22, 80)
        scene.scan(HOSTS[1], 22)
        fall_back(scene, "healthy", "failed", "healthy")
        assert scene.waits() == (0, 0)
        fall_back(scene, "failed", "failed")
        scene.process()
        assert scene.waits() == (0, 1)
        scene.scan(HOSTS[1], 22, 80)
        fall_back(scene, "healthy")
        server.is_down = False
        scene.clock.now += MAX_SERVER_BACKOFF
        scene.scan(HOSTS[2], 22, 80)
        assert scene.process() == MAX_SERVER_BACKOFF
        assert server.told() == []
        assert scene.waits() == (0, 0)
        assert scene.mailer.status.waiting == 0


@pytest.mark.usefixtures("at_once")
def test_fallback_retries_discarding_mails(stage: Stage, server: Server) -> None:
    """If the state file fails at that time, mails are discarded at the next check."""
    with stage.scene(**FALLBACK) as scene:
        server.is_down = True
        scene.scan(WEB, 22, 80)
        fall_back(scene, "failed")
        scene.process()
        scene.store.script = [True]
        fall_back(scene, "healthy", "healthy")
        scene.store.script = []
        assert scene.waits() == (0, 0)


@pytest.mark.usefixtures("at_once")
def test_fallback_notifies_again_at_the_next_failure(stage: Stage, server: Server) -> None:
    """What recipients know is forgotten when Alertmanager recovers."""
    with stage.scene(**FALLBACK) as scene:
        scene.scan(WEB, 22, 80)
        for _ in range(2):
            fall_back(scene, "failed")
            scene.process()
            assert server.told() == [(A, "[web1]")]
            fall_back(scene, "healthy")


@pytest.mark.usefixtures("at_once")
def test_fallback_sends_queued_mails_after_a_restart(stage: Stage, server: Server) -> None:
    """Mails that were queued before a restart are sent once Alertmanager is known to be down."""
    with stage.scene(**FALLBACK) as scene:
        server.is_down = True
        scene.scan(WEB, 22, 80)
        fall_back(scene, "failed")
        scene.process()
    server.is_down = False
    with stage.scene(**FALLBACK) as scene:
        assert scene.process() == MAX_SERVER_BACKOFF
        fall_back(scene, "ailing", "failed")
        assert scene.mailer._wake_up.is_set()
        scene.process()
        assert server.told() == [(A, "[web1]")]


@pytest.mark.usefixtures("at_once")
def test_fallback_uses_the_present_states(stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is scanned or removed meanwhile is not notified, or stored, with its old state."""
    monkeypatch.setattr(module, "_HOSTS_PER_TURN", 1)

    def meanwhile() -> None:
        scene.scan(HOSTS[1], 22)
        del scene.states[HOSTS[2].host]

    with stage.scene(**FALLBACK) as scene:
        for of in HOSTS[:3]:
            scene.scan(of, 22, 80)
        fall_back(scene, lambda: asyncio.get_running_loop().call_soon(meanwhile), "failed")
        scene.process()
        assert server.told() == [(A, "[web1]")]
    with stage.scene() as scene:
        assert not scene.states[HOSTS[1].host].deviations


@pytest.mark.parametrize(("fallback_after", "pause"), [(300.0, CHECK_INTERVAL), (8.0, 2.0)])
def test_interval_of_health_checks(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fallback_after: float, pause: float
) -> None:
    """It is `CHECK_INTERVAL`, or a quarter of `fallback_after` if that is less."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with stage.scene(**FALLBACK, fallback_after=fallback_after) as scene:
        fall_back(scene, "healthy", "ailing")
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
def test_fault_does_not_end_the_mailer(
    stage: Stage, server: Server, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and the mailer continues."""
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
def test_fault_of_a_health_check_does_not_end_the_mailer(stage: Stage, logs: Logs) -> None:
    """The check is repeated."""
    with stage.scene(**FALLBACK) as scene:
        asked = []

        def fault() -> None:
            asked.append(1)
            watch.script.append(fault)  # without end
            raise RuntimeError("a fault")

        watch = ScriptedAlertmanager(fault)
        scene.mailer._alertmanager = watch  # type: ignore[assignment]
        run_until(scene, lambda: len(asked) > 1)


def test_reminder_is_sent_after_remind_seconds(stage: Stage, server: Server, clock: Clock) -> None:
    """The mailer passes `remind` on."""
    with stage.scene(remind=3600.0) as scene:
        for _ in range(6):
            scene.scan(WEB, 22, 80)
            scene.process()
            clock.now += 1200
        texts = [text_of(mail) for _, mail in server.taken]
        assert len(texts) == 2
        assert texts[1].startswith("web1 is still out of specification, for 1 h.")
