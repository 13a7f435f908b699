"""What debsecan says of a vulnerability in parentheses, such as (fixed, remotely exploitable, medium urgency)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.audit.model import Severity
from portspec.audit.tools.draft import quote

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft

_SEVERITIES: Final = {
    "fixed": Severity.UNKNOWN,  # there is an update; which one the formats with notes do not say
    "remotely exploitable": Severity.UNKNOWN,
    "obsolete": Severity.UNKNOWN,
    "low urgency": Severity.LOW,
    "medium urgency": Severity.MEDIUM,
    "high urgency": Severity.HIGH,
}


def read_notes(draft: Draft, number: int, notes: str) -> Severity:
    """Give the severity that the notes of line `number` tell; any note that debsecan does not have fails the draft."""
    worst = Severity.UNKNOWN
    for note in notes.split(", ") if notes else ():
        severity = _SEVERITIES.get(note)
        if severity is None:
            draft.fail(
                f'line {number} has the note {quote(note)}, expected "fixed", "… urgency" or another of debsecan'
            )
        elif severity != Severity.UNKNOWN:
            worst = severity
    return worst
