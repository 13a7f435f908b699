from __future__ import annotations

import base64
import binascii
import dataclasses
import random
import re
from typing import Final

import pytest

from portspec.agent import CONTENT_TYPE, Parcel, make_mail
from portspec.audit import mail
from portspec.audit.admission import MAX_PACKED, RejectedError
from portspec.audit.envelope import pack, unpack
from portspec.audit.mail import MAX_MAIL, MailOrigin, mail_origin, read_mail

KEY: Final = b"k" * 32
RANDOM: Final = random.Random(6)  # noqa: S311 - no secret, and the same bytes each time
NOISE: Final = RANDOM.randbytes(1500) + b"\r\n\n\r\r\n" + bytes(range(256)) + RANDOM.randbytes(1500)
PACKED: Final = pack(NOISE, KEY)  # it does not shrink, so the bytes are there as they are
OTHER: Final = pack(b"another", KEY)
WIDTHS: Final = (60, 64, 72, 76, 998, 10**9)
WORD_B: Final = "=?utf-8?B?cG9ydHNwZWMtYXVkaXQuYmlu?="
WORD_Q: Final = "=?iso-8859-1?Q?portspec-audit=2Ebin?="
NAMED: Final = 'Content-Disposition: attachment; filename="portspec-audit.bin"'


def sent(packed: bytes = PACKED) -> bytes:
    """Return the mail of the agent."""
    return make_mail(
        Parcel(packed, "db1", "2026-11-22", "0f" * 16, None), "root@db1.example.org", "portspec@example.org"
    )


def wrapped(packed: bytes = PACKED, width: int = 76, end: bytes = b"\n") -> bytes:
    """Return bytes as base64 in lines of a width."""
    text = base64.b64encode(packed)
    return b"".join(text[start : start + width] + end for start in range(0, len(text), width))


def part(
    kind: str = CONTENT_TYPE, encoding: str = "base64", body: bytes | None = None, *headers: str, end: str = "\n"
) -> bytes:
    """Return a part with its headers."""
    lines = [f"Content-Type: {kind}", f"Content-Transfer-Encoding: {encoding}", *headers, "", ""]
    return end.join(lines).encode() + (wrapped() if body is None else body)


def multipart(*parts: bytes, kind: str = "mixed", name: str = "b1", end: bytes = b"\n") -> bytes:
    """Put parts into one, with its end boundary."""
    head = b'Content-Type: multipart/%s; boundary="%s"' % (kind.encode(), name.encode()) + 2 * end
    border = b"--" + name.encode()
    return head + b"".join(border + end + each + end for each in parts) + border + b"--" + end


TEXT: Final = part("text/plain; charset=utf-8", "8bit", "Zur Prüfung.\n".encode())
HTML: Final = part("text/html", "quoted-printable", b"<p>x =3D y</p>\n<!--\n-- \n-->\n")
HEAD: Final = b"From: Root <root@db1.example.org>\nTo: portspec@example.org\nMIME-Version: 1.0\n"


def forwarded(inner: bytes, depth: int) -> bytes:
    """Forward a mail as an attachment, with a word of who does and a footer of a list, so many times."""
    for number in range(depth):
        text = multipart(TEXT, HTML, kind="alternative", name=f"alternative{number}")
        rfc822 = b"Content-Type: message/rfc822\n\n" + inner
        inner = HEAD + multipart(text, rfc822, part("text/plain", "7bit", b"--\nlist\n"), name=f"forward{number}")
    return inner


def refusal(raw: bytes) -> RejectedError:
    """Return why a mail is refused; in one line, whatever it is."""
    with pytest.raises(RejectedError) as caught:
        read_mail(raw)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    return caught.value


def test_noise_has_what_text_mode_breaks() -> None:
    """The audit of these tests has each of the line ends, so that a translation of them would show."""
    assert all(PACKED.count(end) for end in (b"\r", b"\n", b"\r\n"))
    assert len(set(PACKED)) == 256


@pytest.mark.parametrize("packed", [PACKED, OTHER, pack(b"", KEY), pack(b"x" * 100_000, KEY)], ids=len)
def test_mail_of_the_agent_gives_the_audit(packed: bytes) -> None:
    """The very bytes that the agent sends arrive."""
    assert read_mail(sent(packed)) == packed


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_base64_may_be_wrapped_anyhow(width: int, end: bytes) -> None:
    """Lines of any width, or one line, with line ends of Unix or of mail."""
    audit = part(body=wrapped(width=width, end=end), end=end.decode())
    assert read_mail(HEAD.replace(b"\n", end) + multipart(TEXT, audit, end=end)) == PACKED


