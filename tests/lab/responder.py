"""Odd hosts behind a tunnel: answers TCP SYNs that arrive at a TUN device, each address in a way of its own.

A script of the standard library only: ``responder.py DEVICE``, with a JSON object on the first line of standard input
that says what each address does: ``{ADDRESS: {"kind": KIND, "open": [...], "dropped": [...], "rate": N, "delay": N,
"others": [ADDRESS, ...]}}``; a delay may also be ``[LEAST, MOST]``, of which each answer's is drawn.
It makes the device, writes "ready", and answers until standard input ends; the device, and the routes through it, go
with it. Ports that are not named are closed; answers are sent ``delay`` seconds late. The kinds:

``normal``
    a SYN-ACK, an RST or nothing
``thrice``
    three RSTs for one SYN
``limited``
    sends at most ``rate`` RSTs per second, with a burst of as many
``hasty``
    follows each SYN-ACK by an RST
``uncounted``
    acknowledges the sequence number of the SYN in its RSTs, without counting the SYN
``icmp``
    answers for its dropped ports with an ICMP error that quotes 8 bytes of TCP
``extended``
    as ``icmp``, with hop-by-hop and destination options before what it answers by IPv6
``accepting``, ``refusing``, ``ignoring``
    a SYN-ACK on every port, or on the open ones if there are some, to whom sends a SYN with no more than one option,
    as scanners do; others, who want to connect, get the same, an RST, or nothing. Firewalls that answer for others
    look like that.
``proxying``
    a SYN-ACK on every port, as a SYN proxy: connections to ports that are not open are reset once they have come about
``clinging``
    lets connect to its open ports, with a window of 0, and ignores what follows, so that nothing is ever over
``endless``
    sends data on each connection as soon as it has come about, and goes on when it is reset
``storming``
    sends, before each right answer, dozens of wrong ones: SYN-ACKs and RSTs with any acknowledgement number and ICMP
    errors that quote something else, from its own address and from the ``others``
``repeating``
    gives each right answer two hundred times
``garbled``
    has TCP options in its SYN-ACKs that nobody can read
``greeting``
    answers with a SYN, as for a simultaneous open, that nothing follows

An answer is only given to a packet whose checksums are right.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time
from typing import Any, Final

# linux/if_tun.h
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SYN, _RST, _ACK = 2, 4, 16
_TCP, _ICMP, _ICMP6 = 6, 1, 58
_DESTINATION: Final = 60
_STORM: Final = 3  # wrong answers of each kind and address; more would keep the responder from answering in time
_REPEATED: Final = 200
_ENDLESS: Final = 2000  # segments of one connection, so that a test ends
_UNREADABLE: Final = bytes([2, 0, 3, 1, 8, 255, 254, 40, 5, 3, 0, 77, 1, 1, 4, 9])  # lengths of 0, 1 and too much
_SEQUENCE: Final = 0x01020304
_SCANNERS_HEADER: Final = 24


def checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071; 0 over data that has its own in place."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def packet(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    """Put an IPv4 or IPv6 header before a payload."""
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source + destination + payload
    header = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol)
    header += struct.pack("!H", checksum(header + source + destination)) + source + destination
    return header + payload


def extended(data: bytes) -> bytes:
    """Put hop-by-hop and destination options that say nothing (RFC 8200, 4.2) into a packet of IPv6."""
    if data[0] >> 4 == 4:
        return data
    options = bytes([_DESTINATION, 0, 1, 4, 0, 0, 0, 0]) + bytes([data[6], 1, 1, 12]) + bytes(12)
    return data[:4] + struct.pack("!HB", len(data) - 40 + len(options), 0) + data[7:40] + options + data[40:]


def segment(
    source: tuple[bytes, int],
    destination: tuple[bytes, int],
    flags: int,
    sequence: int,
    acknowledged: int,
    *,
    window: int = 1000,
    options: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """Make a packet of TCP between two (address, port), whose checksums are right; options of 4, 8, … bytes."""
    (own, port), (peer, peer_port) = source, destination
    words = (20 + len(options)) << 2
    tcp = struct.pack("!HHIIBBHHH", port, peer_port, sequence, acknowledged & 0xFFFFFFFF, words, flags, window, 0, 0)
    tcp += options + payload
    right = checksum(own + peer + struct.pack("!HH", _TCP, len(tcp)) + tcp)
    return packet(own, peer, _TCP, tcp[:16] + struct.pack("!H", right) + tcp[18:])


class Syn:
    """A SYN, or what follows it, as it was received, and the answers to it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.is_ip4 = data[0] >> 4 == 4
        self.start = 20 if self.is_ip4 else 40
        self.source, self.own = (data[12:16], data[16:20]) if self.is_ip4 else (data[8:24], data[24:40])
        self.source_port, self.port, self.sequence = struct.unpack_from("!HHI", data, self.start)
        self.header = (data[self.start + 12] >> 4) * 4
        self.flags = data[self.start + 13]

    def is_right(self) -> bool:
        """Return whether the checksums are right."""
        segment = self.data[self.start :]
        pseudo = self.source + self.own + struct.pack("!HH", _TCP, len(segment))
        return checksum(pseudo + segment) == 0 and (not self.is_ip4 or checksum(self.data[:20]) == 0)

    def answer(self, flags: int, *, counted: bool = True, window: int = 1000, options: bytes = b"") -> bytes:
        """Make a segment that acknowledges it."""
        sequence = _SEQUENCE if flags & _SYN else 0
        ends = (self.own, self.port), (self.source, self.source_port)
        return segment(*ends, flags, sequence, self.sequence + counted, window=window, options=options)

    def reset(self) -> bytes:
        """Make the RST that ends a connection whose handshake this segment completes."""
        return segment((self.own, self.port), (self.source, self.source_port), _RST, _SEQUENCE + 1, 0, window=0)

    def data_segment(self, number: int) -> bytes:
        """Make a segment with a kilobyte of data for the connection whose handshake this segment completes."""
        ends = (self.own, self.port), (self.source, self.source_port)
        sent = (_SEQUENCE + 1 + 1000 * number) & 0xFFFFFFFF
        return segment(*ends, _ACK, sent, self.sequence, payload=bytes(1000))

    def storm(self, others: list[bytes]) -> list[bytes]:
        """Make answers that are wrong, from the address itself and from others of its family."""
        to = self.source, self.source_port
        found = []
        for own in (self.own, *(other for other in others if len(other) == len(self.own))):
            for flags in (_SYN | _ACK, _RST | _ACK, _RST, _SYN | _RST | _ACK):
                for _ in range(_STORM):
                    number = random.getrandbits(32)
                    found.append(segment((own, self.port), to, flags, number, number ^ 0x5A5A5A5A))
        quoted = self.data[: self.start + 8]
        shifted = bytes([quoted[-1] ^ 0xFF])
        for wrong in (quoted[:-1] + shifted, quoted[:-5], quoted[:8], b"", self.unreachable(), bytes(len(quoted))):
            found += [self.unreachable(wrong)] * _STORM
        return found

    def unreachable(self, quoted: bytes | None = None) -> bytes:
        """Make an ICMP error "port unreachable" that quotes as little as RFC 792 asks for, in both families."""
        quoted = self.data[: self.start + 8] if quoted is None else quoted
        message = struct.pack("!BBHI", *((3, 3, 0, 0) if self.is_ip4 else (1, 4, 0, 0))) + quoted
        pseudo = b"" if self.is_ip4 else self.own + self.source + struct.pack("!II", len(message), _ICMP6)
        message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
        return packet(self.own, self.source, _ICMP if self.is_ip4 else _ICMP6, message)


