from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from .forger import KINDS, PORTS, hosts, scan_among_forgeries
from .program import expected_states
from .truth import HostTruth, State

if TYPE_CHECKING:
    from .network import Lab

PACKETS: Final = 20_000


def test_forged_answers_count_for_nothing(lab: Lab) -> None:
    """Among 20,000 packets that almost answer its probes a scan finds the truth, though lost answers leave room.

    On a busy machine the forger may be late: what it sends after the scan shows nothing, so it is done again.
    """
    truths = hosts()
    lab.apply(truths)
    lab.loss(5)
    count = PACKETS // len(KINDS)
    jobs = [(truth.addresses, PORTS) for truth in truths]
    for _ in range(5):
        outcome = scan_among_forgeries(lab, jobs, count, pause=0.01, timeout=0.4, retries=3)
        assert outcome.found == expected_states(truths, PORTS)
        assert outcome.sent == dict.fromkeys(KINDS, count)
        if outcome.margin > 0:
            return
    pytest.fail("the forger was late each time")


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("SYN-ACK", "open"),
        ("RST", "closed"),
        ("RST of the SYN without counting it", "closed"),
    ],
)
def test_forged_answers_that_are_right_count(lab: Lab, kind: str, state: str) -> None:
    """Who sees the probes can answer them: so the forgeries above arrive, and fail for what is wrong in them only."""
    addresses = [f"{network}{number}" for network in ("198.18.6.", "2001:db8:18::6:") for number in (1, 2)]
    lab.apply(
        [HostTruth(f"h{number}.lab", (address,), default=State.DROPPED) for number, address in enumerate(addresses)]
    )
    jobs = [(addresses, [22, 80])]
    probes = 2 * len(addresses)
    outcome = scan_among_forgeries(lab, jobs, 500, first=probes, kinds=[kind], timeout=20, retries=0)
    assert outcome.found == {(address, port): state for address in addresses for port in (22, 80)}
    assert outcome.duration < 10  # less than what silence would have taken
