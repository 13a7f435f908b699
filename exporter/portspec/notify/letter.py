"""Notices as mails: PortSpec's sender and subject, what is wrong and since when, a host's mails in one thread. Pure."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import cache
from typing import TYPE_CHECKING, Final

from portspec.errors import printable
from portspec.notify.story import News
from portspec.services import name_of
from portspec.verdict import Kind, last_day

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portspec.notify.story import Line, Notice

MAX_SINGLE: Final = 10  # hosts of one round that get a mail each; more are one digest
MAX_LINES: Final = 200  # of ports in a mail, and hosts in a digest: a mail is to be read
_MAX_PORTS = 300  # characters
_POLICY = SMTP.clone(
    max_line_length=998
)  # RFC 5322, 2.1.1; what is folded earlier does not always come out as it went in

_HEADLINES: Final = {
    News.OUT_OF_SPEC: "{host} is out of specification.",
    News.DIFFERENT: "{host} is still out of specification, in another way than before.",
    News.IN_SPEC: "{host} is in specification again.",
    News.UNKNOWN: "{host} could not be scanned twice in a row: nobody knows whether it is in specification.",
    News.REMINDER: "{host}: a reminder, nothing has changed since the last mail.",
    News.EXPIRING: "{host}: an exception is about to end; its deviations count from then on.",
}
_SHORT: Final = {
    News.OUT_OF_SPEC: "out of specification",
    News.DIFFERENT: "out of specification in another way",
    News.IN_SPEC: "in specification again",
    News.UNKNOWN: "unknown",
    News.REMINDER: "reminder",
    News.EXPIRING: "an exception ends soon",
}


def letter(notice: Notice, number: int, *, sender: str, recipient: str, now: float) -> bytes:
    """Write the mail to one address about one host, ready to be sent, at a Unix time.

    `number` tells notices apart: the same notice always has the same Message-ID for the same recipient.
    """
    message = _message(
        f"PortSpec Alert [{_plain(notice.host)}]", "\n".join(_body(notice)), sender=sender, recipient=recipient, now=now
    )
    thread = f"<host.{_digest(notice.host)}@{_domain(sender)}>"
    message["Message-ID"] = _message_id((notice,), number, sender, recipient)
    message["In-Reply-To"] = thread  # which is no mail of its own: clients put what refers to the same one together
    message["References"] = thread
    return message.as_bytes()


def digest(notices: Sequence[Notice], number: int, *, sender: str, recipient: str, now: float) -> bytes:
    """Write the mail to one address about many hosts; see letter()."""
    hosts = len({notice.host for notice in notices})
    message = _message(
        f"PortSpec Alert [{hosts} hosts]", "\n".join(_digest_body(notices)), sender=sender, recipient=recipient, now=now
    )
    message["Message-ID"] = _message_id(notices, number, sender, recipient)
    return message.as_bytes()


def trial_letter(*, sender: str, recipient: str, now: float) -> bytes:
    """Write the mail of `portspec mail-test`."""
    body = f"This is a test of portspec's mailer, sent {spell_time(now)}.\nYou get this address's alerts.\n"
    message = _message("PortSpec Alert [test]", body, sender=sender, recipient=recipient, now=now)
    message["Message-ID"] = f"<test.{_digest(f'{now!r} {recipient}')}@{_domain(sender)}>"
    return message.as_bytes()


def report_letter(subject: str, body: str, page: bytes | None, *, sender: str, recipient: str, now: float) -> bytes:
    """Write the daily mail of the report of all machines, with the HTML `page` attached if there is one."""
    message = _message(subject, body, sender=sender, recipient=recipient, now=now)
    message["Message-ID"] = f"<report.{_digest(f'{now!r} {recipient}')}@{_domain(sender)}>"
    if page is not None:
        message.add_attachment(page, maintype="text", subtype="html", filename="portspec.html")
    return message.as_bytes()


def trouble_letter(why: str, *, sender: str, recipient: str, now: float) -> bytes:
    """Write the mail which tells that mails about hosts wait because the state file cannot be written."""
    body = f"""\
portspec scans, but what it finds cannot be written to its state file, and mails about hosts wait until it can:

{_plain(why)}

