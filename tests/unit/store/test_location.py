"""The location of the state file, for every command with the same conf.yml."""

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
        """Return a conf.yml without `state`, with a $STATE_DIRECTORY or none."""
        return Config(str(self.etc / name), (), state=str((environment or self.etc) / "portspec.db"))

    def run(self, config: Config, shard: str = "") -> str:
        """Run an exporter, and return the path of the file that it writes."""
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
        """Return what other commands find, if it is certain."""
        place = find_state_file(config, self.system)
        return place.path if place.is_certain else None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine on which nothing has run yet."""
    return Machine(tmp_path)


@pytest.mark.parametrize("directory", ["lib/portspec", "lib/portspec-dmz", "srv/anywhere", "etc"])
def test_commands_find_the_file_of_the_exporter(machine: Machine, tmp_path: Path, directory: str) -> None:
    """They find it in systemd's default directory, that of a second unit, any $STATE_DIRECTORY, and without one."""
    written = machine.run(machine.config(tmp_path / directory))
    assert written == str(tmp_path / directory / "portspec.db")
    for environment in (None, tmp_path / directory, tmp_path / "lib" / "postfix"):
        assert machine.found(machine.config(environment)) == written
    assert exporter_state_file(machine.config(), machine.system) == written


def test_state_in_conf_yml_decides(machine: Machine) -> None:
    """No other file is searched for, even if it does not exist yet."""
    machine.run(machine.config(machine.system / "portspec"))
    config = replace(machine.config(), state="/srv/ports.db", is_state_named=True)
    assert machine.found(config) == exporter_state_file(config, machine.system) == "/srv/ports.db"


def test_location_is_uncertain_before_the_exporter_has_run(machine: Machine) -> None:
    """The reason says what to do."""
    place = find_state_file(machine.config(), machine.system)
    assert not place.is_certain
    assert place.why == (
        f"no state file of this configuration was found, and {machine.etc}/portspec.db does not exist: start the "
        "exporter, which creates the file, or set `state` in conf.yml"
    )


def test_file_of_another_configuration_is_ignored(machine: Machine) -> None:
    """Two conf.yml in one directory each have their own file."""
    first = machine.run(machine.config(machine.system / "portspec", "a.yml"))
    assert machine.found(machine.config(name="b.yml")) is None
    second = machine.run(machine.config(machine.system / "portspec-b", "b.yml"))
    assert [machine.found(machine.config(name=name)) for name in ("a.yml", "b.yml")] == [first, second]


def test_stray_file_beside_conf_yml_is_ignored(machine: Machine) -> None:
    """A file that an earlier `receive` created there is not the exporter's."""
    (machine.etc / "portspec.db").touch()
    written = machine.run(machine.config(machine.system / "portspec"))
    assert machine.found(machine.config()) == written


@pytest.mark.parametrize("directory", ["etc", "lib/postgres"])
def test_file_without_a_lock_file_is_found_at_the_default_path(
    machine: Machine, tmp_path: Path, directory: str
) -> None:
    """Earlier versions wrote no lock file."""
    path = tmp_path / directory / "portspec.db"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert machine.found(machine.config(path.parent)) == str(path)


def test_last_exporter_decides(machine: Machine, tmp_path: Path) -> None:
    """If the state moves, commands find the new file."""
    places = [tmp_path / "srv" / "one", machine.system / "portspec", tmp_path / "srv" / "two"]
    for directory in places:
        written = machine.run(machine.config(directory))
        assert machine.found(machine.config()) == written == str(directory / "portspec.db")


def test_shards_are_found_by_their_environment_only(machine: Machine) -> None:
    """The shard cannot be guessed; the shard's $STATE_DIRECTORY names it."""
    directories = [machine.system / f"portspec-{number}" for number in range(2)]
    written = [
        machine.run(machine.config(directory), shard=f"{number}/2") for number, directory in enumerate(directories)
    ]
    assert machine.found(machine.config()) is None
    assert [machine.found(machine.config(directory)) for directory in directories] == written


def test_unsearchable_directory_is_named() -> None:
    """A command of another user names the directory, and takes no other file that happens to exist."""
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


def test_exporter_knows_whether_commands_find_its_file(machine: Machine, tmp_path: Path) -> None:
    """It reports if no pointer file can be written, unless the path is a default one."""
    config = replace(machine.config(), path=str(tmp_path / "none" / CONF))
    path = str(tmp_path / "srv" / "portspec.db")
    assert not publish_location(config, path, is_sharded=False, system=machine.system)
    (machine.system / "portspec").mkdir()
    usual = str(machine.system / "portspec" / "portspec.db")
    assert publish_location(config, usual, is_sharded=False, system=machine.system)


def test_same_file_is_recognised_by_any_path(tmp_path: Path) -> None:
    """Links of both kinds, relative paths and `..` lead to one file, whether or not it exists."""
    path = tmp_path / "portspec.db"
    (tmp_path / "linked").symlink_to(tmp_path)
    assert is_same_file(str(path), str(tmp_path / "linked" / "portspec.db"))
    assert not is_same_file(str(path), str(tmp_path / "other.db"))
    path.touch()
    (tmp_path / "hard.db").hardlink_to(path)
    assert is_same_file(str(path), str(tmp_path / "hard.db"))
    assert is_same_file(str(path), os.path.relpath(path))


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_links_and_pipes_of_other_users_are_rejected(machine: Machine, tmp_path: Path, kind: str) -> None:
    """A link or pipe with the name of the lock or pointer file is neither followed nor waited for."""
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
