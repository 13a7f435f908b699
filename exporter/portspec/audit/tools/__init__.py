"""Readers of the output of audit tools."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Audit, Status
from portspec.audit.tools import (
    apk,
    apt,
    arch_audit,
    debsecan,
    dnf,
    grype,
    osv_scanner,
    pip_audit,
    pkg_admin,
    pkg_audit,
    portaudit,
    trivy,
    ubuntu_pro,
    zypper,
)
from portspec.audit.tools.fields import parse_timestamp
from portspec.audit.tools.output import AGENT_PREFIX
from portspec.audit.tools.result import ResultBuilder, merge, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portspec.audit.model import ToolRun

_READERS: Final[Mapping[str, Callable[[ResultBuilder], None]]] = MappingProxyType(
    {
        "portaudit": portaudit.read,
        "pkg-audit": pkg_audit.read,
        "debsecan": debsecan.read,
        "osv-scanner": osv_scanner.read,
        "trivy": trivy.read,
        "grype": grype.read,
        "pip-audit": pip_audit.read,
        "ubuntu-pro": ubuntu_pro.read,
        "apt": apt.read,
        "arch-audit": arch_audit.read,
        "pkg-admin": pkg_admin.read,
        "apk": apk.read,
        "dnf": dnf.read,
        "zypper": zypper.read,
    }
)
TOOLS: Final = tuple(_READERS)
_DATABASE_TIME: Final = f"{AGENT_PREFIX}database of "  # followed by a timestamp
_MAX_TIMESTAMP_LENGTH: Final = 64  # characters


def parse(*runs: ToolRun) -> Audit:
    """Return the audit that the runs of a host's tools amount to; there is at least one run.

    Never raises, whatever the output. Takes time linear in the length of the output. A tool that is not in TOOLS is
    unsupported.
    """
    return merge(runs, [_parse(run) for run in runs])


def _parse(run: ToolRun) -> Audit:
    reader = _READERS.get(run.tool)
    if reader is None:
        return Audit(Status.UNSUPPORTED, reason=f"unknown tool {quote(run.tool)}, expected one of {', '.join(TOOLS)}")
    result = ResultBuilder(run)
    # If the tool does not print the age of its database, the agent may do so in the first line of standard error.
    first = run.errors[: len(_DATABASE_TIME) + _MAX_TIMESTAMP_LENGTH].partition("\n")[0]
    if first.startswith(_DATABASE_TIME):
        result.set_database_time(parse_timestamp(first.removeprefix(_DATABASE_TIME)))
    reader(result)
    return result.build()
