from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ValidationError

from portspec.config import Specification, schema
from portspec.config.discovery import MISSING, MODELS, DiscoveryBlock, DiscoveryModel, raw_sources, sources
from portspec.config.model import DnsSource, FileSource, HttpSource, SourceEntry
from portspec.config.yaml_document import read
from portspec.ports import NO_PORTS, PortSet

if TYPE_CHECKING:
    from pathlib import Path

    from portspec.config.model import AnySource

SCANPORTS = PortSet.of([80])
INTERVAL = 3600.0
EMPTY = SourceEntry(Specification(), SCANPORTS, INTERVAL)


class Whole(BaseModel):
    """As much of a conf.yml as this block is."""

    discovery: DiscoveryBlock = DiscoveryModel()


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return the path of a conf.yml, beside which there is a secret."""
    (tmp_path / "secret").write_text("hush\n")
    return tmp_path / "conf.yml"


def loaded(conf: Path, text: str) -> tuple[AnySource, ...]:
    """Read what must be right."""
    conf.write_text(text)
    model = Whole.model_validate(read(conf, {}).value, context=conf.parent)
    return sources(model.discovery, SCANPORTS, INTERVAL)


def problems(conf: Path, text: str) -> list[str]:
    """Read what must be wrong, and give its problems as `line: key: message`."""
    conf.write_text(text)
    source = read(conf, {})
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(source.value, context=conf.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "_MODELS", schema._MODELS | MODELS)
        patch.setattr(schema, "_MISSING", schema._MISSING | MISSING)
        for detail in caught.value.errors():
            source.problem(*schema.describe(detail))
    return [f"{problem.line}: {problem.key}: {problem.message}" for problem in source.problems]


def test_a_whole_block_becomes_sources_in_order(conf: Path) -> None:
    """Each source has its name, its interval and what it says of its hosts."""
    text = """\
