"""The report as one HTML page that needs nothing else: no script, no other file. Texts of others are only ever text."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2

from portspec import __version__
from portspec.errors import is_printable, printable
from portspec.report import phrases
from portspec.report.contents import NO_MACHINES, NO_NEED, TITLE, summary_lines
from portspec.report.facts import facts, needs
from portspec.report.names import anchor
from portspec.report.rows import FindingRows, accepted_rows, fact_rows, socket_rows
from portspec.report.sockets import MAX_SOCKETS, sockets
from portspec.state.correlation import correlate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.report.contents import Contents
    from portspec.report.fleet import Machine


@dataclass(frozen=True, slots=True)
class _Section:
    """What the template shows of a machine; rows are ready, in pieces."""

    anchor: str
    name: str
    facts: str
    findings: Iterator[str] | None
    accepted: Iterator[str] | None
    sockets: str
    more_sockets: int


def write_page(contents: Contents) -> Iterator[str]:
    """Write the page, in pieces."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("portspec.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.get_template("report.css").render()
    return environment.get_template("report.html").generate(
        version=__version__,
        title=TITLE,
        time=phrases.time(contents.now),
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        summary=list(summary_lines(contents.summary)),
        pressing=_pressing(contents),
        sections=_sections(contents),
        has_machines=bool(contents.fleet),
        needs_attention=bool(contents.pressing),
        no_machines=NO_MACHINES,
        no_need=NO_NEED,
    )


def _pressing(contents: Contents) -> Iterator[tuple[str, str, str]]:
    """Give anchor, name and why for each machine that needs attention."""
    for machine in contents.pressing:
        yield anchor(machine.host), contents.names[machine.host], "; ".join(needs(machine, contents.now))


def _sections(contents: Contents) -> Iterator[_Section]:
    rows = FindingRows()
    for machine in contents.fleet:
        yield _section(machine, contents, rows)


def _section(machine: Machine, contents: Contents, rows: FindingRows) -> _Section:
    correlation = correlate(machine.state, machine.audit)
    host_audit = machine.audit.host_audit if machine.audit else None
    listening = sockets(host_audit.listeners) if host_audit and host_audit.listeners else []
    return _Section(
        anchor=anchor(machine.host),
        name=contents.names[machine.host],
        facts=fact_rows(facts(machine, correlation, contents.now)),
        findings=rows.write(machine.vulnerabilities) if machine.vulnerabilities else None,
        accepted=accepted_rows(machine.audit, machine.excepted) if machine.audit and machine.excepted else None,
        sockets=socket_rows(listening[:MAX_SOCKETS]),
        more_sockets=max(0, len(listening) - MAX_SOCKETS),
    )


def _shown(value: Any) -> Any:
    """Make what is shown printable: also half a surrogate pair, which no file could hold."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return printable(value) if is_text and not is_printable(value) else value
