"""Panels as all dashboards have them: with a title, a description, a unit, and the data source of the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from grafana_foundation_sdk.cog.builder import Builder

Panel: TypeAlias = "Builder[models.Panel]"
States: TypeAlias = "Mapping[int, tuple[str, str]]"
Targets: TypeAlias = "Mapping[str, str]"

SOURCE: Final = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH: Final = 24

#: What numbers mean, such as those of `queries.verdict`: the name and the colour.
VERDICTS: Final[States] = {
    0: ("In specification", "green"),
    1: ("Out of specification", "red"),
    2: ("Unknown", "purple"),
    3: ("Stale", "orange"),
}
MAINTENANCE: Final[States] = {0: ("none", "text"), 1: ("under way", "blue")}
HEALTH: Final[States] = {0: ("failing", "red"), 1: ("ok", "green")}
YES: Final[States] = {0: ("no", "red"), 1: ("yes", "green")}

#: The statuses of audits, and the severities of vulnerabilities, with their colours.
STATUSES: Final = {
    "clean": "green",
    "vulnerable": "red",
    "failed": "orange",
    "stale_database": "yellow",
    "unsupported": "purple",
    "never": "text",
}
SEVERITIES: Final = {
    "critical": "dark-red",
    "high": "red",
    "medium": "orange",
    "low": "yellow",
    "negligible": "blue",
    "unknown": "purple",
}

# A fleet of 10,000 hosts has as many series for each point of a graph.
_POINTS_OF_A_FLEET: Final = 100


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the name of the field, its title, and how it is shown.

    Without a unit and states it shows text. `colours` is for text, by what it says.
    """

    field: str
    title: str
    unit: str = ""
    states: States | None = None
    colours: Mapping[str, str] | None = None
    link: tuple[str, str] | None = None
    is_hidden: bool = False

    def properties(self) -> list[models.DynamicConfigValue]:
        """Return the settings that differ from those of the table."""
        found: list[models.DynamicConfigValue] = []
        if unit := self.unit or ("none" if self.states else ""):
            found.append(models.DynamicConfigValue("unit", unit))
        if self.states:
            found.append(models.DynamicConfigValue("mappings", mappings(self.states)))
        if self.colours:
            named = {text: models.ValueMappingResult(color=colour) for text, colour in self.colours.items()}
            found.append(models.DynamicConfigValue("mappings", [models.ValueMap(named)]))
        if self.states or self.colours:
            found.append(models.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
        if self.link:
            title, url = self.link
            found.append(models.DynamicConfigValue("links", [{"title": title, "url": url}]))
        if self.is_hidden:
            found.append(models.DynamicConfigValue("custom.hidden", value=True))
        return found


def mappings(states: States) -> list[models.ValueMapping]:
    """Show numbers by their names and colours."""
    named = {
        str(number): models.ValueMappingResult(text=text, color=colour, index=number)
        for number, (text, colour) in states.items()
    }
    return [models.ValueMap(named)]


def numbered_states(colours: Mapping[str, str]) -> States:
    """Name the numbers of `queries.numbered`."""
    return dict(enumerate(colours.items()))


def steps(*colours: tuple[float | None, str]) -> builders.ThresholdsConfig:
    """Colour values from a number on; the first number is None."""
    return (
        builders.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value, colour) for value, colour in colours])
    )


def _range(expression: str, legend: str, name: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).range().ref_id(name).datasource(SOURCE)


def number(
    title: str,
    description: str,
    expression: str,
    *,
    unit: str = "short",
    bad: str = "",
    states: States | None = None,
    width: int = 4,
    is_instant: bool = False,
) -> Panel:
    """Show one number; with its history behind it unless it `is_instant`. Above 0 it has the colour `bad`, if any."""
    target = prometheus.Dataquery().expr(expression).legend_format(title).ref_id("A").datasource(SOURCE)
    colours = steps((None, "green"), (1, bad)) if bad else steps((None, "text"))
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(target.instant() if is_instant else target.range())
        .unit(unit)
        .thresholds(colours)
        .color_scheme(builders.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE if is_instant else common.BigValueGraphMode.AREA)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
        .max_data_points(_POINTS_OF_A_FLEET)
        .height(4)
        .span(width)
    )
    return panel.mappings(mappings(states)) if states else panel


