from __future__ import annotations

import asyncio
import json
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

import portspec.app.ahead
import portspec.app.watch
from portspec.audit.fixes import FixCount
from portspec.config import load
from portspec.errors import NoThreadError
from portspec.inventory import Shard, SystemResolver
from portspec.scan import Reason
from portspec.schedule.on_demand import MAX_CONCURRENT_PROBES, ProbeError
from portspec.state.verdict import Verdict
from portspec.store import StoreError
from portspec.store.fixes import add_fixes
from portspec.threads import in_daemon_thread
from tests.faults.registry import fault
from tests.unit.app.exporter import answering, engines, metric, prepared, put, remove, running, until, write
from tests.unit.factories import ScriptedEngine, settle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from portspec.app.service import Service
    from portspec.config import Config

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"  # addresses, so that nothing is looked up
GOOD = "portspec_config_last_reload_successful"
LOADED = "portspec_config_last_reload_success_timestamp_seconds"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return the path of a conf.yml with two hosts."""
    path = tmp_path / "conf.yml"
    write(path, {A: [22], B: []})
    return path


def hosts(service: Service) -> list[str]:
    """Return the hosts that are scanned."""
    return list(service.snapshot.hosts)


def asked(engine: ScriptedEngine) -> list[str]:
    """Return the addresses that were scanned, in any order."""
    return sorted(address for job in engine.jobs for address in job.addresses)


def test_time_to_fix_is_that_of_the_state_file(conf: Path) -> None:
    """Each class begins with none, and goes on after a restart; without audits there is no such family."""
    name = "portspec_audit_time_to_fix_seconds_count"
    audit = {"passphrase": "a passphrase of the tests", "hosts": [A]}

    async def scenario() -> None:
        async with prepared(conf) as service:
            assert metric(service, name) == []
        write(conf, {A: [22]}, audit=audit)
        async with prepared(conf) as service:
            classes = ("fix_now", "fix_soon", "plan", "rest")
            assert metric(service, name) == [f'{name}{{class="{word}"}} 0.0' for word in classes]
            service.store.transact(lambda file: add_fixes(file, [FixCount("plan", 86_400.0, 2, 9.0)]))
        async with prepared(conf) as service:
            assert f'{name}{{class="plan"}} 2.0' in metric(service, name)

    asyncio.run(scenario())


def test_hosts_are_scanned_at_the_start(conf: Path) -> None:
    """A service scans every host at once, and its snapshot has the verdicts."""

    async def scenario() -> None:
        async with running(conf, engines(ScriptedEngine(answering(22)))) as service:
            await until(lambda: service.snapshot.is_complete)
            assert {host: state.verdict for host, state in service.snapshot.hosts.items()} == {
                A: Verdict.IN_SPEC,
                B: Verdict.OUT_OF_SPEC,
            }

    asyncio.run(scenario())


def test_good_file_takes_the_place_of_the_old_one(conf: Path) -> None:
    """After a reload the hosts are those of the new file: new ones are scanned, those that left are gone."""

    async def scenario() -> None:
        engine = ScriptedEngine(answering())
        async with running(conf, engines(engine)) as service:
            await until(lambda: service.snapshot.is_complete)
            write(conf, {B: [], C: []})
            with capture_logs() as logs:
                assert await service.reload() is None
            await until(lambda: service.snapshot.is_complete)
            assert hosts(service) == [B, C]
            assert service.find(C).host == C
            with pytest.raises(KeyError):
                service.find(A)
            assert asked(engine).count(C) == 1
            assert f'host="{A}"' not in "".join(metric(service, "port_host_up"))
            (said,) = [entry for entry in logs if entry["event"] == "configuration reloaded"]
            assert (said["config"], said["hosts"], said["log_level"]) == (str(conf), 2, "info")

    asyncio.run(scenario())


def test_reloads_do_not_queue_up(conf: Path) -> None:
    """All who ask for a reload while one is in progress share the next one."""

    async def scenario() -> None:
        async with running(conf) as service:
            with capture_logs() as logs:
                first = asyncio.create_task(service.reload())
                await until(service._turn.locked)
                others = [asyncio.create_task(service.reload()) for _ in range(60)]
                await asyncio.sleep(0)
                others[0].cancel()
                assert await asyncio.gather(first, *others[1:]) == [None] * 60
            reloads = [entry for entry in logs if entry["event"] == "configuration reloaded"]
            assert len(reloads) == 2

    asyncio.run(scenario())


def test_pause_follows_a_reload(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reloads that are asked for without end leave most of the time to scrapes: a pause follows each of them."""
    monkeypatch.setattr("portspec.app.service.RELOAD_REST", 1e9)

    async def scenario() -> None:
        async with running(conf) as service:
            with capture_logs() as logs:
                await service.reload()
                waiting = [asyncio.create_task(service.reload()) for _ in range(10)]
                await until(lambda: service._next_reload)
                await until(lambda: service.snapshot.is_complete)
                assert not any(task.done() for task in waiting)
                for task in waiting:
                    task.cancel()
            assert [entry["event"] for entry in logs].count("configuration reloaded") == 1

    asyncio.run(scenario())


