"""The wheels of constraints.txt in a directory, so that pip needs no network."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Final

from packaging.markers import Marker

ROOT: Final = Path(__file__).parents[1]


class WheelsError(Exception):
    """The wheels are not there and cannot be fetched."""


def python_version(system: Path) -> str:
    """Return the version of the python3 of a system, such as 3.11.2."""
    asked = ["chroot", str(system), "/usr/bin/python3", "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def wheels(directory: Path, version: str) -> Path:
    """Return a directory with the wheels for a version of Python; what is not there is fetched. Raises WheelsError."""
    requirements = directory / f"{version}.txt"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes",
               "--no-deps", "--only-binary=:all:", f"--python-version={version}", f"--dest={directory}",
               "-r", str(requirements)]  # fmt: skip
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may run tests
        requirements.write_text(_requirements(version), encoding="utf-8")
        for more in (["--no-index", f"--find-links={directory}"], []):
            done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=300.0, check=False)
            if done.returncode == 0:
                return directory
    raise WheelsError(f"the wheels of constraints.txt cannot be fetched: {done.stderr.strip()[-300:]}")


def _requirements(version: str) -> str:
    """Return constraints.txt for one version of Python: pip judges its markers by the interpreter that runs pip."""
    chosen = []
    is_chosen = True
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith((" ", "#")):
            requirement, _, marker = line.removesuffix("\\").partition(";")
            is_chosen = not marker or Marker(marker).evaluate({"python_full_version": version})
            line = f"{requirement.strip()} \\"  # noqa: PLW2901 - without its marker
        if is_chosen:
            chosen.append(line)
    return "\n".join((*chosen, ""))
