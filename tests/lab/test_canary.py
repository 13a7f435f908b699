"""While no canary is reachable, silence is not believed: a way that is blocked, and hosts that are down."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from .program import QUICK, configure, scan
from .test_link import exporter
from .truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .network import Lab

ENGINES: Final = ("connect", "syn")
CANARY: Final = "198.18.7.1"
#: Hosts of both families: what each of them expects is what it shows.
OPEN: Final = ["198.18.7.2", "198.18.7.3", "2001:db8:18::7:2", CANARY]
CLOSED: Final = ["198.18.7.4", "2001:db8:18::7:4"]
SILENT: Final = ["198.18.7.5"]
TRUTHS: Final = [
    *(HostTruth(f"o{a}", (a,), {(a, 22): State.OPEN, (a, 81): State.DROPPED}) for a in OPEN),
    *(HostTruth(f"c{a}", (a,)) for a in CLOSED),
    *(HostTruth(f"s{a}", (a,), default=State.DROPPED) for a in SILENT),
]
HOSTS: Final[dict[str, Any]] = {
    **{a: [22] for a in OPEN},
    **{a: [] for a in (*CLOSED, *SILENT)},
    CANARY: {"expect": [22], "canary": True},
}
PORTS: Final = [22, 80, 81]
RULES: Final = """\
table inet blocked {{
    chain arrival {{ type filter hook prerouting priority -400; policy accept
        meta l4proto tcp {what} drop
    }}
}}
"""


@contextmanager
def blocked(lab: Lab, what: str = "") -> Iterator[None]:
    """Have the hosts' side drop what is sent to it, or some of it, for a while."""
    lab.run(["nft", "-f", "-"], side="hosts", input=RULES.format(what=what), check=True)
    try:
        yield
    finally:
        lab.run(["nft", "delete", "table", "inet", "blocked"], side="hosts", check=True)


def next_of_each(scanned: Iterator[dict[str, Any]], times: int) -> tuple[dict[str, Any], set[str]]:
    """Return verdict and reason of a later scan of each host, and all verdicts meanwhile."""
    count: dict[str, int] = {}
    found: dict[str, Any] = {}
    verdicts = set()
    for line in scanned:
        host = line["host"]
        verdicts.add(line["verdict"])
        count[host] = count.get(host, 0) + 1
        if count[host] >= times:
            found.setdefault(host, (line["verdict"], line.get("reason")))
        if len(found) == len(HOSTS):
            break
    return found, verdicts


@pytest.mark.parametrize("engine", ENGINES)
def test_way_that_is_blocked_for_a_while(lab: Lab, tmp_path: Path, engine: str) -> None:
    """While all hosts are silent each is unknown for the canary, and none out of spec; afterwards all are right."""
    lab.apply(TRUTHS)
    conf = configure(tmp_path, HOSTS, PORTS, interval=1, parallelscans=20, scan=QUICK | {"engine": engine})
    with exporter(lab, conf) as scanned:
        before, said = next_of_each(scanned, 1)
        with blocked(lab):
            lost, meanwhile = next_of_each(scanned, 2)
        back, afterwards = next_of_each(scanned, 2)
    assert set(before.values()) == {("in_spec", None)}
    assert lost == dict.fromkeys(HOSTS, ("unknown", "canary"))
    assert set(back.values()) == {("in_spec", None)}
    assert "out_of_spec" not in said | meanwhile | afterwards


@pytest.mark.parametrize("engine", ENGINES)
def test_way_that_is_blocked_from_the_beginning(lab: Lab, tmp_path: Path, engine: str) -> None:
    """A single scan asks the canaries, too."""
    lab.apply(TRUTHS)
    conf = configure(tmp_path, HOSTS, PORTS, scan=QUICK | {"engine": engine})
    with blocked(lab):
        code, document = scan(lab, conf)
    assert code == 3
    assert {host["reason"] for host in document["hosts"]} == {"canary"}


@pytest.mark.parametrize("engine", ENGINES)
def test_hosts_that_are_silent_beside_a_canary(lab: Lab, tmp_path: Path, engine: str) -> None:
    """While the canary answers a host that is silent is down, and its expected port missing."""
    lab.apply(TRUTHS)
    conf = configure(tmp_path, HOSTS, PORTS, scan=QUICK | {"engine": engine})
    with blocked(lab, f"ip daddr {OPEN[0]}"):
        code, document = scan(lab, conf)
    assert code == 1
    found = {host["host"]: (host["verdict"], host["missing"]) for host in document["hosts"]}
    assert found == dict.fromkeys(HOSTS, ("in_spec", [])) | {OPEN[0]: ("out_of_spec", ["22"])}
