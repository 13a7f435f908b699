from __future__ import annotations

import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.priority import Priorities
from portspec.audit.reach import SeenAddress
from portspec.audit.state import AuditState
from portspec.config import VulnerabilityException
from portspec.metrics import exposition as exposition_module
from portspec.metrics import render as module
from portspec.metrics.host_families import AUDITS, PORTS, Families, Part
from portspec.metrics.render import Renderer, render_host
from portspec.ports import PortSet
from portspec.priorities import Priority, PriorityRule
from portspec.state import table as table_module
from portspec.state.table import HostTable
from tests.unit.factories import MODEST, NOW, target, with_targets
from tests.unit.metrics.scrape import (
    HOST_FAMILIES,
    OPENMETRICS,
    TEXT,
    UNLIMITED,
    audited_zoo,
    body,
    exposition,
    inspected,
)
from tests.unit.metrics.worlds import (
    TEXTS,
    audit_states,
    audited,
    many,
    rescanned,
    results,
    rosters,
    snapshots,
    targets,
)

if TYPE_CHECKING:
    from portspec.audit.reach import OutsideView
    from portspec.metrics import Metric
    from portspec.metrics.block import CachedBlock
    from portspec.metrics.host_families import Samples
    from portspec.state.snapshot import HostState, Snapshot

NAMES = [*HOST_FAMILIES, "portspec_series_dropped", "portspec_hosts"]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let some hundred hosts be several chunks."""
    monkeypatch.setattr(table_module, "_CHUNK", 128)


# Caching


@st.composite
def reported(draw: st.DrawFn, of: Snapshot) -> Snapshot:
    """Let something happen to the roster: reports, exceptions that lapse, or another roster."""
    if draw(st.booleans()):
        audits = of.audits
        for host in draw(st.lists(st.sampled_from(list(audits)), max_size=4)) if audits else ():
            audits = audits.replacing(draw(st.just(audits[host].judged(NOW + 1)) | audit_states(host)))
        return replace(of, audits=audits)
    stay = [state for state in of.audits.values() if draw(st.integers(0, 4))]
    new = [state for host, state in draw(rosters(of.hosts)).items() if host not in {old.host for old in stay}]
    return replace(of, audits=HostTable(draw(st.permutations([*stay, *new]))))


@st.composite
def changed(draw: st.DrawFn, of: Snapshot) -> Snapshot:
    """Let something happen: scans, reports, or other targets (some gone, new, changed or moved), or nothing."""
    of = draw(reported(of)) if draw(st.booleans()) else of
    if draw(st.booleans()):
        for host in draw(st.lists(st.sampled_from(list(of.hosts)), max_size=4)) if of.hosts else ():
            of = of.after(host, draw(results(of.hosts[host].target)), probes_sent=0)
        return of
    stay = [state.target for state in of.hosts.values() if draw(st.integers(0, 4))]
    stay = [draw(targets(old.host)) if draw(st.integers(0, 4)) == 0 else old for old in stay]
    new = [host for host in draw(st.lists(TEXTS, unique=True, max_size=3)) if host not in {old.host for old in stay}]
    every = [*stay, *[draw(targets(host)) for host in new]]
    return with_targets(of, draw(st.permutations(every)) if draw(st.booleans()) else every, NOW)


@MODEST
@given(data=st.data(), budget=st.one_of(st.just(UNLIMITED), st.integers(0, 30)))
def test_page_after_any_changes_is_that_of_a_fresh_exposition(data: st.DataObject, budget: int) -> None:
    """Whatever happened to the hosts since the last scrapes, the page is as if it were the first that is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "_CHUNK", 3)  # so that a few hosts are several chunks
        current = data.draw(snapshots())
        one = exposition(current, budget)
        one._snapshot = lambda: current
        for _ in range(data.draw(st.integers(1, 5))):
            accept = data.draw(st.sampled_from([TEXT, OPENMETRICS]))
            assert body(one.write(accept, "", NAMES)) == body(exposition(current, budget).write(accept, "", NAMES))
            current = data.draw(changed(current))
        assert body(one.write(TEXT, "", NAMES)) == body(exposition(current, budget).write(TEXT, "", NAMES))


