"""Load conf.yml: read, validate, and build the Config."""

from __future__ import annotations

import contextlib
import gc
import os
from functools import cache
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from portspec import files
from portspec.config.audit import audit_config, check_audit
from portspec.config.deadlines import check_deadlines, check_owners, deadline_rules
from portspec.config.discovery import raw_sources, sources
from portspec.config.feeds import check_priorities, feeds_config, priority_rules
from portspec.config.fields import lists_nothing
from portspec.config.former_names import check_former_names
from portspec.config.mail import check_mail, mail_config
from portspec.config.model import (
    Config,
    HostConfig,
    MaintenanceWindow,
    Module,
    PortException,
    ScanConfig,
    Specification,
    VulnerabilityException,
)
from portspec.config.schema import ConfModel, EntryModel, ModuleModel, describe, misspelt, plain_host_path, respelt
from portspec.config.trust import trusted_files
from portspec.config.yaml_document import YamlDocument, read
from portspec.deny import deny_of
from portspec.errors import STANDARD_INPUT, ConfigError, Problem
from portspec.exposure import PortSeverities
from portspec.names import duplicates
from portspec.ports import NO_PORTS, PortError, PortSet, parse_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pydantic_core import ErrorDetails

    from portspec.config.yaml_document import KeyPath


def load(
    path: str | os.PathLike[str], environment: Mapping[str, str] = os.environ, *, data: bytes | None = None
) -> Config:
    """Read and check a configuration file, or standard input for the path "-", or `data` as if the file had it.

    `environment` serves ${NAME}. Raises ConfigError, which holds every problem of the file with its line.
    """
    with _collector_paused():
        return _load(str(path), environment, data)


def load_again(path: str) -> Config:
    """Read a file again; a pipe is not waited for, since what it gave it gave at the start. Raises ConfigError."""
    if path == STANDARD_INPUT:
        raise ConfigError(path, [Problem(0, "", "cannot be read again; start portspec again, or name a file with -c")])
    try:
        files.require_regular(path)
    except files.IrregularFileError as error:
        raise ConfigError(path, [Problem(0, "", f"cannot be read again: {error.strerror}")]) from None
    except OSError:
        pass  # which load() tells
    return load(path)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Spare a large file the search for cycles among values that all live to the end, much of the time to load it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _load(path: str, environment: Mapping[str, str], data: bytes | None) -> Config:
    file = Path(path)
    source = read(file, environment, data=data)
    raw: Any = source.value
    model = None
    if not isinstance(raw, dict):
        source.problem((), "expected keys such as hosts: and scanports:, found something else")
    else:
        details: list[ErrorDetails] = []
        try:
            model = ConfModel.model_validate(raw, context=file.parent)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
        meant = misspelt(details)
        _check_whole(source, respelt(raw, meant))
        known = frozenset(source.faulty)
        for detail in details:
            key_path, message = describe(detail)
            place = plain_host_path(key_path, raw.get("hosts"))
            # One fault, one line: ${UNSET} is not a bad port as well, and a key that is misspelt is not missing.
            if place not in known and not (detail["type"] == "missing" and detail["loc"] in meant.values()):
                source.problem(place, message)
    if source.problems or model is None:
        raise ConfigError(path, source.problems)
    return _config(path, model, environment, trusted_files(raw, file, source.expanded))


def _check_whole(source: YamlDocument, raw: dict[str, Any]) -> None:
    """Check what concerns several keys."""
    hosts = raw.get("hosts")
    found = raw_sources(raw.get("discovery"))
    every = [*(hosts.values() if isinstance(hosts, dict) else ()), *found]
    is_audited = isinstance(raw.get("audit"), dict)
    if hosts in (None, {}) and not found and not (is_audited and raw["audit"].get("hosts")):
        message = "missing; list the hosts to scan, each with the ports that should be open"
        message = "is empty; name at least one host" if "hosts" in raw else message
        hint = " (hosts that are only audited belong in audit.hosts)" if is_audited else ""
        source.problem(("hosts",), f"{message}{hint}")
    if isinstance(hosts, dict):
        _check_hosts(source, hosts)
        check_former_names(source, hosts, raw.get("audit"))
    _check_modules(source, raw)
    _check_severities(source, raw)
    own = bool(every or is_audited) and all(isinstance(entry, dict) and _has_ports(entry) for entry in every)
    if (raw.get("scanports") is None or lists_nothing(raw["scanports"])) and not own:
        source.problem(
            ("scanports",) if "scanports" in raw else (),
            'scanports: missing; list the ports to scan on every host, or write "all"'
            if "scanports" not in raw
            else 'is empty; list the ports to scan on every host, or write "all"',
        )
    exceptions = raw.get("exceptions")
    for place, item in enumerate(exceptions if isinstance(exceptions, list) else ()):
        if isinstance(item, dict) and not {"ports", "ids"} & item.keys():
            message = "has neither ports nor ids; list the accepted ports, or the ids of the accepted vulnerabilities"
            source.problem(("exceptions", place), message)
    check_mail(source, raw)
    check_audit(source, raw)
    check_priorities(source, raw)
    check_deadlines(source, raw)
    check_owners(source, raw)


def _check_hosts(source: YamlDocument, hosts: dict[str, Any]) -> None:
    for later, first in duplicates(hosts).items():
        source.problem(("hosts", later), f'is the same host as "{first}" on line {source.line(("hosts", first))}')
    for name, host in hosts.items():
        if isinstance(host, dict) and lists_nothing(host.get("scanports")):
            source.problem(
                ("hosts", name, "scanports"), "is empty; list ports, or remove the key to use the top-level scanports"
            )
        if isinstance(host, dict) and "/" in str(name) and host.get("canary"):
            source.problem(("hosts", name, "canary"), "a canary is a single host; name one address of the network")


