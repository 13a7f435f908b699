from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from portspec.examine import Examiner
from portspec.inventory import Resolution
from portspec.ports import PortSet
from portspec.scan import Failure, Observation, Reason
from portspec.verdict import Judgement, Kind, Verdict
from tests.unit.factories import NOW, ScriptedEngine, ScriptedResolver, all_closed, seen, settle, target

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.inventory import Target
    from portspec.scan import ScanJob
    from portspec.snapshot import ScanResult

    Script = Callable[[ScanJob], Observation]

V4, V6 = "192.0.2.7", "2001:db8::7"
LOOKUP_FAILED = Failure(Reason.RESOLVE, "the look-up of its IPv6 addresses failed")


def examiner(
    engine: ScriptedEngine,
    resolver: ScriptedResolver | None = None,
    *,
    parallel: int = 10,
    confirmer: ScriptedEngine | None = None,
    confirm_allowed: bool = False,
    host_rate: float | None = None,
    seed: int = 1,
) -> Examiner:
    """Make an examiner of scripted parts."""
    return Examiner(
        engine,
        resolver or ScriptedResolver(),
        parallel=parallel,
        confirmer=confirmer,
        confirm_allowed=confirm_allowed,
        host_rate=host_rate,
        rng=random.Random(seed),  # noqa: S311
        wall_clock=lambda: NOW,
    )


def everything_open(job: ScanJob) -> Observation:
    """Answer a job: every port of every address is open."""
    return Observation(tuple(seen(address, scanned=job.ports, is_open=job.ports) for address in job.addresses), 0.5, 1)


def test_address_is_scanned_without_a_look_up() -> None:
    """A host that is an address is scanned as it is: all its ports, and judged."""
    engine, resolver = ScriptedEngine(everything_open), ScriptedResolver()
    of = target("db1", expect=[22], scan=[80], address=V4)
    result = asyncio.run(examiner(engine, resolver).examine(of))
    (job,) = engine.jobs
    assert (job.addresses, job.ports) == ((V4,), PortSet.of([22, 80]))
    assert resolver.asked == []
    assert result.judgement.verdict is Verdict.OUT_OF_SPEC
    assert [deviation.port for deviation in result.judgement.deviations] == [80]
    assert (result.finished_at, result.duration, result.open_ports) == (NOW, 0.5, (22, 80))


@pytest.mark.parametrize(("host_rate", "probes"), [(50.0, 1), (1000.0, 10), (None, 65536)])
def test_host_is_scanned_at_the_host_rate(host_rate: float | None, probes: int) -> None:
    """Each scan has a pacer of its own, of the host rate: a hundredth of a second's probes may go out at once."""
    engine = ScriptedEngine(all_closed)

    async def scenario() -> None:
        one = examiner(engine, host_rate=host_rate)
        await asyncio.gather(one.examine(target("db1")), one.examine(target("db2")))

    asyncio.run(scenario())
    first, second = (job.pacer for job in engine.jobs)
    assert first is not second
    assert [pacer.take(65536, 0.0) for pacer in (first, second) if pacer] == [probes, probes]


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


def shows(*ports: int, silent: bool = False) -> Script:
    """Make a script that finds these of a job's ports open, and the others closed or silent."""

    def answer(job: ScanJob) -> Observation:
        is_open = PortSet.of(ports) & job.ports
        filtered = job.ports - is_open if silent else PortSet()
        found = [seen(address, scanned=job.ports, is_open=is_open, filtered=filtered) for address in job.addresses]
        return Observation(tuple(found), 0.25, len(found) * len(job.ports))

    return answer


def by_address(**scripts: Script) -> Script:
    """Make a script that answers with `v4` for the IPv4 addresses of a job and with `v6` for the others."""

    def answer(job: ScanJob) -> Observation:
        parts = [
            scripts["v6" if ":" in address else "v4"](dataclasses.replace(job, addresses=(address,)))
            for address in job.addresses
        ]
        rows = tuple(row for part in parts for row in part.addresses)
        return Observation(rows, max(part.duration for part in parts), sum(part.probes for part in parts))

    return answer


def fails(job: ScanJob) -> Observation:
    """Answer a job: none of it could be tried, for want of descriptors."""
    return Observation(tuple(seen(address, reason=Reason.LOCAL_LIMIT) for address in job.addresses), 0.25, 0)


