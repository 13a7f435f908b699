"""The JSON interface, /sd/targets and /probe: parameters in, documents out."""

from __future__ import annotations

import contextlib
import json
import math
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from portspec.errors import printable
from portspec.metrics import probe_page
from portspec.ports import PortSet
from portspec.schedule.on_demand import Probe, ProbeError
from portspec.state.document import change_document, host_document, unscanned_document
from portspec.state.verdict import Kind, Verdict
from portspec.store import StoreError
from portspec.threads import computed
from portspec.web.globs import MAX_LENGTH, matcher
from portspec.web.problems import ProblemError
from portspec.web.sending import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from portspec.metrics import Page
    from portspec.web.backend import Backend
    from portspec.web.renderings import Renderings
    from portspec.web.sending import Sending

DEFAULT_PAGE_LENGTH = 1000  # hosts or changes
MAX_PAGE_LENGTH = 10_000
_JSON_HEADERS = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"}
_LATER = "5"  # seconds until a change log that cannot be read may be asked for again
_TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"


class Api:
    """Handlers over a service."""

    def __init__(self, service: Backend, renderings: Renderings[Text], sending: Sending) -> None:
        self._service = service
        self._renderings = renderings
        self._sending = sending

    def add_ui(self, router: web.UrlDispatcher) -> None:
        """Add the routes for people and their programs."""
        router.add_get("/api/v1/hosts", self._hosts)
        router.add_get("/api/v1/hosts/{host}", self._host)
        router.add_get("/api/v1/changes", self._changes)
        router.add_post("/api/v1/scan", self._scan)
        router.add_post("/-/reload", self._reload)

    def add_metrics(self, router: web.UrlDispatcher) -> None:
        """Add the routes for Prometheus."""
        router.add_get("/sd/targets", self._targets)
        router.add_get("/probe", self._probe)

    async def _hosts(self, request: web.Request) -> web.StreamResponse:
        """Return hosts in the order of the configuration: `host` (a glob), `verdict`, `limit`, `offset`."""
        _check(request, "host", "verdict", "limit", "offset")
        glob = request.query.get("host", "*").lower()
        if len(glob) > MAX_LENGTH:
            raise _bad(f"host: the glob has {len(glob):,} characters (expected at most {MAX_LENGTH})")
        verdict = request.query.get("verdict")
        if verdict is not None and verdict not in set(Verdict):
            raise _bad(f'verdict: "{verdict}" is not a verdict (expected {", ".join(Verdict)})')
        limit = _number(request, "limit", DEFAULT_PAGE_LENGTH, 1, MAX_PAGE_LENGTH)
        offset = _number(request, "offset", 0, 0, 10**9)
        snapshot = self._service.snapshot
        hosts, audits = snapshot.hosts, snapshot.audits

        def page() -> Text:
            matches = matcher(glob)
            chosen = [
                state for state in hosts.values() if matches(state.host.lower()) and verdict in (None, state.verdict)
            ]
            documents = [host_document(state, audits.get(state.host)) for state in chosen[offset : offset + limit]]
            end = offset + len(documents)
            more = {"total": len(chosen), "next_offset": end if end < len(chosen) else None}
            return _page({"hosts": documents} | more)

        key = ("hosts", glob, verdict, limit, offset)
        return await self._send(
            request, await self._renderings.page(request, key, (hosts, audits), lambda: computed(page))
        )

    async def _host(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["host"]
        audit = self._service.audits.find(name)
        try:
            state = self._service.find(name)
        except KeyError:
            if audit is None:
                raise ProblemError(404, f'"{name}" is not a host of this exporter') from None
            return await self._written(request, ("unscanned", name), (audit,), lambda: unscanned_document(audit))
        return await self._written(request, ("host", state.host), (state, audit), lambda: host_document(state, audit))

    async def _changes(self, request: web.Request) -> web.StreamResponse:
        """Return the change log, newest first: `host`, `since`, `until`, `limit`, `before` (an id, for paging)."""
        _check(request, "host", "since", "until", "limit", "before")
        limit = _number(request, "limit", DEFAULT_PAGE_LENGTH, 1, MAX_PAGE_LENGTH)
        host = request.query.get("host")
        if host is not None:
            with contextlib.suppress(KeyError):  # a host that has left has its changes, too
                host = self._service.find(host).host
        since, until = _time(request, "since"), _time(request, "until")
        before = _number(request, "before", 0, 0, 2**62) or None
        read = partial(self._service.changes, host=host, since=since, until=until, before_id=before, limit=limit)

        async def page() -> Text:
            rows = await read()
            more = {"next_before": rows[-1][0] if len(rows) == limit else None}
            return await computed(lambda: _page({"changes": [change_document(*row) for row in rows]} | more))

        try:
            found = await self._renderings.page(request, ("changes", host, since, until, before, limit), None, page)
        except StoreError as error:
            raise ProblemError(503, str(error), {"Retry-After": _LATER}) from None
        return await self._send(request, found)

    async def _scan(self, request: web.Request) -> web.Response:
        _check(request, "host")
        host = request.query.get("host", "")
        try:
            begun = self._service.scan_now(host)
        except KeyError:
            message = f'"{host}" is not a host of this exporter' if host else "the parameter host is missing"
            raise ProblemError(404 if host else 400, message) from None
        return _json(_dump({"host": host, "scan": "started" if begun else "on its way already"}), status=202)

    async def _targets(self, request: web.Request) -> web.StreamResponse:
        """Return every host of this exporter as Prometheus's HTTP service discovery has it."""
        hosts = self._service.snapshot.hosts

        def groups() -> Text:
            return _page(
                [{"targets": [state.host], "labels": dict(state.target.config.labels)} for state in hosts.values()]
            )

        return await self._send(
            request, await self._renderings.page(request, "targets", (hosts,), lambda: computed(groups))
        )

    async def _written(
        self, request: web.Request, key: Hashable, parts: tuple[object, ...], document: Callable[[], object]
    ) -> web.StreamResponse:
        def page() -> Text:
            return _page(document())

        return await self._send(request, await self._renderings.page(request, key, parts, lambda: computed(page)))

    async def _send(self, request: web.Request, page: Text) -> web.StreamResponse:
        return await self._sending.send(request, page, _JSON_HEADERS)

    async def _probe(self, request: web.Request) -> web.StreamResponse:
        debug = request.query.get("debug", "false").lower()
        try:
            if complaint := _complaint(request, ("target", "module", "debug")):
                raise ProbeError(400, complaint)  # noqa: TRY301 - answered as the prober's own
            if debug not in ("true", "false"):
                raise ProbeError(400, f'debug: "{debug}" is neither true nor false')  # noqa: TRY301 - the same
            probe = await self._service.prober.probe(
                request.query.get("target", ""), request.query.get("module"), _scrape_timeout(request)
            )
        except ProbeError as error:
            headers = {"Retry-After": "1"} if error.status == web.HTTPTooManyRequests.status_code else None
            return web.Response(status=error.status, text=f"{printable(str(error))}\n", headers=headers)
        budget = self._service.exposition.series_budget
        make = partial(probe_page, probe.state, duration=probe.duration, series_budget=budget)
        if debug == "true":

            def debug_page() -> bytes:
                page = make(accept="", accept_encoding="")
                told = "\n".join((*_debug_lines(probe), "", "Metrics that the probe would have returned:", ""))
                return b"".join((told.encode(), *page.pieces))

            return web.Response(body=await computed(debug_page), content_type="text/plain", charset="utf-8")
        accept, accept_encoding = accepted(request)
        page = await computed(lambda: make(accept=accept, accept_encoding=accept_encoding))
        return await send_metrics(self._sending, request, page)

    async def _reload(self, _: web.Request) -> web.Response:
        message = await self._service.reload()
        if message is not None:
            return web.Response(status=500, text=f"reload failed; keeping the previous configuration:\n{message}\n")
        return web.Response(text="configuration reloaded.\n")


def accepted(request: web.BaseRequest) -> tuple[str, str]:
    """Return the header fields Accept and Accept-Encoding of a request, each in one line (RFC 9110, 5.3)."""
    accept, encoding = (",".join(request.headers.getall(name, ())) for name in ("Accept", "Accept-Encoding"))
    return accept, encoding


async def send_metrics(sending: Sending, request: web.BaseRequest, page: Page) -> web.StreamResponse:
    """Answer with a page of metrics."""
    headers = {"Content-Type": page.content_type, "Vary": "Accept, Accept-Encoding"}
    if page.content_encoding:
        headers["Content-Encoding"] = page.content_encoding
    return await sending.send(request, page, headers)


def _debug_lines(probe: Probe) -> list[str]:
    """Return lines that describe a probe."""
    state = probe.state
    config = state.target.config
    lines = [
        f"Probe of {state.host} with the {probe.engine} engine: {probe.duration:.3f} s",
        f"Ports: {len(config.ports)} to scan; expect {config.specification.expect}; allow {config.specification.allow}",
    ]
    result = state.latest
    if result is None:
        return lines
    for item in result.addresses:
        if item.failure:
            lines.append(f"{item.address}: {item.failure.reason.value}: {item.failure.detail}")
            continue
        lines.append(
            f"{item.address}: {len(item.open)} open, {item.closed} closed, {len(item.filtered)} filtered; "
            f"open: {item.open}; unconfirmed: {item.unconfirmed}; "
            f"round-trip time: {'none' if item.rtt is None else f'{item.rtt * 1000:.3f} ms'}"
        )
    judgement = result.judgement
    lines += [
        f"{kind.value}: {PortSet.of(item.port for item in judgement.deviations if item.kind is kind)}" for kind in Kind
    ]
    lines.append(f"excepted: {PortSet.of(item.port for item in judgement.excepted)}")
    if judgement.failure:
        lines.append(f"failure: {judgement.failure.reason.value}: {judgement.failure.detail}")
    return [*lines, f"Verdict: {judgement.verdict.value.replace('_', ' ')}"]


def _check(request: web.Request, *known: str) -> None:
    """Reject unknown and duplicate parameters."""
    if complaint := _complaint(request, known):
        raise _bad(complaint)


def _complaint(request: web.Request, known: Sequence[str]) -> str | None:
    for name in request.query:
        if name not in known:
            return f'"{name}" is not a parameter of {request.path} (known: {", ".join(known)})'
        if len(request.query.getall(name)) > 1:
            return f"the parameter {name} is given more than once"
    return None


def _number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):  # noqa: PLR2004 - 64 bits
        raise _bad(f'{name}: "{text}" is not a whole number between {least} and {most}')
    return int(text)


def _time(request: web.Request, name: str) -> float | None:
    """Read a time: Unix seconds, or RFC 3339."""
    text = request.query.get(name)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.replace(" ", "+"))  # what a + in a URL has become
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = math.nan
    if not math.isfinite(seconds):
        raise _bad(f'{name}: "{text}" is not a time (expected Unix seconds, or "2027-03-31T18:00:00Z")')
    return seconds


def _scrape_timeout(request: web.Request) -> float | None:
    """Read Prometheus's limit for this scrape, in seconds; None if it says none."""
    try:
        seconds = float(request.headers.get(_TIMEOUT_HEADER, ""))
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


def _bad(message: str) -> ProblemError:
    return ProblemError(400, message)


def _dump(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode(errors="replace") + b"\n"


def _page(document: Any) -> Text:
    return Text(_dump(document))


def _json(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, headers=_JSON_HEADERS)
