from __future__ import annotations

import io
import json
import logging
import os
import pty
import unicodedata
from typing import TYPE_CHECKING, Any

import pytest

from portspec import log
from tests.unit.factories import process_restored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """Leave logging as it was."""
    with process_restored():
        yield


def written(write: Callable[[], object], *, terminal: bool = False, as_json: bool = False, level: str = "info") -> str:
    """Set logging up on a pipe or a terminal; return what `write` puts there."""
    reader, writer = pty.openpty() if terminal else os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as incoming:
        with os.fdopen(writer, "w", encoding="utf-8") as outgoing:
            log.set_up(outgoing, form="json" if as_json else None, level=level)
            write()
            outgoing.flush()
            if terminal:  # what a terminal holds is lost once its other end is closed
                return incoming.read(65536).decode()
        return incoming.read().decode()


def fail(password: str) -> None:
    """Raise an error with two lines in its message."""
    raise ValueError(f"first line\nsecond line of {len(password)}")


def crash() -> None:
    """Log an exception."""
    try:
        fail("hunter{}".format(2))  # noqa: UP032 - the traceback quotes this line
    except ValueError:
        log.get("test").exception("scan crashed", host="db1")


def test_throttle_lets_a_few_lines_through_and_counts_the_others() -> None:
    """In each period a few lines are logged; the first one of the next period tells how many were left out."""
    now = 0.0
    throttle = log.Throttle(2, 60.0, clock=lambda: now)
    assert [throttle.take() for _ in range(5)] == [0, 0, None, None, None]
    now = 60.0
    assert [throttle.take() for _ in range(3)] == [3, 0, None]


def test_library_cannot_fill_the_log() -> None:
    """Of a library that logs without end only some lines a minute appear; portspec's own all do."""

    def write() -> None:
        for number in range(1000):
            logging.getLogger("asyncio").error("fault %d", number)
            log.get("test").info("ours")

    text = written(write)
    assert (text.count("fault"), text.count("ours")) == (20, 1000)


def test_line_on_a_pipe_is_logfmt() -> None:
    """Elsewhere than on a terminal a line is key=value: time in UTC, level and event first, without colours."""
    line = written(lambda: log.get("test").info("host scanned", host="db1", open=2, note="two words", ok=True))
    start, _, rest = line.partition(" ")
    assert start.startswith("timestamp=20")
    assert start.endswith("Z")
    assert rest == 'level=info event="host scanned" host=db1 open=2 note="two words" ok=true\n'


@pytest.mark.parametrize(
    ("number", "spelled"),
    [(4e-06, "0.000004"), (1e-05, "0.00001"), (0.25, "0.25"), (-2.5e-7, "-0.00000025"), (0.0, "0.0")],
)
def test_small_numbers_are_spelled_in_full(number: float, spelled: str) -> None:
    """A time of some microseconds is no 4e-06; in JSON a number is a number."""
    assert f"rtt_seconds={spelled}\n" in written(lambda: log.get("test").info("x", rtt_seconds=number))
    assert json.loads(written(lambda: log.get("test").info("x", rtt=number), as_json=True))["rtt"] == number


def test_line_in_json_is_one_object() -> None:
    """With json=True a line is one JSON object with the event's own types, umlauts readable."""
    line = written(lambda: log.get("test").warning("scanned", host="münchen", open=2, ports=[22]), as_json=True)
    entry = json.loads(line)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {"level": "warning", "event": "scanned", "host": "münchen", "open": 2, "ports": [22]}
    assert line.endswith("}\n")
    assert "münchen" in line


def test_colours_are_for_terminals_alone() -> None:
    """A terminal gets colours, a pipe gets none, and JSON has none on a terminal either."""

    def write() -> None:
        log.get("test").error("no route", host="db1")

    assert "\x1b[" in written(write, terminal=True)
    assert "db1" in written(write, terminal=True)
    assert "\x1b[" not in written(write)
    on_terminal = written(write, terminal=True, as_json=True)
    assert "\x1b[" not in on_terminal
    assert json.loads(on_terminal)["host"] == "db1"


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level_holds_for_portspec_and_its_libraries(level: str, seen: list[str]) -> None:
    """What is below the level is written neither for portspec's own events nor for those of a library."""

    def write() -> None:
        for name in ("debug", "info", "warning", "error"):
            getattr(log.get("test"), name)(name)
            getattr(logging.getLogger("aiohttp.server"), name)(name)

    lines = [json.loads(line) for line in written(write, as_json=True, level=level).splitlines()]
    assert [line["event"] for line in lines] == [name for name in seen for _ in range(2)]
    assert all(line["level"] == line["event"] for line in lines)


