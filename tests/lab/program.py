"""portspec in the lab: configurations for drawn truths, and the program run on the scanner's side."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .network import Lab
    from .truth import HostTruth

PROGRAM: Final = [sys.executable, "-m", "portspec"]
OBSERVE: Final = [sys.executable, str(Path(__file__).with_name("observe.py"))]
# In the lab an answer is there at once; silence is known after a tenth of a second.
QUICK: Final = {"timeout": 0.1, "retries": 1}


def configure(directory: Path, hosts: dict[str, Any], scanports: Iterable[int | str] = (), **keys: Any) -> Path:
    """Write a conf.yml (as JSON, which is YAML) with both families and quick timeouts."""
    document = {"ipv6": True, "parallelscans": 16, "hosts": hosts, "scanports": list(scanports), "scan": QUICK} | keys
    path = directory / "conf.yml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def scan(lab: Lab, conf: Path, *arguments: str, prefix: Sequence[str] = ()) -> tuple[int, dict[str, Any]]:
    """Run `portspec scan --json`; returns the exit code and what it printed.

    With a `prefix`, words before the command, the program is really started; otherwise it is forked, which is quicker.
    """
    words = ["scan", "-c", str(conf), "--json", *arguments]
    done = (
        lab.run([*prefix, *PROGRAM, *words], timeout=300)
        if prefix
        else lab.fork("portspec", *words, timeout=300).result()
    )
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, document


#: The state of every (address, port); of (address, 0) the reason why an address could not be seen.
States = dict[tuple[str, int], str]
#: Addresses, and the ports to scan on each of them.
Job = tuple[Sequence[str], Iterable[int]]


def order(jobs: Iterable[Job], *, engine: str = "syn", **options: Any) -> str:
    """Write what observe.py reads."""
    listed = [{"addresses": list(addresses), "ports": list(ports)} for addresses, ports in jobs]
    return json.dumps({"engine": engine, "options": options, "jobs": listed})


def states(output: str) -> States:
    """Read what observe.py wrote."""
    return {(address, port): state for address, port, state in json.loads(output)}


def observe(lab: Lab, jobs: Iterable[Job], *, engine: str = "syn", limit: float = 180, **options: Any) -> States:
    """Scan with an engine alone, within `limit` seconds; its options are quick unless they are given."""
    forked = lab.fork("observe", stdin=order(jobs, engine=engine, **(QUICK | options)), timeout=limit)
    return states(forked.result(check=True).stdout)


def get(lab: Lab, server: str, path: str) -> str:
    """Return what an HTTP server on the scanner's side (HOST:PORT) has; nothing while it does not listen."""
    return lab.fork("get", server, path).result().stdout


def expected_states(truths: Iterable[HostTruth], ports: Iterable[int]) -> States:
    """Return the state of every port of every address."""
    return {
        (address, port): truth.expected(address, port)
        for truth in truths
        for address in truth.addresses
        for port in ports
    }


def with_descriptors(limit: int) -> list[str]:
    """Return the words before a command that bound its open files, soft and hard."""
    assert shutil.which("prlimit")
    return ["prlimit", f"--nofile={limit}:{limit}"]


def expected_addresses(truth: HostTruth, ports: Sequence[int]) -> list[tuple[str, list[str], int, int]]:
    """Return (address, open ports, number closed, number filtered) for each address of a host."""
    rows = []
    for address in truth.addresses:
        verdicts = {port: truth.expected(address, port) for port in ports}
        states = list(verdicts.values())
        open_ports = [str(port) for port, verdict in verdicts.items() if verdict == "open"]
        rows.append((address, open_ports, states.count("closed"), states.count("filtered")))
    return sorted(rows)
