"""Incoming audits: admitted, archived, read; and what is known of every host that has to send audits.

Whether an audit was posted or `portspec receive` took it from a mail, its way ends in the archive. From there all that
is new is read, at leisure: a morning's burst of audits is taken as fast as it can be written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec import log
from portspec.audit.admission import MAX_AHEAD, REASONS, AdmissionPolicy, sender_of
from portspec.audit.document import Decoder
from portspec.audit.envelope import sign_answer
from portspec.audit.fixes import histograms
from portspec.audit.ingest import IngestQueue
from portspec.audit.model import Audit, Status
from portspec.audit.payload import read_payload
from portspec.audit.priority import DEFAULT_PRIORITIES
from portspec.audit.rejections import RejectionLog
from portspec.audit.result import count_fixes, result_of
from portspec.audit.state import AuditState, HostAudit
from portspec.audit.tools import parse
from portspec.errors import NoThreadError
from portspec.names import canonical
from portspec.state.budget import left_out_of
from portspec.state.outside import Basis, outside_view, seen_from_outside
from portspec.state.table import HostTable
from portspec.store import Archive, Outcome, StoreError, archive, read_fixes
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from portspec.audit.admission import RejectedError
    from portspec.audit.fixes import FixCount, Histogram
    from portspec.audit.payload import AuditPayload
    from portspec.audit.priority import Priorities
    from portspec.audit.result import Result
    from portspec.config import AuditConfig
    from portspec.inventory import AuditedHost
    from portspec.priorities import Priority
    from portspec.state.snapshot import HostState
    from portspec.store import ArchivedAudit, ArchivePosition, Store

POLL: Final = 2.0  # seconds between two looks for audits that `portspec receive` has archived
BUSY: Final = 8  # audits waiting to be archived, with which the reading of others waits,
LOOK: Final = 0.05  # seconds between two looks for that,
MAX_PAUSE: Final = 5.0  # and seconds for which it waits
MAX_READ: Final = 20  # audits whose tool's output is read before the hosts' states are replaced
LOOKED_AT: Final = 500  # hosts that are looked at again before their states are replaced

_log = log.get("audits")


@dataclass(frozen=True, slots=True)
class _Tally:
    """Audits accepted, and rejected by reason: totals of the file, and rejected ones that are not counted there yet."""

    counted: Mapping[str, int] = field(default_factory=dict)
    pending: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look into the file found: totals, some hosts' last audits, new ones, up to where, how many are left."""

    counted: Mapping[str, int]
    fixed: Sequence[FixCount]
    last: Sequence[ArchivedAudit | None]
    new: Sequence[ArchivedAudit]
    results: Mapping[str, str]  # of these hosts, of their audits before, or the last under a former name
    mark: ArchivePosition
    left: int


class _SeenAgain(NamedTuple):
    """A host that was looked at again, by canonical name; `is_judged` if something else is in force."""

    name: str
    before: AuditState
    after: AuditState
    basis: Basis
    is_judged: bool


