from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from typing import Final

import pytest

from portspec.audit.model import Severity, Status
from portspec.audit.priority import Facts, Finding
from portspec.audit.reach import Exposure, Reach
from portspec.config import PortException
from portspec.ports import ALL_PORTS, PortSet
from portspec.priorities import Priority
from portspec.report import ReportSettings, write_report
from portspec.report.html import VulnerabilityRows
from portspec.report.view import MAX_SOCKETS
from portspec.scan import AddressObservation
from portspec.state.snapshot import HostState, Snapshot
from tests.unit.factories import ADDRESS, NOW, result, seen, target
from tests.unit.report.fleets import (
    DAY,
    HOUR,
    SSHD,
    accept,
    audited,
    fleet,
    listener,
    never,
    scanned,
    snapshot_of,
    vulnerability,
)
from tests.unit.report.reading import Section, page, written

ANY: Final = "0.0.0.0"  # noqa: S104 - what a report says
SHOP: Final = (
    "unexpected 6379: redis-server (user redis); unexpected 8080: no listener according to the audit; "
    "3 vulnerabilities (1 critical, 1 high, 1 low); missing 443"
)
FAILED: Final = (
    'audit failed: no output, expected the summary of debsecan (exit status 1, standard error ends with "timed out")'
)


def section(of: Snapshot) -> Section:
    """Return the section of the only machine."""
    (only,) = page(of, ReportSettings()).sections.values()
    return only


def test_page_needs_nothing_else() -> None:
    """The page has no script and no link to a file, and its policy forbids all but its own style."""
    found = page(fleet())
    digest = base64.b64encode(hashlib.sha256(found.style.encode()).digest()).decode()
    assert found.policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    tags = Counter(tag for tag, _ in found.tags)
    assert not {"script", "link", "img", "iframe", "form", "base", "object", "svg"} & set(tags)
    names = {name for _, attributes in found.tags for name, _ in attributes}
    assert not any(name.startswith("on") or name in ("src", "style") for name in names)
    assert all(href.startswith(("#host-", "https://security-tracker.debian.org/")) for href, _ in found.links)
    assert (tags["h1"], tags["title"], tags["style"]) == (1, 1, 1)
    assert "url(" not in found.style
    assert "@import" not in found.style


def test_page_says_of_when_it_is() -> None:
    """Title and head tell the time of the report."""
    found = page(fleet())
    assert found.title == "portspec: report of all machines, 2023-11-14 22:13:20 UTC"
    assert found.top.paragraphs[0] == "2023-11-14 22:13:20 UTC"


def test_summary_in_words() -> None:
    """The summary stands at the top, in words that need no colour."""
    assert page(fleet()).summary == {
        "Machines": "12, of which 11 need attention",
        "Ports": "2 out of specification, 2 unknown, 5 in specification, 1 not scanned yet, 2 not scanned (audit only)",
        "Audits": "3 clean, 2 vulnerable, 1 failed, 1 stale database, 1 unsupported, 1 never received",
        "Vulnerabilities": "4 on 2 machines (1 critical, 1 high, 1 medium, 1 low)",
        "By class": "2 plan, 2 rest",
        "Late audits": "1 older than 26 hours",
    }


def test_machines_that_need_attention_lead_to_their_sections() -> None:
    """Each of them stands in the table with all that is wrong, and its name leads to its section."""
    found = page(fleet())
    assert found.pressing == [
        [
            "shop",
            SHOP,
        ],
        ["db1", "unexpected 8080; unknown: no connection to 192.0.2.40: no_route (no_route)"],
        ["web1", "1 vulnerability (1 medium)"],
        ["web2", "missing 443"],
        [
            "192.0.2.130",
            FAILED,
        ],
        ["2001:db8::25", "stale database: the database is of 2023-10-01, 44 days old; update it"],
        ["laptop7", 'audit unsupported: "winget" is not a tool whose output is known'],
        ["dns1", "last audit 2 days ago"],
        ["laptop10", "audit never received"],
        ["gone", "unknown: gone.example.org does not resolve: no such name (resolve)"],
        ["new", "not scanned yet"],
    ]
    inner = [(href, text) for href, text in found.links if href.startswith("#")]
    assert [(found.sections[href[1:]].name, text) for href, text in inner] == [(text, text) for _, text in inner]
    assert [text for _, text in inner] == [name for name, _ in found.pressing]
    assert [each.name for each in found.sections.values()] == [*(name for name, _ in found.pressing), "app1"]


