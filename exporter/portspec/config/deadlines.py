"""The keys `deadlines`, `owners` and `worklistmail` of conf.yml: by when what was found is to be fixed, and by whom."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from portspec.config.audit import read_time_of_day
from portspec.config.fields import STRICT, WHEN_GIVEN, LabelName, Text, read_days
from portspec.config.model import WEEK, WeeklyTime
from portspec.deadlines import KINDS, SECONDS_A_DAY, SEVERITIES, DeadlineRule, Deadlines
from portspec.priorities import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.config.yaml_document import YamlDocument

_NAMES: Final = (*map(str, Priority), *SEVERITIES, *KINDS)
_WEEKLY: Final = re.compile(r"([a-z]+)\s+([0-9]{1,2}:[0-9]{2})")
_WORKLISTMAIL_REQUIRES: Final = ("smtpserver", "alertemail", "fromemail")


def _limit(value: object) -> float:
    expected = 'days, such as 14, or a duration, such as "12h", between 1 hour and 3,650 days'
    return read_days(value, 3600.0, 3650 * SECONDS_A_DAY, expected)


_Limit = Annotated[float | None, BeforeValidator(_limit)]


class DeadlineModel(BaseModel):
    """An item of `deadlines`: limits by class, by severity, and by the way in which a port deviates."""

    model_config = STRICT

    labels: dict[LabelName, Text] = {}
    fix_now: _Limit = None
    fix_soon: _Limit = None
    plan: _Limit = None
    rest: _Limit = None
    critical: _Limit = None
    high: _Limit = None
    medium: _Limit = None
    low: _Limit = None
    negligible: _Limit = None
    unknown: _Limit = None
    warning: _Limit = None
    info: _Limit = None
    unexpected: _Limit = None
    missing: _Limit = None


class _OneOrMore:
    """Marks a list of models, of which one may stand without a list; the paths of errors are those of the file."""

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        several = handler(list[Annotated[DeadlineModel, WHEN_GIVEN]])

        def check(value: object, validate: core_schema.ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
            if isinstance(value, dict):
                return [DeadlineModel.model_validate(value, context=info.context)]
            if value is None:
                return []
            return validate(value)

        return core_schema.with_info_wrap_validator_function(check, several)


def _weekly(value: object) -> WeeklyTime:
    """Read a day of the week in English, by its first three letters or whole, and a time of day."""
    found = _WEEKLY.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    day = found and next((number for number, name in enumerate(WEEK) if found[1] in (name, name[:3])), None)
    if found is None or day is None:
        raise ValueError('expected a day of the week and a time, such as "mon 07:00"')
    return WeeklyTime(day, read_time_of_day(found[2]))


def _owner(name: str) -> str:
    if not name.strip():
        raise ValueError("is empty; remove it: worklists of hosts without an owner go to alertemail")
    return name


Owner = Annotated[str, AfterValidator(_owner)]
Weekly = Annotated[Any, BeforeValidator(_weekly)]  # a WeeklyTime, which pydantic need not look into
DeadlineModels = Annotated[list[DeadlineModel], _OneOrMore()]


def check_owners(source: YamlDocument, raw: dict[str, Any]) -> None:
    """Check what the mails to owners need."""
    if _is_weekly(raw.get("worklistmail")):
        if missing := [name for name in _WORKLISTMAIL_REQUIRES if raw.get(name) in (None, [], "")]:
            source.problem(("worklistmail",), f"requires {' and '.join(missing)}")
    elif raw.get("owners") and raw.get("worklistmail") is None:
        source.problem(("owners",), "has no effect without worklistmail, the time at which mails are sent to owners")

    owners = raw.get("owners")
    for name, addresses in owners.items() if isinstance(owners, dict) else ():
        if addresses in (None, [], ""):
            source.problem(("owners", name), "has no address; remove it: worklists of other owners go to alertemail")


def _is_weekly(value: object) -> bool:
    try:
        _weekly(value)
    except ValueError:
        return False  # told by the key itself
    return True


def check_deadlines(source: YamlDocument, raw: dict[str, Any]) -> None:
    """Reject rules without a limit, and rules that never apply, since one above applies to every host of theirs."""
    given = raw.get("deadlines")
    rules = given if isinstance(given, list) else [given]
    above: list[tuple[dict[str, Any], int]] = []
    for place, rule in enumerate(rules):
        if not isinstance(rule, dict):
            continue
        path = ("deadlines", place) if isinstance(given, list) else ("deadlines",)
        if not any(rule.get(name) is not None for name in _NAMES):
            source.problem(path, f"has no limit; add at least one of {', '.join(_NAMES)}")
        labels = rule.get("labels") or {}
        if not isinstance(labels, dict):
            continue  # told by the key itself
        for earlier, line in above:
            if labels == earlier:
                source.problem(path, f"has the same labels as the rule on line {line}; write one rule with all limits")
                break
            if labels.items() >= earlier.items():
                reason = f"the rule on line {line} applies to all of its hosts"
                source.problem(path, f"never applies, because {reason}; move it above line {line}")
                break
        above.append((labels, source.line(path)))


def deadline_rules(models: Iterable[DeadlineModel]) -> tuple[DeadlineRule, ...]:
    """Return the rules in their order."""
    return tuple(DeadlineRule(_deadlines(model), MappingProxyType(dict(model.labels))) for model in models)


def _deadlines(model: DeadlineModel) -> Deadlines:
    return Deadlines(_given(model, list(Priority)), _given(model, SEVERITIES), _given(model, KINDS))


def _given(model: DeadlineModel, names: Sequence[str]) -> MappingProxyType[str, float]:
    found = {str(name): getattr(model, name) for name in names}
    return MappingProxyType({name: limit for name, limit in found.items() if limit is not None})
