"""Numbers, times, ports and programs in words, the same in every form of the report. Texts are as hosts have them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Severity
from portspec.exceptions import last_day
from portspec.state.document import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portspec.audit.payload import ListeningSocket
    from portspec.config import PortException, VulnerabilityException
    from portspec.ports import PortSet

Holders = tuple[tuple[str | None, str | None], ...]  # process and user, each once

MAX_RANGES: Final = 100  # of ports that are spelled one by one
MAX_HOLDERS: Final = 5
MAX_LINES: Final = 100  # under one label
_UNITS: Final = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_DAYS_FROM: Final = 2 * 86_400  # seconds; "26 hours" says more than "1 day"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Give a number with its noun: "1 machine", "1,200 machines"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def time(seconds: float) -> str:
    """Spell Unix seconds in UTC: "2026-11-22 05:21:45 UTC"."""
    return f"{moment(seconds).replace(microsecond=0, tzinfo=None)} UTC"


def duration(seconds: float) -> str:
    """Give a time span in its largest unit, from none on: "26 hours"."""
    whole = max(0, int(min(seconds, 1e12)))
    for size, noun in _UNITS:
        if whole >= (_DAYS_FROM if noun == "day" else size):
            return counted(whole // size, noun)
    return "0 seconds"


def when(seconds: float, now: float) -> str:
    """Give a time, and how long ago it was."""
    return f"{time(seconds)} ({duration(now - seconds)} ago)"


def severities(counts: Sequence[int]) -> str:
    """Give numbers of vulnerabilities, the worst first: "1 critical, 2 high"."""
    return ", ".join(f"{count:,} {severity}" for severity, count in zip(Severity, counts, strict=True) if count)


def ports(found: PortSet) -> str:
    """Give ports as they are spelled everywhere, the first of very many."""
    words = found.spellings()
    if len(words) <= MAX_RANGES:
        return ", ".join(words) or "none"
    return f"{', '.join(words[:MAX_RANGES])} and more, in all {len(found):,} ports"


def holders(listeners: Iterable[ListeningSocket]) -> Holders:
    """Give who listens, each process and user once."""
    return tuple(dict.fromkeys((item.process, item.user) for item in listeners))


def programs(found: Holders) -> str:
    """Name who listens: "nginx (user root)"."""
    named = ", ".join(_program(process, user) for process, user in found[:MAX_HOLDERS])
    return f"{named} and {len(found) - MAX_HOLDERS:,} more" if len(found) > MAX_HOLDERS else named


def _program(process: str | None, user: str | None) -> str:
    owner = f"user {user}" if user else ""
    if process:
        return f"{process} ({owner})" if owner else process
    return f"a process of {owner}" if owner else "a process that is not told"


def acceptance(exception: PortException | VulnerabilityException | None) -> str:
    """Say until when something is accepted, why and by whom."""
    if exception is None:
        return "accepted"
    owner = f"owner: {exception.owner}" if exception.owner else ""
    return "; ".join(
        filter(None, (f"until {last_day(exception.until) or time(exception.until)}", exception.reason, owner))
    )


def some(lines: Iterable[str]) -> Iterator[str]:
    """Give the first lines, and how many more there are."""
    rest = iter(lines)
    yield from islice(rest, MAX_LINES)
    if more := sum(1 for _ in rest):
        yield f"and {counted(more, 'more line')}"
