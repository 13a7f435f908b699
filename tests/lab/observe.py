"""Run inside the lab: scan what standard input names, and print the exact state of every (address, port).

Standard input: {"engine": NAME, "options": {...}, "jobs": [{"addresses": [...], "ports": [...]}]}. Standard output: a
list of [address, port, state] and, for an address that could not be seen, [address, 0, reason].
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from portspec.ports import PortSet
from portspec.scan import ScanJob
from portspec.scan.connect import ConnectEngine
from portspec.scan.syn.engine import SynEngine
from portspec.scan.syn.socket import RawChannel

if TYPE_CHECKING:
    from portspec.scan import Engine


def _engine(name: str, options: dict[str, Any]) -> Engine:
    return ConnectEngine(**options) if name == "connect" else SynEngine(RawChannel(), **options)


def main() -> None:
    """Scan all jobs at once."""
    order = json.load(sys.stdin)
    engine = _engine(order["engine"], order["options"])
    jobs = [ScanJob(tuple(job["addresses"]), PortSet.of(job["ports"])) for job in order["jobs"]]
    try:
        observations = [future.result() for future in [engine.submit(job) for job in jobs]]
    finally:
        engine.close()
    found: list[tuple[str, int, str]] = []
    for seen in (address for observation in observations for address in observation.addresses):
        if seen.failure:
            found.append((seen.address, 0, seen.failure.reason.value))
        else:
            found.extend((seen.address, port, seen.state(port).value) for port in seen.scanned)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
