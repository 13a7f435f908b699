from __future__ import annotations

from pathlib import Path

import pytest

from portspec.notify.content import RUNBOOKS, Links
from portspec.notify.host_mail import MAX_LINES, runbooks
from portspec.notify.notification import (
    AcceptedPorts,
    DeviationEnd,
    Event,
    ListeningProcesses,
)
from portspec.ports import PortSet
from portspec.scan import Reason
from tests.unit.factories import ADDRESS, NOW
from tests.unit.notify.mails import DAY, NOW_TEXT, body, digest_of, line, mail, make_notification, resolved

pytestmark = pytest.mark.usefixtures("few_services", "central_europe")


@pytest.mark.parametrize(
    ("kind", "end", "expected"),
    [
        ("unexpected", DeviationEnd.ACCEPTED, "still open, but an exception accepts it"),
        ("unexpected", DeviationEnd.SPECIFIED, "still open, and expected or allowed now"),
        ("unexpected", DeviationEnd.UNSCANNED, "no longer scanned, so it is unknown whether it is still open"),
        ("missing", DeviationEnd.CHANGED, "open again"),
        ("missing", DeviationEnd.ACCEPTED, "still missing, but an exception accepts it"),
        ("missing", DeviationEnd.SPECIFIED, "no longer expected"),
        ("missing", DeviationEnd.UNSCANNED, "no longer scanned, so it is unknown whether it is still missing"),
    ],
)
def test_mail_says_how_a_deviation_ended(kind: str, end: DeviationEnd, expected: str) -> None:
    """A change of conf.yml is not described as a change of the host; an exception is described with its end."""
    over = (resolved(line("80", kind, since=NOW - 7200), seen=NOW - 300, end=end),)
    accepted = (AcceptedPorts("80", NOW + DAY, "move", "ops"),)
    text = body(mail(make_notification(event=Event.IN_SPEC, resolved=over, accepted=accepted)))
    assert f"- 80 (http) on {ADDRESS}: {expected}\n" in text
    assert ("(move, owner: ops)" in text) == (end is DeviationEnd.ACCEPTED)
    assert ("ended" in text) == (end is DeviationEnd.CHANGED)


def test_notification_of_an_older_version_lacks_the_newer_facts() -> None:
    """Facts that an older version did not record are left out."""
    text = body(
        mail(make_notification(event=Event.IN_SPEC, resolved=(line("80", state="", since=NOW - 7200),), open="22"))
    )
    assert f"  ended by {NOW_TEXT}, after 2 h\n" in text
    text = body(
        mail(make_notification(event=Event.UNKNOWN, reason="resolve: x", is_unknown=True, since=NOW, open="none"))
    )
    assert "What is known about its ports may be incomplete.\n" in text
    assert "it was in specification" not in text


@pytest.mark.parametrize(
    ("holder", "expected"),
    [
        (
            ListeningProcesses("6379", "redis (www)", is_older=False),
            "redis (www) listens there according to the audit of ",
        ),
        (
            ListeningProcesses("6379", "redis (www)", is_older=True),
            "redis (www) listened there according to the audit of ",
        ),
        (ListeningProcesses("6379", "", is_older=False), "nothing listens there according to the audit of "),
        (ListeningProcesses("6379", "", is_older=True), "opened after the last audit, of "),
    ],
)
def test_listening_process_has_the_time_of_the_audit(holder: ListeningProcesses, expected: str) -> None:
    """The mail says whether the audit is older than the open port."""
    text = body(mail(make_notification(lines=(line("6379"),), listeners=(holder,), audited_at=NOW - 3600)))
    assert f"  {expected}2023-11-14 21:13:20 UTC (22:13:20 CET)" in text


def test_listening_processes_are_named_by_port() -> None:
    """If the ports of a line have different processes, each process is named with its ports."""
    holders = (
        ListeningProcesses("80, 8080", "nginx (www)", is_older=False),
        ListeningProcesses("6379", "redis", is_older=False),
    )
    text = body(mail(make_notification(lines=(line("80, 6379"), line("22")), listeners=holders, audited_at=NOW)))
    assert "  80: nginx (www) listens there" in text
    assert "  6379: redis listens there" in text
    assert text.count("listens there") == 2


