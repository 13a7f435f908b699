from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree as ET

import pytest

from portspec import log
from portspec.audit.model import Status
from portspec.config import load
from portspec.deadlines import Deadlines
from portspec.scan import Failure, PortState, Reason
from portspec.state.changes import DatedVerdict
from portspec.state.snapshot import HostState, Snapshot
from portspec.state.verdict import Verdict
from portspec.store import Change, StoreError, StoreStatus
from portspec.store.faults import StoreFault, StoreFaultKind
from portspec.web.pages import CHANGES_PER_HOST
from portspec.web.spelling import MAX_NAMED_PORTS, MAX_NAMED_PROCESSES
from tests.unit.factories import ADDRESS, NOW, exception, result, seen, snapshot, target, window
from tests.unit.metrics.scrape import NASTY, zoo
from tests.unit.report.fleets import DAY, accept, audited, listener, never, scanned, snapshot_of, vulnerability
from tests.unit.web.exporter import Exporter
from tests.unit.web.site import ScriptedService, ask, fetch, open_gate

if TYPE_CHECKING:
    from portspec.audit.state import AuditState
    from portspec.inventory import Target

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;{{7*7}}"
DB = target("db1", expect=[22])
OPEN = scanned(DB, seen(is_open=[22, 80]))  # 80 is unexpected
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page: the text of each row's cells, every tag, and whether tags are closed in their order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a row or a cell."""
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "br":
            self.handle_data(" ")
        elif tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Add to the cell."""
        if {"td", "th"}.intersection(self._open):
            self.rows[-1][-1] += data


def page(of: Snapshot) -> Page:
    """Fetch and read the first page."""
    answer = ask(of, "/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    return Page(answer.text)


def row(of: Page, host: str) -> dict[str, str]:
    """Return the cells of a host by their column, white space folded."""
    columns, *rows = of.rows
    (cells,) = [cells for cells in rows if cells[0].split()[0] == host]
    return {column: " ".join(cell.split()) for column, cell in zip(columns, cells, strict=True)}


def test_page_shows_every_host_those_that_need_attention_first() -> None:
    """Each host has a row: out of spec first, then unknown, then in spec, by name."""
    hosts = [cells[0].split()[0] for cells in page(zoo()).rows[1:]]
    assert hosts == ["bad", "lost", "never", "waiting", "blind", "good"]


def test_row_of_a_host_out_of_spec() -> None:
    """A row has the verdict, unexpected, missing, open and expected ports, and when that was."""
    assert row(page(zoo()), "bad") == {
        "Host": "bad site=there",
        "Verdict": "out of spec",
        "Unexpected": "80 (http), 8080 (http-alt) since now",
        "Missing": "25 (smtp) since now",
        "Open": "22, 80, 8080",
        "Expected": "22, 25",
        "Last scan": "now",
    }


def test_row_of_a_host_can_be_linked_to() -> None:
    """The row of a host has its name as its id, which is where mails lead to."""
    text = ask(snapshot((target("2001:db8::1"), [result(target("2001:db8::1"), seen())])), "/").text
    assert '<tr id="2001:db8::1">' in text


def test_row_of_a_host_in_spec() -> None:
    """A host in spec shows no deviations."""
    good = row(page(zoo()), "good")
    assert (good["Verdict"], good["Unexpected"], good["Missing"], good["Open"]) == ("in spec", "-", "-", "22, 80, 443")


def test_row_shows_what_an_exception_accepts() -> None:
    """What is accepted has the end and the owner of its exception, and is no deviation."""
    accepted = replace(exception(25, 8080, until=NOW + 6 * 86_400), owner="ann")
    of = target("db1", expect=[22, 25], exceptions=[accepted])
    shown = row(page(snapshot((of, [result(of, seen(scanned=[22, 25, 8080], is_open=[22, 8080]))]))), "db1")
    assert (shown["Verdict"], shown["Unexpected"], shown["Missing"]) == (
        "in spec",
        "8080 (http-alt) accepted by ann, ends in 6 d",
        "25 (smtp) accepted by ann, ends in 6 d",
    )


def test_row_of_an_unknown_host_says_why() -> None:
    """An unknown host shows the reason, beside what the last conclusive scan found."""
    lost = row(page(zoo()), "lost")
    assert lost["Verdict"] == "unknown does not resolve"
    assert (lost["Unexpected"], lost["Open"]) == (
        "23 (telnet) critical: 23 (telnet) since now past the deadline: 23 (telnet)",
        "23",
    )


def test_row_of_a_host_that_was_not_scanned() -> None:
    """Before its first scan a host is shown as that, with nothing that could look like a result."""
    waiting = row(page(zoo()), "waiting")
    assert (waiting["Verdict"], waiting["Expected"], waiting["Last scan"]) == ("not scanned yet", "443", "-")
    assert (waiting["Unexpected"], waiting["Missing"], waiting["Open"]) == ("-", "-", "-")


def test_row_leaves_out_what_is_unconfirmed() -> None:
    """Ports that take no connection are not shown as open."""
    of = target("db1")
    shown = row(page(snapshot((of, [result(of, seen(is_open=[22, 80], unconfirmed=[80]))]))), "db1")
    assert (shown["Open"], shown["Unexpected"]) == ("22", "22 (ssh) since now")


def test_page_counts_the_verdicts() -> None:
    """The page begins with the number of hosts in each verdict."""
    text = " ".join(ask(zoo(), "/").text.split())
    assert "<h1>6 hosts</h1>" in text
    for verdict, count in (
        ("out_of_spec", "1 out of spec"),
        ("unknown", "2 unknown"),
        ("waiting", "1 not scanned yet"),
        ("in_spec", "2 in spec"),
    ):
        assert f'<a href="./?verdict={verdict}"><span class="verdict {verdict}">{count}</span></a>' in text


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (1, 1), (100, 100), (101, 100)])
def test_page_of_any_number_of_hosts(count: int, rows: int) -> None:
    """The page is whole without hosts, with one, and with many, of which it shows a part."""
    assert len(page(Snapshot.of(target(f"host{number}") for number in range(count))).rows) == rows + 1


def hosts_at(of: Snapshot, query: str) -> list[str]:
    """Return the hosts that the page shows for a query."""
    answer = ask(of, f"/{query}")
    assert answer.status == 200, answer.text
    return [cells[0].split()[0] for cells in Page(answer.text).rows[1:]]


def test_parts_of_many_hosts_follow_each_other() -> None:
    """Each part has a hundred hosts, numbers in names sort by value, and a part beyond the end is the last."""
    many = Snapshot.of(target(f"host{number}") for number in range(250))
    assert hosts_at(many, "") == [f"host{number}" for number in range(100)]
    assert hosts_at(many, "?page=3") == hosts_at(many, "?page=99") == [f"host{number}" for number in range(200, 250)]
    text = ask(many, "/?page=2&q=host").text
    assert '<a rel="prev" href="./?q=host">' in text
    assert '<a rel="next" href="./?q=host&amp;page=3">' in text
    assert "page 2 of 3, 250 hosts" in text


@pytest.mark.parametrize(
    ("query", "hosts"),
    [
        ("?verdict=out_of_spec", ["bad"]),
        ("?verdict=waiting", ["waiting"]),
        ("?q=LO", ["lost"]),
        ("?q=there", ["bad"]),  # the value of a label
        ("?label=site=there", ["bad"]),
        ("?label=site=there&verdict=in_spec", []),
        ("?sort=host", ["bad", "blind", "good", "lost", "never", "waiting"]),
        ("?sort=-host", ["waiting", "never", "lost", "good", "blind", "bad"]),
        ("?sort=-open", ["bad", "good", "lost", "blind", "never", "waiting"]),
        ("?verdict=&q=&audit=&sort=&page=", ["bad", "lost", "never", "waiting", "blind", "good"]),  # an empty form
    ],
)
def test_address_of_the_page_filters_and_sorts(query: str, hosts: list[str]) -> None:
    """What the form says is in the address, so that it can be kept as a bookmark."""
    assert hosts_at(zoo(), query) == hosts


def test_hosts_are_filtered_by_their_audit() -> None:
    """A status is a filter, with the number of hosts that have it above the table; a clean one needs no attention."""
    of = snapshot_of([OPEN], [audited("db1", vulnerability()), never("laptop7"), audited("web1")])
    assert hosts_at(of, "?audit=never") == ["laptop7"]
    assert hosts_at(of, "?audit=vulnerable") == ["db1"]
    assert hosts_at(of, "?verdict=unscanned&sort=-audit") == ["web1", "laptop7"]
    text = ask(of, "/").text
    assert '<a href="./?audit=vulnerable"><span class="bad">1 vulnerable</span></a>' in text
    assert "with audit clean" not in text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?sort=age", "sort: &#34;age&#34; is not known"),
        ("?verdict=good", "verdict: &#34;good&#34; is not known"),
        ("?audit=<b>", "audit: &#34;&lt;b&gt;&#34; is not known"),
        ("?page=0", "page: &#34;0&#34; is not a number from 1 on"),
        ("?page=x", "page: &#34;x&#34; is not a number from 1 on"),
        ("?label=team", "label: &#34;team&#34; is not a name and a value"),
        ("?colour=red", "&#34;colour&#34; is not a parameter of this page"),
        ("?q=a&q=b", "the parameter q is given more than once"),
        ("?q=" + "x" * 201, "at most 200 characters of text"),
    ],
)
def test_filter_that_makes_no_sense_is_refused(query: str, message: str) -> None:
    """The page says what is wrong, and leads back."""
    answer = ask(zoo(), f"/{query}")
    assert (answer.status, message in answer.text) == (400, True)
    assert '<a href="./">Show all hosts</a>' in answer.text


def test_host_has_a_page() -> None:
    """It has each deviation with its state and who holds the port, addresses, exceptions and vulnerabilities."""
    old = replace(exception(8080, until=NOW + 86_400), reason="old")
    of = target("db1", expect=[22, 25], allow=[443], exceptions=[old])
    state = HostState(of).after(result(of, seen(scanned=[22, 25, 80, 443, 8080], is_open=[22, 80, 8080])))
    audits = [audited("db1", vulnerability("CVE-2023-1"), listeners=[listener(80, "nginx", "www")])]
    text = ask(snapshot_of([state], audits), "/hosts/db1").text
    shown = [[" ".join(cell.split()) for cell in cells] for cells in Page(text).rows]
    assert ["25 (smtp)", ADDRESS, "missing", "closed", "warning", "now", "-", "accept"] in shown
    assert ["80 (http)", ADDRESS, "unexpected", "open", "warning", "now", "nginx (www)", "accept"] in shown
    assert ["8080 (http-alt)", ADDRESS, "unexpected accepted", "open", "warning", "now", "-", ""] in shown
    assert '<a href="db1/accept?what=80" aria-label="Accept 80">' in text
    assert ["8080", "in 1 d", "old", "-"] in shown
    assert any("CVE-2023-1" in cells for cells in shown)
    assert any("22 (ssh): open, as expected" in cells[1] for cells in shown if cells[0] == ADDRESS)
    assert '<form method="post" action="db1/scan">' in text
    assert '<a href="../api/v1/hosts/db1">JSON</a>' in text


@pytest.mark.parametrize("path", ["/", "/hosts/db1", "/hosts/mail1"])
def test_maintenance_that_lasts_is_beside_the_verdict(path: str) -> None:
    """On the page of all hosts and on that of a host, with its end, its reason and its owner; the verdict stays."""
    lasts = window(NOW - 60, NOW + 3600, "new <b>kernel</b>", "ops")
    state = HostState(target("db1", maintenance=[lasts])).after(result(DB, seen(is_open=[22, 80])))
    text = ask(snapshot_of([state], [replace(audited("mail1"), windows=(lasts,))]), path).text
    assert "maintenance until 2023-11-14 23:13:20 UTC: new &lt;b&gt;kernel&lt;/b&gt; (ops)" in text
    assert ("out of spec" in text) == (path != "/hosts/mail1")


def change(number: int, at: float = NOW, host: str = "db1") -> tuple[int, Change]:
    """Make a row of the change log: a port that was opened."""
    return number, Change(at, host, ADDRESS, str(number), PortState.CLOSED, PortState.OPEN, at)


def test_changes_are_shown_by_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest day is first; each host leads to its page, and a full part to the next one."""
    asked: list[dict[str, object]] = []
    rows = [change(300), *(change(number, NOW - 86_400) for number in range(299, 100, -1))]

    async def read(_: object, **by: object) -> tuple[tuple[int, Change], ...]:
        asked.append(by)
        return tuple(rows) if by["before_id"] is None else ()

    monkeypatch.setattr(ScriptedService, "changes", read)
    text = ask(zoo(), "/changes?host=bad").text
    assert text.index("2023-11-14</h2>") < text.index("2023-11-13</h2>")
    assert '<a href="./hosts/db1">db1</a>' in text
    assert '<a rel="next" href="./changes?host=bad&amp;before=101">earlier</a>' in text
    assert "None have been seen of this host." in ask(zoo(), "/changes?host=bad&before=101").text
    assert [(by["host"], by["before_id"]) for by in asked] == [("bad", None), ("bad", 101)]


