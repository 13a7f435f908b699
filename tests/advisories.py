"""`make audit`: known vulnerabilities of the pinned dependencies, by pip-audit, which asks the advisories of PyPI.

pip-audit runs in an environment of its own: its dependencies are none of portspec's. It says "no known vulnerabilities"
also of packages that it could not look up. Here these are unknown, and that is not success.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).parents[1]
FILES: Final = ("constraints.txt", "tests/constraints.txt")  # what is shipped, and what tests and builds with it
UV: Final = str(Path(sys.executable).with_name("uv"))
PIP_AUDIT: Final = (UV, "tool", "run", "--quiet", "--from", "pip-audit>=2.10,<3", "pip-audit")
#: Every version and hash is in the file, so pip has nothing to resolve and nothing is installed.
OPTIONS: Final = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")
TIME_LIMIT: Final = 600.0  # seconds for a file
_SHOWN: Final = 5  # packages of which nothing is known
CLEAN, VULNERABLE, UNKNOWN = 0, 1, 2  # exit codes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a file of constraints: an exit code, and lines for people."""

    code: int
    lines: tuple[str, ...]


def judge(document: Any) -> Verdict:
    """Return the verdict of pip-audit's JSON. Vulnerable beats unknown, and only a whole answer is clean."""
    packages = document["dependencies"]
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, {_remedy(flaw['fix_versions'])}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    unknown = [package for package in packages if "skip_reason" in package]
    lines = list(found)
    if unknown or not packages:
        names = ", ".join(package["name"] for package in unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        why = f": {names}{more} ({unknown[0]['skip_reason']})" if unknown else ""
        lines.append(f"nothing is known about {len(unknown)} of {len(packages)} packages{why}")
    if not lines:
        lines.append(f"no known vulnerability (packages: {len(packages)})")
    return Verdict(VULNERABLE if found else UNKNOWN if unknown or not packages else CLEAN, tuple(lines))


def _remedy(versions: Sequence[str]) -> str:
    return f"fixed in {', '.join(versions)}" if versions else "not fixed in any version"


def ask(file: str, command: Sequence[str] = PIP_AUDIT) -> Verdict:
    """Run pip-audit on a file; without a result of it the verdict is unknown, with its last words."""
    try:
        done = subprocess.run(
            [*command, *OPTIONS, "--requirement", file],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Verdict(UNKNOWN, (f"pip-audit did not run: {error}",))
    try:
        return judge(json.loads(done.stdout))
    except (ValueError, KeyError, TypeError):
        last = done.stderr.strip().rpartition("\n")[2][:400]
        hint = "it needs a package index and the advisories at https://pypi.org"
        return Verdict(UNKNOWN, (f"pip-audit gave no result (exit code {done.returncode}; {hint}): {last}",))


def main() -> int:
    """Print the verdict of each file; return the worst: a vulnerability before what is unknown."""
    codes = set()
    for file in FILES:
        verdict = ask(file)
        codes.add(verdict.code)
        for line in verdict.lines:
            print(f"{file}: {line}", flush=True)
    return next(code for code in (VULNERABLE, UNKNOWN, CLEAN) if code in codes)


if __name__ == "__main__":
    sys.exit(main())