class Host:
    """What one address does."""

    def __init__(
        self,
        *,
        kind: str,
        rate: float = 0,
        delay: float | list[float] = 0,
        others: list[str] | None = None,
        **ports: list[int],
    ) -> None:
        self._kind = kind
        self._others = [packed(other) for other in others or []]
        self._sent: dict[tuple[bytes, int, int], int] = {}
        #: how long to wait before answering, in seconds
        self.delay = delay if isinstance(delay, list) else [delay, delay]
        self._open = frozenset(ports.get("open", []))
        self._dropped = frozenset(ports.get("dropped", []))
        self._rate = self._tokens = rate
        self._at = time.monotonic()

    def answers(self, syn: Syn) -> list[bytes]:
        """Return what to send."""
        if self._kind == "extended":
            return [extended(answer) for answer in self._ordinary(syn)]
        if self._kind == "endless" and not syn.flags & _SYN:
            return self._more(syn) if syn.port in self._open else []
        if syn.flags not in {_SYN, _ACK}:
            return []
        answers = self._ordinary(syn) * (_REPEATED if self._kind == "repeating" else 1)
        return [*(syn.storm(self._others) if self._kind == "storming" else []), *answers]

    def _more(self, syn: Syn) -> list[bytes]:
        """Return more data for a connection, which is told by the port of the client."""
        key = (syn.source, syn.source_port, syn.port)
        sent = self._sent.get(key, 0)
        self._sent[key] = min(sent + 20, _ENDLESS)
        return [syn.data_segment(number) for number in range(sent, self._sent[key])]

    def _ordinary(self, syn: Syn) -> list[bytes]:
        if syn.flags == _ACK:
            return [syn.reset()] if self._kind == "proxying" and syn.port not in self._open else []
        if self._kind == "proxying":
            return [syn.answer(_SYN | _ACK)]
        if self._kind in {"accepting", "refusing", "ignoring"} and (syn.port in self._open or not self._open):
            if self._kind == "accepting" or syn.header <= _SCANNERS_HEADER:
                return [syn.answer(_SYN | _ACK)]
            return [syn.answer(_RST | _ACK)] if self._kind == "refusing" else []
        if syn.port in self._dropped:
            return [syn.unreachable()] if self._kind in {"icmp", "extended"} else []
        if syn.port in self._open and self._kind in {"clinging", "garbled", "greeting"}:
            window, options = 0 if self._kind == "clinging" else 1000, _UNREADABLE if self._kind == "garbled" else b""
            return [syn.answer(_SYN if self._kind == "greeting" else _SYN | _ACK, window=window, options=options)]
        if syn.port in self._open:
            return [syn.answer(_SYN | _ACK), *([syn.answer(_RST | _ACK)] if self._kind == "hasty" else [])]
        if self._kind == "limited" and not self._has_token():
            return []
        return [syn.answer(_RST | _ACK, counted=self._kind != "uncounted")] * (3 if self._kind == "thrice" else 1)

    def _has_token(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def serve(device: int, hosts: dict[bytes, Host]) -> None:
    """Answer until standard input ends."""
    poll = select.poll()
    poll.register(device, select.POLLIN)
    poll.register(sys.stdin.fileno(), select.POLLIN)
    later: list[tuple[float, int, bytes]] = []
    number = 0
    while True:
        wait = max(0.0, later[0][0] - time.monotonic()) * 1000 if later else None
        ready = {fd for fd, _ in poll.poll(wait)}
        if sys.stdin.fileno() in ready:
            return
        while later and later[0][0] <= time.monotonic():
            os.write(device, heapq.heappop(later)[2])
        if device not in ready:
            continue
        for data in received(device):
            host = hosts.get(data[16:20] if data[0] >> 4 == 4 else data[24:40])
            start = 20 if data[0] >> 4 == 4 else 40
            if host is None or data[9 if start == 20 else 6] != _TCP:
                continue
            syn = Syn(data)
            if not syn.is_right():
                continue
            for answer in host.answers(syn):
                if host.delay[1]:
                    number += 1
                    delay = random.uniform(*host.delay)  # noqa: S311 - no secret
                    heapq.heappush(later, (time.monotonic() + delay, number, answer))
                else:
                    os.write(device, answer)


def received(device: int) -> list[bytes]:
    """Read what has arrived, up to a number of packets."""
    packets = []
    for _ in range(64):
        try:
            packets.append(os.read(device, 2048))
        except BlockingIOError:
            break
    return packets


def make_device(name: str) -> int:
    """Make a TUN device without a header of its own (tuntap documentation of the kernel); returns its descriptor."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def packed(address: str) -> bytes:
    """Return the bytes of an address."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def main(name: str) -> None:
    """Make the device and serve."""
    told: dict[str, dict[str, Any]] = json.loads(sys.stdin.readline())
    hosts = {packed(address): Host(**what) for address, what in told.items()}
    device = make_device(name)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    serve(device, hosts)


if __name__ == "__main__":
    main(sys.argv[1])
