from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Severity, Status
from portspec.metrics.host_families import AUDITS, PORTS
from portspec.metrics.render import MAX_HOST_SERIES, Renderer, render_host
from portspec.ports import ALL_PORTS
from portspec.priorities import Priority
from portspec.scan import AddressObservation
from portspec.state import table as table_module
from portspec.state.table import HostTable, OfHost
from tests.unit.factories import MODEST, result, seen, snapshot, target
from tests.unit.metrics.scrape import HOST_FAMILIES, TEXT, UNLIMITED, body, exposition
from tests.unit.metrics.worlds import audited, many, rescanned, snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.metrics.host_families import Families
    from portspec.state.snapshot import Snapshot

S = TypeVar("S", bound=OfHost)

NAMES = [*HOST_FAMILIES, "portspec_series_dropped", "portspec_hosts"]
KEPT_FIRST = [
    "port_deviation",
    "port_exception_expiry_timestamp_seconds",
    "port_open",  # of expected ports
    "port_expected",
    "port_open",  # of others
    "port_deviation_since_timestamp_seconds",
    "portspec_audit_vulnerability",
    "port_listener_info",
    "portspec_audit_vulnerability_since_timestamp_seconds",
]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let some hundred hosts be several chunks."""
    monkeypatch.setattr(table_module, "_CHUNK", 128)


# The series budget


def per_port(of: Snapshot) -> list[list[list[str]]]:
    """Give, of each part that may be cut, what is kept first in front, the lines of each host, without a budget."""
    found = [*_ranked(PORTS, of.hosts), *_ranked(AUDITS, of.audits)]
    assert [name for name, _ in found] == KEPT_FIRST
    return [lines for _, lines in found]


def _ranked(families: Families[S], hosts: HostTable[S]) -> Iterator[tuple[str, list[list[str]]]]:
    for part in sorted((part for part in families.parts if part.rank is not None), key=lambda part: -(part.rank or 0)):
        yield part.metric.name, [render_host(part, state)[0] for state in hosts.values()]


def page_of(of: Snapshot, budget: int) -> tuple[list[str], int]:
    """Return the lines of the host families, and portspec_series_dropped."""
    lines = body(exposition(of, budget).write(TEXT, "", NAMES)).decode().split("\n")
    samples = [f"{line}\n" for line in lines if line and not line.startswith("#")]
    (dropped,) = [line for line in samples if line.startswith("portspec_series_dropped ")]
    return [line for line in samples if line.startswith(("port_", "portspec_audit_"))], int(float(dropped.split()[1]))


def kept_within(budget: int, parts: list[list[list[str]]]) -> Iterator[str]:
    """Return the per-port lines that a budget leaves: whole hosts from the first on, until one does not fit."""
    left = budget
    for part in parts:
        for lines in part:
            if len(lines) > left:
                return
            left -= len(lines)
            yield from lines


@MODEST
@given(data=st.data(), of=snapshots())
def test_budget_cuts_what_matters_least(data: st.DataObject, of: Snapshot) -> None:
    """Listeners are cut first, then vulnerabilities, deviations last; in a family the last hosts; all is counted."""
    parts = per_port(of)
    total = sum(len(lines) for part in parts for lines in part)
    budget = data.draw(st.integers(0, total + 1))
    everything, none_dropped = page_of(of, UNLIMITED)
    written, dropped = page_of(of, budget)
    cuttable = {line for part in parts for lines in part for line in lines}
    kept = set(kept_within(budget, parts))
    assert written == [line for line in everything if line not in cuttable or line in kept]
    assert len(kept) <= budget
    assert none_dropped == 0
    assert len(written) + dropped == len(everything)


def test_budget_is_not_filled_up_with_smaller_hosts() -> None:
    """Behind the first host that does not fit no other one of the family is written, though it would fit."""
    every = [target("large", scan=[22, 80, 443]), target("small", scan=[22])]
    of = snapshot(*((one, [result(one, seen(scanned=one.config.ports, is_open=one.config.ports))]) for one in every))
    written, dropped = page_of(of, 2)
    assert not any('port="' in line for line in written)
    assert dropped == 3 * (3 + 1)


@pytest.fixture(scope="module")
def hosts() -> Snapshot:
    """Make 300 hosts with 22 expected and open, 80 expected and closed, 443 open: nine per-port series each."""
    return many()


PER_HOST = 9  # per-port series: port_open 2 + 1, port_expected 2, port_deviation 2, and since when 2


PORT_FAMILIES = ("port_deviation", "port_open", "port_expected", "port_deviation_since_timestamp_seconds")


def names_of(lines: list[str]) -> dict[str, int]:
    """Count lines by metric."""
    counts: dict[str, int] = {}
    for line in lines:
        name = line.split("{")[0]
        counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.parametrize(
    ("budget", "deviations", "opened", "expected", "since"),
    [
        (0, 0, 0, 0, 0),
        (1, 0, 0, 0, 0),  # of a host all series of a family or none
        (2, 2, 0, 0, 0),
        (599, 598, 0, 0, 0),
        (600, 600, 0, 0, 0),
        (603, 600, 2, 0, 0),
        (1200, 600, 600, 0, 0),
        (1800, 600, 600, 600, 0),
        (1801, 600, 601, 600, 0),
        (2099, 600, 899, 600, 0),
        (2101, 600, 900, 600, 0),
        (300 * PER_HOST - 1, 600, 900, 600, 598),
        (300 * PER_HOST, 600, 900, 600, 600),
        (UNLIMITED, 600, 900, 600, 600),
    ],
)
def test_budget_of_many_hosts(
    hosts: Snapshot, budget: int, deviations: int, opened: int, expected: int, since: int
) -> None:
    """The budget goes to deviations, expected ports open or not, the expectation, other open ports, since when."""
    written, dropped = page_of(hosts, budget)
    counts = names_of(written)
    found = [counts.get(name, 0) for name in PORT_FAMILIES]
    assert found == [deviations, opened, expected, since]
    assert dropped == 300 * PER_HOST - sum(found)


def test_families_without_ports_are_never_cut(hosts: Snapshot) -> None:
    """With no budget at all each host still has every series that has no port."""
    written, _ = page_of(hosts, 0)
    everything, _ = page_of(hosts, UNLIMITED)
    assert written == [line for line in everything if 'port="' not in line]
    assert set(names_of(written).values()) == {300}
    assert len(names_of(written)) == 7


def test_family_that_is_cut_whole_is_not_announced(hosts: Snapshot) -> None:
    """A family of which nothing is left has no HELP and no TYPE."""
    page = body(exposition(hosts, 0).write(TEXT, "", NAMES))
    assert b"# TYPE port_out_of_spec gauge\n" in page
    assert b"port_deviation" not in page


def test_cut_is_the_same_each_time(hosts: Snapshot) -> None:
    """What is cut depends on the hosts and nothing else: not on the scrapes before."""
    one = exposition(hosts, 700)
    pages = [body(one.write(TEXT, "", NAMES)) for _ in range(3)]
    assert pages == [body(exposition(hosts, 700).write(TEXT, "", NAMES))] * 3


def test_host_with_all_ports_open_floods_nobody() -> None:
    """A host with all 65,535 ports open has few series, one deviation for each address, and the true count of them."""
    of = target("honeypot", expect=[22, 80], scan=range(1, 65536))
    both = [AddressObservation(address, ALL_PORTS, open=ALL_PORTS, answered=True) for address in ("192.0.2.1", "::1")]
    written, dropped = page_of(snapshot((of, [result(of, both[0])])), 100_000)
    assert names_of(written)["port_open"] == 2 + MAX_HOST_SERIES
    assert 'port_out_of_spec{host="honeypot"} 65533.0\n' in written
    (deviation,) = [line for line in written if line.startswith("port_deviation{")]
    assert 'kind="unexpected",port="1-21,23-79,81-65535",severity="critical",state="open"} 1.0\n' in deviation
    assert dropped == 65533 - MAX_HOST_SERIES
    written, _ = page_of(snapshot((of, [result(of, *both)])), 100_000)
    assert names_of(written)["port_deviation"] == 2
    assert 'port_out_of_spec{host="honeypot"} 131066.0\n' in written


def test_host_with_too_many_series_leaves_the_others_theirs() -> None:
    """What one host has too much is not taken from the budget, and counted once."""
    honeypot = target("honeypot", scan=range(1, 65536))
    everything = AddressObservation("192.0.2.1", ALL_PORTS, open=ALL_PORTS, answered=True)
    other = target("other", expect=[22])
    of = snapshot((honeypot, [result(honeypot, everything)]), (other, [result(other, seen(is_open=[22, 80]))]))
    budget = MAX_HOST_SERIES + 5  # and 1 + 1 deviations, 1 port_open, 1 port_expected, 1 port_open of another port
    written, dropped = page_of(of, budget)
    assert 'port_open{host="other",port="80"} 1.0\n' in written
    assert dropped == 65535 - MAX_HOST_SERIES + 2  # and since when two deviate
    written, dropped = page_of(of, budget - 1)
    assert 'port_open{host="other",port="80"} 1.0\n' not in written
    assert dropped == 65535 - MAX_HOST_SERIES + 3


def test_what_a_host_has_too_much_is_counted_in_every_page() -> None:
    """The series that a host has too much are counted, too, when its lines are those of an earlier page."""
    honeypot, other = target("honeypot", scan=range(1, 65536)), target("other")
    everything = AddressObservation("192.0.2.1", ALL_PORTS, open=ALL_PORTS, answered=True)
    of = snapshot((honeypot, [result(honeypot, everything)]), (other, []))
    renderer = Renderer(PORTS, UNLIMITED)
    _, first = renderer.render(of.hosts)
    _, second = renderer.render(rescanned(of, "other", 22).hosts)
    assert first == second == 65535 - MAX_HOST_SERIES


# The budget of what hosts report


@pytest.mark.parametrize(
    ("budget", "ports", "vulnerabilities", "listeners"),
    [
        (0, 0, 0, 0),
        (300 * PER_HOST - 1, 300 * PER_HOST - 2, 0, 0),
        (300 * PER_HOST, 300 * PER_HOST, 0, 0),
        (300 * PER_HOST + 2, 300 * PER_HOST, 0, 0),
        (300 * PER_HOST + 3, 300 * PER_HOST, 3, 0),
        (300 * (PER_HOST + 3) - 1, 300 * PER_HOST, 897, 0),
        (300 * (PER_HOST + 3) + 2, 300 * PER_HOST, 900, 2),
        (300 * (PER_HOST + 5), 300 * PER_HOST, 900, 600),
        (UNLIMITED, 300 * PER_HOST, 900, 600),
    ],
)
def test_reports_have_what_ports_leave_of_the_budget(
    budget: int, ports: int, vulnerabilities: int, listeners: int
) -> None:
    """Vulnerabilities are written when every port is, and listeners when every vulnerability is."""
    written, dropped = page_of(audited(300), budget)
    counts = names_of(written)
    assert sum(counts.get(name, 0) for name in PORT_FAMILIES) == ports
    found = [counts.get(name, 0) for name in ("portspec_audit_vulnerability", "port_listener_info")]
    assert found == [vulnerabilities, listeners]
    assert dropped == 300 * (PER_HOST + 5) - ports - sum(found)


def test_reports_have_nothing_where_ports_are_cut() -> None:
    """Where a host's ports did not fit, what is left of the budget is not filled up with a vulnerability."""
    of = audited(2, found=1)
    written, dropped = page_of(of, 3)  # of port_deviation two of one host; one is left
    assert names_of(written).get("port_deviation") == 2
    assert not any(line.startswith(("portspec_audit_vulnerability{", "port_listener_info{")) for line in written)
    assert dropped == 2 * (PER_HOST + 3) - 2


