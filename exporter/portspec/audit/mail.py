"""A mail that carries an audit → the audit, and where the mail came from. Pure, and in time linear in the mail.

The email package reads the structure of a mail (RFC 2045 to 2049). What it does in more than linear time is bounded: it
recurses into each part (so their number is), holds each line to the boundaries of all parts that are open (so the
number of lines is, and the length of those that may be boundaries), splits parameters in quadratic time and makes a
regular expression of a boundary (so the length of MIME headers is).
"""

from __future__ import annotations

import binascii
import itertools
import re
from dataclasses import dataclass
from email.errors import CloseBoundaryNotFoundDefect, HeaderParseError
from email.feedparser import BytesFeedParser
from email.header import decode_header, make_header
from email.message import Message
from email.parser import HeaderParser
from email.policy import Compat32
from typing import TYPE_CHECKING, Final

from portspec.audit.admission import MAX_PACKED, RejectedError
from portspec.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from email.policy import Policy

CONTENT_TYPE: Final = "application/vnd.portspec.audit"  # both as agent.py has them
FILE_NAME: Final = "portspec-audit.bin"
# Before 0.2; the envelope in it is refused with a word on what to do.
_OLD_CONTENT_TYPE: Final = "application/vnd.portspec.report"
_OLD_FILE_NAME: Final = "portspec-report.bin"
# Base64 makes 4 bytes of 3, and of 64 of these 66 where lines are as short as PEM's (RFC 7468) and end with CR LF; the
# rest is for headers, and for what lists, scanners and people who forward add.
MAX_MAIL: Final = MAX_PACKED * 4 // 3 * 66 // 64 + 1024 * 1024  # bytes

_MAX_ENTITIES: Final = 50  # an audit that is forwarded three times, with footers, has about 15
_MAX_LINES: Final = 500_000  # the largest audit has 373,000 of 60 columns
_MAX_MIME_HEADER: Final = 2000  # characters of a header Content-…; lines have up to 998 (RFC 5322, 2.1.1)
_MAX_HEADER: Final = 100 * 1024  # characters of any other; Postfix keeps as many (header_size_limit)
_MAX_HEAD: Final = 128 * 1024  # bytes of the mail's begin in which a mail_origin is looked for
_LONGEST: Final = 300  # characters of each text of a mail_origin
_CHUNK: Final = 256 * 1024  # bytes
_MOST_NAMED: Final = 5  # parts
_LONGEST_NAMED: Final = 80  # characters
_AS_IS: Final = frozenset({"", "7bit", "8bit", "binary"})
_BLANKS: Final = b" \t\r\n"
_NO_BASE64 = re.compile(rb"[^A-Za-z0-9+/= \t\r\n]")
_ID = re.compile(r"\sid\s+<?([A-Za-z0-9._-]{1,64})>?(?:[\s;]|\Z)")
_LONG_BOUNDARY = re.compile(rb"[\r\n]--[^\r\n]{1000}")
# What the email package raises on MIME that is broken in ways that it does not expect, such as a charset with a NUL.
_ITS_ERRORS: Final = (ValueError, LookupError, TypeError, AttributeError, AssertionError)


@dataclass(frozen=True, slots=True)
class MailOrigin:
    """Where a mail came from, for the log; each is "" if unknown, else one printable line of at most 300 characters.

    `sender` is the envelope sender if it is known, `queue_id` the queue ID of the local MTA, which its log shows, and
    `relay` the client that passed the mail to the MTA. The sender of the mail may have forged all of these except what
    the MTA itself adds: the queue ID and the address of the relay.
    """

    sender: str
    message_id: str
    queue_id: str
    relay: str


def read_mail(raw: bytes) -> bytes:
    """Return the packed audit that a mail carries, as its attachment or as all of it, forwarded or not.

    A part is taken for the audit by its type or by its file name. Raises RejectedError, reason "malformed" or
    "too_large", for all else.
    """
    if len(raw) > MAX_MAIL:
        raise RejectedError("too_large", f"the mail has more than {MAX_MAIL:,} bytes")
    lines = raw.count(b"\n") + raw.count(b"\r") - raw.count(b"\r\n")
    if lines > _MAX_LINES:
        raise RejectedError("malformed", f"the mail has more than {_MAX_LINES:,} lines")
    if _LONG_BOUNDARY.search(raw):
        raise RejectedError("malformed", "the mail has a boundary of more than 1,000 characters")
    try:
        return _audit_of(list(_leaves(_parse(_without_prologue(raw)))))
    except _ITS_ERRORS as error:
        raise RejectedError(
            "malformed", f"the MIME structure of the mail is invalid: {printable(str(error))[:_LONGEST]}"
        ) from None


