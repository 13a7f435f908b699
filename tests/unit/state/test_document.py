from __future__ import annotations

import json
from typing import Any, Final

import pytest

from portspec.audit.model import Audit, Scope, Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.config import VulnerabilityException
from portspec.scan import Failure, PortState, Reason
from portspec.state.changes import Change
from portspec.state.document import audit_document, change_document, host_document, timestamp, unscanned_document
from portspec.state.snapshot import HostState
from tests.unit.factories import NOW, exception, result, seen, target

KEYS = [
    "host", "labels", "verdict", "reason", "detail", "expected", "allowed", "missing", "unexpected", "excepted",
    "overdue", "addresses", "last_scan", "duration_seconds", "last_change", "next_scan", "pace", "maintenance", "audit",
]  # fmt: skip


def test_host_out_of_spec() -> None:
    """The object of a host has the keys of the contract, ports as sorted strings and times in UTC."""
    of = target("db1", expect=[22, 5432], allow=[80], scan=[22, 23, 80, 9000, 10000])
    first = result(of, seen("192.0.2.1", scanned=of.config.ports, is_open=[22, 5432]), at=NOW - 60)
    second = result(
        of,
        seen("192.0.2.1", scanned=of.config.ports, is_open=[22, 80, 10000, 9000], filtered=[23], rtt=0.0123456789),
        seen("2001:db8::1", scanned=of.config.ports, is_open=[9000], rtt=None),
        at=NOW + 0.5,
        duration=1.23456789,
    )
    document: Any = host_document(HostState(of).after(first).after(second))
    assert document == {
        "host": "db1",
        "labels": {},
        "verdict": "out_of_spec",
        "reason": None,
        "detail": None,
        "expected": ["22", "5432"],
        "allowed": ["80"],
        "missing": ["22", "5432"],
        "unexpected": ["9000", "10000"],
        "excepted": [],
        "overdue": [],
        "addresses": [
            {
                "address": "192.0.2.1",
                "open": ["22", "80", "9000", "10000"],
                "unconfirmed": [],
                "closed": 1,
                "filtered": 1,
                "rtt_seconds": 0.012346,
            },
            {
                "address": "2001:db8::1",
                "open": ["9000"],
                "unconfirmed": [],
                "closed": 5,
                "filtered": 0,
                "rtt_seconds": None,
            },
        ],
        "last_scan": "2023-11-14T22:13:20.500Z",
        "duration_seconds": 1.234568,
        "last_change": "2023-11-14T22:13:20.500Z",
        "next_scan": None,
        "pace": None,
        "maintenance": None,
        "audit": None,
    }
    assert list(document) == KEYS
    assert json.loads(json.dumps(document)) == document


def test_host_in_spec() -> None:
    """A host in spec has neither missing nor unexpected ports nor a reason."""
    of = target("web1", expect=[22])
    document = host_document(HostState(of).after(result(of, seen(is_open=[22]))))
    assert (document["verdict"], document["reason"]) == ("in_spec", None)
    assert (document["missing"], document["unexpected"], document["last_change"]) == ([], [], None)


def test_unconfirmed_ports_are_shown_beside_the_open_ones() -> None:
    """A port that takes no connection stands in `open` and in `unconfirmed`, and in nothing that says it deviates."""
    of = target("web1", expect=[22])
    observation = seen(is_open=[22, 80, 9000, 10000], unconfirmed=[10000, 80, 9000], filtered=[443])
    document = host_document(HostState(of).after(result(of, observation)))
    (row,) = document["addresses"]
    assert (row["open"], row["unconfirmed"]) == (["22", "80", "9000", "10000"], ["80", "9000", "10000"])
    assert (row["closed"], row["filtered"]) == (0, 1)
    assert (document["verdict"], document["unexpected"]) == ("in_spec", [])


