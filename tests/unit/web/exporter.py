"""An exporter of scripted parts behind a real web server, asked over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from portspec.config import Config
from portspec.limit import Limit
from portspec.metrics import Exposition
from portspec.names import canonical
from portspec.scan.sharing import SharedScans
from portspec.schedule.examiner import Examiner
from portspec.schedule.on_demand import Prober
from portspec.state.snapshot import Snapshot
from portspec.web import Gate, WebServer
from tests.unit.factories import NOW, ScriptedEngine, ScriptedResolver, all_closed
from tests.unit.metrics.scrape import STATUS
from tests.unit.web.site import (
    LOOPBACK,
    Answer,
    ScriptedMaintenance,
    ScriptedRulings,
    fetch,
    no_agent_key,
    no_audits,
    open_gate,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from portspec.audit.agent_key import AgentKey
    from portspec.audit.service import AuditService
    from portspec.inventory import Target
    from portspec.metrics import ServiceStatus
    from portspec.state.changes import DatedVerdict
    from portspec.state.snapshot import HostState
    from portspec.store import Change, StoreError


def prober(
    config: Config,
    targets: Iterable[Target] = (),
    *,
    scanner: ScriptedEngine | None = None,
    connector: ScriptedEngine | None = None,
    resolver: ScriptedResolver | None = None,
    engine: str = "connect",
    most: int = 32,
) -> Prober:
    """Make a prober of scripted engines, for so many probes; one that is not given says that every port is closed."""
    examiners = {
        name: Examiner(
            SharedScans(one or ScriptedEngine(all_closed)),
            resolver or ScriptedResolver(),
            Limit(100),
            wall_clock=lambda: NOW,
        )
        for name, one in (("auto", scanner), ("connect", connector))
    }
    return Prober(config, tuple(targets), examiners, engine=engine, wall_clock=lambda: NOW, places=Limit(most))


@dataclass
class Exporter:
    """A service whose answers a test sets, and which notes what it was asked."""

    snapshot: Snapshot = field(default_factory=Snapshot)
    prober: Prober = field(default_factory=lambda: prober(Config("conf.yml", ())))
    busy: frozenset[str] = frozenset()
    rows: Sequence[tuple[int, Change]] = ()
    fault: StoreError | None = None
    problem: str | None = None
    audits: AuditService = field(default_factory=no_audits)
    agent_key: AgentKey = field(default_factory=no_agent_key)
    maintenance: ScriptedMaintenance = field(default_factory=ScriptedMaintenance)
    rulings: ScriptedRulings = field(default_factory=ScriptedRulings)
    series_budget: int = 100_000
    begun: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    reloads: int = 0
    asked_by: str = ""
    hanging: Sequence[str] = ()
    status: ServiceStatus = STATUS
    config: Config = field(default_factory=lambda: Config("conf.yml", ()))
    history: Sequence[DatedVerdict] = ()

    def __post_init__(self) -> None:
        self.exposition = Exposition(lambda: self.snapshot, lambda: STATUS, series_budget=self.series_budget)

    @property
    def is_ready(self) -> bool:
        """True once every host of the snapshot was scanned."""
        return self.snapshot.is_complete

    async def reload(self, by: str = "") -> str | None:
        """Count, note who asks, and give the problem."""
        self.reloads += 1
        self.asked_by = by
        return self.problem

    def find(self, host: str) -> HostState:
        """Return the state of a host in any spelling."""
        try:
            return {canonical(state.host): state for state in self.snapshot.hosts.values()}[canonical(host)]
        except ValueError:
            raise KeyError(host) from None

    def scan_now(self, host: str) -> bool:
        """Note which scans were begun."""
        found = self.find(host).host
        self.begun.append(found)
        return found not in self.busy

    async def changes(
        self, *, host: str | None, since: float | None, until: float | None, before_id: int | None, limit: int
    ) -> tuple[tuple[int, Change], ...]:
        """Note what was asked, and give the first rows."""
        self.asked.append({"host": host, "since": since, "until": until, "before_id": before_id, "limit": limit})
        if self.fault:
            raise self.fault
        return tuple(self.rows[:limit])

    async def verdicts(self, host: str, *, limit: int) -> tuple[DatedVerdict, ...]:
        """Give those of the host."""
        if self.fault:
            raise self.fault
        return tuple(item for item in self.history if item.host == host)[:limit]

    @contextlib.asynccontextmanager
    async def served(self, gate: Gate | None = None) -> AsyncIterator[str]:
        """Run a web server before it; returns the URL without the final slash."""
        server = WebServer(self, [LOOPBACK], gate=gate or open_gate(), wall_clock=lambda: NOW)
        (url,) = await server.start()
        try:
            yield url.rstrip("/")
        finally:
            await server.stop()

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """Ask once."""

        async def scenario() -> Answer:
            async with self.served() as url:
                return await fetch(url + path, method, headers)

        return asyncio.run(scenario())

    def document(self, path: str, method: str = "GET", *, status: int = 200) -> Any:
        """Ask for JSON, which must come with this status; return what it says."""
        answer = self.ask(path, method)
        assert answer.status == status, answer.text
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        assert answer.text.endswith("\n")
        return json.loads(answer.text)

    def refusal(self, path: str, method: str = "GET", *, status: int = 400) -> str:
        """Ask for what must be refused with this status; return the detail of the problem document (RFC 9457)."""
        answer = self.ask(path, method)
        assert answer.status == status, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        document = json.loads(answer.text)
        about = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
        assert document == about | {"detail": document["detail"], "instance": urlsplit(path).path}
        return str(document["detail"])
