"""Mail something at set times: once to each recipient, also after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from portspec import log
from portspec.errors import NoThreadError
from portspec.notify import send_mails
from portspec.store import StoreError, read_value, write_value
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portspec.config import MailConfig
    from portspec.notify import DeliveryError
    from portspec.state.snapshot import Snapshot
    from portspec.store import Store

POLL_INTERVAL: Final = 20.0  # seconds between looks at the clock, which may be set at any time
RETRY_INTERVAL: Final = 600.0  # seconds
MAX_DELAY: Final = 6 * 3600.0  # seconds after which a report is no longer retried

_log = log.get("report")


class Edition(Protocol):
    """What is mailed at set times."""

    @property
    def name(self) -> str:
        """What the log calls it."""
        ...

    @property
    def key(self) -> str:
        """Where the state file keeps what was sent."""
        ...

    @property
    def recipients(self) -> tuple[str, ...]:
        """Whom it is mailed to."""
        ...

    @property
    def settle(self) -> float:
        """For how many seconds after the start an edition waits that was due before it."""
        ...

    def last_due(self, now: float) -> tuple[str, float]:
        """Return the local day of the edition that was due last at a Unix time, and the Unix time when it was."""
        ...

    def mails(self, recipients: Sequence[str], snapshot: Snapshot, now: float) -> dict[str, bytes]:
        """Return the mail of each recipient at a Unix time; it runs in a thread. Who is left out gets none."""
        ...


@dataclass(frozen=True, slots=True)
class _Delivery:
    """The local day of the last edition, and the recipients that have not received it yet."""

    day: str
    pending: tuple[str, ...]


@dataclass(slots=True)
class MailedEditions:
    """What the process knows of mailed editions; outlives a reload of the configuration.

    Attributes:
        last: the last delivery, if it is known.
        is_stored: False if the state file does not have `last` yet.
        lock: held by the ScheduledMail that runs.
    """

    last: _Delivery | None = None
    is_stored: bool = True
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class ScheduledMail:
    """Mails each edition once to each recipient.

    A failed mail is retried for MAX_DELAY, also after a restart. An edition that was due while the exporter was stopped
    is sent within that time, too.
    """

    def __init__(
        self,
        edition: Edition,
        mail: MailConfig,
        snapshot: Callable[[], Snapshot],
        store: Store,
        mailed: MailedEditions | None = None,
        wall_clock: Callable[[], float] = time.time,
        poll: float = POLL_INTERVAL,
    ) -> None:
        """Args: `mailed` is shared by all that run one after another; `wall_clock` returns Unix seconds."""
        self.edition = edition
        self.mail = mail
        self._snapshot = snapshot
        self._store = store
        self._wall_clock = wall_clock
        self._mailed = mailed or MailedEditions()
        self._poll = poll
        self._tried_at = -math.inf
        self._begun_at = wall_clock()

    async def run(self) -> None:
        """Send the edition when it is due, until cancelled; starts when the previous ScheduledMail has ended."""
        async with self._mailed.lock:
            while True:
                try:
                    await self.send_if_due()
                except (StoreError, NoThreadError):
                    pass  # already logged; without the store it is unknown what was sent
                except Exception:  # noqa: BLE001 - the next edition may succeed
                    _log.exception(f"mailing the {self.edition.name} failed")
                await asyncio.sleep(self._poll)

    async def send_if_due(self) -> None:
        """Send the edition to those that it is due for.

        Raises:
            StoreError: the state file cannot be read or written; nothing was sent then.
        """
        now = self._wall_clock()
        day, due = self.edition.last_due(now)
        last = await self._last_delivery()
        if last is None:  # just configured: start with the next edition, not with the one of this morning
            await self._store_delivery(_Delivery(day, ()))
            return
        is_begun = last.day == day
        pending = tuple(item for item in self.edition.recipients if not is_begun or item in last.pending)
        is_settling = abs(now - self._begun_at) < self.edition.settle
        if not pending or is_settling:
            return
        if now >= due + MAX_DELAY:
            if is_begun:
                _log.error(f"gave up mailing the {self.edition.name} to some recipients", recipients=pending)
                await self._store_delivery(_Delivery(day, ()))
        elif abs(now - self._tried_at) >= RETRY_INTERVAL:  # abs(): the clock may have been set back
            self._tried_at = now
            await self._store_delivery(_Delivery(day, pending))
            await self._send(day, pending, now)

    async def _last_delivery(self) -> _Delivery | None:
        """Return the last delivery, and store it if that failed before. Raises StoreError."""
        mailed = self._mailed
        if mailed.last is None:
            text = await in_daemon_thread(lambda: self._store.transact(lambda file: read_value(file, self.edition.key)))
            mailed.last = None if text is None else _parse_delivery(text)
        elif not mailed.is_stored:
            await self._store_delivery(mailed.last)
        return mailed.last

    async def _store_delivery(self, delivery: _Delivery) -> None:
        """Remember a delivery in memory, whatever happens, and in the state file. Raises StoreError."""
        self._mailed.last, self._mailed.is_stored = delivery, False
        text = json.dumps({"day": delivery.day, "left": delivery.pending})
        await in_daemon_thread(lambda: self._store.transact(lambda file: write_value(file, self.edition.key, text)))
        self._mailed.is_stored = True

    async def _send(self, day: str, recipients: Sequence[str], now: float) -> None:
        """Send to some recipients, and remember each one whose mail the server accepted."""
        pending = list(recipients)
        snapshot = self._snapshot()
        mails = await in_daemon_thread(lambda: self.edition.mails(recipients, snapshot, now))

        async def on_outcome(recipient: str, _: str, error: DeliveryError | None) -> None:
            if error is None:
                _log.info(f"{self.edition.name} mailed", recipient=recipient)
                pending.remove(recipient)
                with contextlib.suppress(StoreError):  # stored again before the next mail is sent
                    await self._store_delivery(_Delivery(day, tuple(pending)))
            else:
                _log.warning(f"mailing the {self.edition.name} failed; retrying", recipient=recipient, why=str(error))

        if left_out := [recipient for recipient in recipients if recipient not in mails]:
            pending[:] = [recipient for recipient in pending if recipient not in left_out]
            await self._store_delivery(_Delivery(day, tuple(pending)))
        if mails:
            await send_mails(self.mail, mails, on_outcome)


def _parse_delivery(text: str) -> _Delivery | None:
    """Parse a stored delivery; return None if it is invalid."""
    try:
        plain = json.loads(text)
        return _Delivery(str(plain["day"]), tuple(map(str, plain["left"])))
    except (ValueError, LookupError, TypeError):
        return None
