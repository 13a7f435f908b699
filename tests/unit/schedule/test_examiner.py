from __future__ import annotations

import asyncio
import dataclasses
import random
import socket
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from portspec.deny import deny_of
from portspec.inventory import Resolution, SystemResolver
from portspec.limit import Limit
from portspec.ports import NO_PORTS, PortSet
from portspec.scan import Failure, Observation, PortState, Reason
from portspec.scan.sharing import SharedScans
from portspec.schedule.canary import Canaries
from portspec.schedule.examiner import Examiner
from portspec.state.evidence import MOST_REFUSALS
from portspec.state.verdict import Judgement, Kind, Verdict
from tests.unit.factories import (
    NOW,
    ManualClock,
    ScriptedEngine,
    ScriptedResolver,
    all_closed,
    exception,
    seen,
    settle,
    target,
)
from tests.unit.factories import result as result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portspec.inventory import Resolver, Target
    from portspec.scan import AddressObservation, ScanJob
    from portspec.state.snapshot import ScanResult

    Script = Callable[[ScanJob], Observation]

V4, V6 = "192.0.2.7", "2001:db8::7"
LOOKUP_FAILED = Failure(Reason.RESOLVE, "the lookup of its IPv6 addresses failed")


def examiner(
    engine: ScriptedEngine,
    resolver: Resolver | None = None,
    *,
    parallel: int = 10,
    confirmer: ScriptedEngine | None = None,
    confirm: int = 1,
    host_rate: float | None = None,
    seed: int = 1,
) -> Examiner:
    """Make an examiner of scripted parts."""
    return Examiner(
        SharedScans(engine),
        resolver or ScriptedResolver(),
        Limit(parallel),
        confirmer=SharedScans(confirmer) if confirmer else None,
        confirm=confirm,
        host_rate=host_rate,
        rng=random.Random(seed),  # noqa: S311
        wall_clock=lambda: NOW,
    )


def services_open(job: ScanJob) -> Observation:
    """Answer a job: every port below 100 of every address is open, but for 79, and the others are closed."""
    is_open = PortSet.of(port for port in job.ports if port < 100 and port != 79)
    return Observation(tuple(seen(address, scanned=job.ports, is_open=is_open) for address in job.addresses), 0.5, 1)


def test_address_is_scanned_without_a_look_up() -> None:
    """A host that is an address is scanned as it is: all its ports, and judged."""
    engine, resolver = ScriptedEngine(services_open), ScriptedResolver()
    of = target("db1", expect=[22], scan=[79, 80], address=V4)
    result = asyncio.run(examiner(engine, resolver).examine(of))
    (job,) = engine.jobs
    assert (job.addresses, job.ports) == ((V4,), PortSet.of([22, 79, 80]))
    assert resolver.asked == []
    assert result.judgement.verdict is Verdict.OUT_OF_SPEC
    assert [deviation.port for deviation in result.judgement.deviations] == [80]
    assert (result.finished_at, result.duration, result.open_ports) == (NOW, 0.5, PortSet.of([22, 80]))


@pytest.mark.parametrize(("host_rate", "probes"), [(50.0, 1), (1000.0, 10), (None, 65536)])
def test_host_is_scanned_at_the_host_rate(host_rate: float | None, probes: int) -> None:
    """Each scan has a pacer of its own, of the host rate: a hundredth of a second's probes may go out at once."""
    engine = ScriptedEngine(all_closed)

    async def scenario() -> None:
        one = examiner(engine, host_rate=host_rate)
        await asyncio.gather(one.examine(target("db1")), one.examine(target("db2", address=V6)))

    asyncio.run(scenario())
    first, second = (job.pacer for job in engine.jobs)
    assert first is not second
    assert [pacer.take(65536, 0.0) for pacer in (first, second) if pacer] == [probes, probes]


def test_name_is_scanned_at_all_its_addresses() -> None:
    """A host that is a name is looked up and scanned at each of its addresses."""
    engine = ScriptedEngine(all_closed)
    resolver = ScriptedResolver({"web1": Resolution((V4, V6))})
    result = asyncio.run(examiner(engine, resolver).examine(target("web1", address=None)))
    assert [job.addresses for job in engine.jobs] == [(V4,), (V6,)]
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
    result = asyncio.run(examiner(ScriptedEngine(services_open), resolver).examine(target("web1", address=None)))
    assert result.judgement.verdict is Verdict.OUT_OF_SPEC
    assert result.judgement.failure is not None


def test_no_more_hosts_are_scanned_than_allowed() -> None:
    """Of ten hosts three are scanned at a time, and each that ends lets the next begin."""
    engine = ScriptedEngine()

    async def scenario() -> list[int]:
        one = examiner(engine, parallel=3)
        hosts = [target(f"host{number}", address=f"192.0.2.{number}") for number in range(10)]
        tasks = [asyncio.create_task(one.examine(host)) for host in hosts]
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


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_cancelled_examination_cancels_its_job_and_frees_its_place(*, is_confirmed: bool) -> None:
    """Who gives up waiting for a host ends its scan or confirmation, and the next host takes its place."""
    pending = ScriptedEngine()
    engine, confirmer = (ScriptedEngine(shows(80)), pending) if is_confirmed else (pending, None)

    async def scenario() -> None:
        one = examiner(engine, parallel=1, confirmer=confirmer)
        given_up = asyncio.create_task(one.examine(target("given up")))
        following = asyncio.create_task(one.examine(target("following", address=V6)))
        await settle()
        given_up.cancel()
        await settle()
        assert pending.futures[0].cancelled()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        pending.finish(1)
        assert (await following).judgement.verdict is Verdict.IN_SPEC

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
        asyncio.run(examiner(ScriptedEngine(services_open)).examine(target("db1", expect=[22], scan=[79, 80])))
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


def without(*silent: int) -> Script:
    """Make a script in which these ports are silent, and the others closed."""

    def answer(job: ScanJob) -> Observation:
        quiet = PortSet.of(silent) & job.ports
        found = [seen(address, scanned=job.ports, filtered=quiet) for address in job.addresses]
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


def examine(of: Target, scanned: Script, confirmed: Script | None) -> tuple[ScanResult, ScriptedEngine]:
    """Examine one host at both its addresses; returns the result, and the engine that was to confirm."""
    confirmer = ScriptedEngine(confirmed)
    one = examiner(
        ScriptedEngine(scanned),
        ScriptedResolver({of.host: Resolution((V4, V6))}),
        confirmer=confirmer if confirmed else None,
    )
    return asyncio.run(one.examine(of)), confirmer


def asked(confirmer: ScriptedEngine) -> list[tuple[tuple[str, ...], list[int]]]:
    """Return addresses and ports that were connected to."""
    return [(job.addresses, list(job.ports)) for job in confirmer.jobs]


def test_unexpected_port_that_takes_a_connection_counts() -> None:
    """A port that is open where none should be is connected to, and is unexpected if that succeeds."""
    result, confirmer = examine(target(address=V4), shows(80), shows(80))
    assert asked(confirmer) == [((V4,), [22, 80])]  # with one that has answered
    assert result.judgement.verdict is Verdict.OUT_OF_SPEC
    assert [item.port for item in result.judgement.deviations] == [80]
    assert (result.open_ports, result.addresses[0].unconfirmed) == (PortSet.of([80]), PortSet())


@pytest.mark.parametrize("silent", [False, True], ids=["closed", "filtered"])
def test_unexpected_port_that_takes_no_connection_does_not_count(silent: bool) -> None:  # noqa: FBT001
    """A port that answers SYNs and takes no connection is unconfirmed: it is no deviation, and the host in spec."""
    result, _ = examine(target(address=V4), shows(80), without(80) if silent else shows())
    assert result.judgement == Judgement(Verdict.IN_SPEC)
    (row,) = result.addresses
    assert (row.open, row.unconfirmed, row.accepting) == (PortSet.of([80]), PortSet.of([80]), PortSet())
    assert (row.closed, row.filtered, result.open_ports) == (2, PortSet(), PortSet())


