"""What is mailed at set times: the report of all machines each day, the worklists of owners each week."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from portspec.notify import render_report_mail, render_worklist_mail
from portspec.report.formats import write_report
from portspec.report.table import write_table
from portspec.report.text import MAX_ROWS_IN_MAIL, mail_report, mail_worklists
from portspec.report.worklist import COLUMNS, Worklist, owners, worklists

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import time

    from portspec.config import MailConfig, WeeklyTime
    from portspec.report.model import ReportSettings
    from portspec.state.snapshot import Snapshot

_OTHERS: Final = "Hosts without an owner, and of owners without an address"
MAX_ATTACHMENT: Final = 5 << 20  # bytes before base64; many servers limit mails to 10 MB


@dataclass(frozen=True, slots=True)
class DailyReport:
    """The report of all machines, `at` a local time of day (`reportmail` in conf.yml)."""

    at: time
    mail: MailConfig
    settings: ReportSettings
    name: str = "report"
    key: str = "report_mail"
    settle: float = 0.0

    @property
    def recipients(self) -> tuple[str, ...]:
        """All to whom mails go."""
        return self.mail.recipients

    def last_due(self, now: float) -> tuple[str, float]:
        """Return the local day whose report was due last, and the Unix time when it was due."""
        return _last_due(now, self.at)

    def mails(self, recipients: Sequence[str], snapshot: Snapshot, now: float) -> dict[str, bytes]:
        """Return the mail to each recipient."""
        outcome, body = mail_report(snapshot, self.settings, now)
        page = _render_page(snapshot, self.settings, now)
        if page is None:
            body += "\nThe full report is too large for a mail: use reportfile or `portspec report`.\n"
        return {
            recipient: render_report_mail(outcome, body, page, sender=self.mail.sender, recipient=recipient, now=now)
            for recipient in recipients
        }


@dataclass(frozen=True, slots=True)
class WeeklyWorklists:
    """What each owner of hosts has to do, once a week (`worklistmail` in conf.yml).

    Attributes:
        addresses: Those of owners. What is of nobody, or of an owner without an address, goes to all who get mails.
        max_age: Seconds after which an audit is late.
    """

    at: WeeklyTime
    mail: MailConfig
    addresses: Mapping[str, tuple[str, ...]]
    max_age: float = math.inf
    name: str = "worklist"
    key: str = "worklist_mail"
    settle: float = 600.0  # in which the sources of discovery answer, and hosts are scanned

    @property
    def recipients(self) -> tuple[str, ...]:
        """All to whom mails go."""
        every = (*(item for addresses in self.addresses.values() for item in addresses), *self.mail.recipients)
        return tuple(dict.fromkeys(every))

    def last_due(self, now: float) -> tuple[str, float]:
        """Return the local day whose worklists were due last, and the Unix time when they were due."""
        return _last_due(now, self.at.at, self.at.weekday)

    def mails(self, recipients: Sequence[str], snapshot: Snapshot, now: float) -> dict[str, bytes]:
        """Return the mail to each recipient; who has nothing to do and is nobody's address gets none."""
        known = {item.owner for item in owners(snapshot, now)}
        found = worklists(
            snapshot,
            now,
            lambda owner: owner if self.addresses.get(owner) else _OTHERS,
            limit=MAX_ROWS_IN_MAIL,
            max_age=self.max_age,
        )
        mails = {}
        for recipient in recipients:
            own = {
                owner: found.get(owner, Worklist()) if owner in known else None
                for owner, addresses in self.addresses.items()
                if recipient in addresses
            }
            if recipient in self.mail.recipients and _OTHERS in found:
                own[_OTHERS] = found[_OTHERS]
            if own:
                mails[recipient] = self._mail(recipient, own, now)
        return mails

    def _mail(self, recipient: str, own: Mapping[str, Worklist | None], now: float) -> bytes:
        outcome, body = mail_worklists(own, now)
        items = chain.from_iterable(items.items for items in own.values() if items)
        table = write_table(COLUMNS, [item.document(now) for item in islice(items, MAX_ROWS_IN_MAIL)])
        return render_worklist_mail(outcome, body, table, sender=self.mail.sender, recipient=recipient, now=now)


def _last_due(now: float, at: time, weekday: int | None = None) -> tuple[str, float]:
    """Return the last local day on which something was due, on any or one day of the week, and the Unix time.

    A time of day that the change to summer time skips is one hour later; of one that occurs twice the first counts.
    """
    day = datetime.fromtimestamp(now).astimezone().date()
    while weekday not in (None, day.weekday()) or datetime.combine(day, at).timestamp() > now:
        day -= timedelta(days=1)
    return day.isoformat(), datetime.combine(day, at).timestamp()


def _render_page(snapshot: Snapshot, settings: ReportSettings, now: float) -> bytes | None:
    """Return the HTML page, or None if it is too large for a mail."""
    page = bytearray()
    for piece in write_report(snapshot, settings, now, "html"):
        page += piece.encode(errors="replace")
        if len(page) > MAX_ATTACHMENT:
            return None
    return bytes(page)