def test_line_ends_may_be_mixed() -> None:
    """A relay that ends its own lines in another way than the sender's leaves the audit whole."""
    mixed = re.sub(rb"\n", lambda _: RANDOM.choice([b"\n", b"\r\n", b"\r"]), sent())
    assert read_mail(mixed) == PACKED


QUOTED: Final = binascii.b2a_qp(PACKED, istext=False)
QUOTED_LINES: Final = b"\n".join(
    binascii.b2a_qp(line, istext=False) for line in PACKED.split(b"\n")
)  # as if it were text


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("BASE64", wrapped()),
        ("base64 (RFC 2045)", wrapped()),
        ("base64;", b"\n" + wrapped() + b"\n\n"),
        ("quoted-printable", QUOTED),
        ("quoted-printable", QUOTED.replace(b"\n", b"\r\n") + b"\r\n"),
        ("Quoted-Printable", QUOTED_LINES),
        ("quoted-printable", QUOTED_LINES.replace(b"\n", b"\r\n")),
        ("8bit", PACKED),
        ("BINARY", PACKED),
        ("binary", PACKED + b"\r\n\n"),
        ("8bit", PACKED.replace(b"\n", b"\r\n")),
        ("", PACKED),
    ],
)
def test_audit_may_be_encoded_in_another_way(encoding: str, body: bytes) -> None:
    """A relay may take it out of base64, into quoted-printable or 8bit, also as if it were text."""
    assert read_mail(HEAD + multipart(TEXT, part(encoding=encoding, body=body))) == PACKED
    assert read_mail(HEAD + part(encoding=encoding, body=body)) == PACKED


@pytest.mark.parametrize(
    "audit",
    [
        part(),
        part("APPLICATION/VND.PORTSPEC.AUDIT; X=1"),
        part(CONTENT_TYPE, "base64", None, 'Content-Disposition: inline; filename="ATT00001.dat"'),
        part("application/octet-stream", "base64", None, NAMED),
        part("application/octet-stream", "base64", None, NAMED.upper()),
        part("application/octet-stream; name=portspec-audit.bin"),
        part("text/plain", "base64", None, "Content-Disposition: attachment;\n filename*=utf-8''portspec%2Dreport.bin"),
        part("text/plain", "base64", None, f'Content-Disposition: x; filename="{WORD_B}"'),
        part(
            "text/plain",
            "base64",
            None,
            f'Content-Disposition: x; filename="{WORD_Q}"',
        ),
        part("text/plain", "base64", None, "Content-Disposition: x; filename*0=portspec-;\n\tfilename*1=audit.bin"),
        part("nonsense", "base64", None, NAMED),
    ],
)
def test_audit_is_known_by_its_type_or_by_its_name(audit: bytes) -> None:
    """One of them may be changed on the way."""
    assert read_mail(HEAD + multipart(TEXT, audit)) == PACKED
    assert read_mail(multipart(audit, HTML)) == PACKED


def test_headers_may_be_in_capitals() -> None:
    """Names, types and encodings are the same in capitals; a boundary is not, so it is left."""
    head, _, body = multipart(part(), name="B").partition(b"\n\n")
    header, _, rest = body.partition(b"\n\n")
    assert read_mail(head.upper() + b"\n\n" + header.upper() + b"\n\n" + rest) == PACKED


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_mail_may_be_forwarded(depth: int, end: bytes) -> None:
    """It is found in a message within messages, among words in HTML and footers of mailing lists."""
    assert read_mail(forwarded(sent(), depth).replace(b"\n", end)) == PACKED
    assert read_mail(forwarded(HEAD + part(), depth).replace(b"\n", end)) == PACKED


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"\n-- \nThis mail was scanned for viruses.\n"),
        (b"", b"\n\0\xff\xfe" + b"=" * 200),
        (b"", b"\n--b1\n\nlate\n"),
        (b"From root@db1.example.org Sun Nov 22 03:17:09 2026\n", b"\n\n"),
        (b">From root@db1.example.org Sun Nov 22 03:17:09 2026\n", b""),
        (b"\r\n\n", b""),
        (b"RECEIVED: from a\n\tby b; now\nX-Spam: \xff\0\nSUBJECT:\n", b""),
        (b": nobody\n", b""),
    ],
)
def test_what_stands_around_the_mail_does_no_harm(before: bytes, after: bytes) -> None:
    """Lines of scanners after its end, an mbox's line before its begin, and odd headers are passed over."""
    assert read_mail(before + HEAD + multipart(TEXT, part()) + after) == PACKED
    assert read_mail(before + sent() + after) == PACKED