@pytest.mark.parametrize("query", ["?before=x", "?before=-1", "?page=2", "?before=" + "9" * 30])
def test_address_of_the_changes_that_makes_no_sense_is_refused(query: str) -> None:
    """The page says what is wrong, and leads back."""
    answer = ask(zoo(), f"/changes{query}")
    assert answer.status == 400
    assert '<a href="./">Show all hosts</a>' in answer.text


def test_page_of_a_host_does_without_the_change_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the state file cannot be read, the page says so, and has all else."""

    async def fail(*_: object, **__: object) -> tuple[tuple[int, Change], ...]:
        raise StoreError("portspec.db", StoreFault(StoreFaultKind.OTHER, "it is gone"))

    monkeypatch.setattr(ScriptedService, "changes", fail)
    answer = ask(zoo(), "/changes")
    assert (answer.status, "it is gone" in answer.text) == (503, True)
    text = ask(zoo(), "/hosts/bad").text
    assert "The change log cannot be read: " in text
    assert "it is gone" in text
    assert "80 (http)" in text


LATE = Deadlines({"plan": DAY}, kinds={"unexpected": DAY})


def overdue() -> Snapshot:
    """Make a snapshot of a host whose port 80 and whose vulnerability are past their deadline."""
    of = replace(DB, config=replace(DB.config, interval=1e9), owner=EVIL, deadlines=LATE)
    state = HostState(of).after(result(of, seen(is_open=[22, 80]), at=NOW - 2 * DAY)).judged(of, NOW)
    audit = audited("db1", vulnerability("CVE-2023-1"))
    assert audit.host_audit
    known = replace(audit.host_audit, since=(int(NOW - 3 * DAY),))
    audit = replace(audit, host_audit=known, owner=EVIL, deadlines=LATE).with_due_times()
    return snapshot_of([state], [audit])


def test_pages_show_what_is_past_its_deadline() -> None:
    """The page of all hosts counts it, and that of the host has when each was due."""
    text = ask(overdue(), "/").text
    assert "past the deadline: 80 (http)" in text
    assert "past the deadline: 1 plan" in text
    text = ask(overdue(), "/hosts/db1").text
    assert text.count('<th scope="col">Due</th>') == 2
    assert text.count('<span class="bad"><time datetime="2023-11-13T22:13:20Z"') == 1
    assert text.count('<span class="bad"><time datetime="2023-11-12T22:13:20Z"') == 1
    assert '<th scope="col">Due</th>' not in ask(zoo(), "/hosts/bad").text


def test_owner_has_a_page_of_what_there_is_to_do() -> None:
    """All owners are listed on another; names of owners are text."""
    of = overdue()
    text = ask(of, "/worklist").text
    Page(text)
    (link,) = re.findall(r'href="\./(worklist\?owner=[^"]*)"', text)
    text = ask(of, f"/{html.unescape(link)}").text
    assert [row[:2] for row in Page(text).rows[1:]] == [
        ["db1", "unexpected 80"],
        ["db1", "openssl 3.0.11-1~deb12u1"],
    ]
    assert EVIL not in text
    assert "Nothing to do." in ask(of, "/worklist?owner=").text
    assert ask(of, "/worklist?owners=x").status == 400


def test_host_that_only_sends_audits_has_a_page() -> None:
    """There is nothing about ports on it, and nothing to scan."""
    text = ask(snapshot_of([OPEN], [audited("laptop7", vulnerability("CVE-2023-1"))]), "/hosts/laptop7").text
    assert "CVE-2023-1" in text
    assert "Scan now" not in text


def test_host_that_has_left_has_a_way_back() -> None:
    """Its page is 404, and leads to all hosts."""
    answer = ask(zoo(), "/hosts/gone")
    assert answer.status == 404
    assert "&#34;gone&#34; is not a host of this exporter." in answer.text
    assert '<a href="../">Show all hosts</a>' in answer.text
    assert ask(zoo(), "/hosts/gone/scan", "POST").status == 404


@pytest.mark.parametrize("text", [EVIL.replace("/", "|"), NASTY.replace("/", "|")])
def test_markup_on_the_page_of_a_host_is_shown_as_text(text: str) -> None:
    """Names, labels, reasons, processes and packages are text there, too."""

    def tags(word: str) -> list[str]:
        accepted = replace(exception(22, until=NOW + 9), reason=word, owner=word)
        of = target("db1", labels={"note": word}, exceptions=[accepted])
        failure = Failure(Reason.RESOLVE, word)
        state = HostState(of).after(result(of, seen(is_open=[22, 80]))).after(result(of, failure=failure))
        audits = [audited("db1", vulnerability(word, package=word), listeners=[listener(80, word, word)])]
        return Page(ask(snapshot_of([state], audits), "/hosts/db1").text).tags

    assert tags(text) == tags("x")
    assert ask(zoo(), f"/hosts/{quote(text, safe='')}").status == 404


@pytest.mark.parametrize("text", [EVIL, NASTY])
def test_markup_is_shown_as_text(text: str) -> None:
    """Markup in a host's name, in labels and in what a failure says is text: no tag of it gets onto the page."""
    of = target(text, labels={"note": text})
    failure = Failure(Reason.RESOLVE, text)

    def scans(of: Target, failure: Failure) -> Snapshot:
        return snapshot((of, [result(of, seen(is_open=[22]), at=NOW), result(of, at=NOW + 60, failure=failure)]))

    shown = page(scans(of, failure))
    assert shown.tags == page(scans(target("x", labels={"note": "y"}), Failure(Reason.RESOLVE, "z"))).tags
    assert shown.tags.count("script") == 1  # the page's own
    assert "img" not in shown.tags
    host, verdict, *_ = shown.rows[1]
    assert text in host
    assert f"note={text}" in host
    assert text in verdict


