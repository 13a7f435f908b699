"""How a deviation is accepted: the change of conf.yml, and the command that makes it. Writes nothing."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portspec.config.acceptance import edited
from portspec.config.proposal import Request, diff, read_request
from portspec.config.yaml_document import read_bytes
from portspec.errors import PortspecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multidict import MultiMapping

    from portspec.config.acceptance import Way

WAYS: Final[Mapping[str, Way]] = {"expect": "expect", "allow": "allow", "until": "until"}
_MAX_TEXT: Final = 500  # characters of a field
_DEFAULT_END: Final = "1w"


@dataclass(frozen=True, slots=True)
class AcceptPage:
    """The page.

    Attributes:
        request: What is asked for.
        diff: How conf.yml changes, as `diff -u` shows it; "" if it has this already, or cannot be changed.
        problem: Why it cannot be changed, and what to write instead; "" if it can.
        command: The command that makes the change.
    """

    request: Request
    diff: str
    problem: str
    command: str


class AcceptError(ValueError):
    """The address of the page makes no sense; the message says which parameter."""


def read_address(host: str, query: MultiMapping[str]) -> Request:
    """Return what the address of the page asks for. Raises AcceptError."""
    known = ("what", "way", "until", "reason", "owner")
    for name in query:
        if name not in known:
            raise AcceptError(f'"{name[:_MAX_TEXT]}" is not a parameter of this page (known: {", ".join(known)})')
    if any(len(text) > _MAX_TEXT for text in query.values()):
        raise AcceptError(f"a parameter has more than {_MAX_TEXT} characters")
    way = query.get("way") or "until"
    if way not in WAYS:
        raise AcceptError(f'way: "{way}" is not known (known: {", ".join(WAYS)})')
    what = tuple(word for text in query.getall("what", []) for word in text.split(",") if word.strip())
    if not what:
        raise AcceptError("what: missing; name the ports, or the ids of vulnerabilities")
    is_exception = way == "until"
    return Request(
        host,
        what,
        WAYS[way],
        (query.get("until") or _DEFAULT_END) if is_exception else "",
        query.get("reason", "") if is_exception else "",
        query.get("owner", "") if is_exception else "",
    )


def accept_page(path: str, request: Request, now: float, environment: Mapping[str, str] = os.environ) -> AcceptPage:
    """Return the page for a conf.yml at a path, at a Unix time; blocks for the file."""
    try:
        acceptance = read_request(request, now)
        before = read_bytes(Path(path))
        after = edited(path, before, acceptance, environment)
    except (PortspecError, OSError) as error:
        return AcceptPage(request, "", str(error), _command(path, request))
    return AcceptPage(request, diff(path, before, after) if after != before else "", "", _command(path, request))


def _command(path: str, request: Request) -> str:
    words = ["portspec", "accept", "-c", path, request.host, *request.what, f"--{request.way}"]
    if request.way == "until":
        words.append(request.until)
        words += [
            word for name in ("reason", "owner") if (text := getattr(request, name)) for word in (f"--{name}", text)
        ]
    return shlex.join(words)
