"""What audited hosts send, or who claims to be one: envelopes, payloads, and mails that carry them."""

from __future__ import annotations

import base64
import email
import email.policy
import gzip
import json
from dataclasses import astuple, fields, replace
from typing import TYPE_CHECKING, Final, TypeVar

from portspec.agent import Parcel, make_mail
from portspec.audit import document
from portspec.audit.admission import MAX_PACKED_HEAD, REASONS, RejectedError, admit, sender_of
from portspec.audit.envelope import EnvelopeError, peek, unpack
from portspec.audit.mail import mail_origin, read_mail
from portspec.audit.payload import MAX_HEAD, AuditPayload, host_of, read_payload
from portspec.audit.state import AuditState, HostAudit
from portspec.audit.tools import parse
from portspec.names import canonical_one
from portspec.state.budget import MAX_LABEL, listeners_of, vulnerabilities_of
from tests.fuzz.harness import LARGE, Harness, Limit, assert_line
from tests.unit.audit.test_admission import HOST, NOW, PLAIN, RULES, SYSTEM, packed, payload
from tests.unit.audit.test_mail import HEAD, HTML, NAMED, TEXT, forwarded, multipart, part, wrapped
from tests.unit.audit.tools.samples import load
from tests.unit.audit.tools.test_properties import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_MAX_PAYLOAD: Final = 5000  # bytes that an envelope may unpack to here
_MAX_MESSAGE: Final = 1000  # characters of a refusal

BODY: Final = payload()
REPORT: Final = packed(BODY)
OTHER_BODY: Final = payload(host="db1.example.org", day="2026-11-21", time="2026-11-21T03:17:09Z")
OTHER: Final = packed(OTHER_BODY, "db1.example.org")
SIGNED: Final = (None, BODY, OTHER_BODY)


def unless_refused(read: Callable[[], T]) -> T | None:
    """Return what is read; None if it is refused, for one of the reasons and in one line."""
    try:
        return read()
    except (EnvelopeError, RejectedError) as error:
        refused = error
    assert refused.reason in REASONS
    assert_line(str(refused), _MAX_MESSAGE)
    return None


def accepted(data: bytes) -> bytes | None:
    """Return the payload of an audit that is accepted; None for one that is refused."""
    return unless_refused(lambda: admit(data, RULES, NOW)[1])


def open_envelope(data: bytes) -> None:
    """Open an envelope; what is accepted is what a host signed, and no more than the limit is ever unpacked."""
    found = unless_refused(lambda: unpack(data, _MAX_PAYLOAD))
    assert found is None or len(found[0]) <= _MAX_PAYLOAD
    head = unless_refused(lambda: peek(data[:MAX_PACKED_HEAD], MAX_HEAD))
    assert head is None or len(head) <= MAX_HEAD
    assert unless_refused(lambda: sender_of(data, RULES)) in {None, *RULES.roster}
    assert accepted(data) in SIGNED


def read_signed(body: bytes) -> None:
    """Read a payload that its host signed: it is malformed, or an audit that all pages and metrics can show."""
    named = unless_refused(lambda: host_of(body))
    assert named is None or named == canonical_one(named)
    audit = unless_refused(lambda: read_payload(body))
    if audit is None:
        return
    assert audit.host == named == canonical_one(json.loads(body)["host"])
    check_report(audit)
    if audit.host == HOST:
        assert accepted(packed(body)) in {None, body}
    assert accepted(REPORT[: REPORT.index(b"\n") + 1] + gzip.compress(body, 1)) in SIGNED


def texts_of(audit: AuditPayload) -> list[str]:
    """Return the texts of an audit that are shown as they are: all but what the tool printed."""
    values = [getattr(audit, field.name) for field in fields(AuditPayload) if field.name not in {"run", "listeners"}]
    for listener in audit.listeners or ():
        values += [getattr(listener, field.name) for field in fields(listener)]
    return [value for value in (*values, *(run.tool for run in audit.runs)) if isinstance(value, str)]


def check_report(audit: AuditPayload) -> None:
    """Check what everyone downstream relies on: texts, the reading of the output, the archive, the metrics."""
    for text in texts_of(audit):
        assert text.isprintable()
        assert text.encode().decode() == text
    assert {audit.at} == {run.ended_at for run in audit.runs}
    found = parse(*audit.runs)
    check(found)
    kept = HostAudit(audit.at, audit.runs[0].tool, audit.tool_version, found, audit.listeners)
    assert document.Decoder().decode(document.encode(kept)) == kept
    state = AuditState(audit.host, (), kept, NOW)
    for share in (vulnerabilities_of(state), listeners_of(state)):
        for labels in share.series:
            assert max(len(label.encode()) for label in labels) <= MAX_LABEL


def carried(raw: bytes) -> bytes | None:
    """Return the payload that a mail brings in; None if the mail or its audit is refused."""
    found = unless_refused(lambda: read_mail(raw))
    return None if found is None else accepted(found)


def take_mail(raw: bytes) -> None:
    """Take a mail; what it brings in is what a host signed, and the email package finds it as well."""
    environment = {"SENDER": raw[:400].decode("latin-1"), "CLIENT_ADDRESS": raw[-400:].decode("latin-1")}
    for origin in (mail_origin(raw, {}), mail_origin(raw, environment)):
        for text in astuple(origin):
            assert_line(text, 300)
    found = unless_refused(lambda: read_mail(raw))
    if found is None or accepted(found) is None:
        return
    assert accepted(found) in SIGNED
    message = email.message_from_bytes(raw.lstrip(b"\r\n").removeprefix(b">"), policy=email.policy.compat32)
    contents = [bytes(entity.get_payload(decode=True)) for entity in message.walk() if not entity.is_multipart()]
    plain = [content.rstrip(b"\r\n") for content in contents]
    plain += [content.replace(b"\r\n", b"\n") for content in plain]
    # The package does not know "base64" with a vertical tab behind it, for one.
    assert found in plain or base64.b64encode(found) in (content.translate(None, b" \t\r\n") for content in contents)


