"""POST /api/v1/reports, where agents send the reports of their hosts, and /agent.py, where the agent is to be had."""

from __future__ import annotations

import asyncio
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from aiohttp import web

from portspec.audit.admission import MAX_PACKED, MAX_PACKED_HEAD, RefusedError
from portspec.audit.ingest import network_of
from portspec.store import Outcome, StoreError
from portspec.web.bodies import Body, Holdings, NoRoomError

if TYPE_CHECKING:
    from portspec.web.service import Service

MAX_TIME: Final = 60.0  # seconds for the body of a request
GRACE: Final = 10.0  # seconds for what is small; what is larger may take longer, by
LEAST_RATE: Final = 16 << 10  # bytes a second: who is slower holds the room of others
RETRY_AFTER: Final = {"Retry-After": "60"}
_STATUS: Final = {"too_large": 413, "malformed": 400, "duplicate": 409}  # RFC 9110, 15.5; all others are 403
_STORED: Final = {
    Outcome.ACCEPTED: (201, "accepted"),
    Outcome.REPLACED: (201, "accepted in place of the report of that day whose audit failed"),
    Outcome.SAME: (200, "the same report is there already"),
}


_TOO_SLOW: Final = f"the report came too slowly: less than {LEAST_RATE:,} bytes a second, or more than {MAX_TIME:.0f} s"
_NO_ROOM: Final = "too many reports are on their way in; try again later"


class _UnableError(Exception):
    """Nothing is wrong with a report, but it cannot be taken now."""


class Intake:
    """Handlers over a service; `holdings` are the reports that are on their way in."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.holdings = Holdings()
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
            return _answer(408, "timeout", _TOO_SLOW)
        except StoreError as error:
            return _answer(503, "store", f"the report cannot be archived now: {error.why}; try again later")
        except _UnableError as error:
            return _answer(503, "unable", str(error))
        except ConnectionError:  # the client has gone: nobody gets this answer
            return _answer(400, "malformed", "it is cut off")
        status, message = _STORED[outcome]
        return _answer(status, None, message)

    async def _archived(self, request: web.Request, origin: str) -> Outcome:
        """Read and archive a report, what has come in of it being counted among the bytes that are held meanwhile.

        Raises TimeoutError if it comes too slowly.
        """
        reports = self._service.reports
        if not reports.is_expecting:
            raise _UnableError("this portspec takes no reports: its conf.yml has no audit block")
        if error := _fault(request):
            reports.refuse(error, origin)
            raise error
        async with asyncio.timeout(None) as patience:
            body = Body(network_of(origin), patience)
            try:
                await self._receive(request, origin, body)
                patience.reschedule(None)  # from here on the client waits for us
                packed = bytes(body.data)
                body.data.clear()
                return await reports.take(packed, origin)
            except NoRoomError:
                raise _UnableError(_NO_ROOM) from None
            except asyncio.CancelledError:
                if body.is_displaced:
                    raise _UnableError(_NO_ROOM) from None
                raise
            finally:
                self.holdings.release(body)

    async def _receive(self, request: web.Request, origin: str, body: Body) -> None:
        """Read the body of a request: of one that is too large no more than shows that, of a stranger's its head.

        Raises NoRoomError, and RefusedError for a host that is not on the roster.
        """
        began = asyncio.get_running_loop().time()
        body.patience.reschedule(began + min(GRACE, MAX_TIME))
        tried = 0
        async for piece in request.content.iter_any():
            self.holdings.add(body, piece)
            if body.size > MAX_PACKED:  # admit() refuses it
                break
            body.patience.reschedule(began + min(MAX_TIME, GRACE + body.size / LEAST_RATE))
            if body.host is None and body.size >= min(2 * tried, MAX_PACKED_HEAD):  # not once more for each byte
                tried = body.size
                self._identify(body, origin)

    def _identify(self, body: Body, origin: str) -> None:
        """Find out what host a report is of, if its head has come in. Raises RefusedError, NoRoomError."""
        try:
            host = self._service.reports.host_of(bytes(body.data[:MAX_PACKED_HEAD]))
        except RefusedError as error:
            if error.reason == "malformed" and body.size < MAX_PACKED_HEAD:
                return  # what is missing may be still to come
            self._service.reports.refuse(error, origin)
            raise
        self.holdings.identify(body, host)

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
