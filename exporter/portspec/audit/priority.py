"""What to fix first: each vulnerability with its class, and why it is in it. Pure."""

from __future__ import annotations

import weakref
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec.audit import reach
from portspec.audit.reach import NOTHING_KNOWN, Exposure, Reach
from portspec.deadlines import DueTimes
from portspec.feeds import NO_FEEDS, Feeds, KevEntry
from portspec.priorities import DEFAULT_RULES, Priority, PriorityRule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from portspec.audit.model import Vulnerability
    from portspec.audit.payload import ListeningSocket
    from portspec.audit.reach import Exposures, OutsideView
    from portspec.deadlines import Deadlines

_PRIORITIES: Final = tuple(Priority)


class Facts(NamedTuple):
    """What the lists say of a vulnerability: its entry in KEV, and its score.

    `is_exploited` is None without a catalogue, unless the tool calls it exploited.
    """

    kev: KevEntry | None = None
    is_exploited: bool | None = None
    epss: float | None = None


class Finding(NamedTuple):
    """A vulnerability of a host, its class, the rule that decided, what is known of it, and two Unix times.

    These are since when it is known, and by when it is to be fixed; None where that is not known, or not set.

    A tuple: a fleet has millions, and a frozen dataclass takes three times as long to create.
    """

    vulnerability: Vulnerability
    priority: Priority
    rule: PriorityRule | None
    facts: Facts
    exposure: Exposure
    since: int | None = None
    due: float | None = None

    @property
    def exploited_since(self) -> float | None:
        """The Unix time since which it is known to be exploited, if that is why it is in its class."""
        return _exploited_since(self.rule, self.facts)

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


def _exploited_since(rule: PriorityRule | None, facts: Facts) -> float | None:
    return facts.kev.added_at if rule and rule.exploited and facts.kev else None


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


class _Judged(NamedTuple):
    """A vulnerability: what is known of it, and by its reach (in the order of Reach) the rule that decides."""

    itself: weakref.ref[Vulnerability]
    facts: Facts
    rules: tuple[PriorityRule | None, ...]
    ranks: tuple[int, ...]  # of the classes that these give


