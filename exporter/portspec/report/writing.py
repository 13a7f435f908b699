"""The forms of the report, by their names."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from portspec.report.contents import Contents, ReportSettings
from portspec.report.page import write_page
from portspec.report.plain import write_text
from portspec.state.document import host_document, timestamp, unscanned_document, vulnerability_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.audit.model import Vulnerability
    from portspec.report.fleet import Machine
    from portspec.report.summary import Summary
    from portspec.state.snapshot import Snapshot

FORMATS: Final = ("html", "text", "json")
_PIECE: Final = 1 << 16  # characters, at least, of a piece but for the last

__all__ = ["FORMATS", "ReportSettings", "write_report"]


def write_report(snapshot: Snapshot, settings: ReportSettings, now: float, form: str) -> Iterator[str]:
    """Write the report of all machines at a Unix time, in pieces of text; `form` is one of FORMATS, or ValueError."""
    if form not in FORMATS:
        raise ValueError(f'"{form}" is not a format (expected {", ".join(FORMATS)})')
    write = {"html": write_page, "text": write_text, "json": _write_json}[form]
    return _gathered(write(Contents.of(snapshot, settings, now)))


def _gathered(pieces: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield "".join(held)
            held.clear()
            size = 0
    yield "".join(held)


def _write_json(contents: Contents) -> Iterator[str]:
    """Write one JSON object, each machine on a line of its own; ASCII, for a host may send half a surrogate pair."""
    yield f'{{"generated_at": {json.dumps(timestamp(contents.now))},\n'
    yield f'"summary": {json.dumps(_summary(contents.summary))},\n"machines": ['
    separator = "\n"
    for machine in contents.fleet:
        yield separator + _machine(machine)
        separator = ",\n"
    yield "\n]}\n" if contents.fleet else "]}\n"


def _machine(machine: Machine) -> str:
    """Give a machine's JSON object; the text of a vulnerability that many machines have is made once."""
    document = _document(machine)
    if not machine.vulnerabilities:
        return json.dumps(document)
    document["audit"]["vulnerabilities"] = []
    found = ", ".join(map(_vulnerability, machine.vulnerabilities))
    # stands there once: within a text its quotes would be escaped
    return json.dumps(document).replace('"vulnerabilities": []', f'"vulnerabilities": [{found}]', 1)


@lru_cache(maxsize=20_000)
def _vulnerability(item: Vulnerability) -> str:
    return json.dumps(vulnerability_document(item))


def _document(machine: Machine) -> dict[str, Any]:
    if machine.state is not None:
        return host_document(machine.state, machine.audit)
    return unscanned_document(machine.audit) if machine.audit else {}


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "machines": summary.machines,
        "need_attention": summary.attention,
        "in_spec": summary.in_spec,
        "out_of_spec": summary.out_of_spec,
        "unknown": summary.unknown,
        "not_scanned_yet": summary.waiting,
        "not_scanned": summary.unscanned,
        "audits": {status.value: count for status, count in summary.audits.items()},
        "vulnerabilities": {severity.value: count for severity, count in summary.vulnerabilities.items()},
        "vulnerable_machines": summary.vulnerable,
        "late_reports": summary.late,
    }
