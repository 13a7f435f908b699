"""What /-/healthy says of parts that hang."""

from __future__ import annotations

import asyncio

from tests.faults.registry import fault
from tests.unit.web.exporter import Exporter
from tests.unit.web.site import Answer, fetch


def asked(exporter: Exporter) -> Answer:
    """Ask for the health."""

    async def scenario() -> Answer:
        async with exporter.served() as url:
            return await fetch(f"{url}/-/healthy")

    return asyncio.run(scenario())


@fault("part that hangs", "metrics and pages", "`/-/healthy` is 503 and names the part; a container is restarted.")
def test_part_that_hangs_is_not_healthy() -> None:
    """A health check sees which part hangs, also of several; the other pages are served."""
    answer = asked(Exporter(hanging=("scans", "syn engine")))
    assert (answer.status, answer.text) == (
        503,
        "portspec is not healthy: scans, syn engine: no progress.\n",
    )


def test_parts_that_run_are_healthy() -> None:
    """Without a part that hangs the answer is 200."""
    answer = asked(Exporter())
    assert (answer.status, answer.text) == (200, "portspec is healthy.\n")
