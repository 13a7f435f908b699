"""The report as one self-contained HTML page: no script, no external file. Pure.

Rows of long tables are formatted here, since a template takes much longer for a million rows. All text is untrusted:
it is made printable and escaped.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import jinja2
from markupsafe import escape

from portspec import __version__
from portspec.audit.model import Severity
from portspec.errors import is_printable, printable
from portspec.priorities import Priority
from portspec.report import wording
from portspec.report.model import anchor
from portspec.report.view import MAX_SOCKETS, attention_reasons, facts, socket_rows
from portspec.state.correlation import correlate
from portspec.state.document import accepting, exception_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portspec.audit.model import Vulnerability
    from portspec.audit.priority import Finding
    from portspec.audit.state import AuditState
    from portspec.report.model import FleetReport, Machine
    from portspec.report.view import Fact, SocketRow

_BATCH_ROWS: Final = 1000  # rows in a piece of output
_MAX_CACHED_ROWS: Final = 50_000  # rows kept for other machines with the same vulnerability: about 20 MB
_SEVERITY_STARTS: Final = {severity: f'<tr valign="top"><td class="{severity}">{severity}' for severity in Severity}
_CLASS_STARTS: Final = {
    (priority, severity): f'<tr valign="top"><td class="{priority}">{priority.words}, {severity}'
    for priority in Priority
    for severity in Severity
}
_SEPARATOR: Final = "\n"  # between texts that are escaped together; no printable text contains it


_Cells: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Section:
    """What the template shows of a machine; rows are HTML."""

    anchor: str
    name: str
    facts: str
    findings: Iterator[str] | None
    accepted: Iterator[str] | None
    sockets: str
    more_sockets: int


def write_page(report: FleetReport) -> Iterator[str]:
    """Yield the page in pieces."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("portspec.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "\n".join(environment.get_template(name).render() for name in ("house.css", "report.css"))
    return environment.get_template("report.html").generate(
        version=__version__,
        title=wording.TITLE,
        time=wording.time(report.now),
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        summary=list(wording.summary_lines(report.summary)),
        attention=_attention(report),
        sections=_sections(report),
        has_machines=bool(report.machines),
        needs_attention=bool(report.needing_attention),
        no_machines=wording.NO_MACHINES,
        no_need=wording.NO_NEED,
        listening_sockets=wording.LISTENING_SOCKETS,
    )


def _attention(report: FleetReport) -> Iterator[tuple[str, str, str]]:
    """Yield anchor, name and reasons of each machine that needs attention."""
    for machine in report.needing_attention:
        yield anchor(machine.host), report.names[machine.host], "; ".join(attention_reasons(machine, report.now))


def _sections(report: FleetReport) -> Iterator[_Section]:
    rows = VulnerabilityRows()
    for machine in report.machines:
        yield _section(machine, report, rows)


def _section(machine: Machine, report: FleetReport, rows: VulnerabilityRows) -> _Section:
    correlation = correlate(machine.state, machine.audit)
    host_audit = machine.audit.host_audit if machine.audit else None
    sockets = socket_rows(host_audit.listeners) if host_audit and host_audit.listeners else []
    return _Section(
        anchor=anchor(machine.host),
        name=report.names[machine.host],
        facts=_fact_rows(facts(machine, correlation, report.now)),
        findings=rows.write(machine.audit.findings, report.now) if machine.audit and machine.vulnerabilities else None,
        accepted=_accepted_rows(machine.audit, machine.excepted) if machine.audit and machine.excepted else None,
        sockets=_socket_rows(sockets[:MAX_SOCKETS]),
        more_sockets=max(0, len(sockets) - MAX_SOCKETS),
    )


