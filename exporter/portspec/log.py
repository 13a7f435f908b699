"""Logging: one event, rendered as coloured text on a terminal, as key=value lines elsewhere, or as JSON."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from portspec.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import EventDict, Processor

_WARNINGS = "portspec.command"


def set_up(stream: TextIO, *, json: bool = False, level: str = "info") -> None:
    """Send every log line, the libraries' too, to `stream`; call once, first.

    json gives one JSON object a line (`-j`); otherwise a terminal gets colours and anything else logfmt.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        cache_logger_on_first_use=False,
    )
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a file name may hold bytes that are no text
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(stream, json=json),
            ],
            foreign_pre_chain=shared,
        )
    )
    logging.raiseExceptions = False  # when the reader of the log has gone, the exporter goes on without one
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    warnings = logging.getLogger(_WARNINGS)
    plain = logging.StreamHandler(stream)
    plain.setFormatter(logging.Formatter("warning: %(message)s"))
    warnings.handlers[:] = [handler if json else plain]
    warnings.setLevel(logging.WARNING)
    warnings.propagate = False


def warn(text: str) -> None:
    """Warn of something that belongs to the result of a command, whatever the level of the log; in JSON with `-j`."""
    logging.getLogger(_WARNINGS).warning("%s", printable(text))


def _renderers(stream: TextIO, *, json: bool) -> Sequence[Processor]:
    if json:
        # Without local variables: there are passwords among them.
        tracebacks = structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        )
        return (tracebacks, structlog.processors.JSONRenderer(ensure_ascii=False))
    if stream.isatty():
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


def get(name: str) -> Any:
    """Give the logger of one module."""
    return structlog.stdlib.get_logger(f"portspec.{name}")
