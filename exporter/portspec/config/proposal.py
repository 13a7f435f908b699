"""What somebody asks to have accepted, and how it changes conf.yml: for the command `accept` and for the page. Pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from portspec.config.acceptance import Acceptance, Way
from portspec.config.fields import read_identifier
from portspec.errors import UsageError, printable
from portspec.ports import NO_PORTS, PortError, parse_ports
from portspec.times import is_number, parse_duration, read_until

# CVE-2026-12345, DSA-6789-1, ALAS2-2026-1, GHSA-…, a UUID of VuXML, or the title of what has no id.
_ID: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9:.]+)+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=.*[A-Za-z]).*[A-Za-z].*\s.+"
)
# A secret, wherever it stands in a line; the name of a file is none.
_SECRET: Final = re.compile(
    r"""([\w-]*(?:password|passphrase|token)(?!\w*_file|\w*_command)\w*["']?\s*:\s*)("[^"]*"|'[^']*'|[^\s,}#][^,}#]*)"""
)
_CONTEXT: Final = 2  # lines beside a change that the diff shows


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        host: The host that it is about, as conf.yml calls it.
        what: Ports, as conf.yml spells them, or ids of vulnerabilities.
        way: What becomes of the ports, see Acceptance.
        until: The end of an exception: a duration, a day or a time.
        reason: Why, for an exception.
        owner: Who is responsible, for an exception.
    """

    host: str
    what: tuple[str, ...]
    way: Way
    until: str = ""
    reason: str = ""
    owner: str = ""


def read_request(request: Request, now: float) -> Acceptance:
    """Return what a request means at a Unix time. Raises UsageError."""
    is_exception = request.way == "until"
    if printable(request.host) != request.host or set(request.host) & set("*?["):
        raise UsageError(f'"{printable(request.host)}" is not a host; name one host, or a CIDR of the configuration')
    ports, ids = NO_PORTS, []
    for word in request.what:
        try:
            ports |= parse_ports(word)
        except PortError as error:
            if not _ID.fullmatch(word.strip()):
                raise UsageError(str(error)) from None
            ids.append(_identifier(word.strip()))
    if ports and ids:
        raise UsageError("ports and ids of vulnerabilities are accepted in two commands")
    if ids and not is_exception:
        raise UsageError("a vulnerability is accepted for a while: give --until 1w, or --until 2027-03-31")
    for option, text in (("--reason", request.reason), ("--owner", request.owner)):
        if text and not is_exception:
            raise UsageError(f"{option} belongs to an exception, which needs --until")
        if printable(text) != text:
            raise UsageError(f"{option}: the text has characters that cannot be seen")
    until = _end(request.until, now) if is_exception else ""
    return Acceptance(request.host, request.way, ports, tuple(ids), until, request.reason, request.owner)


def _identifier(word: str) -> str:
    try:
        read_identifier(word)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return word


def _end(text: str, now: float) -> str:
    """Return the end of an exception as conf.yml spells it: a duration counts from now. Raises UsageError."""
    if is_number(text):
        raise UsageError(f'--until: "{text}" has no unit; write for example "{text}d"')
    try:
        seconds = parse_duration(text)
    except ValueError:
        try:
            if read_until(text) > now:
                return text
        except ValueError:
            expected = 'a duration such as "1w", a day, "2027-03-31", or a time, "2027-03-31T18:00:00Z"'
            raise UsageError(f'--until: "{text}" is no end of an exception (expected {expected})') from None
        raise UsageError(f"--until: {text} is in the past") from None
    if seconds <= 0:
        raise UsageError(f"--until: {text} is in the past")
    try:
        end = datetime.fromtimestamp(now, UTC) + timedelta(seconds=seconds)
    except OverflowError:
        raise UsageError(f"--until: {text} is too long") from None
    return end.strftime("%Y-%m-%dT%H:%M:%SZ")


def diff(path: str, before: bytes, after: bytes) -> str:
    """Return what changes as `diff -u` shows it, without secrets in the lines beside it."""
    old, new = (data.decode("utf-8-sig").splitlines() for data in (before, after))
    lines = difflib.unified_diff(old, new, path, path, lineterm="", n=_CONTEXT)
    return "".join(printable(_SECRET.sub(r"\1…", line)) + "\n" for line in lines)