class AuditService:
    """Takes audits, and knows the last of each host: `states`, by the label `host`.

    A host of the roster is in there once the archive was asked for it. `wall_clock` gives Unix seconds, and `scanned`
    what the scans know of the hosts. `priorities` say what to fix first; others take effect with the next look.
    """

    def __init__(
        self,
        store: Store,
        wall_clock: Callable[[], float] = time.time,
        scanned: Callable[[], HostTable[HostState]] = HostTable,
    ) -> None:
        self._store = store
        self._wall_clock = wall_clock
        self._scanned = scanned
        self._looked: dict[str, Basis] = {}  # what the view and the due times of each host are from
        self.priorities = DEFAULT_PRIORITIES
        self._roster: Mapping[str, AuditedHost] = {}
        self._states: dict[str, AuditState] = {}  # by canonical name
        self._is_restored = True
        self.states: HostTable[AuditState] = HostTable()
        self.unread = 0
        self.unread_hosts: tuple[AuditedHost, ...] = ()
        self.time_to_fix: Mapping[Priority, Histogram] | None = None  # of all audits, once the file was read
        self._has_news = asyncio.Event()
        self._posting = IngestQueue(store, wall_clock, self.refuse, self._has_news.set)
        self._tally = _Tally()
        self._rejections = RejectionLog(wall_clock)
        # Of the threads that read and write, one at a time each:
        self._reading = Archive()
        self._decoder = Decoder()
        self._mark: ArchivePosition | None = None

    def prioritize(self, priorities: Priorities) -> None:
        """Have other priorities from the next look on, which is soon."""
        self.priorities = priorities
        self._has_news.set()

    def apply(self, audit: AuditConfig | None, roster: Mapping[str, AuditedHost]) -> None:
        """Go on with another roster: hosts that stay keep what is known of them."""
        self._roster = roster
        self._posting.rules = AdmissionPolicy(frozenset(roster), audit.passphrases if audit else ())
        now = self._wall_clock()
        self._states = {
            name: self._states[name].under(entry, now) for name, entry in roster.items() if name in self._states
        }
        self._looked = {name: seen for name, seen in self._looked.items() if name in self._states}
        self._is_restored = len(roster) - len(self._states) <= MAX_READ  # so few are read as fast
        self._tabulate()
        self._has_news.set()

    @property
    def is_expecting(self) -> bool:
        """True if there is a passphrase that audits can be signed by."""
        return bool(self._posting.rules.passphrases)

    @property
    def received(self) -> int:
        """The number of audits that were accepted, ever."""
        return self._tally.counted.get(Outcome.ACCEPTED, 0)

    @property
    def rejected(self) -> dict[str, int]:
        """The number of audits that were not accepted, ever, by reason."""
        tally = self._tally
        return {reason: tally.counted.get(reason, 0) + tally.pending[reason] for reason in REASONS}

    def find(self, host: str) -> AuditState | None:
        """Return what is known of a host, however its name is spelled; None if it need not send audits."""
        try:
            return self._states.get(canonical(host))
        except ValueError:
            return None

    def host_of(self, head: bytes) -> str:
        """Return the host that an audit says it is of, by its first bytes; see audit.admission.sender_of()."""
        return sender_of(head, self._posting.rules)

    async def take(self, packed: bytes, origin: str) -> Outcome:
        """Archive an audit that came from an address; see IngestQueue.take()."""
        return await self._posting.take(packed, origin)

    def sign_answer(self, packed: bytes, status: int, body: bytes) -> str:
        """Return the signatures of the answer to an audit that its host has signed, for the header ANSWER_SIGNATURE.

        There is one for each key of the host: while the passphrase changes, its agent may have another key by now than
        the one that an audit in its spool is signed with.
        """
        rules = self._posting.rules
        host = sender_of(packed, rules)
        return ", ".join(sign_answer(packed, status, body, key) for key in rules.keys_of(host))

    def refuse(self, error: RejectedError, origin: str) -> None:
        """Take note of an audit that is refused."""
        self._tally = replace(self._tally, pending=self._tally.pending + Counter([error.reason]))
        self._rejections.tell(error, origin)
        self._has_news.set()  # so that it is counted in the file soon

    async def restore(self) -> None:
        """Take up what the file knows of the hosts of the roster; what is not read yet comes later."""
        self._is_restored = True
        names = [name for name in self._roster if name not in self._states]
        try:
            if names:
                await self._know(await in_daemon_thread(lambda: self._documented(names)))
        except StoreError as error:
            _log.error("failed to read the latest audits", file=error.path, why=error.why, todo=error.kind.value)
        with contextlib.suppress(StoreError):  # the next read reports it
            counted, fixed = await in_daemon_thread(lambda: self._store.transact(_totals))
            self._tally, self.time_to_fix = replace(self._tally, counted=counted), histograms(fixed)

    async def run(self) -> None:
        """Archive what is posted, and read what is new, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._posting.run())
            tasks.create_task(self._read_new())

    async def _read_new(self) -> None:
        is_told = False
        while True:
            self._has_news.clear()
            try:
                if not self._is_restored:
                    await self.restore()
                await self._read_some()
                is_told = False
            except Exception as error:  # noqa: BLE001 - the next look may do better
                self.unread = 0
                if not is_told and (self._roster or self.is_expecting):  # else there are none to be read
                    is_told = True
                    _tell_unreadable(error)
            with contextlib.suppress(NoThreadError):  # is logged already; the next look makes up for it
                await self._look_again()
            self._rejections.tell_rest()
            await self._let_posts_go_first()
            if not self.unread:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):  # wait_for() of Python 3.11 may miss that it is cancelled
                        await self._has_news.wait()

    async def _let_posts_go_first(self) -> None:
        """Wait while many audits come in, but not for ever: taking one is quick, and reading it is not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_PAUSE):
                while self._posting.waiting >= BUSY:  # noqa: ASYNC110 - a count, not an event
                    await asyncio.sleep(LOOK)

    def _documented(self, names: Sequence[str]) -> dict[str, HostAudit | None]:
        """Return the last audit of each host as far as it is at hand; None of those without an audit.

        Raises StoreError.
        """
        until = self._until()
        documents, last = self._store.audit_results(), self._store.latest_audits(until)
        found: dict[str, HostAudit | None] = {name: None for name in names if name not in last}
        for name in names:
            _, document = documents.get(name, (0, None))
            host_audit = None if document is None else decoded(self._decoder, name, document)
            if host_audit and host_audit.at <= until:
                found[name] = host_audit
        return found

    async def _read_some(self) -> None:
        """Read some audits: of hosts of which nothing is known yet, else those that are new. Raises StoreError."""
        unknown = [name for name in self._roster if name not in self._states][:MAX_READ]
        pending, until, roster = self._tally.pending, self._until(), self._roster

        def look(file: sqlite3.Connection) -> _Look:
            archive.add_counts(file, pending)
            new, mark, left = self._reading.read_after(
                file, self._mark or self._reading.read_position(file), 0 if unknown else MAX_READ
            )
            last = [self._reading.latest(file, name, until) for name in unknown]
            results: dict[str, str] = {}
            for host in {item.host for item in (*last, *new) if item}:
                former = roster[host].renamed_from if host in roster else ()
                if (found := self._reading.first_result(file, (host, *former))) is not None:
                    results[host] = found
            return _Look(*_totals(file), last, new, results, mark, left)

        seen = await in_daemon_thread(lambda: self._store.transact(look))
        self._tally = _Tally(seen.counted, self._tally.pending - pending)  # at once, for a scrape
        self.time_to_fix = histograms(seen.fixed)
        self.unread = seen.left + max(0, len(self._roster) - len(self._states) - len(unknown))
        scanned = self._scanned()
        last, new = await in_daemon_thread(lambda: self._read(seen, scanned))
        await self._know(dict(zip(unknown, last, strict=True)))
        await self._renew(new)

    def _read(
        self, seen: _Look, scanned: HostTable[HostState]
    ) -> tuple[list[HostAudit | None], list[tuple[str, HostAudit]]]:
        """Read the output of tools in what was seen, and keep what it comes to. Raises StoreError.

        Gives what the last audits come to, and the new ones, each of these with its host. Only new ones show what is
        fixed: the last ones are read again.
        """
        documents: list[tuple[str, int, str]] = []
        fixes: dict[int, list[FixCount]] = {}
        before, until = dict(seen.results), self._until()

        def kept(item: ArchivedAudit, *, is_new: bool) -> HostAudit:
            host_audit = read_audit(item)
            try:
                result = result_of(host_audit, before.get(item.host, ""), self._decoder)
                if is_new and host_audit.at <= until:
                    fixes[item.number] = self._count_fixes(item.host, result, scanned)
            except Exception as error:  # noqa: BLE001 - one host's audit must not keep the others' from being read
                _log.exception("failed to store the result of an audit", host=item.host, day=item.day)
                return _unreadable(item, error)
            _log.info("audit read", host=item.host, day=item.day, **_told(host_audit.audit))
            if result.replaces(until):
                before[item.host] = result.document
            _tell_left_out(item.host, result.host_audit)
            documents.append((item.host, item.number, result.document))
            return result.host_audit

        def save(file: sqlite3.Connection) -> list[FixCount]:
            self._reading.save_results(file, documents, seen.mark, until, fixes)
            return read_fixes(file)

        last = [kept(item, is_new=False) if item else None for item in seen.last]
        new = [(item.host, kept(item, is_new=True)) for item in seen.new]
        if documents or seen.mark != self._mark:
            self.time_to_fix = histograms(self._store.transact(save))
        self._mark = seen.mark
        return last, new

    def _count_fixes(self, name: str, result: Result, scanned: HostTable[HostState]) -> list[FixCount]:
        """Count what the audit of a host shows to be fixed, by canonical name; the host may have left the roster."""
        entry = self._roster.get(name)
        return count_fixes(result, self.priorities, outside_view(scanned.get(entry.host if entry else name)))

    async def _know(self, found: Mapping[str, HostAudit | None]) -> None:
        """Take up the last audits of hosts that are new, by canonical name; None of those that never reported."""
        roster = {name: self._roster[name] for name in found if name in self._roster and name not in self._states}
        if not roster:
            return
        now, scanned, priorities = self._wall_clock(), self._scanned(), self.priorities
        is_dated = len(roster) <= MAX_READ  # when what many hosts have is due comes with the next look

        def made() -> dict[str, AuditState]:
            new = {}
            for name, entry in roster.items():
                state = AuditState.of(entry, found[name], now)
                state = seen_from_outside(state, scanned.get(entry.host), priorities)
                new[name] = state.with_due_times() if is_dated else state
            return new

        for name, state in (await in_daemon_thread(made)).items():
            if self._roster.get(name) is roster[name] and name not in self._states:
                self._looked.pop(name, None)
                self._states[name] = state
        self._tabulate()

    async def _renew(self, found: Iterable[tuple[str, HostAudit]]) -> None:
        """Take up audits of hosts that are known, by canonical name; one of an earlier time changes nothing."""
        now, until = self._wall_clock(), self._until()
        renewed: dict[str, HostAudit] = {}
        for name, host_audit in found:
            state = self._states.get(name)
            if state is None or host_audit.at > until:
                continue
            known = renewed.get(name, state.host_audit)
            if known is None or not host_audit.at < known.at <= until:
                renewed[name] = host_audit
        if not renewed:
            return
        before = {name: self._states[name] for name in renewed}
        after = {
            name: replace(state, host_audit=renewed[name], judged_at=now, due=None) for name, state in before.items()
        }
        with contextlib.suppress(NoThreadError):  # the next look makes up for it
            after = await in_daemon_thread(lambda: {name: state.with_due_times() for name, state in after.items()})
        for name, state in before.items():
            present = self._states.get(name)
            if present is state:
                self._replace(name, after[name])
            elif present is not None:  # by another roster
                self._replace(name, replace(present, host_audit=renewed[name], judged_at=now, due=None))

    def _until(self) -> float:
        """Return the Unix time after which no audit can be: what is of later came while our clock was ahead."""
        return self._wall_clock() + MAX_AHEAD

    async def _look_again(self) -> None:
        """Judge hosts by what is in force now, and take up what the scans saw, and priorities that are new."""
        states, judged = list(self._states.items()), list[str]()
        for start in range(0, len(states), LOOKED_AT):
            judged += await self._look_at(states[start : start + LOOKED_AT])
        if judged:
            _log.info(
                "an exception or maintenance has begun or ended, or a deadline has passed; audits judged again",
                hosts=len(judged),
                first=judged[0],
            )

    async def _look_at(self, states: Sequence[tuple[str, AuditState]]) -> list[str]:
        """Look again at some hosts, by canonical name; returns those of which something else is in force."""
        now, priorities, scanned, looked = self._wall_clock(), self.priorities, self._scanned(), self._looked

        def look() -> list[_SeenAgain]:
            found = []
            for name, state in states:
                host, judged = scanned.get(state.host), state.judged(now)
                basis = Basis.of(judged, host)
                is_same = basis.is_same(looked.get(name))
                if is_same and state.priorities is priorities and judged is state:
                    continue
                after = seen_from_outside(judged, host, priorities)
                if not is_same or priorities.changed_from(state.priorities, after.vulnerabilities):
                    after = after.with_due_times()
                found.append(_SeenAgain(name, state, after, basis, is_judged=judged is not state))
            return found

        changed, judged = [], []
        for item in await in_daemon_thread(look):
            if self._states.get(item.name) is not item.before:  # a new audit came meanwhile
                continue
            self._looked[item.name] = item.basis
            if item.after is not item.before:
                self._states[item.name] = item.after
                changed.append(item.after)
                judged += [item.after.host] if item.is_judged else []
        if changed:
            self.states = self.states.replacing_all(changed)
        return judged

    def _replace(self, name: str, state: AuditState) -> None:
        self._states[name] = state
        self.states = self.states.replacing(state)

    def _tabulate(self) -> None:
        """Make the table anew, unless nothing in it differs: what is the same object is not rendered again."""
        states = [self._states[name] for name in self._roster if name in self._states]
        self.unread_hosts = tuple(host for name, host in self._roster.items() if name not in self._states)
        if len(states) != len(self.states) or any(
            state is not known for state, known in zip(states, chain.from_iterable(self.states.chunks), strict=True)
        ):
            self.states = HostTable(states)


