"""Which hosts the page of all hosts shows: filter, order and part are in its address. Pure."""

from __future__ import annotations

import enum
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import urlencode

from portspec.audit.model import Status
from portspec.state.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from multidict import MultiMapping

    from portspec.audit.state import AuditState
    from portspec.state.snapshot import HostState, Snapshot

E = TypeVar("E", bound=enum.StrEnum)

ROWS_PER_PAGE: Final = 100
MAX_TEXT: Final = 200  # characters of a filter
MAX_LABELS: Final = 10
_NUMBER: Final = re.compile(r"[0-9]+")
_ALL: Final = ("q", "label", "verdict", "audit", "sort", "page", "kiosk")


class Shown(enum.StrEnum):
    """The verdict of a row, the worst first."""

    OUT_OF_SPEC = "out_of_spec"
    UNKNOWN = "unknown"
    WAITING = "waiting"  # for its first scan
    IN_SPEC = "in_spec"
    UNSCANNED = "unscanned"  # it only sends audits


_OF_VERDICT: Final = {verdict: Shown(verdict.value) for verdict in Verdict}
# Hosts that wait for their first scan stand among those that are unknown.
_RANKS: Final = {Shown.OUT_OF_SPEC: 0, Shown.UNKNOWN: 1, Shown.WAITING: 1, Shown.IN_SPEC: 2, Shown.UNSCANNED: 3}
_AUDIT_RANKS: Final = {
    status: rank
    for rank, status in enumerate(
        (Status.VULNERABLE, Status.FAILED, Status.STALE_DATABASE, Status.UNSUPPORTED, Status.NEVER, Status.CLEAN)
    )
}


class FilterError(ValueError):
    """A parameter of the page makes no sense; the message says which one, and what is expected."""


@dataclass(frozen=True, slots=True)
class HostFilter:
    """What the address of the page says.

    Attributes:
        text: A part of the name, or of the value of a label; "" for all.
        labels: Names and values of labels that a host must have.
        shown: The verdict; None for all.
        audit: The status of the audit; None for all.
        order: What the rows are sorted by, see ORDERS.
        is_descending: Whether the greatest is first.
        page: The part that is shown, from 1.
        is_kiosk: Whether only the rows are shown, for a screen on a wall.
    """

    text: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    shown: Shown | None = None
    audit: Status | None = None
    order: str = "worst"
    is_descending: bool = False
    page: int = 1
    is_kiosk: bool = False

    def query(self) -> str:
        """Return the query of the address, "" for the page without parameters."""
        sort = ("-" if self.is_descending else "") + self.order
        pairs = [
            ("q", self.text),
            *(("label", f"{name}={value}") for name, value in self.labels),
            ("verdict", self.shown or ""),
            ("audit", self.audit or ""),
            ("sort", "" if sort == "worst" else sort),
            ("page", "" if self.page == 1 else str(self.page)),
            ("kiosk", "1" if self.is_kiosk else ""),
        ]
        return urlencode([(name, value) for name, value in pairs if value], errors="replace")

    def sorted_by(self, order: str) -> HostFilter:
        """Return the filter of the header of a column: a second click turns the order around."""
        is_again = order == self.order and not self.is_descending
        return replace(self, order=order, is_descending=is_again, page=1)


