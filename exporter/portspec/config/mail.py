"""The keys of mail: PortSpec's, at the top level of conf.yml, and those beside them."""

from __future__ import annotations

import ipaddress
import re
import ssl
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator

from portspec import files
from portspec.config.fields import STRICT, Command, Interval, ReadableFile, Text, base_url, items, whole
from portspec.config.model import MailConfig, Mailing, SmtpTls
from portspec.errors import shorten
from portspec.names import check_host
from portspec.times import parse_duration

if TYPE_CHECKING:
    from typing import Any

    from portspec.config.yaml_document import YamlDocument

IMPLICIT_TLS_PORT = 465  # RFC 8314, 3.3
_CREDENTIALS = ("smtppassword", "smtppassword_file", "smtptokencommand")
_SENDEMAIL_REQUIRES = ("smtpserver", "alertemail", "fromemail")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322, 3.2.3
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_ADDRESS = re.compile(
    rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@(?:{_LABEL}(?:\.{_LABEL})*|\[(?P<literal>[0-9A-Fa-f.:IPv]+)\])"
)
_MAX_LOCAL, _MAX_ADDRESS = 64, 254  # RFC 5321, 4.5.3.1, with the path's brackets taken off
_REMIND_RANGE = (60.0, 366 * 86_400.0)


def _mailing(value: object) -> str:
    words = {"true": "on", "yes": "on", "on": "on", "false": "off", "no": "off", "off": "off", "fallback": "fallback"}
    found = words.get(str(value).lower()) if isinstance(value, bool | str) else None
    if found is None:
        raise ValueError('expected true, false or "fallback"')
    return found


def _tls(value: object) -> str:
    # an unquoted `no` is false in YAML, and so is "off": nobody shall lose TLS by a word that means something else
    if not isinstance(value, str) or value not in {"starttls", "implicit", "none"}:
        raise ValueError('expected "starttls", "implicit" (TLS from the first byte, as on port 465) or "none"')
    return value


def _is_literal(text: str) -> bool:
    """Return whether this is an address as it stands in brackets: 192.0.2.1 or IPv6:2001:db8::1 (RFC 5321, 4.1.3)."""
    try:
        if text.startswith("IPv6:"):
            ipaddress.IPv6Address(text.removeprefix("IPv6:"))
        else:
            ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def check_address(text: str) -> str:
    """Return an e-mail address back; ValueError if it is not one (a mailbox of RFC 5321, 4.1.2, without quotes)."""
    found = _ADDRESS.fullmatch(text)
    is_address = found is not None and len(found["local"]) <= _MAX_LOCAL and len(text) <= _MAX_ADDRESS
    if found and found["literal"]:
        is_address = is_address and _is_literal(found["literal"])
    if not is_address or re.search(r"=\?.*\?=", text):  # an encoded word (RFC 2047, 2)
        why = "; only ASCII is supported" if not text.isascii() else ""
        raise ValueError(
            f'"{shorten(text)}" is not an e-mail address (expected for example "security@example.org"{why})'
        )
    return text


