"""Reads `pro security-status --format json`, schema 0.1 (`ua security-status` before version 27.11).

The first version of the schema had no number. The output lists the security updates that are missing, one entry for
each version: those of the security pocket, and those that only Ubuntu Pro (ESM) has, with whether this host gets them.
It has no CVEs and no installed versions. Packages that are not from Ubuntu are counted but not checked. pro exits with
0 whether it lists some or not. Source: uaclient/security_status.py of the versions 27.5 to 34.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.coverage import past_standard_support
from portspec.audit.tools.json_reader import read_json
from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from portspec.audit.tools.json_reader import JsonReader
    from portspec.audit.tools.result import ResultBuilder

SECURITY_UPDATE: Final = "security update available"
_SCHEMA_VERSION: Final = "0.1"
_SUMMARY_KEYS: Final = {  # the key of the summary that counts the entries of each service
    "standard-security": "num_standard_security_updates",
    "esm-infra": "num_esm_infra_updates",
    "esm-apps": "num_esm_apps_updates",
}
_UPGRADE_AVAILABLE: Final = "upgrade_available"
_OTHER_STATUSES: Final = {  # uaclient.security_status.UpdateStatus
    "pending_attach": "which this host is not attached to",
    "pending_enable": "where it is not enabled",
    "upgrade_unavailable": "which does not entitle this host to it",
}


def read(result: ResultBuilder) -> None:
    """Read the output of pro."""
    system = result.run.system
    if system is not None and not system.is_kin("ubuntu"):
        result.mark_unsupported(f"pro only knows the packages of Ubuntu, not of {system.spelled}")
    root = read_json(result.run.output, result)
    if root is None:
        return
    schema = root.text("_schema_version")
    if schema and schema != _SCHEMA_VERSION:
        result.fail(f"_schema_version is {quote(schema)}, expected {_SCHEMA_VERSION}")
    summary = root.object("summary", is_required=True)
    entries = root.objects("packages", is_required=True)
    _check_summary(result, summary, Counter(_add(result, entry) for entry in entries))
    result.covers(Scope.SYSTEM)
    result.complete(clean=(0,), vulnerable=(0,))


def _check_summary(result: ResultBuilder, summary: JsonReader, listed: Counter[str]) -> None:
    """Compare the list with its summary, and check what "no updates" depends on."""
    for service, key in _SUMMARY_KEYS.items():
        stated = summary.integer(key, is_required=True)
        if stated is not None and stated != listed[service]:
            result.fail(f"the summary counts {stated} updates of {service}, but the list has {listed[service]}")
    if summary.integer("num_installed_packages", is_required=True) == 0:
        result.mark_inconclusive("pro found no installed packages")
    release = past_standard_support(result.run)
    if release and "esm-infra" not in summary.object("ua", is_required=True).texts("enabled_services"):
        result.mark_inconclusive(
            f"{release} only gets security updates from Ubuntu Pro (esm-infra), which is not enabled"
        )


def _add(result: ResultBuilder, entry: JsonReader) -> str:
    """Add an entry of the list. Return its service."""
    package, version = entry.text("package", is_required=True), entry.text("version", is_required=True)
    service, status = entry.text("service_name", is_required=True), entry.text("status", is_required=True)
    if service and service not in _SUMMARY_KEYS:
        result.fail(f"service_name is {quote(service)}, expected {', '.join(_SUMMARY_KEYS)}")
    if status and status != _UPGRADE_AVAILABLE and status not in _OTHER_STATUSES:
        result.fail(f"status is {quote(status)}, expected {', '.join((_UPGRADE_AVAILABLE, *_OTHER_STATUSES))}")
    obstacle = _OTHER_STATUSES.get(status)
    title = f"security update only with Ubuntu Pro ({service}), {obstacle}" if obstacle else SECURITY_UPDATE
    if package and version:
        result.add(package, "", (), title=title, fixed_in=[version])
    return service
