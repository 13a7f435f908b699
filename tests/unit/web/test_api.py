from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.state import AuditState
from portspec.scan import PortState
from portspec.state.changes import DatedVerdict
from portspec.state.document import host_document
from portspec.state.snapshot import Snapshot
from portspec.state.table import HostTable
from portspec.state.verdict import Verdict
from portspec.store import Change, StoreError
from portspec.store.faults import StoreFault, StoreFaultKind
from portspec.web.api.cursor import read_cursor
from portspec.web.api.hosts import HostOrder, HostsQuery, _write
from portspec.web.overview import ORDERS
from tests.unit.factories import MODEST, NOW, result, seen, snapshot, target
from tests.unit.web.exporter import Exporter
from tests.unit.web.site import fetch

if TYPE_CHECKING:
    from portspec.inventory import Target

NOON = 1_806_494_400.0  # 2027-03-31T12:00:00Z


def fleet() -> Exporter:
    """Make an exporter with hosts of every verdict, one of them an IPv6 address."""
    web1, web2 = (target(f"web{number}", expect=[22]) for number in (1, 2))
    mail, six = target("mail.example.org", labels={"site": "rome"}), target("2001:db8::1", address="2001:db8::1")
    return Exporter(
        snapshot(
            (web1, [result(web1, seen(is_open=[22]))]),
            (mail, [result(mail, seen(is_open=[80]))]),
            (web2, [result(web2, seen(is_open=[22]))]),
            (six, []),
        )
    )


def names(document: dict[str, Any]) -> list[str]:
    """Return the names of the hosts of a page."""
    return [host["host"] for host in document["hosts"]]


def test_hosts_are_those_of_the_configuration() -> None:
    """Without parameters there is every host, by name, as `scan --json` has it."""
    exporter = fleet()
    document = exporter.document("/api/v1/hosts")
    every = {state.host: host_document(state) for state in exporter.snapshot.hosts.values()}
    assert document == {"hosts": [every[name] for name in names(document)], "total": 4, "next_cursor": None}
    assert names(document) == ["2001:db8::1", "mail.example.org", "web1", "web2"]


def test_exporter_without_hosts_gives_an_empty_list() -> None:
    """Where discovery has found nothing yet there is a list of none."""
    assert Exporter().document("/api/v1/hosts") == {"hosts": [], "total": 0, "next_cursor": None}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("host=web*", ["web1", "web2"]),
        ("host=WEB*", ["web1", "web2"]),
        ("host=web%3F", ["web1", "web2"]),
        ("host=web[2-9]", ["web2"]),
        ("host=mail.example.org", ["mail.example.org"]),
        ("host=2001:db8::*", ["2001:db8::1"]),
        ("host=db*", []),
        ("host=", []),
        ("verdict=in_spec", ["web1", "web2"]),
        ("verdict=out_of_spec", ["mail.example.org"]),
        ("verdict=unknown", ["2001:db8::1"]),
        ("verdict=waiting", ["2001:db8::1"]),
        ("verdict=unscanned", []),
        ("q=WEB", ["web1", "web2"]),
        ("q=rom", ["mail.example.org"]),
        ("label=site%3Drome", ["mail.example.org"]),
        ("label=site%3Drome&label=team%3Dweb", []),
        ("sort=-host", ["web2", "web1", "mail.example.org", "2001:db8::1"]),
        ("sort=worst", ["mail.example.org", "2001:db8::1", "web1", "web2"]),
        ("sort=-worst&verdict=in_spec", ["web1", "web2"]),
        ("sort=open", ["2001:db8::1", "mail.example.org", "web1", "web2"]),
        ("audit=clean", []),
        ("verdict=in_spec&host=*2", ["web2"]),
    ],
)
def test_hosts_are_chosen_by_glob_and_verdict(query: str, found: list[str]) -> None:
    """`host` is a glob in which case does not count, `verdict` one of three; both hold when both are given."""
    document = fleet().document(f"/api/v1/hosts?{query}")
    assert names(document) == found
    assert document["total"] == len(found)


