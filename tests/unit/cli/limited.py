"""portspec where the system refuses to change a limit: `python -m tests.unit.cli.limited ARGUMENTS`.

A seccomp filter has prlimit64(2) answer EPERM to a new limit, as SystemCallFilter=~@resources of a unit does.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import struct
import sys

from portspec.cli import main

NUMBERS = {"x86_64": 302, "aarch64": 261}  # of prlimit64
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = (
    0x20,
    0x15,
    0x06,
)  # linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_NUMBER, _THIRD = 0, 32  # offsets in struct seccomp_data: nr, the low half of args[2]
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def refuse_limits() -> None:
    """Have each further prlimit64() with a new limit fail."""
    steps = [
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3, NUMBERS[platform.machine()]),
        (_LOAD, 0, 0, _THIRD),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, ctypes.byref(header), 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    refuse_limits()
    sys.exit(main(sys.argv[1:]))
