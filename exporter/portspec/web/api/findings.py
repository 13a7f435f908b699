"""Deviations, vulnerabilities and exceptions of all hosts, each in one list in the order of the hosts' names."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict, cast

import msgspec

from portspec.audit.reach import Reach  # noqa: TC001 - msgspec reads the types of the fields
from portspec.config import PortException, VulnerabilityException
from portspec.config.rulings import since_of
from portspec.documents import Count, PortName, Timestamp
from portspec.exposure import PortSeverity
from portspec.inventory import matching_globs
from portspec.ports import PortSet, spell
from portspec.priorities import Priority
from portspec.scan import PortState
from portspec.state.document import (
    VulnerabilityDocument,
    priority_document,
    spelled,
    timestamp,
    vulnerability_document,
)
from portspec.state.verdict import Kind
from portspec.web.api.answer import as_csv, as_json, media_of
from portspec.web.api.cursor import part_of, read_cursor, spell_cursor
from portspec.web.api.operation import CSV, JSON, Answer, Operation, problems
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
from portspec.web.overview import HostFilter, Row, by_name, chosen_rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from aiohttp import web

    from portspec.audit.model import Vulnerability
    from portspec.audit.priority import Finding
    from portspec.config.rulings import ExemptionKey
    from portspec.state.snapshot import Snapshot
    from portspec.web.api.answer import Answers, Representation
    from portspec.web.api.cursor import Name, Position
    from portspec.web.backend import Backend

    Items = Callable[[Row, "Known"], Iterator[tuple[Name, Any]]]

MAX_IN_CURSOR: Final = 120  # characters of a name: a cursor has at most 4096


class FleetQuery(msgspec.Struct, frozen=True):
    """Of which hosts, and which part of the list."""

    host: HostGlob = "*"
    label: Labels = ()
    limit: Limit | None = None
    cursor: Cursor | None = None


class DeviationRow(TypedDict):
    """A port of an address that is not as specified, in the last scan with a verdict.

    `excepted` tells that an exception accepts it, so that it does not count. `severity` is how severe that is. `since`
    is the time of the scan, or of the change of conf.yml, from which on the port deviated in this way on any address of
    the host; null if that is not known. `due` is when it is to be fixed, by `deadlines` of conf.yml; null without one.
    """

    host: str
    address: str
    port: PortName
    kind: Kind
    state: PortState
    severity: PortSeverity
    excepted: bool
    since: Timestamp | None
    due: Timestamp | None


_Class = TypedDict("_Class", {"class": Priority | None})  # a keyword


class VulnerabilityRow(VulnerabilityDocument, _Class):
    """A vulnerability of a host, from its last audit.

    `excepted` tells that an exception accepts it; such a one has no `class`, and null for `why`, `reach`, `exploited`,
    `epss`, `first_seen` and `due`.
    """

    host: str
    excepted: bool
    why: str | None
    reach: Reach | None
    exploited: bool | None
    epss: float | None
    first_seen: Timestamp | None
    due: Timestamp | None


class ExceptionRow(TypedDict):
    """An exception of conf.yml for a host: of ports, or of vulnerabilities by their ids; in force before `until`.

    `since` is when conf.yml got it, whatever else was changed of it; null if that is not known.
    """

    host: str
    ports: list[PortName]
    ids: list[str]
    since: Timestamp | None
    until: Timestamp
    in_force: bool
    reason: str
    owner: str


class DeviationsDocument(TypedDict):
    """A part of the deviations; `total` is how many there are of these hosts."""

    deviations: list[DeviationRow]
    total: Count
    next_cursor: str | None


class VulnerabilitiesDocument(TypedDict):
    """A part of the vulnerabilities; `total` is how many there are of these hosts."""

    vulnerabilities: list[VulnerabilityRow]
    total: Count
    next_cursor: str | None


class ExceptionsDocument(TypedDict):
    """A part of the exceptions; `total` is how many there are of these hosts."""

    exceptions: list[ExceptionRow]
    total: Count
    next_cursor: str | None


class Known(NamedTuple):
    """What is known beside the hosts: the Unix time, and since when conf.yml has each exception."""

    now: float
    exception_times: Mapping[ExemptionKey, float | None]


def _deviations(row: Row, _: Known) -> Iterator[tuple[Name, DeviationRow]]:
    state = row.state
    if state is None:
        return
    excepted = set(state.excepted)
    for item in sorted({*state.deviations, *excepted}):
        document: DeviationRow = {
            "host": row.host,
            "address": item.address,
            "port": spell(item.port),
            "kind": item.kind,
            "state": item.state,
            "severity": state.severity_of(item),
            "excepted": item in excepted,
            "since": timestamp(state.deviates_since(item.kind, PortSet.of([item.port]))),
            "due": None if item in excepted else timestamp(state.due_at(item)),
        }
        yield (item.address, item.port, item.kind.value), document


def _vulnerabilities(row: Row, _: Known) -> Iterator[tuple[Name, VulnerabilityRow]]:
    audit = row.audit
    if audit is None:
        return
    found: list[tuple[Vulnerability, Finding | None]] = [(item.vulnerability, item) for item in audit.findings]
    found += [(item, None) for item in audit.excepted]
    found.sort(key=lambda pair: _name(pair[0]))
    seen: Counter[Name] = Counter()
    for item, finding in found:
        name = _name(item)
        priority = priority_document(finding) if finding else _NO_PRIORITY
        document = {"host": row.host, **vulnerability_document(item), **priority, "excepted": finding is None}
        yield (*name, seen[name]), cast("VulnerabilityRow", document)
        seen[name] += 1


_NO_PRIORITY: Final = dict.fromkeys(("class", "why", "reach", "exploited", "epss", "first_seen", "due"))


def _name(item: Vulnerability) -> tuple[str, str, str]:
    """Return what a vulnerability is sorted by and known by, short enough for a cursor."""
    return item.package[:MAX_IN_CURSOR], item.version[:MAX_IN_CURSOR], item.id[:MAX_IN_CURSOR]


def _exceptions(row: Row, known: Known) -> Iterator[tuple[Name, ExceptionRow]]:
    of_ports = row.state.exceptions if row.state else ()
    of_ids = row.audit.exceptions if row.audit else ()
    every: tuple[PortException | VulnerabilityException, ...] = (*of_ports, *of_ids)
    entry = row.state.target.config.name if row.state else row.host
    for number, item in enumerate(every):
        globs = item.hosts if len(item.hosts) == 1 else matching_globs(item.hosts, row.host, entry)
        document: ExceptionRow = {
            "host": row.host,
            "ports": [spell(port) for port in item.ports] if isinstance(item, PortException) else [],
            "ids": list(item.ids) if isinstance(item, VulnerabilityException) else [],
            "since": timestamp(since_of(item, globs, known.exception_times)),
            "until": spelled(item.until),
            "in_force": known.now < item.until,
            "reason": item.reason,
            "owner": item.owner,
        }
        yield (number,), document


def _count_deviations(row: Row) -> int:
    return len({*row.state.deviations, *row.state.excepted}) if row.state else 0


def _count_vulnerabilities(row: Row) -> int:
    return len(row.audit.host_audit.audit.vulnerabilities) if row.audit and row.audit.host_audit else 0


def _count_exceptions(row: Row) -> int:
    return (len(row.state.exceptions) if row.state else 0) + (len(row.audit.exceptions) if row.audit else 0)


@dataclass(frozen=True, slots=True)
class FleetList:
    """A list of what all hosts have.

    Attributes:
        name: What it is a list of: the end of its path, and the key of its document.
        operations: As JSON (or by Accept as CSV), and as CSV.
        columns: The keys of an item in the order of a table.
        items: What a host has at a Unix time, in order, each with what it is known by in its host.
        count: How many these are.
        position: The type of a position in the list: the host, and what an item is known by in it.
    """

    name: str
    operations: tuple[Operation, Operation]
    columns: tuple[str, ...]
    items: Items
    count: Callable[[Row], int]
    position: Any


def _operations(name: str, document: Any, summary: str) -> tuple[Operation, Operation]:
    refused = problems(_400="a parameter makes no sense")
    part = f"a part of the {name}; the header Link leads to the next one"
    listed = Operation(
        "GET",
        f"/api/v1/{name}",
        f"list{name.title()}",
        f"{summary}, as JSON or, by Accept, as CSV",
        {200: Answer(part, {JSON: document, CSV: None}), **refused},
        query=FleetQuery,
        tag=name,
    )
    table = Operation(
        "GET",
        f"/api/v1/{name}.csv",
        f"list{name.title()}AsCsv",
        f"{summary}, as CSV",
        {200: Answer(part, {CSV: None}), **refused},
        query=FleetQuery,
        tag=name,
    )
    return listed, table


LISTS: Final = (
    FleetList(
        "deviations",
        _operations("deviations", DeviationsDocument, "the ports of all hosts that are not as specified"),
        ("host", "address", "port", "kind", "state", "severity", "excepted", "since", "due"),
        _deviations,
        _count_deviations,
        tuple[str, tuple[str, int, str]],
    ),
    FleetList(
        "vulnerabilities",
        _operations("vulnerabilities", VulnerabilitiesDocument, "the vulnerabilities that all hosts reported last"),
        ("host", "package", "version", "id", "severity", "fixed_in", "excepted", "title", "url", "aliases",
         "advisories", "paths", "class", "first_seen", "due"),
        _vulnerabilities,
        _count_vulnerabilities,
        tuple[str, tuple[str, str, str, int]],
    ),
    FleetList(
        "exceptions",
        _operations("exceptions", ExceptionsDocument, "the exceptions of conf.yml, for each host that they are about"),
        ("host", "ports", "ids", "since", "until", "in_force", "reason", "owner"),
        _exceptions,
        _count_exceptions,
        tuple[str, tuple[int]],
    ),
)  # fmt: skip
OPERATIONS: Final = tuple(operation for one in LISTS for operation in one.operations)


class Findings:
    """Handlers over a backend; `wall_clock` gives Unix seconds."""

    def __init__(self, backend: Backend, answers: Answers, wall_clock: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self._answers = answers
        self._wall_clock = wall_clock

    def handler(self, of: FleetList) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return what answers with a list."""

        async def handle(request: web.Request) -> web.StreamResponse:
            query = read_query(FleetQuery, request.query, request.path)
            after = read_cursor(query.cursor, of.position) if query.cursor else None
            snapshot, media, now = self._backend.snapshot, media_of(request), self._wall_clock()
            known = Known(now, self._backend.rulings.exception_times)
            parts = (snapshot.hosts, snapshot.audits, known.exception_times)
            return await self._answers.computed(
                request, (of.name, query, media), parts, lambda: _write(of, snapshot, query, after, media, known),
                is_list=True,
            )  # fmt: skip

        return handle


def _write(
    of: FleetList, snapshot: Snapshot, query: FleetQuery, after: Position | None, media: str, known: Known
) -> Representation:
    labels = tuple((name, value) for name, _, value in (label.partition("=") for label in query.label))
    matches = matcher(query.host.lower())
    rows = [row for row in chosen_rows(snapshot, HostFilter(labels=labels, order="host")) if matches(row.host.lower())]
    limit = query.limit or (MAX_PAGE_LENGTH if media == CSV else DEFAULT_PAGE_LENGTH)
    found, last = part_of(rows, lambda row: of.items(row, known), after, limit, key=by_name)
    next_cursor = None if last is None else spell_cursor(last)
    if media == CSV:
        return as_csv(of.columns, found, of.name, next_cursor)
    page = {of.name: found, "total": sum(map(of.count, rows)), "next_cursor": next_cursor}
    return as_json(page, next_cursor)
