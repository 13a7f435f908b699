"""`portspec learn`: today's state as a specification."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from portspec.app.scan_once import scan_once
from portspec.cli.output import write
from portspec.cli.progress import scan_progress
from portspec.config import Config, HostConfig, Specification
from portspec.errors import UsageError
from portspec.inventory import targets
from portspec.names import check_host
from portspec.ports import NO_PORTS, PortError, PortSet, parse_ports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.state.snapshot import HostState


def learn(hosts: Sequence[str], *, ports: str, ipv6: bool, shows_progress: bool) -> int:
    """Scan hosts and print a `hosts:` block, with the `scanports` that were scanned: a whole conf.yml.

    Gives 0, or 3 if a host could not be seen (it is a comment then).
    """
    config = _config(hosts, ports, ipv6=ipv6)
    chosen = targets(config)
    with scan_progress(len(chosen), is_shown=shows_progress) as report:
        result = asyncio.run(scan_once(config, chosen, report))
    lines = ["hosts:", *(f"  {line}" for state in result.states for line in _block(state))]
    lines.append(f"scanports: {_flow(config.hosts[0].ports)}")
    write("\n".join(lines) + "\n")
    return 0 if all(state.conclusive for state in result.states) else 3


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
    """Return the lines of one host: what is open on every address is expected, what is on some is allowed."""
    if state.conclusive is None:
        failure = state.latest.judgement.failure if state.latest else None
        return [f"# {json.dumps(state.host)}: {failure.detail if failure else 'not scanned'}"]
    open_sets = [observation.accepting for observation in state.conclusive.addresses]
    expect = open_sets[0]
    union = PortSet()
    for ports in open_sets:
        expect &= ports
        union |= ports
    name = json.dumps(state.host, ensure_ascii=False)
    if not union:
        return [f"{name}: []" + ("" if state.conclusive.is_up else "  # no answer to any probe")]
    if union == expect:
        return [f"{name}: {_flow(expect)}"]
    return [
        f"{name}:",
        f"  expect: {_flow(expect)}",
        f"  allow: {_flow(union - expect)}  # open on some of the addresses",
    ]


def _flow(ports: PortSet) -> str:
    words = (word if word.isdigit() else json.dumps(word) for word in ports.spellings())
    return f"[{', '.join(words)}]"
