"""What a part of the exporter reports so that the watchdog sees whether it makes progress."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A value that changes while the part makes progress; None while it has nothing to do.

    `patience` is for how many seconds the value of a healthy part may stay the same, if that is longer than the
    watchdog's own limit. A hang of a part that is not vital is logged, but the exporter goes on without it: a restart
    would not help.
    """

    part: str
    beat: float | None
    patience: float = 0.0
    is_vital: bool = True