def test_host_in_capitals_is_found_by_a_glob_in_small_letters() -> None:
    """A host whose name has capitals in conf.yml is chosen by a glob in any case."""
    exporter = Exporter(Snapshot.of([target("WEB1")]))
    assert names(exporter.document("/api/v1/hosts?host=web*")) == ["WEB1"]


def parts_of(exporter: Exporter, path: str, key: str = "hosts") -> list[list[Any]]:
    """Follow the cursors of a list to its end."""
    parts, query = [], urlsplit(path).query
    cursor = ""
    while True:
        document = exporter.document(f"{path}{'&' if query else '?'}{cursor}")
        parts.append(document[key])
        if document["next_cursor"] is None:
            return parts
        cursor = f"cursor={document['next_cursor']}"


def test_hosts_come_in_parts() -> None:
    """Following next_cursor gives every host once; the total is that of all parts."""
    exporter = fleet()
    parts = parts_of(exporter, "/api/v1/hosts?limit=3")
    assert [[host["host"] for host in part] for part in parts] == [
        ["2001:db8::1", "mail.example.org", "web1"],
        ["web2"],
    ]
    assert exporter.document("/api/v1/hosts?limit=1")["total"] == 4


def test_last_part_that_is_full_has_no_next_one() -> None:
    """When the last host is the last of a part there is no cursor to go on with."""
    assert [len(part) for part in parts_of(fleet(), "/api/v1/hosts?limit=2")] == [2, 2]


def test_part_of_chosen_hosts_counts_these_only() -> None:
    """Total and cursor are of the hosts that the filter chose."""
    document = fleet().document("/api/v1/hosts?host=web*&limit=1")
    assert (names(document), document["total"]) == (["web1"], 2)
    document = fleet().document(f"/api/v1/hosts?host=web*&limit=1&cursor={document['next_cursor']}")
    assert (names(document), document["total"], document["next_cursor"]) == (["web2"], 2, None)


@pytest.mark.parametrize("sort", list(HostOrder))
def test_every_order_can_be_read_in_parts(sort: str) -> None:
    """In each order the parts together are the whole list, in the same order."""
    exporter = fleet()
    whole = names(exporter.document(f"/api/v1/hosts?sort={sort}"))
    parts = parts_of(exporter, f"/api/v1/hosts?sort={sort}&limit=1")
    assert [host["host"] for part in parts for host in part] == whole


@MODEST
@given(
    st.sets(st.integers(0, 300), min_size=1, max_size=20),
    st.sets(st.integers(0, 300), max_size=20),
    st.integers(1, 5),
    st.sampled_from(["host", "-host"]),
)
def test_hosts_that_come_and_go_move_no_others(before: set[int], after: set[int], limit: int, sort: str) -> None:
    """Hosts that are there all the time are in the parts exactly once, whatever comes and goes between two parts."""
    then, now = (Snapshot.of(target(f"web{number}") for number in sorted(numbers)) for numbers in (before, after))
    query = HostsQuery(sort=HostOrder(sort), limit=limit)
    first = json.loads(_write(then, query, None, "application/json").body)
    found, cursor = [host["host"] for host in first["hosts"]], first["next_cursor"]
    while cursor is not None:
        position = read_cursor(cursor, tuple[HostOrder, tuple[float, ...], str])
        part = json.loads(_write(now, query, position, "application/json").body)
        found += [host["host"] for host in part["hosts"]]
        cursor = part["next_cursor"]
    if first["next_cursor"] is not None:
        assert all(found.count(f"web{number}") == 1 for number in before & after)
    assert len(found) == len(set(found))


def test_link_leads_to_the_next_part() -> None:
    """The header Link (RFC 8288) has the same parameters and the cursor, relative to what was asked for."""
    exporter = fleet()
    answer = exporter.ask("/api/v1/hosts?q=web&limit=1&label=")
    assert answer.status == 400
    answer = exporter.ask("/api/v1/hosts?q=web&limit=1")
    cursor = json.loads(answer.text)["next_cursor"]
    assert answer.headers["Link"] == f'<?q=web&limit=1&cursor={cursor}>; rel="next"'
    last = exporter.ask(f"/api/v1/hosts?q=web&limit=1&cursor={cursor}")
    assert "Link" not in last.headers


