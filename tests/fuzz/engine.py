"""Runs one harness for a while, and saves each input that is a finding: `python -m tests.fuzz.engine`.

With atheris (libFuzzer) the inputs are guided by the coverage of portspec and of the libraries that read for it.
Without it they are seeds that hypothesis changes, as in `make test`, but at random. A finding ends nothing: the run
goes on, and each place where something is raised is reported once, by its shortest input.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tests.fuzz.catalogue import find_harness
from tests.fuzz.edits import edited, edits
from tests.fuzz.effort import check_effort

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import FrameType

    from tests.fuzz.harness import Harness

#: Also the plain readers that packets are held against: they branch where the arrays of the engine do not.
INSTRUMENTED: Final = ("portspec", "idna.core", "dns", "email", "tests.unit.scan.syn")
#: It compares arrays, and atheris never frees the result of a comparison that is no bool: 7 kB for each input.
NOT_INSTRUMENTED: Final = ("portspec.scan.syn.packets",)
GROWN: Final = 100  # inputs of the corpus that are made large
SLOW_GROWN: Final = 10.0  # seconds of a processor for such a one: quadratic in 256 KiB is a minute and more
SLOW: Final = 2.0  # seconds of a processor for one input: 10,000 times as much as most take
HANGING: Final = 60  # seconds after which libFuzzer gives an input up
MEMORY: Final = 2048  # MiB
_ROOT: Final = Path(__file__).parents[2]


class SlowError(AssertionError):
    """An input that takes very long: most of it in functions of C, whose work is not counted."""


@dataclass(slots=True)
class Findings:
    """What a harness raised, once for each place, in a directory: the shortest input and the traceback."""

    directory: Path
    known: dict[str, int] = field(default_factory=dict)

    def add(self, data: bytes, error: BaseException) -> None:
        """Save an input, unless a shorter one did the same."""
        place = _place(error)
        if len(data) >= self.known.get(place, sys.maxsize):
            return
        self.known[place] = len(data)
        name = f"{type(error).__name__}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / name).write_bytes(data)
        (self.directory / f"{name}.txt").write_text("".join(traceback.format_exception(error)), "utf-8", "replace")


def _place(error: BaseException) -> str:
    """Tell where an error comes from: its type, and the last line of this repository that it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(str(_ROOT)) and ".venv" not in frame.filename]
    last = own[-1] if own else frames[-1]
    return f"{type(error).__name__} {last.filename}:{last.lineno}"


@dataclass(slots=True)
class Runner:
    """Runs inputs of a harness one after the other, and counts them."""

    harness: Harness
    findings: Findings
    executions: int = 0
    chance: random.Random = field(default_factory=random.Random)

    def run(self, data: bytes) -> None:
        """Run one input; what it raises is a finding."""
        self.executions += 1
        began = time.thread_time()
        try:
            self.harness.run(data)
            if (seconds := time.thread_time() - began) > SLOW:
                raise SlowError(f"{len(data):,} bytes take {seconds:.1f} s")  # noqa: TRY301 - kept as any other
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            self.findings.add(data, error)

    def grow(self, inputs: Sequence[bytes]) -> None:
        """Run inputs in which a part or a token is repeated very often; one that takes too long is a finding."""
        signal.signal(signal.SIGVTALRM, _too_slow)  # the regular expressions of Python look for signals, too
        for _ in range(GROWN):
            data = grown(self.chance.choice(inputs), self.harness, self.chance)
            signal.setitimer(signal.ITIMER_VIRTUAL, SLOW_GROWN)
            try:
                self.harness.run(data)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
                self.findings.add(data, error)
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def measure(self, inputs: Iterable[bytes]) -> None:
        """Check the effort of inputs; what is above the limits is a finding."""
        for data in inputs:
            try:
                check_effort(self.harness, data)
            except Exception as error:  # noqa: BLE001 - the same
                self.findings.add(data, error)


def _too_slow(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SlowError(f"a large input takes more than {SLOW_GROWN:g} s")


def grown(data: bytes, harness: Harness, chance: random.Random) -> bytes:
    """Return an input in which a part of it, a line, or a token is repeated up to the largest size."""
    kind = chance.choice(["part", "line", "token"])
    place = chance.randrange(len(data) + 1)
    if kind == "line":
        place = data.rfind(b"\n", 0, place) + 1
        part = data[place : data.find(b"\n", place) + 1]
    elif kind == "part":
        part = data[place : place + chance.randrange(1, 64)]
    else:
        part = chance.choice(harness.tokens or (b"",))
    part = part or b"x"
    repeated = part * (max(0, harness.largest - len(data)) // len(part))
    return data[:place] + repeated + data[place:]


def _fuzz_by_coverage(atheris: Any, runner: Runner, directory: Path, seconds: int) -> None:
    """Let libFuzzer run; it ends the process."""
    harness = runner.harness
    words = directory / "dictionary"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in harness.tokens if word), "ascii")
    arguments = [
        f"-max_total_time={seconds}",
        f"-max_len={harness.longest}",
        f"-timeout={HANGING}",
        f"-rss_limit_mb={MEMORY}",
        f"-dict={words}",
        f"-artifact_prefix={runner.findings.directory}/",
        "-print_final_stats=1",
        "-detect_leaks=0",
        str(directory / "corpus"),
    ]
    runner.findings.directory.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], *arguments], runner.run)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word[:64])


def _fuzz_at_random(runner: Runner, seconds: int) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    harness, inputs = runner.harness, runner.harness.inputs()
    tokens = st.one_of(st.binary(max_size=8), st.sampled_from([b"", *harness.tokens]))
    end = time.monotonic() + seconds

    @settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(inputs), edits(tokens))
    def batch(data: bytes, changes: Any) -> None:
        if time.monotonic() < end:
            runner.run(edited(data, changes, b"\n")[: harness.longest])

    while time.monotonic() < end:
        batch()


def main() -> int:
    """Run the harness that the arguments name; print one line of JSON, with what it came to, to standard output."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.engine", description=__doc__)
    parser.add_argument("harness")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--directory", type=Path, required=True, help="for the corpus and the findings")
    parser.add_argument(
        "--measure", action="store_true", help="check the effort of the corpus in the directory, and grow it"
    )
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    options.directory.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(
        options.directory
    )  # libFuzzer ends the process without atexit: files of harnesses go with it
    atheris = None if options.measure else _atheris()
    if atheris is None:
        harness = find_harness(options.harness)
    else:
        with atheris.instrument_imports(include=list(INSTRUMENTED), exclude=list(NOT_INSTRUMENTED)):
            harness = find_harness(options.harness)
    directory = options.directory
    corpus = directory / "corpus"
    runner = Runner(harness, Findings(directory / "findings"))
    if options.measure:
        inputs = [path.read_bytes() for path in sorted(corpus.iterdir())]
        runner.measure(inputs)
        runner.grow(inputs)
        return 0
    corpus.mkdir(parents=True, exist_ok=True)
    for data in harness.inputs():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    (directory / "engine").write_text("atheris" if atheris else "hypothesis", "ascii")
    if atheris:
        _fuzz_by_coverage(atheris, runner, directory, options.seconds)
    else:
        _fuzz_at_random(runner, options.seconds)
        print(f"stat::number_of_executed_units: {runner.executions}", file=sys.stderr)
    return 0


def _atheris() -> Any:
    """Return the module atheris; None if it is not installed."""
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


if __name__ == "__main__":
    sys.exit(main())
