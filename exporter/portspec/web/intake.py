"""POST /api/v1/reports, where agents send the reports of their hosts, and /agent.py, where the agent is to be had."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from aiohttp import web

from portspec.audit.intake import MAX_PACKED, RefusedError
from portspec.store import Outcome, StoreError

if TYPE_CHECKING:
    from portspec.web.service import Service

MAX_HELD: Final = 128 << 20  # bytes of reports that have come in and are not archived yet: strangers may send some, too
MAX_SHARE: Final = 32 << 20  # of these, bytes from one address: no stranger shuts the others out
MAX_TIME: Final = 60.0  # seconds for the body of a request
RETRY_AFTER: Final = {"Retry-After": "60"}
_STATUS: Final = {"too_large": 413, "malformed": 400, "duplicate": 409}  # RFC 9110, 15.5; all others are 403
_STORED: Final = {Outcome.ACCEPTED: (201, "accepted"), Outcome.SAME: (200, "the same report is there already")}


class _UnableError(Exception):
    """Nothing is wrong with a report, but it cannot be taken now."""


class Intake:
    """Handlers over a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._held: Counter[str] = Counter()  # bytes, by address
        self._agent = files("portspec").joinpath("agent.py").read_bytes()

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_post("/api/v1/reports", self._take)
        router.add_get("/agent.py", self._give_agent)

    async def _take(self, request: web.Request) -> web.Response:
        """Archive a signed report: 201, or 200 for the same once more; 4xx are final, 503 is to be tried again."""
        origin = request.remote or ""
        try:
            outcome = await self._archived(request, origin)
        except RefusedError as error:
            return _answer(_STATUS.get(error.reason, 403), error.reason, str(error))
        except TimeoutError:
            return _answer(408, "timeout", f"the report did not arrive within {MAX_TIME:.0f} s")
        except StoreError as error:
            return _answer(503, "store", f"the report cannot be archived now: {error.why}; try again later")
        except _UnableError as error:
            return _answer(503, "unable", str(error))
        except ConnectionError:  # the client has gone: nobody gets this answer
            return _answer(400, "malformed", "it is cut off")
        status, message = _STORED[outcome]
        return _answer(status, None, message)

    async def _archived(self, request: web.Request, origin: str) -> Outcome:
        """Read and archive a report, what has come in of it being counted among the bytes that are held meanwhile."""
        reports = self._service.reports
        if not reports.is_expecting:
            raise _UnableError("this portspec takes no reports: its conf.yml has no audit block")
        if error := _fault(request):
            reports.refuse(error, origin)
            raise error
        body = bytearray()
        try:
            await self._receive(request, origin, body)
            return await reports.take(bytes(body), origin)
        finally:
            self._held[origin] -= len(body)
            self._held = +self._held  # those with none are left out

    async def _receive(self, request: web.Request, origin: str, body: bytearray) -> None:
        """Read the body of a request, of one that is too large no more than shows that.

        Raises TimeoutError if it takes too long.
        """
        async with asyncio.timeout(MAX_TIME):
            async for piece in request.content.iter_any():
                size = len(piece)
                if self._held[origin] + size > MAX_SHARE or self._held.total() + size > MAX_HELD:
                    raise _UnableError("too many reports are on their way in; try again later")
                self._held[origin] += size
                body += piece
                if len(body) > MAX_PACKED:  # admit() refuses it
                    break

    async def _give_agent(self, _: web.Request) -> web.Response:
        return web.Response(body=self._agent, content_type="text/x-python", charset="utf-8")


def _fault(request: web.Request) -> RefusedError | None:
    """Give what is wrong with a request before its body is read."""
    size = request.content_length or 0  # None of a body in chunks
    if size > MAX_PACKED:
        return RefusedError("too_large", f"it has {size:,} bytes, more than {MAX_PACKED:,}")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return RefusedError("malformed", "it has a Content-Encoding; a report is compressed by itself")
    return None


def _answer(status: int, error: str | None, message: str) -> web.Response:
    document = {"message": message} if error is None else {"error": error, "message": message}
    return web.Response(
        status=status,
        text=json.dumps(document) + "\n",
        content_type="application/json",
        headers=RETRY_AFTER if status == web.HTTPServiceUnavailable.status_code else None,
    )
