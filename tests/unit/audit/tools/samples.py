"""Loads the samples of tests/data/audit: outputs of tools, each with the audit that is expected for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from portspec.audit.model import Audit, Scope, Severity, Status, System, ToolRun, Vulnerability

DATA: Final = Path(__file__).parents[3] / "data" / "audit"


@dataclass(frozen=True, slots=True)
class Sample:
    """A run of a tool, and the expected audit."""

    name: str
    run: ToolRun
    audit: Audit

    @property
    def is_json(self) -> bool:
        """True if the output is a JSON document."""
        return self.run.output.startswith(("{", "["))


def load() -> list[Sample]:
    """Return all samples, sorted by name."""
    files = sorted(path for path in DATA.glob("*/*") if not path.name.endswith(".expected.json"))
    return [_load(path) for path in files]


def _load(path: Path) -> Sample:
    expected = json.loads(path.with_suffix(".expected.json").read_text("utf-8"))
    output = path.read_bytes().decode("utf-8")
    audit = Audit(
        Status(expected["status"]),
        tuple(map(_vulnerability, expected.get("vulnerabilities", []))),
        expected.get("reason", ""),
        expected.get("database_at"),
        Status(expected.get("without", "clean" if expected["status"] == "vulnerable" else expected["status"])),
        tuple(map(Scope, expected.get("scopes", []))),
    )
    tool = path.parent.name
    run: dict[str, Any] = expected["run"]
    if "system" in run:
        run["system"] = System(**{**run["system"], "like": tuple(run["system"].get("like", ()))})
    return Sample(f"{tool}/{path.stem}", ToolRun(tool=tool, output=output, **run), audit)


def _vulnerability(fields: dict[str, Any]) -> Vulnerability:
    read: dict[str, Any] = {
        **fields,
        "severity": Severity(fields.get("severity", "unknown")),
        "aliases": tuple(fields.get("aliases", ())),
        "fixed_in": tuple(fields.get("fixed_in", ())),
        "advisories": tuple(fields.get("advisories", ())),
        "paths": tuple(fields.get("paths", ())),
    }
    return Vulnerability(**read)
