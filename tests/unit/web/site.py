"""A web server on a free port of loopback, and a client that asks it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from portspec.access.watched import CurrentWebConfig
from portspec.audit.agent_key import AgentKey
from portspec.audit.service import AuditService
from portspec.config import Config
from portspec.metrics import Exposition
from portspec.store import Store
from portspec.web import Gate, ListenAddress, WebServer
from tests.unit.factories import NOW
from tests.unit.metrics.scrape import STATUS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from portspec.audit.state import AuditState
    from portspec.config import MaintenanceWindow
    from portspec.config.rulings import ExemptionKey
    from portspec.schedule.on_demand import Prober
    from portspec.state.changes import DatedVerdict
    from portspec.state.snapshot import HostState, Snapshot
    from portspec.store import Change, StoreError
    from portspec.web.limits import Limits

LOOPBACK = ListenAddress("127.0.0.1", 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered, as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8")


def no_agent_key() -> AgentKey:
    """Make the key that signs the agent, for which there is no file."""
    return AgentKey(Path("/nowhere/agent-signing.key"))


def no_audits() -> AuditService:
    """Make what takes no audits, since nobody gave it a passphrase."""
    return AuditService(Store("portspec.db", history=1.0))  # which is opened by nobody


class ScriptedMaintenance:
    """Maintenance that was asked for, and what was asked since; `fault` is raised instead, if there is one."""

    def __init__(self, windows: Mapping[str, MaintenanceWindow] | None = None, fault: StoreError | None = None) -> None:
        self.windows: Mapping[str, MaintenanceWindow] = windows or {}
        self.fault = fault
        self.asked: list[tuple[object, ...]] = []

    def window_of(self, host: str) -> MaintenanceWindow | None:
        """Return that of a host, by canonical name."""
        return self.windows.get(host)

    async def begin(self, hosts: Collection[str], until: float, reason: str, owner: str) -> None:
        """Note what begins."""
        self._note(("begin", *hosts, until, reason, owner))

    async def end(self, hosts: Collection[str]) -> None:
        """Note what ends."""
        self._note(("end", *hosts))

    def _note(self, what: tuple[object, ...]) -> None:
        if self.fault:
            raise self.fault
        self.asked.append(what)


@dataclass
class ScriptedRulings:
    """Since when conf.yml has each exception."""

    exception_times: Mapping[ExemptionKey, float | None] = field(default_factory=dict)


class ScriptedService:
    """An exporter whose hosts are the snapshots that `state` gives; it probes, scans and reads nothing."""

    def __init__(self, state: Callable[[], Snapshot]) -> None:
        self._state = state
        self.exposition = Exposition(state, lambda: STATUS)
        self.audits = audits = no_audits()

        def find(host: str) -> AuditState | None:
            return state().audits.get(host)

        vars(audits)["find"] = find
        self.agent_key = no_agent_key()
        self.status = STATUS
        self.config = Config("conf.yml", ())
        self.maintenance = ScriptedMaintenance()
        self.rulings = ScriptedRulings()

    @property
    def snapshot(self) -> Snapshot:
        """The state of all hosts now."""
        return self._state()

    @property
    def hanging(self) -> tuple[str, ...]:
        """No part hangs."""
        return ()

    @property
    def prober(self) -> Prober:
        """There is none."""
        raise NotImplementedError

    def find(self, host: str) -> HostState:
        """Return a host of the snapshot."""
        return self.snapshot.hosts[host]

    @property
    def is_ready(self) -> bool:
        """True once every host of the snapshot was scanned."""
        return self.snapshot.is_complete

    async def reload(self, by: str = "") -> str | None:
        """Say that there is no file."""
        del by
        return "there is no conf.yml"

    def scan_now(self, host: str) -> bool:
        """Start nothing."""
        raise KeyError(host)

    async def changes(self, **_: object) -> tuple[tuple[int, Change], ...]:
        """Return none."""
        return ()

    async def verdicts(self, host: str, *, limit: int) -> tuple[DatedVerdict, ...]:  # noqa: ARG002 - as the real one
        """Return none."""
        return ()


def open_gate(**options: Any) -> Gate:
    """Make what lets requests in without a web configuration file."""
    return Gate(CurrentWebConfig(None), **options)


def server(
    state: Callable[[], Snapshot],
    listeners: Sequence[ListenAddress] = (LOOPBACK,),
    *,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.monotonic,
    gate: Gate | None = None,
) -> WebServer:
    """Make a server of the snapshots that `state` gives."""
    return WebServer(
        ScriptedService(state), listeners, gate=gate or open_gate(), limits=limits, clock=clock, wall_clock=lambda: NOW
    )


@contextlib.asynccontextmanager
async def serving(
    state: Callable[[], Snapshot],
    listeners: Sequence[ListenAddress] = (LOOPBACK,),
    *,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.monotonic,
    gate: Gate | None = None,
) -> AsyncIterator[tuple[str, ...]]:
    """Run a server; returns its URLs."""
    one = server(state, listeners, limits=limits, clock=clock, gate=gate)
    urls = await one.start()
    try:
        yield urls
    finally:
        await one.stop()


async def converse(url: str, *requests: bytes) -> bytes:
    """Send requests one behind the other over one connection, which the last is to close; returns what came back."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"".join(requests))
    answers = await asyncio.wait_for(reader.read(), 10.0)
    writer.close()
    await writer.wait_closed()
    return answers


async def fetch(url: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """Ask once, without decompression."""
    async with (
        aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(10.0)) as session,
        session.request(method, url, headers=headers, skip_auto_headers=["Accept-Encoding"]) as response,
    ):
        return Answer(response.status, response.headers, await response.read())


def ask(of: Snapshot, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """Ask a server of one snapshot once."""

    async def scenario() -> Answer:
        async with serving(lambda: of) as (url,):
            return await fetch(url.rstrip("/") + path, method, headers)

    return asyncio.run(scenario())
