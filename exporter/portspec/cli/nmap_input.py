"""Reads the XML of nmap, of masscan (-oX) and of portspec, piece by piece: bytes in, hosts out. No I/O.

The file may come from anywhere. A document that declares anything itself is refused before expat reads the
declaration, so that no entity is expanded and nothing outside the file is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from xml.parsers import expat

from portspec.errors import PortspecError, printable, shorten
from portspec.names import address_of
from portspec.ports import MAX_PORT, MIN_PORT, PortError, PortSet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_BYTES: Final = 256 << 20  # of a file: a scan of 65,536 hosts with scripts has less
MAX_HOSTS: Final = 250_000  # hosts of a file with different names or addresses

_EXPECTED: Final = "expected the XML that nmap and masscan write with -oX"
_UNSURE: Final = "open|filtered"
_ANSWERS: Final = frozenset({"open", "closed", "unfiltered"})  # states of a port that needs an answer


class ScanFileError(PortspecError):
    """A file of scan results that cannot be used; `line` is from 1, 0 is the file as a whole."""

    def __init__(self, source: str, line: int, problem: str) -> None:
        self.line = line
        self.problem = problem
        super().__init__(printable(f"{source}:{line}: {problem}" if line else f"{source}: {problem}"))


@dataclass(slots=True)
class NmapHost:
    """What one <host> says; texts are as they stand in the file.

    Attributes:
        state: "up", "down", "unknown" or "skipped"; "up" where the file does not tell, as masscan's.
        reason: why the host has that state, "" if the file does not tell.
        addresses: its IP addresses, the first one is that which was scanned.
        names: the names that the user gave it.
        ptr: the names that the DNS has for its address.
        is_open: its open TCP ports, 0 to 65,535.
        unsure: the TCP ports that are open|filtered, and have an element of their own.
        unsure_count: the number of ports of all protocols that are open|filtered, and have none.
        others: ports of other protocols that are open, or open|filtered, such as "53/udp".
        has_tcp: whether any TCP port was scanned.
        answered: whether anything shows that it answered.
        timed_out: whether its scan was not complete when its time was over.
    """

    state: str = "up"
    reason: str = ""
    addresses: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ptr: list[str] = field(default_factory=list)
    is_open: set[int] = field(default_factory=set)
    unsure: set[int] = field(default_factory=set)
    unsure_count: int = 0
    others: list[str] = field(default_factory=list)
    has_tcp: bool = False
    answered: bool = False
    timed_out: bool = False


class NmapReader:
    """Reads one document; `source` is what errors call the file.

    After close(), `scanned` are the TCP ports that the file says were scanned, None if it does not tell.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._root: str | None = None
        self._is_empty = True
        self._is_ended = False
        self._found: list[NmapHost] = []
        self._host: NmapHost | None = None
        self._port: tuple[str, int] | None = None
        self._listed: set[int] = set()  # TCP ports with an element of their own
        self.scanned: PortSet | None = None
        self._starts: Mapping[str, Callable[[NmapHost, Mapping[str, str]], None]] = {
            "status": self._on_status,
            "address": self._on_address,
            "hostname": self._on_hostname,
            "extraports": self._on_extraports,
            "extrareasons": self._on_extrareasons,
            "port": self._on_port,
            "state": self._on_state,
        }
        self._parser = parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._on_doctype
        parser.EntityDeclHandler = self._on_entity
        parser.StartElementHandler = self._on_start
        parser.EndElementHandler = self._on_end

    def feed(self, piece: bytes) -> list[NmapHost]:
        """Read the next bytes; return the hosts that end in them. Raises ScanFileError."""
        self._is_empty = self._is_empty and not piece
        self._parse(piece, is_final=False)
        found, self._found = self._found, []
        return found

    def close(self) -> None:
        """Say that the file has ended. Raises ScanFileError if it has no end of its own."""
        if self._is_empty:
            raise ScanFileError(self._source, 0, f"is empty ({_EXPECTED})")
        self._parse(b"", is_final=True)
        if self.scanned is not None:
            self._add_scanned(PortSet.of(self._listed - {0}))

    def _parse(self, piece: bytes, *, is_final: bool) -> None:
        try:
            self._parser.Parse(piece, is_final)
        except expat.ExpatError as error:
            raise self._fault(error.code, error.lineno, is_final=is_final) from None
        except (LookupError, ValueError) as error:  # of an encoding that Python does not know, or not byte by byte
            raise self._error(f"is not XML that can be read: {error} ({_EXPECTED})") from None

    def _fault(self, code: int, line: int, *, is_final: bool) -> ScanFileError:
        what = expat.ErrorString(code) or "error"
        if is_final and self._root is not None and not self._is_ended:
            problem = "ends before </nmaprun>: the scan was interrupted, or the file was cut; scan to the end"
        elif self._is_ended:
            problem = "goes on after </nmaprun>; give one file at a time"
        elif self._root is not None:
            problem = f"is not well-formed XML: {what}"
        else:
            problem = f"is not XML: {what} ({_EXPECTED})"
        return ScanFileError(self._source, line, problem)

    def _error(self, problem: str) -> ScanFileError:
        return ScanFileError(self._source, self._parser.CurrentLineNumber, problem)

    def _on_doctype(self, _name: str, _system: str | None, _public: str | None, has_subset: bool) -> None:  # noqa: FBT001 - expat's
        if has_subset:
            raise self._error("declares entities or elements of its own, which no scanner does; nothing of it is read")

    def _on_entity(self, *_: Any) -> None:
        raise self._error("declares an entity, which no scanner does; nothing of it is read")

    def _on_start(self, name: str, attributes: dict[str, str]) -> None:
        if self._root is None:
            self._root = name
            if name != "nmaprun":
                raise self._error(f"is not of nmap: its first element is <{shorten(name)}> ({_EXPECTED})")
        elif name == "host":
            self._host = NmapHost(timed_out=attributes.get("timedout") == "true")
        elif name == "scaninfo":
            self._on_scaninfo(attributes)
        elif name == "finished" and attributes.get("exit") == "error":
            said = shorten(attributes.get("errormsg", "no message"))
            raise self._error(f"the scan ended with an error ({said}); scan again")
        elif self._host is not None and (start := self._starts.get(name)):
            start(self._host, attributes)

    def _on_end(self, name: str) -> None:
        if name == "host" and self._host is not None:
            self._found.append(self._host)
            self._host = None
        elif name == "port":
            self._port = None
        elif name == "nmaprun":
            self._is_ended = True

    def _on_scaninfo(self, attributes: Mapping[str, str]) -> None:
        if attributes.get("protocol") == "tcp" and "services" in attributes:
            self._add_scanned(self._ports(attributes["services"], "services"))

    def _on_status(self, host: NmapHost, attributes: Mapping[str, str]) -> None:
        host.state = attributes.get("state", "unknown")
        host.reason = attributes.get("reason", "")
        if host.state == "up" and host.reason != "user-set":  # which is that of nmap -Pn
            host.answered = True

    def _on_address(self, host: NmapHost, attributes: Mapping[str, str]) -> None:
        address = attributes.get("addr", "")
        if attributes.get("addrtype") != "mac" or address_of(address):
            host.addresses.append(address)

    def _on_hostname(self, host: NmapHost, attributes: Mapping[str, str]) -> None:
        if name := attributes.get("name", ""):
            (host.ptr if attributes.get("type") == "PTR" else host.names).append(name)

    def _on_extraports(self, host: NmapHost, attributes: Mapping[str, str]) -> None:
        state, number = attributes.get("state", ""), attributes.get("count", "")
        if not re.fullmatch("[0-9]{1,6}", number):
            raise self._error(f'count="{shorten(number)}" is not a number of ports')
        if int(number):
            host.has_tcp = host.has_tcp or self.scanned is not None
            host.answered = host.answered or state in _ANSWERS
        if state == _UNSURE:
            host.unsure_count += int(number)

    def _on_extrareasons(self, host: NmapHost, attributes: Mapping[str, str]) -> None:
        if attributes.get("proto") == "tcp" and "ports" in attributes:
            host.has_tcp = True
            self._add_scanned(self._ports(attributes["ports"], "ports"))

    def _on_port(self, host: NmapHost, attributes: Mapping[str, str]) -> None:
        number = attributes.get("portid", "")
        if not re.fullmatch("[0-9]{1,5}", number) or int(number) > MAX_PORT:
            raise self._error(f'portid="{shorten(number)}" is not a port')
        self._port = attributes.get("protocol", ""), int(number)
        if self._port[0] == "tcp":
            host.has_tcp = True
            self._listed.add(self._port[1])

    def _on_state(self, host: NmapHost, attributes: Mapping[str, str]) -> None:
        if self._port is None:
            return
        protocol, port = self._port
        state = attributes.get("state", "")
        host.answered = host.answered or state in _ANSWERS
        if protocol != "tcp":
            if state in {"open", _UNSURE}:
                host.others.append(f"{port}/{protocol}")
        elif state == "open":
            host.is_open.add(port)
        elif state == _UNSURE:
            host.unsure.add(port)

    def _add_scanned(self, ports: PortSet) -> None:
        self.scanned = ports if self.scanned is None else self.scanned | ports

    def _ports(self, text: str, attribute: str) -> PortSet:
        try:
            return _ports(text)
        except PortError:
            raise self._error(f'{attribute}="{shorten(text)}" is not a list of ports') from None


@lru_cache(maxsize=256)  # most hosts of a file have the same
def _ports(text: str) -> PortSet:
    """Read "1-100,443", as nmap lists ports; PortError if it is none. Port 0, which nmap can scan, is left out."""
    ranges = [_range(word) for word in text.split(",") if word]
    return PortSet.of_ranges((max(first, MIN_PORT), last) for first, last in ranges if last)


def _range(word: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]{1,5})(?:-([0-9]{1,5}))?", word)
    if not found:
        raise PortError(word)
    return int(found[1]), int(found[2] or found[1])
