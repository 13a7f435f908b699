"""What a host may be called: a name, an IPv4 or IPv6 address, or a CIDR; and which addresses may be scanned. Pure.

Every text or address that becomes a target goes through here: conf.yml, discovery, /probe, audits, and what a
name resolves to. A name is ASCII in the end: a letter beyond it is mapped by UTS #46 (nontransitional) and encoded by
IDNA 2008 (RFC 5891), so that a name leads to the host that browsers and name servers take it for. agent.py, which
stands by itself, has the same rules for ASCII.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

import idna

from portspec.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_NETWORK_ADDRESSES: Final = 65_536  # a /16; each address is a host with a state of its own
MAX_FORMER_NAMES: Final = 16  # of a host: each is looked up in the state file and in the change log
_MAX_NAME, _MAX_LABEL = 253, 63  # characters (RFC 1035, 2.3.4)
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")  # RFC 1123, 2.1, with underscores as DNS has them
_NUMBER: Final = re.compile(
    r"[0-9]+|0x[0-9a-f]*"
)  # where all labels are, inet_aton(3) may take the name for an address
_EXPECTED: Final = "expected a name of letters, digits, - and _ with no - at an end, an IPv4 or IPv6 address, or a CIDR"
_ZONE: Final = "has a zone (%…); portspec scans addresses without one"
_NOT_ONE: Final = "is not the address of one host"
_UNUSABLE: Final = tuple(
    (ipaddress.ip_network(network), fault)
    for network, fault in (
        ("0.0.0.0/8", _NOT_ONE),  # "this network" (RFC 1122, 3.2.1.3); on Linux, 0.0.0.0 leads to this machine itself
        ("224.0.0.0/4", _NOT_ONE),  # multicast
        ("255.255.255.255/32", _NOT_ONE),  # broadcast
        ("::/128", _NOT_ONE),
        ("ff00::/8", _NOT_ONE),  # multicast
        ("fe80::/10", "is a link-local address, which means nothing without a zone; name another one"),
    )
)
# IPv6 addresses with an IPv4 address in their last 32 bits.
_IPV4_IN_IPV6: Final = (
    ("IPv4-compatible", ipaddress.IPv6Network("::/96")),  # RFC 4291, 2.5.5.1; except for ::1
    ("IPv4-mapped", ipaddress.IPv6Network("::ffff:0:0/96")),  # RFC 4291, 2.5.5.2
    ("IPv4-translated", ipaddress.IPv6Network("::ffff:0:0:0/96")),  # RFC 2765, 2.1
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052, 2.1
_LOOPBACK: Final = ipaddress.IPv6Address("::1")


def canonical(text: str) -> str:
    """Spell a host in the one form in which equal hosts are equal: lower case, A-labels, no final dot, short IPv6.

    Raises ValueError, with what to write instead, if the text is no host.
    """
    if "://" in text:
        raise ValueError(f'"{shorten(text)}" is not a host (write the host without port and scheme)')
    if "%" in text:
        raise ValueError(f'"{shorten(text)}" {_ZONE}')
    if "/" in text:
        return str(parse_network(text))
    address = address_of(text)
    if address is not None:
        _refuse(text, address)
        return str(address)
    if found := re.fullmatch(r"\[?([^:\[\]]+|[^\[\]]+(?=\]))\]?:([0-9]+)", text):
        raise ValueError(f'"{shorten(text)}" has a port; write it as: "{shorten(found[1])}": [{shorten(found[2])}]')
    if ":" in text:
        raise ValueError(f'"{shorten(text)}" is not an IPv6 address (write the host without port, scheme and brackets)')
    return _canonical_name(text)


def canonical_one(text: str) -> str:
    """Spell a name or an address as `canonical` does; ValueError for a CIDR, too, and for what has a port."""
    if found := re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]+):[0-9]+", text):
        raise ValueError(f'"{shorten(text)}" has a port; name the host alone: "{shorten(found[1].strip("[]"))}"')
    form = canonical(text)
    if "/" in form:
        raise ValueError(f'"{shorten(text)}" is a CIDR; name one host')
    return form


def check_host(text: str) -> str:
    """Return the host back as it is; ValueError, with what to write instead, if it is none."""
    canonical(text)
    return text


def query_name(text: str) -> str:
    """Return what a name server is asked for a name: its canonical form, with its final dot if it has one.

    A final dot keeps the search list of resolv.conf(5) away. Raises ValueError if the text is no host.
    """
    dots = (".", "\u3002", "\uff0e", "\uff61")  # RFC 3490, 3.1
    return canonical(text) + ("." if text.endswith(dots) else "")


def address_of(text: str) -> Address | None:
    """Return the address that a text is, without a zone; None if it is none."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def fault_of(address: Address) -> str | None:
    """Say why an address cannot be scanned, as "is a multicast address, …"; None if it can be.

    A connection to it would lead to this machine, to many hosts, to none, or to the host of another address.
    """
    fault = next((fault for network, fault in _UNUSABLE if address in network), None)
    if fault or isinstance(address, ipaddress.IPv4Address) or address == _LOOPBACK:
        return fault
    if kind := next((kind for kind, network in _IPV4_IN_IPV6 if address in network), None):
        inner = _last_bits(address)
        fault = fault_of(inner)
        return f"is an {kind} IPv6 address{f' of {inner}, which {fault}' if fault else f'; write {inner}'}"
    if address in _NAT64 or address.sixtofour:  # other hosts than that of the IPv4 address, unless that is none
        inner = address.sixtofour or _last_bits(address)
        fault = "is a loopback address" if inner.is_loopback else fault_of(inner)
        return f"is translated to {inner}, which {fault}" if fault else None
    return None


