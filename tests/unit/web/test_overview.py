from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from portspec.audit.model import Status
from portspec.state.snapshot import Snapshot
from portspec.web.overview import ORDERS, ROWS_PER_PAGE, HostFilter, Shown, overview, read_filter
from tests.unit.factories import MODEST, target
from tests.unit.metrics.scrape import zoo

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.strip)
FILTERS = st.builds(
    HostFilter,
    text=TEXTS,
    labels=st.lists(st.tuples(st.sampled_from(["team", "site"]), TEXTS), max_size=3).map(tuple),
    shown=st.none() | st.sampled_from(Shown),
    audit=st.none() | st.sampled_from(Status),
    order=st.sampled_from(sorted(ORDERS)),
    is_descending=st.booleans(),
    page=st.integers(1, 10**6),
    is_kiosk=st.booleans(),
)


@MODEST
@given(by=FILTERS)
def test_address_says_the_whole_filter(by: HostFilter) -> None:
    """What is read from the address of a page is what it was made of."""
    assert read_filter(MultiDict(parse_qsl(by.query()))) == by


@MODEST
@given(by=FILTERS, count=st.integers(0, 250))
def test_parts_have_each_matching_host_once(by: HostFilter, count: int) -> None:
    """Whatever the filter and the order, the parts together are the hosts that match."""
    of = Snapshot.of(target(f"host{number}", labels={"team": "web"}) for number in range(count))
    parts = [overview(of, replace(by, page=1))]
    parts += [overview(of, replace(by, page=page)) for page in range(2, parts[0].pages + 1)]
    hosts = [row.host for part in parts for row in part.rows]
    assert len(hosts) == len(set(hosts)) == parts[0].matching
    assert all(len(part.rows) == ROWS_PER_PAGE for part in parts[:-1])
    assert parts[0].total == count


def test_totals_count_all_hosts_whatever_the_filter() -> None:
    """The numbers above the table lead to the filters, so they do not depend on the present one."""
    every = overview(zoo(), HostFilter())
    one = overview(zoo(), HostFilter(text="bad"))
    assert (one.matching, one.total, one.verdicts) == (1, 6, every.verdicts)


def test_second_click_on_a_column_turns_it_around() -> None:
    """A click on another column begins with the smallest."""
    first = HostFilter(page=3).sorted_by("host")
    assert (first.order, first.is_descending, first.page) == ("host", False, 1)
    second = first.sorted_by("host")
    assert (second.order, second.is_descending) == ("host", True)
    assert not second.sorted_by("host").is_descending
    assert not second.sorted_by("open").is_descending
