"""Figures that a target is set for, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

OUTCOMES: Final = {True: "met", False: "MISSED"}


@dataclass(frozen=True, slots=True)
class Target:
    """A figure of some work, and the most that it may be; `unit` follows both, " s" or nothing for a ratio."""

    work: str
    figure: float
    most: float
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the figure is at most what it may be."""
        return self.figure <= self.most

    def row(self) -> str:
        """Return its row of the table."""
        outcome = OUTCOMES[self.is_met]
        return f"| {self.work} | {self.figure:.3g}{self.unit} | ≤ {self.most:.3g}{self.unit} | {outcome} |"


def table(targets: Iterable[Target]) -> str:
    """Return the table of all of them."""
    return "\n".join(["| work | measured | target | |", "|---|---|---|---|", *(target.row() for target in targets)])
