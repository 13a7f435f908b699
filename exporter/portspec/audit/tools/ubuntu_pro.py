"""`pro security-status --format json` (`ua security-status` before version 27.11), schema 0.1; the first had no number.

It lists the security updates that an installed package has not got, one entry for each version: those of the security
pocket, and those that only Ubuntu Pro (ESM) has, with whether this host gets them. It names no CVE and no installed
version. Packages that are not Ubuntu's are counted, and not looked at. It ends with 0 whether it lists some or not.
Source: uaclient/security_status.py of the versions 27.5 to 34.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.draft import quote
from portspec.audit.tools.tree import read_tree
from portspec.audit.tools.ubuntu import past_support

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft
    from portspec.audit.tools.tree import Node

UPDATE: Final = "security update available"
_SCHEMA: Final = "0.1"
_POCKET: Final = "standard-security"
_COUNTS: Final = {  # of the summary, each of the entries of a service
    _POCKET: "num_standard_security_updates",
    "esm-infra": "num_esm_infra_updates",
    "esm-apps": "num_esm_apps_updates",
}
_GOT: Final = "upgrade_available"
_WHY_NOT: Final = {  # uaclient.security_status.UpdateStatus
    "pending_attach": "which this host is not attached to",
    "pending_enable": "where it is not enabled",
    "upgrade_unavailable": "which does not entitle this host to it",
}


def read(draft: Draft) -> None:
    """Read what pro printed."""
    system = draft.run.system
    if system is not None and not system.is_kin("ubuntu"):
        draft.unsupported(f"pro knows the packages of Ubuntu, not those of {system.spelled}")
    root = read_tree(draft.run.output, draft)
    if root is None:
        return
    schema = root.text("_schema_version")
    if schema and schema != _SCHEMA:
        draft.fail(f"_schema_version is {quote(schema)}, expected {_SCHEMA}")
    summary = root.branch("summary", is_required=True)
    _judge(draft, summary, Counter(_add(draft, entry) for entry in root.branches("packages", is_required=True)))
    draft.covers(Scope.SYSTEM)
    draft.end(clean=(0,), found=(0,))


def _judge(draft: Draft, summary: Node, listed: Counter[str]) -> None:
    """Hold the list against its summary, and say what is missing for an empty one to mean anything."""
    for service, name in _COUNTS.items():
        said = summary.count(name, is_required=True)
        if said is not None and said != listed[service]:
            draft.fail(f"the summary counts {said} updates of {service}, the list has {listed[service]}")
    if summary.count("num_installed_packages", is_required=True) == 0:
        draft.doubt("pro saw no installed package")
    release = past_support(draft.run)
    if release and "esm-infra" not in summary.branch("ua", is_required=True).texts("enabled_services"):
        draft.doubt(f"{release} gets security updates only with Ubuntu Pro (esm-infra), which is not enabled")


def _add(draft: Draft, entry: Node) -> str:
    """Add an entry of the list; give its service."""
    package, version = entry.text("package", is_required=True), entry.text("version", is_required=True)
    service, status = entry.text("service_name", is_required=True), entry.text("status", is_required=True)
    if service and service not in _COUNTS:
        draft.fail(f"service_name is {quote(service)}, expected {', '.join(_COUNTS)}")
    if status and status != _GOT and status not in _WHY_NOT:
        draft.fail(f"status is {quote(status)}, expected {', '.join((_GOT, *_WHY_NOT))}")
    why_not = _WHY_NOT.get(status)
    title = f"security update only with Ubuntu Pro ({service}), {why_not}" if why_not else UPDATE
    if package and version:
        draft.add(package, "", (), title=title, fixed_in=[version])
    return service