def test_hosts_that_only_send_audits_are_listed() -> None:
    """A host that is not scanned has the verdict null, and is found as the page finds it."""
    exporter = fleet()
    exporter.snapshot = replace(exporter.snapshot, audits=HostTable([AuditState("laptop")]))
    document = exporter.document("/api/v1/hosts?verdict=unscanned")
    assert [(host["host"], host["verdict"], host["audit"]["status"]) for host in document["hosts"]] == [
        ("laptop", None, "never")
    ]
    assert names(exporter.document("/api/v1/hosts?audit=never")) == ["laptop"]


def test_thousand_hosts_are_a_part_unless_more_are_asked_for() -> None:
    """Without `limit` a part has 1,000 hosts, and a table 10,000; as many may be asked for."""
    exporter = Exporter(Snapshot.of(target(f"host{number}") for number in range(1001)))
    document = exporter.document("/api/v1/hosts")
    assert (len(document["hosts"]), document["next_cursor"] is None) == (1000, False)
    assert len(exporter.document("/api/v1/hosts?limit=10000")["hosts"]) == 1001
    assert exporter.ask("/api/v1/hosts.csv").text.count("\r\n") == 1002


def test_orders_are_those_of_the_page() -> None:
    """What hosts are sorted by is the same as on the page, and with a minus the other way round."""
    assert set(HostOrder) == {sign + order for order in ORDERS for sign in ("", "-")}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", 'limit: "0" is not a whole number between 1 and 10000'),
        ("limit=10001", 'limit: "10001" is not a whole number between 1 and 10000'),
        ("limit=", 'limit: "" is not a whole number between 1 and 10000'),
        ("limit=ten", 'limit: "ten" is not a whole number between 1 and 10000'),
        ("limit=-1", 'limit: "-1" is not a whole number between 1 and 10000'),
        ("limit=1.0", 'limit: "1.0" is not a whole number between 1 and 10000'),
        ("limit=%D9%A3", 'limit: "٣" is not a whole number between 1 and 10000'),
        (f"limit={'9' * 5000}", f'limit: "{"9" * 5000}" is not a whole number between 1 and 10000'),
        (
            "verdict=good",
            'verdict: "good" is not known (known: out_of_spec, unknown, waiting, in_spec, unscanned)',
        ),
        ("verdict=", 'verdict: "" is not known (known: out_of_spec, unknown, waiting, in_spec, unscanned)'),
        ("label=web", 'label: "web" is not a name and a value (expected for example team=web)'),
        ("&".join(["label=a%3Db"] * 11), "label: it is given 11 times (expected at most 10)"),
        ("cursor=a.b", 'cursor: "a.b" is not a cursor that portspec made'),
        ("cursor=", 'cursor: "" is not a cursor that portspec made'),
        ("cursor=abcd", 'cursor: "abcd" is not a cursor that portspec made for this list'),
        ("cursor=W10", 'cursor: "W10" is not a cursor that portspec made for this list'),
        ("cursor=WyJ3b3JzdCIsWzBdLCJhIl0", 'cursor: it is of the order "worst", and not of "host"'),
        (f"host={'*' * 257}", "host: it has 257 characters (expected at most 256)"),
        (
            "offset=1",
            '"offset" is not a parameter of /api/v1/hosts (known: q, label, host, verdict, audit, sort, limit, cursor)',
        ),
        ("host=a&host=b", "the parameter host is given more than once"),
        ("limit=1&limit=1", "the parameter limit is given more than once"),
    ],
)
def test_parameter_of_hosts_that_makes_no_sense_is_refused(query: str, message: str) -> None:
    """What would be ignored or misread is 400, with a message that says what was expected."""
    assert fleet().refusal(f"/api/v1/hosts?{query}") == message


def test_no_cache_answers_by_itself() -> None:
    """A cache on the way asks each time whether what it has is still right."""
    assert fleet().ask("/api/v1/hosts").headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("web1", "web1"),
        ("WEB1", "web1"),
        ("web1.", "web1"),
        ("mail.example.org", "mail.example.org"),
        ("Mail.Example.ORG.", "mail.example.org"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001%3Adb8%3A%3A1", "2001:db8::1"),
        ("2001:0DB8:0:0::1", "2001:db8::1"),
    ],
)
def test_host_is_found_in_any_spelling(path: str, host: str) -> None:
    """A host is the same in capitals, with a final dot, and as a longer IPv6 address."""
    exporter = fleet()
    assert exporter.document(f"/api/v1/hosts/{path}") == host_document(exporter.snapshot.hosts[host])


