"""The mailer: queues notifications in the outbox of the state file, renders mails, and delivers them with retries.

* `on_state` decides after each scan whether recipients are notified. State, changes and notification are written in one
  transaction.
* `process_outbox` renders mails once the round of a host has ended, so that many hosts share one digest, and delivers
  the mails that are due. A mail leaves the outbox after the server accepted it: it is delivered at least once, and
  repeated deliveries have the same Message-ID.
* `run` does so until it is cancelled. In fallback mode it is active only while Alertmanager is down.

A failure of the server delays all mails, a rejection of one mail delays only that mail.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from portspec import log
from portspec.errors import NoThreadError
from portspec.notify.alertmanager import CHECK_INTERVAL, AlertmanagerHealth
from portspec.notify.cancellation import finish_on_cancel
from portspec.notify.content import Links
from portspec.notify.decision import WATCHED_BY_OTHERS, add_listeners, decide
from portspec.notify.encoding import decode_state, encode_notification, encode_state
from portspec.notify.message import RenderedMails, render_queued, render_store_failure_mail
from portspec.notify.notification import NOTHING_NOTIFIED
from portspec.notify.smtp import DeliveryError, DeliveryErrorReason, Session
from portspec.store import StoreError, outbox
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from portspec.audit.state import AuditState
    from portspec.config import MailConfig
    from portspec.notify.notification import NotificationState
    from portspec.state.snapshot import HostState
    from portspec.store import Store
    from portspec.store.outbox import QueuedMail, QueuedNotification

POLL_INTERVAL: Final = 1.0  # seconds between two polls of the outbox while notifications wait
MAX_ROUND_WAIT: Final = 300.0  # seconds that notifications wait for the end of a round at most
MAX_QUEUE_LIFETIME: Final = 5 * 86_400.0  # seconds (RFC 5321, 4.5.4.1: 4 to 5 days)
MAX_REFUSALS: Final = 3  # 5xx replies to a mail before it is discarded
STORE_RETRY_INTERVAL: Final = 10.0  # seconds until the next access to a state file that fails
STORE_SHUTDOWN_TIMEOUT: Final = 5.0  # seconds that a cancelled mailer waits for the state file
MIN_SERVER_BACKOFF: Final = 5.0  # seconds until the next connection to a server that failed; doubled each time
MAX_SERVER_BACKOFF: Final = 900.0
MIN_MAIL_BACKOFF: Final = 60.0  # the same for one mail that the server rejected
MAX_MAIL_BACKOFF: Final = 3600.0

T = TypeVar("T")
Round: TypeAlias = tuple[float | None, int]  # its interval (None: scans outside rounds), and its number

_BUILD_FAILED = "failed to build the notification"
_STATE_DISCARDED = "discarding the notification state of a host, recipients are notified again"
_HOSTS_PER_TURN = 100  # hosts between two yields to the event loop
_MAILS_PER_CONNECTION = 50  # mails

_log = log.get("notify")


@dataclass(frozen=True, slots=True)
class MailStatus:
    """Counts for /metrics: mails that wait, were sent, were discarded; failed attempts by reason."""

    waiting: int
    sent: int
    given_up: int
    failed: Mapping[str, int]


@dataclass(slots=True)
class MailerState:
    """What outlives a mailer when a reload replaces it. For the counts see MailStatus.

    Attributes:
        delivered: Mails that the server accepted and that may still be in the outbox.
        awaited: By host, the round that ran when its notification was first read.
        store_failed_at: Since when writing the state file fails, in Unix seconds.
        notified_of_store_failure: The recipients who were notified of that.
        lock: Held by the task that sends or discards mails.
    """

    waiting: int = 0
    sent: int = 0
    given_up: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    delivered: dict[int, QueuedMail] = field(default_factory=dict)
    awaited: dict[str, Round] = field(default_factory=dict)
    store_failed_at: float | None = None
    notified_of_store_failure: set[str] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Mailer:
    """Notifies `mail.recipients` of hosts whose verdict changes.

    Args:
        mail: The settings.
        store: The state file.
        under_way: Returns the intervals with a running round (None: scans outside rounds), each with the number of
            rounds that have ended before.
        states: Returns the present states of all hosts.
        audit: Returns the last audit of a host, if any.
        links: Returns the URLs that mails link to.
        memory: That of the mailer before a reload.
        wall_clock: Returns Unix seconds. Waiting times refer to it, since they outlive a restart.
    """

    def __init__(
        self,
        mail: MailConfig,
        store: Store,
        *,
        under_way: Callable[[], Mapping[float | None, int]],
        states: Callable[[], Mapping[str, HostState]],
        audit: Callable[[str], AuditState | None] = lambda _: None,
        links: Callable[[], Links] = Links,
        memory: MailerState | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.mail = mail
        self._store = store
        self._under_way = under_way
        self._states = states
        self._audit = audit
        self._links = links
        self._wall_clock = wall_clock
        self._alertmanager = (
            AlertmanagerHealth(mail.alertmanager, grace_period=mail.fallback_after)
            if mail.mode == "fallback" and mail.alertmanager
            else None
        )
        self.memory = memory or MailerState()
        self._wake_up = asyncio.Event()
        self._server_due = -math.inf  # Unix seconds
        self._server_pause = 0.0
        self._is_active = mail.mode == "on"
        self._is_standby = False  # whether Alertmanager notifies and the outbox has been cleared

    @property
    def status(self) -> MailStatus:
        """The present counts. Thread-safe."""
        memory = self.memory
        failed = {reason.value: memory.failed[reason.value] for reason in DeliveryErrorReason}
        return MailStatus(memory.waiting, memory.sent, memory.given_up, failed)

    def on_state(self, before: HostState, after: HostState) -> None:
        """Queue the writing of a new state, and of the notification that it needs, if any. Does not block."""
        if not self._is_active:
            # keep what recipients know until Alertmanager is known to notify: it may be down since before a restart
            self._store.put(before, after, None if self._is_standby else self._store.notification_state(after.host))
            return
        self._notify(before, after, self._known(after.host))

    def _notify(self, before: HostState, after: HostState, known: NotificationState) -> None:
        """Write a state with the notification for recipients who know `known`, or, if that fails, nothing."""
        documents: tuple[str | None, str | None] = self._store.notification_state(after.host), None
        for candidate in dict.fromkeys((known, NOTHING_NOTIFIED)):
            try:
                documents = self._documents(after, candidate)
                break
            except Exception:  # noqa: BLE001 - a fault here must not end a scan
                is_last = candidate == NOTHING_NOTIFIED
                _log.exception(_BUILD_FAILED if is_last else _STATE_DISCARDED, host=after.host)
        self._store.put(before, after, *documents)
        if documents[1] is not None:
            self._wake_up.set()

    def _known(self, host: str) -> NotificationState:
        """Return what recipients know of a host."""
        try:
            return decode_state(self._store.notification_state(host))
        except Exception:  # noqa: BLE001 - the same
            _log.exception(_STATE_DISCARDED, host=host)
            return NOTHING_NOTIFIED

    def _documents(self, after: HostState, known: NotificationState) -> tuple[str | None, str | None]:
        """Return what recipients know from now on and the notification, if one is needed, as JSON."""
        known, notification = decide(known, after, self._wall_clock(), self.mail.remind)
        if notification is not None:
            try:
                notification = add_listeners(notification, after, self._audit(after.host))
            except Exception:  # noqa: BLE001 - the notification is sent without them
                _log.exception("failed to add listening processes to the notification", host=after.host)
        return encode_state(known), encode_notification(notification) if notification else None

    async def run(self) -> None:
        """Process the outbox until cancelled. No error ends it.

        It starts once the previous mailer has ended. On cancellation it waits a few seconds for the reply to a message
        and for the state file, so that no mail is sent twice.
        """
        async with self.memory.lock, asyncio.TaskGroup() as tasks:
            if self._alertmanager:
                tasks.create_task(self._fall_back(self._alertmanager))
            while True:
                try:
                    pause = await self.process_outbox()
                except NoThreadError:  # logged already
                    pause = MAX_SERVER_BACKOFF
                except Exception:  # noqa: BLE001 - no error ends the mailer
                    _log.exception("failed to process the outbox")
                    pause = MAX_SERVER_BACKOFF
                await asyncio.sleep(0)  # raises a cancellation that waited for a reply here, not in timeout()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake_up.wait()
                    await asyncio.sleep(POLL_INTERVAL)  # more notifications usually follow

    async def process_outbox(self) -> float:
        """Render mails and send those that are due. Return the seconds until the next call."""
        self._wake_up.clear()
        now = self._wall_clock()
        under_way = self._under_way()
        try:
            delivered = tuple(self.memory.delivered.values())
            due_mails, waiting, self.memory.awaited, failed = await self._in_store(
                lambda file: self._render_due(file, delivered, under_way, now)
            )
            self.memory.given_up += failed  # the transaction that removes them is committed now
            self._count(waiting)
            for item in delivered:
                self.memory.delivered.pop(item.number, None)
            if due_mails:
                await self._deliver(due_mails)
                waiting = await self._in_store(outbox.read_status)
                self._count(waiting)
        except StoreError as error:
            await self._report_store_failure(error)
            return STORE_RETRY_INTERVAL
        self.memory.store_failed_at = None
        self.memory.notified_of_store_failure.clear()
        if not self._is_active:
            return MAX_SERVER_BACKOFF
        if waiting.notifications:
            return POLL_INTERVAL
        due = math.inf if waiting.due is None else max(waiting.due, self._server_due)
        return min(max(due - self._wall_clock(), 0.0), MAX_SERVER_BACKOFF)

    def _count(self, waiting: outbox.OutboxStatus) -> None:
        self.memory.waiting = waiting.notifications + waiting.mails

    def _render_due(
        self,
        file: sqlite3.Connection,
        delivered: Iterable[QueuedMail],
        under_way: Mapping[float | None, int],
        now: float,
    ) -> tuple[list[QueuedMail], outbox.OutboxStatus, dict[str, Round], int]:
        """Replace the notifications whose round has ended by their mails.

        Returns:
            The mails that are due, the size of the queue, the rounds that other notifications wait for, by host, and
            the number of mails that could not be rendered.
        """
        rendered = RenderedMails()
        for item in delivered:
            outbox.remove(file, item)
        notifications = outbox.read_notifications(file)
        awaited = self._awaited_rounds(notifications, under_way, now)
        if ready := [row for row in notifications if row.host not in awaited]:
            rendered = render_queued(ready, self.mail.recipients, self.mail.sender, now, self._links())
            outbox.enqueue(file, ready, rendered.mails, now)
        may_send = self._is_active and not 0 < self._server_due - now <= MAX_SERVER_BACKOFF
        due = outbox.read_due(file, now, _MAILS_PER_CONNECTION, MAX_MAIL_BACKOFF) if may_send else []
        return due, outbox.read_status(file), awaited, rendered.failed

    def _awaited_rounds(
        self, notifications: Sequence[QueuedNotification], under_way: Mapping[float | None, int], now: float
    ) -> dict[str, Round]:
        """Return, by host, the round whose end its notifications wait for; without hosts that wait no longer."""
        states = self._states()
        rounds = {
            row.host: self.memory.awaited.get(row.host) or _round_of(state.target.config.interval, under_way)
            for row in notifications
            if (state := states.get(row.host))
        }
        oldest = {rounds.get(row.host): row.at for row in reversed(notifications)}
        return {
            host: awaited
            for host, awaited in rounds.items()
            if awaited and awaited in under_way.items() and 0 <= now - oldest[awaited] < MAX_ROUND_WAIT
        }

    async def _deliver(self, mails: Iterable[QueuedMail]) -> None:
        """Send mails in one session."""
        waiting = deque(mails)
        recipients = {recipient.lower() for recipient in self.mail.recipients}
        is_open = False
        try:
            async with Session(self.mail) as session:
                is_open = True
                while waiting and self._is_active:
                    if waiting[0].recipient.lower() in recipients:
                        await self._send(session, waiting[0])
                    else:
                        _log.info(
                            "discarding a mail, its recipient is no longer in alertemail",
                            recipient=waiting[0].recipient,
                        )
                        await self._remove(waiting[0])
                    waiting.popleft()
        except DeliveryError as error:
            self.memory.failed[error.reason.value] += 1
            self._back_off()
            _log.error(
                "delivery failed, mails wait",
                server=self.mail.server,
                port=self.mail.port,
                reason=error.reason.value,
                why=error.detail,
                mails=len(waiting),
                next_try_seconds=self._server_pause,
            )
            # The mail that ended the session may be the cause: after its first attempt it is deferred, so that it does
            # not stop the others.
            suspect = waiting[0] if is_open and waiting else None
            for item in waiting:
                if self._wall_clock() - item.at >= MAX_QUEUE_LIFETIME:
                    await self._discard(item, error)
                elif item is suspect:
                    await self._defer(item, _pause(item.attempts - 1) if item.attempts else 0.0)
        else:
            self._server_pause, self._server_due = 0.0, -math.inf

    def _back_off(self) -> None:
        """Double the pause until the next connection to the server."""
        self._server_pause = min(max(2 * self._server_pause, MIN_SERVER_BACKOFF), MAX_SERVER_BACKOFF)
        self._server_due = self._wall_clock() + self._server_pause

    async def _send(self, session: Session, item: QueuedMail) -> None:
        """Send one mail, and remove it from the outbox or defer it. Raises DeliveryError, StoreError."""
        try:
            reply = await session.send(item.recipient, item.message)
        except DeliveryError as error:
            if not error.is_of_mail:
                raise
            await self._defer_or_discard(item, error)
        else:
            self.memory.sent += 1
            _log.info("mail sent", recipient=item.recipient, reply=reply)
            await self._remove(item)

    async def _defer_or_discard(self, item: QueuedMail, error: DeliveryError) -> None:
        self.memory.failed[error.reason.value] += 1
        item = replace(item, refusals=item.refusals + (error.reason is DeliveryErrorReason.REFUSED))
        if item.refusals >= MAX_REFUSALS or self._wall_clock() - item.at >= MAX_QUEUE_LIFETIME:
            await self._discard(item, error)
            return
        pause = _pause(item.attempts)
        await self._defer(item, pause)
        _log.warning(
            "mail rejected, retrying later", recipient=item.recipient, why=error.detail, next_try_seconds=pause
        )

    async def _defer(self, item: QueuedMail, pause: float) -> None:
        """Count an attempt, and schedule the next one after `pause` seconds."""
        item = replace(item, attempts=item.attempts + 1)
        await self._in_store(lambda file: outbox.postpone(file, item, self._wall_clock() + pause))

    async def _discard(self, item: QueuedMail, error: DeliveryError) -> None:
        self.memory.given_up += 1
        days = (self._wall_clock() - item.at) / 86_400
        _log.error(
            "discarding a mail that cannot be delivered",
            recipient=item.recipient,
            why=error.detail,
            days=round(days, 1),
        )
        await self._remove(item)

    async def _remove(self, item: QueuedMail) -> None:
        """Remove a mail from the outbox. If that fails, it is removed before the next mail is sent."""
        self.memory.delivered[item.number] = item
        await self._in_store(lambda file: outbox.remove(file, item))
        self.memory.delivered.pop(item.number, None)

    async def _report_store_failure(self, error: StoreError) -> None:
        """Log that writing the state file fails, and after `MAX_ROUND_WAIT` seconds send a mail that says so."""
        now = self._wall_clock()
        if self.memory.store_failed_at is None:
            self.memory.store_failed_at = now
            _log.error("writing the state file fails, mails wait", file=error.path, why=error.why)
        unnotified = [
            recipient for recipient in self.mail.recipients if recipient not in self.memory.notified_of_store_failure
        ]
        is_early = (
            0 <= now - self.memory.store_failed_at < MAX_ROUND_WAIT or 0 < self._server_due - now <= MAX_SERVER_BACKOFF
        )
        if not unnotified or not self._is_active or is_early:
            return
        try:
            async with Session(self.mail) as session:
                for recipient in unnotified:
                    await self._send_store_failure(session, recipient, str(error))
        except DeliveryError as failure:
            self._count_failure(failure)
            self._back_off()
        else:
            self._server_pause, self._server_due = 0.0, -math.inf

    async def _send_store_failure(self, session: Session, recipient: str, why: str) -> None:
        sender, now = self.mail.sender, self._wall_clock()
        message = render_store_failure_mail(why, sender=sender, recipient=recipient, now=now, links=self._links())
        try:
            await session.send(recipient, message)
        except DeliveryError as failure:
            if not failure.is_of_mail:
                raise
            self._count_failure(failure)
        else:
            self.memory.sent += 1
        self.memory.notified_of_store_failure.add(recipient)  # also if it was rejected: there is one attempt

    def _count_failure(self, failure: DeliveryError) -> None:
        self.memory.failed[failure.reason.value] += 1
        _log.error("failed to send a mail about the state file", reason=failure.reason.value, why=failure.detail)

    async def _fall_back(self, alertmanager: AlertmanagerHealth) -> None:
        """Be active while Alertmanager is down, beginning with a notification about each host with a problem."""
        while True:
            try:
                await alertmanager.check()
                if alertmanager.has_failed and not self._is_active:
                    self._is_active, self._is_standby = True, False
                    _log.warning("Alertmanager is down, portspec sends mails", url=alertmanager.url)
                    for number, host in enumerate(tuple(self._states()), 1):
                        if number % _HOSTS_PER_TURN == 0:
                            await asyncio.sleep(0)
                        if state := self._states().get(host):  # its present state
                            document = self._store.notification_state(
                                host
                            )  # left by a restart while Alertmanager was down
                            known = self._known(host) if document else WATCHED_BY_OTHERS
                            self._notify(state, state, known)
                    self._wake_up.set()  # mails from before the start are sent, too
                elif alertmanager.is_healthy and not self._is_standby:
                    self._is_active = False
                    self._is_standby = await self._enter_standby()
            except Exception:  # noqa: BLE001 - no error ends the mailer
                _log.exception("failed to check the health of Alertmanager", url=alertmanager.url)
            await asyncio.sleep(min(CHECK_INTERVAL, self.mail.fallback_after / 4))

    async def _enter_standby(self) -> bool:
        """Discard queued mails and what recipients know, since Alertmanager notifies. Return whether it succeeded."""
        for host, state in self._states().items():
            if self._store.notification_state(host) is not None:
                self._store.put(state, state)
        try:
            discarded = await self._in_store(outbox.clear)
        except StoreError as error:
            _log.error("failed to discard queued mails, retrying", file=error.path, why=error.why)
            return False
        self.memory.waiting = 0
        _log.info("Alertmanager is healthy, portspec sends no mails", mails_discarded=discarded)
        return True

    async def _in_store(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await finish_on_cancel(in_daemon_thread(lambda: self._store.transact(job)), STORE_SHUTDOWN_TIMEOUT)


async def discard_queued_mails(store: Store, memory: MailerState) -> None:
    """Discard queued mails after mails were disabled: they would be outdated when mails are enabled again."""
    async with memory.lock:
        try:
            count = await finish_on_cancel(
                in_daemon_thread(lambda: store.transact(outbox.clear)), STORE_SHUTDOWN_TIMEOUT
            )
        except (StoreError, NoThreadError):  # logged already; they are discarded at the next start
            return
        memory.waiting = 0
        if count:
            _log.warning("discarded queued mails, since sendemail is false", mails=count)


def _pause(attempts: int) -> float:
    """Return the backoff of a mail in seconds after a number of attempts."""
    return min(MIN_MAIL_BACKOFF * 2.0 ** min(attempts, 10), MAX_MAIL_BACKOFF)


def _round_of(interval: float, under_way: Mapping[float | None, int]) -> Round | None:
    """Return the running round of an interval, otherwise the running scans outside rounds; None without either."""
    return next(((found, under_way[found]) for found in (interval, None) if found in under_way), None)