def test_audit_that_is_there_twice_is_one() -> None:
    """A list that attaches the mail to its own copy sends one audit, in whatever encodings."""
    again = part("application/octet-stream", "quoted-printable", QUOTED, NAMED)
    assert read_mail(HEAD + multipart(part(), TEXT, again)) == PACKED


def test_two_different_audits_are_refused() -> None:
    """Neither is chosen, since a mail has one mail_origin and one answer."""
    error = refusal(HEAD + multipart(part(), part(body=wrapped(OTHER))))
    assert (error.reason, str(error)) == ("malformed", "2 different audits are attached, expected one")


NOTHING: Final = (
    "no audit is attached, expected a part application/vnd.portspec.audit or a file portspec-audit.bin, found "
)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", f"{NOTHING}text/plain"),
        (b"\0" * 1000, f"{NOTHING}text/plain"),
        (HEAD + b"\nhello\n", f"{NOTHING}text/plain"),
        (HEAD + HTML, f"{NOTHING}text/html"),
        (HEAD + multipart(TEXT, HTML, kind="alternative"), f"{NOTHING}text/plain, text/html"),
        (HEAD + multipart(TEXT, part("application/ms-tnef")), f"{NOTHING}text/plain, application/ms-tnef"),
        (HEAD + multipart(*(part(f"a/{n}") for n in range(9))), f"{NOTHING}a/0, a/1, a/2, a/3, a/4, …"),
        (HEAD + b"Content-Type: multipart/mixed\n\n" + sent(), f"{NOTHING}multipart/mixed without parts"),
        (HEAD + multipart(part()).replace(b"--b1", b"--b2"), f"{NOTHING}multipart/mixed without parts"),
        (HEAD + part("a\x1b[2J\xff/b"), f"{NOTHING}a\\x1b[2j\ufffd\ufffd/b"),
        (HEAD + multipart(part())[:-8], "the mail is truncated: the boundary after the audit is missing"),
        (forwarded(sent(), 1)[:-800], "the mail is truncated: the boundary after the audit is missing"),
        (HEAD + part(body=wrapped()[:-2]), "the base64 of the attachment is invalid or truncated: incorrect padding"),
        (HEAD + part(body=b"QUI=" + wrapped()),
         "the base64 of the attachment is invalid or truncated: excess data after padding"),
        (HEAD + part(body=wrapped().replace(b"\n", b"\n-- \n", 3)), 'line 2 of the attachment has "-- "'),
        (HEAD + part(body=wrapped(width=10**9) + b"Checked by <b>scanner\x1b</b>\xe9\n"),
         'line 2 of the attachment has "<b>scanner\\x1b</b>é", which is not base64'),
        (HEAD + part(body=wrapped()[:99] + b"\0\0" + wrapped()[99:200]),
         'line 2 of the attachment has "\\x00\\x00'),
        (HEAD + part(encoding="x-uuencode", body=b"begin 644 x\n"),
         'the audit is encoded as "x-uuencode", expected base64'),
        (HEAD + part(CONTENT_TYPE, "base64", None, "Content-Disposition: x; filename*=a\0b''x").replace(
            CONTENT_TYPE.encode(), b"a/b"), "the MIME structure of the mail is invalid: embedded null character"),
    ],
)  # fmt: skip
def test_mail_without_one_whole_audit_is_refused(raw: bytes, message: str) -> None:
    """The message says what was found and what was expected, on one line that can be shown."""
    error = refusal(raw)
    assert error.reason == "malformed"
    assert str(error).startswith(message)