def test_unchanged_host_keeps_its_state(conf: Path) -> None:
    """A host of which the new file says the same keeps its last scan, and is not scanned anew."""

    async def scenario() -> None:
        engine = ScriptedEngine(answering())
        async with running(conf, engines(engine)) as service:
            await until(lambda: service.snapshot.is_complete)
            before, scans = service.snapshot.hosts[B], asked(engine).count(B)
            write(conf, {C: [], B: []}, parallelscans=20)
            await service.reload()
            await until(lambda: service.snapshot.is_complete)
            assert service.snapshot.hosts[B] is before
            assert asked(engine).count(B) == scans

    asyncio.run(scenario())


def test_running_scan_of_an_unchanged_host_goes_on(conf: Path) -> None:
    """A reload cancels the scan of a host that has left, and of no other."""

    async def scenario() -> None:
        engine = ScriptedEngine()
        async with running(conf, engines(engine)) as service:
            assert asked(engine) == [A, B]
            write(conf, {B: []})
            await service.reload()
            await settle()
            cancelled = {
                job.addresses[0]: future.cancelled() for job, future in zip(engine.jobs, engine.futures, strict=True)
            }
            assert cancelled == {A: True, B: False}

    asyncio.run(scenario())


def test_changed_specification_counts_at_once(conf: Path) -> None:
    """A port that the new file expects is judged by what was seen last, before the next scan has ended."""

    async def scenario() -> None:
        engine = ScriptedEngine(answering(22))
        async with running(conf, engines(engine)) as service:
            await until(lambda: service.snapshot.is_complete)
            write(conf, {A: [22], B: [22]})
            await service.reload()
            assert service.snapshot.hosts[B].verdict is Verdict.IN_SPEC

    asyncio.run(scenario())


BAD = "hosts: {192.0.2.1: [22]}\nscanports: [22]\ncolour: blue\n"


