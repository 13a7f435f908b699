"""What surrounds the panels of a dashboard: variables, links and annotations, and the page as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from grafana.source.panels import SOURCE
from grafana.source.queries import FLEET, TARGETS, milliseconds, select

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from grafana_foundation_sdk.cog.builder import Builder

    from grafana.source.panels import Panel

#: The version of the classic JSON. Grafana 10.3 and later read it, and migrate it where they have a later one.
SCHEMA_VERSION: Final = 39
TAG: Final = "portspec"

#: The variables that a link to another dashboard hands over, and the time range.
_KEPT: Final = "${datasource:queryparam}&${job:queryparam}&${vantage:queryparam}&${instance:queryparam}"
#: Links of a column: the dashboard of the host in the row, its row on portspec's page, and the page itself.
TO_HOST: Final = (
    "Dashboard of ${__value.text}",
    f"/d/portspec-host?{_KEPT}&var-host=${{__value.raw:percentencode}}&${{__url_time_range}}",
)
TO_PAGE_OF_HOST: Final = (
    "${__data.fields.host} on the page of ${__value.text}",
    "${scheme}://${__value.raw}/hosts/${__data.fields.host}",
)
TO_PAGE: Final = ("Page of ${__value.text}", "${scheme}://${__value.raw}/")
TO_RUNBOOK: Final = ("Runbook of ${__value.text}", "${runbooks}#${__value.raw}")


def query_variable(name: str, label: str, description: str, values: str) -> builders.QueryVariable:
    """Make a variable whose values come from Prometheus, `label_values(…)`."""
    return (
        builders.QueryVariable(name)
        .label(label)
        .description(description)
        .query({"query": values, "refId": name})
        .definition(values)
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.NATURAL_ASC)
    )


def _several(variable: builders.QueryVariable, all_value: str) -> builders.QueryVariable:
    every = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    return variable.multi(multi=True).include_all(include_all=True).all_value(all_value).current(every)


def _variables() -> list[Builder[models.VariableModel]]:
    jobs = f"label_values({select('up', scope=TARGETS[:1])}, job)"
    vantages = f"label_values({select('up', scope=TARGETS[:2])}, vantage)"
    instances = f"label_values({select('up', scope=(TARGETS[0], *FLEET))}, instance)"
    job = query_variable("job", "job", 'Jobs of Prometheus whose name contains "portspec".', jobs)
    # Series without the label have to match, too.
    vantage = query_variable("vantage", "vantage", "Vantage points: where the exporters scan from.", vantages)
    instance = query_variable("instance", "instance", "Exporters; with /probe, hosts.", instances)
    runbooks = query_variable(
        "runbooks", "Runbooks", "The address that the alert rules have.", "label_values(portspec:runbooks:info, url)"
    )
    return [
        builders.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _several(job, ".+"),
        _several(vantage, ".*"),
        _several(instance, ".+"),
        builders.CustomVariable("scheme")
        .label("Pages")
        .description("How a browser reaches the pages of portspec.")
        .values("http,https")
        .current(models.VariableOption(selected=True, text="http", value="http")),
        runbooks.hide(models.VariableHide.HIDE_VARIABLE),
    ]


def marks(name: str, colour: str, timestamps: str, title: str, text: str) -> builders.AnnotationQuery:
    """Annotate the times that an expression has as values, in Unix seconds."""
    return (
        builders.AnnotationQuery()
        .name(name)
        .datasource(SOURCE)
        .enable(enable=True)
        .hide(hide=False)
        .icon_color(colour)
        .expr(milliseconds(timestamps))
        .use_value_for_time(use_value_for_time=True)
        .title_format(title)
        .text_format(text)
        .step("1m")
    )


RELOADS: Final = marks(
    "Configuration loaded",
    "blue",
    select("portspec_config_last_reload_success_timestamp_seconds"),
    "Configuration loaded",
    "{{instance}} loaded its conf.yml",
)


def _links() -> list[Builder[models.DashboardLink]]:
    others = builders.DashboardLink("portspec").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    runbooks = builders.DashboardLink("Runbooks").type(models.DashboardLinkType.LINK).icon("doc")
    return [
        others.include_vars(include_vars=True).keep_time(keep_time=True),
        runbooks.url("${runbooks}").tooltip("What to do about each alert").target_blank(target_blank=True),
    ]


def page(
    name: str,
    title: str,
    description: str,
    sections: Iterable[tuple[str, Sequence[Panel]]],
    *,
    variables: Sequence[Builder[models.VariableModel]] = (),
    annotations: Sequence[Builder[models.AnnotationQuery]] = (RELOADS,),
    since: str = "now-24h",
) -> models.Dashboard:
    """Make a dashboard, whose uid is `portspec-NAME`. `sections` are the titles of rows and their panels."""
    made = (
        builders.Dashboard(title)
        .uid(f"portspec-{name}")
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .readonly()
        .refresh("1m")
        .time(since, "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .variables([*_variables(), *variables])
        .annotations(list(annotations))
        .links(_links())
    )
    for heading, panels in sections:
        made.with_row(builders.Row(heading))
        for panel in panels:
            made.with_panel(panel)
    dashboard = made.build()
    dashboard.schema_version = SCHEMA_VERSION
    for number, panel_of in enumerate(dashboard.panels or (), 1):
        panel_of.id_val = number
    return dashboard


def text(dashboard: models.Dashboard) -> str:
    """Write a dashboard as the file in the repository."""
    document = json.loads(json.dumps(dashboard, cls=JSONEncoder))
    for item in (*document["links"], *document["annotations"]["list"]):
        del item["placement"]  # by which the SDK moves each of them into a menu of Grafana 12
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
