"""portspec with a fault that a signal triggers: `python -m tests.faults.program FAULT serve ARGUMENTS`.

* threads: SIGUSR1 ends the thread of the connect engine, SIGUSR2 that of the state file, as an error does that is no
  Exception.
* mortal: SIGUSR1 does so to each further thread of the engine, too; restarts follow each other quickly.
* clock: SIGUSR1 sets the wall clock forward or back by the seconds in the file $FAULT_CLOCK, in place of the system's,
  which no test may set and no namespace has for itself (time_namespaces(7)).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path


def _end_thread(name: str, *_: object) -> None:
    """Raise SystemExit in a thread as soon as it runs again."""
    for thread in threading.enumerate():
        if thread.name == name:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


def _shorten_life() -> None:
    """End each thread of the engine shortly after its start, once SIGUSR1 has come."""
    from portspec.app import supervisor

    supervisor.MIN_PAUSE = supervisor.THREAD_CHECK_INTERVAL = 0.05  # type: ignore[misc]  # seconds

    def end_all() -> None:
        while True:
            _end_thread("portspec-connect")
            time.sleep(0.02)

    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=end_all, daemon=True).start())


def _replace_clock() -> None:
    """Have time.time() follow the file; before anything of portspec is imported."""
    system, ahead = time.time, [0.0]

    def jump(*_: object) -> None:
        ahead[0] = float(Path(os.environ["FAULT_CLOCK"]).read_text(encoding="utf-8"))

    time.time = lambda: system() + ahead[0]
    signal.signal(signal.SIGUSR1, jump)


if __name__ == "__main__":
    match sys.argv[1]:
        case "threads":
            signal.signal(signal.SIGUSR1, partial(_end_thread, "portspec-connect"))
            signal.signal(signal.SIGUSR2, partial(_end_thread, "portspec-store"))
        case "mortal":
            _shorten_life()
        case "clock":
            _replace_clock()
    from portspec.cli import main

    sys.exit(main(sys.argv[2:]))