@pytest.mark.parametrize("raw", [sent(), forwarded(sent(), 1), forwarded(HEAD + part(), 1)], ids=len)
def test_mail_that_is_cut_off_gives_no_audit(raw: bytes) -> None:
    """Wherever a mail ends too early, also where the base64 could end, nothing of its audit is taken for all."""
    end = raw.index(wrapped()[-77:]) + len(wrapped()[-77:]) - 1
    for cut in [*range(0, end, 7), end - 4, end, end + 1]:
        error = refusal(raw[:cut])
        assert error.reason == "malformed"
    with pytest.raises(RejectedError, match="truncated: the boundary after the audit is missing"):
        read_mail(raw[: end - 4])


def test_mail_that_is_cut_off_after_the_audit_gives_it() -> None:
    """A boundary stands after the audit, so that it is whole, whatever is missing then."""
    raw = HEAD + multipart(part(), TEXT)
    for cut in range(len(HEAD + multipart(part())) - len(b"--\n"), len(raw)):
        assert read_mail(raw[:cut]) == PACKED


def nested(count: int, *, has_one_name: bool = False) -> bytes:
    """Return the begins of so many multiparts, each in the one before."""
    names = ["b" if has_one_name else f"b{number}" for number in range(count)]
    return "".join(f"Content-Type: multipart/mixed; boundary={name}\n\n--{name}\n" for name in names).encode()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (nested(10_000), "the mail has more than 50 parts"),
        (b"Content-Type: message/rfc822\n\n" * 10_000 + sent(), "the mail has more than 50 parts"),
        (multipart(*[b"\nx"] * 100_000), "the mail has more than 50 parts"),
        (b"Content-Type: message/delivery-status\n\n" + b"a: b\n\n" * 100_000, "the mail has more than 50 parts"),
        (b"\n" * 400_000 + b"\r" * 100_001, "the mail has more than 500,000 lines"),
        (b"X: " + b"x" * 20_000_000 + b"\n" + sent(), 'a header "x" of the mail has more than 102,400 characters'),
        (b"X: x\n" + b" y\n" * 400_000 + sent(), 'a header "x" of the mail has more than 102,400 characters'),
        (b"Content-Type: a/b;" + b' x="' + b";" * 100_000, 'a header "content-type" of the mail has more than 2,000'),
        (HEAD + multipart(TEXT, b"Content-Type: multipart/x; boundary=" + b"(" * 9999 + b"\n\n"),
         'a header "content-type" of the mail has more than 2,000 characters'),
        (HEAD + multipart(TEXT, part()) + b"--b1" + b" " * 20_000_000, "the mail has a boundary of more than 1,000"),
    ],
)  # fmt: skip
def test_mail_that_would_take_long_is_refused(raw: bytes, message: str) -> None:
    """Depth, number and length of what the mail is made of are bounded, before they cost time or memory."""
    error = refusal(raw)
    assert error.reason == "malformed"
    assert str(error).startswith(message)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "raw",
    [
        nested(49) + b"\n" + b"--b0x\n" * 480_000,
        nested(49, has_one_name=True) + b"\n" + (b"--b" + b" " * 900 + b"x\n") * 20_000,
        nested(25).replace(b"mixed", b"digest") + b"\n" * 480_000,
        b"a: b\n" * 480_000,
        b"x" * 20_000_000,
        HEAD + multipart(*[b'Content-Type: a/b; a="' + b";" * 1950 + b"\n\n"] * 48),
    ],
)
def test_mail_within_the_bounds_is_read_in_time(raw: bytes) -> None:
    """What is as bad as the bounds allow is still read to its end."""
    assert str(refusal(raw)).startswith(NOTHING)


def test_largest_audit_fits_in_a_mail() -> None:
    """A mail may be as long as an audit of the most bytes in short lines, and a megabyte around it; no longer."""
    packed = PACKED + bytes(MAX_PACKED - len(PACKED))
    page = part("text/html", "8bit", b"<p>x</p>\n" * 100_000)
    raw = forwarded(HEAD + multipart(page, part(body=wrapped(packed, 64))), 1).replace(b"\n", b"\r\n")
    assert len(raw) <= MAX_MAIL
    assert read_mail(raw) == packed
    assert refusal(raw + b"x" * MAX_MAIL).reason == "too_large"


