"""Every harness with its seeds, its corpus and changes of them, the same each time, in some seconds."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portspec.ports import PortError, parse_ports
from tests.fuzz import engine
from tests.fuzz.__main__ import HEADER, Outcome, main
from tests.fuzz.catalogue import MODULES, find_harness
from tests.fuzz.edits import edited, edits
from tests.fuzz.effort import ExcessError, check_effort
from tests.fuzz.engine import Findings, Runner
from tests.fuzz.harness import CORPUS, Harness, Limit
from tests.fuzz.keep import chosen
from tests.fuzz.readers import CLEAN, SAYS_NONE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_CORPUS: Final = 200_000  # bytes of all files, which everybody downloads
HARNESSES: Final = {name: find_harness(name) for name in MODULES}
EACH: Final = pytest.mark.parametrize("harness", HARNESSES.values(), ids=list(HARNESSES))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Spare the log what aiohttp says of malformed requests."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@EACH
def test_seeds_and_corpus_hold_at_little_effort(harness: Harness) -> None:
    """What was found earlier holds, and takes no more calls and memory than its length allows."""
    for data in harness.inputs():
        check_effort(harness, data)


@EACH
def test_changed_inputs_hold(harness: Harness) -> None:
    """However an input is changed, what must hold of it holds."""
    tokens = st.one_of(st.sampled_from([b"", *harness.tokens]), st.binary(max_size=8))

    @settings(
        max_examples=harness.examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.sampled_from(harness.inputs()), edits(tokens))
    def holds(data: bytes, changes: Any) -> None:
        harness.run(edited(data, changes, b"\n")[: harness.longest])

    holds()


def test_corpus_is_small_and_of_harnesses_that_exist() -> None:
    """Nobody downloads megabytes of what a machine has made up."""
    assert {path.name for path in CORPUS.iterdir()} <= HARNESSES.keys()
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) <= MAX_CORPUS
    assert all(path.stat().st_size <= HARNESSES[path.parent.name].longest for path in CORPUS.glob("*/*"))


def test_oracle_of_clean_holds_for_the_samples() -> None:
    """What the readers are held to, the words with which a tool finds nothing, is there in each clean sample."""
    assert all(SAYS_NONE[sample.run.tool](sample.run.output) for sample in CLEAN)


# --- The harness itself -----------------------------------------------------------------------------------------------


def _faulty(data: bytes) -> None:
    """Raise what nobody expects for a port of more than three digits."""
    try:
        ports = parse_ports(data.decode("ascii", "replace"))
    except PortError:
        return
    if len(str(ports)) > 3:
        raise KeyError(str(ports))


FAULTY: Final = Harness("faulty", _faulty, lambda: [b"22"], longest=8)


def test_finding_is_kept_once_by_its_shortest_input(tmp_path: Path) -> None:
    """Each place where something is raised has one file with an input, and one with the traceback."""
    runner = Runner(FAULTY, Findings(tmp_path))
    for data in (b"22", b"  8080", b"8080", b"65535", b"nonsense"):
        runner.run(data)
    assert runner.executions == 5
    found, told = sorted(tmp_path.iterdir())
    assert found.read_bytes() == b"8080"
    assert told.name == f"{found.name}.txt"
    assert "KeyError: '8080'" in told.read_text("utf-8")


def test_effort_above_the_limit_is_a_finding(tmp_path: Path) -> None:
    """Calls and memory are counted, and both have a limit that grows with the input."""

    def greedy(data: bytes) -> None:
        for _ in range(len(data) ** 2):
            len(data)
        bytes(len(data) << 20)

    harness = Harness("greedy", greedy, lambda: [b"x"], calls=Limit(500, 10), memory=Limit(1 << 30, 0))
    check_effort(harness, bytes(10))
    with pytest.raises(ExcessError, match=r"100 bytes make 10,[0-9]{3} calls; the limit is 1,500"):
        check_effort(harness, bytes(100))
    with pytest.raises(ExcessError, match=r"10 bytes take 10,[0-9,]+ bytes; the limit is 1,048,576"):
        check_effort(replace(harness, memory=Limit(1 << 20, 0)), bytes(10))
    runner = Runner(harness, Findings(tmp_path))
    runner.measure([bytes(10), bytes(100)])
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == ["ExcessError"] * 2


def test_large_input_that_takes_too_long_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of inputs are repeated up to a size; whatever does not end with one is interrupted."""
    sizes = []

    def endless(data: bytes) -> None:
        sizes.append(len(data))
        while len(data) > 4000:
            pass

    monkeypatch.setattr(engine, "GROWN", 3)
    monkeypatch.setattr(engine, "SLOW_GROWN", 0.05)
    harness = Harness("endless", endless, lambda: [b"seed"], tokens=(b"token",), largest=5000)
    Runner(harness, Findings(tmp_path)).grow([b"seed"])
    assert all(4900 < size <= 5000 for size in sizes)
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == ["SlowError"] * 2


def test_input_is_kept_only_if_it_reaches_new_lines() -> None:
    """Of inputs that reach the same lines the shortest is kept."""
    harness = replace(FAULTY, run=lambda data: list(parse_ports(data.decode())).clear())
    assert chosen(harness, [b"23", b"80-90", b"8000-9000", b"all", b"443"]) == [b"all", b"80-90"]


def test_outcome_is_a_line_of_a_table(tmp_path: Path) -> None:
    """`make fuzz` prints numbers below their names, and the files of findings."""
    lines = Outcome("ports", "atheris", 60, 6_000_000, 12, (tmp_path / "KeyError-1",)).lines()
    assert lines[0].split() == ["ports", "atheris", "60", "6,000,000", "100,000", "12", "1"]
    assert len(lines[0]) == len(HEADER)
    assert lines[1] == f"  {tmp_path}/KeyError-1"
    assert not Outcome("ports", "atheris", 60, 0, 0, (), "it ended").is_good


def test_unknown_harness_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt name is told with those that there are."""
    with pytest.raises(SystemExit):
        main(["prots"])
    assert "no such harness: prots (there are packets, " in capsys.readouterr().err


def test_harness_runs_for_as_long_as_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """With or without atheris, one second of a harness is some executions and no finding."""
    assert main(["durations", "--seconds=1"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header == HEADER
    name, engine, *numbers = line.replace(",", "").split()
    assert (name, engine in {"atheris", "hypothesis"}) == ("durations", True)
    seconds, executions, _, inputs, findings = map(int, numbers)
    assert (seconds, findings) == (1, 0)
    assert executions > 0
    assert inputs > 0