# --- What hosts report ---


def test_page_has_no_column_of_audits_where_nobody_reports() -> None:
    """Without a roster the page is as it was."""
    assert "Audit" not in page(zoo()).rows[0]


def test_row_has_what_the_host_reported() -> None:
    """A host of the roster shows status, numbers and age of its last report; the others show that they have none."""
    curl = [vulnerability(f"CVE-2023-{number}", package="curl") for number in range(2)]
    of = snapshot_of(
        [OPEN, HostState(target("web1"))], [audited("db1", *curl, vulnerability("CVE-2023-9", package="xz"))]
    )
    shown = page(of)
    assert row(shown, "db1")["Audit"] == "vulnerable: 3 in 2 packages 3 high 3 h ago"
    assert row(shown, "web1")["Audit"] == "-"


@pytest.mark.parametrize(
    ("audit", "cell"),
    [
        (never("db1"), "never"),
        (audited("db1"), "clean 3 h ago"),
        (audited("db1", vulnerability()), "vulnerable: 1 in 1 package 1 high 3 h ago"),
        (audited("db1", vulnerability(), exceptions=[accept("cve-2023-0001")]), "clean 3 h ago"),
        (audited("db1", status=Status.FAILED, reason="no output"), "failed no output 3 h ago"),
        (
            audited("db1", vulnerability(), status=Status.FAILED, reason="it was cut off"),
            "failed: 1 in 1 package 1 high it was cut off 3 h ago",
        ),
        (
            audited("db1", status=Status.STALE_DATABASE, reason="it is of 2020"),
            "stale database it is of 2020 3 h ago",
        ),
        (audited("db1", status=Status.UNSUPPORTED, reason="winget"), "unsupported winget 3 h ago"),
    ],
)
def test_each_status_is_told_apart(audit: AuditState, cell: str) -> None:
    """Each status has its words, with the reason where there is one; what is accepted does not count."""
    assert row(page(snapshot_of([OPEN], [audit])), "db1")["Audit"] == cell


