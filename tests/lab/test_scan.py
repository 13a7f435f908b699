from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.faults.registry import fault

from .program import QUICK, configure, expected_addresses, expected_states, observe, scan, with_descriptors
from .truth import HostTruth, State, draw

if TYPE_CHECKING:
    from pathlib import Path

    from .network import Lab

SEEDS: Final = range(5)
HOSTS: Final = 64
PORTS: Final = [22, 25, 53, 80, 443, 3306, 5432, *range(8000, 8020), 32768, 50000, 60999, 61000, 65535]
V4: Final = "198.18.1.1"
V6: Final = "2001:db8:18::1"
ENGINES: Final = ("connect", "syn")


@pytest.fixture(params=ENGINES)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the `scan` block for each engine."""
    return {**QUICK, "engine": request.param}


def rows(document: dict[str, Any]) -> dict[str, list[tuple[str, list[str], int, int]]]:
    """Return what `scan --json` says of each host, in the form of expected_addresses."""
    return {
        host["host"]: sorted(
            (item["address"], item["open"], item["closed"], item["filtered"]) for item in host["addresses"]
        )
        for host in document["hosts"]
    }


@fault("no descriptors", "scans", "A scan with 64 descriptors finds the same as with many.")
@pytest.mark.parametrize(
    ("engine", "seed", "descriptors"),
    [*((engine, seed, None) for engine in ENGINES for seed in SEEDS), *(("connect", seed, 64) for seed in SEEDS[:1])],
)
def test_scan_tells_the_truth(lab: Lab, tmp_path: Path, engine: str, seed: int, descriptors: int | None) -> None:
    """For 64 drawn hosts of both families, `scan --json` equals the truth, also with 64 descriptors."""
    truth = draw(seed, HOSTS, PORTS)
    lab.apply(truth)
    expected = {host.name: expected_addresses(host, PORTS) for host in truth}
    conf = configure(tmp_path, {host.name: [] for host in truth}, PORTS, scan=QUICK | {"engine": engine})
    code, document = scan(lab, conf, prefix=with_descriptors(descriptors) if descriptors else [])
    assert rows(document) == expected
    assert code == 1
    assert {(host["verdict"], host["reason"]) for host in document["hosts"]} <= {
        ("in_spec", None),
        ("out_of_spec", None),
    }
    assert {host["host"]: host["unexpected"] for host in document["hosts"]} == {
        name: [str(p) for p in PORTS if any(str(p) in open_ports for _, open_ports, _, _ in addresses)]
        for name, addresses in expected.items()
    }
    assert lab.received().bytes == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("loss", [0, 2, 10])
@pytest.mark.parametrize("seed", SEEDS)
def test_engine_tells_the_state_of_every_port(lab: Lab, engine: str, loss: int, seed: int) -> None:
    """Every single (address, port) is in the state of the truth, also where packets of either direction get lost."""
    truth = draw(seed, HOSTS, PORTS)
    lab.apply(truth)
    lab.loss(loss)
    found = observe(lab, [(host.addresses, PORTS) for host in truth], engine=engine)
    assert found == expected_states(truth, PORTS)


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_tells_no_wrong_state_where_packets_are_lost_in_bursts(lab: Lab, engine: str) -> None:
    """Where 20 packets in a row get lost, and 180 do not, no port is told wrong; an address may stay unknown."""
    truth = draw(SEEDS[0], HOSTS, PORTS)
    lab.apply(truth)
    lab.loss(10, burst=20)
    found = observe(lab, [(host.addresses, PORTS) for host in truth], engine=engine)
    cut_off = {address for (address, port), state in found.items() if (port, state) == (0, "cut_off")}
    expected = expected_states(truth, PORTS)
    assert {key: state for key, state in found.items() if key[0] not in cut_off} == {
        key: state for key, state in expected.items() if key[0] not in cut_off
    }
    assert len(cut_off) <= len(truth) // 4


@pytest.mark.parametrize("engine", ENGINES)
def test_first_host_that_is_through_knows_of_the_loss(lab: Lab, engine: str) -> None:
    """A host that is through while others still give their first answers is told apart as exactly as they are."""
    first = HostTruth("first.lab", (V4,), {(V4, 1500): State.DROPPED})
    others = [HostTruth(f"h{n}.lab", (f"198.18.3.{n}",)) for n in range(1, 64)]
    few, many = range(1300, 1600), range(1000, 2000)
    lab.apply([first, *others])
    lab.loss(10)
    found = observe(lab, [(first.addresses, few), *((host.addresses, many) for host in others)], engine=engine)
    assert {key: state for key, state in found.items() if key[0] == V4} == expected_states([first], few)


def test_in_spec_is_exit_0(lab: Lab, tmp_path: Path, settings: dict[str, Any]) -> None:
    """A host with exactly the expected ports, and some of the allowed ones, is in spec."""
    lab.apply([HostTruth("h.lab", (V4, V6), {(a, p): State.OPEN for a in (V4, V6) for p in (22, 80)})])
    code, document = scan(
        lab, configure(tmp_path, {"h.lab": {"expect": [22], "allow": [80, 81]}}, range(1, 1025), scan=settings)
    )
    assert code == 0
    assert document["hosts"][0]["verdict"] == "in_spec"


def test_expected_ports_are_missing_on_each_address(lab: Lab, tmp_path: Path, settings: dict[str, Any]) -> None:
    """A port that is open on one address and not on the other is missing, though scanports lacks it."""
    lab.apply([HostTruth("h.lab", (V4, V6), {(V4, 8443): State.OPEN, (V6, 8443): State.DROPPED})])
    code, document = scan(lab, configure(tmp_path, {"h.lab": [8443]}, [22], scan=settings))
    assert code == 1
    assert document["hosts"][0]["missing"] == ["8443"]


def test_dead_host_misses_its_ports(lab: Lab, tmp_path: Path, settings: dict[str, Any]) -> None:
    """A host that answers nothing is out of spec, its expected ports missing and filtered."""
    lab.apply([HostTruth("h.lab", (V4,), default=State.DROPPED)])
    code, document = scan(lab, configure(tmp_path, {"h.lab": [22]}, [22, 80], scan=settings))
    host = document["hosts"][0]
    assert (code, host["verdict"], host["missing"]) == (1, "out_of_spec", ["22"])
    assert (host["addresses"][0]["filtered"], host["addresses"][0]["rtt_seconds"]) == (2, None)


def test_unknown_is_exit_3(lab: Lab, tmp_path: Path, settings: dict[str, Any]) -> None:
    """A name that does not resolve and an address without a route are unknown, each with its reason."""
    lab.apply([])
    code, document = scan(lab, configure(tmp_path, {"nowhere.lab": [], "203.0.113.9": [22]}, [80], scan=settings))
    assert code == 3
    assert [(host["verdict"], host["reason"]) for host in document["hosts"]] == [
        ("unknown", "resolve"),
        ("unknown", "no_route"),
    ]


def test_out_of_spec_outweighs_unknown(lab: Lab, tmp_path: Path) -> None:
    """With one host out of spec and another unknown the exit code is 1."""
    lab.apply([HostTruth("h.lab", (V4,), {(V4, 23): State.OPEN})])
    code, _ = scan(lab, configure(tmp_path, {"nowhere.lab": [], "h.lab": []}, [23]))
    assert code == 1


def test_cidr_is_scanned_address_by_address(lab: Lab, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Each address of a CIDR is a host with a verdict of its own."""
    lab.apply([HostTruth("h.lab", ("198.18.2.5",), {("198.18.2.5", 22): State.OPEN})])
    code, document = scan(lab, configure(tmp_path, {"198.18.2.0/28": []}, [22], scan=settings))
    verdicts = {host["host"]: host["verdict"] for host in document["hosts"]}
    assert code == 1
    assert len(verdicts) == 16
    assert [host for host, verdict in verdicts.items() if verdict == "out_of_spec"] == ["198.18.2.5"]


