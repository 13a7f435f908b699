"""The data of the report: every machine, those that need attention first, and the numbers at its top. Pure."""

from __future__ import annotations

import enum
import re
from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Severity, Status, count_by_severity
from portspec.priorities import Priority
from portspec.state.verdict import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from portspec.audit.model import Vulnerability
    from portspec.audit.state import AuditState
    from portspec.config import MaintenanceWindow
    from portspec.state.snapshot import HostState, Snapshot

FAILED_STATUSES: Final = (Status.FAILED, Status.STALE_DATABASE, Status.UNSUPPORTED)

_PACKAGE: Final = attrgetter("package", "version")
_NO_VULNERABILITIES: Final = (0,) * len(Severity)
URGENT: Final = 2  # the first classes: fix now, and fix soon
_NO_CLASSES: Final = (0,) * len(Priority)
_NUMBER: Final = re.compile("[0-9]+")
_SORT_DIGITS: Final = 10  # to which numbers are padded: web2 comes before web10, 192.0.2.9 before 192.0.2.10
_NOT_IN_ANCHOR: Final = re.compile(rb"[^A-Za-z0-9.-]")


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """How the report is made.

    Attributes:
        domain: a regular expression; what it matches at the end of a name is not shown.
        max_age: seconds after which a machine's last audit is late.
    """

    domain: str | None = None
    max_age: float = 26 * 3600.0