@fault(
    "configuration",
    "reload",
    "The previous configuration stays in force; `portspec_config_last_reload_successful` is 0 "
    "(PortspecConfigReloadFailed).",
)
def test_bad_file_keeps_the_old_one(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not right is told with its line, changes nothing, and shows in the two metrics of reload."""
    now = [1000.0]
    monkeypatch.setattr(portspec.app.service, "time", SimpleNamespace(time=lambda: now[0]))

    async def scenario() -> None:
        async with running(conf) as service:
            assert (metric(service, GOOD), metric(service, LOADED)) == ([f"{GOOD} 1.0"], [f"{LOADED} 1000.0"])
            put(conf, BAD)
            now[0] = 2000.0
            with capture_logs() as logs:
                message = await service.reload()
            assert message
            assert message.startswith(f"{conf}:3: colour: unknown key")
            assert [(entry["log_level"], entry["problem"]) for entry in logs if "problem" in entry] == [
                ("error", message)
            ]
            assert hosts(service) == [A, B]
            assert (metric(service, GOOD), metric(service, LOADED)) == ([f"{GOOD} 0.0"], [f"{LOADED} 1000.0"])
            write(conf, {C: []})
            now[0] = 3000.0
            assert await service.reload() is None
            assert hosts(service) == [C]
            assert (metric(service, GOOD), metric(service, LOADED)) == ([f"{GOOD} 1.0"], [f"{LOADED} 3000.0"])

    asyncio.run(scenario())


def test_file_that_is_gone_keeps_the_old_one(conf: Path) -> None:
    """A conf.yml that was removed is told, and the exporter goes on."""

    async def scenario() -> None:
        async with running(conf) as service:
            remove(conf)
            assert await service.reload() == f"{conf}: no such file; name the configuration file with -c FILE"
            assert hosts(service) == [A, B]

    asyncio.run(scenario())


def test_every_problem_of_a_bad_file_is_logged(conf: Path) -> None:
    """Each problem has a line of the log of its own."""

    async def scenario() -> None:
        async with running(conf) as service:
            put(conf, BAD + "intervall: 60\n")
            with capture_logs() as logs:
                message = await service.reload()
            assert message
            assert [entry["problem"] for entry in logs if "problem" in entry] == message.split("\n")
            assert message.count("\n") == 1

    asyncio.run(scenario())


def test_fault_in_a_reload_does_not_end_the_exporter(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in a reload is told as a reload that failed, and scanning goes on."""

    def broken(_: str) -> None:
        raise ZeroDivisionError("somewhere")

    async def scenario() -> None:
        async with running(conf) as service:
            monkeypatch.setattr(portspec.app.service, "load_again", broken)
            message = await service.reload()
            assert message
            assert "somewhere" in message
            assert metric(service, GOOD) == [f"{GOOD} 0.0"]
            assert hosts(service) == [A, B]

    asyncio.run(scenario())


@fault("configuration", "reload", "A reload that fails half way changes nothing.")
def test_reload_that_fails_half_way_changes_nothing(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new configuration is built whole before it is taken up: a fault on the way leaves the old one in force."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("somewhere")

    async def scenario() -> None:
        engine = ScriptedEngine(answering())
        async with running(conf, engines(engine)) as service:
            write(conf, {C: []}, scan={"timeout": 0.123}, series_budget=7)
            monkeypatch.setattr(portspec.app.service, "hosts_of", broken)
            assert await service.reload()
            assert hosts(service) == [A, B]
            assert service.exposition.series_budget == 100_000
            assert getattr(engine, "timeout", None) != 0.123

    asyncio.run(scenario())


def test_probes_of_the_old_configuration_count_after_a_reload(conf: Path) -> None:
    """The limit of concurrent probes is one of the process."""

    async def scenario() -> None:
        async with running(conf, engines(ScriptedEngine())) as service:
            probes = [asyncio.create_task(service.prober.probe(A, None, None)) for _ in range(MAX_CONCURRENT_PROBES)]
            await settle()
            assert await service.reload() is None
            with pytest.raises(ProbeError, match="already running"):
                await service.prober.probe(A, None, None)
            for probe in probes:
                probe.cancel()
            await asyncio.gather(*probes, return_exceptions=True)

    asyncio.run(scenario())


def test_reloads_come_one_after_the_other(conf: Path) -> None:
    """Two reloads at the same time leave the exporter as one would."""

    async def scenario() -> None:
        async with running(conf) as service:
            write(conf, {C: []})
            assert list(await asyncio.gather(service.reload(), service.reload())) == [None, None]
            assert hosts(service) == [C]

    asyncio.run(scenario())


def test_text_of_metrics_is_written_ahead(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While scans finish their hosts are written, though nobody scrapes; when none finishes, nothing is."""
    monkeypatch.setattr(portspec.app.ahead, "INTERVAL", 0.0)
    monkeypatch.setattr(portspec.app.ahead, "REST", 0.0)

    async def scenario() -> None:
        async with running(conf) as service:
            written: list[object] = []
            monkeypatch.setattr(service.exposition, "write_ahead", lambda: written.append(service.snapshot.hosts))
            service.scan_now(A)
            await until(lambda: written and written[-1] is service.snapshot.hosts and service.is_ready)
            written.clear()
            await settle()
            assert written == []

    asyncio.run(scenario())


def test_changed_file_is_noticed(conf: Path) -> None:
    """When the checksum of conf.yml is another one it is read again, without anybody asking."""

    async def scenario() -> None:
        async with running(conf, poll_interval=0.0) as service:
            write(conf, {C: []})
            await until(lambda: hosts(service) == [C])

    asyncio.run(scenario())


def test_file_that_is_bad_is_read_once(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not right is told once, not at every look; when it is mended it is taken up."""
    looks = 0
    checksum = portspec.app.watch.checksum

    def counted(path: str) -> bytes | None:
        nonlocal looks
        looks += 1
        return checksum(path)

    monkeypatch.setattr(portspec.app.watch, "checksum", counted)

    async def scenario() -> None:
        async with running(conf, poll_interval=0.0) as service:
            with capture_logs() as logs:
                put(conf, BAD)
                await until(lambda: any("problem" in entry for entry in logs))
                seen = looks
                await until(lambda: looks > seen + 5)
                assert sum("problem" in entry for entry in logs) == 1
                write(conf, {C: []})
                await until(lambda: hosts(service) == [C])

    asyncio.run(scenario())


def test_file_that_vanishes_and_comes_back_is_read_again(conf: Path) -> None:
    """A file that is gone for a moment is told; when it is back the reload metric is 1 again."""

    async def scenario() -> None:
        async with running(conf, poll_interval=0.0) as service:
            remove(conf)
            await until(lambda: metric(service, GOOD) == [f"{GOOD} 0.0"])
            write(conf, {A: [22], B: []})
            await until(lambda: metric(service, GOOD) == [f"{GOOD} 1.0"])
            assert hosts(service) == [A, B]

    asyncio.run(scenario())


def test_pipe_in_the_place_of_the_file_is_told_and_not_waited_for(conf: Path) -> None:
    """A FIFO that has the file's name is an error that says so, and a file that is there again is read."""

    async def scenario() -> None:
        async with running(conf, poll_interval=0.0) as service:
            with capture_logs() as logs:
                os.mkfifo(conf.with_suffix(".pipe"))
                conf.with_suffix(".pipe").rename(conf)
                await until(lambda: any("problem" in entry for entry in logs))
                message = f"{conf}: cannot be read again: it is a pipe; put a regular file in its place"
                assert await service.reload() == message
                assert {entry["problem"] for entry in logs if "problem" in entry} == {message}
                assert hosts(service) == [A, B]
                write(conf.with_suffix(".new"), {C: []})
                conf.with_suffix(".new").rename(conf)
                await until(lambda: hosts(service) == [C])

    asyncio.run(scenario())


def test_file_is_not_watched_where_it_says_so(conf: Path) -> None:
    """With `autoreload: false` a change waits until somebody asks for a reload."""
    write(conf, {A: []}, autoreload=False)

    async def scenario() -> None:
        async with running(conf, poll_interval=0.0) as service:
            write(conf, {C: []}, autoreload=False)
            await settle()
            assert hosts(service) == [A]
            assert await service.reload() is None
            assert hosts(service) == [C]

    asyncio.run(scenario())


def test_reload_tunes_the_engines(conf: Path) -> None:
    """Rate, timeout and retries of the new file hold for the scans that are made from then on, by every engine."""

    async def scenario() -> None:
        scanner, confirmer = ScriptedEngine(answering()), ScriptedEngine(answering())
        of = engines(scanner, confirmer)
        async with running(conf, of) as service:
            write(conf, {A: []}, scan={"rate": 500, "timeout": "300ms", "retries": 7})
            await service.reload()
            assert [(one.timeout, one.retries) for one in (scanner, confirmer)] == [(0.3, 7)] * 2
            assert of._pacer.allowance(0.0) == 5
            write(conf, {A: []})
            await service.reload()
            assert [(one.timeout, one.retries) for one in (scanner, confirmer)] == [(0.9, 2)] * 2
            assert of._pacer.allowance(0.0) > 1_000_000

    asyncio.run(scenario())


def test_look_ups_are_limited_for_the_process(conf: Path) -> None:
    """Scans under an older configuration, those of a newer one and /probe share one limit of names looked up."""
    of = engines(ScriptedEngine(answering()), ScriptedEngine(answering()))
    write(conf, {A: []})
    older = load(conf)
    write(conf, {A: []}, ipv6=True)
    newer = load(conf)
    examiners = [of.examiner(older), of.examiner(newer), of.examiner(newer, engine="connect")]
    resolvers = [examiner._resolver for examiner in examiners]
    assert all(isinstance(resolver, SystemResolver) for resolver in resolvers)
    assert len({id(resolver._lookups) for resolver in resolvers if isinstance(resolver, SystemResolver)}) == 1


def test_reload_takes_up_the_keys_of_the_service(conf: Path) -> None:
    """series_budget, history and modules of the new file hold at once."""

    async def scenario() -> None:
        async with running(conf) as service:
            write(conf, {A: []}, series_budget=7, history=30, modules={"mail": {"expect": [25]}})
            await service.reload()
            assert (service.exposition.series_budget, service.store.history) == (7, 30 * 86_400.0)
            assert (await service.prober.probe(A, "mail", None)).state.target.config.name == "mail"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"scan": {"engine": "connect"}}, [("scan.engine", "auto", "connect")]),
        ({"state": "other.db"}, [("state", "portspec.db", "other.db")]),
        ({"state": "nowhere/../portspec.db"}, []),
        ({"state": "link.db"}, []),
        ({"parallelscans": 20}, []),
    ],
)
def test_what_needs_a_restart_is_told(conf: Path, keys: dict[str, object], said: list[tuple[str, str, str]]) -> None:
    """A change of the engine or of the state file is a warning; another path to the same file changes nothing."""
    conf.with_name("link.db").symlink_to("portspec.db")

    async def scenario() -> None:
        async with running(conf) as service:
            write(conf, {A: []}, **keys)
            with capture_logs() as logs:
                assert await service.reload() is None
            warned = [entry for entry in logs if "takes effect at the next start" in entry["event"]]
            assert [
                (entry["event"].split()[0], entry["now"].rpartition("/")[2], entry["then"].rpartition("/")[2])
                for entry in warned
            ] == said
            assert all(entry["log_level"] == "warning" for entry in warned)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("again", "told"), [({"state": "other.db"}, ["state takes effect at the next start"]), ({}, [])]
)
def test_what_needs_a_restart_is_told_at_every_reload(conf: Path, again: dict[str, str], told: list[str]) -> None:
    """While what runs is not what the file says each reload says so, and no longer."""

    async def scenario() -> None:
        async with running(conf) as service:
            write(conf, {A: []}, state="other.db")
            await service.reload()
            write(conf, {A: []}, **again)
            with capture_logs() as logs:
                await service.reload()
            assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == told

    asyncio.run(scenario())


