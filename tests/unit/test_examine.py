from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from portspec.examine import Examiner
from portspec.inventory import Resolution
from portspec.ports import PortSet
from portspec.scan import Failure, Observation, Reason
from portspec.verdict import Judgement, Verdict
from tests.unit.factories import NOW, ScriptedEngine, ScriptedResolver, all_closed, seen, settle, target

if TYPE_CHECKING:
    from portspec.scan import ScanJob

V4, V6 = "192.0.2.7", "2001:db8::7"
LOOKUP_FAILED = Failure(Reason.RESOLVE, "the look-up of its IPv6 addresses failed")


def examiner(
    engine: ScriptedEngine,
    resolver: ScriptedResolver | None = None,
    *,
    parallel: int = 10,
    host_rate: float | None = None,
    seed: int = 1,
) -> Examiner:
    """Make an examiner of scripted parts."""
    return Examiner(
        engine,
        resolver or ScriptedResolver(),
        parallel=parallel,
        host_rate=host_rate,
        rng=random.Random(seed),  # noqa: S311
        wall_clock=lambda: NOW,
    )


def everything_open(job: ScanJob) -> Observation:
    """Answer a job: every port of every address is open."""
    return Observation(tuple(seen(address, scanned=job.ports, is_open=job.ports) for address in job.addresses), 0.5, 1)


def test_address_is_scanned_without_a_look_up() -> None:
    """A host that is an address is scanned as it is: all its ports, at the host rate, and judged."""
    engine, resolver = ScriptedEngine(everything_open), ScriptedResolver()
    of = target("db1", expect=[22], scan=[80], address=V4)
    result = asyncio.run(examiner(engine, resolver, host_rate=50.0).examine(of))
    (job,) = engine.jobs
    assert (job.addresses, job.ports, job.host_rate) == ((V4,), PortSet.of([22, 80]), 50.0)
    assert resolver.asked == []
    assert result.judgement.verdict is Verdict.OUT_OF_SPEC
    assert [deviation.port for deviation in result.judgement.deviations] == [80]
    assert (result.finished_at, result.duration, result.open_ports) == (NOW, 0.5, (22, 80))


def test_name_is_scanned_at_all_its_addresses() -> None:
    """A host that is a name is looked up and scanned at each of its addresses."""
    engine = ScriptedEngine(all_closed)
    resolver = ScriptedResolver({"web1": Resolution((V4, V6))})
    result = asyncio.run(examiner(engine, resolver).examine(target("web1", address=None)))
    assert engine.jobs[0].addresses == (V4, V6)
    assert result.judgement.verdict is Verdict.IN_SPEC


def test_name_is_looked_up_for_each_scan() -> None:
    """A name is looked up again each time: its addresses may have changed."""
    resolver = ScriptedResolver({"web1": Resolution((V4,))})

    async def twice() -> None:
        one = examiner(ScriptedEngine(all_closed), resolver)
        await one.examine(target("web1", address=None))
        await one.examine(target("web1", address=None))

    asyncio.run(twice())
    assert resolver.asked == ["web1", "web1"]


def test_name_that_does_not_resolve_is_unknown_and_not_scanned() -> None:
    """Without an address the host is unknown, reason resolve, with what the look-up said; the engine is not asked."""
    engine = ScriptedEngine(all_closed)
    resolver = ScriptedResolver({"web1": Resolution((), Failure(Reason.RESOLVE, "does not resolve (no A record)"))})
    judgement = asyncio.run(examiner(engine, resolver).examine(target("web1", address=None))).judgement
    assert judgement.verdict is Verdict.UNKNOWN
    assert judgement.failure is not None
    assert judgement.failure.reason is Reason.RESOLVE
    assert judgement.failure.detail == "does not resolve (no A record)"
    assert engine.jobs == []


def test_name_that_resolves_in_part_is_scanned_and_unknown() -> None:
    """Where one look-up failed the found addresses are scanned, and being in spec there is not enough."""
    engine = ScriptedEngine(all_closed)
    resolver = ScriptedResolver({"web1": Resolution((V4,), LOOKUP_FAILED)})
    result = asyncio.run(examiner(engine, resolver).examine(target("web1", address=None)))
    assert engine.jobs[0].addresses == (V4,)
    assert [row.address for row in result.addresses] == [V4]
    assert result.judgement.verdict is Verdict.UNKNOWN


