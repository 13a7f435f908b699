"""Every metric of portspec, once: name, type, help, labels. Nowhere else in the package is one spelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One family; a counter's name carries `_total`, the samples of a histogram `_bucket`, `_sum` and `_count`.

    `labels` are without `le` of a histogram's buckets.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


_AS_JUDGED = "as of the last scan of the host that reached a verdict"

PORT_OPEN = Metric(
    "port_open",
    "gauge",
    "1 if the port is open on at least one address of the host, 0 otherwise; for every expected port and every port "
    f"found open, {_AS_JUDGED}.",
    ("host", "port"),
)
PORT_EXPECTED = Metric(
    "port_expected", "gauge", "1 for each port that the specification expects to be open.", ("host", "port")
)
PORT_DEVIATION = Metric(
    "port_deviation",
    "gauge",
    f"1 for each port of an address that deviates from the specification, {_AS_JUDGED}; absent otherwise. More than "
    "100 ports of one address, kind and state are one series, with the highest severity of them.",
    ("host", "address", "port", "kind", "state", "severity"),
)
PORT_DEVIATION_SINCE = Metric(
    "port_deviation_since_timestamp_seconds",
    "gauge",
    "Unix time of the scan, or of the change of the specification, that first found the port to deviate in this way on "
    "some address of the host, and since when it has; of many ports in one series, the earliest.",
    ("host", "address", "port", "kind", "state", "severity"),
)
PORT_DEVIATIONS_OVERDUE = Metric(
    "port_deviations_overdue",
    "gauge",
    "Number of ports of the host that deviate in this way for longer than `deadlines` of conf.yml allow. Absent where "
    "they say nothing of it.",
    ("host", "owner", "kind"),
)
PORT_EXCEPTION_EXPIRY = Metric(
    "port_exception_expiry_timestamp_seconds",
    "gauge",
    "Unix time at which an exception in force ends. Until then, deviations of its ports do not count.",
    ("host", "port"),
)
PORT_MAINTENANCE = Metric(
    "port_maintenance",
    "gauge",
    "1 while maintenance of the host lasts, in which no rule and no mail alerts about it; absent otherwise.",
    ("host",),
)
PORT_OUT_OF_SPEC = Metric(
    "port_out_of_spec",
    "gauge",
    f"Number of deviations, {_AS_JUDGED}; 0 means in specification.",
    ("host",),
)
PORT_HOST_UP = Metric(
    "port_host_up", "gauge", f"1 if any address of the host answered any probe, 0 otherwise, {_AS_JUDGED}.", ("host",)
)
PORT_SCAN_SUCCESS = Metric(
    "port_scan_success", "gauge", "1 if the last completed scan of the host reached a verdict, 0 otherwise.", ("host",)
)
PORT_SCAN_FAILURE = Metric(
    "port_scan_failure",
    "gauge",
    "1 for each reason why the host or one of its addresses could not be judged, as of the last completed scan of the "
    "host; absent otherwise.",
    ("host", "reason"),
)
PORT_LAST_SCAN = Metric(
    "port_last_scan_timestamp_seconds",
    "gauge",
    "Unix time at which the last scan of the host that reached a verdict ended.",
    ("host",),
)
PORT_SCAN_DURATION = Metric(
    "port_scan_duration_seconds",
    "gauge",
    "Duration of the last scan of the host that reached a verdict, in seconds.",
    ("host",),
)
PORT_LAST_CHANGE = Metric(
    "port_last_change_timestamp_seconds",
    "gauge",
    f"Unix time of the last observed change of the set of open ports, {_AS_JUDGED}; absent until one is observed.",
    ("host",),
)
PORT_SCAN_INTERVAL = Metric(
    "port_scan_interval_seconds", "gauge", "Configured time between two scans of the host, in seconds.", ("host",)
)
PORT_HOST_INFO = Metric(
    "port_host_info",
    "gauge",
    "Constant 1, with the labels of the host from conf.yml or from a source of discovery.",
    ("host",),
)

PORT_SERVICE_NAME_INFO = Metric(
    "port_service_name_info",
    "gauge",
    "1 for each port that deviates or has an exception on any host, with the usual name of its service; absent for a "
    "port without a usual name.",
    ("port", "service_name"),
)

PORT_SEVERITY_REASON_INFO = Metric(
    "port_severity_reason_info",
    "gauge",
    "1 for each port that deviates or has an exception on any host, with one sentence why it should not face a "
    "network; absent for a port of which portspec knows no reason.",
    ("port", "reason"),
)

_AS_AUDITED = "as of the last accepted audit of the host"
AUDIT_TIMESTAMP = Metric(
    "portspec_audit_timestamp_seconds",
    "gauge",
    "Unix time at which the last accepted audit of the host ended, by the clock of the host; 0 if portspec never "
    "accepted one.",
    ("host",),
)
AUDIT_STATUS = Metric(
    "portspec_audit_status",
    "gauge",
    f"1 for the status of the host, {_AS_AUDITED}, 0 for every other status.",
    ("host", "status"),
)
AUDIT_VULNERABLE_PACKAGES = Metric(
    "portspec_audit_vulnerable_packages",
    "gauge",
    f"Number of packages with a vulnerability that no exception covers, {_AS_AUDITED}; absent if unknown.",
    ("host",),
)
AUDIT_RESTART_NEEDED = Metric(
    "portspec_audit_restart_needed",
    "gauge",
    "Number of listening processes that run files of which another version is installed (kind=process), and 1 if a "
    f"newer kernel is installed than the one that runs, 0 otherwise (kind=kernel), {_AS_AUDITED}; absent if unknown.",
    ("host", "kind"),
)
AUDIT_VULNERABILITIES = Metric(
    "portspec_audit_vulnerabilities",
    "gauge",
    f"Number of vulnerabilities that no exception covers, {_AS_AUDITED}; absent if unknown.",
    ("host", "severity"),
)
AUDIT_VULNERABILITIES_BY_CLASS = Metric(
    "portspec_audit_vulnerabilities_by_class",
    "gauge",
    f"Number of vulnerabilities that no exception covers, by what to fix first, {_AS_AUDITED}; absent if unknown.",
    ("host", "class"),
)
AUDIT_VULNERABILITY = Metric(
    "portspec_audit_vulnerability",
    "gauge",
    f"1 for each vulnerability of a package that no exception covers, {_AS_AUDITED}; absent otherwise. fixed_version "
    "is empty if the tool names none.",
    ("host", "package", "version", "id", "severity", "fixed_version", "class"),
)
AUDIT_VULNERABILITY_SINCE = Metric(
    "portspec_audit_vulnerability_since_timestamp_seconds",
    "gauge",
    "Unix time of the audit that named the vulnerability first, also if its package has another version since then; "
    "for each vulnerability of a package that no exception covers.",
    ("host", "package", "version", "id"),
)
AUDIT_VULNERABILITIES_OVERDUE = Metric(
    "portspec_audit_vulnerabilities_overdue",
    "gauge",
    "Number of vulnerabilities of the host that have been known for longer than `deadlines` of conf.yml allow, by the "
    "class in which they are to be fixed. Absent where these say nothing of vulnerabilities.",
    ("host", "owner", "class"),
)
AUDIT_OLDEST = Metric(
    "portspec_audit_oldest_vulnerability_timestamp_seconds",
    "gauge",
    "Unix time since which the host has the oldest of its vulnerabilities of a class that no exception covers; absent "
    "for a class without any.",
    ("host", "class"),
)
PORT_LISTENER_INFO = Metric(
    "port_listener_info",
    "gauge",
    f"1 for each process that listens on a TCP port of an address other than loopback, {_AS_AUDITED}, with the "
    "package of its executable, its unit of systemd and its container. What the agent cannot see, or is not there, is "
    "empty.",
    ("host", "port", "process", "user", "package", "unit", "container"),
)
AUDIT_SERIES_DROPPED = Metric(
    "portspec_audit_series_dropped",
    "gauge",
    "Number of series of vulnerabilities and listeners of the host that are dropped because of the limits for one "
    "host; absent if none is dropped.",
    ("host",),
)
AUDIT_RECEIVED = Metric("portspec_audits_received_total", "counter", "Audits that were accepted.")
AUDIT_REJECTED = Metric(
    "portspec_audits_rejected_total", "counter", "Audits that were rejected, by reason.", ("reason",)
)
AUDIT_MAX_AGE = Metric(
    "portspec_audit_max_age_seconds", "gauge", "Configured age at which an audit is late, in seconds."
)
AUDIT_TIME_TO_FIX = Metric(
    "portspec_audit_time_to_fix_seconds",
    "histogram",
    "Time from the audit that named a vulnerability first to the one that no longer does, by the class that it had; "
    "a vulnerability of several packages counts once.",
    ("class",),
)
AUDIT_UNREAD = Metric("portspec_audits_unread", "gauge", "Accepted audits whose tool output is not parsed yet.")

BUILD_INFO = Metric(
    "portspec_build_info",
    "gauge",
    "Constant 1, with the versions of portspec and of Python.",
    ("version", "python_version"),
)
ENGINE_INFO = Metric("portspec_engine_info", "gauge", "Constant 1, with the engine that scans.", ("engine",))
SHARD_INFO = Metric(
    "portspec_shard_info",
    "gauge",
    "Constant 1, with the shard that this exporter scans, counted from 0, and the number of shards.",
    ("shard", "shards"),
)
HOSTS = Metric("portspec_hosts", "gauge", "Number of hosts that this exporter scans.")
READY = Metric(
    "portspec_first_round_complete",
    "gauge",
    "1 if every host has a result, 0 otherwise; results from before a restart count.",
)
SERIES_DROPPED = Metric(
    "portspec_series_dropped",
    "gauge",
    "Number of series of ports, vulnerabilities and listeners that are dropped because of series_budget or of the "
    "limits for one host.",
)
SCAN_ROUNDS = Metric("portspec_scan_rounds_total", "counter", "Completed scan rounds.")
SCAN_OVERRUNS = Metric(
    "portspec_scan_overruns_total",
    "counter",
    "Scan rounds that began while hosts of the previous round were still being scanned.",
)
SCAN_RETRIES = Metric(
    "portspec_scan_retries_total",
    "counter",
    "Scans between the rounds of hosts that could not be judged completely.",
)
RECHECKS = Metric("portspec_rechecks_total", "counter", "Rechecks of the deviating ports of a host between its scans.")
PROBES_SENT = Metric("portspec_probes_sent_total", "counter", "Probes sent, as of the last completed scan of any host.")
ANSWERS_DROPPED = Metric(
    "portspec_answers_dropped_total",
    "counter",
    "Answers that arrived faster than portspec could read them, as of the last completed scan of any host; portspec "
    "repeats their probes.",
)
CANARY_SEEN = Metric(
    "portspec_canary_seen",
    "gauge",
    "1 if any canary was seen at the last check, 0 otherwise; absent without canaries and until the first check.",
)
CONFIG_SUCCESSFUL = Metric(
    "portspec_config_last_reload_successful",
    "gauge",
    "1 if the last load of the configuration succeeded, 0 otherwise.",
)
CONFIG_TIMESTAMP = Metric(
    "portspec_config_last_reload_success_timestamp_seconds",
    "gauge",
    "Unix time of the last successful load of the configuration.",
)

HTTP_CONNECTIONS = Metric(
    "portspec_http_connections",
    "gauge",
    "Number of open connections to the HTTP server, by group of listeners: web, metrics, ui, audits, or control for "
    "the Unix socket.",
    ("listener",),
)
HTTP_CONNECTIONS_CLOSED = Metric(
    "portspec_http_connections_closed_total",
    "counter",
    "Connections that the HTTP server did not accept or closed to protect itself, by reason.",
    ("reason",),
)
HTTP_REQUESTS_REFUSED = Metric(
    "portspec_http_requests_refused_total",
    "counter",
    "Requests that the web configuration does not let in, by reason.",
    ("reason",),
)
PART_UP = Metric(
    "portspec_part_up",
    "gauge",
    "1 while a part of the exporter runs, 0 while it hangs or waits for its restart.",
    ("part",),
)
PART_RESTARTS = Metric(
    "portspec_part_restarts_total", "counter", "Restarts of a part of the exporter that failed.", ("part",)
)
STORE_UP = Metric(
    "portspec_store_up",
    "gauge",
    "1 if the last write of the state file succeeded and none takes longer than a minute, 0 otherwise.",
)
STORE_HELD = Metric(
    "portspec_store_held",
    "gauge",
    "1 while another exporter holds the state file and this exporter writes nothing, 0 otherwise.",
)
STORE_ERRORS = Metric("portspec_store_errors_total", "counter", "Failed attempts to read or write the state file.")
STORE_PENDING = Metric(
    "portspec_store_pending", "gauge", "Results that wait in memory to be written to the state file."
)
STORE_DROPPED = Metric(
    "portspec_store_changes_dropped_total",
    "counter",
    "Changes that were dropped because the state file could not be written for too long.",
)
REPORTFILE_UP = Metric(
    "portspec_reportfile_up", "gauge", "1 if the last write of the file of reportfile succeeded, 0 otherwise."
)
REPORTFILE_SUCCESS = Metric(
    "portspec_reportfile_last_success_timestamp_seconds",
    "gauge",
    "Unix time of the last successful write of the file of reportfile; 0 if there was none.",
)
MAIL_OUTBOX = Metric(
    "portspec_mail_outbox", "gauge", "Mails that wait to be sent, including notifications that are not mails yet."
)
MAILS_SENT = Metric("portspec_mails_sent_total", "counter", "Mails that the mail server accepted.")
MAILS_FAILED = Metric(
    "portspec_mails_failed_total", "counter", "Failed attempts to send mails, by reason.", ("reason",)
)
MAILS_GIVEN_UP = Metric(
    "portspec_mails_given_up_total",
    "counter",
    "Mails that were given up: rejected repeatedly, not accepted within five days, or impossible to compose.",
)
DISCOVERED_HOSTS = Metric(
    "portspec_discovered_hosts",
    "gauge",
    "Number of entries that a source of discovery currently returns; a CIDR is one.",
    ("source",),
)
DISCOVERY_REFRESHES = Metric(
    "portspec_discovery_refreshes_total", "counter", "Refreshes of a source of discovery.", ("source",)
)
DISCOVERY_FAILURES = Metric(
    "portspec_discovery_failures_total",
    "counter",
    "Failed refreshes of a source of discovery; portspec keeps its last hosts.",
    ("source",),
)
DISCOVERY_REFUSED = Metric(
    "portspec_discovery_targets_refused",
    "gauge",
    "Number of targets in the current lists of a source that are not hosts.",
    ("source",),
)
DISCOVERY_SUCCESS = Metric(
    "portspec_discovery_last_success_timestamp_seconds",
    "gauge",
    "Unix time of the last successful refresh of a source of discovery; absent until there is one.",
    ("source",),
)
FEED_TIMESTAMP = Metric(
    "portspec_feed_timestamp_seconds",
    "gauge",
    "Unix time at which the list about vulnerabilities that is in use was made; 0 if none was read yet.",
    ("feed",),
)
FEED_ENTRIES = Metric(
    "portspec_feed_entries", "gauge", "Number of vulnerabilities in the list that is in use.", ("feed",)
)
FEED_FAILURES = Metric(
    "portspec_feed_failures_total",
    "counter",
    "Failed attempts to read a list about vulnerabilities; portspec keeps the last one.",
    ("feed",),
)
PROBE_SUCCESS = Metric("probe_success", "gauge", "1 if this probe reached a verdict, 0 otherwise.")
PROBE_DURATION = Metric(
    "probe_duration_seconds",
    "gauge",
    "Duration of this probe in seconds, including the name look-up and the wait for a free place.",
)

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
