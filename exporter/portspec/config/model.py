"""The configuration as the rest of portspec sees it: immutable, checked, every default filled in."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from portspec.deny import DEFAULT, Deny
from portspec.exposure import DEFAULT_SEVERITIES, PortSeverities
from portspec.ports import NO_PORTS, PortSet
from portspec.priorities import DEFAULT_RULES, PriorityRule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import time

    from portspec.deadlines import DeadlineRule

EngineChoice = Literal["auto", "syn", "connect"]
RecordType = Literal["SRV", "A", "AAAA"]
Mailing = Literal["on", "off", "fallback"]
SmtpTls = Literal["starttls", "implicit", "none"]
SECONDS_A_DAY = 86_400.0
CONF_YML = "conf.yml"
OWNER_LABEL = "owner"
WEEK = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, slots=True)
class Specification:
    """What one address of a host may look like: `expect` must be open, `allow` may be, nothing else."""

    expect: PortSet = NO_PORTS
    allow: PortSet = NO_PORTS


@dataclass(frozen=True, slots=True)
class HostConfig:
    """One entry under `hosts`: a name, an address, or a CIDR each address of which is a host.

    `ports` are those to scan: the host's `scanports` and everything in its specification.
    `interval` is in seconds. A host that `is_audited` is on the roster of audits. Of a canary an expected port is
    always to be seen. `renamed_from` are names that the host had, in canonical form, the last one first; a CIDR has
    none. `source` is what names it: CONF_YML, or the name of a source of discovery.
    """

    name: str
    specification: Specification
    ports: PortSet
    interval: float
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    is_audited: bool = False
    is_canary: bool = False
    renamed_from: tuple[str, ...] = ()
    source: str = CONF_YML


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """What a source says of each host that it finds, as an entry of `hosts` does; `interval` in seconds.

    `source` is the name of the source.
    """

    specification: Specification
    scanports: PortSet
    interval: float
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    is_audited: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class DiscoverySource:
    """A source of hosts: its name in metrics and logs, such as `http_sd[1]`, and its `refresh` in seconds."""

    name: str
    refresh: float
    entry: SourceEntry


@dataclass(frozen=True, slots=True)
class FileSource(DiscoverySource):
    """Files of target groups. Only the last part of a pattern may have *, ? and [; `timeout` is for all files."""

    patterns: tuple[str, ...]
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class HttpSource(DiscoverySource):
    """A URL that answers with target groups.

    Basic auth if there is a `username`, or a bearer token; a secret in a file is read again at each request.
    """

    url: str
    timeout: float = 10.0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    bearer_token: str | None = field(default=None, repr=False)
    bearer_token_file: str | None = None
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class DnsSource(DiscoverySource):
    """Names to look up; `timeout` is for each, all its name servers together."""

    names: tuple[str, ...]
    type: RecordType = "SRV"
    timeout: float = 5.0


AnySource = FileSource | HttpSource | DnsSource


@dataclass(frozen=True, slots=True)
class PortException:
    """Deviations that are accepted for a while: those of `ports` on hosts whose name one of the globs matches.

    In force before `until`, in Unix seconds.
    """

    hosts: tuple[str, ...]
    ports: PortSet
    until: float
    reason: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class VulnerabilityException:
    """Vulnerabilities that are accepted for a while: those of `ids`, in lower case, on hosts that a glob matches.

    In force before `until`, in Unix seconds.
    """

    hosts: tuple[str, ...]
    ids: tuple[str, ...]
    until: float
    reason: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class MaintenanceWindow:
    """A time in which nobody is alerted about some hosts: those whose name one of the globs matches.

    It lasts from `begins`, minus infinity if it always has, to before `until`, both in Unix seconds.
    """

    hosts: tuple[str, ...]
    begins: float
    until: float
    reason: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Module:
    """How /probe scans: `ports` are those to scan, `engine` one of those that this exporter has open."""

    name: str
    specification: Specification
    ports: PortSet
    engine: EngineChoice = "auto"


@dataclass(frozen=True, slots=True)
class ScanConfig:
    """The `scan` block. Rates are probes per second (None = no limit), `timeout` seconds for one probe.

    A deviation counts once it was seen `confirm` times. A scan of a host ends after `max_duration` seconds (None: its
    interval, and at least a minute); of a name at most `max_addresses` addresses are scanned.
    """

    engine: EngineChoice = "auto"
    rate: float | None = None
    host_rate: float | None = None
    timeout: float = 0.9
    retries: int = 2
    confirm: int = 2
    max_duration: float | None = None
    max_addresses: int = 64


@dataclass(frozen=True, slots=True)
class MailConfig:
    """The built-in mailer: whether it sends (`fallback`: only while `alertmanager` is not healthy), how and to whom.

    `remind` and `fallback_after` are in seconds; no reminders if 0. What is in `password_file` is read at each use,
    and `token_command`, a program and its arguments, is run at each.
    """

    mode: Mailing
    server: str
    port: int
    tls: SmtpTls
    sender: str
    recipients: tuple[str, ...]
    ca_file: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    token_command: tuple[str, ...] = field(default=(), repr=False)
    remind: float = SECONDS_A_DAY
    alertmanager: str | None = None
    fallback_after: float = 300.0


@dataclass(frozen=True, slots=True)
class WeeklyTime:
    """A local time of day, once a week; `weekday` is the number of its day in WEEK."""

    weekday: int
    at: time

    @property
    def spelled(self) -> str:
        """The day and the time, as "monday 07:00"."""
        return f"{WEEK[self.weekday]} {self.at:%H:%M}"


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """The `audit` block: who has to report beside the `hosts` that must, and what their keys are made from.

    The first of the `passphrases` is the present one. `domain` is a regular expression of what is taken off names in
    the report of all machines. A report is late after `max_age` seconds, and kept for `keep` seconds.
    """

    passphrases: tuple[str, ...] = field(repr=False)
    hosts: tuple[str, ...] = ()
    domain: str | None = None
    max_age: float = 26 * 3600.0
    keep: float = 90 * SECONDS_A_DAY


@dataclass(frozen=True, slots=True)
class FeedsConfig:
    """The `feeds` block: the path or URL of each list, and the seconds after which it is read again."""

    kev: str | None = None
    epss: str | None = None
    refresh: float = SECONDS_A_DAY

    @property
    def places(self) -> dict[str, str]:
        """The path or URL of each list that is configured, by its name (feeds.FeedName)."""
        return {name: place for name, place in (("kev", self.kev), ("epss", self.epss)) if place}


@dataclass(frozen=True, slots=True)
class Config:
    """A whole conf.yml. `parallelscans` hosts are scanned at a time, ports that deviate again every `recheck` seconds.

    `state` is the path of the SQLite file, in which changes are kept for `history` seconds; a default unless the file
    names it (`is_state_named`), see store.place. `severities` are those of ports (`port_severity` in the file).
    `probe_allow` are the CIDRs whose addresses /probe may scan beside the hosts, `deny` those to which discovered hosts
    may not lead. Without what a mail needs there is no `mail`. `accepted` are the vulnerabilities among the exceptions.
    `priorities` are the rules by which vulnerabilities have their classes, and `deadlines` those by when what was found
    is to be fixed; the first that holds decides. The label `owner_label` of a host says whose it is; at `worklistmail`
    the addresses of `owners` are mailed what there is to do.
    `trusted` are the paths of conf.yml and of the files that it names
    whose content decides, each with whether it holds a secret. The report of all machines is kept in `reportfile`, and
    mailed each day at `reportmail`, in the machine's local time. Mails link to the pages of the exporter at
    `external_url`, and to the runbooks at `runbook_url`, by default those of the project; neither ends in a slash.
    With `accept` the page of an acceptance may write conf.yml; `accept_url` is the template of a link to where its
    change is proposed, see fields.ACCEPT_URL_NAMES.
    """

    path: str
    hosts: tuple[HostConfig, ...]
    ipv6: bool = False
    parallelscans: int = 10
    recheck: float = 900.0
    scan: ScanConfig = ScanConfig()
    discovery: tuple[AnySource, ...] = ()
    exceptions: tuple[PortException, ...] = ()
    maintenance: tuple[MaintenanceWindow, ...] = ()
    severities: PortSeverities = DEFAULT_SEVERITIES
    modules: Mapping[str, Module] = field(default_factory=lambda: MappingProxyType({}))
    probe_allow: tuple[str, ...] = ()
    deny: Deny = DEFAULT
    series_budget: int = 100_000
    state: str = "portspec.db"
    is_state_named: bool = False
    history: float = 365 * SECONDS_A_DAY
    autoreload: bool = True
    trusted: tuple[tuple[str, bool], ...] = field(default=(), compare=False)
    mail: MailConfig | None = None
    audit: AuditConfig | None = None
    accepted: tuple[VulnerabilityException, ...] = ()
    feeds: FeedsConfig | None = None
    priorities: tuple[PriorityRule, ...] = DEFAULT_RULES
    deadlines: tuple[DeadlineRule, ...] = ()
    owner_label: str = OWNER_LABEL
    owners: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    worklistmail: WeeklyTime | None = None
    reportfile: str | None = None
    reportmail: time | None = None
    external_url: str | None = None
    runbook_url: str | None = None
    accept: bool = False
    accept_url: str | None = None