def test_name_that_resolves_in_part_can_be_out_of_spec() -> None:
    """A deviation on the addresses that were found makes the host out of spec, though others are not known."""
    resolver = ScriptedResolver({"web1": Resolution((V4,), LOOKUP_FAILED)})
    result = asyncio.run(examiner(ScriptedEngine(everything_open), resolver).examine(target("web1", address=None)))
    assert result.judgement.verdict is Verdict.OUT_OF_SPEC
    assert result.judgement.failure is not None


def test_no_more_hosts_are_scanned_than_allowed() -> None:
    """Of ten hosts three are scanned at a time, and each that ends lets the next begin."""
    engine = ScriptedEngine()

    async def scenario() -> list[int]:
        one = examiner(engine, parallel=3)
        tasks = [asyncio.create_task(one.examine(target(f"host{number}"))) for number in range(10)]
        running = []
        for number in range(10):
            await settle()
            running.append(engine.running)
            engine.finish(number)
        await asyncio.gather(*tasks)
        return running

    assert asyncio.run(scenario()) == [3, 3, 3, 3, 3, 3, 3, 3, 2, 1]


def test_names_are_resolved_outside_of_the_limit() -> None:
    """A look-up that hangs takes no place from the hosts that could be scanned, and waits for none itself."""
    engine, resolver = ScriptedEngine(), ScriptedResolver({"slow": Resolution((V6,))}, held=["slow"])

    async def scenario() -> None:
        one = examiner(engine, resolver, parallel=1)
        slow = asyncio.create_task(one.examine(target("slow", address=None)))
        await settle()
        quick = asyncio.create_task(one.examine(target("quick", address=V4)))
        await settle()
        assert resolver.asked == ["slow"]
        assert [job.addresses for job in engine.jobs] == [(V4,)]
        resolver.release("slow")
        await settle()
        assert engine.running == 1
        engine.finish(0)
        await quick
        await settle()
        engine.finish(1)
        await slow

    asyncio.run(scenario())


def test_name_that_does_not_resolve_waits_for_no_scan() -> None:
    """A host without an address is known to be unknown at once, also while all places are taken."""
    engine = ScriptedEngine()

    async def scenario() -> None:
        one = examiner(engine, parallel=1)
        busy = asyncio.create_task(one.examine(target("busy")))
        await settle()
        lost = asyncio.create_task(one.examine(target("lost", address=None)))
        await settle()
        done = lost.done()
        engine.finish(0)
        await asyncio.gather(busy, lost)
        assert done

    asyncio.run(scenario())


def crash(job: ScanJob) -> Observation:
    """Answer a job with a fault for one address, else with closed ports."""
    if job.addresses == (V6,):
        raise ZeroDivisionError("of the engine")
    return all_closed(job)


