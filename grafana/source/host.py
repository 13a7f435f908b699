"""One host: its ports over time, and its audits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana.source.columns import (
    ADDRESS,
    ALERT,
    ALERT_SEVERITY,
    ALERT_STATE,
    CHANGED,
    FIXED,
    ID,
    KIND,
    OWNERS,
    PACKAGE,
    PAGE,
    PORT,
    PROCESS,
    SERVICE,
    SEVERITY,
    SINCE,
    STATE,
    USER,
    VANTAGE,
    VERSION,
)
from grafana.source.page import RELOADS, marks, page, query_variable
from grafana.source.panels import (
    MAINTENANCE,
    SEVERITIES,
    STATUSES,
    VERDICTS,
    Column,
    graph,
    number,
    numbered_states,
    rows,
    timeline,
)
from grafana.source.queries import (
    ALERTS,
    SCOPE,
    milliseconds,
    numbered,
    owned,
    select,
    verdict,
    with_page,
    with_service,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from grafana.source.panels import Panel, States

_HOST: Final = 'host="$host"'
_AUDIT_STATUS: Final = numbered(f"{select('portspec_audit_status', _HOST)} == 1", "status", tuple(STATUSES))
#: The numbers of `_ports`, the most important the highest.
_PORTS: Final[States] = {
    0: ("open, allowed or excepted", "blue"),
    1: ("open, expected", "green"),
    2: ("expected, not open", "orange"),
    3: ("open, not expected", "red"),
}
_YES_OR_NO: Final[States] = {-1: ("not scanned", "text"), 0: ("no", "text"), 1: ("yes", "orange")}


def _of_host(metric: str, *matchers: str) -> str:
    return select(metric, _HOST, *matchers)


def _ports() -> str:
    # Each part is computed, hence has no name: else a port whose state changes would be two series.
    expected = _of_host("port_expected")
    unexpected = _of_host("port_deviation", 'kind="unexpected"')
    deviating = f"max without (address, kind, state, severity) ({unexpected})"
    is_open = f"({_of_host('port_open')} == 1)"
    return (
        f"topk(50, {deviating} * 3 or {is_open} - 1 unless {expected} or {is_open} * 1 or {_of_host('port_open')} + 2)"
    )


def _numbers() -> list[Panel]:
    return [
        number(
            "Verdict",
            "The last verdict; the worst one if several exporters scan the host.",
            f"max({verdict(_HOST)})",
            states=VERDICTS,
            is_instant=True,
        ),
        number(
            "Maintenance",
            "Whether nobody is alerted about the host for now.",
            f"max({_of_host('port_maintenance')}) or 0 * max({_of_host('port_scan_success')})",
            states=MAINTENANCE,
            is_instant=True,
        ),
        number(
            "Deviations",
            "Deviations that no exception covers, as of the last verdict.",
            f"max({_of_host('port_out_of_spec')})",
            bad="red",
            width=3,
        ),
        number(
            "Last verdict",
            "When the last scan that reached a verdict ended.",
            milliseconds(f"max({_of_host('port_last_scan_timestamp_seconds')})"),
            unit="dateTimeFromNow",
            is_instant=True,
        ),
        number(
            "Ports last changed",
            "When the set of open ports last changed. No data until portspec sees it change.",
            milliseconds(f"max({_of_host('port_last_change_timestamp_seconds')})"),
            unit="dateTimeFromNow",
            width=3,
            is_instant=True,
        ),
        number(
            "Audit",
            "The status of the last audit. No data for a host that need not send audits.",
            f"max({_AUDIT_STATUS})",
            states=numbered_states(STATUSES),
            width=3,
            is_instant=True,
        ),
        number(
            "Last audit",
            "When the last accepted audit was made, by the clock of the host. No data without one.",
            milliseconds(f"max({_of_host('portspec_audit_timestamp_seconds')} > 0)"),
            unit="dateTimeFromNow",
            width=3,
            is_instant=True,
        ),
    ]


def _scans() -> list[Panel]:
    age = f"time() - {_of_host('port_last_scan_timestamp_seconds')}"
    limit = f"2 * {_of_host('port_scan_interval_seconds')} + {_of_host('port_scan_duration_seconds')} + 120"
    return [
        timeline(
            "Verdict over time",
            "The verdict of each exporter that scans the host. A gap means that portspec was not scraped.",
            {"{{vantage}} {{instance}}": verdict(_HOST)},
            VERDICTS,
            height=5,
        ),
        timeline(
            "Ports over time",
            "Each port that is expected or open, on any address; at most 50, those that deviate first. An expected "
            "port that is not open may have an exception. A gap means that the port was neither expected nor open.",
            {"{{port}} {{vantage}}": _ports()},
            _PORTS,
            height=10,
        ),
        timeline(
            "Scans that could not judge the host",
            "The reasons why the host, or one of its addresses, could not be judged. Empty while scans reach verdicts.",
            {"{{reason}} {{vantage}}": _of_host("port_scan_failure")},
            {1: ("not judged", "purple")},
            height=5,
        ),
        graph(
            "Age of the verdict",
            "Time since the last scan that reached a verdict, and the age from which on the verdict is stale.",
            {"{{instance}}": age, "limit of {{instance}}": limit},
            unit="s",
        ),
        graph(
            "Duration of scans",
            "How long the last scan that reached a verdict took.",
            {"{{instance}}": _of_host("port_scan_duration_seconds")},
            unit="s",
        ),
    ]


def _now() -> list[Panel]:
    deviations = _of_host("instance_host_port:port_deviation:counted")
    states = f"{select('ALERTS', _HOST, scope=ALERTS)} * ignoring (alertstate) group_left () "
    alerts = states + select("ALERTS_FOR_STATE", _HOST, scope=ALERTS)
    return [
        rows(
            "Alerts about the host",
            "The alerts of the shipped rules. A pending alert does not notify yet.",
            [with_page(milliseconds(f"topk(50, {alerts})"))],
            [ALERT_SEVERITY, ALERT, PORT, SERVICE, SINCE, ALERT_STATE, VANTAGE, PAGE],
            sort=("Severity", False),
            nothing="No alert about this host",
            width=12,
        ),
        rows(
            "Ports that deviate",
            "Deviations that no exception covers; none while the verdict does not count.",
            [milliseconds(with_service(f"topk(100, {deviations})"))],
            [ADDRESS, PORT, SERVICE, KIND, STATE, ALERT_SEVERITY, CHANGED, VANTAGE],
            sort=("Port", False),
            nothing="No deviation found",
            width=12,
        ),
        rows(
            "Exceptions in force",
            "Ports whose deviations do not count until then.",
            [milliseconds(with_service(_of_host("port_exception_expiry_timestamp_seconds")))],
            [PORT, SERVICE, Column("Value", "Ends", "dateTimeFromNow"), VANTAGE],
            sort=("Ends", False),
            nothing="No exception in force",
            width=12,
        ),
        rows(
            "Labels and exporters",
            "The labels of the host in conf.yml, and the exporters that scan it. The link leads to the host on the "
            "page of the exporter.",
            [with_page(milliseconds(owned(_of_host("port_last_scan_timestamp_seconds"))))],
            [
                Column("host", "Host"),
                *OWNERS,
                Column("env", "Environment"),
                Column("role", "Role"),
                Column("Value", "Last verdict", "dateTimeFromNow"),
                VANTAGE,
                PAGE,
            ],
            nothing="No verdict yet",
            width=12,
        ),
    ]


def _listeners() -> str:
    listening = f"group by (job, instance, vantage, host, port, process, user) ({_of_host('port_listener_info')})"
    # Not of the same instance: another exporter of the job may be the one that scans.
    seen = f"max by (job, host, port) ({_of_host('port_open')})"
    return f"{listening} * on (job, host, port) group_left () {seen} or -1 * {listening}"


def _audits() -> list[Panel]:
    return [
        timeline(
            "Status of audits over time",
            "The status of the last audit. Empty for a host that need not send audits.",
            {"{{instance}}": _AUDIT_STATUS},
            numbered_states(STATUSES),
            height=5,
        ),
        graph(
            "Vulnerabilities by severity",
            "Vulnerabilities that no exception covers, as of the last audit; one in several packages counts once.",
            {"{{severity}}": f"max by (severity) ({_of_host('portspec_audit_vulnerabilities')})"},
            colours=SEVERITIES,
            is_stacked=True,
        ),
        rows(
            "What listens",
            "Processes that listen on a TCP port of an address other than loopback, as of the last audit, and whether "
            "the last scan found that port open. Ports that were not scanned or are neither expected nor open have no "
            "verdict.",
            [_listeners()],
            [PORT, PROCESS, USER, Column("Value", "Open from outside", states=_YES_OR_NO)],
            sort=("Port", False),
            nothing="No listener known",
            width=12,
        ),
        rows(
            "Vulnerabilities",
            "Vulnerabilities that no exception covers, as of the last audit; at most 500.",
            [f"topk(500, {_of_host('portspec_audit_vulnerability')})"],
            [SEVERITY, ID, PACKAGE, VERSION, FIXED],
            sort=("Severity", False),
            nothing="No vulnerability known",
            height=12,
        ),
    ]


def dashboard() -> Dashboard:
    """Make the dashboard of a host."""
    metrics = "port_scan_interval_seconds|port_scan_success|portspec_audit_timestamp_seconds"
    named = select("", scope=(f'__name__=~"{metrics}"', *SCOPE))
    host = query_variable("host", "Host", "The host, as conf.yml names it.", f"label_values({named}, host)")
    return page(
        "host",
        "portspec / Host",
        "The open ports of a host over time beside those that it should have, its scans, its alerts and its audits.",
        [
            ("$host", _numbers()),
            ("Ports and scans", _scans()),
            ("Now", _now()),
            ("Audits", _audits()),
        ],
        variables=[host],
        annotations=[
            RELOADS,
            marks(
                "Ports changed",
                "orange",
                _of_host("port_last_change_timestamp_seconds"),
                "Ports changed",
                "The set of open ports of {{host}} changed, seen by {{instance}}",
            ),
            marks(
                "Audit",
                "green",
                f"{_of_host('portspec_audit_timestamp_seconds')} > 0",
                "Audit",
                "{{host}} was audited",
            ),
        ],
        since="now-7d",
    )