def examine(
    of: Target, scanned: Script, confirmed: Script | None, *, confirm_allowed: bool = False
) -> tuple[ScanResult, ScriptedEngine]:
    """Examine one host at both its addresses; gives the result, and the engine that was to confirm."""
    confirmer = ScriptedEngine(confirmed)
    one = examiner(
        ScriptedEngine(scanned),
        ScriptedResolver({of.host: Resolution((V4, V6))}),
        confirmer=confirmer if confirmed else None,
        confirm_allowed=confirm_allowed,
    )
    return asyncio.run(one.examine(of)), confirmer


def asked(confirmer: ScriptedEngine) -> list[tuple[tuple[str, ...], list[int]]]:
    """Give addresses and ports that were connected to."""
    return [(job.addresses, list(job.ports)) for job in confirmer.jobs]


def test_unexpected_port_that_takes_a_connection_counts() -> None:
    """A port that is open where none should be is connected to, and is unexpected if that succeeds."""
    result, confirmer = examine(target(address=V4), shows(80), shows(80))
    assert asked(confirmer) == [((V4,), [80])]
    assert result.judgement.verdict is Verdict.OUT_OF_SPEC
    assert [item.port for item in result.judgement.deviations] == [80]
    assert (result.open_ports, result.addresses[0].unconfirmed) == ((80,), PortSet())


@pytest.mark.parametrize("silent", [False, True], ids=["closed", "filtered"])
def test_unexpected_port_that_takes_no_connection_does_not_count(silent: bool) -> None:  # noqa: FBT001
    """A port that answers SYNs and takes no connection is unconfirmed: it is no deviation, and the host in spec."""
    result, _ = examine(target(address=V4), shows(80), shows(silent=silent))
    assert result.judgement == Judgement(Verdict.IN_SPEC)
    (row,) = result.addresses
    assert (row.open, row.unconfirmed, row.accepting) == (PortSet.of([80]), PortSet.of([80]), PortSet())
    assert (row.closed, row.filtered, result.open_ports) == (2, PortSet(), ())


def test_each_port_is_confirmed_by_itself() -> None:
    """Of several unexpected ports those count that take a connection."""
    result, confirmer = examine(target(address=V4), shows(22, 80, 443), shows(443))
    assert asked(confirmer) == [((V4,), [22, 80, 443])]
    assert [item.port for item in result.judgement.deviations] == [443]
    assert (result.open_ports, result.addresses[0].unconfirmed) == ((443,), PortSet.of([22, 80]))


def test_expected_and_allowed_ports_are_not_connected_to() -> None:
    """What should or may be open is believed: connections are made to the unexpected ports, and to one for control."""
    of = target(expect=[22], allow=[443], scan=[80], address=V4)
    result, confirmer = examine(of, shows(22, 80, 443), shows(80))
    assert asked(confirmer) == [((V4,), [22, 80])]
    assert result.open_ports == (22, 80, 443)


@pytest.mark.parametrize("ports", [(22, 443), (22,), ()], ids=["in spec", "allowed closed", "missing"])
def test_host_without_unexpected_ports_is_not_connected_to(ports: tuple[int, ...]) -> None:
    """Where nothing is open that should not be, nobody is connected to; also where a port is missing."""
    of = target(expect=[22], allow=[443], address=V4)
    result, confirmer = examine(of, shows(*ports), shows())
    assert confirmer.jobs == []
    assert (result.open_ports, result.duration) == (ports, 0.25)


def test_allowed_ports_are_connected_to_on_demand() -> None:
    """With confirm_allowed the allowed ports must take a connection, too; one expected port goes along."""
    of = target(expect=[22], allow=[443, 8443], scan=[80], address=V4)
    result, confirmer = examine(of, shows(22, 80, 443, 8443), shows(443), confirm_allowed=True)
    assert asked(confirmer) == [((V4,), [22, 80, 443, 8443])]
    assert (result.open_ports, result.addresses[0].unconfirmed) == ((22, 443), PortSet.of([80, 8443]))
    assert result.judgement.verdict is Verdict.IN_SPEC


def test_unconfirmed_port_makes_up_for_no_missing_one() -> None:
    """A host with an unconfirmed and a missing port is out of spec for the missing one alone."""
    result, _ = examine(target(expect=[22], address=V4), shows(80), shows())
    assert [(item.port, item.kind) for item in result.judgement.deviations] == [(22, Kind.MISSING)]


def test_address_whose_ports_could_not_be_connected_to_is_unseen() -> None:
    """Where this machine could not even try to connect nothing is known: the host is unknown, for that reason."""
    result, _ = examine(target(address=V4), shows(80), fails)
    failure = result.addresses[0].failure
    assert failure is not None
    assert failure.reason is Reason.LOCAL_LIMIT
    assert result.judgement == Judgement(Verdict.UNKNOWN, (), failure)
    assert result.open_ports == ()


