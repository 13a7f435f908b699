from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from portspec import __version__
from portspec.cli.arguments import COMMANDS
from tests.unit.cli.run import call, environment, run


def test_version() -> None:
    """`--version` prints the program's name and version."""
    done = call("--version")
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
    [["--nonsense"], ["nonsense"], ["scan", "--nonsense"], ["learn"], ["scan", "-c"], ["check", "--log.level", "loud"]],
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    """Arguments that make no sense print the usage on standard error, nothing on standard output, and exit 2."""
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: portspec")


def test_unknown_command_is_named_as_such() -> None:
    """A word that is no command is called an unknown command, with the commands that there are."""
    done = call("scna", "-c", "conf.yml")
    assert done.code == 2
    assert "scna" in done.err
    assert "scan" in done.err


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
