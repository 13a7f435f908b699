from __future__ import annotations

from dataclasses import replace

import pytest

from portspec.report import FORMATS, ReportSettings, mail_report, write_report
from portspec.state.snapshot import Snapshot
from tests.unit.factories import NOW, seen, target, window
from tests.unit.report.fleets import HOUR, SETTINGS, audited, fleet, never, scanned, snapshot_of, vulnerability
from tests.unit.report.reading import written


def test_text_fits_a_terminal() -> None:
    """No line has more than 100 columns, but for words that are longer; none ends in a space."""
    address = "https://" + "x" * 200
    of = snapshot_of(
        audits=[
            *fleet().audits.values(),
            audited(
                "a", vulnerability(title="word " * 60, url=address, fixed_in=[f"1.{number}" for number in range(50)])
            ),
        ]
    )
    lines = written(of, "text").split("\n")
    assert {line.strip() for line in lines if len(line) > 100} == {address}
    assert max(len(line) for line in lines if address not in line) > 95
    assert not [line for line in lines if line != line.rstrip()]


def test_text_says_what_the_page_says() -> None:
    """A machine's section has its head, vulnerabilities with their URLs, what is accepted, and its sockets."""
    section = written(fleet(), "text").split("\nweb1\n----\n")[1].split("\n\n")[0]
    assert (
        section
        == """\
Ports                         in specification
Scanned                       2023-11-14 22:08:20 UTC (5 minutes ago)
Expected                      22, 443
Open                          192.0.2.6: 22, 443 (1 closed, 0 filtered)
Audit                         vulnerable: 1 vulnerability in 1 package (1 medium)
Audited                       2023-11-14 19:13:20 UTC (3 hours ago): debsecan 0.4.20.1
                              database of 2023-11-14 17:13:20 UTC, 5 hours old
Vulnerabilities:
  medium: openssl 3.0.11-1~deb12u1: CVE-2023-5678, fixed in 3.0.11-1~deb12u2
    a certificate with a long chain takes for ever
    https://security-tracker.debian.org/tracker/CVE-2023-5678
Accepted vulnerabilities:
  high: libsqlite3-0 3.40.1-2: CVE-2023-7104
    a session extension reads behind a buffer
    https://security-tracker.debian.org/tracker/CVE-2023-7104
    until 2023-12-14 22:13:20 UTC; the extension is not used; owner: Grace
Listening sockets, according to the audit:
  22 on 0.0.0.0, ::: sshd (user root)
  443 on 0.0.0.0: nginx (user root)"""
    )


def test_maintenance_is_told() -> None:
    """A machine under maintenance shows until when, why, and whose it is; so does the list of what needs attention."""
    lasting = window(NOW - HOUR, NOW + HOUR, "new disks", "ops")
    deviating = scanned(replace(target("db1", expect=[22]), maintenance=(lasting,)), seen(is_open=[22, 80]))
    well = scanned(replace(target("db2", expect=[22]), maintenance=(lasting,)), seen(is_open=[22]))
    text = written(snapshot_of([deviating, well]), "text")
    until = "until 2023-11-14 23:13:20 UTC"
    assert text.count(f"under maintenance {until}") == 1
    lines = text.split("\n")
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("Maintenance")] == [until] * 2
    assert [line.strip() for line in lines].count("new disks") == 2
    assert [line.strip() for line in lines].count("owner: ops") == 2


def test_text_without_machines() -> None:
    """A configuration without hosts gives a report that says so, and no empty tables."""
    assert written(Snapshot(), "text") == (
        "portspec: report of all machines\n2023-11-14 22:13:20 UTC\n\n"
        "No machines: conf.yml names no hosts to scan and no hosts to audit.\n"
    )


def test_unknown_format_is_refused() -> None:
    """A format that there is not is refused before anything is written, with those that there are."""
    with pytest.raises(ValueError, match=r'^"pdf" is not a format \(expected html, text, json\)$'):
        write_report(Snapshot(), SETTINGS, NOW, "pdf")
    assert FORMATS == ("html", "text", "json")


def test_mail_has_the_numbers_and_what_needs_attention() -> None:
    """The daily mail has a subject that tells how many need attention, the summary, each of them, and no more."""
    outcome, body = mail_report(fleet(), SETTINGS, NOW)
    assert outcome == "11 of 12 machines need attention"
    assert body.startswith("Machines         12, of which 11 need attention\nPorts            2 out of specification, ")
    assert "\nshop\n  - unexpected 6379: redis-server (user redis)\n  - unexpected 8080: " in body
    assert "\nnew\n  - not scanned yet\n" in body
    assert "app1" not in body
    assert "CVE-" not in body
    assert body.endswith("\nAs of 2023-11-14 22:13:20 UTC.\n")
    assert max(map(len, body.split("\n"))) <= 100


def test_mail_names_at_most_100_machines() -> None:
    """Of many machines that need attention the most pressing are named, with how many more there are."""
    of = snapshot_of(
        [scanned(target("worst"), seen(is_open=[22]))], [never(f"laptop{number}") for number in range(1, 1201)]
    )
    outcome, body = mail_report(of, ReportSettings(), NOW)
    assert outcome == "1,201 of 1,201 machines need attention"
    assert "\nworst\n  - unexpected 22\n" in body
    assert "\nlaptop99\n" in body
    assert "\nlaptop100\n" not in body
    assert "\nand 1,101 more machines\n" in body
    assert body.count("  - audit never received\n") == 99


@pytest.mark.parametrize(
    ("audits", "subject"),
    [
        ([], "no machines"),
        ([audited("a")], "no machine needs attention"),
        ([audited("a", age=27 * HOUR)], "1 of 1 machine needs attention"),
        ([never("a"), audited("b")], "1 of 2 machines needs attention"),
    ],
)
def test_mail_when_there_is_little_to_say(audits: list[object], subject: str) -> None:
    """The subject tells when nothing needs attention; the mail is written all the same."""
    found, body = mail_report(snapshot_of(audits=audits), ReportSettings(), NOW)  # type: ignore[arg-type]
    assert found == subject
    assert ("No machine needs attention.\n" in body) == ("no machine needs" in subject)
    assert "The whole report" not in body
