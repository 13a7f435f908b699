"""The smallest system of this machine's release of Debian that has Python, made by debootstrap. Needs root."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

PACKAGES: Final = ("python3", "python3-venv")


class DebianError(Exception):
    """The system cannot be made."""


def system(cache: Path) -> Path:
    """Return a tar file of the system, which `cache` keeps for the next time. Raises DebianError."""
    mirror, release = _mirror()
    tar = cache / f"{release}.tar"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may run tests
        if tar.exists():
            return tar
        with tempfile.TemporaryDirectory(prefix="portspec-base-", dir="/var/tmp") as directory:
            root = Path(directory) / "root"
            _call("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", release, str(root), mirror)
            for name in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
                shutil.rmtree(root / name, ignore_errors=True)
            new = tar.with_suffix(".new")
            _call("tar", "-C", str(root), "-cf", str(new), ".")
            new.rename(tar)
    return tar


def _mirror() -> tuple[str, str]:
    """Return the archive that apt uses, and the name of the release. Raises DebianError."""
    text = Path("/etc/os-release").read_text(encoding="utf-8")
    release = re.search(r"^VERSION_CODENAME=(\w+)$", text, re.MULTILINE)
    listed = _call("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages")
    for line in listed.splitlines():
        uri, _, codename = line.partition(" ")
        if release and codename == release[1]:
            return uri, codename
    raise DebianError("apt knows no archive of this machine's release")


def _call(*command: str) -> str:
    """Run a program. Raises DebianError with the end of what it prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600.0, check=False)
    except OSError as error:
        raise DebianError(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise DebianError(f"{command[0]} failed: {(done.stdout + done.stderr).strip()[-300:]}")
    return done.stdout
