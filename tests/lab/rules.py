"""The texts that make a truth: nftables rules for the hosts' side, files for the scanner's side. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .truth import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .truth import HostTruth

#: A map from (address, port) to what nft does with its packets: "accept", "drop" or "goto CHAIN".
Verdicts = dict[tuple[str, int], str]

VERDICTS: Final[Mapping[State, str]] = {
    State.OPEN: "accept",
    State.CLOSED: "accept",
    State.RESET: "accept",
    State.DROPPED: "drop",
    State.REJECTED: "goto rejected",
    State.PROHIBITED: "goto prohibited",
    State.UNREACHABLE: "goto unreachable",
}

# Verdict maps are hash tables: one look-up per packet, however many ports there are.
# Adding the table before deleting it makes the deletion succeed the first time too.
_TABLE: Final = """\
table inet lab
delete table inet lab
table inet lab {
  map ports4 { type ipv4_addr . inet_service : verdict; }
  map ports6 { type ipv6_addr . inet_service : verdict; }
  map hosts4 { type ipv4_addr : verdict; }
  map hosts6 { type ipv6_addr : verdict; }
  chain rejected { reject with icmpx type port-unreachable; }
  chain prohibited { reject with icmpx type admin-prohibited; }
  chain unreachable { reject with icmpx type host-unreachable; }
  chain input {
    type filter hook input priority 0; policy accept;
    ip daddr . tcp dport vmap @ports4
    ip6 daddr . tcp dport vmap @ports6
    ip daddr vmap @hosts4
    ip6 daddr vmap @hosts6
  }
}
"""

# A transaction is one netlink message. Only the system's root may make its socket's buffer as large as it likes; in
# a user namespace 4,000 IPv4 or 3,200 IPv6 elements went through, 100 more did not (Linux 6.18, nft 1.0.6).
_MOST: Final = 1000

_NO_LOSS: Final = """\
table inet lab_loss
delete table inet lab_loss
"""

# Lost are SYNs, and whatever may answer one; not the rest of a connection, nor the neighbour discovery of IPv6.
_LOSS: Final = """\
table inet lab_loss {{
  chain input {{
    type filter hook input priority -10; policy accept;
    tcp flags & (syn | ack) == syn {share} drop
  }}
  chain output {{
    type filter hook output priority -10; policy accept;
    tcp flags & (syn | rst) != 0 {share} drop
    icmp type destination-unreachable {share} drop
    icmpv6 type destination-unreachable {share} drop
  }}
}}
"""


def port_verdicts(hosts: Iterable[HostTruth]) -> Verdicts:
    """Pick the ports whose verdict differs from what their host does with all others."""
    return {
        key: VERDICTS[state]
        for host in hosts
        for key, state in host.ports.items()
        if VERDICTS[state] != VERDICTS[host.default]
    }


def transactions(hosts: Iterable[HostTruth], ports: Verdicts) -> Iterator[str]:
    """Replace whatever rules the lab had, the loss too: texts for ``nft -f -``, in this order.

    There are several of them, because a transaction cannot have any number of elements.
    """
    elements = [
        (f"hosts{_family(address)}", f"{address} : {VERDICTS[host.default]}")
        for host in hosts
        for address in host.addresses
        if VERDICTS[host.default] != "accept"
    ]
    elements += [
        (f"ports{_family(address)}", f"{address} . {port} : {verdict}") for (address, port), verdict in ports.items()
    ]
    text = _NO_LOSS + _TABLE
    for start in range(0, len(elements), _MOST):
        yield text + _additions(elements[start : start + _MOST])
        text = ""
    if text:
        yield text


def change(address: str, port: int, old: str | None, new: str) -> str:
    """Turn the verdict ``old`` of a port (None: it has none of its own) into ``new``; a text for ``nft -f -``."""
    name = f"ports{_family(address)}"
    lines = [f"add element inet lab {name} {{ {address} . {port} : {new} }}\n"]
    if old is not None:
        # nft refuses to add a key again with another verdict
        lines.insert(0, f"delete element inet lab {name} {{ {address} . {port} }}\n")
    return "".join(lines)


def loss(percent: float, burst: int = 1) -> str:
    """Lose ``percent`` (0 to 100, in steps of 0.1) of the SYNs, and as many of the answers.

    Each at random, or with a ``burst`` so many packets one after the other. Raises :exc:`ValueError` outside of that
    range.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"loss: {percent} is not between 0 and 100 percent")
    permille = round(percent * 10)
    if burst > 1 and permille:
        return _NO_LOSS + _LOSS.format(share=f"numgen inc mod {round(1000 * burst / permille)} < {burst}")
    # nft refuses to compare a remainder by 1000 with 1000
    share = f"numgen random mod 1000 < {permille}" if permille < 1000 else ""
    return _NO_LOSS + (_LOSS.format(share=share) if permille else "")


def hosts_file(hosts: Iterable[HostTruth]) -> str:
    """Write the /etc/hosts that knows the hosts by name, and localhost."""
    return "".join(_hosts_lines(hosts))


def _hosts_lines(hosts: Iterable[HostTruth]) -> Iterator[str]:
    yield "127.0.0.1 localhost\n::1 localhost\n"
    for host in hosts:
        for address in host.addresses:
            yield f"{address} {host.name}\n"


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _additions(elements: Iterable[tuple[str, str]]) -> str:
    by_map: dict[str, list[str]] = {}
    for name, text in elements:
        by_map.setdefault(name, []).append(text)
    return "".join(f"add element inet lab {name} {{ {', '.join(texts)} }}\n" for name, texts in by_map.items())
