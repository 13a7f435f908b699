"""Files are written where their owner means, whatever links and pipes other users have put there."""

from __future__ import annotations

import os
import select
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.directories import ForeignLinkError, directory_of, followed
from portspec.report.output import write_file, write_output
from portspec.store import Store
from tests.requirements import NEEDS_ROOT
from tests.unit.cli.run import PROGRAM, run
from tests.unit.store.scenes import Logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.cli.conftest import Configure

STRANGER = 12345
PAGE = [b"<p>", b"page"]

both = pytest.mark.parametrize(
    "write", [write_output, lambda path, pieces: write_file(path, pieces, 0o644)], ids=["-o", "reportfile"]
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason=f"{NEEDS_ROOT}only root can make links of another user")


def foreign_link(link: Path, target: Path) -> Path:
    """Make a symbolic link of another user."""
    link.symlink_to(target)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    return link


def foreign_directory(tmp_path: Path) -> tuple[Path, Path]:
    """Return a file through a directory link of another user, and where it would be."""
    (tmp_path / "there").mkdir()
    return foreign_link(tmp_path / "link", tmp_path / "there") / "all.html", tmp_path / "there" / "all.html"


def foreign_file(tmp_path: Path) -> tuple[Path, Path]:
    """Return a link of another user, and what it leads to."""
    target = tmp_path / "shadow"
    target.write_bytes(b"before")
    return foreign_link(tmp_path / "all.html", target), target


def behind_own_link(tmp_path: Path) -> tuple[Path, Path]:
    """Return a link of this user that leads to one of another."""
    link, target = foreign_file(tmp_path)
    own = tmp_path / "own.html"
    own.symlink_to(link)
    return own, target


@as_root
@pytest.mark.parametrize("scene", [foreign_directory, foreign_file, behind_own_link])
@both
def test_link_of_another_user_is_not_followed(
    tmp_path: Path, scene: Callable[[Path], tuple[Path, Path]], write: Callable[[str, list[bytes]], None]
) -> None:
    """Nothing is written through it, wherever on the path it is, and the error names it."""
    path, target = scene(tmp_path)
    before = target.read_bytes() if target.exists() else None
    names = sorted(tmp_path.rglob("*"))
    with pytest.raises(ForeignLinkError, match="is a symbolic link of another user"):
        write(str(path), PAGE)
    assert (target.read_bytes() if target.exists() else None) == before
    assert sorted(tmp_path.rglob("*")) == names


@as_root
def test_state_file_is_not_made_through_a_link_of_another_user(tmp_path: Path) -> None:
    """The store leaves it alone and says so; scanning goes on."""
    target = tmp_path / "precious"
    target.write_bytes(b"")
    link = foreign_link(tmp_path / "portspec.db", target)
    with Logs() as logs:
        store = Store(str(link), history=1.0)
        assert store.open(()) == {}
        store.close()
    assert target.read_bytes() == b""
    assert [event["why"] for event in logs.events] == [
        '"portspec.db" is a symbolic link of another user; name the file that it points to'
    ]


@as_root
def test_file_of_another_user_is_replaced_and_grants_nothing(tmp_path: Path) -> None:
    """The new file belongs to this user, and has no right that the other had left there."""
    page = tmp_path / "all.html"
    page.write_bytes(b"before")
    os.chown(page, STRANGER, STRANGER)
    page.chmod(0o4666)
    write_output(str(page), PAGE)
    status = page.stat()
    assert (status.st_uid, status.st_mode & 0o7777, page.read_bytes()) == (0, 0o644, b"<p>page")


@both
def test_pipe_that_nobody_reads_is_an_error_at_once(tmp_path: Path, write: Callable[[str, list[bytes]], None]) -> None:
    """Nothing waits for a reader that may never come."""
    pipe = tmp_path / "all.html"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"without a reader|not a regular file"):
        write(str(pipe), PAGE)
    assert pipe.is_fifo()


def test_pipe_that_is_read_is_written_to(tmp_path: Path) -> None:
    """-o takes a named pipe of this user whose reader is there."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = threading.Thread(target=write_output, args=(str(pipe), [b"x" * 65536] * 10))
    writer.start()
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    assert poll.poll(10_000)
    os.set_blocking(reader, True)
    with os.fdopen(reader, "rb") as file:
        read = file.read()
    writer.join(10.0)
    assert read == b"x" * 655_360


@as_root
def test_pipe_of_another_user_is_not_written_to(tmp_path: Path) -> None:
    """A report is for no stranger who reads."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    os.chown(pipe, STRANGER, STRANGER)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(PermissionError, match="of another user"):
            write_output(str(pipe), PAGE)
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("is_pipe", [True, False])
def test_standard_output_by_its_name(configure: Configure, tmp_path: Path, name: str, *, is_pipe: bool) -> None:
    """`-o /dev/stdout` writes to standard output, a pipe or a file, behind what is there."""
    conf = configure({"127.0.0.1": []})
    with closing(Store(str(Path(conf).with_name("portspec.db")), history=1.0)) as store:
        store.open(())
    command = f'echo first; exec "$@" -o {name}'
    out = tmp_path / "out"
    shell = ["/bin/sh", "-c", f"({command}) {'| cat ' if is_pipe else ''}> {out}", "sh"]
    done = run("report", "-c", conf, "--format", "text", program=[*shell, *PROGRAM])
    assert done.err == ""
    assert out.read_text(encoding="utf-8").startswith("first\n")
    assert "127.0.0.1" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_report_for_the_web_server_has_its_mode_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """The file of `reportfile` is 0644 when it is made, and keeps a mode that it was given."""
    page = tmp_path / "index.html"
    before = os.umask(umask)
    try:
        write_file(str(page), PAGE, 0o644)
        assert page.stat().st_mode & 0o7777 == 0o644
        page.chmod(0o640)
        write_file(str(page), PAGE, 0o644)
        assert page.stat().st_mode & 0o7777 == 0o640
    finally:
        os.umask(before)


def test_report_of_a_user_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    """-o makes a file as any command does."""
    page = tmp_path / "all.html"
    before = os.umask(0o077)
    try:
        write_output(str(page), PAGE)
    finally:
        os.umask(before)
    assert page.stat().st_mode & 0o7777 == 0o600


def test_block_devices_and_directories_are_refused(tmp_path: Path) -> None:
    """What is neither a file, nor a pipe, nor a character device is never written to."""
    with pytest.raises(IsADirectoryError):
        write_output(str(tmp_path), PAGE)
    with pytest.raises(IsADirectoryError):
        write_output(f"{tmp_path}/", PAGE)
    write_output("/dev/null", PAGE)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return directories with links of this user in them."""
    root = tmp_path_factory.mktemp("tree")
    (root / "a" / "b").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "own").symlink_to("a/b")
    (root / "a" / "up").symlink_to("../b")
    (root / "b" / "own").symlink_to(root / "a")
    (root / "circle").symlink_to("circle")
    return str(root)


@given(parts=st.lists(st.sampled_from(["a", "b", "..", ".", "own", "up", "", "circle"]), min_size=1, max_size=6))
def test_own_links_lead_where_the_kernel_says(tree: str, parts: list[str]) -> None:
    """For paths of directories, dots and links of this user, the place found is the one that realpath(3) gives."""
    path = "/".join((tree, *parts, "file"))
    try:
        with directory_of(path) as place:
            directory = Path(f"/proc/self/fd/{place.directory}").readlink()
            assert str(directory / place.name) == os.path.realpath(path) == followed(path)
    except OSError:
        assert not Path(path).parent.exists() or "circle" in parts
