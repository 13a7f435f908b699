"""What is scanned in the lab, and what came of one run of a scanner."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab.network import Lab

LIMIT = 240.0  # seconds that any scanner has for a workload
FEW = (22, 80, 443, 999)
MANY = (22, 80, 443, 999, 5432, 8080, 31337, 65535)


@dataclass(frozen=True, slots=True)
class Workload:
    """Hosts, the ports scanned on each of them, and the percentage of packets lost each way."""

    name: str
    hosts: tuple[HostTruth, ...]
    ports: range
    loss: float = 0.0

    @property
    def opened(self) -> frozenset[tuple[str, int]]:
        """The true open ports."""
        return frozenset(key for host in self.hosts for key in host.ports)

    @property
    def addresses(self) -> list[str]:
        """One address a host."""
        return [host.addresses[0] for host in self.hosts]

    @property
    def total(self) -> int:
        """The number of (address, port)."""
        return len(self.hosts) * len(self.ports)

    @property
    def filtered(self) -> int:
        """The number of (address, port) that drop what they get."""
        return sum(len(self.ports) for host in self.hosts if host.default is State.DROPPED)

    @property
    def closed(self) -> int:
        """The true number of closed (address, port)."""
        return self.total - len(self.opened) - self.filtered

    @property
    def spelled(self) -> str:
        """The ports as every scanner takes them."""
        return f"{self.ports[0]}-{self.ports[-1]}"

    def apply(self, lab: Lab) -> None:
        """Make it the lab's truth."""
        lab.apply(self.hosts)
        lab.loss(self.loss)


def one_host() -> Workload:
    """Return one host with all ports, eight of them open."""
    truth = HostTruth("a.lab", ("198.18.1.0",), {("198.18.1.0", port): State.OPEN for port in MANY})
    return Workload("1 host, 65,535 ports", (truth,), range(1, 65536))


def many_hosts(hosts: int = 256, ports: int = 1000, *, silent: int = 0, loss: float = 0.0) -> Workload:
    """Return hosts with up to four open ports; every `silent`-th one (0: none) drops everything."""
    name = f"{hosts:,} hosts, {ports:,} ports"
    if silent:
        name += f", 1 in {silent} drops all, {loss:g} % loss each way"
    truths = []
    for number in range(hosts):
        address = f"198.18.{16 + number // 256}.{number % 256}"
        if silent and number % silent == 0:
            truths.append(HostTruth(f"h{number}.lab", (address,), default=State.DROPPED))
        else:
            opened = {(address, port): State.OPEN for port in FEW if port <= ports}
            truths.append(HostTruth(f"h{number}.lab", (address,), opened))
    return Workload(name, tuple(truths), range(1, ports + 1), loss)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process took: seconds of wall clock, of CPU as the user and as the system, and its peak memory in MiB."""

    wall: float
    user: float
    system: float
    memory: float

    @property
    def cpu(self) -> float:
        """Seconds of CPU in all."""
        return self.user + self.system


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one scanner: its own time in seconds, what the process took, what it found."""

    scan: float
    usage: Usage
    opened: frozenset[tuple[str, int]]
    closed: int | None = None
    probes: int | None = None


def measure(lab: Lab, argv: Sequence[str], *, timeout: float = LIMIT) -> tuple[str, str, Usage]:
    """Run a program in the lab; returns its standard output, its standard error and what it took.

    Raises subprocess.TimeoutExpired, when it has been ended.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        # The peak is read by the process's own parent inside, since getrusage here mixes all children.
        done = lab.run([sys.executable, "-c", _PEAK, str(timeout), *argv], timeout=timeout + 30,
                       stdout=subprocess.PIPE, stderr=errors, capture_output=False)  # fmt: skip
        wall = time.perf_counter() - started
        errors.seek(0)
        *said, peak = errors.read().splitlines()
        if done.returncode == _ENDED:
            raise subprocess.TimeoutExpired(list(argv), timeout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    usage = Usage(wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, float(peak) / 1024)
    return done.stdout, "\n".join(said), usage


_ENDED = 124  # as timeout(1) says it
_PEAK = f"""
import resource, subprocess, sys
try:
    code = subprocess.run(sys.argv[2:], check=False, timeout=float(sys.argv[1])) and 0
except subprocess.TimeoutExpired:
    code = {_ENDED}
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
