"""The routes of the pages for people: the address in, a page out. Pages that many ask for are written once."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from aiohttp import web

from portspec import log
from portspec.config.in_force import in_force
from portspec.errors import PortspecError, printable
from portspec.store import StoreError
from portspec.threads import computed, in_daemon_thread
from portspec.web.accept_page import AcceptError, Terms, accept_page, read_address, write_acceptance
from portspec.web.feed import feed
from portspec.web.gate import client_of, user_of
from portspec.web.health import health
from portspec.web.overview import FilterError, read_filter
from portspec.web.sending import Text
from portspec.web.status_page import status_report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence

    from portspec.config.proposal import Request
    from portspec.metrics import HttpStatus
    from portspec.state.changes import DatedVerdict
    from portspec.state.snapshot import HostState
    from portspec.store import Change
    from portspec.web.backend import Backend
    from portspec.web.pages import Pages
    from portspec.web.renderings import Renderings
    from portspec.web.sending import Sending

CHANGES_PER_PAGE: Final = 200
CHANGES_PER_TIMELINE: Final = 1000  # that the timeline of a host marks; its page lists the first of them
ASKED_FOR: Final = 600.0  # seconds after which the page of a host no longer waits for the scan that was asked for
VERDICTS_PER_HOST: Final = 500  # that the timeline of a host draws
ENTRIES_OF_FEED: Final = 100
_log = log.get("web")
_TIME: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")
_NO_HOST: Final = "There is no such host"
_NO_SENSE: Final = "This address makes no sense"
_NO_LOG: Final = "The change log cannot be read"


class PageRoutes:
    """Handlers over a service; `status` returns the state of the HTTP server, which is reached at `external_url`."""

    def __init__(
        self,
        service: Backend,
        pages: Pages,
        renderings: Renderings[Text],
        sending: Sending,
        status: Callable[[], HttpStatus],
        external_url: str | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._pages = pages
        self._renderings = renderings
        self._sending = sending
        self._status = status
        self._external_url = external_url
        self._wall_clock = wall_clock
        self._writing = asyncio.Lock()  # one change of conf.yml at a time
        self._headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Cache-Control": "no-store",
            "Content-Security-Policy": pages.security_policy,
        }

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/", self._index)
        router.add_get("/hosts/{host}", self._host)
        router.add_post("/hosts/{host}/scan", self._scan)
        router.add_get("/hosts/{host}/accept", self._accept)
        router.add_post("/hosts/{host}/accept", self._write_acceptance)
        router.add_get("/worklist", self._worklist)
        router.add_get("/changes", self._changes)
        router.add_get("/changes.atom", self._feed)
        router.add_get("/status", self._show_status)
        router.add_get("/config", self._config)

    async def _index(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page of all hosts; its address says which, see overview.HostFilter."""
        snapshot = self._service.snapshot
        try:
            by = read_filter(request.query)
        except FilterError as error:
            return self._problem(400, "This filter makes no sense", str(error), "./")
        facts = health(self._service.status)
        write = partial(self._pages.index, snapshot, by, facts)
        return await self._answer(request, ("index", by, facts), (snapshot.hosts, snapshot.audits), write)

    async def _host(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page of a host: one that is scanned, or that only sends audits."""
        name = request.match_info["host"]
        audit = self._service.audits.find(name)
        try:
            state = self._service.find(name)
        except KeyError:
            state = None
        if state is None and audit is None:
            return self._problem(404, _NO_HOST, f'"{name}" is not a host of this exporter.', "../")
        is_asked = state is not None and self._is_awaited(state, request.query.get("asked", ""))

        async def page() -> Text:
            changes: Sequence[Change] | None = ()
            verdicts: Sequence[DatedVerdict] = ()
            problem = ""
            if state is not None:
                try:
                    changes, verdicts = await self._history(state)
                except StoreError as error:
                    changes, problem = None, str(error)
            write = partial(self._pages.host, state, audit, changes, verdicts, changes_error=problem, is_asked=is_asked)
            return _text(await computed(write))

        found = await self._renderings.page(request, ("host page", name, is_asked), None, page)
        return await self._sending.send(request, found, self._headers)

    def _is_awaited(self, state: HostState, asked: str) -> bool:
        """Return whether a scan that was asked for at a Unix time, as the address of the page has it, is to come."""
        if not _TIME.fullmatch(asked):
            return False
        is_over = state.latest is not None and state.latest.finished_at >= float(asked)
        return not is_over and 0 <= self._wall_clock() - float(asked) < ASKED_FOR

    async def _history(self, state: HostState) -> tuple[Sequence[Change], Sequence[DatedVerdict]]:
        """Return the changes and the verdicts of a host, newest first. Raises StoreError."""
        rows = await self._service.changes(
            host=state.host, since=None, until=None, before_id=None, limit=CHANGES_PER_TIMELINE
        )
        verdicts = await self._service.verdicts(state.host, limit=VERDICTS_PER_HOST)
        return [change for _, change in rows], verdicts

    async def _worklist(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page of what an `owner` of hosts has to do, or, without one, of all owners."""
        if complaint := _unknown(request, "owner"):
            return self._problem(400, _NO_SENSE, complaint, "./")
        owner, snapshot, audit = request.query.get("owner"), self._service.snapshot, self._service.config.audit
        write = partial(self._pages.worklist, snapshot, owner, audit.max_age if audit else math.inf)
        return await self._answer(request, ("worklist page", owner), (snapshot.hosts, snapshot.audits), write)

    async def _changes(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page of changes: of a `host`, `before` the change of a number."""
        before = request.query.get("before") or "0"
        if complaint := _unknown(request, "host", "before"):
            return self._problem(400, _NO_SENSE, complaint, "./")
        if not (before.isascii() and before.isdigit() and len(before) < 19):  # noqa: PLR2004 - 64 bits
            return self._problem(400, _NO_SENSE, f'before: "{before}" is not a number', "./")
        host = self._spelled(request)

        async def page() -> Text:
            rows = await self._service.changes(
                host=host or None, since=None, until=None, before_id=int(before) or None, limit=CHANGES_PER_PAGE
            )
            next_before = rows[-1][0] if len(rows) == CHANGES_PER_PAGE else None
            changes = [change for _, change in rows]
            return _text(await computed(lambda: self._pages.changes(changes, host=host, next_before=next_before)))

        return await self._read(request, ("changes page", host, before), page, self._headers)

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        """Answer with the latest changes as an Atom feed: of a `host`, or of all."""
        if complaint := _unknown(request, "host"):
            return self._problem(400, _NO_SENSE, complaint, "./")
        host = self._spelled(request)
        own = f"{request.scheme}://{request.host}{request.path.removesuffix('/changes.atom')}"
        base = f"{(self._external_url or own).rstrip('/')}/"

        async def page() -> Text:
            rows = await self._service.changes(
                host=host or None, since=None, until=None, before_id=None, limit=ENTRIES_OF_FEED
            )
            return Text(await computed(lambda: feed(rows, host=host, base=base)))

        headers = {"Content-Type": "application/atom+xml; charset=utf-8", "Cache-Control": "no-store"}
        return await self._read(request, ("feed", host, base), page, headers)

    async def _show_status(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page of the exporter itself."""
        threads = [thread.name for thread in threading.enumerate()]
        report = status_report(
            self._service.status,
            self._service.snapshot,
            self._status(),
            threads=threads,
            problems=log.recent_problems(),
        )
        return await self._answer(request, "status", None, lambda: self._pages.status(report))

    async def _config(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page of the configuration in force."""
        config, hosts = self._service.config, self._service.snapshot.hosts

        def write() -> str:
            sources = Counter(state.target.config.source for chunk in hosts.chunks for state in chunk)
            return self._pages.config(config.path, in_force(config), sources.most_common())

        return await self._answer(request, "config", (config, hosts), write)

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page that shows how conf.yml changes when ports of a host are accepted."""
        wanted = self._acceptance(request)
        if isinstance(wanted, web.Response):
            return wanted
        terms = self._terms()

        def write() -> str:
            return self._pages.accept(accept_page(terms, wanted, self._wall_clock()))

        return await self._answer(request, ("accept", wanted), None, write)

    async def _write_acceptance(self, request: web.Request) -> web.StreamResponse:
        """Write the change that the page has shown, reload, and lead back to the page of the host."""
        wanted = self._acceptance(request, ("shown",))
        if isinstance(wanted, web.Response):
            return wanted
        terms = self._terms()
        if not terms.is_written:
            text = "Write accept: true into conf.yml to allow it, or run the command that the page shows."
            return self._problem(403, "conf.yml is not written from here", text, "../../")
        shown = request.query.get("shown", "")
        async with self._writing:
            try:
                await in_daemon_thread(lambda: write_acceptance(terms.path, wanted, shown, self._wall_clock()))
            except (PortspecError, OSError) as error:
                return await self._not_written(request, terms, wanted, str(error))
        what = ", ".join(wanted.what)
        _log.info("conf.yml is changed", config=terms.path, host=wanted.host, what=what, way=wanted.way)
        if message := await self._service.reload(user_of(request) or client_of(request)):
            return self._problem(500, "conf.yml is written, and cannot be reloaded", message, "../../")
        location = f"../{quote(request.match_info['host'], safe=':', errors='replace')}"
        return web.Response(status=303, headers={"Location": location})

    async def _not_written(self, request: web.Request, terms: Terms, wanted: Request, error: str) -> web.StreamResponse:
        """Answer with the change as it would be now, and why it was not written."""
        page = await computed(lambda: self._pages.accept(accept_page(terms, wanted, self._wall_clock()), error))
        return await self._sending.send(request, _text(page), self._headers, status=409)

    def _acceptance(self, request: web.Request, others: Collection[str] = ()) -> Request | web.Response:
        """Return what an address asks for, which may have `others` as parameters, or the answer to a wrong one."""
        name = request.match_info["host"]
        audit = self._service.audits.find(name)
        try:
            host = audit.host if audit else self._service.find(name).host
        except KeyError:
            return self._problem(404, _NO_HOST, f'"{name}" is not a host of this exporter.', "../../")
        try:
            return read_address(host, request.query, others)
        except AcceptError as error:
            return self._problem(400, _NO_SENSE, str(error), "../../")

    def _terms(self) -> Terms:
        config = self._service.config
        return Terms(config.path, config.accept, config.accept_url)

    async def _scan(self, request: web.Request) -> web.StreamResponse:
        """Have a host scanned, and lead back to its page."""
        name = request.match_info["host"]
        try:
            self._service.scan_now(name)
        except KeyError:
            return self._problem(404, _NO_HOST, f'"{name}" is not a host of this exporter.', "../../")
        location = f"../{quote(name, safe=':', errors='replace')}?asked={self._wall_clock():.3f}"
        return web.Response(status=303, headers={"Location": location})

    def _spelled(self, request: web.Request) -> str:
        """Return the host that the parameter `host` means, as conf.yml spells it; "" without one."""
        host = request.query.get("host", "").strip()
        with contextlib.suppress(KeyError):  # a host that has left has its changes, too
            host = self._service.find(host).host if host else ""
        return host

    async def _answer(
        self, request: web.Request, key: Hashable, parts: tuple[object, ...] | None, write: Callable[[], str]
    ) -> web.StreamResponse:
        async def page() -> Text:
            return _text(await computed(write))

        return await self._sending.send(request, await self._renderings.page(request, key, parts, page), self._headers)

    async def _read(
        self, request: web.Request, key: Hashable, page: Callable[[], Awaitable[Text]], headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Answer with a page that is made of the change log."""
        try:
            found = await self._renderings.page(request, key, None, page)
        except StoreError as error:
            return self._problem(503, _NO_LOG, str(error), "./")
        return await self._sending.send(request, found, headers)

    def _problem(self, status: int, title: str, message: str, root: str) -> web.Response:
        body = self._pages.problem(title, printable(message), root).encode(errors="replace")
        return web.Response(status=status, body=body, headers=self._headers)


def _unknown(request: web.Request, *known: str) -> str:
    """Return what is wrong with the parameters of a page; "" if they are known."""
    if unknown := request.query.keys() - set(known):
        return f'"{min(unknown)}" is not a parameter of this page (known: {", ".join(known)})'
    return ""


def _text(page: str) -> Text:
    return Text(page.encode(errors="replace"))
