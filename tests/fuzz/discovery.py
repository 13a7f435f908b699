"""Lists of targets from files and URLs, answers of name servers, and resolv.conf."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING, Any, Final, cast

import dns.exception
import dns.message
import dns.rrset

from portspec.inventory.discovery import resolvconf
from portspec.inventory.discovery.dns import DnsClient
from portspec.inventory.discovery.hosts import MAX_COMPLAINTS, MAX_HOSTS, find_hosts
from portspec.inventory.discovery.nameserver import _reader, trimmed
from portspec.inventory.discovery.resolvconf import MAX_SERVERS, ResolvConf
from portspec.inventory.discovery.targetgroups import ListError, read_json, read_yaml
from portspec.names import address_of, canonical
from tests.fuzz.harness import LARGE, Harness, Limit, first_line, words
from tests.unit.inventory.discovery.parts import dns_source, entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portspec.inventory.discovery import Answer

_MAX_MESSAGE: Final = 500  # characters
_READERS: Final = {"json": read_json, "yaml": read_yaml}


def _check_answer(answer: Answer, size: int) -> None:
    """Check the hosts that an answer of so many bytes gave: each once, canonical, and no more than it can name."""
    names = [host.name for host in answer.hosts]
    assert len(set(names)) == len(names)
    assert all(canonical(name) == name for name in names)
    assert len(names) <= min(size, MAX_HOSTS)
    assert len(answer.complaints) <= min(MAX_COMPLAINTS, answer.refused + answer.dropped)
    for text in (*answer.complaints, answer.failure or ""):
        assert len(text) <= _MAX_MESSAGE
    for host in answer.hosts:
        assert host.ports
        for value in host.labels.values():
            value.encode()


def read_list(data: bytes) -> None:
    """Read a list of target groups, behind a line with its format; it is refused with a reason, or gives hosts."""
    words, rest = first_line(data)
    read = _READERS.get(words[0] if words else "")
    if read is None:
        return
    try:
        groups = read(rest)
    except ListError as error:
        assert len(str(error)) <= _MAX_MESSAGE
        return
    _check_answer(find_hosts(groups, entry()), len(rest))


class _NameServer(asyncio.DatagramProtocol):
    """Answers every query with the same bytes behind its ID."""

    def __init__(self) -> None:
        self.answer = b""
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: Any) -> None:
        """Answer."""
        assert self._transport
        self._transport.sendto(data[:2] + self.answer[:65_000], address)


def _question(query: bytes) -> bytes:
    end = query.index(0, 12) + 5  # RFC 1035, 4.1.2: a name, its type and its class
    return query[12:end]


class _Resolver:
    """A client of the name server, in an event loop of their own, started with the first answer."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server = _NameServer()

    def look_up(self, kind: str, answer: bytes) -> Sequence[Answer]:
        """Look a name up whose name server answers so."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            made = self._loop.create_datagram_endpoint(lambda: self._server, local_addr=("127.0.0.1", 0))
            self._loop.run_until_complete(made)
        self._server.answer = answer
        client = DnsClient(
            dns_source(_HOSTS, kind=kind, timeout=_PATIENCE),
            configuration=lambda: ResolvConf(("127.0.0.1",), timeout=1),
            port=self._server.port,
        )
        return list(self._loop.run_until_complete(client.ask()).values())


_PATIENCE: Final = 1.0  # seconds for an answer after which the resolver asks again
_RESOLVER: Final = _Resolver()
_KINDS: Final = ("SRV", "A", "AAAA")
_HOSTS: Final = "hosts.example.org."
_MAX_WIRE: Final = 2100  # bytes


def _message(query: dns.message.QueryMessage, wire: bytes) -> dns.message.Message | None:
    """Return the answer that bytes are to a query; None for what is none, on which the resolver waits for another."""
    try:
        return _reader(query, wire, over_udp=True)()
    except dns.exception.DNSException:
        return None


def _check_trimmed(wire: bytes) -> None:
    """Check that a message which is cut to its answers has them all: as dnspython reads the whole."""
    try:
        short = trimmed(wire)
    except dns.exception.FormError:
        return
    assert len(short) <= len(wire)
    with contextlib.suppress(dns.exception.FormError):  # where a name runs beyond the last record, which nobody reads
        assert trimmed(short) == short
    if len(wire) > _MAX_WIRE:  # the time of dnspython grows with the square
        return
    try:
        whole = dns.message.from_wire(wire)
    except Exception:  # noqa: BLE001 - the rest may be anything
        return
    assert dns.message.from_wire(short).answer == whole.answer


def read_answer(data: bytes) -> None:
    """Read the answer of a name server: it fails with a reason, or gives hosts.

    The first byte is for what was asked, and for whether the question stands in the bytes or is to be put in.
    """
    choice, answer = (data[0], data[1:]) if data else (0, b"")
    query = dns.message.make_query(_HOSTS, _KINDS[choice % 3])
    if choice < 128:
        answer = answer[:2] + b"\0\1" + answer[2:8] + _question(query.to_wire()) + answer[8:]
    wire = query.id.to_bytes(2) + answer
    _check_trimmed(wire)
    if _message(query, wire) is None:
        return
    for found in _RESOLVER.look_up(_KINDS[choice % 3], answer):
        _check_answer(found, len(data))
        if found.failure is not None:
            assert found.hosts == ()
            assert found.failure.isprintable()


def read_resolv_conf(data: bytes) -> None:
    """Read a resolv.conf, which DHCP may have written: whatever it is, there are at most three addresses to ask."""
    options, _, rest = data.partition(b"\0")
    found = resolvconf.parse(rest, {b"RES_OPTIONS": options, b"LOCALDOMAIN": options} if options else {}, b"a.b")
    assert len(found.servers) <= MAX_SERVERS
    for server in found.servers:
        assert address_of(server.partition("%")[0]) is not None
    assert all(0 < len(label) < 64 for labels in found.search for label in labels)
    assert 0 <= found.ndots <= 15
    assert found.timeout is None or 0 <= found.timeout <= 30


# --- Seeds ------------------------------------------------------------------------------------------------------------

_JSON: Final = b'json\n[{"targets": ["web1:9100", "[2001:db8::1]:80", "192.0.2.0/28"], "labels": {"site": "rome"}}]'
_YAML: Final = b"yaml\n- &a\n  targets: [web1:9100, 'db1']\n  labels: {site: rome, __portspec_expect: '22,443'}\n- *a\n"


def _lists() -> Iterator[bytes]:
    yield from (_JSON, _YAML, b"yaml\n" + _JSON[5:], b"json\nnull", b"yaml\n---\n---\n[]\n", b"json\n\xef\xbb\xbf[]")
    yield b'json\n[{"Targets": ["a"], "LABELS": {"__portspec_scanports": "all", "x": null, "9": "a", "host": "b"}}]'
    yield b"yaml\n- <<: [&l {labels: {a: b}}]\n  targets: ['\\ud800']\n  source: x\n- {targets: ~, labels: !!map {}}\n"
    yield b'json\n[{"targets": [1, null, true, 1e999, "\\ud800"], "labels": {"a": "\\ud800", "b": 1}}]'


def _answers() -> Iterator[bytes]:
    texts = {
        "SRV": ["0 0 22 web1.example.org.", "0 0 22 _a.b.", "0 0 0 ."],
        "A": ["192.0.2.1", "127.0.0.1", "0.0.0.0"],  # noqa: S104 - what a name server says
        "AAAA": ["2001:db8::1", "::ffff:192.0.2.1", "fe80::1"],
    }
    for number, (kind, records) in enumerate(texts.items()):
        query = dns.message.make_query(_HOSTS, kind)
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text_list(_HOSTS, 60, "IN", kind, records))
        wire = response.to_wire()
        behind = 12 + len(_question(wire))
        yield bytes([number]) + wire[2:4] + wire[6:12] + wire[behind:]
        yield bytes([number + 129]) + wire[2:]
        response.answer.insert(0, dns.rrset.from_text(_HOSTS, 60, "IN", "CNAME", "b.example.org."))
        wire = response.to_wire()
        yield bytes([number]) + wire[2:4] + wire[6:12] + wire[behind:]
    for code in (2, 3, 5):
        yield bytes([0, 0x81, 0x80 | code]) + bytes(6)


def _resolv_confs() -> Iterator[bytes]:
    yield b"\0# made by hand\nnameserver 192.0.2.1\nnameserver fe80::1%lo\nsearch a.example b.\noptions ndots:3 rotate"
    yield b"ndots:99 timeout:x\0domain .example.org\nnameserver 127.1\nnameserver 0x7f.1\nnameserver ::1\nnameserver\n"


_NAME: Final = b"\x04web1\x07example\x03org\0"
_POINTERS: Final = (b"\xc0\x0c", b"\xc0\x00", b"\xc0\x1f", b"\xff\xff", b"\x40", b"\x3f")
_TYPES: Final = tuple(b"\0%c\0\1" % kind for kind in (1, 2, 5, 6, 12, 28, 33, 39, 41))

_LISTS: Final = Harness(
    "targets",
    read_list,
    _lists,
    (
        *words(
            '{"targets": [ "labels": { "web1:80" null ]} &a *a << --- \\ud800 \\u0000 !!binary !!python/name:os.system'
        ),
        *words('"\\U00110000" __portspec_expect 192.0.2.0/16 {"a":1e999}'),
        *(
            b"\xff\xfe",
            b"? ",
            b"- ",
            b": ",
            b"%YAML 1.1\n",
            b"\xc2\x85",
            b"\xe2\x80\xa8",
            b"\xef\xbb\xbf",
            b"[" * 100,
            b"{" * 50,
            b"<<: ",
        ),
    ),
    longest=4096,
    calls=Limit(20_000, 400),
    memory=Limit(16 << 20, 1000),
    largest=LARGE,
)
_DNS: Final = Harness(
    "dns",
    read_answer,
    _answers,
    (_NAME, *_POINTERS, *_TYPES, struct.pack("!HHHH", 1, 0, 0, 0), b"\x82\x00", b"\x81\x83", b"\0" * 8),
    longest=2048,
    calls=Limit(60_000, 500),
    memory=Limit(4 << 20, 1000),
    examples=40,
)
_RESOLV_CONF: Final = Harness(
    "resolvconf",
    read_resolv_conf,
    _resolv_confs,
    (*words("nameserver search domain options ndots: timeout: rotate use-vc edns0 %lo"), b" ", b"\n", b"\0"),
    longest=2048,
    largest=LARGE,
)

HARNESSES: Final = (_LISTS, _DNS, _RESOLV_CONF)
