"""Logging: one event, rendered as coloured text on a terminal, as key=value lines elsewhere, or as JSON.

structlog is imported when the first line is written: its import is a quarter of the start of a command, and most
commands write no line.
"""

from __future__ import annotations

import functools
import io
import logging
import math
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

from portspec.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import EventDict, Processor

_WARNINGS = "portspec.command"
_FEW = 5  # lines a minute about what strangers can cause
RECENT_LINES = 50  # warnings and errors that are kept for /status
RECENT_LENGTH = 1000  # characters of each
_LIBRARIES_FEW = 20  # lines a minute of a library


def set_up(stream: TextIO, *, form: str | None = None, level: str = "info") -> None:
    """Send every log line, the libraries' too, to `stream`; call once, first.

    `form`: "json" for one JSON object per line, "logfmt", or None for colours on a terminal and logfmt elsewhere.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a file name may hold bytes that are no text
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(stream, form))
    handler.addFilter(_FewOfLibraries())
    logging.raiseExceptions = False  # when the reader of the log has gone, the exporter goes on without one
    root = logging.getLogger()
    _recent.setFormatter(_Formatter(stream, "logfmt"))
    root.handlers[:] = [handler, _recent]
    root.setLevel(level.upper())
    warnings = logging.getLogger(_WARNINGS)
    plain = logging.StreamHandler(stream)
    plain.setFormatter(logging.Formatter("warning: %(message)s"))
    warnings.handlers[:] = [handler if form == "json" else plain]
    warnings.setLevel(logging.WARNING)
    warnings.propagate = False


def configure() -> None:
    """Have structlog pass its events on to the standard library; the first line that is logged does so."""
    import structlog

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        cache_logger_on_first_use=False,
    )


def recent_problems() -> tuple[str, ...]:
    """Return the latest warnings and errors of this process, the newest first, as lines of logfmt."""
    return tuple(reversed(_recent.lines))


def warn(text: str) -> None:
    """Warn of something that belongs to the result of a command, whatever the level of the log; in JSON with `-j`."""
    logging.getLogger(_WARNINGS).warning("%s", printable(text))


class Throttle:
    """Limits lines about the same thing to `most` in each period of `per` seconds."""

    def __init__(self, most: int = _FEW, per: float = 60.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._per = per
        self._clock = clock
        self._since = -math.inf
        self._logged = self._unlogged = 0

    def take(self) -> int | None:
        """Return the number of lines left out since the last one if a line may be logged now, None if it may not."""
        now = self._clock()
        if now >= self._since + self._per:
            self._since, self._logged = now, 0
        if self._logged >= self._most:
            self._unlogged += 1
            return None
        self._logged += 1
        unlogged, self._unlogged = self._unlogged, 0
        return unlogged


class _Recent(logging.Handler):
    """Keeps the latest warnings and errors, without tracebacks, for the page /status."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(_FewOfLibraries(tells=False))
        self.lines: deque[str] = deque(maxlen=RECENT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first line of a record."""
        try:
            self.lines.append(self.format(record).partition("\n")[0][:RECENT_LENGTH])
        except Exception:  # noqa: BLE001 - the other handler tells what is wrong with a record
            return


class _FewOfLibraries(logging.Filter):
    """Limits the lines of each library: asyncio and aiohttp log some faults with a traceback for each connection.

    One handler tells how many were not logged, since the text of a record is the same for all.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, tells: bool = True) -> None:
        super().__init__()
        self._clock = clock
        self._tells = tells
        self._throttles: dict[str, Throttle] = {}  # by the name of a logger: libraries have a few

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged."""
        if record.name.partition(".")[0] == "portspec":
            return True
        throttle = self._throttles.setdefault(record.name, Throttle(_LIBRARIES_FEW, clock=self._clock))
        unlogged = throttle.take()
        if unlogged and self._tells:
            record.msg = f"{record.msg} ({unlogged:,} more lines of {record.name} were not logged)"
        return unlogged is not None


_recent: Final = _Recent()


class _Formatter(logging.Formatter):
    """Returns the line of a record, be it portspec's or a library's."""

    def __init__(self, stream: TextIO, form: str | None) -> None:
        super().__init__()
        self._form = form or ("colours" if stream.isatty() else "logfmt")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return self._formatter.format(record)

    @functools.cached_property
    def _formatter(self) -> logging.Formatter:
        import structlog

        return structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(self._form),
            ],
            foreign_pre_chain=_shared(),
        )


def _shared() -> list[Processor]:
    """Return what is done to portspec's events and to the records of libraries alike."""
    import structlog

    return [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]


def _renderers(form: str) -> Sequence[Processor]:
    import structlog

    if form == "json":
        # Without local variables: there are passwords among them.
        tracebacks = structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        )
        return (tracebacks, structlog.processors.JSONRenderer(ensure_ascii=False))
    if form == "colours":
        return (_escape, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback))
    return (
        structlog.processors.format_exc_info,
        _escape,
        structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
    )


def _escape(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Keep texts from elsewhere, such as host names and errors, from forging a line or driving the terminal.

    Small numbers are spelled as people write them: 0.000004, not 4e-06.
    """
    return {key: _plain(value) for key, value in event.items()}


def _plain(value: object) -> object:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float) and "e-" in repr(value):
        return f"{value:.12f}".rstrip("0").rstrip(".")
    return value


_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
}


def _ignore(_event: str, **_fields: object) -> None:
    """Log nothing: the line is below the level of the log."""


@dataclass(frozen=True, slots=True)
class _Logger:
    """The logger of one module: has the methods of a logger of structlog."""

    name: str

    def __getattr__(self, method: str) -> Any:
        """Return a method of structlog's logger, whose events go to that of the standard library.

        While nothing is logged structlog is not imported: a command that ends in a table or in JSON logs nothing.
        """
        level = _LEVELS.get(method)
        if (
            level is not None
            and "structlog" not in sys.modules
            and not logging.getLogger(self.name).isEnabledFor(level)
        ):
            return _ignore
        import structlog

        if not structlog.is_configured():
            configure()
        return getattr(structlog.stdlib.get_logger(self.name), method)


def get(name: str) -> Any:
    """Return the logger of one module."""
    return _Logger(f"portspec.{name}")