@pytest.mark.parametrize(
    ("of", "path"),
    [
        (target("WEB1"), "WEB1"),
        (target("WEB1"), "web1"),
        (target("web1.example.org."), "web1.example.org"),
        (target("2001:DB8:0::1", address="2001:db8::1"), "2001:db8::1"),
        (target("bücher.example"), "b%C3%BCcher.example"),
        (target("bücher.example"), "xn--bcher-kva.example"),
    ],
)
def test_host_that_is_spelled_otherwise_in_the_file_is_found(of: Target, path: str) -> None:
    """However conf.yml spells a host, its plain spelling finds it."""
    exporter = Exporter(Snapshot.of([of]))
    assert exporter.document(f"/api/v1/hosts/{path}")["host"] == of.host


@pytest.mark.parametrize(
    ("path", "quoted"),
    [("web3", "web3"), ("not%20a%20host", "not a host"), ("%22", '"'), ("2001:db8::2", "2001:db8::2"), ("*", "*")],
)
def test_host_that_is_not_there_is_404(path: str, quoted: str) -> None:
    """A host of another exporter, or none at all, is 404 with its name."""
    assert fleet().refusal(f"/api/v1/hosts/{path}", status=404) == f'"{quoted}" is not a host of this exporter'


def change(number: int, **parts: Any) -> tuple[int, Change]:
    """Make a numbered row of the change log."""
    given = {"ports": "22", "before": PortState.CLOSED, "after": PortState.OPEN, **parts}
    return number, Change(NOW, "web1", "192.0.2.1", first_seen=NOW - 60, **given)


def test_change_is_told_with_its_number_and_times() -> None:
    """A row has an id, times in RFC 3339, and null for a state from before the first look."""
    exporter = Exporter(rows=[change(7), change(6, before=None, ports="1-21, 23")])
    assert exporter.document("/api/v1/changes") == {
        "changes": [
            {
                "id": 7,
                "at": "2023-11-14T22:13:20.000Z",
                "host": "web1",
                "address": "192.0.2.1",
                "ports": "22",
                "from": "closed",
                "to": "open",
                "first_seen": "2023-11-14T22:12:20.000Z",
                "note": "",
            },
            {
                "id": 6,
                "at": "2023-11-14T22:13:20.000Z",
                "host": "web1",
                "address": "192.0.2.1",
                "ports": "1-21, 23",
                "from": None,
                "to": "open",
                "first_seen": "2023-11-14T22:12:20.000Z",
                "note": "",
            },
        ],
        "next_cursor": None,
    }


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", {}),
        ("?host=web1", {"host": "web1"}),
        ("?limit=5", {"limit": 5}),
        ("?cursor=17", {"before_id": 17}),
        ("?since=1806494400", {"since": NOON}),
        ("?since=1806494400.5&until=1.8e9", {"since": NOON + 0.5, "until": 1.8e9}),
        ("?since=2027-03-31T12:00:00Z", {"since": NOON}),
        ("?since=2027-03-31T14:00:00%2B02:00", {"since": NOON}),
        ("?since=2027-03-31T14:00:00+02:00", {"since": NOON}),
        ("?since=2027-03-31T07:00:00-05:00", {"since": NOON}),
        ("?since=2027-03-31T12:00:00", {"since": NOON}),
        ("?since=2027-03-31%2012:00:00", {"since": NOON}),
        ("?until=2027-03-31", {"until": NOON - 43_200}),
        ("?until=0", {"until": 0.0}),
        ("?since=-1", {"since": -1.0}),
    ],
)
def test_changes_are_chosen_by_host_and_time(query: str, asked: dict[str, Any]) -> None:
    """Times are Unix seconds or RFC 3339, UTC unless they have an offset; without parameters the store gives all."""
    exporter = Exporter()
    exporter.document(f"/api/v1/changes{query}")
    assert exporter.asked == [{"host": None, "since": None, "until": None, "before_id": None, "limit": 1000, **asked}]


