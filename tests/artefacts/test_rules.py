from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from collections import defaultdict
from functools import cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from portspec.cli.arguments import COMMANDS
from portspec.metrics import CATALOGUE
from tests.artefacts.promql_labels import labels_of
from tests.artefacts.receivers import alertmanager
from tests.artefacts.rules import (
    ALERTMANAGER,
    DIRECTORY,
    RULES,
    RUNBOOKS,
    TARGET_LABELS,
    TESTS,
    Rule,
    grouping_labels,
    read,
    selectors,
    tool,
)
from tests.e2e.exporter import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.artefacts.rules import Selector

ALL: Final = read()
ALERTS: Final = tuple(rule for rule in ALL if rule.is_alert)
RECORDED: Final = frozenset(rule.name for rule in ALL if not rule.is_alert)
NONZERO: Final = "instance_host:port_out_of_spec:nonzero"
#: The one place that names the runbooks is the label of a recording rule.
RUNBOOK_URL: Final = '{{ with query "portspec:runbooks:info" }}{{ . | first | label "url" }}{{ end }}#'
HOST_LABELS: Final = frozenset({"team", "site", "env", "role", "owner"})  # of conf.yml, which alerts carry
LABELS: Final = {metric.name: frozenset(metric.labels) for metric in CATALOGUE} | {
    "up": frozenset[str](),
    "ALERTS": frozenset({"alertname", "alertstate", "host", "port", "severity"}),
}
EVERY_LABEL: Final = (
    frozenset(chain.from_iterable(LABELS.values())) | TARGET_LABELS | HOST_LABELS | {"alert", "level", "alertname"}
)

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
each_rule = pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)


def promtool(*arguments: str) -> tuple[int, str]:
    """Run promtool; returns its exit code and all that it said."""
    command = [tool("promtool", "prometheus"), *arguments]
    environment = {**os.environ, "GOGC": "400"}  # a fifth of its time would go into collecting garbage
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@cache
def documents() -> tuple[dict[str, Any], ...]:
    """Return every file of tests of promtool."""
    return tuple(yaml.safe_load(path.read_text(encoding="utf-8")) for path in TESTS)


def groups() -> Iterator[dict[str, Any]]:
    """Return every test of promtool, with the minutes between its evaluations as `step`."""
    for document in documents():
        step = int(document["evaluation_interval"].removesuffix("m"))
        yield from ({**group, "step": step} for group in document["tests"])


def sections() -> dict[str, str]:
    """Return the sections of the runbooks by their headings."""
    _, *found = re.split(r"^## (.+)\n", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(found[::2], found[1::2], strict=True))


def known(selector: Selector) -> bool:
    """Return whether portspec has a metric with the labels of a selector, or a rule records it."""
    if selector.metric in RECORDED:
        return True
    return selector.labels <= LABELS[selector.metric] | TARGET_LABELS if selector.metric in LABELS else False


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    """`promtool check rules` accepts the rules, duplicates being faults, too."""
    code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert code == 0, said


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_promtool_sees_the_rules_do_what_their_tests_say(path: Path) -> None:
    """`promtool test rules` passes every file of tests."""
    code, said = promtool("test", "rules", str(path))
    assert code == 0, said


#: What the scans of a host show in half an hour, each minute: it is up for 5 minutes, down for 12, and up again.
DOWN: Final = [int(5 <= minute < 17) for minute in range(31)]
DIES_AND_RETURNS: Final = {
    "port_scan_success": [1] * 31,
    "port_scan_interval_seconds": [60] * 31,
    "port_scan_duration_seconds": [1] * 31,
    "port_last_scan_timestamp_seconds": [60 * minute for minute in range(31)],
    "port_out_of_spec": DOWN,
    "port_host_up": [1 - down for down in DOWN],
    'port_deviation{address="192.0.2.1",port="22",kind="missing",state="filtered"}': DOWN,
}
_OF_A_SCAN: Final = re.compile(rf"(?<![:\w])({'|'.join(name.partition('{')[0] for name in DIES_AND_RETURNS)})(?![:\w])")


