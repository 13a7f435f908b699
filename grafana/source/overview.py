"""The fleet: what is wrong now, since when, and whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana.source.columns import (
    ADDRESS,
    ALERT,
    ALERT_SEVERITY,
    ALERT_STATE,
    CHANGED,
    HOST,
    KIND,
    OWNERS,
    PAGE,
    PORT,
    SERVICE,
    SINCE,
    STATE,
    VANTAGE,
)
from grafana.source.page import RELOADS, marks, page
from grafana.source.panels import VERDICTS, Column, graph, number, rows, timeline
from grafana.source.queries import (
    ALERTS,
    FLEET,
    TARGETS,
    hosts_with,
    milliseconds,
    owned,
    select,
    verdict,
    with_page,
    with_service,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from grafana.source.panels import Panel

_EVERY_VANTAGE: Final = "A host that several vantage points scan counts once for each."
_DEVIATIONS: Final = select("instance_host_port:port_deviation:counted")


def _total(name: str) -> str:
    return f"sum({select(name, scope=FLEET)})"


def _numbers() -> list[Panel]:
    return [
        number("Hosts", f"Hosts that are scanned. {_EVERY_VANTAGE}", _total("job_vantage:port_hosts:count"), width=3),
        number(
            "In specification",
            "Hosts whose open ports are those that conf.yml expects or allows, by a verdict that is not stale.",
            _total("job_vantage:port_hosts:in_spec"),
        ),
        number(
            "Out of specification",
            "Hosts with a deviation that no exception covers, by a verdict that is not stale.",
            _total("job_vantage:port_hosts:out_of_spec"),
            bad="red",
        ),
        number(
            "Unknown",
            "Hosts that could not be judged, were not scanned yet, or have a stale verdict. Nothing is known of them.",
            _total("job_vantage:port_hosts:unknown"),
            bad="purple",
        ),
        number(
            "Under maintenance",
            "Hosts that nobody is alerted about for now. They count in the other numbers, too.",
            f"sum({select('port_maintenance')}) or 0 * {_total('job_vantage:port_hosts:count')}",
            width=3,
        ),
        number(
            "Vulnerable hosts",
            "Hosts whose last audit found a vulnerability that no exception covers.",
            hosts_with("vulnerable"),
            bad="red",
            width=3,
        ),
        number(
            "Exporters down",
            "Targets that Prometheus cannot scrape: exporters, or with /probe, hosts whose probe failed.",
            f"sum({select('up', scope=TARGETS)} == bool 0)",
            bad="red",
            width=3,
        ),
    ]


def _history() -> list[Panel]:
    hosts = {
        "in specification": _total("job_vantage:port_hosts:in_spec"),
        "out of specification": _total("job_vantage:port_hosts:out_of_spec"),
        "unknown": _total("job_vantage:port_hosts:unknown"),
    }
    colours = {"in specification": "green", "out of specification": "red", "unknown": "purple"}
    kinds = f"sum by (kind) ({select('job_vantage_kind:port_deviation:count', scope=FLEET)})"
    return [
        graph(
            "Hosts by verdict",
            f"The verdicts on all hosts over time. {_EVERY_VANTAGE}",
            hosts,
            colours=colours,
            is_stacked=True,
        ),
        graph(
            "Deviations by kind",
            "Ports that are open and not expected, and ports that are expected and not open. More than 100 ports of an "
            "address with the same deviation count as one. Empty while nothing deviates.",
            {"{{kind}}": kinds},
            colours={"unexpected": "red", "missing": "orange"},
            is_stacked=True,
        ),
    ]


def _alerts() -> Panel:
    states = f"{select('ALERTS', scope=ALERTS)} * ignoring (alertstate) group_left () "
    since = states + select("ALERTS_FOR_STATE", scope=ALERTS)
    return rows(
        "What is wrong now",
        "The alerts of the shipped rules, the 50 latest of each severity. A pending alert does not notify yet. After a "
        "restart of Prometheus, an alert may begin anew.",
        [with_page(milliseconds(f"topk by (severity) (50, {since})"))],
        [
            ALERT_SEVERITY,
            ALERT,
            HOST,
            PORT,
            SERVICE,
            SINCE,
            *OWNERS,
            ALERT_STATE,
            VANTAGE,
            PAGE,
        ],
        sort=("Severity", False),
        nothing="No alert of the shipped rules",
        height=10,
    )


def _deviations() -> Panel:
    found = f"topk(100, {_DEVIATIONS})"
    return rows(
        "Ports that deviate",
        "Deviations that no exception covers, by verdicts that count; the 100 of the hosts that changed last.",
        [with_page(milliseconds(owned(with_service(found))))],
        [
            HOST,
            ADDRESS,
            PORT,
            SERVICE,
            KIND,
            STATE,
            ALERT_SEVERITY,
            CHANGED,
            *OWNERS,
            VANTAGE,
            PAGE,
        ],
        sort=("Ports last changed", True),
        nothing="No deviation found",
        height=10,
    )


def _worst() -> list[Panel]:
    of_team = owned(_DEVIATIONS)
    names = "team, owner, site"
    hosts = f"count by ({names}) (group by (job, instance, vantage, host, {names}) ({of_team}))"
    ports = f"count by (kind, port, service_name) ({with_service(_DEVIATIONS)})"
    return [
        rows(
            "Hosts with most deviations",
            "The 20 hosts that deviate most, as of the last verdict on each.",
            [with_page(owned(f"topk(20, {select('instance_host:port_out_of_spec:nonzero')})"))],
            [HOST, Column("Value", "Deviations", "short"), *OWNERS, VANTAGE, PAGE],
            sort=("Deviations", True),
            nothing="No deviation found",
            width=12,
        ),
        rows(
            "Ports that deviate most often",
            "The 20 ports that deviate on the most addresses.",
            [f"topk(20, {ports})"],
            [PORT, SERVICE, KIND, Column("Value", "Addresses", "short")],
            sort=("Addresses", True),
            nothing="No deviation found",
            width=6,
        ),
        rows(
            "Whose they are",
            "The 20 teams, owners and sites with the most hosts that deviate, by the labels of the hosts in conf.yml.",
            [f"topk(20, {hosts})"],
            [*OWNERS, Column("Value", "Hosts", "short")],
            sort=("Hosts", True),
            nothing="No deviation found",
            width=6,
        ),
    ]


def _worst_over_time() -> Panel:
    most = f"max_over_time({select('instance_host:port_out_of_spec:nonzero')}[$__range:$__interval] @ end())"
    return timeline(
        "Verdicts on the hosts that deviated",
        "The 20 hosts that had the most deviations within the time range. A gap means that portspec was not scraped.",
        {"{{host}} {{vantage}}": verdict(among=f"topk(20, {most})")},
        VERDICTS,
        is_of_fleet=True,
        height=10,
    )


def _unknown() -> list[Panel]:
    last = f"({select('port_last_scan_timestamp_seconds')} or 0 * {select('port_scan_success')})"
    reasons = f"{select('port_scan_failure')} * ignoring (reason) group_left () {last}"
    ending = f"bottomk(20, {select('port_exception_expiry_timestamp_seconds')})"
    return [
        rows(
            "Hosts that cannot be judged",
            "Hosts of which the last scan could not judge all addresses, with each reason; the 100 of which the last "
            "verdict is the oldest.",
            [with_page(milliseconds(owned(f"bottomk(100, {reasons})")))],
            [
                HOST,
                Column("reason", "Reason"),
                Column("Value", "Last verdict", "dateTimeFromNow", states={0: ("never", "red")}),
                *OWNERS,
                VANTAGE,
                PAGE,
            ],
            sort=("Last verdict", False),
            nothing="No such host found",
        ),
        rows(
            "Exceptions that end next",
            "The 20 exceptions of ports that end first. From then on, the port counts as a deviation.",
            [with_page(milliseconds(owned(with_service(ending))))],
            [
                HOST,
                PORT,
                SERVICE,
                Column("Value", "Ends", "dateTimeFromNow"),
                *OWNERS,
                VANTAGE,
                PAGE,
            ],
            sort=("Ends", False),
            nothing="No exception found",
        ),
    ]


def dashboard() -> Dashboard:
    """Make the dashboard of the fleet."""
    changes = marks(
        "Ports of a host changed",
        "orange",
        f"topk(10, {select('port_last_change_timestamp_seconds')})",
        "Ports of {{host}} changed",
        "The set of open ports of {{host}} changed, seen by {{instance}}",
    )
    return page(
        "overview",
        "portspec / Overview",
        "Whether all hosts have exactly the open ports that they should have; what is wrong now, since when, and whose "
        "it is.",
        [
            ("Fleet (totals of all exporters of a job and vantage point)", [*_numbers(), *_history()]),
            ("Now", [_alerts(), _deviations()]),
            ("Most deviations", [*_worst(), _worst_over_time()]),
            ("Not judged, and excepted", _unknown()),
        ],
        annotations=[RELOADS, changes.step("5m")],
    )
