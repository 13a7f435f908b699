"""The `discovery` block of conf.yml: sources of hosts, checked."""

from __future__ import annotations

import os
import re
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator

from portspec.config.fields import (
    STRICT,
    WHEN_GIVEN,
    HostModel,
    Interval,
    OptionalPorts,
    ReadableFile,
    Text,
    Timeout,
    some,
)
from portspec.config.model import DnsSource, FileSource, HttpSource, RecordType, SourceEntry, Specification
from portspec.errors import shorten
from portspec.names import address_of, canonical
from portspec.ports import PortSet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.config.model import AnySource

_FILE_ENDINGS = (".json", ".yml", ".yaml")


def _items(value: object) -> object:
    """Turn a single value into a list, and null into an empty list."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _not_empty(ports: list[PortSet] | None) -> list[PortSet] | None:
    if ports == []:
        raise ValueError("is empty; list ports, or remove the key to use the top-level scanports")
    return ports


def _pattern(value: object, info: ValidationInfo) -> str:
    """Validate the path of a file or a pattern of paths, relative to conf.yml."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError('expected the path of a file, such as "targets/*.json"')
    folder, name = os.path.split(value)
    if has_wildcard(folder):
        raise ValueError(f'"{shorten(value)}" has a wildcard in its directory; only the file name may have wildcards')
    if not name.lower().endswith(_FILE_ENDINGS):
        raise ValueError(f'"{shorten(value)}" does not end in one of {", ".join(_FILE_ENDINGS)}')
    return str(Path(info.context or ".") / value)


def has_wildcard(text: str) -> bool:
    """Return whether a part of a path is a pattern, as in glob(7)."""
    return any(character in text for character in "*?[")


def _url(value: object) -> str:
    """Validate a URL; no message quotes it, since it may contain a secret."""
    expected = "expected a URL that starts with http:// or https:// and names a host"
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(expected)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(expected)
    if "@" in parts.netloc:
        raise ValueError("contains a user name; set username, and password or password_file, instead")
    return value


def _user(value: object) -> str:
    if not isinstance(value, str) or ":" in value:
        raise ValueError("expected a string without a colon")
    return value


def _look_up(value: object) -> str:
    expected = "expected a name to look up, such as _ssh._tcp.example.org"
    if not isinstance(value, str):
        raise ValueError(expected)  # noqa: TRY004 - pydantic takes ValueError
    form = canonical(value)
    if "/" in form or address_of(form):
        raise ValueError(f'"{value}" is an address; {expected}')
    return value


def _record_type(value: object) -> str:
    if not isinstance(value, str) or value.upper() not in {"SRV", "A", "AAAA"}:
        raise ValueError('expected "SRV", "A" or "AAAA"')
    return value.upper()


class _SourceModel(HostModel):
    scanports: Annotated[OptionalPorts, AfterValidator(_not_empty)] = None
    refresh: Interval


class FileModel(_SourceModel):
    """One entry of `file_sd`."""

    files: Annotated[list[Annotated[str, BeforeValidator(_pattern)]], BeforeValidator(_items), AfterValidator(some)]
    refresh: Interval = 300.0


class HttpModel(_SourceModel):
    """One entry of `http_sd`."""

    url: Annotated[str, BeforeValidator(_url)]
    refresh: Interval = 60.0
    timeout: Timeout = 10.0
    username: Annotated[str, BeforeValidator(_user)] | None = None
    password: Text | None = None
    password_file: ReadableFile = None
    bearer_token: Text | None = None
    bearer_token_file: ReadableFile = None
    ca_file: ReadableFile = None

    @field_validator("password", "password_file", "bearer_token", "bearer_token_file")
    @classmethod
    def _once(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Reject several ways of authentication."""
        key = str(info.field_name)
        for other in ("password", "username", "bearer_token"):
            together = other == "username" and "password" in key
            if value is not None and other != key and not together and info.data.get(other) is not None:
                raise ValueError(f"conflicts with {other}; set only one")
        if value is not None and "password" in key and info.data.get("username", "") is None:
            raise ValueError("requires username")
        return value


class DnsModel(_SourceModel):
    """One entry of `dns`."""

    names: Annotated[list[Annotated[str, BeforeValidator(_look_up)]], BeforeValidator(_items), AfterValidator(some)]
    type: Annotated[RecordType, BeforeValidator(_record_type)] = "SRV"
    refresh: Interval = 30.0


class DiscoveryModel(BaseModel):
    """The whole block."""

    model_config = STRICT

    file_sd: Annotated[list[Annotated[FileModel, WHEN_GIVEN]], BeforeValidator(_items)] = Field(default=[])
    http_sd: Annotated[list[Annotated[HttpModel, WHEN_GIVEN]], BeforeValidator(_items)] = Field(default=[])
    dns: Annotated[list[Annotated[DnsModel, WHEN_GIVEN]], BeforeValidator(_items)] = Field(default=[])


DiscoveryBlock = Annotated[DiscoveryModel, WHEN_GIVEN, BeforeValidator(lambda value: {} if value is None else value)]

#: The models by their place in the file, and what to say where a key is missing.
MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    ("discovery",): DiscoveryModel,
    ("discovery", "file_sd"): FileModel,
    ("discovery", "http_sd"): HttpModel,
    ("discovery", "dns"): DnsModel,
}
MISSING: dict[tuple[str, ...], str] = {
    ("discovery", "file_sd", "files"): 'missing; list the files of targets, such as ["targets/*.json"]',
    ("discovery", "http_sd", "url"): "missing; set the URL of the list of targets",
    ("discovery", "dns", "names"): "missing; list the names to look up, such as [_ssh._tcp.example.org]",
}


def raw_sources(raw: object) -> list[object]:
    """Return every entry of a `discovery` block that is not checked yet, whatever it is."""
    lists = raw.values() if isinstance(raw, dict) else ()
    return [entry for entries in lists if isinstance(entries, list) for entry in entries]


def sources(model: DiscoveryModel, scanports: PortSet, interval: float) -> tuple[AnySource, ...]:
    """Build the sources of a block; `scanports` and `interval` (seconds) are the defaults of the file."""

    def common(kind: str, place: int, item: _SourceModel) -> tuple[str, float, SourceEntry]:
        name = f"{kind}[{place}]"
        entry = SourceEntry(
            Specification(_union(item.expect), _union(item.allow)),
            scanports if item.scanports is None else _union(item.scanports),
            item.interval or interval,
            MappingProxyType(dict(sorted(item.labels.items()))),
            item.audit,
            name,
        )
        return name, item.refresh, entry

    return (
        *(FileSource(*common("file_sd", at, item), tuple(item.files)) for at, item in enumerate(model.file_sd)),
        *(
            HttpSource(
                *common("http_sd", at, item),
                url=item.url,
                timeout=item.timeout,
                username=item.username,
                password=item.password,
                password_file=item.password_file,
                bearer_token=item.bearer_token,
                bearer_token_file=item.bearer_token_file,
                ca_file=item.ca_file,
            )
            for at, item in enumerate(model.http_sd)
        ),
        *(DnsSource(*common("dns", at, item), tuple(item.names), item.type) for at, item in enumerate(model.dns)),
    )


def _union(sets: Iterable[PortSet]) -> PortSet:
    return PortSet.of_ranges(chain.from_iterable(ports.ranges for ports in sets))