@pytest.mark.parametrize("as_json", [False, True])
def test_library_logs_look_like_our_own(as_json: bool) -> None:  # noqa: FBT001
    """A library's record has the same keys in the same form as an event of portspec."""
    own = written(lambda: log.get("test").warning("slow request"), as_json=as_json)
    theirs = written(lambda: logging.getLogger("aiohttp").warning("slow %s", "request"), as_json=as_json)
    assert strip_time(own, as_json=as_json) == strip_time(theirs, as_json=as_json)


def strip_time(line: str, *, as_json: bool) -> object:
    """Take the time off a line."""
    if as_json:
        entry: dict[str, Any] = json.loads(line)
        del entry["timestamp"]
        return entry
    return line.partition(" ")[2]


@pytest.mark.parametrize("as_json", [False, True])
def test_exception_stays_on_one_line(as_json: bool) -> None:  # noqa: FBT001
    """A traceback is part of the line of its event, so that no log shipper tears it apart."""
    text = written(crash, as_json=as_json)
    assert text.count("\n") == 1
    assert "ValueError" in text
    assert "first line" in text
    assert "test_log.py" in text


def test_exception_in_json_is_structured() -> None:
    """In JSON an exception has its type, its message and its frames."""
    entry = json.loads(written(crash, as_json=True))
    assert entry["host"] == "db1"
    (exception,) = entry["exception"]
    assert (exception["exc_type"], exception["exc_value"]) == ("ValueError", "first line\nsecond line of 7")
    assert exception["frames"][-1]["name"] == "fail"


@pytest.mark.parametrize("as_json", [False, True])
def test_exception_shows_no_variables(as_json: bool) -> None:  # noqa: FBT001
    """Local variables stay out of the log: there are passwords among them."""
    assert "hunter2" not in written(crash, as_json=as_json)


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\rb", "a\x00b", "a\x1b[2Jb", "a\x85b"])
@pytest.mark.parametrize("place", ["event", "value"])
def test_text_from_elsewhere_makes_no_line_of_its_own(text: str, place: str) -> None:
    """A value with line ends or terminal codes is escaped: it neither forges a line nor speaks to a terminal."""

    def write() -> None:
        if place == "event":
            log.get("test").info(text)
        else:
            log.get("test").info("failed", detail=text)

    line = written(write)
    assert line.endswith("\n")
    assert [letter for letter in line[:-1] if unicodedata.category(letter) == "Cc"] == []
    assert written(write, as_json=True).count("\n") == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_undecodable_bytes_of_a_file_name_are_logged(as_json: bool) -> None:  # noqa: FBT001
    """A text with surrogates, as Python makes of a file name that is not UTF-8, still gives a line."""
    line = written(lambda: log.get("test").error("no such file", file="conf\udcff.yml"), as_json=as_json)
    assert "no such file" in line
    assert "conf" in line


def test_setting_up_again_replaces_what_was_set_up() -> None:
    """After a second set_up each event is written once, in the new form."""

    def write() -> None:
        log.set_up(logging.getLogger().handlers[0].stream, form="json")  # type: ignore[attr-defined]
        log.get("test").info("once")

    assert len(written(write).splitlines()) == 1


def test_latest_warnings_and_errors_are_kept() -> None:
    """The newest is first, in one line; what is only information is left out, and the oldest give way."""
    log.set_up(io.StringIO(), form="json")
    logger = log.get("test")
    logger.info("nothing to see")
    for number in range(log.RECENT_LINES + 5):
        logger.warning("a disk is full", number=number, path="a\nb" + "x" * 2 * log.RECENT_LENGTH)
    first, *_, last = found = log.recent_problems()
    assert len(found) == log.RECENT_LINES
    assert "level=warning" in first
    assert f"number={log.RECENT_LINES + 4}" in first
    assert "number=5" in last
    assert not any("\n" in line or len(line) > log.RECENT_LENGTH for line in found)
