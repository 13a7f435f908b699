from __future__ import annotations

import pytest

from .truth import HostTruth, State, draw

A, B, C = "198.18.0.1", "198.18.0.2", "2001:db8:18::1"


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (State.OPEN, "open"),
        (State.RESET, "open"),
        (State.CLOSED, "closed"),
        (State.DROPPED, "filtered"),
        (State.REJECTED, "filtered"),
        (State.PROHIBITED, "filtered"),
        (State.UNREACHABLE, "filtered"),
    ],
)
def test_a_port_is_expected_to_be_what_nmap_calls_its_state(state: State, verdict: str) -> None:
    """A handshake is open, an RST closed, and silence or an ICMP error filtered."""
    assert HostTruth("h", (A,), {(A, 22): state}).expected(A, 22) == verdict


def test_other_ports_are_in_the_default_state() -> None:
    """A port that is not named does what the host does by default, on each of its addresses."""
    host = HostTruth("h", (A, C), {(A, 22): State.OPEN}, State.DROPPED)
    assert [host.expected(A, 22), host.expected(A, 23), host.expected(C, 22)] == ["open", "filtered", "filtered"]


@pytest.mark.parametrize(
    ("ports", "default", "message"),
    [
        ({(B, 22): State.OPEN}, State.CLOSED, "h: 198.18.0.2 is not one of its addresses"),
        ({(A, 65536): State.OPEN}, State.CLOSED, "h: 65536 is not a TCP port"),
        ({}, State.OPEN, "h: the default cannot be open: name the open ports"),
    ],
)
def test_a_truth_that_cannot_be_is_refused(ports: dict[tuple[str, int], State], default: State, message: str) -> None:
    """A host with another's address, no port, or a listener on every port is a ValueError."""
    with pytest.raises(ValueError, match=message):
        HostTruth("h", (A,), ports, default)


def test_a_misspelled_address_is_refused() -> None:
    """An address that ipaddress would print otherwise is a ValueError, as its ports would not be found."""
    with pytest.raises(ValueError, match="h: write 2001:db8:18::1 for 2001:DB8:18::1"):
        HostTruth("h", ("2001:DB8:18::1",))


def test_a_draw_is_the_same_for_the_same_seed_only() -> None:
    """The seed decides everything."""
    assert draw(1, 20, range(1, 50)) == draw(1, 20, range(1, 50)) != draw(2, 20, range(1, 50))


@pytest.mark.parametrize("seed", range(20))
def test_a_draw_has_every_kind_of_host(seed: int) -> None:
    """Each kind of address list and of behaviour is among 64 hosts, and no two hosts share an address."""
    ports = range(1, 101)
    hosts = draw(seed, 64, ports)
    addresses = [address for host in hosts for address in host.addresses]
    families = {"".join("6" if ":" in address else "4" for address in host.addresses) for host in hosts}
    assert families == {"4", "6", "46", "44"}
    assert len(set(addresses)) == len(addresses)
    assert [host.name for host in hosts[:2]] == ["h00.lab", "h01.lab"]
    assert sum(host.default is State.DROPPED and not host.ports for host in hosts) == 2
    assert sum(host.default is State.DROPPED and bool(host.ports) for host in hosts) >= 4
    assert sum(host.default is State.REJECTED for host in hosts) == 1
    assert sum(len(host.ports) == len(host.addresses) * len(ports) for host in hosts) == 1
    assert {state for host in hosts for state in host.ports.values()} == set(State) - {State.CLOSED}


@pytest.mark.parametrize("hosts", [0, 1, 3, 4, 5])
def test_a_draw_may_be_small(hosts: int) -> None:
    """A few hosts with few ports can be drawn too."""
    assert len(draw(1, hosts, [22, 80])) == hosts


def test_a_draw_of_more_hosts_than_addresses_is_refused() -> None:
    """There are not addresses enough for any number of hosts."""
    with pytest.raises(ValueError, match="hosts: 10001 is not between 0 and 10000"):
        draw(1, 10_001, [22])
