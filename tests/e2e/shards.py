"""Exporters that share the hosts of one conf.yml, and a Prometheus that scrapes all of them."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.e2e.exporter import PROGRAM, Exporter, prometheus, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NAMES: Final = ("port_scan_success", "port_out_of_spec")  # what Prometheus takes: the pages of many hosts are large


@dataclass(frozen=True, slots=True)
class Seen:
    """What Prometheus has: all hosts, those on several shards, those scanned, and those out of specification."""

    hosts: int
    twice: int
    scanned: int
    deviating: int


class Fleet:
    """Shards that are started and ended one by one; each keeps its address and its state file.

    Each listens on a loopback address of its own, where no other connection has taken its port when it comes back.
    """

    def __init__(
        self,
        directory: Path,
        conf: Path,
        *,
        program: Sequence[str],
        names: Sequence[str],
        seconds: int,
        patience: float,
    ) -> None:
        self.twice = 0  # the most hosts that Prometheus ever had on several shards
        self._conf = conf
        self._directory = directory
        self._program = program
        self._patience = patience
        self._running: dict[int, Exporter] = {}
        self._addresses: dict[int, str] = {}
        self._targets = directory / "targets.json"
        self._targets.write_text("[]", encoding="utf-8")
        self._stack = ExitStack()
        settings = {
            "global": {"scrape_interval": f"{seconds}s", "scrape_timeout": f"{seconds}s"},
            "scrape_configs": [
                {
                    "job_name": "portspec",
                    "params": {"name[]": names},
                    "file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": f"{seconds}s"}],
                }
            ],
        }
        self._prometheus = self._stack.enter_context(prometheus(directory / "prometheus", settings))

    def start(self, index: int, count: int) -> None:
        """Start shard `index` of `count`, and have Prometheus scrape it."""
        state = self._directory / str(index)
        state.mkdir(exist_ok=True)
        address = self._addresses.get(index, f"127.83.{index}.1:0")
        running = self._running[index] = Exporter(
            self._conf,
            state / "log",
            ("--shard", f"{index}/{count}"),
            {"STATE_DIRECTORY": str(state)},
            self._program,
            address,
        )
        if index not in self._addresses:
            self._addresses[index] = until(lambda: running.address, patience=self._patience)
            written = self._targets.with_suffix(".new")
            written.write_text(json.dumps([{"targets": sorted(self._addresses.values())}]), encoding="utf-8")
            written.replace(self._targets)

    def kill(self, index: int) -> None:
        """End a shard as a crash does."""
        self._running.pop(index).kill()

    def stop(self) -> None:
        """Stop all shards, as an administrator does."""
        for running in self._running.values():
            running.process.send_signal(signal.SIGTERM)
        while self._running:
            assert self._running.popitem()[1].process.wait(self._patience) == 0

    def peak(self) -> int:
        """Return the most memory that one of the running shards took, in bytes."""
        return max(running.peak() for running in self._running.values())

    def look(self) -> Seen:
        """Ask Prometheus for the hosts."""
        seen = Seen(
            self._number("count(port_scan_success)"),
            self._number("count(count by (host) (port_scan_success) > 1)"),
            self._number("count(port_scan_success == 1)"),
            self._number("count(port_out_of_spec == 1)"),
        )
        self.twice = max(self.twice, seen.twice)
        return seen

    def wait_for(self, hosts: int, *, scanned: int | None = None, deviating: int | None = None) -> Seen:
        """Wait until Prometheus has so many hosts, and so many of them scanned and out of specification."""
        looks = [self.look()]

        def is_as_expected() -> bool:
            looks.append(seen := self.look())
            return seen.hosts == hosts and scanned in {None, seen.scanned} and deviating in {None, seen.deviating}

        try:
            until(is_as_expected, patience=self._patience)
        except AssertionError as error:
            raise AssertionError(f"Prometheus has {looks[-1]}") from error
        return looks[-1]

    def close(self) -> None:
        """End all processes."""
        for running in self._running.values():
            running.kill()
        self._stack.close()

    def _number(self, expression: str) -> int:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return int(sum(value for _, value in self._prometheus.query(expression)))
            except TimeoutError:  # while many shards start on few processors
                if time.monotonic() > deadline:
                    raise


@contextmanager
def fleet(
    directory: Path,
    conf: Path,
    *,
    program: Sequence[str] = PROGRAM,
    names: Sequence[str] = NAMES,
    seconds: int = 1,
    patience: float = 60.0,
) -> Iterator[Fleet]:
    """Run Prometheus, which scrapes each shard that is started every so many seconds, and end everything."""
    running = Fleet(directory, conf, program=program, names=names, seconds=seconds, patience=patience)
    try:
        yield running
    finally:
        running.close()
