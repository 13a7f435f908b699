"""`portspec report`: the report of all machines, or what one machine sent on a day."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

from portspec import log
from portspec.audit.admission import MAX_AHEAD
from portspec.audit.document import Decoder
from portspec.audit.priority import Priorities
from portspec.audit.service import decoded, read_audit
from portspec.audit.state import AuditState
from portspec.cli.check import source_warnings
from portspec.cli.output import write_bytes
from portspec.errors import PortspecError, UsageError
from portspec.inventory import audited_hosts, targets
from portspec.inventory.discovery import Discovery
from portspec.names import canonical
from portspec.report import ReportSettings, write_report
from portspec.report.output import write_output
from portspec.state.outside import seen_from_outside
from portspec.state.snapshot import HostState, Snapshot
from portspec.state.table import HostTable
from portspec.store import Store, find_state_file, stored_feeds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.audit.state import HostAudit
    from portspec.config import Config
    from portspec.store import ArchivedAudit


def report(config: Config, *, form: str, output: str | None, host: str | None, day: str | None) -> int:
    """Write the report of all machines, or of one, with its audit of a day (by default, the last)."""
    now = time.time()
    gc.disable()  # all that is read lives to the end: a fifth of the time would go into searching it for cycles
    snapshot = _snapshot(config, now, host, day)
    audit = config.audit
    settings = ReportSettings(domain=audit.domain, max_age=audit.max_age) if audit else ReportSettings()
    pieces = (piece.encode("utf-8", "backslashreplace") for piece in write_report(snapshot, settings, now, form))
    _put(pieces, output)
    return 0


def raw_report(config: Config, *, output: str | None, host: str, day: str | None) -> int:
    """Write what a host sent on a day (by default, the last), byte for byte."""
    _put((_archived(_store(config), host, day).payload,), output)
    return 0


def _put(pieces: Iterable[bytes], output: str | None) -> None:
    if output is None or output == "-":
        write_bytes(pieces)
        return
    try:
        write_output(output, pieces)
    except OSError as error:
        raise PortspecError(f"cannot write {output}: {(error.strerror or str(error)).lower()}") from None


def _store(config: Config) -> Store:
    place = find_state_file(config)
    if place.unsearchable and not place.is_certain:
        raise PortspecError(place.why)
    return Store(place.path, history=config.history)


def _archived(store: Store, host: str, day: str | None) -> ArchivedAudit:
    name = _canonical(host)
    found = store.find_audit(name, day)
    if found is None:
        days = store.audit_days(name)
        there = f"available: {', '.join(days[:7])}{' and earlier' if len(days) > 7 else ''}" if days else ""  # noqa: PLR2004 - a line
        raise UsageError(f"no audit of {host}{f' for {day}' if day else ''}{f'; {there}' if there else ''}")
    return found


def _snapshot(config: Config, now: float, host: str | None, day: str | None) -> Snapshot:
    """Return what the state file knows of all machines, or of one. Raises StoreError, UsageError."""
    store = _store(config)
    discovery = Discovery(config.discovery)
    asyncio.run(discovery.refresh_all())
    for warning in source_warnings(discovery.stats):
        log.warn(warning)
    every = targets(config, discovery.hosts)
    expected = audited_hosts(config, every)
    if host is not None:
        name = _canonical(host)
        every = tuple(target for target in every if target.name == name)
        expected = {name: expected[name]} if name in expected else {}
        if not every and not expected:
            raise UsageError(f'"{host}" is not a host of the configuration')
        if day is not None and not expected:
            raise UsageError(f"--day: {host} is not an audited host of the configuration; --raw writes what it sent")
    host_audits = _host_audits(store, expected, day)
    states = store.restore(every).states
    hosts = HostTable(states.get(target.host) or HostState(target) for target in every)
    priorities = Priorities(config.priorities, stored_feeds(store, config.feeds.places if config.feeds else {}))
    audits = [AuditState.of(entry, host_audits.get(name), now) for name, entry in expected.items()]
    return Snapshot(
        hosts=hosts,
        audits=HostTable(
            seen_from_outside(audit, hosts.get(audit.host), priorities).with_due_times() for audit in audits
        ),
    )


def _host_audits(store: Store, names: Iterable[str], day: str | None) -> dict[str, HostAudit]:
    """Return the audit of each host by canonical name, of a day or the last; audits not read yet are read."""
    if day is not None:
        return {name: read_audit(_archived(store, name, day)) for name in names}
    decoder = Decoder()
    until = time.time() + MAX_AHEAD
    documents, last = store.audit_results(), store.latest_audits(until)
    found: dict[str, HostAudit] = {}
    for name in names:
        number, document = documents.get(name, (0, ""))
        host_audit = decoded(decoder, name, document) if document and number == last.get(name) else None
        if host_audit is None and name in last and (archived := store.find_audit(name, until=until)):
            host_audit = read_audit(archived)
        if host_audit:
            found[name] = host_audit
    return found


def _canonical(host: str) -> str:
    try:
        return canonical(host)
    except ValueError as error:
        raise UsageError(str(error)) from None
