"""What the log says of a scan that has ended. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portspec.ports import PortSet
from portspec.state.evidence import shortened
from portspec.state.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.state.snapshot import ScanResult
    from portspec.state.verdict import Deviation


def of(result: ScanResult) -> dict[str, object]:
    """Return the keys and values of the line about a result; times in seconds, ports as conf.yml spells them."""
    judgement = result.judgement
    told: dict[str, object] = {
        "verdict": judgement.verdict.value,
        "open": len(result.open_ports),
        "missing": _spelled(item for item in judgement.deviations if item.kind is Kind.MISSING),
        "unexpected": _spelled(item for item in judgement.deviations if item.kind is Kind.UNEXPECTED),
        "duration_seconds": round(result.duration, 3),
    }
    if judgement.excepted:
        told["excepted"] = _spelled(judgement.excepted)
    if judgement.failure:
        told |= {"reason": judgement.failure.reason.value, "detail": judgement.failure.detail}
    times = [seen.rtt for seen in result.addresses if seen.rtt is not None]
    if times:
        told["rtt_seconds"] = round(min(times), 6)
    return told


def is_same(result: ScanResult, earlier: ScanResult) -> bool:
    """Return whether two results say the same: verdict, excepted deviations, and what is open on which address."""
    return _gist(result) == _gist(earlier)


def _gist(result: ScanResult) -> tuple[object, ...]:
    judgement = result.judgement
    return judgement.verdict, judgement.excepted, {seen.address: seen.open for seen in result.addresses}


def _spelled(deviations: Iterable[Deviation]) -> str:
    """Spell the deviating ports in a line that stays short when a machine answers on all of them."""
    return shortened(PortSet.of(item.port for item in deviations))
