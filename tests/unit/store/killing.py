"""A store under load in a process of its own that is killed at a random moment, and what is in its file then.

`python -m tests.unit.store.killing PATH SEED` is that process: it waits for a line, then scans without end, and writes
a line of JSON for each commit.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from portspec.ports import PortSet, parse_ports
from portspec.state.changes import changes
from portspec.state.snapshot import HostState
from portspec.store import Store
from tests.unit.factories import NOW, result, seen, target
from tests.unit.store.scenes import DAY, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.scan import AddressObservation
    from portspec.state.changes import Change

ROOT: Final = Path(__file__).parents[3]
HOSTS: Final = tuple(target(f"host{number}", expect=[22], address=None) for number in range(60))
MAX_DELAY: Final = 0.25  # seconds between "go" and the kill: from before the file is there to some dozen commits
A_FILE: Final = 10  # kills, before another file is begun

Row = tuple[float, str, str, str, str | None, str]


@dataclass(slots=True)
class Tally:
    """What was seen in so many `kills`: how often the file `opened`, changes `committed`, and of them `lost`.

    Changes may be told `twice`; a state is `half` when the changes in the log do not add up to it.
    """

    kills: int = 0
    opened: int = 0
    committed: int = 0
    lost: int = 0
    twice: int = 0
    half: int = 0


@dataclass(slots=True)
class _Reported:
    """What was reported as committed to one file: its changes, and when each host was last scanned."""

    changes: Counter[Row] = field(default_factory=Counter)
    states: dict[str, float] = field(default_factory=dict)


def kill(directory: Path, kills: int, seed: int) -> Tally:
    """Kill a store under load so many times, each with SIGKILL, and look at its file each time."""
    rng = random.Random(seed)  # noqa: S311 - repeatable
    tally, reported = Tally(), _Reported()
    waiting = _start(directory, 0, rng)
    try:
        for number in range(kills):
            process = waiting
            waiting = _start(directory, number + 1, rng)  # so that it has imported everything by the time it is wanted
            if number % A_FILE == 0:
                reported = _Reported()
            for commit in _killed(process, rng.uniform(0.0, MAX_DELAY), is_begun=number % 2 == 1):
                rows: Iterable[Row] = map(tuple, commit["changes"])
                reported.changes.update(rows)
                reported.states |= commit["states"]
                tally.committed += len(commit["changes"])
            tally.kills += 1
            _look(_path(directory, number), reported, tally)
    finally:
        waiting.kill()
        waiting.communicate()
    return tally


def _path(directory: Path, number: int) -> Path:
    return directory / f"portspec{number // A_FILE}.db"


def _start(directory: Path, number: int, rng: random.Random) -> subprocess.Popen[bytes]:
    arguments = [str(_path(directory, number)), str(rng.getrandbits(32))]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.store.killing", *arguments],
        cwd=ROOT,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _killed(process: subprocess.Popen[bytes], delay: float, *, is_begun: bool) -> Iterator[Any]:
    """Let a process begin and kill it `delay` seconds later; give each commit that it reported whole.

    If it `is_begun`, the time begins with its first commit, which may be late on a busy machine.
    """
    assert process.stdout
    assert process.stdin
    assert os.read(process.stdout.fileno(), 6) == b"ready\n"
    with process.stdin:  # communicate() would not close it if it ran out of time before it wrote
        process.stdin.write(b"go\n")
    process.stdin = None
    first = b""
    while is_begun and b"\n" not in first and (piece := os.read(process.stdout.fileno(), 1 << 16)):
        first += piece
    try:
        process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
    written, _ = process.communicate()
    assert process.returncode == -9, "it ended by itself"
    yield from map(json.loads, (first + written).decode().split("\n")[:-1])


def _look(path: Path, reported: _Reported, tally: Tally) -> None:
    """Open a file as a restarted exporter does, and hold it to what was reported."""
    store = Store(str(path), history=365 * DAY, wall_clock=lambda: NOW)
    restored = store.open(HOSTS)
    log = [change for _, change in reversed(store.changes(limit=10**9))]
    is_up = store.status.is_up and not store.status.errors
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        is_sound = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    tally.opened += is_up and is_sound
    found = Counter(map(_row, log))
    tally.lost += (reported.changes - found).total()
    tally.twice += (found - Counter(set(found))).total()
    told = _replayed(log)
    held = {host: _open_ports(state) for host, state in restored.items()}
    tally.half += sum(told.get(host, {}) != held.get(host, {}) for host in told.keys() | held.keys())
    times = {host: state.latest.finished_at for host, state in restored.items() if state.latest}
    tally.lost += sum(times.get(host, 0.0) < at for host, at in reported.states.items())


def _replayed(log: Iterable[Change]) -> dict[str, dict[str, PortSet]]:
    """Return the open ports of each address of each host, by the log alone; none of one that has no open port."""
    found: dict[str, dict[str, set[int]]] = {}
    for change in log:
        ports = found.setdefault(change.host, {}).setdefault(change.address, set())
        for word in change.ports.split(", "):
            (ports.update if change.after.value == "open" else ports.difference_update)(parse_ports(word))
    return {
        host: {address: PortSet.of(ports) for address, ports in addresses.items() if ports}
        for host, addresses in found.items()
    }


def _open_ports(state: HostState) -> dict[str, PortSet]:
    """Return the same by the state alone."""
    assert state.conclusive
    return {item.address: item.accepting for item in state.conclusive.addresses if item.accepting}


def _row(change: Change) -> Row:
    before = change.before and change.before.value
    return change.at, change.host, change.address, change.ports, before, change.after.value


def load(path: str, seed: int) -> None:
    """Wait for a line, then put scans whose ports open and close, some at a time, and report each commit."""
    rng = random.Random(seed)  # noqa: S311 - repeatable
    shown = [_addresses(rng) for _ in range(100)]
    os.write(1, b"ready\n")  # at once and whole, as every line
    sys.stdin.readline()
    store = Store(path, history=365 * DAY, wall_clock=lambda: NOW)
    states = {of.host: HostState(of) for of in HOSTS} | store.open(HOSTS)
    store.start()
    at = max((state.latest.finished_at for state in states.values() if state.latest), default=NOW)
    while True:
        report: dict[str, Any] = {"changes": [], "states": {}}
        for _ in range(rng.randint(1, 80)):
            before = states[rng.choice(tuple(states))]
            at += 1.0
            after = before.after(result(before.target, *rng.choice(shown), at=at))
            store.put(before, after)
            states[after.host] = after
            report["changes"] += map(_row, changes(before, after))
            report["states"][after.host] = at
        assert store.flush(PATIENCE)
        os.write(1, json.dumps(report).encode() + b"\n")


def _addresses(rng: random.Random) -> list[AddressObservation]:
    """Draw what two addresses show: a few open ports, now and then hundreds."""
    few, many = range(1, 41), range(100, 400)
    return [
        seen(
            address,
            scanned=(*few, *many),
            is_open=[*rng.sample(few, rng.randint(0, 4)), *(many if rng.random() < 0.1 else ())],
        )
        for address in ("192.0.2.1", "2001:db8::1")
    ]


if __name__ == "__main__":
    load(sys.argv[1], int(sys.argv[2]))
