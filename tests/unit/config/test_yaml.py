from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from portspec import files
from portspec.config import Specification, load
from portspec.config import yaml_document as source_module
from portspec.errors import ConfigError
from portspec.ports import PortSet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.config.conftest import Conf

ENDING = "scanports: [22]\n"


def expects(conf: Conf, hosts: str) -> dict[str, list[int]]:
    """Load a `hosts:` block and give what each host should have open."""
    return {host.name: list(host.specification.expect) for host in conf.load(f"hosts:\n{hosts}{ENDING}").hosts}


def test_an_alias_stands_for_its_anchor(conf: Conf) -> None:
    """Ports that many hosts share are written once."""
    assert expects(conf, "  a: &web [80, 443]\n  b: *web\n  c: {expect: *web}\n") == {
        "a": [80, 443],
        "b": [80, 443],
        "c": [80, 443],
    }


def test_a_merge_key_brings_in_another_mapping(conf: Conf) -> None:
    """A host takes over what another has, and what it says itself goes before, wherever the << stands."""
    config = conf.load(
        "hosts:\n"
        "  a: &full {expect: [22], allow: [25], interval: 60}\n"
        "  b: {<<: *full, interval: 90}\n"
        "  c: {interval: 90, <<: *full}\n" + ENDING
    )
    assert [(host.specification, host.interval) for host in config.hosts] == [
        (Specification(PortSet.of([22]), PortSet.of([25])), interval) for interval in (60.0, 90.0, 90.0)
    ]


def test_a_merge_key_takes_a_list_of_which_the_first_wins(conf: Conf) -> None:
    """Of several mappings that are merged, an earlier one goes before a later one."""
    assert expects(
        conf, "  a: &a {expect: [1]}\n  b: &b {expect: [2], interval: 60}\n  c: {<<: [*a, *b]}\n  d: {<<: [*b, *a]}\n"
    ) == {"a": [1], "b": [2], "c": [1], "d": [2]}


def test_merges_may_be_chained(conf: Conf) -> None:
    """What was merged can be merged again."""
    assert expects(conf, "  a: &a {expect: [1]}\n  b: &b {<<: *a, interval: 60}\n  c: {<<: *b}\n")["c"] == [1]


def test_hosts_may_be_merged(conf: Conf) -> None:
    """The mapping of hosts is a mapping like others."""
    assert expects(conf, "  <<: {a: [1], b: [2]}\n  b: [3]\n") == {"a": [1], "b": [3]}


def test_a_quoted_merge_key_is_a_key(conf: Conf) -> None:
    """Only the plain << merges."""
    (line,) = conf.problems(f'hosts:\n  db1: {{"<<": {{expect: [1]}}}}\n{ENDING}')
    known = "allow, audit, canary, expect, interval, labels, renamed_from, scanports"
    assert line == f'conf.yml:2: hosts."db1"."<<": unknown key (known: {known})'


def test_a_fault_in_a_merged_mapping_is_told_where_it_stands(conf: Conf) -> None:
    """The line of a fault is that of the anchor when the fault came from there, else that of the host."""
    lines = conf.problems(
        "hosts:\n"
        "  a: &a\n"
        "    expect: [22]\n"
        "  b:\n"
        "    interval: 0\n"
        "    expect:\n"
        "      - 22\n"
        "      - 80a\n"
        "    <<: *a\n" + ENDING
    )
    assert [line.split(": ")[:2] for line in lines] == [
        ["conf.yml:5", 'hosts."b".interval'],
        ["conf.yml:8", 'hosts."b".expect'],
    ]


