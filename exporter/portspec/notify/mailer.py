"""The mailer: what is told of hosts goes through the outbox in the state file, and leaves it when the server has it."""

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
from portspec.notify.content import Links
from portspec.notify.encoding import decode_state, encode_notification, encode_state
from portspec.notify.holders import add_listeners
from portspec.notify.letter import render_store_failure_mail
from portspec.notify.smtp import DeliveryError, DeliveryErrorReason, Session
from portspec.notify.steps import last_step
from portspec.notify.story import NOTHING_NOTIFIED, WATCHED_BY_OTHERS, tell
from portspec.notify.watch import EVERY, Watch
from portspec.notify.writing import Written, write_mails
from portspec.store import StoreError, outbox
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from portspec.audit.state import AuditState
    from portspec.config import MailConfig
    from portspec.notify.story import Story
    from portspec.state.snapshot import HostState
    from portspec.store import Store
    from portspec.store.outbox import Letter, NoticeRow

LOOK: Final = 1.0  # seconds between two looks into the outbox while something waits in it
HOLD: Final = 300.0  # seconds that a notice waits at most for the end of the round, so that many become one digest
KEPT: Final = 5 * 86_400.0  # seconds that a mail is tried (RFC 5321, 4.5.4.1: at least 4 to 5 days)
MAX_REFUSALS: Final = 3  # answers 5xx to a mail before it is given up
AFTER_STORE_ERROR: Final = 10.0  # seconds until the next look
STORE_PATIENCE: Final = 5.0  # seconds that the state file is waited for when the mailer is to end
FIRST_PAUSE: Final = 5.0  # seconds until a server that failed is tried again, each time twice as long
MAX_PAUSE: Final = 900.0
FIRST_MAIL_PAUSE: Final = 60.0  # the same for one mail that the server did not take
MAX_MAIL_PAUSE: Final = 3600.0

T = TypeVar("T")
Round: TypeAlias = tuple[float | None, int]  # its interval (None: scans beside the rounds), how many ended before it

_CANNOT_BE_TOLD = "what is to be told of a host cannot be told"
_IS_TOLD_ANEW = "what was told of a host is of no use: it is told anew"
_AT_ONCE = 100  # hosts told of before the event loop may go on
_BATCH = 50  # mails over one connection

_log = log.get("notify")


@dataclass(frozen=True, slots=True)
class MailStatus:
    """How the mailer does: mails that wait, were sent, were given up; failed attempts by reason."""

    waiting: int
    sent: int
    given_up: int
    failed: Mapping[str, int]


