"""The shipped alert rules, and what their expressions and templates name."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import promql_parser
import yaml

from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).parents[2]
DIRECTORY: Final = ROOT / "alert_rules"
RULES: Final = DIRECTORY / "portspec.rules.yml"
TESTS: Final = tuple(sorted((DIRECTORY / "tests").glob("*.yml")))
ALERTMANAGER: Final = DIRECTORY / "alertmanager.yml"
RUNBOOKS: Final = ROOT / "docs" / "runbooks.md"

#: Labels that a target has, and portspec does not know; `vantage` and `exporter` are those of docs/deployment/.
TARGET_LABELS: Final = frozenset({"job", "instance", "vantage", "exporter"})


@dataclass(frozen=True, slots=True)
class Rule:
    """An alert, or a recording rule."""

    name: str
    is_alert: bool
    expression: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def queries(self) -> tuple[str, ...]:
        """The expression, and what its templates ask for."""
        formats = (found for text in self.annotations.values() for found in re.findall(r'printf\s+"([^"]+)"', text))
        return (self.expression, *(text.replace("%q", '"x"') for text in formats if "{" in text))


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric, or whatever has its name, and the labels by which its series are chosen."""

    metric: str
    labels: frozenset[str]


def read() -> tuple[Rule, ...]:
    """Read the rules."""
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return tuple(_rule(item) for group in document["groups"] for item in group["rules"])


def _rule(item: Mapping[str, Any]) -> Rule:
    is_alert = "alert" in item
    name = item["alert" if is_alert else "record"]
    return Rule(name, is_alert, item["expr"], item.get("labels", {}), item.get("annotations", {}))


def selectors(query: str) -> Iterator[Selector]:
    """Return every selector of an expression. Raises ValueError if it is none."""
    for node in _nodes(query):
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, f"a selector without a name in {query}"
            yield Selector(node.name, frozenset(matcher.name for matcher in node.matchers.matchers))


def grouping_labels(query: str) -> frozenset[str]:
    """Return the labels that stand behind `by`, `without`, `on`, `ignoring` and `group_left` in an expression."""
    found: set[str] = set()
    for node in _nodes(query):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            found.update(node.modifier.labels)
        if isinstance(node, promql_parser.BinaryExpr) and node.modifier:
            found.update(node.modifier.matching.labels if node.modifier.matching else ())
            found.update(node.modifier.group_labels or ())
    return frozenset(found)


def _nodes(query: str) -> list[promql_parser.Expr]:
    nodes: list[promql_parser.Expr] = []
    promql_parser.walk(promql_parser.parse(query), nodes.append)
    return nodes


def tool(name: str, package: str) -> str:
    """Return the path of a program; without it the test is skipped, and fails in CI."""
    path = shutil.which(name)
    if path is None:
        missing(f"{name} (Debian: {package}) is not installed")
    return path
