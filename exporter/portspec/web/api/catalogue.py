"""All operations of the API. A new one is added to its module, and that module here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.web.api import audits, changes, exporter, findings, hosts, maintenance, nmap, scan, verdicts, worklist
from portspec.web.api.openapi import OPENAPI

if TYPE_CHECKING:
    from portspec.web.api.operation import Operation

OPERATIONS: Final[tuple[Operation, ...]] = (
    *hosts.OPERATIONS,
    *nmap.OPERATIONS,
    *findings.OPERATIONS,
    *worklist.OPERATIONS,
    *changes.OPERATIONS,
    *verdicts.OPERATIONS,
    *scan.OPERATIONS,
    *maintenance.OPERATIONS,
    *exporter.OPERATIONS,
    *audits.OPERATIONS,
    OPENAPI,
)
