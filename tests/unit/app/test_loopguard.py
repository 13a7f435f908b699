"""An event loop that hangs ends the process, and nothing else does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from portspec.app.loopguard import EXIT_CODE, LoopGuard
from portspec.app.watchdog import CHECKS_PER_LIMIT
from tests.faults.registry import fault

HANGING = """
import asyncio, sys
from portspec import log
from portspec.app.loopguard import LoopGuard

async def main():
    LoopGuard(0.2).start()
    await asyncio.sleep(0)
    hang_here()

def hang_here():
    while True:
        pass

log.set_up(sys.stdout, form="json", level="info")
asyncio.run(main())
"""


def test_loop_that_answers_is_left_alone() -> None:
    """As long as it runs between two checks, whatever the time between them, it does not hang."""

    async def scenario() -> None:
        guard = LoopGuard()
        for _ in range(20):
            assert not guard.check()
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_loop_hangs_after_the_whole_limit() -> None:
    """One missed check proves nothing, as after a stop of the process; the last one of a limit does."""

    async def scenario() -> None:
        guard = LoopGuard()
        found = [guard.check() for _ in range(CHECKS_PER_LIMIT + 1)]
        assert found == [False] * CHECKS_PER_LIMIT + [True]

    asyncio.run(scenario())


def test_loop_that_continues_is_forgiven() -> None:
    """A loop that answers at last begins anew."""

    async def scenario() -> None:
        guard = LoopGuard()
        for _ in range(5):
            assert not any(guard.check() for _ in range(CHECKS_PER_LIMIT))
            await asyncio.sleep(0)

    asyncio.run(scenario())


@fault(
    "part that hangs",
    "whole exporter",
    "If the event loop hangs for two minutes, the exporter ends with exit code 70 and logs where it hangs.",
)
def test_process_whose_loop_hangs_ends() -> None:
    """It ends with an exit code that has the service manager start it again, and one line that says where it hangs."""
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, check=False, timeout=60)
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, done.stderr) == (EXIT_CODE, "")
    assert (line["level"], line["event"]) == (
        "error",
        "the event loop hangs; portspec ends, so that it is started again",
    )
    assert "hang_here" in line["stack"]
