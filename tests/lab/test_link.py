"""Silence counts only where something could have been heard: lost links, and next hops that do not answer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.faults.registry import fault

from .program import OBSERVE, PROGRAM, QUICK, configure, expected_states, observe, order, scan, states
from .truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .network import Lab

ENGINES: Final = ("connect", "syn")
PORTS: Final = [22, 80, 81]
#: Twenty hosts of three kinds: what each of them expects is what it shows.
OPEN: Final = [f"198.18.2.{number}" for number in range(1, 11)]
CLOSED: Final = [f"198.18.3.{number}" for number in range(1, 6)]
SILENT: Final = [f"198.18.4.{number}" for number in range(1, 6)]
TRUTHS: Final = [
    *(HostTruth(f"o{a}", (a,), {(a, 22): State.OPEN, (a, 81): State.DROPPED}) for a in OPEN),
    *(HostTruth(f"c{a}", (a,)) for a in CLOSED),
    *(HostTruth(f"s{a}", (a,), default=State.DROPPED) for a in SILENT),
]
HOSTS: Final = {a: [22] for a in OPEN} | {a: [] for a in (*CLOSED, *SILENT)}
SECONDS: Final = 30.0  # for anything that should come soon


@contextmanager
def exporter(lab: Lab, conf: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """Run the exporter; returns what it says of each finished scan."""
    server = lab.popen([*PROGRAM, "-c", str(conf), "-j", "--log.level", "debug",
                        "--web.listen-address", "127.0.0.1:10191"],
                       stdout=subprocess.PIPE)  # fmt: skip
    assert server.stdout is not None
    try:
        lines = (json.loads(line) for line in server.stdout)
        yield (line for line in lines if line["event"] == "host scanned")
    finally:
        server.terminate()
        server.communicate(timeout=10)


def second_of_each(scanned: Iterator[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Give, for each host, its second scan from now on: one that has begun since; and all verdicts meanwhile."""
    times: dict[str, int] = {}
    second: dict[str, Any] = {}
    verdicts = []
    for line in scanned:
        host = line["host"]
        verdicts.append(line["verdict"])
        times[host] = times.get(host, 0) + 1
        if times[host] == 2:
            second[host] = (line["verdict"], line.get("reason"))
            if len(second) == len(HOSTS):
                break
    return second, verdicts


@fault(
    "network",
    "scans",
    "All hosts are unknown (reason `no_route`) while the link is down, and right after the next round.",
)
@pytest.mark.parametrize("side", ["scanner", "hosts"])
@pytest.mark.parametrize("engine", ENGINES)
def test_link_that_is_lost_and_regained_between_rounds(lab: Lab, tmp_path: Path, engine: str, side: str) -> None:
    """While the link is lost all 20 hosts are unknown, whatever they expect; a round after its return all are right."""
    lab.apply(TRUTHS)
    conf = configure(tmp_path, HOSTS, PORTS, interval=1, parallelscans=20, scan=QUICK | {"engine": engine})
    with exporter(lab, conf) as scanned:
        before, said = second_of_each(scanned)
        with lab.link_down("scanner" if side == "scanner" else "hosts"):
            lost, meanwhile = second_of_each(scanned)
        back, afterwards = second_of_each(scanned)
    assert set(before.values()) == {("in_spec", None)}
    assert set(lost.values()) == {("unknown", "no_route")}
    assert set(back.values()) == {("in_spec", None)}
    assert "out_of_spec" not in {*said, *meanwhile, *afterwards}


def connections_begun(lab: Lab) -> int:
    """Count what the scanner's side has sent: connections that were begun, and other packets, as the kernel does."""
    lines = [line.split() for line in lab.run(["cat", "/proc/net/snmp"], check=True).stdout.splitlines()]
    values = {
        f"{names[0]}{name}": int(value)
        for names, numbers in zip(lines[::2], lines[1::2], strict=True)
        for name, value in zip(names[1:], numbers[1:], strict=True)
    }
    return values["Tcp:ActiveOpens"]


def raw_packets(lab: Lab) -> int:
    """Count the packets that could not leave for want of a link."""
    (link,) = json.loads(lab.run(["ip", "-j", "-s", "link", "show", "lab0"], check=True).stdout)
    return int(link["stats64"]["tx"]["dropped"])


