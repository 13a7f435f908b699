"""Why a list cannot be used."""

from __future__ import annotations


class FeedError(Exception):
    """A list that cannot be used; the message says why, as the rest of a sentence that begins with "the list"."""