def test_processes_on_unexpected_ports_are_named() -> None:
    """Beside an unexpected port stands who listens there, each once; nobody is named of a port that is expected."""
    sockets = [
        listener(22, "sshd", "root"),
        listener(80, "nginx", "www"),
        listener(80, "nginx", "www", address="::"),
        listener(80, None, "root"),
        listener(80, "redis", None),
        listener(80, "hidden", "root", address="127.0.0.1"),
        listener(80, "named", "bind", protocol="udp"),
    ]
    shown = row(page(snapshot_of([OPEN], [audited("db1", listeners=sockets)])), "db1")
    assert shown["Unexpected"] == "80 (http) since 30 d ago 80: nginx (www), redis, unknown process (root)"


def test_nobody_is_named_where_the_report_does_not_tell() -> None:
    """Without a report, without listeners in it, and of a port on which nothing listens, the port stands alone."""
    for audits in ([], [never("db1")], [audited("db1", listeners=None)], [audited("db1", listeners=[])]):
        assert row(page(snapshot_of([OPEN], audits)), "db1")["Unexpected"] == "80 (http) since 30 d ago"


def test_no_report_makes_the_page_endless() -> None:
    """Of thousands of ports and processes the first ones are named, and how many more there are."""
    ports = range(1000, 1000 + MAX_NAMED_PORTS + 10)
    state = scanned(target("db1"), seen(scanned=ports, is_open=ports))
    sockets = [listener(port, f"p{number:04}") for port in ports for number in range(MAX_NAMED_PROCESSES + 1995)]
    shown = row(page(snapshot_of([state], [audited("db1", listeners=sockets)])), "db1")["Unexpected"]
    assert shown.count(": p0000, p0001, p0002, p0003, p0004, 1,995 more") == MAX_NAMED_PORTS
    assert len(shown) < 10_000


