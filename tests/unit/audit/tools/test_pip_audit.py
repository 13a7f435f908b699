"""pip-audit: each CVE is a vulnerability, and the other ids belong to it."""

from __future__ import annotations

import json

from portspec.audit.model import Audit, ToolRun
from portspec.audit.tools import parse


def pip_audit(aliases: list[str]) -> Audit:
    """Read an output of pip-audit with one vulnerability."""
    vulnerability = {"id": "PYSEC-1", "fix_versions": [], "aliases": aliases}
    document = {"dependencies": [{"name": "x", "version": "1", "vulns": [vulnerability]}]}
    return parse(ToolRun("pip-audit", 1, json.dumps(document)))


def test_cve_of_pip_audit_is_the_id() -> None:
    """The ids of PyPI's database and of GitHub are aliases."""
    (each,) = pip_audit(["GHSA-1", "CVE-2024-0009"]).vulnerabilities
    assert (each.id, each.aliases, each.advisories) == ("CVE-2024-0009", ("GHSA-1", "PYSEC-1"), ())


def test_each_cve_of_pip_audit_is_a_vulnerability() -> None:
    """The other ids are advisories about all of them."""
    found = pip_audit(["GHSA-1", "CVE-2024-0009", "CVE-2024-0001"]).vulnerabilities
    assert [(each.id, each.aliases, each.advisories) for each in found] == [
        ("CVE-2024-0001", (), ("GHSA-1", "PYSEC-1")),
        ("CVE-2024-0009", (), ("GHSA-1", "PYSEC-1")),
    ]
