"""What the owners of hosts have to do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from portspec.audit.model import Severity, Status, Vulnerability
from portspec.audit.payload import Kernel, ListeningSocket
from portspec.audit.priority import Priorities
from portspec.deadlines import Deadlines
from portspec.exposure import reason_of
from portspec.inventory import AuditedHost
from portspec.priorities import Priority, PriorityRule
from portspec.report.worklist import Work, WorkItem, owners, worklists
from portspec.report.worklist import worklist as first_items
from portspec.scan import Reason
from portspec.state.snapshot import HostState, Snapshot
from portspec.state.table import HostTable
from tests.unit.factories import NOW, result, seen, target
from tests.unit.report.fleets import DAY, audited, never, vulnerability

if TYPE_CHECKING:
    from portspec.audit.state import AuditState

LIMITS = Deadlines({"fix_now": DAY, "plan": 30 * DAY}, kinds={"unexpected": 2 * DAY})
#: Of critical severity: fix now; of high: plan; all others: rest.
PRIORITIES = Priorities(
    (
        PriorityRule(Priority.FIX_NOW, severity=frozenset({"critical"})),
        PriorityRule(Priority.PLAN, severity=frozenset({"high"})),
    )
)


def host(
    name: str, owner: str, *is_open: int, at: float = NOW, deadlines: Deadlines = LIMITS, interval: float = 1e9
) -> HostState:
    """Make a host that expects 22, and has some ports open since a time."""
    of = target(name, expect=[22], scan=[22, 80, 81, 6379], owner=owner, deadlines=deadlines, interval=interval)
    return HostState(of).after(result(of, seen(scanned=of.config.ports, is_open=is_open), at=at)).judged(of, NOW)


def audit(name: str, owner: str, *found: Vulnerability, age: float = 0.0, kernel: Kernel | None = None) -> AuditState:
    """Make the audit of a host, whose vulnerabilities are known since so many seconds."""
    state = audited(name, *found)
    assert state.host_audit
    since = tuple(int(NOW - age) for _ in found)
    host_audit = replace(state.host_audit, since=since, kernel=kernel)
    return replace(state, host_audit=host_audit, owner=owner, deadlines=LIMITS, priorities=PRIORITIES).with_due_times()


def of(*states: HostState | AuditState) -> Snapshot:
    """Make a snapshot."""
    hosts = HostTable(state for state in states if isinstance(state, HostState))
    return Snapshot(hosts, HostTable(state for state in states if not isinstance(state, HostState)))


def worklist(snapshot: Snapshot, now: float, owner: str | None = None, max_age: float = 1e12) -> list[WorkItem]:
    """Return the items of an owner, or of all."""
    return list(first_items(snapshot, now, owner, limit=1000, max_age=max_age).items)


def briefly(items: list[WorkItem]) -> list[tuple[str, str, str]]:
    """Return the host of each item, what it is about, and its urgency."""
    return [(item.host, item.what, item.urgency) for item in items]


def test_vulnerabilities_of_a_package_are_one_item() -> None:
    """It has the most urgent class of them, the earliest deadline, and names the first of them."""
    ids = [vulnerability(f"CVE-2026-000{number}", Severity.HIGH, fixed_in=[f"3.{number}"]) for number in range(4)]
    worst = vulnerability("CVE-2026-0009", Severity.CRITICAL, fixed_in=["3.9"])
    (item,) = worklist(of(audit("db1", "db", *ids, worst)), NOW)
    assert item == WorkItem(
        "db",
        "db1",
        Work.PACKAGE,
        "openssl 3.0.11-1~deb12u1",
        "fix_now",
        "upgrade, fixed in 3.9, 3.0, 3.1 and 2 more",
        item.why,
        NOW,
        NOW + DAY,
    )
    assert item.why.startswith("CVE-2026-0009, CVE-2026-0000, CVE-2026-0001 and 2 more; critical severity; ")


def test_package_that_is_neither_urgent_nor_due_is_left_out() -> None:
    """The report of all machines has it."""
    low = vulnerability("CVE-2026-0001", Severity.LOW)
    assert worklist(of(audit("db1", "db", low)), NOW) == []


def test_package_without_a_fixed_version_says_so() -> None:
    """There may be nothing to upgrade to."""
    (item,) = worklist(of(audit("db1", "db", vulnerability("CVE-2026-0001", Severity.CRITICAL, fixed_in=[]))), NOW)
    assert item.action == "no fixed version is known; accept it until there is one, or remove the package"


def test_ports_that_deviate_alike_since_the_same_scan_are_one_item() -> None:
    """Those of another severity, or in another way, are others."""
    items = worklist(of(host("web1", "web", 80, 81, 6379)), NOW)
    assert briefly(items) == [
        ("web1", "unexpected 6379", "critical"),
        ("web1", "unexpected 80, 81", "warning"),
        ("web1", "missing 22", "warning"),
    ]
    assert [item.due for item in items] == [NOW + 2 * DAY, NOW + 2 * DAY, None]
    assert items[0].why == reason_of(6379)
    assert items[2].action == "start the service, or remove the port from expect in conf.yml"


def test_item_of_ports_names_who_holds_them() -> None:
    """As far as the audit of the host tells."""
    state = audit("web1", "web")
    assert state.host_audit
    socket = ListeningSocket("tcp", "*", 80, "nginx", "www")
    state = replace(state, host_audit=replace(state.host_audit, listeners=(socket,)))
    (item,) = worklist(of(host("web1", "web", 22, 80), state), NOW)
    assert item.why == "held by nginx (user www)"


def test_restarts_are_items_without_a_deadline() -> None:
    """A process that runs a replaced file, and a kernel."""
    socket = ListeningSocket("tcp", "*", 80, "nginx", "www", replaced=("/lib/x.so",))
    state = audit("web1", "web", kernel=Kernel("6.1.1", "6.1.2"))
    assert state.host_audit
    state = replace(state, host_audit=replace(state.host_audit, listeners=(socket,)))
    assert [(item.work, item.what, item.action, item.due) for item in worklist(of(state), NOW)] == [
        (Work.RESTART, "kernel 6.1.1", "reboot", None),
        (Work.RESTART, "nginx", "restart", None),
    ]


def test_what_is_overdue_comes_first_then_what_is_urgent() -> None:
    """Whatever its host is called."""
    snapshot = of(
        host("a", "web", 22, 6379),  # critical
        host("z", "web", 22, 80, at=NOW - 3 * DAY),  # overdue
        audit("b", "", vulnerability("CVE-1", Severity.HIGH)),
        audit("c", "", vulnerability("CVE-2", Severity.CRITICAL), age=2 * DAY),
    )
    assert briefly(worklist(snapshot, NOW)) == [
        ("c", "openssl 3.0.11-1~deb12u1", "fix_now"),
        ("z", "unexpected 80", "warning"),
        ("a", "unexpected 6379", "critical"),
        ("b", "openssl 3.0.11-1~deb12u1", "plan"),
    ]
    assert [item.is_overdue(NOW) for item in worklist(snapshot, NOW)] == [True, True, False, False]


def test_owner_has_the_items_of_its_hosts_alone() -> None:
    """Hosts without an owner are those of ""."""
    snapshot = of(host("web1", "web", 22, 80), host("db1", "db", 22, 81), host("old", "", 22, 6379))
    assert [item.host for item in worklist(snapshot, NOW, "db")] == ["db1"]
    assert [item.host for item in worklist(snapshot, NOW, "")] == ["old"]
    assert worklist(snapshot, NOW, "nobody") == []


def test_owners_are_counted() -> None:
    """With their hosts, scanned or not, their deviations, and what is overdue; what has no owner comes last."""
    snapshot = of(
        host("web1", "web", 22, 80, at=NOW - 3 * DAY),
        host("web2", "web", 22),
        host("old", ""),
        audit("web1", "web", vulnerability("CVE-2", Severity.CRITICAL), age=2 * DAY),
        replace(never("db1"), owner="db"),
    )
    found = [(item.owner, item.hosts, item.unknown, item.deviations, item.overdue) for item in owners(snapshot, NOW)]
    assert found == [("db", 1, 1, 0, 0), ("web", 2, 0, 1, 2), ("", 1, 0, 1, 0)]


def test_item_is_a_row_of_a_table() -> None:
    """Times are those of RFC 3339, and none is None."""
    (item,) = worklist(of(host("web1", "web", 22, 80, deadlines=Deadlines())), NOW)
    assert item.document(NOW) == {
        "owner": "web",
        "host": "web1",
        "work": "ports",
        "what": "unexpected 80",
        "action": "close, or accept in conf.yml",
        "urgency": "warning",
        "overdue": False,
        "due": None,
        "since": "2023-11-14T22:13:20.000Z",
        "why": "",
    }


def test_host_of_which_a_view_is_missing_has_an_item() -> None:
    """Nobody knows what else there is to do: it is not scanned, or its audit is missing, late or says nothing."""
    of_unseen = target("unseen", owner="web")
    unseen = HostState(of_unseen).after(result(of_unseen, seen(reason=Reason.NO_ROUTE)))
    of_failed = audited("failed", status=Status.FAILED, reason="no output")
    low = vulnerability("CVE-2026-0001", Severity.LOW)
    outdated = audited("outdated", low, reason="old")
    assert outdated.host_audit
    found_stale = replace(outdated.host_audit.audit, without=Status.STALE_DATABASE)
    outdated = replace(outdated, host_audit=replace(outdated.host_audit, audit=found_stale))
    of_half = target("half", owner="web", expect=[22], scan=[22])
    halves = seen("192.0.2.1", scanned=[22]), seen("192.0.2.2", reason=Reason.NO_ROUTE)
    half_seen = HostState(of_half).after(result(of_half, *halves))
    snapshot = of(
        HostState(target("new", owner="web")),
        unseen,
        host("old", "web", 22, at=NOW - 3600, interval=60.0),
        replace(never("never"), owner="db"),
        replace(of_failed, owner="db"),
        replace(outdated, owner="db"),
        half_seen,
        replace(audited("late", age=2 * DAY), owner="db"),
        replace(audited("fresh", age=60), owner="db"),
    )
    found = {(item.host, item.work.value, item.why.partition(":")[0]) for item in worklist(snapshot, NOW, max_age=DAY)}
    assert found == {
        ("new", "scan", "not scanned yet"),
        ("half", "ports", ""),
        ("half", "scan", "no connection to 192.0.2.2"),
        ("outdated", "audit", "stale database"),
        ("unseen", "scan", "no connection to 192.0.2.1"),
        ("old", "scan", "last scan"),
        ("never", "audit", "no audit was received"),
        ("failed", "audit", "failed"),
        ("late", "audit", "last audit"),
    }


def test_host_whose_audits_are_not_read_yet_has_an_item() -> None:
    """Whether it is scanned or not; and its owner a host of which nothing is known."""
    unread = (AuditedHost("web1", owner="web"), AuditedHost("db1", owner="db"))
    snapshot = replace(of(host("web1", "web", 22)), unread=unread)
    assert [(item.host, item.work, item.why) for item in worklist(snapshot, NOW)] == [
        ("db1", Work.AUDIT, "no audit of this host is read yet"),
        ("web1", Work.AUDIT, "no audit of this host is read yet"),
    ]
    assert [item.host for item in worklist(snapshot, NOW, "web")] == ["web1"]
    assert [(item.owner, item.hosts, item.unknown) for item in owners(snapshot, NOW)] == [("db", 1, 1), ("web", 1, 1)]


def test_first_items_are_those_of_the_whole_list() -> None:
    """However few are kept; all are counted."""
    states = [host(f"web{number}", "web", 22, 80, at=NOW - number * DAY) for number in range(9)]
    snapshot = of(*states)
    every = worklist(snapshot, NOW)
    for limit in (1, 2, 5, 100):
        found = first_items(snapshot, NOW, limit=limit)
        assert (list(found.items), found.total, found.overdue) == (every[:limit], len(every), 7)


def test_worklists_of_groups_of_owners() -> None:
    """An owner without a group has none."""
    snapshot = of(host("web1", "web", 22, 80), host("db1", "db", 22, 80), host("x", "other", 22, 80))
    found = worklists(snapshot, NOW, {"web": 1, "db": 1}.get, limit=10)
    assert {key: [item.host for item in items.items] for key, items in found.items()} == {1: ["db1", "web1"]}
