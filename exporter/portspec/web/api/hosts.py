"""Hosts, as the page of all hosts has them: a list, and each by itself."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Final, TypedDict

import msgspec
from msgspec import Meta

from portspec.audit.model import Status
from portspec.documents import Count, PortName, Seconds, Timestamp
from portspec.scan import Reason
from portspec.state.document import HostDocument, host_document, unscanned_document
from portspec.state.verdict import Verdict
from portspec.web.api.answer import as_csv, as_json, media_of
from portspec.web.api.cursor import read_cursor, spell_cursor
from portspec.web.api.operation import CSV, JSON, Answer, NoQuery, Operation, problems
from portspec.web.api.query import (
    DEFAULT_PAGE_LENGTH,
    MAX_PAGE_LENGTH,
    Cursor,
    HostGlob,
    Labels,
    Limit,
    read_query,
)
from portspec.web.globs import matcher
from portspec.web.overview import HostFilter, Row, Shown, chosen_rows, position_of, stands_after
from portspec.web.problems import ProblemError

if TYPE_CHECKING:
    from aiohttp import web

    from portspec.state.snapshot import Snapshot
    from portspec.web.api.answer import Answers, Representation
    from portspec.web.backend import Backend

    Position = tuple[str, tuple[float, ...], str]


class HostOrder(enum.StrEnum):
    """What hosts are sorted by; with `-` before it the greatest is first. Equal ones are sorted by name."""

    HOST = "host"
    HOST_LAST = "-host"
    WORST = "worst"
    WORST_LAST = "-worst"
    OPEN = "open"
    OPEN_MOST = "-open"
    LAST_SCAN = "last_scan"
    LAST_SCAN_NEWEST = "-last_scan"
    AUDIT = "audit"
    AUDIT_BEST = "-audit"


class HostsQuery(msgspec.Struct, frozen=True):
    """Which hosts, in which order, and which part of them."""

    q: Annotated[str, Meta(max_length=200, description="Only hosts with this text in their name or a label.")] = ""
    label: Labels = ()
    host: HostGlob = "*"
    verdict: Annotated[
        Shown | None,
        Meta(
            description="Only hosts with this verdict. `unknown` has those that wait for their first scan, too, and "
            "`waiting` these alone; hosts that only send audits are `unscanned`."
        ),
    ] = None
    audit: Annotated[Status | None, Meta(description="Only hosts whose audit has this status.")] = None
    sort: HostOrder = HostOrder.HOST
    limit: Limit | None = None
    cursor: Cursor | None = None

    @property
    def filter(self) -> HostFilter:
        """The filter of the page that shows the same hosts, but for `host` and `verdict`."""
        pairs = [label.partition("=") for label in self.label]
        return HostFilter(
            text=self.q.strip(),
            labels=tuple((name, value) for name, _, value in pairs),
            audit=self.audit,
            order=self.sort.removeprefix("-"),
            is_descending=self.sort.startswith("-"),
        )


class HostsDocument(TypedDict):
    """A part of the hosts; `total` is how many the filter lets through in all."""

    hosts: list[HostDocument]
    total: Count
    next_cursor: str | None


class HostLine(TypedDict):
    """A host as a line of a table."""

    host: str
    labels: dict[str, str]
    verdict: Verdict | None
    reason: Reason | None
    detail: str | None
    expected: list[PortName]
    allowed: list[PortName]
    missing: list[PortName]
    unexpected: list[PortName]
    excepted: list[PortName]
    open: list[PortName]
    last_scan: Timestamp | None
    duration_seconds: Seconds | None
    last_change: Timestamp | None
    next_scan: Timestamp | None
    audit_status: Status | None
    audit_reported_at: Timestamp | None
    vulnerable_packages: Count | None
    vulnerabilities: Count | None


HOSTS: Final = Operation(
    "GET",
    "/api/v1/hosts",
    "listHosts",
    "all hosts, as JSON or, by Accept, as CSV",
    {
        200: Answer("a part of the hosts; the header Link leads to the next one", {JSON: HostsDocument, CSV: None}),
        **problems(_400="a parameter makes no sense"),
    },
    query=HostsQuery,
)
HOSTS_CSV: Final = Operation(
    "GET",
    "/api/v1/hosts.csv",
    "listHostsAsCsv",
    "all hosts as CSV",
    {200: Answer("a part of the hosts", {CSV: None}), **problems(_400="a parameter makes no sense")},
    query=HostsQuery,
)
HOST: Final = Operation(
    "GET",
    "/api/v1/hosts/{host}",
    "getHost",
    "one host, also one that only sends audits",
    {
        200: Answer("the host", {JSON: HostDocument}),
        **problems(_400="a parameter is given", _404="this exporter has no such host"),
    },
    in_path={"host": "The name or address of a host, in any spelling."},
)
OPERATIONS: Final = (HOSTS, HOSTS_CSV, HOST)


class Hosts:
    """Handlers over a backend."""

    def __init__(self, backend: Backend, answers: Answers) -> None:
        self._backend = backend
        self._answers = answers

    async def many(self, request: web.Request) -> web.StreamResponse:
        """Answer with hosts."""
        query = read_query(HostsQuery, request.query, request.path)
        after = read_cursor(query.cursor, tuple[HostOrder, tuple[float, ...], str]) if query.cursor else None
        if after is not None and after[0] != query.sort:
            raise ProblemError(400, f'cursor: it is of the order "{after[0]}", and not of "{query.sort}"')
        snapshot, media = self._backend.snapshot, media_of(request)
        parts = (snapshot.hosts, snapshot.audits)
        return await self._answers.computed(
            request, ("hosts", query, media), parts, lambda: _write(snapshot, query, after, media), is_list=True
        )

    async def one(self, request: web.Request) -> web.StreamResponse:
        """Answer with one host."""
        return await self.named(request, request.match_info["host"])

    async def named(self, request: web.Request, name: str) -> web.StreamResponse:
        """Answer with the host of a name."""
        read_query(NoQuery, request.query, request.path)
        audit = self._backend.audits.find(name)
        try:
            state = self._backend.find(name)
        except KeyError:
            if audit is None:
                raise ProblemError(404, f'"{name}" is not a host of this exporter') from None
            key, parts = ("unscanned", name), (audit,)
            return await self._answers.computed(request, key, parts, lambda: as_json(unscanned_document(audit)))
        return await self._answers.computed(
            request, ("host", state.host), (state, audit), lambda: as_json(host_document(state, audit))
        )


def _write(snapshot: Snapshot, query: HostsQuery, after: Position | None, media: str) -> Representation:
    by, matches = query.filter, matcher(query.host.lower())
    chosen = [row for row in chosen_rows(snapshot, by) if matches(row.host.lower()) and _is_shown(row, query.verdict)]
    limit = query.limit or (MAX_PAGE_LENGTH if media == CSV else DEFAULT_PAGE_LENGTH)
    rest = chosen if after is None else [row for row in chosen if stands_after(row, after[1:], by)]
    rows = rest[:limit]
    next_cursor = spell_cursor([query.sort, *position_of(rows[-1], by)]) if len(rest) > limit else None
    documents = [_document(row) for row in rows]
    if media == CSV:
        return as_csv(list(HostLine.__annotations__), map(_line, documents), "hosts", next_cursor)
    page: HostsDocument = {"hosts": documents, "total": len(chosen), "next_cursor": next_cursor}
    return as_json(page, next_cursor)


def _is_shown(row: Row, verdict: Shown | None) -> bool:
    """Return whether a row has a verdict; a host that waits for its first scan is unknown, as its document says."""
    return verdict in (None, row.shown) or (verdict is Shown.UNKNOWN and row.shown is Shown.WAITING)


def _document(row: Row) -> HostDocument:
    if row.state is not None:
        return host_document(row.state, row.audit)
    if row.audit is None:
        raise ValueError(f"{row.host} is neither scanned nor audited")
    return unscanned_document(row.audit)


def _line(host: HostDocument) -> HostLine:
    audit = host["audit"]
    return {
        "host": host["host"],
        "labels": host["labels"],
        "verdict": host["verdict"],
        "reason": host["reason"],
        "detail": host["detail"],
        "expected": host["expected"],
        "allowed": host["allowed"],
        "missing": host["missing"],
        "unexpected": host["unexpected"],
        "excepted": host["excepted"],
        "open": _open(host),
        "last_scan": host["last_scan"],
        "duration_seconds": host["duration_seconds"],
        "last_change": host["last_change"],
        "next_scan": host["next_scan"],
        "audit_status": audit["status"] if audit else None,
        "audit_reported_at": audit["reported_at"] if audit else None,
        "vulnerable_packages": audit["vulnerable_packages"] if audit else None,
        "vulnerabilities": len(audit["vulnerabilities"])
        if audit and audit["vulnerable_packages"] is not None
        else None,
    }


def _open(host: HostDocument) -> list[str]:
    """Return the ports that accept connections on any address."""
    found = (port for item in host["addresses"] for port in item["open"] if port not in item["unconfirmed"])
    return list(dict.fromkeys(found))