discovery:
  dns:
    - names: [_ssh._tcp.example.org, _ssh._tcp.example.net.]
      refresh: 45
    - {names: www.example.org, type: aaaa}
  file_sd:
    - files: [targets/*.json, more.yml]
      refresh: 2m
      expect: [22]
      allow: 443
      scanports: ["1-3"]
      interval: 90m
      labels: {team: web, rack: 7}
    - files: /srv/targets.yaml
  http_sd:
    - url: http://inventory.example.org/targets?x=1
      refresh: 30s
      timeout: 2.5
      username: portspec
      password_file: secret
      ca_file: secret
    - {url: "https://[2001:db8::1]:8443", bearer_token: hush}
"""
    own = SourceEntry(
        Specification(PortSet.of([22]), PortSet.of([443])),
        PortSet.of([1, 2, 3]),
        5400.0,
        {"rack": "7", "team": "web"},
        source="file_sd[0]",
    )
    here = conf.parent
    assert loaded(conf, text) == (
        FileSource("file_sd[0]", 120.0, own, (f"{here}/targets/*.json", f"{here}/more.yml")),
        FileSource("file_sd[1]", 300.0, replace(EMPTY, source="file_sd[1]"), ("/srv/targets.yaml",)),
        HttpSource(
            "http_sd[0]",
            30.0,
            replace(EMPTY, source="http_sd[0]"),
            url="http://inventory.example.org/targets?x=1",
            timeout=2.5,
            username="portspec",
            password_file=f"{here}/secret",
            ca_file=f"{here}/secret",
        ),
        HttpSource(
            "http_sd[1]",
            60.0,
            replace(EMPTY, source="http_sd[1]"),
            url="https://[2001:db8::1]:8443",
            bearer_token="hush",  # noqa: S106
        ),
        DnsSource(
            "dns[0]", 45.0, replace(EMPTY, source="dns[0]"), ("_ssh._tcp.example.org", "_ssh._tcp.example.net."), "SRV"
        ),
        DnsSource("dns[1]", 30.0, replace(EMPTY, source="dns[1]"), ("www.example.org",), "AAAA"),
    )
    assert EMPTY.specification.expect == NO_PORTS


@pytest.mark.parametrize("text", ["discovery:", "discovery: {}", "discovery: {file_sd: , http_sd: [], dns: ~}", "x: 1"])
def test_nothing_is_no_source(conf: Path, text: str) -> None:
    """A key without a value has no effect."""
    assert loaded(conf, text) == ()


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (
            "file_sd: [{}]",
            'discovery.file_sd.files: missing; list the files of targets, such as ["targets/*.json"]',
        ),
        ("file_sd: [{files: []}]", "discovery.file_sd.files: is empty; name at least one"),
        ("file_sd: [{files: 7}]", "discovery.file_sd.files: expected a list"),
        ("file_sd: [{files: [7]}]", 'discovery.file_sd.files: expected the path of a file, such as "targets/*.json"'),
        (
            'file_sd: [{files: ["a\\0.yml"]}]',
            'discovery.file_sd.files: expected the path of a file, such as "targets/*.json"',
        ),
        (
            'file_sd: [{files: ["*/a.yml"]}]',
            'discovery.file_sd.files: "*/a.yml" has a wildcard in its directory; only the file name may have wildcards',
        ),
        (
            "file_sd: [{files: [a.txt]}]",
            'discovery.file_sd.files: "a.txt" does not end in one of .json, .yml, .yaml',
        ),
        ("file_sd: [{file: [a.yml], files: a.yml}]", "discovery.file_sd.file: unknown key (did you mean files?)"),
        ("file_sd: {files: a.yml}", "discovery.file_sd: expected a list"),
        ("file_sd: [a.yml]", "discovery.file_sd: expected a mapping (key: value)"),
        (
            "file_sd: [{files: a.yml, scanports: []}]",
            "discovery.file_sd.scanports: is empty; list ports, or remove the key to use the top-level scanports",
        ),
        (
            "file_sd: [{files: a.yml, refresh: 0}]",
            "discovery.file_sd.refresh: expected a duration between 1 second and 366 days",
        ),
        (
            "file_sd: [{files: a.yml, labels: {host: x}}]",
            'discovery.file_sd.labels."host": "host" is the label that names the host itself; choose another name',
        ),
        ("http_sd: [{}]", "discovery.http_sd.url: missing; set the URL of the list of targets"),
        (
            "http_sd: [{url: http://x, username: u, password: p, password_file: secret}]",
            "discovery.http_sd.password_file: conflicts with password; set only one",
        ),
        (
            "http_sd: [{url: http://x, username: u, bearer_token: t}]",
            "discovery.http_sd.bearer_token: conflicts with username; set only one",
        ),
        (
            "http_sd: [{url: http://x, bearer_token: t, bearer_token_file: secret}]",
            "discovery.http_sd.bearer_token_file: conflicts with bearer_token; set only one",
        ),
        (
            "http_sd: [{url: http://x, password_file: secret}]",
            "discovery.http_sd.password_file: requires username",
        ),
        (
            "http_sd: [{url: http://x, username: 'a:b'}]",
            "discovery.http_sd.username: expected a string without a colon"),
        (
            "http_sd: [{url: http://x, timeout: 0}]",
            "discovery.http_sd.timeout: expected a duration between 0.01 and 60 seconds",
        ),
        (
            "dns: [{type: A}]",
            "discovery.dns.names: missing; list the names to look up, such as [_ssh._tcp.example.org]"),
        (
            "dns: [{names: 192.0.2.1}]",
            'discovery.dns.names: "192.0.2.1" is an address; expected a name to look up, such as _ssh._tcp.example.org',
        ),
        ("dns: [{names: x, type: MX}]", 'discovery.dns.type: expected "SRV", "A" or "AAAA"'),
        ("consul: []", "discovery.consul: unknown key (known: dns, file_sd, http_sd)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_key_and_line(conf: Path, entry: str, problem: str) -> None:
    """Each fault has one line that says where it is and what to write instead."""
    assert problems(conf, f"discovery:\n  {entry}\n") == [f"2: {problem}"]


@pytest.mark.parametrize(
    "url", ["ftp://s3cret", "s3cret", "http://", "http://[s3cret", "http://x:99999/s3cret", "http://x/s3cret s3cret", 7]
)
def test_a_wrong_url_is_told_without_being_quoted(conf: Path, url: Any) -> None:
    """There may be a secret in it."""
    assert problems(conf, f'discovery:\n  http_sd:\n    - url: "{url}"\n') == [
        "3: discovery.http_sd.url: expected a URL that starts with http:// or https:// and names a host"
    ]


def test_a_user_in_a_url_has_keys_of_its_own(conf: Path) -> None:
    """What would be sent to every page that a browser of the log follows stands where it is kept secret."""
    assert problems(conf, "discovery:\n  http_sd:\n    - url: http://u:s3cret@x/\n") == [
        "3: discovery.http_sd.url: contains a user name; set username, and password or password_file, instead"
    ]


def test_a_secret_that_cannot_be_read_is_told(conf: Path) -> None:
    """The file is looked at when conf.yml is, though it is read again at each request."""
    (line,) = problems(conf, "discovery:\n  http_sd:\n    - {url: http://x, bearer_token_file: none}\n")
    assert line == (
        f'3: discovery.http_sd.bearer_token_file: the file "{conf.parent}/none" cannot be read: '
        "no such file or directory"
    )


def test_entries_can_be_listed_before_they_are_checked() -> None:
    """What conf.yml checks as a whole sees every source, and stumbles over nothing."""
    block: dict[str, object] = {"file_sd": [{"scanports": [1]}, 7], "http_sd": None, "dns": {"names": []}, "x": [[]]}
    assert raw_sources(block) == [{"scanports": [1]}, 7, []]
    assert raw_sources(None) == raw_sources([1]) == raw_sources("x") == []
