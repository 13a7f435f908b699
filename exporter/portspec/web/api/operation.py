"""What an operation of the API is: a method of a path, its parameters, and what it answers.

Requests are checked by it, and the OpenAPI document is written from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from portspec.web.problems import CONTENT_TYPE as PROBLEM
from portspec.web.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON: Final = "application/json"
CSV: Final = "text/csv"
XML: Final = "application/xml"
#: The statuses that a gate, a busy or a starting exporter answers on any path.
EVERYWHERE: Final = {
    401: "a user or a token is required, or is wrong",
    403: "this user, token or address may not do this",
    413: "a body is not expected, or is too large",
    421: "the header Host is not a name of this exporter",
    429: "the rate limit is reached; Retry-After says when to ask again",
    500: "a fault; the log says more",
    503: "the exporter starts or is busy, or the state file cannot be read; Retry-After says when to ask again",
}


class NoQuery(msgspec.Struct, frozen=True):
    """No parameters."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is described: what it means, and by media type what it is; None is text of that type."""

    meaning: str
    contents: Mapping[str, Any] = field(default_factory=dict)


def problems(**meanings: str) -> dict[int, Answer]:
    """Return answers that are problem documents: `problems(_404="there is no such host")`."""
    return {int(name[1:]): Answer(meaning, {PROBLEM: Problem}) for name, meaning in meanings.items()}


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path.

    Attributes:
        method: GET (which has HEAD, too) or POST.
        path: The path, in the spelling that aiohttp and OpenAPI share.
        name: The operationId.
        summary: What it does, in half a sentence.
        answers: What it answers by status, beside EVERYWHERE.
        query: The parameters of the query; others are refused.
        in_path: The meaning of each variable of the path.
        body: The media type of the body, "" for none.
        tag: The group of a reader.
    """

    method: str
    path: str
    name: str
    summary: str
    answers: Mapping[int, Answer]
    query: type[msgspec.Struct] = NoQuery
    in_path: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    tag: str = "hosts"