def test_shards_share_the_hosts(conf: Path) -> None:
    """Each host is scanned by exactly one of three exporters, and each exporter tells its shard."""
    write(conf, {"192.0.2.0/26": []})

    async def scenario() -> list[list[str]]:
        found = []
        for index in range(3):
            async with prepared(conf, shard=Shard(index, 3)) as service:
                found.append(hosts(service))
                assert metric(service, "portspec_shard_info") == [
                    f'portspec_shard_info{{shard="{index}",shards="3"}} 1.0'
                ]
        return found

    shares = asyncio.run(scenario())
    assert sorted(host for share in shares for host in share) == sorted(f"192.0.2.{number}" for number in range(64))
    assert all(shares)


def test_shard_stays_the_same_after_a_reload(conf: Path) -> None:
    """New hosts of a reload belong to this exporter only if they are of its shard."""

    async def scenario() -> None:
        async with running(conf, shard=Shard(1, 3)) as service:
            write(conf, {"192.0.2.0/26": []})
            await service.reload()
            assert hosts(service) == [f"192.0.2.{n}" for n in range(64) if Shard(1, 3).holds(f"192.0.2.{n}")]

    asyncio.run(scenario())


def test_every_shard_probes_every_host(conf: Path) -> None:
    """/probe answers for each host of conf.yml, whichever exporter scans it in its rounds."""

    async def scenario() -> None:
        for index in range(2):
            async with prepared(conf, shard=Shard(index, 2)) as service:
                for host in (A, B):
                    assert (await service.prober.probe(host, None, None)).state.host == host

    asyncio.run(scenario())


