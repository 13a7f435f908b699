from __future__ import annotations

import contextlib
import dataclasses
import socket
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.ports import ALL_PORTS, MAX_PORT, MIN_PORT, NO_PORTS, PortError, PortSet, parse_ports, spell

FORMS = 'expected a number, "8000-8100", a service name such as "ssh", or "all"'
NO_SERVICE = "no TCP service of that name is known"
SERVICES = {"ssh": 22, "https": 443, "iso-tsap": 102, "whois++": 63, "3com-tsmux": 106}

single = st.integers(MIN_PORT, MAX_PORT)
# Both ends of the range of ports, and a stretch so small that ranges touch and overlap all the time.
crowded = st.one_of(st.integers(MIN_PORT, MIN_PORT + 40), st.integers(MAX_PORT - 3, MAX_PORT), single)
port_sets = st.sets(crowded, max_size=30)
ranges = st.lists(
    st.tuples(crowded, st.integers(0, 12)).map(lambda pair: (pair[0], min(pair[0] + pair[1], MAX_PORT))), max_size=12
)

properties = settings(max_examples=100, deadline=None)


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for /etc/services, which differs from machine to machine."""

    def getservbyname(name: str, protocol: str) -> int:
        assert protocol == "tcp"
        if name not in SERVICES:
            raise OSError("service/proto not found")
        return SERVICES[name]

    monkeypatch.setattr(socket, "getservbyname", getservbyname)


def members(spans: list[tuple[int, int]]) -> set[int]:
    """Spell ranges out, as the plain set that a PortSet is compared with."""
    return {port for first, last in spans for port in range(first, last + 1)}


@properties
@given(port_sets)
def test_a_set_of_ports_holds_exactly_the_ports_it_was_made_of(ports: set[int]) -> None:
    """Iteration ascends, and length, truth and membership agree with a Python set."""
    made = PortSet.of(ports)
    assert list(made) == sorted(ports)
    assert len(made) == len(ports)
    assert bool(made) == bool(ports)
    nearby = {port + step for port in ports for step in (-1, 0, 1)}
    for number in nearby | {-1, 0, MAX_PORT + 1}:
        assert (number in made) == (number in ports)


@properties
@given(ranges)
def test_ranges_in_any_order_become_the_fewest(spans: list[tuple[int, int]]) -> None:
    """Ranges that overlap or touch are one, and those that stay ascend with a gap between them."""
    made = PortSet.of_ranges(spans)
    assert set(made) == members(spans)
    assert all(last + 1 < first for (_, last), (first, _) in zip(made.ranges, made.ranges[1:], strict=False))
    assert made == PortSet.of(members(spans)) == PortSet.of_ranges(reversed(spans))
    assert hash(made) == hash(PortSet.of(members(spans)))


@properties
@given(ranges, ranges)
def test_algebra_is_that_of_sets(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    """Union, intersection and difference give what Python's sets give, in the one normal form."""
    a, b = PortSet.of_ranges(left), PortSet.of_ranges(right)
    plain_a, plain_b = members(left), members(right)
    assert a | b == PortSet.of(plain_a | plain_b)
    assert a & b == PortSet.of(plain_a & plain_b)
    assert a - b == PortSet.of(plain_a - plain_b)
    assert (a == b) == (plain_a == plain_b)


@settings(max_examples=10, deadline=None)
@given(ranges)
def test_all_ports_and_no_ports_are_the_ends_of_the_algebra(spans: list[tuple[int, int]]) -> None:
    """All ports swallow every set, no ports change none, and a complement has the rest."""
    ports = PortSet.of_ranges(spans)
    assert ports | ALL_PORTS == ALL_PORTS | ports == ALL_PORTS
    assert ports & ALL_PORTS == ALL_PORTS & ports == ports
    assert ports | NO_PORTS == NO_PORTS | ports == ports
    assert ports & NO_PORTS == ports - ports == ports - ALL_PORTS == NO_PORTS
    assert (ALL_PORTS - ports) | ports == ALL_PORTS
    assert len(ALL_PORTS - ports) == MAX_PORT - len(ports)


@properties
@given(ranges)
def test_spellings_read_back_to_the_same_set(spans: list[tuple[int, int]]) -> None:
    """What metrics, mails and pages spell can be pasted into conf.yml and means the same ports."""
    ports = PortSet.of_ranges(spans)
    read = NO_PORTS
    for word in ports.spellings():
        read |= parse_ports(word)
    assert read == ports


@pytest.mark.parametrize(
    ("ports", "spelling"),
    [
        (NO_PORTS, "none"),
        (ALL_PORTS, "all"),
        (PortSet.of([443, 22]), "22, 443"),
        (PortSet.of([80, 81]), "80, 81"),
        (PortSet.of([80, 81, 82]), "80-82"),
        (PortSet.of_ranges([(8000, 8100), (22, 22)]), "22, 8000-8100"),
        (PortSet.of_ranges([(2, MAX_PORT)]), "2-65535"),
    ],
)
def test_a_set_is_spelled_in_the_fewest_words(ports: PortSet, spelling: str) -> None:
    """Three ports and more in a row are a range, all ports are one word, and none is said as such."""
    assert str(ports) == spelling


