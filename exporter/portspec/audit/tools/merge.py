"""The audits that the runs of a host's tools come to → the one of the host."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portspec.audit.model import RANKS, Audit, Scope, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.audit.model import ToolRun, Vulnerability

_ORDER: Final = (Status.FAILED, Status.UNSUPPORTED, Status.VULNERABLE, Status.STALE_DATABASE, Status.CLEAN)


def merge(runs: Sequence[ToolRun], audits: Sequence[Audit]) -> Audit:
    """Give the audit of a host, each of whose runs came to one of `audits`; at least one of each.

    It is as bad as the worst of them, with what all of them found. It is clean only if one looked at the packages of
    the system, or whoever set the host up wants only its applications looked at, or the agent is so old that it does
    not tell the system.
    """
    audit = audits[0] if len(audits) == 1 else _together(runs, audits)
    system = runs[0].system
    is_silent = audit.status in {Status.FAILED, Status.UNSUPPORTED, Status.STALE_DATABASE}
    if is_silent or system is None or Scope.SYSTEM in audit.scopes or all(run.is_of_applications for run in runs):
        return audit
    seen = " and ".join(audit.scopes) or "nothing"
    reason = (
        f"{runs[0].tool} looked at {seen}, not at the packages of {system.spelled}; use another tool, or set "
        '"scope = applications" for portspec-send if only these are meant'
    )
    return replace(audit, status=Status.UNSUPPORTED, without=Status.UNSUPPORTED, reason=reason)


def _together(runs: Sequence[ToolRun], audits: Sequence[Audit]) -> Audit:
    found: dict[tuple[str, str, str], Vulnerability] = {}
    for each in audits:
        for item in each.vulnerabilities:
            found.setdefault((item.package, item.version, item.id), item)
    # One tool tells the installed version, another does not: that is the same vulnerability.
    told_with_version = {(package, name) for package, version, name in found if version}
    for key in [key for key in found if not key[1] and (key[0], key[2]) in told_with_version]:
        del found[key]
    told = [f"{run.tool}: {each.reason}" for run, each in zip(runs, audits, strict=True) if each.reason]
    ages = [each.database_at for each in audits if each.database_at is not None]
    return Audit(
        status=min((each.status for each in audits), key=_ORDER.index),
        vulnerabilities=tuple(sorted(found.values(), key=lambda item: (RANKS[item.severity], item))),
        reason="; ".join(told),
        database_at=min(ages, default=None),
        without=min((each.without for each in audits), key=_ORDER.index),
        scopes=tuple(scope for scope in Scope if any(scope in each.scopes for each in audits)),
    )