def mail_origin(raw: bytes, environment: Mapping[str, str]) -> MailOrigin:
    """Return where a mail came from, by the environment in which the MTA runs a command, else by the mail's headers.

    Postfix gives SENDER, CLIENT_HOSTNAME, CLIENT_ADDRESS and CLIENT_PROTOCOL (local(8); by pipe(8) nothing), exim
    SENDER and, as MESSAGE_ID, its own name for the mail (specification, 29.4), OpenSMTPD SENDER. Of several headers
    Received the first counts, which our own MTA wrote, with its own name for the mail (RFC 5321, 4.4: id). Never
    raises, whatever the mail is.
    """
    text = _without_prologue(raw[:_MAX_HEAD]).decode("utf-8", "backslashreplace")
    head = HeaderParser().parsestr(text)
    received = head["Received"] or ""  # with a date at its end
    return MailOrigin(
        sender=_first(environment.get("SENDER"), _return_path(head), _mbox_sender(head), head["From"]),
        message_id=_first(head["Message-ID"]),
        queue_id=_first(environment.get("MESSAGE_ID"), _queue_id(received)),
        relay=_first(_client(environment), received.rpartition(";")[0], received),
    )


class _Policy(Compat32):
    """The plainest way of reading headers, but for long ones."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name = sourcelines[0].partition(":")[0].lower()
        limit = _MAX_MIME_HEADER if name.startswith("content-") else _MAX_HEADER
        if sum(map(len, sourcelines)) > limit:
            shown = printable(name[:_LONGEST_NAMED])
            raise RejectedError("malformed", f'a header "{shown}" of the mail has more than {limit:,} characters')
        return super().header_source_parse(sourcelines)


def _parse(raw: bytes) -> Message:
    numbers = itertools.count(1)

    def new_entity(policy: Policy) -> Message:
        if next(numbers) > _MAX_ENTITIES:
            raise RejectedError("malformed", f"the mail has more than {_MAX_ENTITIES} parts")
        return Message(policy)

    parser = BytesFeedParser(policy=_Policy(message_factory=new_entity))
    for start in range(0, len(raw), _CHUNK):  # BytesParser would translate line ends, also of binary attachments
        parser.feed(raw[start : start + _CHUNK])
    return parser.close()


def _leaves(entity: Message, *, is_open: bool = False) -> Iterator[tuple[Message, bool]]:
    """Return the parts that are no multipart, and whether each is followed by nothing, where a boundary should be."""
    if not entity.is_multipart():
        yield entity, is_open
        return
    parts = [part for part in entity.get_payload() if isinstance(part, Message)]
    is_unclosed = any(isinstance(defect, CloseBoundaryNotFoundDefect) for defect in entity.defects)
    for part in parts:
        is_last = part is parts[-1]
        # A message within a message ends where the outer one does.
        is_part_open = is_open if entity.get_content_maintype() == "message" else is_unclosed and is_last
        yield from _leaves(part, is_open=is_part_open)


def _audit_of(leaves: list[tuple[Message, bool]]) -> bytes:
    audits = [(leaf, is_open) for leaf, is_open in leaves if _is_audit(leaf)]
    if not audits:
        types = list(dict.fromkeys(_named(leaf) for leaf, _ in leaves))
        found = ", ".join([*types[:_MOST_NAMED], "…"] if len(types) > _MOST_NAMED else types)
        raise RejectedError(
            "malformed", f"no audit is attached, expected a part {CONTENT_TYPE} or a file {FILE_NAME}, found {found}"
        )
    if any(is_open for _, is_open in audits):
        raise RejectedError("malformed", "the mail is truncated: the boundary after the audit is missing")
    contents = {_content(leaf) for leaf, _ in audits}  # twice the same is one, as lists and scanners make it
    if len(contents) > 1:
        raise RejectedError("malformed", f"{len(contents)} different audits are attached, expected one")
    return contents.pop()


def _is_audit(leaf: Message) -> bool:
    return leaf.get_content_type() in (CONTENT_TYPE, _OLD_CONTENT_TYPE) or _file_name(leaf).strip().lower() in (
        FILE_NAME,
        _OLD_FILE_NAME,
    )


def _file_name(leaf: Message) -> str:
    """Return the name of an attachment; some programs encode it as the words of RFC 2047, which section 5 forbids."""
    name = str(leaf.get_filename(""))[:_LONGEST]
    try:
        return str(make_header(decode_header(name)))
    except (ValueError, LookupError, HeaderParseError):
        return name


def _named(leaf: Message) -> str:
    kind = printable(leaf.get_content_type()[:_LONGEST_NAMED])
    return f"{kind} without parts" if leaf.get_content_maintype() == "multipart" else kind


def _content(leaf: Message) -> bytes:
    """Decode a part, strictly: the email package makes something of any base64."""
    header = str(leaf.get("Content-Transfer-Encoding", ""))
    encoding = header.partition(";")[0].partition("(")[0].strip().lower()
    del leaf["Content-Transfer-Encoding"]  # so that the bytes are given as they stand there
    data = bytes(leaf.get_payload(decode=True) or b"")
    if encoding == "base64":
        return _from_base64(data)
    if encoding == "quoted-printable":
        data = binascii.a2b_qp(data)
    elif encoding not in _AS_IS:
        found = printable(encoding[:_LONGEST_NAMED])
        raise RejectedError("malformed", f'the audit is encoded as "{found}", expected base64')
    return _without_text_mode(data)


def _from_base64(text: bytes) -> bytes:
    if strange := _NO_BASE64.search(text):
        start = strange.start()
        number = text.count(b"\n", 0, start) + 1
        found = printable(text[start : start + 20].splitlines()[0].decode("latin-1"))
        raise RejectedError("malformed", f'line {number} of the attachment has "{found}", which is not base64')
    try:
        return binascii.a2b_base64(text.translate(None, _BLANKS), strict_mode=True)
    except binascii.Error as error:
        raise RejectedError(
            "malformed", f"the base64 of the attachment is invalid or truncated: {str(error).lower()}"
        ) from None


def _without_text_mode(data: bytes) -> bytes:
    """Undo what is done to text on its way: each LF made CR LF, and one put at the end.

    The first line of an audit ends with a digit and LF, and its last byte is none of the two: it is the highest of the
    payload's length (RFC 1952, 2.3.1), which is at most 4. So no other audit comes of it.
    """
    data = data.rstrip(b"\r\n")
    is_translated = data.partition(b"\n")[0].endswith(b"\r")
    return data.replace(b"\r\n", b"\n") if is_translated else data


def _without_prologue(raw: bytes) -> bytes:
    """Drop what stands before the headers: empty lines, and the quoting of an mbox's "From " line."""
    raw = raw.lstrip(b"\r\n")
    return raw[1:] if raw.startswith(b">From ") else raw


