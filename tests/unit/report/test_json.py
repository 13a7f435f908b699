from __future__ import annotations

import json
from typing import Any

from portspec.state.document import host_document, unscanned_document
from portspec.state.snapshot import Snapshot
from tests.unit.report.fleets import fleet
from tests.unit.report.reading import written


def document(of: Snapshot) -> dict[str, Any]:
    """Write the JSON and read it."""
    text = written(of, "json")
    found: dict[str, Any] = json.loads(text)
    assert text.isascii()
    return found


def test_json_has_the_objects_of_the_api() -> None:
    """Each machine is the same object as in the API, by its whole name, in the order of the report."""
    of = fleet()
    found = document(of)
    assert list(found) == ["generated_at", "summary", "machines"]
    assert found["generated_at"] == "2023-11-14T22:13:20.000Z"
    machines = {machine["host"]: machine for machine in found["machines"]}
    assert list(machines)[:3] == ["shop.example.org", "db1.example.org", "web1.example.org"]
    assert machines.keys() == {*of.hosts, *of.audits}
    for host, state in of.hosts.items():
        assert machines[host] == host_document(state, of.audits.get(host))
    for host in of.audits.keys() - of.hosts.keys():
        assert machines[host] == unscanned_document(of.audits[host])
    assert len({tuple(machine) for machine in found["machines"]}) == 1


def test_summary_as_an_object() -> None:
    """The numbers at the top have names."""
    assert document(fleet())["summary"] == {
        "machines": 12,
        "need_attention": 11,
        "in_spec": 5,
        "out_of_spec": 2,
        "unknown": 2,
        "not_scanned_yet": 1,
        "not_scanned": 2,
        "audits": {"clean": 3, "vulnerable": 2, "failed": 1, "stale_database": 1, "unsupported": 1, "never": 1},
        "vulnerabilities": {"critical": 1, "high": 1, "medium": 1, "low": 1, "negligible": 0, "unknown": 0},
        "classes": {"fix_now": 0, "fix_soon": 0, "plan": 2, "rest": 2},
        "vulnerable_machines": 2,
        "late_reports": 1,
    }


def test_json_without_machines() -> None:
    """A configuration without hosts gives the same object, with an empty list."""
    found = document(Snapshot())
    assert found["machines"] == []
    assert found["summary"]["machines"] == 0


def test_each_machine_has_a_line() -> None:
    """A machine stands in one line, so that line tools can pick it."""
    lines = written(fleet(), "json").splitlines()
    assert [json.loads(line.rstrip(","))["host"] for line in lines[3:-1]] == [
        machine["host"] for machine in document(fleet())["machines"]
    ]