class Priorities:
    """Puts vulnerabilities into classes, by rules and by the lists that are known.

    What they say of a vulnerability is looked up once, as 10,000 hosts share most of theirs, and kept as long as it.
    """

    def __init__(self, rules: tuple[PriorityRule, ...] = DEFAULT_RULES, feeds: Feeds = NO_FEEDS) -> None:
        self.rules = rules
        self.feeds = feeds
        self._judged: dict[int, _Judged] = {}  # by id()
        self._last: tuple[object, object, Exposures] = (self, self, NOTHING_KNOWN)
        self._compared: tuple[weakref.ref[Priorities], Mapping[int, Vulnerability]] = weakref.ref(self), {}

    def exposures(self, listeners: Sequence[ListeningSocket] | None, view: OutsideView) -> Exposures:
        """Return what reach.exposures() does. The last ones are kept: a host is asked several times in a row."""
        last = self._last
        if last[0] is not listeners or last[1] is not view:
            last = self._last = listeners, view, reach.exposures(listeners, view)
        return last[2]

    def findings(self, found: Iterable[Vulnerability], exposures: Exposures) -> list[Finding]:
        """Return vulnerabilities with their classes, the most urgent first; those of a class stay in their order."""
        by_class: tuple[list[Finding], ...] = tuple([] for _ in Priority)
        for item in found:
            exposure, judged = exposures.of(item), self._judge(item)
            place = exposure.rank
            rank = judged.ranks[place]
            by_class[rank].append(Finding(item, _PRIORITIES[rank], judged.rules[place], judged.facts, exposure))
        return list(chain.from_iterable(by_class))

    def ranks(self, found: Iterable[Vulnerability], exposures: Exposures) -> list[int]:
        """Return the places of the classes of vulnerabilities, in their order: 0 is the most urgent."""
        judged, by_name, other = self._judged, exposures.by_name, exposures.other
        ranks = []
        for item in found:  # of a fleet there are millions
            known = judged.get(id(item)) or self._judge(item)
            exposure = exposures.of(item) if item.paths else by_name.get(item.package, other)
            ranks.append(known.ranks[exposure.rank])
        return ranks

    def changed_from(self, other: Priorities, found: Iterable[Vulnerability]) -> list[Vulnerability]:
        """Return the vulnerabilities that may have another class or deadline than by other priorities.

        Whatever their reach is.
        """
        if other is self:
            return []
        same = self._same_as(other)
        return [item for item in found if id(item) not in same]

    def _same_as(self, other: Priorities) -> Mapping[int, Vulnerability]:
        """Return what is judged alike by other priorities, by id(); kept, as all hosts are asked for in a row."""
        before, same = self._compared
        if before() is not other:
            every = [(key, known.itself(), known) for key, known in list(other._judged.items())]
            same = {key: item for key, item, known in every if item and _is_as(known, self._judge(item))}
            self._compared = weakref.ref(other), same
        return same

    def count(self, found: Iterable[Vulnerability], exposures: Exposures) -> dict[Priority, int]:
        """Count vulnerabilities by class, the most urgent first; one of several packages once, in its most urgent."""
        most_urgent: dict[object, int] = {}
        every = tuple(found)
        for item, rank in zip(every, self.ranks(every, exposures), strict=True):
            key = item.key
            if rank < most_urgent.get(key, len(_PRIORITIES)):
                most_urgent[key] = rank
        counts = Counter(most_urgent.values())
        return {priority: counts[rank] for rank, priority in enumerate(_PRIORITIES)}

    def due_times(
        self, dated: Iterable[tuple[Vulnerability, int]], exposures: Exposures, deadlines: Deadlines
    ) -> DueTimes:
        """Return when vulnerabilities that are known since Unix times are due; one of several packages once.

        That counts in its most urgent class that has a deadline, by its earliest deadline.
        """
        limits = [deadlines.classes.get(priority) for priority in _PRIORITIES]
        found: dict[object, tuple[int, float]] = {}
        for item, since in dated:  # of a fleet there are millions
            known = self._judged.get(id(item)) or self._judge(item)
            place = exposures.of(item).rank
            rank = known.ranks[place]
            if limits[rank] is None and item.severity not in deadlines.severities:
                continue
            exploited_since = _exploited_since(known.rules[place], known.facts)
            due = deadlines.of_vulnerability(_PRIORITIES[rank], item.severity, since, exploited_since)
            if due is not None:
                before, earliest = found.get(item.key, (rank, due))
                found[item.key] = min(rank, before), min(due, earliest)
        return DueTimes((_PRIORITIES[rank], due) for rank, due in found.values())

    def _judge(self, item: Vulnerability) -> _Judged:
        key = id(item)
        known = self._judged.get(key)
        if known is None:
            facts = self._facts(item)
            rules = tuple(self._rule(item, reach, facts) for reach in Reach)
            ranks = tuple(_PRIORITIES.index(rule.priority if rule else Priority.REST) for rule in rules)
            itself = weakref.ref(item, lambda _, judged=self._judged: judged.pop(key, None))  # type: ignore[misc]
            known = self._judged[key] = _Judged(itself, facts, rules, ranks)
        return known

    def _facts(self, item: Vulnerability) -> Facts:
        """Return what the lists say of a vulnerability, by any of its names, and what the tool said itself."""
        names = (item.id, *item.aliases)
        scores = [score for score in (self.feeds.score(names), item.epss) if score is not None]
        entry = self.feeds.exploited(names)
        is_exploited = entry is not None or item.is_exploited or (None if self.feeds.kev is None else False)
        return Facts(entry, is_exploited, max(scores, default=None))

    def _rule(self, item: Vulnerability, reach: Reach, facts: Facts) -> PriorityRule | None:
        for rule in self.rules:
            if (
                (rule.exploited is None or rule.exploited is facts.is_exploited)
                and (rule.reach is None or reach in rule.reach)
                and (rule.severity is None or item.severity in rule.severity)
                and (rule.epss is None or (facts.epss is not None and facts.epss >= rule.epss))
            ):
                return rule
        return None


def _is_as(one: _Judged, other: _Judged) -> bool:
    return one.ranks == other.ranks and one.facts.kev == other.facts.kev


DEFAULT_PRIORITIES: Final = Priorities()
