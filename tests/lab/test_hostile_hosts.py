"""Scanned hosts that want to disturb the scan, or that of others: they keep, repeat, flood and forge."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from .forger import PORTS, hosts, scan_among_forgeries
from .program import PROGRAM, configure, expected_states, observe
from .test_odd_hosts import CLOSED, DROPPED, OPEN, addresses, tunnel
from .truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .network import Lab

ENGINES: Final = ("connect", "syn")
GOOD: Final = tuple((f"198.18.10.{number}", f"2001:db8:18::10:{number}") for number in range(1, 5))
KINDS: Final = ("clinging", "endless", "garbled", "storming", "repeating")
SCANNED: Final = (*OPEN, *DROPPED, *CLOSED[:100])
#: What is sent at full speed while hosts are scanned, and nothing of which may count.
FLOOD: Final = (
    "SYN-ACK, random",
    "SYN-ACK, close",
    "RST, random",
    "RST from another host",
    "ICMP, random",
    "SYN alone",
)
MOST_MEMORY: Final = 400  # MB of the whole program
#: Runs a program and writes, as the last line of standard error, the most memory that it had, in kilobytes.
MEASURED: Final = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)"
)


def good_hosts() -> list[HostTruth]:
    """Make hosts that answer as they should, with ports in each state."""
    truths = []
    for number, own in enumerate(GOOD):
        ports = {(address, port): State.OPEN for address in own for port in OPEN}
        ports |= {(address, port): State.DROPPED for address in own for port in DROPPED}
        truths.append(HostTruth(f"good{number}.lab", own, ports))
    return truths


def hostile(**more: Any) -> dict[str, dict[str, Any]]:
    """Make a hostile host of each kind, in both families; they know the good ones."""
    others = [address for own in GOOD for address in own]
    host = {"open": OPEN, "dropped": DROPPED, "others": others} | more
    return {address: {**host, "kind": kind} for number, kind in enumerate(KINDS, 1) for address in addresses(number)}


def is_unheard(seen: Mapping[tuple[str, int], str], address: str) -> bool:
    """Return whether nothing was heard of an address, as of one that is down."""
    return {seen.get((address, port)) for port in SCANNED} == {"filtered"}


@pytest.mark.parametrize("engine", ENGINES)
def test_hostile_hosts_and_those_beside_them_are_told_the_truth_of(lab: Lab, engine: str) -> None:
    """Each port is told right, of hosts that cling, send without end or forge, and of those in whose name they do.

    One process answers for all that are hostile. On a busy machine it may answer one too late while it floods for
    another: that one is then cut off, or was never heard, and looked at again. No port may be told wrong.
    """
    truths = good_hosts()
    lab.apply(truths)
    found = hostile()
    every = [*found, *(address for own in GOOD for address in own)]
    states = dict.fromkeys(SCANNED, "closed") | dict.fromkeys(OPEN, "open") | dict.fromkeys(DROPPED, "filtered")
    left = every
    with tunnel(lab, found):
        for _ in range(5):
            seen = observe(lab, [([address], SCANNED) for address in left], engine=engine, timeout=0.9, retries=2)
            cut_off = [address for address in left if address in found and seen.get((address, 0)) == "cut_off"]
            unheard = [address for address in left if address in found and is_unheard(seen, address)]
            told = [address for address in left if address not in (*cut_off, *unheard)]
            right = {(address, port): state for address in told for port, state in states.items()}
            right |= {(address, port): "filtered" for address in unheard for port in SCANNED}
            assert seen == right | {(address, 0): "cut_off" for address in cut_off}
            left = [*cut_off, *unheard]
            if not left:
                break
    assert not left


@pytest.mark.parametrize("engine", ENGINES)
def test_host_that_greets_and_says_no_more_is_not_open(lab: Lab, engine: str) -> None:
    """A SYN in answer to a SYN, which nothing follows, is no open port."""
    lab.apply([])
    found = {address: {"kind": "greeting", "open": OPEN} for address in addresses(1)}
    with tunnel(lab, found):
        seen = observe(lab, [([address], [*OPEN, *CLOSED[:20]]) for address in found], engine=engine, timeout=0.9)
    assert {state for (_, port), state in seen.items() if port in OPEN} == {"filtered"}
    assert {state for (_, port), state in seen.items() if port not in OPEN} == {"closed"}


@pytest.mark.parametrize("engine", ENGINES)
def test_scan_beside_hostile_hosts_has_the_right_verdicts(lab: Lab, tmp_path: Path, engine: str) -> None:
    """The verdict of each host is right, or unknown where it is the hostile one; memory stays bounded."""
    lab.apply(good_hosts())
    found = hostile()
    entries: dict[str, Any] = {address: {"expect": OPEN} for own in GOOD[:2] for address in own}
    entries |= {address: {"expect": [22, 443]} for own in GOOD[2:] for address in own}
    entries |= {address: {"expect": [22, 443]} for address in found}
    conf = configure(tmp_path, entries, SCANNED, scan={"engine": engine, "timeout": 0.9})
    with tunnel(lab, found):
        done = lab.run([sys.executable, "-c", MEASURED, *PROGRAM, "scan", "-c", str(conf), "--json"], timeout=300)
    told = {host["host"]: host for host in json.loads(done.stdout)["hosts"]}
    assert {told[address]["verdict"] for own in GOOD[:2] for address in own} == {"in_spec"}
    for address in (address for own in GOOD[2:] for address in own):
        assert (told[address]["verdict"], told[address]["unexpected"]) == ("out_of_spec", ["8000"])
    for address in found:
        assert told[address]["verdict"] == "unknown" or told[address]["unexpected"] == ["8000"], told[address]
        assert told[address]["missing"] == []
    assert int(done.stderr.splitlines()[-1]) < MOST_MEMORY * 1024


@pytest.mark.parametrize("engine", ENGINES)
def test_flood_of_forgeries_changes_no_state(lab: Lab, engine: str) -> None:
    """While the network floods the scanner with SYN-ACKs, RSTs and ICMP errors each port is told right."""
    truths = hosts()
    lab.apply(truths)
    jobs = [(truth.addresses, PORTS) for truth in truths]
    outcome = scan_among_forgeries(lab, jobs, 20_000, kinds=FLOOD, engine=engine, timeout=0.9, retries=2)
    assert outcome.found == expected_states(truths, PORTS)
    assert sum(outcome.sent.values()) == 20_000 * len(FLOOD)
