"""Every metric of portspec, once: name, type, help, labels. Nowhere else in the package is one spelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One family; a counter's name carries `_total`."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()


_AS_OF = "as of the last completed scan of the host"
_AS_JUDGED = f"{_AS_OF} that reached a verdict"

PORT_OPEN = Metric(
    "port_open",
    "gauge",
    f"1 if the port is open on at least one address of the host, else 0; for every expected port and every port "
    f"found open, {_AS_JUDGED}.",
    ("host", "port"),
)
PORT_EXPECTED = Metric(
    "port_expected", "gauge", "1 for each port that the specification expects to be open.", ("host", "port")
)
PORT_DEVIATION = Metric(
    "port_deviation",
    "gauge",
    f"1 for each port of an address that is not as specified, {_AS_JUDGED}; absent otherwise.",
    ("host", "address", "port", "kind", "state"),
)
PORT_OUT_OF_SPEC = Metric(
    "port_out_of_spec",
    "gauge",
    f"Number of deviations, {_AS_JUDGED}; 0 is in specification.",
    ("host",),
)
PORT_HOST_UP = Metric(
    "port_host_up", "gauge", f"1 if any address of the host answered any probe, {_AS_JUDGED}, else 0.", ("host",)
)
PORT_SCAN_SUCCESS = Metric(
    "port_scan_success", "gauge", f"1 if a verdict was reached, 0 if it could not be, {_AS_OF}.", ("host",)
)
PORT_SCAN_FAILURE = Metric(
    "port_scan_failure",
    "gauge",
    f"1 for each reason for which the host or one of its addresses could not be seen, {_AS_OF}; absent otherwise.",
    ("host", "reason"),
)
PORT_LAST_SCAN = Metric(
    "port_last_scan_timestamp_seconds",
    "gauge",
    "Unix time at which the last completed scan of the host that reached a verdict ended.",
    ("host",),
)
PORT_SCAN_DURATION = Metric(
    "port_scan_duration_seconds",
    "gauge",
    f"Time the scan took, {_AS_JUDGED}.",
    ("host",),
)
PORT_LAST_CHANGE = Metric(
    "port_last_change_timestamp_seconds",
    "gauge",
    f"Unix time at which the set of open ports was last seen to change, {_AS_JUDGED}; absent until it is.",
    ("host",),
)
PORT_SCAN_INTERVAL = Metric(
    "port_scan_interval_seconds", "gauge", "Time between two scans of the host, as configured.", ("host",)
)
PORT_HOST_INFO = Metric("port_host_info", "gauge", "1, with the labels that conf.yml gives the host.", ("host",))

BUILD_INFO = Metric(
    "portspec_build_info", "gauge", "1, with the versions of portspec and of Python.", ("version", "python_version")
)
ENGINE_INFO = Metric("portspec_engine_info", "gauge", "1, with the engine that scans.", ("engine",))
HOSTS = Metric("portspec_hosts", "gauge", "Number of hosts that are scanned.")
READY = Metric("portspec_first_round_complete", "gauge", "1 once every host was scanned since the start, else 0.")
SCAN_ROUNDS = Metric("portspec_scan_rounds_total", "counter", "Completed scan rounds.")
SCAN_OVERRUNS = Metric(
    "portspec_scan_overruns_total", "counter", "Rounds that began while hosts of the last one were still being scanned."
)
PROBES_SENT = Metric("portspec_probes_sent_total", "counter", "Probes sent, as of the last completed scan of any host.")
ANSWERS_DROPPED = Metric(
    "portspec_answers_dropped_total",
    "counter",
    "Answers that arrived faster than they were read, as of the last completed scan of any host; what they were about "
    "is probed again.",
)
CONFIG_SUCCESSFUL = Metric(
    "portspec_config_last_reload_successful",
    "gauge",
    "1 if the configuration was last loaded without an error, else 0.",
)
CONFIG_TIMESTAMP = Metric(
    "portspec_config_last_reload_success_timestamp_seconds",
    "gauge",
    "Unix time at which the configuration was last loaded without an error.",
)

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
