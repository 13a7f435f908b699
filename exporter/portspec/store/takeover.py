"""What becomes of the states of two exporters when one takes the state file over from the other; pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portspec.state.snapshot import HostState

T = TypeVar("T")


@dataclass(slots=True)
class Takeover:
    """The states of two exporters as one.

    Attributes:
        adopted: By host key, the states in the file that are newer than ours.
        ours: By host key, the state in the file and ours, which is newer and is to be written.
    """

    adopted: dict[str, HostState] = field(default_factory=dict)
    ours: dict[str, tuple[HostState, HostState]] = field(default_factory=dict)


def take_over(known: Mapping[str, HostState], theirs_of: Callable[[str, HostState], HostState]) -> Takeover:
    """Compare each known state with the one in the file, which `theirs_of` returns for a host key and our state."""
    found = Takeover()
    for key, state in known.items():
        theirs = theirs_of(key, state)
        if is_newer(theirs, state):
            found.adopted[key] = theirs
        else:
            last_change = max(filter(None, (state.last_change, theirs.last_change)), default=None)
            found.ours[key] = theirs, replace(state, last_change=last_change)
    return found


def with_former(rows: Mapping[str, T], known: Mapping[str, HostState]) -> dict[str, T]:
    """Return rows by host key, in which each known host without a row has that of the first former name with one."""
    former = {
        key: next((name for name in state.target.renamed_from if name in rows), None)
        for key, state in known.items()
        if key not in rows
    }
    return {**rows, **{key: rows[name] for key, name in former.items() if name is not None}}


def is_newer(one: HostState, other: HostState) -> bool:
    """Return whether a state is based on a later scan, or a later conclusive scan, than another."""
    pairs = ((one.latest, other.latest), (one.conclusive, other.conclusive))
    return any(a is not None and (b is None or a.finished_at > b.finished_at) for a, b in pairs)