def test_open_ports_have_their_severity_and_why_the_most_severe_first() -> None:
    """A port of which no reason is known has its severity only, and a line of an older version has none."""
    lines = (
        line("61234", severity="info"),
        line("22"),
        line("8443", severity="warning"),
        line("23, 6379, 50001", severity="critical"),
    )
    text = body(mail(make_notification(lines=lines)))
    assert "severity: critical 23: Telnet sends passwords in clear text" in " ".join(text.split())
    assert " 6379: Redis is for trusted clients only" in " ".join(text.split())
    assert text.index("6379 (redis)") < text.index("8443 (https-alt)") < text.index("61234 on") < text.index("22 (ssh)")
    assert text.count("severity:") == 3


def test_only_some_reasons_of_many_ports_are_named() -> None:
    """A host that answers on all ports does not fill the mail with what their services are: critical ones are first."""
    text = body(mail(make_notification(lines=(line("all", severity="critical"),))))
    assert "highest severity: critical" in text
    assert " 23, 2323: Telnet" in text
    assert "7: Echo" not in text
    assert "more reasons" in text


def test_what_is_new_comes_before_what_is_severe() -> None:
    """Of many lines those are shown that the recipients do not know yet."""
    old = [line(str(port), severity="critical", since=NOW - DAY) for port in range(20_000, 20_120, 2)]
    text = body(mail(make_notification(event=Event.DIFFERENT, lines=(*old, line("8080", severity="warning")))))
    assert "8080 (http-alt) on 192.0.2.1, new" in text


def test_mail_names_each_exception_that_ends() -> None:
    """Each exception has its ports, end, reason and owner."""
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
""" in body(mail(make_notification(event=Event.EXPIRING, expiring=items)))


def test_links_have_the_configured_urls() -> None:
    """`external_url` is the base of the link to a host, `runbook_url` that of the runbooks."""
    links = Links("https://portspec.example.org/x", "https://portspec.example.org/wiki")
    text = body(mail(make_notification("2001:db8::1", lines=(line("80"),)), links=links))
    assert "\nHost: https://portspec.example.org/x/hosts/2001:db8::1\n" in text
    assert "\nRunbook: https://portspec.example.org/wiki#portspecunexpectedportopen\n" in text
    assert "\nHost: https://portspec.example.org/x/hosts/%3Ca%20%22b\n" in body(
        mail(make_notification('<a "b'), links=links)
    )
    assert "Host:" not in body(mail(make_notification()))
    assert "\nAll hosts: https://portspec.example.org/x/\n" in body(digest_of([make_notification()], links=links))


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("reason", ["", *Reason])
def test_linked_runbooks_exist(event: Event, reason: str) -> None:
    """Each section that a mail links to exists, under the URL that the alerts have, too."""
    root = Path(__file__).parents[3]
    text = (root / "docs" / "runbooks.md").read_text(encoding="utf-8")
    lines = (line("80"), line("22", "missing", state="closed"))
    for is_silent in (False, True):
        notification = make_notification(
            event=event, reason=reason, is_unknown=bool(reason), lines=lines, answers_nothing=is_silent
        )
        assert all(f"\n## {name}\n" in text for name in runbooks(notification))
    assert f"\n          url: {RUNBOOKS}\n" in (root / "alert_rules" / "portspec.rules.yml").read_text(encoding="utf-8")


def test_mail_about_very_many_ports_is_short() -> None:
    """Long lists of ports are truncated between two ports, and further lines are counted."""
    ports = str(PortSet.of(range(1, 65_536, 2)))
    text = body(mail(make_notification(open=ports, lines=(line(ports), *(line(str(port)) for port in range(1, 1000))))))
    assert len(text) < 20_000
    assert f"- and {1000 - MAX_LINES} more lines\n" in text
    (told_open,) = (text for text in text.splitlines() if text.startswith("Open ports:"))
    assert told_open.endswith(", …")
    assert set(told_open.removeprefix("Open ports:").removesuffix(", …").strip().split(", ")) <= set(ports.split(", "))
