"""How the exporter itself does, in a line for the page of all hosts and in the tables of /status. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.metrics import ServiceStatus
    from portspec.notify import MailStatus
    from portspec.store import StoreStatus


@dataclass(frozen=True, slots=True)
class Fact:
    """What is said of one part: its name, a few words, and whether somebody has to look at it."""

    name: str
    text: str
    is_bad: bool = False


def health(status: ServiceStatus) -> tuple[Fact, ...]:
    """Return a fact about each part of the exporter that is in use."""
    return tuple(_facts(status))


def _facts(status: ServiceStatus) -> Iterator[Fact]:
    yield Fact("engine", status.engine)
    if status.shard.count > 1:
        yield Fact("shard", f"{status.shard.index} of {status.shard.count}")
    is_good = status.config_is_good
    yield Fact("configuration", "loaded" if is_good else "last reload failed", is_bad=not is_good)
    yield _state_file(status.store)
    if status.sources:
        failing = [source.name for source in status.sources if source.failure]
        text = f"{', '.join(failing)} failing" if failing else f"{len(status.sources)} working"
        yield Fact("discovery", text, is_bad=bool(failing))
    if status.mail:
        yield _mail(status.mail)
    if status.reportfile:
        is_up = status.reportfile.is_up
        yield Fact("report file", "written" if is_up else "cannot be written", is_bad=not is_up)
    if status.canary_seen is not None:
        yield Fact("canaries", "seen" if status.canary_seen else "not seen", is_bad=not status.canary_seen)
    if status.failing:
        yield Fact("failing", ", ".join(sorted(status.failing)), is_bad=True)


def _state_file(store: StoreStatus) -> Fact:
    if store.is_held:
        return Fact("state file", "held by another exporter", is_bad=True)
    if not store.is_up:
        return Fact("state file", f"cannot be written, {store.pending:,} waiting", is_bad=True)
    return Fact("state file", "written")


def _mail(mail: MailStatus) -> Fact:
    if not mail.waiting:
        return Fact("mail", "none waiting")
    return Fact("mail", f"{mail.waiting:,} waiting", is_bad=any(mail.failed.values()))
