"""resolv.conf(5) as the C library reads it: what it passes over is passed over here, too.

dnspython's own reader raises for a line that getaddrinfo(3) ignores. The rules are those of res_vconf_init() and
res_setoptions() in glibc's resolv/res_init.c.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from portspec import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATH = Path("/etc/resolv.conf")
DEFAULT_SERVER = "127.0.0.1"  # what the C library asks where no server is named
MAX_SERVERS = 3  # MAXNS in resolv.h
_MAX_NDOTS, _MAX_TIMEOUT = 15, 30  # RES_MAXNDOTS, and RES_MAXRETRANS in seconds
_MAX_BYTES = 2**20  # nobody has more, and /dev/zero has
_MAX_LABEL = 63  # bytes (RFC 1035, 2.3.4)
_NUMBER = re.compile(rb"[+-]?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """Whom to ask, and for what. `search` holds absolute names, each as its labels without the root.

    `servers` is empty where none is named that can be used. `timeout` is in seconds for one question to one server,
    None where the file does not say.
    """

    servers: tuple[str, ...] = ()
    search: tuple[tuple[bytes, ...], ...] = ()
    ndots: int = 1
    timeout: int | None = None
    rotate: bool = False
    edns0: bool = False
    use_tcp: bool = False


def read(path: Path = PATH) -> ResolvConf:
    """Read the file as it is now; one that is not there or may not be read says nothing. Raises OSError otherwise."""
    try:
        data = files.read_regular(path, _MAX_BYTES)
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError):
        data = b""
    return parse(data, os.environb, os.fsencode(socket.gethostname()))


def parse(data: bytes, environment: Mapping[bytes, bytes], host_name: bytes = b"") -> ResolvConf:
    """Read the text of a resolv.conf; raises nothing.

    `environment` serves LOCALDOMAIN and RES_OPTIONS. The domain of `host_name` is searched where nothing else is named.
    """
    found = ResolvConf()
    servers: list[str] = []
    search: list[bytes] = []
    fixed = environment.get(b"LOCALDOMAIN")
    for line in data.split(b"\n"):
        line = line.partition(b"\0")[0]  # noqa: PLW2901 - a string of C ends there
        keyword, value = _split(line)
        if keyword == b"nameserver":
            servers += filter(None, map(_server, _words(value)[:1]))
        elif keyword == b"domain" and fixed is None and _words(value):
            search = _words(value)[:1]
        elif keyword == b"search" and fixed is None and _words(value):
            search = _words(value)
        elif keyword == b"options":
            found = _with_options(found, value)
    if fixed is not None:
        search = _words(fixed.partition(b"\n")[0])
    elif not search and (domain := host_name.partition(b".")[2]):
        search = [domain]
    found = _with_options(found, environment.get(b"RES_OPTIONS", b""))
    return replace(found, servers=tuple(servers[:MAX_SERVERS]), search=tuple(_names(search)))


def _split(line: bytes) -> tuple[bytes, bytes]:
    """Split a line into its keyword, which begins it and ends with a blank or a tab, and the rest."""
    found = re.match(rb"([a-z]+)[ \t]", line)
    return (found[1], line[found.end() :]) if found else (b"", b"")


def _words(text: bytes) -> list[bytes]:
    return [word for word in re.split(rb"[ \t]+", text) if word]


def _server(word: bytes) -> str | None:
    """Read the address of a name server; None if it is not one, such as a name."""
    text = word.decode("latin-1")
    if text.isascii() and not any(map(str.isspace, text)):
        try:
            return socket.inet_ntoa(socket.inet_aton(text))  # in all its spellings, such as 127.1
        except OSError:
            pass
    text, _, zone = text.partition("%")
    try:
        address = ipaddress.IPv6Address(socket.inet_pton(socket.AF_INET6, text))
    except (OSError, ValueError):
        return None
    index = _zone_index(zone, may_be_name=address.is_link_local or address.is_multicast)
    return f"{address}%{index}" if index else str(address)


def _zone_index(zone: str, *, may_be_name: bool) -> int:
    """Return the number of an interface; 0 for none that there is, which the C library goes on without."""
    try:
        return socket.if_nametoindex(zone if may_be_name else "")
    except (OSError, ValueError):
        return int(zone) if re.fullmatch(r"[0-9]{1,9}", zone) else 0


def _with_options(found: ResolvConf, text: bytes) -> ResolvConf:
    """Parse the known options of a line; as in the C library, a prefix match counts."""
    for word in _words(text):
        if word.startswith(b"ndots:"):
            found = replace(found, ndots=min(_number(word), _MAX_NDOTS))
        elif word.startswith(b"timeout:"):
            found = replace(found, timeout=min(_number(word), _MAX_TIMEOUT))
        elif word.startswith(b"rotate"):
            found = replace(found, rotate=True)
        elif word.startswith(b"edns0"):
            found = replace(found, edns0=True)
        elif word.startswith(b"use-vc"):
            found = replace(found, use_tcp=True)
    return found


def _number(word: bytes) -> int:
    """Read the number behind the colon as atoi(3) does: what is none is 0."""
    digits = _NUMBER.match(word.partition(b":")[2])
    return max(0, int(digits[0])) if digits else 0


def _names(search: list[bytes]) -> Iterator[tuple[bytes, ...]]:
    """Yield the entries of a search list that are names; the C library takes one dot off the front."""
    for word in search:
        name = word.removeprefix(b".").removesuffix(b".")
        labels = tuple(name.split(b".")) if name else ()
        if all(0 < len(label) <= _MAX_LABEL for label in labels):
            yield labels