def test_deviation_on_one_address_outweighs_a_failure_on_the_other() -> None:
    """A port that is confirmed on one address is a deviation, and that the other could not be tried is told."""
    result, _ = examine(target(address=None), shows(80), by_address(v4=fails, v6=shows(80)))
    assert result.judgement.verdict is Verdict.OUT_OF_SPEC
    assert [item.address for item in result.judgement.deviations] == [V6]
    assert result.judgement.failure == result.addresses[0].failure


def test_unconfirmed_port_beside_a_failure_is_unknown() -> None:
    """Where one address is in spec after all and the other could not be tried the host is unknown."""
    result, _ = examine(target(address=None), shows(80), by_address(v4=shows(), v6=fails))
    assert result.judgement == Judgement(Verdict.UNKNOWN, (), result.addresses[1].failure)


def test_each_address_is_confirmed_by_itself() -> None:
    """Each address is asked for what it showed, in one job each, and only what it then shows is its own."""
    scanned = by_address(v4=shows(80), v6=shows(80, 443))
    result, confirmer = examine(target(address=None), scanned, by_address(v4=shows(), v6=shows(80)))
    assert asked(confirmer) == [((V4,), [80]), ((V6,), [80, 443])]
    assert [(row.address, list(row.accepting), list(row.unconfirmed)) for row in result.addresses] == [
        (V4, [], [80]),
        (V6, [80], [443]),
    ]
    assert [(item.address, item.port) for item in result.judgement.deviations] == [(V6, 80)]


def test_address_without_unexpected_ports_is_left_alone() -> None:
    """Of a host with two addresses only that one is connected to where a port is open that should not be."""
    of = target(expect=[22], address=None)
    result, confirmer = examine(of, by_address(v4=shows(22), v6=shows(22, 80)), shows(80))
    assert asked(confirmer) == [((V6,), [22, 80])]
    assert [list(row.accepting) for row in result.addresses] == [[22], [22, 80]]


def test_address_that_the_scan_could_not_see_is_not_connected_to() -> None:
    """What was found before the scan of an address failed is not followed up; its failure stays as it was."""
    in_part = dataclasses.replace(seen(V4, is_open=[80]), failure=Failure(Reason.NO_ROUTE, "the link went down"))
    result, confirmer = examine(target(address=V4), lambda _: Observation((in_part,), 0.5, 3), shows(80))
    assert confirmer.jobs == []
    assert result.addresses == (in_part,)
    assert result.judgement.failure == in_part.failure


def test_without_a_confirmer_what_is_found_counts() -> None:
    """An engine that connects by itself needs nobody to confirm what it found."""
    result, confirmer = examine(target(address=V4), shows(80), None)
    assert confirmer.jobs == []
    assert (result.open_ports, result.addresses[0].unconfirmed) == ((80,), PortSet())


def test_confirmation_keeps_to_the_pace_of_the_scan() -> None:
    """The jobs that confirm share the pacer of the scan: the host rate holds over both together."""
    engine, confirmer = ScriptedEngine(everything_open), ScriptedEngine(shows())
    resolver = ScriptedResolver({"web1": Resolution((V4, V6))})
    one = examiner(engine, resolver, confirmer=confirmer, host_rate=50.0)
    asyncio.run(one.examine(target("web1", address=None)))
    (job,) = engine.jobs
    assert job.pacer is not None
    assert [confirming.pacer is job.pacer for confirming in confirmer.jobs] == [True, True]


def test_duration_includes_the_longest_confirmation() -> None:
    """A scan has lasted until its last port was confirmed; the addresses are confirmed at the same time."""

    def slowly(job: ScanJob) -> Observation:
        return dataclasses.replace(shows(80)(job), duration=2.0)

    result, _ = examine(target(address=None), shows(80), by_address(v4=shows(80), v6=slowly))
    assert result.duration == 0.25 + 2.0


def test_probes_and_dropped_answers_are_those_of_the_engines() -> None:
    """Probes are those of both engines together; answers are dropped by the one that scans."""
    engine, confirmer = ScriptedEngine(shows(22, 80)), ScriptedEngine(shows(80))
    one = examiner(engine, confirmer=confirmer)
    assert (one.probes_sent, one.answers_dropped) == (0, 0)
    asyncio.run(one.examine(target(scan=[22, 80, 443])))
    engine.stats.answers_dropped = 4
    assert (engine.stats.probes_sent, confirmer.stats.probes_sent) == (3, 2)
    assert (one.probes_sent, one.answers_dropped) == (5, 4)


