"""The pydantic models of conf.yml, and the messages for their errors."""

from __future__ import annotations

import difflib
import math
import time
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator

from portspec.config.audit import AuditModel, ReportFile, TimeOfDay
from portspec.config.deadlines import DeadlineModel, DeadlineModels, Owner, Weekly
from portspec.config.discovery import MISSING, MODELS, DiscoveryBlock, DiscoveryModel
from portspec.config.feeds import FeedsModel, PriorityModel
from portspec.config.fields import (
    STRICT,
    WHEN_GIVEN,
    Begin,
    Days,
    EngineName,
    Flag,
    FormerNames,
    Glob,
    HostModel,
    HostRate,
    Identifier,
    Interval,
    LabelName,
    MaxDuration,
    ModuleName,
    Network,
    OptionalPorts,
    Ports,
    PortsKey,
    Rate,
    Recheck,
    SeverityOfPort,
    StateFile,
    Text,
    Timeout,
    Until,
    check_accept_url,
    check_external_url,
    check_runbook_url,
    items,
    none_as_empty,
    some,
    whole,
)
from portspec.config.mail import Addresses, MailModel
from portspec.config.model import OWNER_LABEL, SECONDS_A_DAY
from portspec.deny import DEFAULT
from portspec.names import check_host
from portspec.times import read_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic_core import ErrorDetails

    from portspec.config.yaml_document import KeyPath


class _Strict(BaseModel):
    model_config = STRICT


class ScanModel(_Strict):
    """The `scan` block."""

    engine: EngineName = "auto"
    rate: Rate = None
    host_rate: HostRate = None
    timeout: Timeout = 0.9
    retries: Annotated[int, whole(0, 10)] = 2
    confirm: Annotated[int, whole(1, 10)] = 2
    max_duration: MaxDuration = None
    max_addresses: Annotated[int, whole(1, 4096)] = 64


class ExceptionModel(_Strict):
    """An item of `exceptions`."""

    hosts: Annotated[list[Glob], BeforeValidator(items), AfterValidator(some)]
    ports: Annotated[Ports, AfterValidator(some)] = []
    ids: Annotated[list[Identifier], BeforeValidator(items), AfterValidator(some)] = []
    until: Until
    reason: Text = ""
    owner: Text = ""


class MaintenanceModel(_Strict):
    """An item of `maintenance`."""

    hosts: Annotated[list[Glob], BeforeValidator(items), AfterValidator(some)]
    begins: Begin = Field(default=-math.inf, alias="from")
    until: float
    reason: Text = ""
    owner: Text = ""

    @field_validator("until", mode="before")
    @classmethod
    def _ends_later(cls, value: object, info: ValidationInfo) -> float:
        begins = info.data.get("begins", math.nan)  # not a number if it was not valid: a duration from then is neither
        until = read_until(value, begins=None if begins == -math.inf else begins, now=time.time())
        if until <= begins:
            raise ValueError("is not later than from")
        return until


class ModuleModel(_Strict):
    """A module of /probe."""

    expect: Ports = []
    allow: Ports = []
    scanports: OptionalPorts = None
    engine: EngineName = "auto"


class EntryModel(HostModel):
    """An entry of `hosts`."""

    canary: Flag = False
    renamed_from: FormerNames = Field(default=[])

    @field_validator("canary")
    @classmethod
    def _has_an_answer(cls, canary: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic calls it so
        if canary and info.data.get("expect") == []:
            raise ValueError("a canary requires an expected port; add expect")
        return canary


def _host(value: object) -> object:
    return value if isinstance(value, dict) else {"expect": _host_ports(value)}


def _none_as_no_keys(value: object) -> object:
    return {} if value is None else value


def _networks(value: object) -> object:
    if value is None:
        raise ValueError(
            "is empty; list the networks that are denied to discovered hosts, write [] for none, or remove the key"
        )
    return items(value)


def _host_ports(value: object) -> object:
    if isinstance(value, list | int | str | float | None):
        return items(value)
    raise ValueError("expected a list of ports or a mapping with expect, allow, …")


class ConfModel(_Strict, MailModel):
    """A whole file; the keys of mail stand among the others."""

    interval: Interval = 3600.0
    recheck: Recheck = 900.0
    ipv6: Flag = False
    parallelscans: Annotated[int, whole(1, 10_000)] = 10
    hosts: Annotated[
        dict[Annotated[str, AfterValidator(check_host)], Annotated[EntryModel, BeforeValidator(_host)]],
        BeforeValidator(_none_as_no_keys),
    ] = {}
    scanports: Ports = []
    scan: Annotated[ScanModel, WHEN_GIVEN] = Field(default_factory=ScanModel.model_construct)
    discovery: DiscoveryBlock = Field(default_factory=DiscoveryModel.model_construct)
    exceptions: Annotated[list[Annotated[ExceptionModel, WHEN_GIVEN]], BeforeValidator(none_as_empty)] = []
    maintenance: Annotated[list[Annotated[MaintenanceModel, WHEN_GIVEN]], BeforeValidator(none_as_empty)] = []
    port_severity: Annotated[dict[PortsKey, SeverityOfPort], BeforeValidator(_none_as_no_keys)] = {}
    modules: dict[ModuleName, Annotated[ModuleModel, WHEN_GIVEN]] = {}
    probe_allow: Annotated[list[Network], BeforeValidator(items)] = []
    deny: Annotated[list[Network], BeforeValidator(_networks)] = list(map(str, DEFAULT.networks))
    series_budget: Annotated[int, whole(0, 10_000_000)] = 100_000
    state: StateFile = None
    history: Days = 365 * SECONDS_A_DAY
    autoreload: Flag = True
    audit: Annotated[AuditModel, WHEN_GIVEN] | None = None
    feeds: Annotated[FeedsModel, WHEN_GIVEN] | None = None
    priorities: list[Annotated[PriorityModel, WHEN_GIVEN]] | None = None
    deadlines: DeadlineModels = []
    owner_label: LabelName = OWNER_LABEL
    owners: dict[Owner, Addresses] = {}
    worklistmail: Weekly | None = None
    reportfile: ReportFile = None
    reportmail: TimeOfDay = None
    external_url: Annotated[str, BeforeValidator(check_external_url)] | None = None
    runbook_url: Annotated[str, BeforeValidator(check_runbook_url)] | None = None
    accept: Flag = False
    accept_url: Annotated[str, BeforeValidator(check_accept_url)] | None = None


_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): ConfModel,
    ("hosts", "*"): EntryModel,
    ("scan",): ScanModel,
    ("audit",): AuditModel,
    ("feeds",): FeedsModel,
    ("priorities",): PriorityModel,
    ("deadlines",): DeadlineModel,
    ("exceptions",): ExceptionModel,
    ("maintenance",): MaintenanceModel,
    ("modules", "*"): ModuleModel,
    **MODELS,
}
_USER_NAMED_BLOCKS = {"hosts", "modules", "owners", "port_severity"}  # mappings whose keys users choose
_MISSING: dict[tuple[str, ...], str] = {
    ("exceptions", "hosts"): 'missing; list the hosts that the exception applies to, such as ["web*.example.org"]',
    (
        "exceptions",
        "until",
    ): "missing; every exception has an end (a permanently accepted port belongs in allow)",
    ("priorities", "class"): "missing; say which class the rule gives: fix_now, fix_soon, plan or rest",
    ("maintenance", "hosts"): 'missing; list the hosts that the maintenance is of, such as ["web*.example.org"]',
    ("maintenance", "until"): "missing; every maintenance has an end (remove a host that is not to be scanned)",
    **MISSING,
}
_SHORT_FORM_KEY = "expect"


