from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.registry import fault
from tests.unit.store.killing import Tally, kill

if TYPE_CHECKING:
    from pathlib import Path


@fault("kill", "state file", "The file opens again with every committed transaction.")
def test_nothing_that_was_committed_is_lost_by_kill_9(tmp_path: Path) -> None:
    """Killed at any moment under load, the store opens again, with every committed change, and no state by halves."""
    tally = kill(tmp_path, 10, seed=1)
    assert tally == Tally(kills=10, opened=10, committed=tally.committed)
    assert tally.committed
