from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from portspec import __version__
from portspec.cli.arguments import COMMANDS
from portspec.files import DEFAULT_CONFIG
from tests.unit.cli.run import Done, call, environment, run


@pytest.mark.parametrize("spelled", ["--version", "-V", "version"])
def test_version(spelled: str) -> None:
    """`--version` and its other spellings print the program's name and version."""
    done = call(spelled)
    assert (done.code, done.out, done.err) == (0, f"portspec {__version__}\n", "")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_mentions_every_command(option: str) -> None:
    """The help names each command with a line about it, and shows examples."""
    done = call(option)
    assert (done.code, done.err) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"\n    {command}\s", done.out)
    assert "portspec -c conf.yml" in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_of_its_own(command: str) -> None:
    """The help of a command names its options."""
    done = call(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: portspec {command}")
    assert "--log.level" in done.out


def test_help_of_serve_names_the_shard() -> None:
    """`serve --help` says what a shard is."""
    assert "--shard I/N" in call("serve", "--help").out


def test_help_of_serve_names_the_external_url() -> None:
    """`serve --help` says what --web.external-url is for."""
    assert "--web.external-url URL" in call("serve", "--help").out


@pytest.mark.parametrize("arguments", [[], ["-c"], ["--log.level", "info"]])
def test_serve_is_the_default_command(arguments: list[str], tmp_path: Path) -> None:
    """Without a command the exporter runs: here, with a file that is not there, it ends as `serve` does."""
    conf = str(tmp_path / "missing.yml")
    given = arguments[:-1] if arguments == ["-c"] else arguments
    done = call(*given, "-c", conf)
    assert (done.code, done.err) == (2, "")
    assert "level=error" in done.out
    assert f"{conf}: no such file; name the configuration file with -c FILE" in done.out


@pytest.mark.parametrize(
    "arguments",
    [["--nonsense"], ["scan", "--nonsense"], ["accept"], ["scan", "-c"], ["check", "--log.level", "loud"]],
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    """Arguments that make no sense print the usage on standard error, nothing on standard output, and exit 2."""
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: portspec")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["scna", "-c", "conf.yml"], 'there is no command "scna"; did you mean "scan"?'),
        (["-c", "conf.yml", "chekc"], 'there is no command "chekc"; did you mean "check"?'),
        (["help", "lern"], 'there is no command "lern"; did you mean "learn"?'),
        (["--log.format", "json", "x\ny"], r'there is no command "x\ny"; `portspec help` lists the commands'),
    ],
)
def test_unknown_command_is_named_with_the_one_that_is_meant(arguments: list[str], hint: str) -> None:
    """A word that is not a command ends with exit code 2 and one line that says what was meant, wherever it stands."""
    assert call(*arguments) == Done(2, "", f"portspec: {hint}\n")


@pytest.mark.parametrize("command", ["scan", "assets"])
def test_help_of_a_command_by_word(command: str) -> None:
    """`portspec help COMMAND` prints what `portspec COMMAND --help` prints, and `help` alone the whole."""
    assert call("help", command) == call(command, "--help")
    assert call("help") == call("--help")


def test_help_has_the_options_of_the_default_command() -> None:
    """`portspec --help` lists the options of `serve`, which need no command."""
    listed = call("--help").out.partition("options without a command")[2]
    for option in ("--config.file FILE", "--web.listen-address ADDR", "--shard I/N", "--log.format FORMAT"):
        assert option in listed


@pytest.mark.parametrize("spelled", [["-c", "conf.yml"], ["--config.file", "conf.yml"], ["--config.file=conf.yml"]])
def test_configuration_is_named_by_either_spelling(spelled: list[str], tmp_path: Path) -> None:
    """`--config.file` is `-c`, in front of a command and behind it."""
    (tmp_path / "conf.yml").write_text('{"hosts": {"127.0.0.1": []}, "scanports": [1]}', encoding="utf-8")
    for arguments in (["check", *spelled], [*spelled, "check"]):
        done = call(*arguments, cwd=tmp_path)
        assert (done.code, done.err) == (0, "")
        assert "conf.yml is valid." in done.out


