"""Real peers for the engine, on this machine's loopback only, and what /proc says of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portspec.ports import PortSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

V4: Final = "127.0.0.1"
V6: Final = "::1"
PATIENCE: Final = 30.0  # seconds that anything bounded may take on a busy machine

_LISTEN: Final = "0A"  # net/tcp_states.h
_numbers = itertools.count(1)


def own_address() -> str:
    """Return an address in 127.0.0.0/8 that no other test uses: what others bind to 127.0.0.1 is not open there."""
    process = os.getpid() % 65000 + 256
    return f"127.{process // 256}.{process % 256}.{next(_numbers) % 250 + 1}"


@contextlib.contextmanager
def listeners(address: str, count: int = 1, *, backlog: int = 128) -> Iterator[list[socket.socket]]:
    """Listen on ports that the kernel picks."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
            listener.bind((address, 0))
            listener.listen(backlog)
            listener.settimeout(PATIENCE)
            opened.append(listener)
        yield opened


@contextlib.contextmanager
def silent_ports(address: str, count: int = 1) -> Iterator[PortSet]:
    """Return ports that answer nothing: listeners whose queue is full, for which Linux drops each SYN."""
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(listeners(address, count, backlog=0))
        for listener in opened:
            stack.enter_context(full_queue(listener))
        yield ports_of(opened)


@contextlib.contextmanager
def full_queue(listener: socket.socket) -> Iterator[None]:
    """Fill the queue of a listener of backlog 0, and empty it afterwards."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.socket(listener.family))
            client.settimeout(0)
            client.connect_ex(listener.getsockname())
        yield
    listener.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()


def ports_of(opened: list[socket.socket]) -> PortSet:
    """Return the ports of listeners."""
    return PortSet.of(listener.getsockname()[1] for listener in opened)


def listening(address: str) -> set[int]:
    """Read from /proc which ports are open on an address of loopback now."""
    found = set()
    wanted = {_spelled(V6), _spelled("::")}
    if ":" not in address:
        wanted = {_spelled(address), _spelled("0.0.0.0"), _spelled("::"), _spelled(f"::ffff:{address}")}  # noqa: S104
    for name in ("tcp", "tcp6"):
        table = Path("/proc/net", name)
        for line in table.read_text(encoding="ascii").splitlines()[1:] if table.exists() else ():
            _, local, _, state, *_ = line.split()
            host, port = local.split(":")
            if state == _LISTEN and host in wanted:
                found.add(int(port, 16))
    return found


def _spelled(address: str) -> str:
    """Spell an address as /proc/net/tcp does: each 32-bit word in the machine's order."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, 'little'):08X}" for word in words)


def descriptors() -> int:
    """Count this process's open descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not in {PATIENCE:g} s: {what}"
        time.sleep(0.002)
