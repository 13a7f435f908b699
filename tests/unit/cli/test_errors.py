from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.unit.cli.run import PROGRAM, environment, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Configure

BROKEN = 'hosts:\n  "db1": [80a]\nscanports: all\nintervall: 60\n'


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """Give a configuration with two problems, in lines 2 and 4."""
    path = tmp_path / "conf.yml"
    path.write_text(BROKEN, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("command", ["check", "scan"])
def test_commands_print_problems_on_standard_error(broken: str, command: str) -> None:
    """A command prints each problem as `file:line: key: what`, by line, on standard error alone, and exits 2."""
    done = run(command, "-c", broken)
    assert (done.code, done.out) == (2, "")
    first, second = done.err.splitlines()
    assert first.startswith(f'{broken}:2: hosts."db1": "80a" is not a port (')
    assert second == f"{broken}:4: intervall: unknown key (did you mean interval?)"


@pytest.mark.parametrize("command", ["check", "scan"])
def test_commands_log_problems_in_json(broken: str, command: str) -> None:
    """With -j each problem is one JSON object on standard error, with file, line and key of their own."""
    done = run(command, "-c", broken, "-j")
    assert (done.code, done.out) == (2, "")
    entries = [json.loads(line) for line in done.err.splitlines()]
    assert [(entry["level"], entry["file"], entry["line"], entry["key"]) for entry in entries] == [
        ("error", broken, 2, 'hosts."db1"'),
        ("error", broken, 4, "intervall"),
    ]
    assert entries[1]["problem"] == "unknown key (did you mean interval?)"
    assert all(entry["event"].startswith(f"{broken}:") for entry in entries)


def test_serve_logs_problems_on_standard_output(broken: str) -> None:
    """`serve` logs each problem as a key=value line on standard output, its log, and exits 2."""
    done = run("serve", "-c", broken)
    assert (done.code, done.err) == (2, "")
    first, second = done.out.splitlines()
    assert f'level=error event="{broken}:2: hosts.\\"db1\\": \\"80a\\" is not a port' in first
    assert f"file={broken} line=4 key=intervall" in second


def test_serve_logs_problems_in_json(broken: str) -> None:
    """`serve -j` logs each problem as one JSON object on standard output, and exits 2."""
    done = run("-j", "-c", broken)
    assert (done.code, done.err) == (2, "")
    assert [json.loads(line)["line"] for line in done.out.splitlines()] == [2, 4]


def test_usage_errors_are_json_with_j(configure: Configure) -> None:
    """With -j a host that is not in the configuration is one JSON object on standard error."""
    done = run("scan", "-j", "-c", configure({"127.0.0.1": []}), "elsewhere")
    assert (done.code, done.out) == (2, "")
    entry = json.loads(done.err)
    assert (entry["level"], entry["event"]) == ("error", '"elsewhere" is not a host of the configuration')


def test_reader_that_goes_away_is_no_crash(configure: Configure) -> None:
    """When the reader of the output is gone the command ends without a traceback, as other programs in a pipe do."""
    process = subprocess.Popen(
        [*PROGRAM, "scan", "--json", "-c", configure({"127.0.0.1": []})],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.close()
    _, err = process.communicate(timeout=60.0)
    assert (process.returncode, err) == (141, "")
