"""Run on the scanner's side: a name server (RFC 1035) on 127.0.0.1 that knows the hosts of the lab.

Standard input: JSON lines such as {"names": {name: [address, ...]}, "fail": [], "silent": ["AAAA"], "odd": {name:
kind}}; each is answered by a line when it is in force.
Questions for records of a type in "fail" are answered with SERVFAIL, in "silent" not at all. Names that are not known
do not exist (NXDOMAIN). An answer of more than 512 bytes is given over TCP alone,
which is only listened on while such an answer is possible: ports of the loopback are scanned, too. A name may be odd:

``loop``, ``chain``
    an alias of itself; the first of a thousand aliases, each in the next answer
``cut``, ``noise``, ``other``, ``pointer``
    an answer that ends in its record, random bytes, an answer to another question, a name that points to itself
``turning``
    one of its addresses, another one for each question
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

A, CNAME, AAAA = 1, 5, 28
MAX_UDP, LONG = 512, 10  # bytes of a message, and addresses that may take more
TRUNCATED = 0x0200
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
ANSWER, AUTHORITATIVE, RECURSION_DESIRED, RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0100, 0x0080


def answer(
    query: bytes,
    names: dict[str, list[str]],
    fail: list[str],
    silent: list[str],
    odd: dict[str, str],
    number: int,
) -> bytes | None:
    """Answer one question, if at all; the name in the answers is a pointer to that of the question.

    `number` is that of the question, by which answers change.
    """
    identity, flags = struct.unpack_from("!HH", query)
    labels, end = [], 12
    while length := query[end]:
        labels.append(query[end + 1 : end + 1 + length].decode().lower())
        end += 1 + length
    kind = struct.unpack_from("!H", query, end + 1)[0]
    question = query[12 : end + 5]
    name = ".".join(labels)
    addresses = names.get(name)
    word = {A: "A", AAAA: "AAAA"}.get(kind, "")
    if word in silent:
        return None
    code = SERVFAIL if word in fail else NXDOMAIN if addresses is None else NOERROR
    family = {A: socket.AF_INET, AAAA: socket.AF_INET6}.get(kind)
    records = b""
    number_of_records = 0
    way = odd.get(name) or odd.get(labels[-2] if len(labels) > 1 else "")
    if way in {"loop", "chain"}:
        code = NOERROR
        target = b"\xc0\x0c" if way == "loop" else _encoded([f"c{number}", *labels[-2:]])
        records, number_of_records = struct.pack("!HHHIH", 0xC00C, CNAME, 1, 0, len(target)) + target, 1
    elif way == "pointer":
        records, number_of_records = struct.pack("!H", 0xC000 | (12 + len(question))) + bytes(10), 1
    elif way == "other":
        question = _encoded(["else", "lab"]) + question[-4:]
    elif way == "turning":
        own = [each for each in addresses or [] if (":" in each) is (family == socket.AF_INET6)]
        addresses = [own[number % len(own)]] if own else []
    for address in (addresses or []) if code == NOERROR else []:
        if family is not None and (":" in address) is (family == socket.AF_INET6):
            data = socket.inet_pton(family, address)
            records += struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(data)) + data
            number_of_records += 1
    said = ANSWER | AUTHORITATIVE | RECURSION_AVAILABLE | (flags & RECURSION_DESIRED) | code
    whole = struct.pack("!HHHHHH", identity, said, 1, number_of_records, 0, 0) + question + records
    if way == "noise":
        return query[:2] + os.urandom(100)
    return whole[:-3] if way == "cut" else whole


def _encoded(labels: list[str]) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def over_tcp(client: socket.socket, answered: Callable[[bytes], bytes | None]) -> None:
    """Answer the questions of one client, each with its length before it."""
    client.settimeout(10)
    with client:
        try:
            while head := client.recv(2, socket.MSG_WAITALL):
                query = client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
                if (whole := answered(query)) is not None:
                    client.sendall(len(whole).to_bytes(2, "big") + whole)
        except OSError:
            return


def _listening(listener: socket.socket | None, *, wanted: bool) -> socket.socket | None:
    """Return what listens on TCP from now on, if anything is to."""
    if listener and not wanted:
        listener.close()
        return None
    return listener or (socket.create_server(("127.0.0.1", 53)) if wanted else None)


def _truncated(said: bytes, query: bytes) -> bytes:
    """Return an answer without records that says that it is truncated."""
    flags = int.from_bytes(said[2:4], "big") | TRUNCATED
    return said[:2] + struct.pack("!HHHHH", flags, 1, 0, 0, 0) + query[12:]


def main() -> None:
    """Serve until standard input ends."""
    state: dict[str, Any] = {"names": {}, "fail": [], "silent": [], "odd": {}}
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    listener: socket.socket | None = None
    numbers = count()

    def answered(query: bytes) -> bytes | None:
        return answer(query, **state, number=next(numbers))

    pending = b""
    while True:
        for ready in select.select([server, sys.stdin.fileno(), *([listener] if listener else [])], [], [])[0]:
            if listener and ready is listener:
                client, _ = listener.accept()
                threading.Thread(target=over_tcp, args=(client, answered), daemon=True).start()
                continue
            if ready is server:
                query, origin = server.recvfrom(4096)
                if (said := answered(query)) is not None:
                    is_long = len(said) > MAX_UDP
                    server.sendto(_truncated(said, query) if is_long else said, origin)
                continue
            chunk = os.read(sys.stdin.fileno(), 1 << 16)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                state |= json.loads(line)
                listener = _listening(listener, wanted=max(map(len, state["names"].values()), default=0) >= LONG)
                print(json.dumps({}), flush=True)


if __name__ == "__main__":
    main()