def test_aliases_that_expand_without_end_are_an_error(conf: Conf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few lines that stand for billions of values are refused before they fill the memory."""
    monkeypatch.setattr(source_module, "MAX_VALUES", 1_000)
    bomb = "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abc", "bcd", strict=True)
    )
    assert conf.problems(f"a: &a [x]\n{bomb}") == [
        "conf.yml:1: more than 1,000 values; do aliases (*name) expand too often?"
    ]


def test_aliases_in_a_merge_do_not_expand_without_end(conf: Conf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of lists are nothing to merge, so that a merge is no way around the limit of values."""
    monkeypatch.setattr(source_module, "MAX_VALUES", 1_000)
    bomb = ", ".join(f"&{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in zip("abcd", "bcde", strict=True))
    lines = conf.problems(f"hosts:\n  db1:\n    <<: [&a [], {bomb}]\n{ENDING}")
    assert set(lines) <= {
        'conf.yml:3: hosts."db1": << takes a mapping or a list of mappings',
        "conf.yml:3: more than 1,000 values; do aliases (*name) expand too often?",
    }


@pytest.mark.parametrize("depth", [35, 36, 100])
def test_nesting_is_bounded(conf: Conf, depth: int) -> None:
    """A configuration needs few levels: those that a file may have are told as what they are, more are refused."""
    (line,) = conf.problems(f"hosts:\n  db1: [{'[' * depth}~{']' * depth}]\n{ENDING}")
    wanted = "nested more than 40 levels deep" if depth == 100 else 'hosts."db1": null is not a port'
    assert line.startswith(f"conf.yml:2: {wanted}")


def test_what_looks_like_a_number_but_is_written_oddly_stays_a_text(conf: Conf) -> None:
    """YAML 1.1 reads 1:30 as 90, 010 as 8 and 1.10 as 1.1; a label keeps what the user typed."""
    (host,) = conf.load(
        "hosts: {db1: {labels: {a: 010, b: 1:30, c: 0x1f, d: 1_000, e: 1.10, f: 2017-01-01, g: 1.0e+3, h: 7}}}\n"
        + ENDING
    ).hosts
    assert dict(host.labels) == {
        "a": "010",
        "b": "1:30",
        "c": "0x1f",
        "d": "1_000",
        "e": "1.10",
        "f": "2017-01-01",
        "g": "1.0e+3",
        "h": "7",
    }


@pytest.mark.parametrize("tag", ["!!float", "!!int", "!!bool"])
def test_a_value_that_its_tag_denies_is_an_error(conf: Conf, tag: str) -> None:
    """A tag that a user gives is not believed more than the value."""
    (line,) = conf.problems(f"hosts: {{db1: 22}}\n{ENDING}ipv6: {tag} perhaps\n")
    assert line.startswith("conf.yml:3: ipv6: ")


def test_a_tag_creates_nothing(conf: Conf, tmp_path: Path) -> None:
    """Tags that make Python objects in an unsafe loader are plain values here."""
    made = tmp_path / "made"
    (line,) = conf.problems(f'hosts: {{db1: !!python/object/apply:os.mkdir ["{made}"]}}\n{ENDING}')
    assert line.startswith(f'conf.yml:1: hosts."db1": "{made}"'[:60])
    assert not made.exists()


ENVIRONMENT = {"NAME": "db1", "PORT": "443", "INTERVAL": "90m", "FLAG": "yes", "EMPTY": "", "ODD": "a: [b, ${NAME}"}


def test_variables_are_replaced_in_every_string(conf: Conf) -> None:
    """A variable may be all or part of a value, a key, or a port, and several may stand in one string."""
    config = conf.load(
        'hosts:\n  "${NAME}.example.org":\n    expect: ["${PORT}", "${PORT}/tcp", "8${PORT}"]\n'
        '    interval: "${INTERVAL}"\n    labels: {name: "<${NAME}:${PORT}${EMPTY}>"}\n'
        "ipv6: ${FLAG}\nscanports: ${PORT}\n",
        ENVIRONMENT,
    )
    (host,) = config.hosts
    assert host.name == "db1.example.org"
    assert list(host.specification.expect) == [443, 8443]
    assert host.interval == 5400.0
    assert host.labels == {"name": "<db1:443>"}
    assert config.ipv6 is True


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$${NAME}"),
        ("$${${NAME}}", "${db1}"),
        ("$${x ${NAME}", "${x db1"),
        ("${NAME}$${", "db1${"),
        ("${ODD}", "a: [b, ${NAME}"),
        ("$NAME", "$NAME"),
        ("$$", "$$"),
        ("a$b{c}", "a$b{c}"),
    ],
)
def test_two_dollars_stand_for_a_literal_one(conf: Conf, written: str, read: str) -> None:
    """$${ is ${ as it stands, what a variable holds is not looked at again, and a dollar alone is a dollar."""
    (host,) = conf.load(f"hosts: {{db1: {{labels: {{a: '{written}'}}}}}}\n{ENDING}", ENVIRONMENT).hosts
    assert host.labels == {"a": read}


