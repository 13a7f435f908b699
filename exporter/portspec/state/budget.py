"""What the audit of one host may add to /metrics: so many series, and so many bytes. Pure.

A host says what it likes, also if it is broken into. Prometheus refuses a whole scrape for one label that is too long
(label_value_length_limit) or a page that is too large (body_size_limit), and then all hosts are without a watch.
"""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from portspec.audit.payload import SHORT_ID
from portspec.ports import spell
from portspec.priorities import Priority
from portspec.state.correlation import correlate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portspec.audit.payload import ListeningSocket
    from portspec.audit.state import AuditState

MAX_LABEL: Final = 128  # bytes of a label value that a host has chosen
MAX_SERIES: Final = 1000  # in a family
MAX_VULNERABILITY_BYTES: Final = 224 << 10  # of a family on the page: 1,000 findings of the usual kind take 150 kB
MAX_LISTENER_BYTES: Final = 64 << 10
MAX_SINCE_BYTES: Final = 64 << 10  # 400 of the usual kind
_CLASSES: Final = tuple(priority.value for priority in Priority)
_MORE: Final = "…"
_WIDEST: Final = 4  # bytes of a character in UTF-8
_LONGEST_LINE: Final = 110  # bytes of a line without the values that a host chose, and without its name


R = TypeVar("R")
Labels = tuple[str, ...]


class Share(NamedTuple):
    """The label values of each series, in the order in which a budget keeps them, and how many do not fit."""

    series: list[Labels]
    left_out: int


class Dated(NamedTuple):
    """The label values of each series with a Unix time, and how many do not fit."""

    series: list[tuple[Labels, int]]
    left_out: int


def _kept(function: Callable[[AuditState], R]) -> Callable[[AuditState], R]:
    """Keep the last result: the families of a host are written one after the other, and ask for the same."""
    last: tuple[AuditState | None, R | None] = (None, None)

    @wraps(function)
    def kept(audit: AuditState) -> R:
        nonlocal last
        known, result = last  # at once, since other threads ask for other hosts
        if known is not audit or result is None:
            result = function(audit)
            last = audit, result
        return result

    return kept


@_kept
def vulnerabilities_of(audit: AuditState) -> Share:
    """Return package, version, id, severity, fixed versions and class of what counts, the most urgent first."""
    found: dict[Labels, Labels] = {}
    vulnerabilities, ranks = audit.vulnerabilities, audit.ranks
    for place in sorted(range(len(ranks)), key=ranks.__getitem__):
        item = vulnerabilities[place]
        others = item.severity, ", ".join(item.fixed_in), _CLASSES[ranks[place]]
        found.setdefault((item.package, item.version, item.id), others)
    return _fitted(audit.host, ((*key, *others) for key, others in found.items()), MAX_VULNERABILITY_BYTES)


@_kept
def dated_of(audit: AuditState) -> Dated:
    """Return package, version and id of series of vulnerabilities_of(), the most urgent first, and since when."""
    oldest: dict[Labels, int] = {}
    for item, at in audit.since:
        key = cut(item.package), cut(item.version), cut(item.id)
        oldest[key] = min(at, oldest.get(key, at))
    if not oldest:
        return Dated([], 0)
    every = [values[:3] for values in vulnerabilities_of(audit).series]
    kept = _fitted(audit.host, every, MAX_SINCE_BYTES).series
    return Dated([(labels, oldest[labels]) for labels in kept], len(every) - len(kept))


@_kept
def listeners_of(audit: AuditState) -> Share:
    """Return port, process, user, package, unit and container of what listens on another than a loopback address.

    By port; "" is what is not known.
    """
    correlation = correlate(None, audit)
    found = (
        (spell(port), *holder)
        for port, listeners in (sorted(correlation.listeners.items()) if correlation else ())
        for holder in sorted({_holder(item) for item in listeners})
    )
    return _fitted(audit.host, found, MAX_LISTENER_BYTES)


def _holder(item: ListeningSocket) -> Labels:
    container = item.container_name or (item.container or "")[:SHORT_ID]
    return item.process or "", item.user or "", item.package or "", item.unit or "", container


def left_out_of(audit: AuditState) -> int:
    """Return how many series of a host's audit do not fit."""
    vulnerabilities = 0 if _surely_fits(audit) else vulnerabilities_of(audit).left_out
    return vulnerabilities + dated_of(audit).left_out + listeners_of(audit).left_out


def cut(value: str) -> str:
    """Cut a label value to MAX_LABEL bytes of UTF-8, at the border of a character; then it ends with an ellipsis."""
    if len(value) * _WIDEST <= MAX_LABEL:
        return value
    data = value.encode("utf-8", "replace")
    if len(data) <= MAX_LABEL:
        return value
    return data[: MAX_LABEL - len(_MORE.encode())].decode("utf-8", "ignore") + _MORE


def _fitted(host: str, found: Iterable[Labels], most: int) -> Share:
    """Cut the values, and take what fits; what is the same once it is cut is one series."""
    kept: dict[Labels, None] = {}
    size = left_out = 0
    for values in found:
        labels, sizes = zip(*map(_fit, values), strict=True)
        line = _LONGEST_LINE + len(host) + sum(sizes)
        if labels in kept or len(kept) >= MAX_SERIES or size + line > most:
            left_out += 1
        else:
            kept[labels] = None
            size += line
    return Share(list(kept), left_out)


@lru_cache(maxsize=1 << 14)  # hosts share most of their values
def _fit(value: str) -> tuple[str, int]:
    """Return a value as it is cut, and its bytes on the page."""
    found = cut(value)
    return found, _size(found)


def _size(value: str) -> int:
    """Return the bytes of a value on the page, where some characters are escaped."""
    size = len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    return size if value.isalnum() else size + value.count("\\") + value.count('"') + value.count("\n")


def _surely_fits(audit: AuditState) -> bool:
    """Return whether all vulnerabilities certainly fit: a cheap test that holds for nearly every host."""
    found = audit.vulnerabilities
    room = MAX_VULNERABILITY_BYTES - len(found) * (
        _LONGEST_LINE + len(audit.host) + len("negligible") + len("fix_soon")
    )
    if len(found) > MAX_SERIES:
        return False
    longest = MAX_LABEL // _WIDEST
    for item in found:
        lengths = len(item.package), len(item.version), len(item.id), len(", ".join(item.fixed_in))
        room -= _WIDEST * sum(lengths)
        if max(lengths) > longest:
            return False
    return room >= 0