def _return_path(head: Message) -> str:
    return (head["Return-Path"] or "")[: 2 * _LONGEST].strip("<> \t\r\n")


def _mbox_sender(head: Message) -> str:
    """Return the sender of an mbox's line, as in `From root@db1.example.org Sun Nov 22 03:17:09 2026`."""
    words = (head.get_unixfrom() or "")[: 2 * _LONGEST].split(maxsplit=2)
    return words[1] if len(words) > 1 else ""


def _client(environment: Mapping[str, str]) -> str:
    """Return who brought the mail, as Postfix writes it in its log: name[address], and the protocol."""
    name, address = environment.get("CLIENT_HOSTNAME", ""), environment.get("CLIENT_ADDRESS", "")
    if not (name or address):
        return ""
    return f"{name}[{address}] {environment.get('CLIENT_PROTOCOL', '')}"


def _queue_id(received: str) -> str:
    """Return the MTA's own name for the mail, as in `by mail.example.org (Postfix) with ESMTP id 4Y1k2b`."""
    found = _ID.search(received[: 4 * _LONGEST])
    return found[1] if found else ""


def _first(*texts: str | None) -> str:
    """Return the first of some texts that says something, as one line of bounded length."""
    for text in texts:
        if words := " ".join((text or "")[: 4 * _LONGEST].split()):
            return printable(words[:_LONGEST])[:_LONGEST]
    return ""
