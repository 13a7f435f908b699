"""The report of all machines as a mail a day."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.errors import NoThreadError
from portspec.notify import render_report_mail, send_mails
from portspec.report import mail_report, write_report
from portspec.store import StoreError, read_value, write_value
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import time as TimeOfDay  # noqa: N812 - beside the module of that name

    from portspec.config import MailConfig
    from portspec.notify import DeliveryError
    from portspec.report import ReportSettings
    from portspec.state.snapshot import Snapshot
    from portspec.store import Store

LOOK: Final = 20.0  # seconds between two looks at the clock, which may be set at any time
AGAIN: Final = 600.0  # seconds between two attempts
LATE: Final = 6 * 3600.0  # seconds after which a report that could not be sent is given up
MAX_PAGE: Final = 5 << 20  # bytes of the page that is attached: many servers take no more than 10 MB, in base64
_KEY: Final = "report_mail"

_log = log.get("report")


@dataclass(frozen=True, slots=True)
class _Noted:
    """The day of the last report, and who is to get it still."""

    day: str
    left: tuple[str, ...]


@dataclass(slots=True)
class ReportMemory:
    """What a process knows of reports that were mailed, whatever its settings.

    What is `noted` is in the file, too, if it `is_kept`. Whoever mails reports has the `turn`.
    """

    noted: _Noted | None = None
    is_kept: bool = True
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class ReportMail:
    """Mails the report each day `at` a time of the machine's local day, to each recipient once.

    A mail that cannot be sent is tried again for LATE, also after a restart. What is due while nothing runs is sent
    within that time, too. `memory` is that of the ones before, with other settings. `wall_clock` gives Unix seconds.
    """

    def __init__(
        self,
        at: TimeOfDay,
        mail: MailConfig,
        settings: ReportSettings,
        snapshot: Callable[[], Snapshot],
        store: Store,
        memory: ReportMemory | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.at = at
        self.mail = mail
        self.settings = settings
        self._snapshot = snapshot
        self._store = store
        self._wall_clock = wall_clock
        self._memory = memory or ReportMemory()
        self._tried_at = -math.inf

    async def run(self) -> None:
        """Send the report when it is time, until cancelled; it begins when the one before has ended."""
        async with self._memory.turn:
            while True:
                try:
                    await self.look()
                except (StoreError, NoThreadError):
                    pass  # of which the log tells; without the store nobody knows what was sent already
                except Exception:  # noqa: BLE001 - tomorrow's may do better
                    _log.exception("the report cannot be mailed")
                await asyncio.sleep(LOOK)

    async def look(self) -> None:
        """Send what is due now. Raises StoreError."""
        now = self._wall_clock()
        day, due = self._last_due(now)
        noted = await self._known()
        if noted is None:  # it begins with the next one, not with that of this morning
            await self._note(_Noted(day, ()))
            return
        is_begun = noted.day == day
        left = tuple(item for item in self.mail.recipients if not is_begun or item in noted.left)
        if not left:
            return
        if now >= due + LATE:
            if is_begun:
                _log.error("the report was not mailed to everybody today", recipients=left)
                await self._note(_Noted(day, ()))
        elif abs(now - self._tried_at) >= AGAIN:  # the clock may have been set back
            self._tried_at = now
            await self._note(_Noted(day, left))
            await self._send(day, left, now)

    def _last_due(self, now: float) -> tuple[str, float]:
        """Give the local day of which a report was due last, and when that was, in Unix seconds.

        A time of day that a day does not have is an hour later, of one that comes twice it is the first.
        """
        day = datetime.fromtimestamp(now).astimezone().date()
        while (due := datetime.combine(day, self.at).timestamp()) > now:
            day -= timedelta(days=1)
        return day.isoformat(), due

    async def _known(self) -> _Noted | None:
        """Give what was noted, and see that the file has it. Raises StoreError."""
        memory = self._memory
        if memory.noted is None:
            text = await in_daemon_thread(lambda: self._store.transact(lambda file: read_value(file, _KEY)))
            memory.noted = None if text is None else _noted(text)
        elif not memory.is_kept:
            await self._note(memory.noted)
        return memory.noted

    async def _note(self, noted: _Noted) -> None:
        """Note something, here in any case, and in the file. Raises StoreError."""
        self._memory.noted, self._memory.is_kept = noted, False
        text = json.dumps({"day": noted.day, "left": noted.left})
        await in_daemon_thread(lambda: self._store.transact(lambda file: write_value(file, _KEY, text)))
        self._memory.is_kept = True

    async def _send(self, day: str, recipients: Sequence[str], now: float) -> None:
        """Send to some recipients, and note each whose mail was taken."""
        left = list(recipients)
        letters = await in_daemon_thread(lambda: self._letters(recipients, now))

        async def note(recipient: str, _: str, error: DeliveryError | None) -> None:
            if error is None:
                _log.info("the report is mailed", recipient=recipient)
                left.remove(recipient)
                with contextlib.suppress(StoreError):  # the next look tries again, and sends nothing before
                    await self._note(_Noted(day, tuple(left)))
            else:
                _log.warning("the report cannot be mailed now", recipient=recipient, why=str(error))

        await send_mails(self.mail, letters, note)

    def _letters(self, recipients: Sequence[str], now: float) -> dict[str, bytes]:
        """Write the mail to each recipient."""
        snapshot = self._snapshot()
        outcome, body = mail_report(snapshot, self.settings, now)
        page = _page(snapshot, self.settings, now)
        if page is None:
            body += "\nThe whole report is too large for a mail: see reportfile, or `portspec report`.\n"
        return {
            recipient: render_report_mail(outcome, body, page, sender=self.mail.sender, recipient=recipient, now=now)
            for recipient in recipients
        }


def _noted(text: str) -> _Noted | None:
    """Read what was noted; None, as if nothing were, of what makes no sense."""
    try:
        plain = json.loads(text)
        return _Noted(str(plain["day"]), tuple(map(str, plain["left"])))
    except (ValueError, LookupError, TypeError):
        return None


def _page(snapshot: Snapshot, settings: ReportSettings, now: float) -> bytes | None:
    """Give the HTML page, or None if it is too large for a mail."""
    page = bytearray()
    for piece in write_report(snapshot, settings, now, "html"):
        page += piece.encode(errors="replace")
        if len(page) > MAX_PAGE:
            return None
    return bytes(page)
