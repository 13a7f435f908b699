"""The blocks `feeds` and `priorities` of conf.yml: what is known of vulnerabilities, and what to fix first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo

from portspec.config.fields import STRICT, Flag, items
from portspec.config.model import SECONDS_A_DAY, FeedsConfig
from portspec.priorities import DEFAULT_RULES, REACHES, SEVERITIES, Priority, PriorityRule
from portspec.times import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portspec.config.yaml_document import YamlDocument

_REFRESH_RANGE = (600.0, 31 * SECONDS_A_DAY)
_CONDITIONS = ("exploited", "reach", "epss", "severity")


def _place(value: object, info: ValidationInfo) -> str:
    """Validate the URL or the path of a list; no message quotes a URL, since it may contain a secret."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("expected the path of a file, or a URL that starts with https:// or http://")
    if "://" not in value:
        return str(Path(info.context or ".") / value)
    try:
        parts = urlsplit(value)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not (value.isascii() and value.isprintable()) or " " in value:
        raise ValueError("expected a URL that starts with https:// or http:// and names a host")
    return value


def _refresh(value: object) -> float:
    seconds = parse_duration(value)
    if not _REFRESH_RANGE[0] <= seconds <= _REFRESH_RANGE[1]:
        raise ValueError("expected a duration between 10 minutes and 31 days")
    return seconds


def _priority(value: object) -> Priority:
    if not isinstance(value, str) or value not in set(Priority):
        raise ValueError(f"expected {_listed(list(Priority))}")
    return Priority(value)


def _one_of(words: Sequence[str]) -> Callable[[object], frozenset[str]]:
    def check(value: object) -> frozenset[str]:
        found = items(value)
        if (
            not isinstance(found, list)
            or not found
            or not all(isinstance(item, str) and item in words for item in found)
        ):
            raise ValueError(f"expected {_listed(words)}, or a list of them")
        return frozenset(found)

    return check


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("expected a number from 0 to 1, such as 0.1")
    return float(value)


FeedPlace = Annotated[str, BeforeValidator(_place)]


class FeedsModel(BaseModel):
    """The block `feeds`."""

    model_config = STRICT

    kev: FeedPlace | None = None
    epss: FeedPlace | None = None
    refresh: Annotated[float, BeforeValidator(_refresh)] = SECONDS_A_DAY


class PriorityModel(BaseModel):
    """An item of `priorities`."""

    model_config = STRICT

    priority: Annotated[Priority, BeforeValidator(_priority)] = Field(alias="class")
    exploited: Flag | None = None
    reach: Annotated[frozenset[str], BeforeValidator(_one_of(REACHES))] | None = None
    epss: Annotated[float, BeforeValidator(_score)] | None = None
    severity: Annotated[frozenset[str], BeforeValidator(_one_of(SEVERITIES))] | None = None


def check_priorities(source: YamlDocument, raw: dict[str, Any]) -> None:
    """Reject rules that never decide, since one above holds for every vulnerability."""
    rules = raw.get("priorities")
    for place, rule in enumerate(rules[:-1] if isinstance(rules, list) else ()):
        if isinstance(rule, dict) and rule.keys() <= {"class"} and rule.get("class") in set(Priority):
            message = f"holds for every vulnerability, so that no rule below has an effect; add {_listed(_CONDITIONS)}"
            source.problem(("priorities", place), message)


def feeds_config(model: FeedsModel | None) -> FeedsConfig | None:
    """Return the settings; None without a list."""
    if model is None or not (model.kev or model.epss):
        return None
    return FeedsConfig(model.kev, model.epss, model.refresh)


def priority_rules(models: Sequence[PriorityModel] | None) -> tuple[PriorityRule, ...]:
    """Return the rules in their order; those of portspec if the file has none."""
    if models is None:
        return DEFAULT_RULES
    return tuple(PriorityRule(item.priority, item.exploited, item.reach, item.epss, item.severity) for item in models)
