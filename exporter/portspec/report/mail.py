"""The report as the daily mail: the numbers, and the machines that need attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.report import phrases
from portspec.report.contents import Contents
from portspec.report.plain import head

if TYPE_CHECKING:
    from portspec.report.contents import ReportSettings
    from portspec.state.snapshot import Snapshot

MAX_MACHINES: Final = 100  # a mail is to be read


def mail_report(snapshot: Snapshot, settings: ReportSettings, now: float) -> tuple[str, str]:
    """Give outcome, for the subject, and body of the daily mail, as of a Unix time."""
    contents = Contents.of(snapshot, settings, now)
    lines = [*head(contents, MAX_MACHINES), "\n", f"As of {phrases.time(now)}.\n"]
    return _outcome(contents), "".join(lines)


def _outcome(contents: Contents) -> str:
    count = contents.summary.attention
    if not count:
        return "no machine needs attention" if contents.fleet else "no machines"
    verb = "needs" if count == 1 else "need"
    return f"{count:,} of {phrases.counted(contents.summary.machines, 'machine')} {verb} attention"
