"""Write a configuration as the conf.yml that means it: every default filled in, secrets hidden. Pure.

What it writes loads as the same configuration, but for what is hidden: in_force() is the inverse of load(). A key that
is new in schema.py needs a line here; tests/unit/config/test_in_force.py tells if it is missing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import yaml

from portspec.config.model import DnsSource, FileSource, HttpSource, MailConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portspec.config.model import (
        AnySource,
        AuditConfig,
        Config,
        FeedsConfig,
        HostConfig,
        MaintenanceWindow,
        Module,
        PortException,
        VulnerabilityException,
    )
    from portspec.deadlines import DeadlineRule
    from portspec.ports import PortSet
    from portspec.priorities import PriorityRule

HIDDEN: Final = "<hidden>"
MAX_HOSTS: Final = 200  # entries of `hosts` that are written


def in_force(config: Config, most: int = MAX_HOSTS) -> str:
    """Return a configuration as YAML; of its `hosts` at most so many, and a comment that says how many more."""
    text = yaml.dump(
        document(replace(config, hosts=config.hosts[:most])),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=120,
    )
    more = len(config.hosts) - most
    return text if more <= 0 else f"{text}# and {more:,} more entries of hosts\n"


def hidden_url(url: str) -> str:
    """Return a URL without what may be secret in it: its user, its query and its fragment."""
    parts = urlsplit(url)
    query = f"?{HIDDEN}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc] # libyaml, where there is one
    """Writes lists of plain values in one line, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML calls it so
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:  # noqa: ARG002, FBT001
        is_plain = all(not isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=is_plain)


