from __future__ import annotations

import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.pacing import UNLIMITED, Pacer
from tests.unit.factories import MODEST

if TYPE_CHECKING:
    from collections.abc import Iterable

RATES = st.one_of(st.integers(1, 1_000_000), st.floats(1.0, 1e6))
MANY = 1 << 20  # more than any rate here allows at once
STARTS = st.floats(0.0, 1e6)  # the monotonic clock of a machine that is up for eleven days
POLLS = st.lists(st.one_of(st.none(), st.floats(0.0, 0.02), st.floats(0.0, 2.0)), min_size=1, max_size=150)


def send_greedily(pacer: Pacer, start: float, gaps: Iterable[float | None]) -> list[tuple[float, int]]:
    """Send all that is allowed at each poll; gap None polls at the very moment that the pacer names."""
    now = start
    sent = []
    for gap in gaps:
        now = pacer.next_at(now) if gap is None else now + gap
        sent.append((now, pacer.take(MANY, now)))
    return sent


def most_in(sent: list[tuple[float, int]], seconds: float) -> int:
    """Return how many probes the busiest window of so many seconds has."""
    most = total = first = 0
    for now, probes in sent:
        total += probes
        while now - sent[first][0] >= seconds:
            total -= sent[first][1]
            first += 1
        most = max(most, total)
    return most


@MODEST
@given(rate=RATES, start=STARTS, gaps=POLLS)
def test_no_second_has_more_probes_than_the_rate(rate: float, start: float, gaps: list[float | None]) -> None:
    """However often a greedy sender asks, also after a pause, no second holds more than `rate` probes (rounded up)."""
    sent = send_greedily(Pacer(rate), start, [*gaps, 2.0, *[0.001] * 1200])
    assert most_in(sent, 1.0 - 1e-6) <= math.ceil(rate)


@MODEST
@given(rate=RATES, start=STARTS)
def test_a_greedy_sender_gets_nearly_the_whole_rate(rate: float, start: float) -> None:
    """A sender that always asks at the right moment sends at least 98 percent of the rate, after the first burst."""
    pacer = Pacer(rate)
    now = start
    for _ in range(500):
        now = pacer.next_at(now)
        assert pacer.take(MANY, now) >= 1
    elapsed = now - start
    assert math.floor(elapsed * rate * 0.98) <= 500


