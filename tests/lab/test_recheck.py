from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from .program import PROGRAM, configure, get
from .truth import HostTruth, State

if TYPE_CHECKING:
    from pathlib import Path

    from .network import Lab

HOSTS: Final = [f"198.18.1.{number}" for number in range(1, 21)]
LISTEN: Final = "127.0.0.1:10190"
RECHECKS: Final = 60
PATIENCE: Final = 100.0


def ask(lab: Lab, path: str) -> str:
    """Ask the exporter on the scanner's side; nothing while it does not listen."""
    return get(lab, LISTEN, path)


def verdicts(lab: Lab) -> dict[str, list[str]]:
    """Return the unexpected ports of each host."""
    found: dict[str, Any] = json.loads(ask(lab, "/api/v1/hosts?limit=100") or '{"hosts": []}')
    return {host["host"]: host["unexpected"] for host in found["hosts"] if host["last_scan"]}


def rechecks(lab: Lab) -> int:
    """Return how often ports were looked at again; none while the exporter starts."""
    name = "portspec_rechecks_total"
    lines = ask(lab, f"/metrics?name[]={name}").splitlines()
    return next((int(float(line.split()[1])) for line in lines if line.startswith(f"{name} ")), 0)


@pytest.mark.parametrize("engine", ["connect", "syn"])
def test_open_port_is_not_taken_for_closed_because_of_loss(lab: Lab, tmp_path: Path, engine: str) -> None:
    """With a tenth of all packets lost no look ends a deviation that is there, and those that are mended end."""
    lab.apply([HostTruth(host, (host,), {(host, 22): State.OPEN, (host, 80): State.OPEN}) for host in HOSTS])
    lab.loss(10)
    scan = {"engine": engine, "timeout": 0.3, "retries": 1}
    conf = configure(
        tmp_path, {host: [22] for host in HOSTS}, ["1-200"], interval="1d", recheck=1, scan=scan, parallelscans=20
    )
    with (tmp_path / "log").open("w") as log:
        exporter = lab.popen([*PROGRAM, "-c", str(conf), "-j", "--web.listen-address", LISTEN], stdout=log, stderr=log)
    deviating = {host: ["80"] for host in HOSTS}
    try:
        deadline = time.monotonic() + PATIENCE
        while rechecks(lab) < RECHECKS:
            assert time.monotonic() < deadline, (rechecks(lab), verdicts(lab))
            time.sleep(0.2)
        assert verdicts(lab) == deviating
        assert "no longer so" not in (tmp_path / "log").read_text().replace("_", " ")
        for host in HOSTS[:10]:
            lab.close_port(host, 80)
        wanted = deviating | {host: [] for host in HOSTS[:10]}
        while verdicts(lab) != wanted:
            assert time.monotonic() < deadline, verdicts(lab)
            time.sleep(0.2)
    finally:
        exporter.terminate()
        try:
            exporter.wait(timeout=10)
        except subprocess.TimeoutExpired:
            exporter.kill()
