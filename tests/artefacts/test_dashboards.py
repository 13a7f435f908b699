from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import promql_parser
import pytest
import yaml

from grafana.source.__main__ import files
from portspec.audit.model import Severity, Status
from portspec.metrics import CATALOGUE
from tests.artefacts.dashboards import (
    DIRECTORY,
    NAMES,
    PROVISIONING,
    ROOT,
    dashboard,
    label_queries,
    panels,
    queries,
    substituted,
    variables,
)
from tests.artefacts.rules import TARGET_LABELS, grouping_labels, read, selectors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.artefacts.dashboards import Query

QUERIES: Final = tuple(queries())
RULES: Final = read()
RECORDED: Final = frozenset(rule.name for rule in RULES if not rule.is_alert)
COUNTERS: Final = frozenset(metric.name for metric in CATALOGUE if metric.kind == "counter")
HOST_LABELS: Final = frozenset({"team", "site", "env", "role", "owner"})  # of conf.yml, which alerts carry
#: Metrics of Prometheus itself, and of the process of any exporter, with their labels.
FOREIGN: Final = {
    "up": frozenset[str](),
    "scrape_duration_seconds": frozenset[str](),
    "ALERTS": frozenset({"alertname", "alertstate", "host"}),
    "ALERTS_FOR_STATE": frozenset({"alertname", "host"}),
    "process_cpu_seconds_total": frozenset[str](),
    "process_max_fds": frozenset[str](),
    "process_open_fds": frozenset[str](),
    "process_resident_memory_bytes": frozenset[str](),
    "process_start_time_seconds": frozenset[str](),
}
LABELS: Final = {metric.name: frozenset(metric.labels) for metric in CATALOGUE} | FOREIGN
EVERY_LABEL: Final = frozenset(chain.from_iterable(LABELS.values())) | TARGET_LABELS | HOST_LABELS | {"severity"}

each_dashboard = pytest.mark.parametrize("name", NAMES)
each_query = pytest.mark.parametrize("query", QUERIES, ids=str)


