"""What is told of a host at a time: all that a mail says, as values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class News(enum.StrEnum):
    """What a mail about a host may be for."""

    OUT_OF_SPEC = "out_of_spec"
    DIFFERENT = "different"
    IN_SPEC = "in_spec"
    UNKNOWN = "unknown"
    REMINDER = "reminder"
    EXPIRING = "expiring"


class End(enum.StrEnum):
    """How a deviation ended that was told.

    CHANGED: the port is seen as it should be. ACCEPTED: an exception covers it. SPECIFIED: conf.yml has it so by now.
    UNSCANNED: its port, or its address, is no longer scanned.
    """

    CHANGED = "changed"
    ACCEPTED = "accepted"
    SPECIFIED = "specified"
    UNSCANNED = "unscanned"


@dataclass(frozen=True, slots=True)
class Line:
    """Ports of an address with the state they were found in. Times are Unix seconds.

    `since` is when the deviation was first seen. Ports that were open before that, when they did not count yet, are so
    since `opened`. Of what is over, `seen` is when it was last seen, and `end` how it ended (see End), "" if that is
    not known.
    """

    address: str
    kind: str
    state: str
    ports: str
    since: float
    opened: float | None = None
    seen: float | None = None
    end: str = ""


class Acceptance(NamedTuple):
    """Ports that an exception accepts until a Unix time, with its reason and its owner, "" if it has none."""

    ports: str
    until: float
    reason: str = ""
    owner: str = ""


class Holder(NamedTuple):
    """Who listens on some ports by the host's last audit, "" if it names nobody.

    It `is_older` if the ports were not yet seen open when it was made.
    """

    ports: str
    who: str
    is_older: bool


class Gap(NamedTuple):
    """Scans in a row that reached no verdict: when the first and the last of them ended, and the last one's reason."""

    since: float
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What to tell of a host, as of a Unix time: all that a mail says.

    `since` is when the present trouble began, or that which is over. `over` is what was told and is no more, and
    `until` is when the host came into specification again. While the host `is_unknown` the rest is as of `last_seen`,
    None if no scan reached a verdict; `open` is "" for a host of which nothing was ever seen. It `answers_nothing` if
    no probe of the scan was answered.

    `expiring` are exceptions that end soon, `lapsed` those that ended and covered what deviates now, `accepted` those
    that cover what is `over`. `gap` are the scans that could not see the host before this one. `holders` say who
    listens, by the audit of `audited_at`.
    """

    host: str
    news: News
    at: float
    expected: str
    open: str
    lines: tuple[Line, ...] = ()
    over: tuple[Line, ...] = ()
    since: float | None = None
    reason: str = ""
    is_unknown: bool = False
    expiring: tuple[Acceptance, ...] = ()
    last_seen: float | None = None
    until: float | None = None
    answers_nothing: bool = False
    lapsed: tuple[Acceptance, ...] = ()
    accepted: tuple[Acceptance, ...] = ()
    gap: Gap | None = None
    holders: tuple[Holder, ...] = ()
    audited_at: float | None = None