def test_page_of_many_chunks_follows_every_change() -> None:
    """With chunks as they are: after scans, departures, arrivals and a new order the page is that of a fresh one."""
    current = many()
    one = exposition(current)
    one._snapshot = lambda: current
    rng = random.Random(5)  # noqa: S311 - no secret

    def check() -> None:
        assert body(one.write(TEXT, "", NAMES)) == body(exposition(current).write(TEXT, "", NAMES))

    check()
    for _ in range(20):
        current = rescanned(current, rng.choice(list(current.hosts)), *rng.sample([22, 80, 443], 2))
        check()
    for _ in range(10):
        every = [state.target for state in current.hosts.values() if rng.random() < 0.9]
        every.insert(rng.randrange(len(every)), target(f"new{rng.random()}", expect=[22]))
        if rng.random() < 0.5:
            rng.shuffle(every)
        current = with_targets(current, every, NOW)
        check()


def blocks_of(rendered: tuple[list[tuple[Metric, list[CachedBlock]]], int]) -> dict[bytes, CachedBlock]:
    """Return all blocks by their text, which no two have in common."""
    every = [block for _, blocks in rendered[0] for block in blocks]
    by_text = {block.text: block for block in every}
    assert len(by_text) == len(every)
    return by_text


@MODEST
@given(data=st.data())
def test_block_whose_text_did_not_change_is_the_same_object(data: st.DataObject) -> None:
    """After any scans, a block with the text of before is the block of before, with what it was compressed to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "_CHUNK", 2)
        of = data.draw(snapshots())
        renderer = Renderer(PORTS, UNLIMITED)
        before = blocks_of(renderer.render(of.hosts))
        for host in data.draw(st.lists(st.sampled_from(list(of.hosts)), max_size=4)) if of.hosts else ():
            of = of.after(host, data.draw(results(of.hosts[host].target)), probes_sent=0)
        after = blocks_of(renderer.render(of.hosts))
    for text in before.keys() & after.keys():
        assert after[text] is before[text]


def test_scan_that_finds_nothing_new_changes_one_block() -> None:
    """A scan with the result of the one before changes nothing but the block with the time of the scan."""
    of = many()
    renderer = Renderer(PORTS, UNLIMITED)
    before = blocks_of(renderer.render(of.hosts))
    after = blocks_of(renderer.render(rescanned(of, "host200", 22, 443).hosts))
    (fresh,) = [block for text, block in after.items() if before.get(text) is not block]
    assert fresh.text.startswith(b"port_last_scan_timestamp_seconds{")
    assert len(after) == len(before) > 20


class Calls:
    """Counts which hosts are asked for their samples."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.hosts: list[str] = []
        self.families = Families(tuple(self._counting(part) for part in PORTS.parts), PORTS.has_news)
        patch.setattr(exposition_module, "PORTS", self.families)

    def _counting(self, part: Part[HostState]) -> Part[HostState]:
        def samples(state: HostState) -> Samples:
            self.hosts.append(state.host)
            return part.samples(state)

        def value(state: HostState) -> float | None:
            self.hosts.append(state.host)
            return part.value(state) if part.value else None

        return replace(part, samples=samples, value=part.value and value)

    def of(self, renderer: Renderer[HostState], hosts: HostTable[HostState]) -> list[str]:
        """Render; returns the hosts of which anything was written."""
        self.hosts.clear()
        renderer.render(hosts)
        return list(dict.fromkeys(self.hosts))


