from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from portspec.ports import ALL_PORTS, PortSet
from portspec.scan.connect.address import shuffled
from tests.unit.factories import MODEST

PORT_SETS = st.sets(st.integers(1, 65535), max_size=200).map(PortSet.of)
SEEDS = st.one_of(st.integers(0, 2**64 - 1), st.text(max_size=40))


@MODEST
@given(ports=PORT_SETS, seed=SEEDS)
def test_order_is_a_permutation(ports: PortSet, seed: int | str) -> None:
    """Every port stands in the order exactly once."""
    assert sorted(shuffled(ports, seed)) == list(ports)


@MODEST
@given(ports=PORT_SETS, seed=SEEDS)
def test_seed_decides_the_order(ports: PortSet, seed: int | str) -> None:
    """The same seed gives the same order."""
    assert shuffled(ports, seed) == shuffled(ports, seed)


@MODEST
@given(seeds=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2, unique=True))
def test_seeds_differ_in_their_order(seeds: list[int]) -> None:
    """Two seeds give two orders of a hundred ports (chance of a coincidence: 1 in 100!)."""
    ports = PortSet.of_ranges([(1, 100)])
    first, second = (shuffled(ports, seed) for seed in seeds)
    assert first != second
    assert first != list(ports)


def test_order_of_all_ports_has_no_long_runs() -> None:
    """Neighbouring ports are rarely probed one after the other: all 65,535 hold no more than 20 such pairs."""
    order = shuffled(ALL_PORTS, 1)
    assert sum(second == first + 1 for first, second in itertools.pairwise(order)) <= 20