def matchers(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Return each selector of an expression with variables: the metric, and what is compared with each label."""
    for metric, inside in re.findall(r"\b(\w[\w:]*)\{([^}]*)\}", text):
        yield metric, dict(re.findall(r'(\w+)=~?"([^"]*)"', inside))


def recorded_over_instances(metric: str) -> bool:
    """Return whether a rule records a metric over all exporters, so that its series have no label `instance`."""
    return metric in RECORDED and "instance" not in metric.partition(":")[0]


# What is in the repository is what the code writes.


def test_dashboards_are_those_of_the_code() -> None:
    """The files are what `python -m grafana.source` writes; if not, run `make generated`."""
    assert {path.name: path.read_text(encoding="utf-8") for path in DIRECTORY.iterdir()} == files()
    assert {path.stem for path in DIRECTORY.iterdir()} == set(NAMES)


# The rules of dashboard-linter, by their names there. Those about Loki have nothing to look at.


@each_dashboard
def test_template_datasource(name: str) -> None:
    """There is one variable for the data source, and it is a Prometheus."""
    found = [variable for variable in variables(name).values() if variable["type"] == "datasource"]
    assert [(each["name"], each["label"], each["query"]) for each in found] == [
        ("datasource", "Data source", "prometheus")
    ]


@each_dashboard
@pytest.mark.parametrize(("variable", "all_value"), [("job", ".+"), ("instance", ".+"), ("vantage", ".*")])
def test_template_job_and_instance(name: str, variable: str, all_value: str) -> None:
    """Jobs, exporters and vantage points can be chosen, several at a time, and all are from the beginning.

    A vantage point is a label that targets need not have.
    """
    found = variables(name)[variable]
    assert (found["type"], found["label"], found["multi"], found["includeAll"]) == ("query", variable, True, True)
    assert found["allValue"] == all_value
    assert found["current"]["value"] == ["$__all"]
    assert found["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize(("name", "selector", "label"), list(label_queries()))
def test_template_label_promql(name: str, selector: str, label: str) -> None:
    """Each variable of Prometheus asks for a label of a selector that can be parsed."""
    promql_parser.parse(substituted(selector))
    assert label in EVERY_LABEL | {"url"}


@each_dashboard
def test_template_on_time_change_reload(name: str) -> None:
    """Variables follow the time range: a job that was removed is there in the time when it ran."""
    assert {each["refresh"] for each in variables(name).values() if each["type"] == "query"} == {2}


@each_dashboard
def test_panel_datasource(name: str) -> None:
    """Panels, queries and annotations use the data source that was chosen."""
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    found = panels(name)
    everything = [*found, *chain.from_iterable(panel["targets"] for panel in found)]
    everything += dashboard(name)["annotations"]["list"]
    assert all(each["datasource"] == chosen for each in everything)


@each_dashboard
def test_panel_title_description(name: str) -> None:
    """Every panel has a title of its own on the page, and sentences that say what it shows."""
    titles = [panel["title"] for panel in panels(name)]
    assert all(titles)
    assert len(set(titles)) == len(titles)
    assert all(re.fullmatch(r"[A-Z].*\.", panel["description"], re.DOTALL) for panel in panels(name))


@each_dashboard
def test_panel_units(name: str) -> None:
    """Every number has a unit, or words in its place. The columns of tables have one each; other columns are text."""
    for panel in panels(name):
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"]
        assert (defaults["unit"] == "string") == (panel["type"] == "table")
        if panel["type"] == "table":
            titles = panel["transformations"][-1]["options"]["renameByName"]
            numbers = {title for field, title in titles.items() if field.startswith("Value")}
            with_unit = {
                override["matcher"]["options"]
                for override in panel["fieldConfig"]["overrides"]
                if any(each["id"] == "unit" for each in override["properties"])
            }
            assert numbers == with_unit


@each_dashboard
def test_panel_no_targets(name: str) -> None:
    """Every panel has a query, and each of its queries a letter of its own."""
    for panel in panels(name):
        letters = [target["refId"] for target in panel["targets"]]
        assert letters
        assert len(set(letters)) == len(letters)


@each_query
def test_target_promql(query: Query) -> None:
    """Every query can be parsed, whether all, one or several exporters are chosen."""
    for value in (".+", "scan1:10190", "(scan1:10190|scan2:10190)"):
        promql_parser.parse(query.substituted(host="web1", job=value, instance=value, vantage=value))


@each_query
def test_target_rate_interval(query: Query) -> None:
    """Rates are those of $__rate_interval, which holds enough scrapes for any time range."""
    for function, rest in re.findall(r"\b(rate|increase)\(.*?(\[[^]]*\])", query.expression):
        assert (function, rest) == ("rate", "[$__rate_interval]")


@each_query
def test_target_job_and_instance(query: Query) -> None:
    """Every selector follows the variables, as far as its series have the labels.

    What rules record over all exporters has no `instance`. Alerts may lack all three labels, and match with none.
    """
    found = list(matchers(query.expression))
    assert found
    for metric, compared in found:
        suffix = "|" if metric.startswith("ALERTS") else ""
        wanted = {label: f"${label}{suffix}" for label in ("job", "instance", "vantage")}
        if recorded_over_instances(metric):
            del wanted["instance"]
        if metric.startswith("job_host_port:"):
            del wanted["vantage"]
        if metric == "up" or metric.startswith("scrape_"):
            compared["job"] = "$job"  # beside the name of the job that rules and dashboards share
            assert 'job=~".*portspec.*",job=~"$job"' in query.expression
        assert {label: compared.get(label) for label in wanted} == wanted


@each_query
def test_target_counter_agg(query: Query) -> None:
    """Counters are shown as rates that are added up, since they begin at 0 with each start."""
    used = [metric for metric, _ in matchers(query.expression) if metric.endswith("_total")]
    rated = re.findall(r"sum by \([\w, ]+\) \(rate\((\w+)\{", query.expression)
    assert used == rated


@each_dashboard
def test_uneditable_dashboard(name: str) -> None:
    """A dashboard that is provisioned cannot be edited; a copy can."""
    assert dashboard(name)["editable"] is False


# What dashboard-linter does not look at.


@each_query
def test_queries_name_what_there_is(query: Query) -> None:
    """Metrics and labels are those of the catalogue or of the shipped rules."""
    text = query.substituted(host="web1")
    for selector in selectors(text):
        assert selector.metric in RECORDED | LABELS.keys(), selector
        if selector.metric in LABELS:
            assert selector.labels <= LABELS[selector.metric] | TARGET_LABELS, selector
    assert grouping_labels(text) <= EVERY_LABEL


@each_dashboard
def test_columns_are_labels(name: str) -> None:
    """The columns of tables are labels, the address of the exporter that `with_page` adds, or values."""
    for panel in panels(name):
        if panel["type"] == "table":
            shown = panel["transformations"][-2]["options"]["include"]["names"]
            assert set(shown) <= EVERY_LABEL | {"page"} | {"Value", *(f"Value #{letter}" for letter in "ABCDEFGHI")}


@each_dashboard
def test_page_can_be_provisioned(name: str) -> None:
    """A page has an address, a time zone, a refresh and a tag, and nothing that only the import dialog fills in."""
    page = dashboard(name)
    assert page["uid"] == name
    assert page.keys().isdisjoint({"__inputs", "__requires", "id"})
    assert (page["schemaVersion"], page["timezone"], page["tags"]) == (39, "browser", ["portspec"])
    assert int(page["refresh"].removesuffix("m")) >= 1
    assert page["description"].endswith(".")


def test_pages_have_titles_of_their_own() -> None:
    """No two dashboards of the folder have the same title."""
    assert len({dashboard(name)["title"] for name in NAMES}) == len(NAMES)


@each_dashboard
def test_panels_lie_side_by_side(name: str) -> None:
    """Panels have numbers of their own, lie within the width of a page, and do not overlap."""
    found = dashboard(name)["panels"]
    assert [panel["id"] for panel in found] == list(range(1, len(found) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place.get("x", 0), place.get("x", 0) + place["w"])
            for y in range(place.get("y", 0), place.get("y", 0) + place["h"])
        }
        assert taken.isdisjoint(own), panel["title"]
        assert max(x for x, _ in own) < 24, panel["title"]
        taken |= own


@each_dashboard
def test_pages_lead_to_each_other_and_to_portspec(name: str) -> None:
    """A page links the others with variables and time range, the runbooks, the hosts, and the pages of portspec."""
    page = dashboard(name)
    to_others, to_runbooks = page["links"]
    assert (to_others["type"], to_others["tags"]) == ("dashboards", ["portspec"])
    assert to_others["includeVars"]
    assert to_others["keepTime"]
    assert to_runbooks["url"] == "${runbooks}"
    links = re.findall(r'"url": "([^"]+)"', (DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    assert any(link.startswith("${scheme}://") for link in links)
    for uid in (found[1] for link in links if (found := re.match(r"/d/([\w-]+)\?", link))):
        assert uid in NAMES
    for link in links:
        used = set(re.findall(r"\$\{([a-z]\w*)[}:]", link)) | set(re.findall(r"var-(\w+)=", link))
        assert used - {"host"} <= variables(name).keys(), link


@each_dashboard
def test_pages_annotate_changes(name: str) -> None:
    """Each page marks when an exporter loaded its configuration; those of hosts mark when their ports changed."""
    marks = {each["name"]: each for each in dashboard(name)["annotations"]["list"]}
    assert all(mark["useValueForTime"] and mark["expr"].startswith("1000 * (") for mark in marks.values())
    assert "Configuration loaded" in marks
    changes = [mark for mark in marks.values() if "port_last_change_timestamp_seconds" in mark["expr"]]
    assert len(changes) == (name in {"portspec-host", "portspec-overview"})


@pytest.mark.parametrize("query", [each for each in QUERIES if each.is_instant], ids=str)
def test_tables_of_a_fleet_are_bounded(query: Query) -> None:
    """A table of the fleet has the first so many rows: 10,000 hosts do not make 10,000.

    Not bounded is what concerns one host, or has a row for each exporter.
    """
    compared = [compared for metric, compared in matchers(query.expression) if metric in LABELS]
    is_of_host = bool(compared) and all(each.get("host") == "$host" for each in compared)
    is_of_exporter = query.panel == "Exporters" and "host" not in query.expression.replace("portspec_hosts", "")
    is_bounded = re.search(r"\b(top|bottom)k( by \(severity\) )?\(\d+, ", query.expression)
    assert is_of_host or is_of_exporter or is_bounded


def words(panel: dict[str, Any]) -> set[str]:
    """Return what the values of a panel are called."""
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    return {each["text"] for each in mapping["options"].values()}


def coloured(panel: dict[str, Any]) -> set[str]:
    """Return the names of the series that have a colour of their own."""
    return {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}


def test_statuses_and_severities_are_those_of_audits() -> None:
    """The states of audits are shown by their names, and each has a colour, as each severity has."""
    host, fleet = ({panel["title"]: panel for panel in panels(f"portspec-{name}")} for name in ("host", "audits"))
    statuses = {"never", *(str(status.value) for status in Status)}
    assert words(host["Status of audits over time"]) == coloured(fleet["Hosts by status"]) == statuses
    severities = {severity.value for severity in Severity}
    assert words(fleet["Worst vulnerability of the most vulnerable hosts"]) == severities
    assert coloured(fleet["Vulnerabilities by severity"]) == severities


def provisioned(kind: str) -> dict[str, Any]:
    """Read a file that provisions something."""
    document: dict[str, Any] = yaml.safe_load((PROVISIONING / kind / "portspec.yml").read_text(encoding="utf-8"))
    return document


def test_provisioning_files_are_complete() -> None:
    """The provider reads the directory that compose.yml mounts, and the data source is the Prometheus there."""
    (provider,) = provisioned("dashboards")["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
    mounted = (ROOT / "compose.yml").read_text(encoding="utf-8")
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounted
    (source,) = provisioned("datasources")["datasources"]
    assert (source["type"], source["access"]) == ("prometheus", "proxy")
    assert source["uid"]
    assert f"{source['url'].removeprefix('$')}: http://" in mounted
