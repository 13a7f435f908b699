"""What /etc/hosts says of a name, and whether the C library leaves it at that (hosts(5), nsswitch.conf(5))."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portspec import files
from portspec.names import address_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.names import Address

_MAX_BYTES: Final = 64 << 20  # lists of names to be blocked are long
# Services that know names of this machine alone and answer for both families at once; what is asked before the file
# beside them may be a name server, of which one family may fail.
_LOCAL_SERVICES: Final = frozenset({"myhostname", "mymachines"})
_WORD: Final = re.compile(r"\[[^\]]*\]|[^\s\[]+")


class HostsFile:
    """Reads the file when it has changed. Its methods block, raise nothing, and may be called from any thread."""

    def __init__(self, path: Path = Path("/etc/hosts"), switch: Path = Path("/etc/nsswitch.conf")) -> None:
        self._path = path
        self._switch = switch
        self._read: tuple[object, Mapping[str, tuple[Address, ...]]] = (None, {})

    def addresses(self, name: str) -> tuple[Address, ...]:
        """Return the addresses that the file has for a name, as it is spelled but for case."""
        try:
            status = self._path.stat()
            version = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._read[0] != version:
                self._read = version, _entries(_text(self._path))
        except OSError:
            return ()
        return self._read[1].get(name.lower(), ())

    def answers_alone(self, name: str) -> bool:
        """Return whether the file is asked before any name server, and what it says of this name is the whole answer.

        The C library asks one service after the other and stops at the first that knows the name, whichever family
        its addresses are of.
        """
        if not self.addresses(name):
            return False
        try:
            return is_first(_text(self._switch))
        except OSError:
            return False  # glibc asks name servers first then; musl looks at both families in the file by itself


def _text(path: Path) -> str:
    return files.read_regular(path, _MAX_BYTES).decode(errors="replace")


def is_first(switch: str) -> bool:
    """Return whether nsswitch.conf looks up names in the file first, and stops there if one is found."""
    lines = (line.partition("#")[0].strip() for line in switch.splitlines())
    services = next((line.removeprefix("hosts:") for line in lines if line.startswith("hosts:")), "")
    words = [word for word in _WORD.findall(services) if word not in _LOCAL_SERVICES]
    action = words[1].lower() if words[1:] and words[1].startswith("[") else ""
    return words[:1] == ["files"] and not re.search(r"\bsuccess\s*=\s*(?!return\b)|!", action)


def _entries(text: str) -> Mapping[str, tuple[Address, ...]]:
    """Read the lines of a hosts(5) file; as in the C library, a name may stand in several, and bad ones are nothing."""
    found: dict[str, tuple[Address, ...]] = {}
    for line in text.splitlines():
        first, *names = line.partition("#")[0].split() or [""]
        if names and (address := address_of(first)):
            for name in names:
                found[name.lower()] = (*found.get(name.lower(), ()), address)
    return found
