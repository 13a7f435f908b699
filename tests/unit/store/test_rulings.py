"""Changes of conf.yml in the change log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from portspec.config.rulings import Exemption, Rules, Ruling
from portspec.state.snapshot import HostState
from portspec.store import Store, log_rules, read_rules, write_value
from portspec.store.rulings import MAX_CHANGES
from tests.unit.factories import NOW
from tests.unit.store.scenes import WEB, commit, opened, scan

if TYPE_CHECKING:
    from pathlib import Path

FIRST = Rules({"web1": (("22",), ())})
SECOND = Rules({"web1": (("22", "80"), ())}, (Exemption("web1", NOW + 60, "a test", "ops", ids=("cve-2026-1",)),))


def note(store: Store, rules: Rules, at: float, by: str = "") -> int:
    """Have rules come into force."""
    return store.transact(lambda file: log_rules(file, rules, at, by))


def test_change_of_rules_is_in_the_log(path: Path) -> None:
    """The rules that a file begins with are no change; what follows is, with who changed it; across restarts."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22, 80)
        commit(store)
        seen = len(store.changes())
        assert note(store, FIRST, NOW) == 0
    with opened(path) as (store, _):
        assert note(store, SECOND, NOW + 1, by="ada") == 2
        assert note(store, SECOND, NOW + 2) == 0
        rows = [row for _, row in store.changes()]
        assert {(row.at, row.host, row.address, row.before, row.first_seen) for row in rows[:-seen]} == {
            (NOW + 1, "web1", "", None, NOW + 1)
        }
        assert [(row.ports, row.after, row.note) for row in rows[:-seen]] == [
            ("cve-2026-1", Ruling.ACCEPTED, "until 2023-11-14 22:14 UTC, a test, owner: ops, by ada"),
            ("80", Ruling.EXPECTED, "by ada"),
        ]
        assert all(not row.note for row in rows[-seen:])


def test_exception_is_known_since_it_came_into_the_file(path: Path) -> None:
    """Another end, reason or owner, and a restart, do not change that; one that comes back is new."""

    def since(store: Store) -> list[float | None]:
        rules = store.transact(read_rules)
        assert rules
        return [item.since for item in rules.exemptions]

    item = Exemption("web1", NOW + 60, ports=("80",))
    with opened(path) as (store, _):
        note(store, Rules({}, ()), NOW - 1)
        note(store, Rules({}, (item,)), NOW)
        assert since(store) == [NOW]
    with opened(path) as (store, _):
        later = Exemption("web1", NOW + 900, "a test", "ops", ports=("80",))
        note(store, Rules({}, (later, Exemption("web1", NOW + 60, ports=("81",)))), NOW + 1)
        assert since(store) == [NOW, NOW + 1]
        note(store, Rules({}, ()), NOW + 2)
        note(store, Rules({}, (item,)), NOW + 3)
        assert since(store) == [NOW + 3]


def test_exception_of_the_first_start_is_known_since_no_time(path: Path) -> None:
    """The configuration may be older than the state file."""
    with opened(path) as (store, _):
        for _ in range(2):
            note(store, Rules({}, (Exemption("web1", NOW + 60, ports=("80",)),)), NOW)
            rules = store.transact(read_rules)
            assert rules
            assert [item.since for item in rules.exemptions] == [None]


def test_exception_of_a_file_of_before_is_known_since_no_time(path: Path) -> None:
    """It was there already when portspec began to keep that."""
    with opened(path) as (store, _):
        store.transact(
            lambda file: write_value(
                file, "rules", '{"hosts": {}, "exemptions": [{"host": "web1", "until": 9.0, "ports": ["80"]}]}'
            )
        )
        note(store, Rules({}, (Exemption("web1", NOW, ports=("80",)), Exemption("web1", NOW, ports=("81",)))), NOW)
        rules = store.transact(read_rules)
        assert rules
        assert [item.since for item in rules.exemptions] == [None, NOW]


def test_conf_that_is_written_anew_does_not_fill_the_log(path: Path) -> None:
    """Of one change there are so many rows at most."""
    with opened(path) as (store, _):
        hosts = [f"web{number}" for number in range(2 * MAX_CHANGES)]
        note(store, Rules(dict.fromkeys(hosts, ((), ()))), NOW)
        assert note(store, Rules(dict.fromkeys(hosts, (("80",), ()))), NOW) == MAX_CHANGES
        assert len(store.changes(limit=10 * MAX_CHANGES)) == MAX_CHANGES


@pytest.mark.parametrize(
    "document", ['{"hosts": 1}', "{", '{"hosts": {"web1": [["x"], []]}}', '{"exemptions": [{"host": 1}]}', "null"]
)
def test_rules_that_cannot_be_read_are_no_change(path: Path, document: str) -> None:
    """Another program may have written anything into the file; the rules take its place."""
    with opened(path) as (store, _):
        store.transact(lambda file: write_value(file, "rules", document))
        assert note(store, FIRST, NOW) == 0
        assert note(store, SECOND, NOW) == 2
