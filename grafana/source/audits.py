"""The audits of the fleet: which hosts are vulnerable, and of which nothing is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana.source.columns import (
    FIXED,
    HOST,
    ID,
    OWNERS,
    PACKAGE,
    PAGE,
    PORT,
    PROCESS,
    SEVERITY,
    USER,
)
from grafana.source.page import page
from grafana.source.panels import SEVERITIES, STATUSES, Column, graph, number, numbered_states, rows, timeline
from grafana.source.queries import hosts_with, milliseconds, numbered, owned, per_hour, select, with_page

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from grafana.source.panels import Panel

_WORST: Final = select("instance_host:portspec_audit_vulnerabilities:worst")
_LATE: Final = select("instance_host:portspec_audit_age_seconds:late")
# Recorded over all exporters of a job: one that receives audits, and one that scans from outside.
_UNEXPECTED: Final = select("job_host_port:port_listener_info:unexpected", scope=('job=~"$job"',))
_HOSTS: Final = f"count({select('portspec_audit_timestamp_seconds')})"


def _numbers() -> list[Panel]:
    return [
        number("Hosts", "Hosts that have to send audits.", _HOSTS),
        number("Clean", "Hosts whose last audit found no vulnerability that counts.", hosts_with("clean")),
        number(
            "Vulnerable",
            "Hosts whose last audit found a vulnerability that no exception covers.",
            hosts_with("vulnerable"),
            bad="red",
        ),
        number(
            "Without result",
            "Hosts whose audit failed, was of no use, or was made with a database that is too old. They may have "
            "vulnerabilities that nobody knows of.",
            hosts_with("failed|unsupported|stale_database"),
            bad="orange",
        ),
        number("Never audited", "Hosts that never sent an audit.", hosts_with("never"), bad="purple"),
        number(
            "Late",
            "Hosts whose last audit is older than audit.max_age, or that have sent none for a day.",
            f"count({_LATE}) or 0 * {_HOSTS}",
            bad="orange",
        ),
    ]


def _history() -> list[Panel]:
    return [
        graph(
            "Hosts by status",
            "The statuses of the last audits of all hosts over time.",
            {"{{status}}": f"sum by (status) ({select('portspec_audit_status')})"},
            colours=STATUSES,
            is_stacked=True,
            is_of_fleet=True,
        ),
        graph(
            "Vulnerabilities by severity",
            "Vulnerabilities of all hosts that no exception covers. One in several packages of a host counts once, one "
            "on several hosts once for each.",
            {"{{severity}}": f"sum by (severity) ({select('portspec_audit_vulnerabilities')})"},
            colours=SEVERITIES,
            is_stacked=True,
            is_of_fleet=True,
        ),
    ]


def _vulnerable() -> list[Panel]:
    found = f"count by (id, package, severity, fixed_version) ({select('portspec_audit_vulnerability')})"
    new = select("instance_host:portspec_audit_vulnerability:new")
    worst_now = f"topk by (severity) (10, {_WORST} @ end())"
    return [
        rows(
            "Most vulnerable hosts",
            "The hosts by the severity of their worst vulnerability, and how many they have of that severity; the 50 "
            "worst of each severity.",
            [with_page(owned(f"topk by (severity) (50, {_WORST})"))],
            [HOST, SEVERITY, Column("Value", "Vulnerabilities", "short"), *OWNERS, PAGE],
            sort=("Vulnerabilities", True),
            nothing="No vulnerable host found",
            width=12,
            height=10,
        ),
        rows(
            "Most frequent vulnerabilities",
            "The vulnerabilities of packages that the most hosts have; the 50 most frequent of each severity.",
            [f"topk by (severity) (50, {found})"],
            [ID, SEVERITY, PACKAGE, FIXED, Column("Value", "Hosts", "short")],
            sort=("Hosts", True),
            nothing="No vulnerability found",
            width=12,
            height=10,
        ),
        rows(
            "New vulnerabilities",
            "The 100 hosts with the most vulnerabilities that did not count a day ago. Without metrics of a day ago, "
            "nothing is new.",
            [with_page(owned(f"topk(100, {new})"))],
            [HOST, Column("Value", "New", "short"), *OWNERS, PAGE],
            sort=("New", True),
            nothing="No new vulnerability found",
            width=12,
        ),
        rows(
            "What listens on ports that are not expected",
            "Processes that, according to the last audit of the host, listen on a port that is open and should not be; "
            "at most 100.",
            [f"topk(100, {_UNEXPECTED})"],
            [HOST, PORT, PROCESS, USER],
            sort=("Host", False),
            nothing="No such process known",
            width=12,
        ),
        timeline(
            "Worst vulnerability of the most vulnerable hosts",
            "The severity of the worst vulnerability over time, of the 10 hosts that have the most of each severity "
            "now. A gap means that the host was not vulnerable, or that its vulnerabilities were not known.",
            {"{{host}}": numbered(f"{_WORST} and {worst_now}", "severity", tuple(SEVERITIES))},
            numbered_states(SEVERITIES),
            is_of_fleet=True,
            height=10,
        ),
    ]


def _deadlines() -> list[Panel]:
    # Of exporters that know of the same host, the one that knows of most counts.
    overdue = f"max by (job, owner, host, class) ({select('portspec_audit_vulnerabilities_overdue')})"
    ports = f"max by (job, owner, host, kind) ({select('port_deviations_overdue')})"
    return [
        graph(
            "Vulnerabilities past the deadline",
            "Vulnerabilities of hosts of each owner that have been known for longer than `deadlines` of conf.yml "
            "allow. Without deadlines there are none.",
            {"{{owner}}": f"sum by (owner) ({overdue})"},
            is_of_fleet=True,
        ),
        graph(
            "Ports past the deadline",
            "Ports of hosts of each owner that have deviated for longer than `deadlines` of conf.yml allow. Without "
            "deadlines there are none.",
            {"{{owner}}": f"sum by (owner) ({ports})"},
            is_of_fleet=True,
        ),
    ]


def _unknown() -> list[Panel]:
    failed = select("instance_host_status:portspec_audit_status:failed")
    made = select("portspec_audit_timestamp_seconds")
    since = f"{failed} * ignoring (status) group_left () {made}"
    return [
        rows(
            "Audits without result",
            "Hosts of which an audit arrived that proves nothing; the 100 of which it is the oldest.",
            [with_page(milliseconds(owned(f"bottomk(100, {since})")))],
            [HOST, Column("status", "Status"), Column("Value", "Audited", "dateTimeFromNow"), *OWNERS, PAGE],
            sort=("Audited", False),
            nothing="No such host found",
            width=12,
        ),
        rows(
            "Oldest audits",
            "The 50 hosts of which the last audit is the oldest, those that never sent one first.",
            [with_page(milliseconds(owned(f"bottomk(50, {made})")))],
            [
                HOST,
                Column("Value", "Last audit", "dateTimeFromNow", states={0: ("never", "red")}),
                *OWNERS,
                PAGE,
            ],
            sort=("Last audit", False),
            nothing="No host has to send audits",
            width=12,
        ),
    ]


def _intake() -> list[Panel]:
    return [
        graph(
            "Accepted audits an hour",
            "Audits that were accepted, by HTTP and by mail.",
            {"{{instance}}": per_hour("portspec_audits_received_total", "instance")},
        ),
        graph(
            "Rejected audits an hour",
            "Audits that were rejected, by reason. A wrong signature may be a forged audit.",
            {"{{reason}}": per_hour("portspec_audits_rejected_total", "reason")},
        ),
    ]


def dashboard() -> Dashboard:
    """Make the dashboard of audits."""
    return page(
        "audits",
        "portspec / Audits",
        "Which hosts are vulnerable and since when, which vulnerabilities are the most frequent, and of which hosts "
        "nothing is known.",
        [
            ("Hosts that have to send audits", [*_numbers(), *_history()]),
            ("Vulnerable", _vulnerable()),
            ("Deadlines", _deadlines()),
            ("Not known", _unknown()),
            ("Intake", _intake()),
        ],
        since="now-7d",
    )
