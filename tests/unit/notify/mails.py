"""Notifications, and the mails that are rendered of them, as the program of a recipient reads them."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from portspec.notify.content import NO_LINKS, Links
from portspec.notify.message import (
    render_digest,
    render_mail,
)
from portspec.notify.notification import (
    DeviationEnd,
    DeviationLine,
    Event,
    Notification,
)
from tests.unit.factories import ADDRESS, NOW

if TYPE_CHECKING:
    from collections.abc import Sequence

SENDER, RECIPIENT = "portspec@example.org", "security@example.org"
NOW_TEXT = "2023-11-14 22:13:20 UTC (23:13:20 CET)"
DAY = 86_400.0
HEADERS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Auto-Submitted",
    "Content-Type",
    "MIME-Version",
    "Message-ID",
    "X-PortSpec-Alert",
}
IN_THREAD = HEADERS | {"In-Reply-To", "References"}


def make_notification(
    host: str = "web1", event: Event = Event.OUT_OF_SPEC, *, at: float = NOW, **parts: Any
) -> Notification:
    """Return a notification."""
    return Notification(host, event, at, **{"expected": "22", "open": "80", **parts})


def line(
    ports: str, kind: str = "unexpected", *, state: str = "open", since: float = NOW, severity: str = ""
) -> DeviationLine:
    """Return the line of a deviation."""
    return DeviationLine(ADDRESS, kind, state, ports, since, severity=severity)


def resolved(of: DeviationLine, *, seen: float | None, end: DeviationEnd) -> DeviationLine:
    """Return the line of a deviation that has ended."""
    return DeviationLine(of.address, of.kind, "", of.ports, of.since, seen=seen, end=end)


SILENT = (line("22, 80", "missing", state="filtered"), line("443", "missing", state="filtered"))


def parsed(raw: bytes) -> EmailMessage:
    """Parse a mail, and check that it is valid and that its text and HTML have the same words."""
    assert raw.isascii()
    assert not raw.replace(b"\r\n", b"").count(b"\n")
    assert not raw.replace(b"\r\n", b"").count(b"\r")
    assert raw.endswith(b"\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 998  # RFC 5322, 2.1.1
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    assert not [header.defects for header in message.values() if header.defects]
    assert len(message.keys()) == len(set(message.keys()))
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert words(page(message)) == words(re.sub(r"(?m)^- ", "", body(message)))
    return message


def mail(
    notification: Notification,
    number: int = 1,
    *,
    recipient: str = RECIPIENT,
    now: float = NOW,
    links: Links = NO_LINKS,
) -> EmailMessage:
    """Render a mail about one host, and parse it."""
    return parsed(render_mail(notification, number, sender=SENDER, recipient=recipient, now=now, links=links))


def digest_of(notifications: Sequence[Notification], number: int = 1, *, links: Links = NO_LINKS) -> EmailMessage:
    """Render a digest, and parse it."""
    return parsed(render_digest(notifications, number, sender=SENDER, recipient=RECIPIENT, now=NOW, links=links))


def subject(notification: Notification, *, now: float = NOW) -> str:
    """Return the subject of a mail about one host without the prefix."""
    return str(mail(notification, now=now)["Subject"]).removeprefix("[portspec] ")


def part(message: EmailMessage, kind: str) -> str:
    """Return a part of a mail."""
    found = message.get_body((kind,))
    assert found
    text = found.get_content()
    assert isinstance(text, str)
    return text.replace("\r\n", "\n")


def body(message: EmailMessage) -> str:
    """Return the text of a mail."""
    return part(message, "plain")


class Page(HTMLParser):
    """The text of an HTML page that has only the tags and attributes that the mailer writes."""

    TAGS = frozenset(["html", "head", "meta", "body", "p", "h2", "ul", "li", "div", "strong", "a"])
    ATTRIBUTES = frozenset({"lang", "charset", "name", "content", "style", "href"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Check that a tag is one that the mailer writes, and a link one that it was given."""
        assert tag in self.TAGS
        assert {name for name, _ in attrs} <= self.ATTRIBUTES
        style = dict(attrs).get("style") or ""
        assert "url(" not in style
        if href := dict(attrs).get("href"):
            assert href.startswith(("https://github.com/portspec/", "https://portspec.example.org/"))
        self.text += "" if tag in {"a", "strong"} else "\n"

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text += data

    def handle_comment(self, data: str) -> None:
        """Fail: the mailer writes no comments."""
        raise AssertionError(data)


def page(message: EmailMessage) -> str:
    """Return what the HTML of a mail shows."""
    return Page(part(message, "html")).text


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()