def graph(
    title: str,
    description: str,
    targets: Targets,
    *,
    unit: str = "short",
    colours: Mapping[str, str] | None = None,
    is_stacked: bool = False,
    is_of_fleet: bool = False,
    width: int = 12,
) -> Panel:
    """Draw lines. `targets` are expressions by their legends, `colours` the colours of series by name.

    A graph that `is_of_fleet` reads a series of each host, and therefore has fewer points.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .fill_opacity(60 if is_stacked else 10)
        .line_width(1)
        .legend(_legend())
        .tooltip(_tooltip())
        .height(8)
        .span(width)
    )
    if is_stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if is_of_fleet:
        panel.max_data_points(_POINTS_OF_A_FLEET)
    for name, (legend, expression) in zip("ABCDEFGH", targets.items(), strict=False):
        panel.with_target(_range(expression, legend, name))
    for series, colour in (colours or {}).items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel.override_by_name(series, [models.DynamicConfigValue("color", fixed)])
    return panel


def timeline(
    title: str,
    description: str,
    targets: Targets,
    states: States,
    *,
    is_of_fleet: bool = False,
    width: int = WIDTH,
    height: int = 8,
) -> Panel:
    """Draw a bar for each series whose colour is its state. `targets` are expressions by their legends."""
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("short")
        .mappings(mappings(states))
        .color_scheme(builders.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .merge_values(merge_values=True)
        .show_value(common.VisibilityMode.AUTO)
        .row_height(0.8)
        .fill_opacity(80)
        .line_width(0)
        .legend(_legend())
        .tooltip(_tooltip())
        .height(height)
        .span(width)
    )
    if is_of_fleet:
        panel.max_data_points(_POINTS_OF_A_FLEET)
    for name, (legend, expression) in zip("ABCDEFGH", targets.items(), strict=False):
        panel.with_target(_range(expression, legend, name))
    return panel


def rows(
    title: str,
    description: str,
    expressions: Sequence[str],
    columns: Sequence[Column],
    *,
    sort: tuple[str, bool] | None = None,
    nothing: str = "",
    width: int = WIDTH,
    height: int = 8,
) -> Panel:
    """Make a table of the present values. The value of an expression is the field `Value`, or with several `Value #A`.

    It has these columns in this order, and no other. `sort` is the title of a column, and whether it descends.
    `nothing` is shown without rows.
    """
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("string")  # else a label of digits, such as a port or a version, is shown as a number
        .filterable(filterable=True)
        .footer(
            common_builders.TableFooterOptions().show(show=False).reducer([]).enable_pagination(enable_pagination=True)
        )
        .height(height)
        .span(width)
    )
    for name, expression in zip("ABCDEFGHIJ", expressions, strict=False):
        query = prometheus.Dataquery().expr(expression).instant().format(PromQueryFormat.TABLE)
        panel.with_target(query.ref_id(name).datasource(SOURCE))
    names = [column.field for column in columns]
    if len(expressions) > 1:
        panel.with_transformation(models.DataTransformerConfig("merge", options={}))
    panel.with_transformation(models.DataTransformerConfig("filterFieldsByName", options={"include": {"names": names}}))
    order = {name: position for position, name in enumerate(names)}
    titles = {column.field: column.title for column in columns}
    organized = {"indexByName": order, "renameByName": titles, "excludeByName": {}}
    panel.with_transformation(models.DataTransformerConfig("organize", options=organized))
    for column in columns:
        if properties := column.properties():
            panel.override_by_name(column.title, properties)
    if sort:
        title_of, is_descending = sort
        panel.sort_by([common_builders.TableSortByFieldState().display_name(title_of).desc(desc=is_descending)])
    return panel.no_value(nothing) if nothing else panel


def _legend() -> common_builders.VizLegendOptions:
    return (
        common_builders.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(show_legend=True)
        .calcs([])
    )


def _tooltip() -> common_builders.VizTooltipOptions:
    options = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    return options.sort(common.SortOrder.DESCENDING)
