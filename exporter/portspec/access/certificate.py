"""The validity of a certificate in PEM, which Python's ssl tells of peers only."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


def blocks(pem: str) -> tuple[str, ...]:
    """Return the certificates of a text in PEM, without what stands around them."""
    return tuple(f"{found[0]}\n" for found in _BLOCK.finditer(pem))


def validity(block: str) -> tuple[float, float]:
    """Return from when until when a certificate in PEM is valid, in Unix seconds (RFC 5280, 4.1.2.5).

    Raises ValueError if the text is no certificate.
    """
    found = _BLOCK.search(block)
    if found is None:
        raise ValueError("not a certificate in PEM")
    der = base64.b64decode(found[1])
    _, at, _ = _element(der, 0, _SEQUENCE)  # Certificate
    _, at, _ = _element(der, at, _SEQUENCE)  # tbsCertificate
    tag, _, end = _element(der, at)
    if tag == _VERSION:
        at = end
    for _ in ("serialNumber", "signature", "issuer"):
        _, _, at = _element(der, at)
    _, at, _ = _element(der, at, _SEQUENCE)
    first, start, end = _element(der, at)
    not_before = _time(first, der[start:end])
    last, start, end = _element(der, end)
    return not_before, _time(last, der[start:end])


def _element(der: bytes, at: int, expected: int | None = None) -> tuple[int, int, int]:
    """Return the tag of the element at a place, and where its content begins and ends (X.690, 8.1)."""
    try:
        tag, length, start = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, start = int.from_bytes(der[start : start + size], "big"), start + size
    except IndexError:
        raise ValueError("the certificate is cut off") from None
    if start + length > len(der) or (expected is not None and tag != expected):
        raise ValueError("not a certificate")
    return tag, start, start + length


def _time(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
