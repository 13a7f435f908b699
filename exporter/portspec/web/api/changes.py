"""The change log, the newest rows first."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, TypedDict

import msgspec
from msgspec import Meta

from portspec.state.document import ChangeDocument, change_document
from portspec.store import StoreError
from portspec.threads import computed
from portspec.web.api.answer import as_csv, as_json, media_of
from portspec.web.api.operation import CSV, JSON, Answer, Operation, problems
from portspec.web.api.query import DEFAULT_PAGE_LENGTH, MAX_PAGE_LENGTH, Limit, Moment, read_query
from portspec.web.problems import ProblemError

if TYPE_CHECKING:
    from aiohttp import web

    from portspec.web.api.answer import Answers, Representation
    from portspec.web.backend import Backend

_LATER: Final = {"Retry-After": "5"}  # seconds


class ChangesQuery(msgspec.Struct, frozen=True):
    """Which rows, and which part of them."""

    host: (
        Annotated[
            str,
            Meta(
                max_length=256,
                description="Only rows of this host, in any spelling, and its former names; also of one that has left.",
            ),
        ]
        | None
    ) = None
    since: Annotated[Moment | None, Meta(description="Only rows of this time or later.")] = None
    until: Annotated[Moment | None, Meta(description="Only rows of before this time.")] = None
    limit: Limit | None = None
    cursor: (
        Annotated[
            str,
            Meta(
                pattern="^[1-9][0-9]{0,17}$",
                description="Only rows with a lower id: `next_cursor` of the answer before.",
                extra={"expected": "the id of a row"},
            ),
        ]
        | None
    ) = None


class ChangesDocument(TypedDict):
    """A part of the change log."""

    changes: list[ChangeDocument]
    next_cursor: str | None


_REFUSED: Final = problems(_400="a parameter makes no sense")
CHANGES: Final = Operation(
    "GET",
    "/api/v1/changes",
    "listChanges",
    "the change log, as JSON or, by Accept, as CSV",
    {
        200: Answer("a part of the log; the header Link leads to the next one", {JSON: ChangesDocument, CSV: None}),
        **_REFUSED,
    },
    query=ChangesQuery,
    tag="changes",
)
CHANGES_CSV: Final = Operation(
    "GET",
    "/api/v1/changes.csv",
    "listChangesAsCsv",
    "the change log as CSV",
    {200: Answer("a part of the log", {CSV: None}), **_REFUSED},
    query=ChangesQuery,
    tag="changes",
)
OPERATIONS: Final = (CHANGES, CHANGES_CSV)


class Changes:
    """Handlers over a backend."""

    def __init__(self, backend: Backend, answers: Answers) -> None:
        self._backend = backend
        self._answers = answers

    async def many(self, request: web.Request) -> web.StreamResponse:
        """Answer with rows of the change log."""
        query, media = read_query(ChangesQuery, request.query, request.path), media_of(request)
        host = query.host
        if host is not None:
            with contextlib.suppress(KeyError):  # a host that has left has its changes, too
                host = self._backend.find(host).host
        limit = query.limit or (MAX_PAGE_LENGTH if media == CSV else DEFAULT_PAGE_LENGTH)
        read = partial(
            self._backend.changes,
            host=host,
            since=query.since,
            until=query.until,
            before_id=int(query.cursor) if query.cursor else None,
            limit=limit,
        )

        async def page() -> Representation:
            rows = await read()
            next_cursor = str(rows[-1][0]) if len(rows) == limit else None

            def write() -> Representation:
                changes = [change_document(*row) for row in rows]
                if media == CSV:
                    return as_csv(list(ChangeDocument.__annotations__), changes, "changes", next_cursor)
                document: ChangesDocument = {"changes": changes, "next_cursor": next_cursor}
                return as_json(document, next_cursor)

            return await computed(write)

        key = ("changes", host, query, media)
        try:
            return await self._answers.give(request, key, None, page, is_list=True)
        except StoreError as error:
            raise ProblemError(503, str(error), _LATER) from None