def test_each_port_is_confirmed_by_itself() -> None:
    """Of several unexpected ports those count that take a connection."""
    result, confirmer = examine(target(address=V4), shows(22, 80, 443), shows(443))
    assert asked(confirmer) == [((V4,), [22, 80, 443])]
    assert [item.port for item in result.judgement.deviations] == [443]
    assert (result.open_ports, result.addresses[0].unconfirmed) == (PortSet.of([443]), PortSet.of([22, 80]))


def test_expected_and_allowed_ports_are_not_connected_to() -> None:
    """What should or may be open is believed: connections are made to the unexpected ports, and to one for control."""
    of = target(expect=[22], allow=[443], scan=[80], address=V4)
    result, confirmer = examine(of, shows(22, 80, 443), shows(80))
    assert asked(confirmer) == [((V4,), [22, 80])]
    assert result.open_ports == PortSet.of([22, 80, 443])


@pytest.mark.parametrize("ports", [(22, 443), (22,), ()], ids=["in spec", "allowed closed", "missing"])
def test_host_without_unexpected_ports_is_not_connected_to(ports: tuple[int, ...]) -> None:
    """Where nothing is open that should not be, nobody is connected to; also where a port is missing."""
    of = target(expect=[22], allow=[443], address=V4)
    result, confirmer = examine(of, shows(*ports), shows())
    assert confirmer.jobs == []
    assert (result.open_ports, result.duration) == (PortSet.of(ports), 0.25)


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
    assert result.open_ports == PortSet()


def test_deviation_on_one_address_outweighs_a_failure_on_the_other() -> None:
    """A port that is confirmed on one address is a deviation, and that the other could not be tried is told."""
    result, _ = examine(target(address=None), shows(80), by_address(v4=fails, v6=shows(80)))
    assert result.judgement.verdict is Verdict.OUT_OF_SPEC
    assert [item.address for item in result.judgement.deviations] == [V6]
    assert result.judgement.failure == result.addresses[0].failure


def cut_off(*ports: int, scanned: Iterable[int] = (22, 80, 443)) -> Script:
    """Make a script of an address that fell silent: it had shown these ports open, and of others some closed."""

    def answer(job: ScanJob) -> Observation:
        failure = Failure(Reason.CUT_OFF, "it stopped answering")
        known = PortSet.of(scanned) & job.ports
        found = [
            dataclasses.replace(
                seen(address, scanned=known, is_open=PortSet.of(ports) & known, answered=True), failure=failure
            )
            for address in job.addresses
        ]
        return Observation(tuple(found), 0.25, len(job.ports))

    return answer


def test_port_that_could_not_be_confirmed_as_everything_fell_silent_is_unknown() -> None:
    """Where neither connections nor SYNs are answered any more the host is unknown, not in spec."""
    result, _ = examine(target(address=V4), in_turn(shows(80), shows(silent=True)), shows(silent=True))
    failure = result.judgement.failure
    assert (result.judgement.verdict, result.judgement.deviations) == (Verdict.UNKNOWN, ())
    assert failure is not None
    assert failure.reason is Reason.CUT_OFF
    assert "port 80 is open" in failure.detail


def test_connections_that_are_dropped_on_this_machine_are_told_as_that() -> None:
    """Where SYNs are still answered, and no connection is, this machine may not connect."""
    result, _ = examine(target(address=V4), shows(80), shows(silent=True))
    failure = result.judgement.failure
    assert result.judgement.verdict is Verdict.UNKNOWN
    assert failure is not None
    assert failure.reason is Reason.PERMISSION
    assert "port 22" in failure.detail


def test_only_port_of_a_host_that_takes_no_connection_is_unconfirmed() -> None:
    """Of a host that shows one open port and is silent otherwise, that port is no deviation while SYNs are answered."""
    lonely = shows(80, silent=True)
    result, confirmer = examine(target(address=V4), lonely, shows(silent=True))
    assert asked(confirmer) == [((V4,), [80])]
    assert result.judgement == Judgement(Verdict.IN_SPEC)
    assert result.addresses[0].unconfirmed == PortSet.of([80])


@pytest.mark.parametrize(
    ("confirmed", "verdict", "ports"),
    [
        (shows(80), Verdict.OUT_OF_SPEC, [80]),
        (shows(silent=True), Verdict.UNKNOWN, []),
        (None, Verdict.OUT_OF_SPEC, [80]),
    ],
    ids=["seen again", "not seen again", "not to be confirmed"],
)
def test_deviation_that_was_seen_before_the_address_was_cut_off_counts(
    confirmed: Script | None, verdict: Verdict, ports: list[int]
) -> None:
    """What was seen until then counts if it holds against the same proof as always; the reason is told with it."""
    result, _ = examine(target(address=V4), cut_off(80, scanned=[22, 80]), confirmed)
    assert result.judgement.verdict is verdict
    assert [item.port for item in result.judgement.deviations] == ports
    assert result.judgement.failure is not None
    assert result.judgement.failure.reason is Reason.CUT_OFF


@pytest.mark.parametrize(
    ("host_rate", "pace", "probes"),
    [(None, None, 65536), (None, 300.0, 3), (2000.0, 300.0, 20)],
    ids=["auto", "cut off", "set"],
)
def test_host_that_was_cut_off_gets_its_own_pace(host_rate: float | None, pace: float | None, probes: int) -> None:
    """A host is asked at the pace that is left to it, unless the configuration says how fast."""
    engine = ScriptedEngine(all_closed)
    asyncio.run(examiner(engine, host_rate=host_rate).examine(target(address=V4), pace=pace))
    (job,) = engine.jobs
    assert job.pacer is not None
    assert job.pacer.take(65536, 1000.0) == probes


def test_missing_port_whose_repeat_met_silence_is_unknown() -> None:
    """A port that was closed once, and then the address fell silent, is not missing: nobody knows."""
    scanned = in_turn(shows(80), cut_off())
    one = examiner(ScriptedEngine(scanned), confirm=2)
    result = asyncio.run(one.examine(target(expect=[22], allow=[80], address=V4)))
    assert (result.judgement.verdict, result.judgement.deviations) == (Verdict.UNKNOWN, ())
    assert result.judgement.failure is not None
    assert result.judgement.failure.reason is Reason.CUT_OFF


def test_repeat_rests_on_ports_that_have_answered() -> None:
    """A repeat names the ports that have answered as alive, so that their silence makes nobody's count."""
    engine = ScriptedEngine(shows(80))
    asyncio.run(examiner(engine, confirm=2).examine(target(expect=[22], allow=[80], scan=[443], address=V4)))
    _, repeat = engine.jobs
    assert (repeat.ports, repeat.alive) == (PortSet.of([22, 80, 443]), PortSet.of([80, 443]))


def test_expected_and_formerly_open_ports_are_asked_first() -> None:
    """What probably answers is asked first: whether the address lives is known from the beginning."""
    of = target(expect=[22], allow=[25], scan=[80, 443, 8080], address=V4)
    earlier = result_of(of, seen(V4, is_open=[8080]))
    engine = ScriptedEngine(shows(22))
    asyncio.run(examiner(engine).examine(of, earlier))
    assert engine.jobs[0].first == PortSet.of([22, 25, 8080])