def test_text_mode_is_only_undone_where_it_was() -> None:
    """What mends an audit that went as text changes no other: its first line ends with LF, its last byte is small."""
    for payload, packed in [(b"x" * 13, pack(b"x" * 13, KEY)), (NOISE, PACKED)]:
        assert packed[-1] <= 4
        assert unpack(read_mail(HEAD + part(encoding="binary", body=packed)), 10_000)[0] == payload


def test_type_and_name_are_the_agent_s() -> None:
    """The agent and the reader agree on how an audit is known."""
    assert mail.CONTENT_TYPE == CONTENT_TYPE
    assert f'filename="{mail.FILE_NAME}"'.encode() in sent()


POSTFIX: Final = {
    "SENDER": "root@db1.example.org",
    "CLIENT_HOSTNAME": "mx.example.org",
    "CLIENT_ADDRESS": "192.0.2.25",
    "CLIENT_PROTOCOL": "ESMTP",
    "CLIENT_HELO": "whatever",
    "RECIPIENT": "portspec@example.org",
}
ROUTE: Final = (
    b"Return-Path: <bounces@example.org>\n"
    b"Received: from db1 (db1.example.org [192.0.2.7])\n\tby mx.example.org (Postfix) with ESMTPS id 4X1\n\tfor <p@x>;"
    b" Sun, 22 Nov 2026 03:17:09 +0000 (UTC)\nReceived: from forged by forged; never\n"
)
MESSAGE_ID: Final = f"<portspec.{'0f' * 16}@db1>"


@pytest.mark.parametrize(
    ("before", "environment", "expected"),
    [
        (ROUTE, POSTFIX, MailOrigin("root@db1.example.org", MESSAGE_ID, "4X1", "mx.example.org[192.0.2.25] ESMTP")),
        (b"", {"SENDER": "a@b", "MESSAGE_ID": "1vMx-0001-Ab"}, MailOrigin("a@b", MESSAGE_ID, "1vMx-0001-Ab", "")),
        (ROUTE, {"SENDER": ""}, MailOrigin("bounces@example.org", MESSAGE_ID, "4X1",
         "from db1 (db1.example.org [192.0.2.7]) by mx.example.org (Postfix) with ESMTPS id 4X1 for <p@x>")),
        (ROUTE.replace(b"\n", b"\r\n"), {"CLIENT_ADDRESS": "2001:db8::25"},
         MailOrigin("bounces@example.org", MESSAGE_ID, "4X1", "[2001:db8::25]")),
        (b"From root@x Sun Nov 22 03:17:09 2026\n", {}, MailOrigin("root@x", MESSAGE_ID, "", "")),
        (b">From root@x Sun Nov 22 03:17:09 2026\n", {}, MailOrigin("root@x", MESSAGE_ID, "", "")),
        (b"Return-Path: <>\nRECEIVED: by mx\n", {}, MailOrigin("root@db1.example.org", MESSAGE_ID, "", "by mx")),
        (b"Received: by mx id 1;2\n", {}, MailOrigin("root@db1.example.org", MESSAGE_ID, "1", "by mx id 1")),
        (b"Received: by mx id \xc3\xbc\n", {}, MailOrigin("root@db1.example.org", MESSAGE_ID, "", "by mx id ü")),
    ],
)  # fmt: skip
def test_postmark_is_what_the_mta_tells_or_the_headers(
    before: bytes, environment: dict[str, str], expected: MailOrigin
) -> None:
    """The environment of Postfix, Exim and OpenSMTPD comes first; of headers Received, the one of our own MTA."""
    assert mail_origin(before + sent(), environment) == expected


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\xff" * 10_000_000,
        b"From \n\n",
        b"Message-ID: \x1b[2J\n \xff\xfe\r\nReceived: \xc3\xbc\x00;;\n\n",
        b"Message-ID: " + b"\x01" * 20_000_000,
        b"Received:\n" + b" x\n" * 400_000,
        b"Return-Path: " + b"<" * 1_000_000,
        nested(10_000),
    ],
)
def test_postmark_of_anything_is_lines_that_can_be_logged(raw: bytes) -> None:
    """It never raises; what it gives is printable and short."""
    for found in (mail_origin(raw, {}), mail_origin(raw, {"SENDER": "\udcff\n" * 999, "CLIENT_HOSTNAME": "\0" * 999})):
        for text in dataclasses.astuple(found):
            assert len(text) <= 300
            assert text.isprintable()
