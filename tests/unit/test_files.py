"""Reading what has the name of a file."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from portspec import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOTH = pytest.mark.parametrize("read", [files.read, files.read_regular])
PUT = "put a regular file in its place"


@BOTH
def test_file_is_read(tmp_path: Path, read: Callable[[Path, int], bytes]) -> None:
    """A regular file is read, and no more of it than is asked for; a symbolic link leads to it."""
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to("file")
    assert len(read(tmp_path / "file", 1 << 20)) == 100_000
    assert read(tmp_path / "link", 7) == b"x" * 7


@BOTH
def test_what_is_no_file_is_told(tmp_path: Path, read: Callable[[Path, int], bytes]) -> None:
    """A directory, a socket and nothing are errors at once, that say what to do where the name does not."""
    with pytest.raises(IsADirectoryError):
        read(tmp_path, 1)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing", 1)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        with pytest.raises(files.IrregularFileError, match=f"it is a socket; {PUT}"):
            read(tmp_path / "socket", 1)


def test_pipe_and_device_are_no_regular_files(tmp_path: Path) -> None:
    """Where a file is read again and again a pipe or a device is refused at once."""
    os.mkfifo(tmp_path / "pipe")
    for refuse in (files.require_regular, lambda path: files.read_regular(path, 1)):
        with pytest.raises(files.IrregularFileError, match=f"it is a pipe; {PUT}"):
            refuse(tmp_path / "pipe")
        with pytest.raises(files.IrregularFileError, match=f"it is a device; {PUT}"):
            refuse("/dev/zero")


def test_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """What is written in pieces into a named pipe is read whole, also if its writer comes later."""
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            for _ in range(5):
                pipe.write(b"x" * 50_000)

    writer = threading.Thread(target=write)
    writer.start()
    assert files.read(tmp_path / "pipe", 1 << 20) == b"x" * 250_000
    writer.join()


def test_pipe_of_this_process_is_read() -> None:
    """/dev/fd/N, as a shell has it for <(…), is read to its end."""
    reader, writer = os.pipe()
    os.write(writer, b"words")
    os.close(writer)
    try:
        assert files.read(f"/dev/fd/{reader}", 100) == b"words"
        assert files.read(f"/dev/fd/{reader}", 100) == b""
    finally:
        os.close(reader)


@pytest.mark.parametrize("is_open", [False, True])
def test_pipe_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_open: bool) -> None:
    """A pipe that nobody writes to, and one whose writer says nothing, is an error that says what to do."""
    monkeypatch.setattr(files, "PATIENCE", 0.01)
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR) if is_open else -1
    try:
        with pytest.raises(TimeoutError) as told:
            files.read(tmp_path / "pipe", 100)
    finally:
        if is_open:
            os.close(writer)
    assert told.value.strerror == f"it is a pipe that has not ended in 0.01 s; write to it, or {PUT}"


def test_device_without_end_is_cut_off() -> None:
    """Of a device like /dev/zero no more is read than is asked for; /dev/null is empty."""
    assert files.read("/dev/zero", 100_000) == bytes(100_000)
    assert files.read("/dev/null", 100) == b""
