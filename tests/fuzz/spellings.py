"""Names, ports, times and Accept headers: short texts that come from conf.yml, discovery, requests and audits alike."""

from __future__ import annotations

import gzip
import ipaddress
import math
import re
import socket
from typing import TYPE_CHECKING, Final

import idna

from portspec.names import (
    MAX_NETWORK_ADDRESSES,
    address_of,
    canonical,
    canonical_glob,
    canonical_one,
    fault_of,
    parse_network,
    parse_range,
    query_name,
)
from portspec.ports import ALL_PORTS, PortError, PortSet, parse_ports
from portspec.state.snapshot import Snapshot
from portspec.times import parse_duration, spell_duration
from tests.fuzz.harness import LARGE, Harness, Limit, text_of, words
from tests.unit.metrics.scrape import body, exposition

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_MESSAGE: Final = 400  # characters


def _numeric(text: str) -> str | None:
    """Return the address that the C library takes a text for, without asking anybody; None if for none."""
    try:
        found = socket.getaddrinfo(text, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError):
        return None
    return str(found[0][4][0])


def spell_name(data: bytes) -> None:
    """Spell a host; the C library and the idna package take it for the same one, and so does a second spelling."""
    text = text_of(data)
    try:
        form = canonical(text)
    except ValueError as error:
        assert len(str(error)) <= _MAX_MESSAGE
        _check_ranges(text)
        return
    assert form.isascii()
    assert form == form.lower()
    assert canonical(form) == form
    assert query_name(text).removesuffix(".") == form
    if "/" in form:
        assert parse_network(text).num_addresses <= MAX_NETWORK_ADDRESSES
        return
    assert canonical_one(text) == form
    assert canonical_glob(text) == form
    address = address_of(form)
    if address is not None:
        assert fault_of(address) is None
        assert _numeric(form) == form
    else:
        assert _numeric(form) is None
        assert len(form) <= 253
        if not text.isascii():
            _check_idna(text, form)


def _check_idna(text: str, form: str) -> None:
    """Check a name with letters beyond ASCII by the idna package, which refuses some ASCII labels that the DNS has."""
    try:
        expected = idna.encode(text, uts46=True).decode()
    except idna.IDNAError:
        for label in form.split("."):
            if label.startswith("xn--") and label not in text.lower():
                idna.decode(label)
    else:
        assert expected.removesuffix(".") == form


def _check_ranges(text: str) -> None:
    """Read as a range or a glob what is no host: whatever it is, nothing but ValueError is raised."""
    try:
        network = parse_range(text)
    except ValueError as error:
        assert len(str(error)) <= _MAX_MESSAGE
    else:
        assert network == ipaddress.ip_network(str(network))
    assert len(canonical_glob(text)) <= 4 * len(text) + len("xn--") * text.count(".") + 4


def read_ports(data: bytes) -> None:
    """Read lists of ports, one on each of two lines; sets do what sets of numbers do, and read back as spelled."""
    sets = []
    for text in text_of(data).split("\n", 1):
        try:
            sets.append(PortSet.of_ranges(span for word in text.split("+")[:20] for span in parse_ports(word).ranges))
        except PortError as error:
            assert len(str(error)) <= _MAX_MESSAGE
    for ports in sets:
        assert PortSet.of_ranges(span for word in ports.spellings() for span in parse_ports(word).ranges) == ports
        assert ports <= ALL_PORTS
        assert len(ALL_PORTS - ports) == len(ALL_PORTS) - len(ports)
    if len(sets) > 1:
        one, other = sets
        for found, expected in (
            (one | other, set(one) | set(other)),
            (one & other, set(one) & set(other)),
            (one - other, set(one) - set(other)),
        ):
            assert set(found) == expected
            assert all(
                last + 1 < first for (_, last), (first, _) in zip(found.ranges[:-1], found.ranges[1:], strict=True)
            )


def read_duration(data: bytes) -> None:
    """Read a duration; it is a number of seconds that is not negative, and it can be spelled."""
    text = text_of(data)
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        assert len(str(error)) <= _MAX_MESSAGE
        return
    assert seconds >= 0
    if math.isfinite(seconds):
        assert spell_duration(seconds).isprintable()


