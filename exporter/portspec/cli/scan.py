"""`portspec scan`: one round now, as a table, as JSON or as the XML of nmap."""

from __future__ import annotations

import asyncio
import io
import shlex
import sys
import time
from typing import TYPE_CHECKING

from portspec import log
from portspec.app.scan_once import ScanRun, scan_once
from portspec.cli.check import source_warnings
from portspec.cli.output import count, write, write_bytes
from portspec.cli.progress import scan_progress
from portspec.documents import indented
from portspec.inventory import select, targets
from portspec.inventory.discovery import Discovery
from portspec.ports import PortSet
from portspec.state.document import host_document
from portspec.state.verdict import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.config import Config
    from portspec.state.snapshot import HostState

_PIPE_WIDTH = 200
_STYLES = {Verdict.IN_SPEC: "green", Verdict.OUT_OF_SPEC: "bold red", Verdict.UNKNOWN: "yellow"}


def scan(config: Config, hosts: Sequence[str], *, form: str, shows_progress: bool) -> int:
    """Scan the named hosts (all, if none is named) and print the result in a format; returns the exit code.

    `form` is one of arguments.SCAN_FORMATS.
    """
    discovery = Discovery(config.discovery)
    asyncio.run(discovery.refresh_all())
    for warning in source_warnings(discovery.stats):
        log.warn(warning)
    chosen = select(targets(config, discovery.hosts), hosts)
    with scan_progress(len(chosen), is_shown=shows_progress) as report:
        result = asyncio.run(scan_once(config, chosen, report))
    if form == "nmap-xml":
        from portspec.state.nmap_xml import NmapRun, nmap_xml

        command = shlex.join(["portspec", "scan", "--format", form, *hosts])
        write_bytes(nmap_xml(result.states, NmapRun(command, result.engine, time.time(), result.duration)))
    else:
        write(_json(result) if form == "json" else _table(result))
    return exit_code(result.states)


def exit_code(states: Sequence[HostState]) -> int:
    """Return 1 if any host is out of spec, else 3 if any is unknown, else 0."""
    verdicts = {state.verdict for state in states}
    if Verdict.OUT_OF_SPEC in verdicts:
        return 1
    return 3 if Verdict.UNKNOWN in verdicts else 0


def _json(result: ScanRun) -> str:
    document = {
        "hosts": [host_document(state) for state in result.states],
        "engine": result.engine,
        "probes_sent": result.probes_sent,
        "duration_seconds": round(result.duration, 6),
    }
    return indented(document) + "\n"


def _table(result: ScanRun) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)  # the edges would be empty lines
    for column in ("HOST", "VERDICT", "MISSING", "UNEXPECTED", "OPEN", "NOTE"):
        table.add_column(column, overflow="fold")
    for state in result.states:
        verdict = state.verdict
        missing, unexpected = (_deviating(state, kind) for kind in (Kind.MISSING, Kind.UNEXPECTED))
        failure = state.latest.judgement.failure if state.latest else None
        table.add_row(
            Text(state.host),
            Text(verdict.value.replace("_", " "), style=_STYLES[verdict]),
            Text(missing, style="red"),
            Text(unexpected, style="bold red"),
            Text(str(state.conclusive.open_ports) if state.conclusive else ""),
            Text(failure.detail if failure else _note(state), style="dim"),
        )
    is_terminal = sys.stdout.isatty()
    width = None if is_terminal else _PIPE_WIDTH
    page = io.StringIO()
    console = Console(file=page, width=width, force_terminal=is_terminal, color_system="auto")
    console.print(table)
    console.print()
    counts = {verdict: sum(state.verdict is verdict for state in result.states) for verdict in Verdict}
    summary = ", ".join(f"{number} {verdict.value.replace('_', ' ')}" for verdict, number in counts.items())
    console.print(
        f"{count(len(result.states), 'host')}: {summary}; "
        f"{count(result.probes_sent, 'probe')} in {result.duration:.2f} s ({result.engine} engine)",
        highlight=False,
    )
    return page.getvalue()


def _deviating(state: HostState, kind: Kind) -> str:
    """Name the ports that deviate, and the addresses where they do if that is not all of them."""
    ports: dict[int, list[str]] = {}
    for item in state.deviations:
        if item.kind is kind:
            ports.setdefault(item.port, []).append(item.address)
    everywhere = len(state.conclusive.addresses) if state.conclusive else 0
    whole = PortSet.of(port for port, addresses in ports.items() if len(addresses) == everywhere)
    partly = [f"{port} ({', '.join(found)})" for port, found in ports.items() if len(found) != everywhere]
    return ", ".join(whole.spellings() + partly)


def _note(state: HostState) -> str:
    if state.excepted:
        return f"excepted: {PortSet.of(item.port for item in state.excepted)}"
    return "" if state.latest is None or state.latest.is_up else "no answer to any probe"
