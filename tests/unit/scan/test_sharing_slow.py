"""The limits of scans without a place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.table import SlowScans


def test_slow_scans_are_admitted_in_order() -> None:
    """A scan for which there is no room is admitted once enough have ended; one that ends before never is."""
    slow, resting = SlowScans(most=2), list[str]()
    for name in "abcde":
        slow.add(name, 10, lambda name=name: resting.append(name))  # type: ignore[misc]
    assert resting == ["a", "b"]
    assert not slow.end("c")
    assert slow.end("a")
    assert resting == ["a", "b", "d"]
    assert ("d" in slow, "e" in slow, len(slow)) == (True, False, 2)


def test_ports_of_all_scans_are_bounded() -> None:
    """A few scans of all ports take the room of many small ones; one larger than the limit is admitted alone."""
    slow, resting = SlowScans(most_ports=100), list[str]()
    for name, ports in (("a", 60), ("b", 60), ("c", 10), ("d", 500)):
        slow.add(name, ports, lambda name=name: resting.append(name))  # type: ignore[misc]
    assert resting == ["a"]
    slow.end("a")
    assert resting == ["a", "b", "c"]
    slow.end("b")
    slow.end("c")
    assert resting == ["a", "b", "c", "d"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(1, 60)), max_size=40))
def test_no_room_is_lost(steps: list[tuple[bool, int, int]]) -> None:
    """Whatever is added and ends in any order, all the room is free in the end."""
    slow, known = SlowScans(most=3, most_ports=100), dict[int, int]()
    for comes, name, ports in steps:
        if comes and name not in known:
            known[name] = ports
            slow.add(name, ports, lambda: None)
        elif not comes:
            known.pop(name, None)
            slow.end(name)
        resting = [ports for name, ports in known.items() if name in slow]
        assert len(resting) == len(slow) <= 3
        assert sum(resting) <= 100
        assert len(slow) == len(known) or len(slow) == 3 or sum(resting) + max(known.values()) > 100
    for name in known:
        slow.end(name)
    assert (len(slow), slow._ports, slow._waiting) == (0, 0, {})
