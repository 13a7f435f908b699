"""Maintenance: begins and ends that of hosts, and lists what lasts and what is to come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypedDict

import msgspec
from msgspec import Meta

from portspec.documents import Timestamp
from portspec.maintenance import check_text, read_end
from portspec.names import canonical
from portspec.state.document import maintenance_document
from portspec.store import StoreError
from portspec.web.api.answer import as_json
from portspec.web.api.operation import JSON, Answer, Operation, problems
from portspec.web.api.query import read_query
from portspec.web.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aiohttp import web

    from portspec.config import MaintenanceWindow
    from portspec.state.snapshot import Snapshot
    from portspec.web.api.answer import Answers, Representation
    from portspec.web.backend import Backend, Maintenance

PATH: Final = "/api/v1/maintenance"
MAX_HOSTS: Final = 25  # of one request, whose line has at most 8 KiB; conf.yml takes globs
HostNames = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...],
    Meta(max_length=MAX_HOSTS, description="The names of hosts, in any spelling; conf.yml takes globs."),
]


class MaintenanceQuery(msgspec.Struct, frozen=True):
    """Of which hosts; of all, without one."""

    host: HostNames = ()


class EndQuery(msgspec.Struct, frozen=True):
    """Of which hosts maintenance ends."""

    host: HostNames


class BeginQuery(msgspec.Struct, frozen=True, rename={"duration": "for"}):
    """Of which hosts maintenance begins, and when it ends: `for` or `until` is required."""

    host: HostNames
    duration: (
        Annotated[str, Meta(description="How long it lasts, at most 90 days.", max_length=100, examples=["2h"])] | None
    ) = None
    until: Annotated[str, Meta(description="When it ends: a duration, a day or a time.", max_length=100)] | None = None
    reason: Annotated[str, Meta(description="Why; at most 500 characters.")] = ""
    owner: Annotated[str, Meta(description="Who is responsible; at most 500 characters.")] = ""


#: A time of maintenance: whether it lasts now, and whether it was asked for or stands in conf.yml.
MaintenanceRow = TypedDict(
    "MaintenanceRow",
    {
        "host": str,
        "from": Timestamp | None,
        "until": Timestamp,
        "reason": str,
        "owner": str,
        "lasts": bool,
        "source": Literal["request", "conf.yml"],
    },
)


class MaintenanceList(TypedDict):
    """What lasts and what is to come, in the order of conf.yml."""

    maintenance: list[MaintenanceRow]


_LISTED: Final = {200: Answer("what lasts and what is to come", {JSON: MaintenanceList})}
_REFUSED: Final = {"_400": "a parameter makes no sense", "_404": "this exporter has no such host"}
LIST: Final = Operation(
    "GET",
    PATH,
    "listMaintenance",
    "the maintenance of hosts that lasts or is to come",
    {**_LISTED, **problems(**_REFUSED)},
    query=MaintenanceQuery,
    tag="maintenance",
)
BEGIN: Final = Operation(
    "POST",
    PATH,
    "beginMaintenance",
    "begin the maintenance of hosts: nobody is alerted about them until it ends",
    {**_LISTED, **problems(**_REFUSED)},
    query=BeginQuery,
    tag="maintenance",
)
END: Final = Operation(
    "DELETE",
    PATH,
    "endMaintenance",
    "end the maintenance of hosts that was asked for",
    {**_LISTED, **problems(**_REFUSED, _409="it does not last, or stands in conf.yml")},
    query=EndQuery,
    tag="maintenance",
)
OPERATIONS: Final = (LIST, BEGIN, END)


class MaintenanceRoutes:
    """Handlers over a backend; `wall_clock` gives Unix seconds."""

    def __init__(self, backend: Backend, answers: Answers, wall_clock: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self._answers = answers
        self._wall_clock = wall_clock

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Answer with the maintenance of all hosts, or of some."""
        query = read_query(MaintenanceQuery, request.query, request.path)
        return await self._answer(request, self._hosts(query.host) if query.host else None)

    async def begin(self, request: web.Request) -> web.StreamResponse:
        """Begin the maintenance of hosts."""
        query = read_query(BeginQuery, request.query, request.path)
        hosts = self._hosts(query.host)
        try:
            until = read_end(query.duration, query.until, self._wall_clock())
        except ValueError as error:
            raise ProblemError(400, str(error)) from None
        for name, text in (("reason", query.reason), ("owner", query.owner)):
            try:
                check_text(text)
            except ValueError as error:
                raise ProblemError(400, f"{name}: {error}") from None
        try:
            await self._backend.maintenance.begin(hosts, until, query.reason, query.owner)
        except StoreError as error:
            raise _unavailable(error, "no maintenance begins") from None
        return await self._answer(request, hosts)

    async def end(self, request: web.Request) -> web.StreamResponse:
        """End the maintenance of hosts that was asked for."""
        hosts = self._hosts(read_query(EndQuery, request.query, request.path).host)
        now = self._wall_clock()
        for key, host in hosts.items():
            window = self._backend.maintenance.window_of(key)
            if window is None or window.until <= now:
                stands = any(item.begins <= now < item.until for item in self._windows(host))
                why = "stands in conf.yml; change it there" if stands else "does not last"
                raise ProblemError(409, f"the maintenance of {host} {why}")
        try:
            await self._backend.maintenance.end(hosts)
        except StoreError as error:
            raise _unavailable(error, "no maintenance ends") from None
        return await self._answer(request, hosts)

    def _hosts(self, words: Sequence[str]) -> dict[str, str]:
        """Return the hosts of a request by canonical name, each as conf.yml spells it. Raises ProblemError."""
        if not any(words):
            raise ProblemError(400, "the parameter host is missing")
        return {canonical(host): host for host in map(self._host, words)}

    def _host(self, word: str) -> str:
        try:
            return self._backend.find(word).host
        except KeyError:
            if audit := self._backend.audits.find(word):
                return audit.host
        raise ProblemError(404, f'"{word}" is not a host of this exporter')

    def _windows(self, host: str) -> Sequence[MaintenanceWindow]:
        try:
            return self._backend.find(host).target.maintenance
        except KeyError:
            audit = self._backend.audits.find(host)
            return audit.windows if audit else ()

    async def _answer(self, request: web.Request, chosen: Mapping[str, str] | None) -> web.StreamResponse:
        snapshot, requested, now = self._backend.snapshot, self._backend.maintenance, self._wall_clock()
        names = None if chosen is None else frozenset(chosen.values())
        key, parts = ("maintenance", names), (snapshot.hosts, snapshot.audits, requested.windows)
        return await self._answers.computed(request, key, parts, lambda: _write(snapshot, requested, names, now))


def _write(snapshot: Snapshot, requested: Maintenance, names: frozenset[str] | None, now: float) -> Representation:
    found = [
        *((state.host, state.target.maintenance) for chunk in snapshot.hosts.chunks for state in chunk),
        *((audit.host, audit.windows) for chunk in snapshot.audits.chunks for audit in chunk),
    ]
    rows: list[dict[str, Any]] = [
        {"host": host, **maintenance_document(item), "lasts": item.begins <= now, "source": source}
        for host, windows in found
        if windows and (names is None or host in names)
        for item in sorted(windows, key=lambda item: (item.begins, item.until))
        if now < item.until
        for source in ("request" if requested.window_of(canonical(host)) == item else "conf.yml",)
    ]
    return as_json({"maintenance": rows})


def _unavailable(error: StoreError, what: str) -> ProblemError:
    message = f"{what}, since it would not survive a restart: {error}; `maintenance` in conf.yml needs no state file"
    return ProblemError(503, message, {"Retry-After": "10"})