def test_only_hosts_that_changed_are_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host is written when it is new or was scanned; not because of a neighbour, nor when it stands elsewhere."""
    calls = Calls(monkeypatch)
    renderer = Renderer(calls.families, UNLIMITED)
    of = many()
    every = [state.target for state in of.hosts.values()]
    assert len(calls.of(renderer, of.hosts)) == 300
    assert calls.of(renderer, of.hosts) == []
    of = rescanned(of, "host130", 22)
    assert calls.of(renderer, of.hosts) == ["host130"]
    of = with_targets(of, every[5:], NOW)
    assert calls.of(renderer, of.hosts) == []
    of = with_targets(of, [target("new"), *every[5:]], NOW)
    assert calls.of(renderer, of.hosts) == ["new"]
    of = with_targets(of, every[:4:-1], NOW)
    assert calls.of(renderer, of.hosts) == []
    other = replace(every[7], config=replace(every[7].config, interval=30.0))
    of = with_targets(of, [*every[5:7], other, *every[8:]], NOW)
    assert calls.of(renderer, of.hosts) == ["host7"]


def test_what_was_written_ahead_is_not_written_by_the_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that were scanned since the last scrape can be written before the next one comes."""
    calls = Calls(monkeypatch)
    one = exposition(many())
    one.write_ahead()
    assert len(set(calls.hosts)) == 300
    calls.hosts.clear()
    assert body(one.write(TEXT, "", NAMES)) == body(exposition(many()).write(TEXT, "", NAMES))
    assert len(calls.hosts) == len(PORTS.parts) * 300  # those that the other one wrote


@MODEST
@given(data=st.data())
def test_host_whose_state_is_the_same_is_never_written_again(data: st.DataObject) -> None:
    """Whatever happens to the other hosts, one whose state is the very object of before is not written again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "_CHUNK", 3)
        calls = Calls(patch)
        renderer = Renderer(calls.families, UNLIMITED)
        before: Snapshot = data.draw(snapshots())
        calls.of(renderer, before.hosts)
        after = data.draw(changed(before))
        fresh = [host for host, state in after.hosts.items() if before.hosts.get(host) is not state]
        assert sorted(calls.of(renderer, after.hosts)) == sorted(fresh)


def test_threads_may_scrape_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapes from several threads, while hosts change, write one after the other, each a page of one snapshot."""
    history = [many(200)]
    for number in range(20):
        history.append(rescanned(history[-1], f"host{number * 9}", 22, at=NOW + number))
    pages = {body(exposition(of).write(TEXT, "", NAMES)) for of in history}
    waiting = iter(history * 2)
    one = exposition(history[0])
    one._snapshot = lambda: next(waiting)  # called by one thread at a time
    within = threading.Lock()
    overlaps = []
    rendering = Renderer.render

    def render_alone(
        renderer: Renderer[Any], hosts: HostTable[Any]
    ) -> tuple[list[tuple[Metric, list[CachedBlock]]], int]:
        overlaps.append(not within.acquire(blocking=False))
        try:
            return rendering(renderer, hosts)
        finally:
            if within.locked():
                within.release()

    monkeypatch.setattr(Renderer, "render", render_alone)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # seconds: threads meet wherever they can
    try:
        with ThreadPoolExecutor(8) as pool:
            written = list(pool.map(lambda _: body(one.write(TEXT, "", NAMES)), range(2 * len(history))))
    finally:
        sys.setswitchinterval(before)
    assert not any(overlaps)
    assert set(written) == pages


def test_exception_that_lapses_is_seen_in_the_next_page() -> None:
    """Once an exception is over, its vulnerability is there, and the host is vulnerable."""
    found = Vulnerability("openssl", "3.0.1", "CVE-2026-0001", Severity.HIGH)
    exceptions = (VulnerabilityException(("*",), ("cve-2026-0001",), until=NOW + 10),)
    state = AuditState("db1", exceptions, inspected(Status.VULNERABLE, found), NOW)
    current = replace(audited_zoo(), audits=HostTable([state]))
    one = exposition(current)
    one._snapshot = lambda: current
    before = body(one.write(TEXT, "", NAMES)).decode()
    assert 'portspec_audit_status{host="db1",status="clean"} 1.0\n' in before
    assert "portspec_audit_vulnerability{" not in before
    current = replace(current, audits=current.audits.replacing(state.judged(NOW + 10)))
    after = body(one.write(TEXT, "", NAMES)).decode()
    assert 'portspec_audit_status{host="db1",status="vulnerable"} 1.0\n' in after
    assert (
        'portspec_audit_vulnerability{class="plan",fixed_version="",host="db1",id="CVE-2026-0001",package="openssl",'
        in after
    )


