from __future__ import annotations

import email
import email.policy
import re
import time
from datetime import datetime
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.errors import printable
from portspec.notify import wording
from portspec.notify.content import NO_LINKS, RUNBOOKS, Links
from portspec.notify.digest import MAX_HOSTS
from portspec.notify.host_mail import MAX_LINES, runbooks
from portspec.notify.message import (
    render_digest,
    render_mail,
    render_report_mail,
    render_store_failure_mail,
    render_test_mail,
)
from portspec.notify.notification import (
    AcceptedPorts,
    DeviationEnd,
    DeviationLine,
    Event,
    ListeningProcesses,
    Notification,
    UnknownPeriod,
)
from portspec.notify.wording import MAX_SUBJECT, cut, format_failure, format_span, format_time
from portspec.ports import PortSet
from portspec.scan import Reason
from tests.unit.factories import ADDRESS, MODEST, NOW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SENDER, RECIPIENT = "portspec@example.org", "security@example.org"
SERVICES = {22: "ssh", 80: "http", 443: "https"}
SPELLED_NOW = "2023-11-14 22:13:20 UTC (23:13:20 CET)"
HEADERS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Auto-Submitted",
    "Content-Type",
    "MIME-Version",
    "Message-ID",
    "X-PortSpec-Alert",
}
IN_THREAD = HEADERS | {"In-Reply-To", "References"}
NASTY = [
    "web1\r\nBcc: evil@example.org",
    "web1\nBcc: evil@example.org\n\nbody",
    "web1\r\n\r\n.\r\nQUIT",
    "\x00\x1b[31m\x7f",
    "a\u2028b\u2029c\x85d\x0be",
    "a\tb",
    "a\u202eb",
    "\u2066a\u200eb",
    "\u3164\u034f\u115f\u2800",
    "<b>&amp;<script>alert(1)</script>",
    "<img src=https://example.org/x onerror=x>",
    "<!--",
    "' onmouseover='x\"",
    "😀" * 60,
    "bücher.example",
    "\ud800",
    "x" * 5000,
    "ü" * 3000,
    "]",
    '"; <evil@example.org>, (comment)',
    "",
    " ",
    "  a  b  ",
]
ENCODED_WORDS = [
    "=?utf-8?q?x=0ABcc:_evil@example.org?=",
    "=?utf-8?q?x=0D=0ABcc:_evil@example.org?=",
    "=?utf-8?b?CkJjYzogZXZpbEBleGFtcGxlLm9yZw==?=",
    "=?utf-8?q?db1?=",
]


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a database of services that knows a few."""

    def look_up(port: int, protocol: str) -> str:
        assert protocol == "tcp"
        if port not in SERVICES:
            raise OSError("port/proto not found")
        return SERVICES[port]

    monkeypatch.setattr("socket.getservbyport", look_up)
    wording.named_one.cache_clear()
    yield
    wording.named_one.cache_clear()


def set_time_zone(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """Have a local time, until the test ends."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in central Europe."""
    with monkeypatch.context() as patch:
        set_time_zone(patch, "CET-1CEST,M3.5.0,M10.5.0/3")
        yield
    time.tzset()


def told(host: str = "web1", event: Event = Event.OUT_OF_SPEC, *, at: float = NOW, **parts: Any) -> Notification:
    """Make a notification."""
    return Notification(host, event, at, **{"expected": "22", "open": "80", **parts})


def line(ports: str, kind: str = "unexpected", *, state: str = "open", since: float = NOW) -> DeviationLine:
    """Make a line of a notification."""
    return DeviationLine(ADDRESS, kind, state, ports, since)