def test_host_that_only_reports_has_a_row() -> None:
    """A host of the roster that is not scanned stands below the others, with its audit and nothing about ports."""
    of = snapshot_of([OPEN], [audited("laptop7", vulnerability()), audited("db1"), never("laptop10")])
    shown = page(of)
    assert [cells[0].split()[0] for cells in shown.rows[1:]] == ["db1", "laptop7", "laptop10"]
    assert row(shown, "laptop7") == {
        "Host": "laptop7",
        "Verdict": "not scanned",
        "Unexpected": "-",
        "Missing": "-",
        "Open": "-",
        "Expected": "-",
        "Last scan": "-",
        "Audit": "vulnerable: 1 in 1 package 1 high 3 h ago",
    }
    assert row(shown, "laptop10")["Audit"] == "never"


@pytest.mark.parametrize("text", [EVIL, NASTY])
def test_markup_in_a_report_is_shown_as_text(text: str) -> None:
    """What a host sends is text: its name, its processes and users, and why its audit failed."""
    sockets = [listener(80, text, text)]
    audits = [audited("db1", status=Status.FAILED, reason=text, listeners=sockets), audited(text, reason=text)]
    shown = page(snapshot_of([OPEN], audits))
    plain = [audited("db1", status=Status.FAILED, reason="x", listeners=[listener(80, "x", "x")])]
    assert shown.tags == page(snapshot_of([OPEN], [*plain, audited("y", reason="x")])).tags
    assert not {"img", "b"}.intersection(shown.tags)
    assert f"{text} ({text})" in shown.rows[1][2]
    assert text in shown.rows[1][-1]
    assert text in shown.rows[2][0]


