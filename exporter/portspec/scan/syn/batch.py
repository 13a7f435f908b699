"""What the SYN engine sends at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portspec.scan.syn.arrays import U16
    from portspec.scan.syn.reference_ports import ReferenceBatch


@dataclass(frozen=True, slots=True)
class ProbeBatch:
    """Probes to one address: `ports` as try `attempt` (from 0), between the reference ports `before` and `after`."""

    ports: U16
    attempt: int
    before: U16
    after: U16

    @property
    def parts(self) -> tuple[U16, U16, U16]:
        """The ports in the order of sending."""
        return self.before, self.ports, self.after

    def __len__(self) -> int:
        return len(self.before) + len(self.ports) + len(self.after)


@dataclass(slots=True)
class OutstandingBatch:
    """Probes that were sent together, and the reference probes that were sent last before and first after them."""

    began_at: float
    sent_at: float
    ports: U16
    before: ReferenceBatch | None
    after: ReferenceBatch | None = None

    @property
    def is_proven(self) -> bool:
        """True if reference probes at both ends were answered."""
        return bool(self.before and self.before.was_answered and self.after and self.after.was_answered)
