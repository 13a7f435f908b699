"""What signals do before the exporter runs, and after; `python -m portspec` as a process."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.unit.cli.run import PROGRAM, Server, run
from tests.unit.scan.loopback import own_address

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Configure

HUNG_UP: Final = -signal.SIGHUP  # the code of a process that SIGHUP ended

# Sends a signal to itself at moments of the start from the first import on that follows the program's first line:
# an audit event (PEP 578) is each import, each opening of a file, each step of a socket, and more.
AT_MOMENTS = """
import itertools, signal, sys, threading
from portspec.__main__ import main

NUMBER, IS_MOMENT = signal.Signals(int(sys.argv.pop(1))), eval(sys.argv.pop(1))
begun, moments, sent = [], itertools.count(), itertools.count()

def look(event, arguments):
    if event == "import" and arguments[0] == "portspec.cli":
        begun.append(True)
    if begun and threading.current_thread() is threading.main_thread():
        if IS_MOMENT(next(moments), event, arguments):
            next(sent)
            signal.raise_signal(NUMBER)

sys.addaudithook(look)
code = main()
signal.raise_signal(signal.SIGHUP)  # after the end, too
assert next(sent) > 0
sys.exit(code)
"""
# While nothing handles it, and at a hundred moments after that.
AT_ALL = (
    "lambda *_, left=iter(range(100)): "
    "signal.getsignal(signal.SIGHUP) is signal.SIG_DFL or next(left, None) is not None"
)


def at_moments(number: signal.Signals, is_moment: str) -> list[str]:
    """Return a program like portspec that sends itself a signal at some moments (Python: number, event, arguments)."""
    return [sys.executable, "-c", AT_MOMENTS, str(int(number)), is_moment]


def test_hang_up_at_any_moment_of_the_start_is_survived(configure: Configure) -> None:
    """SIGHUP at each import, opened file and socket of the start ends nothing: conf.yml is read again."""
    with Server(Path(configure({own_address(): []})), program=at_moments(signal.SIGHUP, AT_ALL)) as server:
        server.wait_for("configuration reloaded")
        assert server.get("/-/healthy")[0] == 200
        assert server.stop(signal.SIGTERM) == 0
        assert server.process.stderr
        assert server.process.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "moment",
    ["yaml", "pydantic", "conf.yml", "asyncio", "portspec.app.process"],
)
def test_signal_in_the_start_ends_it(configure: Configure, number: signal.Signals, moment: str) -> None:
    """SIGTERM and SIGINT end the exporter while it imports its parts and reads conf.yml: exit 0, and no traceback."""
    is_moment = f"lambda _, event, arguments: event in ('import', 'open') and str(arguments[0]).endswith({moment!r})"
    done = run("-c", configure({own_address(): []}), program=at_moments(number, is_moment))
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("how", ["blocked", "ignored"])
def test_exporter_takes_hang_up_whatever_it_was_started_with(configure: Configure, how: str) -> None:
    """Where SIGHUP was blocked or, as by nohup(1), ignored for the program that started it, it reads conf.yml again.

    One that was blocked may be sent before Python itself has started.
    """
    handler = signal.getsignal(signal.SIGHUP)
    if how == "blocked":
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    else:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    server = Server(Path(configure({own_address(): []})), program=PROGRAM)
    if how == "blocked":
        server.process.send_signal(signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    else:
        signal.signal(signal.SIGHUP, handler)
    with server:
        if how == "ignored":
            server.process.send_signal(signal.SIGHUP)
        server.wait_for("configuration reloaded")
        assert server.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("command", ["check", "scan", "report"])
def test_hang_up_ends_other_commands(configure: Configure, command: str) -> None:
    """SIGHUP ends every other command, as when its terminal is closed, also one that has not read its arguments yet."""
    conf = configure({own_address(): []})
    for moment in (
        "event == 'import' and arguments[0] == 'argparse'",
        "event == 'open' and str(arguments[0]) == sys.argv[-1]",
    ):
        program = at_moments(signal.SIGHUP, f"lambda _, event, arguments: {moment}")
        assert run(command, "-c", conf, program=program).code == HUNG_UP