def test_both_views_of_a_machine() -> None:
    """A section tells what was seen from outside, what listens inside, and where the two do not agree."""
    assert page(fleet()).named("shop").facts == {
        "Ports": ["out of specification"],
        "Scanned": ["2023-11-14 22:08:20 UTC (5 minutes ago)"],
        "Expected": ["22, 443"],
        "Open": [
            "192.0.2.80: 22, 443, 6379, 8080 (2 closed, 1 filtered)",
            "2001:db8::80: 22, 6379 (5 closed, 0 filtered)",
        ],
        "Unexpected": [
            "6379 on 192.0.2.80: redis-server (user redis)",
            "8080 on 192.0.2.80: no listener according to the audit",
            "6379 on 2001:db8::80: redis-server (user redis)",
        ],
        "Missing": ["443 on 2001:db8::80: closed"],
        "Listening but not reachable": ["3306: mariadbd (user mysql)"],
        "Reachable without listener": ["8080"],
        "Audit": ["vulnerable: 3 vulnerabilities in 3 packages (1 critical, 1 high, 1 low)"],
        "Audited": [
            "2023-11-14 19:13:20 UTC (3 hours ago): debsecan 0.4.20.1",
            "database of 2023-11-14 17:13:20 UTC, 5 hours old",
        ],
    }


UNSEEN = "whether it is reachable is unknown: the audit does not tell which files sshd on port 22 runs"


def test_vulnerabilities_with_their_links() -> None:
    """A vulnerability has its class and why, severity, package, version, id, title, and the versions without it.

    The advisories that tell of it stand beside the id, the files that it is in beside the package.
    """
    found = page(fleet())
    rows = found.named("shop").rows("Vulnerabilities")
    assert rows[:2] == [
        [
            "plan, critical",
            "redis-server 5:7.0.15-1~deb12u1",
            f"CVE-2022-0543: Lua scripts leave their sandbox\ncritical severity; {UNSEEN}",
            "5:7.0.15-1~deb12u2, 5:7.2.4-1",
        ],
        [
            "plan, high",
            "openssl 3.0.11-1~deb12u1\nin usr/lib/x86_64-linux-gnu/libssl.so.3",
            f"CVE-2023-0001 (DSA-5532-1): a certificate with a long chain takes for ever\nhigh severity; {UNSEEN}",
            "3.0.11-1~deb12u2",
        ],
    ]
    assert (rows[2][0], rows[2][3], len(rows)) == ("rest, low", "-", 3)
    assert ("https://security-tracker.debian.org/tracker/CVE-2022-0543", "CVE-2022-0543") in found.links


def test_accepted_vulnerabilities_stand_apart() -> None:
    """What is accepted stands in a table of its own, with until when, why and by whom."""
    found = page(fleet()).named("web1")
    assert [row[2] for row in found.rows("Vulnerabilities")] == [
        "CVE-2023-5678: a certificate with a long chain takes for ever"
    ]
    assert found.rows("Accepted vulnerabilities") == [
        [
            "high",
            "libsqlite3-0 3.40.1-2",
            "CVE-2023-7104: a session extension reads behind a buffer",
            "-",
            "until 2023-12-14 22:13:20 UTC; the extension is not used; owner: Grace",
        ]
    ]


def test_listening_sockets_by_port() -> None:
    """A port and program stand once with all their addresses, those that only the machine itself can reach as well."""
    assert page(fleet()).named("shop").rows("Listening sockets, according to the audit") == [
        ["22", f"{ANY}, ::", "sshd", "root", "-"],
        ["443", ANY, "nginx", "root", "-"],
        ["443", ANY, "nginx", "www-data", "-"],
        ["3306", ANY, "mariadbd", "mysql", "-"],
        ["5432", "127.0.0.1", "postgres", "postgres", "-"],
        ["6379", f"{ANY}, ::", "redis-server", "redis", "-"],
        ["68/udp", ANY, "-", "root", "-"],
    ]


