"""Where the state file is, for every command with the same conf.yml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from portspec.config import Config
from portspec.store.location import exporter_state_file, find_state_file, is_same_file, publish_location
from portspec.store.lock import LockHolder, StateFileLock
from tests.unit.factories import NOW

CONF: Final = "portspec.yml"
AS_NOBODY: Final = """
import json, os, sys
from pathlib import Path
from portspec.config import Config
from portspec.store.location import find_state_file
conf, system = map(Path, sys.argv[1:])
if os.geteuid() == 0:
    os.setuid(65534)
place = find_state_file(Config(str(conf), (), state=str(conf.with_name("portspec.db"))), system)
print(json.dumps([place.is_certain, place.why]))
"""


class Machine:
    """A machine with conf.yml in etc/, a /var/lib, and exporters that have run on it."""

    def __init__(self, root: Path) -> None:
        self.system = root / "lib"
        self.etc = root / "etc"
        for directory in (self.system, self.etc):
            directory.mkdir()
        self._starts = 0

    def config(self, environment: Path | None = None, name: str = CONF) -> Config:
        """Give what is read of a conf.yml that names no state file, with a $STATE_DIRECTORY or none."""
        return Config(str(self.etc / name), (), state=str((environment or self.etc) / "portspec.db"))

    def run(self, config: Config, shard: str = "") -> str:
        """Run an exporter, and give the path of the file that it writes to."""
        path = exporter_state_file(config, self.system)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._starts += 1
        lock = StateFileLock(
            os.path.realpath(path), LockHolder(1, "scan1", os.path.realpath(config.path), NOW + self._starts, shard)
        )
        lock.acquire()
        Path(path).touch()
        publish_location(config, path, is_sharded=bool(shard), system=self.system)
        lock.release()
        return path

    def found(self, config: Config) -> str | None:
        """Give what other commands find, as far as it is certain."""
        place = find_state_file(config, self.system)
        return place.path if place.is_certain else None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Give a machine on which nothing has run yet."""
    return Machine(tmp_path)


@pytest.mark.parametrize("directory", ["lib/portspec", "lib/portspec-dmz", "srv/anywhere", "etc"])
def test_every_command_finds_what_the_exporter_has_written(machine: Machine, tmp_path: Path, directory: str) -> None:
    """By the default of systemd, of a second unit, of any $STATE_DIRECTORY, and without: whatever is asked with."""
    written = machine.run(machine.config(tmp_path / directory))
    assert written == str(tmp_path / directory / "portspec.db")
    for environment in (None, tmp_path / directory, tmp_path / "lib" / "postfix"):
        assert machine.found(machine.config(environment)) == written
    assert exporter_state_file(machine.config(), machine.system) == written


def test_file_that_conf_yml_names_is_that_one(machine: Machine) -> None:
    """Nothing else is looked for, also if the file is not there yet."""
    machine.run(machine.config(machine.system / "portspec"))
    config = replace(machine.config(), state="/srv/ports.db", is_state_named=True)
    assert machine.found(config) == exporter_state_file(config, machine.system) == "/srv/ports.db"


def test_nothing_is_certain_before_the_exporter_has_run(machine: Machine) -> None:
    """A command that would begin a file is told to wait, in words that say what to do."""
    place = find_state_file(machine.config(), machine.system)
    assert not place.is_certain
    assert place.why == (
        f"no state file of this configuration was found, and {machine.etc}/portspec.db does not exist: start the "
        "exporter, which creates the file, or set `state` in conf.yml"
    )


def test_file_of_another_configuration_is_not_taken(machine: Machine) -> None:
    """Of two conf.yml in one directory each finds its own."""
    first = machine.run(machine.config(machine.system / "portspec", "a.yml"))
    assert machine.found(machine.config(name="b.yml")) is None
    second = machine.run(machine.config(machine.system / "portspec-b", "b.yml"))
    assert [machine.found(machine.config(name=name)) for name in ("a.yml", "b.yml")] == [first, second]


def test_stray_file_beside_conf_yml_is_passed_over(machine: Machine) -> None:
    """What `receive` of an earlier portspec began there is not what the exporter writes to."""
    (machine.etc / "portspec.db").touch()
    written = machine.run(machine.config(machine.system / "portspec"))
    assert machine.found(machine.config()) == written


