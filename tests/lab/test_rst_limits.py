"""Hosts that send few RSTs a second: what they do not answer is no silence of the port."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from .program import QUICK, configure, expected_addresses, scan
from .truth import HostTruth, State

if TYPE_CHECKING:
    from pathlib import Path

    from .network import Lab

STATES: Final = {22: State.OPEN, 443: State.OPEN, 81: State.DROPPED, 82: State.DROPPED, 83: State.DROPPED}
#: RSTs a second, and how many ports are scanned: all RSTs take two or three seconds.
HOSTS: Final = {
    "198.18.5.1": (200, 400),
    "198.18.5.2": (50, 100),
    "2001:db8:18::5:2": (50, 100),
    "2001:db8:18::5:3": (10, 15),
}
# A token bucket for each host, as the kernel's own limits are (tcp_invalid_ratelimit, icmp_ratelimit), full at first.
LIMIT: Final = """\
    {family} saddr {address} tcp flags & rst == rst limit rate {rate}/second burst {rate} packets accept
    {family} saddr {address} tcp flags & rst == rst counter name {counter} drop
"""


def limits() -> str:
    """Write the rules that bound the RSTs of each host, and count those that were not sent."""
    table = "table inet few_rsts\ndelete table inet few_rsts\ntable inet few_rsts {\n"
    table += "".join(f"  counter host{number} {{}}\n" for number, _ in enumerate(HOSTS))
    table += "  chain output { type filter hook output priority -20; policy accept;\n"
    for number, (address, (rate, _)) in enumerate(HOSTS.items()):
        family = "ip6" if ":" in address else "ip"
        table += LIMIT.format(family=family, address=address, rate=rate, counter=f"host{number}")
    return table + "  }\n}\n"


def withheld(lab: Lab) -> list[int]:
    """Count the RSTs of each host that were not sent."""
    done = lab.run(["nft", "list", "table", "inet", "few_rsts"], side="hosts", check=True)
    return [int(packets) for packets in re.findall(r"counter host\d+ {\s+packets (\d+)", done.stdout)]


@pytest.mark.parametrize("engine", ["connect", "syn"])
def test_host_that_limits_its_rsts_is_told_the_truth_of(lab: Lab, tmp_path: Path, engine: str) -> None:
    """With 200, 50 or 10 RSTs a second no closed port is filtered, no open one missed, and the verdict is right."""
    scanned = {address: [*STATES, *range(1000, 1000 + ports - len(STATES))] for address, (_, ports) in HOSTS.items()}
    truths = {
        address: HostTruth(address, (address,), {(address, port): state for port, state in STATES.items()})
        for address in HOSTS
    }
    lab.apply(list(truths.values()))
    told: dict[str, Any] = {address: {"expect": [22], "scanports": ports} for address, ports in scanned.items()}
    lab.run(["nft", "-f", "-"], side="hosts", input=limits(), check=True)
    try:
        code, document = scan(lab, configure(tmp_path, told, scan=QUICK | {"engine": engine}))
        were_withheld = withheld(lab)
    finally:
        lab.run(["nft", "delete", "table", "inet", "few_rsts"], side="hosts", check=True)
    assert code == 1
    for host in document["hosts"]:
        assert (host["verdict"], host["unexpected"], host["missing"]) == ("out_of_spec", ["443"], []), host["detail"]
        (found,) = host["addresses"]
        row = (found["address"], found["open"], found["closed"], found["filtered"])
        assert [row] == expected_addresses(truths[host["host"]], scanned[host["host"]])
    assert all(were_withheld)
