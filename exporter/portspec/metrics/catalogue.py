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
    f"1 for each port of an address that is not as specified, {_AS_JUDGED}; absent otherwise. More than 100 ports of "
    "one address, kind and state are one series.",
    ("host", "address", "port", "kind", "state"),
)
PORT_EXCEPTION_EXPIRY = Metric(
    "port_exception_expiry_timestamp_seconds",
    "gauge",
    "Unix time at which an exception that is in force ends; until then deviations of its ports do not count.",
    ("host", "port"),
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

PORT_SERVICE_NAME_INFO = Metric(
    "port_service_name_info",
    "gauge",
    "1 for each port that deviates or has an exception at any host, with the usual name of its service; absent for a "
    "port without one.",
    ("port", "service_name"),
)

_AS_REPORTED = "as of the last accepted report of the host"
AUDIT_TIMESTAMP = Metric(
    "portspec_audit_timestamp_seconds",
    "gauge",
    "Unix time at which the audit of the last accepted report ended on its host; 0 for a host of the roster that "
    "never reported.",
    ("host",),
)
AUDIT_STATUS = Metric(
    "portspec_audit_status",
    "gauge",
    f"1 for the status of the host's packages, {_AS_REPORTED}, else 0.",
    ("host", "status"),
)
AUDIT_VULNERABLE_PACKAGES = Metric(
    "portspec_audit_vulnerable_packages",
    "gauge",
    f"Number of packages with a vulnerability that is not excepted, {_AS_REPORTED}; absent if nothing is known.",
    ("host",),
)
AUDIT_VULNERABILITIES = Metric(
    "portspec_audit_vulnerabilities",
    "gauge",
    f"Number of vulnerabilities of packages that are not excepted, {_AS_REPORTED}; absent if nothing is known.",
    ("host", "severity"),
)
AUDIT_VULNERABILITY = Metric(
    "portspec_audit_vulnerability",
    "gauge",
    f"1 for each vulnerability of a package that is not excepted, {_AS_REPORTED}; absent otherwise. fixed_version is "
    "empty where the tool names none.",
    ("host", "package", "version", "id", "severity", "fixed_version"),
)
PORT_LISTENER_INFO = Metric(
    "port_listener_info",
    "gauge",
    f"1 for each process that listens on a port of another than a loopback address, {_AS_REPORTED}; process and user "
    "are empty where the agent may not see them.",
    ("host", "port", "process", "user"),
)
AUDIT_SERIES_DROPPED = Metric(
    "portspec_audit_series_dropped",
    "gauge",
    "Number of series of the host's vulnerabilities and listeners that are left out of this page, for they are too "
    "many or too long for one host; absent if none is.",
    ("host",),
)
AUDIT_RECEIVED = Metric("portspec_audits_received_total", "counter", "Reports of hosts that were accepted.")
AUDIT_REJECTED = Metric(
    "portspec_audits_rejected_total", "counter", "Reports that were not accepted, by reason.", ("reason",)
)
AUDIT_MAX_AGE = Metric(
    "portspec_audit_max_age_seconds", "gauge", "Time after which the report of a host is late, as configured."
)
AUDIT_UNREAD = Metric("portspec_audits_unread", "gauge", "Accepted reports whose tool's output is still to be read.")

BUILD_INFO = Metric(
    "portspec_build_info", "gauge", "1, with the versions of portspec and of Python.", ("version", "python_version")
)
ENGINE_INFO = Metric("portspec_engine_info", "gauge", "1, with the engine that scans.", ("engine",))
SHARD_INFO = Metric(
    "portspec_shard_info",
    "gauge",
    "1, with the shard that this exporter scans, from 0, and the number of shards.",
    ("shard", "shards"),
)
HOSTS = Metric("portspec_hosts", "gauge", "Number of hosts that are scanned.")
READY = Metric(
    "portspec_first_round_complete", "gauge", "1 once every host was scanned, before a restart included, else 0."
)
SERIES_DROPPED = Metric(
    "portspec_series_dropped",
    "gauge",
    "Number of series of ports, vulnerabilities and listeners that are left out of this page: beyond series_budget, or "
    "too many for one host.",
)
SCAN_ROUNDS = Metric("portspec_scan_rounds_total", "counter", "Completed scan rounds.")
SCAN_OVERRUNS = Metric(
    "portspec_scan_overruns_total", "counter", "Rounds that began while hosts of the last one were still being scanned."
)
SCAN_RETRIES = Metric(
    "portspec_scan_retries_total",
    "counter",
    "Scans beside the rounds of hosts that could not be seen, or not all of them.",
)
RECHECKS = Metric(
    "portspec_rechecks_total", "counter", "Times that the deviating ports of a host were looked at beside its scans."
)
PROBES_SENT = Metric("portspec_probes_sent_total", "counter", "Probes sent, as of the last completed scan of any host.")
ANSWERS_DROPPED = Metric(
    "portspec_answers_dropped_total",
    "counter",
    "Answers that arrived faster than they were read, as of the last completed scan of any host; what they were about "
    "is probed again.",
)
CANARY_SEEN = Metric(
    "portspec_canary_seen",
    "gauge",
    "1 if any of the hosts that are canaries could be seen at the last look, else 0; absent without canaries.",
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

STORE_UP = Metric("portspec_store_up", "gauge", "1 if the state file could last be written, else 0.")
STORE_HELD = Metric(
    "portspec_store_held",
    "gauge",
    "1 while another exporter holds the state file and this one writes nothing, else 0.",
)
STORE_ERRORS = Metric("portspec_store_errors_total", "counter", "Failed attempts to read or write the state file.")
STORE_PENDING = Metric(
    "portspec_store_pending", "gauge", "Scan results that wait in memory to be written to the state file."
)
STORE_DROPPED = Metric(
    "portspec_store_changes_dropped_total",
    "counter",
    "Changes that were never written, since the state file could not be written for too long.",
)
REPORTFILE_UP = Metric(
    "portspec_reportfile_up", "gauge", "1 if the file of the report of all machines could last be written, else 0."
)
REPORTFILE_SUCCESS = Metric(
    "portspec_reportfile_last_success_timestamp_seconds",
    "gauge",
    "Unix time at which the file of the report of all machines was last written; 0 if it never was.",
)
MAIL_OUTBOX = Metric(
    "portspec_mail_outbox", "gauge", "Mails, and notices that become mails, which wait in the state file to be sent."
)
MAILS_SENT = Metric("portspec_mails_sent_total", "counter", "Mails that the mail server took.")
MAILS_FAILED = Metric(
    "portspec_mails_failed_total", "counter", "Attempts to send mails that failed, by reason.", ("reason",)
)
MAILS_GIVEN_UP = Metric(
    "portspec_mails_given_up_total",
    "counter",
    "Mails that were never delivered: refused again and again, not taken for five days, or impossible to write.",
)
DISCOVERED_HOSTS = Metric(
    "portspec_discovered_hosts", "gauge", "Number of hosts that a source of discovery names.", ("source",)
)
DISCOVERY_REFRESHES = Metric(
    "portspec_discovery_refreshes_total", "counter", "Times that a source of discovery was asked.", ("source",)
)
DISCOVERY_FAILURES = Metric(
    "portspec_discovery_failures_total",
    "counter",
    "Times that a source of discovery failed; its last hosts are kept.",
    ("source",),
)
DISCOVERY_REFUSED = Metric(
    "portspec_discovery_targets_refused",
    "gauge",
    "Number of targets in the last answer of a source that are no hosts.",
    ("source",),
)
DISCOVERY_SUCCESS = Metric(
    "portspec_discovery_last_success_timestamp_seconds",
    "gauge",
    "Unix time at which a source of discovery last answered.",
    ("source",),
)
PROBE_SUCCESS = Metric("probe_success", "gauge", "1 if this probe reached a verdict, else 0.")
PROBE_DURATION = Metric("probe_duration_seconds", "gauge", "Time that this probe took, look-up of the name included.")

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
