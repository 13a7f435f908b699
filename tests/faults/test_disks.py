"""A real exporter on a small file system of its own, in a mount namespace: full, and read-only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.exporter import PROGRAM, Exporter, exporter, until, write
from tests.faults.registry import fault
from tests.requirements import forbidden

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST: Final = "127.0.0.1"
SIZE: Final = "size=1m"
#: Mounts a file system at $0, runs a command of the test, and becomes the exporter.
START: Final = 'mount -t tmpfs -o "$1" tmpfs "$0" && shift && sh -c "$1" && shift && exec "$@"'


def apart(directory: Path, prepare: str) -> tuple[str, ...]:
    """Return the program that runs portspec with a file system at a directory, after a command of the shell."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    is_possible = shutil.which("unshare") and not subprocess.run([*unshare, "true"], check=False).returncode
    if not is_possible:
        forbidden("no mount namespaces here: they need root, or user namespaces")
    return (*unshare, "sh", "-c", START, str(directory), SIZE, prepare, *PROGRAM)


def inside(running: Exporter, directory: Path) -> Path:
    """Return the way into the directory as the exporter sees it."""
    return Path(f"/proc/{running.process.pid}/root{directory}")


@contextlib.contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Take every byte of a file system that is left, and give it back."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        filler.unlink()


def written_to(disk: Path) -> dict[str, object]:
    """Return the keys of a conf.yml by which state and report are in a directory."""
    return {"interval": 1, "scanports": [1], "state": f"{disk}/portspec.db", "reportfile": f"{disk}/report.html"}


def up(running: Exporter) -> tuple[float | None, float | None]:
    """Return whether the state file and the report were written last time."""
    found = running.series()
    # The report has no series until it is written, or cannot be written, for the first time.
    return found["portspec_store_up"][""], found.get("portspec_reportfile_up", {}).get("")


@fault("disk full", "report file", "The last report stays; `portspec_reportfile_up` is 0, and one line says why.")
@fault("disk full", "scans", "Scans continue, and every change is in the log once there is space.")
@fault("disk full", "metrics and pages", "`/metrics`, the pages and the API are served.")
@fault("disk full", "reload", "A reload works.")
def test_full_disk_stops_only_what_is_written(tmp_path: Path) -> None:
    """Ports open while the disk is full: that is served at once, and in the log afterwards, and in the report."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with contextlib.ExitStack() as opened:
        later = [opened.enter_context(socket.socket()) for _ in range(30)]
        for one in later:
            one.bind((HOST, 0))
        ports = {one.getsockname()[1] for one in later}
        conf = write(tmp_path / "conf.yml", {HOST: {"allow": sorted(ports)}}, **written_to(disk))
        running = opened.enter_context(exporter(conf, program=apart(disk, "true")))
        running.wait_until_ready()
        until(lambda: up(running) == (1.0, 1.0))
        report = inside(running, disk) / "report.html"
        assert HOST in report.read_text(encoding="utf-8")
        with filled(inside(running, disk)):
            for one in later:
                one.listen()
            until(lambda: set(map(str, ports)) <= _open_ports(running))
            until(lambda: up(running)[1] == 0.0)
            assert HOST in report.read_text(encoding="utf-8")
            for path in ("/", "/api/v1/hosts", "/api/v1/changes"):
                assert running.get(path).status == 200, path
            assert running.post("/-/reload").status == 200
        until(lambda: up(running) == (1.0, 1.0), patience=60.0)
        until(lambda: {row["ports"] for row in _changes(running)} >= set(map(str, ports)))
        assert running.log.read_text().count("writing the report failed") == 1


@fault("disk read-only", "report file", "`portspec_reportfile_up` is 0, and one line says why.")
@fault("disk read-only", "scans", "Scans continue; what they have found is written once the file system is writable.")
@fault("disk read-only", "metrics and pages", "`/metrics` and the pages are served.")
def test_disk_that_is_read_only_at_the_start_is_used_once_it_is_not(tmp_path: Path) -> None:
    """Started on a read-only file system the exporter scans and serves, and goes on by itself when it is writable."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        conf = write(tmp_path / "conf.yml", {HOST: [port]}, **written_to(disk))
        read_only = f"mount -o remount,ro {disk}"
        with exporter(conf, program=apart(disk, read_only)) as running:
            running.wait_until_ready()
            until(lambda: up(running) == (0.0, 0.0))
            assert running.series()["port_out_of_spec"] == {f'host="{HOST}"': 0.0}
            assert running.get("/").status == 200
            assert os.strerror(errno.EROFS).lower() in running.log.read_text()
            enter = ["nsenter", f"--target={running.process.pid}", "--mount"]
            as_user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
            subprocess.run([*enter, *as_user, "mount", "-o", "remount,rw", str(disk)], check=True)
            until(lambda: up(running) == (1.0, 1.0), patience=60.0)
            assert [row["ports"] for row in _changes(running)] == [str(port)]


@fault("disk read-only", "start", "The root file system may be read-only; the state file needs one writable directory.")
def test_exporter_runs_on_a_root_that_is_read_only(tmp_path: Path) -> None:
    """With a writable directory for the state, everything else being read-only, every part runs."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        conf = write(tmp_path / "conf.yml", {HOST: [port]}, **written_to(disk))
        with exporter(conf, program=apart(disk, "mount -o remount,bind,ro /")) as running:
            running.wait_until_ready()
            until(lambda: up(running) == (1.0, 1.0))
            found = running.series()
            assert found["port_out_of_spec"] == {f'host="{HOST}"': 0.0}
            assert set(found["portspec_part_up"].values()) == {1.0}
            with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                (inside(running, tmp_path) / "anything").touch()


def _open_ports(running: Exporter) -> set[str]:
    (address,) = running.json(f"/api/v1/hosts/{HOST}")["addresses"]
    return set(address["open"])


def _changes(running: Exporter) -> list[dict[str, str]]:
    changes = running.json("/api/v1/changes?limit=1000")["changes"]
    assert isinstance(changes, list)
    return changes
