from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.exporter import Exporter, exporter, host_of, parse, until, write
from tests.faults.registry import fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTS: Final = tuple(f"127.85.0.{number}" for number in range(1, 21))
CHANGED: Final = HOSTS[-1]
NAMED: Final = "localhost"
GONE: Final = "127.85.1.1"
NEW: Final = "127.85.1.2"
PORTS: Final = list(range(1, 41))

FLAPPING: Final = "127.86.0.1"
KILLS: Final = 5

# Opens and closes ports of an address at random, for ever: `python -c … ADDRESS SEED PORT…`.
_FLAPPER: Final = """
import random, socket, sys, time
address, seed, *ports = sys.argv[1:]
rng, listening = random.Random(int(seed)), {}
while True:
    for port in rng.sample(ports, rng.randint(1, len(ports))):
        if port in listening:
            listening.pop(port).close()
        else:
            listening[port] = socket.create_server((address, int(port)))
    print(*listening, flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
def open_ports() -> Iterator[tuple[int, int]]:
    """Return two ports that are open on the first host."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server((HOSTS[0], 0))) for _ in range(2)]
        one, two = (listener.getsockname()[1] for listener in listeners)
        yield one, two


def host_series(page: str, *, but: tuple[str, ...] = ()) -> dict[tuple[str, str], float]:
    """Return every series that is about a host, by name and labels, but those of some hosts."""
    return {
        (name, labels): value
        for name, series in parse(page).items()
        for labels, value in series.items()
        if (host := host_of(labels)) and host not in but
    }


def values(page: str, name: str) -> dict[str, float]:
    """Return the value of a family for each host."""
    return {host_of(labels) or "": value for labels, value in parse(page).get(name, {}).items()}


@fault("kill", "metrics and pages", "The first scrape after the restart has the last verdict of every host.")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_first_scrape_after_a_restart_has_every_last_verdict(
    tmp_path: Path, open_ports: tuple[int, int], number: signal.Signals
) -> None:
    """Before any scan of the new process has ended, each host has its last verdict and time, judged by today's file."""
    one, two = open_ports
    hosts: dict[str, Any] = {host: [] for host in HOSTS}
    hosts[HOSTS[0]] = {"expect": [one, 7], "labels": {"team": "a"}}
    hosts[HOSTS[1]] = {"expect": [9]}
    hosts[NAMED] = [9]
    keys: dict[str, Any] = {"scanports": [*PORTS, one, two], "interval": 3600, "parallelscans": 50}
    conf = write(tmp_path / "conf.yml", {**hosts, GONE: [9]}, **keys)
    with exporter(conf) as first:
        first.wait_until_ready()
        # More than once: what the writer has just taken, and not yet sorted, is not counted for a moment.
        until(lambda: all(first.series()["portspec_store_pending"] == {"": 0.0} for _ in range(3)))
        page = first.get("/metrics").text
        documents = {item["host"]: item for item in first.json("/api/v1/hosts")["hosts"]}
        changes = first.json("/api/v1/changes")["changes"]
        first.kill(number)
    before = host_series(page, but=(CHANGED, GONE))
    assert values(page, "port_out_of_spec")[HOSTS[0]] == 2  # one is missing, one is open
    assert len(changes) == 2

    # At one probe a second no scan ends in this test; the last host is now to have a port that it does not have.
    write(conf, {**hosts, CHANGED: [9], NEW: []}, **keys, scan={"host_rate": 1})
    with exporter(conf, log=tmp_path / "second.log") as second:
        page = second.get("/metrics").text
        started = json.loads(second.log.read_text().splitlines()[0])["timestamp"]
        assert parse(page)["portspec_probes_sent_total"] == {"": 0.0}  # as of the last scan that ended
        assert {**before, **host_series(page, but=(CHANGED, NEW))} == before
        assert host_series(page, but=(CHANGED, NEW)).keys() == before.keys()
        assert GONE not in values(page, "port_scan_interval_seconds")
        latest = max(values(page, "port_last_scan_timestamp_seconds").values())
        assert latest < datetime.fromisoformat(started).timestamp()

        assert values(page, "port_out_of_spec")[CHANGED] == 1
        assert parse(page)["port_deviation"][
            f'address="{CHANGED}",host="{CHANGED}",kind="missing",port="9",severity="warning",state="closed"'
        ]  # fmt: skip
        assert NEW not in values(page, "port_out_of_spec")
        assert second.get("/-/ready").status == 503  # the new one was never scanned
        again = {item["host"]: item for item in second.json("/api/v1/hosts")["hosts"]}
        for host in (NAMED, *HOSTS[:-1]):
            assert again[host] | {"next_scan": None} == documents[host] | {"next_scan": None}
        assert (again[CHANGED]["verdict"], again[CHANGED]["missing"]) == ("out_of_spec", ["9"])
        assert again[CHANGED]["last_scan"] == documents[CHANGED]["last_scan"]
        logged = until(lambda: (rows := second.json("/api/v1/changes")["changes"])[len(changes) :] and rows)
        assert logged[1:] == changes
        assert (logged[0]["host"], logged[0]["ports"], logged[0]["to"]) == (CHANGED, "9", "expected")


