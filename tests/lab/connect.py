"""Connects to TCP ports, all at once, and says what came back: the client of the lab's own tests.

A script of the standard library only: ``connect.py SECONDS``, with a JSON list of [address, port] on standard input.
It writes a JSON list with one word for each: "open", "reset" (opened, then reset), "closed", "silence" (nothing within
SECONDS), "icmp TYPE/CODE", or the name of another errno.
"""

from __future__ import annotations

import errno
import json
import resource
import select
import socket
import sys
import time
from typing import Final

# linux/in.h and linux/in6.h; the socket module has no name for them
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25


def connect(address: str, port: int) -> tuple[socket.socket, int]:
    """Begin to connect, with the ICMP errors kept: a port unreachable looks like an RST otherwise.

    Return the socket and the errno.
    """
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    if client.family == socket.AF_INET6:
        client.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        client.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    client.settimeout(0)
    return client, client.connect_ex((address, port))


def icmp(client: socket.socket) -> str | None:
    """Read the ICMP error that ended the connection, if one did."""
    try:
        _, ancillary, _, _ = client.recvmsg(0, 512, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return None
    # struct sock_extended_err: errno (4 bytes), origin, type, code
    _, _, data = ancillary[0]
    return f"icmp {data[5]}/{data[6]}"


def outcome(client: socket.socket, seconds: float) -> str:
    """Name what became of a connection that is ready."""
    error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error == 0:
        client.settimeout(seconds)
        try:
            client.recv(1)
        except OSError as raised:
            error = raised.errno or 0
    if error == 0:
        return "open"
    if error == errno.ECONNRESET:
        return "reset"
    return icmp(client) or ("closed" if error == errno.ECONNREFUSED else errno.errorcode[error])


def main(seconds: float) -> None:
    """Connect to what standard input names."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = [connect(address, port) for address, port in json.load(sys.stdin)]
    waiting = {client.fileno(): client for client, error in clients if error == errno.EINPROGRESS}
    words = {
        client.fileno(): "silence" if error == errno.EINPROGRESS else errno.errorcode[error]
        for client, error in clients
    }
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLOUT)
    end = time.monotonic() + seconds
    while waiting and (left := end - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            poll.unregister(fd)
            words[fd] = outcome(waiting.pop(fd), seconds)
    json.dump([words[client.fileno()] for client, _ in clients], sys.stdout)


if __name__ == "__main__":
    main(float(sys.argv[1]))
