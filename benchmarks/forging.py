"""A million forged answers during a scan; see benchmarks/__main__.py."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.lab.forger import KINDS, PORTS, hosts, scan_among_forgeries
from tests.lab.program import expected_states

if TYPE_CHECKING:
    from tests.lab.network import Lab

PACKETS = 1_000_000
SILENT = 2  # hosts of eight
TIMEOUT = 15.0  # seconds: with two retries the scan of the silent hosts outlasts the forger


def report(lab: Lab) -> bool:
    """Print what became of the scan; returns whether it was exact."""
    truths = hosts(silent=SILENT)
    lab.apply(truths)
    print(f"{PACKETS:,} forged packets: one run", file=sys.stderr, flush=True)
    jobs = [(truth.addresses, PORTS) for truth in truths]
    outcome = scan_among_forgeries(lab, jobs, PACKETS // len(KINDS), timeout=TIMEOUT, retries=2)
    expected = expected_states(truths, PORTS)
    wrong = sum(outcome.found.get(key) != state for key, state in expected.items())
    print(
        f"\n## Forged answers\n\n* {sum(outcome.sent.values()):,} packets of {len(KINDS)} kinds in a scan of "
        f"{len(expected):,} ports: {wrong} in a wrong state; it ended after {outcome.duration:.0f} s, "
        f"{outcome.margin:.0f} s after the last of them"
    )
    return wrong == 0 and outcome.found == expected and outcome.margin > 0