def _literal(dumper: _Dumper, text: str) -> Any:
    """Write a text so that nothing of it is taken for a variable."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text.replace("${", "$${"))


_Dumper.add_representer(str, _literal)
_Dumper.add_representer(list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data))


def document(config: Config) -> dict[str, Any]:
    """Return the configuration as the document that conf.yml is, without secrets."""
    scan = config.scan
    found: dict[str, Any] = {
        "hosts": {host.name: _host(host) for host in config.hosts},
        "ipv6": config.ipv6,
        "parallelscans": config.parallelscans,
        "recheck": _duration(config.recheck),
        "scan": {
            "engine": scan.engine,
            "rate": scan.rate,
            "host_rate": "auto" if scan.host_rate is None else scan.host_rate,
            "timeout": _duration(scan.timeout),
            "retries": scan.retries,
            "confirm": scan.confirm,
            "max_duration": None if scan.max_duration is None else _duration(scan.max_duration),
            "max_addresses": scan.max_addresses,
        },
        "discovery": _discovery(config.discovery),
        "exceptions": [
            *({**_exception(item), "ports": _ports(item.ports)} for item in config.exceptions),
            *({**_exception(item), "ids": list(item.ids)} for item in config.accepted),
        ],
        "maintenance": [_maintenance(item) for item in config.maintenance],
        "port_severity": {
            word: severity.value for ports, severity in config.severities.rules for word in _ports(ports)
        },
        "priorities": [_priority(rule) for rule in config.priorities],
        "deadlines": [_deadlines(rule) for rule in config.deadlines],
        "owner_label": config.owner_label,
        "owners": {name: list(addresses) for name, addresses in config.owners.items()},
        "worklistmail": config.worklistmail and config.worklistmail.spelled,
        "modules": {name: _module(item) for name, item in config.modules.items()},
        "probe_allow": list(config.probe_allow),
        "deny": [str(network) for network in config.deny.networks],
        "series_budget": config.series_budget,
        "state": config.state,
        "history": _duration(config.history),
        "autoreload": config.autoreload,
        **(_mail(config.mail) if config.mail else {}),
        "reportfile": config.reportfile,
        "reportmail": None if config.reportmail is None else config.reportmail.strftime("%H:%M"),
        "external_url": config.external_url,
        "runbook_url": config.runbook_url,
        "accept": config.accept,
        "accept_url": config.accept_url,
    }
    if config.audit:
        found["audit"] = _audit(config.audit)
    if config.feeds:
        found["feeds"] = _feeds(config.feeds)
    return {key: value for key, value in found.items() if value is not None}


def _host(host: HostConfig) -> dict[str, Any]:
    return {
        "expect": _ports(host.specification.expect),
        "allow": _ports(host.specification.allow),
        "scanports": _ports(host.ports),
        "interval": _duration(host.interval),
        **_labels(host.labels),
        **({"audit": True} if host.is_audited else {}),
        **({"canary": True} if host.is_canary else {}),
        **({"renamed_from": list(host.renamed_from)} if host.renamed_from else {}),
    }


def _labels(labels: Mapping[str, str]) -> dict[str, Any]:
    return {"labels": dict(labels)} if labels else {}


def _discovery(sources: Iterable[AnySource]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for source in sources:
        kind, own = _source(source)
        entry = source.entry
        found.setdefault(kind, []).append(
            {
                **own,
                "refresh": _duration(source.refresh),
                "expect": _ports(entry.specification.expect),
                "allow": _ports(entry.specification.allow),
                "scanports": _ports(entry.scanports),
                "interval": _duration(entry.interval),
                **_labels(entry.labels),
                **({"audit": True} if entry.is_audited else {}),
            }
        )
    return found


def _source(source: AnySource) -> tuple[str, dict[str, Any]]:
    match source:
        case FileSource():
            return "file_sd", {"files": list(source.patterns)}
        case DnsSource():
            return "dns", {"names": list(source.names), "type": source.type}
        case HttpSource():
            own = {
                "url": hidden_url(source.url),
                "timeout": _duration(source.timeout),
                "username": source.username,
                "password": source.password and HIDDEN,
                "password_file": source.password_file,
                "bearer_token": source.bearer_token and HIDDEN,
                "bearer_token_file": source.bearer_token_file,
                "ca_file": source.ca_file,
            }
            return "http_sd", {key: value for key, value in own.items() if value is not None}


def _exception(item: PortException | VulnerabilityException) -> dict[str, Any]:
    own = {"hosts": list(item.hosts), "until": _time(item.until), "reason": item.reason, "owner": item.owner}
    return {key: value for key, value in own.items() if value}


def _maintenance(item: MaintenanceWindow) -> dict[str, Any]:
    begins = None if item.begins == -math.inf else _time(item.begins)
    own = {"hosts": list(item.hosts), "from": begins, "until": _time(item.until)}
    own |= {"reason": item.reason, "owner": item.owner}
    return {key: value for key, value in own.items() if value}


def _module(module: Module) -> dict[str, Any]:
    return {
        "expect": _ports(module.specification.expect),
        "allow": _ports(module.specification.allow),
        "scanports": _ports(module.ports),
        "engine": module.engine,
    }


def _mail(mail: MailConfig) -> dict[str, Any]:
    return {
        "sendemail": {"on": True, "off": False, "fallback": "fallback"}[mail.mode],
        "smtpserver": mail.server,
        "smtpport": mail.port,
        "smtptls": mail.tls,
        "smtpcafile": mail.ca_file,
        "smtpusername": mail.username,
        "smtppassword": mail.password and HIDDEN,
        "smtppassword_file": mail.password_file,
        "smtptokencommand": [mail.token_command[0], HIDDEN] if mail.token_command else None,
        "alertemail": list(mail.recipients),
        "fromemail": mail.sender,
        "remind": _duration(mail.remind),
        "alertmanager": mail.alertmanager and hidden_url(mail.alertmanager),
        "fallback_after": _duration(mail.fallback_after),
    }


def _feeds(feeds: FeedsConfig) -> dict[str, Any]:
    places = {name: hidden_url(place) if "://" in place else place for name, place in feeds.places.items()}
    return {**places, "refresh": _duration(feeds.refresh)}


def _priority(rule: PriorityRule) -> dict[str, Any]:
    found = {
        "class": rule.priority.value,
        "exploited": rule.exploited,
        "reach": sorted(rule.reach) if rule.reach is not None else None,
        "epss": rule.epss,
        "severity": sorted(rule.severity) if rule.severity is not None else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _deadlines(rule: DeadlineRule) -> dict[str, Any]:
    of = rule.deadlines
    limits = {**of.classes, **of.severities, **of.kinds}
    return {**_labels(rule.labels), **{str(name): _duration(limit) for name, limit in limits.items()}}


def _audit(audit: AuditConfig) -> dict[str, Any]:
    found = {
        "passphrase": HIDDEN,
        "previous_passphrase": HIDDEN if len(audit.passphrases) > 1 else None,
        "hosts": list(audit.hosts),
        "domain": audit.domain,
        "max_age": _duration(audit.max_age),
        "keep": _duration(audit.keep),
    }
    return {key: value for key, value in found.items() if value is not None}


def _ports(ports: PortSet) -> list[int | str]:
    return [int(word) if word.isdigit() else word for word in ports.spellings()]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _duration(seconds: float) -> str:
    """Spell a duration exactly, in the largest unit that it is a whole number of."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds!r}s"
