"""Run on the scanner's side: a name server (RFC 1035, over UDP) on 127.0.0.1 that knows the hosts of the lab.

Standard input: JSON lines such as {"names": {name: [address, ...]}, "fail": [], "silent": ["AAAA"]}; each is
answered by a line when it is in force.
Questions for records of a type in "fail" are answered with SERVFAIL, in "silent" not at all. Names that are not known
do not exist (NXDOMAIN).
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
from typing import Any

A, AAAA = 1, 28
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
ANSWER, AUTHORITATIVE, RECURSION_DESIRED, RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0100, 0x0080


def answer(query: bytes, names: dict[str, list[str]], fail: list[str], silent: list[str]) -> bytes | None:
    """Answer one question, if at all; the name in the answers is a pointer to that of the question."""
    identity, flags = struct.unpack_from("!HH", query)
    labels, end = [], 12
    while length := query[end]:
        labels.append(query[end + 1 : end + 1 + length].decode().lower())
        end += 1 + length
    kind = struct.unpack_from("!H", query, end + 1)[0]
    question = query[12 : end + 5]
    addresses = names.get(".".join(labels))
    word = {A: "A", AAAA: "AAAA"}.get(kind, "")
    if word in silent:
        return None
    code = SERVFAIL if word in fail else NXDOMAIN if addresses is None else NOERROR
    family = {A: socket.AF_INET, AAAA: socket.AF_INET6}.get(kind)
    records = b""
    count = 0
    for address in (addresses or []) if code == NOERROR else []:
        if family is not None and (":" in address) is (family == socket.AF_INET6):
            data = socket.inet_pton(family, address)
            records += struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(data)) + data
            count += 1
    said = ANSWER | AUTHORITATIVE | RECURSION_AVAILABLE | (flags & RECURSION_DESIRED) | code
    return struct.pack("!HHHHHH", identity, said, 1, count, 0, 0) + question + records


def main() -> None:
    """Serve until standard input ends."""
    state: dict[str, Any] = {"names": {}, "fail": [], "silent": []}
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    pending = b""
    while True:
        for ready in select.select([server, sys.stdin.fileno()], [], [])[0]:
            if ready is server:
                query, client = server.recvfrom(4096)
                if (said := answer(query, **state)) is not None:
                    server.sendto(said, client)
                continue
            chunk = os.read(sys.stdin.fileno(), 1 << 16)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                state |= json.loads(line)
                print(json.dumps({}), flush=True)


if __name__ == "__main__":
    main()
