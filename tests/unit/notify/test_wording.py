from __future__ import annotations

import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.errors import printable
from portspec.notify.notification import (
    AcceptedPorts,
    Event,
    Notification,
    UnknownPeriod,
)
from portspec.notify.wording import MAX_SUBJECT, cut, format_failure, format_span, format_time
from portspec.scan import Reason
from tests.unit.factories import NOW
from tests.unit.notify.conftest import set_time_zone
from tests.unit.notify.mails import DAY, NOW_TEXT, SILENT, body, line, mail, make_notification, subject

pytestmark = pytest.mark.usefixtures("few_services", "central_europe")

SUBJECTS = [
    (make_notification(lines=(line("4, 6379, 8000-8002"),)), "6379 (redis) open, not expected, and 4 more"),
    (make_notification(lines=(line("22", "missing", state="closed"), line("4"))), "4 open, not expected, and 1 more"),
    (make_notification(lines=(line("all"),)), "all ports open, not expected"),
    (make_notification(lines=(line("80"), line("80"))), "80 (http) open, not expected"),
    (make_notification(lines=()), "out of specification"),
    (
        make_notification(event=Event.DIFFERENT, lines=(line("80", since=NOW - DAY), line("443"))),
        "443 (https) open, not expected, and 1 more",
    ),
    (
        make_notification(
            event=Event.DIFFERENT,
            lines=(line("80", since=NOW - DAY),),
            resolved=(line("6379", state="", since=NOW - DAY), line("22", "missing", state="", since=NOW - DAY)),
        ),
        "6379 (redis) resolved; 80 (http) still open",
    ),
    (make_notification(lines=SILENT[1:], answers_nothing=True), "answers nothing (1 expected port missing)"),
    (
        make_notification(event=Event.REMINDER, lines=SILENT, answers_nothing=True, since=NOW - DAY),
        "still answers nothing, for 24 h (3 expected ports missing)",
    ),
    (
        make_notification(event=Event.REMINDER, reason="timeout: late", since=NOW - DAY, is_unknown=True),
        "still cannot be scanned, for 24 h: the scan takes too long",
    ),
    (
        make_notification(event=Event.IN_SPEC, since=NOW - 7200, until=NOW, resolved=(line("80"),)),
        "in specification again after 2 h",
    ),
    (make_notification(event=Event.IN_SPEC), "in specification again"),
    (
        make_notification(
            event=Event.IN_SPEC,
            since=NOW - 2100,
            until=NOW,
            unknown_period=UnknownPeriod(NOW - 2100, NOW - 60, "resolve"),
        ),
        "seen again, in specification, after 35 min",
    ),
    (
        make_notification(lines=(line("80"),), expired=(AcceptedPorts("80", NOW),)),
        "80 (http) open, its exception has ended",
    ),
    (
        make_notification(lines=(line("80"),), expired=(AcceptedPorts("80", NOW - 3 * DAY),)),
        "80 (http) open, not expected",
    ),
]


@pytest.mark.parametrize(
    ("notification", "expected"), SUBJECTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_subject_names_the_most_important_deviation(notification: Notification, expected: str) -> None:
    """New deviations precede older ones, open ports precede missing ones, and the others are counted."""
    assert subject(notification) == f"web1: {expected}"


@pytest.mark.parametrize("reason", Reason)
def test_subject_says_why_a_host_cannot_be_scanned(reason: Reason) -> None:
    """Each reason of a failed scan has its own words, which fit beside a host name of usual length."""
    found = subject(make_notification("db1.example.org", Event.UNKNOWN, reason=f"{reason}: detail", is_unknown=True))
    assert found.startswith("db1.example.org: cannot be scanned: ")
    assert "_" not in found
    assert not found.endswith("...")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("resolve: does not resolve (no A record)", "name does not resolve"),
        ("resolve: has 70 addresses, of which 64 are scanned (scan: max_addresses)", "its name has too many addresses"),
        ("resolve: the look-up of its IPv4 addresses failed (no answer in 5 s)", "its name cannot be looked up"),
        ("resolve: its address 0.0.0.0 is that of no host", "its name has an address that cannot be scanned"),
        ("resolve", "name does not resolve"),
        ("of_a_later_version: new", "of_a_later_version"),
    ],
)
def test_reason_of_a_failed_scan_is_worded_by_its_detail(reason: str, expected: str) -> None:
    """A failed look-up is distinguished from unusable addresses; an unknown reason is returned unchanged."""
    assert format_failure(reason) == expected


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("2023-11-17T00:00:00+00:00", "Thursday"),  # its last day is the 16th, in conf.yml as in the mail
        ("2023-11-16T23:30:00+00:00", "Friday"),  # 00:30 in central Europe
        ("2023-11-16T22:30:00+00:00", "Thursday"),
        ("2023-11-22T00:00:00+00:00", "2023-11-21"),  # a week from now, when it is Tuesday
        ("2023-11-21T00:00:00+00:00", "Monday"),
    ],
)
def test_end_of_an_exception_within_a_week_is_a_weekday(until: str, expected: str) -> None:
    """Within a week the day is named, in local time; later it is a date."""
    item = AcceptedPorts("8080", datetime.fromisoformat(until).timestamp())
    found = subject(make_notification(event=Event.EXPIRING, expiring=(item,)))
    assert found == f"web1: exception for 8080 (http-alt) ends on {expected}"