# --- Seeds ------------------------------------------------------------------------------------------------------------


def _envelopes() -> Iterator[bytes]:
    yield from (REPORT, OTHER, packed(BODY, words="the one before"), packed(payload(time="2026-11-22T09:00:00Z")))
    yield REPORT[: REPORT.index(b"\n") + 1] + gzip.compress(bytes(100_000))
    yield b"portspec-report 1 " + REPORT[len(b"portspec-audit 1 ") :]


def _payloads() -> Iterator[bytes]:
    tool = PLAIN["tool"]
    yield from (BODY, OTHER_BODY, payload(system=SYSTEM), payload(listeners=None))
    yield payload(more_tools=[tool | {"name": "pip-audit", "output": "[]", "scope": "applications"}])
    for sample in load():
        run = replace(sample.run, errors=sample.run.errors[:200])
        if len(run.output) < 1500 and sample.name.endswith(("vulnerable", "clean")):
            yield payload(tool=tool | {"name": run.tool, "exit_status": run.exit_status, "output": run.output})


SENT: Final = make_mail(Parcel(REPORT, "web1", "2026-11-22", "00" * 16, None), "root@web1.example.org", "p@example.org")
ATTACHED: Final = part(body=wrapped(REPORT))
MAILS: Final = (
    SENT,
    SENT.replace(b"\n", b"\r\n"),
    HEAD + ATTACHED,
    HEAD + part("message/rfc822", "7bit", ATTACHED),
    HEAD + multipart(TEXT, part(encoding="binary", body=REPORT), HTML),
    HEAD + multipart(ATTACHED, part("application/octet-stream", "base64", wrapped(OTHER), NAMED)),
    forwarded(SENT, 2),
    forwarded(HEAD + ATTACHED, 1).replace(b"\n", b"\r\n"),
)
_TYPES: Final = (
    *(b"multipart/mixed; boundary=b1", b"multipart/digest; boundary*0=b; boundary*1=1", b"multipart/x"),
    *(b"multipart/mixed; boundary=\xff", b'multipart/mixed; boundary=""', b"message/rfc822", b"message/partial"),
    *(b"message/delivery-status", b"application/vnd.portspec.audit", b"\xff/\xfe; x=\xfd", b"", b"/", b";"),
    *(b"a/b; name*=x\0''%41", b"a/b; name*0*=idna'x'%ff", b"a/b; name*9999999999999999=a"),
)
_ENCODINGS: Final = (b"base64", b"quoted-printable", b"8bit", b"x-uuencode", b"\xff")
PIECES: Final = (
    *(b"Content-Type: " + kind for kind in _TYPES),
    *(b"Content-Transfer-Encoding: " + encoding for encoding in _ENCODINGS),
    *(NAMED.encode(), b'Content-Disposition: ; filename="\\', b"From x", b"From ", b":", b"x: y", b" folded"),
    *(b"--b1", b"--b1--", b"--b1 \t", b"--\xff", b"--", b"--=====", b"--alternative0", b"--forward0--"),
    *(b"", b"=", b"QUJD", b"=3D=", b"\0", b"\xff" * 9, b"\xef\xbb\xbf", b"Received: a;b", b"Return-Path: <"),
    *(wrapped(OTHER), SENT, ATTACHED),
)
_JSON: Final = (
    *(b"[" * 1000, b'{"a":' * 500, b'{"a":[' * 300 + b"]}" * 300, b"[" * 101 + b"]" * 101, b"9" * 5000, b"-1"),
    *(b"1e999", b"NaN", b"0", b"null", b"{}", b'"', b"\\", b"\\ud800", b"\xed\xa0\x80", b"\0", b"\xef\xbb\xbf"),
    *(b"\r", b"\x0b", b"\xff", b"\\u0000", b'"a":', b"true", b"1e9999", b'"\\ud800\\u0000\\u001b"', b"[[]]"),
    *(b'{"": null}', b"65536", b"-0", *(b'"%s":' % name.encode() for name in (*PLAIN, *PLAIN["tool"], "system"))),
)

_ENVELOPES: Final = Harness(
    "envelopes",
    open_envelope,
    _envelopes,
    (b"portspec-audit 1 ", b"\n", b"\x1f\x8b\x08", REPORT, OTHER, OTHER[:83], OTHER[83:], *_JSON[:6]),
    calls=Limit(5_000, 20),
    memory=Limit(1 << 20, 20),
    largest=LARGE,
)
_PAYLOADS: Final = Harness(
    "payloads",
    read_signed,
    _payloads,
    _JSON,
    longest=8192,
    calls=Limit(20_000, 400),
    memory=Limit(2 << 20, 400),
    largest=LARGE,
)
_MAIL: Final = Harness(
    "mails",
    take_mail,
    lambda: MAILS,
    PIECES,
    longest=8192,
    calls=Limit(50_000, 200),
    memory=Limit(2 << 20, 100),
    largest=LARGE,
)

HARNESSES: Final = (_ENVELOPES, _PAYLOADS, _MAIL)
