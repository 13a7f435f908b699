from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.agent import cron_line, unit_texts


@given(st.integers(0, 59), st.integers(-12 * 4, 14 * 4))
def test_cron_runs_far_from_midnight_of_utc(minute: int, quarters: int) -> None:
    """In every time zone, in summer too, the run of each day begins and ends on one day of UTC."""
    offset = timedelta(minutes=15 * quarters)
    text = cron_line("portspec-send", minute, int(offset.total_seconds()))
    found = re.search(r"(?m)^([0-9]+) ([0-9]+) \* \* \* portspec-send >/dev/null$", text)
    assert found
    assert int(found[1]) == minute
    local = datetime(2026, 11, 22, int(found[2]), minute, tzinfo=timezone(offset))
    for change in (-1, 0, 1):  # to summer time, or from it
        start = (local + timedelta(hours=change)).astimezone(UTC)
        assert (start + timedelta(minutes=59)).date() == start.date()


@pytest.mark.parametrize(
    ("written", "shown"), [("/opt/a%b -c /etc/x", "/opt/a\\%b -c /etc/x"), ("/opt/'a b'", "/opt/'a b'")]
)
def test_cron_takes_a_per_cent_sign_for_a_line_end(written: str, shown: str) -> None:
    """A per cent sign in the command is escaped for cron."""
    assert f" {shown} >/dev/null\n" in cron_line(written, 0, 0)


@given(st.integers(0, 59))
def test_cron_sends_what_waits_each_hour(minute: int) -> None:
    """Half an hour from the audit, each hour, what waits is sent without an audit."""
    (line,) = [each for each in cron_line("portspec-send", minute, 0).splitlines() if "--flush" in each]
    found = re.fullmatch(r"([0-9]+) \* \* \* \* portspec-send --flush >/dev/null", line)
    assert found
    assert abs(int(found[1]) - minute) == 30


def test_cron_example_tells_what_it_does_not_do() -> None:
    """The lines for cron say that nothing waits a random time, and where python3 is on FreeBSD."""
    text = cron_line("portspec-send", 17, 0)
    assert "cron adds no random delay" in text
    assert "on FreeBSD /usr/local/bin/python3" in text


def test_systemd_takes_per_cent_and_dollar_for_its_own() -> None:
    """Per cent and dollar signs in the command are doubled for systemd."""
    assert "\nExecStart=/opt/a%%b$$c\n" in unit_texts("/opt/a%b$c", "service")


def test_timer_is_once_for_each_day_of_utc() -> None:
    """The timer's time and the longest delay stay within a day of UTC, and a night without power is made up for."""
    timer = unit_texts("x", "timer")
    assert "\nOnCalendar=*-*-* 03:00:00 UTC\nRandomizedDelaySec=1h\n" in timer
    assert "\nPersistent=true\n" in timer
    assert unit_texts("x", "both") == unit_texts("x", "service") + "\n" + timer