@pytest.mark.parametrize("answers", [False, True])
def test_address_that_was_cut_off_stays_so_until_it_answers(answers: bool) -> None:  # noqa: FBT001
    """Silence after a ban is still the ban; one answer ends it."""
    engine = ScriptedEngine(shows(silent=not answers))
    found = asyncio.run(examiner(engine).examine(target(allow=[22], address=V4), silenced={V4: seen(V4)}))
    assert found.judgement.verdict is (Verdict.IN_SPEC if answers else Verdict.UNKNOWN)
    if not answers:
        assert found.judgement.failure is not None
        assert found.judgement.failure.reason is Reason.CUT_OFF
        assert "during an earlier scan" in found.judgement.failure.detail


ALLOWED = target(allow=[22], scan=[22, 80, *range(1000, 1200)], address=V4)


@pytest.mark.parametrize("of", [ALLOWED, dataclasses.replace(ALLOWED, config=target(scan=range(1, 200)).config)])
def test_address_that_refuses_what_it_took_is_cut_off(of: Target) -> None:
    """Where what was open is refused in the end, a ban may have answered: what was closed is not known to be."""
    result, engine, _ = repeated(of, shows(22), shows(), confirm=1)
    assert [list(job.ports) for job in engine.jobs[1:]] == [[22]]
    failure = result.judgement.failure
    assert failure is not None
    assert failure.reason is Reason.CUT_OFF
    assert failure.detail.startswith("192.0.2.7 refuses port 22, which was open earlier in this scan")
    (row,) = result.addresses
    assert (row.scanned, row.open, row.lost) == (PortSet.of([22]),) * 3


@pytest.mark.parametrize("last", [shows(22), shows(silent=True), fails], ids=["open", "silent", "not asked"])
def test_address_that_refuses_nothing_in_the_end_is_judged(last: Script) -> None:
    """It is as it was seen where it still takes connections, or fell silent after its scan."""
    result, engine, _ = repeated(ALLOWED, shows(22), last, confirm=1)
    assert len(engine.jobs) == 2
    assert result.judgement == Judgement(Verdict.IN_SPEC)


@pytest.mark.parametrize(
    ("expect", "last", "verdict"),
    [
        ([22, 443], shows(443), Verdict.UNKNOWN),
        ([], shows(443, silent=True), Verdict.UNKNOWN),
        ([], shows(443), Verdict.IN_SPEC),
    ],
    ids=["expected", "silent", "a service that was stopped"],
)
def test_port_that_is_lost_beside_others_is_no_proof(expect: list[int], last: Script, verdict: Verdict) -> None:
    """Where a port is gone that was open, what is open beside it may be all that a ban lets through."""
    of = target(expect=expect, allow=[22, 443], scan=range(1, 500), address=V4)
    result, _, _ = repeated(of, shows(22, 443), last, confirm=1)
    assert result.judgement.verdict is verdict
    assert result.addresses[0].lost == NO_PORTS


def test_deviation_that_vanishes_with_all_that_was_open_is_unknown() -> None:
    """Also where few ports are scanned: a repeat that meets a ban which refuses takes no deviation back."""
    result, _, _ = repeated(target(allow=[22], address=V4), shows(22, 80), shows(), confirm=2)
    assert result.judgement.verdict is Verdict.UNKNOWN
    result, engine, _ = repeated(target(allow=[22], address=V4), shows(22, 80), shows(22), confirm=2)
    assert (result.judgement.verdict, len(engine.jobs)) == (Verdict.IN_SPEC, 2)


def test_connection_that_is_refused_with_all_others_is_unknown() -> None:
    """A port is unconfirmed if SYNs to what is open are still answered; if they are refused, too, it is a ban."""
    of = target(allow=[22], address=V4)
    result, _, _ = repeated(of, shows(22, 80), shows(), confirm=1, confirmed=shows())
    assert result.judgement.verdict is Verdict.UNKNOWN
    result, _, _ = repeated(of, shows(22, 80), shows(22), confirm=1, confirmed=shows())
    assert (result.judgement.verdict, list(result.addresses[0].unconfirmed)) == (Verdict.IN_SPEC, [80])


def test_few_ports_that_are_in_spec_are_not_asked_again() -> None:
    """Of a scan of few ports none is asked in the end: what was seen is all that it asked."""
    _, engine, _ = repeated(target(allow=[22], scan=range(1, 100), address=V4), shows(22), confirm=1)
    assert len(engine.jobs) == 1


@pytest.mark.parametrize(("is_open", "verdict"), [((), Verdict.UNKNOWN), ((22,), Verdict.IN_SPEC)])
def test_address_that_refused_what_it_took_stays_cut_off(is_open: tuple[int, ...], verdict: Verdict) -> None:
    """It is so until one of its ports is open again, however many scans that takes."""
    before = dataclasses.replace(seen(V4), lost=PortSet.of([22]))
    for _ in range(2 * MOST_REFUSALS):
        one = examiner(ScriptedEngine(shows(*is_open)))
        result = asyncio.run(one.examine(target(allow=[22], address=V4), silenced={V4: before}))
        assert result.judgement.verdict is verdict
        (before,) = result.addresses
    if verdict is Verdict.UNKNOWN:
        assert result.judgement.failure is not None
        assert "refuses port 22 since an earlier scan" in result.judgement.failure.detail


def test_expected_port_that_is_refused_again_and_again_is_missing() -> None:
    """A service that was stopped while its host was scanned is told of, after about an hour."""
    before = dataclasses.replace(seen(V4), lost=PortSet.of([22]))
    verdicts = []
    for _ in range(MOST_REFUSALS + 2):
        one = examiner(ScriptedEngine(shows()))
        result = asyncio.run(one.examine(target(expect=[22], address=V4), silenced={V4: before}))
        verdicts.append(result.judgement.verdict)
        (before,) = result.addresses
    assert verdicts[: MOST_REFUSALS + 1] == [*[Verdict.UNKNOWN] * MOST_REFUSALS, Verdict.OUT_OF_SPEC]


def test_unconfirmed_port_beside_a_failure_is_unknown() -> None:
    """Where one address is in spec after all and the other could not be tried the host is unknown."""
    result, _ = examine(target(address=None), shows(80), by_address(v4=shows(), v6=fails))
    assert result.judgement == Judgement(Verdict.UNKNOWN, (), result.addresses[1].failure)


def test_each_address_is_confirmed_by_itself() -> None:
    """Each address is asked for what it showed, in one job each, and only what it then shows is its own."""
    scanned = by_address(v4=shows(80), v6=shows(80, 443))
    result, confirmer = examine(target(address=None), scanned, by_address(v4=shows(), v6=shows(80)))
    assert asked(confirmer) == [((V4,), [22, 80]), ((V6,), [22, 80, 443])]
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
    assert (result.open_ports, result.addresses[0].unconfirmed) == (PortSet.of([80]), PortSet())


def test_confirmation_keeps_to_the_pace_of_the_scan() -> None:
    """All jobs about a host share a pacer: the host rate holds over scan, connections, and what is asked in the end."""
    engine, confirmer = ScriptedEngine(services_open), ScriptedEngine(shows())
    resolver = ScriptedResolver({"web1": Resolution((V4, V6))})
    one = examiner(engine, resolver, confirmer=confirmer, host_rate=50.0)
    asyncio.run(one.examine(target("web1", scan=[22, 443], address=None)))
    pacer = engine.jobs[0].pacer
    assert pacer is not None
    assert [job.pacer is pacer for job in (*engine.jobs, *confirmer.jobs)] == [True] * 6


def test_duration_includes_the_longest_confirmation() -> None:
    """A scan has lasted until its last port was confirmed; the addresses are confirmed at the same time."""

    def slowly(job: ScanJob) -> Observation:
        return dataclasses.replace(shows(80)(job), duration=2.0)

    result, _ = examine(target(address=None), shows(80), by_address(v4=shows(80), v6=slowly))
    assert result.duration == 0.25 + 2.0


