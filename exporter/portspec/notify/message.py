"""Mails as RFC 5322 messages: headers, text and HTML, Message-IDs and threads, and the mails of queued notifications.

Pure, but for the log: a notification that cannot be rendered is logged and left out, so that the others are sent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from portspec import log
from portspec.errors import printable
from portspec.notify.content import NO_LINKS, Content, Tone, html_page, plain_text
from portspec.notify.digest import digest_content
from portspec.notify.encoding import decode_notification
from portspec.notify.host_mail import host_content
from portspec.notify.wording import SUBJECT_PREFIX, format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from portspec.notify.content import Links
    from portspec.notify.notification import Notification
    from portspec.store.outbox import QueuedNotification

MAX_HOST_MAILS: Final = 10  # hosts of one round that get a mail each; more hosts share one digest
# RFC 5322, 2.1.1. A shorter limit would fold headers, and folded headers are not always decoded to what was encoded.
_POLICY = SMTP.clone(max_line_length=998)
_LONG_LINE: Final = 900  # characters of a line of the body; RFC 5322, 2.1.1, allows 998

Numbered: TypeAlias = "tuple[int, Notification]"

_log = log.get("notify")


@dataclass(frozen=True, slots=True)
class RenderedMails:
    """Mails, each with its recipient, and the number of mails that could not be rendered."""

    mails: Sequence[tuple[str, bytes]] = ()
    failed: int = 0


def render_mail(
    notification: Notification, number: int, *, sender: str, recipient: str, now: float, links: Links = NO_LINKS
) -> bytes:
    """Return the mail to one address about one host.

    Args:
        notification: What the mail says.
        number: A number that identifies the notification: a notification always has the same Message-ID for the same
            recipient.
        sender: The address in From.
        recipient: The address in To.
        now: The time in Date, in Unix seconds.
        links: The URLs that the mail links to.
    """
    message_id = _message_id((notification,), number, sender, recipient)
    alert = f"PortSpec Alert [{printable(notification.host)}]"
    content = host_content(notification, links, now)
    message = _alternatives(content, alert, message_id, sender=sender, recipient=recipient, now=now)
    _put_in_thread(message, f"<host.{_hash(notification.host)}@{_domain(sender)}>")
    return message.as_bytes()


def render_digest(
    notifications: Sequence[Notification],
    number: int,
    *,
    sender: str,
    recipient: str,
    now: float,
    links: Links = NO_LINKS,
) -> bytes:
    """Return the mail to one address about many hosts; see render_mail(). All digests are one thread."""
    hosts = len({notification.host for notification in notifications})
    message_id = _message_id(notifications, number, sender, recipient)
    alert = f"PortSpec Alert [{hosts} hosts]"
    content = digest_content(notifications, links, now)
    message = _alternatives(content, alert, message_id, sender=sender, recipient=recipient, now=now)
    _put_in_thread(message, f"<hosts.{_hash('')}@{_domain(sender)}>")
    return message.as_bytes()


def render_test_mail(*, sender: str, recipient: str, now: float) -> bytes:
    """Return the mail of `portspec mail-test`."""
    content = Content(
        subject=f"{SUBJECT_PREFIX} test mail",
        tone=Tone.GOOD,
        headline="This is a test of the mailer of portspec.",
        paragraphs=("The alerts that are sent to this address look like this one.",),
        facts=(("Sent", format_time(now)),),
    )
    message_id = f"<test.{_hash(f'{now!r} {recipient}')}@{_domain(sender)}>"
    return _alternatives(
        content, "PortSpec Alert [test]", message_id, sender=sender, recipient=recipient, now=now
    ).as_bytes()


def render_report_mail(
    outcome: str, body: str, page: bytes | None, *, sender: str, recipient: str, now: float
) -> bytes:
    """Return the daily mail with the report of all machines, and the HTML `page` attached, if any."""
    message = _message(f"{SUBJECT_PREFIX} report: {outcome}", body, sender=sender, recipient=recipient, now=now)
    message["X-PortSpec-Alert"] = f"PortSpec Report [{outcome}]"
    message["Message-ID"] = f"<report.{_hash(f'{now!r} {recipient}')}@{_domain(sender)}>"
    if page is not None:
        message.add_attachment(page, maintype="text", subtype="html", filename="portspec.html")
    return message.as_bytes()


def render_worklist_mail(outcome: str, body: str, table: bytes, *, sender: str, recipient: str, now: float) -> bytes:
    """Return the weekly mail with what the hosts of a recipient need, and the same as a `table` (CSV) attached."""
    message = _message(f"{SUBJECT_PREFIX} worklist: {outcome}", body, sender=sender, recipient=recipient, now=now)
    message["X-PortSpec-Alert"] = f"PortSpec Worklist [{outcome}]"
    message["Message-ID"] = f"<worklist.{_hash(f'{now!r} {recipient}')}@{_domain(sender)}>"
    message.add_attachment(table, maintype="text", subtype="csv", filename="portspec-worklist.csv")
    return message.as_bytes()


def render_store_failure_mail(why: str, *, sender: str, recipient: str, now: float, links: Links = NO_LINKS) -> bytes:
    """Return the mail which says that mails about hosts wait because writing the state file fails."""
    content = Content(
        subject=f"{SUBJECT_PREFIX} mails about hosts wait: the state file cannot be written",
        tone=Tone.BAD,
        headline="portspec scans, but cannot write what it finds to its state file.",
        paragraphs=(printable(why), "Mails about hosts wait until it can."),
        advice=("Free space on the disk, or allow portspec to write the file; portspec retries automatically.",),
        links=tuple(links.runbooks(["PortspecStoreFailing"])),
        facts=(("As of", format_time(now)),),
    )
    message_id = f"<store.{_hash(f'{now!r} {recipient}')}@{_domain(sender)}>"
    return _alternatives(
        content, "PortSpec Alert [portspec]", message_id, sender=sender, recipient=recipient, now=now
    ).as_bytes()


def render_queued(
    rows: Iterable[QueuedNotification], recipients: Sequence[str], sender: str, now: float, links: Links
) -> RenderedMails:
    """Return the mails of queued notifications: one mail for each, or a digest for more than `MAX_HOST_MAILS` hosts."""
    found: list[Numbered] = []
    failed = 0
    for row in rows:
        try:
            found.append((row.number, decode_notification(row.document)))
        except Exception as error:  # noqa: BLE001 - one notification must not keep the others from being sent
            failed += len(recipients)
            _log.error("failed to decode a notification, discarding it", host=row.host, why=_why(error))
    is_digest = len({notification.host for _, notification in found}) > MAX_HOST_MAILS
    mails: list[tuple[str, bytes]] = []
    for recipient in recipients:
        one = partial(render_mail, sender=sender, recipient=recipient, now=now, links=links)
        many = partial(render_digest, sender=sender, recipient=recipient, now=now, links=links)
        rendered, faults = _render_digest(found, one, many) if is_digest else _render_each(found, one)
        mails += ((recipient, message) for message in rendered)
        failed += len(faults)
        for (_, notification), fault in faults:
            _log.error(
                "failed to render a mail, discarding it",
                host=notification.host,
                recipient=recipient,
                why=_why(fault),
            )
    return RenderedMails(mails, failed)


def _render_each(
    found: Iterable[Numbered], render: Callable[[Notification, int], bytes]
) -> tuple[list[bytes], list[tuple[Numbered, Exception]]]:
    """Return a mail for each notification, and the notifications that cannot be rendered, each with its error."""
    mails, faults = [], []
    for number, notification in found:
        try:
            mails.append(render(notification, number))
        except Exception as error:  # noqa: BLE001 - as above
            faults.append(((number, notification), error))
    return mails, faults


def _render_digest(
    found: Sequence[Numbered],
    one: Callable[[Notification, int], bytes],
    many: Callable[[Sequence[Notification], int], bytes],
) -> tuple[list[bytes], list[tuple[Numbered, Exception]]]:
    """Return a digest of all notifications but those that cannot be rendered; if that fails, a mail for each."""

    def render(notifications: Sequence[Numbered]) -> bytes:
        return many([notification for _, notification in notifications], notifications[0][0])

    try:
        return [render(found)], []
    except Exception:  # noqa: BLE001 - as above
        _, faults = _render_each(found, lambda notification, number: many([notification], number))
    faulty = {number for (number, _), _ in faults}
    try:
        return [render([item for item in found if item[0] not in faulty])], faults
    except Exception:  # noqa: BLE001 - as above
        return _render_each(found, one)


def _alternatives(
    content: Content, alert: str, message_id: str, *, sender: str, recipient: str, now: float
) -> EmailMessage:
    """Return a mail as text and as HTML. `alert` is the subject that PortSpec had, which filters look for."""
    message = _message(content.subject, plain_text(content), sender=sender, recipient=recipient, now=now)
    html = html_page(content)
    message["X-PortSpec-Alert"] = _without_encoded_words(alert)
    message["Message-ID"] = message_id
    message.add_alternative(html, subtype="html", cte=_transfer_encoding(html))
    message.set_boundary(f"=-{_hash(message_id)}")  # not random: the same mail has the same bytes
    return message


def _message(subject: str, body: str, *, sender: str, recipient: str, now: float) -> EmailMessage:
    message = EmailMessage(policy=_POLICY)
    message["From"] = Address("PortSpec", addr_spec=sender)
    message["To"] = Address(addr_spec=recipient)
    message["Subject"] = _without_encoded_words(subject)
    message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834, 5: prevents vacation messages
    message.set_content(body, cte=_transfer_encoding(body))
    return message


def _without_encoded_words(header: str) -> str:
    """Break up what clients would decode as an encoded word (RFC 2047, 2)."""
    return header.replace("=?", "= ?")


def _put_in_thread(message: EmailMessage, thread: str) -> None:
    message["In-Reply-To"] = thread  # no mail has this Message-ID; clients group the mails that refer to the same one
    message["References"] = thread


def _transfer_encoding(body: str) -> str:
    is_plain = body.isascii() and all(len(line) <= _LONG_LINE for line in body.splitlines())
    return "7bit" if is_plain else "quoted-printable"


def _message_id(notifications: Iterable[Notification], number: int, sender: str, recipient: str) -> str:
    key = " ".join(f"{item.host} {item.event} {item.at!r}" for item in notifications)
    return f"<{number}.{_hash(f'{key} {recipient}')}@{_domain(sender)}>"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _domain(sender: str) -> str:
    return sender.rpartition("@")[2]


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
