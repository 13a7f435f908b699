"""What is said of a figure that a target is set for."""

from __future__ import annotations

from typing import Final

OUTCOMES: Final = {True: "met", False: "MISSED"}
