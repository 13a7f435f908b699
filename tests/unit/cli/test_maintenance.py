"""`portspec maintenance`, which asks the running exporter."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.cli.run import Server, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.cli.conftest import Configure


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a runtime directory whose path is short: that of a socket has at most 107 bytes (unix(7))."""
    path = Path(tempfile.mkdtemp(prefix="portspec-"))
    yield path
    shutil.rmtree(path)


def test_maintenance_begins_and_ends_and_is_listed(configure: Configure, directory: Path) -> None:
    """It says what lasts then; what the exporter refuses is an error with its words: exit 2."""
    environment = {"RUNTIME_DIRECTORY": str(directory)}
    planned = {"hosts": ["127.0.0.2"], "from": "2998-01-01", "until": "1d"}
    with Server(Path(configure({"127.0.0.1": [], "127.0.0.2": []}, maintenance=[planned])), extra=environment):
        line = "127.0.0.2: maintenance from 2998-01-01T00:00:00.000Z until 2998-01-02T00:00:00.000Z (conf.yml)\n"
        assert run("maintenance", "--list", extra=environment).out == line
        done = run("maintenance", "127.0.0.1", "--until", "1w", "--reason", "move", "--owner", "ops", extra=environment)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("127.0.0.1: maintenance until 2")
        assert done.out.endswith(" (reason: move; owner: ops)\n")
        assert run("maintenance", "--list", extra=environment).out == done.out + line
        for arguments, message in (
            (["127.0.0.3", "--for", "2h"], '"127.0.0.3" is not a host of this exporter\n'),
            (["127.0.0.1", "--for", "0"], 'for: "0" has no unit; write for example "0m"\n'),
            (["127.0.0.1", "--for=-1h"], 'for: "-1h" is not a duration (expected for example "2h")\n'),
            (
                ["127.0.0.1", "--for", "10y"],
                "for: 10y is more than 90 days from now; write longer maintenance into conf.yml\n",
            ),
            (["127.0.0.1", "--for", "2h", "--reason", "a\nb"], "reason: the text has characters that cannot be seen\n"),
            (["127.0.0.2", "--end"], "the maintenance of 127.0.0.2 does not last\n"),
        ):
            refused = run("maintenance", *arguments, extra=environment)
            assert (refused.code, refused.out, refused.err) == (2, "", message)
        done = run("maintenance", "127.0.0.1", "--end", extra=environment)
        assert (done.code, done.out) == (0, "127.0.0.1: no maintenance\n")


def test_nobody_answers(directory: Path) -> None:
    """Without an exporter it says where none is, and what other exporters take: exit 2."""
    done = run("maintenance", "db1", "--for", "2h", extra={"RUNTIME_DIRECTORY": str(directory)})
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"no exporter answers at {directory}/portspec.sock: no such file or directory; ")
    assert "curl -X POST" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "2h"], "name the HOST whose maintenance begins or ends, or give --list"),
        (["db1", "--end", "--reason", "x"], "--reason and --owner belong to maintenance that begins"),
        (["db1"], "one of the arguments --for --until --end --list is required"),
        (["db1", "--for", "2h", "--until", "1w"], "not allowed with argument"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(directory: Path, arguments: list[str], message: str) -> None:
    """Nobody is asked then: exit 2."""
    done = run("maintenance", *arguments, extra={"RUNTIME_DIRECTORY": str(directory)})
    assert done.code == 2
    assert message in done.err
