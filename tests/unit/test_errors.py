from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.errors import is_printable, printable
from tests.unit.factories import MODEST


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db1.example.org", "db1.example.org"),
        ("bücher 😀 שלום", "bücher 😀 שלום"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("a\u202eb\u2066\u200f", "a\\u202eb\\u2066\\u200f"),
        ("a\u00adb\u200b\ufeff", "a\\xadb\\u200b\\ufeff"),
        ("\u3164\u034f\ufe0f\u2800\uffa0", "\\u3164\\u034f\\ufe0f\\u2800\\uffa0"),
        ("\ud800\U000e0101\U000e0041", "\\ud800\\U000e0101\\U000e0041"),
    ],
)
def test_what_is_not_seen_is_escaped(text: str, expected: str) -> None:
    """Control characters, marks of direction and invisible letters are shown as escapes; other letters stay."""
    assert printable(text) == expected
    assert is_printable(expected)


@MODEST
@given(st.text())
def test_printable_text_is_one_line_without_format_characters(text: str) -> None:
    """Whatever is given, what comes out moves nothing, turns nothing round, and stays as it is the second time."""
    found = printable(text)
    assert not {unicodedata.category(letter) for letter in found} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert len(found.splitlines()) <= 1
    assert printable(found) == found