def describe(error: ErrorDetails) -> tuple[KeyPath, str]:
    """Return the path in the file and the message of one pydantic error."""
    path = error["loc"]
    if error["type"] == "value_error" and path[-1] == "[key]":  # how pydantic marks that the key itself is wrong
        path = path[:-1]
    match error["type"]:
        case "value_error":
            message = str(error["ctx"]["error"])
        case "extra_forbidden":
            message = _unknown_key(path)
        case "missing":
            message = _MISSING.get(_place(path), "missing")
        case "model_type" | "model_attributes_type" | "dict_type":
            message = "expected a mapping (key: value)"
        case "list_type":
            message = "expected a list"
        case _:
            message = f"not valid: {error['msg'].lower()}"
    return path, message


def _place(path: KeyPath) -> tuple[str, ...]:
    """Return a path without the places in lists, and with a * for names that users choose."""
    words = [step for step in path if isinstance(step, str)]
    return tuple("*" if index == 1 and words[0] in _USER_NAMED_BLOCKS else step for index, step in enumerate(words))


def _unknown_key(path: KeyPath) -> str:
    close = _close_key(path)
    known = ", ".join(_known_keys(path))
    return f"unknown key (did you mean {close}?)" if close else f"unknown key (known: {known})"


def _close_key(path: KeyPath) -> str | None:
    """Return the key that an unknown one is close to, if there is one."""
    *_, key = path
    known = _known_keys(path)
    if key in ("port", "ports") and "expect" in known:
        return "expect"
    return next(iter(difflib.get_close_matches(str(key), known, n=1)), None)


def _known_keys(path: KeyPath) -> list[str]:
    """Return the keys beside the one at a path, sorted."""
    fields = _MODELS[_place(path)[:-1]].model_fields
    return sorted(field.alias or name for name, field in fields.items())


def misspelt(errors: Iterable[ErrorDetails]) -> dict[KeyPath, KeyPath]:
    """Return the paths of unknown keys, each with the path that was meant."""
    unknown = (error["loc"] for error in errors if error["type"] == "extra_forbidden")
    return {path: (*path[:-1], close) for path in unknown if (close := _close_key(path))}


def respelt(raw: dict[str, Any], meant: Mapping[KeyPath, KeyPath]) -> dict[str, Any]:
    """Return the values of a file with its keys as they were `meant`; the values given are not changed."""
    found: Any = raw
    for path, right in meant.items():
        found = _renamed(found, path, str(right[-1]))
    return dict(found)


def _renamed(value: Any, path: KeyPath, key: str) -> Any:
    """Return a value in which the last key of a path is called otherwise, unless there is one of that name."""
    step, *rest = path
    if isinstance(value, list) and isinstance(step, int):
        return [_renamed(item, tuple(rest), key) if place == step else item for place, item in enumerate(value)]
    if not isinstance(value, dict) or step not in value:
        return value
    if rest:
        return value | {step: _renamed(value[step], tuple(rest), key)}
    return {key: value[step]} | {other: item for other, item in value.items() if other != step}


def plain_host_path(path: KeyPath, raw_hosts: object) -> KeyPath:
    """Remove `expect` from a path where the file has the short form, a list of ports."""
    if len(path) > 2 and path[0] == "hosts" and path[2] == _SHORT_FORM_KEY:  # noqa: PLR2004 - hosts, name, expect
        value: Any = raw_hosts.get(path[1]) if isinstance(raw_hosts, dict) else None
        if not isinstance(value, dict):
            return (*path[:2], *path[3:])
    return path
