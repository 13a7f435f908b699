"""JSON documents, of the state file and of the API, and the types that declare them (msgspec). Pure."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_LARGEST: Final = sys.float_info.max
#: Unix seconds before the year 10000, the end of datetime, less a day, since local time may be ahead.
UnixTime = Annotated[float, Meta(ge=0, lt=253_402_300_800.0 - 86_400)]
#: Not negative and not infinite.
Seconds = Annotated[float, Meta(ge=0, le=_LARGEST)]
#: A time as documents for others spell it.
Timestamp = Annotated[str, Meta(description="A time, RFC 3339 in UTC.", extra_json_schema={"format": "date-time"})]
#: A port as conf.yml spells it.
PortName = Annotated[str, Meta(description='A port: "22" is TCP, "53/udp" is UDP.')]
Count = Annotated[int, Meta(ge=0)]
Finite = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]


def encode(document: object) -> str:
    """Return a document as JSON in ASCII. Raises ValueError for NaN and infinity.

    msgspec's own encoder writes NaN as null, and cannot write half a surrogate pair, which a host may send.
    """
    return _ENCODER.encode(msgspec.to_builtins(document))


def indented(document: object) -> str:
    """Return a document of plain values as JSON that is indented by two; json itself takes ten times as long for it.

    Raises ValueError for NaN and infinity.

    Half a surrogate pair, which a label may have, stays as it is.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")
    return msgspec.json.format(text, indent=2).decode("utf-8", "surrogatepass")


def decode(decoder: msgspec.json.Decoder[T], document: str) -> T:
    """Return the value in a document. Raises ValueError if the document is invalid in any way."""
    try:
        return _decode(decoder, document)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _decode(decoder: msgspec.json.Decoder[T], document: str) -> T:
    try:
        return decoder.decode(document)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeEncodeError):  # for half a surrogate pair, too, which JSON can spell
        plain = json.loads(document, parse_constant=int)  # which raises ValueError for "NaN" and "Infinity"
        found: T = msgspec.convert(plain, decoder.type)
        return found
