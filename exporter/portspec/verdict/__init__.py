"""Observation and specification → verdict. Pure."""

from portspec.verdict.judge import Deviation, Judgement, Kind, Verdict, judge

__all__ = ["Deviation", "Judgement", "Kind", "Verdict", "judge"]