def read_filter(query: MultiMapping[str]) -> HostFilter:
    """Read the parameters of an address. Raises FilterError."""
    for name in query:
        if name not in _ALL:
            raise FilterError(f'"{name[:MAX_TEXT]}" is not a parameter of this page (known: {", ".join(_ALL)})')
        if name != "label" and len(query.getall(name)) > 1:
            raise FilterError(f"the parameter {name} is given more than once")
    text = query.get("q", "").strip()
    labels = query.getall("label", [])
    if len(labels) > MAX_LABELS or any(len(value) > MAX_TEXT for value in (text, *labels)):
        raise FilterError(f"at most {MAX_TEXT} characters of text, and {MAX_LABELS} labels, can be looked for")
    pairs = [label.partition("=") for label in labels if label]
    if wrong := [label for label, equals, _ in pairs if not equals]:
        raise FilterError(f'label: "{wrong[0]}" is not a name and a value (expected for example team=web)')
    sort = query.get("sort") or "worst"
    order = sort.removeprefix("-")
    if order not in ORDERS:
        raise FilterError(f'sort: "{order[:MAX_TEXT]}" is not known (known: {", ".join(ORDERS)})')
    page = query.get("page") or "1"
    if not (page.isascii() and page.isdigit() and 0 < len(page) < 10 and int(page) > 0):  # noqa: PLR2004 - digits
        raise FilterError(f'page: "{page[:MAX_TEXT]}" is not a number from 1 on')
    return HostFilter(
        text=text,
        labels=tuple((name, value) for name, _, value in pairs),
        shown=_one_of(Shown, "verdict", query.get("verdict")),
        audit=_one_of(Status, "audit", query.get("audit")),
        order=order,
        is_descending=sort.startswith("-"),
        page=int(page),
        is_kiosk=query.get("kiosk", "0") != "0",
    )


def _one_of(kind: type[E], name: str, value: str | None) -> E | None:
    if not value:
        return None
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(kind)
        raise FilterError(f'{name}: "{value[:MAX_TEXT]}" is not known (known: {known})') from None


class Row(NamedTuple):
    """A host: its state if it is scanned, its audit if it has to send any, and the verdict that it is shown with.

    A tuple, since a page is made of one for each host, and a frozen dataclass takes three times as long to create.
    """

    host: str
    state: HostState | None
    audit: AuditState | None
    shown: Shown

    @classmethod
    def of(cls, host: str, state: HostState | None, audit: AuditState | None) -> Row:
        """Return the row of a host."""
        if state is None:
            return cls(host, state, audit, Shown.UNSCANNED)
        return cls(host, state, audit, _OF_VERDICT[state.verdict] if state.latest else Shown.WAITING)

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the host."""
        return self.state.target.config.labels if self.state else {}


@dataclass(frozen=True, slots=True)
class Overview:
    """The rows of one part, and what there is in all.

    Attributes:
        rows: Those of the part, in order.
        matching: The number of hosts that the filter lets through.
        pages: The number of parts that they make, at least 1.
        verdicts: How many hosts have each verdict, whatever the filter.
        audits: How many hosts have each status of an audit, whatever the filter.
    """

    rows: tuple[Row, ...]
    matching: int
    pages: int
    verdicts: Mapping[Shown, int] = field(default_factory=dict)
    audits: Mapping[Status, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of all hosts."""
        return sum(self.verdicts.values())