@dataclass(slots=True)
class MailerState:
    """What a process knows of mails whatever its settings, for the counts see MailStatus.

    `taken` are mails that the server has, and the outbox perhaps still has, too. `awaited` is by host what was under
    way when its notice was seen first. The state file cannot be written since `store_failed_at`, a Unix time, and
    `told_of_store` are the recipients who were told. Whoever sends or withdraws mails has the `turn`.
    """

    waiting: int = 0
    sent: int = 0
    given_up: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    taken: dict[int, Letter] = field(default_factory=dict)
    awaited: dict[str, Round] = field(default_factory=dict)
    store_failed_at: float | None = None
    told_of_store: set[str] = field(default_factory=set)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Mailer:
    """Tells `mail.recipients` of hosts whose verdict changes.

    `under_way` tells of which intervals a round is under way (None: scans beside the rounds), and how many have ended
    before, and `states` gives the hosts as they are now. `audit` gives the last audit of a host, if it sends any, and
    `links` where mails lead to. `wall_clock` gives Unix seconds; what waits does so by it, and
    so over a restart. `memory` is that of the mailers before, with other settings.
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
        self._watch = (
            Watch(mail.alertmanager, patience=mail.fallback_after)
            if mail.mode == "fallback" and mail.alertmanager
            else None
        )
        self.memory = memory or MailerState()
        self._something_new = asyncio.Event()
        self._server_due = -math.inf  # Unix seconds
        self._server_pause = 0.0
        self._is_active = mail.mode == "on"
        self._is_settled = False  # whether Alertmanager tells

    @property
    def status(self) -> MailStatus:
        """How it does now; callable from any thread."""
        memory = self.memory
        failed = {reason.value: memory.failed[reason.value] for reason in DeliveryErrorReason}
        return MailStatus(memory.waiting, memory.sent, memory.given_up, failed)

    def on_state(self, before: HostState, after: HostState) -> None:
        """Have a host's states before and after a scan written, with what is to be told of it; at once."""
        if not self._is_active:
            # until it is known that Alertmanager tells, a restart in the middle of its failure forgets nothing
            self._store.put(before, after, None if self._is_settled else self._store.story(after.host))
            return
        self._tell(before, after, self._story(after.host))

    def _tell(self, before: HostState, after: HostState, story: Story) -> None:
        """Have states written with what is to be told to those who know a story, or else to those who know nothing."""
        documents: tuple[str | None, str | None] = self._store.story(after.host), None
        for known in dict.fromkeys((story, NOTHING_NOTIFIED)):
            try:
                documents = self._documents(after, known)
                break
            except Exception:  # noqa: BLE001 - no fault here may end a scan
                is_last = known == NOTHING_NOTIFIED
                _log.exception(_CANNOT_BE_TOLD if is_last else _IS_TOLD_ANEW, host=after.host)
        self._store.put(before, after, *documents)
        if documents[1] is not None:
            self._something_new.set()

    def _story(self, host: str) -> Story:
        """Give what was told of a host."""
        try:
            return decode_state(self._store.story(host))
        except Exception:  # noqa: BLE001 - the same
            _log.exception(_IS_TOLD_ANEW, host=host)
            return NOTHING_NOTIFIED

    def _documents(self, after: HostState, story: Story) -> tuple[str | None, str | None]:
        """Give the documents of a host's story from now on, and of what is to be told, if anything."""
        told, notice = tell(story, after, self._wall_clock(), self.mail.remind)
        if notice is not None:
            try:
                notice = add_listeners(notice, after, self._audit(after.host))
            except Exception:  # noqa: BLE001 - it is told without them
                _log.exception("who listens on a host cannot be told", host=after.host)
        return encode_state(told), encode_notification(notice) if notice else None

    async def run(self) -> None:
        """Send what waits until cancelled; nothing that goes wrong ends it.

        It begins when the mailer before has ended. When cancelled, it waits a few seconds for a server that has a
        message and has not answered, and for the state file, so that no mail is sent twice.
        """
        async with self.memory.turn, asyncio.TaskGroup() as tasks:
            if self._watch:
                tasks.create_task(self._stand_in(self._watch))
            while True:
                try:
                    pause = await self.look()
                except NoThreadError:  # the log tells of it
                    pause = MAX_PAUSE
                except Exception:  # noqa: BLE001 - the mailer goes on whatever it comes to
                    _log.exception("the mailer failed, and goes on")
                    pause = MAX_PAUSE
                await asyncio.sleep(0)  # where a cancellation comes that waited for an answer: not in timeout()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._something_new.wait()
                    await asyncio.sleep(LOOK)  # what is new seldom comes alone

    async def look(self) -> float:
        """Make mails of the notices if it is time, and send what is due; give the seconds until the next look."""
        self._something_new.clear()
        now = self._wall_clock()
        under_way = self._under_way()
        try:
            taken = tuple(self.memory.taken.values())
            letters, waiting, self.memory.awaited, lost = await self._in_store(
                lambda file: self._take(file, taken, under_way, now)
            )
            self.memory.given_up += lost  # by now they have left the outbox
            self._note(waiting)
            for item in taken:
                self.memory.taken.pop(item.number, None)
            if letters:
                await self._deliver(letters)
                waiting = await self._in_store(outbox.waiting)
                self._note(waiting)
        except StoreError as error:
            await self._tell_of_store(error)
            return AFTER_STORE_ERROR
        self.memory.store_failed_at = None
        self.memory.told_of_store.clear()
        if not self._is_active:
            return MAX_PAUSE
        if waiting.notices:
            return LOOK
        due = math.inf if waiting.due is None else max(waiting.due, self._server_due)
        return min(max(due - self._wall_clock(), 0.0), MAX_PAUSE)

    def _note(self, waiting: outbox.Waiting) -> None:
        self.memory.waiting = waiting.notices + waiting.mails

    def _take(
        self, file: sqlite3.Connection, taken: Iterable[Letter], under_way: Mapping[float | None, int], now: float
    ) -> tuple[list[Letter], outbox.Waiting, dict[str, Round], int]:
        """Make mails of the notices whose time it is.

        Gives the mails that are due, what waits in all, and what for, and how many mails could not be written.
        """
        written = Written()
        for item in taken:
            outbox.remove(file, item)
        notices = outbox.read_notices(file)
        awaited = self._awaited_rounds(notices, under_way, now)
        if ripe := [row for row in notices if row.host not in awaited]:
            written = write_mails(ripe, self.mail.recipients, self.mail.sender, now, self._links())
            outbox.post(file, ripe, written.mails, now)
        may_send = self._is_active and not 0 < self._server_due - now <= MAX_PAUSE
        due = outbox.read_due(file, now, _BATCH, MAX_MAIL_PAUSE) if may_send else []
        return due, outbox.waiting(file), awaited, written.lost

    def _awaited_rounds(
        self, notices: Sequence[NoticeRow], under_way: Mapping[float | None, int], now: float
    ) -> dict[str, Round]:
        """Give, by host, the round whose end its notices wait for; hosts whose notices wait no more are left out."""
        states = self._states()
        rounds = {
            row.host: self.memory.awaited.get(row.host) or _round_of(state.target.config.interval, under_way)
            for row in notices
            if (state := states.get(row.host))
        }
        oldest = {rounds.get(row.host): row.at for row in reversed(notices)}
        return {
            host: awaited
            for host, awaited in rounds.items()
            if awaited and awaited in under_way.items() and 0 <= now - oldest[awaited] < HOLD
        }

    async def _deliver(self, letters: Iterable[Letter]) -> None:
        """Send mails over one connection."""
        waiting = deque(letters)
        recipients = {recipient.lower() for recipient in self.mail.recipients}
        is_open = False
        try:
            async with Session(self.mail) as session:
                is_open = True
                while waiting and self._is_active:
                    if waiting[0].recipient.lower() in recipients:
                        await self._send(session, waiting[0])
                    else:
                        _log.info("a mail is not sent: its address has left alertemail", recipient=waiting[0].recipient)
                        await self._remove(waiting[0])
                    waiting.popleft()
        except DeliveryError as error:
            self.memory.failed[error.reason.value] += 1
            self._server_pause = min(max(2 * self._server_pause, FIRST_PAUSE), MAX_PAUSE)
            self._server_due = self._wall_clock() + self._server_pause
            _log.error(
                "mails wait: the mail server does not take them",
                server=self.mail.server,
                port=self.mail.port,
                reason=error.reason.value,
                why=error.detail,
                mails=len(waiting),
                next_try_seconds=self._server_pause,
            )
            suspect = waiting[0] if is_open and waiting else None  # the first time it is not suspected
            for item in waiting:
                if self._wall_clock() - item.at >= KEPT:
                    await self._give_up(item, error)
                elif item is suspect:
                    await self._put_off(item, _pause(item.attempts - 1) if item.attempts else 0.0)
        else:
            self._server_pause, self._server_due = 0.0, -math.inf

    async def _send(self, session: Session, item: Letter) -> None:
        """Send one mail, and take it out of the outbox or keep it for later. Raises DeliveryError, StoreError."""
        try:
            answer = await session.send(item.recipient, item.message)
        except DeliveryError as error:
            if not error.is_of_mail:
                raise
            await self._keep(item, error)
        else:
            self.memory.sent += 1
            _log.info("mail sent", recipient=item.recipient, answer=answer)
            await self._remove(item)

    async def _keep(self, item: Letter, error: DeliveryError) -> None:
        self.memory.failed[error.reason.value] += 1
        item = replace(item, refusals=item.refusals + (error.reason is DeliveryErrorReason.REFUSED))
        if item.refusals >= MAX_REFUSALS or self._wall_clock() - item.at >= KEPT:
            await self._give_up(item, error)
            return
        pause = _pause(item.attempts)
        await self._put_off(item, pause)
        _log.warning("a mail was not taken", recipient=item.recipient, why=error.detail, next_try_seconds=pause)

    async def _put_off(self, item: Letter, pause: float) -> None:
        """Keep a mail that was tried for so many seconds."""
        item = replace(item, attempts=item.attempts + 1)
        await self._in_store(lambda file: outbox.postpone(file, item, self._wall_clock() + pause))

    async def _give_up(self, item: Letter, error: DeliveryError) -> None:
        self.memory.given_up += 1
        days = (self._wall_clock() - item.at) / 86_400
        _log.error("a mail is given up", recipient=item.recipient, why=error.detail, days=round(days, 1))
        await self._remove(item)

    async def _remove(self, item: Letter) -> None:
        """Take a mail out of the outbox: if not now, then before anything else is sent."""
        self.memory.taken[item.number] = item
        await self._in_store(lambda file: outbox.remove(file, item))
        self.memory.taken.pop(item.number, None)

    async def _tell_of_store(self, error: StoreError) -> None:
        """Log that mails wait for the state file, and when they have for long, send that past it."""
        now = self._wall_clock()
        if self.memory.store_failed_at is None:
            self.memory.store_failed_at = now
            _log.error("mails wait until the state file can be written", file=error.path, why=error.why)
        untold = [recipient for recipient in self.mail.recipients if recipient not in self.memory.told_of_store]
        is_early = 0 <= now - self.memory.store_failed_at < HOLD or 0 < self._server_due - now <= MAX_PAUSE
        if not untold or not self._is_active or is_early:
            return
        try:
            async with Session(self.mail) as session:
                for recipient in untold:
                    await self._tell_one_of_store(session, recipient, str(error))
        except DeliveryError as failure:
            self._note_failure(failure)
            self._server_pause = min(max(2 * self._server_pause, FIRST_PAUSE), MAX_PAUSE)
            self._server_due = self._wall_clock() + self._server_pause
        else:
            self._server_pause, self._server_due = 0.0, -math.inf

    async def _tell_one_of_store(self, session: Session, recipient: str, why: str) -> None:
        sender, now = self.mail.sender, self._wall_clock()
        message = render_store_failure_mail(why, sender=sender, recipient=recipient, now=now, links=self._links())
        try:
            await session.send(recipient, message)
        except DeliveryError as failure:
            if not failure.is_of_mail:
                raise
            self._note_failure(failure)
        else:
            self.memory.sent += 1
        self.memory.told_of_store.add(recipient)  # or refused: it is tried once

    def _note_failure(self, failure: DeliveryError) -> None:
        self.memory.failed[failure.reason.value] += 1
        _log.error("nor can that be told by mail", reason=failure.reason.value, why=failure.detail)

    async def _stand_in(self, watch: Watch) -> None:
        """Be active as long as Alertmanager has failed, and tell what is wrong by then."""
        while True:
            try:
                await watch.ask()
                if watch.has_failed and not self._is_active:
                    self._is_active, self._is_settled = True, False
                    _log.warning("Alertmanager has failed: portspec sends mails in its stead", url=watch.url)
                    for number, host in enumerate(tuple(self._states()), 1):
                        if number % _AT_ONCE == 0:
                            await asyncio.sleep(0)
                        if state := self._states().get(host):  # as it is by now
                            known = self._store.story(host)  # from before a restart in the middle of a failure
                            self._tell(state, state, self._story(host) if known else WATCHED_BY_OTHERS)
                    self._something_new.set()  # what waited before the start, too
                elif watch.is_healthy and not self._is_settled:
                    self._is_active = False
                    self._is_settled = await self._stand_back()
            except Exception:  # noqa: BLE001 - the mailer goes on whatever it comes to
                _log.exception("it cannot be told whether Alertmanager is healthy", url=watch.url)
            await asyncio.sleep(min(EVERY, self.mail.fallback_after / 4))

    async def _stand_back(self) -> bool:
        """Forget what was told, since Alertmanager tells it now; gives whether mails that waited are withdrawn."""
        for host, state in self._states().items():
            if self._store.story(host) is not None:
                self._store.put(state, state)
        try:
            withdrawn = await self._in_store(outbox.clear)
        except StoreError as error:
            _log.error("mails that wait cannot be withdrawn yet", file=error.path, why=error.why)
            return False
        self.memory.waiting = 0
        _log.info("Alertmanager is there to notify: portspec sends no mails", mails_withdrawn=withdrawn)
        return True

    async def _in_store(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await last_step(in_daemon_thread(lambda: self._store.perform(job)), STORE_PATIENCE)


async def discard_queued_mails(store: Store, memory: MailerState) -> None:
    """Forget mails that wait, since none are sent any more: in a month they would be no news."""
    async with memory.turn:
        try:
            count = await last_step(in_daemon_thread(lambda: store.perform(outbox.clear)), STORE_PATIENCE)
        except (StoreError, NoThreadError):  # the log tells of it; they are forgotten at the next start, then
            return
        memory.waiting = 0
        if count:
            _log.warning("mails that waited are not sent, since sendemail is false", mails=count)


def _pause(attempts: int) -> float:
    """Give how many seconds a mail waits that was tried so often before."""
    return min(FIRST_MAIL_PAUSE * 2.0 ** min(attempts, 10), MAX_MAIL_PAUSE)


def _round_of(interval: float, under_way: Mapping[float | None, int]) -> Round | None:
    """Give the round of an interval that is under way, or else the scans beside the rounds; None without either."""
    return next(((found, under_way[found]) for found in (interval, None) if found in under_way), None)
