"""Answers that a server compresses, though it was not asked to, unpacked up to a limit."""

from __future__ import annotations

import zlib

_ANY = zlib.MAX_WBITS | 32  # gzip or zlib, whichever the header says
_RAW = -zlib.MAX_WBITS  # deflate without a header, which some servers send under that name
_SCHEMES = {"gzip": _ANY, "x-gzip": _ANY, "deflate": _ANY}  # RFC 9110, 8.4.1


class CompressionError(Exception):
    """What cannot be unpacked; the message says why."""


def check_encodings(header: str) -> tuple[str, ...]:
    """Read a Content-Encoding; gives its schemes in the order in which they were applied. Raises CompressionError."""
    schemes = tuple(word for part in header.split(",") if (word := part.strip().lower()) not in {"", "identity"})
    if any(scheme not in _SCHEMES for scheme in schemes) or len(schemes) > 1:
        raise CompressionError("has an unsupported compression (supported: gzip, deflate)")
    return schemes


def unpack(data: bytes, schemes: tuple[str, ...], max_bytes: int) -> bytes:
    """Unpack an answer; gives at most `max_bytes`, and one byte more where there is more. Raises CompressionError."""
    for scheme in schemes:
        try:
            data = _inflate(data, _SCHEMES[scheme], max_bytes + 1)
        except zlib.error:
            if scheme != "deflate":
                raise CompressionError(f"is not {scheme}, as its header says") from None
            try:
                data = _inflate(data, _RAW, max_bytes + 1)
            except zlib.error:
                raise CompressionError("is not deflate, as its header says") from None
    return data


def _inflate(data: bytes, window: int, most: int) -> bytes:
    """Unpack one stream or, as gzip has it, several, one behind the other."""
    found = bytearray()
    while data and len(found) < most:
        stream = zlib.decompressobj(window)
        found += stream.decompress(data, most - len(found))
        if not stream.eof and len(found) < most:
            raise CompressionError("is truncated")
        data = stream.unused_data.lstrip(b"\0")  # gzip(1) ignores zeros behind a stream, too
    return bytes(found)