def overview(snapshot: Snapshot, by: HostFilter) -> Overview:
    """Return what the page shows; a part beyond the end is the last one that there is."""
    every = _every(snapshot)
    chosen = _chosen(every, by)
    pages = max(1, -(-len(chosen) // ROWS_PER_PAGE))
    first = (min(by.page, pages) - 1) * ROWS_PER_PAGE
    return Overview(
        rows=tuple(chosen[first : first + ROWS_PER_PAGE]),
        matching=len(chosen),
        pages=pages,
        verdicts=Counter(row.shown for row in every),
        audits=Counter(row.audit.status for row in every if row.audit),
    )


def chosen_rows(snapshot: Snapshot, by: HostFilter) -> list[Row]:
    """Return all the rows that a filter lets through, in its order."""
    return _chosen(_every(snapshot), by)


def position_of(row: Row, by: HostFilter) -> tuple[tuple[float, ...], str]:
    """Return where a row stands in the order of a filter: by what it is sorted beside its name, and the name."""
    if by.order == "host":
        return (), row.host
    found = ORDERS[by.order](row)
    return (found if isinstance(found, tuple) else (found,)), row.host


def stands_after(row: Row, position: tuple[tuple[float, ...], str], by: HostFilter) -> bool:
    """Return whether a row stands after a position in the order of a filter, also of a host that is gone."""
    (key, host), (other, other_host) = position_of(row, by), position
    if by.order == "host" and by.is_descending:
        return by_name(host) < by_name(other_host)
    if key != other:
        return (key > other) is not by.is_descending
    return by_name(host) > by_name(other_host)


def _every(snapshot: Snapshot) -> list[Row]:
    """Return the row of each host, sorted by name."""
    audits = {audit.host: audit for chunk in snapshot.audits.chunks for audit in chunk}
    chunks, of, audit_of = snapshot.hosts.chunks, Row.of, audits.get
    return [
        of(host, None if place is None else chunks[place[0]][place[1]], audit_of(host))
        for host, place in _sorted_hosts(snapshot.hosts.places, audits)
    ]


class _Order:
    """The hosts that were sorted last, with their places: they stay the same while their states change."""

    places: Mapping[str, tuple[int, int]] | None = None
    audited: frozenset[str] = frozenset()
    hosts: tuple[tuple[str, tuple[int, int] | None], ...] = ()


_order = _Order()


def _sorted_hosts(
    places: Mapping[str, tuple[int, int]], audits: Mapping[str, AuditState]
) -> tuple[tuple[str, tuple[int, int] | None], ...]:
    global _order  # noqa: PLW0603 - two threads may write pages at a time, so it is replaced as a whole
    known = _order
    if known.places is places and known.audited == audits.keys():
        return known.hosts
    found = _Order()
    found.places, found.audited = places, frozenset(audits)
    found.hosts = tuple((host, places.get(host)) for host in sorted({**places, **audits}, key=by_name))
    _order = found
    return found.hosts


def _chosen(every: Sequence[Row], by: HostFilter) -> list[Row]:
    """Return the rows that a filter lets through, of rows that are sorted by name, in its order."""
    chosen = list(every)
    for matches in _tests(by):
        chosen = [row for row in chosen if matches(row)]
    if by.order != "host":
        chosen.sort(key=ORDERS[by.order], reverse=by.is_descending)
    elif by.is_descending:
        chosen.reverse()
    return chosen


def _tests(by: HostFilter) -> Iterator[Callable[[Row], bool]]:
    """Yield what a row must pass, only what is asked for: it is called for each host."""
    if by.shown is not None:
        yield lambda row: row.shown is by.shown
    if by.audit is not None:
        yield lambda row: row.audit is not None and row.audit.status is by.audit
    if by.labels:
        yield lambda row: all(row.labels.get(name) == value for name, value in by.labels)
    if text := by.text.lower():
        yield lambda row: text in "\0".join((row.host, *row.labels.values())).lower()  # no name or label has a NUL


def _by_worst(row: Row) -> float:
    rank = _RANKS[row.shown]
    return rank + _AUDIT_RANKS[row.audit.status] if row.audit and row.shown is Shown.UNSCANNED else rank


@lru_cache(maxsize=1 << 17)
def by_name(host: str) -> str:
    """Return what names of hosts are sorted by: numbers in them by their value, so web2 before web10.

    It is one text, since texts are compared faster than tuples of texts.
    """
    return f"{_NUMBER.sub(lambda digits: digits[0].zfill(10), host)}\0{host}"


def _by_host(row: Row) -> str:
    return by_name(row.host)


def _by_open(row: Row) -> float:
    return len(row.state.conclusive.open_ports) if row.state and row.state.conclusive else -1


def _by_last_scan(row: Row) -> float:
    return row.state.conclusive.finished_at if row.state and row.state.conclusive else 0


def _by_audit(row: Row) -> tuple[float, ...]:
    if row.audit is None:
        return (len(_AUDIT_RANKS), 0)
    return (_AUDIT_RANKS[row.audit.status], -len(row.audit.vulnerabilities))


#: What rows can be sorted by; equal ones stay sorted by their host.
ORDERS: Final[Mapping[str, Callable[[Row], Any]]] = {
    "worst": _by_worst,
    "host": _by_host,
    "open": _by_open,
    "last_scan": _by_last_scan,
    "audit": _by_audit,
}