@pytest.mark.parametrize("rate", [100, 1000, 10_000, 1_000_000])
def test_probes_are_spread_evenly(rate: int) -> None:
    """Asked every millisecond, each tenth of a second gets a tenth of the rate, to within one hundredth of the rate."""
    sent = send_greedily(Pacer(rate), 0.0, [0.001] * 3000)
    burst = max(1, rate // 100)
    for tenth in range(1, 30):
        inside = sum(probes for now, probes in sent if tenth * 0.1 < now <= (tenth + 1) * 0.1)
        assert rate * 0.1 - burst - 1 <= inside <= rate * 0.1 + burst + 1


@MODEST
@given(rate=RATES, start=STARTS, pause=st.floats(0.0, 1e6))
def test_a_pause_is_not_caught_up(rate: float, start: float, pause: float) -> None:
    """However long nothing was sent, no more than a hundredth of the rate (at least one probe) may go at once."""
    pacer = Pacer(rate)
    pacer.take(MANY, start)
    assert pacer.allowance(start + pause) <= max(1, int(rate / 100))


@MODEST
@given(rate=RATES, start=STARTS, gaps=POLLS)
def test_next_at_is_the_moment_that_allows_a_probe(rate: float, start: float, gaps: list[float | None]) -> None:
    """Before next_at nothing may be sent; at next_at at least one probe may, or a sender would wait for ever."""
    pacer = Pacer(rate)
    now = send_greedily(pacer, start, gaps)[-1][0]
    moment = pacer.next_at(now)
    assert moment >= now
    assert pacer.allowance(moment) >= 1
    before = moment - 0.01 / rate
    if before > now and before < moment:
        assert pacer.allowance(before) == 0


@MODEST
@given(rate=RATES, start=STARTS)
def test_next_at_is_now_while_a_probe_is_allowed(rate: float, start: float) -> None:
    """A sender that may send already does not wait."""
    assert Pacer(rate).next_at(start) == start


@MODEST
@given(rate=RATES, start=STARTS, gaps=POLLS, most=st.integers(0, 20_000))
def test_take_returns_the_lesser_of_request_and_allowance(
    rate: float, start: float, gaps: list[float | None], most: int
) -> None:
    """take() reserves the lesser of what was requested and what is allowed."""
    pacer = Pacer(rate)
    now = send_greedily(pacer, start, gaps)[-1][0] + 0.007
    allowed = pacer.allowance(now)
    assert pacer.take(most, now) == min(most, allowed)
    assert pacer.allowance(now) == allowed - min(most, allowed)


@MODEST
@given(rate=RATES, start=STARTS, gaps=POLLS, data=st.data())
def test_what_is_put_back_may_be_taken_again(
    rate: float, start: float, gaps: list[float | None], data: st.DataObject
) -> None:
    """Putting back what was not sent leaves the pacer as if that had never been taken."""
    pacer, other = Pacer(rate), Pacer(rate)
    now = send_greedily(pacer, start, gaps)[-1][0]
    send_greedily(other, start, gaps)
    now = max(now + 0.003, pacer.next_at(now))
    granted = pacer.take(MANY, now)
    unsent = data.draw(st.integers(0, granted))
    pacer.put_back(unsent)
    other.take(granted - unsent, now)
    assert pacer.allowance(now) == other.allowance(now) == unsent
    assert pacer.next_at(now + 0.01) == pytest.approx(other.next_at(now + 0.01), abs=1e-6)


@MODEST
@given(rate=RATES, start=STARTS, gaps=POLLS, data=st.data())
def test_rate_holds_for_what_is_sent_when_some_is_put_back(
    rate: float, start: float, gaps: list[float | None], data: st.DataObject
) -> None:
    """However much of each grant is put back at once, no second holds more probes than the rate (rounded up)."""
    pacer = Pacer(rate)
    now = start
    sent = []
    for gap in [*gaps, 2.0, *[None] * 20]:
        now = pacer.next_at(now) if gap is None else now + gap
        granted = pacer.take(MANY, now)
        unsent = data.draw(st.integers(0, granted))
        pacer.put_back(unsent)
        sent.append((now, granted - unsent))
    assert most_in(sent, 1.0 - 1e-6) <= math.ceil(rate)


def test_putting_all_back_costs_nothing() -> None:
    """A sender that takes its share and can send none of it, again and again, may still send all of it."""
    pacer = Pacer(1000.0)
    for _ in range(100):
        assert pacer.take(MANY, 5.0) == 10
        pacer.put_back(10)
    assert pacer.take(MANY, 5.0) == 10
    assert pacer.take(MANY, 5.0) == 0


@pytest.mark.parametrize("puts_back", [False, True])
def test_threads_share_the_rate(puts_back: bool) -> None:  # noqa: FBT001 - a parameter
    """Threads that all want more than there is get, at one moment, as much together as one would get alone."""
    pacer, threads = Pacer(400_000.0), 8
    everybody = threading.Barrier(threads)

    def take(_: int) -> int:
        everybody.wait(timeout=60.0)
        total = 0
        for _ in range(2000):
            granted = pacer.take(3, 5.0)
            unsent = granted // 2 if puts_back else 0
            pacer.put_back(unsent)
            total += granted - unsent
        return total

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads come between each other's lines
    try:
        with ThreadPoolExecutor(threads) as pool:
            total = sum(pool.map(take, range(threads)))
    finally:
        sys.setswitchinterval(interval)
    assert total == pytest.approx(4000, abs=1)  # four thousand sums of floats
    assert pacer.allowance(5.0) == 0


@MODEST
@given(now=STARTS, probes=st.integers(0, 1_000_000))
def test_without_a_rate_there_is_no_limit(now: float, probes: int) -> None:
    """A pacer of rate None lets everything pass at any moment."""
    pacer = Pacer(None)
    assert pacer.take(probes, now) == probes
    pacer.put_back(probes)
    assert pacer.allowance(now) == UNLIMITED
    assert pacer.next_at(now) == now


@MODEST
@given(before=st.none() | RATES, rate=RATES, start=STARTS, gaps=POLLS)
def test_other_rate_holds_from_then_on(
    before: float | None, rate: float, start: float, gaps: list[float | None]
) -> None:
    """After keep_to no second has more probes than the new rate (rounded up), whatever was sent at the old one."""
    pacer = Pacer(before)
    now = send_greedily(pacer, start, [0.0] if before is None else gaps)[-1][0]
    pacer.keep_to(rate)
    sent = send_greedily(pacer, now, [*gaps, 2.0, *[0.001] * 1200])
    assert most_in(sent, 1.0 - 1e-6) <= math.ceil(rate)


@MODEST
@given(before=RATES, rate=RATES, start=STARTS, gaps=POLLS)
def test_rate_change_delays_the_next_probe_briefly(
    before: float, rate: float, start: float, gaps: list[float | None]
) -> None:
    """Probes at the old rate delay the next one by at most a second, or by the interval of the new rate."""
    pacer = Pacer(before)
    now = send_greedily(pacer, start, gaps)[-1][0]
    pacer.keep_to(rate)
    assert pacer.next_at(now) - now <= 1.0 + 1e-6
    assert pacer.allowance(now + 3.0) == max(1, int(rate / 100))


def test_other_rate_may_be_none_and_back() -> None:
    """A limit can be taken away and set again while probes are sent."""
    pacer = Pacer(100.0)
    assert pacer.take(MANY, 5.0) == 1
    pacer.keep_to(None)
    assert (pacer.take(MANY, 5.0), pacer.next_at(5.0)) == (MANY, 5.0)
    pacer.keep_to(1000.0)
    assert pacer.take(MANY, 6.0) == 10
    assert pacer.take(MANY, 6.0) == 0


def test_same_rate_again_changes_nothing() -> None:
    """A reload with the rate that holds already lets no probe more pass."""
    pacer = Pacer(1000.0)
    assert pacer.take(MANY, 5.0) == 10
    pacer.keep_to(1000.0)
    assert pacer.take(MANY, 5.0) == 0
    assert pacer.next_at(5.0) == pytest.approx(5.001, abs=1e-4)


def test_probes_of_the_old_rate_may_be_put_back() -> None:
    """Probes that are put back after a change of the rate allow no more than a burst."""
    for old, new in ((1_000_000.0, 1.0), (1.0, 1_000_000.0), (None, 100.0), (100.0, None)):
        pacer = Pacer(old)
        granted = pacer.take(10_000, 5.0)
        pacer.keep_to(new)
        pacer.put_back(granted)
        assert pacer.allowance(7.0) == (UNLIMITED if new is None else max(1, int(new / 100)))


def test_rate_may_change_while_threads_take() -> None:
    """take() never fails while another thread changes or removes the rate."""
    pacer, everybody = Pacer(1000.0), threading.Barrier(3)

    def take(_: int) -> int:
        everybody.wait(timeout=60.0)
        for _ in range(3000):
            pacer.put_back(pacer.take(3, 5.0))
            assert pacer.next_at(5.0) >= 5.0
        return 1

    def change(_: int) -> int:
        everybody.wait(timeout=60.0)
        for number in range(3000):
            pacer.keep_to((None, 1.0, 1e6)[number % 3])
        return 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            done = [pool.submit(active_job, 0) for active_job in (take, take, change)]
            assert [one.result() for one in done] == [1, 1, 1]
    finally:
        sys.setswitchinterval(interval)
