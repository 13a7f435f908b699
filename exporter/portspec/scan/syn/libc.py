"""System calls that the standard library lacks: sendmmsg(2), prctl(2), capget(2), capset(2). The only place for ctypes.

Plain foreign calls only: a callback would need memory that is both writable and executable.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_libc.capget.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_libc.capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)


def sendmmsg(fd: int, address: int, count: int, flags: int) -> int:
    """Send `count` messages, struct mmsghdr at a memory address; return how many were sent, at least one.

    Raises OSError if the first could not be sent. Other threads can run meanwhile.
    """
    sent: int = _libc.sendmmsg(fd, address, count, flags)
    if sent < 0:
        raise _error()
    return sent


def prctl(option: int, argument: int, other: int = 0) -> int:
    """Read or change an attribute of the calling thread; OSError if the kernel refuses."""
    result: int = _libc.prctl(option, argument, other, 0, 0)
    if result < 0:
        raise _error()
    return result


def capget(header: bytes, size: int) -> bytes:
    """Return the calling thread's capabilities as the kernel's structures, `size` bytes; OSError if it refuses."""
    data = ctypes.create_string_buffer(size)
    if _libc.capget(header, data) < 0:
        raise _error()
    return data.raw


def capset(header: bytes, data: bytes) -> None:
    """Set the calling thread's capabilities from the kernel's structures, as bytes; OSError if the kernel refuses."""
    if _libc.capset(header, data) < 0:
        raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
