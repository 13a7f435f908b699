"""Hosts behind something that answers in their place: SYN proxies, redirections, tarpits."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from .program import QUICK, configure, scan
from .test_odd_hosts import addresses, tunnel
from .truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .network import Lab

ENGINES: Final = ("connect", "syn")
V4: Final = "198.18.9.1"
V6: Final = "2001:db8:18::9:1"
BOTH: Final = (V4, V6)
REDIRECTED: Final = ("198.18.9.2", "2001:db8:18::9:2")  # others: connections are remembered for a while
#: The kernel's SYN proxy (nft(8), SYNPROXY STATEMENT) before every port of the hosts.
SYN_PROXY: Final = """\
table inet impostor {
    chain untracked { type filter hook prerouting priority raw; policy accept
        ip daddr 198.18.0.0/17 tcp flags & (fin | syn | rst | ack) == syn notrack
        ip6 daddr 2001:db8:18::/64 tcp flags & (fin | syn | rst | ack) == syn notrack
    }
    chain proxy { type filter hook input priority filter; policy accept
        ct state invalid,untracked meta l4proto tcp synproxy mss 1460 wscale 7 timestamp sack-perm
        ct state invalid drop
    }
}
"""
#: Every port leads to one that is open.
REDIRECTION: Final = f"""\
table inet impostor {{
    chain redirection {{ type nat hook prerouting priority dstnat; policy accept
        ip daddr {REDIRECTED[0]} meta l4proto tcp dnat ip to {REDIRECTED[0]}:22
        ip6 daddr {REDIRECTED[1]} meta l4proto tcp dnat ip6 to [{REDIRECTED[1]}]:22
    }}
}}
"""


@contextmanager
def impostor(lab: Lab, rules: str) -> Iterator[None]:
    """Have these rules in force on the hosts' side for a while."""
    lab.run(["nft", "-f", "-"], side="hosts", input=rules, check=True)
    # the SYN proxy takes over what conntrack does not know: our ACK to its SYN-ACK must not pass for a connection
    lab.run(["sh", "-c", "echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose"], side="hosts", check=True)
    try:
        yield
    finally:
        lab.run(["nft", "delete", "table", "inet", "impostor"], side="hosts", check=True)


def truth(of: tuple[str, ...] = BOTH, **ports: State) -> HostTruth:
    """Make a host, with ports (p22=State.OPEN) that are as given at all its addresses."""
    states = {(address, int(name[1:])): state for address in of for name, state in ports.items()}
    return HostTruth("proxied.lab", of, states)


def configured(
    directory: Path, engine: str, expect: list[int], scanports: list[Any], hosts: Sequence[str] = BOTH, **keys: Any
) -> Path:
    """Write a conf.yml with these addresses, by default both of the host, and more keys of each."""
    entries = {address: {"expect": expect, "scanports": scanports, **keys} for address in hosts}
    return configure(directory, entries, scan=QUICK | {"engine": engine})


@pytest.mark.parametrize("scanports", [["1-1000"], [22], ["all"]], ids=["many", "one", "all"])
@pytest.mark.parametrize("engine", ENGINES)
def test_host_all_of_whose_ports_lead_to_one(lab: Lab, tmp_path: Path, engine: str, scanports: list[Any]) -> None:
    """Where every port takes a connection nothing is known of the host, and no port of it is told."""
    lab.apply([truth(REDIRECTED, p22=State.OPEN)])
    with impostor(lab, REDIRECTION):
        code, document = scan(lab, configured(tmp_path, engine, [22], scanports, REDIRECTED))
    assert code == 3
    for host in document["hosts"]:
        assert (host["verdict"], host["reason"]) == ("unknown", "answers_everything")
        assert (host["missing"], host["unexpected"]) == ([], [])
        assert [(row["open"], row["closed"], row["filtered"]) for row in host["addresses"]] == [([], 0, 0)]


@pytest.mark.parametrize("engine", ENGINES)
def test_host_that_may_have_all_ports_open(lab: Lab, tmp_path: Path, engine: str) -> None:
    """Where the specification lets every port be open a host that answers on all of them is in specification."""
    lab.apply([truth(REDIRECTED, p22=State.OPEN)])
    conf = configured(tmp_path, engine, [22], ["1-100"], REDIRECTED, allow=["1-40000"])
    with impostor(lab, REDIRECTION):
        code, document = scan(lab, conf)
    assert (code, [host["verdict"] for host in document["hosts"]]) == (0, ["in_spec"] * 2)


