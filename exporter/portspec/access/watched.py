"""The web configuration in force, read again when one of its files changes."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from portspec import files, log
from portspec.access import tls
from portspec.access.load import load_web_config
from portspec.access.model import WebConfig
from portspec.config.trust import complaints
from portspec.config.yaml_document import MAX_BYTES
from portspec.errors import ConfigError, Problem

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

GRACE: Final = 5.0  # seconds in which a certificate may have another key, or a file be half-written
RETRY: Final = 1.0  # seconds until files that were not usable are read again, changed or not
# Seconds for which a file that was just written is read again: a second change at once may have the same time stamp.
_UNSETTLED: Final = 2.0
_TRIES: Final = 3

_log = log.get("web")

_Stamp = tuple[int, int, int, int, int] | None  # device, inode, size, mtime, ctime; None if there is no file


@dataclass(frozen=True, slots=True)
class _Reading:
    """A configuration, and of which content of which files it was made."""

    config: WebConfig
    context: ssl.SSLContext | None
    stamps: tuple[_Stamp, ...] | None  # None: compare the content
    digests: tuple[bytes | None, ...]


class CurrentWebConfig:
    """The web configuration in force. For one thread.

    Without a path it is the default one. Raises ConfigError if the file, a certificate, key or token cannot be used
    at the start. Later, what cannot be used leaves the former configuration in force for a grace time of 5 seconds,
    since a certificate and its key are not replaced in one step. Then `problem` says what is wrong, and every request
    is to be answered with status 500, as exporter-toolkit does, until the files are in order.
    `clock` is monotonic, `wall_clock` is in Unix seconds.
    """

    def __init__(
        self,
        path: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.problem: str | None = None
        self._path = path
        self._clock = clock
        self._wall_clock = wall_clock
        self._failing_since: float | None = None
        self._next_try = 0.0
        self._failure = ""
        self._told: str | None = None
        self._tried: tuple[_Stamp, ...] = ()
        self._reading = _Reading(WebConfig.default(), None, (), ())
        # What a pipe gives it gives once.
        self._is_watched = path is not None and _is_regular(path)
        if path is not None:
            self._reading = self._read(path)
            self._warn()

    @property
    def config(self) -> WebConfig:
        """The configuration in force, without a look at the files."""
        return self._reading.config

    @property
    def is_tls(self) -> bool:
        """Whether connections are encrypted. That does not change until the end of the process."""
        return self._reading.context is not None

    @property
    def certificate_validity(self) -> tuple[float, float] | None:
        """From when until when the certificate in its file is valid, in Unix seconds; None without TLS."""
        return tls.validity(self.config.tls) if self.config.tls else None

    def refresh(self) -> WebConfig:
        """Read the files if they have changed, and return the configuration in force.

        Cheap if nothing has changed: a system call for each file. Call it for each request.
        """
        if self._path is None or not self._is_watched:
            return self.config
        stamps = _stamps(self.config.files)
        if self._failing_since is None:
            if stamps == self._reading.stamps:
                return self.config
            if self._reading.digests == _digests(self.config.files):
                self._reading = _Reading(
                    self.config, self._reading.context, self._settled(stamps), self._reading.digests
                )
                return self.config
        elif stamps == self._tried and self._clock() < self._next_try:
            self._tell()
            return self.config
        self._tried = stamps
        self._try(self._path)
        return self.config

    def context_for_new_connection(self) -> ssl.SSLContext:
        """Read what has changed, and return the context for one new connection. Raises RuntimeError unless `is_tls`."""
        self.refresh()
        if self._reading.context is None:
            raise RuntimeError("the web config file has no tls_server_config")
        return self._reading.context

    def _try(self, path: str) -> None:
        try:
            self._reading = self._read(path)
        except ConfigError as error:
            now = self._clock()
            self._next_try = now + RETRY
            if self._failing_since is None:
                self._failing_since = now
            self._failure = str(error)
            self._tell()
            return
        if self._told:
            _log.info("the web config file is usable again", file=path)
        else:
            _log.info("web config file reloaded", file=path)
        self.problem = self._told = self._failing_since = None
        self._warn()

    def _tell(self) -> None:
        """Set the problem once the grace time is over, and log it once."""
        if self._failing_since is None or self._clock() < self._failing_since + GRACE:
            return
        self.problem = self._failure
        if self._told != self.problem:
            self._told = self.problem
            _log.error("the web config file cannot be used; all requests are answered with 500", problem=self.problem)

    def _read(self, path: str) -> _Reading:
        """Read the files until the list of them is the one whose content was looked at before. Raises ConfigError."""
        watched = self.config.files or (path,)
        is_first = not self.config.files
        if not is_first and not _is_regular(path):
            raise ConfigError(path, [Problem(0, "", "is no regular file any more; put one in its place")])
        for _ in range(_TRIES):
            stamps = self._settled(_stamps(watched))
            digests = _digests(watched) if self._is_watched else ()
            config = load_web_config(path)
            context = tls.server_context(config.tls) if config.tls else None
            if config.files == watched or not self._is_watched:
                break
            watched = config.files
        if not is_first and (context is not None) != self.is_tls:
            message = f"restart portspec to turn TLS {'on' if context else 'off'}"
            raise ConfigError(path, [Problem(0, "tls_server_config", message)])
        return _Reading(config, context, stamps, digests)

    def _settled(self, stamps: tuple[_Stamp, ...]) -> tuple[_Stamp, ...] | None:
        now = self._wall_clock()
        is_settled = all(stamp is None or abs(now - stamp[3] / 1e9) > _UNSETTLED for stamp in stamps)
        return stamps if is_settled else None

    def _warn(self) -> None:
        for warning in self.config.warnings:
            _log.warning("web config file", file=self._path, problem=warning)
        for complaint in complaints(self.config):
            _log.warning("insecure configuration file", problem=complaint)
        validity = self.certificate_validity
        if validity and not validity[0] <= self._wall_clock() < validity[1]:
            is_over = self._wall_clock() >= validity[1]
            when = datetime.fromtimestamp(validity[is_over], UTC).isoformat().replace("+00:00", "Z")
            _log.warning(
                f"the certificate of the web server {'has expired' if is_over else 'is not valid yet'}", at=when
            )


def _is_regular(path: str) -> bool:
    try:
        files.require_regular(path)
    except files.IrregularFileError:
        return False
    except (OSError, ValueError):
        pass  # load_web_config() tells
    return True


def _stamps(paths: tuple[str, ...]) -> tuple[_Stamp, ...]:
    return tuple(map(_stamp, paths))


def _stamp(path: str) -> _Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116 - for each request, and faster than Path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digests(paths: tuple[str, ...]) -> tuple[bytes | None, ...]:
    return tuple(map(_digest, paths))


def _digest(path: str) -> bytes | None:
    try:
        return hashlib.sha256(files.read_regular(path, MAX_BYTES + 1)).digest()
    except (OSError, ValueError):
        return None