def test_comments_may_hold_anything(conf: Conf) -> None:
    """Only values are looked through for variables."""
    assert conf.load(f"hosts: {{db1: 22}} # ${{UNSET}} ${{\n{ENDING}").hosts


def test_a_file_given_by_name_is_relative_to_the_configuration(
    conf: Conf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret lies beside conf.yml, wherever portspec is started."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "smtp").write_text("hunter2\n")
    (tmp_path / "elsewhere").mkdir()
    text = f"hosts: {{db1: 22}}\n{ENDING}smtppassword_file: secrets/smtp\nsmtpusername: portspec\n"
    for directory in ("elsewhere", "."):
        monkeypatch.chdir(tmp_path / directory)
        assert conf.load(text).hosts
    assert load("conf.yml", {}).hosts
    assert conf.load(text.replace("secrets/smtp", f"{tmp_path}/secrets/smtp")).hosts


@pytest.mark.parametrize(
    ("name", "why"), [("nowhere", "no such file or directory"), (".", "is a directory"), ("binary", "not a text file")]
)
def test_a_file_that_cannot_be_read_is_told_with_its_path(conf: Conf, tmp_path: Path, name: str, why: str) -> None:
    """The message has the path as it was looked for, and what the system says of it."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert conf.problems(f"hosts: {{db1: 22}}\n{ENDING}smtppassword_file: {name}\nsmtpusername: portspec\n") == [
        f'conf.yml:3: smtppassword_file: the file "{tmp_path / name}" cannot be read: {why}'
    ]


@pytest.mark.parametrize(("key", "more"), [("smtppassword_file", "smtpusername: portspec"), ("smtpcafile", "")])
def test_pipe_is_no_file_that_is_read_at_each_use(conf: Conf, tmp_path: Path, key: str, more: str) -> None:
    """What is read again for each mail is no pipe: that is told at once, and nothing waits for a writer."""
    os.mkfifo(tmp_path / "pipe")
    why = f'conf.yml:3: {key}: the file "{tmp_path}/pipe" cannot be read: it is a pipe; put a regular file in its place'
    assert why in conf.problems(f"hosts: {{db1: 22}}\n{ENDING}{key}: pipe\n{more}\n")


def test_pipe_in_the_place_of_the_configuration_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """conf.yml may be a pipe; one that nobody writes to is an error with its name and what to do."""
    monkeypatch.setattr(files, "PATIENCE", 0.01)
    os.mkfifo(tmp_path / "conf.yml")
    with pytest.raises(ConfigError) as told:
        load(tmp_path / "conf.yml", {})
    why = "it is a pipe that has not ended in 0.01 s; write to it, or put a regular file in its place"
    assert str(told.value) == f"{tmp_path}/conf.yml: cannot be read: {why}"


SECRET = "hunter2-Xy9"  # noqa: S105 - it guards nothing


@pytest.mark.parametrize(
    "text",
    [
        "smtppassword: [SECRET]",
        "smtppassword: {SECRET: x}",
        "smtppassword: {x: SECRET}",
        "smtppassword: !!float SECRET\nipv6: maybe",
        "smtppassword: !!bool SECRET",
        "smtppassword: !!int SECRET\nipv6: maybe",
        "smtppassword: SECRET\nsmtppassword: SECRET",
        "smtppassword: SECRET\nsmtppassword_file: conf.yml",
        'smtppassword: "SECRET',
        "smtppassword: 'SECRET\nx: 'y'",
        "smtppassword: [SECRET",
        "smtppassword: @SECRET",
        "smtppassword: %SECRET",
        "smtppassword: *SECRET",
        "smtppassword: SECRET: SECRET",
        "smtppassword:SECRET",
        "smtppassword:\n\tSECRET",
        'smtppassword: "SECRET\\q"',
        "smtppasword: SECRET",
        "smtp_password: {SECRET: SECRET}",
        "smtppassword: SECRET${UNSET}",
        "smtppassword: SECRET${",
        "smtppassword: SECRET\x1b",
        "smtppassword: SECRET\nscanport: 0",
        "smtppassword: ${PASSWORD}\nhosts: 5",
        "smtpserver: smtp://portspec:SECRET@mail.example.org",
        "smtpserver: portspec:SECRET@mail.example.org",
        "audit: SECRET",
        "audit: {passphrase: SECRET}",
        "audit: {passphrase: [SECRET]}",
        "audit: {passphrase: {SECRET: x}}",
        "audit: {pasphrase: SECRET}",
        "audit: {passphrase: '${SECRET}'}",
        "audit: {passphrase: 'SECRET-SECRET${hunter2}'}",
        "audit: {passphrase: SECRET-SECRET, passphrase_file: conf.yml}",
        "audit: {passphrase: SECRET-SECRET, previous_passphrase: SECRET-SECRET}",
        "audit: {previous_passphrase: SECRET, passphrase_file: short}",
    ],
)
def test_a_secret_stands_in_no_message(conf: Conf, tmp_path: Path, text: str) -> None:
    """Messages go to logs that many may read: whatever is wrong with a password, it is not quoted."""
    (tmp_path / "short").write_text(SECRET)
    environment = {"PASSWORD": SECRET}
    lines = conf.problems(f"hosts: {{db1: 22}}\n{ENDING}{text}\n".replace("SECRET", SECRET), environment)
    assert not [line for line in lines if "hunter2" in line]


def test_a_secret_stands_in_no_representation(conf: Conf, tmp_path: Path) -> None:
    """A Config in a traceback or a debugger's log shows no password."""
    (tmp_path / "smtp").write_text(SECRET * 2)
    for secret in (
        f"smtppassword: {SECRET}\nsmtpusername: portspec",
        "smtppassword_file: smtp\nsmtpusername: portspec",
        f"audit: {{passphrase: {SECRET * 2}, previous_passphrase: the other {SECRET}}}",
        "audit: {passphrase_file: smtp}",
    ):
        config = conf.load(f"hosts: {{db1: 22}}\n{ENDING}{secret}\n")
        assert SECRET not in repr(config)
        assert SECRET not in str(config)


def test_the_traceback_of_an_error_has_no_second_part(conf: Conf) -> None:
    """What YAML or pydantic raised, which quotes the file, is not chained to the error that is shown."""
    for text in (f"smtppassword: [{SECRET}", f"smtppassword: [{SECRET}]\n", f"smtppassword: {SECRET}\x1b"):
        with pytest.raises(ConfigError) as caught:
            conf.load(text)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("text", ["hosts: {db1: [${NAME}]}\n", "${NAME}\n", "smtppassword: ${NAME}\n", "${NAME}: 1\n"])
def test_name_of_a_variable_is_quoted_in_short(conf: Conf, text: str) -> None:
    """However long a variable's name is, each message fits into a line of the log."""
    for line in conf.problems(text.replace("NAME", "N" * 9000), {}):
        assert len(line) < 400
