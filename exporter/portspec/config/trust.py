"""Which files a configuration trusts, and who else can change or read them; compare sshd's StrictModes."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from portspec.config.fields import command_words
from portspec.errors import STANDARD_INPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from portspec.config.yaml_document import KeyPath

_SECRET_KEYS = ("smtppassword", "passphrase", "previous_passphrase", "password", "bearer_token")
_CA_FILE_KEYS = ("smtpcafile", "ca_file")
_FEED_KEYS = ("kev", "epss")  # whoever can change a list decides what is urgent
_ROOT = 0
_MIN_PERSON_UID = 1000  # the user ids below are of services and of root (login.defs(5), SYS_UID_MAX)


def trusted_files(raw: dict[str, Any], conf: Path, expanded: Collection[KeyPath]) -> tuple[tuple[str, bool], ...]:
    """Return the files whose content decides, and of each whether it holds a secret; conf.yml is the first.

    A secret at one of the `expanded` paths is from the environment, not in the file.
    """
    found: dict[str, bool] = {}
    holds_secrets = False
    for path, block in _blocks(raw):
        for name in _SECRET_KEYS:
            holds_secrets = holds_secrets or (block.get(name) is not None and (*path, name) not in expanded)
            if isinstance(file := block.get(f"{name}_file"), str):
                found[str(conf.parent / file)] = True
        for name in _CA_FILE_KEYS:
            if isinstance(file := block.get(name), str):
                found.setdefault(str(conf.parent / file), False)
    feeds = raw.get("feeds")
    for name in _FEED_KEYS:
        if isinstance(feeds, dict) and isinstance(place := feeds.get(name), str) and "://" not in place:
            found.setdefault(str(conf.parent / place), False)
    for file in _command_files(raw.get("smtptokencommand"), conf.parent):
        found.setdefault(file, False)
    return ((str(conf), holds_secrets), *found.items())


def _command_files(command: object, directory: Path) -> Iterator[str]:
    """Yield the program of a command, and its arguments that are files: an interpreter runs what one of them says."""
    if command is None:
        return
    program, *arguments = command_words(command)
    yield str(directory / program)
    yield from (word for word in arguments if word.startswith("/"))


def _blocks(raw: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Yield the mappings that may hold secrets."""
    yield (), raw
    if isinstance(audit := raw.get("audit"), dict):
        yield ("audit",), audit
    discovery = raw.get("discovery")
    sources = discovery.get("http_sd") if isinstance(discovery, dict) else None
    for place, source in enumerate(sources if isinstance(sources, list) else [sources]):
        if isinstance(source, dict):
            yield ("discovery", "http_sd", place), source


class Configuration(Protocol):
    """What was read from files: conf.yml, the web config file."""

    @property
    def trusted(self) -> tuple[tuple[str, bool], ...]:
        """The files whose content decides, and of each whether it holds a secret."""
        ...


def complaints(config: Configuration, state_file: str | None = None, *, for_others: bool = False) -> list[str]:
    """Return warnings about files that others can change and secrets that everybody can read, with what to do.

    The state file, if there is one, has the audits of the hosts, and whoever writes to it decides what is reported.
    With `for_others` root looks at what a service of another account will read: that may own the files, too.
    """
    user = os.geteuid()
    files = (*config.trusted, *([(state_file, True)] if state_file else []))

    def is_trusted(owner: int) -> bool:
        return owner in (_ROOT, user) or (for_others and user == _ROOT and owner < _MIN_PERSON_UID)

    return [
        complaint
        for path, is_secret in files
        if path != STANDARD_INPUT
        for complaint in _complaints(path, is_trusted, is_secret=is_secret)
    ]


def _complaints(path: str, is_trusted: Callable[[int], bool], *, is_secret: bool) -> Iterator[str]:
    try:
        real = Path(path).resolve()
        status = real.stat()
    except (OSError, RuntimeError):
        return  # the code that reads the file reports the error
    if not stat.S_ISREG(status.st_mode):
        return  # a pipe: what comes out of it has no owner
    quoted = shlex.quote(path)
    if not is_trusted(status.st_uid):
        yield f"{path} is owned by {_name(status.st_uid)}, who can change it: chown it to root or to portspec's user"
    if status.st_mode & stat.S_IWOTH:
        yield f"{path} is writable by every user: chmod o-w {quoted}"
    elif status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid, status.st_uid):
        yield f"{path} is writable by its group: chmod g-w {quoted}"
    if is_secret and status.st_mode & stat.S_IROTH:
        yield f"{path} contains a secret and is readable by every user: chmod o-r {quoted}"
    for directory in real.parents:
        try:
            above = directory.stat()
        except OSError:
            continue
        is_open = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
        if is_open or not is_trusted(above.st_uid):
            who = "every user" if is_open else _name(above.st_uid)
            yield f"{path} can be replaced by {who}, who can write to the directory {directory}"
            break


def _is_private(group: int, owner: int) -> bool:
    """Return whether a group is just its user, as most have it whose umask is 002."""
    try:
        found, user = grp.getgrgid(group), pwd.getpwuid(owner)
    except KeyError:
        return False
    return owner != _ROOT and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