def test_probes_and_dropped_answers_are_those_of_the_engines() -> None:
    """Probes are those of both engines together; answers are dropped by the one that scans."""
    engine, confirmer = ScriptedEngine(shows(22)), ScriptedEngine(shows(22))
    one = examiner(engine, confirmer=confirmer)
    assert (one.probes_sent, one.answers_dropped) == (0, 0)
    asyncio.run(one.examine(target(scan=[22, 80, 443])))
    engine.stats.answers_dropped = 4
    assert (engine.stats.probes_sent, confirmer.stats.probes_sent) == (3, 2)
    assert (one.probes_sent, one.answers_dropped) == (5, 4)


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
        hosts = [target(f"host{number}", address=f"192.0.2.{number}") for number in range(3)]
        tasks = [asyncio.create_task(one.examine(host)) for host in hosts]
        begun = []
        for number in range(3):
            await settle()
            begun.append(len(engine.jobs))
            confirmer.finish(number, shows(80))
        await asyncio.gather(*tasks)
        return begun

    assert asyncio.run(scenario()) == [1, 2, 3]


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


def in_turn(*scripts: Script) -> Script:
    """Make a script that answers the jobs by these scripts, one after the other, and the last one from then on."""
    left = list(scripts)

    def answer(job: ScanJob) -> Observation:
        return (left.pop(0) if len(left) > 1 else left[0])(job)

    return answer


def repeated(
    of: Target, *scripts: Script, confirm: int = 2, confirmed: Script | None = None, earlier: ScanResult | None = None
) -> tuple[ScanResult, ScriptedEngine, ScriptedEngine]:
    """Examine one host at one address; returns the result, the engine that scans, and the one that confirms."""
    engine, confirmer = ScriptedEngine(in_turn(*scripts)), ScriptedEngine(confirmed)
    one = examiner(engine, confirm=confirm, confirmer=confirmer if confirmed else None)
    return asyncio.run(one.examine(of, earlier)), engine, confirmer


def deviating(result: ScanResult) -> list[tuple[int, Kind, PortState]]:
    """Return the deviations of a host with one address."""
    return [(item.port, item.kind, item.state) for item in result.judgement.deviations]


FEW = target(expect=[22], allow=[443], scan=[80, 8080], address=V4)


@pytest.mark.parametrize(
    ("confirm", "with_confirmer", "missing", "unexpected"),
    [(1, False, 1, 1), (2, False, 2, 2), (3, False, 3, 3), (1, True, 1, 1), (2, True, 2, 1), (3, True, 3, 2)],
)
def test_deviation_is_seen_as_often_as_asked_for(
    confirm: int,
    with_confirmer: bool,  # noqa: FBT001
    missing: int,
    unexpected: int,
) -> None:
    """Each deviation is looked at `confirm` times in all; that it takes a connection is one of these times."""
    result, engine, confirmer = repeated(
        FEW, shows(80, 443), confirm=confirm, confirmed=shows(80) if with_confirmer else None
    )
    assert deviating(result) == [(22, Kind.MISSING, PortState.CLOSED), (80, Kind.UNEXPECTED, PortState.OPEN)]
    assert len(engine.jobs) == max(missing, unexpected)
    assert all(list(job.ports) == [22, 80, 443, 8080] for job in engine.jobs)  # 443 and 8080 for control
    assert len(confirmer.jobs) == with_confirmer


@pytest.mark.parametrize(
    ("of", "jobs"), [(target(scan=[80, 8080], address=V4), 1), (FEW, 2)], ids=["unexpected", "missing"]
)
def test_connection_takes_the_place_of_a_repeat(of: Target, jobs: int) -> None:
    """With a confirmer and `confirm` 2 unexpected ports are only connected to, and missing ones are scanned again."""
    _, engine, _ = repeated(of, shows(80), confirmed=shows(80))
    assert len(engine.jobs) == jobs


@pytest.mark.parametrize("confirm", [1, 2, 3])
def test_nothing_is_repeated_where_nothing_deviates(confirm: int) -> None:
    """A host in spec is scanned once, however often a deviation must be seen."""
    result, engine, _ = repeated(FEW, shows(22, 443), confirm=confirm)
    assert result.judgement == Judgement(Verdict.IN_SPEC)
    assert (len(engine.jobs), result.duration) == (1, 0.25)


def test_repeat_asks_what_deviates_and_some_that_answered() -> None:
    """The repeat has the deviating ports and up to 64 others that were heard of, and none that was silent."""
    of = target(expect=[22], scan=range(1000, 3000), address=V4)

    def first(job: ScanJob) -> Observation:
        row = seen(V4, scanned=job.ports, is_open=[2000], filtered=[22, *range(1000, 1500)])
        return Observation((row,), 0.25, 1)

    _, engine, _ = repeated(of, first, shows(2000))
    again = engine.jobs[1]
    assert again.addresses == (V4,)
    assert again.ports == PortSet.of([22, 2000, *range(1500, 1564)])


def test_repeat_where_nothing_answered_asks_what_is_missing() -> None:
    """Of a host that is silent only the ports are asked for again that should be open."""
    _, engine, _ = repeated(target(expect=[22, 443], address=V4), shows(silent=True))
    assert [job.ports for job in engine.jobs[1:]] == [PortSet.of([22, 443])]


def test_repeat_keeps_order_and_pace_of_the_scan() -> None:
    """The jobs that repeat share the pacer of the scan: the host rate holds over all of them."""
    engine = ScriptedEngine(shows(80))
    asyncio.run(examiner(engine, confirm=3, host_rate=50.0).examine(FEW))
    first, *others = engine.jobs
    assert len(others) == 2
    assert all(job.pacer is first.pacer and job.seed == first.seed for job in others)


@pytest.mark.parametrize(
    ("first", "second", "open_ports"),
    [(shows(22, 80), shows(22), [22]), (shows(), shows(22), [22]), (without(22), shows(22), [22])],
    ids=["unexpected once", "missing once", "filtered once"],
)
def test_deviation_that_is_seen_once_does_not_count(first: Script, second: Script, open_ports: list[int]) -> None:
    """What the repeat does not show again is no deviation: the newer state holds."""
    result, _, _ = repeated(FEW, first, second)
    assert result.judgement == Judgement(Verdict.IN_SPEC)
    assert result.open_ports == PortSet.of(open_ports)
    assert result.duration == 0.5


def test_address_that_comes_up_after_the_scan_is_scanned_again() -> None:
    """Its expected port answers when it is asked again; that all others were silent before that proves nothing."""
    result, engine, _ = repeated(FEW, shows(silent=True), shows(22), shows(22, 80))
    every = FEW.config.ports
    assert [job.ports for job in engine.jobs] == [every, PortSet.of([22]), every, every]
    assert deviating(result) == [(80, Kind.UNEXPECTED, PortState.OPEN)]
    assert result.duration == 1.0
    result, _, _ = repeated(FEW, shows(silent=True), shows(22), shows(22))
    assert result.judgement == Judgement(Verdict.IN_SPEC)


def test_address_that_answers_only_between_scans_is_unknown() -> None:
    """What was never seen while all ports were scanned is not believed to be closed."""
    result, _, _ = repeated(FEW, shows(silent=True), shows(22), shows(silent=True), shows(22))
    assert result.judgement.verdict is Verdict.UNKNOWN
    assert result.judgement.failure is not None
    assert result.judgement.failure.reason is Reason.CUT_OFF
    assert "answered nothing while its ports were scanned, twice" in result.judgement.failure.detail