def test_host_before_its_first_scan() -> None:
    """A host that was never scanned is unknown without a reason, and whatever a scan tells is null or empty."""
    document = host_document(HostState(target("web1", expect=[22])))
    assert list(document) == KEYS
    assert (document["verdict"], document["reason"], document["expected"]) == ("unknown", None, ["22"])
    assert (document["addresses"], document["missing"], document["unexpected"]) == ([], [], [])
    assert (document["last_scan"], document["duration_seconds"], document["last_change"]) == (None, None, None)


def test_unknown_host_shows_its_last_conclusive_scan() -> None:
    """Verdict and reason are those of the latest scan, all else is as of the latest conclusive one."""
    of = target("web1")
    state = HostState(of).after(result(of, seen(is_open=[80]), at=NOW))
    state = state.after(result(of, at=NOW + 60, failure=Failure(Reason.RESOLVE, "does not resolve")))
    document = host_document(state)
    assert (document["verdict"], document["reason"]) == ("unknown", "resolve")
    assert (document["unexpected"], document["last_scan"]) == (["80"], "2023-11-14T22:13:20.000Z")
    assert [row["open"] for row in document["addresses"]] == [["80"]]


def test_host_that_was_never_conclusive_shows_what_was_seen() -> None:
    """Without a conclusive scan the latest one is shown, the addresses that could not be seen included."""
    of = target("web1")
    document = host_document(
        HostState(of).after(result(of, seen(is_open=[]), seen("192.0.2.2", reason=Reason.NO_ROUTE)))
    )
    assert (document["verdict"], document["reason"]) == ("unknown", "no_route")
    assert [(row["address"], row["closed"]) for row in document["addresses"]] == [("192.0.2.1", 3), ("192.0.2.2", 0)]
    assert document["last_scan"] == "2023-11-14T22:13:20.000Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, None),
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.0, "2023-11-14T22:13:20.000Z"),
        (1_700_000_000.1239, "2023-11-14T22:13:20.123Z"),
        (4_102_444_799.0, "2099-12-31T23:59:59.000Z"),
        (300_000_000_000.0, "9999-12-31T23:59:59.000Z"),
        (-1e15, "0001-01-01T00:00:00.000Z"),
    ],
)
def test_times_are_rfc_3339_in_utc(seconds: float | None, text: str | None) -> None:
    """A time is spelled to the millisecond with a Z, whatever the machine's time zone is."""
    assert timestamp(seconds) == text


def test_accepted_deviations_stand_apart() -> None:
    """A port whose deviation is accepted stands in `excepted` alone, once, whatever kind it is; in spec is in spec."""
    of = target("web1", expect=[443], exceptions=[exception(443, 80, 22, until=NOW + 60)])
    state = HostState(of).after(result(of, seen("192.0.2.1", is_open=[80]), seen("192.0.2.2", is_open=[80, 443])))
    document = host_document(state)
    assert (document["verdict"], document["excepted"]) == ("in_spec", ["80", "443"])
    assert (document["missing"], document["unexpected"], document["reason"]) == ([], [], None)
    lapsed = host_document(state.judged(of, NOW + 60))
    assert (lapsed["verdict"], lapsed["excepted"]) == ("out_of_spec", [])
    assert (lapsed["missing"], lapsed["unexpected"]) == (["443"], ["80"])
    assert json.loads(json.dumps(lapsed)) == lapsed


def test_accepted_port_may_deviate_beside_others() -> None:
    """Only the ports of the exception are accepted."""
    of = target("web1", exceptions=[exception(80, until=NOW + 60)])
    document = host_document(HostState(of).after(result(of, seen(is_open=[22, 80]))))
    assert (document["verdict"], document["unexpected"], document["excepted"]) == ("out_of_spec", ["22"], ["80"])


@pytest.mark.parametrize(("before", "text"), [(None, None), (PortState.FILTERED, "filtered")])
def test_change_as_an_object(before: PortState | None, text: str | None) -> None:
    """A row of the change log has its number, times in UTC, and the two states by their names."""
    change = Change(NOW, "web1", "192.0.2.1", "1-21, 23", before, PortState.OPEN, NOW - 60)
    assert change_document(17, change) == {
        "id": 17,
        "at": "2023-11-14T22:13:20.000Z",
        "host": "web1",
        "address": "192.0.2.1",
        "ports": "1-21, 23",
        "from": text,
        "to": "open",
        "first_seen": "2023-11-14T22:12:20.000Z",
        "note": "",
    }


