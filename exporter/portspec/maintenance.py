"""Maintenance of hosts: when it lasts, and how long one that somebody asks for may last. Pure.

The time is an argument everywhere, as in `exceptions`, by whose clock maintenance begins and ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from portspec.errors import is_printable, shorten
from portspec.times import is_number, parse_duration, read_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_DURATION: Final = 90 * 86_400.0  # seconds that maintenance may last which somebody asks for
MAX_TEXT: Final = 500  # characters of a reason, and of an owner


class Window(Protocol):
    """A time of maintenance: from `begins` to before `until`, both in Unix seconds."""

    @property
    def begins(self) -> float:
        """Its beginning, in Unix seconds; minus infinity if it always has been."""
        ...

    @property
    def until(self) -> float:
        """Its end, in Unix seconds."""
        ...


W = TypeVar("W", bound=Window)


def lasting(windows: Iterable[W], now: float) -> W | None:
    """Return the maintenance that lasts at `now`, in Unix seconds; of several the one that ends last, None without."""
    return max((item for item in windows if item.begins <= now < item.until), key=lambda item: item.until, default=None)


def requested_of(requested: Mapping[str, W], names: Iterable[str]) -> W | None:
    """Return the maintenance that was asked for of a host by any of its canonical names: that which ends last."""
    return max((requested[name] for name in names if name in requested), key=lambda item: item.until, default=None)


def edges(windows: Iterable[Window]) -> Iterator[float]:
    """Yield the Unix times at which maintenance begins or ends."""
    for item in windows:
        yield item.begins
        yield item.until


def read_end(duration: str | None, until: str | None, now: float) -> float:
    """Return the end of maintenance that somebody asks for at `now`, both in Unix seconds.

    One of the two tells: for which `duration` it lasts, such as "2h", or `until` when, which may be a duration, a day
    or a time. Raises ValueError.
    """
    if (duration is None) is (until is None):
        raise ValueError('give "for", a duration such as "2h", or "until", a time, but not both')
    name, text = ("for", duration) if duration is not None else ("until", until or "")
    text = str(text).strip()
    if is_number(text):
        raise ValueError(f'{name}: "{text}" has no unit; write for example "{text}m"')
    try:
        end = now + parse_duration(text) if name == "for" else read_until(text, begins=now)
    except ValueError:
        what = 'a duration (expected for example "2h")'
        if name == "until":
            what = 'an end (expected a duration such as "2h", a day, "2027-03-31", or a time, "2027-03-31T18:00:00Z")'
        raise ValueError(f'{name}: "{shorten(text)}" is not {what}') from None
    if end <= now:
        raise ValueError(f"{name}: {shorten(text)} {'is no time' if name == 'for' else 'is in the past'}")
    if end - now > MAX_DURATION:
        days = f"{MAX_DURATION / 86_400:.0f} days"
        raise ValueError(
            f"{name}: {shorten(text)} is more than {days} from now; write longer maintenance into conf.yml"
        )
    return end


def check_text(text: str) -> str:
    """Return a reason or an owner; ValueError if nobody should have to read it."""
    if not is_printable(text):
        raise ValueError("the text has characters that cannot be seen")
    if len(text) > MAX_TEXT:
        raise ValueError(f"the text has {len(text):,} characters (expected at most {MAX_TEXT})")
    return text