def test_address_that_stays_silent_is_scanned_once() -> None:
    """A host that is down is told as that: what it should have open is missing."""
    result, engine, _ = repeated(FEW, shows(silent=True))
    assert [len(job.ports) for job in engine.jobs] == [4, 1]
    assert deviating(result) == [(22, Kind.MISSING, PortState.FILTERED)]


def test_what_was_not_asked_again_keeps_its_state() -> None:
    """Ports that go along for control stay as they were first seen, whatever they show now."""
    result, engine, _ = repeated(FEW, shows(80, 443), shows(80, 8080))
    assert 8080 in engine.jobs[1].ports
    assert result.addresses[0].open == PortSet.of([80, 443])
    assert deviating(result) == [(22, Kind.MISSING, PortState.CLOSED), (80, Kind.UNEXPECTED, PortState.OPEN)]


def test_deviation_must_be_seen_each_time() -> None:
    """With three times a port that is refuted by the second is not asked a third time."""
    result, engine, _ = repeated(target(scan=[79, 80, 81, 8080], address=V4), shows(80, 8080), shows(80), confirm=3)
    assert [list(job.ports) for job in engine.jobs] == [[79, 80, 81, 8080]] * 3
    assert deviating(result) == [(80, Kind.UNEXPECTED, PortState.OPEN)]
    result, engine, _ = repeated(FEW, shows(22, 80), shows(22), confirm=3)
    assert len(engine.jobs) == 2
    assert result.judgement.verdict is Verdict.IN_SPEC


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        (shows(), shows(silent=True), PortState.CLOSED),
        (shows(silent=True), shows(), PortState.CLOSED),
        (shows(silent=True), shows(silent=True), PortState.FILTERED),
    ],
    ids=["closed, silent", "silent, closed", "silent, silent"],
)
def test_silence_does_not_undo_that_a_port_was_closed(first: Script, second: Script, state: PortState) -> None:
    """A missing port is closed if it said so once, in whatever order."""
    result, _, _ = repeated(FEW, first, second)
    assert deviating(result) == [(22, Kind.MISSING, state)]


def test_unexpected_port_that_falls_silent_is_filtered() -> None:
    """A port that was open and answers no more takes the newer state."""
    result, _, _ = repeated(target(scan=[80, 8080], address=V4), shows(80), shows(silent=True))
    (row,) = result.addresses
    assert result.judgement.verdict is Verdict.IN_SPEC
    assert [row.state(port) for port in (80, 8080)] == [PortState.FILTERED, PortState.CLOSED]


def earlier_of(of: Target, *rows: AddressObservation) -> ScanResult:
    """Make a result of that host from before."""
    return result_of(of, *rows, at=NOW - 60)


@pytest.mark.parametrize("confirm", [2, 3])
def test_deviation_that_is_known_is_not_asked_again(confirm: int) -> None:
    """What deviates as it did in the earlier result counts at once; what is new is asked again."""
    before = earlier_of(FEW, seen(V4, scanned=FEW.config.ports, is_open=[80]))
    result, engine, _ = repeated(FEW, shows(80), confirm=confirm, earlier=before)
    assert len(engine.jobs) == 1
    assert deviating(result) == [(22, Kind.MISSING, PortState.CLOSED), (80, Kind.UNEXPECTED, PortState.OPEN)]


@pytest.mark.parametrize(
    "before",
    [
        seen(V4, scanned=FEW.config.ports, is_open=[22]),
        seen(V4, scanned=FEW.config.ports, is_open=[22, 80], unconfirmed=[80]),
        seen(V4, scanned=[443]),
        seen(V6, scanned=FEW.config.ports, is_open=[80]),
        seen(V4, reason=Reason.NO_ROUTE),
        dataclasses.replace(
            seen(V4, scanned=FEW.config.ports, is_open=[80]), failure=Failure(Reason.NO_ROUTE, "the link went down")
        ),
    ],
    ids=["in spec", "unconfirmed", "not looked at", "other address", "unseen", "seen in part"],
)
def test_deviation_that_is_new_is_asked_again(before: AddressObservation) -> None:
    """An earlier result vouches only for what it saw to deviate on the same address."""
    result, engine, _ = repeated(FEW, shows(80), shows(22), earlier=earlier_of(FEW, before))
    assert len(engine.jobs) == 2
    assert result.judgement.verdict is Verdict.IN_SPEC


def test_only_the_new_ones_of_several_deviations_are_asked_again() -> None:
    """Where one deviation is known and another is new the former goes along as one that answered, and counts."""
    of = target(scan=[79, 80, 81, 8080], address=V4)
    before = earlier_of(of, seen(V4, scanned=[79, 80, 81, 8080], is_open=[80]))
    result, engine, _ = repeated(of, shows(80, 8080), shows(80), earlier=before)
    assert len(engine.jobs) == 2
    assert deviating(result) == [(80, Kind.UNEXPECTED, PortState.OPEN)]


def test_known_unexpected_port_must_still_take_connections() -> None:
    """A confirmer connects to unexpected ports in every scan, known or not."""
    before = earlier_of(FEW, seen(V4, scanned=FEW.config.ports, is_open=[22, 80]))
    result, engine, confirmer = repeated(FEW, shows(22, 80), confirmed=shows(22), earlier=before)
    assert (len(engine.jobs), len(confirmer.jobs)) == (1, 1)
    assert result.judgement.verdict is Verdict.IN_SPEC


def test_each_address_is_repeated_by_itself() -> None:
    """Each address is asked again for what deviates there; one that is in spec is left alone."""
    engine = ScriptedEngine(by_address(v4=shows(22, 80), v6=shows(22)))
    one = examiner(engine, ScriptedResolver({"web1": Resolution((V4, V6))}), confirm=2)
    result = asyncio.run(one.examine(target("web1", expect=[22], address=None)))
    assert [job.addresses for job in engine.jobs] == [(V4,), (V6,), (V4,)]
    assert [(item.address, item.port) for item in result.judgement.deviations] == [(V4, 80)]


def test_address_that_fails_on_the_repeat_is_unknown() -> None:
    """Where the repeat could not be made nothing is concluded: the host is unknown, for that reason."""
    result, _, _ = repeated(FEW, shows(80), fails)
    assert result.judgement.verdict is Verdict.UNKNOWN
    assert result.judgement.failure is not None
    assert result.judgement.failure.reason is Reason.LOCAL_LIMIT
    assert result.open_ports == PortSet()


def test_address_that_fails_on_the_repeat_keeps_its_earlier_deviations() -> None:
    """Beside an address that deviates, one that fails on the repeat stays as it was last seen."""
    of = target("web1", scan=[80, 8080], address=None)
    before = earlier_of(of, seen(V4, scanned=[80, 8080], is_open=[8080]), seen(V6, scanned=[80, 8080]))
    engine = ScriptedEngine(in_turn(shows(80), shows(80), fails, shows(80)))
    one = examiner(engine, ScriptedResolver({"web1": Resolution((V4, V6))}), confirm=2)
    result = asyncio.run(one.examine(of, before))
    assert [job.addresses for job in engine.jobs] == [(V4,), (V6,), (V4,), (V6,)]
    assert [(item.address, item.port) for item in result.judgement.deviations] == [(V6, 80)]
    assert result.judgement.failure is not None
    whole = result.completed_by(before)
    assert [(item.address, item.port) for item in whole.judgement.deviations] == [(V4, 8080), (V6, 80)]


def test_address_that_failed_is_not_repeated() -> None:
    """What could not be seen in the first place is not asked again."""
    in_part = dataclasses.replace(seen(V4, is_open=[80]), failure=Failure(Reason.NO_ROUTE, "the link went down"))
    result, engine, _ = repeated(FEW, lambda _: Observation((in_part,), 0.5, 3))
    assert len(engine.jobs) == 1
    assert result.addresses == (in_part,)


