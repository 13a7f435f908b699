"""`portspec learn`: today's state as a specification."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portspec.app.scan_once import scan_once
from portspec.cli.learned import NmapBlock, entry, flow
from portspec.cli.nmap_input import MAX_BYTES, NmapReader, ScanFileError
from portspec.cli.output import write
from portspec.cli.progress import scan_progress
from portspec.config import Config, HostConfig, Specification
from portspec.errors import STANDARD_INPUT, UsageError, printable, spell_source
from portspec.inventory import targets
from portspec.names import check_host
from portspec.ports import NO_PORTS, PortError, parse_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portspec.state.snapshot import HostState

_PIECE: Final = 1 << 16  # bytes


def learn(hosts: Sequence[str], *, ports: str, ipv6: bool, shows_progress: bool) -> int:
    """Scan hosts and print a `hosts:` block, with the `scanports` that were scanned: a whole conf.yml.

    Gives 0, or 3 if a host could not be seen (it is a comment then).
    """
    config = _config(hosts, ports, ipv6=ipv6)
    chosen = targets(config)
    with scan_progress(len(chosen), is_shown=shows_progress) as report:
        result = asyncio.run(scan_once(config, chosen, report))
    _write([line for state in result.states for line in _block(state)], flow(config.hosts[0].ports))
    return 0 if all(state.conclusive for state in result.states) else 3


def learn_from(path: str) -> int:
    """Print the `hosts:` block of what a file with the XML of nmap says; "-" is standard input.

    Gives 0, or 3 if a host is only a comment. Raises ScanFileError.
    """
    source = spell_source(printable(path))
    reader, block = NmapReader(source), NmapBlock(source)
    for piece in _pieces(path, source):
        for host in reader.feed(piece):
            block.add(host)
    reader.close()
    scanports = flow(reader.scanned) if reader.scanned else f"all  # {source} does not say which ports were scanned"
    _write(block.lines(), scanports)
    return 0 if block.is_whole else 3


def _write(hosts: Sequence[str], scanports: str) -> None:
    lines = ["hosts:", *(f"  {line}" for line in hosts), f"scanports: {scanports}"]
    write("\n".join(lines) + "\n")


def _config(hosts: Sequence[str], ports: str, *, ipv6: bool) -> Config:
    try:
        wanted = NO_PORTS
        for entry in ports.split(","):
            wanted |= parse_ports(entry)
    except PortError as error:
        raise UsageError(f"--ports: {error}") from None
    for host in hosts:
        try:
            check_host(host)
        except ValueError as error:
            raise UsageError(str(error)) from None
    entries = (HostConfig(host, Specification(), wanted, interval=0.0) for host in dict.fromkeys(hosts))
    return Config(path="", hosts=tuple(entries), ipv6=ipv6)


def _block(state: HostState) -> list[str]:
    """Return the lines of one host; a host that could not be seen is a comment."""
    if state.conclusive is None:
        failure = state.latest.judgement.failure if state.latest else None
        return [f"# {json.dumps(state.host)}: {failure.detail if failure else 'not scanned'}"]
    open_sets = [observation.accepting for observation in state.conclusive.addresses]
    return entry(state.host, open_sets, is_up=state.conclusive.is_up)


def _pieces(path: str, source: str) -> Iterator[bytes]:
    """Read a file, or standard input for "-", a piece at a time. Raises ScanFileError."""
    read = 0
    try:
        with open(0, "rb", closefd=False) if path == STANDARD_INPUT else Path(path).open("rb") as file:
            while piece := file.read(_PIECE):
                read += len(piece)
                if read > MAX_BYTES:
                    raise ScanFileError(source, 0, f"is larger than {MAX_BYTES >> 20} MiB; split the scan")
                yield piece
    except OSError as error:
        raise ScanFileError(source, 0, (error.strerror or str(error)).lower()) from None