def test_page_runs_no_other_script_and_loads_nothing() -> None:
    """The page's headers allow what stands in it by its hash, should markup ever get through, and nothing else."""
    answer = ask(zoo(), "/")
    headers = answer.headers
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert (policy["default-src"], policy["script-src"]) == ("'none'", f"'sha256-{digest}'")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert not re.search(r"(?:src|href)=\"(?:[a-z]+:|//)", answer.text)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_health_of_the_exporter_stands_above_the_hosts() -> None:
    """Each part in use has a word; what fails stands out, and leads to the page of the exporter."""
    one = Exporter(zoo())
    assert '<p class="health"><span>engine: scripted</span>' in one.ask("/").text
    one.status = replace(
        one.status,
        config_is_good=False,
        store=StoreStatus(is_up=False, errors=1, pending=1200, dropped=0),
        failing=frozenset({"mailer"}),
    )
    text = one.ask("/").text
    assert '<span class="bad">configuration: last reload failed</span>' in text
    assert '<span class="bad">state file: cannot be written, 1,200 waiting</span>' in text
    assert '<span class="bad">failing: mailer</span>' in text
    assert '<a href="./status">status</a>' in text


def test_status_has_parts_counts_sources_and_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is zero is a dash; markup in a log line is text."""
    one = Exporter(zoo())
    one.status = replace(one.status, restarts={"mailer": 3, "scheduler": 0}, failing=frozenset({"mailer"}))
    monkeypatch.setattr(log, "recent_problems", lambda: (f"level=error event={EVIL}",))
    answer = one.ask("/status")
    assert answer.status == 200
    rows = Page(answer.text).rows
    assert ["mailer", "failing", "3"] in rows
    assert ["scheduler", "running", "-"] in rows
    assert "<script>alert" not in answer.text
    assert "level=error event=" in answer.text
    assert "MainThread" in answer.text


def test_config_is_shown_without_its_secrets(tmp_path: Path) -> None:
    """The page has the configuration in force, its path, and the sources of the hosts."""
    path = tmp_path / "conf.yml"
    path.write_text("scanports: all\nhosts: {db1: [22]}\naudit: {passphrase: s3cret-passphrase-of-audits}\n")
    one = Exporter(zoo())
    one.config = load(path, {})
    answer = one.ask("/config")
    assert (answer.status, "s3cret" in answer.text) == (200, False)
    text = html.unescape(answer.text)
    assert f"From <code>{path}</code>" in text
    assert "passphrase: <hidden>" in text
    assert f"<dt>conf.yml</dt><dd>{len(one.snapshot.hosts)} hosts</dd>" in text


def test_changes_are_an_atom_feed() -> None:
    """Its entries lead to the pages of hosts, and their ids stay the same; what XML forbids is replaced."""
    one = Exporter(zoo())
    one.rows = [change(300), change(299, NOW - 86_400, host="a\x00b&<")]
    answer = one.ask("/changes.atom?host=db1", headers={"Host": "127.0.0.1"})
    assert answer.headers["Content-Type"] == "application/atom+xml; charset=utf-8"
    names = {"atom": "http://www.w3.org/2005/Atom"}
    feed = ET.fromstring(answer.body)  # noqa: S314 - our own
    assert feed.findtext("atom:updated", "", names) == "2023-11-14T22:13:20Z"
    first, second = feed.findall("atom:entry", names)
    assert first.findtext("atom:title", "", names) == "db1: 300 is open"
    assert [link.get("href", "")[-10:] for link in first.findall("atom:link", names)] == ["/hosts/db1"]
    assert first.findtext("atom:id", "", names) == "tag:portspec,2023-11-14:change/300/1700000000.000"
    assert "b&<" in second.findtext("atom:title", "", names)
    one.rows = ()
    assert "<entry>" not in one.ask("/changes.atom").text
    assert one.ask("/changes.atom?hots=db1").status == 400


def test_feed_names_the_address_at_which_the_exporter_is_reached() -> None:
    """Behind a proxy that is the external URL."""
    one = Exporter(zoo())

    async def scenario() -> str:
        async with one.served(open_gate(external_url="https://portspec.example/x")) as url:
            return (await fetch(f"{url}/changes.atom")).text

    assert "<id>https://portspec.example/x/changes.atom</id>" in asyncio.run(scenario())


def test_page_of_a_host_has_a_timeline() -> None:
    """It shows since when the host is as it is."""
    one = Exporter(zoo())
    one.history = [DatedVerdict(NOW - 86_400, "good", Verdict.IN_SPEC)]
    text = one.ask("/hosts/good").text
    assert 'role="img" aria-label="in spec for 1 d; recorded since 2023-11-13"' in text
    assert '<rect class="bar in_spec"' in text


def test_configuration_in_force_is_json_without_secrets(tmp_path: Path) -> None:
    """What /config shows is there for programs, too."""
    found = accepting(tmp_path).document("/api/v1/config")
    assert found["config"]["hosts"]["bad"]["expect"] == [22]
    assert found["path"].endswith("conf.yml")
    assert "s3cret" not in json.dumps(found)


def accepting(tmp_path: Path) -> Exporter:
    """Make an exporter whose conf.yml is there."""
    path = tmp_path / "conf.yml"
    path.write_text("scanports: all\nsmtppassword: s3cret\nsmtpusername: me\nhosts:\n  bad: [22]  # the odd one\n")
    one = Exporter(zoo())
    one.config = load(path, {})
    return one


@pytest.mark.parametrize(
    ("query", "added", "command"),
    [
        ("what=80&way=allow", "+  bad: {expect: [22], allow: [80]}  # the odd one", "bad 80 --allow"),
        ("what=80,443&way=expect", "+  bad: [22, 80, 443]  # the odd one", "bad 80 443 --expect"),
        ("what=80&until=2099-01-01&reason=a+test", "until: ", "bad 80 --until 2099-01-01 --reason 'a test'"),
        ("what=CVE-2026-1&owner=ops", "CVE-2026-1", "bad CVE-2026-1 --until 1w --owner ops"),
    ],
)
def test_page_shows_how_a_deviation_is_accepted(tmp_path: Path, query: str, added: str, command: str) -> None:
    """It has the change of conf.yml, without secrets, and the command that makes it; nothing is written."""
    one = accepting(tmp_path)
    before = Path(one.config.path).read_bytes()
    answer = one.ask(f"/hosts/bad/accept?{query}")
    text = html.unescape(answer.text)
    assert (answer.status, added in text) == (200, True), text
    assert f"portspec accept -c {one.config.path} {command}" in text
    assert "s3cret" not in text
    assert Path(one.config.path).read_bytes() == before


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("what=80a&way=allow", '"80a" is not a port'),
        ("what=80&until=soon", '"soon" is no end of an exception'),
        ("what=80&until=2020-01-01", "2020-01-01 is in the past"),
        ("what=80&reason=a%0ab", "characters that cannot be seen"),
    ],
)
def test_page_says_why_something_cannot_be_accepted(tmp_path: Path, query: str, message: str) -> None:
    """The form stays, so that it can be put right."""
    answer = accepting(tmp_path).ask(f"/hosts/bad/accept?{query}")
    assert (answer.status, message in html.unescape(answer.text)) == (200, True)
    assert "<form" in answer.text


@pytest.mark.parametrize("query", ["", "what=", "what=80&way=never", "what=80&x=1", "what=80&reason=" + "x" * 600])
def test_address_of_the_page_to_accept_that_makes_no_sense_is_refused(tmp_path: Path, query: str) -> None:
    """Nothing is guessed."""
    assert accepting(tmp_path).ask(f"/hosts/bad/accept?{query}").status == 400


def test_conf_that_is_gone_is_told(tmp_path: Path) -> None:
    """The page says that the file cannot be read."""
    one = accepting(tmp_path)
    Path(one.config.path).unlink()
    answer = one.ask("/hosts/bad/accept?what=80")
    assert (answer.status, "no such file" in answer.text.lower()) == (200, True)
    assert one.ask("/hosts/gone/accept?what=80").status == 404


def writable(tmp_path: Path, **keys: Any) -> Exporter:
    """Make an exporter whose conf.yml the page may write."""
    one = accepting(tmp_path)
    one.config = replace(one.config, accept=True, **keys)
    return one


def button(one: Exporter, query: str) -> str:
    """Return the address that the button of the page to accept something sends to."""
    found = re.search(r'<form method="post" action="(accept[^"]*)">', one.ask(f"/hosts/bad/accept?{query}").text)
    assert found is not None
    return f"/hosts/bad/{html.unescape(found[1])}"


@pytest.mark.parametrize(
    ("query", "added"),
    [
        ("what=80&way=allow", "bad: {expect: [22], allow: [80]}  # the odd one"),
        ("what=80&until=2w&reason=a+%26+b&owner=ops", 'reason: "a & b"'),
        ("what=CVE-2026-1,CVE-2026-2", "ids: [CVE-2026-1, CVE-2026-2]"),
    ],
)
def test_button_writes_the_change_that_is_shown(tmp_path: Path, query: str, added: str) -> None:
    """The file has that change alone, the exporter reloads, and the browser is led back to the host."""
    one = writable(tmp_path)
    path = Path(one.config.path)
    before = path.read_text()
    shown = html.unescape(one.ask(f"/hosts/bad/accept?{query}").text)
    answer = one.ask(button(one, query), "POST")
    assert (answer.status, "<h1>bad</h1>" in answer.text, one.reloads) == (200, True, 1)
    after = path.read_text()
    assert added in after
    added_lines = [line for line in after.splitlines() if line not in before.splitlines()]
    assert all(f"+{line}" in shown for line in added_lines)


def test_button_keeps_the_end_that_is_shown(tmp_path: Path) -> None:
    """A duration counts from when the change was shown, not from when it is written."""
    assert "&until=2023-11-21T22:13:20Z&" in unquote(button(writable(tmp_path), "what=80&until=1w"))


def test_button_does_not_write_over_the_changes_of_others(tmp_path: Path) -> None:
    """What somebody wrote after the page was shown stays; the answer has the change as it would be now."""
    one = writable(tmp_path)
    path = Path(one.config.path)
    address = button(one, "what=80&way=allow")
    other = path.read_text() + "  # a line of somebody else\ninterval: 2h\n"
    path.write_text(other)
    answer = one.ask(address, "POST")
    assert (answer.status, path.read_text(), one.reloads) == (409, other, 0)
    assert "was changed meanwhile; nothing is written" in answer.text
    (now,) = re.findall(r'action="(accept[^"]*)"', answer.text)
    assert one.ask(f"/hosts/bad/{html.unescape(now)}", "POST").status == 200
    assert path.read_text().endswith("interval: 2h\n")


def test_page_writes_nothing_unless_conf_says_so(tmp_path: Path) -> None:
    """Without accept: true there is no button, and its address is refused."""
    one = writable(tmp_path)
    path = Path(one.config.path)
    before = path.read_bytes()
    address = button(one, "what=80&way=allow")
    one.config = replace(one.config, accept=False)
    assert "Write this change" not in one.ask("/hosts/bad/accept?what=80&way=allow").text
    assert (one.ask(address, "POST").status, path.read_bytes()) == (403, before)


@pytest.mark.parametrize("query", ["", "what=80", "what=80&shown=", "what=80&shown=x", "what=&shown=x", "what=80&x=1"])
def test_change_that_was_not_shown_is_not_written(tmp_path: Path, query: str) -> None:
    """A request that no page made is refused, whatever it lacks."""
    one = writable(tmp_path)
    before = Path(one.config.path).read_bytes()
    assert one.ask(f"/hosts/bad/accept?{query}", "POST").status in (400, 409)
    assert one.ask(f"/hosts/gone/accept?{query}", "POST").status == 404
    assert (Path(one.config.path).read_bytes(), one.reloads) == (before, 0)


def test_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The page says why, and what to do; here the file is that of a ConfigMap."""
    one = writable(tmp_path)
    address = button(one, "what=80&way=allow")
    (tmp_path / "..data").symlink_to(tmp_path)
    answer = one.ask(address, "POST")
    assert (answer.status, "change the ConfigMap" in answer.text) == (409, True)


