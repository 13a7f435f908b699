"""Notices as mails: sender, subject, text and HTML, a host's mails in one thread. Pure."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

from portspec.errors import printable
from portspec.notify.content import NO_LINKS, Content, Tone, plain
from portspec.notify.page import page as page_of
from portspec.notify.single import single
from portspec.notify.storm import storm
from portspec.notify.subject import PREFIX
from portspec.notify.wording import spell_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.notify.content import Links
    from portspec.notify.notice import Notice

MAX_SINGLE: Final = 10  # hosts of one round that get a mail each; more are one digest
_POLICY = SMTP.clone(
    max_line_length=998
)  # RFC 5322, 2.1.1; what is folded earlier does not always come out as it went in
_LONG_LINE: Final = 900  # characters; RFC 5322, 2.1.1: 998


def letter(notice: Notice, number: int, *, sender: str, recipient: str, now: float, links: Links = NO_LINKS) -> bytes:
    """Write the mail to one address about one host, ready to be sent, at a Unix time.

    `number` tells notices apart: the same notice always has the same Message-ID for the same recipient.
    """
    identity = _message_id((notice,), number, sender, recipient)
    alert = f"PortSpec Alert [{printable(notice.host)}]"
    message = _mail(single(notice, links, now), alert, identity, sender=sender, recipient=recipient, now=now)
    _put_in_thread(message, f"<host.{_digest(notice.host)}@{_domain(sender)}>")
    return message.as_bytes()


def digest(
    notices: Sequence[Notice], number: int, *, sender: str, recipient: str, now: float, links: Links = NO_LINKS
) -> bytes:
    """Write the mail to one address about many hosts; see letter(). All of these are one thread."""
    hosts = len({notice.host for notice in notices})
    identity = _message_id(notices, number, sender, recipient)
    alert = f"PortSpec Alert [{hosts} hosts]"
    message = _mail(storm(notices, links, now), alert, identity, sender=sender, recipient=recipient, now=now)
    _put_in_thread(message, f"<hosts.{_digest('')}@{_domain(sender)}>")
    return message.as_bytes()


def render_test_mail(*, sender: str, recipient: str, now: float) -> bytes:
    """Write the mail of `portspec mail-test`."""
    content = Content(
        subject=f"{PREFIX} test mail",
        tone=Tone.GOOD,
        headline="This is a test of the mailer of portspec.",
        paragraphs=("The alerts that are sent to this address look like this one.",),
        facts=(("Sent", spell_time(now)),),
    )
    identity = f"<test.{_digest(f'{now!r} {recipient}')}@{_domain(sender)}>"
    return _mail(content, "PortSpec Alert [test]", identity, sender=sender, recipient=recipient, now=now).as_bytes()


def render_report_mail(
    outcome: str, body: str, page: bytes | None, *, sender: str, recipient: str, now: float
) -> bytes:
    """Write the daily mail of the report of all machines, with the HTML `page` attached if there is one."""
    message = _message(f"{PREFIX} report: {outcome}", body, sender=sender, recipient=recipient, now=now)
    message["X-PortSpec-Alert"] = f"PortSpec Report [{outcome}]"
    message["Message-ID"] = f"<report.{_digest(f'{now!r} {recipient}')}@{_domain(sender)}>"
    if page is not None:
        message.add_attachment(page, maintype="text", subtype="html", filename="portspec.html")
    return message.as_bytes()


def render_store_failure_mail(why: str, *, sender: str, recipient: str, now: float, links: Links = NO_LINKS) -> bytes:
    """Write the mail which tells that mails about hosts wait because the state file cannot be written."""
    content = Content(
        subject=f"{PREFIX} mails about hosts wait: the state file cannot be written",
        tone=Tone.BAD,
        headline="portspec scans, but cannot write what it finds to its state file.",
        paragraphs=(printable(why), "Mails about hosts wait until it can."),
        advice=("Make room on the disk, or give portspec the right to write the file; it tries again by itself.",),
        links=tuple(links.runbooks(["PortspecStoreFailing"])),
        facts=(("As of", spell_time(now)),),
    )
    identity = f"<store.{_digest(f'{now!r} {recipient}')}@{_domain(sender)}>"
    return _mail(content, "PortSpec Alert [portspec]", identity, sender=sender, recipient=recipient, now=now).as_bytes()


def _mail(content: Content, alert: str, identity: str, *, sender: str, recipient: str, now: float) -> EmailMessage:
    """Write a mail as text and as HTML. `alert` is what PortSpec had as its subject: filters look for it."""
    message = _message(content.subject, plain(content), sender=sender, recipient=recipient, now=now)
    html = page_of(content)
    message["X-PortSpec-Alert"] = _undecodable(alert)
    message["Message-ID"] = identity
    message.add_alternative(html, subtype="html", cte=_encoding(html))
    message.set_boundary(f"=-{_digest(identity)}")  # the same mail is the same bytes
    return message


def _message(subject: str, body: str, *, sender: str, recipient: str, now: float) -> EmailMessage:
    message = EmailMessage(policy=_POLICY)
    message["From"] = Address("PortSpec", addr_spec=sender)
    message["To"] = Address(addr_spec=recipient)
    message["Subject"] = _undecodable(subject)
    message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834, 5: no vacation message shall answer
    message.set_content(body, cte=_encoding(body))
    return message


def _undecodable(header: str) -> str:
    """Spoil what would be taken for an encoded word (RFC 2047, 2)."""
    return header.replace("=?", "= ?")


def _put_in_thread(message: EmailMessage, thread: str) -> None:
    message["In-Reply-To"] = thread  # which is no mail of its own: clients put what refers to the same one together
    message["References"] = thread


def _encoding(body: str) -> str:
    is_plain = body.isascii() and all(len(line) <= _LONG_LINE for line in body.splitlines())
    return "7bit" if is_plain else "quoted-printable"


def _message_id(notices: Iterable[Notice], number: int, sender: str, recipient: str) -> str:
    told = " ".join(f"{notice.host} {notice.news} {notice.at!r}" for notice in notices)
    return f"<{number}.{_digest(f'{told} {recipient}')}@{_domain(sender)}>"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _domain(sender: str) -> str:
    return sender.rpartition("@")[2]