def test_host_that_answers_only_the_repeat_is_up() -> None:
    """A host that was silent at first and answers when asked again has answered, in the time that this took."""

    def wakes(job: ScanJob) -> Observation:
        return Observation((seen(V4, scanned=job.ports, is_open=[22], rtt=0.02),), 0.25, 1)

    result, _, _ = repeated(FEW, shows(silent=True), wakes)
    assert result.judgement.verdict is Verdict.IN_SPEC
    assert result.is_up
    assert result.addresses[0].rtt == 0.02


def test_duration_includes_the_longest_repeat() -> None:
    """A scan has lasted until its last deviation was seen often enough; addresses are repeated at the same time."""

    def slowly(job: ScanJob) -> Observation:
        return dataclasses.replace(shows(80)(job), duration=2.0)

    engine = ScriptedEngine(in_turn(shows(80), shows(80), shows(80), slowly, shows(80), slowly))
    one = examiner(engine, ScriptedResolver({"web1": Resolution((V4, V6))}), confirm=3)
    result = asyncio.run(one.examine(target("web1", address=None)))
    assert len(engine.jobs) == 6
    assert result.duration == 0.25 + 2.0 + 2.0


def test_cancelled_examination_cancels_its_repeats_and_frees_its_place() -> None:
    """No address of a host that was given up is looked at again, and the next host takes its place."""
    engine = ScriptedEngine()

    async def scenario() -> None:
        one = examiner(engine, ScriptedResolver({"web1": Resolution((V4, V6))}), parallel=1, confirm=2)
        given_up = asyncio.create_task(one.examine(target("web1", address=None)))
        following = asyncio.create_task(one.examine(target("following", address="192.0.2.8")))
        await settle()
        engine.finish(0, shows(80))
        engine.finish(1, shows(80))
        await settle()
        assert [job.addresses for job in engine.jobs] == [(V4,), (V6,), (V4,), (V6,)]
        given_up.cancel()
        await settle()
        assert [future.cancelled() for future in engine.futures[2:4]] == [True, True]
        with pytest.raises(asyncio.CancelledError):
            await given_up
        engine.finish(4)
        assert (await following).judgement.verdict is Verdict.IN_SPEC

    asyncio.run(scenario())


def test_crash_of_a_repeat_makes_the_host_unknown() -> None:
    """A fault while looking again is a fault of the scan: nothing passes unconfirmed."""
    result, _, _ = repeated(FEW, shows(80), crash_always)
    assert result.judgement.failure is not None
    assert result.judgement.failure.reason is Reason.INTERNAL


def crash_always(_: ScanJob) -> Observation:
    """Answer a job with a fault."""
    raise ZeroDivisionError("of the repeat")


@pytest.mark.parametrize(
    ("until", "verdict"),
    [(NOW + 0.001, Verdict.IN_SPEC), (NOW, Verdict.OUT_OF_SPEC), (NOW - 60, Verdict.OUT_OF_SPEC)],
    ids=["in force", "lapses at this moment", "lapsed"],
)
def test_exceptions_in_force_are_kept_to(until: float, verdict: Verdict) -> None:
    """A deviation that is accepted when the scan ends does not count, and is told beside those that do."""
    of = target(scan=[80], address=V4, exceptions=[exception(80, until=until)])
    result = asyncio.run(examiner(ScriptedEngine(shows(80))).examine(of))
    assert result.judgement.verdict is verdict
    assert len(result.judgement.excepted) == (verdict is Verdict.IN_SPEC)


def test_host_with_thousands_of_open_ports_is_judged_as_any_other() -> None:
    """More open ports than are judged on the event loop are judged beside it, with the same result."""
    result, _, _ = repeated(target(expect=[22], scan=range(1, 9001), address=V4), shows(*range(1, 3001)))
    assert len(result.judgement.deviations) == 2999
    assert result.judgement.verdict is Verdict.OUT_OF_SPEC


def test_a_scan_that_finds_what_the_last_one_found_is_logged_at_debug() -> None:
    """A host in spec is news when something is open that was not, and one out of spec always is."""
    with capture_logs() as logs:
        one = examiner(ScriptedEngine(all_closed))
        opened = target("db1", scan=[80])
        first = asyncio.run(one.examine(opened))
        again = asyncio.run(one.examine(opened, first))
        allowed = target("db1", allow=[80], scan=[80])
        more = asyncio.run(examiner(ScriptedEngine(shows(80))).examine(allowed, again))
        other = target("db1", expect=[22], scan=[80])
        bad = asyncio.run(one.examine(other, more))
        asyncio.run(one.examine(other, bad))
    assert [entry["log_level"] for entry in logs] == ["info", "debug", "info", "warning", "warning"]


def rechecked(
    of: Target, first: Script, second: Script, *, confirmed: tuple[Script, Script] | None = None
) -> tuple[tuple[AddressObservation, ...], tuple[AddressObservation, ...] | None, list[ScanJob], list[ScanJob]]:
    """Examine a host, and look again at what deviates; return what was seen, before and after, and its jobs."""
    engine, confirmer = (
        ScriptedEngine(in_turn(first, second)),
        ScriptedEngine(in_turn(*confirmed) if confirmed else None),
    )
    one = examiner(engine, confirmer=confirmer if confirmed else None)

    async def scenario() -> tuple[ScanResult, int, int, tuple[AddressObservation, ...] | None]:
        before = await one.examine(of)
        return before, len(engine.jobs), len(confirmer.jobs), await one.recheck(of, before)

    before, scans, connections, after = asyncio.run(scenario())
    return before.addresses, after, engine.jobs[scans:], confirmer.jobs[connections:]


SYN_FOUND = target(expect=[22], scan=[80, 443, 8080], address=V4)


def test_recheck_connects_to_what_answers_a_syn() -> None:
    """A port that was confirmed by connecting still deviates only if it still takes a connection."""
    both = shows(22, 80)
    before, after, (asked,), (connected,) = rechecked(SYN_FOUND, both, both, confirmed=(both, both))
    assert after == before
    assert asked.ports == PortSet.of([22, 80, 443, 8080])
    assert connected.ports == PortSet.of([22, 80])  # an expected port for control
    before, after, _, _ = rechecked(SYN_FOUND, both, both, confirmed=(both, shows(22)))
    assert before[0].accepting == PortSet.of([22, 80])
    assert after is not None
    assert (after[0].open, after[0].accepting) == (PortSet.of([22, 80]), PortSet.of([22]))


def test_recheck_from_which_no_connection_comes_about_changes_nothing() -> None:
    """Where not even an expected port takes a connection from here nothing is concluded of the others."""
    both = shows(22, 80)
    before, after, _, connected = rechecked(SYN_FOUND, both, both, confirmed=(both, shows(silent=True)))
    assert after == before
    assert len(connected) == 1


def test_recheck_in_which_all_that_was_open_is_refused_changes_nothing() -> None:
    """A ban that refuses takes no deviation away; what is still open beside the port does."""
    before, after, _, _ = rechecked(SYN_FOUND, shows(22, 80), shows())
    assert after == before
    _, after, _, _ = rechecked(SYN_FOUND, shows(22, 80), shows(22))
    assert after is not None
    assert after[0].open == PortSet.of([22])


def test_recheck_leaves_ports_alone_that_take_no_connection() -> None:
    """Of thousands of ports that somebody on the way answers for none is connected to again for the sake of one."""
    of = target(expect=[22], scan=range(1000, 6000), address=V4)
    every = shows(22, *range(1000, 3000))
    _, after, (asked,), (connected,) = rechecked(of, every, every, confirmed=(shows(22, 2000), shows(22)))
    assert after is not None
    assert after[0].accepting == PortSet.of([22])
    assert len(asked.ports) <= 65
    assert connected.ports == PortSet.of([22, 2000])


