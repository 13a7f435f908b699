from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.times import parse_duration, spell_duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (3600, 3600.0),
        (0.5, 0.5),
        ("3600", 3600.0),
        (" 3600 ", 3600.0),
        ("0.5", 0.5),
        ("500ms", 0.5),
        ("90s", 90.0),
        ("90m", 5400.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("2d", 172800.0),
        ("1w", 604800.0),
        (".5", 0.5),
        (".5h", 1800.0),
        ("1y", 31_536_000.0),
        ("1h 30m", 5400.0),
        ("90 seconds", 90.0),
        ("5 min", 300.0),
        ("1 hour 30 minutes", 5400.0),
        ("2 Weeks", 1_209_600.0),
        ("7D", 604_800.0),
    ],
)
def test_a_duration_is_read(written: object, seconds: float) -> None:
    """Numbers count seconds, units are those of Prometheus and their names, and parts add up."""
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "90x", "m", "30M", "1h and", "1h30", "-1s", "1e3", "٣s", "1.s", True, None, [60], {}]
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    """Nothing is guessed: the message shows what a duration looks like."""
    with pytest.raises(ValueError, match=r'^expected seconds, such as 3600, or a duration, such as "90m" or "1h30m"$'):
        parse_duration(written)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=12), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_anything_at_all_is_a_duration_or_a_value_error(written: object) -> None:
    """No value raises anything else."""
    with contextlib.suppress(ValueError):
        assert isinstance(parse_duration(written), float)


@pytest.mark.parametrize(
    ("seconds", "spelling"),
    [
        (0.4, "0.4 s"),
        (9.9, "9.9 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (7501, "2 h 5 min"),
        (86400, "1 d"),
        (273600, "3 d 4 h"),
    ],
)
def test_a_duration_is_spelled_for_people(seconds: float, spelling: str) -> None:
    """Two units at most, and none that is zero."""
    assert spell_duration(seconds) == spelling
