"""portspec where the kernel gives no other thread: `python -m tests.unit.cli.threadless WHEN ARGUMENTS`.

A seccomp filter has clone(2) of a thread answer EAGAIN, as RLIMIT_NPROC and the pids controller do; unlike these it is
exact, and holds for root. WHEN is "now", or "later": at SIGUSR1, as the log tells.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import sys

from portspec.cli import main

SYSTEM_CALLS = {"x86_64": (56, 317), "aarch64": (220, 277)}  # the numbers of clone and seccomp
_CLONE3 = 435
_CLONE_THREAD = 0x00010000
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _TSYNC = 1, 1  # linux/seccomp.h: for all threads of the process
_LOAD, _EQUAL, _ANY, _RETURN = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h
_NUMBER, _FIRST = 0, 16  # offsets in struct seccomp_data: nr, the low half of args[0]
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def refuse_threads() -> None:
    """Have each further thread of this process fail to start."""
    clone, seccomp = SYSTEM_CALLS[platform.machine()]
    steps = [
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),  # the C library then takes clone, whose flags can be looked at
        (_EQUAL, 0, 3, clone),
        (_LOAD, 0, 0, _FIRST),
        (_ANY, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | errno.EAGAIN),
        (_RETURN, 0, 0, _ALLOW),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(seccomp, _SET_MODE_FILTER, _TSYNC, header):
        raise OSError(ctypes.get_errno(), "seccomp")


def _refuse_later(*_: object) -> None:
    refuse_threads()
    # Not by the log: the signal may have come while it writes a line, and then it drops this one.
    os.write(sys.stdout.fileno(), b'{"event": "no more threads", "level": "info"}\n')


if __name__ == "__main__":
    if sys.argv[1] == "now":
        refuse_threads()
    else:
        signal.signal(signal.SIGUSR1, _refuse_later)
    sys.exit(main(sys.argv[2:]))