def _printable(value: Any) -> Any:
    """Make a text of the template printable: half a surrogate pair, for example, cannot be encoded."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return printable(value) if is_text and not is_printable(value) else value


class VulnerabilityRows:
    """Formats rows of vulnerabilities; what many machines share of a row is formatted once.

    At most `limit` rows are cached.
    """

    def __init__(self, limit: int = _MAX_CACHED_ROWS) -> None:
        self._limit = limit
        self._cached: dict[
            int, tuple[Vulnerability, _Cells]
        ] = {}  # by id(); holds the object so that its id stays its own

    def write(self, found: Iterable[Finding], now: float) -> Iterator[str]:
        """Yield the rows as of a Unix time, many in a piece."""
        rest = iter(found)
        while batch := list(islice(rest, _BATCH_ROWS)):
            yield "".join(_finding_rows(batch, self._cells([item.vulnerability for item in batch]), now))

    def _cells(self, batch: Sequence[Vulnerability]) -> Iterable[_Cells]:
        cached = self._cached
        new = [item for item in batch if id(item) not in cached]
        cells = [_vulnerability_cells(fields) for fields in _escape_rows([_fields(item) for item in new])]
        if len(cached) + len(new) <= self._limit:
            cached.update((id(item), (item, own)) for item, own in zip(new, cells, strict=True))
        if len(new) == len(batch):
            return cells
        rest = iter(cells)
        return (cached[id(item)][1] if id(item) in cached else next(rest) for item in batch)


def _finding_rows(batch: Sequence[Finding], cells: Iterable[_Cells], now: float) -> Iterator[str]:
    """Yield the rows: the class, why a vulnerability is in it, unless it is the last class, and when it is due."""
    reasons = _escape([wording.finding(item, now) for item in batch])
    for item, why, (about, fixed_in) in zip(batch, reasons, cells, strict=True):
        start = _CLASS_STARTS[item.priority, item.vulnerability.severity]
        yield f"{start}{about}<br>{why}{fixed_in}\n" if why else f"{start}{about}{fixed_in}\n"


def _fact_rows(found: Iterable[Fact]) -> str:
    """Return the rows of the table at the head of a machine's section."""
    return "".join(map(_fact_row, found))


def _fact_row(fact: Fact) -> str:
    cell = f'<td class="{fact.tone}">' if fact.tone else "<td>"
    lines = "<br>".join(_escape(fact.lines))
    return f'<tr align="left" valign="top"><th scope="row">{fact.label}{cell}{lines}\n'


def _accepted_rows(audit: AuditState, excepted: Iterable[Vulnerability]) -> Iterator[str]:
    """Yield the rows of the vulnerabilities that do not count, with until when and why."""
    by_id = accepting(audit)
    for item in excepted:
        *fields, why = _escape((*_fields(item), wording.acceptance(exception_for(item, by_id))))
        about, fixed_in = _vulnerability_cells(fields)
        yield f"{_SEVERITY_STARTS[item.severity]}{about}{fixed_in}<td>{why}\n"


def _socket_rows(sockets: Sequence[SocketRow]) -> str:
    rows = [(item.port, item.addresses, item.process or "-", item.user or "-", item.details or "-") for item in sockets]
    return "".join([f'<tr valign="top"><td>{"<td>".join(cells)}\n' for cells in _escape_rows(rows)])


def _fields(item: Vulnerability) -> Sequence[str]:
    fixed_in = ", ".join(item.fixed_in) if item.fixed_in else "-"
    advisories, paths = ", ".join(item.advisories), ", ".join(item.paths)
    return item.package, item.version, item.id, fixed_in, item.title, item.link, advisories, paths


def _vulnerability_cells(escaped: Sequence[str]) -> _Cells:
    """Return the cells behind the first one: package and vulnerability, to which more can be added; fixed versions."""
    package, version, name, fixed_in, title, url, advisories, paths = escaped
    name = name or "without an id"
    shown = f'<a href="{url}">{name}</a>' if _is_link(url) else name
    if advisories:
        shown = f"{shown} ({advisories})"
    about = f"{shown}: {title}" if title and title != name else shown
    where = f"<br>in {paths}" if paths else ""
    return f"<td>{package} {version}{where}<td>{about}", f"<td>{fixed_in}"


def _is_link(url: str) -> bool:
    """Return whether a URL, escaped or not, is one of HTTP or HTTPS, and hence runs nothing."""
    return url.startswith("https://") or url[:8].lower().startswith(("https://", "http://"))


def _escape_rows(rows: Sequence[Sequence[str]]) -> Iterable[Sequence[str]]:
    """Make the texts of many rows of equal length printable, and escape them."""
    if not rows:
        return ()
    texts = iter(_escape([text for row in rows for text in row]))
    return zip(*[texts] * len(rows[0]), strict=True)


def _escape(texts: Sequence[str]) -> Sequence[str]:
    """Make texts printable and escape them, all of them with one call of escape(): a page may have millions."""
    joined = "".join(texts)
    safe = texts if is_printable(joined) else map(printable, texts)
    return str(escape(_SEPARATOR.join(safe))).split(_SEPARATOR)
