"""What the store reports of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The status of the store.

    Attributes:
        is_up: Whether the last attempt to write succeeded, and none takes longer than a minute.
        errors: The number of failures.
        pending: The number of scans to be written; those of one host without changes count once.
        dropped: The number of changes that were lost.
        is_held: Whether another exporter holds the file; then nothing is pending.
    """

    is_up: bool
    errors: int
    pending: int
    dropped: int
    is_held: bool = False
