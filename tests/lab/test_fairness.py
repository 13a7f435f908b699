from __future__ import annotations

import json
import re
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from .namespaces import tool
from .program import PROGRAM, configure, get
from .test_hostile_hosts import KINDS
from .test_odd_hosts import tunnel
from .truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from .network import Lab

LISTEN: Final = "127.0.0.1:10190"
GOOD: Final = [f"198.18.1.{number}" for number in range(1, 31)]
LIMITED: Final = [f"198.18.3.{number}" for number in range(1, 11)]
LATE: Final = "198.18.64.20"
HOSTILE: Final = {f"198.18.64.{30 + place}": kind for place, kind in enumerate(KINDS)}
SILENT: Final = "198.18.2.1"
NAMES: Final = [f"www{number}.test" for number in range(500)]
INTERVAL: Final = 10
WATCHED: Final = 20.0  # seconds
PATIENCE: Final = 60.0


def last_scans(lab: Lab) -> dict[str, float]:
    """Return when each host was last scanned to a verdict, in Unix seconds."""
    page = get(lab, LISTEN, "/metrics?name[]=port_last_scan_timestamp_seconds")
    found = re.findall(r'^port_last_scan_timestamp_seconds\{host="([^"]+)"\} (\S+)$', page, re.MULTILINE)
    return {host: float(at) for host, at in found}


def one_answer_a_second(hosts: Iterable[str]) -> str:
    """Have hosts send one RST a second each, after a burst; a text for ``nft -f -``."""
    limits = "".join(
        f"    ip saddr {host} tcp flags & rst == rst limit rate over 1/second burst 20 packets drop\n" for host in hosts
    )
    return f"table inet lab {{\n  chain output {{\n    type filter hook output priority 0;\n{limits}  }}\n}}\n"


@contextmanager
def exporter(lab: Lab, directory: Path, engine: str) -> Iterator[None]:
    """Have an exporter scan good hosts beside ten that answer once a second, hostile and late ones, and silent names.

    Its ten places are fewer than there are slow hosts, and the 500 names have one address.
    """
    lab.apply(
        [
            *(HostTruth(host, (host,), {(host, 22): State.OPEN}) for host in (*GOOD, *LIMITED)),
            HostTruth("silent", (SILENT,), default=State.DROPPED),
        ]
    )
    names = "".join(f"{SILENT} {name}\n" for name in NAMES)
    lab.write_hosts(f"127.0.0.1 localhost\n{names}")
    lab.run([tool("nft"), "-f", "-"], side="hosts", input=one_answer_a_second(LIMITED), check=True)
    conf = configure(
        directory,
        {host: [22] for host in [*GOOD, *LIMITED, LATE, *HOSTILE, *NAMES]},
        ["1-300"],
        interval=INTERVAL,
        parallelscans=10,
        recheck=0,
        ipv6=False,
        scan={"engine": engine},
    )
    odd: dict[str, dict[str, Any]] = {LATE: {"kind": "normal", "delay": 8, "open": [22]}}
    odd |= {host: {"kind": kind, "open": [22], "others": GOOD[:4]} for host, kind in HOSTILE.items()}
    with tunnel(lab, odd), (directory / "log").open("w") as log:
        process = lab.popen([*PROGRAM, "-c", str(conf), "-j", "--web.listen-address", LISTEN], stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
    lines = [json.loads(line) for line in (directory / "log").read_text().splitlines()]
    assert not [line for line in lines if line["level"] == "error"]


@pytest.mark.parametrize("engine", ["connect", "syn"])
def test_hosts_that_are_slow_keep_no_other_from_being_scanned(lab: Lab, tmp_path: Path, engine: str) -> None:
    """The last scans of good hosts are never older than two intervals, whatever is scanned beside them."""
    ages = dict.fromkeys(GOOD, 0.0)
    with exporter(lab, tmp_path, engine):
        deadline = time.monotonic() + PATIENCE
        while not set(GOOD) <= last_scans(lab).keys():
            assert time.monotonic() < deadline, last_scans(lab).keys()
            time.sleep(0.2)
        end = time.monotonic() + WATCHED
        while time.monotonic() < end:
            now = time.time()
            for host, at in last_scans(lab).items():
                if host in ages:
                    ages[host] = max(ages[host], now - at)
            time.sleep(0.3)
    assert max(ages.values()) < 2 * INTERVAL, ages
