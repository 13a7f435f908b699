"""Which vulnerabilities an audit shows to be fixed, and how long that took, as a histogram. Pure.

A vulnerability is fixed when no package has it any longer, by an audit that would name it: of the same tool, which
looked at the same scopes or at more. `since.py` says which vulnerabilities are the same, and which audits show that one
is gone.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec.audit.since import MAX_REMEMBERED, dated, ids_of, recognised, shows_gone
from portspec.priorities import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.audit.model import Scope, Vulnerability
    from portspec.audit.since import FirstSeen
    from portspec.audit.state import HostAudit

#: The upper bounds of the buckets in seconds: a day to a year, and all that took longer.
BUCKETS: Final = (*(days * 86_400.0 for days in (1, 2, 3, 7, 14, 30, 60, 90, 180, 365)), math.inf)


class Known(NamedTuple):
    """A vulnerability of a host, as the audit that named it last has it.

    `since` is the Unix time since when the host has it in any package. `tool` and `scopes` are those of that audit.
    """

    vulnerability: Vulnerability
    since: float
    tool: str
    scopes: tuple[Scope, ...]


class Fix(NamedTuple):
    """A vulnerability that is fixed, as each package had it, and how many seconds the host had it."""

    vulnerabilities: tuple[Vulnerability, ...]
    seconds: float


class FixCount(NamedTuple):
    """The number of fixes of a class in a bucket, by the upper bound of that, and their seconds altogether."""

    priority: str
    bucket: float
    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Times: `counts` has the number of those in each of BUCKETS and in none before it, `sum` is in seconds."""

    counts: tuple[int, ...] = (0,) * len(BUCKETS)
    sum: float = 0.0


class Comparison(NamedTuple):
    """What a host has after an audit, and what that shows to be fixed.

    `known` are first the vulnerabilities that the audit names, in its order, then those that it does not show to be
    gone.
    """

    known: tuple[Known, ...]
    fixes: list[Fix]


def compare(host_audit: HostAudit, seen: Sequence[FirstSeen], before: Sequence[Known], at: float) -> Comparison:
    """Compare an audit with the one before it.

    A vulnerability of several packages is fixed once, when the last of them no longer has it. One without any name is
    never fixed, since nothing tells whether it is there again.

    Args:
        host_audit: The audit.
        seen: What first_seen() returned for it.
        before: What the host had after the audit before.
        at: When the audit before was made, a Unix time; an audit that is not newer shows nothing to be fixed.
    """
    vulnerabilities = host_audit.audit.vulnerabilities
    times, lost = recognised(vulnerabilities, [dated(item.vulnerability, item.since) for item in before])
    known = _named(host_audit, seen, times, before)
    if not shows_gone(host_audit.audit):
        return Comparison((*known, *(before[place] for place in lost[:MAX_REMEMBERED])), [])
    return Comparison(tuple(known), _fixes(host_audit, before, set(lost)) if lost and host_audit.at > at else [])


def _named(
    host_audit: HostAudit, seen: Sequence[FirstSeen], times: Sequence[float], before: Sequence[Known]
) -> list[Known]:
    """Return what an audit names; `times` are since when each is known, by the audit before."""
    # A package may have another name in its next version, as those of kernels do.
    in_any: dict[str, float] = {}
    for item in before:
        for name in _names(item.vulnerability):
            in_any[name] = min(item.since, in_any.get(name, math.inf))
    found = []
    tool, scopes = host_audit.tool, host_audit.audit.scopes
    for vulnerability, first, time in zip(host_audit.audit.vulnerabilities, seen, times, strict=False):
        since = min(first.at, time)
        for name in _names(vulnerability):
            since = min(since, in_any.get(name, math.inf))
        found.append(Known(vulnerability, since, tool, scopes))
    return found


def _fixes(host_audit: HostAudit, before: Sequence[Known], lost: set[int]) -> list[Fix]:
    """Return what is fixed; `lost` are the places of what the packages that had it no longer have."""
    named = {name for item in host_audit.audit.vulnerabilities for name in _names(item)}
    packages: dict[object, list[int]] = {}
    for place, item in enumerate(before):
        if item.vulnerability.id:
            packages.setdefault(_key(item.vulnerability), []).append(place)
    found = []
    for places in packages.values():
        items = [before[place] for place in places]
        if lost.issuperset(places) and all(
            _would_name(host_audit, item) and named.isdisjoint(_names(item.vulnerability)) for item in items
        ):
            seconds = host_audit.at - min(item.since for item in items)
            found.append(Fix(tuple(item.vulnerability for item in items), seconds))
    return found


def counted(found: Iterable[tuple[Priority, float]]) -> list[FixCount]:
    """Count fixes, given by class and seconds, by class and bucket."""
    counts: dict[tuple[str, float], FixCount] = {}
    for priority, seconds in found:
        key = priority.value, BUCKETS[bisect_left(BUCKETS, seconds)]
        before = counts.get(key, FixCount(*key, 0, 0.0))
        counts[key] = before._replace(number=before.number + 1, seconds=before.seconds + seconds)
    return list(counts.values())


def histograms(found: Iterable[FixCount]) -> dict[Priority, Histogram]:
    """Return the histogram of each class. A bound that is not in BUCKETS counts for the next one."""
    counts: dict[str, list[int]] = {priority: [0] * len(BUCKETS) for priority in Priority}
    sums: dict[str, float] = dict.fromkeys(Priority, 0.0)
    for item in found:
        if item.priority in counts:
            counts[item.priority][bisect_left(BUCKETS, item.bucket)] += item.number
            sums[item.priority] += item.seconds
    return {priority: Histogram(tuple(counts[priority]), sums[priority]) for priority in Priority}


def _would_name(host_audit: HostAudit, item: Known) -> bool:
    """Return whether an audit looked where the one did that named a vulnerability last."""
    return host_audit.tool == item.tool and set(item.scopes) <= set(host_audit.audit.scopes)


def _key(vulnerability: Vulnerability) -> object:
    """Return what tells a vulnerability from others in all packages; a mere title does so in one package."""
    key = vulnerability.key
    return key if isinstance(key, str) else (vulnerability.package, vulnerability.id)


def _names(vulnerability: Vulnerability) -> list[str]:
    """Return the names that a vulnerability has in any package: no titles."""
    return [name for name in ids_of(vulnerability) if name != vulnerability.title]