def _has_ports(raw: dict[str, Any], *keys: str) -> bool:
    """Return whether a mapping, unchecked as it is, lists ports under one of these keys, by default `scanports`."""
    return any(raw.get(key) and not lists_nothing(raw[key]) for key in keys or ("scanports",))


def _check_modules(source: YamlDocument, raw: dict[str, Any]) -> None:
    """Reject modules that would look at nothing, and so find nothing wrong."""
    modules = raw.get("modules")
    for name, module in modules.items() if isinstance(modules, dict) else ():
        if isinstance(module, dict):
            if lists_nothing(module.get("scanports")):
                path: KeyPath = ("modules", name, "scanports")
                source.problem(path, "is empty; list ports, or remove the key to use the top-level scanports")
            elif not (_has_ports(module, "scanports", "expect", "allow") or _has_ports(raw)):
                source.problem(("modules", name), "has nothing to scan; set scanports")


def _check_severities(source: YamlDocument, raw: dict[str, Any]) -> None:
    """Reject ports whose severity would not count, since all of them stand above."""
    named = raw.get("port_severity")
    above = NO_PORTS
    for word in named if isinstance(named, dict) else ():
        try:
            ports = parse_ports(word)
        except PortError:  # is a problem already
            continue
        if ports <= above:
            source.problem(("port_severity", word), "has no effect: the keys above name all of these ports")
        above |= ports


def _config(
    path: str, model: ConfModel, environment: Mapping[str, str], trusted: tuple[tuple[str, bool], ...]
) -> Config:
    scanports = _union(model.scanports)
    unite = cache(_unite)  # most hosts have the same ports: make and keep each set once
    return Config(
        path=path,
        hosts=tuple(_host(name, host, scanports, model.interval, unite) for name, host in model.hosts.items()),
        ipv6=model.ipv6,
        parallelscans=model.parallelscans,
        recheck=model.recheck,
        discovery=sources(model.discovery, scanports, model.interval),
        scan=ScanConfig(**model.scan.model_dump()),
        exceptions=tuple(
            PortException(tuple(item.hosts), _union(item.ports), item.until, item.reason, item.owner)
            for item in model.exceptions
            if item.ports
        ),
        accepted=tuple(
            VulnerabilityException(tuple(item.hosts), tuple(item.ids), item.until, item.reason, item.owner)
            for item in model.exceptions
            if item.ids
        ),
        maintenance=tuple(
            MaintenanceWindow(tuple(item.hosts), item.begins, item.until, item.reason, item.owner)
            for item in model.maintenance
        ),
        severities=PortSeverities.of_rules((parse_ports(ports), word) for ports, word in model.port_severity.items()),
        modules=MappingProxyType({name: _module(name, item, scanports) for name, item in model.modules.items()}),
        probe_allow=tuple(model.probe_allow),
        deny=deny_of(model.deny),
        series_budget=model.series_budget,
        state=_state_file(Path(path), model.state, environment),
        is_state_named=model.state is not None,
        history=model.history,
        autoreload=model.autoreload,
        trusted=trusted,
        mail=mail_config(model),
        audit=audit_config(model.audit),
        feeds=feeds_config(model.feeds),
        priorities=priority_rules(model.priorities),
        deadlines=deadline_rules(model.deadlines),
        owner_label=model.owner_label,
        owners=MappingProxyType({name: tuple(addresses) for name, addresses in model.owners.items()}),
        worklistmail=model.worklistmail,
        reportfile=model.reportfile,
        reportmail=model.reportmail,
        external_url=model.external_url,
        runbook_url=model.runbook_url,
        accept=model.accept,
        accept_url=model.accept_url,
    )


def _state_file(path: Path, state: str | None, environment: Mapping[str, str]) -> str:
    """Return the path of the state file: relative to conf.yml, or in the StateDirectory= of systemd."""
    if state is None and (directory := environment.get("STATE_DIRECTORY", "").partition(":")[0]):
        return str(Path(directory) / "portspec.db")
    return str(path.parent / (state or "portspec.db"))


def _module(name: str, module: ModuleModel, scanports: PortSet) -> Module:
    specification = Specification(_union(module.expect), _union(module.allow))
    own = scanports if module.scanports is None else _union(module.scanports)
    return Module(name, specification, _unite(own, specification), module.engine)


def _host(
    name: str, host: EntryModel, scanports: PortSet, interval: float, unite: Callable[..., PortSet]
) -> HostConfig:
    specification = Specification(_union(host.expect), _union(host.allow))
    own = scanports if host.scanports is None else _union(host.scanports)
    return HostConfig(
        name=name,
        specification=specification,
        ports=unite(own, specification),
        interval=host.interval or interval,
        labels=MappingProxyType(dict(sorted(host.labels.items()))),
        is_audited=host.audit,
        is_canary=host.canary,
        renamed_from=tuple(dict.fromkeys(host.renamed_from)),
    )


def _unite(scanports: PortSet, specification: Specification) -> PortSet:
    return scanports | specification.expect | specification.allow


def _union(sets: Iterable[PortSet]) -> PortSet:
    return PortSet.of_ranges(chain.from_iterable(ports.ranges for ports in sets))