def _address(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("expected an e-mail address")  # noqa: TRY004 - pydantic takes ValueError
    return check_address(str(value).strip())


def _different(addresses: list[str]) -> list[str]:
    """Remove duplicate addresses, whatever their case."""
    different: dict[str, str] = {}
    for address in addresses:
        different.setdefault(address.lower(), address)
    return list(different.values())


def _smtp_server(value: object) -> str:
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    try:
        if "/" in text:
            raise ValueError  # noqa: TRY301 - as check_host, which takes a CIDR
        return check_host(text)
    except ValueError:  # the value is not quoted: smtp://user:password@server has a secret in it
        raise ValueError(
            "expected the name or address of a mail server, without scheme and port (set the port with smtpport)"
        ) from None


def _authorities(path: str | None) -> str | None:
    """Check that a file contains certificates."""
    if path is not None:
        try:
            files.require_regular(path)
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except (OSError, ValueError):
            raise ValueError(f'the file "{path}" contains no CA certificate (PEM)') from None
    return path


def _remind(value: object) -> float:
    seconds = parse_duration(value)
    if seconds and not _REMIND_RANGE[0] <= seconds <= _REMIND_RANGE[1]:
        raise ValueError("expected a duration between 1 minute and 366 days, or 0 for no reminders")
    return seconds


def _alertmanager(value: object) -> str:
    """Validate a URL; no message quotes it, since it may contain a secret."""
    found = base_url(value)
    if found is None:
        raise ValueError("expected the URL of an Alertmanager, such as http://127.0.0.1:9093")
    return found


Addresses = Annotated[
    list[Annotated[str, BeforeValidator(_address)]], BeforeValidator(items), AfterValidator(_different)
]


class MailModel(BaseModel):
    """The keys, which stand beside the others."""

    model_config = STRICT

    sendemail: Annotated[Mailing, BeforeValidator(_mailing)] = "off"
    smtpserver: Annotated[str, BeforeValidator(_smtp_server)] | None = None
    smtpport: Annotated[int, whole(1, 65535)] = 587
    smtptls: Annotated[SmtpTls, BeforeValidator(_tls)] | None = None
    smtpcafile: Annotated[ReadableFile, AfterValidator(_authorities)] = None
    smtpusername: Text | None = None
    smtppassword: Text | None = None
    smtppassword_file: ReadableFile = None
    smtptokencommand: Command = ()
    alertemail: Addresses = []
    fromemail: Annotated[str, BeforeValidator(_address)] | None = None
    remind: Annotated[float, BeforeValidator(_remind)] = 86_400.0
    alertmanager: Annotated[str, BeforeValidator(_alertmanager)] | None = None
    fallback_after: Interval = 300.0


def _check_credentials(source: YamlDocument, raw: dict[str, Any]) -> None:
    for name in _CREDENTIALS:
        if name in raw and raw.get("smtpusername") is None:
            source.problem((name,), "requires smtpusername")
    if "smtppassword" in raw and "smtppassword_file" in raw:
        source.problem(("smtppassword_file",), "conflicts with smtppassword; set only one")
    given = [name for name in _CREDENTIALS if raw.get(name) is not None]
    if "smtptokencommand" in given and given[0] != "smtptokencommand":
        source.problem(("smtptokencommand",), f"conflicts with {given[0]}; set a token or a password")
    if raw.get("smtpusername") is not None and not given:
        source.problem(("smtpusername",), f"requires one of {', '.join(_CREDENTIALS)}")


def check_mail(source: YamlDocument, raw: dict[str, Any]) -> None:
    """Check what concerns several keys."""
    _check_credentials(source, raw)
    if raw.get("smtptls") == "none" and raw.get("smtpusername") is not None:
        source.problem(("smtptls",), '"none" conflicts with smtpusername: credentials are never sent without TLS')
    if raw.get("smtptls") == "none" and raw.get("smtpcafile") is not None:
        source.problem(("smtpcafile",), 'conflicts with smtptls: "none", which checks no certificate')
    try:
        mode = _mailing(raw.get("sendemail", False))
    except ValueError:
        return  # told by the key itself
    if mode != "off" and (missing := [name for name in _SENDEMAIL_REQUIRES if raw.get(name) in (None, [], "")]):
        source.problem(("sendemail",), f"requires {' and '.join(missing)}")
    if mode == "fallback" and raw.get("alertmanager") is None:
        source.problem(("sendemail",), '"fallback" requires alertmanager, the URL of the Alertmanager that it watches')


def mail_config(model: MailModel) -> MailConfig | None:
    """Return the settings; None where there are none that a mail could be sent with."""
    if model.smtpserver is None or model.fromemail is None or not model.alertemail:
        return None
    return MailConfig(
        mode=model.sendemail,
        server=model.smtpserver,
        port=model.smtpport,
        tls=model.smtptls or ("implicit" if model.smtpport == IMPLICIT_TLS_PORT else "starttls"),
        ca_file=model.smtpcafile,
        username=model.smtpusername,
        password=model.smtppassword,
        password_file=model.smtppassword_file,
        token_command=model.smtptokencommand,
        sender=model.fromemail,
        recipients=tuple(model.alertemail),
        remind=model.remind,
        alertmanager=model.alertmanager,
        fallback_after=model.fallback_after,
    )
