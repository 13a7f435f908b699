"""Namespaces that live as long as a process wants them, and commands that run inside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOLDER: Final = Path(__file__).with_name("holder.py")
_SECONDS: Final = 10.0


class LabError(Exception):
    """A step of the lab failed: ``step`` says which, ``output`` what the system said."""

    def __init__(self, step: str, output: str) -> None:
        super().__init__(f"{step}: {output}")
        self.step = step
        self.output = output


def tool(name: str) -> str:
    """Find a program, also when the user's PATH leaves out the system's directories.

    Raises :exc:`LabError` if it is not installed.
    """
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        raise LabError("find the lab's tools", f"{name} is not installed")
    return path


def script(path: Path, *arguments: str) -> list[str]:
    """Return the argv of a script of the standard library: isolated, without site, hence quick to start."""
    return [sys.executable, "-I", "-S", str(path), *arguments]


class Namespace:
    """A network namespace and a mount namespace, made when this is made and gone after :meth:`close`.

    A holder process keeps them. It sees the end of this process, however that comes, and ends whatever runs inside.
    Who is not root gets a user namespace too, in which he is. ``inside`` is a namespace whose user namespace to share.
    """

    def __init__(self, inside: Namespace | None = None) -> None:
        self._user = os.geteuid() != 0
        self._nsenter, self._env = tool("nsenter"), tool("env")
        unshare = [tool("unshare"), "--net", "--mount"]
        if self._user and inside is None:
            unshare += ["--user", "--map-root-user"]
        argv = [*unshare, "--", *script(_HOLDER, str(Path("/proc/self/ns/net").readlink()))]
        self._holder = subprocess.Popen(
            argv if inside is None else inside.argv(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # an interrupt from the terminal must not end it before it has swept
            start_new_session=True,
        )
        # each program of the chain (nsenter, env, unshare, python) is exec'd by the one before, so the number stays
        self.pid: Final = self._holder.pid
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            output = self._holder.stderr.read().strip()
            self.close()
            raise LabError("make namespaces", output)

    def argv(self, argv: Sequence[str], *, cwd: str | os.PathLike[str] | None = None) -> list[str]:
        """Return the command that runs ``argv`` inside, in directory ``cwd`` (by default the present one).

        Its process becomes that of ``argv``: signals and exit status are those of the program itself.
        """
        user = ["--user", "--preserve-credentials"] if self._user else []
        # entering a mount namespace moves to its root, so the directory is entered after that
        directory = f"--chdir={Path.cwd() / (cwd or '')}"
        return [self._nsenter, f"--target={self.pid}", *user, "--net", "--mount", "--", self._env, directory, *argv]

    def run(self, step: str, argv: Sequence[str], text: str = "") -> str:
        """Run a step of building the lab, with ``text`` as its input; return what it wrote.

        Raises :exc:`LabError` if it fails.
        """
        try:
            done = subprocess.run(
                self.argv(argv, cwd="/"), input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LabError(step, str(error)) from error
        if done.returncode:
            raise LabError(step, (done.stderr or done.stdout).strip() or f"exit status {done.returncode}")
        return done.stdout

    def close(self) -> None:
        """End all processes inside; the namespaces go with the last of them. May be called again."""
        try:
            self._holder.communicate(timeout=_SECONDS)
        except (subprocess.TimeoutExpired, ValueError):
            self._holder.kill()
            self._holder.communicate()
