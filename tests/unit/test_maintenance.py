from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.state import AuditState
from portspec.exceptions import is_outdated, next_edge
from portspec.maintenance import MAX_DURATION, MAX_TEXT, check_text, lasting, read_end
from portspec.state.snapshot import HostState
from tests.unit.factories import MODEST, NOW, target, window

if TYPE_CHECKING:
    from portspec.config import MaintenanceWindow

TIMES = st.integers(0, 12).map(float)
WINDOWS = st.lists(st.builds(window, st.one_of(TIMES, st.just(-math.inf)), TIMES), max_size=4)


@pytest.mark.parametrize(
    ("now", "lasts"),
    [
        (math.nextafter(NOW, 0.0), False),
        (NOW, True),
        (math.nextafter(NOW + 60, 0.0), True),
        (NOW + 60, False),
        (math.inf, False),
    ],
)
def test_maintenance_begins_and_ends_at_its_very_moments(now: float, lasts: bool) -> None:  # noqa: FBT001
    """It lasts from `begins` on, and at `until` no more."""
    one = window(NOW, NOW + 60)
    assert lasting([one], now) is (one if lasts else None)


def test_of_several_the_one_that_ends_last_is_told() -> None:
    """One that is over or has not begun does not count."""
    over, short, long = window(NOW - 9, NOW), window(NOW - 9, NOW + 9), window(-math.inf, NOW + 60)
    assert lasting([over, long, short, window(NOW + 1, NOW + 99)], NOW) is long


@MODEST
@given(windows=WINDOWS, now=TIMES)
def test_state_changes_at_the_next_edge_and_not_before(windows: list[MaintenanceWindow], now: float) -> None:
    """Maintenance that begins or ends is noticed for scanned hosts and for those that only send audits alike."""
    for state in (
        HostState(target(maintenance=windows), judged_at=now),
        AuditState("web1", judged_at=now, windows=tuple(windows)),
    ):
        edge = next_edge([state], now)
        assert not is_outdated(state, math.nextafter(edge, now))
        before = lasting(windows, now)
        assert all(lasting(windows, at / 2) == before for at in range(int(2 * now), int(2 * min(edge, 13.0))))
        assert edge == math.inf or is_outdated(state, edge)


@pytest.mark.parametrize(
    ("duration", "until", "seconds"),
    [
        ("2h", None, 7200.0),
        (" 1h30m ", None, 5400.0),
        (None, "1w", 604_800.0),
        (None, "2023-11-14", 6400.0),  # NOW is 22:13:20 of that day, which lasts until it is over
        (None, "2023-11-14T23:13:20Z", 3600.0),
        ("90d", None, MAX_DURATION),
    ],
)
def test_end_is_a_duration_a_day_or_a_time(duration: str | None, until: str | None, seconds: float) -> None:
    """A duration begins with the request."""
    assert read_end(duration, until, NOW) == NOW + seconds


@pytest.mark.parametrize(
    ("duration", "until", "message"),
    [
        (None, None, 'give "for", a duration such as "2h", or "until", a time, but not both'),
        ("2h", "1w", 'give "for", a duration such as "2h", or "until", a time, but not both'),
        ("0", None, 'for: "0" has no unit; write for example "0m"'),
        ("0s", None, "for: 0s is no time"),
        ("-1h", None, 'for: "-1h" is not a duration (expected for example "2h")'),
        ("", None, 'for: "" is not a duration (expected for example "2h")'),
        ("10y", None, "for: 10y is more than 90 days from now; write longer maintenance into conf.yml"),
        (
            f"{'9' * 400}y",
            None,
            f"for: {'9' * 80}… is more than 90 days from now; write longer maintenance into conf.yml",
        ),
        (None, "2023-11-13", "until: 2023-11-13 is in the past"),
        (
            None,
            "soon",
            (
                'until: "soon" is not an end (expected a duration such as "2h", a day, "2027-03-31", or a time, '
                '"2027-03-31T18:00:00Z")'
            ),
        ),
    ],
)
def test_end_that_makes_no_sense_is_refused(duration: str | None, until: str | None, message: str) -> None:
    """The message says which parameter, and what is expected."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_end(duration, until, NOW)


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[31mred", "a\u202eb", "x" * (MAX_TEXT + 1)])
def test_reason_that_nobody_should_have_to_read_is_refused(text: str) -> None:
    """Characters that cannot be seen, and texts without an end, are not kept."""
    with pytest.raises(ValueError, match="characters"):
        check_text(text)


def test_markup_is_a_reason_like_any_other() -> None:
    """Whoever shows it escapes it."""
    assert check_text("<b>upgrade</b> & restart") == "<b>upgrade</b> & restart"
