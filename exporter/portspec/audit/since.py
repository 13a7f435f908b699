"""Since when a host has each vulnerability, from one audit to the next. Pure.

A vulnerability is the same if its package is and if the two have an id or an alias in common, or if one is known by an
advisory that tells of the other: tools change their ids, and a host may change its tool. Another version of the package
is the same, too. What an audit that failed does not name is remembered: the next one may name it again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec.audit.model import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.audit.model import Audit, Vulnerability

_CONCLUSIVE: Final = frozenset({Status.CLEAN, Status.VULNERABLE})
MAX_REMEMBERED: Final = 10_000  # of one host: while its audits show nothing to be gone, each may name others


class FirstSeen(NamedTuple):
    """A vulnerability as it was known, and the Unix time of the audit that named it first."""

    package: str
    ids: tuple[str, ...]
    advisories: tuple[str, ...]
    at: float


def first_seen(audit: Audit, at: float, before: Iterable[FirstSeen]) -> tuple[FirstSeen, ...]:
    """Return since when each vulnerability of an audit is known, in their order, then those that are remembered.

    Args:
        audit: What the audit found.
        at: When it was made, a Unix time.
        before: What this returned for the audit before.
    """
    earlier = tuple(before)
    times, lost = recognised(audit.vulnerabilities, earlier)
    found = [dated(item, min(at, known)) for item, known in zip(audit.vulnerabilities, times, strict=True)]
    if not shows_gone(audit):
        found += [earlier[place] for place in lost[:MAX_REMEMBERED]]
    return tuple(found)


def shows_gone(audit: Audit) -> bool:
    """Return whether an audit shows that what it does not name is gone: without what it names it would be clean.

    One that names some, and has an old database or did not look everywhere, shows nothing of others.
    """
    return audit.status in _CONCLUSIVE and audit.without is Status.CLEAN


def recognised(found: Sequence[Vulnerability], earlier: Sequence[FirstSeen]) -> tuple[list[float], list[int]]:
    """Find vulnerabilities among those that were known earlier.

    Returns:
        Since when each is known, a Unix time, infinite if it is new; and the places in `earlier` of those that none of
        them is.
    """
    by_id: dict[tuple[str, str], float] = {}
    by_advisory: dict[tuple[str, str], float] = {}
    for item in earlier:
        for names, times in ((item.ids, by_id), (item.advisories, by_advisory)):
            for name in names:
                key = item.package, name
                times[key] = min(item.at, times.get(key, math.inf))
    since: list[float] = []
    named: set[tuple[str, str]] = set()  # by id or advisory, of what is known by its id,
    told: set[tuple[str, str]] = set()  # and by id, of what is known by its advisory
    for vulnerability in found:  # of a host there may be thousands
        package, first = vulnerability.package, math.inf
        for name in ids_of(vulnerability):
            key = package, name
            told.add(key)
            first = min(first, by_id.get(key, math.inf), by_advisory.get(key, math.inf))
        for name in vulnerability.advisories:
            key = package, name
            named.add(key)
            first = min(first, by_id.get(key, math.inf))
        since.append(first)
    named |= told
    lost = [
        place
        for place, item in enumerate(earlier)
        if not any((item.package, name) in named for name in item.ids)
        and not any((item.package, name) in told for name in item.advisories)
    ]
    return since, lost


def dated(vulnerability: Vulnerability, at: float) -> FirstSeen:
    """Return a vulnerability as it is recognised in later audits, and since when it is known, a Unix time."""
    return FirstSeen(vulnerability.package, ids_of(vulnerability), vulnerability.advisories, at)


def ids_of(vulnerability: Vulnerability) -> tuple[str, ...]:
    """Return the id and the aliases of a vulnerability, each once."""
    if not vulnerability.aliases:
        return (vulnerability.id,) if vulnerability.id else ()
    return tuple(filter(None, dict.fromkeys((vulnerability.id, *vulnerability.aliases))))
