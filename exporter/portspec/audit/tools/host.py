"""Whether the system that a scanner names is the one of the host that reports.

A scanner in a container looks at its container, and one that was given a directory or a list of packages at that. So
what it names is held against os-release(5), which the agent sends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portspec.audit.tools.draft import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.audit.tools.draft import Draft

_NUMBER = re.compile(r"[^0-9]{0,40}([0-9]{1,8})")
_DEBIAN = re.compile(r"([0-9]{1,3})(?:\.[0-9.]{1,20})?")
_UBUNTU = re.compile(r"[0-9]{2}\.(?:04|10)(?:\.[0-9]{1,3})?(?:-ESM)?")
_DEBIAN_IDS: Final = {"debian", "raspbian"}  # whose releases have the same numbers
_OLDEST_DEBIAN: Final = 7  # of which the scanners have data; derivatives have smaller numbers of their own


def is_release(system: str, version: str) -> bool:
    """Tell whether a version may be one of Debian or Ubuntu; true for any other system.

    Scanners take derivatives for what they are made of, but not their versions: trivy names Linux Mint
    "debian trixie/sid", grype "ubuntu 21.3". Of such a release they have no data, and find nothing. Sources:
    /etc/debian_version, which trivy reads (pkg/fanal/analyzer/os/debian); grype/distro/distro.go.
    """
    version = version.strip()
    if system == "ubuntu":
        return _UBUNTU.fullmatch(version) is not None
    found = _DEBIAN.fullmatch(version)
    return system != "debian" or (found is not None and int(found[1]) >= _OLDEST_DEBIAN)


def has_own_numbers(draft: Draft) -> bool:
    """Tell whether this host is made of Debian, yet numbers its releases otherwise, as LMDE, Devuan and Kali do.

    A scanner that goes by VERSION_ID of os-release(5) takes its number for one of Debian's.
    """
    system = draft.run.system
    if system is None or system.id in _DEBIAN_IDS:
        return False
    return system.is_kin("debian") and not system.is_kin("ubuntu")


def compare(draft: Draft, tool: str, ids: Iterable[str], name: str, version: str) -> None:
    """Say so if the system that a tool looked at is not this host.

    `ids` are the IDs of os-release(5) that the tool calls so; without any nothing is known of it. Versions are
    compared by their first number, and only where the host is that system itself and not made of it.
    """
    system, known = draft.run.system, tuple(ids)
    if system is None or not known or draft.run.is_of_applications:
        return
    here, there = _NUMBER.match(system.version), _NUMBER.match(version)
    is_other_release = system.id in known and here and there and int(here[1]) != int(there[1])
    if not system.is_kin(*known) or is_other_release:
        spelled = f"{name} {version}".strip()
        draft.unsupported(f"{tool} looked at {quote(spelled)}, this host is {quote(system.spelled)}")
