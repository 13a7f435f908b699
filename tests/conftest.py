"""What all tests share: the same surroundings wherever they are started, the lab, and a count of what needs root."""

from __future__ import annotations

import gc
import os
import signal
import time
from typing import TYPE_CHECKING, Final

import pytest

from portspec import log
from tests.lab.network import Lab
from tests.requirements import NEEDS_ROOT, forbidden

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# A shell's background job ignores SIGINT and SIGQUIT (POSIX.1-2017, XCU 2.11), a program under nohup(1) SIGHUP. These
# two Python ignores itself, and resets them for the programs that it starts.
_IGNORED_BY_PYTHON: Final = {signal.SIGPIPE, signal.SIGXFSZ}
#: Variables that change what portspec, its agent, Python, curl or a terminal do, by the beginning of their names.
_FOREIGN: Final = (
    "LC_",
    "LANGUAGE",
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "FORCE_COLOR",
    "PORTSPEC_SEND_",
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "NOTIFY_SOCKET",
    "PYTHON",
)


def pytest_configure() -> None:
    """Return this process and the programs that tests start the surroundings of a login shell."""
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            # pytest itself goes on ignoring it. A program that is started has the default action again: execve(2)
            # keeps what is ignored, and resets what is handled.
            signal.signal(number, _ignored)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ.update(LANG="C.UTF-8", TZ="UTC")
    time.tzset()
    log.configure()  # else capture_logs() of the first test would leave structlog in a state of its own


def _ignored(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal by doing nothing."""


def pytest_collection_finish() -> None:
    """Keep what was collected out of all later searches for cycles, which tests ask for to find what leaks."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests only root can run, where some were skipped for that, and what tests have measured."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NEEDS_ROOT in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} tests were skipped because they need root; sudo make test runs them")
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(str(value))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """One lab for all tests: each calls ``lab.apply`` first, which undoes whatever the one before did."""
    why = Lab.unavailable()
    if why is not None:
        forbidden(f"no lab on this machine: {why}")
    with Lab() as built:
        yield built


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a test by the number of its bytes: each worker makes them by itself, and some have the time in them."""
    return argname if isinstance(val, bytes) else None
