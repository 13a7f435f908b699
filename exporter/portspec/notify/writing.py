"""The mails of some notices, as far as they can be written: a notice that cannot be holds no other up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from portspec import log
from portspec.notify.encoding import decode_notification
from portspec.notify.letter import MAX_SINGLE, digest, letter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from portspec.notify.content import Links
    from portspec.notify.notice import Notice
    from portspec.store.outbox import QueuedNotification

Numbered: TypeAlias = "tuple[int, Notice]"

_log = log.get("notify")


@dataclass(frozen=True, slots=True)
class Written:
    """Mails, each with its recipient; how many notices were left out, counted for each recipient."""

    mails: Sequence[tuple[str, bytes]] = ()
    lost: int = 0


def write_mails(
    rows: Iterable[QueuedNotification], recipients: Sequence[str], sender: str, now: float, links: Links
) -> Written:
    """Write the mails that tell some notices: one for each, or one for all when they are of many hosts."""
    found: list[Numbered] = []
    lost = 0
    for row in rows:
        try:
            found.append((row.number, decode_notification(row.document)))
        except Exception as error:  # noqa: BLE001 - one notice must not keep the others from being sent
            lost += len(recipients)
            _log.error("a notice cannot be read and is left out", host=row.host, why=_why(error))
    is_storm = len({notice.host for _, notice in found}) > MAX_SINGLE
    mails: list[tuple[str, bytes]] = []
    for recipient in recipients:
        one = partial(letter, sender=sender, recipient=recipient, now=now, links=links)
        many = partial(digest, sender=sender, recipient=recipient, now=now, links=links)
        written, left_out = _storm(found, one, many) if is_storm else _singles(found, one)
        mails += ((recipient, message) for message in written)
        lost += len(left_out)
        for (_, notice), fault in left_out:
            _log.error(
                "a mail cannot be written and is given up", host=notice.host, recipient=recipient, why=_why(fault)
            )
    return Written(mails, lost)


def _singles(
    found: Iterable[Numbered], write: Callable[[Notice, int], bytes]
) -> tuple[list[bytes], list[tuple[Numbered, Exception]]]:
    """Write a mail for each notice; give them, and the notices for which there can be none, each with why."""
    mails, left_out = [], []
    for number, notice in found:
        try:
            mails.append(write(notice, number))
        except Exception as error:  # noqa: BLE001 - as above
            left_out.append(((number, notice), error))
    return mails, left_out


def _storm(
    found: Sequence[Numbered],
    one: Callable[[Notice, int], bytes],
    many: Callable[[Sequence[Notice], int], bytes],
) -> tuple[list[bytes], list[tuple[Numbered, Exception]]]:
    """Write one mail for all notices but those of which there can be none; if that cannot be, one for each."""

    def write(notices: Sequence[Numbered]) -> bytes:
        return many([notice for _, notice in notices], notices[0][0])

    try:
        return [write(found)], []
    except Exception:  # noqa: BLE001 - as above
        _, left_out = _singles(found, lambda notice, number: many([notice], number))
    spoilt = {number for (number, _), _ in left_out}
    try:
        return [write([item for item in found if item[0] not in spoilt])], left_out
    except Exception:  # noqa: BLE001 - as above
        return _singles(found, one)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
