from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from portspec.web.globs import matcher

TEXT = st.text(alphabet="ab*?[]!-\\^.\n{", max_size=12)


@given(TEXT, TEXT)
def test_glob_matches_as_fnmatch_does(glob: str, text: str) -> None:
    """A glob means what fnmatchcase() says."""
    assert bool(matcher(glob)(text)) == fnmatchcase(text, glob)


def test_many_stars_are_tried_once_each() -> None:
    """A glob of nothing but stars and letters does not try every way to share out the text."""
    assert not matcher("*a" * 127 + "b")("a" * 253)
