from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portspec.config import Specification
from portspec.ports import NO_PORTS, PortSet
from portspec.scan import PortState, Reason
from portspec.state.changes import Change, DatedVerdict
from portspec.state.verdict import Kind, Verdict, judge
from portspec.web.drawings import DAY, MAX_PORTS, WIDTH, strip, timeline
from tests.unit.factories import ADDRESS, NOW, seen

IN, OUT, UNKNOWN = Verdict.IN_SPEC, Verdict.OUT_OF_SPEC, Verdict.UNKNOWN
ports = st.sets(st.integers(1, 40)).map(PortSet.of)


def dated(*pairs: tuple[float, Verdict]) -> list[DatedVerdict]:
    """Make verdicts from how many days ago they were reached, the newest first."""
    return [
        DatedVerdict(NOW - days * DAY, "web1", verdict) for days, verdict in sorted(pairs, key=lambda pair: pair[0])
    ]


def opened(days: float, port: str = "80", after: PortState = PortState.OPEN) -> Change:
    """Make a change of a port so many days ago."""
    return Change(NOW - days * DAY, "web1", ADDRESS, port, PortState.CLOSED, after, NOW)


def test_strip_shows_what_is_open_and_what_is_specified() -> None:
    """Neighbours that are alike share a cell; closed ports without a specification are left out."""
    item = seen(scanned=range(1, 1001), is_open=[22, 80, 443, 8080], filtered=[25])
    cells, more = strip(item, Specification(PortSet.of([22, 25, 26]), PortSet.of([443, 600, 601])), PortSet.of([8080]))
    assert [(cell.ports, cell.css) for cell in cells] == [
        ("22", "open expected"),
        ("25", "filtered expected"),
        ("26", "closed expected"),
        ("80", "open unexpected"),
        ("443", "open allowed"),
        ("600-601", "closed allowed"),
        ("8080", "open excepted"),
    ]
    assert (cells[0].title, more) == ("22 (ssh): open, as expected", 0)


def test_ports_that_were_not_seen_are_unknown() -> None:
    """Neither an address that could not be seen nor a middlebox tells that an expected port is open, or closed."""
    expected = Specification(PortSet.of([22]))
    (cell,), _ = strip(seen(reason=Reason.NO_ROUTE), expected, NO_PORTS)
    assert (cell.css, cell.title) == ("unseen expected", "22 (ssh): expected, not seen")
    cells, _ = strip(seen(scanned=[22, 80], is_open=[22, 80], unconfirmed=[22, 80]), expected, NO_PORTS)
    assert [cell.css for cell in cells] == ["unseen expected", "unseen"]


@given(st.data(), ports, ports, ports)
def test_strip_tells_of_each_port_once_and_as_the_verdict_does(
    data: st.DataObject, expect: PortSet, allow: PortSet, excepted: PortSet
) -> None:
    """A port is shown as a deviation if and only if it is one."""
    is_open = data.draw(ports)
    item = seen(scanned=range(1, 41), is_open=is_open, filtered=data.draw(ports) - is_open)
    specification = Specification(expect, allow)
    cells, more = strip(item, specification, excepted)
    shown = [(port, cell.css) for cell in cells for port in _ports(cell.ports)]
    assert (len({port for port, _ in shown}), more) == (len(shown), 0)
    found = judge([item], specification, None, excepted)
    wrong = {(port, css) for port, css in shown if css in {"open unexpected", "closed expected", "filtered expected"}}
    kinds = {"open unexpected": Kind.UNEXPECTED}
    assert {(port, kinds.get(css, Kind.MISSING)) for port, css in wrong} == {
        (deviation.port, deviation.kind) for deviation in found.deviations
    }


def _ports(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def test_strip_of_a_machine_that_answers_everywhere_ends() -> None:
    """What is left out is counted."""
    cells, more = strip(seen(is_open=range(1, 2000, 2)), Specification(), NO_PORTS)
    assert (len(cells), more) == (MAX_PORTS, 1000 - MAX_PORTS)


def test_timeline_has_a_bar_for_each_verdict() -> None:
    """A bar goes from its verdict to the next one; the span is the shortest that holds all."""
    found = timeline(dated((5, IN), (2, OUT), (1, IN)), [opened(2)], valid_until=NOW + DAY, now=NOW)
    assert found is not None
    assert [(bar.css, round(bar.x), round(bar.width)) for bar in found.bars] == [
        ("in_spec", 286, 429),
        ("out_of_spec", 714, 143),
        ("in_spec", 857, 143),
    ]
    assert (found.begins, found.summary) == ("7 d ago", "in spec for 1 d; recorded since 2023-11-09")
    assert [(round(mark.x), mark.is_opening, mark.title) for mark in found.marks] == [
        (716, True, "2023-11-12 22:13 UTC: 80 open")
    ]


def test_verdict_that_is_too_old_counts_no_longer() -> None:
    """From then on the host is unknown, also in words."""
    found = timeline(dated((5, IN)), [], valid_until=NOW - 2 * DAY, now=NOW)
    assert found is not None
    assert [(bar.css, round(bar.x), round(bar.width)) for bar in found.bars] == [
        ("in_spec", 286, 429),
        ("unknown", 714, 286),
    ]
    assert found.summary.startswith("unknown (not scanned) for 2 d")


def test_timeline_without_a_verdict_is_none() -> None:
    """Nothing is drawn of what is not known; a clock that went back shows no future."""
    assert timeline([], [opened(1)], valid_until=None, now=NOW) is None
    assert timeline(dated((-1, IN)), [], valid_until=None, now=NOW) is None


@given(st.lists(st.tuples(st.floats(0, 1000), st.sampled_from(Verdict)), min_size=1, max_size=30), st.floats(-400, 400))
def test_bars_cover_the_time_since_the_first_verdict(pairs: list[tuple[float, Verdict]], valid: float) -> None:
    """They stay within the drawing, in their order, and leave no gap wider than a rounding."""
    found = timeline(dated(*pairs), [opened(days) for days, _ in pairs], valid_until=NOW + valid * DAY, now=NOW)
    assert found is not None
    assert all(0 <= bar.x <= bar.x + bar.width <= WIDTH + 0.1 for bar in found.bars)
    assert [bar.x for bar in found.bars] == sorted(bar.x for bar in found.bars)
    assert abs(found.bars[-1].x + found.bars[-1].width - WIDTH) < 0.2
    for bar, following in zip(found.bars, found.bars[1:], strict=False):
        assert following.x <= bar.x + bar.width + 0.2
