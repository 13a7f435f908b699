"""The shipped dashboards, and what their panels, annotations and variables ask Prometheus."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).parents[2]
DIRECTORY: Final = ROOT / "grafana" / "dashboards"
PROVISIONING: Final = ROOT / "grafana" / "provisioning"
NAMES: Final = ("portspec-audits", "portspec-exporter", "portspec-host", "portspec-overview")

#: What Grafana puts in place of variables when everything is selected, but for the host.
ALL: Final[Mapping[str, str]] = {
    "job": ".+",
    "instance": ".+",
    "vantage": ".*",
    "__rate_interval": "1m",
    "__interval": "5s",
    "__range": "1h",
}


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a panel (`name` is its letter) or an annotation."""

    dashboard: str
    panel: str
    name: str
    expression: str
    is_instant: bool

    def substituted(self, **variables: str) -> str:
        """Return the expression with values in place of the variables. Raises KeyError for an unknown one."""
        return substituted(self.expression, **variables)

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel} / {self.name}"


def substituted(text: str, **variables: str) -> str:
    """Put values in place of variables; `$1` of label_replace is none."""
    values = {**ALL, **variables}
    return re.sub(r"\$([a-z_]\w*)", lambda match: values[match[1]], text)


def dashboard(name: str) -> dict[str, Any]:
    """Read a dashboard."""
    document: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return document


def panels(name: str) -> list[dict[str, Any]]:
    """Return the panels of a dashboard that show something: all but the rows."""
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


def variables(name: str) -> dict[str, dict[str, Any]]:
    """Return the variables of a dashboard by name."""
    return {variable["name"]: variable for variable in dashboard(name)["templating"]["list"]}


def queries() -> Iterator[Query]:
    """Return all queries of panels and annotations."""
    for name in NAMES:
        for panel in panels(name):
            for target in panel["targets"]:
                is_instant = target.get("instant", False)
                yield Query(name, panel["title"], target["refId"], target["expr"], is_instant)
        for annotation in dashboard(name)["annotations"]["list"]:
            yield Query(name, "(annotations)", annotation["name"], annotation["expr"], is_instant=False)


def label_queries() -> Iterator[tuple[str, str, str]]:
    """Return dashboard, selector and label of each variable whose values Prometheus has."""
    for name in NAMES:
        for variable in variables(name).values():
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                assert found, variable
                yield name, found[1], found[2]
