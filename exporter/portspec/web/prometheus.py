"""What Prometheus asks beside /metrics: /sd/targets and /probe."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from portspec.errors import printable
from portspec.metrics import probe_page
from portspec.ports import PortSet
from portspec.schedule.on_demand import Probe, ProbeError
from portspec.state.verdict import Kind
from portspec.threads import computed
from portspec.web.sending import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.metrics import Page
    from portspec.web.backend import Backend
    from portspec.web.renderings import Renderings
    from portspec.web.sending import Sending

_JSON_HEADERS = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"}
_TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"


class PrometheusRoutes:
    """Handlers over a service."""

    def __init__(self, service: Backend, renderings: Renderings[Text], sending: Sending) -> None:
        self._service = service
        self._renderings = renderings
        self._sending = sending

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/sd/targets", self._targets)
        router.add_get("/probe", self._probe)

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


def _complaint(request: web.Request, known: Sequence[str]) -> str | None:
    for name in request.query:
        if name not in known:
            return f'"{name}" is not a parameter of {request.path} (known: {", ".join(known)})'
        if len(request.query.getall(name)) > 1:
            return f"the parameter {name} is given more than once"
    return None


def _scrape_timeout(request: web.Request) -> float | None:
    """Read Prometheus's limit for this scrape, in seconds; None if it says none."""
    try:
        seconds = float(request.headers.get(_TIMEOUT_HEADER, ""))
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


def _dump(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode(errors="replace") + b"\n"


def _page(document: Any) -> Text:
    return Text(_dump(document))