def test_restart_serves_the_last_verdicts(conf: Path) -> None:
    """An exporter that starts on the state of an earlier one has its verdicts and times before its first scan."""

    async def scenario() -> None:
        async with running(conf, engines(ScriptedEngine(answering(22)))) as service:
            await until(lambda: service.snapshot.is_complete)
            before = dict(service.snapshot.hosts)
        async with prepared(conf, engines(ScriptedEngine())) as service:
            assert service.snapshot.is_complete
            for host, state in service.snapshot.hosts.items():
                was = before[host]
                assert state.latest
                assert was.latest
                assert (state.verdict, state.deviations) == (was.verdict, was.deviations)
                assert state.latest.finished_at == was.latest.finished_at
                (line,) = [line for line in metric(service, "port_last_scan_timestamp_seconds") if f'"{host}"' in line]
                assert float(line.split()[1]) == was.latest.finished_at

    asyncio.run(scenario())


def test_restart_judges_by_the_new_file(conf: Path) -> None:
    """What was seen before a restart is judged by what conf.yml says now."""

    async def scenario() -> None:
        async with running(conf, engines(ScriptedEngine(answering(22)))) as service:
            await until(lambda: service.snapshot.is_complete)
        write(conf, {A: [], B: [22]})
        async with prepared(conf) as service:
            verdicts = [state.verdict for state in service.snapshot.hosts.values()]
            assert verdicts == [Verdict.OUT_OF_SPEC, Verdict.IN_SPEC]

    asyncio.run(scenario())


