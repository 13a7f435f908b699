"""The verdicts of a host over time, the newest first."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Final, TypedDict

import msgspec
from msgspec import Meta

from portspec.documents import Timestamp
from portspec.state.document import spelled
from portspec.state.verdict import Verdict
from portspec.store import StoreError
from portspec.threads import computed
from portspec.web.api.answer import as_json
from portspec.web.api.operation import JSON, Answer, Operation, problems
from portspec.web.api.query import DEFAULT_PAGE_LENGTH, Limit, read_query
from portspec.web.problems import ProblemError

if TYPE_CHECKING:
    from aiohttp import web

    from portspec.web.api.answer import Answers, Representation
    from portspec.web.backend import Backend

_LATER: Final = {"Retry-After": "5"}  # seconds


class VerdictsQuery(msgspec.Struct, frozen=True):
    """Of which host, and how many."""

    host: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=256,
            description="The name of a host, in any spelling; also one that left. Its former names are included.",
        ),
    ]
    limit: Limit | None = None


class VerdictRow(TypedDict):
    """A verdict and since when it held. `reason` says why it is unknown: `not_scanned` if nobody looked for long."""

    since: Timestamp
    verdict: Verdict
    reason: str | None


class VerdictsDocument(TypedDict):
    """The verdicts of a host."""

    host: str
    verdicts: list[VerdictRow]


VERDICTS: Final = Operation(
    "GET",
    "/api/v1/verdicts",
    "listVerdicts",
    "the verdicts of a host over time, the newest first",
    {200: Answer("the verdicts", {JSON: VerdictsDocument}), **problems(_400="a parameter makes no sense")},
    query=VerdictsQuery,
    tag="changes",
)
OPERATIONS: Final = (VERDICTS,)


class Verdicts:
    """Handlers over a backend."""

    def __init__(self, backend: Backend, answers: Answers) -> None:
        self._backend = backend
        self._answers = answers

    async def many(self, request: web.Request) -> web.StreamResponse:
        """Answer with the verdicts of a host."""
        query = read_query(VerdictsQuery, request.query, request.path)
        host = query.host
        with contextlib.suppress(KeyError):  # a host that has left has its verdicts, too
            host = self._backend.find(host).host

        async def page() -> Representation:
            rows = await self._backend.verdicts(host, limit=query.limit or DEFAULT_PAGE_LENGTH)
            found: list[VerdictRow] = [
                {"since": spelled(row.at), "verdict": row.verdict, "reason": row.reason or None} for row in rows
            ]
            document: VerdictsDocument = {"host": host, "verdicts": found}
            return await computed(lambda: as_json(document))

        try:
            return await self._answers.give(request, ("verdicts", host, query.limit), None, page)
        except StoreError as error:
            raise ProblemError(503, str(error), _LATER) from None