def parsed(raw: bytes) -> EmailMessage:
    """Read a mail as its recipient's program does; see that it is one that any server passes on."""
    assert raw.isascii()
    assert not raw.replace(b"\r\n", b"").count(b"\n")
    assert not raw.replace(b"\r\n", b"").count(b"\r")
    assert raw.endswith(b"\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 998  # RFC 5322, 2.1.1
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    assert not [header.defects for header in message.values() if header.defects]
    assert len(message.keys()) == len(set(message.keys()))
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert words(page(message)) == words(re.sub(r"(?m)^- ", "", body(message)))
    return message


def mail(
    notification: Notification,
    number: int = 1,
    *,
    recipient: str = RECIPIENT,
    now: float = NOW,
    links: Links = NO_LINKS,
) -> EmailMessage:
    """Write a mail about one host, and read it."""
    return parsed(render_mail(notification, number, sender=SENDER, recipient=recipient, now=now, links=links))


def digest_of(notifications: Sequence[Notification], number: int = 1, *, links: Links = NO_LINKS) -> EmailMessage:
    """Write a mail about many hosts, and read it."""
    return parsed(render_digest(notifications, number, sender=SENDER, recipient=RECIPIENT, now=NOW, links=links))


def subject(notification: Notification, *, now: float = NOW) -> str:
    """Give the subject of a mail about one host without the prefix."""
    return str(mail(notification, now=now)["Subject"]).removeprefix("[portspec] ")


def part(message: EmailMessage, kind: str) -> str:
    """Give a part of a mail."""
    found = message.get_body((kind,))
    assert found
    text = found.get_content()
    assert isinstance(text, str)
    return text.replace("\r\n", "\n")


def body(message: EmailMessage) -> str:
    """Give the text of a mail."""
    return part(message, "plain")


class Page(HTMLParser):
    """The text of a page; it has only the tags and attributes that the mailer writes."""

    TAGS = frozenset(["html", "head", "meta", "body", "p", "h2", "ul", "li", "div", "strong", "a"])
    ATTRIBUTES = frozenset({"lang", "charset", "name", "content", "style", "href"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See that a tag is one of ours, and a link one that was given."""
        assert tag in self.TAGS
        assert {name for name, _ in attrs} <= self.ATTRIBUTES
        style = dict(attrs).get("style") or ""
        assert "url(" not in style
        if href := dict(attrs).get("href"):
            assert href.startswith(("https://github.com/portspec/", "https://portspec.example.org/"))
        self.text += "" if tag in {"a", "strong"} else "\n"

    def handle_data(self, data: str) -> None:
        """Take what is shown."""
        self.text += data

    def handle_comment(self, data: str) -> None:
        """Refuse comments: the mailer writes none."""
        raise AssertionError(data)


def page(message: EmailMessage) -> str:
    """Give what the HTML of a mail shows."""
    return Page(part(message, "html")).text


def words(text: str) -> list[str]:
    """Give the words of a text."""
    return text.split()


def test_head_of_a_mail() -> None:
    """The subject says what it is about; the date is of the message, and no program shall answer."""
    message = mail(told(lines=(line("80"),)), now=NOW + 5)
    assert set(message.keys()) == IN_THREAD
    assert str(message["From"]) == "PortSpec <portspec@example.org>"
    assert str(message["To"]) == "security@example.org"
    assert str(message["Subject"]) == "[portspec] web1: 80 (http) open, not expected"
    assert str(message["Date"]) == "Tue, 14 Nov 2023 22:13:25 +0000"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-PortSpec-Alert"] == "PortSpec Alert [web1]"


def test_head_stands_in_the_mail_as_people_know_it() -> None:
    """Sender, recipient and subject of a usual mail are readable without decoding anything."""
    lines = render_mail(told(lines=(line("80"),)), 1, sender=SENDER, recipient=RECIPIENT, now=NOW).split(b"\r\n")
    assert lines[:3] == [
        b"From: PortSpec <portspec@example.org>",
        b"To: security@example.org",
        b"Subject: [portspec] web1: 80 (http) open, not expected",
    ]
    assert b"X-PortSpec-Alert: PortSpec Alert [web1]" in lines
    assert b"web1 is out of specification." in lines


DAY = 86_400.0


SILENT = (line("22, 80", "missing", state="filtered"), line("443", "missing", state="filtered"))
SUBJECTS = [
    (told(lines=(line("6379"),)), "6379 (redis) open, not expected"),
    (told(lines=(line("22", "missing", state="closed"),)), "22 (ssh) missing (closed)"),
    (told(lines=(line("22", "missing", state="filtered"),)), "22 (ssh) missing (filtered)"),
    (told(lines=(line("4, 6379, 8000-8002"),)), "6379 (redis) open, not expected, and 4 more"),
    (told(lines=(line("22", "missing", state="closed"), line("4"))), "4 open, not expected, and 1 more"),
    (told(lines=(line("all"),)), "all ports open, not expected"),
    (told(lines=(line("80"), line("80"))), "80 (http) open, not expected"),
    (told(lines=()), "out of specification"),
    (
        told(event=Event.DIFFERENT, lines=(line("80", since=NOW - DAY), line("443"))),
        "443 (https) open, not expected, and 1 more",
    ),
    (
        told(
            event=Event.DIFFERENT,
            lines=(line("80", since=NOW - DAY),),
            resolved=(line("6379", state="", since=NOW - DAY), line("22", "missing", state="", since=NOW - DAY)),
        ),
        "6379 (redis) no longer so; 80 (http) still open",
    ),
    (told(lines=SILENT, answers_nothing=True), "answers nothing (3 expected ports missing)"),
    (told(lines=SILENT[1:], answers_nothing=True), "answers nothing (1 expected port missing)"),
    (
        told(event=Event.REMINDER, lines=SILENT, answers_nothing=True, since=NOW - DAY),
        "still answers nothing, for 24 h (3 expected ports missing)",
    ),
    (
        told(event=Event.REMINDER, lines=(line("6379", since=NOW - 3 * DAY),), since=NOW - 3 * DAY),
        "6379 (redis) still open, not expected, for 3 days",
    ),
    (
        told(event=Event.REMINDER, reason="timeout: late", since=NOW - DAY, is_unknown=True),
        "still cannot be scanned, for 24 h: the scan takes too long",
    ),
    (
        told(event=Event.IN_SPEC, since=NOW - 7200, until=NOW, resolved=(line("80"),)),
        "in specification again after 2 h",
    ),
    (told(event=Event.IN_SPEC), "in specification again"),
    (
        told(
            event=Event.IN_SPEC,
            since=NOW - 2100,
            until=NOW,
            unknown_period=UnknownPeriod(NOW - 2100, NOW - 60, "resolve"),
        ),
        "seen again, in specification, after 35 min",
    ),
    (told(lines=(line("80"),), expired=(AcceptedPorts("80", NOW),)), "80 (http) open, its exception has ended"),
    (told(lines=(line("80"),), expired=(AcceptedPorts("80", NOW - 3 * DAY),)), "80 (http) open, not expected"),
]


@pytest.mark.parametrize(
    ("notification", "expected"), SUBJECTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_subject_says_what_it_is_about(notification: Notification, expected: str) -> None:
    """What matters most stands in the subject: the newest first, an open port before a missing one."""
    assert subject(notification) == f"web1: {expected}"


@pytest.mark.parametrize("reason", Reason)
def test_subject_says_why_a_host_cannot_be_scanned(reason: Reason) -> None:
    """Each reason of a scan has words of its own, which fit the subject beside a name of usual length."""
    told_so = subject(told("db1.example.org", Event.UNKNOWN, reason=f"{reason}: detail", is_unknown=True))
    assert told_so.startswith("db1.example.org: cannot be scanned: ")
    assert "_" not in told_so
    assert not told_so.endswith("...")


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
def test_reason_in_plain_words(reason: str, expected: str) -> None:
    """A name that has an address is not said to have none; a reason that is not known is given as it is."""
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
def test_end_of_an_exception_is_a_day_of_the_week(until: str, expected: str) -> None:
    """Within a week a day is told by its name, in local time; later by its date."""
    item = AcceptedPorts("8080", datetime.fromisoformat(until).timestamp())
    found = subject(told(event=Event.EXPIRING, expiring=(item,)))
    assert found == f"web1: exception for 8080 (http-alt) ends on {expected}"


def test_exceptions_that_end_are_counted_in_the_subject() -> None:
    """Of several ports one is named, and the others are counted; a mail that is late says that it has ended."""
    items = (AcceptedPorts("8080", NOW + DAY), AcceptedPorts("9000-9001, 8080", NOW + 2 * DAY))
    notification = told(event=Event.EXPIRING, expiring=items)
    assert subject(notification) == "web1: exception for 8080 (http-alt) ends on Wednesday, and 2 more"
    assert "ended on 2023-11-15" in subject(notification, now=NOW + 2 * DAY)


@pytest.mark.parametrize("host", ["h" * 253, "a\x07" * 100, "\u202e" * 100, "ü" * 100])
@pytest.mark.parametrize(("notification", "_"), SUBJECTS)
def test_subject_is_short(host: str, notification: Notification, _: str) -> None:
    """However long a name is, the subject fits a telephone, says what it is about, and cuts no escape."""
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


def test_body_of_a_host_out_of_specification() -> None:
    """The mail names port, service, address, state and beginning of each deviation, what to do, and the scan."""
    notification = told(
        lines=(
            line("80, 8080", since=NOW - DAY),
            line("22", "missing", state="filtered"),
            line("443", since=NOW - 3600),
        ),
        open="80, 443, 8080",
        since=NOW - DAY,
    )
    assert (
        body(mail(notification, links=Links("https://portspec.example.org")))
        == f"""\
web1 is out of specification.

Open, not expected
- 80 (http), 8080 (http-alt) on {ADDRESS}
  since 2023-11-13 22:13:20 UTC (23:13:20 CET), for 24 h
- 443 (https) on {ADDRESS}
  since 2023-11-14 21:13:20 UTC (22:13:20 CET), for 1 h

Missing (expected, but not open)
- 22 (ssh) on {ADDRESS}: filtered: no answer, or a firewall refuses
  first seen {SPELLED_NOW}

What to do: Close the port, or add it to `expect` or `allow` of web1 in conf.yml, or accept it for a time under \
`exceptions`. If nobody knows what it is, treat the host as broken into. \
See whether a firewall between portspec and web1 drops what it is sent. If it is gone for good, take the port out of \
`expect`.

Host: https://portspec.example.org/#web1
Runbook: {RUNBOOKS}#portspecunexpectedportopen
Runbook: {RUNBOOKS}#portspecexpectedportmissing

Expected ports: 22
Open ports: 80, 443, 8080
Scanned: {SPELLED_NOW}
"""
    )


def test_body_of_a_host_in_specification() -> None:
    """The mail that ends a story says what was wrong, when that began, and between which scans it ended."""
    over = (replace_end(line("80", since=NOW - 7200), seen=NOW - 300, end=DeviationEnd.CHANGED),)
    text = body(mail(told(event=Event.IN_SPEC, resolved=over, open="22", since=NOW - 7200, until=NOW)))
    assert text.startswith(f"""\
web1 is in specification again, after 2 h.

What was wrong
- 80 (http) on {ADDRESS}: no longer open
  began 2023-11-14 20:13:20 UTC (21:13:20 CET)
  ended between 2023-11-14 22:08:20 UTC (23:08:20 CET) and {SPELLED_NOW}, after 2 h

What to do: Nothing.
""")
    assert "since" not in text


def replace_end(of: DeviationLine, *, seen: float | None, end: DeviationEnd) -> DeviationLine:
    """Make the line of what is over."""
    return DeviationLine(of.address, of.kind, "", of.ports, of.since, seen=seen, end=end)


@pytest.mark.parametrize(
    ("kind", "end", "expected"),
    [
        ("unexpected", DeviationEnd.ACCEPTED, "still open, but an exception accepts it"),
        ("unexpected", DeviationEnd.SPECIFIED, "still open, and expected or allowed by now"),
        ("unexpected", DeviationEnd.UNSCANNED, "no longer scanned, so nobody knows whether it is still open"),
        ("missing", DeviationEnd.CHANGED, "open again"),
        ("missing", DeviationEnd.ACCEPTED, "still missing, but an exception accepts it"),
        ("missing", DeviationEnd.SPECIFIED, "no longer expected"),
        ("missing", DeviationEnd.UNSCANNED, "no longer scanned, so nobody knows whether it is still missing"),
    ],
)
def test_how_a_deviation_ended(kind: str, end: DeviationEnd, expected: str) -> None:
    """What conf.yml ended is not said to have changed on the host; with an exception its end is told."""
    over = (replace_end(line("80", kind, since=NOW - 7200), seen=NOW - 300, end=end),)
    accepted = (AcceptedPorts("80", NOW + DAY, "move", "ops"),)
    text = body(mail(told(event=Event.IN_SPEC, resolved=over, accepted=accepted)))
    assert f"- 80 (http) on {ADDRESS}: {expected}\n" in text
    assert ("(move, owner: ops)" in text) == (end is DeviationEnd.ACCEPTED)
    assert ("ended" in text) == (end is DeviationEnd.CHANGED)


def test_what_an_older_version_noted_is_told() -> None:
    """Of a notification without the newer fields nothing is made up."""
    text = body(mail(told(event=Event.IN_SPEC, resolved=(line("80", state="", since=NOW - 7200),), open="22")))
    assert f"  ended by {SPELLED_NOW}, after 2 h\n" in text
    text = body(mail(told(event=Event.UNKNOWN, reason="resolve: x", is_unknown=True, since=NOW, open="none")))
    assert "What is known of its ports may be only a part.\n" in text
    assert "it was in specification" not in text


def test_body_of_a_host_that_cannot_be_seen() -> None:
    """The mail says since when and why nobody knows, and what was wrong when somebody did."""
    lines = (line("80", since=NOW - DAY),)
    notification = told(
        event=Event.UNKNOWN,
        reason="resolve: no\nsuch name",
        lines=lines,
        since=NOW - 300,
        is_unknown=True,
        last_seen=NOW - 7200,
    )
    assert body(mail(notification)).startswith(f"""\
web1 cannot be scanned: name does not resolve. Nobody knows whether it is in specification.

Scans have failed since 2023-11-14 22:08:20 UTC (23:08:20 CET), for 5 min: resolve: no\\nsuch name.

When it was last seen, 2023-11-14 20:13:20 UTC (21:13:20 CET), it was out of specification.

Open when last seen, not expected
- 80 (http) on {ADDRESS}
  first seen 2023-11-13 22:13:20 UTC (23:13:20 CET)
""")
    assert "Open ports when last seen: 80\n" in body(mail(notification))


def test_host_that_was_never_seen_has_no_ports() -> None:
    """Of a host that no scan has seen nothing is said to be closed, or to be in specification."""
    text = body(mail(told(event=Event.UNKNOWN, reason="no_route: x", is_unknown=True, since=NOW, open="")))
    assert "portspec has never seen it: nothing is known of its ports.\n" in text
    assert "Open ports when last seen: never seen\n" in text
    assert "last seen it was" not in text


def test_host_that_answers_nothing_is_said_to_answer_nothing() -> None:
    """A host without any answer is not said to have closed ports, nor to have closed what was open."""
    over = (replace_end(line("80", since=NOW - 7200), seen=NOW - 300, end=DeviationEnd.CHANGED),)
    text = body(mail(told(event=Event.DIFFERENT, lines=SILENT, resolved=over, answers_nothing=True, open="none")))
    assert text.startswith("web1 answers nothing: no port that portspec asks is open or refuses.\n")
    assert "Open ports: none: the host answers nothing\n" in text
    assert "80 (http) on 192.0.2.1: no longer answers, as nothing of the host does\n" in text
    assert "closed" not in text
    assert text.count("#portspechostdown\n") == 1


@pytest.mark.parametrize(
    ("holder", "expected"),
    [
        (
            ListeningProcesses("6379", "redis (www)", is_older=False),
            "redis (www) listens there, by the audit of ",
        ),
        (ListeningProcesses("6379", "redis (www)", is_older=True), "redis (www) listened there by the audit of "),
        (ListeningProcesses("6379", "", is_older=False), "nothing listens there by the audit of "),
        (ListeningProcesses("6379", "", is_older=True), "opened after the last audit, of "),
    ],
)
def test_who_listens_is_told_as_of_the_audit(holder: ListeningProcesses, expected: str) -> None:
    """What an audit says is told with its time, and an audit that is older than the port proves nothing."""
    text = body(mail(told(lines=(line("6379"),), listeners=(holder,), audited_at=NOW - 3600)))
    assert f"  {expected}2023-11-14 21:13:20 UTC (22:13:20 CET)" in text


def test_who_listens_is_told_of_each_port() -> None:
    """Where the ports of a line have different holders, each is named with its ports."""
    holders = (
        ListeningProcesses("80, 8080", "nginx (www)", is_older=False),
        ListeningProcesses("6379", "redis", is_older=False),
    )
    text = body(mail(told(lines=(line("80, 6379"), line("22")), listeners=holders, audited_at=NOW)))
    assert "  80: nginx (www) listens there" in text
    assert "  6379: redis listens there" in text
    assert text.count("listens there") == 2


def test_body_of_an_exception_that_ends() -> None:
    """The mail names ports, end, reason and owner of each exception."""
    until = NOW + 86_400
    items = (
        AcceptedPorts("80", until, "migration\nto db2", "ops"),
        AcceptedPorts("443", until + 1),
        AcceptedPorts("8080", NOW - NOW % DAY + 2 * DAY, "", "dev"),
    )
    assert """
Exceptions that end
- 80 (http): until 2023-11-15 22:13:20 UTC (23:13:20 CET) (migration\\nto db2, owner: ops)
  ends 2023-11-15 22:13:20 UTC (23:13:20 CET)
- 443 (https): until 2023-11-15 22:13:21 UTC (23:13:21 CET)
  ends 2023-11-15 22:13:21 UTC (23:13:21 CET)
- 8080 (http-alt): until 2023-11-15 (owner: dev)
  ends 2023-11-16 00:00:00 UTC (01:00:00 CET)
""" in body(mail(told(event=Event.EXPIRING, expiring=items)))


def test_links_lead_where_conf_yml_says() -> None:
    """With `external_url` the host is linked, however it is spelled, and `runbook_url` has the runbooks."""
    links = Links("https://portspec.example.org/x", "https://portspec.example.org/wiki")
    text = body(mail(told("2001:db8::1", lines=(line("80"),)), links=links))
    assert "\nHost: https://portspec.example.org/x/#2001:db8::1\n" in text
    assert "\nRunbook: https://portspec.example.org/wiki#portspecunexpectedportopen\n" in text
    assert "\nHost: https://portspec.example.org/x/#%3Ca%20%22b\n" in body(mail(told('<a "b'), links=links))
    assert "Host:" not in body(mail(told()))
    assert "\nAll hosts: https://portspec.example.org/x/\n" in body(digest_of([told()], links=links))


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("reason", ["", *Reason])
def test_runbooks_have_what_mails_link_to(event: Event, reason: str) -> None:
    """Every section that a mail leads to is there, under the URL that the rules have, too."""
    root = Path(__file__).parents[3]
    text = (root / "docs" / "runbooks.md").read_text(encoding="utf-8")
    lines = (line("80"), line("22", "missing", state="closed"))
    for is_silent in (False, True):
        notification = told(event=event, reason=reason, is_unknown=bool(reason), lines=lines, answers_nothing=is_silent)
        assert all(f"\n## {name}\n" in text for name in runbooks(notification))
    assert f"\n          url: {RUNBOOKS}\n" in (root / "alert_rules" / "portspec.rules.yml").read_text(encoding="utf-8")


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
def test_time_spans_are_for_people(seconds: float, expected: str) -> None:
    """A time span has the unit that people would choose, and is never longer than it was."""
    assert format_span(seconds) == expected


@given(st.text(max_size=30), st.integers(4, 40))
def test_text_is_cut_between_characters(text: str, limit: int) -> None:
    """What is cut is printable, no longer than asked for, and begins as the whole does."""
    found = cut(text, limit)
    assert len(found) <= limit
    assert found.isprintable()
    assert printable(text).startswith(found.removesuffix("...")) or found == printable(text)


@pytest.mark.parametrize("event", Event)
def test_every_kind_of_news_names_the_host(event: Event) -> None:
    """Whatever a mail is for, its first line has the host, and so has a digest's."""
    assert body(mail(told("db7", event))).splitlines()[0].startswith("db7")
    assert "\n- db7: " in body(digest_of([told("db7", event), told("db8", event)]))


@pytest.mark.parametrize(
    ("zone_name", "seconds", "spelled"),
    [
        ("CET-1CEST,M3.5.0,M10.5.0/3", NOW, SPELLED_NOW),
        ("CET-1CEST,M3.5.0,M10.5.0/3", NOW + 7200, "2023-11-15 00:13:20 UTC (01:13:20 CET)"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", NOW + 3600, "2023-11-14 23:13:20 UTC (2023-11-15 00:13:20 CET)"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", 1_690_000_000.9, "2023-07-22 04:26:40 UTC (06:26:40 CEST)"),
        ("EST5", NOW - 82_000, "2023-11-13 23:26:40 UTC (18:26:40 EST)"),
        ("EST5", NOW - 72_000, "2023-11-14 02:13:20 UTC (2023-11-13 21:13:20 EST)"),
        ("<+0545>-5:45", NOW, "2023-11-14 22:13:20 UTC (2023-11-15 03:58:20 +0545)"),
        ("UTC0", NOW, "2023-11-14 22:13:20 UTC"),
    ],
)
def test_times_are_in_utc_and_in_local_time(
    monkeypatch: pytest.MonkeyPatch, zone_name: str, seconds: float, spelled: str
) -> None:
    """Where the day is another one in local time, it is spelled; where both times are the same, it is spelled once."""
    set_time_zone(monkeypatch, zone_name)
    assert format_time(seconds) == spelled


def identity(notification: Notification, number: int = 1, recipient: str = RECIPIENT, now: float = NOW) -> str:
    """Give the Message-ID of a mail."""
    return str(mail(notification, number, recipient=recipient, now=now)["Message-ID"])


def test_same_mail_has_the_same_message_id() -> None:
    """A notification that is written again for the same recipient is the same mail, whenever that is."""
    assert identity(told()) == identity(told(), now=NOW + 86_400)
    assert identity(told()).endswith("@example.org>")


def test_other_mails_have_other_message_ids() -> None:
    """Each recipient, host, notification and time has a Message-ID of its own."""
    found = [
        identity(told()),
        identity(told(), 2),
        identity(told(), recipient="oncall@example.org"),
        identity(told("web2")),
        identity(told(event=Event.IN_SPEC)),
        identity(told(at=NOW + 1)),
    ]
    assert len(set(found)) == len(found)


def test_mails_of_a_host_are_one_conversation() -> None:
    """All that a host's mails refer to is the same, whatever they decide, and another host's is another."""
    mails = [mail(told(event=event, at=NOW + number), number) for number, event in enumerate(Event)]
    (thread,) = {message["References"] for message in mails}
    assert {message["In-Reply-To"] for message in mails} == {thread}
    assert thread not in {message["Message-ID"] for message in mails}
    other = mail(told("web2"))
    assert other["References"] == other["In-Reply-To"] != thread


def test_conversation_holds_together_with_a_long_domain() -> None:
    """References and In-Reply-To stand as they are on the line, however long the sender's domain is."""
    sender = f"portspec@{'department.' * 8}example.org"
    raw = render_mail(told(), 1, sender=sender, recipient=RECIPIENT, now=NOW)
    assert b"=?utf-8?" not in raw
    references = str(parsed(raw)["References"])
    assert references.startswith("<host.")
    assert references.endswith(f"@{sender.partition('@')[2]}>")


@pytest.mark.parametrize(
    "address",
    [
        "a@b",
        f"{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}",
        "first.last+tag@sub.example.org",
        "a@[192.0.2.1]",
        "a@[IPv6:2001:db8::1]",
        "!#$%&'*+/=?^_`{|}~-@example.org",
    ],
)
def test_address_stands_as_it_is_in_the_configuration(address: str) -> None:
    """Whatever address conf.yml may have is that of the mail, long, a literal, or odd."""
    message = parsed(render_mail(told(), 1, sender=address, recipient=address, now=NOW))
    assert message["To"].addresses[0].addr_spec == message["From"].addresses[0].addr_spec == address
    assert message["From"].addresses[0].display_name == "PortSpec"


@pytest.mark.parametrize("host", NASTY, ids=lambda host: ascii(host)[:20])
def test_name_of_a_host_injects_nothing(host: str) -> None:
    """A name is one line of printable characters wherever it stands, and is whole."""
    message = mail(told(host), links=Links("https://portspec.example.org"))
    assert set(message.keys()) == IN_THREAD
    assert str(message["Subject"]).startswith("[portspec] ")
    assert len(str(message["Subject"])) <= MAX_SUBJECT
    assert str(message["X-PortSpec-Alert"]) == f"PortSpec Alert [{printable(host)}]"
    assert body(message).splitlines()[0] == f"{printable(host)} is out of specification."
    many = digest_of([told(host), told("web2")])
    assert set(many.keys()) == IN_THREAD
    assert f"\n- {cut(host, 80)}: " in body(many)


@pytest.mark.parametrize("host", ENCODED_WORDS)
def test_name_that_looks_like_an_encoded_header_injects_nothing(host: str) -> None:
    """What RFC 2047 would have decoded is not, or a newline would come out of it."""
    message = mail(told(host))
    assert set(message.keys()) == IN_THREAD
    assert "\n" not in str(message["Subject"])
    assert str(message["Subject"]).startswith("[portspec] = ?utf-8?")
    assert "\n" not in str(message["X-PortSpec-Alert"])
    assert str(message["X-PortSpec-Alert"]).startswith("PortSpec Alert [=")


def test_reason_and_state_inject_nothing() -> None:
    """What a resolver or a configuration says cannot begin a line of its own."""
    notification = told(reason="a\r\nb", expiring=(AcceptedPorts("80", NOW, "c\r\nd", "e\u2028f"),))
    lines = body(mail(notification)).splitlines()
    assert not {"b", "d", "f"} & {text.strip(" ,()") for text in lines}
    assert any("a\\r\\nb" in text for text in lines)


def test_digest_tells_all_hosts_in_one_mail() -> None:
    """A mail about many hosts counts them by how they are, says what they share, and names the worst first."""
    notifications = [told(f"web{number}", lines=(line("80"),)) for number in range(8)]
    notifications += [
        told("db1", Event.IN_SPEC),
        told("db2", Event.UNKNOWN, reason="timeout: no answer", is_unknown=True),
        told("db3", lines=tuple(line(str(port)) for port in (1, 2, 3, 4, 5))),
        told("db4", Event.EXPIRING, expiring=(AcceptedPorts("80", NOW + 2 * DAY),)),
    ]
    message = digest_of(notifications)
    assert set(message.keys()) == IN_THREAD
    counts = "9 out of specification, 1 cannot be scanned, 1 with an exception that ends, 1 in specification again"
    assert str(message["X-PortSpec-Alert"]) == "PortSpec Alert [12 hosts]"
    assert str(message["Subject"]).startswith("[portspec] 12 hosts: 9 out of specification, 1 cannot be scanned, ")
    assert body(message).startswith(f"""\
12 hosts: {counts}.

The same on many hosts
- 80 (http) open on 8 hosts

Out of specification (9)
- db3: 1 (tcpmux) open, not expected, and 4 more
- 80 (http) open, not expected
  web0, web1, web2, web3, web4, web5, web6, web7

Cannot be scanned (1)
- db2: cannot be scanned: the scan takes too long

Exceptions that end (1)
- db4: exception for 80 (http) ends on Thursday

In specification again (1)
- db1: in specification again

What to do: So many at once""")
    assert f"\nScanned until: {SPELLED_NOW}\n" in body(message)


def test_digest_counts_a_host_once() -> None:
    """A host that is told of twice in one round is one of the hosts, as it is by now; no exception's end is lost."""
    ending = told("web2", Event.EXPIRING, expiring=(AcceptedPorts("80", NOW + 2 * DAY),))
    text = body(digest_of([told("web1"), told("web1", Event.IN_SPEC), told("web2"), ending]))
    counts = "1 out of specification, 1 with an exception that ends, 1 in specification again"
    assert text.startswith(f"2 hosts: {counts}.\n")
    assert "\n- web1: in specification again\n" in text
    assert text.count("web1") == 1
    assert "\n- web2: out of specification\n" in text
    assert "\n- web2: exception for 80 (http) ends on Thursday\n" in text


def test_digest_says_what_the_hosts_share() -> None:
    """Ports are counted also on hosts where very many deviate, and hosts that answer nothing are counted as that."""
    notifications = [told(f"web{number}", lines=(line("all"),)) for number in range(2)]
    notifications += [
        told(f"db{number}", lines=(line("6379"), line("22", "missing", state="closed"))) for number in range(4)
    ]
    notifications += [told(f"off{number}", lines=SILENT, answers_nothing=True) for number in range(3)]
    notifications += [told(f"x{number}", Event.UNKNOWN, reason="resolve: x", is_unknown=True) for number in range(3)]
    assert """
The same on many hosts
- 3 hosts answer nothing
- 6379 (redis) open on 6 hosts
- 22 (ssh) missing on 4 hosts
- name does not resolve: 3 hosts
""" in body(digest_of(notifications))


def test_digest_of_very_many_hosts_can_be_read() -> None:
    """Of ten thousand hosts the worst are named, some of each group, and it says how many more there are and where."""
    notifications = [told(f"web{number}", lines=(line("6379"),)) for number in range(9_000)]
    notifications += [
        told(f"db{number}", Event.UNKNOWN, reason="no_route: x", is_unknown=True) for number in range(990)
    ]
    notifications += [told(f"ok{number}", Event.IN_SPEC) for number in range(10)]
    message = digest_of(notifications, links=Links("https://portspec.example.org"))
    assert (
        str(message["Subject"])
        == ("[portspec] 10,000 hosts: 9,000 out of specification, 990 cannot be scanned, 10 in specification again")[
            : MAX_SUBJECT - 3
        ]
        + "..."
    )
    text = body(message)
    assert (
        f"\n{MAX_HOSTS} hosts are named here, the worst first; https://portspec.example.org/ shows all 10,000.\n"
        in text
    )
    assert "\n- 6379 (redis) open on 9,000 hosts\n" in text
    assert "\n- and 8,920 more hosts\n" in text
    assert "\n- and 980 more hosts\n" in text
    assert len(text.splitlines()) < 60
    assert len(message.as_bytes()) < 20_000
    assert "the page of the exporter, /, shows all 10,000." in body(digest_of(notifications))


def test_digests_differ_by_what_they_tell() -> None:
    """Each digest has a Message-ID of its own, the same when it is written again."""
    first, second = [told("web1"), told("web2")], [told("web1"), told("web3")]
    assert digest_of(first)["Message-ID"] == digest_of(first)["Message-ID"]
    assert (
        len({digest_of(first)["Message-ID"], digest_of(second)["Message-ID"], digest_of(first, 2)["Message-ID"]}) == 3
    )


def test_host_with_very_many_ports_is_a_mail_that_can_be_read() -> None:
    """Scattered ports by the thousand are cut where a reader would stop, between two ports."""
    ports = str(PortSet.of(range(1, 65_536, 2)))
    text = body(mail(told(open=ports, lines=(line(ports), *(line(str(port)) for port in range(1, 1000))))))
    assert len(text) < 20_000
    assert f"- and {1000 - MAX_LINES} more lines\n" in text
    (told_open,) = (text for text in text.splitlines() if text.startswith("Open ports:"))
    assert told_open.endswith(", …")
    assert set(told_open.removeprefix("Open ports:").removesuffix(", …").strip().split(", ")) <= set(ports.split(", "))


def test_ports_are_named_by_the_services_of_the_system() -> None:
    """Each port has its name, by the system or by the table; ranges and others have none; many ports are not named."""
    text = body(mail(told(lines=(line("4, 22, 80-82, 8080"), line(", ".join(map(str, range(1, 100, 2))))))))
    assert "- 4, 22 (ssh), 80-82, 8080 (http-alt) on " in text
    assert "- 1, 3, 5, 7, 9, 11, 13" in text


def test_test_mail_says_what_it_is() -> None:
    """The mail of `portspec mail-test` is told as one, from PortSpec to the recipient."""
    message = parsed(render_test_mail(sender=SENDER, recipient=RECIPIENT, now=NOW))
    assert set(message.keys()) == HEADERS
    assert str(message["Subject"]) == "[portspec] test mail"
    assert str(message["X-PortSpec-Alert"]) == "PortSpec Alert [test]"
    assert (str(message["From"]), str(message["To"])) == ("PortSpec <portspec@example.org>", RECIPIENT)
    assert f"Sent: {SPELLED_NOW}\n" in body(message)


def test_mail_about_the_state_file_says_why() -> None:
    """When mails wait for the state file, the mail that says so has the cause and the time, on lines of their own."""
    message = parsed(render_store_failure_mail("disk\nfull", sender=SENDER, recipient=RECIPIENT, now=NOW))
    assert str(message["Subject"]) == "[portspec] mails about hosts wait: the state file cannot be written"
    assert str(message["X-PortSpec-Alert"]) == "PortSpec Alert [portspec]"
    assert {"disk\\nfull", f"As of: {SPELLED_NOW}"} <= set(body(message).splitlines())


def test_mail_of_the_report_has_the_same_kind_of_subject() -> None:
    """The daily mail says in its subject what came out, with PortSpec's words in the header beside it."""
    raw = render_report_mail(
        "no machine needs attention", "Body.\n", b"<p>", sender=SENDER, recipient=RECIPIENT, now=NOW
    )
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message["Subject"] == "[portspec] report: no machine needs attention"
    assert message["X-PortSpec-Alert"] == "PortSpec Report [no machine needs attention]"


def test_mails_about_many_hosts_are_one_conversation() -> None:
    """Storms, and what follows them, stand together, apart from the mails about one host."""
    first, second = digest_of([told("web1"), told("web2")]), digest_of([told("web3"), told("web4")], 2)
    assert first["References"] == first["In-Reply-To"] == second["References"]
    assert first["References"] != mail(told(""))["References"]
    assert first["Message-ID"] != second["Message-ID"]


TEXTS = st.text(max_size=40) | st.sampled_from(NASTY)
TIMES = st.floats(0, 4e9)
PORTS = st.lists(st.integers(1, 65_535), max_size=30).map(lambda ports: str(PortSet.of(ports)))
ADDRESSES = st.ip_addresses().map(str)
SOME_TIME = st.none() | TIMES
LINES = st.lists(
    st.builds(
        DeviationLine,
        address=ADDRESSES,
        kind=st.sampled_from(["missing", "unexpected"]),
        state=st.sampled_from(["open", "closed", "filtered"]) | TEXTS,
        ports=PORTS,
        since=TIMES,
        opened=SOME_TIME,
        seen=SOME_TIME,
        end=st.sampled_from([*DeviationEnd, ""]) | TEXTS,
    ),
    max_size=4,
).map(tuple)
ACCEPTANCES = st.lists(st.builds(AcceptedPorts, PORTS, TIMES, TEXTS, TEXTS), max_size=2).map(tuple)
REASONS = TEXTS | st.builds("{}: {}".format, st.sampled_from(Reason), TEXTS)
NOTIFICATIONS = st.builds(
    Notification,
    host=TEXTS,
    event=st.sampled_from(Event),
    at=TIMES,
    expected=PORTS,
    open=PORTS | st.just(""),
    lines=LINES,
    resolved=LINES,
    since=SOME_TIME,
    reason=REASONS,
    is_unknown=st.booleans(),
    expiring=ACCEPTANCES,
    last_seen=SOME_TIME,
    until=SOME_TIME,
    answers_nothing=st.booleans(),
    expired=ACCEPTANCES,
    accepted=ACCEPTANCES,
    unknown_period=st.none() | st.builds(UnknownPeriod, TIMES, TIMES, TEXTS),
    listeners=st.lists(st.builds(ListeningProcesses, PORTS, TEXTS, st.booleans()), max_size=3).map(tuple),
    audited_at=SOME_TIME,
)


@MODEST
@given(NOTIFICATIONS, st.integers(1, 2**63 - 1), TIMES)
def test_whatever_is_told_is_a_mail(notification: Notification, number: int, now: float) -> None:
    """Any notification is a mail that any server passes on; text and HTML say the same, and no text of others is markup."""
    message = mail(notification, number, now=now, links=Links("https://portspec.example.org"))
    assert set(message.keys()) == IN_THREAD
    assert len(str(message["Subject"]).replace("= ?", "=?")) <= MAX_SUBJECT
    if "=?" not in notification.host:
        assert str(message["X-PortSpec-Alert"]) == f"PortSpec Alert [{printable(notification.host)}]"
    assert body(message).startswith(printable(notification.host))
    assert all(text.isprintable() for text in body(message).splitlines())


@MODEST
@given(st.lists(NOTIFICATIONS, min_size=1, max_size=15))
def test_whatever_is_told_together_is_a_mail(notifications: list[Notification]) -> None:
    """Any notifications are a digest that any server passes on; text and HTML say the same."""
    message = digest_of(notifications)
    assert set(message.keys()) == IN_THREAD
    assert len(str(message["Subject"])) <= MAX_SUBJECT
    assert str(message["Subject"]).startswith("[portspec] ")