def test_host_that_comes_back_has_its_last_state(conf: Path) -> None:
    """A host that left conf.yml and is taken up again is served with its last verdict until it is scanned."""

    async def scenario() -> None:
        engine = ScriptedEngine(answering(22))
        async with running(conf, engines(engine)) as service:
            await until(lambda: service.snapshot.is_complete)
            was = service.snapshot.hosts[B].latest
            assert service.store.flush(10.0)
            write(conf, {A: [22]})
            await service.reload()
            engine._answer = None  # scans from here on take forever
            write(conf, {A: [22], B: []})
            await service.reload()
            latest = service.snapshot.hosts[B].latest
            assert was
            assert latest
            assert latest.finished_at == was.finished_at

    asyncio.run(scenario())


def test_changes_come_from_the_store(conf: Path) -> None:
    """What the first scan found open is in the change log, and can be asked for."""

    async def scenario() -> None:
        async with running(conf, engines(ScriptedEngine(answering(22)))) as service:
            await until(lambda: service.snapshot.is_complete)
            assert service.store.flush(10.0)
            rows = await service.changes(host=B, since=None, until=None, before_id=None, limit=10)
            assert [(change.host, change.ports, change.after.value) for _, change in rows] == [(B, "22", "open")]

    asyncio.run(scenario())


