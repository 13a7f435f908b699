from __future__ import annotations

import os
from typing import TYPE_CHECKING

import yaml

from tests.unit.cli.run import call

if TYPE_CHECKING:
    from pathlib import Path


def _listed() -> list[str]:
    return call("assets").out.splitlines()


def test_assets_are_listed_without_a_directory(tmp_path: Path) -> None:
    """Without --output the files are only listed."""
    done = call("assets", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    some = {
        "alert_rules/portspec.rules.yml",
        "deploy/systemd/portspec.service",
        "grafana/dashboards/portspec-host.json",
    }
    assert {"conf.yml", *some} <= set(_listed())
    assert list(tmp_path.iterdir()) == []


def test_assets_are_written_below_a_new_directory(tmp_path: Path) -> None:
    """Each listed file is written at its path below the directory, which need not exist."""
    done = call("assets", "--output", "new/files", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [f"new/files/{name}" for name in _listed()]
    written = tmp_path / "new" / "files"
    assert yaml.safe_load((written / "alert_rules" / "portspec.rules.yml").read_text())["groups"]
    assert call("check", "-c", str(written / "conf.yml")).code == 0
    assert not list(written.rglob("*.py"))


def test_file_that_differs_is_kept(tmp_path: Path) -> None:
    """A file of one's own is not replaced, nothing is written beside it, and --force replaces it."""
    (tmp_path / "conf.yml").write_text("mine\n")
    refused = call("assets", "-o", ".", cwd=tmp_path)
    assert refused.code == 2
    assert refused.err.startswith("1 file exists and differs:\n  conf.yml\nnothing was written; ")
    assert [path.name for path in tmp_path.iterdir()] == ["conf.yml"]
    assert (tmp_path / "conf.yml").read_text() == "mine\n"
    assert call("assets", "-o", ".", "--force", cwd=tmp_path).code == 0
    assert (tmp_path / "conf.yml").read_text() != "mine\n"


def test_files_that_are_the_same_are_no_obstacle(tmp_path: Path) -> None:
    """The files can be written again over those of the same version."""
    assert call("assets", "-o", ".", cwd=tmp_path).code == 0
    assert call("assets", "-o", ".", cwd=tmp_path).code == 0


def test_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    """What stands in the way is named, with what to do."""
    (tmp_path / "file").write_text("x")
    done = call("assets", "-o", "file", cwd=tmp_path)
    assert done.code == 2
    assert done.err == "file is not a directory; name another one with --output\n"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "deploy").write_text("x")
    done = call("assets", "-o", "new", cwd=tmp_path)
    assert done.code == 2
    assert done.err.endswith("name another directory with --output\n")


def test_pipe_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    """It is not waited for."""
    os.mkfifo(tmp_path / "conf.yml")
    done = call("assets", "--output", str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert "it is a pipe; put a regular file in its place" in done.err


def test_links_below_the_directory_are_not_followed(tmp_path: Path) -> None:
    """Another user may have put them there: nothing is written, not even a directory."""
    victim, directory = tmp_path / "victim", tmp_path / "files"
    victim.mkdir()
    directory.mkdir()
    (directory / "deploy").symlink_to(victim)
    done = call("assets", "--output", str(directory))
    assert (done.code, done.err) == (
        2,
        f"cannot write the files: {directory / 'deploy'}: is a symbolic link; name another directory with --output\n",
    )
    assert list(victim.iterdir()) == []
    assert [path.name for path in directory.iterdir()] == ["deploy"]
