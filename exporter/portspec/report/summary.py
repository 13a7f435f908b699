"""The numbers at the top of the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.audit.model import Status, count_by_severity
from portspec.report.fleet import Machine, Need
from portspec.state.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from portspec.audit.model import Severity, Vulnerability


@dataclass(frozen=True, slots=True)
class Summary:
    """How many machines there are of which kind.

    Each machine is one of `in_spec`, `out_of_spec`, `unknown`, `waiting` (not scanned yet) and `unscanned` (it only
    reports). `audits` counts those that have to report, by status; `vulnerabilities` count only if not excepted,
    one that many machines and packages have only once.
    Reports are late that are older than `max_age` seconds.
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
    vulnerable: int
    late: int
    max_age: float


def summary_of(fleet: Sequence[Machine], max_age: float) -> Summary:
    """Count machines."""
    verdicts = Counter(
        machine.state.verdict for machine in fleet if machine.state is not None and machine.state.latest is not None
    )
    statuses = Counter(machine.status for machine in fleet)
    return Summary(
        machines=len(fleet),
        attention=sum(machine.need is not Need.NONE for machine in fleet),
        in_spec=verdicts[Verdict.IN_SPEC],
        out_of_spec=verdicts[Verdict.OUT_OF_SPEC],
        unknown=verdicts[Verdict.UNKNOWN],
        waiting=sum(machine.state is not None and machine.state.latest is None for machine in fleet),
        unscanned=sum(machine.state is None for machine in fleet),
        audits={status: statuses[status] for status in Status},
        vulnerabilities=count_by_severity(_different(fleet)),
        vulnerable=sum(bool(machine.vulnerabilities) for machine in fleet),
        late=sum(machine.is_late for machine in fleet),
        max_age=max_age,
    )


def _different(fleet: Sequence[Machine]) -> Iterable[Vulnerability]:
    """Give the vulnerabilities of all machines, one that is the same object on many of them once."""
    found: dict[int, Vulnerability] = {}
    for machine in fleet:
        found.update(zip(map(id, machine.vulnerabilities), machine.vulnerabilities, strict=True))
    return found.values()
