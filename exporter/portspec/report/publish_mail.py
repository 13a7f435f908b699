"""What is mailed at set times: the report of all machines each day, the worklists of owners each week."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from portspec.notify import render_report_mail, render_worklist_mail
from portspec.report.formats import write_report
from portspec.report.table import write_table
from portspec.report.text import mail_report, mail_worklists
from portspec.report.worklist import COLUMNS, WorkItem, owners, worklist

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import time

    from portspec.config import MailConfig, WeeklyTime
    from portspec.report.model import ReportSettings
    from portspec.state.snapshot import Snapshot

MAX_ATTACHMENT: Final = 5 << 20  # bytes before base64; many servers limit mails to 10 MB


@dataclass(frozen=True, slots=True)
class DailyReport:
    """The report of all machines, `at` a local time of day (`reportmail` in conf.yml)."""

    at: time
    mail: MailConfig
    settings: ReportSettings
    name: str = "report"
    key: str = "report_mail"

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
    """

    at: WeeklyTime
    mail: MailConfig
    addresses: Mapping[str, tuple[str, ...]]
    name: str = "worklist"
    key: str = "worklist_mail"

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
        by_owner: dict[str, list[WorkItem]] = {item.owner: [] for item in owners(snapshot)}
        for item in worklist(snapshot, now):
            by_owner[item.owner].append(item)
        found = {}
        for recipient in recipients:
            own = {
                owner: items
                for owner, items in by_owner.items()
                if recipient in self.addresses.get(owner, ())
                or (not self.addresses.get(owner) and recipient in self.mail.recipients and items)
            }
            if own:
                outcome, body = mail_worklists(own, now)
                table = write_table(COLUMNS, [item.document(now) for items in own.values() for item in items])
                found[recipient] = render_worklist_mail(
                    outcome, body, table, sender=self.mail.sender, recipient=recipient, now=now
                )
        return found


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