FOUND = Vulnerability(
    "openssl",
    "3.0.11",
    "CVE-2023-1",
    Severity.HIGH,
    ("GHSA-a",),
    ("3.0.12", "3.1"),
    "a title",
    "https://a/b",
    ("DSA-1",),
    ("usr/bin/x",),
)
OBJECT = {
    "package": "openssl",
    "version": "3.0.11",
    "id": "CVE-2023-1",
    "aliases": ["GHSA-a"],
    "advisories": ["DSA-1"],
    "severity": "high",
    "fixed_in": ["3.0.12", "3.1"],
    "title": "a title",
    "url": "https://a/b",
    "paths": ["usr/bin/x"],
}
WHY = "high severity; whether it is reachable is unknown: the audit does not tell what listens"
PRIORITY = {
    "class": "plan",
    "why": WHY,
    "reach": "unknown",
    "exploited": None,
    "epss": None,
    "first_seen": None,
    "due": None,
}


def accept(until: float, *ids: str, owner: str = "") -> VulnerabilityException:
    """Make an exception for vulnerabilities."""
    return VulnerabilityException(("*",), ids, until, "because", owner)


def audited(
    audit: Audit,
    *exceptions: VulnerabilityException,
    host: str = "web1",
    listeners: tuple[ListeningSocket, ...] | None = None,
) -> AuditState:
    """Make the audit of a host, judged at NOW."""
    return AuditState(host, exceptions, HostAudit(NOW - 60, "debsecan", "0.4", audit, listeners), NOW)


NOTHING: Final[dict[str, Any]] = {
    "executable": None,
    "is_deleted": False,
    "unit": None,
    "container": None,
    "container_name": None,
    "image": None,
    "package": None,
    "version": None,
    "source": None,
    "note": None,
}
NGINX: Final[dict[str, Any]] = {
    "executable": "/usr/sbin/nginx",
    "is_deleted": True,
    "unit": "nginx.service",
    "container": "4f5e" * 16,
    "container_name": "shop",
    "image": "nginx:1.27",
    "package": "nginx-core",
    "version": "1.22.1-9",
    "source": "nginx",
    "note": "a note",
}


def test_audit_of_a_scanned_host() -> None:
    """What a host reports stands in its object, with what both views say together."""
    listeners = (
        ListeningSocket("tcp", "::", 6379, "redis", "r"),
        ListeningSocket("tcp", "192.0.2.1", 6379, "redis", "r"),
        ListeningSocket("tcp", "192.0.2.1", 6379, None, "root"),
        ListeningSocket("tcp", "::", 443, "nginx", "root", **NGINX),
        ListeningSocket("tcp", "127.0.0.1", 25, "exim", "mail"),
        ListeningSocket("udp", "::", 53, None, None),
    )
    of = target("web1", expect=[22], scan=[22, 25, 80, 443, 6379])
    state = HostState(of).after(result(of, seen(scanned=of.config.ports, is_open=[22, 80, 6379])))
    came_to = Audit(Status.VULNERABLE, (FOUND,), "an old database", NOW - 120, scopes=(Scope.SYSTEM,))
    audit = audited(came_to, listeners=listeners)
    document = host_document(state, audit)
    assert list(document) == KEYS
    assert document["audit"] == {
        "status": "vulnerable",
        "reason": "an old database",
        "reported_at": "2023-11-14T22:12:20.000Z",
        "tool": "debsecan",
        "tool_version": "0.4",
        "database_at": "2023-11-14T22:11:20.000Z",
        "looked_at": ["system packages"],
        "vulnerable_packages": 1,
        "classes": {"fix_now": 0, "fix_soon": 0, "plan": 1, "rest": 0},
        "overdue": None,
        "vulnerabilities": [
            OBJECT | PRIORITY | {"why": WHY.replace("what listens", "which files redis on port 6379 runs")}
        ],
        "excepted": [],
        "listeners": [
            {"protocol": "tcp", "address": "::", "port": 6379, "process": "redis", "user": "r", **NOTHING},
            {"protocol": "tcp", "address": "192.0.2.1", "port": 6379, "process": "redis", "user": "r", **NOTHING},
            {"protocol": "tcp", "address": "192.0.2.1", "port": 6379, "process": None, "user": "root", **NOTHING},
            {"protocol": "tcp", "address": "::", "port": 443, "process": "nginx", "user": "root", **NGINX},
            {"protocol": "tcp", "address": "127.0.0.1", "port": 25, "process": "exim", "user": "mail", **NOTHING},
            {"protocol": "udp", "address": "::", "port": 53, "process": None, "user": None, **NOTHING},
        ],
        "restart_needed": {"processes": None, "is_complete": False, "kernel": None},
        "unexpected_listeners": {
            "6379": [{"process": "redis", "user": "r", **NOTHING}, {"process": None, "user": "root", **NOTHING}]
        },
        "listening_unreachable": ["443"],
        "reachable_unheld": [],
        "reachable_newer": ["22", "80"],
        "series_dropped": 0,
    }
    assert json.loads(json.dumps(document)) == document


