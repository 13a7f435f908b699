"""How long a round will take, before it runs. Pure.

Names that share an address are scanned together, so probes are counted once for each port of each address.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.config import Config
    from portspec.ports import PortSet


@dataclass(frozen=True, slots=True)
class Pace:
    """What an engine can do: probes a second where each is answered at once, and how many it waits for at a time."""

    engine: str
    probes_per_second: int
    window: int
    address_window: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A round: how many addresses and probes, and its seconds if every probe is answered at once, and if none is."""

    addresses: int
    probes: int
    best: float
    worst: float


def estimate(config: Config, hosts: Iterable[tuple[Sequence[str], PortSet]], pace: Pace) -> Estimate:
    """Estimate a round over hosts, each given as its addresses and its ports.

    An address that several hosts have is scanned for the first of them, with the ports of all.
    """
    ports: dict[str, PortSet] = {}
    first: dict[str, int] = {}
    for number, (addresses, own) in enumerate(hosts):
        for address in addresses:
            ports[address] = ports[address] | own if address in ports else own
            first.setdefault(address, number)
    sizes = {address: len(own) for address, own in ports.items()}
    by_host = Counter[int]()
    for address, number in first.items():
        by_host[number] += sizes[address]
    probes = by_host.total()

    tries = 1 + config.scan.retries
    rates = [pace.probes_per_second, config.scan.rate or pace.probes_per_second]
    if config.scan.host_rate:
        rates.append(config.scan.host_rate * min(config.parallelscans, len(by_host) or 1))
    slowest = max(by_host.values(), default=0) / (config.scan.host_rate or min(rates))
    best = max(probes / min(rates), slowest)

    window = min(pace.window, pace.address_window * config.parallelscans)
    patience: dict[int, float] = {}  # seconds that a host waits for answers: its addresses are scanned side by side
    for address, number in first.items():
        waits = -(-sizes[address] // pace.address_window) * tries * config.scan.timeout
        patience[number] = max(patience.get(number, 0.0), waits)
    worst = max(
        probes * tries / min(window / config.scan.timeout, *rates),
        slowest * tries,
        max(patience.values(), default=0.0),
        sum(patience.values()) / config.parallelscans,
    )
    return Estimate(len(ports), probes, best, worst)
