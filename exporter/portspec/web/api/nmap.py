"""Hosts as the XML of nmap, for ndiff and other programs that read that."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from portspec.state.nmap_xml import NmapRun, nmap_xml
from portspec.state.verdict import Verdict
from portspec.web.api.answer import as_xml
from portspec.web.api.operation import XML, Answer, NoQuery, Operation, problems
from portspec.web.api.query import HostGlob, Labels, read_query
from portspec.web.globs import matcher
from portspec.web.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

    from aiohttp import web

    from portspec.state.snapshot import HostState
    from portspec.web.api.answer import Answers, Representation
    from portspec.web.backend import Backend

MAX_BYTES: Final = 128 << 20  # of a document: 100,000 hosts have less, unless many of them show thousands of open ports


class NmapQuery(msgspec.Struct, frozen=True):
    """Which hosts."""

    host: HostGlob = "*"
    label: Labels = ()
    verdict: Annotated[Verdict | None, Meta(description="Only hosts with this verdict.")] = None


HOSTS_XML: Final = Operation(
    "GET",
    "/api/v1/hosts.xml",
    "listHostsAsNmapXml",
    "the scanned hosts as the XML of nmap",
    {
        200: Answer("the latest scan of each host", {XML: None}),
        **problems(_400="a parameter makes no sense, or the document is too large"),
    },
    query=NmapQuery,
)
HOST_XML: Final = Operation(
    "GET",
    "/api/v1/hosts/{host}.xml",
    "getHostAsNmapXml",
    "one scanned host as the XML of nmap",
    {
        200: Answer("the latest scan of the host", {XML: None}),
        **problems(_400="a parameter is given", _404="this exporter scans no such host"),
    },
    in_path={"host": "The name or address of a host, in any spelling."},
)
OPERATIONS: Final = (HOSTS_XML, HOST_XML)


class NmapHosts:
    """Handlers over a backend; `as_json` answers for a host whose own name ends in ".xml"."""

    def __init__(
        self,
        backend: Backend,
        answers: Answers,
        as_json: Callable[[web.Request, str], Awaitable[web.StreamResponse]],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._answers = answers
        self._as_json = as_json
        self._wall_clock = wall_clock

    async def many(self, request: web.Request) -> web.StreamResponse:
        """Answer with hosts in the order of the configuration."""
        query = read_query(NmapQuery, request.query, request.path)
        hosts = self._backend.snapshot.hosts

        def chosen() -> list[HostState]:
            matches = matcher(query.host.lower())
            labels = [label.partition("=") for label in query.label]
            return [
                state
                for chunk in hosts.chunks
                for state in chunk
                if matches(state.host.lower())
                and query.verdict in (None, state.verdict)
                and all(state.target.config.labels.get(name) == value for name, _, value in labels)
            ]

        return await self._give(request, ("hosts.xml", query), hosts, chosen)

    async def one(self, request: web.Request) -> web.StreamResponse:
        """Answer with a host; one whose own name ends in ".xml" has precedence, as JSON."""
        name = request.match_info["host"]
        if self._is_known(f"{name}.xml"):
            return await self._as_json(request, f"{name}.xml")
        read_query(NoQuery, request.query, request.path)
        try:
            state = self._backend.find(name)
        except KeyError:
            raise ProblemError(404, f'"{name}" is not a host that this exporter scans') from None
        return await self._give(request, ("host.xml", state.host), state, lambda: [state])

    def _is_known(self, name: str) -> bool:
        try:
            self._backend.find(name)
        except KeyError:
            return self._backend.audits.find(name) is not None
        return True

    async def _give(
        self, request: web.Request, key: Hashable, part: object, states: Callable[[], Sequence[HostState]]
    ) -> web.StreamResponse:
        run = NmapRun("portspec serve", self._backend.status.engine, self._wall_clock())
        return await self._answers.computed(request, key, (part,), lambda: _document(states(), run))


def _document(states: Sequence[HostState], run: NmapRun) -> Representation:
    """Write a document. Raises ProblemError if it is too large to be held in memory."""
    pieces, size = [], 0
    for piece in nmap_xml(states, run):
        size += len(piece)
        if size > MAX_BYTES:
            more = f"the document has more than {MAX_BYTES >> 20} MiB; choose hosts by host, label or verdict"
            raise ProblemError(400, more)
        pieces.append(piece)
    return as_xml(b"".join(pieces))
