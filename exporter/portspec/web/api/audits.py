"""How the paths to which agents send audits are described; portspec/web/audits.py has their handlers."""

from __future__ import annotations

from typing import Final, TypedDict

from portspec.web.api.operation import JSON, Answer, Operation, problems


class AuditAnswer(TypedDict):
    """What becomes of an audit."""

    message: str


_ENVELOPE: Final = "application/vnd.portspec.audit"
AUDITS: Final = Operation(
    "POST",
    "/api/v1/audits",
    "sendAudit",
    "accept a signed audit of a host",
    {
        200: Answer("the same audit is archived already", {JSON: AuditAnswer}),
        201: Answer("the audit is archived", {JSON: AuditAnswer}),
        **problems(
            _400="it is no audit",
            _408="it arrives too slowly",
            _409="the host has sent another audit of that day",
        ),
    },
    body=_ENVELOPE,
    tag="audits",
)
REPORTS: Final = Operation(
    "POST",
    "/api/v1/reports",
    "sendReport",
    "the path to which agents before 0.2 send audits",
    problems(_410="always; the detail names the new path"),
    body=_ENVELOPE,
    tag="audits",
)
OPERATIONS: Final = (AUDITS, REPORTS)
