"""What a change of conf.yml rules about deviations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.config.rulings import Changed, Exemption, Rules, Ruling, changed_rules, rules_of
from portspec.ports import PortSet, parse_ports

if TYPE_CHECKING:
    from tests.unit.config.conftest import Conf

NOW = 1_700_000_000.0
BASE = "scanports: all\n"


def between(conf: Conf, before: str, after: str) -> list[tuple[str, str, str, str]]:
    """Return what changes between two files: host, ports or ids, ruling and note."""
    old, new = (rules_of(conf.load(BASE + text)) for text in (before, after))
    return [(item.host, item.what, item.ruling.value, item.note) for item in changed_rules(old, new, NOW)]


def exception(ports: str, until: str = "2099-01-01", reason: str = "", host: str = "web1") -> str:
    """Write an exception."""
    return f'  - {{hosts: [{host}], ports: {ports}, until: "{until}", reason: "{reason}"}}\n'


HOSTS = "hosts: {web1: 22, 192.0.2.0/30: {expect: [22], allow: [80]}}\n"
END = "until 2099-01-02 00:00 UTC"


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (HOSTS, HOSTS, []),
        (HOSTS, HOSTS.replace("web1: 22", "web1: [22, 80]"), [("web1", "80", "expected", "")]),
        (HOSTS, HOSTS.replace("allow: [80]", "allow: [80-90]"), [("192.0.2.0/30", "81-90", "allowed", "")]),
        (HOSTS, HOSTS.replace("allow: [80]", "allow: []"), [("192.0.2.0/30", "80", "withdrawn", "")]),
        (
            HOSTS,
            HOSTS.replace("expect: [22], allow: [80]", "expect: [80], allow: [22]"),
            [("192.0.2.0/30", "80", "expected", ""), ("192.0.2.0/30", "22", "allowed", "")],
        ),
        (HOSTS, "hosts: {web2: 80}\n", []),  # hosts that come and go
        (
            HOSTS,
            f"{HOSTS}exceptions:\n{exception('[80, 443]', reason='a test')}",
            [("web1", "80, 443", "accepted", f"{END}, a test")],
        ),
        (
            f"{HOSTS}exceptions:\n{exception('[80]')}",
            f"{HOSTS}exceptions:\n{exception('[80, 443]')}",
            [("web1", "443", "accepted", END)],
        ),
        (
            f"{HOSTS}exceptions:\n{exception('[80, 443]')}",
            f"{HOSTS}exceptions:\n{exception('[80]')}",
            [("web1", "443", "withdrawn", "")],
        ),
        (
            f"{HOSTS}exceptions:\n{exception('[80]', until='2098-01-01')}",
            f"{HOSTS}exceptions:\n{exception('[80]')}",
            [("web1", "80", "accepted", END)],
        ),
        (f"{HOSTS}exceptions:\n{exception('[80]', until='2020-01-01')}", HOSTS, []),  # it had ended
        (
            HOSTS,
            f"{HOSTS}exceptions:\n{exception('[80]', until='9999-12-31')}",
            [("web1", "80", "accepted", "until 9999-12-31 23:59 UTC")],
        ),
        (
            HOSTS,
            f"{HOSTS}exceptions:\n  - {{hosts: ['web*', db1], ids: [CVE-2026-1], until: 2099-01-01, owner: ops}}\n",
            [(host, "cve-2026-1", "accepted", f"{END}, owner: ops") for host in ("web*", "db1")],
        ),
    ],
)
def test_what_has_changed_is_told(conf: Conf, before: str, after: str, changes: list[tuple[str, ...]]) -> None:
    """Each row says which ports or ids, of what, are ruled otherwise, and why."""
    assert between(conf, before, after) == changes


PORTS = st.frozensets(st.integers(1, 6)).map(PortSet.of).map(lambda ports: tuple(ports.spellings()))
EXEMPTIONS = st.lists(
    st.builds(Exemption, st.sampled_from(["a", "b"]), st.sampled_from([NOW - 5, NOW + 5, NOW + 9]), ports=PORTS),
    max_size=4,
).map(tuple)
RULES = st.builds(Rules, st.dictionaries(st.sampled_from(["a", "b"]), st.tuples(PORTS, PORTS)), EXEMPTIONS)


@given(RULES, RULES)
def test_log_of_the_changes_tells_what_holds(before: Rules, after: Rules) -> None:
    """Who knows the rules before, and reads the log, knows of each port of each host what holds after it."""
    rows = list(changed_rules(before, after, NOW))
    assert list(changed_rules(after, after, NOW)) == []
    for host in before.hosts.keys() & after.hosts.keys():
        for port in range(1, 7):
            was, becomes = _ruled(before, host, port), _ruled(after, host, port)
            of_port = [row.ruling for row in rows if row.host == host and _has(row, port)]
            if was != becomes:
                assert (becomes or Ruling.WITHDRAWN) in of_port
            else:
                assert Ruling.EXPECTED not in of_port
                assert Ruling.ALLOWED not in of_port
    for item in after.exemptions:
        for port in _ports(item.ports):
            if not any(_is_same(item, old) and port in _ports(old.ports) for old in before.exemptions):
                assert any(row.ruling is Ruling.ACCEPTED and row.host == item.host and _has(row, port) for row in rows)


def _ruled(rules: Rules, host: str, port: int) -> Ruling | None:
    expected, allowed = (_ports(words) for words in rules.hosts[host])
    return Ruling.EXPECTED if port in expected else Ruling.ALLOWED if port in allowed else None


def _ports(words: tuple[str, ...]) -> set[int]:
    return {port for word in words for port in parse_ports(word)}


def _has(row: Changed, port: int) -> bool:
    return port in _ports(tuple(row.what.split(", ")))


def _is_same(one: Exemption, other: Exemption) -> bool:
    return (one.host, one.until, one.reason, one.owner) == (other.host, other.until, other.reason, other.owner)
