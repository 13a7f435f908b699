"""What to fix first: each vulnerability with its class, and why it is in it. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portspec.audit.reach import Exposure, Reach
from portspec.feeds import NO_FEEDS, Feeds, KevEntry
from portspec.priorities import DEFAULT_RULES, Priority, PriorityRule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.audit.model import Vulnerability
    from portspec.audit.reach import Exposures

_ORDER: Final = {priority: rank for rank, priority in enumerate(Priority)}
_MAX_REMEMBERED: Final = 200_000  # vulnerabilities whose facts are looked up once: 10,000 hosts share most of theirs


@dataclass(frozen=True, slots=True)
class Facts:
    """What the lists say of a vulnerability: the entry in KEV, or that the tool calls it exploited; and its score."""

    kev: KevEntry | None = None
    is_exploited: bool = False
    epss: float | None = None


_UNKNOWN: Final = Facts()


@dataclass(frozen=True, slots=True)
class Finding:
    """A vulnerability of a host, its class, the rule that decided, and what is known of it."""

    vulnerability: Vulnerability
    priority: Priority
    rule: PriorityRule | None
    facts: Facts
    exposure: Exposure

    @property
    def why(self) -> str:
        """Why it is in its class, in one sentence."""
        exploited, reach = _exploited(self.facts), _reach(self.exposure)
        rule = self.rule
        if rule is None:
            return f"{exploited or 'not known to be exploited'}; {reach}"
        said = [exploited] if exploited and rule.exploited else []
        if rule.epss is not None and self.facts.epss is not None:
            said.append(f"EPSS {self.facts.epss:.2f}")
        if rule.severity is not None:
            said.append(f"{self.vulnerability.severity} severity")
        return "; ".join((*said, reach))


def _exploited(facts: Facts) -> str:
    if facts.kev:
        by = ", also by ransomware" if facts.kev.is_ransomware else ""
        return f"exploited{by} (in KEV since {facts.kev.added})"
    return "exploited, by the audit tool" if facts.is_exploited else ""


def _reach(exposure: Exposure) -> str:
    if exposure.reach is Reach.REACHABLE:
        return f"reachable: {exposure.steps}"
    if exposure.reach is Reach.UNKNOWN:
        return f"whether it is reachable is unknown: {exposure.steps or exposure.why}"
    return f"{exposure.reach}: {exposure.steps or exposure.why}"


@dataclass(slots=True, eq=False)
class Priorities:
    """Puts vulnerabilities into classes, by rules and by the lists that are known."""

    rules: tuple[PriorityRule, ...] = DEFAULT_RULES
    feeds: Feeds = NO_FEEDS
    _facts: dict[int, tuple[Vulnerability, Facts]] = field(default_factory=dict)  # by id(), of which both stay

    def findings(self, found: Iterable[Vulnerability], exposures: Exposures) -> list[Finding]:
        """Return vulnerabilities with their classes, the most urgent first; those of a class stay in their order."""
        every = [self._finding(item, exposures.of(item)) for item in found]
        return sorted(every, key=lambda each: _ORDER[each.priority])

    def count(self, found: Iterable[Vulnerability], exposures: Exposures) -> dict[Priority, int]:
        """Count vulnerabilities by class, the most urgent first; one of several packages once, in its most urgent."""
        most_urgent: dict[object, int] = {}
        for item in found:
            rule = self._rule(item, exposures.of(item).reach, self.facts(item))
            rank = _ORDER[rule.priority if rule else Priority.REST]
            if rank < most_urgent.get(item.key, len(_ORDER)):
                most_urgent[item.key] = rank
        counts = Counter(most_urgent.values())
        return {priority: counts[rank] for priority, rank in _ORDER.items()}

    def facts(self, item: Vulnerability) -> Facts:
        """Return what the lists say of a vulnerability, by any of its names."""
        if not self.feeds:
            return Facts(None, item.is_exploited, item.epss) if item.epss or item.is_exploited else _UNKNOWN
        known = self._facts.get(id(item))
        if known is None:
            names = (item.id, *item.aliases)
            scores = [score for score in (self.feeds.score(names), item.epss) if score is not None]
            facts = Facts(self.feeds.exploited(names), item.is_exploited, max(scores, default=None))
            if len(self._facts) >= _MAX_REMEMBERED:
                self._facts.clear()
            known = self._facts[id(item)] = item, facts
        return known[1]

    def _finding(self, item: Vulnerability, exposure: Exposure) -> Finding:
        facts = self.facts(item)
        rule = self._rule(item, exposure.reach, facts)
        return Finding(item, rule.priority if rule else Priority.REST, rule, facts, exposure)

    def _rule(self, item: Vulnerability, reach: Reach, facts: Facts) -> PriorityRule | None:
        is_exploited = facts.kev is not None or facts.is_exploited
        for rule in self.rules:
            if (
                (rule.exploited is None or rule.exploited is is_exploited)
                and (rule.reach is None or reach in rule.reach)
                and (rule.severity is None or item.severity in rule.severity)
                and (rule.epss is None or (facts.epss is not None and facts.epss >= rule.epss))
            ):
                return rule
        return None


DEFAULT_PRIORITIES: Final = Priorities()
