"""Chooses which of the inputs that were found are kept: `python -m tests.fuzz.keep HARNESS DIRECTORY`.

An input is kept if it reaches a line of portspec that neither the seeds nor a shorter input reaches, until the corpus
of the harness is full. What is kept already is chosen from again, so that a corpus does not grow with each run.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import portspec
from tests.fuzz.catalogue import find_harness
from tests.fuzz.harness import CORPUS, Harness

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

MAX_BYTES: Final = 10_000  # of the corpus of a harness
_PACKAGE: Final = str(Path(portspec.__file__).parent)

Line = tuple[str, int]


def reached(harness: Harness, data: bytes) -> set[Line]:
    """Return the lines of portspec that an input reaches, in any thread."""
    lines: set[Line] = set()

    def note(frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return note

    threading.settrace(note)
    sys.settrace(note)
    try:
        harness.run(data)
    finally:
        sys.settrace(None)
        threading.settrace(None)
    return lines


def chosen(harness: Harness, inputs: Iterable[bytes]) -> list[bytes]:
    """Return the inputs to keep, the shortest first."""
    known: set[Line] = set()
    for seed in harness.seeds():
        known |= reached(harness, seed)
    kept: list[bytes] = []
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        if new := reached(harness, data) - known:
            if sum(map(len, kept)) + len(data) > MAX_BYTES:
                break
            known |= new
            kept.append(data)
    return kept


def main() -> int:
    """Replace the corpus of a harness by what is chosen of it and of a directory."""
    name, directory = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    harness = find_harness(name)
    kept = chosen(harness, [*harness.corpus(), *(path.read_bytes() for path in Path(directory).iterdir())])
    shutil.rmtree(CORPUS / name, ignore_errors=True)
    for data in kept:
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        (CORPUS / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
