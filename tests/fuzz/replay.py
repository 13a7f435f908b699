"""Runs a harness with inputs from files, and raises what they make it raise: `python -m tests.fuzz.replay`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.catalogue import MODULES, find_harness
from tests.fuzz.effort import check_effort


def main() -> int:
    """Print what each input costs."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.replay", description=__doc__)
    parser.add_argument("harness", choices=list(MODULES))
    parser.add_argument("file", type=Path, nargs="+")
    options = parser.parse_args()
    for path in options.file:
        effort = check_effort(find_harness(options.harness), path.read_bytes())
        print(f"{path}: {effort.calls:,} calls, {effort.memory:,} bytes of memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
