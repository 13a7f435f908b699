from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

import portspec.cli.check
import portspec.cli.scan
from portspec.cli import main
from tests.unit.cli.run import PROGRAM, Done, call, environment, run
from tests.unit.factories import process_restored

if TYPE_CHECKING:
    from pathlib import Path

    from portspec.config import Config
    from tests.unit.cli.conftest import Configure

BROKEN = 'hosts:\n  "db1": [80a]\nscanports: all\nintervall: 60\n'


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """Return a configuration with two problems, in lines 2 and 4."""
    path = tmp_path / "conf.yml"
    path.write_text(BROKEN, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("command", ["check", "scan"])
def test_commands_print_problems_on_standard_error(broken: str, command: str) -> None:
    """A command prints each problem as `file:line: key: what`, by line, on standard error alone, and exits 2."""
    done = call(command, "-c", broken)
    assert (done.code, done.out) == (2, "")
    first, second = done.err.splitlines()
    assert first.startswith(f'{broken}:2: hosts."db1": "80a" is not a port (')
    assert second == f"{broken}:4: intervall: unknown key (did you mean interval?)"


@pytest.mark.parametrize("command", ["check", "scan"])
def test_commands_log_problems_in_json(broken: str, command: str) -> None:
    """With -j each problem is one JSON object on standard error, with file, line and key of their own."""
    done = call(command, "-c", broken, "-j")
    assert (done.code, done.out) == (2, "")
    entries = [json.loads(line) for line in done.err.splitlines()]
    assert [(entry["level"], entry["file"], entry["line"], entry["key"]) for entry in entries] == [
        ("error", broken, 2, 'hosts."db1"'),
        ("error", broken, 4, "intervall"),
    ]
    assert entries[1]["problem"] == "unknown key (did you mean interval?)"
    assert all(entry["event"].startswith(f"{broken}:") for entry in entries)


def test_serve_logs_problems_on_standard_output(broken: str) -> None:
    """`serve` logs each problem once, as the event of a line on standard output, its log, and exits 2."""
    done = call("serve", "-c", broken)
    assert (done.code, done.err) == (2, "")
    first, second = done.out.splitlines()
    assert f'level=error event="{broken}:2: hosts.\\"db1\\": \\"80a\\" is not a port' in first
    assert second.endswith(f'level=error event="{broken}:4: intervall: unknown key (did you mean interval?)"')


def test_serve_logs_problems_in_json(broken: str) -> None:
    """`serve -j` logs each problem as one JSON object on standard output, and exits 2."""
    done = call("-j", "-c", broken)
    assert (done.code, done.err) == (2, "")
    assert [json.loads(line)["line"] for line in done.out.splitlines()] == [2, 4]


def test_usage_errors_are_json_with_j(configure: Configure) -> None:
    """With -j a host that is not in the configuration is one JSON object on standard error."""
    done = call("scan", "-j", "-c", configure({"127.0.0.1": []}), "elsewhere")
    assert (done.code, done.out) == (2, "")
    entry = json.loads(done.err)
    assert (entry["level"], entry["event"]) == ("error", '"elsewhere" is not a host of the configuration')


def run_in_shell(arguments: list[str], redirection: str) -> Done:
    """Run a command as a shell does that redirects its output."""
    return run(*arguments, program=["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM])


OUTPUTS = [["scan"], ["scan", "--json"], ["check"]]
CONNECT = {"engine": "connect"}  # which starts without numpy


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_closed_output_leaves_the_exit_code_as_it_is(
    configure: Configure, command: list[str], redirection: str
) -> None:
    """Who closes the output wants the exit code alone, and gets it."""
    assert run_in_shell([*command, "-c", configure({"127.0.0.1": []}, scan=CONNECT)], redirection) == Done(0, "", "")


@pytest.mark.parametrize("command", OUTPUTS)
def test_full_disk_is_exit_2(configure: Configure, command: list[str]) -> None:
    """A result that cannot be written is no verdict: exit 2, with one line on standard error."""
    done = run_in_shell([*command, "-c", configure({"127.0.0.1": []}, scan=CONNECT)], ">/dev/full")
    assert done == Done(2, "", "cannot write the result: no space left on device\n")


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize("redirection", ["", "2>&-"])
def test_reader_that_is_gone_is_exit_141(configure: Configure, command: list[str], redirection: str) -> None:
    """A pipe without a reader ends each command as SIGPIPE does, also without standard error."""
    arguments = [*command, "-c", configure({"127.0.0.1": []}, scan=CONNECT)]
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.close()
    _, err = process.communicate(timeout=60.0)
    assert (process.returncode, err) == (141, "")


@pytest.mark.parametrize("command", OUTPUTS)
def test_crash_of_a_command_is_exit_70(
    configure: Configure, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of the program looks like no verdict: exit 70, with its traceback on standard error."""

    def crash(_: Config, *__: object) -> None:
        raise ZeroDivisionError("somewhere")

    for module in (portspec.cli.scan, portspec.cli.check):
        monkeypatch.setattr(module, "targets", crash)
    with process_restored():
        assert main([*command, "-c", configure({"127.0.0.1": []}, scan=CONNECT)]) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Traceback ")
    assert err.endswith("ZeroDivisionError: somewhere\n")
