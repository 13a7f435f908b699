"""All machines of a snapshot, those first that need attention."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Severity, Status, count_by_severity
from portspec.state.verdict import Kind, Verdict

if TYPE_CHECKING:
    from portspec.audit.model import Vulnerability
    from portspec.audit.state import AuditState
    from portspec.state.snapshot import HostState, Snapshot

_PACKAGE: Final = attrgetter("package", "version")
_FAULTS: Final = (Status.FAILED, Status.STALE_DATABASE, Status.UNSUPPORTED)


class Need(enum.IntEnum):
    """Why a machine needs attention, the most pressing first; a machine has the first that fits."""

    UNEXPECTED_AND_VULNERABLE = 0
    UNEXPECTED = 1
    VULNERABLE = 2
    MISSING = 3
    AUDIT = 4
    REPORT = 5
    UNKNOWN = 6
    NONE = 7


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is scanned (`state`), or has to report (`audit`), or both.

    `vulnerabilities` are those that count, `severities` how many different ones there are of each severity, the worst
    first, and `excepted` those that do not count; `status` is that of the audit. A report is late that is older than it
    may be; one that never came is not late.
    """

    host: str
    need: Need
    state: HostState | None
    audit: AuditState | None
    status: Status | None
    vulnerabilities: tuple[Vulnerability, ...]
    severities: tuple[int, ...]
    excepted: tuple[Vulnerability, ...]
    is_late: bool

    @property
    def packages(self) -> int:
        """The number of packages, in each version, that have a vulnerability which counts."""
        return len(set(map(_PACKAGE, self.vulnerabilities)))


def machines(snapshot: Snapshot, now: float, max_age: float) -> list[Machine]:
    """Give every machine once: by need, the vulnerable by how bad it is, then by name; a report is late by `max_age`.

    Times are Unix times, ages seconds.
    """
    audits = dict(snapshot.audits)
    found = [_machine(state.host, state, audits.pop(state.host, None), now, max_age) for state in _states(snapshot)]
    found += [_machine(host, None, audit, now, max_age) for host, audit in audits.items()]
    return sorted(found, key=_place)


def _states(snapshot: Snapshot) -> list[HostState]:
    return [state for chunk in snapshot.hosts.chunks for state in chunk]


def _machine(host: str, state: HostState | None, audit: AuditState | None, now: float, max_age: float) -> Machine:
    host_audit = audit.host_audit if audit else None
    vulnerabilities = audit.vulnerabilities if audit else ()
    found = len(host_audit.audit.vulnerabilities) if host_audit else 0
    status = audit.status if audit else None
    is_late = host_audit is not None and now - host_audit.at > max_age
    return Machine(
        host=host,
        need=_need(state, status, is_vulnerable=bool(vulnerabilities), is_late=is_late),
        state=state,
        audit=audit,
        status=status,
        vulnerabilities=vulnerabilities,
        severities=tuple(count_by_severity(vulnerabilities).values()) if vulnerabilities else _NONE_OF_ANY,
        excepted=audit.excepted if audit and len(vulnerabilities) < found else (),  # it takes long to look for none
        is_late=is_late,
    )


def _need(state: HostState | None, status: Status | None, *, is_vulnerable: bool, is_late: bool) -> Need:
    kinds = {item.kind for item in state.deviations} if state else set()
    if Kind.UNEXPECTED in kinds:
        return Need.UNEXPECTED_AND_VULNERABLE if is_vulnerable else Need.UNEXPECTED
    if is_vulnerable:
        return Need.VULNERABLE
    if kinds:
        return Need.MISSING
    if status in _FAULTS:
        return Need.AUDIT
    if is_late or status is Status.NEVER:
        return Need.REPORT
    return Need.UNKNOWN if state and state.verdict is Verdict.UNKNOWN else Need.NONE


def _place(machine: Machine) -> tuple[Need, tuple[int, ...], str, str]:
    is_by_severity = machine.need in (Need.UNEXPECTED_AND_VULNERABLE, Need.VULNERABLE)
    worst = tuple(-count for count in machine.severities) if is_by_severity else ()
    return machine.need, worst, _NUMBER.sub(_padded, machine.host), machine.host


def _padded(number: re.Match[str]) -> str:
    return number[0].zfill(_DIGITS)


_DIGITS: Final = 10
_NUMBER: Final = re.compile("[0-9]+")  # web2 comes before web10, 192.0.2.9 before 192.0.2.10
_NONE_OF_ANY: Final = (0,) * len(Severity)