def test_accepted_ports_and_an_older_verdict() -> None:
    """Ports that are accepted stand with until when and why; what is of an earlier scan says so."""
    facts = page(fleet()).named("db1").facts
    assert facts["Ports"] == ["unknown: no connection to 192.0.2.40: no_route (no_route)"]
    assert facts["Scanned"] == [
        "2023-11-14 22:12:20 UTC (1 minute ago)",
        "the results below are from 2023-11-14 21:13:20 UTC (1 hour ago), the last conclusive scan",
    ]
    assert facts["Open"] == [
        "192.0.2.40: 22, 5432, 8080, 9000 (0 closed, 0 filtered)",
        "192.0.2.41: scan failed: no connection to 192.0.2.41: no_route (no_route)",
    ]
    assert facts["Unexpected"] == ["8080 on 192.0.2.40"]
    assert facts["Accepted"] == [
        "9000 on 192.0.2.40, unexpected: until 2023-12-04 22:13:20 UTC; a trial of the new back-end; owner: Ada"
    ]
    assert facts["Audit"] == ["not required"]


def test_machines_that_only_report() -> None:
    """A machine off the scan says so; one that never reported says that."""
    found = page(fleet())
    assert found.named("laptop10").facts == {
        "Ports": ["not scanned (audit only)"],
        "Audit": ["never received"],
    }
    assert found.named("laptop7").facts["Audited"] == [
        "2023-11-14 19:13:20 UTC (3 hours ago): winget",
        "database of unknown age",
    ]
    assert found.named("dns1").facts["Audited"][0] == "2023-11-12 20:13:20 UTC (2 days ago), late: debsecan 0.4.20.1"


def test_machine_before_its_first_scan() -> None:
    """What was not scanned yet has no addresses, and is no machine in specification."""
    assert page(fleet()).named("new").facts == {
        "Ports": ["not scanned yet"],
        "Expected": ["22"],
        "Audit": ["not required"],
    }


def test_page_without_machines_says_so() -> None:
    """A configuration without hosts gives a page that says why it is empty."""
    found = page(Snapshot())
    assert found.top.paragraphs[1:] == ["No machines: conf.yml names no hosts to scan and no hosts to audit."]
    assert not found.sections


def test_page_of_machines_in_order() -> None:
    """Where nothing is wrong, the page says that instead of a table; without audits there is nothing to count."""
    found = page(snapshot_of([scanned(target("a", expect=[22]), seen(is_open=[22]))]))
    assert found.top.paragraphs[1:] == ["No machine needs attention."]
    assert found.summary["Machines"] == "1, of which 0 need attention"
    assert found.summary["Audits"] == "not required of any machine"
    assert "Late audits" not in found.summary


def test_port_that_was_opened_after_the_last_audit() -> None:
    """Nobody is accused of a port that is merely newer than the audit: it is told when that was made."""
    of = target("a", expect=[22])
    before = HostState(of).after(result(of, seen(ADDRESS, is_open=[22]), at=NOW - DAY))
    state = before.after(result(of, seen(ADDRESS, is_open=[22, 8080]), at=NOW - 60))
    found = section(snapshot_of([replace(state, judged_at=NOW)], [audited("a", age=3600.0, listeners=SSHD)])).facts
    words = "opened after the last audit of 2023-11-14 21:13:20 UTC"
    assert found["Unexpected"] == [f"8080 on 192.0.2.1: {words}"]
    assert found["Newly reachable"] == [f"8080: {words}"]
    assert "Reachable without listener" not in found


def test_every_port_open() -> None:
    """65,535 open ports are ranges, whether somebody listens on them or not."""
    of = target("a", expect=[22], allow=[25])
    seen_all = AddressObservation(ADDRESS, ALL_PORTS, ALL_PORTS, answered=True)
    facts = section(snapshot_of([scanned(of, seen_all)], [audited("a", listeners=SSHD)])).facts
    assert facts["Open"] == ["192.0.2.1: all (0 closed, 0 filtered)"]
    rest = "1-21, 23, 24, 26-65535"
    assert facts["Unexpected"] == [f"{rest} on 192.0.2.1: no listener according to the audit"]
    assert facts["Reachable without listener"] == ["1-21, 23-65535"]
    assert facts["Allowed"] == ["25"]


def test_very_many_ports_are_cut() -> None:
    """Ports that are no ranges are told up to a number, and then how many there are; nothing is left out silently."""
    odd = PortSet.of(range(1, 65536, 2))
    of = snapshot_of([scanned(target("a"), AddressObservation(ADDRESS, ALL_PORTS, odd, answered=True))])
    facts = section(of).facts
    assert facts["Unexpected"][0].endswith("197, 199 and more (32,768 ports in total) on 192.0.2.1")
    assert len(written(of, "html")) < 20_000


