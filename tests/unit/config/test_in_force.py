from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.config import Config, load
from portspec.config.in_force import HIDDEN, hidden_url, in_force
from portspec.config.model import HttpSource
from portspec.config.schema import ConfModel
from portspec.errors import ConfigError
from tests.unit.config.test_properties import characters, interval, some_ports

if TYPE_CHECKING:
    from tests.unit.config.conftest import Conf

DATA = Path(__file__).parents[2] / "data" / "conf"
SECRETS = (
    "s3cret-of-mail-server",
    "s3cret-passphrase-of-the-audits",
    "s3cret-token",
    "s3cret-of-http-sd",
    "s3cret-query",
)
COMPLETE = """
interval: 90m
recheck: 10m
ipv6: true
parallelscans: 20
scanports: [22, 80-90]
hosts:
  db1: {expect: [5432], allow: [22], scanports: all, interval: 30s, labels: {team: "$${x}"}, audit: true, canary: true}
  192.0.2.0/30: [22]
  web1: {expect: [80, 443], interval: 0.5h, renamed_from: [WWW.example.org, "2001:DB8::0:7"]}
scan: {engine: connect, rate: 1000, host_rate: 50, timeout: 250ms, retries: 3, confirm: 4,
       max_duration: 2h, max_addresses: 7}
discovery:
  file_sd: [{files: "*.json", expect: [22], labels: {from: file}}]
  http_sd:
    - {url: "https://sd.example.org/list?token=s3cret-query", username: me, password: s3cret-of-http-sd, timeout: 5s}
    - {url: "http://sd.example.org/", bearer_token: s3cret-token, refresh: 2m, audit: true}
  dns: [{names: [_ssh._tcp.example.org], type: A, interval: 2h}]
exceptions:
  - {hosts: ["web*"], ports: [8080], until: "2099-03-31", reason: a test, owner: ops}
  - {hosts: ["*"], ids: [CVE-2023-1], until: "2099-03-31T18:00:00+02:00"}
maintenance:
  - {hosts: ["db*"], from: "2099-01-01T00:00:00Z", until: 2h, reason: move, owner: ops}
  - {hosts: [web1], until: "2099-01-01"}
port_severity: {8443: critical, redis: info, "8000-8010": warning, "8009-8011": info}
modules: {web: {expect: [80], allow: [443], engine: connect}}
probe_allow: [198.51.100.0/24]
deny: [127.0.0.0/8]
series_budget: 5000
state: other.db
history: 30
autoreload: false
sendemail: fallback
smtpserver: mail.example.org
smtpport: 465
smtpusername: me
smtppassword: s3cret-of-mail-server
alertemail: [security@example.org, ops@example.org]
fromemail: portspec@example.org
remind: 2d
alertmanager: http://alertmanager.example.org:9093/path
fallback_after: 1m
audit: {passphrase: s3cret-passphrase-of-the-audits, hosts: [laptop7], domain: '\\.example', max_age: 30h, keep: 10}
feeds: {kev: "https://kev.example.org/kev.json?token=s3cret-of-the-feed", epss: lists/epss.csv.gz, refresh: 12h}
priorities:
  - {class: fix_now, exploited: true, reach: [reachable, unknown]}
  - {class: plan, epss: 0.25, severity: high}
deadlines:
  - {labels: {team: web, env: test}, fix_now: 14, critical: 36h}
  - {fix_now: 3, warning: 2w, unknown: 30, missing: 12h, rest: 365}
owner_label: team
owners: {web: [web@example.org, a@example.org], db: db@example.org}
worklistmail: sun 23:05
reportfile: report.html
reportmail: "07:30"
external_url: https://portspec.example.org/x
runbook_url: https://wiki.example.org/portspec
accept: true
accept_url: https://git.example.org/new?title={title}&body={diff}
"""


def without_secrets(config: Config) -> Config:
    """Return a configuration in which each secret is hidden, and nothing says how its file spelled it."""
    sources = (
        replace(
            source,
            url=hidden_url(source.url),
            password=source.password and HIDDEN,
            bearer_token=source.bearer_token and HIDDEN,
        )
        if isinstance(source, HttpSource)
        else source
        for source in config.discovery
    )
    mail, audit = config.mail, config.audit
    return replace(
        config,
        discovery=tuple(sources),
        mail=mail
        and replace(
            mail,
            password=mail.password and HIDDEN,
            token_command=(mail.token_command[0], HIDDEN) if mail.token_command else (),
        ),
        audit=audit and replace(audit, passphrases=tuple(HIDDEN for _ in audit.passphrases)),
        feeds=config.feeds and replace(config.feeds, kev=config.feeds.kev and hidden_url(config.feeds.kev)),
        is_state_named=True,
    )


def again(config: Config, directory: Path) -> Config:
    """Load what is written of a configuration, with secrets that are long enough."""
    path = directory / "again.yml"
    text = in_force(config).replace(f"passphrase: {HIDDEN}", f"passphrase: {HIDDEN * 4}", 1)
    text = text.replace(f"previous_passphrase: {HIDDEN}\n", f"previous_passphrase: {HIDDEN * 5}\n")
    path.write_text(text, "utf-8")
    found = load(path, {})
    return replace(without_secrets(found), path=config.path)


def test_every_key_is_written_and_means_the_same(conf: Conf, tmp_path: Path) -> None:
    """What is written of a file with every key loads as the same configuration; no secret is in it."""
    config = conf.load(COMPLETE)
    assert again(config, tmp_path) == without_secrets(config)
    text = in_force(config)
    assert not [secret for secret in SECRETS if secret in text]
    # those that set a default for all hosts are written for each host
    missing = {key for key in ConfModel.model_fields if f"{key}:" not in text}
    assert missing == {"smtpcafile", "smtppassword_file", "smtptokencommand"}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the files of the tests, beside which others may be written."""
    return shutil.copytree(DATA, tmp_path_factory.mktemp("copied") / "conf")


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("*.yml")))
def test_files_that_load_mean_the_same_when_they_are_written(name: str, copied: Path) -> None:
    """Each file of the tests that loads is one; the others are refused before."""
    path = copied / name
    try:
        config = load(path, {})
    except ConfigError:
        return
    assert again(config, path.parent) == without_secrets(config)


@settings(deadline=None)
@given(
    expect=some_ports,
    every=some_ports,
    often=interval,
    value=st.text(characters, max_size=40),
    name=st.text(characters),
)
def test_hosts_mean_the_same_when_they_are_written(
    expect: tuple[object, object],
    every: tuple[object, object],
    often: tuple[object, float],
    value: str,
    name: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever stands in labels and reasons, and whatever ports and durations there are."""
    import yaml

    directory = tmp_path_factory.mktemp("conf")
    path = directory / "conf.yml"
    host = {"expect": expect[0], "scanports": every[0], "interval": often[0]}
    host["labels"] = {"note": value.replace("${", "$${")}
    excepted = {"hosts": "*", "ports": 1, "until": "2099-01-01", "reason": name.replace("${", "$${")}
    path.write_text(yaml.safe_dump({"hosts": {"web1": host}, "exceptions": [excepted]}, allow_unicode=True), "utf-8")
    try:
        config = load(path, {})
    except ConfigError:
        return
    assert again(config, directory) == without_secrets(config)


def test_of_many_hosts_some_are_written(conf: Conf) -> None:
    """The comment says how many more there are."""
    text = in_force(conf.load("scanports: all\nhosts: {a: [1], b: [2], c: [3]}"), 2)
    assert ("  b:" in text, "  c:" in text, text.endswith("# and 1 more entries of hosts\n")) == (True, False, True)