@pytest.mark.parametrize("engine", ENGINES)
def test_link_that_is_regained_before_silence_counts(lab: Lab, engine: str) -> None:
    """Where every try fell into an outage that is over by now the ports are asked again: no state is made of it."""
    lab.apply(TRUTHS)
    tries = 2
    jobs = [(truth.addresses, PORTS) for truth in TRUTHS]
    with lab.link_restored():
        lab.run(["ip", "link", "set", "lab0", "down"], side="hosts", check=True)
        count = connections_begun if engine == "connect" else raw_packets
        before = count(lab)
        process = lab.popen(OBSERVE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(order(jobs, engine=engine, timeout=0.9, retries=tries - 1))
        process.stdin.close()
        process.stdin = None
        deadline = time.monotonic() + SECONDS
        while count(lab) < before + tries * len(TRUTHS) * len(PORTS):
            assert process.poll() is None
            assert time.monotonic() < deadline
        lab.run(["ip", "link", "set", "lab0", "up"], side="hosts", check=True)
    found = states(process.communicate(timeout=180)[0])
    expected = expected_states(TRUTHS, PORTS)
    # On a machine that is busy the link may come back only after the silence was looked at.
    late = {address for address, port in found if port == 0}
    assert found == {key: state for key, state in expected.items() if key[0] not in late} | {
        (address, 0): "no_route" for address in late
    }
    assert observe(lab, jobs, engine=engine) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_next_hop_that_does_not_answer(lab: Lab, tmp_path: Path, engine: str) -> None:
    """A host, or a gateway, that does not answer ARP or neighbour discovery gets no probe: unknown, not filtered."""
    lab.apply(TRUTHS)
    hosts = {
        "198.18.129.77": [22], "198.18.129.79": [], "198.18.66.1": [22], "2001:db8:19::77": [22],
        "2001:db8:18:66::1": [], OPEN[0]: [22],
    }  # fmt: skip
    addresses = [["address", "add", "198.18.129.1/24", "dev", "lab0"]]
    routes = [
        ["route", "add", "198.18.66.0/24", "via", "198.18.129.78"],
        ["route", "add", "2001:db8:18:66::/64", "via", "2001:db8:19::78"],
    ]
    try:
        for arguments in (*addresses, *routes):
            lab.run(["ip", *arguments], check=True)
        _, document = scan(lab, configure(tmp_path, hosts, PORTS, scan=QUICK | {"engine": engine}))
    finally:
        for what, _, *arguments in (*routes, *addresses):
            lab.run(["ip", what, "del", *arguments], check=True)
    found = {host["host"]: (host["verdict"], host["reason"]) for host in document["hosts"]}
    assert found == dict.fromkeys(hosts, ("unknown", "no_route")) | {OPEN[0]: ("in_spec", None)}


@pytest.mark.parametrize("engine", ENGINES)
def test_next_hop_that_does_not_answer_in_time(lab: Lab, engine: str) -> None:
    """A probe that is still waited for when the kernel gives its neighbour up was not sent: no_route."""
    lab.apply(TRUTHS)
    dead = "2001:db8:19::79"
    assert observe(lab, [([dead], PORTS)], engine=engine, timeout=6.0, retries=0) == {(dead, 0): "no_route"}


@fault("network", "scans", "A host without a route is unknown (reason `no_route`).")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_route_that_refuses_is_no_route(lab: Lab, tmp_path: Path, engine: str, kind: str) -> None:
    """A route that lets nothing out makes the host unknown, with the reason no_route."""
    lab.apply(TRUTHS)
    hosts = {OPEN[0]: [22], SILENT[0]: []}
    networks = ["198.18.2.0/24", "198.18.4.0/24"]
    try:
        for network in networks:
            lab.run(["ip", "route", "add", kind, network], check=True)
        code, document = scan(lab, configure(tmp_path, hosts, PORTS, scan=QUICK | {"engine": engine}))
    finally:
        for network in networks:
            lab.run(["ip", "route", "del", kind, network], check=True)
    assert code == 3
    assert [(host["verdict"], host["reason"]) for host in document["hosts"]] == [("unknown", "no_route")] * 2


LINKS: Final = """\
link add low type veth peer name far
link set far up
link set low up
link add br0 type bridge
link set low master br0
link set br0 up
link add mac0 link br0 type macvlan
link set mac0 up
address add 198.18.130.1/24 dev mac0
"""
STACKED: Final = ["low", "br0", "mac0"]


def test_link_that_others_stand_upon(lab: Lab) -> None:
    """Where a cable is lost all that stands upon it is down, a bridge and what is on that, and changes are counted."""
    code = """
import json, socket, subprocess, sys
from portspec.scan.netlink import Netlink
netlink = Netlink()
indices = [socket.if_nametoindex(name) for name in sys.argv[1:]]
def ask():
    links = [netlink.link(index) for index in indices]
    return [[link.name, link.is_up, link.changes, link.has_neighbours] for link in links]
def settled(is_up):
    while [link[1] for link in ask()] != [is_up] * 3:
        pass
    return ask()
states = [settled(True)]
for way, is_up in (("down", False), ("up", True)):
    subprocess.run(["ip", "link", "set", "far", way], check=True)
    states.append(settled(is_up))
route = netlink.route("198.18.130.9")
print(json.dumps([states, [route.source, route.index == indices[2], route.next_hop]]))
"""
    try:
        lab.run(["ip", "-batch", "-"], input=LINKS, check=True)
        done = lab.run([sys.executable, "-c", code, *STACKED], check=True)
    finally:
        for name in reversed(STACKED):
            lab.run(["ip", "link", "del", name])
    found, route = json.loads(done.stdout)
    assert [[link[0] for link in state] for state in found] == [STACKED] * 3
    for before, lost, back in zip(*found, strict=True):
        assert before[2] < lost[2] < back[2]
    assert route == ["198.18.130.1", True, "198.18.130.9"]
