"""The shape of conf.yml in pydantic, and its errors in portspec's words."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from portspec.config.duration import parse_duration
from portspec.config.hostname import check_host
from portspec.ports import PortSet, parse_ports

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from portspec.config.source import KeyPath

# Keys of the design whose feature this version does not have: refused, so that nobody relies on them.
PLANNED = {
    (): {"exceptions", "discovery", "audit", "state", "reportfile"},
    ("hosts", "*"): {"audit"},
    ("scan",): {"confirm"},
}


def _items(value: object) -> object:
    """Let a single port stand for a list of one, and nothing for none."""
    if value is None:
        return []
    return [value] if isinstance(value, int | str | float) else value


def _items_if_any(value: object) -> object:
    return None if value is None else _items(value)


def _seconds(value: object) -> float:
    seconds = parse_duration(value)
    if not 1 <= seconds <= 366 * 86400:
        raise ValueError("expected a duration between 1 second and 366 days")
    return seconds


def _timeout(value: object) -> float:
    seconds = parse_duration(value)
    if not 0.01 <= seconds <= 60:  # noqa: PLR2004 - the range is in the message
        raise ValueError("expected a duration between 0.01 and 60 seconds")
    return seconds


def _whole(low: int, high: int) -> BeforeValidator:
    def check(value: object) -> int:
        text = value.strip() if isinstance(value, str) else value
        if isinstance(text, str) and re.fullmatch(r"[0-9]{1,9}", text):
            text = int(text)
        if isinstance(text, bool) or not isinstance(text, int) or not low <= text <= high:
            raise ValueError(f"expected a whole number between {low:,} and {high:,}")
        return text

    return BeforeValidator(check)


def _rate(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 10_000_000:  # noqa: PLR2004 - below
        raise ValueError("expected probes per second, 1 to 10,000,000 (leave the key out for no limit)")
    return float(value)


def _flag(value: object) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    flag = words.get(str(value).lower()) if isinstance(value, bool | str) else None
    if flag is None:
        raise ValueError("expected true or false")
    return flag


def _engine(value: object) -> str:
    if not isinstance(value, str) or value not in {"auto", "syn", "connect"}:
        raise ValueError('expected "auto", "syn" or "connect"')
    return str(value)


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("expected a text (put it in quotes)")  # noqa: TRY004 - pydantic takes ValueError
    return str(value)


def _label_name(name: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) or name.startswith("__"):
        raise ValueError(f'"{name}" is not a label name (letters, digits and _, no digit first, no __ first)')
    if name == "host":
        raise ValueError('"host" is the label that names the host itself; choose another name')
    return name


def _mailing(value: object) -> bool:
    if _flag(value):
        raise ValueError("this version sends no mail yet; set it to false and let Alertmanager notify")
    return False


def _address(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+", text):
        raise ValueError(f'"{text}" is not an e-mail address')
    return text


def _smtp_server(value: object) -> str:
    text = _text(value)
    try:
        if "/" in text:
            raise ValueError  # noqa: TRY301 - as check_host, which takes a CIDR
        return check_host(text)
    except ValueError:  # the value is not quoted: smtp://user:password@server has a secret in it
        raise ValueError(
            "expected the name or address of a mail server, without scheme and port (smtpport takes the port)"
        ) from None


def _readable(value: object, info: ValidationInfo) -> str:
    """Take the path of a file that holds a secret, relative to conf.yml, and see that it can be read."""
    path = Path(info.context or ".") / _text(value)
    try:
        path.read_text(encoding="utf-8")
    except (OSError, UnicodeError, ValueError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "not a text file"
        raise ValueError(f'the file "{path}" cannot be read: {why}') from None
    return str(path)


Ports = Annotated[list[Annotated[PortSet, BeforeValidator(parse_ports)]], BeforeValidator(_items)]
OptionalPorts = Annotated[list[Annotated[PortSet, BeforeValidator(parse_ports)]] | None, BeforeValidator(_items_if_any)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Interval = Annotated[float, BeforeValidator(_seconds)]
Rate = Annotated[float | None, BeforeValidator(_rate)]
Text = Annotated[str, BeforeValidator(_text)]
MailAddress = Annotated[str, BeforeValidator(_address)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True)


class HostModel(_Strict):
    """The mapping form of a host; a list of ports is short for `expect`."""

    expect: Ports = []
    allow: Ports = []
    scanports: OptionalPorts = None
    interval: Interval | None = None
    labels: dict[Annotated[str, AfterValidator(_label_name)], Text] = {}


class ScanModel(_Strict):
    """The `scan` block."""

    engine: Annotated[Literal["auto", "syn", "connect"], BeforeValidator(_engine)] = "auto"
    rate: Rate = None
    host_rate: Rate = None
    timeout: Annotated[float, BeforeValidator(_timeout)] = 0.9
    retries: Annotated[int, _whole(0, 10)] = 2


def _host(value: object) -> object:
    return value if isinstance(value, dict) else {"expect": _host_ports(value)}


def _host_ports(value: object) -> object:
    if isinstance(value, list | int | str | float | None):
        return _items(value)
    raise ValueError("expected a list of ports or a mapping with expect, allow, …")


class ConfModel(_Strict):
    """A whole file. The keys of mail are those of PortSpec."""

    interval: Interval = 3600.0
    ipv6: Flag = False
    parallelscans: Annotated[int, _whole(1, 10_000)] = 10
    hosts: dict[Annotated[str, AfterValidator(check_host)], Annotated[HostModel, BeforeValidator(_host)]]
    scanports: Ports = []
    scan: ScanModel = ScanModel()
    sendemail: Annotated[bool, BeforeValidator(_mailing)] = False
    smtpserver: Annotated[str | None, BeforeValidator(_smtp_server)] = None
    smtpport: Annotated[int, _whole(1, 65535)] = 587
    smtpusername: Text | None = None
    smtppassword: Text | None = None
    smtppassword_file: Annotated[str | None, BeforeValidator(_readable)] = None
    alertemail: Annotated[list[MailAddress], BeforeValidator(_items)] = []
    fromemail: MailAddress | None = None


_MODELS: dict[tuple[str, ...], type[BaseModel]] = {(): ConfModel, ("hosts", "*"): HostModel, ("scan",): ScanModel}
_SHORT_FORM = "expect"


def describe(error: ErrorDetails) -> tuple[KeyPath, str]:
    """Give the path in the file and the message of one pydantic error."""
    path = error["loc"]
    if error["type"] == "value_error" and path[-1] == "[key]":  # how pydantic marks that the key itself is wrong
        path = path[:-1]
    match error["type"]:
        case "value_error":
            message = str(error["ctx"]["error"])
        case "extra_forbidden":
            message = _unknown_key(path)
        case "missing":
            message = "missing; it names the hosts to scan, each with the ports that should be open"
        case "model_type" | "model_attributes_type" | "dict_type":
            message = "expected a mapping (key: value)"
        case "list_type":
            message = "expected a list"
        case _:
            message = f"not valid: {error['msg'].lower()}"
    return path, message


def _unknown_key(path: KeyPath) -> str:
    *above, key = path
    place = tuple("*" if above[:1] == ["hosts"] and index == 1 else str(step) for index, step in enumerate(above))
    if key in PLANNED.get(place, ()):
        return "this version does not have this feature yet; remove the key"
    known = sorted(_MODELS[place].model_fields)
    close = (
        ["expect"]
        if key in ("port", "ports") and "expect" in known
        else difflib.get_close_matches(str(key), known, n=1)
    )
    return f"unknown key (did you mean {close[0]}?)" if close else f"unknown key (known: {', '.join(known)})"


def plain_host_path(path: KeyPath, raw_hosts: object) -> KeyPath:
    """Take `expect` off a path where the file has the short form, a list of ports."""
    if len(path) > 2 and path[0] == "hosts" and path[2] == _SHORT_FORM:  # noqa: PLR2004 - hosts, name, expect
        value: Any = raw_hosts.get(path[1]) if isinstance(raw_hosts, dict) else None
        if not isinstance(value, dict):
            return (*path[:2], *path[3:])
    return path
