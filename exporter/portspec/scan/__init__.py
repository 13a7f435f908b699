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
   implements _turn, _drop_all and _release. Each _turn begins the jobs of _inbox, each as an ActiveJob; then calls
   _add_ports_to_jobs, _answer_partial_requests and _check_slow_jobs; calls deliver and release on each job that is
   over; sends probes; and waits for answers and for _wake, an eventfd that it must read. The example is
   connect/engine.py. Check that it satisfies job.Engine (mypy does, where it is passed to SharedScans).
2. Write a class for the scan of one address that satisfies engine.AddressScan. Keep two rules. Silence is not a state:
   a port is filtered only if the address or the route is known to have worked while it was silent (RouteCache,
   AddressLoss.tries, and reference ports as in connect/liveness.py). What this machine could not send is a Failure
   (failures.py), never a state of a port.
3. Reserve probes from two pacers before sending, that of all jobs and ActiveJob.pacer, and put back what was not sent.
   Count all of EngineStats, and ActiveJob.probes. Respect `patience`, `first` and `alive` of a ScanJob; `hold` only if
   the engine makes connections.
4. Make it in app/engines.py, which chooses the engine. Add its name to EngineChoice in config/model.py, to _engine() in
   config/fields.py, and to both rows of `engine` in docs/configuration.md.
5. Tests: copy tests/unit/scan/test_connect_result.py (real sockets on loopback; its fixtures are in conftest.py) or
   tests/unit/scan/syn/test_engine.py (a simulated network). Add the engine to ENGINES in tests/lab/test_scan.py, which
   compares it with the truth of real hosts, and to _engine() in tests/lab/observe.py.

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