def parse_network(text: str) -> Network:
    """Read a CIDR such as 192.0.2.0/24; ValueError if it is none, has host bits, too many addresses or wrong ones."""
    network = _network(text)
    if network is None:
        raise ValueError(f'"{shorten(text)}" is not a CIDR (expected for example "192.0.2.0/24")')
    if network.is_multicast:
        raise ValueError(f'"{text}" is a range of multicast addresses, not of hosts')
    _refuse(text, network.network_address)
    _refuse(text, network.broadcast_address)
    if network.num_addresses > MAX_NETWORK_ADDRESSES:
        widest = network.max_prefixlen - 16
        raise ValueError(
            f'"{text}" is {network.num_addresses:,} addresses; '
            f"a CIDR may have at most {MAX_NETWORK_ADDRESSES:,} (/{widest})"
        )
    return network


def parse_range(text: str) -> Network:
    """Read a CIDR of any size, or an address as one of its own; ValueError if it is none or has host bits."""
    if "%" in text:
        raise ValueError(f'"{shorten(text)}" {_ZONE}')
    network = _network(text)
    if network is None:
        raise ValueError(f'"{shorten(text)}" is not an address or a CIDR, such as "192.0.2.0/24"')
    return network


def _network(text: str) -> Network | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if network.network_address != ipaddress.ip_address(text.partition("/")[0]):
        raise ValueError(f'"{text}" has host bits set (did you mean "{network}"?)')
    return network


def _refuse(text: str, address: Address) -> None:
    if fault := fault_of(address):
        raise ValueError(f'"{text}" {fault}')


def duplicates(hosts: Iterable[str]) -> dict[str, str]:
    """Find hosts that are another one in a different spelling: {later: first}; what is no host is left out."""
    seen: dict[str, str] = {}
    found: dict[str, str] = {}
    for host in hosts:
        try:
            form = canonical(host)
        except ValueError:
            continue
        if form in seen:
            found[host] = seen[form]
        else:
            seen[form] = host
    return found


def canonical_glob(glob: str) -> str:
    """Spell a glob as `canonical` spells the hosts that it matches.

    A plain host or CIDR is spelled whole, of any other glob each label without * ? [; what cannot be is in lower case.
    """
    try:
        return canonical(glob)
    except ValueError:
        return ".".join(label if re.search(r"[*?\[]", label) else _label(label) for label in glob.lower().split("."))


def _label(text: str) -> str:
    try:
        return _canonical_name(text) if not text.isascii() else text
    except ValueError:
        return text


def _last_bits(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _canonical_name(text: str) -> str:
    if len(text) > _MAX_NAME + 1:  # before the mapping, whose time grows with the length
        raise _too_long(text)
    name = (text if text.isascii() else _mapped(text)).lower().removesuffix(".")
    labels = name.split(".")
    if all(map(_NUMBER.fullmatch, labels)):
        raise ValueError(f'"{shorten(text)}" is not an IPv4 address (four numbers from 0 to 255 without leading zeros)')
    if re.fullmatch(r"(?=.*\.)[0-9]+(\.[0-9]+)*-[0-9.]+", name):
        raise ValueError(
            f'"{shorten(text)}" looks like a range of addresses; write a CIDR, or one line for each address'
        )
    labels = [label if label.isascii() else _encoded(text, label) for label in labels]
    name = ".".join(labels)
    if len(name) > _MAX_NAME or max(map(len, labels)) > _MAX_LABEL:
        raise _too_long(text)
    if not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f'"{shorten(text)}" is not a host ({_EXPECTED})')
    return name


def _mapped(text: str) -> str:
    """Map a name by UTS #46: case, width, composition, the dots of other scripts."""
    try:
        return idna.uts46_remap(text, std3_rules=False)
    except idna.IDNAError as error:
        raise ValueError(_not_idna(text, error)) from None


def _encoded(text: str, label: str) -> str:
    try:
        return idna.alabel(label).decode()
    except idna.IDNAError as error:
        if "too long" in str(error):
            raise _too_long(text) from None
        raise ValueError(_not_idna(text, error)) from None


def _not_idna(text: str, error: idna.IDNAError) -> str:
    why = shorten(str(error))  # which quotes the label, escaped
    return f'"{shorten(text)}" is not a name by IDNA 2008 ({why}); if there is such a host, write its xn-- form'


def _too_long(text: str) -> ValueError:
    return ValueError(
        f'"{shorten(text)}" is not a host (a name has at most {_MAX_NAME} characters, 63 between two dots)'
    )
