"""Lists of the API: tags, tables, and what all hosts have in one list."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.state import AuditState, HostAudit
from portspec.config import VulnerabilityException
from portspec.metrics.accept import media_weight
from portspec.report.table import write_table
from portspec.state.table import HostTable
from portspec.web.api.answer import is_known
from portspec.web.api.cursor import read_cursor, spell_cursor
from portspec.web.api.findings import MAX_IN_CURSOR
from tests.unit.factories import MODEST, NOW, exception, result, seen, snapshot, target
from tests.unit.metrics.scrape import audited_zoo
from tests.unit.web.exporter import Exporter
from tests.unit.web.site import fetch
from tests.unit.web.test_api import change, parts_of

LISTS = ("hosts", "deviations", "vulnerabilities", "exceptions", "worklist", "changes")
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def exporter() -> Exporter:
    """Make an exporter with deviations, vulnerabilities and exceptions of two hosts, and a change."""
    web, db = target("web2", expect=[22, 25], scan=[22, 25, 8080], labels={"team": "web"}), target("web10", expect=[22])
    web = replace(web, exceptions=(exception(8080, until=NOW + 60),))
    curl = Vulnerability("curl", "8.1", "CVE-2026-0002", Severity.HIGH, fixed_in=("8.2", "8.3"))
    xz = Vulnerability("xz", "5.6", "CVE-2026-0003", Severity.CRITICAL, title='=cmd|"calc"')
    accepted = VulnerabilityException(("*",), ("cve-2026-0003",), until=NOW + 60, reason="not used", owner="ann")
    found = HostAudit(NOW, "pkg-audit", "2.1", Audit(Status.VULNERABLE, (xz, curl)), None)
    states = snapshot(
        (db, [result(db, seen(is_open=[22, 23]), at=NOW - 60)]),
        (web, [result(web, seen(scanned=web.config.ports, is_open=[22, 8080]), at=NOW)]),
    )
    audits = HostTable([AuditState("web10", (accepted,), found, NOW)])
    return Exporter(replace(states, audits=audits), rows=[change(7), change(6)])


def test_deviations_of_all_hosts_are_one_list() -> None:
    """By the name of the host, with its severity, what an exception accepts, and since when."""
    document = exporter().document("/api/v1/deviations")
    assert (document["total"], document["next_cursor"]) == (3, None)
    assert [tuple(row.values()) for row in document["deviations"]] == [
        ("web2", "192.0.2.1", "25", "missing", "closed", "warning", False, "2023-11-14T22:13:20.000Z", None),
        ("web2", "192.0.2.1", "8080", "unexpected", "open", "warning", True, "2023-11-14T22:13:20.000Z", None),
        ("web10", "192.0.2.1", "23", "unexpected", "open", "critical", False, "2023-11-14T22:12:20.000Z", None),
    ]


def test_vulnerabilities_of_all_hosts_are_one_list() -> None:
    """By host and package, also those that an exception accepts."""
    document = exporter().document("/api/v1/vulnerabilities")
    assert document["total"] == 2
    assert [(row["host"], row["package"], row["id"], row["excepted"]) for row in document["vulnerabilities"]] == [
        ("web10", "curl", "CVE-2026-0002", False),
        ("web10", "xz", "CVE-2026-0003", True),
    ]


def test_worklist_has_the_most_urgent_first_and_is_of_one_owner_or_all() -> None:
    """As JSON and as a table; the limit leaves `total` as it is."""
    of = exporter()
    document = of.document("/api/v1/worklist")
    assert document["total"] == 2
    assert [(row["host"], row["what"], row["urgency"]) for row in document["worklist"]] == [
        ("web10", "unexpected 23", "critical"),
        ("web2", "missing 25", "warning"),
    ]
    one = of.document("/api/v1/worklist?limit=1")
    assert (len(one["worklist"]), one["total"]) == (1, 2)
    assert of.document("/api/v1/worklist?owner=web") == {"worklist": [], "total": 0}
    assert len(of.document("/api/v1/worklist?owner=")["worklist"]) == 2


def test_exceptions_of_all_hosts_are_one_list() -> None:
    """Of ports and of vulnerabilities, each with its host, since when conf.yml has it, and whether it is in force."""
    of = exporter()
    of.rulings.exception_times = {("*", (), ("cve-2026-0003",)): NOW - 1, ("*", ("8080",), ()): NOW - 2}
    document = of.document("/api/v1/exceptions")
    until = "2023-11-14T22:14:20.000Z"
    assert [tuple(row.values()) for row in document["exceptions"]] == [
        ("web2", ["8080"], [], "2023-11-14T22:13:18.000Z", until, True, "", ""),
        ("web10", [], ["cve-2026-0003"], "2023-11-14T22:13:19.000Z", until, True, "not used", "ann"),
    ]


@pytest.mark.parametrize("name", ["deviations", "vulnerabilities", "exceptions"])
@pytest.mark.parametrize("query", ["host=WEB1*", "host=web2&label=team%3Dweb", "host=db*", "label=team%3Ddb"])
def test_lists_are_of_the_hosts_that_were_asked_for(name: str, query: str) -> None:
    """A glob and labels choose hosts; the total counts the rows of these alone."""
    document = exporter().document(f"/api/v1/{name}?{query}")
    every = exporter().document(f"/api/v1/{name}")[name]
    chosen = {"host=WEB1*": {"web10"}, "host=web2&label=team%3Dweb": {"web2"}}.get(query, set())
    assert document[name] == [row for row in every if row["host"] in chosen]
    assert document["total"] == len(document[name])


@pytest.mark.parametrize("name", ["deviations", "vulnerabilities", "exceptions"])
def test_lists_come_in_parts(name: str) -> None:
    """One by one there is every row once, also of several in one host."""
    of = Exporter(audited_zoo())
    whole = of.document(f"/api/v1/{name}")[name]
    assert [row for part in parts_of(of, f"/api/v1/{name}?limit=1", name) for row in part] == whole
    assert len(whole) > 1


@pytest.mark.parametrize("cursor", ["W10", "WyJ3ZWIxIl0", "bnVsbA", "WyJ3ZWIxIixbMSwyLDNdXQ"])
@pytest.mark.parametrize("name", ["deviations", "vulnerabilities", "exceptions"])
def test_cursor_of_another_list_is_refused(name: str, cursor: str) -> None:
    """What no part of this list ended with is 400."""
    told = exporter().refusal(f"/api/v1/{name}?cursor={cursor}")
    assert told == f'cursor: "{cursor}" is not a cursor that portspec made for this list'


@MODEST
@given(st.text(max_size=253), st.text(max_size=MAX_IN_CURSOR), st.text(max_size=MAX_IN_CURSOR), st.integers(0, 10))
def test_cursor_can_be_read_back(host: str, package: str, version: str, number: int) -> None:
    """A position is the same after it went to the client and back, whatever names have in them; and it fits."""
    position = (host, (package, version, "\ud800" * MAX_IN_CURSOR, number))
    text = spell_cursor(position)
    assert read_cursor(text, tuple[str, tuple[str, str, str, int]]) == position
    assert re.fullmatch("[A-Za-z0-9_-]{1,4096}", text)


@pytest.mark.parametrize("name", LISTS)
def test_list_is_csv_by_its_path_or_by_accept(name: str) -> None:
    """Both ways give the same table: a header line, lines that end with CRLF, and a name to save it under."""
    of = exporter()
    by_path = of.ask(f"/api/v1/{name}.csv")
    by_accept = of.ask(f"/api/v1/{name}", headers={"Accept": "text/csv, application/json;q=0.5"})
    assert by_path.body == by_accept.body
    for answer in (by_path, by_accept):
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
        assert answer.headers["Content-Disposition"] == f'attachment; filename="portspec-{name}.csv"'
    assert (by_path.headers.get("Vary"), by_accept.headers.get("Vary")) == (None, "Accept")
    assert by_path.text.replace("\r\n", "").isprintable()
    rows = list(csv.DictReader(io.StringIO(by_path.text, newline="")))
    assert len(rows) == len(of.document(f"/api/v1/{name}")[name]) > 0


def test_table_of_hosts_has_what_the_page_shows() -> None:
    """Lists of ports are one cell, what is not known is empty."""
    rows = list(csv.DictReader(io.StringIO(exporter().ask("/api/v1/hosts.csv").text, newline="")))
    web, db = rows
    assert (web["host"], web["labels"], web["verdict"]) == ("web2", "team=web", "out_of_spec")
    assert (web["expected"], web["open"], web["excepted"]) == ("22, 25", "22, 8080", "8080")
    assert (web["audit_status"], web["vulnerabilities"]) == ("", "")
    assert (db["audit_status"], db["vulnerabilities"]) == ("vulnerable", "1")


def test_formula_of_a_stranger_is_text() -> None:
    """The title of a vulnerability that is a formula gets an apostrophe, and its quotes are doubled (RFC 4180)."""
    assert ''',"'=cmd|""calc""",''' in exporter().ask("/api/v1/vulnerabilities.csv").text


@MODEST
@given(st.lists(st.tuples(st.text(), st.integers() | st.floats(allow_nan=False), st.booleans(), st.none()), max_size=5))
def test_table_can_be_read_back(rows: list[tuple[str, float, bool, None]]) -> None:
    """Whatever a text has in it, its cell is that text, with an apostrophe if it would be a formula; numbers stay."""
    columns = ("text", "number", "truth", "nothing")
    written = write_table(columns, [dict(zip(columns, row, strict=True)) for row in rows]).decode()
    header, *found = csv.reader(io.StringIO(written, newline=""), strict=True)
    assert tuple(header) == columns
    assert len(found) == len(rows)
    for (text, number, truth, _), cells in zip(rows, found, strict=True):
        said = text.encode(errors="replace").decode()
        assert cells[0] == (f"'{said}" if said.startswith(FORMULAS) else said)
        assert type(number)(cells[1]) == number
        assert cells[2:] == [str(truth).lower(), ""]


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("", False),
        ("*/*", False),
        ("text/csv", True),
        ("TEXT/CSV;header=present", True),
        ("text/*", True),
        ("text/csv;q=0.5, application/json;q=0.4", True),
        ("text/csv;q=0.4, application/json;q=0.5", False),
        ("text/csv, application/json", False),
        ("text/csv;q=0, */*", False),
        ("application/json;q=0.1, */*", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("image/png", False),
    ],
)
def test_client_gets_what_it_prefers(accept: str, *, is_csv: bool) -> None:
    """The greater weight of the most specific range decides (RFC 9110, 12.5.1); JSON if there is no difference."""
    assert (media_weight(accept, "text/csv") > media_weight(accept, "application/json")) is is_csv


@pytest.mark.parametrize("path", [*(f"/api/v1/{name}" for name in LISTS), "/api/v1/hosts.csv", "/api/v1/hosts/web2",
                                  "/api/v1/openapi.json"])  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_answer_that_a_client_has_is_not_sent_again(path: str, method: str) -> None:
    """With the tag of an answer in If-None-Match there is 304, with the same tag and no body."""

    async def scenario() -> None:
        async with exporter().served() as url:
            first = await fetch(url + path, method)
            tag = first.headers["ETag"]
            assert (first.status, bool(first.body)) == (200, method == "GET")
            again = await fetch(url + path, method, {"If-None-Match": f'"other", W/{tag}'})
            assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
            assert again.headers["Cache-Control"] == first.headers["Cache-Control"] == "no-cache"
            assert again.headers.get("Vary") == first.headers.get("Vary")
            assert (await fetch(url + path, method, {"If-None-Match": '"other"'})).status == 200

    asyncio.run(scenario())


def test_tag_changes_with_the_answer() -> None:
    """After a scan the old tag is no longer known."""

    async def scenario() -> list[Any]:
        of = exporter()
        async with of.served() as url:
            first = await fetch(f"{url}/api/v1/hosts")
            state = of.snapshot.hosts["web10"]
            of.snapshot = of.snapshot.with_state(state.after(result(state.target, seen(is_open=[22]), at=NOW + 60)))
            second = await fetch(f"{url}/api/v1/hosts", headers={"If-None-Match": first.headers["ETag"]})
            return [second.status, first.headers["ETag"] == second.headers["ETag"], json.loads(second.text)["total"]]

    assert asyncio.run(scenario()) == [200, False, 2]


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("", False),
        ("*", True),
        (" * ", True),
        ('"a"', True),
        ('W/"a"', True),
        ('"b", W/"a","c"', True),
        ('"A"', False),
        ("a", False),
        ('"b", "c"', False),
        ('"b,"a', False),
    ],
)
def test_list_of_tags_is_read(header: str, *, known: bool) -> None:
    """If-None-Match is `*` or a list of tags, which are compared weakly (RFC 9110, 13.1.2)."""
    assert is_known(header, '"a"') is known
