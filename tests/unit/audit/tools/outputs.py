"""Outputs of scanners that find nothing, as runs: a test changes what it is about."""

from __future__ import annotations

import json
from typing import Any, Final

from portspec.audit.model import System, ToolRun

DEBIAN: Final = System("Linux", "debian", (), "12")
KIN_OF_RHEL: Final = ("rhel", "centos", "fedora")


def trivy(family: str = "debian", release: str = "12.5", system: System | None = None, **more: Any) -> ToolRun:
    """Return a run of trivy that lists the packages of a system."""
    document = {
        "SchemaVersion": 2,
        "ArtifactName": "/",
        "ArtifactType": "filesystem",
        "Metadata": {"OS": {"Family": family, "Name": release}},
        "Results": [{"Target": f"/ ({family} {release})", "Class": "os-pkgs", "Type": family}],
        **more,
    }
    return ToolRun("trivy", 0, json.dumps(document), system=system)


def grype(
    name: str = "debian", version: str = "12", like: tuple[str, ...] = (), system: System | None = None, **more: Any
) -> ToolRun:
    """Return a run of grype."""
    document = {
        "matches": [],
        "source": {"type": "directory", "target": "/"},
        "distro": {"name": name, "version": version, "idLike": list(like)},
        "descriptor": {"name": "grype", "configuration": {}, "db": {}},
        **more,
    }
    return ToolRun("grype", 0, json.dumps(document), system=system)


def osv_scanner(ecosystem: str, system: System | None = None, **more: Any) -> ToolRun:
    """Return a run of osv-scanner that lists a package of a system."""
    packages = [{"package": {"name": "bash", "version": "5", "ecosystem": ecosystem}}]
    document = {"results": [{"source": {"path": "/srv/sbom.json", "type": "sbom"}, "packages": packages}], **more}
    return ToolRun("osv-scanner", 0, json.dumps(document), system=system)
