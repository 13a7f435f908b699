"""Errors of the API as problem documents (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NotRequired, TypedDict

from aiohttp import web

from portspec.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_TYPE: Final = "application/problem+json"


class Problem(TypedDict):
    """What is wrong with a request.

    `title` is the phrase of the status, `detail` a sentence about this request, and `instance` its path. `error` is a
    word for programs, where several things can be wrong in the same way.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: NotRequired[str]


class ProblemError(Exception):
    """A request that is answered with a problem document.

    Attributes:
        status: The status of the answer.
        detail: What is wrong with the request, and what to do.
        headers: Further header fields of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        super().__init__(detail)


def is_of_api(path: str) -> bool:
    """Return whether errors of a path are problem documents; those of all others are text or HTML."""
    return path.startswith("/api/")


def problem(
    request: web.BaseRequest,
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    error: str | None = None,
) -> web.Response:
    """Return a problem document; `detail` is escaped so that a terminal can show it."""
    document: Problem = {
        "type": "about:blank",  # RFC 9457, 4.2.1: it says no more than the status
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": printable(detail),
        "instance": request.rel_url.raw_path,
    }
    if error is not None:
        document["error"] = error
    body = json.dumps(document, ensure_ascii=False).encode(errors="replace") + b"\n"
    return web.Response(
        status=status,
        body=body,
        headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store", **(headers or {})},
    )


def routing_problem(request: web.BaseRequest, error: web.HTTPException) -> web.Response:
    """Return the problem document of an error that aiohttp found, such as a path or a method that is not known."""
    detail, headers = error.reason, {}
    if isinstance(error, web.HTTPNotFound):
        detail = f'"{request.path}" is not a path of the API that is served here; /api/v1/openapi.json lists them'
    elif isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"the method {request.method} is not for this path (expected: {allowed})"
    return problem(request, error.status, detail, headers=headers)