class Need(enum.IntEnum):
    """Why a machine needs attention, most urgent first; a machine has the first one that applies."""

    FIX_NOW = 0
    UNEXPECTED_AND_VULNERABLE = 1
    UNEXPECTED = 2
    VULNERABLE = 3
    MISSING = 4
    AUDIT_FAILED = 5
    AUDIT_LATE = 6
    RESTART = 7
    UNKNOWN = 8
    NONE = 9


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is scanned (`state`), audited (`audit`), or both.

    Attributes:
        status: the status of the audit.
        vulnerabilities: those that count.
        severities: how many different vulnerabilities count, by severity, worst first.
        classes: the same by class, most urgent first.
        excepted: the vulnerabilities that do not count.
        is_late: True if the last audit is older than allowed; False if there is none.
    """

    host: str
    need: Need
    state: HostState | None
    audit: AuditState | None
    status: Status | None
    vulnerabilities: tuple[Vulnerability, ...]
    severities: tuple[int, ...]
    classes: tuple[int, ...]
    excepted: tuple[Vulnerability, ...]
    is_late: bool

    @property
    def maintenance(self) -> MaintenanceWindow | None:
        """The maintenance that lasts; None without."""
        if self.state:
            return self.state.maintenance
        return self.audit.maintenance if self.audit else None

    @property
    def packages(self) -> int:
        """The number of packages, each version counted separately, with a vulnerability that counts."""
        return len(set(map(_PACKAGE, self.vulnerabilities)))


@dataclass(frozen=True, slots=True)
class Summary:
    """How many machines there are of each kind.

    Each machine is one of `in_spec`, `out_of_spec`, `unknown`, `waiting` (not scanned yet) and `unscanned` (audit
    only).

    Attributes:
        audits: how many machines have an audit of each status.
        vulnerabilities: how many vulnerabilities count; one that several machines or packages share counts once.
        classes: how many vulnerabilities are of each class; one that several machines share counts for each of them.
        vulnerable: how many machines have a vulnerability that counts.
        late: how many machines have a last audit that is older than `max_age` seconds.
    """

    machines: int
    attention: int
    in_spec: int
    out_of_spec: int
    unknown: int
    waiting: int
    unscanned: int
    audits: Mapping[Status, int]
    vulnerabilities: Mapping[Severity, int]
    classes: Mapping[Priority, int]
    vulnerable: int
    late: int
    max_age: float


@dataclass(frozen=True, slots=True)
class FleetReport:
    """What every format is written from: the machines in order, their displayed names, the summary, the Unix time."""

    machines: Sequence[Machine]
    names: Mapping[str, str]
    summary: Summary
    now: float

    @classmethod
    def of(cls, snapshot: Snapshot, settings: ReportSettings, now: float) -> FleetReport:
        """Collect what is known at a Unix time."""
        machines = list_machines(snapshot, now, settings.max_age)
        names = display_names([machine.host for machine in machines], settings.domain)
        return cls(machines, names, summarize(machines, settings.max_age), now)

    @property
    def needing_attention(self) -> Sequence[Machine]:
        """The machines that need attention, most urgent first."""
        return [machine for machine in self.machines if machine.need is not Need.NONE]


def list_machines(snapshot: Snapshot, now: float, max_age: float) -> list[Machine]:
    """Return every machine once, sorted by need, then by number and severity of vulnerabilities, then by name.

    Args:
        now: Unix time.
        max_age: seconds after which an audit is late.
    """
    audits = dict(snapshot.audits)
    found = [_machine(state.host, state, audits.pop(state.host, None), now, max_age) for state in _states(snapshot)]
    found += [_machine(host, None, audit, now, max_age) for host, audit in audits.items()]
    return sorted(found, key=_sort_key)


def _states(snapshot: Snapshot) -> list[HostState]:
    return [state for chunk in snapshot.hosts.chunks for state in chunk]


def _machine(host: str, state: HostState | None, audit: AuditState | None, now: float, max_age: float) -> Machine:
    host_audit = audit.host_audit if audit else None
    vulnerabilities = audit.vulnerabilities if audit else ()
    found = len(host_audit.audit.vulnerabilities) if host_audit else 0
    status = audit.status if audit else None
    is_late = host_audit is not None and now - host_audit.at > max_age
    classes = tuple(audit.by_class.values()) if audit and vulnerabilities else _NO_CLASSES
    return Machine(
        host=host,
        need=Need.FIX_NOW if classes[0] else _need(state, audit, is_vulnerable=bool(vulnerabilities), is_late=is_late),
        state=state,
        audit=audit,
        status=status,
        vulnerabilities=vulnerabilities,
        severities=tuple(count_by_severity(vulnerabilities).values()) if vulnerabilities else _NO_VULNERABILITIES,
        classes=classes,
        excepted=audit.excepted
        if audit and len(vulnerabilities) < found
        else (),  # skipped where there is none: the search is slow
        is_late=is_late,
    )


def _need(state: HostState | None, audit: AuditState | None, *, is_vulnerable: bool, is_late: bool) -> Need:
    kinds = {item.kind for item in state.deviations} if state else set()
    if Kind.UNEXPECTED in kinds:
        return Need.UNEXPECTED_AND_VULNERABLE if is_vulnerable else Need.UNEXPECTED
    status = audit.status if audit else None
    applies = (
        (Need.VULNERABLE, is_vulnerable),
        (Need.MISSING, bool(kinds)),
        (Need.AUDIT_FAILED, status in FAILED_STATUSES),
        (Need.AUDIT_LATE, is_late or status is Status.NEVER),
        (Need.RESTART, bool(audit and audit.restarts)),
        (Need.UNKNOWN, state is not None and state.verdict is Verdict.UNKNOWN),
    )
    return next((need for need, is_so in applies if is_so), Need.NONE)


def _sort_key(machine: Machine) -> tuple[Need, tuple[int, ...], str, str]:
    is_by_severity = machine.need in (Need.FIX_NOW, Need.UNEXPECTED_AND_VULNERABLE, Need.VULNERABLE)
    worst = tuple(-count for count in (*machine.classes[:URGENT], *machine.severities)) if is_by_severity else ()
    return machine.need, worst, _NUMBER.sub(_padded, machine.host), machine.host


def _padded(number: re.Match[str]) -> str:
    return number[0].zfill(_SORT_DIGITS)


def summarize(machines: Sequence[Machine], max_age: float) -> Summary:
    """Count the machines of each kind."""
    verdicts = Counter(
        machine.state.verdict for machine in machines if machine.state is not None and machine.state.latest is not None
    )
    statuses = Counter(machine.status for machine in machines)
    return Summary(
        machines=len(machines),
        attention=sum(machine.need is not Need.NONE for machine in machines),
        in_spec=verdicts[Verdict.IN_SPEC],
        out_of_spec=verdicts[Verdict.OUT_OF_SPEC],
        unknown=verdicts[Verdict.UNKNOWN],
        waiting=sum(machine.state is not None and machine.state.latest is None for machine in machines),
        unscanned=sum(machine.state is None for machine in machines),
        audits={status: statuses[status] for status in Status},
        vulnerabilities=count_by_severity(_distinct(machines)),
        classes={
            priority: sum(machine.classes[rank] for machine in machines) for rank, priority in enumerate(Priority)
        },
        vulnerable=sum(bool(machine.vulnerabilities) for machine in machines),
        late=sum(machine.is_late for machine in machines),
        max_age=max_age,
    )


def _distinct(machines: Sequence[Machine]) -> Iterable[Vulnerability]:
    """Return the vulnerabilities of all machines; an object that several machines share is returned once."""
    found: dict[int, Vulnerability] = {}
    for machine in machines:
        found.update(zip(map(id, machine.vulnerabilities), machine.vulnerabilities, strict=True))
    return found.values()


def display_names(hosts: Collection[str], domain: str | None) -> dict[str, str]:
    """Return the displayed name of each host: without what the regular expression `domain` matches at its end.

    The whole name is displayed where nothing would be left, or where two names would be equal.
    """
    if domain is None:
        return {host: host for host in hosts}
    expression = re.compile(domain)
    short = {host: _without(host, expression) for host in hosts}
    counts = Counter(short.values())
    return {host: name if counts[name] == 1 else host for host, name in short.items()}


def _without(host: str, domain: re.Pattern[str]) -> str:
    """Remove the longest suffix that fully matches an expression, whether or not the expression is anchored."""
    for start in range(len(host)):
        if domain.fullmatch(host, start):
            return host[:start] or host
    return host


def anchor(host: str) -> str:
    """Return the unique HTML anchor of a host; it consists of letters, digits, `.`, `-` and `_`."""
    return (
        "host-"
        + _NOT_IN_ANCHOR.sub(lambda found: b"_%02x" % found[0][0], host.encode("utf-8", "surrogatepass")).decode()
    )
