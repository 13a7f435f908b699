"""`make matrix`: the unit tests under each Python that is found, and with the oldest libraries that are allowed.

The oldest are what `uv pip install --resolution lowest-direct` takes: the lower bounds in pyproject.toml. They are
tested under the oldest Python alone: for later ones there are no built packages of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
UV: Final = str(Path(sys.executable).with_name("uv"))
VERSIONS: Final = ("3.11", "3.12", "3.13")  # as in the classifiers of pyproject.toml
#: Tests at the borders to each library and to what changes between versions of Python; half a minute.
QUICK: Final = (
    "config/test_load.py",
    "inventory/discovery/test_dns.py",
    "metrics/test_golden.py",
    "notify/test_mailer.py",
    "store/test_archive.py",
    "test_documents.py",
    "test_log.py",
    "web/test_pages.py",
    "web/test_server.py",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One environment: an interpreter, and whether its libraries are the oldest or the pinned ones."""

    python: Path
    version: str
    is_oldest: bool = False

    def __str__(self) -> str:
        return f"Python {self.version}, {'oldest' if self.is_oldest else 'pinned'} libraries"


def interpreters() -> list[tuple[str, Path]]:
    """Find the supported interpreters: one of each version."""
    return [(version, python) for version in VERSIONS if (python := interpreter(version))]


def interpreter(version: str) -> Path | None:
    """Find an interpreter of a version ("3.11"), on PATH or among those of pyenv that this user may see."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [f"python{version}"]
    with contextlib.suppress(OSError):
        candidates += sorted(map(str, pyenv.glob(f"{version}.*/bin/python")), reverse=True)
    return next(filter(None, (executable(candidate, version) for candidate in candidates)), None)


def executable(python: str, version: str) -> Path | None:
    """Return the file of an interpreter if it runs and is of that version; a shim of pyenv may do neither."""
    told = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
    try:
        done = subprocess.run([python, "-c", told], capture_output=True, text=True, check=False)
    except OSError:
        return None
    told_version, _, path = done.stdout.strip().partition(" ")
    return Path(path) if told_version == version else None


def rows(*, is_quick: bool) -> list[Row]:
    """List what is to be tested; a quick run takes the newest other interpreter and the oldest libraries."""
    found = interpreters()
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = [Row(python, version) for version, python in found if not is_quick or version != own]
    if is_quick:
        pinned = pinned[-1:]
    return [*pinned, *(Row(python, version, is_oldest=True) for version, python in found if version == VERSIONS[0])]


def install(row: Row, directory: Path) -> Path:
    """Make the environment of a row; return its interpreter. Raises CalledProcessError."""
    uv([UV, "venv", "--quiet", "--python", str(row.python), str(directory)])
    python = directory / "bin" / "python"
    pip = [UV, "pip", "install", "--quiet", "--python", str(python)]
    if row.is_oldest:
        uv([*pip, "--resolution", "lowest-direct", "-e", ".", "--group", "test"])
    else:
        uv([*pip, "--require-hashes", "-r", "tests/constraints.txt"])
        uv([*pip, "--no-deps", "--no-build-isolation", "-e", "."])
    return python


def uv(command: list[str]) -> None:
    """Run uv in the checkout. Raises CalledProcessError with what it says."""
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test(row: Row, workers: int, *, is_quick: bool) -> tuple[bool, str]:
    """Run the tests of a row; tell whether all passed, and what pytest said. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="portspec-matrix-") as name:
        python = install(row, Path(name) / "venv")
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--dist", "worksteal"]
        command += ["--numprocesses", str(workers)]
        command += [f"tests/unit/{part}" for part in QUICK] if is_quick else ["tests/unit"]
        environment = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(Path(name) / "hypothesis")}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.returncode == 0, done.stdout


def conclude(row: Row, workers: int, *, is_quick: bool) -> tuple[bool, str]:
    """Test a row and print what was said; return whether all passed, and a line about it."""
    began = time.monotonic()
    try:
        is_right, said = test(row, workers, is_quick=is_quick)
    except subprocess.CalledProcessError as error:
        is_right, said = False, f"{error.output}{' '.join(error.cmd)} failed\n"
    print(f"== {row}", said, sep="\n", end="", flush=True)
    return is_right, f"{row}: {'passed' if is_right else 'FAILED'} in {time.monotonic() - began:.0f} s"


def main() -> int:
    """Test all rows, and say of each what came of it; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some of the tests in some of the environments")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that run tests (default: 2)")
    options = parser.parse_args()
    chosen = rows(is_quick=options.quick)
    if not any(row.is_oldest for row in chosen):
        print(f"Python {VERSIONS[0]} is not found: the oldest libraries are not tested")
    # The few tests of a quick run are spread over its rows: a process for each spares the start of others.
    workers, abreast = (0, len(chosen)) if options.quick else (options.workers, 1)
    with ThreadPoolExecutor(abreast or 1) as pool:
        said = list(pool.map(lambda row: conclude(row, workers, is_quick=options.quick), chosen))
    print(*(line for _, line in said), sep="\n")
    return 0 if all(is_right for is_right, _ in said) else 1


if __name__ == "__main__":
    sys.exit(main())