def test_recheck_takes_no_port_along_that_changed_but_did_not_deviate() -> None:
    """Ports that go along for control stay as the scan found them: a look claims nothing of other ports."""
    before, after, _, _ = rechecked(SYN_FOUND, shows(22, 80), shows(443))
    assert after is not None
    assert (before[0].open, after[0].open) == (PortSet.of([22, 80]), PortSet.of([22]))


def test_recheck_that_is_cancelled_frees_its_place() -> None:
    """Who gives up a look ends its jobs, and the next host takes its place."""
    engine = ScriptedEngine()

    async def scenario() -> None:
        one = examiner(engine, parallel=1)
        given_up = asyncio.create_task(one.recheck(SYN_FOUND, result_of(SYN_FOUND, seen(V4, is_open=[22, 80]))))
        await settle()
        following = asyncio.create_task(one.examine(target(expect=[22], address=V6)))
        await settle()
        given_up.cancel()
        await settle()
        assert engine.futures[0].cancelled()
        engine.finish(1, shows(22))
        assert (await following).judgement.verdict is Verdict.IN_SPEC

    asyncio.run(scenario())


def impostor(*ports: int, connects: bool = False) -> tuple[Script, Script]:
    """Make scripts of the engine that scans, to which every port is open, and of the one that connects.

    Connections to these ports stay up, and if it `connects` those to all others, too.
    """

    def everything(job: ScanJob) -> Observation:
        return shows(*job.ports)(job)

    return everything, everything if connects else shows(*ports)


@pytest.mark.parametrize("scanned", [[22], [80], range(1, 1001)], ids=["expected", "unexpected", "many"])
@pytest.mark.parametrize("connects", [True, False])
def test_address_that_answers_everything_is_unknown(scanned: Iterable[int], *, connects: bool) -> None:
    """Where ports drawn at random are open, too, and connections do not tell which are, nothing is known."""
    result, _ = examine(target(expect=[22], scan=scanned, address=V4), *impostor(connects=connects))
    assert result.judgement.verdict is Verdict.UNKNOWN
    assert (result.judgement.failure and result.judgement.failure.reason) is Reason.ANSWERS_EVERYTHING
    assert result.judgement.deviations == ()
    assert result.is_up
    (row,) = result.addresses
    assert (row.scanned, row.open, row.filtered, row.unconfirmed) == (PortSet(), PortSet(), PortSet(), PortSet())


def test_ports_that_are_drawn_show_in_no_result() -> None:
    """Of a host with all its ports open some more are asked; what these showed is told nowhere."""
    of = target(expect=[22], scan=[22], address=V4)
    engine = ScriptedEngine(shows(22))
    result = asyncio.run(examiner(engine).examine(of))
    assert [len(job.ports) for job in engine.jobs] == [1, 4]
    assert not engine.jobs[1].ports & of.config.ports
    assert result.judgement.verdict is Verdict.IN_SPEC
    assert (result.addresses[0].scanned, result.addresses[0].closed) == (PortSet.of([22]), 0)


def test_nothing_is_drawn_for_a_host_that_is_shut_where_it_should_be() -> None:
    """A host that is seen shut on other ports is not asked more."""
    engine = ScriptedEngine(shows(22))
    asyncio.run(examiner(engine).examine(target(expect=[22], scan=[80], address=V4)))
    assert len(engine.jobs) == 1


def test_hosts_of_a_round_share_the_ports_that_are_drawn() -> None:
    """Names of one address have the same ports drawn in a round, and others in the next."""
    engine = ScriptedEngine(shows(22))

    async def scenario() -> None:
        one = examiner(engine)
        for began in (1.0, 1.0, 2.0):
            await one.examine(target(expect=[22], scan=[22], address=V4), round_began=began)

    asyncio.run(scenario())
    first, second, third = [job.ports for job in engine.jobs if len(job.ports) == 4]
    assert first == second != third


def test_connections_decide_where_everything_answers() -> None:
    """Behind a SYN proxy those ports are open whose connections stay up: the host gets its verdict by them."""
    result, confirmer = examine(target(expect=[22, 25], scan=range(1, 501), address=V4), *impostor(22, 80))
    assert deviating(result) == [(25, Kind.MISSING, PortState.CLOSED), (80, Kind.UNEXPECTED, PortState.OPEN)]
    assert (result.addresses[0].open, result.addresses[0].closed) == (PortSet.of([22, 80]), 498)
    first, second = confirmer.jobs
    assert (len(first.ports), second.ports) == (4, PortSet(((1, 500),)))  # a tarpit is left alone after the first
    assert all(job.hold >= 0.5 and job.patience >= 3.5 for job in confirmer.jobs)


def test_tarpit_is_left_alone_after_a_few_connections() -> None:
    """Where connections to ports drawn at random stay up, or to some of all that were scanned, no more are made."""
    _, confirmer = examine(target(scan=range(1, 1001), address=V4), *impostor(connects=True))
    assert [len(job.ports) for job in confirmer.jobs] == [4]
    _, confirmer = examine(target(scan=range(1, 65536), address=V4), *impostor(connects=True))
    assert [len(job.ports) for job in confirmer.jobs] == [64]


def test_engine_that_connects_holds_its_own_connections() -> None:
    """Without another engine to confirm, the one that connects looks itself which connections stay up."""

    def proxied(job: ScanJob) -> Observation:
        return shows(*([22] if job.hold else job.ports))(job)

    scans = SharedScans(ScriptedEngine(proxied))
    one = Examiner(scans, ScriptedResolver(), Limit(1), connections=scans, wall_clock=lambda: NOW)
    result = asyncio.run(one.examine(target(expect=[22], scan=range(1, 100), address=V4)))
    assert (result.judgement.verdict, result.open_ports) == (Verdict.IN_SPEC, PortSet.of([22]))


def test_failure_of_what_is_drawn_is_that_of_the_address() -> None:
    """Where the ports that are drawn could not be asked nothing is known of the address."""
    result, _, _ = repeated(target(expect=[22], scan=[22], address=V4), shows(22), fails)
    assert (result.judgement.failure and result.judgement.failure.reason) is Reason.LOCAL_LIMIT


def test_recheck_is_not_deceived() -> None:
    """A port that was missing is not mended by an impostor that answers for it from then on."""
    of = target(expect=[22], scan=[80, 443], address=V4)
    everything, _ = impostor()
    before, after, _, _ = rechecked(of, shows(80), everything, confirmed=(shows(80), shows()))
    assert after == before


GATEWAY = target("gateway", expect=[22], address=V6, is_canary=True)


def cut(*addresses: str) -> Script:
    """Make a script to which port 22 of every address is open and the others are closed, but these are silent."""

    def answer(job: ScanJob) -> Observation:
        (address,) = job.addresses
        return shows(*([] if address in addresses else [22]), silent=address in addresses)(job)

    return answer


def watched(of: Target, script: Script, earlier: ScanResult | None = None) -> tuple[ScanResult, ScriptedEngine]:
    """Examine a host beside the canary, one host at a time; returns the result, and the engine that was asked."""
    engine = ScriptedEngine(script)
    canaries = Canaries(SharedScans(engine), ManualClock())
    canaries.watch([GATEWAY])
    one = Examiner(SharedScans(engine), ScriptedResolver(), Limit(1), canaries=canaries, wall_clock=lambda: NOW)
    return asyncio.run(one.examine(of, earlier)), engine