def test_one_port_is_spelled_as_users_type_it() -> None:
    """A TCP port is its number."""
    assert spell(22) == "22"


@pytest.mark.parametrize("bad", [[0], [MAX_PORT + 1], [-1], [22, 0]])
def test_a_set_takes_no_number_that_is_no_port(bad: list[int]) -> None:
    """Numbers outside of 1 to 65535 are refused when a set is made."""
    with pytest.raises(PortError, match="between 1 and 65535"):
        PortSet.of(bad)


@pytest.mark.parametrize("bad", [(0, 5), (5, MAX_PORT + 1), (6, 5)])
def test_a_set_takes_no_range_that_is_none(bad: tuple[int, int]) -> None:
    """Ranges that leave 1 to 65535 or run backwards are refused when a set is made."""
    with pytest.raises(PortError, match=f"^{bad[0]}-{bad[1]} is not a range of ports between 1 and 65535$"):
        PortSet.of_ranges([(1, 2), bad])


def test_a_set_cannot_be_changed() -> None:
    """A PortSet is a value that every reader may keep."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        NO_PORTS.ranges = ((1, 1),)  # type: ignore[misc]


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize(
    ("entry", "ports"),
    [
        (22, [(22, 22)]),
        (1, [(1, 1)]),
        (65535, [(65535, 65535)]),
        ("22", [(22, 22)]),
        (" 22 ", [(22, 22)]),
        ("22/tcp", [(22, 22)]),
        ("22/TCP", [(22, 22)]),
        ("8000-8100", [(8000, 8100)]),
        ("8000 - 8100", [(8000, 8100)]),
        ("8000-8100/tcp", [(8000, 8100)]),
        ("22-22", [(22, 22)]),
        ("1-65535", [(1, 65535)]),
        ("all", [(1, 65535)]),
        ("ALL", [(1, 65535)]),
        ("all/tcp", [(1, 65535)]),
        ("ssh", [(22, 22)]),
        ("SSH", [(22, 22)]),
        ("https/tcp", [(443, 443)]),
        ("iso-tsap", [(102, 102)]),
        ("whois++", [(63, 63)]),
        ("3com-tsmux", [(106, 106)]),
    ],
)
def test_an_entry_is_read(entry: object, ports: list[tuple[int, int]]) -> None:
    """Numbers, ranges, service names and `all` are read in any case, with or without /tcp."""
    assert parse_ports(entry) == PortSet(tuple(ports))


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (0, "0 is not a port (ports are 1 to 65535)"),
        (-1, "-1 is not a port (ports are 1 to 65535)"),
        (65536, "65536 is not a port (ports are 1 to 65535)"),
        (10**12, "1000000000000 is not a port (ports are 1 to 65535)"),
        ("0", '"0" is not a port (ports are 1 to 65535)'),
        ("-1", '"-1" is not a port (ports are 1 to 65535)'),
        ("65536/tcp", '"65536/tcp" is not a port (ports are 1 to 65535)'),
        ("80-22", '"80-22" is not a range of ports (the lower port comes first: "22-80")'),
        ("0-10", '"0-10" is not a range of ports (ports are 1 to 65535)'),
        ("1-65536", '"1-65536" is not a range of ports (ports are 1 to 65535)'),
        ("53/udp", '"53/udp" is a UDP port, and this version scans TCP only'),
        ("domain/UDP", '"domain/UDP" is a UDP port, and this version scans TCP only'),
        ("80a", f'"80a" is not a port ({FORMS}); {NO_SERVICE}'),
        ("gopherd", f'"gopherd" is not a port ({FORMS}); {NO_SERVICE}'),
        ("010", '"010" is not a port (write it without leading zeros: 10)'),
        ("22, 80", '"22, 80" is not a port (several ports are a list: [22, 80])'),
        ("22 80", '"22 80" is not a port (several ports are a list: [22, 80])'),
        ("22:22", f'"22:22" is not a port ({FORMS})'),
        ("", f'"" is not a port ({FORMS})'),
        ("-", f'"-" is not a port ({FORMS})'),
        ("/tcp", f'"/tcp" is not a port ({FORMS})'),
        ("22/tcp/tcp", f'"22/tcp/tcp" is not a port ({FORMS})'),
        ("２２", f'"２２" is not a port ({FORMS})'),  # noqa: RUF001 - full-width digits
        (3.5, f"3.5 is not a port ({FORMS})"),
        (True, f"true is not a port ({FORMS})"),
        (None, f"null is not a port ({FORMS})"),
        ([80, 443], f"[80, 443] is not a port ({FORMS})"),
        ("/" * 100, f'"{"/" * 60}…" is not a port ({FORMS})'),
    ],
)
def test_what_is_no_entry_is_quoted_with_what_to_write_instead(entry: object, message: str) -> None:
    """The message quotes the entry, shortened if it is long, and names the forms that are read."""
    with pytest.raises(PortError) as caught:
        parse_ports(entry)
    assert str(caught.value) == message


@properties
@given(st.one_of(st.text(max_size=12), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.text())))
def test_anything_at_all_is_a_set_of_ports_or_a_port_error(entry: object) -> None:
    """No entry, however odd, raises anything but PortError."""
    with contextlib.suppress(PortError):
        assert parse_ports(entry)


@properties
@given(ranges, ranges)
def test_subset_is_that_of_sets(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    """`<=` says what it says of Python's sets, and holds for every part of a whole."""
    a, b = PortSet.of_ranges(left), PortSet.of_ranges(right)
    assert (a <= b) == (members(left) <= members(right))
    assert a <= a | b
    assert b <= a | b
    assert a & b <= a
    assert NO_PORTS <= a <= ALL_PORTS


