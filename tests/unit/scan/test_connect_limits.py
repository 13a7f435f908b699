from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.registry import fault
from tests.requirements import forbidden, missing

ROOT = Path(__file__).parents[3]
CHILD = [sys.executable, "-m", "tests.unit.scan.child"]


def run(*command: str) -> list[dict[str, Any]]:
    """Run a command that prints a JSON object a line; give these."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("engine_limit", "real_limit"),
    [(64, 64), (40, 40), (400, 40)],
    ids=["64", "40", "fewer than when the engine was made"],
)
def test_result_is_exact_with_few_descriptors(engine_limit: int, real_limit: int) -> None:
    """With a handful of descriptors, and with fewer than the engine was promised, every port's state is still right."""
    observation, truth = run(*CHILD, "few_descriptors", str(engine_limit), str(real_limit))
    v4, v6 = observation["addresses"]
    assert (v4["open"], v4["filtered"]) == (truth["open"], truth["filtered"])
    assert (v6["open"], v6["filtered"]) == ([], [])
    assert (v4["scanned"], v6["scanned"]) == (2000, 2000)
    assert (v4["reason"], v6["reason"]) == (None, None)


@fault(
    "no descriptors",
    "scans",
    "Without a descriptor for a probe the host is unknown (reason `local_limit`); the next scan works again.",
)
def test_no_descriptor_at_all_is_a_local_limit_not_a_closed_port() -> None:
    """Where no socket can be opened nothing is concluded, the reason is local_limit, and the next scan works again."""
    refused, later = run(*CHILD, "no_descriptor")
    assert [seen["reason"] for seen in refused["addresses"]] == ["local_limit", "local_limit"]
    assert [seen["scanned"] for seen in refused["addresses"]] == [0, 0]
    assert all("too many open files" in seen["detail"] for seen in refused["addresses"])
    assert refused["probes"] == 0
    assert [(seen["reason"], seen["scanned"]) for seen in later["addresses"]] == [(None, 3), (None, 3)]


def scan_without_routes() -> list[dict[str, Any]]:
    """Scan two IPv4 and two IPv6 addresses in a network namespace that has no interface up, hence no traffic."""
    unshare = shutil.which("unshare")
    if unshare is None:
        missing("unshare (util-linux) is not installed")
    apart = [unshare, "--user", "--map-root-user", "--net"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        apart = [unshare, "--net"]
        if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
            forbidden("this user may not make network namespaces")
    (observation,) = run(*apart, *CHILD, "unreachable")
    rows: list[dict[str, Any]] = observation["addresses"]
    return rows


def test_address_without_a_route_is_unknown_not_closed() -> None:
    """In a network namespace without any route nothing is concluded of any address, and no probe is counted."""
    rows = scan_without_routes()
    assert [row["scanned"] for row in rows] == [0, 0, 0, 0]
    assert [row["reason"] for row in rows[:2]] == ["no_route", "no_route"]
    assert "network is unreachable" in rows[0]["detail"]


def test_ipv6_address_on_a_machine_without_ipv6_has_no_route() -> None:
    """Where this machine has no IPv6 address, the reason is no_route: raising limits would not help."""
    rows = scan_without_routes()
    assert [row["reason"] for row in rows[2:]] == ["no_route", "no_route"]
