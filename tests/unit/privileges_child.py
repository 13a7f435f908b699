"""What the tests of capabilities run in a process of their own: `python -m tests.unit.privileges_child NAME`."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from portspec.scan.syn import libc, privileges

_HEADER = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, the calling thread


def _status() -> str:
    return Path("/proc/thread-self/status").read_text(encoding="utf-8")


def _set(effective: int, permitted: int) -> None:
    words = [word >> shift & 0xFFFFFFFF for shift in (0, 32) for word in (effective, permitted, 0)]
    libc.capset(_HEADER, struct.pack("=6I", *words))


def _bits(name: str) -> int:
    return next(int(line.split()[1], 16) for line in _status().splitlines() if line.startswith(f"{name}:"))


def _is_refused(capability: int) -> bool:
    try:
        _set(1 << capability, 1 << capability)
    except PermissionError:
        return True
    return False


def drop_all() -> None:
    """Return everything up; print the status of this thread, of a later one, and of a program that is started then."""
    privileges.drop_all()
    found = {"self": _status()}
    thread = threading.Thread(target=lambda: found.update(thread=_status()))
    thread.start()
    thread.join()
    shown = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True)
    found["child"] = shown.stdout
    print(json.dumps(found))  # noqa: T201


def keep_socket() -> None:
    """Open a raw socket before, try to open one and to get the right to afterwards, and use the first."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        privileges.drop_all()
        packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20, 0, 0, 1, 253, 0, *[socket.inet_aton("127.0.0.1")] * 2)
        sent = raw.sendto(packet, ("127.0.0.1", 0))  # of a protocol for experiments (RFC 3692)
    refused = ""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).close()
    except OSError as error:
        refused = type(error).__name__
    print(json.dumps([sent, refused, _is_refused(privileges.CAP_NET_RAW)]))  # noqa: T201


def claim(capability: int, *kept: int) -> None:
    """Leave the `kept` capabilities in the permitted set and none in the effective one, then claim one of them."""
    permitted = sum(1 << number for number in kept)
    _set(0, permitted)
    privileges.claim(capability)
    print(json.dumps([_bits("CapEff"), _bits("CapPrm")]))  # noqa: T201


def run_portspec(*arguments: str) -> None:
    """Run portspec with CAP_NET_RAW permitted alone, as `setcap cap_net_raw=p` on its interpreter has it."""
    from portspec.cli import main

    _set(0, 1 << privileges.CAP_NET_RAW)
    sys.exit(main(arguments))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["drop_all"]:
            drop_all()
        case ["keep_socket"]:
            keep_socket()
        case ["claim", *numbers]:
            claim(*map(int, numbers))
        case ["portspec", *arguments]:
            run_portspec(*arguments)
