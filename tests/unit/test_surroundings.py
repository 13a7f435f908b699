from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Signals 32 and 33, which the C library keeps to itself: no program can set what becomes of them (signal(7)).
_OF_THE_C_LIBRARY = 0b11 << 31

_BACKGROUND = """\
import os, signal, subprocess
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.umask(0o077)
from tests.conftest import pytest_configure
pytest_configure()
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    os.kill(os.getpid(), number)
print("went on", flush=True)
subprocess.run(["grep", "-E", "Sig(Ign|Blk)|Umask", "/proc/self/status"])
print(os.environ.get("PORTSPEC_SEND_URL"), os.environ.get("http_proxy"))
"""


def test_programs_that_tests_start_have_the_surroundings_of_a_login_shell() -> None:
    """In the background, where signals are ignored, pytest goes on ignoring them, and what it starts does not."""
    foreign = {"PORTSPEC_SEND_URL": "http://127.0.0.1:9/", "http_proxy": "http://127.0.0.1:9/"}
    done = subprocess.run(
        [sys.executable, "-c", _BACKGROUND],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **foreign},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.split()
    assert words[:7] == ["went", "on", "Umask:", "0022", "SigBlk:", 16 * "0", "SigIgn:"]
    ignored = int(words[7], 16) & ~_OF_THE_C_LIBRARY
    assert (ignored, words[8:]) == (0, ["None", "None"])
