"""Whether a tool looked at this host, and at all of it: the system that it names, and the options that it ran with.

A scanner in a container sees the container, and a scanner that was given a directory or a list of packages sees only
that. So the system that a scanner names is compared with os-release(5), which the agent sends.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.audit.model import ToolRun
    from portspec.audit.tools.result import ResultBuilder

FREEBSD_KERNELS: Final = {"FreeBSD", "DragonFly"}  # names of uname(1) where packages come from FreeBSD's ports

_FIRST_NUMBER = re.compile(r"[^0-9]{0,40}([0-9]{1,8})")
_DEBIAN_RELEASE = re.compile(r"([0-9]{1,3})(?:\.[0-9.]{1,20})?")
_UBUNTU_RELEASE = re.compile(r"[0-9]{2}\.(?:04|10)(?:\.[0-9]{1,3})?(?:-ESM)?")
_DEBIAN_IDS: Final = {"debian", "raspbian"}  # their releases have the same numbers
_OLDEST_DEBIAN: Final = 7  # the oldest that the scanners have data for; derivatives have smaller numbers of their own

_UBUNTU_VERSION = re.compile(r"([0-9]{2})\.(04|10)")
_YEARS_OF_LTS: Final = 5
_MONTHS_OF_INTERIM: Final = 9  # of a release between two LTS
_APRIL: Final = 4

_END_OF_COMMAND = re.compile(r"[0-9]?[|;&<>]")  # in a shell
_FALSE_VALUES: Final = {"false", "0", "f"}  # of an option, in Go and Python


def is_known_release(system: str, version: str) -> bool:
    """Return whether a version can be a release of Debian or Ubuntu; True for any other system.

    Scanners name a derivative by the distribution that it is based on, but with a version that this distribution does
    not have: trivy calls Linux Mint "debian trixie/sid", grype "ubuntu 21.3". They have no data for such a release, so
    they find nothing. Sources: /etc/debian_version, which trivy reads (pkg/fanal/analyzer/os/debian);
    grype/distro/distro.go.
    """
    version = version.strip()
    if system == "ubuntu":
        return _UBUNTU_RELEASE.fullmatch(version) is not None
    found = _DEBIAN_RELEASE.fullmatch(version)
    return system != "debian" or (found is not None and int(found[1]) >= _OLDEST_DEBIAN)


def has_own_release_numbers(result: ResultBuilder) -> bool:
    """Return whether this host is based on Debian but numbers its releases differently, as LMDE, Devuan and Kali do.

    A scanner that reads VERSION_ID of os-release(5) takes this number for a release of Debian.
    """
    system = result.run.system
    if system is None or system.id in _DEBIAN_IDS:
        return False
    return system.is_kin("debian") and not system.is_kin("ubuntu")


def compare_system(result: ResultBuilder, tool: str, ids: Iterable[str], name: str, version: str) -> None:
    """Mark the result unsupported if the system that a tool looked at is not that of this host.

    Only the first number of the versions is compared, and only if the host is that system itself, not a derivative.

    Args:
        result: The result.
        tool: The name of the tool, for the reason.
        ids: The IDs of os-release(5) that the tool knows under `name`. If there are none, nothing is compared.
        name: The system as the tool names it.
        version: The version as the tool has it.
    """
    system, known = result.run.system, tuple(ids)
    if system is None or not known or result.run.is_of_applications:
        return
    here, there = _FIRST_NUMBER.match(system.version), _FIRST_NUMBER.match(version)
    is_other_release = system.id in known and here and there and int(here[1]) != int(there[1])
    if not system.is_kin(*known) or is_other_release:
        spelled = f"{name} {version}".strip()
        result.mark_unsupported(f"{tool} looked at {quote(spelled)}, but this host is {quote(system.spelled)}")


def past_standard_support(run: ToolRun) -> str:
    """Return the release of Ubuntu, as "ubuntu 18.04", if its standard support ended before the run; "" otherwise.

    After that only Ubuntu Pro has security updates for it. Every second April release is an LTS, with five years of
    support until the end of May. The others have nine months. Source: https://ubuntu.com/about/release-cycle.
    Derivatives that keep the release number (Pop!_OS, KDE neon) get security updates from Ubuntu's pocket.
    """
    system = run.system
    found = _UBUNTU_VERSION.fullmatch(system.version) if system is not None and system.is_kin("ubuntu") else None
    if system is None or found is None:
        return ""
    year, month = 2000 + int(found[1]), int(found[2])
    if month == _APRIL and year % 2 == 0:
        year, month = year + _YEARS_OF_LTS, month + 2
    elif month + _MONTHS_OF_INTERIM < 12:  # noqa: PLR2004 - months of a year
        month += _MONTHS_OF_INTERIM + 1
    else:
        year, month = year + 1, month + _MONTHS_OF_INTERIM - 11
    return system.spelled if run.ended_at >= datetime(year, month, 1, tzinfo=UTC).timestamp() else ""


def arguments_of(command: Sequence[str], program: str) -> tuple[str, ...]:
    """Return the arguments of a program in a command; () if it is not in the command.

    The program may follow another one, such as sudo, and the whole command may be one word for a shell ("sh -c").
    """
    words = " ".join(command).split()
    for start, word in enumerate(words):
        if PurePosixPath(word).name == program:
            rest = words[start + 1 :]
            return tuple(rest[: next((at for at, each in enumerate(rest) if _END_OF_COMMAND.match(each)), len(rest))])
    return ()


def option_values(words: Sequence[str], *options: str) -> list[str]:
    """Return the value of each occurrence of some options, spelled "--option value" or "--option=value"."""
    values = []
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in options:
            values.append(value if equals else words[at + 1] if at + 1 < len(words) else "")
    return values


def first_option_set(words: Iterable[str], *options: str) -> str:
    """Return the first of some boolean options that is set; "" if none is."""
    for word in words:
        option, _, value = word.partition("=")
        if option in options and value.lower() not in _FALSE_VALUES:
            return option
    return ""