def test_unconfirmed_ports_are_not_logged_as_open() -> None:
    """The line of a scan counts what takes connections."""
    with capture_logs() as logs:
        examine(target(address=V4), shows(80, 443), shows(443))
    assert [(entry["open"], entry["unexpected"]) for entry in logs] == [(1, "443")]


def test_crash_of_the_confirmer_makes_the_host_unknown() -> None:
    """A fault while connecting is a fault of the scan: logged, and the host is unknown (internal)."""

    def crashing(_: ScanJob) -> Observation:
        raise ZeroDivisionError("of the confirmer")

    result, _ = examine(target(address=V4), shows(80), crashing)
    assert result.judgement.verdict is Verdict.UNKNOWN
    assert result.judgement.failure is not None
    assert "ZeroDivisionError: of the confirmer" in result.judgement.failure.detail


def test_closed_confirmer_makes_the_host_unknown() -> None:
    """A confirmer that takes no job any more is a fault like any other: nothing passes unconfirmed."""
    confirmer = ScriptedEngine()
    confirmer.close()
    result = asyncio.run(examiner(ScriptedEngine(shows(80)), confirmer=confirmer).examine(target()))
    assert result.judgement.verdict is Verdict.UNKNOWN


def test_host_keeps_its_place_until_it_is_confirmed() -> None:
    """A host that is being confirmed is one of the `parallel` that are scanned: the next waits for its end."""
    engine, confirmer = ScriptedEngine(shows(80)), ScriptedEngine()

    async def scenario() -> list[int]:
        one = examiner(engine, parallel=1, confirmer=confirmer)
        tasks = [asyncio.create_task(one.examine(target(f"host{number}"))) for number in range(3)]
        begun = []
        for number in range(3):
            await settle()
            begun.append(len(engine.jobs))
            confirmer.finish(number)
        await asyncio.gather(*tasks)
        return begun

    assert asyncio.run(scenario()) == [1, 2, 3]


def test_cancelled_examination_cancels_its_confirmation_and_frees_its_place() -> None:
    """Who gives up waiting for a host that is being confirmed ends that, and the next host takes its place."""
    engine, confirmer = ScriptedEngine(shows(80)), ScriptedEngine()

    async def scenario() -> None:
        one = examiner(engine, parallel=1, confirmer=confirmer)
        given_up = asyncio.create_task(one.examine(target("given up")))
        following = asyncio.create_task(one.examine(target("following")))
        await settle()
        given_up.cancel()
        await settle()
        assert confirmer.futures[0].cancelled()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        confirmer.finish(1)
        assert (await following).judgement.verdict is Verdict.IN_SPEC

    asyncio.run(scenario())


def test_cancelled_examination_cancels_the_confirmation_of_every_address() -> None:
    """No address of a host that was given up is connected to any longer."""
    confirmer = ScriptedEngine()

    async def scenario() -> None:
        resolver = ScriptedResolver({"web1": Resolution((V4, V6))})
        one = examiner(ScriptedEngine(shows(80)), resolver, confirmer=confirmer)
        given_up = asyncio.create_task(one.examine(target("web1", address=None)))
        await settle()
        assert confirmer.running == 2
        given_up.cancel()
        await settle()

    asyncio.run(scenario())
    assert [future.cancelled() for future in confirmer.futures] == [True, True]


def test_crash_of_one_confirmation_ends_the_others() -> None:
    """When a fault has ended the scan of a host none of its addresses is connected to any longer."""
    confirmer = ScriptedEngine()

    async def scenario() -> None:
        resolver = ScriptedResolver({"web1": Resolution((V4, V6))})
        one = examiner(ScriptedEngine(shows(80)), resolver, confirmer=confirmer)
        scan = asyncio.create_task(one.examine(target("web1", address=None)))
        await settle()
        confirmer.futures[0].set_exception(ZeroDivisionError("of the confirmer"))
        assert (await scan).judgement.verdict is Verdict.UNKNOWN
        await settle()
        assert confirmer.running == 0

    asyncio.run(scenario())


def test_address_that_lets_nobody_connect_is_unknown() -> None:
    """Where SYNs are answered and no connection is, not even to an expected port, something here is in the way."""
    silent = seen(V4, scanned=(22, 80), filtered=(22, 80))
    result, _ = examine(target(expect=[22], address=V4), shows(22, 80), lambda _: Observation((silent,), 3.5, 2))
    assert result.judgement.verdict is Verdict.UNKNOWN
    failure = result.judgement.failure
    assert failure is not None
    assert failure.reason is Reason.PERMISSION
