from __future__ import annotations

import ast
import email
import email.policy
import gzip
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import portspec
from portspec import agent
from portspec.agent import Parcel, fit, make_mail, make_parcel, pack, printable, readable
from portspec.audit import envelope

SOURCE = Path(agent.__file__)
KEY = envelope.key_of("db1.example.org", "a passphrase")
REPORT = {"host": "db1.example.org", "day": "2026-11-22", "nonce": "0f" * 16}


def test_version_is_that_of_the_package() -> None:
    """The agent tells the version of the package that it came with."""
    assert portspec.__version__ == agent.VERSION


def test_file_is_python_3_8() -> None:
    """The file is read by the grammar of Python 3.8."""
    ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_file_stands_alone() -> None:
    """The file imports nothing but the standard library."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." * node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    assert "urllib" in {name.partition(".")[0] for name in names}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000), st.text(min_size=1, max_size=30))
def test_envelope_is_the_server_s(payload: bytes, passphrase: str) -> None:
    """What the agent packs, the server unpacks to the same bytes, and finds it signed with that host's key alone."""
    key = envelope.key_of("db1", passphrase)
    packed = pack(payload, key)
    found, signature = envelope.unpack(packed, 2000)
    assert found == payload
    assert envelope.is_signed(found, signature, [key])
    assert not envelope.is_signed(found, signature, [envelope.key_of("db2", passphrase)])
    # The time that gzip may write down, and its byte for the system, are the only freedom.
    assert packed[:82] == envelope.pack(payload, key)[:82]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"portspec-audit 1 \n",
        pack(b'{"host": "a"}', KEY)[:-1],
        pack(b"[]", KEY),
        pack(b"\xff", KEY),
        pack(b"[" * 100_000, KEY),
        b"x" + pack(b"{}", KEY),
        b"portspec-audit 1 \n" + gzip.compress(b"{}", mtime=0)[:12] + b"\xff" * 20,
    ],
)
def test_broken_file_is_no_audit(data: bytes) -> None:
    """A file of the spool that is cut, empty or something else is told from an audit."""
    with pytest.raises(ValueError, match=r"\w"):
        make_parcel(data, None)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300), st.integers(2, 2000))
def test_text_is_cut_to_its_size_in_json(text: str, limit: int) -> None:
    """A text that fits is left as it is, any other is cut to a beginning that fits."""
    found = fit(text, limit)
    size = len(json.dumps(text, ensure_ascii=False).encode())
    assert len(json.dumps(found, ensure_ascii=False).encode()) <= limit
    assert text.startswith(found)
    if size <= limit:
        assert found == text


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_readable(data: bytes) -> None:
    """Whatever a tool prints becomes a text that UTF-8 and JSON can carry, with UTF-8 left as it is."""
    text = readable(data)
    assert json.loads(json.dumps(text, ensure_ascii=False).encode()) == text
    try:
        assert text == data.decode()
    except UnicodeDecodeError:
        assert "\\x" in text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=100))
def test_messages_are_one_line(text: str) -> None:
    """What others say becomes one line that does nothing to a terminal."""
    assert printable(text).isprintable()


@pytest.mark.parametrize("host", ["db1.example.org", "2001:db8::1", "a" * 60 + "." + "b" * 60 + ".example.org", "_x"])
@pytest.mark.parametrize("recipient", ["portspec@example.org", "portspec"])
def test_mail_carries_the_audit(host: str, recipient: str) -> None:
    """The mail has one attachment with the very bytes, lines that any MTA takes, and says that no person sent it."""
    packed = pack(json.dumps({**REPORT, "host": host}).encode() + b" " * 5000, KEY)
    data = make_mail(make_parcel(packed, None), "root@db1.example.org", recipient)
    lines = data.split(b"\n")
    assert max(map(len, lines)) <= 998  # RFC 5322, 2.1.1
    assert max(map(len, lines[lines.index(b"") :])) <= 78
    assert data.isascii()
    mail = email.message_from_bytes(data, policy=email.policy.default)
    assert (mail["From"], mail["To"], mail["Auto-Submitted"]) == ("root@db1.example.org", recipient, "auto-generated")
    assert mail["Subject"] == f"portspec audit of {host} for 2026-11-22"
    assert str(mail["Message-ID"]).startswith(f"<portspec.{'0f' * 16}@")
    assert mail["Date"].datetime is not None
    (attachment,) = mail.iter_attachments()
    assert attachment.get_content_type() == "application/vnd.portspec.audit"
    assert attachment.get_filename() == "portspec-audit.bin"
    assert attachment["Content-Transfer-Encoding"] == "base64"
    assert attachment.get_content() == packed
    body = mail.get_body(("plain",))
    assert body is not None
    assert "not for reading" in body.get_content()


def test_mail_that_is_sent_again_has_the_same_message_id() -> None:
    """The Message-ID follows from the audit, so that a mailbox or MTA sees the same mail again."""
    parcel = Parcel(b"x", "db1", "2026-11-22", "0f" * 16, None)
    ids = {email.message_from_bytes(make_mail(parcel, "a@b", "c@d"))["Message-ID"] for _ in range(2)}
    assert ids == {f"<portspec.{'0f' * 16}@db1>"}
