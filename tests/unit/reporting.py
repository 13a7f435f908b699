"""What tests of audits are made of: a store, the audits over it, and a wall clock that a test sets."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec.audit.admission import RejectedError
from portspec.audit.service import AuditService
from portspec.state.table import HostTable
from tests.unit.app.exporter import until
from tests.unit.factories import NOW
from tests.unit.signed import AUDIT, WEB, rostered
from tests.unit.store.scenes import opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from portspec.audit.model import Status
    from portspec.inventory import AuditedHost
    from portspec.state.snapshot import HostState
    from portspec.store import Store

HERE: Final = "192.0.2.7"  # whom an audit comes from


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """Return the time in Unix seconds."""
        return self.now


class Scene:
    """AuditService over a store, and the file of that."""

    def __init__(self, path: Path, clock: Callable[[], float], store: Store) -> None:
        self.path = path
        self.clock = clock
        self.store = store
        self.hosts: HostTable[HostState] = HostTable()  # what the scans know
        self.audits = AuditService(store, clock, lambda: self.hosts)

    async def refusal(self, audit: bytes) -> RejectedError:
        """Post an audit that must be refused."""
        with pytest.raises(RejectedError) as caught:
            await self.audits.take(audit, HERE)
        return caught.value

    def statuses(self) -> dict[str, Status]:
        """Return what is known of each host."""
        return {host: state.status for host, state in self.audits.states.items()}

    async def become(self, **of: Status) -> None:
        """Wait until this is what is known, by the first part of hosts' names."""
        await until(lambda: {host.partition(".")[0]: status for host, status in self.statuses().items()} == of)

    async def read(self) -> None:
        """Wait until all that is archived is read, and kept."""
        newest = "SELECT max(id) FROM audit"
        await until(
            lambda: (
                in_file(self.path, "SELECT value FROM meta WHERE key = 'audit_mark'")
                == [(str(in_file(self.path, newest)[0][0] or 0),)]
            )
        )

    def rejected(self) -> dict[str, int]:
        """Return how many were refused by reason, without those of which there are none."""
        return {reason: count for reason, count in self.audits.rejected.items() if count}

    def days(self, host: str = WEB) -> list[str]:
        """Return the days of which the archive has an audit of a host."""
        return self.store.audit_days(host)

    def find_audit(self, host: str = WEB, day: str | None = None) -> bytes | None:
        """Return the payload of an audit in the archive."""
        found = self.store.find_audit(host, day)
        return found.payload if found else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it."""
        task = asyncio.create_task(self.audits.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@contextlib.asynccontextmanager
async def prepared(path: Path, clock: Clock, roster: Mapping[str, AuditedHost]) -> AsyncIterator[Scene]:
    """Make a scene that knows what the file does, and does not run yet."""
    with opened(path, (), wall_clock=clock, retry=0.01) as (store, _):
        scene = Scene(path, clock, store)
        scene.audits.apply(AUDIT, roster)
        await scene.audits.restore()
        yield scene


@contextlib.asynccontextmanager
async def running(
    path: Path, clock: Clock, *hosts: str, roster: Mapping[str, AuditedHost] | None = None
) -> AsyncIterator[Scene]:
    """Run a scene with hosts that have to send audits, by default one."""
    roster = rostered(*(hosts or (WEB,))) if roster is None else roster
    async with prepared(path, clock, roster) as scene, scene.running():
        yield scene


def in_file(path: Path, statement: str, *values: Any) -> list[Any]:
    """Do something to the file behind everybody's back."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()
