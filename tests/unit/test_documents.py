from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest

from portspec import documents
from portspec.documents import Finite, Seconds, UnixTime

HALF: Final = "\ud83d"  # of a surrogate pair, as a host may send it


class Document(msgspec.Struct):
    """A document with a number of each kind."""

    text: str = ""
    at: UnixTime = 0.0
    duration: Seconds = 0.0
    number: Finite = 0.0


DECODER: Final = msgspec.json.Decoder(Document)


@pytest.mark.parametrize("text", ["é", "😀", HALF, f"{HALF}\0é", "\\ud83d"])
def test_any_text_is_encoded_in_ascii_and_decoded(text: str) -> None:
    """Half a surrogate pair is kept, too; SQLite would take it only as an escape."""
    document = documents.encode(Document(text))
    assert document.isascii()
    assert documents.decode(DECODER, document) == Document(text)


@pytest.mark.parametrize("text", ["é", HALF])
def test_text_that_is_not_escaped_is_decoded(text: str) -> None:
    """Earlier versions wrote the results of audits so."""
    assert documents.decode(DECODER, json.dumps({"text": text}, ensure_ascii=False)) == Document(text)


@pytest.mark.parametrize("name", ["at", "duration", "number", "unknown"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("text", ["a", HALF])
def test_nan_and_infinity_are_not_decoded(name: str, number: str, text: str) -> None:
    """They are not JSON, whatever else is in the document."""
    with pytest.raises(ValueError, match=r"\w"):
        documents.decode(DECODER, f'{{"text": {json.dumps(text)}, "{name}": {number}}}')


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_and_infinity_are_not_encoded(number: float) -> None:
    """What could not be decoded is not written."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        documents.encode(Document(number=number))


@pytest.mark.parametrize("text", ["a", HALF])
@pytest.mark.parametrize(
    "values",
    [
        {"at": -1},
        {"at": True},
        {"at": "1"},
        {"at": None},
        {"at": 253_402_214_400},
        {"duration": -0.1},
        {"duration": 10**400},
        {"number": True},
        {"number": -(10**400)},
    ],
    ids=lambda values: str(values)[:30],
)
def test_number_of_another_kind_is_an_error_that_names_it(values: dict[str, Any], text: str) -> None:
    """A bool is not a number, and a time is one of which every time zone can make a date."""
    with pytest.raises(ValueError, match=rf"\$\.{next(iter(values))}"):
        documents.decode(DECODER, json.dumps({"text": text, **values}))


@pytest.mark.parametrize("start", ["[", '{"a":', '{"text":"\\ud83d","a":['])
def test_deep_nesting_is_a_value_error(start: str) -> None:
    """It does not end the program, even in a key that is not read."""
    with pytest.raises(ValueError, match=r"\w"):
        documents.decode(DECODER, '{"unknown":' + start * 100_000)
