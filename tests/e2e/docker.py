"""A Docker engine of the tests' own, and images made of Debian's packages, since none can be pulled.

The engine runs in namespaces of its own: its bridges and rules are not those of this machine, and what it started ends
with it. Needs root, overlayfs and the right to make cgroups.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tests.e2e.debian import DebianError, system
from tests.e2e.exporter import until
from tests.wheels import WheelsError, python_version, wheels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

ROOT: Final = Path(__file__).parents[2]
BASE: Final = "portspec-test-base"  # the image that stands for python:3.13-slim
WAIT: Final = 300.0  # seconds for a command; a build takes some 40 on an idle machine
_WHEELS: Final = "usr/src/wheels"  # in the base, so that a build needs no network
_PROGRAMS: Final = ("dockerd", "docker", "containerd", "runc", "iptables", "debootstrap", "unshare", "nsenter")

_RUN: Final = """\
set -eu
ip link set lo up
exec dockerd --host "unix://$1/docker.sock" --data-root "$1/data" --exec-root "$1/run" --pidfile "$1/pid" \\
    --cgroup-parent "/$2" --group root
"""


class EngineError(Exception):
    """No engine can run here, or no image can be made."""


class Engine:
    """A running engine; EngineError says why there is none."""

    def __init__(self) -> None:
        self._built: set[str] = set()
        self._name = f"portspec-test-{secrets.token_hex(4)}"

    @staticmethod
    def missing() -> str | None:
        """Return what this machine lacks, by its looks; None if nothing is."""
        needed = [name for name in _PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
        return f"not installed: {', '.join(needed)}" if needed else None

    def __enter__(self) -> Self:
        # A socket has a short path, and overlayfs lies on no overlayfs: not pytest's directory.
        self._directory = Path(tempfile.mkdtemp(prefix="portspec-docker-", dir="/var/tmp"))
        (self._directory / "config").mkdir()
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", _RUN,
                 "sh", str(self._directory), self._name],
                env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            until(self._answers, patience=60.0)
        except AssertionError:
            log_text = self._log()
            self._end()
            raise EngineError(f"dockerd does not start: {log_text}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def environment(self) -> dict[str, str]:
        """What makes `docker` and `docker-compose` talk to this engine, and use no other settings of the user."""
        return {
            **os.environ,
            "DOCKER_HOST": f"unix://{self._directory}/docker.sock",
            "DOCKER_CONFIG": str(self._directory / "config"),
            "DOCKER_BUILDKIT": "0",  # what Debian's docker.io has without further packages
            "COMPOSE_DOCKER_CLI_BUILD": "0",
        }

    def run(
        self, *arguments: str, program: str = "docker", cwd: Path = ROOT, data: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker` with arguments, whatever comes of it; what it prints to standard error is in the output."""
        done = subprocess.run(
            [program, *arguments],
            cwd=cwd,
            env=self.environment,
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=WAIT,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode("utf-8", "replace"))

    def succeed(self, *arguments: str, program: str = "docker", cwd: Path = ROOT, data: bytes = b"") -> str:
        """Run `docker` with arguments; it must not fail."""
        done = self.run(*arguments, program=program, cwd=cwd, data=data)
        assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stdout}"
        return done.stdout

    def inside(self, *command: str) -> str:
        """Run a program of this machine in the network of the engine; it must not fail."""
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self._leader()}/ns/net", *command],
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program of this machine in the network of the engine."""
        return subprocess.Popen(["nsenter", f"--net=/proc/{self._leader()}/ns/net", *command], **options)

    def answers(self, url: str) -> bool:
        """Return whether a URL answers with 200 in the network of the engine."""
        with suppress(AssertionError):
            return self.inside("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", url) == "200"
        return False

    def build_of(self, text: str, tag: str, files: Sequence[str]) -> None:
        """Build an image of the text of a Dockerfile and of files, which it has by their names."""
        context = self._directory / f"context-{tag}"
        context.mkdir()
        (context / "Dockerfile").write_text(text, encoding="utf-8")
        for file in files:
            shutil.copy(file, context)
        self.succeed("build", "--network", "none", "--tag", tag, str(context))

    def size(self, image: str) -> int:
        """Return the size of an image in bytes, with that of its base."""
        return int(self.succeed("image", "inspect", "--format", "{{.Size}}", image))

    def build(self, target: str, tag: str) -> None:
        """Build a target of the Dockerfile on the base, without a network; once."""
        if tag in self._built:
            return
        self.succeed("build", "--network", "none", "--build-arg", f"BASE={BASE}", "--target", target, "--tag", tag, ".")
        self._built.add(tag)

    def import_base(self, cache: Path) -> None:
        """Make the image BASE: Debian's smallest system with Python, and the wheels of constraints.txt.

        `cache` keeps the system for the next time, as a file. Raises EngineError.
        """
        try:
            tar = system(cache)
            found = wheels(cache, python_version(Path("/")))
        except (DebianError, WheelsError) as error:
            raise EngineError(str(error)) from None
        self.succeed("import", str(tar), f"{BASE}-bare")
        context = self._directory / "base"
        shutil.copytree(found, context / _WHEELS, ignore=lambda _, names: {n for n in names if not n.endswith(".whl")})
        (context / "etc").mkdir()
        (context / "etc" / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = /{_WHEELS}\n")
        (context / "Dockerfile").write_text(f"FROM {BASE}-bare\nCOPY usr /usr\nCOPY etc /etc\n")
        self.succeed("build", "--network", "none", "--tag", BASE, str(context))

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise EngineError(f"dockerd does not start: {self._log()}")
        return self.run("version").returncode == 0

    def _leader(self) -> int:
        number = self._process.pid
        return int(Path(f"/proc/{number}/task/{number}/children").read_text(encoding="ascii").split()[0])

    def _log(self) -> str:
        return " ".join((self._directory / "log").read_text(encoding="utf-8", errors="replace").split())[-500:]

    def _end(self) -> None:
        if self._process.poll() is None:
            with suppress(OSError, IndexError, ProcessLookupError):
                os.kill(self._leader(), signal.SIGTERM)  # dockerd stops its containers
            try:
                self._process.wait(30.0)
            except subprocess.TimeoutExpired:
                self._process.kill()  # what it started ends with it
                self._process.wait()
        for group in Path("/sys/fs/cgroup").glob(f"**/{self._name}"):
            with suppress(OSError):
                group.rmdir()
        shutil.rmtree(self._directory, ignore_errors=True)