def test_crash_makes_one_host_unknown_and_leaves_the_others_alone() -> None:
    """A fault in the scan of one host is logged with its traceback and makes that host alone unknown (internal)."""

    async def both() -> list[Judgement]:
        one = examiner(ScriptedEngine(crash), parallel=1)
        scans = one.examine(target("bad", expect=[22], address=V6)), one.examine(target("good", address=V4))
        return [result.judgement for result in await asyncio.gather(*scans)]

    with capture_logs() as logs:
        bad, good = asyncio.run(both())
    assert (bad.verdict, bad.failure and bad.failure.reason) == (Verdict.UNKNOWN, Reason.INTERNAL)
    assert (good.verdict, good.failure) == (Verdict.IN_SPEC, None)
    (crashed,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert (crashed["event"], crashed["host"]) == ("scan crashed", "bad")
    assert crashed["exc_info"]


def test_crash_names_its_error() -> None:
    """The failure of a crashed scan says which error it was, so that it is seen without the log."""
    result = asyncio.run(examiner(ScriptedEngine(crash)).examine(target(address=V6)))
    assert result.judgement.failure is not None
    assert "ZeroDivisionError: of the engine" in result.judgement.failure.detail
    assert result.addresses == ()


def test_closed_engine_makes_a_host_unknown() -> None:
    """An engine that takes no job any more is a fault like any other."""
    engine = ScriptedEngine()
    engine.close()
    result = asyncio.run(examiner(engine).examine(target()))
    assert result.judgement.verdict is Verdict.UNKNOWN


def test_cancelled_examination_cancels_its_job_and_frees_its_place() -> None:
    """Who gives up waiting for a host ends its scan, and the next host takes its place."""
    engine = ScriptedEngine()

    async def scenario() -> None:
        one = examiner(engine, parallel=1)
        given_up = asyncio.create_task(one.examine(target("given up")))
        following = asyncio.create_task(one.examine(target("following")))
        await settle()
        given_up.cancel()
        await settle()
        assert engine.futures[0].cancelled()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        engine.finish(1)
        await following

    asyncio.run(scenario())


def test_each_scan_has_an_order_of_its_own() -> None:
    """The seed of the probes' order is drawn anew for each scan, and from the given source of randomness alone."""
    drawn = []
    for _ in range(2):
        engine = ScriptedEngine(all_closed)

        async def scenario(engine: ScriptedEngine = engine) -> None:
            one = examiner(engine, seed=7)
            for number in range(5):
                await one.examine(target(f"host{number}"))

        asyncio.run(scenario())
        drawn.append([job.seed for job in engine.jobs])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 5


def test_scan_is_logged_with_what_it_found() -> None:
    """Each scan is one line: host, verdict, ports that deviate, duration, and the reason if it failed."""
    with capture_logs() as logs:
        asyncio.run(examiner(ScriptedEngine(everything_open)).examine(target("db1", expect=[22], scan=[80])))
        asyncio.run(examiner(ScriptedEngine()).examine(target("lost", address=None)))
    found, lost = logs
    assert (found["event"], found["log_level"], found["host"]) == ("host scanned", "warning", "db1")
    assert (found["verdict"], found["open"], found["missing"]) == ("out_of_spec", 2, "none")
    assert (found["unexpected"], found["duration_seconds"]) == ("80", 0.5)
    assert (lost["host"], lost["verdict"], lost["reason"]) == ("lost", "unknown", "resolve")
    assert lost["detail"] == "lost is not in the script"


def test_scan_in_spec_is_no_warning() -> None:
    """A host in spec is logged as info, one out of spec or unknown as a warning."""
    with capture_logs() as logs:
        one = examiner(ScriptedEngine(all_closed))
        for of in (target("good"), target("bad", expect=[22]), target("lost", address=None)):
            asyncio.run(one.examine(of))
    assert [(entry["host"], entry["log_level"]) for entry in logs] == [
        ("good", "info"),
        ("bad", "warning"),
        ("lost", "warning"),
    ]


def test_ports_are_logged_as_they_are_spelled() -> None:
    """Deviating ports are logged in the spelling of conf.yml, ranges as ranges."""
    of = target("db1", expect=[22, *range(8000, 8101)], scan=[])
    with capture_logs() as logs:
        asyncio.run(examiner(ScriptedEngine(all_closed)).examine(of))
    assert (logs[0]["missing"], logs[0]["unexpected"]) == ("22, 8000-8100", "none")


def test_line_of_a_host_with_everything_open_stays_short() -> None:
    """More deviating ports than a line should hold are cut at 200 characters."""
    with capture_logs() as logs:
        asyncio.run(examiner(ScriptedEngine(everything_open)).examine(target(scan=range(1, 65536, 2))))
    spelled = logs[0]["unexpected"]
    assert spelled.startswith("1, 3, 5, ")
    assert (len(spelled), spelled[-1]) == (201, "…")


def test_failure_of_a_look_up_keeps_its_reason() -> None:
    """A look-up that this machine could not make is local_limit, not the fault of the name."""
    resolver = ScriptedResolver({"web1": Resolution((), Failure(Reason.LOCAL_LIMIT, "no thread"))})
    one = examiner(ScriptedEngine(), resolver)
    judgement = asyncio.run(one.examine(target("web1", address=None))).judgement
    assert judgement.failure == Failure(Reason.LOCAL_LIMIT, "no thread")


def test_probes_are_those_of_the_engine() -> None:
    """The number of probes sent is the engine's running total."""
    engine = ScriptedEngine(all_closed)
    one = examiner(engine)
    asyncio.run(one.examine(target(scan=[1, 2, 3])))
    assert one.probes_sent == engine.stats.probes_sent == 3
    assert one.ports_started == 3
