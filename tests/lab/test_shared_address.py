from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from .program import configure, scan
from .truth import HostTruth, State

if TYPE_CHECKING:
    from pathlib import Path

    from .network import Lab

NAMES: Final = [f"www{number}.test" for number in range(200)]
ADDRESS: Final = "198.18.1.1"
OTHER: Final = "198.18.1.2"
PORTS: Final = [*range(20, 120)]


def specification(number: int, ports: list[int]) -> dict[str, Any]:
    """Each name expects something else, and every third a port that no other one asks for."""
    expect = [[], [22], [22, 25]][number % 3]
    return {"expect": [*expect, *([5000 + number] if number % 3 else [])], "scanports": ports}


@pytest.mark.parametrize("engine", ["connect", "syn"])
@pytest.mark.parametrize("default", [State.CLOSED, State.DROPPED], ids=["answering", "silent"])
def test_two_hundred_names_of_one_address_are_one_scan(lab: Lab, tmp_path: Path, engine: str, default: State) -> None:
    """200 names of an address, each with a specification of its own, take about the probes of one name, and are right.

    A host of another address is scanned beside them, though only two are scanned at a time.
    """
    lab.apply(
        [
            HostTruth("one", (ADDRESS,), {(ADDRESS, 22): State.OPEN}, default=default),
            HostTruth("other", (OTHER,), {(OTHER, 22): State.OPEN}),
        ]
    )
    hosts = "".join(f"{ADDRESS} {name}\n" for name in NAMES)
    lab.run(["sh", "-c", "cat > /etc/hosts"], input=f"127.0.0.1 localhost\n{OTHER} other\n{hosts}", check=True)
    keys: dict[str, Any] = {"scan": {"engine": engine, "timeout": 0.3, "retries": 1}, "parallelscans": 2, "ipv6": False}

    _, alone = scan(lab, configure(tmp_path, {NAMES[2]: specification(2, PORTS)}, **keys))
    every = {name: specification(number, PORTS) for number, name in enumerate(NAMES)}
    _, document = scan(lab, configure(tmp_path, every | {"other": {"expect": [22], "scanports": PORTS}}, **keys))

    found = {host["host"]: host for host in document["hosts"]}
    assert found.pop("other")["verdict"] == "in_spec"
    for number, name in enumerate(NAMES):
        host = found[name]
        assert [item["open"] for item in host["addresses"]] == [["22"]]
        assert host["unexpected"] == ([] if number % 3 else ["22"])
        own = [str(5000 + number)] if number % 3 else []
        assert host["missing"] == (["25", *own] if number % 3 == 2 else own)
        seen = host["addresses"][0]
        assert 1 + seen["closed"] + seen["filtered"] == len(PORTS) + len(own)
    extra = 134 + 100  # ports that only one name asks for, and the other host
    assert document["probes_sent"] <= 1.5 * (alone["probes_sent"] + 6 * extra)
