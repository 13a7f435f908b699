"""What the tests of limits run in a process of their own: `python -m tests.unit.scan.child NAME`; prints JSON."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from typing import TYPE_CHECKING

from portspec.ports import PortSet
from portspec.scan import ScanJob
from portspec.scan.connect import ConnectEngine
from tests.unit.scan.loopback import PATIENCE, V4, V6, listeners, own_address, ports_of, silent_ports

if TYPE_CHECKING:
    from portspec.scan import Observation


def _limit(descriptors_allowed: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_allowed, hard))


def _print(observation: Observation) -> None:
    rows = [
        {
            "address": seen.address,
            "scanned": len(seen.scanned),
            "open": list(seen.open),
            "filtered": list(seen.filtered),
            "reason": seen.failure.reason if seen.failure else None,
            "detail": seen.failure.detail if seen.failure else None,
        }
        for seen in observation.addresses
    ]
    print(json.dumps({"addresses": rows, "probes": observation.probes}))  # noqa: T201


def few_descriptors(engine_limit: int, real_limit: int) -> None:
    """Scan 2,000 ports where the engine believes in one limit and the system enforces another."""
    address = own_address()
    with listeners(address, 5) as opened, silent_ports(address, 2) as silent:
        _limit(engine_limit)
        engine = ConnectEngine(timeout=0.3, retries=0)
        _limit(real_limit)
        try:
            ports = PortSet.of_ranges([(1, 1993)]) | ports_of(opened) | silent
            observation = engine.submit(ScanJob((address, V6), ports)).result(timeout=PATIENCE)
        finally:
            engine.close()
        _limit(engine_limit)
        _print(observation)
        print(json.dumps({"open": list(ports_of(opened)), "filtered": list(silent)}))  # noqa: T201


def no_descriptor() -> None:
    """Scan where no socket can be opened at all, then again where one can."""
    engine = ConnectEngine()
    job = ScanJob((V4, V6), PortSet.of([1, 2, 3]))
    _limit(64)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(taken[0]))
    refused = engine.submit(job).result(timeout=PATIENCE)
    for fd in taken:
        os.close(fd)
    _print(refused)
    _print(engine.submit(job).result(timeout=PATIENCE))
    engine.close()


def unreachable() -> None:
    """Scan addresses that have no route here; the caller sees to it that this network namespace has none."""
    engine = ConnectEngine()
    addresses = (V4, "192.0.2.1", V6, "2001:db8::1")
    _print(engine.submit(ScanJob(addresses, PortSet.of([1, 2, 3]))).result(timeout=PATIENCE))
    engine.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["few_descriptors", engine_limit, real_limit]:
            few_descriptors(int(engine_limit), int(real_limit))
        case ["no_descriptor"]:
            no_descriptor()
        case ["unreachable"]:
            unreachable()