@fault(
    "disk read-only",
    "start",
    "An exporter that cannot create its state file scans and serves; `/api/v1/changes` is 503 and says why.",
)
def test_state_that_cannot_be_kept_stops_no_scan(conf: Path, tmp_path: Path) -> None:
    """Where the state file cannot be made, hosts are scanned and served; the change log says why it is not there."""
    (tmp_path / "file").touch()
    write(conf, {A: [22]}, state="file/portspec.db")

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: service.snapshot.is_complete)
            assert metric(service, "portspec_store_up") == ["portspec_store_up 0.0"]
            with pytest.raises(StoreError):
                await service.changes(host=None, since=None, until=None, before_id=None, limit=10)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "asked_for"),
    [
        ("WEB1", "WEB1"),
        ("WEB1", "web1"),
        ("web1", "WEB1."),
        ("web1.example.org.", "web1.example.org"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("bücher.example", "xn--bcher-kva.example"),
        (A, A),
    ],
)
def test_host_is_found_in_any_spelling(conf: Path, name: str, asked_for: str) -> None:
    """However conf.yml and the request spell a host, it is found, and its scan can be asked for."""
    write(conf, {name: []})

    async def scenario() -> None:
        async with prepared(conf) as service:
            assert service.find(asked_for).host == name
            assert service.scan_now(asked_for) is False  # nothing runs yet

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", "db1", "192.0.2.9", "not a host", "192.0.2.0/24"])
def test_host_that_is_not_there_is_an_error(conf: Path, name: str) -> None:
    """What is not scanned here is a KeyError."""

    async def scenario() -> None:
        async with prepared(conf) as service:
            for ask in (service.scan_now, service.find):
                with pytest.raises(KeyError):
                    ask(name)

    asyncio.run(scenario())


def test_scan_now_scans_now(conf: Path) -> None:
    """A scan that is asked for begins at once, and a second one not before the first has ended."""

    async def scenario() -> None:
        engine = ScriptedEngine(answering())
        async with running(conf, engines(engine)) as service:
            await until(lambda: service.snapshot.is_complete)
            await settle()
            engine._answer = None
            scans = asked(engine).count(A)
            assert service.scan_now(A) is True
            assert service.scan_now(A) is False
            await until(lambda: asked(engine).count(A) == scans + 1)

    asyncio.run(scenario())


def test_hosts_of_a_file_are_discovered(conf: Path, tmp_path: Path) -> None:
    """Hosts of a source are there before the first round; a reload that drops the source drops them."""
    (tmp_path / "more.json").write_text(json.dumps([{"targets": [C], "labels": {}}]))
    write(conf, {A: []}, discovery={"file_sd": [{"files": ["more.json"]}]})

    async def scenario() -> None:
        async with running(conf) as service:
            assert hosts(service) == [A, C]
            write(conf, {A: []})
            assert await service.reload() is None
            assert hosts(service) == [A]
            write(conf, {A: []}, discovery={"file_sd": [{"files": ["more.json"]}]})
            assert await service.reload() is None
            assert hosts(service) == [A, C]

    asyncio.run(scenario())


def test_discovered_host_is_denied_from_the_reload_on(conf: Path, tmp_path: Path) -> None:
    """A network that is added to `deny` holds for hosts that were discovered before, and not for those of conf.yml."""
    (tmp_path / "more.json").write_text(json.dumps([{"targets": [C, A], "labels": {}}]))
    discovery = {"file_sd": [{"files": ["more.json"]}]}
    write(conf, {A: []}, discovery=discovery)

    def reasons(service: Service) -> dict[str, Reason | None]:
        found = {host: state.latest.judgement.failure for host, state in service.snapshot.hosts.items() if state.latest}
        return {host: failure.reason if failure else None for host, failure in found.items()}

    async def scenario() -> None:
        async with running(conf, engines(ScriptedEngine(answering()))) as service:
            await until(lambda: reasons(service) == {A: None, C: None})
            write(conf, {A: []}, discovery=discovery, deny=[A, C])
            assert await service.reload() is None
            await until(lambda: reasons(service) == {A: None, C: Reason.DENIED})
            write(conf, {A: []}, discovery=discovery)
            assert await service.reload() is None
            await until(lambda: reasons(service) == {A: None, C: None})

    asyncio.run(scenario())