def test_host_that_never_reported() -> None:
    """Of a host without a report there is null, and nothing found is no number."""
    document: Any = host_document(HostState(target("web1")), AuditState("web1"))["audit"]
    assert (document["status"], document["reason"]) == ("never", None)
    unknown = ["reported_at", "tool", "tool_version", "database_at", "vulnerable_packages", "listeners"]
    assert [document[key] for key in unknown] == [None] * 6
    empty = ["vulnerabilities", "excepted", "unexpected_listeners", "listening_unreachable", "reachable_unheld"]
    assert not any(document[key] for key in empty)


def test_host_that_is_not_scanned() -> None:
    """A host that only reports has the keys of the others, no verdict, and nothing that was scanned."""
    audit = audited(Audit(Status.CLEAN), host="laptop", listeners=(ListeningSocket("tcp", "::", 22, "sshd", "root"),))
    document = unscanned_document(audit)
    assert list(document) == KEYS
    assert (document["host"], document["verdict"], document["last_scan"]) == ("laptop", None, None)
    assert (document["expected"], document["addresses"]) == ([], [])
    assert document["audit"] == audit_document(audit, None) | {"unexpected_listeners": {}}
    assert document["audit"]["listening_unreachable"] == []


def test_failed_audit_has_no_number_of_packages() -> None:
    """None found by a run that failed is not none; what it found all the same counts."""
    assert audit_document(audited(Audit(Status.FAILED, (), "why")), None)["vulnerable_packages"] is None
    assert audit_document(audited(Audit(Status.FAILED, (FOUND,), "why")), None)["vulnerable_packages"] == 1
    assert audit_document(audited(Audit(Status.CLEAN)), None)["vulnerable_packages"] == 0


def test_accepted_vulnerabilities_stand_apart() -> None:
    """What is accepted, by any of its ids, tells until when, why and by whom: of several exceptions by the longest."""
    exceptions = [
        accept(NOW + 60, "cve-2023-1"),
        accept(NOW + 120, "ghsa-a", owner="Ada"),
        accept(NOW - 1, "dsa-1", owner="nobody"),
    ]
    audit = audited(Audit(Status.VULNERABLE, (FOUND,)), *exceptions)
    document = audit_document(audit, None)
    assert (document["status"], document["vulnerabilities"]) == ("clean", [])
    accepted = {"until": "2023-11-14T22:15:20.000Z", "reason": "because", "owner": "Ada"}
    assert document["excepted"] == [OBJECT | accepted]
    later = audit_document(audit.judged(NOW + 120), None)
    assert (later["status"], later["vulnerabilities"], later["excepted"]) == ("vulnerable", [OBJECT | PRIORITY], [])
