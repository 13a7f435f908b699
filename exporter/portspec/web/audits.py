"""POST /api/v1/audits, to which agents send the audits of their hosts, and the agent itself, signed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from aiohttp import web

from portspec.audit.admission import MAX_PACKED, MAX_PACKED_HEAD, RejectedError
from portspec.audit.agent_key import AgentKeyError
from portspec.audit.envelope import ANSWER_SIGNATURE, UPDATE_AGENT
from portspec.audit.ingest import network_of
from portspec.store import Outcome, StoreError
from portspec.threads import in_daemon_thread
from portspec.web.bodies import Body, NoRoomError, PendingBodies
from portspec.web.gate import client_of
from portspec.web.problems import problem

if TYPE_CHECKING:
    from portspec.web.backend import Backend

MAX_TIME: Final = 60.0  # seconds for the body of a request
GRACE: Final = 10.0  # seconds for a small body; a larger one may take longer, by
LEAST_RATE: Final = 16 << 10  # bytes per second: a slower sender would occupy the memory of others
RETRY_AFTER: Final = {"Retry-After": "60"}
_STATUS: Final = {"too_large": 413, "malformed": 400, "duplicate": 409}  # RFC 9110, 15.5; all others are 403
_STORED: Final = {
    Outcome.ACCEPTED: (201, "accepted"),
    Outcome.REPLACED: (201, "accepted; it replaces the failed audit of that day"),
    Outcome.IDENTICAL: (200, "this audit is already archived"),
}


_TOO_SLOW: Final = f"the audit arrived too slowly: below {LEAST_RATE:,} bytes per second, or more than {MAX_TIME:.0f} s"
_NO_ROOM: Final = "too many audits are being received; retry later"


TAKES_BODY: Final = frozenset({"/api/v1/audits", "/api/v1/reports"})


class _UnableError(Exception):
    """A valid audit cannot be accepted now."""


class AuditRoutes:
    """Handlers over a service; `pending` are the audits that are being received."""

    def __init__(self, service: Backend) -> None:
        self._service = service
        self.pending = PendingBodies()
        self._agent = files("portspec").joinpath("agent.py").read_bytes()
        self._signature: str | None = None

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_post("/api/v1/audits", self._take)
        router.add_post("/api/v1/reports", self._moved)
        router.add_get("/agent.py", self._give_agent)
        router.add_get("/agent.py.sha256", self._give_hash)
        router.add_get("/agent.py.sig", self._give_signature)

    async def _take(self, request: web.Request) -> web.Response:
        """Archive a signed audit: 201, or 200 if it is archived already; 503 asks for a retry.

        What becomes of an audit that its host has signed is told in an answer that is signed with the same key, since
        the agent believes no other. A 4xx that is not signed is for whoever reads the agent's message.
        """
        origin = client_of(request)
        try:
            return await self._archive(request, origin)
        except RejectedError as error:
            return _refusal(request, error)
        except TimeoutError:
            return _problem(request, 408, "timeout", _TOO_SLOW)
        except StoreError as error:
            return _problem(request, 503, "store", f"the audit cannot be archived now: {error.why}; retry later")
        except _UnableError as error:
            return _problem(request, 503, "unable", str(error))
        except ConnectionError:  # the client has disconnected and does not get this answer
            return _problem(request, 400, "malformed", "it is truncated")

    async def _archive(self, request: web.Request, origin: str) -> web.Response:
        """Read and archive an audit, what has come in of it being counted among the bytes that are held meanwhile.

        Raises RejectedError for one that its host has not signed, and TimeoutError if it comes too slowly.
        """
        audits = self._service.audits
        if not audits.is_expecting:
            raise _UnableError("this portspec accepts no audits: its conf.yml has no audit block")
        if error := _fault(request):
            audits.refuse(error, origin)
            raise error
        async with asyncio.timeout(None) as patience:
            body = Body(network_of(origin), patience)
            try:
                await self._receive(request, origin, body)
                patience.reschedule(None)  # from here on the client waits for us
                packed = bytes(body.data)
                body.data.clear()
                return await self._stored(request, packed, origin)
            except NoRoomError:
                raise _UnableError(_NO_ROOM) from None
            except asyncio.CancelledError:
                if body.is_displaced:
                    raise _UnableError(_NO_ROOM) from None
                raise
            finally:
                self.pending.release(body)

    async def _stored(self, request: web.Request, packed: bytes, origin: str) -> web.Response:
        """Archive an audit; return the signed answer. Raises RejectedError for one that its host has not signed."""
        audits = self._service.audits
        try:
            status, message = _STORED[await audits.take(packed, origin)]
            answer = _accepted(status, message)
        except RejectedError as error:
            if not error.is_signed:
                raise
            answer = _refusal(request, error)
        told = answer.body if isinstance(answer.body, bytes) else b""
        answer.headers[ANSWER_SIGNATURE] = audits.sign_answer(packed, answer.status, told)
        return answer

    async def _receive(self, request: web.Request, origin: str, body: Body) -> None:
        """Read the body of a request: of one that is too large no more than shows that, of a stranger's its head.

        Raises NoRoomError, and RejectedError for a host that is not on the roster.
        """
        began = asyncio.get_running_loop().time()
        body.patience.reschedule(began + min(GRACE, MAX_TIME))
        tried = 0
        async for piece in request.content.iter_any():
            self.pending.add(body, piece)
            if body.size > MAX_PACKED:  # admit() refuses it
                break
            body.patience.reschedule(began + min(MAX_TIME, GRACE + body.size / LEAST_RATE))
            if body.host is None and body.size >= min(2 * tried, MAX_PACKED_HEAD):  # not once more for each byte
                tried = body.size
                self._identify(body, origin)

    def _identify(self, body: Body, origin: str) -> None:
        """Find out what host an audit is of, if its head has come in. Raises RejectedError, NoRoomError."""
        try:
            host = self._service.audits.host_of(bytes(body.data[:MAX_PACKED_HEAD]))
        except RejectedError as error:
            if error.reason == "malformed" and body.size < MAX_PACKED_HEAD:
                return  # what is missing may be still to come
            self._service.audits.refuse(error, origin)
            raise
        self.pending.identify(body, host)

    async def _moved(self, request: web.Request) -> web.Response:
        """Answer an agent of before 0.2 with the new path; it shows the message to its administrator."""
        return _problem(request, 410, "moved", f"audits now go to /api/v1/audits: {UPDATE_AGENT}")

    async def _give_agent(self, _: web.Request) -> web.Response:
        return web.Response(body=self._agent, content_type="text/x-python", charset="utf-8")

    async def _give_hash(self, _: web.Request) -> web.Response:
        """Give the line that sha256sum -c takes."""
        return web.Response(text=f"{hashlib.sha256(self._agent).hexdigest()}  agent.py\n")

    async def _give_signature(self, _: web.Request) -> web.Response:
        """Give the detached signature that ssh-keygen -Y verify takes; it is made once."""
        if not self._service.audits.is_expecting:
            return web.Response(status=404, text="this portspec accepts no audits: its conf.yml has no audit block.\n")
        if self._signature is None:
            try:
                self._signature = await in_daemon_thread(self._sign_agent)
            except AgentKeyError as error:
                return web.Response(status=503, text=f"the agent cannot be signed: {error}.\n", headers=RETRY_AFTER)
        return web.Response(text=self._signature)

    def _sign_agent(self) -> str:
        key = self._service.agent_key
        key.make()
        return key.sign(self._agent)


def _fault(request: web.Request) -> RejectedError | None:
    """Return what is wrong with a request before its body is read."""
    size = request.content_length or 0  # None of a body in chunks
    if size > MAX_PACKED:
        return RejectedError("too_large", f"it has {size:,} bytes, more than {MAX_PACKED:,}")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return RejectedError("malformed", "it has a Content-Encoding; an audit is already compressed")
    return None


def _refusal(request: web.Request, error: RejectedError) -> web.Response:
    return _problem(request, _STATUS.get(error.reason, 403), error.reason, str(error))


def _problem(request: web.Request, status: int, error: str, detail: str) -> web.Response:
    headers = RETRY_AFTER if status == web.HTTPServiceUnavailable.status_code else None
    return problem(request, status, detail, headers=headers, error=error)


def _accepted(status: int, message: str) -> web.Response:
    body = json.dumps({"message": message}).encode() + b"\n"
    return web.Response(status=status, body=body, headers={"Content-Type": "application/json; charset=utf-8"})