@pytest.mark.parametrize("directory", ["etc", "lib/postgres"])
def test_file_of_an_earlier_portspec_is_found_where_the_default_says(
    machine: Machine, tmp_path: Path, directory: str
) -> None:
    """It has no lock beside it that says whose it is."""
    path = tmp_path / directory / "portspec.db"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert machine.found(machine.config(path.parent)) == str(path)


def test_last_exporter_decides(machine: Machine, tmp_path: Path) -> None:
    """Who moves the state elsewhere is followed."""
    places = [tmp_path / "srv" / "one", machine.system / "portspec", tmp_path / "srv" / "two"]
    for directory in places:
        written = machine.run(machine.config(directory))
        assert machine.found(machine.config()) == written == str(directory / "portspec.db")


def test_shards_are_found_by_their_environment_alone(machine: Machine) -> None:
    """Which shard a command is about nobody can guess; with the shard's $STATE_DIRECTORY it is clear."""
    directories = [machine.system / f"portspec-{number}" for number in range(2)]
    written = [
        machine.run(machine.config(directory), shard=f"{number}/2") for number, directory in enumerate(directories)
    ]
    assert machine.found(machine.config()) is None
    assert [machine.found(machine.config(directory)) for directory in directories] == written


def test_directory_that_may_not_be_searched_is_named() -> None:
    """A command of another user says that the file may be there, and takes no other that happens to exist."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)  # unlike those of pytest, one that another user may look into
        machine = Machine(root)
        machine.run(machine.config(machine.system / "portspec"))
        (machine.etc / "portspec.db").touch()
        (machine.system / "portspec").chmod(0)
        command = [sys.executable, "-c", AS_NOBODY, str(machine.etc / CONF), str(machine.system)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60.0, check=True)
        (machine.system / "portspec").chmod(0o700)
    is_certain, why = json.loads(done.stdout)
    assert not is_certain
    assert why == (
        f"the state file may be in {machine.system}/portspec, which this user may not search: run the command as the "
        "user of the exporter, or set `state` in conf.yml"
    )


def test_exporter_knows_whether_others_will_find_its_file(machine: Machine, tmp_path: Path) -> None:
    """Where nothing may be written beside conf.yml, it says so, unless the place is the usual one."""
    config = replace(machine.config(), path=str(tmp_path / "none" / CONF))
    path = str(tmp_path / "srv" / "portspec.db")
    assert not publish_location(config, path, is_sharded=False, system=machine.system)
    (machine.system / "portspec").mkdir()
    usual = str(machine.system / "portspec" / "portspec.db")
    assert publish_location(config, usual, is_sharded=False, system=machine.system)


def test_same_file_by_other_paths(tmp_path: Path) -> None:
    """Links of both kinds, relative paths and detours lead to one file, there or not."""
    path = tmp_path / "portspec.db"
    (tmp_path / "linked").symlink_to(tmp_path)
    assert is_same_file(str(path), str(tmp_path / "linked" / "portspec.db"))
    assert not is_same_file(str(path), str(tmp_path / "other.db"))
    path.touch()
    (tmp_path / "hard.db").hardlink_to(path)
    assert is_same_file(str(path), str(tmp_path / "hard.db"))
    assert is_same_file(str(path), os.path.relpath(path))


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_nothing_is_written_to_what_another_user_put_in_the_place(machine: Machine, tmp_path: Path, kind: str) -> None:
    """A link or a pipe that has the name of the lock or of the pointer is neither followed nor waited for."""
    victim = tmp_path / "victim"
    if kind == "link":
        victim.write_text("precious")
    config = machine.config(tmp_path)
    for name in (f"{tmp_path}/portspec.db.lock", f"{config.path}.state"):
        os.mkfifo(name) if kind == "pipe" else Path(name).symlink_to(victim)
    lock = StateFileLock(f"{tmp_path}/portspec.db", LockHolder(1, "scan1", config.path, NOW, ""))
    with pytest.raises(OSError, match=r"not a regular file|symbolic links"):
        lock.acquire()
    assert not publish_location(config, config.state, is_sharded=False, system=machine.system)
    assert find_state_file(machine.config(), machine.system).path == machine.config().state
    assert (victim.read_text() if victim.exists() else None) == ("precious" if kind == "link" else None)
