"""A machine that systemd-nspawn boots with systemd: a system's files under a layer that is thrown away.

The system is this machine's own, or the one in the directory $PORTSPEC_TEST_ROOT, such as debootstrap makes it. It has
a network of its own with nothing but loopback, no service of this machine's, and pip installs from a directory of
wheels there. Needs root, overlayfs and the right to make cgroups.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.e2e.exporter import until

if TYPE_CHECKING:
    from types import TracebackType

ROOT: Final = Path(__file__).parents[2]
SYSTEM: Final = Path(os.environ.get("PORTSPEC_TEST_ROOT", "/"))
SOURCE: Final = "/usr/src/portspec"  # the clone of the repository, there
WAIT: Final = 100.0  # seconds for a command; pip takes some 20
_PYTHON: Final = "/usr/bin/python3"  # with which `python3 -m venv` is run there
_SYSTEMD: Final = "/usr/lib/systemd/systemd"
_WHEELS: Final = "/usr/src/wheels"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The names of what is mounted are in a mount namespace of its own, which ends with the machine.
_BOOT: Final = f"""\
set -eu
system=$1 space=$2 source=$3 wheels=$4 name=$5
shift 5
for group; do echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs -o mode=755 portspec-test "$space"
mkdir "$space/upper" "$space/work" "$space/root"
mount -t overlay -o "lowerdir=$system,upperdir=$space/upper,workdir=$space/work" overlay "$space/root"
cd "$space/root"
# Nothing that is installed on this machine is started there.
rm -rf etc/systemd/system etc/init.d etc/rc?.d opt/portspec etc/portspec var/lib/portspec var/www/portspec
mkdir -p etc/systemd/system .{SOURCE} .{_WHEELS}
# With an id it is no first boot, at which every unit would be enabled.
echo 0123456789abcdef0123456789abcdef > etc/machine-id
printf '[global]\\nno-index = true\\nfind-links = {_WHEELS}\\n' > etc/pip.conf
exec systemd-nspawn --quiet --directory="$space/root" --machine="$name" --private-network --register=no --keep-unit \\
    --link-journal=no --resolv-conf=off --timezone=off --console=pipe --bind-ro="$source:{SOURCE}" \\
    --bind-ro="$wheels:{_WHEELS}" --boot
"""


class MachineError(Exception):
    """No machine can be booted here."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended there, and all that it printed."""

    code: int
    output: str


class Machine:
    """A booted machine, whose first process is `leader`; MachineError says why there is none."""

    def __init__(self, directory: Path, wheels: Path) -> None:
        self._directory = directory
        self._wheels = wheels
        self._name = f"portspec-{secrets.token_hex(4)}"
        self._log = directory / "console"

    @staticmethod
    def missing() -> str | None:
        """Return what this machine lacks, by its looks; None if nothing is."""
        needed = [name for name in ("systemd-nspawn", "nsenter", "unshare") if not shutil.which(name)]
        needed += [name for name in (_SYSTEMD, _PYTHON) if not (SYSTEM / name.lstrip("/")).exists()]
        return f"not installed: {', '.join(needed)}" if needed else None

    def __enter__(self) -> Self:
        source, space = self._directory / "clone", self._directory / "space"
        space.mkdir()
        left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "*.db*")
        shutil.copytree(ROOT, source, ignore=left_out, symlinks=True)
        self._groups = _make_groups(self._name)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BOOT, "sh",
                 str(SYSTEM), str(space), str(source), str(self._wheels), self._name, *map(str, self._groups)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            self.leader = until(self._find_leader)
            until(lambda: self.run("systemctl is-system-running --wait").output.strip() in ("running", "degraded"))
        except BaseException as error:
            self._end()
            if isinstance(error, AssertionError):
                raise MachineError(f"it does not boot: {self._console()}") from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, command: str, *, stdin: bytes = b"") -> Done:
        """Run a line of shell as root in the clone of the repository."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.leader), "--all", "env", "-i", f"PATH={_PATH}", "HOME=/root",
             "LANG=C.UTF-8", "sh", "-c", f"cd {SOURCE}\n{command}"],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=WAIT,
            check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout.decode("utf-8", "replace"))

    def succeed(self, command: str, *, stdin: bytes = b"") -> str:
        """Run a line of shell that must not fail; return what it prints."""
        done = self.run(command, stdin=stdin)
        assert done.code == 0, f"{command}: {done.output}"
        return done.output

    def _find_leader(self) -> int | None:
        """Return the process that is the first one there."""
        if self._process.poll() is not None:
            raise MachineError(f"it does not boot: {self._console()}")
        number = self._process.pid
        children = Path(f"/proc/{number}/task/{number}/children").read_text(encoding="ascii").split()
        for child in children:
            with suppress(OSError):
                status = Path(f"/proc/{child}/status").read_text(encoding="utf-8")
                if re.match(r"Name:\tsystemd\n.*^NSpid:[\t0-9]*\t1$", status, re.DOTALL | re.MULTILINE):
                    return int(child)
        return None

    def _console(self) -> str:
        return " ".join(self._log.read_text(encoding="utf-8", errors="replace").split())[-500:]

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)  # an orderly end
            try:
                self._process.wait(20.0)
            except subprocess.TimeoutExpired:
                self._process.kill()  # its processes end with it
                self._process.wait()
        for group in self._groups:
            until(lambda group=group: _remove_group(group))  # type: ignore[misc]


def _make_groups(name: str) -> list[Path]:
    """Make a cgroup in the hierarchy that systemd uses, or in both of a hybrid one: nspawn makes others in its own."""
    made: list[Path] = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            base = Path("/sys/fs/cgroup/systemd")
        elif not controllers:
            unified = Path("/sys/fs/cgroup/unified")
            base = unified if unified.is_dir() else Path("/sys/fs/cgroup")
        else:
            continue
        group = base / path.lstrip("/") / name
        try:
            group.mkdir()
        except OSError as error:
            for one in made:
                one.rmdir()
            raise MachineError(f"no cgroup can be made: {error}") from None
        made.append(group)
    return made


def _remove_group(group: Path) -> bool:
    """Remove a cgroup and those in it; False while something is left."""
    for directory, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            Path(directory).rmdir()
    return not group.exists()