@properties
@given(ranges, ranges)
def test_union_with_a_subset_is_the_set_itself(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    """Nothing is made anew where nothing is added: hosts that scan the same ports share one set."""
    a = PortSet.of_ranges(left)
    subset = a & PortSet.of_ranges(right)
    assert a | subset is a
    assert a | a is a
    assert a | NO_PORTS is a


@pytest.mark.parametrize(
    ("left", "right", "both", "rest"),
    [
        ([(1, 10)], [(1, 10)], [(1, 10)], []),
        ([(1, 10)], [(1, 1)], [(1, 1)], [(2, 10)]),
        ([(1, 10)], [(10, 10)], [(10, 10)], [(1, 9)]),
        ([(1, 10)], [(4, 6)], [(4, 6)], [(1, 3), (7, 10)]),
        ([(4, 6)], [(1, 10)], [(4, 6)], []),
        ([(1, 3), (5, 7)], [(3, 5)], [(3, 3), (5, 5)], [(1, 2), (6, 7)]),
        ([(1, 3), (5, 7)], [(4, 4)], [], [(1, 3), (5, 7)]),
        ([(1, 65535)], [(1, 1), (65535, 65535)], [(1, 1), (65535, 65535)], [(2, 65534)]),
        ([(65535, 65535)], [(65535, 65535)], [(65535, 65535)], []),
        ([(1, 2), (4, 5), (7, 8)], [(2, 4), (8, 9)], [(2, 2), (4, 4), (8, 8)], [(1, 1), (5, 5), (7, 7)]),
    ],
)
def test_intersection_and_difference_at_the_edges(
    left: list[tuple[int, int]], right: list[tuple[int, int]], both: list[tuple[int, int]], rest: list[tuple[int, int]]
) -> None:
    """Ranges that only touch have nothing in common, and what is cut off ends beside the cut."""
    a, b = PortSet(tuple(left)), PortSet(tuple(right))
    assert (a & b).ranges == (b & a).ranges == tuple(both)
    assert (a - b).ranges == tuple(rest)


@properties
@given(ranges, ranges, ranges)
def test_operations_go_together(
    first: list[tuple[int, int]], second: list[tuple[int, int]], third: list[tuple[int, int]]
) -> None:
    """Differences and intersections of several sets give what Python's sets give, in the normal form."""
    a, b, c = (PortSet.of_ranges(spans) for spans in (first, second, third))
    x, y, z = members(first), members(second), members(third)
    assert a - b - c == PortSet.of(x - y - z) == a - (b | c)
    assert (a - b) | (a & b) == a
    assert (a & b) - c == PortSet.of((x & y) - z) == a & (b - c)
    assert (a | b) & c == PortSet.of((x | y) & z)


SCATTERED: tuple[set[int], ...] = (
    set(range(1, 65536, 2)),
    set(range(2, 65536, 3)),
    set(range(1, 40_000, 2)) | {50_000},
    {22},
    set(),
)


@pytest.mark.parametrize("one", SCATTERED)
@pytest.mark.parametrize("other", SCATTERED)
def test_sets_of_many_ranges_are_sets_like_others(one: set[int], other: set[int]) -> None:
    """Sets with tens of thousands of ranges compare, combine and contain as Python's do."""
    left, right = PortSet.of(one), PortSet.of(other)
    assert (set(left | right), set(left & right), set(left - right)) == (one | other, one & other, one - other)
    assert (left == right, left <= right, len(left)) == (one == other, one <= other, len(one))
    assert all((port in left) == (port in one) for port in range(-1, 65537))
    assert (left, hash(left)) == (PortSet.of_ranges(left.ranges), hash(PortSet.of_ranges(left.ranges)))
    assert list(reversed(left.ranges)) == list(left.ranges)[::-1]


def test_set_of_many_ranges_is_small() -> None:
    """An address of a hostile host with every other port silent takes no megabytes."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        made = PortSet.of(range(1, 65536, 2))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made) == 32_768
    assert after - before < 400_000  # as tuples they take eight times as much