def test_all_ports_of_a_host(lab: Lab, tmp_path: Path, settings: dict[str, Any]) -> None:
    """All 65,535 ports of an address are told apart, the ephemeral ones too."""
    opened = {(V4, port): State.OPEN for port in (1, 22, 32768, 40001, 60999, 65535)}
    lab.apply([HostTruth("h.lab", (V4,), opened)])
    code, document = scan(lab, configure(tmp_path, {V4: []}, ["all"], scan=settings))
    address = document["hosts"][0]["addresses"][0]
    assert code == 1
    assert (address["open"], address["closed"]) == ([str(p) for _, p in opened], 65535 - len(opened))


@fault("network", "scans", "A host is unknown if the packet filter of the exporter's machine refuses the probes.")
def test_own_firewall_that_refuses_is_no_verdict(lab: Lab, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Where this machine's own packet filter refuses what is sent, the host is unknown: nothing was seen of it."""
    lab.apply([HostTruth("h.lab", (V4, V6), {(V4, 22): State.OPEN, (V6, 22): State.OPEN})])
    rules = "table inet own { chain out { type filter hook output priority 0; tcp dport 80 %s; }; }"
    kinds = ["reject with icmpx type admin-prohibited", "reject with icmpx type port-unreachable"]
    # a connection's SYN that is dropped is not told of
    for kind in [*kinds, "drop"] if settings["engine"] == "syn" else kinds:
        lab.run(["nft", "-f", "-"], input=rules % kind, check=True)
        try:
            code, document = scan(lab, configure(tmp_path, {V4: [22], V6: [22]}, [22, 80], scan=settings))
        finally:
            lab.run(["nft", "delete", "table", "inet", "own"], check=True)
        assert code == 3, kind
        assert {(host["verdict"], host["reason"]) for host in document["hosts"]} == {("unknown", "permission")}


def test_link_that_goes_down_makes_hosts_unknown_until_it_is_back(
    lab: Lab, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Without a link there is no route and no verdict; with it the next scan sees the host again."""
    lab.apply([HostTruth("h.lab", (V4,), {(V4, 22): State.OPEN})])
    conf = configure(tmp_path, {V4: [22]}, ["1-1024"], scan=settings)
    with lab.link_down():
        code, document = scan(lab, conf)
    assert (code, document["hosts"][0]["reason"]) == (3, "no_route")
    assert scan(lab, conf)[0] == 0
