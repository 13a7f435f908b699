"""`portspec maintenance`: have the exporter of the systemd unit alert nobody about hosts for a while."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from portspec.cli.control import FAILURES, ask, no_answer, socket_path
from portspec.cli.output import write
from portspec.errors import PortspecError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH: Final = "/api/v1/maintenance"
_INSTEAD: Final = (
    "`portspec maintenance` works with the systemd unit only; any other exporter takes "
    f"`curl -X POST 'http://localhost:10190{PATH}?host=HOST&for=2h'`, and every exporter `maintenance` in its conf.yml"
)


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for.

    Attributes:
        hosts: The hosts that it is about, as conf.yml calls them.
        duration: How long maintenance lasts, a duration; "" if `until` tells, or nothing begins.
        until: Its end, a duration, a day or a time; "" if `duration` tells, or nothing begins.
        reason: Why.
        owner: Who is responsible.
        ends: Whether maintenance ends now.
        lists: Whether all maintenance is listed.
    """

    hosts: tuple[str, ...]
    duration: str | None = None
    until: str | None = None
    reason: str = ""
    owner: str = ""
    ends: bool = False
    lists: bool = False


def maintenance(request: Request, environment: Mapping[str, str]) -> int:
    """Ask for maintenance, its end or the list of it, and print what lasts then.

    Raises PortspecError if no exporter answers, or it refuses; UsageError for arguments that do not fit.
    """
    _check(request)
    method = "GET" if request.lists else "DELETE" if request.ends else "POST"
    pairs = [("host", host) for host in request.hosts]
    pairs += [("for", request.duration)] if request.duration is not None else []
    pairs += [("until", request.until)] if request.until is not None else []
    pairs += [(name, text) for name, text in (("reason", request.reason), ("owner", request.owner)) if text]
    path = socket_path(environment)
    query = urlencode(pairs, errors="surrogateescape")
    try:
        status, text = ask(path, method, f"{PATH}?{query}" if query else PATH)
    except FAILURES as error:
        raise no_answer(path, error, _INSTEAD) from None
    answer = _parsed(text)
    if status != http.client.OK or answer is None or "maintenance" not in answer:
        told = answer.get("detail") if answer else None
        raise PortspecError(str(told or f"the exporter at {path} does not know maintenance (HTTP {status})"))
    found = [_line(item) for item in answer["maintenance"]]
    if not found:
        found = (
            ["no maintenance"] if request.lists else [f"{printable(host)}: no maintenance" for host in request.hosts]
        )
    write("".join(f"{line}\n" for line in found))
    return 0


def _check(request: Request) -> None:
    if not (request.hosts or request.lists):
        raise UsageError("name the HOST whose maintenance begins or ends, or give --list")
    if (request.reason or request.owner) and request.duration is None and request.until is None:
        raise UsageError("--reason and --owner belong to maintenance that begins: give --for 2h, or --until")


def _parsed(text: str) -> dict[str, Any] | None:
    """Return the JSON object of an answer; None if it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _line(item: Mapping[str, Any]) -> str:
    """Return the line of a time of maintenance."""
    what = "maintenance" if item["lasts"] else f"maintenance from {item['from']}"
    told = [f"{name}: {item[name]}" for name in ("reason", "owner") if item[name]]
    told += ["conf.yml"] if item["source"] == "conf.yml" else []
    more = f" ({'; '.join(told)})" if told else ""
    return printable(f"{item['host']}: {what} until {item['until']}{more}")