def test_host_of_changes_is_found_in_any_spelling() -> None:
    """The change log of a host is given for every spelling that finds the host itself."""
    exporter = fleet()
    exporter.document("/api/v1/changes?host=WEB1.")
    assert exporter.asked[0]["host"] == "web1"


def test_changes_come_in_pages() -> None:
    """A full page names the id with which the next one is asked for; a page that is not full is the last."""
    exporter = Exporter(rows=[change(number) for number in (9, 8, 5)])
    assert exporter.document("/api/v1/changes?limit=2")["next_cursor"] == "8"
    assert exporter.document("/api/v1/changes?limit=4")["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("since=yesterday", 'since: "yesterday" is not a time (expected Unix seconds, or "2027-03-31T18:00:00Z")'),
        ("since=", 'since: "" is not a time (expected Unix seconds, or "2027-03-31T18:00:00Z")'),
        ("until=nan", 'until: "nan" is not a time (expected Unix seconds, or "2027-03-31T18:00:00Z")'),
        ("until=inf", 'until: "inf" is not a time (expected Unix seconds, or "2027-03-31T18:00:00Z")'),
        ("until=1e999", 'until: "1e999" is not a time (expected Unix seconds, or "2027-03-31T18:00:00Z")'),
        ("since=2027-02-29", 'since: "2027-02-29" is not a time (expected Unix seconds, or "2027-03-31T18:00:00Z")'),
        ("cursor=x", 'cursor: "x" is not the id of a row'),
        ("cursor=0", 'cursor: "0" is not the id of a row'),
        ("limit=0", 'limit: "0" is not a whole number between 1 and 10000'),
        ("before=1", '"before" is not a parameter of /api/v1/changes (known: host, since, until, limit, cursor)'),
        ("since=1&since=2", "the parameter since is given more than once"),
    ],
)
def test_parameter_of_changes_that_makes_no_sense_is_refused(query: str, message: str) -> None:
    """What is no time and no number is 400, and the store is not asked."""
    exporter = Exporter()
    assert exporter.refusal(f"/api/v1/changes?{query}") == message
    assert exporter.asked == []


def test_change_log_that_cannot_be_read_is_503() -> None:
    """While the state file is out of order the answer says so and what to do, and hosts are served all the same."""
    exporter = fleet()
    exporter.fault = StoreError("/var/lib/portspec.db", StoreFault(StoreFaultKind.LOCKED, "database is locked"))
    assert exporter.refusal("/api/v1/changes", status=503) == str(exporter.fault)
    assert len(exporter.document("/api/v1/hosts")["hosts"]) == 4


@pytest.mark.parametrize(("host", "busy", "said"), [("web1", (), "started"), ("web1", ("web1",), "on its way already")])
def test_scan_is_started(host: str, busy: tuple[str, ...], said: str) -> None:
    """A host's scan is accepted with 202, also when one is running."""
    exporter = fleet()
    exporter.busy = frozenset(busy)
    assert exporter.document(f"/api/v1/scan?host={host}", "POST", status=202) == {"host": host, "scan": said}
    assert exporter.begun == [host]


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("?host=db1", 404, '"db1" is not a host of this exporter'),
        ("?host=web*", 404, '"web*" is not a host of this exporter'),
        ("", 400, "the parameter host is missing"),
        ("?host=", 400, "the parameter host is missing"),
        ("?host=web1&host=web2", 400, "the parameter host is given more than once"),
        ("?name=web1", 400, '"name" is not a parameter of /api/v1/scan (known: host)'),
    ],
)
def test_scan_of_no_host_is_refused(query: str, status: int, message: str) -> None:
    """A host that is not there is 404, a request without one 400; nothing is started."""
    exporter = fleet()
    assert exporter.refusal(f"/api/v1/scan{query}", "POST", status=status) == message
    assert exporter.begun == []


