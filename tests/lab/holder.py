"""Keeps the namespaces it runs in alive until its standard input ends, then ends every process in them.

A script of the standard library only: ``holder.py OUTER``, where OUTER is the link /proc/self/ns/net of whoever starts
it. It writes "ready", then waits. The end of the input is also how the death of the starter is seen, by SIGKILL too,
from whichever of its threads.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path


def network(pid: int | str) -> str | None:
    """Name the network namespace of a process; None if it has ended or is not ours to see."""
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return None


def strays(own: str) -> list[int]:
    """List the other processes in the network namespace ``own``."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and network(pid) == own]


def end(pids: list[int], own: str) -> None:
    """Kill processes and wait until they have ended."""
    with ExitStack() as stack:
        poll = select.poll()
        waiting = 0
        for pid in pids:
            with suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                stack.callback(os.close, fd)
                # looked at again now that the descriptor holds it: the number may be another process's by now
                if network(pid) == own:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    poll.register(fd, select.POLLIN)
                    waiting += 1
        while waiting:
            for fd, _ in poll.poll():
                poll.unregister(fd)
                waiting -= 1


def main(outer: str) -> int:
    """Hold, then sweep; 2 if this is not a namespace of its own, because the sweep would end the whole system."""
    own = network("self")
    if own is None or own == outer or own == network("1"):
        sys.stderr.write("holder: not in a network namespace of its own\n")
        return 2
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    while pids := strays(own):
        end(pids, own)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