#: The kernel of the lab drops SYNs over IPv6 from a raw socket where it is a SYN proxy: it finds their checksum wrong.
FAMILIES: Final = [("connect", BOTH), ("syn", (V4,))]


@pytest.mark.parametrize(("engine", "proxied"), FAMILIES, ids=ENGINES)
def test_host_behind_a_syn_proxy_is_judged_by_its_connections(
    lab: Lab, tmp_path: Path, engine: str, proxied: tuple[str, ...]
) -> None:
    """Behind a SYN proxy those ports are open whose connections stay up: the others are not, whatever answers SYNs.

    What the host drops is filtered: the proxy never lets us send anything there.
    """
    lab.apply([truth(p22=State.OPEN, p80=State.OPEN, p81=State.DROPPED)])
    conf = configured(tmp_path, engine, [22, 80], ["1-500"], proxied)
    with impostor(lab, SYN_PROXY):
        code, document = scan(lab, conf)
        assert (code, {host["verdict"] for host in document["hosts"]}) == (0, {"in_spec"})
        for address in proxied:
            lab.close_port(address, 80)
            lab.open_port(address, 443)
        code, document = scan(lab, conf)
    assert code == 1
    for host in document["hosts"]:
        assert (host["verdict"], host["reason"]) == ("out_of_spec", None)
        assert (host["missing"], host["unexpected"]) == (["80"], ["443"])
        assert [(row["open"], row["closed"], row["filtered"]) for row in host["addresses"]] == [(["22", "443"], 497, 1)]


@pytest.mark.parametrize(("engine", "proxied"), FAMILIES, ids=ENGINES)
def test_host_behind_a_syn_proxy_that_has_nothing_open(
    lab: Lab, tmp_path: Path, engine: str, proxied: tuple[str, ...]
) -> None:
    """Where no connection stays up none tells what is open: the host is unknown."""
    lab.apply([truth()])
    with impostor(lab, SYN_PROXY):
        code, document = scan(lab, configured(tmp_path, engine, [22], [22, 80, 443], proxied))
    assert (code, {host["reason"] for host in document["hosts"]}) == (3, {"answers_everything"})


@pytest.mark.parametrize("scanports", [["1-2000"], [22, 80], [22]], ids=["many", "few", "one"])
@pytest.mark.parametrize("engine", ENGINES)
def test_host_behind_a_proxy_that_resets(lab: Lab, tmp_path: Path, engine: str, scanports: list[Any]) -> None:
    """In both families a port is closed whose connection comes about and is reset at once, where all ports answer."""
    lab.apply([])
    proxied = addresses(1)
    with tunnel(lab, {address: {"kind": "proxying", "open": [22], "delay": 0.01} for address in proxied}):
        code, document = scan(lab, configured(tmp_path, engine, [22], scanports, proxied))
    assert (code, [host["verdict"] for host in document["hosts"]]) == (0, ["in_spec"] * 2)
    assert [row["open"] for host in document["hosts"] for row in host["addresses"]] == [["22"]] * 2


@pytest.mark.parametrize("engine", ENGINES)
def test_service_that_resets_its_connections_is_open(lab: Lab, tmp_path: Path, engine: str) -> None:
    """Of a host that does not answer everything a port that accepts and resets is open, also where only it is asked."""
    lab.apply([truth(p22=State.RESET)])
    code, document = scan(lab, configured(tmp_path, engine, [22], [22]))
    assert (code, [host["verdict"] for host in document["hosts"]]) == (0, ["in_spec"] * 2)


@pytest.mark.parametrize("scanports", [["1-2000"], [22, 80]], ids=["many", "few"])
@pytest.mark.parametrize("engine", ENGINES)
def test_tarpit_is_unknown(lab: Lab, tmp_path: Path, engine: str, scanports: list[Any]) -> None:
    """An address that takes every SYN, and says nothing more, is unknown."""
    lab.apply([])
    pits = addresses(1)
    with tunnel(lab, {address: {"kind": "accepting"} for address in pits}):
        code, document = scan(lab, configured(tmp_path, engine, [22], scanports, pits))
    assert (code, {host["reason"] for host in document["hosts"]}) == (3, {"answers_everything"})
