"""How a deviation is accepted: the change of conf.yml, the command that makes it, and how the page writes it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from portspec.config.acceptance import edited
from portspec.config.proposal import Request, diff, read_request
from portspec.config.rewrite import ChangedError, editable_file, rewrite
from portspec.config.yaml_document import read_bytes
from portspec.errors import PortspecError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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
        query: What the button sends that writes this very change; "" if nothing is written from here.
        link: Where the change can be proposed; "" without.
    """

    request: Request
    diff: str
    problem: str
    command: str
    query: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What conf.yml says of acceptances: where it is, whether it is written from the page, and where to propose it."""

    path: str
    is_written: bool
    link: str | None


class AcceptError(ValueError):
    """The address of the page makes no sense; the message says which parameter."""


def read_address(host: str, query: MultiMapping[str], others: Collection[str] = ()) -> Request:
    """Return what an address asks for, which may have `others` as parameters. Raises AcceptError."""
    known = ("what", "way", "until", "reason", "owner", *others)
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


def accept_page(terms: Terms, request: Request, now: float, environment: Mapping[str, str] = os.environ) -> AcceptPage:
    """Return the page at a Unix time; blocks for conf.yml."""
    path, command = terms.path, _command(terms.path, request)
    try:
        acceptance = read_request(request, now)
        before = read_bytes(Path(path))
        after = edited(path, before, acceptance, environment)
    except (PortspecError, OSError) as error:
        return AcceptPage(request, "", str(error), command)
    if after == before:
        return AcceptPage(request, "", "", command)
    text = diff(path, before, after)
    shown = replace(request, until=acceptance.until)  # a duration counts from when the change was shown
    return AcceptPage(
        request,
        text,
        "",
        command,
        query=_query(shown, before) if terms.is_written else "",
        link=_link(terms.link, request, path, text, command) if terms.link else "",
    )


def write_acceptance(
    path: str, request: Request, shown: str, now: float, environment: Mapping[str, str] = os.environ
) -> None:
    """Write into conf.yml what the page has shown, when the file had the checksum `shown`; blocks for the file.

    Raises ChangedError if the file is another one by now, and PortspecError or OSError; nothing is written then.
    """
    acceptance = read_request(request, now)
    file = editable_file(path)
    before = read_bytes(Path(path))
    if _checksum(before) != shown:
        raise ChangedError(f"{path} was changed meanwhile; nothing is written. Look at the change again")
    after = edited(path, before, acceptance, environment)
    if after != before:
        rewrite(path, file, before, after)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _query(request: Request, before: bytes) -> str:
    pairs = [
        ("what", ",".join(request.what)),
        ("way", request.way),
        ("until", request.until),
        ("reason", request.reason),
        ("owner", request.owner),
        ("shown", _checksum(before)),
    ]
    return urlencode([(name, value) for name, value in pairs if value], errors="replace")


def _link(template: str, request: Request, path: str, text: str, command: str) -> str:
    what = ", ".join(request.what)
    end = f" until {request.until}" if request.until else ""
    values = {
        "title": f"{request.way if not end else 'accept'} {what} of {request.host}{end}",
        "host": request.host,
        "what": what,
        "path": path,
        "diff": text,
        "command": command,
    }
    return re.sub(r"\{([a-z]+)\}", lambda found: quote(values[found[1]], safe="", errors="replace"), template)


def _command(path: str, request: Request) -> str:
    words = ["portspec", "accept", "-c", path, request.host, *request.what, f"--{request.way}"]
    if request.way == "until":
        words.append(request.until)
        words += [
            word for name in ("reason", "owner") if (text := getattr(request, name)) for word in (f"--{name}", text)
        ]
    return shlex.join(words)