def test_numbers_of_reports_are_never_cut() -> None:
    """With no budget at all each host still has its status, its numbers and the time of its report."""
    counts = names_of([line for line in page_of(audited(3), 0)[0] if line.startswith("portspec_audit_")])
    assert counts == {
        "portspec_audit_timestamp_seconds": 3,
        "portspec_audit_status": 3 * len(Status),
        "portspec_audit_vulnerable_packages": 3,
        "portspec_audit_vulnerabilities": 3 * len(Severity),
        "portspec_audit_vulnerabilities_by_class": 3 * len(Priority),
    }


def test_host_with_too_many_vulnerabilities_keeps_the_worst() -> None:
    """A host has a thousand vulnerabilities at most, those that its audit names first; the others are counted."""
    written, dropped = page_of(audited(1, found=MAX_HOST_SERIES + 7), UNLIMITED)
    assert names_of(written)["portspec_audit_vulnerability"] == MAX_HOST_SERIES
    assert any('id="CVE-2026-0000"' in line for line in written)
    assert dropped == 7
    assert f'portspec_audit_vulnerabilities{{host="host0",severity="low"}} {MAX_HOST_SERIES + 7}.0\n' in written


def test_budget_that_is_changed_holds_from_the_next_page_on() -> None:
    """A reload with another series_budget moves what ports leave to reports, too."""
    one = exposition(audited(2), 0)
    assert b"portspec_audit_vulnerability{" not in body(one.write(TEXT, "", NAMES))
    one.series_budget = 2 * PER_HOST + 3
    assert body(one.write(TEXT, "", NAMES)).count(b"portspec_audit_vulnerability{") == 3
    one.series_budget = UNLIMITED
    assert body(one.write(TEXT, "", NAMES)) == body(exposition(audited(2)).write(TEXT, "", NAMES))
