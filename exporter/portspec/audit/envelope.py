"""A signed audit: the key of a host, the payload's bytes, and the signature over exactly these bytes. Pure.

The key of a host is HKDF-SHA256 (RFC 5869) of the passphrase and the host's name, so that a host which is broken into
can speak for itself alone. The signature is HMAC-SHA256 (RFC 2104). agent.py, which stands by itself, does the same.

The answer to a posted audit is signed with the same key. By that the agent knows portspec from whoever else can answer
on the network.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_SALT: Final = b"portspec report key 1"  # not to be changed: each host has a key that was made with it
_MAGIC: Final = b"portspec-audit 1 "
_OLD_MAGIC: Final = b"portspec-report 1 "  # before 0.2
_SIGNATURE_DIGITS: Final = 64  # hexadecimal
ANSWER_SIGNATURE: Final = "Portspec-Signature"  # the header of an answer: signatures, separated by commas
UPDATE_AGENT: Final = "install the portspec-send that this portspec serves at /agent.py"


def key_of(host: str, passphrase: str) -> bytes:
    """Derive the key of a host, 32 bytes, by its canonical name (names.canonical)."""
    pseudorandom = hmac.digest(_SALT, passphrase.encode(), hashlib.sha256)  # RFC 5869, 2.2
    return hmac.digest(pseudorandom, b"portspec host " + host.encode() + b"\x01", hashlib.sha256)  # 2.3, one block


def sign(payload: bytes, key: bytes) -> str:
    """Return the signature of a payload: 64 hexadecimal digits."""
    return hmac.new(key, payload, hashlib.sha256).hexdigest()


def is_signed(payload: bytes, signature: str, keys: Iterable[bytes]) -> bool:
    """Return whether a signature is that of one of the keys; it takes the same time whatever is wrong."""
    found = signature.encode("ascii", "replace")
    is_found = False
    for key in keys:  # all of them, not until the first that fits: time would tell which
        is_found |= hmac.compare_digest(found, sign(payload, key).encode())
    return is_found


def sign_answer(packed: bytes, status: int, body: bytes, key: bytes) -> str:
    """Return the signature of the answer to an audit: 64 hexadecimal digits.

    It covers the SHA-256 of the request's body, so that the answer to one audit is none to another; the status; and the
    body of the answer. A payload is a JSON object, so what is signed here is never one.
    """
    request = hashlib.sha256(packed).hexdigest().encode()
    return hmac.new(key, b"portspec answer 1\n%s\n%d\n%s" % (request, status, body), hashlib.sha256).hexdigest()


class EnvelopeError(ValueError):
    """Bytes that are no audit in its envelope: `reason` is a word for metrics, the message says what is wrong."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def pack(payload: bytes, key: bytes) -> bytes:
    """Return a payload in its envelope: a line with the signature, and the payload as gzip (RFC 1952)."""
    return b"%s%s\n%s" % (_MAGIC, sign(payload, key).encode(), gzip.compress(payload, mtime=0))


def unpack(data: bytes, max_payload: int) -> tuple[bytes, str]:
    """Return the payload and the signature of an envelope, which is not verified yet.

    Raises EnvelopeError, also for a payload of more than `max_payload` bytes, of which no more than that is ever held.
    """
    signature, packed = _opened(data)
    payload, inflater = _inflated(packed, max_payload + 1)
    if len(payload) > max_payload:
        raise EnvelopeError("too_large", f"the payload has more than {max_payload:,} bytes")
    if not inflater.eof or inflater.unused_data:
        raise EnvelopeError("malformed", "it is truncated, or followed by other data")
    return payload, signature


def peek(data: bytes, size: int) -> bytes:
    """Return so many bytes from the beginning of the payload of an envelope, or all. Raises EnvelopeError."""
    return _inflated(_opened(data)[1], size)[0]


def _opened(data: bytes) -> tuple[str, memoryview]:
    """Return the signature and the gzip file."""
    head, newline, body = data[: len(_MAGIC) + _SIGNATURE_DIGITS + 1].partition(b"\n")
    if data.startswith(_OLD_MAGIC):
        raise EnvelopeError("malformed", f"it is from an old portspec-send: {UPDATE_AGENT}")
    if not newline or body or not head.startswith(_MAGIC):
        raise EnvelopeError("malformed", f'it does not begin with "{_MAGIC.decode()}", a signature and a line feed')
    return head[len(_MAGIC) :].decode("ascii", "replace"), memoryview(data)[len(head) + 1 :]


def _inflated(packed: memoryview, size: int) -> tuple[bytes, zlib._Decompress]:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        return inflater.decompress(packed, size), inflater
    except zlib.error:
        raise EnvelopeError("malformed", "the data after the signature is not a gzip file") from None