def test_very_many_programs_are_cut() -> None:
    """Lines, programs of a port, addresses and sockets are told up to a number, and then how many more there are."""
    ports = range(1, 2001)
    listeners = [listener(port, f"p{port}", "root") for port in ports]
    listeners += [listener(22, f"q{number}", "root") for number in range(7)]
    listeners += [listener(53, "named", "bind", address=f"192.0.2.{number}") for number in range(25)]
    of = snapshot_of([scanned(target("a"), seen(is_open=ports))], [audited("a", listeners=listeners)])
    found = section(of)
    assert found.facts["Unexpected"][0] == "1 on 192.0.2.1: p1 (user root)"
    assert found.facts["Unexpected"][21].endswith(
        "p22 (user root), q0 (user root), q1 (user root), q2 (user root), q3 (user root) and 3 more"
    )
    assert found.facts["Unexpected"][-1] == "and 1,900 more lines"
    rows = found.rows("Listening sockets, according to the audit")
    assert len(rows) == MAX_SOCKETS
    assert next(row for row in rows if row[2] == "named")[1].endswith("192.0.2.19 and 5 more")
    assert found.paragraphs == ["and 1,008 more"]
    assert page(of).pressing[0][1] == "; ".join(
        [
            *(f"unexpected {port}: p{port} (user root)" for port in range(1, 6)),
            "and more (2,000 unexpected ports in total)",
        ]
    )


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,x",
        "ftp://a/b",
        "//a/b",
        " https://a",
        "\x01javascript:alert(1)",
        "java\nscript:alert(1)",
        "https",
    ],
)
def test_only_web_pages_are_linked(url: str) -> None:
    """A URL that is no http or https one is no link; the vulnerability is shown all the same."""
    found = page(snapshot_of(audits=[audited("a", vulnerability(url=url, title=""))]), ReportSettings())
    assert [href for href, _ in found.links] == ["#host-a"]
    assert found.named("a").rows("Vulnerabilities")[0][2].split("\n")[0] == "CVE-2023-0001"


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("CVE-2026-12345", ["https://www.cve.org/CVERecord?id=CVE-2026-12345"]),
        ("GHSA-5wv5-4vpf-pj6m", ["https://osv.dev/vulnerability/GHSA-5wv5-4vpf-pj6m"]),
        ("TEMP-0000000-ABCDEF", []),
        ("CVE-2026-1<b>", []),
    ],
)
def test_id_leads_to_its_page_where_the_tool_names_none(name: str, link: list[str]) -> None:
    """Some tools print no URL: an id of a known kind is a link to where it is described."""
    found = page(snapshot_of(audits=[audited("a", vulnerability(name, url="", title=""))]), ReportSettings())
    assert [href for href, _ in found.links if href != "#host-a"] == link


@pytest.mark.parametrize("url", ["https://a/b?c=1&d=<2>", "HTTPS://A/", "http://a/'\"", "https://a/\udc80\u202e"])
def test_links_lead_where_they_say(url: str) -> None:
    """A link has the URL of the report, whatever characters are in it; what is not printable is spelled out."""
    found = page(snapshot_of(audits=[audited("a", vulnerability(url=url))]), ReportSettings())
    shown = url.replace("\udc80", "\\udc80").replace("\u202e", "\\u202e")
    assert (shown, "CVE-2023-0001") in found.links


def test_vulnerability_without_an_id() -> None:
    """A vulnerability of which the tool gives no id has its title, once; without both that is said."""
    audit = audited("a", vulnerability("a title", title="a title", url=""), vulnerability("", title="", url=""))
    rows = section(snapshot_of(audits=[audit])).rows("Vulnerabilities")
    assert [row[2].split("\n")[0] for row in rows] == ["a title", "without an id"]


def test_finding_that_many_machines_share() -> None:
    """Each machine shows its own vulnerabilities, whether the objects are shared or equal ones or all different."""
    shared = vulnerability("CVE-1")
    audits = [
        audited(f"m{number}", shared, vulnerability(f"CVE-{number}", package="x"), replace(shared), shared)
        for number in range(30)
    ]
    for name, found in ((each.name, each) for each in page(snapshot_of(audits=audits)).sections.values()):
        ids = [re.split("[:\n]", row[2])[0] for row in found.rows("Vulnerabilities")]
        assert ids == ["CVE-1", f"CVE-{name[1:]}", "CVE-1", "CVE-1"]