@pytest.mark.parametrize("path", ["/api/v1/scan?host=web1", "/-/reload"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_what_acts_wants_a_post(path: str, method: str) -> None:
    """A link or a crawler starts no scan and no reload: 405."""
    exporter = fleet()
    answer = exporter.ask(path, method)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert (exporter.begun, exporter.reloads) == ([], 0)


def test_targets_are_in_the_form_of_http_sd() -> None:
    """/sd/targets is Prometheus's http_sd: a list of groups of targets and labels, as application/json."""
    answer = fleet().ask("/sd/targets")
    # prometheus/discovery/http/http.go: any other type is refused
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(answer.text) == [
        {"targets": ["web1"], "labels": {}},
        {"targets": ["mail.example.org"], "labels": {"site": "rome"}},
        {"targets": ["web2"], "labels": {}},
        {"targets": ["2001:db8::1"], "labels": {}},
    ]


def test_exporter_without_hosts_has_an_empty_list_of_targets() -> None:
    """Prometheus takes an empty list, and no null."""
    assert Exporter().document("/sd/targets") == []


def test_reload_that_succeeds_is_200() -> None:
    """POST /-/reload reads conf.yml again and says so."""
    exporter = Exporter()
    answer = exporter.ask("/-/reload", "POST")
    assert (answer.status, answer.text, exporter.reloads) == (200, "configuration reloaded.\n", 1)


def test_reload_of_a_bad_file_is_500_with_its_problems() -> None:
    """A file that is not right is 500, with every problem that was found."""
    exporter = Exporter(problem="conf.yml:3: scanports: 0 is not a port\nconf.yml:4: colour: unknown key")
    answer = exporter.ask("/-/reload", "POST")
    assert (answer.status, answer.text) == (
        500,
        f"reload failed; keeping the previous configuration:\n{exporter.problem}\n",
    )
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("path", ["/-/reload", "/api/v1/scan?host=web1"])
@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("", 403), ("same-origin", 200), ("none", 200)]
)
def test_page_of_another_site_may_not_act(path: str, site: str, status: int) -> None:
    """A browser says where a request comes from (Sec-Fetch-Site): one from another site's page does nothing."""
    exporter = fleet()
    answer = exporter.ask(path, "POST", {"Sec-Fetch-Site": site})
    assert answer.status in ({status, 202} if status == 200 else {status})
    assert len(exporter.begun) + exporter.reloads == (status == 200)


def test_page_of_another_site_may_read() -> None:
    """What changes nothing is answered wherever it comes from: a link to the page works."""
    assert fleet().ask("/api/v1/hosts", headers={"Sec-Fetch-Site": "cross-site"}).status == 200


def test_api_sees_the_snapshot_of_the_moment() -> None:
    """Each request is answered from the hosts that there are when it comes."""

    async def scenario() -> list[int]:
        exporter = Exporter()
        async with exporter.served() as url:
            before = await fetch(f"{url}/api/v1/hosts/web1")
            exporter.snapshot = Snapshot.of([target("web1")])
            return [before.status, (await fetch(f"{url}/api/v1/hosts/web1")).status]

    assert asyncio.run(scenario()) == [404, 200]


def test_verdicts_of_a_host_over_time() -> None:
    """The newest is first, each with its time; of a host in any spelling, and of one that has left."""
    one = fleet()
    host = next(iter(one.snapshot.hosts))
    one.history = [
        DatedVerdict(NOW, host, Verdict.UNKNOWN, "not_scanned"),
        DatedVerdict(NOW - 60, host, Verdict.IN_SPEC),
        DatedVerdict(NOW, "gone", Verdict.OUT_OF_SPEC),
    ]
    document = one.document(f"/api/v1/verdicts?host={host.upper()}")
    assert document == {
        "host": host,
        "verdicts": [
            {"since": "2023-11-14T22:13:20.000Z", "verdict": "unknown", "reason": "not_scanned"},
            {"since": "2023-11-14T22:12:20.000Z", "verdict": "in_spec", "reason": None},
        ],
    }
    assert one.document("/api/v1/verdicts?host=gone")["verdicts"][0]["verdict"] == "out_of_spec"
    assert len(one.document(f"/api/v1/verdicts?host={host}&limit=1")["verdicts"]) == 1
    assert one.refusal("/api/v1/verdicts") == "the parameter host is missing"
