"""The sockets that the server listens on: bound by portspec, or passed by a service manager."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from portspec.errors import ListenError, PortspecError, UsageError
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from portspec.web.address import ListenAddress

_FIRST_DESCRIPTOR: Final = 3  # sd_listen_fds(3), SD_LISTEN_FDS_START


@dataclass(frozen=True, slots=True)
class Inherited:
    """A listening socket that the service manager has passed, and its name in the socket unit."""

    name: str
    socket: socket.socket


async def bound(address: ListenAddress) -> list[socket.socket]:
    """Return a socket for each address that a listen address means, bound. Raises ListenError."""
    try:
        return bind(await in_daemon_thread(lambda: _addresses(address)))
    except (OSError, UnicodeError) as error:
        raise ListenError(str(address), why(error)) from None


async def bound_unix(path: str) -> socket.socket:
    """Return a Unix socket that is bound to a path, for `portspec reload`. Raises PortspecError."""
    try:
        return await in_daemon_thread(lambda: bind_unix(path))
    except OSError as error:
        raise PortspecError(f"cannot listen on {path}, which `portspec reload` uses: {why(error)}") from None


def inherited(environment: Mapping[str, str]) -> tuple[Inherited, ...]:
    """Return the sockets that the service manager has passed (sd_listen_fds(3)). Raises UsageError without any."""
    try:
        count = int(environment.get("LISTEN_FDS", "0"))
        process = int(environment.get("LISTEN_PID", "0"))
    except ValueError:
        count = process = 0
    if count < 1 or process != os.getpid():
        raise UsageError("--web.systemd-socket: the service manager has passed no socket; start the socket unit")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    found = []
    for place in range(count):
        descriptor = _FIRST_DESCRIPTOR + place
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            raise UsageError(f"--web.systemd-socket: descriptor {descriptor}: {why(error)}") from None
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise UsageError(f"--web.systemd-socket: descriptor {descriptor} is no listening stream socket")
        sock.settimeout(0)
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - as os has it
        found.append(Inherited(names[place] if place < len(names) else "", sock))
    return tuple(found)


def bind(addresses: Iterable[tuple[int, Any]]) -> list[socket.socket]:
    """Bind sockets to addresses, each with its family. Raises OSError, and then none is bound."""
    bound: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys(addresses):
            sock = socket.socket(family, socket.SOCK_STREAM)
            bound.append(sock)
            sock.settimeout(0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def bind_unix(path: str) -> socket.socket:
    """Bind a Unix socket for this user and root; one that an earlier process left is replaced. Raises OSError."""
    place = Path(path)
    try:
        if stat.S_ISSOCK(place.lstat().st_mode):
            place.unlink()
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        sock.bind(path)
        place.chmod(0o600)  # before listen(): until then nobody can connect
    except BaseException:
        sock.close()
        raise
    return sock


def url_of(sock: socket.socket, *, is_encrypted: bool) -> str:
    """Return the URL of a socket, with the real port."""
    address: Sequence[object] = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{address!s}"
    host, port = str(address[0]), address[1]
    if host in ("::", "0.0.0.0"):  # noqa: S104 - every address of this machine: one that a browser can open
        host = "localhost"
    scheme = "https" if is_encrypted else "http"
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"


def _addresses(address: ListenAddress) -> list[tuple[int, Any]]:
    """Look up a listen address; the event loop would use a thread that stays and keeps its initial privileges."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, where) for family, *_, where in found]


def why(error: OSError | UnicodeError) -> str:
    """Return the reason for an error of listening, without Python's own words."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return "no such address"
    return os.strerror(error.errno).lower() if error.errno else str(error)
