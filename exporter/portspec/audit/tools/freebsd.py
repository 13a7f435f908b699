"""What FreeBSD's two tools have in common: package names, the database of vulnerabilities, the summary lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portspec.audit.model import CVE, Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

KERNELS: Final = {"FreeBSD", "DragonFly"}  # uname(1) where packages are those of FreeBSD's ports

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_LONGEST_NAME = 500


def split_package(name: str) -> tuple[str, str]:
    """Split name-version at the last hyphen, as pkg(8) does; the version is "" without one."""
    package, hyphen, version = name.rpartition("-")
    return (package, version) if hyphen else (name, "")


def is_package(text: str) -> bool:
    """Tell whether a line may be a name-version, as -q prints it: one word, with a digit in the version."""
    package, version = split_package(text)
    return bool(
        package
        and len(text) <= _LONGEST_NAME
        and not any(character.isspace() for character in text)
        and any(character.isdigit() for character in version)
        and not text.endswith((":", "."))
    )


def cves_of(url: str) -> list[str]:
    """Give the CVEs that a reference names."""
    return CVE.findall(url[:_LONGEST_NAME])


def entries_of(url: str) -> list[str]:
    """Give the entries of VuXML that a reference names: advisories, each of which may tell of many CVEs."""
    return [found.lower() for found in _UUID.findall(url[:_LONGEST_NAME])]


def scope_of(command: Sequence[str]) -> Scope:
    """Tell what a run looked at: with names such as FreeBSD-14.1_5 for arguments the base system, else packages."""
    return Scope.BASE if any(word.startswith("FreeBSD-") for word in command) else Scope.SYSTEM


def fixed_version(affected: str) -> str:
    """Give the version that ends a range of affected ones, such as ">= 1.0 : < 2.0"; "" if none does."""
    last = affected.rpartition(":")[2].strip()
    return last[1:].strip() if last.startswith("<") and not last.startswith("<=") else ""
