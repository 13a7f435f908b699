"""Scans on demand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypedDict

import msgspec
from aiohttp import web
from msgspec import Meta

from portspec.web.api.operation import JSON, Answer, Operation, problems
from portspec.web.api.query import read_query
from portspec.web.problems import ProblemError

if TYPE_CHECKING:
    from portspec.web.backend import Backend


class ScanQuery(msgspec.Struct, frozen=True):
    """Which host is scanned."""

    host: Annotated[str, Meta(min_length=1, max_length=256, description="The name of the host, in any spelling.")]


class ScanDocument(TypedDict):
    """What becomes of the request."""

    host: str
    scan: Literal["started", "on its way already"]


SCAN: Final = Operation(
    "POST",
    "/api/v1/scan",
    "scanHost",
    "scan a host now",
    {
        202: Answer("the host is scanned; the result appears where those of other scans do", {JSON: ScanDocument}),
        **problems(_400="a parameter makes no sense", _404="this exporter has no such host"),
    },
    query=ScanQuery,
    tag="scans",
)
OPERATIONS: Final = (SCAN,)


class Scans:
    """Handlers over a backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def begin(self, request: web.Request) -> web.Response:
        """Have a host scanned now."""
        host = read_query(ScanQuery, request.query, request.path).host
        try:
            is_begun = self._backend.scan_now(host)
        except KeyError:
            raise ProblemError(404, f'"{host}" is not a host of this exporter') from None
        document: ScanDocument = {"host": host, "scan": "started" if is_begun else "on its way already"}
        body = json.dumps(document, ensure_ascii=False).encode(errors="replace") + b"\n"
        headers = {"Content-Type": f"{JSON}; charset=utf-8", "Cache-Control": "no-store"}
        return web.Response(status=202, body=body, headers=headers)
