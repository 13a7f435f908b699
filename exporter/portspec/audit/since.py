"""Since when a host has each vulnerability, from one audit to the next. Pure.

A vulnerability is the same if its package is and if the two have an id or an alias in common, or if one is known by an
advisory that tells of the other: tools change their ids, and a host may change its tool. Another version of the package
is the same, too. What an audit that failed does not name is remembered: the next one may name it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from portspec.audit.model import Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.audit.model import Audit, Vulnerability

_CONCLUSIVE = frozenset({Status.CLEAN, Status.VULNERABLE})


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
    by_id: dict[tuple[str, str], list[FirstSeen]] = {}
    by_advisory: dict[tuple[str, str], list[FirstSeen]] = {}
    for item in earlier:
        for name in item.ids:
            by_id.setdefault((item.package, name), []).append(item)
        for name in item.advisories:
            by_advisory.setdefault((item.package, name), []).append(item)
    found: list[FirstSeen] = []
    again: set[int] = set()
    for vulnerability in audit.vulnerabilities:
        ids = _ids(vulnerability)
        package, advisories = vulnerability.package, vulnerability.advisories
        same = [item for name in (*ids, *advisories) for item in by_id.get((package, name), ())]
        same += [item for name in ids for item in by_advisory.get((package, name), ())]
        again.update(map(id, same))
        found.append(FirstSeen(package, ids, advisories, min([at, *(item.at for item in same)])))
    if audit.status not in _CONCLUSIVE:
        found += [item for item in earlier if id(item) not in again]
    return tuple(found)


def _ids(vulnerability: Vulnerability) -> tuple[str, ...]:
    return tuple(filter(None, dict.fromkeys((vulnerability.id, *vulnerability.aliases))))