{spell_time(now)}
"""
    message = _message("PortSpec Alert [portspec]", body, sender=sender, recipient=recipient, now=now)
    message["Message-ID"] = f"<store.{_digest(f'{now!r} {recipient}')}@{_domain(sender)}>"
    return message.as_bytes()


def spell_time(seconds: float) -> str:
    """Spell Unix seconds in UTC and, where that is another, in local time: "2026-11-22 05:21:45 UTC (06:21:45 CET)"."""
    utc = datetime.fromtimestamp(seconds, UTC)
    local = utc.astimezone()
    if not local.utcoffset():
        return f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    day = "" if local.date() == utc.date() else f"{local:%Y-%m-%d} "
    return f"{utc:%Y-%m-%d %H:%M:%S} UTC ({day}{local:%H:%M:%S} {local.tzname()})"


def _message(subject: str, body: str, *, sender: str, recipient: str, now: float) -> EmailMessage:
    message = EmailMessage(policy=_POLICY)
    message["From"] = Address("PortSpec", addr_spec=sender)
    message["To"] = Address(addr_spec=recipient)
    message["Subject"] = subject.replace("=?", "= ?")  # or it would be taken for an encoded word (RFC 2047, 2)
    message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834, 5: no vacation message shall answer
    message.set_content(body, cte="quoted-printable" if not body.isascii() or _has_long_line(body) else "7bit")
    return message


def _has_long_line(body: str) -> bool:
    return any(len(line) > 900 for line in body.splitlines())  # noqa: PLR2004 - RFC 5322, 2.1.1: 998


def _message_id(notices: Iterable[Notice], number: int, sender: str, recipient: str) -> str:
    told = " ".join(f"{notice.host} {notice.news} {notice.at!r}" for notice in notices)
    return f"<{number}.{_digest(f'{told} {recipient}')}@{_domain(sender)}>"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _domain(sender: str) -> str:
    return sender.rpartition("@")[2]


def _body(notice: Notice) -> Iterator[str]:
    yield _HEADLINES[notice.news].format(host=_plain(notice.host))
    yield ""
    if notice.reason:
        yield f"What could not be seen, and why: {_plain(notice.reason)}"
        yield ""
    if notice.is_unknown:
        yield "It is unknown whether that is so now; when it was last seen:" if notice.lines else "It is unknown now."
        yield ""
    budget = MAX_LINES
    for title, lines in (
        ("Unexpected", [line for line in notice.lines if line.kind == Kind.UNEXPECTED]),
        ("Missing", [line for line in notice.lines if line.kind == Kind.MISSING]),
        ("No longer so", notice.over),
    ):
        if lines:
            yield f"{title}:"
            yield from (f"  {_line(line)}" for line in lines[:budget])
            if len(lines) > budget:
                yield f"  … and {len(lines) - budget} more lines"
            budget = max(0, budget - len(lines))
            yield ""
    for item in notice.expiring:
        yield _expiry(*item)
    if notice.expiring:
        yield ""
    yield f"Desired ports: {_shortened(notice.expected)}"
    yield f"Open ports:    {_shortened(notice.open)}{' (when it was last seen)' if notice.is_unknown else ''}"
    if notice.since is not None:
        yield f"Since:         {spell_time(notice.since)}"
    yield f"Scanned:       {spell_time(notice.at)}"
    yield ""


def _digest_body(notices: Sequence[Notice]) -> Iterator[str]:
    counts = {news: sum(notice.news is news for notice in notices) for news in News}
    yield f"There is news of {len({notice.host for notice in notices})} hosts at once."
    yield ""
    for news, count in counts.items():
        if count:
            yield f"{_SHORT[news]}: {count}"
    yield ""
    for notice in notices[:MAX_LINES]:
        parts = [f"{line.kind} {_shortened(line.ports)} ({line.state}) on {line.address}" for line in notice.lines[:3]]
        more = [f"{len(notice.lines) - 3} more"] if len(notice.lines) > 3 else []  # noqa: PLR2004 - as above
        parts += [_expiry(*item) for item in notice.expiring[:3]]
        about = "; ".join([*filter(None, [_plain(notice.reason)]), *parts, *more])
        yield f"{_plain(notice.host)}: {_SHORT[notice.news]}{f': {about}' if about else ''}"
    if len(notices) > MAX_LINES:
        yield f"… and {len(notices) - MAX_LINES} more"
    yield ""
    yield f"Scanned until: {spell_time(max(notice.at for notice in notices))}"
    yield ""


def _expiry(ports: str, until: float, reason: str, owner: str) -> str:
    about = ", ".join(filter(None, (_plain(reason), _plain(owner) and f"owner: {_plain(owner)}")))
    return f"Until {last_day(until) or spell_time(until)}: ports {_shortened(ports)}{f' ({about})' if about else ''}"


def _line(line: Line) -> str:
    state = f"  {line.state}" if line.state else ""
    return f"{line.address}  {_named(line.ports)}{state}  since {spell_time(line.since)}"


def _named(ports: str) -> str:
    """Name the service of each port that is known: "22 (ssh), 8000-8100"."""
    words = ports.split(", ")
    if len(words) > 20:  # noqa: PLR2004 - a line that is read
        return _shortened(ports)
    return ", ".join(f"{word} ({name})" if (name := _service(word)) else word for word in words)


@cache
def _service(port: str) -> str | None:
    return name_of(int(port)) if port.isascii() and port.isdigit() else None


def _shortened(ports: str) -> str:
    if len(ports) <= _MAX_PORTS:
        return ports
    return f"{ports[:_MAX_PORTS].rpartition(',')[0]}, …"


def _plain(text: str) -> str:
    """Escape what could begin a new line or header: names come from sources of discovery, too."""
    return printable(text)
