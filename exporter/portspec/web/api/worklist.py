"""What the owners of hosts have to do, what is overdue and urgent first."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Annotated, Final, TypedDict

import msgspec
from msgspec import Meta

from portspec.documents import Count, Timestamp
from portspec.exposure import PortSeverity
from portspec.priorities import Priority
from portspec.report import worklist
from portspec.report.worklist import Work
from portspec.web.api.answer import as_csv, as_json, media_of
from portspec.web.api.operation import CSV, JSON, Answer, Operation, problems
from portspec.web.api.query import DEFAULT_PAGE_LENGTH, MAX_PAGE_LENGTH, Limit, read_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from portspec.state.snapshot import Snapshot
    from portspec.web.api.answer import Answers, Representation
    from portspec.web.backend import Backend

MAX_OWNER: Final = 1024  # characters, as the label of a discovered host may have


class WorklistQuery(msgspec.Struct, frozen=True):
    """Whose worklist; without an owner that of all hosts."""

    owner: (
        Annotated[
            str,
            Meta(
                max_length=MAX_OWNER,
                description="Only hosts with this value of the label `owner_label`; empty for hosts without it.",
            ),
        ]
        | None
    ) = None
    limit: Limit | None = None


class WorkItemDocument(TypedDict):
    """One thing to do on a host.

    `owner` is "" if nobody is named. `what` are ports, a package with its version, or what runs; `urgency` is the class
    of the most urgent vulnerability of the package, the severity of the ports, or "". `since` is null if it is not
    known, `due` without a deadline.
    """

    owner: str
    host: str
    work: Work
    what: str
    action: str
    urgency: Annotated[str, Meta(extra_json_schema={"enum": [*map(str, Priority), *map(str, PortSeverity), ""]})]
    overdue: bool
    due: Timestamp | None
    since: Timestamp | None
    why: str


class WorklistDocument(TypedDict):
    """The first items of a worklist; `total` is how many there are."""

    worklist: list[WorkItemDocument]
    total: Count


_ABOUT: Final = "the first items of the worklist"
_REFUSED: Final = problems(_400="a parameter makes no sense")
WORKLIST: Final = Operation(
    "GET",
    "/api/v1/worklist",
    "listWork",
    "what an owner of hosts has to do, what is overdue and urgent first, as JSON or, by Accept, as CSV",
    {200: Answer(_ABOUT, {JSON: WorklistDocument, CSV: None}), **_REFUSED},
    query=WorklistQuery,
    tag="worklist",
)
WORKLIST_CSV: Final = Operation(
    "GET",
    "/api/v1/worklist.csv",
    "listWorkAsCsv",
    "what an owner of hosts has to do, what is overdue and urgent first, as CSV",
    {200: Answer(_ABOUT, {CSV: None}), **_REFUSED},
    query=WorklistQuery,
    tag="worklist",
)
OPERATIONS: Final = (WORKLIST, WORKLIST_CSV)


class Worklists:
    """Handlers over a backend; `wall_clock` gives Unix seconds."""

    def __init__(self, backend: Backend, answers: Answers, wall_clock: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self._answers = answers
        self._wall_clock = wall_clock

    async def many(self, request: web.Request) -> web.StreamResponse:
        """Answer with the worklist of an owner, or of all."""
        query = read_query(WorklistQuery, request.query, request.path)
        snapshot, media, now = self._backend.snapshot, media_of(request), self._wall_clock()
        audit = self._backend.config.audit
        parts, max_age = (snapshot.hosts, snapshot.audits, snapshot.unread), audit.max_age if audit else math.inf
        return await self._answers.computed(
            request, ("worklist", query, media), parts, lambda: _write(snapshot, query, media, now, max_age),
            is_list=True,
        )  # fmt: skip


def _write(snapshot: Snapshot, query: WorklistQuery, media: str, now: float, max_age: float) -> Representation:
    limit = query.limit or (MAX_PAGE_LENGTH if media == CSV else DEFAULT_PAGE_LENGTH)
    found = worklist.worklist(snapshot, now, query.owner, limit=limit, max_age=max_age)
    rows = [item.document(now) for item in found.items]
    if media == CSV:
        return as_csv(worklist.COLUMNS, rows, "worklist")
    return as_json({"worklist": rows, "total": found.total})
