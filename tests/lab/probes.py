"""Run on the hosts' side: writes the SYNs that arrive, as hexadecimal IP packets, one a line.

A script of the standard library only: ``probes.py COUNT``. It writes "ready", and ends after COUNT of them.
"""

from __future__ import annotations

import socket
import sys

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_SYN, _TCP = 0x02, 6


def is_syn(packet: bytes) -> bool:
    """Return whether an IP packet is a SYN, and nothing but that."""
    protocol, flags = (9, 33) if packet[0] >> 4 == 4 else (6, 53)
    return len(packet) > flags and packet[protocol] == _TCP and packet[flags] == _SYN


def main(count: int) -> None:
    """Write them."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)) as sock:
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        sock.bind(("lab0", _ETH_P_ALL))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while count:
            packet = sock.recv(2048)
            if is_syn(packet):
                sys.stdout.write(packet.hex() + "\n")
                sys.stdout.flush()
                count -= 1


if __name__ == "__main__":
    main(int(sys.argv[1]))