def test_host_that_is_down_has_no_other_alert_whenever_its_sample_arrives(tmp_path: Path) -> None:
    """A sample that arrives while rules are evaluated is seen by the later ones only: PortspecHostDown still inhibits.

    From each rule on, in turn, the rules read series that are a minute ahead of those that the others read.
    """
    found = (group for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"])
    rules = next(
        group["rules"] for group in found if any(rule.get("alert") == "PortspecHostDown" for rule in group["rules"])
    )
    names = [rule.get("alert", rule.get("record")) for rule in rules]
    series = []
    for name, values in DIES_AND_RETURNS.items():
        metric, _, labels = name.partition("{")
        labels = f'{{job="p",instance="a",host="web1",{labels or "}"}'
        for prefix, shown in ("", values), ("early_", [*values[1:], values[-1]]):
            series.append({"series": f"{prefix}{metric}{labels}", "values": " ".join(map(str, shown))})
    missing, down = (
        f'ALERTS{{alertname="{name}",alertstate="firing"}}'
        for name in ("PortspecExpectedPortMissing", "PortspecHostDown")
    )
    looks: list[dict[str, Any]] = [
        {"expr": f"{missing} unless on (host) {down}", "eval_time": f"{minute}m", "exp_samples": []}
        for minute in range(31)
    ]
    looks.append({"expr": f"count({missing})", "eval_time": "12m", "exp_samples": [{"labels": "{}", "value": 1}]})
    test = {"interval": "1m", "input_series": series, "promql_expr_test": looks}
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yml").write_text(json.dumps(document), encoding="utf-8")
    unsafe = {}
    for first in range(names.index("PortspecHostDown") + 2):
        changed = [rule | {"expr": _OF_A_SCAN.sub(r"early_\1", rule["expr"])} for rule in rules[first:]]
        group = {"name": "g", "rules": [*rules[:first], *changed]}
        (tmp_path / "rules.yml").write_text(json.dumps({"groups": [group]}), encoding="utf-8")
        code, said = promtool("test", "rules", str(tmp_path / "test.yml"))
        if code:
            unsafe[names[first]] = said
    assert unsafe == {}


@each_alert
def test_every_alert_is_tested_before_at_and_after(alert: Rule) -> None:
    """A test of promtool has the minute before the alert, the minute with its labels and annotations, and its end.

    Alerts that take days have the ten minutes before.
    """
    for group in groups():
        looks = sorted(
            (int(look["eval_time"].removesuffix("m")), look.get("exp_alerts", []))
            for look in group.get("alert_rule_test", ())
            if look["alertname"] == alert.name
        )
        begun = [
            minute
            for (before, nothing), (minute, something) in pairwise(looks)
            if minute == before + group["step"] and not nothing and something
        ]
        is_whole = all(item.keys() == {"exp_labels", "exp_annotations"} for _, found in looks for item in found)
        if begun and is_whole and any(minute > begun[0] and not found for minute, found in looks):
            return
    pytest.fail(f"no test of {alert.name} has the minute before it, the minute of it and its end")


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_every_recording_rule_is_tested(name: str) -> None:
    """A test of promtool has series with values of each recording rule."""
    tests = chain.from_iterable(group.get("promql_expr_test", ()) for group in groups())
    assert any(test["expr"] == name and test.get("exp_samples") for test in tests)


def test_series_of_the_tests_are_those_of_the_exporter() -> None:
    """The tests of promtool feed the rules with metrics of the catalogue: with their labels and those of targets.

    Some deviations are those of an exporter of version 0.2.0, without a severity.
    """
    others = []
    for series in {item["series"] for group in groups() for item in group["input_series"]}:
        (selector,) = selectors(series)
        if LABELS[selector.metric] != selector.labels - TARGET_LABELS - {"site", "team", "module", "exporter"}:
            others.append(selector)
    assert len(others) == 3
    assert {older.metric for older in others} == {"port_deviation"}
    assert all(LABELS["port_deviation"] - older.labels == {"severity"} for older in others)


@each_alert
def test_every_alert_says_how_bad_it_is_what_it_is_and_what_to_do(alert: Rule) -> None:
    """An alert has a severity, a summary, a description and the address of its own section of the runbooks."""
    assert alert.labels.keys() == {"severity"}
    severities = re.sub(r"\{\{.*?\}\}", " ", alert.labels["severity"]).split()  # it may depend on what is found
    assert severities or "$labels" in alert.labels["severity"]  # that of the alerts which it counts
    assert set(severities) <= {"critical", "warning", "info"}
    names = {"summary", "description", "resolved", "runbook_url"}
    assert alert.annotations.keys() - {"seen_by"} == names
    assert ("seen_by" in alert.annotations) == (
        "host" in set(re.findall(r"labels\.(\w+)", alert.annotations["summary"]))
    )
    assert all(alert.annotations.values())
    assert alert.annotations["runbook_url"] == RUNBOOK_URL + alert.name.lower()


def test_alerts_about_ports_name_all_that_is_known() -> None:
    """Host, address, port, service, state, exporter and the last change are in what is told of a deviation."""
    about_ports = [alert for alert in ALERTS if "instance_host_port:port_deviation:alerted{" in alert.expression]
    assert len(about_ports) == 2
    for alert in about_ports:
        text = " ".join(alert.annotations.values())
        assert all(f"$labels.{name}" in text for name in ("host", "address", "port", "instance", "service_name"))
        assert "$labels.state" in text or "$found.Labels.state" in text
        assert "last changed at {{ $value | humanizeTimestamp" in text


def test_alerts_about_hosts_carry_their_labels() -> None:
    """What is about one host has the labels by which it can be routed, in the same words everywhere."""
    about_hosts = [alert for alert in ALERTS if "seen_by" in alert.annotations]
    assert len(about_hosts) == 12
    join = "group_left (team, site, env, role, owner)"
    assert all(join in alert.expression for alert in about_hosts)


def test_the_runbooks_are_named_once() -> None:
    """Whoever keeps runbooks elsewhere changes one line."""
    assert RULES.read_text(encoding="utf-8").count("https://") == 1


@each_rule
def test_rules_use_what_portspec_has(rule: Rule) -> None:
    """Every expression, those of templates too, can be parsed and names metrics and labels of the catalogue alone."""
    for query in rule.queries:
        unknown = [selector for selector in selectors(query) if not known(selector)]
        assert not unknown, query
        assert grouping_labels(query) <= EVERY_LABEL, query
    for text in rule.annotations.values():
        assert set(re.findall(r"\.?[lL]abels\.(\w+)", text)) <= EVERY_LABEL


def labels_of_metric(name: str) -> frozenset[str]:
    """Return the labels of a metric of the catalogue, or of what a rule records."""
    for rule in ALL:
        if rule.name == name:
            return labels_of(rule.expression, labels_of_metric) | rule.labels.keys()
    return LABELS[name] | TARGET_LABELS | (HOST_LABELS if name == "port_host_info" else frozenset())


@each_alert
def test_alerts_use_only_labels_that_their_expression_leaves(alert: Rule) -> None:
    """No aggregation or matching drops a label that a text or the severity of the alert names."""
    left = labels_of(alert.expression, labels_of_metric)
    if alert.name in ("PortspecUnexpectedPortOpen", "PortspecExpectedPortMissing"):
        assert {"host", "address", "port", "team", "service_name"} <= left
    for text in (*alert.annotations.values(), *alert.labels.values()):
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= left, text


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded_series_are_named_by_level_metric_and_operation(name: str) -> None:
    """The name of a recording rule is level:metric:operations, and the level is of labels that its series have."""
    level, metric, operations = name.split(":")
    assert re.fullmatch(r"[a-z_]+", operations)
    found = labels_of_metric(name)
    if level == "portspec":  # has no labels of series
        assert metric == "runbooks"
        return
    assert set(level.split("_")) <= found
    assert re.fullmatch(r"ALERTS|(port|portspec)_[a-z_]+", metric)


@pytest.mark.parametrize("alert", [alert for alert in ALERTS if alert.name.startswith(("Portspec", "Audit"))],
                         ids=lambda alert: alert.name)  # fmt: skip
def test_alerts_say_why_they_wait_or_do_not(alert: Rule) -> None:
    """Above each alert, or above the one before it in the group, a comment gives the reason for its `for`."""
    text = RULES.read_text(encoding="utf-8")
    before = text[: text.index(f"      - alert: {alert.name}\n")].rstrip("\n").split("\n\n")[-1]
    assert re.search(r"^ +#", before, re.MULTILINE), before


@each_rule
def test_rules_about_ports_are_silent_without_a_verdict(rule: Rule) -> None:
    """Whatever is derived from the last verdict looks whether that is the verdict of now."""
    if rule.name == NONZERO:  # what uses it looks
        return
    metrics = {selector.metric for selector in selectors(rule.expression)}
    if metrics & {"port_deviation", "port_out_of_spec", "port_host_up", "port_open", NONZERO}:
        assert {"port_scan_success", "instance_host:port_scan_age_seconds:overdue"} <= metrics


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    """The sections of docs/runbooks.md are the alerts, in their order or another."""
    assert sorted(sections()) == sorted(alert.name for alert in ALERTS)


@pytest.mark.parametrize("section", sections())
def test_every_runbook_says_what_to_do(section: str) -> None:
    """A section has the meaning, the impact, how to diagnose, mitigate and silence, in this order."""
    parts = re.findall(r"^\*\*(\w+)\.\*\*", sections()[section], re.MULTILINE)
    assert parts == ["Meaning", "Impact", "Diagnosis", "Mitigation", "Silence"]


def test_runbooks_name_what_there_is() -> None:
    """Commands, metrics and expressions of docs/runbooks.md are those of portspec."""
    page = RUNBOOKS.read_text(encoding="utf-8")
    assert set(re.findall(r"bin/portspec ([\w-]+)", page)) <= set(COMMANDS)
    assert set(re.findall(r"\b(?:port|portspec)_[a-z_]+", page)) <= LABELS.keys()
    blocks = re.findall(r"^```promql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for query in chain.from_iterable(re.split(r"\n(?! )", block.strip()) for block in blocks):  # goes on where indented
        assert all(map(known, selectors(query))), query


def test_alerts_have_one_rule_each() -> None:
    """No two rules have the same name: a test of one would pass for the other."""
    places: defaultdict[str, int] = defaultdict(int)
    for rule in ALL:
        places[rule.name] += 1
    assert set(places.values()) == {1}


@pytest.mark.parametrize("path", [RULES, ALERTMANAGER, *TESTS], ids=lambda path: path.name)
def test_lines_are_short(path: Path) -> None:
    """No line of the shipped YAML is longer than 120 characters."""
    assert not [line for line in path.read_text(encoding="utf-8").splitlines() if len(line) > 120]


def test_hosts_that_audits_are_about_are_one_notification_for_each_kind(tmp_path: Path) -> None:
    """A real Alertmanager puts the vulnerable hosts of an exporter together, and hides what follows from something."""
    scan = {"job": "portspec", "instance": "scan1:10190"}
    db1, web1, web2 = ({**scan, "host": host} for host in ("db1", "web1", "web2"))
    alerts = [
        db1 | {"alertname": "AuditVulnerable", "severity": "critical"},
        web1 | {"alertname": "AuditVulnerable", "severity": "warning"},
        web2 | {"alertname": "AuditVulnerable", "severity": "info"},
        web1 | {"alertname": "AuditReportMissing", "severity": "warning"},
        web1 | {"alertname": "AuditFailed", "severity": "warning", "status": "failed"},
        web2 | {"alertname": "AuditFailed", "severity": "warning", "status": "failed"},
        db1 | {"alertname": "PortspecHostDown", "severity": "critical"},
        db1 | {"alertname": "AuditReportMissing", "severity": "warning"},
        scan | {"alertname": "AuditReportRejected", "severity": "warning", "reason": "signature"},
    ]

    def grouped() -> set[tuple[str, str, tuple[str, ...]]]:
        """Return receiver, kind and hosts of every notification that is to be."""
        with urllib.request.urlopen(f"http://{running.address}/api/v2/alerts/groups", timeout=10) as answer:
            groups = json.load(answer)
        return {
            (
                group["receiver"]["name"],
                group["labels"].get("alertname", ""),
                tuple(
                    sorted(
                        alert["labels"].get("host", "")
                        for alert in group["alerts"]
                        if not alert["status"]["inhibitedBy"]
                    )
                ),
            )
            for group in groups
        }

    expected = {
        ("pager", "AuditVulnerable", ("db1",)),
        ("mail", "AuditVulnerable", ("db1", "web1")),
        ("mail", "AuditReportMissing", ("web1",)),
        ("mail", "AuditFailed", ("web2",)),
        ("mail", "AuditReportRejected", ("",)),
        ("pager", "PortspecHostDown", ("db1",)),
        ("mail", "PortspecHostDown", ("db1",)),
        ("nowhere", "AuditVulnerable", ("web2",)),
    }
    with alertmanager(tmp_path / "alertmanager") as running:
        running.post(alerts)
        until(lambda: grouped() == expected)
        running.post([scan | {"alertname": "PortspecExporterDown", "severity": "critical"}])
        of_audits = {("mail", "AuditReportRejected", ("",))}
        until(lambda: {item for item in grouped() if item[1].startswith("Audit") and item[2]} == of_audits)


def test_every_file_of_tests_reads_the_shipped_rules() -> None:
    """What promtool tests is what is shipped."""
    assert {path.parent for path in TESTS} == {DIRECTORY / "tests"}
    for document in documents():
        assert [(DIRECTORY / "tests" / name).resolve() for name in document["rule_files"]] == [RULES]
        assert document["evaluation_interval"] in {"1m", "10m"}
