"""Expressions in PromQL, from selectors that follow the variables of a dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The variables of every dashboard.
SCOPE: Final = ('job=~"$job"', 'instance=~"$instance"', 'vantage=~"$vantage"')
#: For totals that are recorded over all exporters of a job and vantage point.
FLEET: Final = ('job=~"$job"', 'vantage=~"$vantage"')
#: For alerts, some of which are about no single exporter or job.
ALERTS: Final = ('alertname=~"(Portspec|Audit).+"', 'job=~"$job|"', 'instance=~"$instance|"', 'vantage=~"$vantage|"')
#: The alert rules and the dashboards tell exporters by the name of their job.
TARGETS: Final = ('job=~".*portspec.*"', *SCOPE)
#: The labels of a host in conf.yml that say whose it is. The alert rules have the same list.
HOST_LABELS: Final = ("team", "site", "env", "role", "owner")

_TARGET: Final = "job, instance, vantage"


def select(metric: str, *matchers: str, scope: tuple[str, ...] = SCOPE) -> str:
    """Select the series of a metric within a scope."""
    return f"{metric}{{{','.join((*scope, *matchers))}}}"


def owned(expression: str) -> str:
    """Add the labels of its host to each series; hosts without such labels stay."""
    names = ", ".join(HOST_LABELS)
    labels = select("job_instance_vantage_host:port_host_info:labels")
    joined = f"({expression}) * on ({_TARGET}, host) group_left ({names}) {labels}"
    return f"{joined} or ignoring ({names}) ({expression})"


def with_service(expression: str) -> str:
    """Add the usual name of the service to each series of a port; ports without such a name stay."""
    named = select("job_instance_port:port_service_name_info:name")
    every = f"({named} or on (job, instance, port) group by (job, instance, port) ({expression}))"
    return f"({expression}) * on (job, instance, port) group_left (service_name) {every}"


def with_page(expression: str) -> str:
    """Add the label `page`: the address of the exporter that has the page of the host.

    That is `instance`, or with /probe, where `instance` is the host, `exporter` (docs/deployment/prometheus.md).
    """
    of_instance = f'label_replace({expression}, "page", "$1", "instance", "(.+)")'
    return f'label_replace({of_instance}, "page", "$1", "exporter", "(.+)")'


def milliseconds(expression: str) -> str:
    """Turn Unix seconds into what Grafana takes for a time."""
    return f"1000 * ({expression})"


def per_second(counter: str, *by: str) -> str:
    """Return the rate of a counter, by labels."""
    return f"sum by ({', '.join(by)}) (rate({select(counter)}[$__rate_interval]))"


def per_hour(counter: str, *by: str) -> str:
    """Return by how much a counter grows in an hour, by labels."""
    return f"3600 * {per_second(counter, *by)}"


def verdict(*matchers: str, among: str = "") -> str:
    """Return the verdict on hosts as a number, whose names are `panels.VERDICTS`; all of them, or those of `among`.

    The hosts are chosen before their verdicts are put together, which takes a fleet far longer than to select them.
    """
    unknown = f"({select('port_scan_success', *matchers)} == 0) + 2"
    stale = f"{select('instance_host:port_scan_age_seconds:overdue', *matchers)} * 0 + 3"
    out_of_spec = f"{select('instance_host:port_out_of_spec:nonzero', *matchers)} * 0 + 1"
    in_spec = f"({select('port_out_of_spec', *matchers)} == 0) * 1"
    never_scanned = f"{select('port_scan_interval_seconds', *matchers)} * 0 + 2"
    if not among:
        return f"{unknown} or {stale} or {out_of_spec} or {in_spec} or {never_scanned}"
    chosen = f"and on ({_TARGET}, host) {among}"
    return f"({unknown} or {stale} or {out_of_spec}) {chosen} or {in_spec} {chosen}"


def numbered(expression: str, label: str, values: Sequence[str]) -> str:
    """Turn a label into the value: the position of what it says among `values`. Drops the label."""
    positions = " or ".join(
        f'label_replace(vector({number}), "{label}", "{value}", "", "")' for number, value in enumerate(values)
    )
    return f"sum without ({label}) (({expression}) * 0 + on ({label}) group_left () ({positions}))"


def hosts_with(statuses: str) -> str:
    """Count the hosts whose audit has one of some statuses, given as a regular expression."""
    matcher = f'status=~"{statuses}"'
    return f"sum({select('portspec_audit_status', matcher)})"