_EMPTY: Final = exposition(Snapshot.of(()))
_TEXT: Final = "text/plain; version="
_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"


def negotiate(data: bytes) -> None:
    """Ask for /metrics with any Accept and Accept-Encoding, one on each line: each page is whole, and as it says."""
    accept, _, encoding = data.decode("utf-8", "surrogateescape").partition("\n")
    page = _EMPTY.write(accept, encoding)
    text = body(page)
    if page.content_encoding is not None:
        assert page.content_encoding == "gzip"
        assert re.search(r"gzip|\*", encoding.lower())
        text = gzip.decompress(text)
    is_openmetrics = page.content_type.startswith(_OPENMETRICS)
    assert is_openmetrics or page.content_type.startswith(_TEXT)
    assert is_openmetrics <= ("application/openmetrics-text" in accept.lower())
    assert text.endswith(b"# EOF\n") == is_openmetrics
    assert b"\nportspec_hosts 0.0\n" in text


# --- Seeds ------------------------------------------------------------------------------------------------------------


def _lines(*texts: str) -> Iterator[bytes]:
    return (text.encode() for text in texts)


def _names() -> Iterator[bytes]:
    yield from _lines(
        "web1", "db1.example.org.", "faß.test", "192.0.2.1", "2001:db8::1", "192.0.2.0/24", "*.example.org"
    )
    yield from _lines(
        "xn--fa-hia.test", "☕.example", "例え。テスト", "::ffff:192.0.2.1", "64:ff9b::1", "0x7f.1", "a_b"
    )
    yield from _lines("[::1]:80", "web1:80", "http://web1/", "fe80::1%eth0", "10.0.0.1-20", "2002::1", "web[12]*.a")


def _ports() -> Iterator[bytes]:
    yield from _lines("22\n80", "22+80+443\n8000-8100", "all\n22/tcp", "ssh+https\n1-65535", "53/udp\n022", "1-2+3")


def _durations() -> Iterator[bytes]:
    yield from _lines("90m", "1h30m", "3600", ".5", "2 weeks", "1 h 30 min", "500ms", "1y2d", "1M", "-1s", "9" * 400)


def _accepts() -> Iterator[bytes]:
    both = f"{_OPENMETRICS};q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1\ngzip"
    yield from _lines(
        both, "*/*\n*", "text/plain\n", '\nx-gzip;q="0.5"', "application/openmetrics-text;version=1\ngzip;q=0"
    )


_NAMES: Final = Harness(
    "names",
    spell_name,
    _names,
    (
        *words(". - xn-- * ? [ ] : :: / % 0x 0 255 ffff ß 。 \u200d é"),
        *(b"\xff", b"\0", b" ", b"\n", b"a" * 63, b"a." * 126),
    ),
    longest=512,
)
_PORTS: Final = Harness(
    "ports",
    read_ports,
    _ports,
    (*words("+ - /tcp /udp all ssh https 65535 65536 0 , 1-65535"), *(b"\n", b" ", b"9" * 30)),
    longest=512,
    calls=Limit(20_000, 2000),
    memory=Limit(64 << 20, 0),  # sets of all ports, which the harness itself makes
    examples=100,
    largest=LARGE,
)
_DURATIONS: Final = Harness(
    "durations",
    read_duration,
    _durations,
    (*words("ms s m h d w y ."), b" ", b"9" * 400),
    longest=512,
    largest=LARGE,
)
_ACCEPT: Final = Harness(
    "accept",
    negotiate,
    _accepts,
    (
        *words(
            "application/openmetrics-text text/plain */* ; , version= 1.0.0 0.0.1 q= escaping= allow-utf-8 0.5 gzip"
        ),
        *(b"x-gzip", b"identity", b"nan", b"1e999", b"9" * 400, b"\n"),
    ),
    longest=1024,
)

HARNESSES: Final = (_NAMES, _PORTS, _DURATIONS, _ACCEPT)
