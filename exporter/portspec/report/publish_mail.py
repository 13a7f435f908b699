"""Mail the report of all machines once a day (`reportmail` in conf.yml)."""

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
from portspec.report.formats import write_report
from portspec.report.text import mail_report
from portspec.store import StoreError, read_value, write_value
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import time as TimeOfDay  # noqa: N812 - beside the module of that name

    from portspec.config import MailConfig
    from portspec.notify import DeliveryError
    from portspec.report.model import ReportSettings
    from portspec.state.snapshot import Snapshot
    from portspec.store import Store

POLL_INTERVAL: Final = 20.0  # seconds between looks at the clock, which may be set at any time
RETRY_INTERVAL: Final = 600.0  # seconds
MAX_DELAY: Final = 6 * 3600.0  # seconds after which a report is no longer retried
MAX_ATTACHMENT: Final = 5 << 20  # bytes before base64; many servers limit mails to 10 MB
_STORE_KEY: Final = "report_mail"

_log = log.get("report")


@dataclass(frozen=True, slots=True)
class _Delivery:
    """The local day of the last report, and the recipients that have not received it yet."""

    day: str
    pending: tuple[str, ...]


@dataclass(slots=True)
class MailedReports:
    """What the process knows of mailed reports; outlives a reload of the configuration.

    Attributes:
        last: the last delivery, if it is known.
        is_stored: False if the state file does not have `last` yet.
        lock: held by the ReportMail that runs.
    """

    last: _Delivery | None = None
    is_stored: bool = True
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class ReportMail:
    """Mails the report once a day to each recipient, `at` a local time of day.

    A failed mail is retried for MAX_DELAY, also after a restart. A report that was due while the exporter was stopped
    is sent within that time, too.
    """

    def __init__(
        self,
        at: TimeOfDay,
        mail: MailConfig,
        settings: ReportSettings,
        snapshot: Callable[[], Snapshot],
        store: Store,
        mailed: MailedReports | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Args: `mailed` is shared by all that run one after another; `wall_clock` returns Unix seconds."""
        self.at = at
        self.mail = mail
        self.settings = settings
        self._snapshot = snapshot
        self._store = store
        self._wall_clock = wall_clock
        self._mailed = mailed or MailedReports()
        self._tried_at = -math.inf

    async def run(self) -> None:
        """Send the report when it is due, until cancelled; starts when the previous ReportMail has ended."""
        async with self._mailed.lock:
            while True:
                try:
                    await self.send_if_due()
                except (StoreError, NoThreadError):
                    pass  # already logged; without the store it is unknown what was sent
                except Exception:  # noqa: BLE001 - tomorrow's report may succeed
                    _log.exception("mailing the report failed")
                await asyncio.sleep(POLL_INTERVAL)

    async def send_if_due(self) -> None:
        """Send the report to those that it is due for.

        Raises:
            StoreError: the state file cannot be read or written; nothing was sent then.
        """
        now = self._wall_clock()
        day, due = self._last_due(now)
        last = await self._last_delivery()
        if last is None:  # just configured: start with the next report, not with the one of this morning
            await self._store_delivery(_Delivery(day, ()))
            return
        is_begun = last.day == day
        pending = tuple(item for item in self.mail.recipients if not is_begun or item in last.pending)
        if not pending:
            return
        if now >= due + MAX_DELAY:
            if is_begun:
                _log.error("gave up mailing today's report to some recipients", recipients=pending)
                await self._store_delivery(_Delivery(day, ()))
        elif abs(now - self._tried_at) >= RETRY_INTERVAL:  # abs(): the clock may have been set back
            self._tried_at = now
            await self._store_delivery(_Delivery(day, pending))
            await self._send(day, pending, now)

    def _last_due(self, now: float) -> tuple[str, float]:
        """Return the local day whose report was due last, and the Unix time when it was due.

        A time of day that the change to summer time skips is one hour later; of one that occurs twice the first counts.
        """
        day = datetime.fromtimestamp(now).astimezone().date()
        while (due := datetime.combine(day, self.at).timestamp()) > now:
            day -= timedelta(days=1)
        return day.isoformat(), due

    async def _last_delivery(self) -> _Delivery | None:
        """Return the last delivery, and store it if that failed before. Raises StoreError."""
        mailed = self._mailed
        if mailed.last is None:
            text = await in_daemon_thread(lambda: self._store.transact(lambda file: read_value(file, _STORE_KEY)))
            mailed.last = None if text is None else _parse_delivery(text)
        elif not mailed.is_stored:
            await self._store_delivery(mailed.last)
        return mailed.last

    async def _store_delivery(self, delivery: _Delivery) -> None:
        """Remember a delivery in memory, whatever happens, and in the state file. Raises StoreError."""
        self._mailed.last, self._mailed.is_stored = delivery, False
        text = json.dumps({"day": delivery.day, "left": delivery.pending})
        await in_daemon_thread(lambda: self._store.transact(lambda file: write_value(file, _STORE_KEY, text)))
        self._mailed.is_stored = True

    async def _send(self, day: str, recipients: Sequence[str], now: float) -> None:
        """Send to some recipients, and remember each one whose mail the server accepted."""
        pending = list(recipients)
        letters = await in_daemon_thread(lambda: self._letters(recipients, now))

        async def on_outcome(recipient: str, _: str, error: DeliveryError | None) -> None:
            if error is None:
                _log.info("report mailed", recipient=recipient)
                pending.remove(recipient)
                with contextlib.suppress(StoreError):  # stored again before the next mail is sent
                    await self._store_delivery(_Delivery(day, tuple(pending)))
            else:
                _log.warning("mailing the report failed; retrying", recipient=recipient, why=str(error))

        await send_mails(self.mail, letters, on_outcome)

    def _letters(self, recipients: Sequence[str], now: float) -> dict[str, bytes]:
        """Return the mail to each recipient."""
        snapshot = self._snapshot()
        outcome, body = mail_report(snapshot, self.settings, now)
        page = _render_page(snapshot, self.settings, now)
        if page is None:
            body += "\nThe full report is too large for a mail: use reportfile or `portspec report`.\n"
        return {
            recipient: render_report_mail(outcome, body, page, sender=self.mail.sender, recipient=recipient, now=now)
            for recipient in recipients
        }


def _parse_delivery(text: str) -> _Delivery | None:
    """Parse a stored delivery; return None if it is invalid."""
    try:
        plain = json.loads(text)
        return _Delivery(str(plain["day"]), tuple(map(str, plain["left"])))
    except (ValueError, LookupError, TypeError):
        return None


def _render_page(snapshot: Snapshot, settings: ReportSettings, now: float) -> bytes | None:
    """Return the HTML page, or None if it is too large for a mail."""
    page = bytearray()
    for piece in write_report(snapshot, settings, now, "html"):
        page += piece.encode(errors="replace")
        if len(page) > MAX_ATTACHMENT:
            return None
    return bytes(page)