def decoded(decoder: Decoder, host: str, document: str) -> HostAudit | None:
    """Read what is kept of a host's audit; None where the output of the tool is to be read anew."""
    try:
        return decoder.decode(document)
    except ValueError as error:
        _log.error(
            "the stored result of an audit is invalid; reading the tool's output again", host=host, why=str(error)
        )
        return None


def read_audit(archived: ArchivedAudit) -> HostAudit:
    """Read the tool's output in an archived audit; what makes that fail is the reason of a failed audit."""
    try:
        payload = read_payload(archived.payload)
        audit = parse(*payload.runs)
    except Exception as error:  # noqa: BLE001 - one host's audit must not keep the others' from being read
        _log.exception("failed to read an archived audit", host=archived.host, day=archived.day)
        return _unreadable(archived, error)
    return host_audit_of(payload, audit)


def _unreadable(archived: ArchivedAudit, error: Exception) -> HostAudit:
    """Return what is known of a host whose audit cannot be read: that its audit failed, and why."""
    audit = Audit(Status.FAILED, reason=f"portspec could not read it: {error}"[:400])
    return HostAudit(archived.at, "", None, audit, None)


def _tell_left_out(host: str, host_audit: HostAudit) -> None:
    """Log an audit that is too large for /metrics."""
    if more := left_out_of(AuditState(host, host_audit=host_audit)):
        _log.warning("audit exceeds the limit of series for one host; /metrics omits the rest", host=host, series=more)


def _told(audit: Audit) -> dict[str, str | int]:
    """Return what the log says of an audit."""
    reason = {"reason": audit.reason} if audit.reason else {}
    return {"status": audit.status.value, "vulnerabilities": len(audit.vulnerabilities), **reason}


def host_audit_of(payload: AuditPayload, audit: Audit) -> HostAudit:
    """Join a payload and what its tool's output came to."""
    run = payload.runs[0]
    return HostAudit(payload.at, run.tool, payload.tool_version, audit, payload.listeners, payload.kernel)


def _totals(file: sqlite3.Connection) -> tuple[dict[str, int], list[FixCount]]:
    """Return the numbers of audits by outcome, and how long vulnerabilities took to be fixed."""
    return archive.read_counts(file), read_fixes(file)


def _tell_unreadable(error: Exception) -> None:
    if isinstance(error, StoreError):  # the store tells what to do
        _log.warning("failed to read audits; retrying", file=error.path, why=error.why)
    elif not isinstance(error, NoThreadError):  # is logged already
        _log.error("failed to read audits", exc_info=error)
