"""The exporters themselves: whether they run, keep up with their rounds, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana.source.columns import HOST, OWNERS, PAGE, VANTAGE
from grafana.source.page import RELOADS, TO_PAGE, marks, page
from grafana.source.panels import HEALTH, YES, Column, graph, number, rows, timeline
from grafana.source.queries import TARGETS, milliseconds, owned, per_hour, per_second, select, with_page

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

    from grafana.source.panels import Panel

_UP: Final = select("up", scope=TARGETS)
_BY: Final = "job, instance, vantage"


def _numbers() -> list[Panel]:
    return [
        number(
            "Exporters down",
            "Targets that Prometheus cannot scrape. The hosts that they scan are not monitored.",
            f"sum({_UP} == bool 0)",
            bad="red",
        ),
        number(
            "Configurations with errors",
            "Exporters that could not load their conf.yml and keep the one before.",
            f"sum({select('portspec_config_last_reload_successful')} == bool 0)",
            bad="red",
        ),
        number(
            "State files not written",
            "Exporters that cannot write their state file. A restart would lose what waits in memory.",
            f"sum({select('portspec_store_up')} == bool 0)",
            bad="red",
        ),
        number(
            "Series dropped",
            "Series that are missing in /metrics because of series_budget or the limits for one host.",
            f"sum({select('portspec_series_dropped')})",
            bad="orange",
        ),
        number(
            "Verdicts overdue",
            "Hosts of which the last verdict is older than two intervals.",
            f"count({select('instance_host:port_scan_age_seconds:overdue')}) or 0 * sum({select('portspec_hosts')})",
            bad="orange",
        ),
        number(
            "Mails waiting",
            "Mails and notifications that wait to be sent. No data without sendemail.",
            f"sum({select('portspec_mail_outbox')})",
        ),
    ]


def _exporters() -> list[Panel]:
    def of(expression: str) -> str:
        return f"max by ({_BY}) ({expression})"

    info = {
        "version": f"group by ({_BY}, version) ({select('portspec_build_info')})",
        "engine": f"group by ({_BY}, engine) ({select('portspec_engine_info')})",
        "shard": f"group by ({_BY}, shard, shards) ({select('portspec_shard_info')})",
    }
    return [
        rows(
            "Exporters",
            "Every exporter; with /probe, 200 targets, those that are down first. A link leads to the exporter's page.",
            [
                f"bottomk(200, {of(_UP)})",
                *info.values(),
                of(select("portspec_hosts")),
                of(select("portspec_first_round_complete")),
                of(select("portspec_series_dropped")),
                milliseconds(of(select("portspec_config_last_reload_success_timestamp_seconds"))),
                milliseconds(of(select("process_start_time_seconds"))),
            ],
            [
                Column("job", "Job"),
                Column("instance", "Exporter", link=TO_PAGE),
                VANTAGE,
                Column("Value #A", "Up", states=YES),
                Column("version", "Version"),
                Column("engine", "Engine"),
                Column("shard", "Shard"),
                Column("shards", "Of"),
                Column("Value #E", "Hosts", "short"),
                Column("Value #F", "First round complete", states=YES),
                Column("Value #G", "Series dropped", "short"),
                Column("Value #H", "conf.yml loaded", "dateTimeFromNow"),
                Column("Value #I", "Started", "dateTimeFromNow"),
            ],
            sort=("Up", False),
            nothing='Prometheus has no job whose name contains "portspec"',
        ),
        timeline(
            "Up",
            "Whether Prometheus can scrape the exporters; at most 50, those that are down first.",
            {"{{job}} {{instance}} {{vantage}}": f"bottomk(50, {_UP})"},
            {0: ("down", "red"), 1: ("up", "green")},
            width=12,
        ),
        timeline(
            "Health",
            "Whether the exporters can load their conf.yml, write their state and their report, and see a canary.",
            {
                "conf.yml {{instance}}": select("portspec_config_last_reload_successful"),
                "state {{instance}}": select("portspec_store_up"),
                "report {{instance}}": select("portspec_reportfile_up"),
                "canary {{instance}}": select("portspec_canary_seen"),
            },
            HEALTH,
            width=12,
        ),
    ]


def _scans() -> list[Panel]:
    durations = select("port_scan_duration_seconds")
    age = f"time() - {select('port_last_scan_timestamp_seconds')}"
    return [
        graph(
            "Rounds an hour",
            "Rounds that were completed, and rounds that began while hosts of the previous one were being scanned.",
            {
                "completed {{instance}}": per_hour("portspec_scan_rounds_total", "instance"),
                "overrun {{instance}}": per_hour("portspec_scan_overruns_total", "instance"),
            },
        ),
        graph(
            "Probes",
            "Probes that were sent.",
            {"{{instance}}": per_second("portspec_probes_sent_total", "instance")},
            unit="pps",
        ),
        graph(
            "Duration of scans",
            "How long the last scans of hosts took: half of them, 99 of 100, and all of them at most that long.",
            {
                "half": f"quantile(0.5, {durations})",
                "99 of 100": f"quantile(0.99, {durations})",
                "all": f"max({durations})",
            },
            unit="s",
            is_of_fleet=True,
        ),
        graph(
            "Scans between the rounds, an hour",
            "Scans that repeat one that could not judge a host, and rechecks of ports that deviate.",
            {
                "retries {{instance}}": per_hour("portspec_scan_retries_total", "instance"),
                "rechecks {{instance}}": per_hour("portspec_rechecks_total", "instance"),
            },
        ),
        graph(
            "Hosts that could not be judged",
            "Hosts by the reason why the last scan could not judge them, or one of their addresses.",
            {"{{reason}}": f"count by (reason) ({select('port_scan_failure')})"},
            is_stacked=True,
        ),
        graph(
            "Answers dropped",
            "Answers that arrived faster than portspec could read them. portspec repeats their probes.",
            {"{{instance}}": per_second("portspec_answers_dropped_total", "instance")},
            unit="pps",
        ),
        rows(
            "Slowest scans",
            "The 20 hosts of which the last scan took longest.",
            [with_page(owned(f"topk(20, {durations})"))],
            [HOST, Column("Value", "Duration", "s"), *OWNERS, PAGE],
            sort=("Duration", True),
            nothing="No scan yet",
            width=12,
        ),
        rows(
            "Oldest verdicts",
            "The 20 hosts of which the last verdict is the oldest. It is stale after two intervals of the host.",
            [with_page(owned(f"topk(20, {age})"))],
            [HOST, Column("Value", "Age", "s"), *OWNERS, PAGE],
            sort=("Age", True),
            nothing="No verdict yet",
            width=12,
        ),
    ]


def _surroundings() -> list[Panel]:
    return [
        graph(
            "Hosts of sources",
            "Entries that the sources of discovery return. No data without discovery.",
            {"{{source}} {{instance}}": select("portspec_discovered_hosts")},
        ),
        graph(
            "Failures of sources an hour",
            "Refreshes at which a source of discovery failed, and targets in its lists that are not hosts.",
            {
                "failures of {{source}} {{instance}}": per_hour(
                    "portspec_discovery_failures_total", "instance", "source"
                ),
                "refused from {{source}} {{instance}}": select("portspec_discovery_targets_refused"),
            },
        ),
        graph(
            "Mails an hour",
            "Mails that were sent and given up, and failed attempts by reason. No data without sendemail.",
            {
                "sent": per_hour("portspec_mails_sent_total", "instance"),
                "failed: {{reason}}": per_hour("portspec_mails_failed_total", "reason"),
                "given up": per_hour("portspec_mails_given_up_total", "instance"),
            },
        ),
        graph(
            "State file",
            "Results that wait to be written, and failed attempts an hour to read or write the state file.",
            {
                "waiting {{instance}}": select("portspec_store_pending"),
                "errors {{instance}}": per_hour("portspec_store_errors_total", "instance"),
            },
        ),
    ]


def _costs() -> list[Panel]:
    return [
        graph(
            "Processors",
            "Processors that the exporter uses.",
            {"{{instance}}": per_second("process_cpu_seconds_total", "instance")},
            width=6,
        ),
        graph(
            "Memory",
            "Memory of the exporter that is in RAM.",
            {"{{instance}}": f"sum by (instance) ({select('process_resident_memory_bytes')})"},
            unit="bytes",
            width=6,
        ),
        graph(
            "Descriptors",
            "File descriptors that are open, as a part of the limit.",
            {"{{instance}}": f"{select('process_open_fds')} / {select('process_max_fds')}"},
            unit="percentunit",
            width=6,
        ),
        graph(
            "Scrapes",
            "How long Prometheus takes to scrape an exporter; the 20 slowest.",
            {"{{instance}}": f"topk(20, {select('scrape_duration_seconds', scope=TARGETS)})"},
            unit="s",
            width=6,
        ),
    ]


def dashboard() -> Dashboard:
    """Make the dashboard of the exporters."""
    starts = marks(
        "Exporter started",
        "purple",
        select("process_start_time_seconds"),
        "Exporter started",
        "{{instance}} started",
    )
    return page(
        "exporter",
        "portspec / Exporter",
        "Whether the exporters run, keep up with their rounds, reach what they need, and what they cost.",
        [
            ("Exporters", [*_numbers(), *_exporters()]),
            ("Scans", _scans()),
            ("Discovery, mail and state", _surroundings()),
            ("Costs", _costs()),
        ],
        annotations=[RELOADS, starts],
    )