def reason_of(result: ScanResult) -> Reason | None:
    """Return why a host could not be seen."""
    return result.judgement.failure.reason if result.judgement.failure else None


@pytest.mark.parametrize("of", [target(expect=[22], address=V4), target(address=V4), GATEWAY])
def test_silent_host_is_unknown_while_no_canary_is_seen(of: Target) -> None:
    """Where host and canary are silent the host is unknown, whatever it expects; so is the canary."""
    result, engine = watched(of, cut(V4, V6))
    assert (result.judgement.verdict, reason_of(result)) == (Verdict.UNKNOWN, Reason.CANARY)
    assert result.judgement.failure is not None
    assert "gateway" in result.judgement.failure.detail
    assert (result.judgement.deviations, result.addresses[0].scanned) == ((), PortSet())
    assert [list(job.ports) for job in engine.jobs[1:]] == ([] if of is GATEWAY else [[22]])


def test_silent_host_is_judged_while_a_canary_is_seen() -> None:
    """Where a canary answers, silence is the host's own: its ports are missing."""
    result, engine = watched(target(expect=[22], address=V4), cut(V4))
    assert deviating(result) == [(22, Kind.MISSING, PortState.FILTERED)]
    assert [job.addresses for job in engine.jobs] == [(V4,), (V6,)]


def test_nobody_looks_at_a_canary_for_a_host_that_answers() -> None:
    """A host that answers is judged as ever; no canary is asked."""
    result, engine = watched(target(expect=[22], address=V4), cut(V6))
    assert result.judgement.verdict is Verdict.IN_SPEC
    assert len(engine.jobs) == 1


def test_what_answers_counts_while_no_canary_is_seen() -> None:
    """An unexpected port that is open deviates, while nothing is known of an expected one that is silent."""

    def script(job: ScanJob) -> Observation:
        row = seen(job.addresses[0], scanned=job.ports, is_open=[80] if 80 in job.ports else [], filtered=[22])
        return Observation((row,), 0.25, 1)

    result, _ = watched(target(expect=[22], address=V4), script)
    assert deviating(result) == [(80, Kind.UNEXPECTED, PortState.OPEN)]
    assert reason_of(result) is Reason.CANARY
    assert 22 not in result.addresses[0].scanned


def test_port_that_was_open_and_is_silent_is_not_believed() -> None:
    """That a port is silent which was open before makes its host unknown while no canary is seen."""
    of = target(allow=[80], address=V4)

    def script(job: ScanJob) -> Observation:
        return Observation((seen(job.addresses[0], scanned=job.ports, filtered=PortSet.of([80]) & job.ports),), 0.25, 1)

    result, _ = watched(of, script, earlier_of(of, seen(V4, scanned=[22, 80, 443], is_open=[80])))
    assert (result.judgement.verdict, reason_of(result)) == (Verdict.UNKNOWN, Reason.CANARY)
    result, _ = watched(of, script, earlier_of(of, seen(V4, scanned=[22, 80, 443], filtered=[80])))
    assert result.judgement == Judgement(Verdict.IN_SPEC)


def test_canary_whose_look_fails_is_not_seen() -> None:
    """A canary that this machine cannot look at is as good as silent."""

    def script(job: ScanJob) -> Observation:
        return fails(job) if job.addresses == (V6,) else shows(silent=True)(job)

    result, _ = watched(target(expect=[22], address=V4), script)
    assert reason_of(result) is Reason.CANARY


def test_host_that_was_cut_off_as_the_way_was_is_not_told_as_banned() -> None:
    """Where an address falls silent during its scan and no canary is seen, that is the reason; what was seen counts."""
    cut_off = dataclasses.replace(seen(V4, is_open=[80]), failure=Failure(Reason.CUT_OFF, "it fell silent"))

    def script(job: ScanJob) -> Observation:
        return Observation((cut_off,), 0.25, 1) if job.addresses == (V4,) else shows(silent=True)(job)

    result, _ = watched(target(expect=[80], address=V4), script)
    assert (result.judgement.verdict, reason_of(result)) == (Verdict.UNKNOWN, Reason.CANARY)
    result, _ = watched(target(address=V4), script)
    assert deviating(result) == [(80, Kind.UNEXPECTED, PortState.OPEN)]
    result, _ = watched(target(expect=[80], address=V4), by_address(v4=script, v6=shows(22)))
    assert reason_of(result) is Reason.CUT_OFF


def test_canary_can_be_looked_at_while_it_is_scanned() -> None:
    """A canary whose own scan takes long, and holds the only place, is looked at all the same."""
    engine, lookout = ScriptedEngine(), ScriptedEngine(shows(22))

    async def scenario() -> None:
        canaries = Canaries(SharedScans(lookout), ManualClock())
        canaries.watch([GATEWAY])
        one = Examiner(SharedScans(engine), ScriptedResolver(), Limit(2), canaries=canaries, wall_clock=lambda: NOW)
        long = [asyncio.create_task(one.examine(of)) for of in (GATEWAY, target("slow", address="192.0.2.9"))]
        silent = asyncio.create_task(one.examine(target(expect=[22], address=V4), is_urgent=True))
        await settle()
        engine.finish(1)
        await settle()
        engine.finish(2, shows(silent=True))
        assert (await silent).judgement.verdict is Verdict.OUT_OF_SPEC
        assert not long[0].done()
        engine.finish(0)
        await asyncio.gather(*long)

    asyncio.run(scenario())


DENIED = deny_of(["192.0.2.0/24"])


def denied_target(name: str = "db1", address: str | None = V4) -> Target:
    """Make a discovered host to which V4 is denied, and V6 is not."""
    return dataclasses.replace(target(name, expect=[22], scan=[79], address=address), deny=DENIED)


def test_denied_address_is_not_scanned() -> None:
    """No probe goes to an address that is denied to its host, which is unknown for that reason."""
    engine = ScriptedEngine(services_open)
    result = asyncio.run(examiner(engine).examine(denied_target()))
    assert engine.jobs == []
    assert result.judgement.verdict is Verdict.UNKNOWN
    assert result.judgement.failure is not None
    assert result.judgement.failure.reason is Reason.DENIED


@pytest.mark.parametrize("port", [22, 80])
def test_name_with_a_denied_address_is_never_in_specification(port: int) -> None:
    """The other addresses of a name are scanned: what deviates there counts, and without that it is unknown."""
    engine = ScriptedEngine(services_open)
    lookup = {socket.AF_INET: [V4], socket.AF_INET6: [V6]}
    resolver = SystemResolver(ipv6=True, lookup=lambda _, family: lookup[family])
    of = dataclasses.replace(target("db1", expect=[22], scan=[port], address=None), deny=DENIED)
    result = asyncio.run(examiner(engine, resolver).examine(of))
    assert {job.addresses for job in engine.jobs} == {(V6,)}
    assert result.judgement.verdict is (Verdict.UNKNOWN if port == 22 else Verdict.OUT_OF_SPEC)
    assert result.judgement.failure is not None
    assert result.judgement.failure.reason is Reason.DENIED


def test_recheck_asks_no_denied_address() -> None:
    """A name that has come to lead to a denied address since its scan is not probed there by a recheck."""
    engine = ScriptedEngine(services_open)
    answers = [[V6], ["192.0.2.66"]]
    resolver = SystemResolver(ipv6=False, lookup=lambda *_: answers.pop(0))
    of = dataclasses.replace(target("db1", scan=[80], address=None), deny=DENIED)
    one = examiner(engine, resolver)

    async def both() -> tuple[AddressObservation, ...] | None:
        return await one.recheck(of, await one.examine(of))

    kept = asyncio.run(both())
    assert {job.addresses for job in engine.jobs} == {(V6,)}
    assert [item.address for item in kept or ()] == [V6]