class Watcher:
    """Asks an exporter for its changes all the time, and keeps all that it ever served, by their numbers."""

    def __init__(self) -> None:
        self.served: dict[int, Any] = {}
        self.problems: list[str] = []
        self.asked = self.scrapes = 0

    @contextmanager
    def watching(self, service: Exporter) -> Iterator[None]:
        """Ask until the exporter is killed."""
        service.address  # noqa: B018 - waits until it listens
        threads = [threading.Thread(target=work, args=(service,)) for work in (self._ask, self._scrape)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            service.kill()
            for thread in threads:
                thread.join()

    def wait_for_more(self, changes: int) -> None:
        """Wait until so many changes more were served."""
        goal = len(self.served) + changes
        until(lambda: len(self.served) >= goal)

    def keep(self, changes: list[dict[str, Any]]) -> None:
        """Note what was served; a number never stands for something else."""
        for change in changes:
            if self.served.setdefault(change["id"], change) != change:
                self.problems.append(f"{self.served[change['id']]} has become {change}")

    def _ask(self, service: Exporter) -> None:
        newest = 0
        while service.process.poll() is None:
            try:
                service.post(f"/api/v1/scan?host={FLAPPING}")
                page = service.json("/api/v1/changes?limit=100")["changes"]
            except (OSError, EOFError, json.JSONDecodeError):
                continue
            except Exception as error:  # noqa: BLE001 - http.client's are many; those of a killed server are no fault
                if service.process.poll() is None:
                    self.problems.append(repr(error))
                continue
            self.keep(page)
            self.asked += 1
            ids = [change["id"] for change in page]
            if ids != sorted(ids, reverse=True) or (ids and ids[0] < newest):
                self.problems.append(f"not in order: {ids}")
            newest = ids[0] if ids else newest

    def _scrape(self, service: Exporter) -> None:
        while service.process.poll() is None:
            try:
                page = service.get("/metrics")
            except Exception:  # noqa: BLE001, S112 - the server was killed meanwhile
                continue
            if page.status != 200:
                self.problems.append(f"/metrics: {page.status}")
            self.scrapes += 1


def all_changes(service: Exporter) -> dict[int, Any]:
    """Return the whole change log, a page at a time."""
    found: dict[int, Any] = {}
    before = ""
    while True:
        page = service.json(f"/api/v1/changes?limit=500{before}")
        found |= {change["id"]: change for change in page["changes"]}
        if page["next_cursor"] is None:
            return found
        before = f"&cursor={page['next_cursor']}"


def integrity(conf: Path, directory: Path) -> str:
    """Check a copy of the state file and its -wal, so that the exporter finds them as the kill left them."""
    directory.mkdir()
    for suffix in ("", "-wal"):
        name = f"portspec.db{suffix}"
        if conf.with_name(name).exists():
            shutil.copy(conf.with_name(name), directory / name)
    with closing(sqlite3.connect(directory / "portspec.db")) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


@contextmanager
def flapping(ports: list[int]) -> Iterator[subprocess.Popen[str]]:
    """Open and close ports in a process of their own."""
    argv = [sys.executable, "-c", _FLAPPER, FLAPPING, "1", *map(str, ports)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def free_ports(count: int) -> list[int]:
    """Find ports of the flapping host that nobody has."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server((FLAPPING, 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


@fault("kill", "state file", "No change that was served once is lost.")
def test_nothing_that_was_served_is_lost_by_kill_9(tmp_path: Path) -> None:
    """Killed again and again while ports open and close, each start has every change ever served, and the host."""
    rng = random.Random(7)  # noqa: S311 - repeatable
    ports = free_ports(8)
    conf = write(tmp_path / "conf.yml", {FLAPPING: []}, interval=1, scanports=ports)
    watcher = Watcher()
    last_scan = 0.0
    with flapping(ports):
        for number in range(KILLS + 1):
            with exporter(conf, log=tmp_path / f"{number}.log") as service:
                is_known = bool(watcher.served)  # before this one's first scan, which may end at any time
                page = service.get("/metrics").text
                found = all_changes(service)
                lost = watcher.served.keys() - found.keys()
                assert not lost, [watcher.served[one] for one in sorted(lost)]
                watcher.keep(list(found.values()))
                assert parse(page)["portspec_store_up"] == {"": 1.0}
                if is_known:
                    assert values(page, "port_scan_success") == {FLAPPING: 1.0}
                    assert values(page, "port_last_scan_timestamp_seconds")[FLAPPING] >= last_scan
                if number == KILLS:
                    break
                with watcher.watching(service):
                    watcher.wait_for_more(5)  # so that there is something to lose
                    time.sleep(rng.uniform(0.0, 0.6))  # a moment, not a wait for something
                last_scan = max(datetime.fromisoformat(change["at"]).timestamp() for change in watcher.served.values())
            assert integrity(conf, tmp_path / str(number)) == "ok"
    assert watcher.problems == []
    assert watcher.asked
    assert watcher.scrapes
