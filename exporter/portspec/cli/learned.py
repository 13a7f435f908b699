"""What was seen of hosts → the lines of a `hosts:` block. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portspec.cli.nmap_input import MAX_HOSTS, ScanFileError
from portspec.errors import is_printable, printable, shorten
from portspec.names import canonical_one
from portspec.ports import PortSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.cli.nmap_input import NmapHost


def entry(host: str, open_sets: Sequence[PortSet], *, is_up: bool) -> list[str]:
    """Return the lines of a host, with a set of open ports for each of its addresses.

    What is open on every address is expected, what is open on some is allowed.
    """
    expect, union = open_sets[0], PortSet()
    for ports in open_sets:
        expect &= ports
        union |= ports
    name = json.dumps(host, ensure_ascii=False)
    if not union:
        return [f"{name}: []" + ("" if is_up else "  # no answer to any probe")]
    if union == expect:
        return [f"{name}: {flow(expect)}"]
    return [
        f"{name}:",
        f"  expect: {flow(expect)}",
        f"  allow: {flow(union - expect)}  # open on some of the addresses",
    ]


def flow(ports: PortSet) -> str:
    """Write ports as a list of YAML in one line."""
    words = (word if word.isdigit() else json.dumps(word) for word in ports.spellings())
    return f"[{', '.join(words)}]"


@dataclass(slots=True)
class _Entry:
    """What becomes of a host: its open ports by address, and comments; without an address only comments."""

    name: str
    is_open: dict[str, set[int]] = field(default_factory=dict)
    answered: bool = False
    has_failed: bool = False
    notes: dict[str, None] = field(default_factory=dict)  # in their order, each once


class NmapBlock:
    """Collects the hosts of a file of nmap; a host that comes again, as masscan's do for each port, is one."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._entries: dict[str, _Entry] = {}  # by canonical name

    @property
    def is_whole(self) -> bool:
        """Whether there is a host, and every address of every host was seen."""
        every = self._entries.values()
        return bool(every) and all(known.is_open and not known.has_failed for known in every)

    def add(self, host: NmapHost) -> None:
        """Add a host. Raises ScanFileError if there are too many."""
        name, notes = _named(host)
        address = host.addresses[0] if host.addresses else ""
        called = name or next(iter((*host.names, *host.addresses)), "")
        key = canonical_one(name) if name else f"#{called}"
        known = self._entries.setdefault(key, _Entry(name or called))
        if len(self._entries) > MAX_HOSTS:
            raise ScanFileError(self._source, 0, f"has more than {MAX_HOSTS:,} hosts; split the scan")
        label = _label(known.name, address)
        problem = _problem(host) if name else "it has neither a name nor an address that conf.yml takes"
        notes += [f"{label}: {note}" for note in ([problem] if problem else _left_out(host))]
        known.notes.update(dict.fromkeys(map(printable, notes)))
        if problem:
            known.has_failed = True
        elif host.has_tcp:
            known.is_open.setdefault(address, set()).update(host.is_open - {0})
            known.answered = known.answered or host.answered

    def lines(self) -> list[str]:
        """Return the lines of all hosts, in the order of the file."""
        lines = [] if self._entries else [f"# {self._source} has no host"]
        for known in self._entries.values():
            lines += [f"# {note}" for note in known.notes]
            if not known.is_open and not known.has_failed:
                lines.append(f"# {_quoted(known.name)}: no TCP port of it was scanned")
            if known.is_open:
                open_sets = [PortSet.of(ports) for ports in known.is_open.values()]
                lines += entry(known.name, open_sets, is_up=known.answered)
        return lines


def _named(host: NmapHost) -> tuple[str, list[str]]:
    """Return what a host is called in conf.yml, "" if nothing will do, and comments about the names that it has.

    That is a name that the user gave it, else its address. What the DNS calls an address is no name of the host for
    whoever scans it: it may lead elsewhere, or belong to somebody else.
    """
    chosen, notes = "", []
    for name in (*host.names, *host.addresses):
        try:
            form = canonical_one(name)
        except ValueError as error:
            notes.append(f"{_quoted(name)} is not taken as a host: {error}")
            continue
        if not chosen:
            chosen = name if is_printable(name) else form
        elif name in host.names and form != canonical_one(chosen):
            notes.append(f"{_quoted(chosen)} is also called {_quoted(name)}")
    if chosen in host.addresses:
        notes += [f"{_quoted(chosen)} has the name {_quoted(name)} in the DNS" for name in host.ptr]
    return chosen, notes


def _problem(host: NmapHost) -> str:
    """Say why nothing is learned of a host; "" if something is."""
    if host.state != "up":
        problem = shorten(f"{host.state} ({host.reason})" if host.reason else host.state)
    elif host.timed_out:
        problem = "its scan timed out"
    else:
        return ""
    return f"{problem}; open: {PortSet.of(host.is_open - {0})}" if host.is_open - {0} else problem


def _left_out(host: NmapHost) -> list[str]:
    """Say what of the ports of a host is not learned."""
    notes = []
    if host.unsure:
        notes.append(f"open|filtered is not open: {', '.join(map(str, sorted(host.unsure)))}")
    if host.unsure_count:
        notes.append(f"open|filtered is not open: {host.unsure_count:,} ports")
    if host.others:
        notes.append(f"only TCP ports are scanned, not {', '.join(host.others)}")
    if 0 in host.is_open:
        notes.append("port 0 is open, which conf.yml has no word for")
    return notes


def _label(name: str, address: str) -> str:
    return _quoted(name) if not address or name == address else f"{_quoted(name)} ({shorten(address)})"


def _quoted(text: str) -> str:
    return json.dumps(shorten(text))
