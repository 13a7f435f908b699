"""The report as one JSON object. Pure."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from portspec.state.document import (
    host_document,
    priority_document,
    timestamp,
    unscanned_document,
    vulnerability_document,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.audit.model import Vulnerability
    from portspec.audit.priority import Finding
    from portspec.report.model import FleetReport, Machine, Summary


def write_json(report: FleetReport) -> Iterator[str]:
    """Yield one JSON object with one line per machine; in ASCII, since a host may send half a surrogate pair."""
    yield f'{{"generated_at": {json.dumps(timestamp(report.now))},\n'
    yield f'"summary": {json.dumps(_summary(report.summary))},\n"machines": ['
    separator = "\n"
    for machine in report.machines:
        yield separator + _machine(machine)
        separator = ",\n"
    yield "\n]}\n" if report.machines else "]}\n"


def _machine(machine: Machine) -> str:
    """Return the JSON object of a machine; a vulnerability that many machines share is encoded once."""
    document = _document(machine)
    if not machine.vulnerabilities:
        return json.dumps(document)
    document["audit"]["vulnerabilities"] = []
    found = ", ".join(map(_finding, machine.audit.findings if machine.audit else ()))
    # occurs once: within a string the quotes would be escaped
    return json.dumps(document).replace('"vulnerabilities": []', f'"vulnerabilities": [{found}]', 1)


def _finding(finding: Finding) -> str:
    priority = json.dumps(priority_document(finding))
    return f"{_vulnerability(finding.vulnerability)[:-1]}, {priority[1:]}"


@lru_cache(maxsize=20_000)
def _vulnerability(item: Vulnerability) -> str:
    return json.dumps(vulnerability_document(item))


def _document(machine: Machine) -> dict[str, Any]:
    if machine.state is not None:
        return {**host_document(machine.state, machine.audit)}
    return {**unscanned_document(machine.audit)} if machine.audit else {}


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
        "classes": {priority.value: count for priority, count in summary.classes.items()},
        "vulnerable_machines": summary.vulnerable,
        "late_reports": summary.late,
    }