def test_look_at_the_file_for_which_no_thread_is_to_be_had_is_made_up_for(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that can start no thread for a while ends nothing; the change is noticed afterwards."""
    refused: list[object] = []

    def scarce(work: Callable[[], object]) -> asyncio.Future[object]:
        if len(refused) < 3:
            refused.append(work)
            raise NoThreadError
        return in_daemon_thread(work)

    async def scenario() -> None:
        async with running(conf, poll_interval=0.0) as service:
            monkeypatch.setattr(portspec.app.watch, "in_daemon_thread", scarce)
            write(conf, {C: []})
            await until(lambda: hosts(service) == [C])

    asyncio.run(scenario())
    assert len(refused) == 3


@fault("no threads", "reload", "A change of conf.yml is read at the next check after threads can be started again.")
def test_reload_for_which_no_thread_is_to_be_had_is_made_up_for(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that was seen and could not be read for want of a thread is read at the next look."""
    refused: list[str] = []

    def scarce(path: str) -> Config:
        if not refused:
            refused.append(path)
            raise NoThreadError
        return load(path)

    async def scenario() -> None:
        async with running(conf, poll_interval=0.0) as service:
            monkeypatch.setattr(portspec.app.service, "load_again", scarce)
            write(conf, {C: []})
            await until(lambda: hosts(service) == [C])

    asyncio.run(scenario())
    assert refused == [str(conf)]


def test_files_that_others_may_change_are_told_at_start_and_reload(tmp_path: Path) -> None:
    """The log warns of a conf.yml of mode 0666, at the start and at each reload as long as it is so."""
    conf = tmp_path / "conf.yml"
    write(conf, {A: []})
    conf.chmod(0o666)

    async def scenario() -> None:
        async with prepared(conf) as service:
            service.tell()
            await service.reload()
            set_mode(conf, 0o600)
            await service.reload()

    with capture_logs() as logs:
        asyncio.run(scenario())
    told = [event["problem"] for event in logs if event["event"] == "insecure configuration file"]
    assert told == [f"{conf} is writable by every user: chmod o-w {conf}"] * 2


def set_mode(path: Path, mode: int) -> None:
    """Change the mode of a file."""
    path.chmod(mode)


def test_hosts_at_a_time_are_bounded_over_reloads_and_beside_probes(conf: Path) -> None:
    """`parallelscans: 1` is one host at a time, whatever began under an earlier configuration; a probe waits."""

    async def scenario() -> None:
        scanner = ScriptedEngine()  # whose scans do not end by themselves
        of = engines(scanner)
        addresses: dict[str, list[int]] = {f"192.0.2.{number}": [] for number in range(1, 21)}
        write(conf, addresses, parallelscans=1)
        of.tune(load(conf, {}))
        async with running(conf, of) as service:
            for number in range(4):
                write(conf, addresses, parallelscans=1, history=100 + number, scan={"host_rate": 1000 + number})
                assert await service.reload() is None
                await settle()
                assert scanner.running == 1
            begun = next(iter(scanner.jobs)).addresses[0]
            probed = next(host for host in addresses if host != begun)
            probe = asyncio.create_task(service.prober.probe(probed, None, None))
            await settle()
            assert scanner.running == 1
            scanner.finish(0)  # the next place is the probe's
            await until(lambda: len(scanner.jobs) == 2)
            assert (scanner.running, scanner.jobs[1].addresses) == (1, (probed,))
            scanner.finish(1)
            assert (await probe).state.host == probed
            write(conf, addresses, parallelscans=3)
            assert await service.reload() is None
            await until(lambda: scanner.running == 3)

    asyncio.run(scenario())


def test_canaries_are_those_of_the_configuration(conf: Path) -> None:
    """A host that a reload makes a canary is one from then on, and /metrics tells whether it is seen."""

    async def scenario() -> None:
        async with running(conf, engines(ScriptedEngine(answering(22)))) as service:

            def is_seen() -> list[str]:
                return metric(service, "portspec_canary_seen")

            assert is_seen() == []
            write(conf, {A: [22], C: {"expect": [22], "canary": True}})
            assert await service.reload() is None
            await until(lambda: is_seen() == ["portspec_canary_seen 1.0"])
            write(conf, {A: [22], C: {"expect": [80], "canary": True}})
            assert await service.reload() is None
            await until(lambda: is_seen() == ["portspec_canary_seen 0.0"])
            write(conf, {A: [22]})
            assert await service.reload() is None
            assert is_seen() == []

    asyncio.run(scenario())
