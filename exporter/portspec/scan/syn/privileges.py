"""Drops every capability for good, once the sockets are open."""

from __future__ import annotations

import contextlib
import errno
import struct

from portspec.scan.syn import libc

# linux/prctl.h, linux/securebits.h, linux/capability.h
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# NOROOT and NO_SETUID_FIXUP with their locks, the lock of KEEP_CAPS (itself off), NO_CAP_AMBIENT_RAISE with its lock
_SECUREBITS = 0b11101111
_HEADER = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, the calling thread
CAP_SETPCAP = 8
CAP_NET_RAW = 13


def drop_all() -> None:
    """Empty every capability set of the calling thread and of those that it will start; irreversible.

    The bounding set can be emptied only with CAP_SETPCAP (capabilities(7)), which root has. Without it, no_new_privs
    alone keeps an exec from granting any. Threads that run already keep theirs: call this before there are any. Raises
    OSError if the kernel refuses.
    """
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if CAP_SETPCAP in effective():
        # Each by itself: where one is locked, no_new_privs still holds.
        with contextlib.suppress(OSError):
            _empty_bounding_set()
        with contextlib.suppress(OSError):
            libc.prctl(_PR_SET_SECUREBITS, _SECUREBITS)
    with contextlib.suppress(OSError):
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if any(_sets()):  # else there is none, and a sandbox may refuse the call
        libc.capset(_HEADER, bytes(24))


def claim(capability: int) -> None:
    """Make a capability effective if it is permitted, as after `setcap cap_net_raw=p`; else do nothing."""
    effective, permitted, _ = _sets()
    if capability in permitted - effective:
        words = [sum(1 << number for number in numbers) for numbers in (effective | {capability}, permitted)]
        low, high = ([word >> shift & 0xFFFFFFFF for word in words] for shift in (0, 32))
        libc.capset(_HEADER, struct.pack("=6I", *low, 0, *high, 0))


def effective() -> frozenset[int]:
    """Return the numbers of the calling thread's effective capabilities."""
    return _sets()[0]


def permitted() -> frozenset[int]:
    """Return the numbers of the capabilities that the calling thread may make effective."""
    return _sets()[1]


def _sets() -> list[frozenset[int]]:
    """Return the effective, the permitted and the inheritable set; by a system call, since /proc may be missing."""
    words = struct.unpack("=6I", libc.capget(_HEADER, 24))
    return [
        frozenset(number for number in range(64) if (low | high << 32) >> number & 1)
        for low, high in zip(words[:3], words[3:], strict=True)
    ]


def _empty_bounding_set() -> None:
    for number in range(64):
        try:
            libc.prctl(_PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno != errno.EINVAL or not number:
                raise
            return  # the kernel has no capability of that number, nor of any above
