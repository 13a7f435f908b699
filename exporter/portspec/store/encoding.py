"""A host's state as a JSON document, and back.

What was observed is kept, never what was concluded from it: verdict and deviations are made anew by the specification
and the exceptions of the day. Sets of ports are ranges ("22,8000-8100"), so that all ports of a host take a few bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from portspec.names import canonical
from portspec.ports import PortSet
from portspec.scan import AddressObservation, Failure, Reason
from portspec.state.snapshot import HostState, ScanResult
from portspec.state.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from portspec.inventory import Target

K = TypeVar("K")
V = TypeVar("V")

VERSION: Final = 1
_SAME = "latest"  # in place of the conclusive result where it is the latest
_END_OF_TIME = 253_402_300_800.0  # 10000-01-01T00:00:00Z, in Unix seconds: beyond it no date can be made
_MAX_CACHED = 1024


class DocumentError(ValueError):
    """A document that does not hold a state."""


def host_key(host: str) -> str:
    """Return the key of a host in the file: the same however conf.yml spells it. What is no host is its own key."""
    try:
        return canonical(host)
    except ValueError:
        return host


class Encoding:
    """Writes and reads documents; use one in one thread at a time.

    It remembers sets of ports: most hosts are scanned on the same ones, and these may be hundreds of ranges.
    """

    def __init__(self) -> None:
        self._texts: dict[PortSet, str] = {}
        self._sets: dict[str, PortSet] = {}

    def encode(self, state: HostState) -> str:
        """Write a state; ValueError if it holds a number that is none."""
        conclusive: Any = _SAME if state.conclusive is state.latest else self._plain_result(state.conclusive)
        document = {
            "version": VERSION,
            "latest": self._plain_result(state.latest),
            "conclusive": conclusive,
            "last_change": state.last_change,
            **({"pace": state.pace} if state.pace else {}),
            **({"opened": [[at, self._text(ports)] for at, ports in state.opened]} if state.opened else {}),
        }
        return json.dumps(document, separators=(",", ":"), allow_nan=False)

    def decode(self, document: str, target: Target, now: float) -> HostState:
        """Read a state, judged by the specification and the exceptions of a target at `now`, in Unix seconds.

        Raises DocumentError, whatever the document is.
        """
        try:
            found = json.loads(document, parse_constant=_refuse)
            _verify_version(found["version"])
            latest = self._result(found["latest"])
            conclusive = latest if found["conclusive"] == _SAME else self._result(found["conclusive"])
            last_change = None if found["last_change"] is None else _time(found["last_change"])
            pace = found.get("pace")
            known = HostState(
                target,
                latest,
                conclusive,
                last_change,
                pace=None if pace is None else _seconds(pace),
                opened=tuple((_time(at), self._ports(text)) for at, text in found.get("opened", ())),
            )
        except DocumentError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise DocumentError(f"{type(error).__name__}: {error}") from error
        return replace(known.judged(target, now), judged_at=now)

    def _plain_result(self, result: ScanResult | None) -> dict[str, Any] | None:
        if result is None:
            return None
        plain = {
            "at": result.finished_at,
            "seconds": result.duration,
            "failure": _plain_failure(result.judgement.failure),
            "addresses": [self._plain_observation(item) for item in result.addresses],
        }
        return plain if result.rechecked_at is None else {**plain, "rechecked_at": result.rechecked_at}

    def _plain_observation(self, item: AddressObservation) -> dict[str, Any]:
        """Leave out what is as by default."""
        plain: dict[str, Any] = {"address": item.address, "scanned": self._text(item.scanned)}
        for name in ("open", "filtered", "unconfirmed", "lost"):
            if ports := getattr(item, name):
                plain[name] = self._text(ports)
        if item.answered:
            plain["answered"] = True
        if item.refusals:
            plain["refusals"] = item.refusals
        if item.rtt is not None:
            plain["rtt"] = item.rtt
        if item.failure:
            plain["failure"] = _plain_failure(item.failure)
        return plain

    def _result(self, plain: Any) -> ScanResult | None:
        if plain is None:
            return None
        addresses = tuple(self._observation(item) for item in _typed(plain["addresses"], list))
        # what is unknown until it is judged
        judgement = Judgement(Verdict.UNKNOWN, failure=_failure(plain["failure"]))
        rechecked_at = plain.get("rechecked_at")
        return ScanResult(
            addresses,
            judgement,
            _time(plain["at"]),
            _seconds(plain["seconds"]),
            None if rechecked_at is None else _time(rechecked_at),
        )

    def _observation(self, plain: Any) -> AddressObservation:
        rtt = plain.get("rtt")
        return AddressObservation(
            address=_typed(plain["address"], str),
            scanned=self._ports(plain["scanned"]),
            open=self._ports(plain.get("open", "")),
            filtered=self._ports(plain.get("filtered", "")),
            answered=_typed(plain.get("answered", False), bool),
            rtt=None if rtt is None else _seconds(rtt),
            failure=_failure(plain.get("failure")),
            unconfirmed=self._ports(plain.get("unconfirmed", "")),
            lost=self._ports(plain.get("lost", "")),
            refusals=_typed(plain.get("refusals", 0), int),
        )

    def _text(self, ports: PortSet) -> str:
        text = self._texts.get(ports)
        if text is None:
            text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ports.ranges)
            _remember(self._texts, ports, text)
        return text

    def _ports(self, text: str) -> PortSet:
        ports = self._sets.get(text)
        if ports is None:
            ranges = (word.partition("-") for word in text.split(",") if word)
            ports = PortSet.of_ranges((int(first), int(last or first)) for first, _, last in ranges)
            _remember(self._sets, text, ports)
        return ports


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= _MAX_CACHED:
        cache.clear()
    cache[key] = value


def _plain_failure(failure: Failure | None) -> dict[str, str] | None:
    return {"reason": failure.reason.value, "detail": failure.detail} if failure else None


def _failure(plain: Any) -> Failure | None:
    return None if plain is None else Failure(Reason(plain["reason"]), _typed(plain["detail"], str))


def _verify_version(version: Any) -> None:
    if version != VERSION:
        raise DocumentError(f"its version is {version!r}, known is {VERSION}")


def _time(value: Any) -> float:
    if (seconds := _seconds(value)) >= _END_OF_TIME:
        raise DocumentError(f"{value!r} is no time")
    return seconds


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise DocumentError(f"{value!r} is no number of seconds")
    return float(value)


def _typed(value: Any, expected: type[V]) -> V:
    if not isinstance(value, expected):
        raise DocumentError(f"{value!r} is no {expected.__name__}")
    return value


def _refuse(constant: str) -> NoReturn:
    raise DocumentError(f"{constant} is no number")
