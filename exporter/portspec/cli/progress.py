"""How far a command is, on standard error: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from portspec.app.scan_once import Progress as ScanProgress

LINE_INTERVAL = 15.0  # seconds between two lines, and before the first one

REDRAW_INTERVAL = 0.09  # seconds between two drawings of a bar, each of which costs as much as many lookups


@dataclass(frozen=True, slots=True)
class Step:
    """How far something is: `done` of `total` units, what is counted in words, and how many of what a second."""

    done: int
    total: int
    counted: str
    rate: str = ""


@contextlib.contextmanager
def scan_progress(hosts: int, *, is_shown: bool) -> Iterator[Callable[[ScanProgress], None]]:
    """Show how far the scan of some hosts is."""
    with _display("scanning", is_shown=is_shown) as show:
        begin = time.monotonic()

        def report(progress: ScanProgress) -> None:
            elapsed = time.monotonic() - begin
            show(
                Step(
                    progress.ports_done,
                    progress.ports_total,
                    f"{progress.hosts_done:,}/{hosts:,} hosts",
                    f"{progress.probes_sent / elapsed:,.0f} probes/s" if elapsed else "",
                )
            )

        yield report


@contextlib.contextmanager
def lookup_progress(names: int, *, is_shown: bool) -> Iterator[Callable[[int], None]]:
    """Show how many of some names have been looked up."""
    with _display("looking up", is_shown=is_shown) as show:
        yield lambda done: show(Step(done, names, f"{done:,}/{names:,} names"))


class Lines:
    """Writes a line when something has taken long, and again from time to time, for those who have no terminal."""

    def __init__(self, doing: str, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._doing = doing
        self._stream = stream
        self._clock = clock
        self._next = clock() + LINE_INTERVAL

    def show(self, step: Step) -> None:
        """Write a line if the last one is long enough ago."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + LINE_INTERVAL
        share = f"{100 * step.done // step.total} %" if step.total else ""
        with contextlib.suppress(OSError):  # nobody reads it any more
            print(f"{self._doing}: {', '.join(filter(None, (step.counted, share, step.rate)))}", file=self._stream)
            self._stream.flush()


@contextlib.contextmanager
def _display(doing: str, *, is_shown: bool) -> Iterator[Callable[[Step], None]]:
    if not is_shown:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        yield Lines(doing, sys.stderr).show
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.fields[counted]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,  # a thread of its own would keep the capabilities
    )
    with bar:
        task = bar.add_task("", total=None, counted=doing, rate="", left="")

        drawn = -REDRAW_INTERVAL

        def show(step: Step) -> None:
            nonlocal drawn
            if (now := time.monotonic()) < drawn + REDRAW_INTERVAL and step.done < step.total:
                return
            drawn = now
            bar.update(
                task,
                total=step.total,
                completed=step.done,
                counted=step.counted,
                rate=step.rate,
                left="left",
                refresh=True,
            )

        yield show
