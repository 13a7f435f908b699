"""portspec whose scans are simulated: ``python -m benchmarks.simulated serve …`` takes what portspec takes.

Each scan ends at once and sends nothing, so that what is around it can be measured, and many exporters run on one
machine. An address has all of its ports closed; one in DEVIATING has its first port open.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import zlib
from typing import TYPE_CHECKING, Any, Final

from portspec.app import process
from portspec.app.engines import Engines
from portspec.cli.main import main
from portspec.ports import NO_PORTS, PortSet
from portspec.scan.engine import EngineThread
from portspec.scan.job import AddressObservation, Observation
from portspec.scan.pacing import Pacer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from portspec.config import Config
    from portspec.scan.job import ScanJob

DEVIATING: Final = 50


class SimulatedEngine(EngineThread):
    """An engine that knows each address's ports by its name."""

    name = "simulated"
    timeout = 0.9
    retries = 2

    def _turn(self) -> None:
        while self._inbox:
            job, future = self._inbox.popleft()
            if future.set_running_or_notify_cancel():
                self.stats.probes_sent += len(job.addresses) * len(job.ports)
                future.set_result(observe(job))
        self._added_ports.clear()
        self._answer_partial_requests((), 0.0)
        select.select([self._wake], [], [])
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _drop_all(self) -> list[Future[Observation]]:
        return []

    def _release(self) -> None:
        pass


def observe(job: ScanJob) -> Observation:
    """Return what a scan shows of the addresses of a job."""
    seen = []
    for address in job.addresses:
        first = PortSet.of([next(iter(job.ports))]) if zlib.crc32(address.encode()) % DEVIATING == 0 else NO_PORTS
        seen.append(AddressObservation(address, job.ports, open=first, answered=True, rtt=0.001))
    return Observation(tuple(seen), 0.001, len(seen) * len(job.ports))


@contextlib.contextmanager
def open_simulated(config: Config, **_: Any) -> Iterator[Engines]:
    """Open a simulated engine in place of those that conf.yml chooses."""
    with contextlib.closing(Engines(SimulatedEngine(), None, Pacer(config.scan.rate), config)) as engines:
        yield engines


if __name__ == "__main__":
    vars(process)["open_engines"] = open_simulated
    sys.exit(main())
