"""What a test needs of the machine: a tool, which CI has to have, or a right, which only root may have."""

from __future__ import annotations

import os
import shutil
from typing import Final, NoReturn

import pytest

NEEDS_ROOT: Final = "needs root: "  # how the reason of such a skip begins, by which the summary counts them


def missing(reason: str) -> NoReturn:
    """Skip a test for want of a tool; with CI=true that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require(program: str) -> str:
    """Return the path of a program; without it, see missing()."""
    return shutil.which(program) or missing(f"{program} is not installed")


def forbidden(reason: str) -> NoReturn:
    """Skip a test for want of a right. An ordinary user cannot mend that, so it is no failure in CI; root's is."""
    if os.geteuid() != 0:
        pytest.skip(f"{NEEDS_ROOT}{reason}")
    missing(reason)