def test_log_format_json_is_j(tmp_path: Path) -> None:
    """`--log.format json` is `-j`; `logfmt` keeps to lines of key=value."""
    missing = str(tmp_path / "missing.yml")
    assert json.loads(call("--log.format", "json", "-c", missing).out)["level"] == "error"
    assert json.loads(call("-j", "-c", missing).out)["level"] == "error"
    assert "level=error" in call("--log.format", "logfmt", "-c", missing).out


def test_configuration_from_standard_input(tmp_path: Path) -> None:
    """With `-c -` a command reads its configuration from standard input; relative paths are below the directory."""
    conf = b"hosts: {127.0.0.1: []}\nscanports: [1]\nstate: sub/states.db\n"
    done = call("check", "-c", "-", stdin=conf, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "state file: sub/states.db" in done.out
    assert done.out.endswith("standard input is valid.\n")


def test_fault_on_standard_input_has_its_line() -> None:
    """A fault in a configuration from standard input is told with its line."""
    done = call("check", "-c", "-", stdin=b"hosts: {127.0.0.1: [22]}\nscanports: [70000]\n")
    assert done.code == 2
    assert done.err.startswith("standard input:2: scanports: ")


def test_receive_needs_its_standard_input_for_the_mail() -> None:
    """`receive -c -` keeps the mail in the queue of the MTA and says that the file must be named."""
    done = call("receive", "-c", "-", stdin=b"Subject: x\n\n")
    assert done.code == 75
    assert "standard input is the mail; name a configuration file with -c" in done.err


def test_default_file_that_is_not_there_says_what_to_mount() -> None:
    """Without `-c`, and without the default file, the message says where to put it, in a container too."""
    if Path(DEFAULT_CONFIG).exists():
        pytest.skip(f"{DEFAULT_CONFIG} exists")
    done = call("check")
    assert done.code == 2
    assert f"-v ./conf.yml:{DEFAULT_CONFIG}:ro" in done.err


def test_console_script_is_the_same_program() -> None:
    """The `portspec` that installation puts beside Python is the same as `python -m portspec`."""
    script = Path(sys.executable).with_name("portspec")
    done = subprocess.run([script, "--version"], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"portspec {__version__}\n")


def test_help_is_quick_to_import() -> None:
    """`--help` imports none of the large libraries that only some command needs."""
    program = "import sys, portspec.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    large = {"aiohttp", "jinja2", "numpy", "prometheus_client", "pydantic", "rich", "yaml"}
    assert not large & set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "scan", "scan"],
        ["--log.level", "debug", "scan", "-c", "scan"],
        ["-j", "-c", "scan", "scan", "--json"],
        ["scan", "-c", "scan"],
    ],
)
def test_options_may_stand_before_the_command(arguments: list[str], tmp_path: Path) -> None:
    """A command is found behind options, and a file that is called like one is not taken for it."""
    (tmp_path / "scan").write_text('{"hosts": {"127.0.0.1": {"allow": "all", "scanports": [1]}}}', encoding="utf-8")
    done = run(*arguments, cwd=tmp_path)
    assert (done.code, "127.0.0.1" in done.out) == (0, True), done.err


def test_check_may_stand_behind_its_options(tmp_path: Path) -> None:
    """`portspec -c F check` is `portspec check -c F`."""
    (tmp_path / "conf.yml").write_text('{"hosts": {"127.0.0.1": []}, "scanports": [1]}', encoding="utf-8")
    before, after = call("-c", "conf.yml", "check", cwd=tmp_path), call("check", "-c", "conf.yml", cwd=tmp_path)
    assert before == after
    assert before.code == 0


def test_host_that_is_called_like_a_command_is_a_host() -> None:
    """The first word that is a command is the command; what follows are its arguments."""
    done = run("learn", "scan", "--ports", "1")
    assert '# "scan": does not resolve' in done.out
    assert done.code == 3
