"""By when what was found on a host is to be fixed, and how much of it is past that. Pure."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from portspec import priorities
from portspec.exposure import PortSeverity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from portspec.priorities import Priority

KINDS: Final = ("missing", "unexpected")  # state.verdict.Kind
_OF_PORTS: Final = tuple(PortSeverity)
#: Of vulnerabilities, of ports, or of both.
SEVERITIES: Final = tuple(dict.fromkeys((*priorities.SEVERITIES, *map(str, _OF_PORTS))))
SECONDS_A_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Deadlines:
    """For how many seconds after it was first seen something may stay; what is not named has no deadline.

    Attributes:
        classes: Of vulnerabilities, by their class (priorities.Priority).
        severities: Of vulnerabilities and of ports that deviate, by their severity (SEVERITIES).
        kinds: Of ports that deviate, by how they do (KINDS).
    """

    classes: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    severities: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    kinds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def has_vulnerabilities(self) -> bool:
        """True if any vulnerability has a deadline."""
        return bool(self.classes or not self.severities.keys().isdisjoint(priorities.SEVERITIES))

    @property
    def needs_audits(self) -> bool:
        """True if a limit is of vulnerabilities alone."""
        return bool(self.classes) or not self.severities.keys() <= set(_OF_PORTS)

    @property
    def has_ports(self) -> bool:
        """True if any port that deviates has a deadline."""
        return bool(self.kinds or not self.severities.keys().isdisjoint(_OF_PORTS))

    def of_port(self, kind: str, severity: PortSeverity) -> float | None:
        """Return for how many seconds a port may deviate in a way, the shorter of two times; None without a limit."""
        found = (self.kinds.get(kind), self.severities.get(severity))
        return min((limit for limit in found if limit is not None), default=None)

    def of_vulnerability(
        self, priority: Priority, severity: str, since: float, exploited_since: float | None = None
    ) -> float | None:
        """Return the Unix time by which a vulnerability is to be fixed, the earlier of two; None without a deadline.

        Args:
            priority: Its class.
            severity: Its severity.
            since: When it was first seen, a Unix time. The deadline of its severity counts from then, and so does that
                of its class, unless
            exploited_since: the Unix time since which it is known to be exploited, is later and decides the class:
                nobody could meet a deadline that began before.
        """
        of_class, of_severity = self.classes.get(priority), self.severities.get(severity)
        due = [] if of_severity is None else [since + of_severity]
        if of_class is not None:
            due.append(max(since, since if exploited_since is None else exploited_since) + of_class)
        return min(due, default=None)


NO_DEADLINES: Final = Deadlines()


@dataclass(frozen=True, slots=True)
class DeadlineRule:
    """The deadlines of the hosts that have some labels; of all hosts without any."""

    deadlines: Deadlines
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def applies_to(self, labels: Mapping[str, str]) -> bool:
        """Return whether a host of these labels has the deadlines."""
        return all(labels.get(name) == value for name, value in self.labels.items())


def deadlines_of(rules: Iterable[DeadlineRule], labels: Mapping[str, str]) -> Deadlines:
    """Return the deadlines of a host of some labels: those of the first rule that applies to it."""
    return next((rule.deadlines for rule in rules if rule.applies_to(labels)), NO_DEADLINES)


class DueTimes:
    """When vulnerabilities of a host are due, by their class: Unix times. Immutable."""

    __slots__ = ("_by_class",)

    def __init__(self, due: Iterable[tuple[Priority, float]] = ()) -> None:
        found: dict[Priority, list[float]] = {}
        for priority, at in due:
            found.setdefault(priority, []).append(at)
        # Most were first seen by the same few audits: each time is kept once, with how many are due until then.
        self._by_class = {priority: tuple(_counted(times)) for priority, times in found.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DueTimes) and self._by_class == other._by_class

    def __hash__(self) -> int:
        return hash(frozenset(self._by_class.items()))

    def overdue(self, priority: Priority, now: float) -> int:
        """Return how many of a class are past their deadline at a Unix time."""
        steps = self._by_class.get(priority, ())
        place = bisect_right(steps, now, key=_TIME)
        return steps[place - 1][1] if place else 0

    def edges(self, now: float) -> Iterator[float]:
        """Yield the last Unix time up to `now`, and the first after it, at which the number of a class changes.

        No other comes before these, whether the clock goes on or is set back.
        """
        for steps in self._by_class.values():
            place = bisect_right(steps, now, key=_TIME)
            yield from (at for at, _ in steps[max(place - 1, 0) : place + 1])


def _counted(times: list[float]) -> Iterator[tuple[float, int]]:
    times.sort()
    for number, (at, following) in enumerate(zip(times, [*times[1:], None], strict=True), 1):
        if at != following:
            yield at, number


_TIME: Final = itemgetter(0)
