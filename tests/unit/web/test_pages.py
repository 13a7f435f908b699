from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from portspec.audit.model import Status
from portspec.scan import Failure, Reason
from portspec.state.snapshot import HostState, Snapshot
from portspec.web.pages import MAX_NAMED_PORTS, MAX_NAMED_PROCESSES
from tests.unit.factories import NOW, result, seen, snapshot, target
from tests.unit.metrics.scrape import NASTY, zoo
from tests.unit.report.fleets import accept, audited, listener, never, scanned, snapshot_of, vulnerability
from tests.unit.web.site import ask

if TYPE_CHECKING:
    from portspec.audit.state import AuditState

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;{{7*7}}"
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
        "Unexpected": "80, 8080",
        "Missing": "25",
        "Open": "22, 80, 8080",
        "Expected": "22, 25",
        "Last scan": "2023-11-14 22:13:20 UTC",
    }


def test_row_of_a_host_can_be_linked_to() -> None:
    """The row of a host has its name as its id, which is where mails lead to."""
    text = ask(snapshot((target("2001:db8::1"), [result(target("2001:db8::1"), seen())])), "/").text
    assert '<tr id="2001:db8::1">' in text


def test_row_of_a_host_in_spec() -> None:
    """A host in spec shows no deviations."""
    good = row(page(zoo()), "good")
    assert (good["Verdict"], good["Unexpected"], good["Missing"], good["Open"]) == ("in spec", "-", "-", "22, 80, 443")


def test_row_of_an_unknown_host_says_why() -> None:
    """An unknown host shows the reason, beside what the last conclusive scan found."""
    lost = row(page(zoo()), "lost")
    assert lost["Verdict"] == "unknown does not resolve"
    assert (lost["Unexpected"], lost["Open"]) == ("23", "23")


def test_row_of_a_host_that_was_not_scanned() -> None:
    """Before its first scan a host is shown as that, with nothing that could look like a result."""
    waiting = row(page(zoo()), "waiting")
    assert (waiting["Verdict"], waiting["Expected"], waiting["Last scan"]) == ("not scanned yet", "443", "-")
    assert (waiting["Unexpected"], waiting["Missing"], waiting["Open"]) == ("-", "-", "-")


def test_row_leaves_out_what_is_unconfirmed() -> None:
    """Ports that take no connection are not shown as open."""
    of = target("db1")
    shown = row(page(snapshot((of, [result(of, seen(is_open=[22, 80], unconfirmed=[80]))]))), "db1")
    assert (shown["Open"], shown["Unexpected"]) == ("22", "22")


def test_page_counts_the_verdicts() -> None:
    """The page begins with the number of hosts in each verdict."""
    text = " ".join(ask(zoo(), "/").text.split())
    assert "6 hosts:" in text
    for count in ("1 out of spec", "3 unknown", "2 in spec"):
        assert f">{count}</span>" in text


@pytest.mark.parametrize("count", [0, 1, 300])
def test_page_of_any_number_of_hosts(count: int) -> None:
    """The page is whole without hosts, with one, and with many."""
    assert len(page(Snapshot.of(target(f"host{number}") for number in range(count))).rows) == count + 1


@pytest.mark.parametrize("text", [EVIL, NASTY])
def test_markup_is_shown_as_text(text: str) -> None:
    """Markup in a host's name, in labels and in what a failure says is text: no tag of it gets onto the page."""
    of = target(text, labels={"note": text})
    failure = Failure(Reason.RESOLVE, text)
    shown = page(snapshot((of, [result(of, seen(is_open=[22]), at=NOW), result(of, at=NOW + 60, failure=failure)])))
    assert shown.tags == page(snapshot((target("x", labels={"note": "y"}), [result(of, failure=failure)]))).tags
    assert "script" not in shown.tags
    assert "img" not in shown.tags
    host, verdict, *_ = shown.rows[1]
    assert text in host
    assert f"note={text}" in host
    assert text in verdict


# --- What hosts report ---

DB = target("db1", expect=[22])
OPEN = scanned(DB, seen(is_open=[22, 80]))  # 80 is unexpected


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
    assert row(shown, "db1")["Audit"] == "vulnerable: 3 in 2 packages 2023-11-14 19:13:20 UTC"
    assert row(shown, "web1")["Audit"] == "-"


@pytest.mark.parametrize(
    ("audit", "cell"),
    [
        (never("db1"), "never"),
        (audited("db1"), "clean 2023-11-14 19:13:20 UTC"),
        (audited("db1", vulnerability()), "vulnerable: 1 in 1 package 2023-11-14 19:13:20 UTC"),
        (audited("db1", vulnerability(), exceptions=[accept("cve-2023-0001")]), "clean 2023-11-14 19:13:20 UTC"),
        (audited("db1", status=Status.FAILED, reason="no output"), "failed no output 2023-11-14 19:13:20 UTC"),
        (
            audited("db1", vulnerability(), status=Status.FAILED, reason="it was cut off"),
            "failed: 1 in 1 package it was cut off 2023-11-14 19:13:20 UTC",
        ),
        (
            audited("db1", status=Status.STALE_DATABASE, reason="it is of 2020"),
            "stale database it is of 2020 2023-11-14 19:13:20 UTC",
        ),
        (audited("db1", status=Status.UNSUPPORTED, reason="winget"), "unsupported winget 2023-11-14 19:13:20 UTC"),
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
    assert shown["Unexpected"] == "80 80: nginx (www), redis, unknown process (root)"


def test_nobody_is_named_where_the_report_does_not_tell() -> None:
    """Without a report, without listeners in it, and of a port on which nothing listens, the port stands alone."""
    for audits in ([], [never("db1")], [audited("db1", listeners=None)], [audited("db1", listeners=[])]):
        assert row(page(snapshot_of([OPEN], audits)), "db1")["Unexpected"] == "80"


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
        "Audit": "vulnerable: 1 in 1 package 2023-11-14 19:13:20 UTC",
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
    assert not {"script", "img", "b"}.intersection(shown.tags)
    assert f"{text} ({text})" in shown.rows[1][2]
    assert text in shown.rows[1][-1]
    assert text in shown.rows[2][0]


def test_page_runs_no_script_and_loads_nothing() -> None:
    """The page's headers forbid scripts and foreign content, should markup ever get through."""
    headers = ask(zoo(), "/").headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "script" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
