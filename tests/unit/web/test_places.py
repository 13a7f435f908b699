"""Who gets a place, whatever comes, goes and works; and what happens when descriptors are used up."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import os
import socket
import struct
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from portspec.web.accepting import Acceptor
from portspec.web.connection import Connection
from portspec.web.connections import BoundedConnections
from portspec.web.limits import Limits
from portspec.web.sockets import bind
from tests.unit.app.exporter import until
from tests.unit.web.site import converse

LIMITS = Limits(places=4, share=2, reserve=1)
ADDRESSES = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", "198.51.100.1", None]
PROXY = ipaddress.ip_network("198.51.100.0/24")


async def _answer(_: web.BaseRequest) -> web.Response:
    return web.Response(text="answered")


def connections(limits: Limits = LIMITS, **keys: Any) -> BoundedConnections:
    """Make connections to a server that answers everything."""
    return BoundedConnections(web.Server(_answer), limits, trusted=lambda: [PROXY], **keys)


@given(st.lists(st.tuples(st.sampled_from(["come", "work", "rest", "go"]), st.integers(0, 20)), max_size=60))
def test_limits_hold_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """Places, shares and the reserve are never exceeded, nothing that works is displaced, and counts are exact."""

    async def scenario() -> None:
        every = connections()
        working: list[Connection] = []
        resting: list[Connection] = []
        for step, number in steps:
            if step == "come":
                new = every.admit(ADDRESSES[number % len(ADDRESSES)])
                if new:
                    resting.append(new)
            elif step == "work" and resting:
                one = resting.pop(number % len(resting))
                if one in every._open:
                    one._begin(EMPTY_PAYLOAD)
                    working.append(one)
            elif step == "rest" and working:
                one = working.pop(number % len(working))
                one._turn_to(type(one._phase).IDLE)
                resting.append(one)
            elif step == "go" and (there := working + resting):
                one = there[number % len(there)]
                every.remove(one)
                (working if one in working else resting).remove(one)
            is_open = list(every._open)
            held = Counter(one.network for one in is_open if one.network is not None)
            assert all(one in is_open for one in working)
            assert sum(not one.is_reserved for one in is_open) <= LIMITS.places
            assert sum(one.is_reserved for one in is_open) == every._reserved <= LIMITS.reserve
            assert held == every._held
            assert max(held.values(), default=0) <= LIMITS.share
        every.stop()

    asyncio.run(scenario())


def test_addresses_of_one_network_share() -> None:
    """The addresses of a /64 have one share, those of a trusted proxy and the Unix socket none."""

    async def scenario() -> list[str | None]:
        every = connections()
        found = [every.admit(address) for address in ("2001:db8::1", "2001:db8::ffff", "198.51.100.7", None)]
        every.stop()
        return [one.network if one else "" for one in found]

    assert asyncio.run(scenario()) == ["2001:db8::/64", "2001:db8::/64", None, None]


class _Short(socket.socket):
    """A listening socket of a process that has no descriptor left, the first few times."""

    left = 3

    def accept(self) -> tuple[socket.socket, Any]:
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def test_connections_wait_while_descriptors_are_used_up() -> None:
    """Without a descriptor the longest idle connection is closed, the log says so, and the waiting one is served."""

    async def scenario() -> None:
        now = 0.0
        every = connections(clock=lambda: now)
        idle = every.admit(None)
        now = LIMITS.grace
        (bound,) = bind([(socket.AF_INET, ("127.0.0.1", 0))])
        short = _Short(fileno=bound.detach())
        short.settimeout(0)
        acceptor = Acceptor([short], every, context=lambda: None)
        acceptor.start()
        host, port = short.getsockname()
        answer = await converse(f"http://{host}:{port}", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.endswith(b"answered")
        assert idle not in every._open
        assert every.closed["descriptors"] == 3
        acceptor.close()
        every.stop()

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert [line["event"] for line in logs] == ["cannot accept connections"] * 3


def test_connections_that_never_ask_leave_nothing_behind() -> None:
    """A flood of connections that ask nothing costs no task, and no memory once they are over, without a collection."""

    async def scenario() -> None:
        every = connections(Limits())
        acceptor = Acceptor(bind([(socket.AF_INET, ("127.0.0.1", 0))]), every, context=lambda: None)
        acceptor.start()
        tasks = len(asyncio.all_tasks())
        clients = [socket.create_connection(acceptor.sockets[0].getsockname()) for _ in range(20)]
        await until(lambda: len(every) == len(clients))
        assert len(asyncio.all_tasks()) == tasks
        for number, client in enumerate(clients):
            if number % 2:  # a client may end with a reset, too
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        await until(lambda: not len(every))
        assert not any(isinstance(thing, Connection) and thing._connections is every for thing in gc.get_objects())
        acceptor.close()

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


@pytest.mark.parametrize(("size", "is_taken"), [(1, False), (8, False), (64, True), (5000, True)])
def test_body_in_tiny_chunks_is_closed(size: int, is_taken: bool) -> None:  # noqa: FBT001 - a value of the test
    """A body in chunks of some bytes costs much and brings little: after some of it the connection is closed."""
    assert chunked_body_closes([(b"%x\r\n%s\r\n" % (size, b"x" * size)) * (200_000 // size)]) == (
        not is_taken,
        str(200_000 // size * size if is_taken else ""),
    )


def test_first_part_of_tiny_chunks_is_not_parsed() -> None:
    """Parsing tiny chunks holds up all others: a part of a body that has little else is given up before that."""
    fits = b"5\r\nabcde\r\n" * 500  # less than what a body may have as framing
    assert chunked_body_closes([fits]) == (True, "")


@pytest.mark.parametrize("line", [b"x" * 17 + b"\r\n", b"x\n"])
def test_lines_in_a_chunk_are_no_chunks(line: bytes) -> None:
    """Short lines of text in chunks of a usual size are taken."""
    data = line * (4096 // len(line))
    assert chunked_body_closes([b"%x\r\n%s\r\n" % (len(data), data)] * 10) == (False, str(10 * len(data)))


def chunked_body_closes(parts: list[bytes]) -> tuple[bool, str]:
    """Send parts of a chunked body; return whether it was closed for its tiny chunks, and what the server answers."""

    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async def scenario() -> tuple[bool, str]:
        every = BoundedConnections(web.Server(handler), Limits())
        acceptor = Acceptor(bind([(socket.AF_INET, ("127.0.0.1", 0))]), every, context=lambda: None)
        acceptor.start()
        host, port = acceptor.sockets[0].getsockname()
        head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await converse(f"http://{host}:{port}", head, *parts, b"0\r\n\r\n")
        acceptor.close()
        every.stop()
        return every.closed["tiny_chunks"] == 1, answer.partition(b"\r\n\r\n")[2].decode()

    return asyncio.run(scenario())
