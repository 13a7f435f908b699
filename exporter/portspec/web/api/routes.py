"""The routes of the API for people and their programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from portspec.threads import computed
from portspec.web.api.answer import Answers, as_json
from portspec.web.api.catalogue import OPERATIONS
from portspec.web.api.changes import CHANGES, CHANGES_CSV, Changes
from portspec.web.api.exporter import CONFIG, STATUS, ExporterRoutes
from portspec.web.api.findings import LISTS, Findings
from portspec.web.api.hosts import HOST, HOSTS, HOSTS_CSV, Hosts
from portspec.web.api.maintenance import BEGIN, END, LIST, MaintenanceRoutes
from portspec.web.api.nmap import HOST_XML, HOSTS_XML, NmapHosts
from portspec.web.api.openapi import OPENAPI, describe
from portspec.web.api.operation import NoQuery
from portspec.web.api.query import read_query
from portspec.web.api.scan import SCAN, Scans
from portspec.web.api.verdicts import VERDICTS, Verdicts
from portspec.web.api.worklist import WORKLIST, WORKLIST_CSV, Worklists

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from portspec.metrics import HttpStatus
    from portspec.web.api.answer import Representation
    from portspec.web.api.operation import Operation
    from portspec.web.backend import Backend
    from portspec.web.renderings import Renderings
    from portspec.web.sending import Sending, Text

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """Handlers over a backend; `http` returns the state of the HTTP server, `wall_clock` gives Unix seconds."""

    def __init__(
        self,
        backend: Backend,
        renderings: Renderings[Text],
        sending: Sending,
        http: Callable[[], HttpStatus],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._answers = Answers(renderings, sending)
        self._description: Representation | None = None
        hosts, changes = Hosts(backend, self._answers), Changes(backend, self._answers)
        findings, scans = Findings(backend, self._answers, wall_clock), Scans(backend)
        maintenance = MaintenanceRoutes(backend, self._answers, wall_clock)
        exporter = ExporterRoutes(backend, self._answers, http)
        worklists = Worklists(backend, self._answers, wall_clock)
        nmap = NmapHosts(backend, self._answers, hosts.named, wall_clock)
        self._handlers: tuple[tuple[Operation, Handler], ...] = (
            (HOSTS, hosts.many),
            (HOSTS_CSV, hosts.many),
            (HOSTS_XML, nmap.many),
            (HOST_XML, nmap.one),  # before HOST, which matches it, too
            (HOST, hosts.one),
            *((operation, findings.handler(one)) for one in LISTS for operation in one.operations),
            (WORKLIST, worklists.many),
            (WORKLIST_CSV, worklists.many),
            (CHANGES, changes.many),
            (CHANGES_CSV, changes.many),
            (VERDICTS, Verdicts(backend, self._answers).many),
            (SCAN, scans.begin),
            (LIST, maintenance.list),
            (BEGIN, maintenance.begin),
            (END, maintenance.end),
            (STATUS, exporter.status),
            (CONFIG, exporter.config),
            (OPENAPI, self._describe),
        )

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        for operation, handler in self._handlers:
            if operation.method == "GET":
                router.add_get(operation.path, handler)
            else:
                router.add_route(operation.method, operation.path, handler)

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        """Answer with the OpenAPI document, which is made once."""
        read_query(NoQuery, request.query, request.path)
        if self._description is None:
            self._description = await computed(lambda: as_json(describe(OPERATIONS)))
        return await self._answers.send(request, self._description)
