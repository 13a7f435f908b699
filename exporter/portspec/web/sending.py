"""Large answers: written in pieces that all who get the same page share, in step with the client that reads them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_UNREAD: Final = 128 << 20  # bytes that clients are still reading: different pages, and what each has of its own
PIECE: Final = 256 << 10  # bytes that are written at a time; each write has a cost, whatever its size
PIECES_PER_TURN: Final = 4  # that a quick reader gets in one turn of the event loop, in a few tenths of a millisecond
OWN: Final = 2 * PIECE  # bytes that a client that does not read holds of its own: a piece and a buffer


class Page(Protocol):
    """What is sent: `pieces` of `size` bytes in all, which follow each other without anything between."""

    @property
    def pieces(self) -> Iterable[bytes]:
        """The bytes."""
        ...

    @property
    def size(self) -> int:
        """The number of bytes."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A page that was written as a whole."""

    body: bytes

    @property
    def pieces(self) -> tuple[bytes]:
        """The bytes, in one piece."""
        return (self.body,)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.body)


@dataclass(frozen=True, slots=True, eq=False)
class _Reader:
    request: web.BaseRequest
    page: Page


class Sending:
    """Sends pages. A page whose readers are slow stays in memory for them.

    So when what is being read comes to more than `most` bytes, those who began first are given up: `give_up` closes
    the connection of a request.
    """

    def __init__(self, give_up: Callable[[web.BaseRequest], None], *, most: int = MAX_UNREAD) -> None:
        self._give_up = give_up
        self._most = most
        self._reading: list[_Reader] = []  # who began first, first

    @property
    def unread(self) -> int:
        """The number of bytes that are kept for those who read: each page once, and the buffers of each reader."""
        pages = {id(reader.page): reader.page for reader in self._reading}
        return sum(page.size for page in pages.values()) + sum(min(OWN, reader.page.size) for reader in self._reading)

    async def send(
        self, request: web.BaseRequest, page: Page, headers: Mapping[str, str], *, status: int = 200
    ) -> web.StreamResponse:
        """Answer a request with a page; of HEAD, with its header fields alone."""
        answer = web.StreamResponse(status=status, headers=headers)
        answer.content_length = page.size
        reader = _Reader(request, page)
        self._reading.append(reader)
        self._make_room()
        try:
            with contextlib.suppress(ConnectionError):  # the client disconnected, as after a scrape timeout
                await answer.prepare(request)
                if request.method != "HEAD":
                    for number, part in enumerate(_parts(page.pieces), 1):
                        await answer.write(part)
                        if number % PIECES_PER_TURN == 0:
                            await asyncio.sleep(0)  # to a quick reader it is written without a pause
                await answer.write_eof()
        finally:
            if reader in self._reading:
                self._reading.remove(reader)
        return answer

    def _make_room(self) -> None:
        while len(self._reading) > 1 and self.unread > self._most:
            self._give_up(self._reading.pop(0).request)


def _parts(pieces: Iterable[bytes]) -> Iterable[bytes | memoryview]:
    """Join small pieces to parts of about PIECE, and split large ones without a copy."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        if len(piece) < PIECE:
            waiting.append(piece)
            size += len(piece)
            if size < PIECE:
                continue
        if waiting:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
        if len(piece) >= PIECE:
            view = memoryview(piece)
            yield from (view[start : start + PIECE] for start in range(0, len(piece), PIECE))
    if waiting:
        yield b"".join(waiting)
