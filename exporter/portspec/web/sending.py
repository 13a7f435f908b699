"""Large answers: written in pieces that all who get the same page share, in step with the client that reads them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_UNREAD: Final = 128 << 20  # bytes of different pages that clients are still reading
PIECE: Final = 64 << 10  # bytes that are written at a time: what a client that does not read holds of its own


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

    So when the pages that are being read come to more than `most` bytes, those who began first are given up:
    `give_up` closes the connection of a request.
    """

    def __init__(self, give_up: Callable[[web.BaseRequest], None], *, most: int = MAX_UNREAD) -> None:
        self._give_up = give_up
        self._most = most
        self._reading: list[_Reader] = []  # who began first, first

    @property
    def unread(self) -> int:
        """The number of bytes of the pages that are being read, each counted once."""
        return sum({id(reader.page): reader.page.size for reader in self._reading}.values())

    async def send(
        self, request: web.BaseRequest, page: Page, headers: Mapping[str, str], *, status: int = 200
    ) -> web.StreamResponse:
        """Answer a request with a page; of HEAD, with its header fields alone."""
        answer = web.StreamResponse(status=status, headers=headers)
        answer.content_length = page.size
        reader = _Reader(request, page)
        self._reading.append(reader)
        self._make_room(page)
        try:
            with contextlib.suppress(ConnectionError):  # the client disconnected, as after a scrape timeout
                await answer.prepare(request)
                if request.method != "HEAD":
                    for part in _parts(page.pieces):
                        await answer.write(part)
                        await asyncio.sleep(0)  # to a quick reader it is written without a pause
                await answer.write_eof()
        finally:
            if reader in self._reading:
                self._reading.remove(reader)
        return answer

    def _make_room(self, page: Page) -> None:
        while self.unread > self._most:
            other = next((reader for reader in self._reading if reader.page is not page), None)
            if other is None:
                return
            self._reading.remove(other)
            self._give_up(other.request)


def _parts(pieces: Iterable[bytes]) -> Iterable[bytes | memoryview]:
    """Join small pieces to parts of about PIECE, and split large ones without a copy: each write has a cost."""
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
