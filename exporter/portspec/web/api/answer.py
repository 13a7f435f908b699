"""Answers to GET: written once for all who ask, with a tag by which a client asks for what has changed."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from aiohttp import web

from portspec.metrics.accept import media_weight
from portspec.report.table import write_table
from portspec.threads import computed
from portspec.web.api.operation import CSV, JSON, XML
from portspec.web.sending import Text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence

    from portspec.web.renderings import Renderings
    from portspec.web.sending import Sending

_TYPES: Final = {
    JSON: "application/json; charset=utf-8",
    CSV: "text/csv; charset=utf-8; header=present",
    XML: "application/xml",
}
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True, eq=False)
class Representation(Text):
    """A document or a table.

    Attributes:
        media: Its media type, JSON, CSV or XML.
        tag: The entity tag, in quotes: strong, of the bytes (RFC 9110, 8.8.3).
        next_cursor: Where the next part begins, None if this is the last.
        file: The name under which a browser saves it, "" for none.
    """

    media: str
    tag: str
    next_cursor: str | None = None
    file: str = ""


def as_json(document: Mapping[str, Any], next_cursor: str | None = None) -> Representation:
    """Return a JSON document; half a surrogate pair, which a host may send, becomes a question mark."""
    body = _dump(document).encode(errors="replace") + b"\n"
    return Representation(body, JSON, _tag(body), next_cursor)


def as_csv(
    columns: Sequence[str], rows: Iterable[Mapping[str, object]], name: str, next_cursor: str | None = None
) -> Representation:
    """Return a table that is saved as portspec-NAME.csv."""
    body = write_table(columns, rows)
    return Representation(body, CSV, _tag(body), next_cursor, f"portspec-{name}.csv")


def as_xml(body: bytes) -> Representation:
    """Return a document of XML, which names its encoding itself."""
    return Representation(body, XML, _tag(body))


def media_of(request: web.BaseRequest) -> str:
    """Return what a client wants of a list: CSV by the path or by Accept (RFC 9110, 12.5.1), otherwise JSON."""
    if request.path.endswith(".csv"):
        return CSV
    accept = ",".join(request.headers.getall("Accept", ()))
    return CSV if media_weight(accept, CSV) > media_weight(accept, JSON) else JSON


class Answers:
    """Answers requests with what is rendered once for all who ask for the same."""

    def __init__(self, renderings: Renderings[Text], sending: Sending) -> None:
        self._renderings = renderings
        self._sending = sending

    async def computed(
        self,
        request: web.Request,
        key: Hashable,
        parts: tuple[object, ...],
        write: Callable[[], Representation],
        *,
        is_list: bool = False,
    ) -> web.StreamResponse:
        """Answer with what `write` makes of `parts` in a thread; `is_list` tells that there is CSV, too."""
        return await self.give(request, key, parts, lambda: computed(write), is_list=is_list)

    async def give(
        self,
        request: web.Request,
        key: Hashable,
        parts: tuple[object, ...] | None,
        write: Callable[[], Awaitable[Representation]],
        *,
        is_list: bool = False,
    ) -> web.StreamResponse:
        """Answer with what `write` returns, see Renderings.page."""
        page = await self._renderings.page(request, key, parts, write)
        if not isinstance(page, Representation):
            raise TypeError(f"{key!r} is the key of a page, too")
        return await self.send(request, page, is_list=is_list)

    async def send(self, request: web.Request, page: Representation, *, is_list: bool = False) -> web.StreamResponse:
        """Answer with a representation; with 304 if the client has it already (RFC 9110, 13.1.2)."""
        headers = {"ETag": page.tag, "Cache-Control": "no-cache"}
        if is_list and not request.path.endswith(".csv"):
            headers["Vary"] = "Accept"
        is_read = request.method in ("GET", "HEAD")
        if is_read and is_known(",".join(request.headers.getall("If-None-Match", ())), page.tag):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = _TYPES[page.media]
        if page.next_cursor is not None:
            headers["Link"] = f'<{_next(request, page.next_cursor)}>; rel="next"'
        if page.file:
            headers["Content-Disposition"] = f'attachment; filename="{page.file}"'
        return await self._sending.send(request, page, headers)


def is_known(if_none_match: str, tag: str) -> bool:
    """Return whether a header If-None-Match has a tag, by weak comparison (RFC 9110, 8.8.3.2)."""
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)


def _dump(document: Mapping[str, Any]) -> str:
    """Return what json.dumps() returns; rows one by one, since a call of it holds up the event loop until its end."""
    return f"{{{', '.join(f'{json.dumps(name)}: {_value(value)}' for name, value in document.items())}}}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join([json.dumps(row, ensure_ascii=False) for row in value])}]"
    return json.dumps(value, ensure_ascii=False)


def _tag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def _next(request: web.BaseRequest, cursor: str) -> str:
    """Return the reference of the next part, relative to the one that was asked for (RFC 8288, 3.1)."""
    others = [(name, text) for name, text in request.query.items() if name != "cursor"]
    return "?" + urlencode([*others, ("cursor", cursor)], errors="replace")
