"""What is true of the hosts in the lab; pure, no sockets.

The words for what a scanner should say are nmap's: an RST means closed, silence or an ICMP error means filtered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Verdict = Literal["open", "closed", "filtered"]

#: The addresses that the hosts' side answers for (RFC 2544 and RFC 3849: never routed on the Internet).
NETWORK4: Final = "198.18.0.0/17"
NETWORK6: Final = "2001:db8:18::/64"
ADDRESSES4: Final = 2**15


class State(Enum):
    """What a host does with a connection to a port."""

    OPEN = "open"
    CLOSED = "closed"
    DROPPED = "dropped"
    #: answers with ICMP port unreachable
    REJECTED = "rejected"
    #: answers with ICMP communication administratively prohibited
    PROHIBITED = "prohibited"
    #: answers with ICMP host unreachable (IPv6: address unreachable)
    UNREACHABLE = "unreachable"
    #: completes the handshake, then resets at once: open for a scanner
    RESET = "reset"

    @property
    def listens(self) -> bool:
        """Whether a socket listens behind the port."""
        return self in {State.OPEN, State.RESET}

    @property
    def verdict(self) -> Verdict:
        """What nmap's SYN scan calls the port."""
        if self.listens:
            return "open"
        return "closed" if self is State.CLOSED else "filtered"


@dataclass(frozen=True, slots=True)
class HostTruth:
    """A host: its name, its addresses, and the state of each port of each address.

    ``ports`` maps (address, port) to a state; every other port of the host is in the state ``default``.
    Addresses are spelled as :mod:`ipaddress` prints them.

    Raises :exc:`ValueError` for an address that is misspelled or not the host's, a port outside 1 to 65535, and a
    default that would need a listener on every port.
    """

    name: str
    addresses: tuple[str, ...]
    ports: Mapping[tuple[str, int], State] = field(default_factory=dict)
    default: State = State.CLOSED

    def __post_init__(self) -> None:
        if self.default.listens:
            raise ValueError(f"{self.name}: the default cannot be {self.default.value}: name the open ports")
        for address in self.addresses:
            if str(ip_address(address)) != address:
                raise ValueError(f"{self.name}: write {ip_address(address)} for {address}")
        for address, port in self.ports:
            if address not in self.addresses:
                raise ValueError(f"{self.name}: {address} is not one of its addresses")
            if not 1 <= port <= 65535:
                raise ValueError(f"{self.name}: {port} is not a TCP port")

    def state(self, address: str, port: int) -> State:
        """Say what the host does on a port of one of its addresses; :exc:`ValueError` for another address."""
        if address not in self.addresses:
            raise ValueError(f"{self.name}: {address} is not one of its addresses")
        return self.ports.get((address, port), self.default)

    def expected(self, address: str, port: int) -> Verdict:
        """Say what a scanner should find on a port of one of its addresses; :exc:`ValueError` for another address."""
        return self.state(address, port).verdict


class _Role(Enum):
    ORDINARY = "closed, with a few ports in each other state"
    FIREWALLED = "drops all but a few open ports"
    SILENT = "drops all"
    REJECTING = "rejects all"
    OPEN = "has all ports open"


def draw(seed: int, hosts: int, ports: Sequence[int]) -> tuple[HostTruth, ...]:
    """Make up hosts ``h00.lab``, ``h01.lab``, … with the same result for the same arguments.

    ``hosts`` is 0 to 10,000. Every fourth host on average is behind a firewall; from 4 hosts on, one drops all, one
    rejects all and one has all ``ports`` open; from 16 on, a second one drops all. IPv4-only, IPv6-only, dual-stack
    hosts and hosts with two IPv4 addresses are equally likely. Raises :exc:`ValueError` for too many hosts.
    """
    if not 0 <= hosts <= 10_000:
        raise ValueError(f"hosts: {hosts} is not between 0 and 10000")
    random = Random(seed)  # noqa: S311 - to be drawn again, not to be secret
    addresses = _addresses(random, hosts)
    return tuple(
        _host(random, f"h{number:02}.lab", own, role, ports)
        for number, (own, role) in enumerate(zip(addresses, _roles(random, hosts), strict=True))
    )


def _roles(random: Random, hosts: int) -> list[_Role]:
    roles: list[_Role] = []
    if hosts >= 4:
        roles += [_Role.SILENT, _Role.REJECTING, _Role.OPEN]
    if hosts >= 16:
        roles.append(_Role.SILENT)
    roles += random.choices([_Role.ORDINARY, _Role.FIREWALLED], weights=[3, 1], k=hosts - len(roles))
    random.shuffle(roles)
    return roles


def _addresses(random: Random, hosts: int) -> Iterator[tuple[str, ...]]:
    first4 = int(IPv4Address(NETWORK4.partition("/")[0]))
    first6 = int(IPv6Address(NETWORK6.partition("/")[0]))
    # no address twice; neither the first nor the last, which look like a network's own and its broadcast
    numbers = iter(random.sample(range(1, ADDRESSES4 - 1), 2 * hosts))
    for _ in range(hosts):
        yield tuple(
            str(IPv4Address(first4 + next(numbers)) if family == "4" else IPv6Address(first6 + next(numbers)))
            for family in random.choice(["4", "6", "46", "44"])
        )


def _host(random: Random, name: str, addresses: tuple[str, ...], role: _Role, ports: Sequence[int]) -> HostTruth:
    match role:
        case _Role.SILENT:
            return HostTruth(name, addresses, default=State.DROPPED)
        case _Role.REJECTING:
            return HostTruth(name, addresses, default=State.REJECTED)
        case _Role.OPEN:
            return HostTruth(name, addresses, {(a, port): State.OPEN for a in addresses for port in ports})
        case _Role.FIREWALLED:
            states, default = [State.OPEN], State.DROPPED
        case _Role.ORDINARY:
            states, default = [state for state in State if state is not State.CLOSED], State.CLOSED
    drawn = {(a, port): state for a in addresses for port, state in _sprinkle(random, states, ports)}
    return HostTruth(name, addresses, drawn, default)


def _sprinkle(random: Random, states: Sequence[State], ports: Sequence[int]) -> Iterator[tuple[int, State]]:
    """One to four ports for each state, in turn, while ports last; each port at most once."""
    untouched = iter(random.sample(list(ports), len(ports)))
    for state in states:
        for port, _ in zip(untouched, range(random.randint(1, 4)), strict=False):
            yield port, state