def test_failed_reload_after_the_change_is_told(tmp_path: Path) -> None:
    """The file is written, and the answer says that the exporter goes on with the one before."""
    one = writable(tmp_path)
    address = button(one, "what=80&way=allow")
    one.problem = "conf.yml:1: broken"
    answer = one.ask(address, "POST")
    assert (answer.status, "conf.yml:1: broken" in answer.text) == (500, True)


def test_change_can_be_proposed_elsewhere(tmp_path: Path) -> None:
    """The link has the change, percent-encoded, wherever the template names it."""
    one = writable(tmp_path, accept_url="https://git.example.org/new?title={title}&body={diff}#{host}")
    text = one.ask("/hosts/bad/accept?what=80&way=allow").text
    (link,) = re.findall(r'href="(https://git[^"]*)"', text)
    parts = urlsplit(html.unescape(link))
    query = dict(parse_qsl(parts.query))
    assert query["title"] == "allow 80 of bad"
    assert "+  bad: {expect: [22], allow: [80]}  # the odd one" in query["body"].splitlines()
    assert parts.fragment == "bad"


def test_page_of_a_host_lists_its_latest_changes() -> None:
    """A host that changes all the time does not make its page endless; the rest is a link away."""
    one = Exporter(zoo())
    one.rows = [change(number, NOW - number, host="good") for number in range(1, 900)]
    page = Page(one.ask("/hosts/good").text)
    assert (
        len([cells for cells in page.rows if cells[-2:-1] == ["open"] and cells[3:4] == ["closed"]]) == CHANGES_PER_HOST
    )


@pytest.mark.parametrize(
    ("asked", "is_awaited"),
    [(NOW - 1, True), (NOW - 300, False), (NOW - 5000, False), (NOW + 5, False), ("x", False), ("", False)],
)
def test_page_waits_for_the_scan_that_was_asked_for(asked: object, is_awaited: bool) -> None:  # noqa: FBT001
    """It says so, and renews itself more often, until a scan has ended since; not for a time that makes no sense."""
    of = target("db1", expect=[22])
    state = HostState(of).after(result(of, seen(is_open=[22]), at=NOW - 60))
    text = Exporter(snapshot_of([state], [])).ask(f"/hosts/db1?asked={asked}").text
    assert ("A scan has been started" in text) is is_awaited
    assert ('data-refresh="2"' in text) is is_awaited
