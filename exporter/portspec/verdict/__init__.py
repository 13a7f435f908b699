"""Observation and specification → verdict. Pure."""

from portspec.lapse import in_force
from portspec.verdict.exceptions import excepted_ports, last_day
from portspec.verdict.judge import Deviation, Judgement, Kind, Verdict, judge, missing, unexpected

__all__ = [
    "Deviation",
    "Judgement",
    "Kind",
    "Verdict",
    "excepted_ports",
    "in_force",
    "judge",
    "last_day",
    "missing",
    "unexpected",
]
