"""How a page of metrics is sent."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from portspec.metrics import joined
from portspec.threads import computed

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.metrics import Page


async def respond_with(request: web.Request, make: Callable[[str, str], Page]) -> web.StreamResponse:
    """Answer with the page that `make` gives for the fields Accept and Accept-Encoding, made beside the event loop."""
    accept, accept_encoding = (",".join(request.headers.getall(name, ())) for name in ("Accept", "Accept-Encoding"))
    page = await computed(lambda: make(accept, accept_encoding))
    response = web.StreamResponse(headers={"Content-Type": page.content_type, "Vary": "Accept, Accept-Encoding"})
    if page.content_encoding:
        response.headers["Content-Encoding"] = page.content_encoding
    response.content_length = page.size
    with contextlib.suppress(ConnectionError):  # whoever hangs up, as after a scrape timeout, misses only the page
        await response.prepare(request)
        if request.method != "HEAD":
            for part in joined(page.pieces):
                await response.write(part)
                await asyncio.sleep(0)  # to a quick reader it is written without a pause
        await response.write_eof()
    return response