def test_hosts_without_a_new_report_are_not_written_again() -> None:
    """A report of one host leaves the blocks of the other chunks as they are, the compressed ones, too."""
    of = audited(300)
    renderer = Renderer(AUDITS, UNLIMITED)
    before = {id(block) for _, blocks in renderer.render(of.audits)[0] for block in blocks}
    sockets = (ListeningSocket("tcp", "::", 9, "discard", "nobody"),)
    changed = AuditState("host200", (), inspected(Status.CLEAN, at=NOW + 1, listeners=sockets), NOW)
    after = [block for _, blocks in renderer.render(of.audits.replacing(changed))[0] for block in blocks]
    fresh = [block for block in after if id(block) not in before]
    # Nothing is left out or known to need a restart, no host is under maintenance, and neither since when nor by when
    # is known.
    families = len(AUDITS.parts) - 6
    assert len(fresh) == families
    assert len(after) == 3 * families


SOCKET = ListeningSocket("tcp", "::", 443, "nginx", "www", "/usr/sbin/nginx", package="nginx", libraries=())
VIEWS = st.sampled_from([(), (SeenAddress("192.0.2.1", PortSet.of([443]), PortSet.of([443])),)])
PRIORITIES = [
    Priorities(),
    Priorities(),
    Priorities((PriorityRule(Priority.FIX_NOW, reach=frozenset({"reachable"})),)),
    Priorities((PriorityRule(Priority.PLAN, severity=frozenset({"low"})),)),
]


@MODEST
@given(
    found=st.lists(
        st.builds(
            Vulnerability,
            st.sampled_from(["nginx", "vim"]),
            st.just("1"),
            st.sampled_from(["CVE-1", "CVE-2"]),
            st.sampled_from(Severity),
        ),
        max_size=4,
    ),
    steps=st.lists(st.tuples(VIEWS, st.sampled_from(PRIORITIES)), min_size=1, max_size=5),
)
def test_page_follows_views_and_priorities(
    found: list[Vulnerability], steps: list[tuple[OutsideView, Priorities]]
) -> None:
    """What scans and lists say of an audit is shown, while a host whose classes stay the same is not written again."""
    audit = inspected(Status.VULNERABLE, *found, listeners=(SOCKET,))
    one = Renderer(AUDITS, UNLIMITED)
    state = AuditState("web1", (), audit, NOW)
    one.render(HostTable([state]))
    for view, priorities in steps:
        state = replace(state, view=view, priorities=priorities)
        page = [block.text for _, blocks in one.render(HostTable([state]))[0] for block in blocks]
        fresh = Renderer(AUDITS, UNLIMITED).render(HostTable([state]))[0]
        assert page == [block.text for _, blocks in fresh for block in blocks]


def test_other_list_with_the_same_classes_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new list of EPSS does for nearly every host of a fleet each day."""
    of = audited(300)
    renderer = Renderer(AUDITS, UNLIMITED)
    renderer.render(of.audits)
    written: list[str] = []

    def noted(part: Any, state: Any) -> tuple[list[str], int]:
        written.append(state.host)
        return render_host(part, state)

    monkeypatch.setattr(module, "render_host", noted)
    priorities = Priorities()
    renderer.render(HostTable([replace(state, priorities=priorities) for state in of.audits.values()]))
    assert written == []
    other = Priorities((PriorityRule(Priority.FIX_NOW),))
    renderer.render(of.audits.replacing(replace(of.audits["host7"], priorities=other)))
    assert set(written) == {"host7"}
