from __future__ import annotations

from dataclasses import replace

from portspec.scan import Failure, Reason
from portspec.state import summary
from tests.unit.factories import NOW, exception, result, seen, target

V4, V6 = "192.0.2.7", "2001:db8::7"


def test_ports_are_told_as_they_are_spelled() -> None:
    """Deviating ports have the spelling of conf.yml, ranges as ranges."""
    ports = [22, *range(8000, 8101)]
    told = summary.of(result(target("db1", expect=ports, scan=[]), seen(scanned=ports)))
    assert (told["verdict"], told["missing"], told["unexpected"]) == ("out_of_spec", "22, 8000-8100", "none")


def test_line_of_a_host_with_many_deviations_stays_short() -> None:
    """More deviating ports than a line should hold are cut at 200 characters."""
    ports = range(1, 65536, 2)
    spelled = str(summary.of(result(target(expect=ports), seen(scanned=ports)))["missing"])
    assert spelled.startswith("1, 3, 5, ")
    assert (len(spelled), spelled[-1]) == (201, "…")


def test_unconfirmed_ports_are_not_told_as_open() -> None:
    """What takes connections is counted, and nothing else."""
    told = summary.of(result(target(), seen(is_open=[80, 443], unconfirmed=[80])))
    assert (told["open"], told["unexpected"]) == (1, "443")


def test_deviation_that_is_excepted_has_a_place_of_its_own() -> None:
    """An excepted deviation is told as that, and only where there is one."""
    of = target(exceptions=[exception(80, until=NOW + 1)])
    told = summary.of(result(of, seen(is_open=[80])))
    assert (told["verdict"], told["unexpected"], told["excepted"]) == ("in_spec", "none", "80")
    assert "excepted" not in summary.of(result(target(), seen()))


def test_failure_is_told_with_its_reason() -> None:
    """A host that could not be seen has the reason in its line; one that was seen has none."""
    failure = Failure(Reason.RESOLVE, "web1 is not in the script")
    told = summary.of(result(target(address=None), failure=failure))
    assert (told["verdict"], told["reason"], told["detail"]) == ("unknown", "resolve", failure.detail)
    assert "reason" not in summary.of(result(target(), seen()))


def test_round_trip_time_is_the_shortest() -> None:
    """Of several addresses the nearest tells; where none was measured nothing is told."""
    told = summary.of(result(target(), seen(V4, rtt=0.25), seen(V6, rtt=0.0123456789), seen("192.0.2.8")))
    assert told["rtt_seconds"] == 0.012346
    assert "rtt_seconds" not in summary.of(result(target(), seen()))


def test_results_are_the_same_where_verdict_and_open_ports_are() -> None:
    """Time, duration and silent ports are no news; an open port is, and so is the address that has it."""
    of = target(allow=[22, 80])
    one = result(of, seen(V4, is_open=[22]), seen(V6))
    assert summary.is_same(one, replace(one, finished_at=one.finished_at + 60, duration=9.0))
    assert summary.is_same(one, result(of, seen(V4, is_open=[22], filtered=[443]), seen(V6)))
    assert not summary.is_same(one, result(of, seen(V4, is_open=[22, 80]), seen(V6)))
    assert not summary.is_same(one, result(of, seen(V4), seen(V6, is_open=[22])))
    assert not summary.is_same(one, result(target(expect=[22]), seen(V4, is_open=[22]), seen(V6)))
