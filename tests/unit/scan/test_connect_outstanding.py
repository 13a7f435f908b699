"""The queues of outstanding probes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hypothesis import given
from hypothesis import strategies as st

from portspec.ports import PortSet
from portspec.scan import ScanJob
from portspec.scan.connect import ConnectEngine
from portspec.scan.connect.outstanding import OutstandingProbes
from tests.unit.factories import MODEST
from tests.unit.scan.loopback import PATIENCE, own_address, silent_ports

if TYPE_CHECKING:
    from portspec.scan.connect.address import ConnectAddressScan

TIMEOUT = 0.9


def scan(patience: float) -> ConnectAddressScan:
    """Return a stand-in for a scan whose job has such a patience."""
    return cast(
        "ConnectAddressScan", SimpleNamespace(active_job=SimpleNamespace(job=SimpleNamespace(patience=patience)))
    )


@MODEST
@given(
    sent=st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 3.5, 7.25]), st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=30
    )
)
def test_probes_expire_independently(sent: list[tuple[float, float, bool]]) -> None:
    """Each probe expires when its own timeout is over, whichever were sent or answered before."""
    queues = OutstandingProbes()
    expiry: dict[int, float] = {}
    now = 0.0
    sent_times: dict[int, float] = {}
    for fd, (patience, pause, is_answered) in enumerate(sent):
        now += pause
        sent_times[fd] = now
        queues.queue_for(patience)[fd] = (scan(patience), ("192.0.2.1", fd), now, cast("Any", None))
        if is_answered:
            queues.queue_of(fd).pop(fd)
        else:
            expiry[fd] = now + max(TIMEOUT, patience)
    assert sorted(queues.all()) == sorted(expiry)
    while expiry:
        assert len(queues) == len(expiry)
        now = max(now, min(queues.expiries(TIMEOUT)))
        assert now >= min(expiry.values())
        due = []
        for fd, _, (_, port), sent_at in queues.expired(TIMEOUT, now):
            assert (fd, sent_at) == (port, sent_times[fd])
            queues.queue_of(fd).pop(fd)
            due.append(fd)
        assert due
        assert all(expiry[fd] <= now + 1e-9 for fd in due)
        for fd in due:
            del expiry[fd]
        assert all(end > now - 1e-9 for end in expiry.values())
    assert not list(queues.expired(TIMEOUT, now))
    assert (len(queues), queues.expiries(TIMEOUT), queues.patient) == (0, [], {})


def test_patient_job_does_not_delay_others() -> None:
    """A scan that begins after one with a long timeout ends in its own time, long before that."""
    address = own_address()
    engine = ConnectEngine(timeout=0.05, retries=0)
    with silent_ports(address, 2) as silent:
        first, second = silent
        try:
            patient = engine.submit(ScanJob((address,), PortSet.of([first]), patience=100 * PATIENCE))
            while not engine.stats.probes_sent:
                time.sleep(0.001)
            (seen,) = engine.submit(ScanJob((address,), PortSet.of([second]))).result(timeout=PATIENCE).addresses
            assert not patient.done()
        finally:
            engine.close()
    assert seen.filtered == PortSet.of([second])
