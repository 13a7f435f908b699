"""How long Canonical gives security updates to a release of Ubuntu without Ubuntu Pro."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portspec.audit.model import ToolRun

_RELEASE = re.compile(r"([0-9]{2})\.(04|10)")
_YEARS_OF_LTS = 5
_MONTHS = 9  # of a release between two LTS
_APRIL = 4


def past_support(run: ToolRun) -> str:
    """Give the release whose standard support had ended when the tool ran, as "ubuntu 18.04"; "" otherwise.

    Every second release of April is an LTS: five years, to the end of a May. The others have nine months. Source:
    https://ubuntu.com/about/release-cycle. Derivatives that keep the number of the release (Pop!_OS, KDE neon) get
    their security updates from its pocket.
    """
    system = run.system
    found = _RELEASE.fullmatch(system.version) if system is not None and system.is_kin("ubuntu") else None
    if system is None or found is None:
        return ""
    year, month = 2000 + int(found[1]), int(found[2])
    if month == _APRIL and year % 2 == 0:
        year, month = year + _YEARS_OF_LTS, month + 2
    else:
        year, month = (year, month + _MONTHS + 1) if month + _MONTHS < 12 else (year + 1, month + _MONTHS - 11)  # noqa: PLR2004 - months of a year
    return system.spelled if run.ended_at >= datetime(year, month, 1, tzinfo=UTC).timestamp() else ""
