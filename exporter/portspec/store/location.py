"""Locates the state file: every command with the same conf.yml finds the same file, whatever its environment.

If conf.yml sets `state`, that is the file. Otherwise it depends on the exporter's $STATE_DIRECTORY, which other
commands do not have. They search for the file whose lock file names this conf.yml: in the directories that systemd
creates for units with StateDirectory=portspec, beside conf.yml, and at the path in the pointer file CONF.state beside
conf.yml. The exporter writes the pointer file if its state file is elsewhere.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portspec.errors import STANDARD_INPUT
from portspec.store.lock import last_lock_holder, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.config import Config

FILE_NAME: Final = "portspec.db"
STATE_DIRECTORIES: Final = Path("/var/lib")  # parent of the StateDirectory= of services, systemd.exec(5)
_UNIT_PATTERN = "portspec*"  # there may be several units
_POINTER_SUFFIX = ".state"
_MAX_POINTER_SIZE = 8192  # bytes


@dataclass(frozen=True, slots=True)
class StateFileLocation:
    """The location of a state file.

    Attributes:
        path: The path of the file, or where the exporter would create it.
        is_certain: True if conf.yml sets it, an exporter with this conf.yml wrote it, or it exists at a default path.
        unsearchable: Directories that this user may not search.
    """

    path: str
    is_certain: bool = True
    unsearchable: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Why the location is uncertain, and what to do."""
        if self.unsearchable:
            return (
                f"the state file may be in {', '.join(self.unsearchable)}, which this user may not search: run the "
                "command as the user of the exporter, or set `state` in conf.yml"
            )
        return (
            f"no state file of this configuration was found, and {self.path} does not exist: start the exporter, "
            "which creates the file, or set `state` in conf.yml"
        )


def exporter_state_file(config: Config, system: Path = STATE_DIRECTORIES) -> str:
    """Return the path of the state file for an exporter."""
    if config.is_state_named or not _is_beside(config):
        return config.state
    return _last_locked_of_config(config, system) or config.state


def find_state_file(config: Config, system: Path = STATE_DIRECTORIES) -> StateFileLocation:
    """Locate the state file of a configuration, for commands other than the exporter."""
    if config.is_state_named:
        return StateFileLocation(config.state)
    holder = None if _is_beside(config) else last_lock_holder(config.state)
    if holder and holder.config == os.path.realpath(config.path):
        return StateFileLocation(config.state)  # with shards, the one of this environment
    if path := _last_locked_of_config(config, system):
        return StateFileLocation(path)
    unsearchable = tuple(str(path) for path in sorted(system.glob(_UNIT_PATTERN)) if not os.access(path, os.X_OK))
    for path in (config.state, _beside(config)):  # versions without a lock file wrote it
        if _exists(path):
            return StateFileLocation(path, not unsearchable, unsearchable)
    return StateFileLocation(config.state, is_certain=False, unsearchable=unsearchable)


def publish_location(config: Config, path: str, *, is_sharded: bool, system: Path = STATE_DIRECTORIES) -> bool:
    """Make the state file of an exporter findable for other commands; return whether they can find it.

    A shard's file is not published: several shards may share a conf.yml, and the right file depends on the host.
    """
    if config.is_state_named:
        return True
    if config.path == STANDARD_INPUT:
        return _is_beside(config)
    pointer = Path(f"{config.path}{_POINTER_SUFFIX}")
    if is_sharded or os.path.realpath(path) in map(os.path.realpath, _default_paths(config, system)):
        if not is_sharded:
            with suppress(OSError):
                pointer.unlink()
        return not is_sharded
    target = os.path.realpath(path)
    try:
        if _read_pointer(config) != target:
            with os.fdopen(open_regular(str(pointer), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "wb") as file:
                file.write(os.fsencode(f"{target}\n"))
    except OSError:
        return False
    return True


def is_same_file(one: str, other: str) -> bool:
    """Return whether two paths lead to the same file, which need not exist."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    with suppress(OSError):
        return Path(one).samefile(other)
    return False


def _exists(path: str) -> bool:
    return os.access(path, os.F_OK)  # also False in a directory that may not be searched


def _beside(config: Config) -> str:
    return str(Path(config.path).parent / FILE_NAME)


def _is_beside(config: Config) -> bool:
    return is_same_file(config.state, _beside(config))


def _default_paths(config: Config, system: Path) -> Iterator[str]:
    """Return the paths that need no pointer file: beside conf.yml, and in the directories of systemd."""
    yield _beside(config)
    yield from (str(directory / FILE_NAME) for directory in sorted(system.glob(_UNIT_PATTERN)))


def _read_pointer(config: Config) -> str | None:
    """Return the path in the pointer file, if there is one."""
    try:
        with os.fdopen(open_regular(f"{config.path}{_POINTER_SUFFIX}", os.O_RDONLY), "rb") as file:
            return os.fsdecode(file.read(_MAX_POINTER_SIZE)).removesuffix("\n") or None
    except OSError:
        return None


def _last_locked_of_config(config: Config, system: Path) -> str | None:
    """Return the file that an exporter with this conf.yml, without shards, locked last; None if there is none."""
    target = _read_pointer(config)
    return _last_locked(os.path.realpath(config.path), [*_default_paths(config, system), *([target] if target else [])])


def _last_locked(conf: str, paths: Iterable[str]) -> str | None:
    found = [
        (holder.since, path)
        for path in paths
        if (holder := last_lock_holder(path)) and holder.config == conf and not holder.shard and _exists(path)
    ]
    return max(found)[1] if found else None
