"""Finds open ports. Must not depend on configuration, logs, HTTP or metrics.

    SharedScans (sharing.py)       jobs that ask for the same address share a scan
      └ Engine (job.py)            a thread that runs jobs: ScanJob in, Observation out
          ├ ConnectEngine          connect/: TCP handshakes, no privilege needed
          └ SynEngine              syn/: half-open probes on raw sockets, needs CAP_NET_RAW

    MiddleboxDetector (middlebox.py) finds addresses for which a SYN proxy or a tarpit answers on every port.

What both engines share: engine.py (jobs in progress, the thread), route.py and netlink.py (whether silence counts),
loss.py (how many tries a silent port needs), pacing.py (rates), failures.py (why an address failed, in words).

**To add another engine**, or another kind of probe:

1. Write a package beside connect/ with a subclass of engine.EngineThread. It has a `name`, `timeout` and `retries`, and
   implements _turn, _drop_all and _release. The smallest example is tests/unit/scan/test_engine.py, a complete one
   connect/engine.py. Check that it satisfies job.Engine (mypy does, where it is passed to SharedScans).
2. Write a class for the scan of one address that satisfies engine.AddressScan. Keep two rules. Silence is not a state:
   a port is filtered only if the address or the route is known to have worked while it was silent (RouteCache,
   AddressLoss.tries, and reference ports as in connect/liveness.py). What this machine could not send is a Failure
   (failures.py), never a state of a port.
3. Reserve probes from two pacers before sending, that of all jobs and ActiveJob.pacer, and put back what was not sent.
   Count in EngineStats and in ActiveJob.probes, and call _check_slow_jobs in each turn.
4. Make it in app/engines.py, which chooses the engine, and add its name to EngineChoice in config/model.py.
5. Tests: copy tests/unit/scan/test_connect_result.py (real sockets on loopback) or tests/unit/scan/syn/test_engine.py
   (a simulated network), and add the engine to tests/lab/test_scan.py, which compares it with the truth of real hosts.

Another state of a port, or another reason, is an enum member in job.py; metrics, reports and the store list them, and
mypy and the tests show where.
"""

from portspec.scan.job import (
    AddressObservation,
    Engine,
    EngineStats,
    Failure,
    Observation,
    PortState,
    Reason,
    ScanJob,
)

__all__ = [
    "AddressObservation",
    "Engine",
    "EngineStats",
    "Failure",
    "Observation",
    "PortState",
    "Reason",
    "ScanJob",
]
