"""Where the state file is: the same answer for every command with the same conf.yml, whatever its environment.

If conf.yml names a file as `state`, it is that. Otherwise the $STATE_DIRECTORY of the exporter decides, which other
commands do not have. They look for the file whose lock says that an exporter with this conf.yml wrote it: in the
directories that systemd makes for a unit with StateDirectory=portspec, beside conf.yml, and where the file
CONF.state beside conf.yml says, which the exporter writes if its state file is in neither.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portspec.store.lock import last_holder, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.config import Config

NAME: Final = "portspec.db"
SYSTEM: Final = Path("/var/lib")  # of the StateDirectory= of services, systemd.exec(5)
_OF_UNITS = "portspec*"  # one or several
_POINTER = ".state"
_MAX_SIZE = 8192  # bytes of a path and a line feed


@dataclass(frozen=True, slots=True)
class Place:
    """The path of a state file.

    `is_certain` is True if conf.yml names it, an exporter with this conf.yml wrote it, or it is where the default says.
    Else there is none, and `path` is where the exporter would make it. `unread` are directories that this user may not
    look into.
    """

    path: str
    is_certain: bool = True
    unread: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Say why it is not certain, and what to do."""
        if self.unread:
            return (
                f"the state file may be in {', '.join(self.unread)}, which this user may not search: run the command "
                "as the user of the exporter, or name the file as `state` in conf.yml"
            )
        return (
            f"no state file of this configuration was found, and {self.path} does not exist: start the exporter, "
            "which makes the file, or name the file as `state` in conf.yml"
        )


def place_of_exporter(config: Config, system: Path = SYSTEM) -> str:
    """Return the path of the file that an exporter writes to."""
    if config.is_state_named or not _is_beside(config):
        return config.state
    return _remembered(config, system) or config.state


def place_of(config: Config, system: Path = SYSTEM) -> Place:
    """Find the state file of a configuration, for a command beside the exporter or without one."""
    if config.is_state_named:
        return Place(config.state)
    holder = None if _is_beside(config) else last_holder(config.state)
    if holder and holder.config == os.path.realpath(config.path):
        return Place(config.state)  # of several shards, that of this environment
    if remembered := _remembered(config, system):
        return Place(remembered)
    unread = tuple(str(path) for path in sorted(system.glob(_OF_UNITS)) if not os.access(path, os.X_OK))
    for path in (config.state, _beside(config)):  # which an earlier portspec wrote, without a lock
        if _exists(path):
            return Place(path, not unread, unread)
    return Place(config.state, is_certain=False, unread=unread)


def announce(config: Config, path: str, *, is_sharded: bool, system: Path = SYSTEM) -> bool:
    """Let others find the file that an exporter writes to; return whether they will.

    Of several shards with one conf.yml none is announced: which one would be right depends on the host.
    """
    if config.is_state_named:
        return True
    pointer = Path(f"{config.path}{_POINTER}")
    if is_sharded or os.path.realpath(path) in map(os.path.realpath, _usual(config, system)):
        if not is_sharded:
            with suppress(OSError):
                pointer.unlink()
        return not is_sharded
    target = os.path.realpath(path)
    try:
        if _pointed(config) != target:
            with os.fdopen(open_regular(str(pointer), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "wb") as file:
                file.write(os.fsencode(f"{target}\n"))
    except OSError:
        return False
    return True


def is_same_file(one: str, other: str) -> bool:
    """Tell whether two paths lead to the same file, which may not be there yet."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    with suppress(OSError):
        return Path(one).samefile(other)
    return False


def _exists(path: str) -> bool:
    return os.access(path, os.F_OK)  # False, too, in a directory that may not be searched


def _beside(config: Config) -> str:
    return str(Path(config.path).parent / NAME)


def _is_beside(config: Config) -> bool:
    return is_same_file(config.state, _beside(config))


def _usual(config: Config, system: Path) -> Iterator[str]:
    """Return where a file is found without a word: beside conf.yml, and where systemd has it."""
    yield _beside(config)
    yield from (str(directory / NAME) for directory in sorted(system.glob(_OF_UNITS)))


def _pointed(config: Config) -> str | None:
    """Read where the exporter of this conf.yml said that its file is."""
    try:
        with os.fdopen(open_regular(f"{config.path}{_POINTER}", os.O_RDONLY), "rb") as file:
            return os.fsdecode(file.read(_MAX_SIZE)).removesuffix("\n") or None
    except OSError:
        return None


def _remembered(config: Config, system: Path) -> str | None:
    """Return the file that an exporter with this conf.yml, and without shards, held last, as far as it is found."""
    pointed = _pointed(config)
    return _last_held(os.path.realpath(config.path), [*_usual(config, system), *([pointed] if pointed else [])])


def _last_held(conf: str, paths: Iterable[str]) -> str | None:
    found = [
        (holder.since, path)
        for path in paths
        if (holder := last_holder(path)) and holder.config == conf and not holder.shard and _exists(path)
    ]
    return max(found)[1] if found else None
