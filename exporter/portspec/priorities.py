"""In which order vulnerabilities are fixed: four classes, and the rules that put a vulnerability into one. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

SEVERITIES: Final = ("critical", "high", "medium", "low", "negligible", "unknown")  # audit.model.Severity
REACHES: Final = ("reachable", "unknown", "listening", "installed")  # audit.reach.Reach


class Priority(enum.StrEnum):
    """The class of a vulnerability, the most urgent first."""

    FIX_NOW = "fix_now"
    FIX_SOON = "fix_soon"
    PLAN = "plan"
    REST = "rest"

    @property
    def words(self) -> str:
        """The class as pages and reports spell it: "fix now"."""
        return self.value.replace("_", " ")


@dataclass(frozen=True, slots=True)
class PriorityRule:
    """What must hold of a vulnerability to be of a class; None is what may be anything.

    Attributes:
        exploited: whether CISA's catalogue has it, or the tool says so.
        reach: one of REACHES, see audit/reach.py.
        epss: the least score of EPSS, from 0 to 1.
        severity: one of SEVERITIES.
    """

    priority: Priority
    exploited: bool | None = None
    reach: frozenset[str] | None = None
    epss: float | None = None
    severity: frozenset[str] | None = None


_REACHABLE: Final = frozenset({"reachable"})
DEFAULT_EPSS: Final = 0.1  # some 3 of 100 CVEs have more
#: The first rule that holds decides; a vulnerability for which none holds is of the class "rest".
DEFAULT_RULES: Final = (
    PriorityRule(Priority.FIX_NOW, exploited=True, reach=_REACHABLE),
    PriorityRule(Priority.FIX_SOON, exploited=True),
    PriorityRule(Priority.FIX_SOON, reach=_REACHABLE, epss=DEFAULT_EPSS),
    PriorityRule(Priority.FIX_SOON, reach=_REACHABLE, severity=frozenset({"critical"})),
    PriorityRule(Priority.PLAN, reach=_REACHABLE),
    # Some tools tell no severity, so an unknown one may be high.
    PriorityRule(Priority.PLAN, severity=frozenset({"critical", "high", "unknown"})),
)