def test_subject_counts_exceptions_that_end() -> None:
    """One port is named and the others are counted; a late mail says that the exception has ended."""
    items = (AcceptedPorts("8080", NOW + DAY), AcceptedPorts("9000-9001, 8080", NOW + 2 * DAY))
    notification = make_notification(event=Event.EXPIRING, expiring=items)
    assert subject(notification) == "web1: exception for 8080 (http-alt) ends on Wednesday, and 2 more"
    assert "ended on 2023-11-15" in subject(notification, now=NOW + 2 * DAY)


@pytest.mark.parametrize("host", ["h" * 253, "a\x07" * 100, "\u202e" * 100, "ü" * 100])
@pytest.mark.parametrize(("notification", "_"), SUBJECTS[::4])
def test_subject_has_a_maximum_length(host: str, notification: Notification, _: str) -> None:
    """A long host name is truncated, but not within an escape; the summary is not."""
    message = mail(
        Notification(**{**{name: getattr(notification, name) for name in Notification.__slots__}, "host": host})
    )
    found = str(message["Subject"])
    assert len(found) <= MAX_SUBJECT
    assert found.endswith(subject(notification).removeprefix("web1"))
    shown = found.removeprefix("[portspec] ").partition("...: ")[0]
    assert printable(host).startswith(shown)
    assert re.fullmatch(r"(?:[^\\]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4})+", shown)
    assert str(message["X-PortSpec-Alert"]) == f"PortSpec Alert [{printable(host)}]"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (2100, "35 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (7200, "2 h"),
        (3 * 3600 + 900, "3 h"),
        (47.9 * 3600, "47 h"),
        (2 * DAY, "2 days"),
        (2 * DAY + 5 * 3600, "2 days 5 h"),
        (3 * DAY, "3 days"),
        (400.5 * DAY, "400 days"),
    ],
)
def test_duration_has_a_readable_unit(seconds: float, expected: str) -> None:
    """A duration is rounded down to the unit that people would choose."""
    assert format_span(seconds) == expected


@given(st.text(max_size=30), st.integers(4, 40))
def test_text_is_truncated_between_characters(text: str, limit: int) -> None:
    """A truncated text is printable, within the limit, and a prefix of the text."""
    found = cut(text, limit)
    assert len(found) <= limit
    assert found.isprintable()
    assert printable(text).startswith(found.removesuffix("...")) or found == printable(text)


@pytest.mark.parametrize(
    ("zone_name", "seconds", "spelled"),
    [
        ("CET-1CEST,M3.5.0,M10.5.0/3", NOW, NOW_TEXT),
        ("CET-1CEST,M3.5.0,M10.5.0/3", NOW + 7200, "2023-11-15 00:13:20 UTC (01:13:20 CET)"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", NOW + 3600, "2023-11-14 23:13:20 UTC (2023-11-15 00:13:20 CET)"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", 1_690_000_000.9, "2023-07-22 04:26:40 UTC (06:26:40 CEST)"),
        ("EST5", NOW - 82_000, "2023-11-13 23:26:40 UTC (18:26:40 EST)"),
        ("EST5", NOW - 72_000, "2023-11-14 02:13:20 UTC (2023-11-13 21:13:20 EST)"),
        ("<+0545>-5:45", NOW, "2023-11-14 22:13:20 UTC (2023-11-15 03:58:20 +0545)"),
        ("UTC0", NOW, "2023-11-14 22:13:20 UTC"),
    ],
)
def test_times_are_in_utc_and_local_time(
    monkeypatch: pytest.MonkeyPatch, zone_name: str, seconds: float, spelled: str
) -> None:
    """The local day is added if it differs; a local time that equals UTC is omitted."""
    set_time_zone(monkeypatch, zone_name)
    assert format_time(seconds) == spelled


def test_ports_have_the_names_of_their_services() -> None:
    """Single ports have the name of their service; ranges and long lists have none."""
    text = body(
        mail(make_notification(lines=(line("4, 22, 80-82, 8080"), line(", ".join(map(str, range(1, 100, 2)))))))
    )
    assert "- 4, 22 (ssh), 80-82, 8080 (http-alt) on " in text
    assert "- 1, 3, 5, 7, 9, 11, 13" in text
