"""The listening sockets of the hosts' side: reads commands, one JSON object a line, and answers each with one.

A script of the standard library only. Commands, with their answers:

``{"do": "open", "sockets": [[address, port, reset], ...]}``
    listens; connections are ended at once, by an RST if ``reset``, else by a FIN. ``{}``
``{"do": "close", "sockets": [[address, port], ...]}``
    no longer listens. ``{}``
``{"do": "reset"}``
    closes every socket and counts from 0 again. ``{}``
``{"do": "received"}``
    ``{"connections": N, "bytes": N}``: accepted connections, and what clients sent on them.

A command that fails is answered by ``{"error": TEXT}``. The end of the input ends the script.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import struct
import sys
from pathlib import Path
from typing import Any, Final

_BACKLOG: Final = 4096
_RESET: Final = struct.pack("ii", 1, 0)


class Listeners:
    """Sockets by (address, port), and the connections made to them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._listening: dict[tuple[str, int], socket.socket] = {}
        #: listening sockets by descriptor, and whether their connections are reset
        self._accepting: dict[int, tuple[socket.socket, bool]] = {}
        self._clients: dict[int, socket.socket] = {}
        self._connections = 0
        self._bytes = 0

    def serve(self, commands: int) -> None:
        """Run until the descriptor ``commands`` ends."""
        self._epoll.register(commands, select.EPOLLIN)
        pending = bytearray()
        while True:
            if commands in self._turn(-1):
                chunk = os.read(commands, 1 << 20)
                if not chunk:
                    return
                pending += chunk
                *lines, rest = pending.split(b"\n") if b"\n" in chunk else [pending]
                pending = rest
                for line in lines:
                    sys.stdout.write(json.dumps(self._answer(line)) + "\n")
                    sys.stdout.flush()

    def _turn(self, timeout: float) -> list[int]:
        """Serve what is ready; return the descriptors that are neither a listener's nor a client's."""
        others = []
        for fd, _ in self._epoll.poll(timeout, 1024):
            if fd in self._accepting:
                listener, reset = self._accepting[fd]
                self._accept(listener, reset=reset)
            elif fd in self._clients:
                self._read(self._clients[fd])
            else:
                others.append(fd)
        return others

    def _accept(self, listener: socket.socket, *, reset: bool) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # gone again; or no descriptor left, then the kernel's queue keeps it and poll reports it again
        self._connections += 1
        client.settimeout(0)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._bytes += len(_read(client) or b"")
            client.close()
            return
        # The client sees the end at once, but what it sends is read, and counted, until it closes too.
        try:
            client.shutdown(socket.SHUT_WR)
        except OSError:
            client.close()
            return
        self._clients[client.fileno()] = client
        self._epoll.register(client, select.EPOLLIN)

    def _read(self, client: socket.socket) -> None:
        data = _read(client)
        if data is None:
            return
        self._bytes += len(data)
        if not data:
            del self._clients[client.fileno()]
            client.close()

    def _answer(self, line: bytes | bytearray) -> dict[str, Any]:
        try:
            command = json.loads(line)
            match command["do"]:
                case "open":
                    for address, port, reset in command["sockets"]:
                        self._open(address, port, reset=reset)
                case "close":
                    for address, port in command["sockets"]:
                        self._close((address, port))
                case "reset":
                    self._reset()
                case "received":
                    return self._received()
                case other:
                    return {"error": f"{other}: not a command"}
        except (OSError, KeyError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return {}

    def _open(self, address: str, port: int, *, reset: bool) -> None:
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.settimeout(0)
            listener.bind((address, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise OSError(error.errno, f"{address} port {port}: {error.strerror}") from error
        self._listening[address, port] = listener
        self._accepting[listener.fileno()] = (listener, reset)
        self._epoll.register(listener, select.EPOLLIN)

    def _close(self, key: tuple[str, int]) -> None:
        listener = self._listening.pop(key)
        del self._accepting[listener.fileno()]
        listener.close()

    def _reset(self) -> None:
        for opened in (*self._listening.values(), *self._clients.values()):
            opened.close()
        self._listening.clear()
        self._accepting.clear()
        self._clients.clear()
        self._connections = self._bytes = 0

    def _received(self) -> dict[str, Any]:
        """Count what was received, with what lies ready in the kernel's queues."""
        while self._busy():
            pass
        return {"connections": self._connections, "bytes": self._bytes}

    def _busy(self) -> bool:
        """Whether there was something to accept or to read."""
        before = (self._connections, self._bytes, len(self._clients))
        self._turn(0)
        return before != (self._connections, self._bytes, len(self._clients))


def _read(client: socket.socket) -> bytes | None:
    """Read what the client sent; b"" when it has ended; None when there is nothing to read now."""
    try:
        return client.recv(1 << 16)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def raise_limit() -> None:
    """Allow as many descriptors as the system lets this process have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = int(Path("/proc/sys/fs/nr_open").read_text(encoding="ascii"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError):  # not the root of the system
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    raise_limit()
    Listeners().serve(sys.stdin.fileno())
