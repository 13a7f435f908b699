"""What an audit comes to after the one before it: what is stored of it, and what it shows to be fixed. Pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec.audit.document import decode_first_seen, decode_time, encode
from portspec.audit.fixes import compare, counted
from portspec.audit.since import first_seen
from portspec.audit.state import AuditState
from portspec.priorities import Priority

if TYPE_CHECKING:
    from portspec.audit.document import Decoder
    from portspec.audit.fixes import Fix, FixCount, Known
    from portspec.audit.priority import Priorities
    from portspec.audit.reach import OutsideView
    from portspec.audit.state import HostAudit

_PRIORITIES: Final = tuple(Priority)


class Result(NamedTuple):
    """The result of an audit.

    Attributes:
        host_audit: The audit, in which what hosts share is one object.
        document: The audit as it is stored.
        before: The audit before; None if there is none, or none that can be read.
        before_at: When the audit before was made, a Unix time; None if there is none, or if it is not known.
        fixes: What it shows to be fixed since the audit before.
    """

    host_audit: HostAudit
    document: str
    before: HostAudit | None
    before_at: float | None
    fixes: list[Fix]

    def replaces(self, until: float) -> bool:
        """Return whether it takes the place of the one before, unless that is newer.

        What was made after `until`, a Unix time, came while the clock was ahead, and is not newer.
        """
        return self.before_at is None or not self.host_audit.at < self.before_at <= until


def result_of(host_audit: HostAudit, before: str, decoder: Decoder) -> Result:
    """Return the result of an audit; `before` is the stored document of the audit before, "" without one."""
    seen = first_seen(host_audit.audit, host_audit.at, decode_first_seen(before))
    earlier, known = _decoded(before, decoder)
    at = earlier.at if earlier else decode_time(before)
    comparison = compare(host_audit, seen, known, host_audit.at if at is None else at)
    document = encode(host_audit, seen, comparison.known)
    return Result(decoder.decode(document) or host_audit, document, earlier, at, comparison.fixes)


def count_fixes(result: Result, priorities: Priorities, view: OutsideView) -> list[FixCount]:
    """Count what is fixed by class and time.

    The class is the most urgent that any package had before: by the listeners of the audit before, and by the
    priorities and the view from outside of now. What is excepted counts, too.
    """
    if result.before is None or not result.fixes:
        return []
    every = tuple(chain.from_iterable(fix.vulnerabilities for fix in result.fixes))
    audit = replace(result.before, audit=replace(result.before.audit, vulnerabilities=every), since=())
    ranks = iter(AuditState("", host_audit=audit, view=view, priorities=priorities).ranks)
    return counted((_PRIORITIES[min(islice(ranks, len(fix.vulnerabilities)))], fix.seconds) for fix in result.fixes)


def _decoded(document: str, decoder: Decoder) -> tuple[HostAudit | None, tuple[Known, ...]]:
    """Return the audit in a document, and what the host had after it; nothing of one that cannot be read."""
    try:
        return decoder.decode_known(document) or (None, ())
    except ValueError:
        return None, ()
