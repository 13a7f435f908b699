"""The exporter itself: how its parts do, and the configuration in force; what /status and /config show."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Any, Final, TypedDict

from msgspec import Meta

from portspec import log
from portspec.config.in_force import document
from portspec.documents import Count, Timestamp
from portspec.state.document import spelled, timestamp
from portspec.threads import computed
from portspec.web.api.answer import as_json
from portspec.web.api.operation import JSON, Answer, NoQuery, Operation
from portspec.web.api.query import read_query
from portspec.web.status_page import status_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from portspec.metrics import HttpStatus
    from portspec.web.api.answer import Answers, Representation
    from portspec.web.backend import Backend
    from portspec.web.status_page import StatusReport


class HealthDocument(TypedDict):
    """How a part that is in use does."""

    name: str
    text: str
    is_bad: bool


class PartDocument(TypedDict):
    """A part of the exporter that ever ran."""

    name: str
    restarts: Count
    is_failing: bool


class SourceDocument(TypedDict):
    """A source of discovery; `failure` says what is wrong now."""

    name: str
    hosts: Count
    refreshes: Count
    failures: Count
    targets_refused: Count
    last_success: Timestamp | None
    failure: str | None


class StatusDocument(TypedDict):
    """The exporter itself."""

    health: list[HealthDocument]
    config_loaded_at: Timestamp
    counts: Annotated[dict[str, Count], Meta(description="Numbers, by what they count in words.")]
    parts: list[PartDocument]
    sources: list[SourceDocument]
    threads: list[str]
    problems: Annotated[list[str], Meta(description="The latest warnings and errors of the log, the newest first.")]


class ConfigDocument(TypedDict):
    """The configuration in force."""

    path: str
    loaded_at: Timestamp
    config: Annotated[dict[str, Any], Meta(description="conf.yml with every default, and without secrets.")]


STATUS: Final = Operation(
    "GET",
    "/api/v1/status",
    "getStatus",
    "the exporter itself: its parts, queues and threads, and what went wrong lately",
    {200: Answer("the status", {JSON: StatusDocument})},
    query=NoQuery,
    tag="exporter",
)
CONFIG: Final = Operation(
    "GET",
    "/api/v1/config",
    "getConfig",
    "the configuration in force, without secrets",
    {200: Answer("the configuration", {JSON: ConfigDocument})},
    query=NoQuery,
    tag="exporter",
)
OPERATIONS: Final = (STATUS, CONFIG)


class ExporterRoutes:
    """Handlers over a backend; `http` returns the state of the HTTP server."""

    def __init__(self, backend: Backend, answers: Answers, http: Callable[[], HttpStatus]) -> None:
        self._backend = backend
        self._answers = answers
        self._http = http

    async def status(self, request: web.Request) -> web.StreamResponse:
        """Answer with the status."""
        read_query(NoQuery, request.query, request.path)
        backend = self._backend
        report = status_report(
            backend.status,
            backend.snapshot,
            self._http(),
            threads=[thread.name for thread in threading.enumerate()],
            problems=log.recent_problems(),
        )

        async def page() -> Representation:
            return await computed(lambda: as_json(_status(report)))

        return await self._answers.give(request, "status document", None, page)

    async def config(self, request: web.Request) -> web.StreamResponse:
        """Answer with the configuration."""
        read_query(NoQuery, request.query, request.path)
        config, loaded_at = self._backend.config, self._backend.status.config_loaded_at

        async def page() -> Representation:
            def write() -> Representation:
                found: ConfigDocument = {
                    "path": config.path,
                    "loaded_at": spelled(loaded_at),
                    "config": document(config),
                }
                return as_json(found)

            return await computed(write)

        return await self._answers.give(request, "config document", None, page)


def _status(report: StatusReport) -> StatusDocument:
    return {
        "health": [{"name": fact.name, "text": fact.text, "is_bad": fact.is_bad} for fact in report.facts],
        "config_loaded_at": spelled(report.loaded_at),
        "counts": dict(report.counts),
        "parts": [
            {"name": name, "restarts": restarts, "is_failing": is_failing}
            for name, restarts, is_failing in report.parts
        ],
        "sources": [
            {
                "name": source.name,
                "hosts": source.hosts,
                "refreshes": source.refreshes,
                "failures": source.failures,
                "targets_refused": source.targets_refused,
                "last_success": timestamp(source.last_success),
                "failure": source.failure,
            }
            for source in report.sources
        ],
        "threads": list(report.threads),
        "problems": list(report.problems),
    }
