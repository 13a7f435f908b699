"""The `audit` block of conf.yml, and the keys of the report of all machines."""

from __future__ import annotations

import os
import re
import warnings
from datetime import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator

from portspec.config.fields import STRICT, Days, Text, flag, items, none_as_empty, read_secret
from portspec.config.model import SECONDS_A_DAY, AuditConfig
from portspec.names import canonical, canonical_one
from portspec.times import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from portspec.config.yaml_document import KeyPath, YamlDocument

MIN_PASSPHRASE = 16  # characters: with the key of one host, passphrases can be guessed offline
_HINT = "`openssl rand -base64 24` generates a good one"
_MAX_AGE_RANGE = (3600.0, 366 * SECONDS_A_DAY)
_SECRET_KEYS = ("passphrase", "previous_passphrase")
_REPORTMAIL_REQUIRES = ("smtpserver", "alertemail", "fromemail")


def _strong(value: str) -> str:
    """Reject a short passphrase, and strip surrounding blanks; no message quotes it."""
    secret = value.strip()
    if len(secret) < MIN_PASSPHRASE:
        raise ValueError(f"expected at least {MIN_PASSPHRASE} characters ({_HINT})")
    return secret


def _strong_in_file(value: object, info: ValidationInfo) -> str:
    """Return the passphrase that a file holds: it is read once, so that it may be a pipe."""
    path, text = read_secret(value, info)
    secret = text.removeprefix("\ufeff").strip()
    if len(secret) < MIN_PASSPHRASE:
        raise ValueError(f'the file "{path}" holds fewer than {MIN_PASSPHRASE} characters ({_HINT})')
    return secret


def _one_host(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected the name or address of a host")  # noqa: TRY004 - pydantic takes ValueError
    if "/" in value and "://" not in value:
        raise ValueError(f'"{value}" is a CIDR; name each host, or set audit: true on the CIDR under hosts')
    canonical_one(value)
    return value


def _expression(value: str) -> str:
    """Validate a regular expression; reject one that Python warns about, since it is ambiguous."""
    if not value:
        raise ValueError("expected a regular expression, such as '\\.example\\.org'")
    try:
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always", FutureWarning)
            re.purge()  # Python warns when it compiles, not when it remembers what it compiled
            re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"is not a regular expression: {why}") from None
    for doubt in doubts:
        if doubt.category is FutureWarning:
            raise ValueError(f"is an ambiguous regular expression: {str(doubt.message).lower()}")
    return value


def _age(value: object) -> float:
    seconds = parse_duration(value)
    if not _MAX_AGE_RANGE[0] <= seconds <= _MAX_AGE_RANGE[1]:
        raise ValueError("expected a duration between 1 hour and 366 days")
    return seconds


def _report_file(value: object, info: ValidationInfo) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("expected the path of a file, which is overwritten each time")
    path = Path(info.context or ".") / value
    if not value.endswith((".html", ".htm")):  # no slip may overwrite another file
        raise ValueError("expected the path of an HTML file, which ends in .html")
    if not os.path.isdir(path.parent):  # noqa: PTH112 - Path.is_dir() raises for what may not be looked at
        raise ValueError(f'directory "{path.parent}" does not exist')
    if os.path.isdir(path):  # noqa: PTH112 - as above
        raise ValueError(f'"{path}" is a directory; name a file')
    return str(path)


def read_time_of_day(value: object) -> time:
    """Read a time of day; ValueError if it is none."""
    found = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError('expected a time of day from "00:00" to "23:59", such as "07:00"')
    return time(int(found[1]), int(found[2]))


Secret = Annotated[Text, AfterValidator(_strong)]
SecretInFile = Annotated[str, BeforeValidator(_strong_in_file)]
ReportFile = Annotated[str | None, BeforeValidator(_report_file)]
TimeOfDay = Annotated[time | None, BeforeValidator(read_time_of_day)]