def test_more_findings_than_are_kept() -> None:
    """Rows are the same whether they are kept for other machines, or there are too many for that."""
    every = [vulnerability(f"CVE-{number}") for number in range(20)]
    machines = [every[:5], [*every[3:9], *every[3:9]], every, every[::-1], [replace(item) for item in every]]
    for limit in (0, 5, 11, 20, 1000):
        rows = VulnerabilityRows(limit)
        for found in machines:
            findings = [Finding(item, Priority.REST, None, Facts(), Exposure(Reach.UNKNOWN, "")) for item in found]
            ids = re.findall(r"CVE-[0-9]+(?=<)", "".join(rows.write(findings, 0.0)))
            assert ids == [item.id for item in found]


def test_audits_in_words() -> None:
    """What an audit came to is told with all that goes with it."""
    found = page(
        snapshot_of(
            audits=[
                audited("failed", vulnerability(), status=Status.FAILED, reason="it was cut off"),
                audited("stale", vulnerability(severity=Severity.LOW), reason="the database is old"),
                audited("clean", vulnerability("CVE-1"), exceptions=[accept("cve-1")]),
                audited("tool", tool="", tool_version=None, database_age=0.0, age=30.0),
                never("never"),
            ]
        )
    )
    assert {each.name: each.facts["Audit"] for each in found.sections.values()} == {
        "failed": ["failed: it was cut off", "found nevertheless: 1 vulnerability in 1 package (1 high)"],
        "stale": ["vulnerable: 1 vulnerability in 1 package (1 low)", "the database is old"],
        "clean": ["clean, except for 1 accepted vulnerability"],
        "tool": ["clean"],
        "never": ["never received"],
    }
    assert found.named("tool").facts["Audited"] == [
        "2023-11-14 22:12:50 UTC (30 seconds ago): unknown tool",
        "database of 2023-11-14 22:13:20 UTC, 0 seconds old",
    ]
    assert found.named("clean").rows("Accepted vulnerabilities")[0][4] == "until 2023-12-14 22:13:20 UTC"


def test_several_exceptions_for_a_port() -> None:
    """Each exception that covers a deviation in force is told; of those that have ended nothing is."""
    exceptions = [
        PortException(("*",), PortSet.of(ports), until, reason)
        for ports, until, reason in [
            ([80, 443], NOW + HOUR, "first"),
            ([80], NOW + DAY, "second"),
            ([443], NOW - HOUR, "over"),
        ]
    ]
    of = target("a", expect=[443], exceptions=exceptions)
    assert section(snapshot_of([scanned(of, seen(is_open=[80]))])).facts["Accepted"] == [
        "80 on 192.0.2.1, unexpected: until 2023-11-14 23:13:20 UTC; first",
        "80 on 192.0.2.1, unexpected: until 2023-11-15 22:13:20 UTC; second",
        "443 on 192.0.2.1, missing: until 2023-11-14 23:13:20 UTC; first",
    ]


def test_unconfirmed_ports() -> None:
    """A port that answers, but accepts no connection, is told from one that is open."""
    of = snapshot_of([scanned(target("a", expect=[22]), seen(is_open=[22, 80], unconfirmed=[80]))])
    assert section(of).facts["Open"] == ["192.0.2.1: 22, 80, of which unconfirmed 80 (1 closed, 0 filtered)"]


def test_times_that_no_calendar_has() -> None:
    """A time behind the last year of four digits is the last there is."""
    state = audited("a", vulnerability("CVE-1"), exceptions=[accept("cve-1", until=300_000_000_000.0)])
    row = section(snapshot_of(audits=[state])).rows("Accepted vulnerabilities")[0]
    assert row[4] == "until 9999-12-31 23:59:59 UTC"


def test_report_is_never_held_whole() -> None:
    """Each form comes in pieces that are small beside the whole, for many machines and for one with many findings."""
    many = snapshot_of(audits=[audited(f"m{number}", *[vulnerability()] * 20) for number in range(3000)])
    large = snapshot_of(audits=[audited("m", *[vulnerability()] * 60_000)])
    for of in (many, large):
        for form in ("html", "text"):
            sizes = [len(piece) for piece in write_report(of, ReportSettings(), NOW, form)]
            assert sum(sizes) > 7_000_000
            assert max(sizes) < 500_000
    assert max(map(len, write_report(many, ReportSettings(), NOW, "json"))) < 100_000