class AuditModel(BaseModel):
    """The block; a key that ends in `_file` has what is in the file."""

    model_config = STRICT

    passphrase: Secret | None = None
    passphrase_file: SecretInFile | None = None
    previous_passphrase: Secret | None = None
    previous_passphrase_file: SecretInFile | None = None
    hosts: Annotated[
        list[Annotated[str, BeforeValidator(_one_host)]], BeforeValidator(items), BeforeValidator(none_as_empty)
    ] = Field(default=[])
    domain: Annotated[Text, AfterValidator(_expression)] | None = None
    max_age: Annotated[float, BeforeValidator(_age)] = 26 * 3600.0
    keep: Days = 90 * SECONDS_A_DAY

    @field_validator("previous_passphrase", "previous_passphrase_file")
    @classmethod
    def _another(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value in (info.data.get("passphrase"), info.data.get("passphrase_file")):
            raise ValueError("equals the current passphrase; set the previous one, or remove the key")
        return value


def check_audit(source: YamlDocument, raw: dict[str, Any]) -> None:
    """Check what concerns several keys."""
    audit = raw.get("audit")
    needed = "passphrase or passphrase_file, from which the keys of the hosts are derived"
    if isinstance(audit, dict):
        for name in _SECRET_KEYS:
            if audit.get(name) is not None and audit.get(f"{name}_file") is not None:
                source.problem(("audit", f"{name}_file"), f"conflicts with {name}; set only one")
        if not any(audit.get(name) is not None for name in ("passphrase", "passphrase_file")):
            source.problem(("audit",), f"requires {needed}")
        _check_names(source, audit.get("hosts"))
    elif "audit" not in raw:
        for path, entry in _entries(raw):
            if _must_report(entry):
                source.problem((*path, "audit"), "requires an audit block with a passphrase")
    elif audit is None:
        source.problem(("audit",), f"is empty; it requires {needed}")
    if _is_time(raw.get("reportmail")) and (
        missing := [name for name in _REPORTMAIL_REQUIRES if raw.get(name) in (None, [], "")]
    ):
        source.problem(("reportmail",), f"requires {' and '.join(missing)}")


def _is_time(value: object) -> bool:
    try:
        read_time_of_day(value)
    except ValueError:
        return False  # told by the key itself
    return True


def _entries(raw: dict[str, Any]) -> Iterator[tuple[KeyPath, object]]:
    """Yield all that may name hosts, unchecked as it is, with its place."""
    for block in ("hosts", "discovery"):
        found = raw.get(block)
        for name, value in found.items() if isinstance(found, dict) else ():
            if block == "hosts":
                yield (block, name), value
            else:
                yield from (
                    ((block, name, at), item) for at, item in enumerate(value if isinstance(value, list) else ())
                )


def _must_report(entry: object) -> bool:
    """Return whether an entry says `audit: true`; what is no flag is told by the key itself."""
    if not isinstance(entry, dict) or "audit" not in entry:
        return False
    try:
        return flag(entry["audit"])
    except ValueError:
        return False


def _check_names(source: YamlDocument, hosts: object) -> None:
    """Reject a host that stands there twice, in whatever spellings."""
    seen: dict[str, int] = {}
    names = hosts if isinstance(hosts, list) else []
    for place, name in enumerate(names):
        try:
            first = seen.setdefault(canonical(name), place) if isinstance(name, str) else place
        except ValueError:
            continue  # told by the key itself
        if first != place:
            line = source.line(("audit", "hosts", first))
            if name == names[first]:
                message = f'"{name}" is listed twice (first on line {line})'
            else:
                message = f'"{name}" is the same host as "{names[first]}" on line {line}'
            source.problem(("audit", "hosts", place), message)


def audit_config(model: AuditModel | None) -> AuditConfig | None:
    """Return the settings; None without the block."""
    if model is None:
        return None
    present = model.passphrase or model.passphrase_file
    previous = model.previous_passphrase or model.previous_passphrase_file
    return AuditConfig(
        passphrases=tuple(secret for secret in (present, previous) if secret is not None),
        hosts=tuple(model.hosts),
        domain=model.domain,
        max_age=model.max_age,
        keep=model.keep,
    )
