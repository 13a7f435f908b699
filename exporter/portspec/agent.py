#!/usr/bin/env python3
"""portspec-send: audits this host, and sends the signed result to portspec by HTTP or by mail.

This file runs on the audited hosts, copied by hand: Python 3.8 or later on FreeBSD or Linux, nothing but the standard
library, and nothing of the package that it comes with. `portspec-send --help` says how it is set up.

The way of an audit: the audit tool runs, the listening sockets are gathered, both become one JSON object, and that is
signed with the key of this host. It goes into the spool first, and out of it when it has arrived, so that neither a
server that is down nor a crash loses it, and it is sent again with the very bytes that were signed, by which portspec
knows what it has already. The envelope is that of portspec/audit/envelope.py; a test holds this file to it.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import email.message
import email.policy
import email.utils
import enum
import fcntl
import functools
import gzip
import hashlib
import hmac
import http.client
import ipaddress
import itertools
import json
import os
import pwd
import random
import re
import secrets
import selectors
import shlex
import shutil
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

VERSION = "0.2.0"  # that of the package; a test holds it to that
AGENT = f"portspec-send {VERSION}"
CONTENT_TYPE = "application/vnd.portspec.audit"
ANSWER_SIGNATURE = "Portspec-Signature"

# Exit codes; the last two are EX_TEMPFAIL and EX_CONFIG of sysexits.h.
SENT, REFUSED, SPOOLED, MISCONFIGURED = 0, 1, 75, 78

CONFIGS = ("/etc/portspec-send.conf", "/usr/local/etc/portspec-send.conf")
ENVIRONMENT = "PORTSPEC_SEND_"
KEY_NAME = "portspec-send.key"  # beside the settings file
DIRECTORIES = (  # cron's PATH has two of them; the last ones are those of pkgsrc on NetBSD, and elsewhere
    *("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
    *("/usr/pkg/sbin", "/usr/pkg/bin", "/opt/local/sbin", "/opt/local/bin", "/opt/pkg/sbin", "/opt/pkg/bin"),
)
MAX_SPOOLED = 30
MAX_SET_ASIDE = 10  # audits in the spool's directory "refused"
MAX_TRIES = 10  # of an audit that fails while others arrive, or is too large
MAX_WAIT = 30 * 86_400.0  # seconds
MAX_LISTENERS = 10_000
_MAX_WORD = 1000  # characters of a text about a listener, as the server takes
_MAX_FILES = 5000  # libraries of processes that listen
_MAX_DETAILS = 1_000_000  # bytes of listeners with all that is known of them

_LONGEST_NAME = 253  # RFC 1035, 2.3.4
_MAX_ERRORS = 64 * 1024  # bytes of a tool's standard error that are kept, half from its begin, half from its end
_MAX_REPLY = 64 * 1024  # bytes of a server's answer that are read
_MAX_FILE = 1_000_000  # bytes of settings, a key or certificates that are read
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_SHORT = 30.0  # seconds for what should take a moment: the version of a tool, sockstat, a file
_SOCKET_TIMEOUT = 60.0  # seconds without a byte
_ATTEMPT_TIMEOUT = 300.0  # seconds for a whole attempt, and for sendmail
_LONGEST_PAUSE = 120.0  # seconds that a server's Retry-After may ask for
_FIRST_WAIT, _LONGEST_WAIT = 1800.0, 16 * 3600.0  # seconds between the tries of an audit; less than a day, for cron
_MAX_IN_VAIN = 600.0  # seconds of a run for tries that fail; after that only the newest audit is tried


def say(text: str) -> None:
    """Print what happened, to standard output, so that cron can be set to mail only warnings."""
    print(f"portspec-send: {printable(text)}", flush=True)


def warn(text: str) -> None:
    """Print a warning to standard error."""
    print(f"portspec-send: {printable(text)}", file=sys.stderr, flush=True)


def printable(text: str, limit: int = 2000) -> str:
    """Return a text as one line that does nothing to a terminal."""
    text = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in text)[:limit]


def readable(data: bytes) -> str:
    """Decode bytes as UTF-8; invalid bytes become a backslash, x and two hexadecimal digits."""
    return data.decode("utf-8", "backslashreplace")


# --- Settings ---------------------------------------------------------------------------------------------------------


class SettingsError(Exception):
    """An error in the settings of this host; the message says where it is and what was expected."""


def _parse_url(text: str) -> str:
    expected = "expected for example http://portspec.example.org:10190"
    if not text:
        return text
    try:
        parts = urllib.parse.urlsplit(text)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise ValueError(f"{expected} ({error})") from None
    is_plain = text.isascii() and text.isprintable() and " " not in text
    if parts.scheme not in {"http", "https"} or not has_host or parts.query or parts.fragment or not is_plain:
        raise ValueError(expected)
    return text.rstrip("/")


def _parse_address(text: str) -> str:
    # A sender becomes an argument of sendmail, so it must not look like an option.
    if text and not re.fullmatch(r"(?!-)[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+(@[A-Za-z0-9._-]+)?", text):
        raise ValueError("expected one mail address")
    return text


def _parse_host(text: str) -> str:
    """Spell a host's name or address as portspec does (names.py): its key is derived from exactly this."""
    if not text.isascii():  # Python's own codec, IDNA 2003, would take some for the name of another host
        raise ValueError("expected ASCII; write another name in its xn-- form, which `portspec key` prints")
    expected = "expected a name of letters, digits, - and _, or an address"
    name = re.sub(r"\.\Z", "", text.lower())
    if ":" in text:
        with contextlib.suppress(ValueError):
            return str(ipaddress.IPv6Address(text.replace("%", "/")))  # an address with a zone is none
        raise ValueError(expected)
    if all(re.fullmatch("[0-9]+|0x[0-9a-f]*", label) for label in name.split(".")):
        # Python before 3.8.12 takes numbers with leading zeros, which others read as octal
        if re.fullmatch(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}", text):
            with contextlib.suppress(ValueError):
                return str(ipaddress.IPv4Address(text))
        raise ValueError(f"{expected}; an IPv4 address is four numbers from 0 to 255 without leading zeros")
    is_range = "." in name and re.fullmatch(r"[0-9]+(\.[0-9]+)*-[0-9.]+", name)
    is_name = all(re.fullmatch(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", label) for label in name.split("."))
    if is_range or not is_name or len(name) > _LONGEST_NAME:
        raise ValueError(expected)
    return name


def _parse_path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("expected a path that begins with /")
    return text


def _parse_optional_path(text: str) -> str:
    return _parse_path(text) if text else text


def _parse_tool(text: str) -> str:
    if text != "auto" and text not in TOOLS:
        raise ValueError(f"expected auto, {', '.join(TOOLS)}")
    return text


def _parse_scope(text: str) -> str:
    if text not in {"system", "applications"}:
        raise ValueError("expected system or applications")
    return text


def _parse_command(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"expected a command line as a shell would read it ({str(error).lower()})") from None


def _parse_number(text: str, units: dict[str, int], low: float, high: float, expected: str) -> float:
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?) *([A-Za-z]*)", text)
    if found is None or found[2] not in units or not low <= float(found[1]) * units[found[2]] <= high:
        raise ValueError(expected)
    return float(found[1]) * units[found[2]]


def _parse_timeout(text: str) -> float:
    return _parse_number(text, _TIMES, 1, 86_400, "expected a time such as 90s, 30m or 2h, from 1s to 24h")


def _parse_pause(text: str) -> float:
    return _parse_number(text, _TIMES, 0, 3600, "expected a time such as 5s, from 0s to 1h")


def _parse_size(text: str) -> int:
    expected = "expected a size such as 500kB or 10MB, from 1kB to 100MB"
    return int(_parse_number(text, _SIZES, 1000, 100_000_000, expected))


def _parse_count(text: str) -> int:
    return int(_parse_number(text, {"": 1}, 0, 10, "expected a number from 0 to 10"))


_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600}
_SIZES = {"": 1, "kB": 1000, "MB": 1_000_000}


class Setting(NamedTuple):
    """A key of the settings: how its value is read (ValueError says what was expected), and what it means."""

    parse: Callable[[str], Any]
    meaning: str


KEYS: dict[str, Setting] = {
    "url": Setting(
        _parse_url,
        "URL of portspec, to send by HTTP, such as https://portspec.example.org:10190 (http without TLS)",
    ),
    "ca_file": Setting(
        _parse_optional_path, "PEM file with the CA that signed the server's certificate, if it is a private one"
    ),
    "cert_file": Setting(
        _parse_optional_path, "PEM file with the client certificate of this host, for a server that requires one"
    ),
    "cert_key_file": Setting(
        _parse_optional_path, "PEM file with the key of cert_file, mode 0600 (default: it is in cert_file)"
    ),
    "token_file": Setting(
        _parse_optional_path, "file with a token for a server that requires one, mode 0600 (Authorization: Bearer)"
    ),
    "mail_to": Setting(_parse_address, "address of portspec, to send by mail instead of HTTP"),
    "mail_from": Setting(_parse_address, "sender of the mail (default: the user that runs portspec-send, at host)"),
    "sendmail": Setting(_parse_path, "program that sends the mail (default: /usr/sbin/sendmail)"),
    "host": Setting(_parse_host, "name of this host in portspec's conf.yml (default: the host name of the machine)"),
    "key_file": Setting(_parse_path, f"file with the key of this host, mode 0600 (default: {KEY_NAME} beside FILE)"),
    "tool": Setting(_parse_tool, "audit tool: auto (default), or one of the tools listed below"),
    "scope": Setting(
        _parse_scope,
        "what the audit covers: system (default) for the packages of the system and everything else that the tool "
        "finds, or applications for only what the command examines (default with tool = pip-audit)",
    ),
    "command": Setting(_parse_command, "command line instead of the tool's own; tool names the format of its output"),
    "timeout": Setting(_parse_timeout, "time limit of the tool (default: 30m)"),
    "max_output": Setting(_parse_size, "size limit of the tool's output (default: 10MB)"),
    "spool": Setting(_parse_path, "directory of audits that wait to be sent (default: /var/spool/portspec-send)"),
    "retries": Setting(_parse_count, "number of retries before an audit waits for the next run (default: 3)"),
    "pause": Setting(_parse_pause, "wait before the first retry, doubled before each further retry (default: 5s)"),
}


@dataclass(frozen=True)
class Settings:
    """What was set, by file, environment and flags; "" where nothing is."""

    url: str = ""
    ca_file: str = ""
    cert_file: str = ""
    cert_key_file: str = ""
    token_file: str = ""
    mail_to: str = ""
    mail_from: str = ""
    sendmail: str = "/usr/sbin/sendmail"
    host: str = ""
    key_file: str = ""
    tool: str = "auto"
    scope: str = ""
    command: tuple[str, ...] = ()
    timeout: float = 1800.0
    max_output: int = 10_000_000
    spool: str = "/var/spool/portspec-send"
    retries: int = 3
    pause: float = 5.0


def read_settings(text: str, where: str) -> dict[str, Any]:
    """Read the settings file: `key = value` lines, empty ones, and those that begin with #."""
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in stripped.partition("="))
        if not equals:
            raise SettingsError(f'{where}:{number}: "{stripped[:100]}" is not a setting, expected key = value')
        if name in lines:
            raise SettingsError(f"{where}:{number}: {name} is already set on line {lines[name]}")
        values[name] = _read_value(name, value, f"{where}:{number}: ")
        lines[name] = number
    return values


def _read_value(name: str, value: str, where: str) -> Any:
    if name not in KEYS:
        raise SettingsError(f'{where}"{name[:100]}" is not a key, expected one of {", ".join(KEYS)}')
    if "\0" in value:
        raise SettingsError(f"{where}{name}: expected a string without NUL")
    try:
        return KEYS[name].parse(value)
    except ValueError as error:
        raise SettingsError(f'{where}{name} is "{value[:200]}", {error}') from None


def gather_settings(config: str | None, environ: dict[str, str], flags: dict[str, str]) -> Settings:
    """Read the file, then the environment over it, then the flags; and fill in what depends on others.

    `config` is the file's path, None for the first of CONFIGS that is there, if any.
    """
    config = config or environ.get(f"{ENVIRONMENT}CONFIG")
    path = config or next((each for each in CONFIGS if os.path.lexists(each)), None)
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = read_settings(_read_own(path).decode("utf-8-sig"), path)
        except OSError as error:
            raise SettingsError(f"{path}: {_reason(error)}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{path}: is not UTF-8") from None
    for variable, value in environ.items():
        if variable.startswith(ENVIRONMENT) and variable != f"{ENVIRONMENT}CONFIG":
            name = variable[len(ENVIRONMENT) :].lower()
            values[name] = _read_value(name, value, f"{variable}: ")
    for name, value in flags.items():
        values[name] = _read_value(name, value, f"--{name.replace('_', '-')}: ")
    settings = Settings(**values)
    if settings.command and settings.tool == "auto":
        tool = next((each.name for each in TOOLS.values() if Path(settings.command[0]).name in each.programs), None)
        if tool is None:
            raise SettingsError(f"command requires tool, which names the format of its output: {', '.join(TOOLS)}")
        values["tool"] = tool
    _check_transport(settings)
    values["scope"] = settings.scope or ("applications" if settings.tool == "pip-audit" else "system")
    values["host"] = settings.host or _own_name()
    values["key_file"] = settings.key_file or str(Path(path or CONFIGS[0]).with_name(KEY_NAME))
    if not settings.mail_from:
        user = name_of_user(os.geteuid())
        values["mail_from"] = user if re.fullmatch(r"[0-9.]+|.*:.*", values["host"]) else f"{user}@{values['host']}"
    return Settings(**values)


def _check_transport(settings: Settings) -> None:
    """Raise SettingsError for what would have no effect."""
    parts = urllib.parse.urlsplit(settings.url)
    for name in ("ca_file", "cert_file"):
        if getattr(settings, name) and settings.url and parts.scheme != "https":
            raise SettingsError(f"{name} has no effect with http://: set url to one that begins with https://")
    if settings.cert_key_file and not settings.cert_file:
        raise SettingsError("cert_key_file requires cert_file")
    if settings.token_file and parts.username is not None:
        raise SettingsError("set either token_file or a user in url, not both")


def _read_own(path: str, power: str = "") -> bytes:
    """Read a file that decides what runs here, or who is believed; SettingsError if another user decides it.

    `power` is what a secret lets its reader do: there is a warning if that may be somebody else.
    """
    # a time limit, as it may be a pipe that nobody writes to
    with _time_limit(_SHORT), open(path, "rb") as file:  # noqa: PTH123 - fstat of what is read
        found = os.fstat(file.fileno())
        text = file.read(_MAX_FILE)
    complaint = _complaint(path, found)
    if complaint:
        raise SettingsError(complaint)
    if power and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        warn(f"{path} is readable by other users, who {power}: chmod 600 {shlex.quote(path)}")
    return text


def _complaint(path: str, found: os.stat_result) -> str:
    """Say which other users can change a file; "" if none can.

    In the manner of sshd's StrictModes: the file belongs to root or to the user who runs this, and so do the
    directories above it; nobody else may write to it. As root the group may not either.
    """
    own = (0, os.geteuid())
    others = stat.S_IWOTH if own[1] else stat.S_IWGRP | stat.S_IWOTH
    if found.st_uid not in own:
        return f"{path}: is owned by {name_of_user(found.st_uid)}, who can change it: chown it"
    if found.st_mode & others and not stat.S_ISCHR(found.st_mode):  # of /dev/null anybody may write, to no effect
        return f"{path}: is writable by other users: chmod go-w {shlex.quote(path)}"
    for directory in Path(path).resolve().parents if stat.S_ISREG(found.st_mode) else ():
        above = directory.stat()
        if above.st_uid not in own or (above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX):
            return f"{path}: can be replaced by other users, who can write to {directory}"
    return ""


@functools.lru_cache(maxsize=100)
def warn_of_program(path: str) -> None:
    """Warn if another user decides what is run here as root. It runs all the same: an audit less would hide more."""
    with contextlib.suppress(OSError):  # what is not there cannot be run
        complaint = "" if os.geteuid() else _complaint(path, os.stat(path))  # noqa: PTH116 - as the others
        if complaint:
            warn(f"{complaint}; root runs it")


def _own_name() -> str:
    name = socket.gethostname()
    try:
        return _parse_host(name)
    except ValueError:
        raise SettingsError(f'host: the name of this machine, "{name}", is not a valid host name: set host') from None


def read_key(path: str) -> bytes:
    """Read the key of this host, 32 bytes; warn if others could as well. Nobody else may decide who is believed."""
    hint = "`portspec key HOST` on the server prints it"
    try:
        text = _read_own(path, "can send audits as this host").strip()
    except OSError as error:
        raise SettingsError(f"{path}: {_reason(error)}; {hint}") from None
    if not re.fullmatch(rb"[0-9A-Fa-f]{64}", text):
        raise SettingsError(f"{path}: expected the key of this host, 64 hexadecimal digits; {hint}")
    return bytes.fromhex(text.decode("ascii"))


def read_token(path: str) -> str:
    """Read a bearer token (RFC 6750, 2.1); warn if others could as well."""
    try:
        text = readable(_read_own(path, "can use the token").strip())
    except OSError as error:
        raise SettingsError(f"token_file: {path}: {_reason(error)}") from None
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", text):
        raise SettingsError(f"token_file: {path}: expected one token of letters, digits and . _ ~ + / - =")
    return text


def make_tls_context(settings: Settings) -> ssl.SSLContext:
    """Return how a server is checked, and what is shown to it. Who may change these files could pose as either."""
    context = ssl.create_default_context()
    name, path = "ca_file", settings.ca_file
    try:
        if path:
            _read_own(path)
            context = ssl.create_default_context(cafile=path)
        name, path = "cert_file", settings.cert_file
        if path:
            _read_own(path, "" if settings.cert_key_file else "can pose as this host")
            if settings.cert_key_file:
                name, path = "cert_key_file", settings.cert_key_file
                _read_own(path, "can pose as this host")
            name, path = "cert_file", settings.cert_file
            with _time_limit(_SHORT):
                context.load_cert_chain(path, settings.cert_key_file or None, _refuse_passphrase)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(f"{name}: {path}: {_reason(error)}") from None
    return context


def _refuse_passphrase() -> str:
    raise ValueError("its key has a passphrase; use a key without one")


# --- The envelope, as in portspec/audit/envelope.py -------------------------------------------------------------------


def pack(payload: bytes, key: bytes) -> bytes:
    """Return a payload in its envelope: a line with the signature, and the payload as gzip."""
    signature = hmac.new(key, payload, hashlib.sha256).hexdigest()
    return b"portspec-audit 1 %s\n%s" % (signature.encode("ascii"), gzip.compress(payload, mtime=0))


def unpack(packed: bytes) -> dict[str, Any]:
    """Read an audit of our own again; ValueError if it is not whole."""
    head, _, body = packed.partition(b"\n")
    try:
        audit = json.loads(gzip.decompress(body).decode("utf-8"))
    except (OSError, EOFError, zlib.error, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not head.startswith(b"portspec-audit 1 ") or not isinstance(audit, dict):
        raise ValueError("not an audit")
    return audit


def sign_answer(packed: bytes, status: int, body: bytes, key: bytes) -> str:
    """Return the signature by which portspec shows that an answer is its own: it has the key of this host, too."""
    request = hashlib.sha256(packed).hexdigest().encode("ascii")
    return hmac.new(key, b"portspec answer 1\n%s\n%d\n%s" % (request, status, body), hashlib.sha256).hexdigest()


# --- Running programs -------------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """A signal asked this program to end; what it runs must end as well."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


@dataclass(frozen=True)
class Run:
    """How a program ran: `status` is None if it was ended by a signal or could not be run, and `note` says why.

    `is_cut` tells that it printed more than it may; then `output` is the begin of it. `setting` names the key of the
    settings that an audit tool with this note would need changed, "" if none would help.
    """

    status: int | None
    output: bytes = b""
    errors: bytes = b""
    is_cut: bool = False
    note: str = ""
    setting: str = ""


class _End(NamedTuple):
    """Why a program had to be ended, and the setting that would have let it go on."""

    note: str
    setting: str = ""


class _Kept:
    """What is kept of a stream: the begin, and the end if there is room for one."""

    def __init__(self, begin: int, end: int) -> None:
        self.length = 0
        self._begin_size, self._end_size = begin, end
        self._begin, self._end = bytearray(), bytearray()

    def take(self, data: bytes) -> None:
        self.length += len(data)
        room = self._begin_size - len(self._begin)
        self._begin += data[:room]
        self._end += data[room:]
        del self._end[: max(0, len(self._end) - self._end_size)]

    def bytes(self) -> bytes:
        gap = self.length - len(self._begin) - len(self._end)
        if not gap or not self._end_size:
            return bytes(self._begin + self._end)
        return b"%s\n[%d bytes left out]\n%s" % (self._begin, gap, self._end)


def run(
    command: tuple[str, ...], *, environ: dict[str, str], timeout: float, limit: int, stdin: Any = subprocess.DEVNULL
) -> Run:
    """Run a program in a process group of its own, which is ended as a whole if it takes or prints too much.

    `timeout` is in seconds, `limit` in bytes, for each of its two streams, which are read at the same time.
    """
    output, errors = _Kept(limit, 0), _Kept(_MAX_ERRORS // 2, _MAX_ERRORS // 2)
    end: _End | None = _End("this program was stopped")
    process: subprocess.Popen[bytes] | None = None
    # A signal that comes while the program starts waits until there is a process to end.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    try:
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environ,
                cwd="/",
                start_new_session=True,
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),  # noqa: PLW1509 - no threads
            )
        except OSError as error:
            return Run(None, note=f"{command[0]} could not be run: {_reason(error)}", setting="command")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        end = _attend(process, output, errors, timeout, limit)
    finally:
        if process is not None:
            if end is not None:
                _end_group(process)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
    status: int | None = process.returncode
    if end is None and status is not None and status < 0:
        end = _End(f"was killed by {_name_of_signal(-status)}")
    return Run(
        status=status if end is None else None,
        output=output.bytes(),
        errors=errors.bytes(),
        is_cut=output.length > limit,
        note=f"{Path(command[0]).name} {end.note}" if end is not None else "",
        setting=end.setting if end is not None else "",
    )


def _attend(process: subprocess.Popen[bytes], output: _Kept, errors: _Kept, timeout: float, limit: int) -> _End | None:
    """Read both streams until the program has ended; give why it has to be ended, None if it ended by itself."""
    deadline = time.monotonic() + timeout
    too_long = _End(f"timed out after {timeout:.0f} s", "timeout")
    with selectors.DefaultSelector() as selector:
        for stream, kept in ((process.stdout, output), (process.stderr, errors)):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ, kept)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return too_long
            events = selector.select(min(left, 1.0))
            # What it left behind in the background may hold its output open for ever.
            if not events and process.poll() is not None:
                break
            for event, _ in events:
                data = os.read(event.fd, 65536)
                event.data.take(data)
                if not data:
                    selector.unregister(event.fileobj)
                elif event.data.length > limit:
                    return _End(f"printed more than {limit:,} bytes and was terminated", "max_output")
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return too_long
    return None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number, grace in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)


def _name_of_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")  # of OpenSSL, and of OpenSSL since 3.2


def _reason(error: BaseException) -> str:
    """Say in a few words what went wrong."""
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {inner.verify_message}"
    if isinstance(inner, ssl.SSLError) and inner.reason in _NO_TLS:
        return f"{inner.strerror} (if the server does not use TLS, url must begin with http://)"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror[:1].lower() + inner.strerror[1:]
    return str(inner) or type(inner).__name__


def tool_environment(environ: dict[str, str]) -> dict[str, str]:
    """Return the environment for tools: messages in English, and the directories of tools that cron's PATH lacks."""
    own = {name: value for name, value in environ.items() if not name.startswith(ENVIRONMENT)}
    path = [each for each in own.get("PATH", "").split(os.pathsep) if each]
    own["PATH"] = os.pathsep.join(path + [each for each in DIRECTORIES if each not in path])
    own["LC_ALL"] = "C"
    own["GRYPE_CHECK_FOR_APP_UPDATE"] = "false"
    with contextlib.suppress(KeyError):
        own.setdefault("HOME", pwd.getpwuid(os.geteuid()).pw_dir)
    return own


# --- Audit tools ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tool:
    """How an audit tool is run: `commands` are ways of which the first counts whose options the tool knows.

    {seconds} is the time that it may take, {packages} what osv-scanner calls the list of installed packages, {base}
    what FreeBSD's base system is called in VuXML, {installed} dpkg's names of what is installed, {release}
    System.release. What stands between && are command lines of their own, whose outputs follow each other. `beside` are
    the tools that run as well, to complete what it tells. `then` is a command whose output follows, to show what was
    looked at. `others` are names that the program has elsewhere.
    """

    name: str
    program: str
    commands: tuple[str, ...]
    version: str = "--version"
    beside: tuple[Tool, ...] = ()
    fetch: str = ""  # brings the database up to date, where the audit itself must not
    then: str = ""
    is_silent: bool = False  # it prints nothing, or nothing that shows the end, where it found nothing
    others: tuple[str, ...] = ()

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of the program, the usual one first."""
        return (self.program, *self.others)


# A version above the installed one in a security pocket counts, whatever holds it back: no simulation tells that.
_APT = Tool("apt", "apt-cache", ("policy ?installed", "policy {installed}"), then="apt-cache policy", is_silent=True)
_TRIVY = "rootfs --format json --quiet --timeout {seconds}s"  # its own timeout is 5 minutes
# Repositories that are skipped, packages that are excluded: of both dnf would say nothing with -q.
_DNF = "-q {release} --setopt=*.skip_if_unavailable=0"
_ZYPPER = "--non-interactive --xmlout"
_ZYPPER_SEARCH = f"{_ZYPPER} --disable-repositories search --installed-only --match-exact zypper"
_DNF_4 = f"{_DNF} --disableexcludes=all updateinfo list"
_DNF_5 = f"{_DNF} --setopt=disable_excludes=* advisory list --security"

# What each of these must not be given, and why, stands in the parsers of portspec/audit/tools.
TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        # -F prints to the output, and -q drops findings, so the database is fetched by a command of its own.
        Tool(
            "pkg-audit",
            "pkg",
            ("audit --raw=json-compact", "audit"),
            version="-v",
            fetch="audit -Fq",
            beside=(Tool("pkg-audit", "pkg", ("audit --raw=json-compact {base}", "audit {base}"), "-v"),),
        ),
        Tool("portaudit", "portaudit", ("-a",), version="-V", fetch="-F"),
        Tool("debsecan", "debsecan", ("--format detail",), is_silent=True),
        # Vulnerabilities only: secrets that trivy finds have no place in an audit. The option was renamed in 0.37.
        Tool("trivy", "trivy", (f"{_TRIVY} --scanners vuln /", f"{_TRIVY} --security-checks vuln /", f"{_TRIVY} /")),
        Tool("grype", "grype", ("dir:/ --output json --quiet",)),
        # Without the list of all packages nobody can tell what was looked at. Version 1 has other options.
        Tool(
            "osv-scanner",
            "osv-scanner",
            ("scan source --format json --all-packages --lockfile {packages}", "--format json --lockfile {packages}"),
        ),
        Tool("pip-audit", "pip-audit", ("--format json --progress-spinner off",)),
        Tool("ubuntu-pro", "pro", ("security-status --format json",), beside=(_APT,)),
        _APT,
        Tool("arch-audit", "arch-audit", ("--json",)),
        # -e: also packages past their end of life, -v: also what is wrong with its database.
        Tool(
            "pkg-admin",
            "pkg_admin",
            ("-v audit -e",),
            version="-V",
            fetch="fetch-pkg-vulnerabilities",
            then="pkg_info",
            is_silent=True,
        ),
        Tool("apk", "apk", ("version -l <=>?",), fetch="update", then="apk version --indexes", is_silent=True),
        # Three lists: what is to be updated, what was (so there are advisories), and the CVEs of the first. Newer
        # versions of dnf 5 have JSON; dnf 4 and yum know no "advisory".
        Tool(
            "dnf",
            "dnf",
            (
                f"{_DNF_5} --json && {_DNF_5} --installed --json && {_DNF_5} --with-cve --json",
                f"{_DNF_5} && {_DNF_5} --installed && {_DNF_5} --with-cve",
                f"{_DNF_4} security && {_DNF_4} installed security && {_DNF_4} cves",
            ),
            is_silent=True,
            others=("dnf5", "yum"),
        ),
        # It needs no patches where it sees no packages, so it has to find itself first.
        Tool("zypper", "zypper", (f"{_ZYPPER_SEARCH} && {_ZYPPER} list-patches --category security",)),
    )
}

_DEBIAN = {"debian", "raspbian"}  # of which debsecan has data
_OF_DNF = ("fedora", "rhel", "centos", "almalinux", "rocky", "ol", "amzn", "openEuler")
_OF_ZYPPER = ("suse", "opensuse", "sles", "sled")
_BY_TRIVY = {"rhel", "centos", "almalinux", "rocky", "ol", "amzn"}  # of which trivy and grype have data
# The parsers take no output of a tool that is silent for failed, unless the last line is this.
_PROOF = "# portspec: {program} ended with 0"
_UNKNOWN_OPTION = re.compile(
    rb"unknown (flag|option|shorthand|argument)|unrecognized (option|arguments)|illegal option|no such command"
    rb"|flag provided but not|usage:"
    rb"|regex compilation error|unable to locate package \?",  # apt before 2.0, of ?installed
    re.IGNORECASE,
)
_LIST = "# portspec: list of "  # before each output of several, with the arguments
_LISTS = ("base", "installed")  # without which a command has nothing to ask for
_PACKAGE_LISTS = (
    ("dpkg-status:", "/var/lib/dpkg/status"),
    ("apk-installed:", "/lib/apk/db/installed"),
    ("", "/var/db/pkg/local.sqlite"),
)


#: The databases of package managers, the first that is there is this system's.
_PACKAGE_DATABASES = {
    "dpkg-query": ("/var/lib/dpkg/status",),
    "apk": ("/lib/apk/db/installed", "/usr/lib/apk/db/installed"),
    "pacman": ("/var/lib/pacman/local",),
    "rpm": ("/var/lib/rpm", "/usr/lib/sysimage/rpm"),
}
_CODENAMES = ("VERSION_CODENAME", "UBUNTU_CODENAME", "DEBIAN_CODENAME")
_PKGSRC = {"NetBSD", "SunOS"}  # whose packages are those of pkgsrc


@dataclass(frozen=True)
class System:
    """What a tool is chosen by, and the server judges its output by.

    `kernel` is the name of uname(1); `id`, `like` and `version` are ID, ID_LIKE and VERSION_ID of os-release(5), or
    what stands for them on a BSD. `packages` is what osv-scanner calls the list of installed packages, or the path of
    pkg's database; "" if there is none that we know. `base` are the names of FreeBSD's base system in VuXML.
    `codenames` are those of the release, and of the one that it is made of, as os-release tells them.
    """

    kernel: str
    id: str
    packages: str
    like: tuple[str, ...] = ()
    version: str = ""
    base: tuple[str, ...] = ()
    codenames: tuple[str, ...] = ()

    @property
    def is_bsd(self) -> bool:
        """Whether pkg(8) and sockstat(1) are those of FreeBSD."""
        return self.kernel in {"FreeBSD", "DragonFly"}

    @property
    def release(self) -> str:
        """An option for dnf; "" if it needs none.

        Amazon Linux 2023 looks at the release that it is locked to, and finds nothing of what came after it.
        """
        return "--releasever=latest" if self.id == "amzn" and self.version >= "2023" else ""

    def is_kin(self, *ids: str) -> bool:
        """Return whether it is one of some systems, or says that it is like one."""
        return self.id in ids or not set(ids).isdisjoint(self.like)

    def as_json(self) -> dict[str, Any]:
        """Return the "system" of the audit."""
        return {"kernel": self.kernel, "id": self.id, "id_like": list(self.like), "version_id": self.version}


def this_system() -> System:
    """Look at this machine."""
    packages = next((f"{kind}{path}" for kind, path in _PACKAGE_LISTS if Path(path).exists()), "")
    kernel = os.uname().sysname
    if kernel != "Linux":
        versions = [freebsd_version(flag) if kernel == "FreeBSD" else "" for flag in ("-k", "-u")]
        base = freebsd_base(*versions)
        return System(kernel, kernel.lower(), packages, version=versions[1] or os.uname().release, base=base)
    release: dict[str, str] = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        with contextlib.suppress(OSError):
            release = read_os_release(readable(Path(path).read_bytes()))
            break
    like = tuple(release.get("ID_LIKE", "").split())
    codenames = tuple(release[name] for name in _CODENAMES if release.get(name))
    return System(
        kernel,
        release.get("ID", "linux"),
        packages,
        like,
        release.get("VERSION_ID", ""),
        codenames=codenames,
    )


def read_os_release(text: str) -> dict[str, str]:
    """Read os-release(5): assignments as a shell has them; a line that is none is passed over."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and re.fullmatch("[A-Z_0-9]+", name):
            with contextlib.suppress(ValueError):
                values[name] = " ".join(shlex.split(value))[:200]
    return values


def freebsd_version(flag: str) -> str:
    """Ask freebsd-version(1) for the version of the installed kernel or userland; "" if it does not tell."""
    environ = tool_environment(dict(os.environ))
    done = run(("freebsd-version", flag), environ=environ, timeout=_SHORT, limit=1000)
    return readable(done.output).strip() if done.status == 0 else ""


def freebsd_base(kernel: str, userland: str) -> tuple[str, ...]:
    """Name the base system as VuXML does, and 405.pkg-base-audit: 14.1-RELEASE-p5 is 14.1_5. Releases only."""
    names = []
    for prefix, version in (("FreeBSD-kernel-", kernel), ("FreeBSD-", userland)):
        found = re.fullmatch(r"([0-9]+\.[0-9]+)-RELEASE(?:-p([0-9]+))?", version)
        if found:
            names.append(f"{prefix}{found[1]}" + (f"_{found[2]}" if found[2] else ""))
    return tuple(names)


def choose_tool(system: System, find: Callable[[str], str | None]) -> Tool | None:
    """Return the first tool that is there and can audit this system; `find` tells where a program is.

    Tools that name vulnerabilities come before tools that only list updates.
    """
    names = ["trivy", "grype", "pip-audit"]
    if system.is_bsd:
        # /usr/sbin/pkg is there even where pkg was never installed, as on a host that has portaudit.
        names = ["pkg-audit", "portaudit"] if system.packages else ["portaudit", "pkg-audit"]
    elif system.kernel in _PKGSRC:
        names.insert(0, "pkg-admin")
    elif system.is_kin("debian", "ubuntu", *_DEBIAN):
        names = _tools_for_dpkg(system)
    elif system.is_kin(*_OF_ZYPPER):
        # grype has no data for openSUSE
        names = ["trivy", "grype", "zypper"] if system.id.startswith("sle") else ["trivy", "zypper", "pip-audit"]
    elif system.is_kin(*_OF_DNF):
        # trivy and grype have no data for Fedora
        names = ["trivy", "grype", "dnf"] if system.id in _BY_TRIVY else ["dnf", "trivy", "grype", "pip-audit"]
    elif system.is_kin("arch"):
        names.insert(0, "arch-audit")
    elif system.packages:
        names.insert(2, "osv-scanner")
        names[3:3] = ["apk"] if system.is_kin("alpine") else []
    return next((TOOLS[name] for name in names if any(map(find, TOOLS[name].programs))), None)


def _tools_for_dpkg(system: System) -> list[str]:
    """Return the tools for Debian, Ubuntu and what is made of them, the best first."""
    if system.id in _DEBIAN and system.version:
        return ["debsecan", "trivy", "grype", "osv-scanner", "apt", "pip-audit"]
    if system.id in _DEBIAN:  # testing and unstable, of which trivy and OSV have no data
        return ["debsecan", "grype", "apt", "pip-audit"]
    if system.id == "ubuntu":
        # osv-scanner finds nothing in Ubuntu's list of packages (google/osv-scanner#1293)
        return ["trivy", "grype", "ubuntu-pro", "apt", "pip-audit"]
    # trivy and grype take the others for what they are made of, mostly in a release of which they have no data.
    return [*(["ubuntu-pro"] if system.is_kin("ubuntu") else []), "apt", "grype", "trivy", "pip-audit"]


def usual_tool(system: System) -> str:
    """Name the tool that is missed on a system that has none."""
    if system.is_bsd:
        return "pkg-audit"
    if system.kernel in _PKGSRC:
        return "pkg-admin"
    if system.id in _DEBIAN:
        return "debsecan"
    if system.is_kin(*_OF_ZYPPER):
        return "zypper"
    if system.is_kin(*_OF_DNF):
        return "dnf"
    native = {"ubuntu": "ubuntu-pro", "debian": "apt", "arch": "arch-audit", "alpine": "apk"}
    return next((tool for kin, tool in native.items() if system.is_kin(kin)), "trivy")


class Audit:
    """One audit of this host: what ran, and what came of it."""

    def __init__(self, settings: Settings, environ: dict[str, str], system: System) -> None:
        self._settings = settings
        self._environ = tool_environment(environ)
        self._system = system
        self._deadline = time.monotonic() + settings.timeout

    def run(self) -> tuple[list[dict[str, Any]], float, str]:
        """Run the tool; return the tools of the audit, when it ended, and how it failed, "" if that is not evident."""
        settings = self._settings
        tool = choose_tool(self._system, self._find) if settings.tool == "auto" else TOOLS[settings.tool]
        usual = usual_tool(self._system)
        command: tuple[str, ...] = ()
        of_fetch = ""
        if tool is None:
            note = f"no audit tool is installed; the usual one for this system is {usual}"
            done = Run(None, note=note, setting="tool")
        elif settings.command:
            command, done = self._run_first([settings.command])
        elif self._program(tool) is None:
            done = Run(None, note=f"{tool.program} is not installed", setting="tool")
        else:
            of_fetch = self._fetch(tool)
            command, done = self._run_first(self._commands(tool))
        ended_at = time.time()
        audit = self._describe(tool, usual, command, done, of_fetch)
        beside = [] if tool is None or settings.command or not command else self._run_beside(tool)
        trouble = _describe_failure(Path("".join(command[:1])).name, _spell_note(done), audit["output"], done)
        return [audit, *beside], ended_at, trouble

    def _run_beside(self, tool: Tool) -> list[dict[str, Any]]:
        """Run the tools that complete what a tool tells, as far as there is something for them to look at."""
        audits = []
        for other in tool.beside:
            commands = self._commands(other)
            if commands:
                command, done = self._run_first(commands)
                audits.append(self._describe(other, other.name, command, done, ""))
        return audits

    def _describe(
        self, tool: Tool | None, usual: str, command: tuple[str, ...], done: Run, of_fetch: str
    ) -> dict[str, Any]:
        """Return a "tool" of the audit."""
        version, of_database = self._ask_version(tool, command)
        output, of_proof = self._with_proof(tool, command, done)
        text = fit(output, 2 * self._settings.max_output)
        note = _spell_note(done)
        of_run = f"portspec-send: {note}" if note else ""
        # The reason of a failure comes last: that is where the server looks for it.
        errors = "\n".join(filter(None, (of_database, of_fetch, readable(done.errors).rstrip("\n"), of_proof, of_run)))
        return {
            "name": tool.name if tool else usual,
            "scope": self._settings.scope,
            "version": version,
            "command": [readable(os.fsencode(word)) for word in command],
            "exit_status": done.status,
            "output": text,
            "errors": errors and errors + "\n",
            "truncated": done.is_cut or len(text) < len(output),
        }

    def _with_proof(self, tool: Tool | None, command: tuple[str, ...], done: Run) -> tuple[str, str]:
        """Return the output with what shows that it is whole, and what there is to say if that could not be had."""
        output = readable(done.output)
        if tool is None or not tool.is_silent or done.status != 0:
            return output, ""
        # With these debsecan ends with 0 whatever happened; another program in front of a tool may as well.
        if Path(command[0]).name not in tool.programs or any(
            word.startswith(("--cron", "--mailto")) for word in command
        ):
            return output, ""
        parts = [output]
        if tool.then:
            then = self._run(tuple(tool.then.split()), self._left(), self._settings.max_output)
            if then.status != 0 or then.is_cut:
                failure = then.note or f"ended with {then.status}: {_last_line(then.errors)}"
                return output, f"portspec-send: {tool.then} {failure}"
            parts += [f"# portspec: {tool.then}", readable(then.output)]
        parts.append(_PROOF.format(program=tool.program))
        return "".join(part if part.endswith("\n") else f"{part}\n" for part in parts if part), ""

    def _program(self, tool: Tool) -> str | None:
        return next((name for name in tool.programs if self._find(name)), None)

    def _find(self, program: str) -> str | None:
        return shutil.which(program, path=self._environ["PATH"])

    def _run(self, command: tuple[str, ...], timeout: float, limit: int = _MAX_ERRORS) -> Run:
        return run(command, environ=self._environ, timeout=timeout, limit=limit)

    def _left(self) -> float:
        return max(1.0, self._deadline - time.monotonic())

    def _commands(self, tool: Tool) -> list[tuple[str, ...]]:
        words = {
            "seconds": f"{self._settings.timeout:.0f}",
            "packages": self._system.packages,
            "base": " ".join(self._system.base),
            "installed": self._installed() if any("{installed}" in line for line in tool.commands) else "",
            "release": self._system.release,
        }
        program = self._program(tool) or tool.program
        lines = [line for line in tool.commands if all(words[name] for name in _LISTS if f"{{{name}}}" in line)]
        return [(program, *line.replace("&& ", f"&& {program} ").format(**words).split()) for line in lines]

    def _installed(self) -> str:
        """Ask dpkg for the names of the packages of which something is installed."""
        done = self._run(("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${binary:Package}\\n"), _SHORT, 1_000_000)
        rows = [line.split() for line in readable(done.output).splitlines()]
        return " ".join(row[-1] for row in rows if len(row) > 1 and row[0][1:2] not in {"n", "c"})

    def _fetch(self, tool: Tool) -> str:
        """Bring the database up to date; return what there is to say of it if that failed."""
        if not tool.fetch:
            return ""
        done = self._run((tool.program, *tool.fetch.split()), self._left() / 2, self._settings.max_output)
        said = readable(done.errors).strip()
        # pkg ends with 1 for a failure as well as for a finding; only of a failure it says something.
        if done.status == 0 or (done.status is not None and not said):
            return ""
        reason = done.note or f"{tool.program} ended with {done.status}"
        return f"portspec-send: the database could not be updated: {reason}\n{said}".strip()

    def _run_first(self, commands: list[tuple[str, ...]]) -> tuple[tuple[str, ...], Run]:
        """Run the first command whose options the tool knows."""
        for command in commands:
            path = self._find(command[0]) or command[0]
            warn_of_program(path)
            is_program = (True, *(word == "&&" for word in command))
            found = tuple(path if is_first else word for word, is_first in zip(command, is_program))
            done = self._run_each(found)
            said = done.errors[:4096] + (b"" if done.output.lstrip()[:1] in b"{[" else b"\n" + done.output[:4096])
            is_answer = done.status is None or (done.status == 0 and done.output.strip())
            if is_answer or not _UNKNOWN_OPTION.search(said):
                break
        return found, done

    def _run_each(self, command: tuple[str, ...]) -> Run:
        """Run a command line; where it has several, each until one fails, as if all were one program."""
        lines = [tuple(line) for has_end, line in itertools.groupby(command, "&&".__eq__) if not has_end]
        if len(lines) == 1:
            return self._run(command, self._left(), self._settings.max_output)
        output, errors = b"", b""
        for line in lines:
            done = self._run(line, self._left(), max(1, self._settings.max_output - len(output)))
            head = "{}{}\n".format(_LIST, " ".join(line[1:]))
            output += (b"\n" if output and not output.endswith(b"\n") else b"") + head.encode() + done.output
            errors += done.errors
            if done.status != 0 or done.is_cut:
                break
        return replace(done, output=output, errors=errors)

    def _ask_version(self, tool: Tool | None, command: tuple[str, ...]) -> tuple[str | None, str]:
        """Return the version of the tool that ran, and a line with the time of its database if nothing else has it."""
        if tool is None or not command or Path(command[0]).name not in tool.programs:
            return None, ""
        done = self._run((command[0], tool.version), _SHORT)
        text = readable(done.output) if done.status == 0 else ""
        database_at = spell_newest(self._databases(tool, command[0]))
        if tool.name == "trivy":
            updated = re.search(r"UpdatedAt: ([0-9-]{10}) ([0-9:]{8})[.0-9]* \+0000 UTC", text)
            database_at = f"{updated[1]}T{updated[2]}Z" if updated else ""
        elif tool.name == "dnf":
            database_at = self._ask_age_of_dnf(command[0], "repo info" if "dnf5" in text else "repolist -v")
        elif tool.name == "zypper":
            database_at = self._ask_age_of_zypper(command[0])
        found = re.search(r"[0-9]+(\.[0-9A-Za-z_+~-]+)+", text)
        return (found[0] if found else None), f"# portspec: database of {database_at}" if database_at else ""

    def _databases(self, tool: Tool, program: str) -> list[Path]:
        """Return the files of which the newest is as old as what the tool knows."""
        if tool.name == "pkg-audit":
            return [Path("/var/db/pkg/vuln.xml")]  # as periodic(8)'s 410.pkg-audit has it
        if tool.name == "pkg-admin":
            directory = self._ask(program, "config-var", "PKGVULNDIR")
            return [Path(directory, "pkg-vulnerabilities")] if directory else []
        if tool.name == "apk":
            return list(Path("/var/cache/apk").glob("APKINDEX.*")) + list(Path("/etc/apk/cache").glob("APKINDEX.*"))
        if tool.name == "apt":
            # The time of a list is that of its publication: apt-get update, done in vain, changes nothing.
            said = re.search("LISTS='(.*)'", self._ask("apt-config", "shell", "LISTS", "Dir::State::lists/d"))
            lists = Path(said[1] if said else "/var/lib/apt/lists").glob("*Release")
            codename = "|".join(map(re.escape, self._system.codenames)) or "[^_]+"
            pocket = re.compile(rf".*_({codename})(-security|-infra-security|_updates)_(In)?Release")
            return [path for path in lists if pocket.fullmatch(path.name)]
        return []

    def _ask(self, *command: str) -> str:
        done = self._run(command, _SHORT)
        return readable(done.output).strip() if done.status == 0 else ""

    def _ask_age_of_dnf(self, program: str, arguments: str) -> str:
        """Return when the repository that was refreshed longest ago was refreshed; "" if that is not known.

        It is told as local time, by dnf 4 and yum as "Sun Nov 29 01:58:33 2026", by dnf 5 as "2026-11-29 01:58:33".
        """
        arguments = f"-C {self._system.release} {arguments}"
        done = self._run((program, *arguments.split()), _SHORT, self._settings.max_output)
        return _oldest(ages_of_metadata(readable(done.output)))

    def _ask_age_of_zypper(self, program: str) -> str:
        """Return when the repository with patches was asked for news that was not asked for the longest time."""
        done = self._run((program, "--non-interactive", "--xmlout", "repos"), _SHORT, self._settings.max_output)
        return _oldest(ages_of_patches(readable(done.output), Path("/var/cache/zypp/raw")))


_FIRST_DAY = 86_400  # seconds: whatever the time zone, the Unix time 0 as dnf tells it is before


def ages_of_metadata(text: str) -> list[float]:
    """Return when each repository was last refreshed, of those that dnf repolist -v or dnf5 repo info lists.

    dnf 4 tells the Unix time 0 of a repository whose metadata_expire ended before the previous command did, as with
    metadata_expire=1: then it is the time of the file that dnf touches with each refresh, in the cache that it names.
    """
    cache = re.search(r"^cachedir: (/.{1,1000})$", text, re.MULTILINE)
    moments = []
    for repository in re.split(r"^(?=Repo-id)", text, flags=re.MULTILINE):
        name = re.match(r"Repo-id +: (\S{1,200})\n", repository)
        for told in re.findall(r"\(last: ([A-Za-z0-9: -]{1,40})\)", repository):
            for spelling in ("%a %b %d %H:%M:%S %Y", "%Y-%m-%d %H:%M:%S"):
                with contextlib.suppress(ValueError, OverflowError):
                    moment = time.mktime(time.strptime(told, spelling))
                    touched = _primary_times(Path(cache[1]), name[1]) if moment < _FIRST_DAY and cache and name else []
                    moments.append(max(touched, default=moment))
    return moments


def _primary_times(cache: Path, repository: str) -> list[float]:
    directory = re.compile(re.escape(repository) + "-[0-9a-f]{16}")
    with contextlib.suppress(OSError):
        files = [path for path in cache.glob("*/repodata/*primary*") if directory.fullmatch(path.parts[-3])]
        return [path.stat().st_mtime for path in files]
    return []


def ages_of_patches(text: str, cache: Path) -> list[float]:
    """Return when each repository with patches was last asked for news, of those that zypper --xmlout repos lists.

    libzypp touches repomd.xml each time. Repositories without patches may never change, and are left out.
    """
    moments = []
    for repository in re.findall(r"<repo [^>]{1,4000}>", text):
        alias = re.search(r'\balias="([^"/&]{1,200})"', repository)
        if alias and 'enabled="1"' in repository:
            data = cache / alias[1] / "repodata"
            with contextlib.suppress(OSError):
                if any(data.glob("*updateinfo*")):
                    moments.append((data / "repomd.xml").stat().st_mtime)
    return moments


def spell_newest(paths: list[Path]) -> str:
    """Return when the newest of some files was changed; "" if none of them is there."""
    times = []
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return spell_time(max(times)) if times else ""


def _oldest(moments: Iterable[float]) -> str:
    oldest = min(moments, default=None)
    return "" if oldest is None else spell_time(oldest)


def _spell_note(done: Run) -> str:
    return f"{done.note} (setting: {done.setting})" if done.setting else done.note


def _describe_failure(program: str, note: str, output: str, done: Run) -> str:
    """Say how a tool failed, with its last words; "" if that is not evident."""
    has_output = any(line.strip() and not line.startswith(_LIST) for line in output.splitlines())
    how = note or ("" if has_output else f"{program} ended with {done.status} and printed nothing")
    last = _last_line(done.errors)
    return f"{how}: {last}" if how and last else how


def _last_line(data: bytes) -> str:
    return readable(data).strip().rpartition("\n")[2][:300]


def fit(text: str, limit: int) -> str:
    """Cut a text so that it takes at most `limit` bytes in a JSON document, where NUL, for one, takes six."""
    size = _json_size(text)
    while size > limit:
        text = text[: len(text) * limit // size]
        size = _json_size(text)
    return text


def _json_size(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8"))


# --- Listening sockets ------------------------------------------------------------------------------------------------


class Socket(NamedTuple):
    """A line of /proc/net: a socket that takes what comes from outside; its owner, and what names it in /proc."""

    protocol: str
    address: str
    port: int
    uid: int
    inode: str


class Holder(NamedTuple):
    """A process that holds a socket. None is what may not be seen, or is not there; `note` says why.

    `executable` is the file that it runs, and `is_deleted` tells that this file is gone, as after an upgrade. `unit` is
    its unit of systemd, `container` the id of its container, which has a name and is of an `image`. `package`, its
    `version` and its `source` package are those that own the executable. `libraries` are the other files whose code it
    has mapped. `replaced` are the files of which it runs another version than the present one, and `script` is one that
    may be so: its file is newer than the process.
    """

    process: str | None
    user: str | None
    executable: str | None = None
    is_deleted: bool = False
    unit: str | None = None
    container: str | None = None
    container_name: str | None = None
    image: str | None = None
    package: str | None = None
    version: str | None = None
    source: str | None = None
    note: str | None = None
    libraries: tuple[str, ...] | None = None
    replaced: tuple[str, ...] = ()
    script: str | None = None


class Listener(NamedTuple):
    """A socket and a process that holds it, as far as this may be seen."""

    protocol: str
    address: str
    port: int
    holder: Holder

    def as_json(self, numbers: dict[str, int] | None = None) -> dict[str, Any]:
        """Return an item of the "listeners" of the audit; what is not known of the holder is left out.

        Its libraries are given by their numbers in the "files" of the audit.
        """
        known = {name: value for name, value in self.holder._asdict().items() if value or name in ("process", "user")}
        short = {name: value[:_MAX_WORD] if isinstance(value, str) else value for name, value in known.items()}
        if self.holder.replaced:
            short["replaced"] = [path[:_MAX_WORD] for path in self.holder.replaced[:_MAX_REPLACED]]
        for name in ("libraries", "script"):
            short.pop(name, None)
        libraries = self.holder.libraries
        if libraries is not None and numbers is not None and all(path in numbers for path in libraries):
            short["libraries"] = [numbers[path] for path in libraries]
        return {"protocol": self.protocol, "address": self.address, "port": self.port, **short}


# proc(5): number, local and remote address, state, queues, timer, retransmissions, owner, timeout, inode
_SOCKET = re.compile(
    r"\s*[0-9]+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) ([0-9A-F]+):([0-9A-F]{4}) ([0-9A-F]{2})"
    r" [0-9A-F]+:[0-9A-F]+ [0-9A-F]+:[0-9A-F]+ [0-9A-F]+ +([0-9]{1,10}) +[0-9]+ ([0-9]{1,20})(?: .*)?"
)
_WAITING_STATES = {"tcp": "0A", "udp": "07"}  # include/net/tcp_states.h: TCP_LISTEN, and TCP_CLOSE for unconnected


def read_proc_net(lines: list[str], protocol: str) -> list[Socket]:
    """Read the sockets that wait in a file of /proc/net; any other line is passed over."""
    sockets = []
    for line in lines:
        found = _SOCKET.fullmatch(line.rstrip("\n"))
        if found is None or found[5] != _WAITING_STATES[protocol] or found[4] != "0000":
            continue
        port = int(found[2], 16)
        if port:
            sockets.append(Socket(protocol, decode_address(found[1]), port, int(found[6]), found[7]))
    return sockets


def decode_address(digits: str) -> str:
    """Read an address of /proc/net, which has each 32 bits of it as a number in the machine's own byte order."""
    words = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    return spell_address(struct.pack(f"={len(words)}I", *words))


def spell_address(data: bytes | str) -> str:
    """Spell an address as portspec does; one of IPv4 within IPv6 as one of IPv4."""
    address = ipaddress.ip_address(data)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def linux_listeners(proc: Path) -> list[Listener] | None:
    """Gather the listening sockets of this network namespace, and who holds them; None if /proc does not tell."""
    sockets: list[Socket] = []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        try:
            with (proc / "net" / name).open(encoding="ascii", errors="replace") as file:
                sockets += read_proc_net(file.readlines(), name[:3])
        except FileNotFoundError:
            if not name.endswith("6"):  # a kernel without IPv6
                return None
        except OSError:
            return None
    holders = _holders(proc, {each.inode for each in sockets})
    return [
        Listener(each.protocol, each.address, each.port, holder)
        for each in sockets
        for holder in holders.get(each.inode) or [Holder(None, name_of_user(each.uid), note=_UNSEEN)]
    ]


def _holders(proc: Path, inodes: set[str]) -> dict[str, set[Holder]]:
    """Find the processes that hold sockets; some end meanwhile, others are not ours to look into."""
    holders: dict[str, set[Holder]] = {}
    room = _MAX_MAPPED
    for name in os.listdir(proc):  # noqa: PTH208 - names, not paths
        if not name.isdecimal():
            continue
        held = set()
        with contextlib.suppress(OSError), os.scandir(proc / name / "fd") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    target = os.readlink(entry.path)
                    if target.startswith("socket:[") and target[8:-1] in inodes:
                        held.add(target[8:-1])
        if held:
            with contextlib.suppress(OSError):
                holder = _describe_process(proc / name)
                room -= sum(map(len, (*(holder.libraries or ()), *holder.replaced)))
                if room < 0 and holder.libraries is not None:
                    holder = holder._replace(libraries=None, replaced=holder.replaced[:1])
                for inode in held:
                    holders.setdefault(inode, set()).add(holder)
    return holders


def _describe_process(directory: Path) -> Holder:
    name = readable(_read_proc(directory / "comm")).rstrip("\n")
    # Not the owner of the directory: that is root for a process that has given up rights.
    found = re.search(rb"^Uid:\t[0-9]+\t([0-9]+)", _read_proc(directory / "status"), re.MULTILINE)
    holder = Holder(name or None, name_of_user(int(found[1])) if found else None)
    with contextlib.suppress(OSError):
        unit, container = read_cgroup(readable(_read_proc(directory / "cgroup")))
        holder = holder._replace(unit=unit, container=container)
    try:
        target = readable(os.fsencode(os.readlink(directory / "exe")))
        is_elsewhere = _is_elsewhere(directory)
    except OSError as error:
        return holder._replace(note=f"its executable cannot be seen: {_reason(error)}")
    is_deleted = target.endswith(_DELETED)
    executable = target[: -len(_DELETED)] if is_deleted else target
    note = None
    if is_elsewhere:
        note = "its executable is in another root directory, such as that of a container"
        return holder._replace(executable=executable, is_deleted=is_deleted, note=note)
    libraries, gone = _mapped_files(directory, executable)
    replaced = (*((executable,) if is_deleted and not _TRANSIENT.fullmatch(executable) else ()), *gone)
    script = _newer_script(directory)
    return holder._replace(
        executable=executable, is_deleted=is_deleted, libraries=libraries, replaced=replaced, script=script
    )


def _read_proc(path: Path, most: int = 65_536) -> bytes:
    """Return the beginning of a file in /proc: a process can make its command line of all of its memory."""
    with path.open("rb") as file:
        return file.read(most)


def _is_elsewhere(directory: Path) -> bool:
    """Return whether paths of a process lead to other files than ours, as those of a container.

    Services of systemd have mount namespaces of their own with the same root, and those that change their root with
    chroot(2) are in the same namespace: both have the paths that we have.
    """
    root, own = os.stat(directory / "root"), os.stat("/")  # noqa: PTH116 - as the others
    if (root.st_dev, root.st_ino) == (own.st_dev, own.st_ino):
        return False
    return os.readlink(directory / "ns" / "mnt") != os.readlink("/proc/self/ns/mnt")


def _mapped_files(directory: Path, executable: str) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the files but for the executable whose code a process has mapped, None if that cannot be seen.

    Those that are gone by now, as the libraries of a package that was upgraded, are returned apart.
    """
    try:
        with (directory / "maps").open("rb") as file:
            text = file.read(_MAX_MAPS + 1)
    except OSError:
        return None, ()
    present, gone = read_maps(readable(text))
    if len(text) > _MAX_MAPS or len(present) + len(gone) > _MAX_LIBRARIES:
        return None, ()
    return tuple(path for path in present if path != executable), tuple(path for path in gone if path != executable)


def read_maps(text: str) -> tuple[list[str], list[str]]:
    """Read /proc/PID/maps (proc(5)); return the files from which code is mapped, and those of them that are gone.

    Files that programs make and remove themselves, to run code that they have compiled, are not among those.
    """
    files = dict.fromkeys(found[1] for found in map(_MAPPED.fullmatch, text.split("\n")) if found)
    gone = [path[: -len(_DELETED)] for path in files if path.endswith(_DELETED)]
    present = [path for path in files if not path.endswith(_DELETED)]
    return present, [path for path in gone if not _TRANSIENT.fullmatch(path)]


def _newer_script(directory: Path) -> str | None:
    """Return the script that an interpreter runs if its file is newer than the process; None otherwise."""
    try:
        words = readable(_read_proc(directory / "cmdline")).split("\0", _MAX_OPTIONS)[:_MAX_OPTIONS]
        began = _began_at(_read_proc(directory / "stat"), _read_proc(directory.parent / "stat", _MAX_MAPS))
    except (OSError, ValueError, IndexError):
        return None
    if not _INTERPRETER.fullmatch(os.path.basename(words[0])):  # noqa: PTH119 - a text that may be no path
        return None  # what other programs are given may be a file of settings, which they read again
    script = next((word for word in words[1:] if not word.startswith("-")), "")
    with contextlib.suppress(OSError, ValueError):
        found = os.stat(script)  # noqa: PTH116 - a text that may be no path
        # Of a process that began while its package was unpacked, nothing is known; neither time is exact.
        if script.startswith("/") and stat.S_ISREG(found.st_mode) and found.st_ctime > began + _UNPACKING:
            return os.path.realpath(script)
    return None


def _began_at(process: bytes, system: bytes) -> float:
    """Return when a process began, in Unix seconds, by /proc/PID/stat and /proc/stat (proc(5)); or raise ValueError."""
    ticks = int(process.rpartition(b")")[2].split()[19])
    return _booted_at(system) + ticks / os.sysconf("SC_CLK_TCK")


def _booted_at(system: bytes) -> int:
    found = re.search(rb"^btime ([0-9]+)$", system, re.MULTILINE)
    if found is None:
        raise ValueError("/proc/stat has no btime")
    return int(found[1])


_MAX_MAPS = 4_000_000  # bytes of /proc/PID/maps that are read
_MAX_LIBRARIES = 1000  # of a process; a usual one has up to 200
_MAX_MAPPED = 20_000_000  # characters of paths of all processes
_MAX_REPLACED = 20  # files of a process that are told
_MAX_OPTIONS = 6  # words of a command line in which the name of a script is looked for
_INTERPRETER = re.compile(r"(?:python|perl|ruby|node|nodejs|php|php-cgi|lua|tclsh|bash|dash|sh)[0-9.]*")
_UNPACKING = 5.0  # seconds
# Address, permissions with execution, offset, device, inode other than 0, path.
_MAPPED = re.compile(r"[0-9a-f]+-[0-9a-f]+ [r-][w-]x[ps] [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ [1-9][0-9]* +(/.*)")
# Files that programs make and remove to run code of their own: of compilers (JIT), libffi, JNA, netty, orc; shared
# memory and devices; and files that never had a name (/#1234).
_TRANSIENT = re.compile(
    r"/(?:tmp|var/tmp|dev|run|var/run)/.*|/(?:memfd:|SYSV|\[aio\]|anon_hugepage|#).*|.*/(?:te?mp|\.cache)/.*|"
    r".*/(?:orcexec\.|ffi|jna|libnetty|lib\w*_netty)[^/]*"
)
_UNSEEN = "no process that the agent may look into holds it"
_DELETED = " (deleted)"  # proc(5), /proc/PID/exe
_CONTAINER = re.compile(r"(?:^|[-/:])([0-9a-f]{64})(?:\.scope)?(?:/|$)")  # of Docker, Podman, containerd and CRI-O
_UNIT = re.compile(r"[^/]+\.(?:service|scope)")


def read_cgroup(text: str) -> tuple[str | None, str | None]:
    """Read /proc/PID/cgroup; return the unit of systemd and the id of the container, None where there is none."""
    unit = container = None
    for line in text.splitlines():
        path = line.partition(":")[2].partition(":")[2]
        if found := _CONTAINER.findall(path):
            container = found[-1]
        # cgroup v2, and the hierarchy of systemd in v1 (cgroups(7))
        if line.startswith("0::") or ":name=systemd:" in line:
            units = [part for part in path.split("/") if _UNIT.fullmatch(part)]
            unit = next((each for each in reversed(units) if each.endswith(".service")), units[-1] if units else None)
    return unit, container


@functools.lru_cache(maxsize=1000)
def name_of_user(uid: int) -> str:
    """Return the name of a user; the number if there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


_SOCKSTAT_COLUMNS = 7


def read_sockstat(text: str) -> list[Listener]:
    """Read sockstat(1): USER COMMAND PID FD PROTO LOCAL FOREIGN, where a command may have spaces in it."""
    listeners = []
    for line in text.splitlines():
        words = line.split()
        found = re.fullmatch(r"(tcp|toe|udp)(4|6|46)", words[-3]) if len(words) >= _SOCKSTAT_COLUMNS else None
        if found is None:
            continue
        address, _, port = words[-2].rpartition(":")
        if not re.fullmatch("[1-9][0-9]{0,4}", port):  # "*": bound to none
            continue
        families = {"4": ["0.0.0.0"], "6": ["::"], "46": ["0.0.0.0", "::"]}[found[2]]  # noqa: S104 - read, not bound
        user, process = (word if word.strip("?") else None for word in (words[0], " ".join(words[1:-5])))
        for each in families if address == "*" else [address.strip("[]").partition("%")[0]]:
            with contextlib.suppress(ValueError):
                protocol = "udp" if found[1] == "udp" else "tcp"
                listeners.append(Listener(protocol, spell_address(each), int(port), Holder(process, user)))
    return listeners


def bsd_listeners(environ: dict[str, str]) -> list[Listener] | None:
    """Ask sockstat; None if it does not tell."""
    environ = tool_environment(environ)
    jailed = run(("sysctl", "-n", "security.jail.jailed"), environ=environ, timeout=_SHORT, limit=1000)
    # On the host itself, which is jail 0, the sockets of its jails are listed as well unless -j is given.
    flags = [("-l46w", "-j", "0")] if readable(jailed.output).strip() == "0" else []
    # Without -w newer versions cut long addresses off, and the port with them; older ones do not know it.
    for each in (*flags, ("-l46w",), ("-l46",)):
        done = run(("sockstat", *each), environ=environ, timeout=_SHORT, limit=10_000_000)
        if done.status == 0:
            return read_sockstat(readable(done.output))
    return None


class Owner(NamedTuple):
    """The package that owns a file."""

    package: str
    version: str
    source: str


def read_dpkg_owners(text: str) -> dict[str, str]:
    """Read `dpkg-query --search`: the packages of each path; return the first of them."""
    owners = {}
    for line in text.splitlines():
        packages, _, path = line.partition(": /")
        if path and not packages.startswith("diversion by"):
            owners[f"/{path}"] = packages.partition(",")[0]
    return owners


def _former_names(path: str) -> list[str]:
    """Return the names of a file in packages, which may have it in /bin, /sbin or /lib: these moved to /usr later."""
    return [path, path[4:]] if re.match("/usr/(?:bin|sbin|lib)", path) else [path]


def read_apk_owners(text: str) -> dict[str, Owner]:
    """Read `apk info --who-owns`."""
    found = re.findall(r"^(/.*?)(?: symlink target)? is owned by (\S+)-([^-\s]+-r[0-9]+)$", text, re.MULTILINE)
    return {path: Owner(package, version, package) for path, package, version in found}


def read_pacman_owners(text: str) -> dict[str, Owner]:
    """Read `pacman -Qo`."""
    found = re.findall(r"^(/.*) is owned by (\S+) (\S+)$", text, re.MULTILINE)
    return {path: Owner(package, version, package) for path, package, version in found}


_MAX_PATHS = 100_000  # characters of paths in one call
_MAX_AT_ONCE = 200  # paths of libraries in one call: rpm prints all files of their packages for each
_LOOK_UP_TIMEOUT = 60.0  # seconds after which no further call is made
_FIRST_PERSON = 1000  # the user ids below are of services (login.defs(5), SYS_UID_MAX)
# A line for each file of each package that was found: a line for each package would not tell of which path it is.
_RPM_FORMAT = "[%{=NAME}\t%{=EVR}\t%{=SOURCERPM}\t%{FILENAMES}\n]"


def read_rpm_owners(text: str, paths: list[str]) -> dict[str, Owner]:
    """Read `rpm --query --file` of some paths; of a path that several packages have, the first counts."""
    files: dict[str, Owner] = {}
    for line in text.splitlines():
        words = line.split("\t")
        if len(words) == 4:  # noqa: PLR2004 - as _RPM_FORMAT has
            files.setdefault(words[3], Owner(words[0], words[1], words[2].rsplit("-", 2)[0]))
    return {path: files[name] for path in paths for name in reversed(_former_names(path)) if name in files}


class Owners:
    """Asks the package manager which packages own files: all in one call, as each takes a while."""

    def __init__(self, environ: dict[str, str], databases: dict[str, tuple[str, ...]] | None = None) -> None:
        self._environ = tool_environment(environ)
        databases = _PACKAGE_DATABASES if databases is None else databases
        self._manager = next((name for name, paths in databases.items() if any(map(os.path.exists, paths))), "")

    def of(self, paths: list[str]) -> tuple[dict[str, Owner], str]:
        """Return the package that owns each file, and why that is not known of any, "" if it is."""
        ask = {"dpkg-query": self._dpkg, "apk": self._apk, "pacman": self._pacman, "rpm": self._rpm}.get(self._manager)
        if ask is None:
            return {}, "no package manager is known here"
        found = ask(paths) if paths else {}
        return ({}, f"{self._manager} did not tell") if found is None else (found, "")

    def _dpkg(self, paths: list[str]) -> dict[str, Owner] | None:
        names = {name for path in paths for name in _former_names(path)}
        plain = sorted(name for name in names if not set(name) & set("*?[]\\"))  # dpkg takes patterns
        done = self._run("dpkg-query", "--search", *plain)
        if done.status not in {0, 1}:  # 1: some belong to no package
            return None
        packages = read_dpkg_owners(readable(done.output))
        form = "${binary:Package}\t${Version}\t${source:Package}\n"
        known = sorted(set(packages.values()))
        done = self._run("dpkg-query", "--show", f"--showformat={form}", *known) if known else Run(0)
        rows = (line.split("\t") for line in readable(done.output).splitlines())
        owners = {row[0]: Owner(*row) for row in rows if len(row) == 3}  # noqa: PLR2004 - as the form has
        of_name = {name: owners[package] for name, package in packages.items() if package in owners}
        return {path: of_name[name] for path in paths for name in reversed(_former_names(path)) if name in of_name}

    def _apk(self, paths: list[str]) -> dict[str, Owner] | None:
        done = self._run("apk", "info", "--who-owns", *paths)
        return None if done.status is None else read_apk_owners(readable(done.output))

    def _pacman(self, paths: list[str]) -> dict[str, Owner] | None:
        done = self._run("pacman", "-Qo", *paths)
        return None if done.status is None else read_pacman_owners(readable(done.output))

    def _rpm(self, paths: list[str]) -> dict[str, Owner] | None:
        done = self._run("rpm", "--query", "--file", f"--queryformat={_RPM_FORMAT}", *paths)
        return None if done.status is None or done.is_cut else read_rpm_owners(readable(done.output), paths)

    def _run(self, *command: str) -> Run:
        return run(command, environ=self._environ, timeout=_SHORT, limit=50_000_000)


def with_packages(listeners: list[Listener], owners: Owners) -> tuple[list[Listener], dict[str, Owner]]:
    """Return listeners with the packages of their executables, or why these are not known; and those of their files.

    Executables are asked for first and by themselves. If the packages of a process's libraries cannot be told, its
    libraries are unknown.
    """
    trusted = sorted(listeners, key=lambda each: rank_of_user(each.holder.user))
    running = (each.holder.executable for each in trusted if each.holder.executable and not each.holder.note)
    paths = _fitting(running, _MAX_PATHS)
    found, why = owners.of(paths)
    notes = {path: why or "no package owns its executable" for path in paths if path not in found}
    scripts = (each.holder.script for each in trusted if each.holder.script)
    others = (path for each in trusted for path in each.holder.libraries or ())
    asked, of_others = _owners_of_many(_fitting(itertools.chain(scripts, others), _MAX_MAPPED), owners)
    found = {**of_others, **found}
    completed = []
    for each in listeners:
        holder = each.holder
        if holder.executable and not holder.note:
            owner = found.get(holder.executable)
            note = (
                None if owner else notes.get(holder.executable, "its package was not looked up: too many executables")
            )
            holder = holder._replace(**(owner._asdict() if owner else {}), note=note)
        if holder.script in found:  # another one may be edited at any time, as on a machine of developers
            holder = holder._replace(replaced=(*holder.replaced, holder.script))
        if not asked.issuperset(holder.libraries or ()):
            holder = holder._replace(libraries=None)
        completed.append(each._replace(holder=holder))
    return completed, found


@functools.lru_cache(maxsize=1000)
def rank_of_user(name: str | None) -> int:
    """Return 0 for root, 1 for the user of a service, 2 for others: what they run does not keep out what root runs."""
    if name == "root":
        return 0
    try:
        return 1 if name is not None and pwd.getpwnam(name).pw_uid < _FIRST_PERSON else 2
    except KeyError:
        return 2


def _fitting(paths: Iterable[str], most: int) -> list[str]:
    """Return paths, each once, of so many characters together; no package has one that is longer than _MAX_WORD."""
    kept, size = [], 0
    for path in dict.fromkeys(paths):
        size += len(path) if len(path) <= _MAX_WORD else 0
        if size > most:
            break
        if len(path) <= _MAX_WORD:
            kept.append(path)
    return kept


def _owners_of_many(paths: list[str], owners: Owners) -> tuple[set[str], dict[str, Owner]]:
    """Ask for the owners of many files, some at a time; return what was answered for, and the owners."""
    asked: set[str] = set()
    found: dict[str, Owner] = {}
    until = time.monotonic() + _LOOK_UP_TIMEOUT
    for start in range(0, len(paths), _MAX_AT_ONCE):
        part = paths[start : start + _MAX_AT_ONCE]
        own, why = owners.of(part)
        if not why:
            asked.update(part)
            found.update(own)
        if time.monotonic() > until:
            break
    return asked, found


class Container(NamedTuple):
    """A container; `ports` are those of the host that lead to it, by protocol and number, with their addresses."""

    id: str
    name: str
    image: str
    ports: dict[tuple[str, int], set[str]]


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, as Docker and Podman speak it."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


_CONTAINER_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock")
_CONTAINER_TIMEOUT = 10.0  # seconds for the whole answer: a hung engine must not keep the audit
_MAX_CONTAINERS_ANSWER = 10_000_000  # bytes


def gather_containers(environ: dict[str, str], timeout: float = _CONTAINER_TIMEOUT) -> tuple[list[Container], str]:
    """Ask Docker, and Podman, which containers run; return them, and why some may be missing, "" if none is.

    An engine that is not there has none.
    """
    own = environ.get("DOCKER_HOST", "")
    paths = [own[len("unix://") :]] if own.startswith("unix://") else list(_CONTAINER_SOCKETS)
    found: dict[str, Container] = {}
    why = ""
    for path in dict.fromkeys(os.path.realpath(each) for each in paths):
        try:
            found.update((each.id, each) for each in _ask_engine(path, timeout))
        except (FileNotFoundError, ConnectionRefusedError):
            continue
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            why = f"the container engine at {path} does not tell: {printable(str(error), 100) or type(error).__name__}"
    return list(found.values()), why


def _ask_engine(path: str, timeout: float) -> list[Container]:
    with _time_limit(timeout):
        with contextlib.closing(_UnixConnection(path, timeout)) as connection:
            connection.request("GET", "/containers/json")
            answer = connection.getresponse()
            data = answer.read(_MAX_CONTAINERS_ANSWER + 1)
        if answer.status != http.client.OK:
            raise ValueError(f"status {answer.status}")
        if len(data) > _MAX_CONTAINERS_ANSWER:
            raise ValueError("its answer is too large")
        return read_containers(json.loads(data))


def read_containers(document: Any) -> list[Container]:
    """Read the answer to /containers/json (Docker Engine API 1.24 and later); ValueError if it is none."""
    try:
        return [
            Container(
                str(item["Id"]),
                str(item["Names"][0]).lstrip("/"),
                str(item["Image"]),
                _published(item.get("Ports") or ()),
            )
            for item in document
        ]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"not a list of containers: {error}") from None


def _published(ports: Iterable[dict[str, Any]]) -> dict[tuple[str, int], set[str]]:
    found: dict[tuple[str, int], set[str]] = {}
    for each in ports:
        port = each.get("PublicPort")
        if isinstance(port, int) and 0 < port < 65536 and each.get("Type") in {"tcp", "udp"}:  # noqa: PLR2004 - of 16 bits
            with contextlib.suppress(ValueError):
                address = spell_address(str(each.get("IP") or "0.0.0.0"))  # noqa: S104 - read, not bound
                found.setdefault((each["Type"], port), set()).add(address)
    return found


def with_containers(listeners: list[Listener], containers: list[Container], why: str = "") -> list[Listener]:
    """Return listeners with the containers that hold them, and those of ports that lead to a container without one.

    A port that a container publishes is held by docker-proxy, or by no process if a NAT rule alone leads to it. `why`
    says why a container may not be among these.
    """
    by_id = {each.id: each for each in containers}
    by_port = {port: each for each in containers for port in each.ports}
    completed = []
    for each in listeners:
        holder = each.holder
        container = by_id.get(holder.container or "")
        if os.path.basename(holder.executable or holder.process or "") == "docker-proxy":  # noqa: PTH119 - a name, not a path
            container = by_port.get((each.protocol, each.port))
            if container is None:
                holder = holder._replace(note=why or "no container engine tells to which container it leads")
        if container:
            holder = holder._replace(container=container.id, container_name=container.name, image=container.image)
        elif holder.container and why:
            holder = holder._replace(note=f"{holder.note}; {why}" if holder.note else why)
        completed.append(each._replace(holder=holder))
    held = {(each.protocol, each.port) for each in listeners}
    for (protocol, port), container in by_port.items():
        if (protocol, port) not in held:
            holder = Holder(
                None,
                None,
                container=container.id,
                container_name=container.name,
                image=container.image,
                note="no process holds it: a rule of NAT leads to the container",
            )
            completed += [Listener(protocol, each, port, holder) for each in container.ports[protocol, port]]
    return completed


def gather_listeners(system: System, environ: dict[str, str]) -> tuple[list[dict[str, Any]] | None, list[list[str]]]:
    """Return the "listeners" of the audit: one for each socket and each process that holds it; and the "files".

    These are the libraries of the processes that packages own, each with its package, version and source package.
    """
    found = bsd_listeners(environ) if system.is_bsd else linux_listeners(Path("/proc"))
    if found is None:
        return None, []
    if not system.is_bsd:
        found = with_containers(found, *gather_containers(environ))
    ordered = sorted(set(found), key=_order)[:MAX_LISTENERS]
    owners: dict[str, Owner] = {}
    if not system.is_bsd:
        ordered, owners = with_packages(ordered, Owners(environ))
    return _within(ordered, owners, _MAX_DETAILS)


def _order(listener: Listener) -> tuple[str, int, str, str]:
    """Return what listeners are sorted by: not their libraries, which take long to compare."""
    holder = listener.holder
    return listener.protocol, listener.port, listener.address, str(holder._replace(libraries=None, replaced=()))


def _within(
    listeners: list[Listener], owners: dict[str, Owner], most: int
) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Return listeners and files as JSON, with all that is known of the first ones, which take `most` bytes together.

    Whoever has an account can listen on many ports from long paths. The audit must not become too large by that. Only
    files that packages own are told: of others, no vulnerability of a package is.
    """
    trusted = sorted(range(len(listeners)), key=lambda place: rank_of_user(listeners[place].holder.user))
    used = dict.fromkeys(
        path for place in trusted for path in listeners[place].holder.libraries or () if path in owners
    )
    files = list(used)[:_MAX_FILES]
    numbers = {path: number for number, path in enumerate(files)}
    items: dict[int, dict[str, Any]] = {}
    size = 0
    for place in trusted:
        each = listeners[place]
        holder = each.holder
        if holder.libraries is not None:
            owned = tuple(path for path in holder.libraries if path in owners)
            each = each._replace(holder=holder._replace(libraries=owned))
        item = each.as_json(numbers)
        size += len(json.dumps(item))
        if size > most:
            known = Holder(each.holder.process, each.holder.user, note="the audit has no room for more of it")
            item = each._replace(holder=known).as_json()
        items[place] = item
    every = [items[place] for place in range(len(listeners))]
    return every, [[path, *(text[:_MAX_WORD] for text in owners[path])] for path in files]


# --- The kernel -------------------------------------------------------------------------------------------------------

_RELEASE = re.compile(r"([0-9]+(?:[.-][0-9]+)*)(.*)")  # of uname(1) and of the names of images in /boot
_BUILD = re.compile(r"\.(?:fc|el|amzn|mga)[0-9][0-9_.]*|[+~](?:deb|bpo)[0-9][0-9a-z.~+]*")  # a distribution's
_BACKPORT = re.compile(r"\.(?:deb|bpo)[0-9]+(?=\.)")  # 6.1.0-0.deb11.21-amd64


class Kernel(NamedTuple):
    """The release of a kernel: the numbers of its version, and its flavour, such as ("cloud", "amd64")."""

    numbers: tuple[int, ...]
    flavour: tuple[str, ...]


def read_release(release: str) -> Kernel | None:
    """Read what uname(1) prints; None if it does not begin with a version."""
    found = _RELEASE.fullmatch(_BACKPORT.sub("", release))
    if found is None:
        return None
    numbers = tuple(int(part) for part in re.split("[.-]", found[1]))
    return Kernel(numbers, tuple(re.findall("[a-z]+", _BUILD.sub("", found[2]))))


def newer_kernel(running: str, booted: float, images: dict[str, float]) -> tuple[bool, str | None]:
    """Return whether images of the running kernel's flavour are installed, and the release of the newest, if newer.

    `images` are the releases that are installed, with the times of their files, `booted` is a time, both in Unix
    seconds. A kernel is newer by its version. An image without a version in its name, as Alpine's "lts", is newer if it
    was installed since the boot.
    """
    own = read_release(running)
    is_known, newest = False, None
    for release, at in sorted(images.items()):
        kernel = read_release(release)
        if own is None or (kernel.flavour != own.flavour if kernel else not running.endswith(f"-{release}")):
            continue
        is_known = True
        if kernel is None:
            newest = newest or ((own.numbers, release) if at > booted else None)
        elif kernel.numbers > (newest[0] if newest else own.numbers):
            newest = (kernel.numbers, release)
    return is_known, newest[1] if newest else None


def kernel_of_linux(boot: Path, modules: Path, proc: Path, running: str) -> dict[str, Any] | None:
    """Return the "kernel" of the audit: the release that runs, and the installed one that is newer, or null.

    None if no image of such a kernel is to be seen, as in a container or in a machine that has its kernel from outside.
    """
    images: dict[str, float] = {}
    if (boot / "ostree").exists():
        return None  # a system that is replaced as a whole has its next kernel elsewhere
    try:
        booted = _booted_at((proc / "stat").read_bytes())
        # Debian, Red Hat, Alpine and others; Arch and Fedora
        found = [(path, path.name.partition("-")[2]) for path in boot.glob("vmlinu[xz]-*")]
        found += [(path, path.parent.name) for path in modules.glob("*/vmlinuz")]
        for path, release in found:
            if not path.is_symlink():
                images[release] = max(path.stat().st_ctime, images.get(release, 0.0))
    except (OSError, ValueError):
        return None
    is_known, newer = newer_kernel(running, booted, images)
    return {"running": running, "newer": newer} if is_known else None


def _kernel_here() -> dict[str, Any] | None:
    return kernel_of_linux(Path("/boot"), Path("/usr/lib/modules"), Path("/proc"), os.uname().release)


# --- The audit --------------------------------------------------------------------------------------------------------


def spell_time(moment: float) -> str:
    """Spell a Unix time as RFC 3339 has it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def make_payload(settings: Settings, environ: dict[str, str]) -> tuple[bytes, str]:
    """Audit this host; return the audit's bytes, and how the tool failed, "" if that is not evident."""
    system = this_system()
    (tool, *more), ended_at, trouble = Audit(settings, environ, system).run()
    moment = spell_time(ended_at)
    listeners, files = gather_listeners(system, environ)
    audit = {
        "version": 1,
        "host": settings.host,
        "day": moment[:10],
        "time": moment,
        "nonce": secrets.token_hex(16),
        "agent": AGENT,
        "system": system.as_json(),
        "tool": tool,
        "more_tools": more,
        "files": files,
        "kernel": None if system.is_bsd else _kernel_here(),
        "listeners": listeners,
    }
    text = json.dumps(audit, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace"), trouble


@dataclass(frozen=True)
class Parcel:
    """An audit that is to be sent: its bytes, what it is of, and where it waits, None if it could not be spooled."""

    packed: bytes
    host: str
    day: str
    nonce: str
    path: Path | None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"the audit of {self.host} for {self.day}"

    def drop(self) -> None:
        """Take it out of the spool."""
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


def make_parcel(packed: bytes, path: Path | None) -> Parcel:
    """Look into an audit; ValueError if it is not whole."""
    audit = unpack(packed)
    return Parcel(packed, str(audit.get("host")), str(audit.get("day")), str(audit.get("nonce")), path)


# --- The spool --------------------------------------------------------------------------------------------------------


class BusyError(Exception):
    """Another agent has the spool."""


class Spool:
    """The directory of audits that wait, oldest first; one agent has it at a time.

    Raises BusyError if another one has it, SettingsError if it is not ours alone to write to, OSError if it cannot be
    used for now.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._lock = -1

    def __enter__(self) -> Spool:  # noqa: PYI034 - Self is of 3.11
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise SettingsError(f"spool: {self.path} must be a directory of this user only: chmod 700 {self.path}")
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise SettingsError(f"spool: {self.path}: {_reason(error)}; set it to a directory of this user") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise BusyError(f"another portspec-send is running (it holds {self.path}/lock)") from None
        for path in self.path.glob("*.new"):  # of one that was killed while writing
            path.unlink()
        self._convert_reports()
        self.tries = Tries(self.path / "tries")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def _convert_reports(self) -> None:
        """Convert what portspec-send 0.1 left; the signature remains valid, because it is over the payload alone."""
        with contextlib.suppress(OSError):
            (self.path / "reported").rename(self.path / "sent")
        for path in self.path.glob("*.report"):
            try:
                if not stat.S_ISREG(path.lstat().st_mode):
                    warn(f"{path} is ignored: it is not a regular file")
                    continue
                packed = re.sub(rb"\Aportspec-report ", b"portspec-audit ", path.read_bytes())
                self._write(path.with_suffix(".audit"), packed)
                path.unlink()
            except OSError as error:
                warn(f"{path} cannot be converted, and stays: {_reason(error)}")

    def _write(self, path: Path, packed: bytes) -> None:
        """Write a file of the spool, whole or not at all; it is on the disk when this returns."""
        new = path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(packed)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        directory = os.open(self.path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                os.fsync(directory)
        finally:
            os.close(directory)

    def add(self, packed: bytes) -> Parcel:
        """Keep an audit, whole or not at all; it is on the disk when this returns."""
        path = self.path / f"{time.time_ns():020}-{make_parcel(packed, None).nonce}.audit"
        self._write(path, packed)
        return make_parcel(packed, path)

    def last_sent(self) -> tuple[str, str]:
        """Return the host and the day of the last audit whose tool did not fail; "" of both if there is none."""
        try:
            host, _, day = (self.path / "sent").read_text(encoding="utf-8").strip().partition(" ")
        except (OSError, ValueError):
            return "", ""
        return host, day

    def remember(self, parcel: Parcel) -> None:
        """Remember that the audit of a day was sent."""
        new = self.path / "sent.new"
        try:
            new.write_text(f"{parcel.host} {parcel.day}\n", encoding="utf-8")
            new.rename(self.path / "sent")
        except OSError as error:
            warn(f"{new} could not be written; another run today audits again: {_reason(error)}")

    def waiting(self) -> list[Path]:
        """Return the audits that wait, oldest first."""
        return sorted(self.path.glob("*.audit"))

    def take(self, path: Path) -> Parcel | None:
        """Return an audit that waits; None if it is not whole, and then it is put aside, or if it cannot be read."""
        try:
            if stat.S_ISREG(path.lstat().st_mode):
                return make_parcel(path.read_bytes(), path)
            warn(f"{path} is not an audit: not a regular file; {self.set_aside(path)}")
        except ValueError as error:
            warn(f"{path} is not an audit: {error}; {self.set_aside(path)}")
        except OSError as error:
            warn(f"{path} could not be read: {_reason(error)}")
        return None

    def set_aside(self, path: Path) -> str:
        """Take an audit out of those that wait, but keep it, among the newest of its kind; say what became of it."""
        self.tries.forget(path)
        directory = self.path / "refused"
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            path.rename(directory / path.name)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            return f"it was deleted, because it could not be moved to {directory}: {_reason(error)}"
        kept = sorted(each for each in directory.iterdir() if not each.is_dir())
        for each in kept[:-MAX_SET_ASIDE]:
            with contextlib.suppress(OSError):
                each.unlink()
                warn(f"{each} was deleted: the directory keeps {MAX_SET_ASIDE} audits at most")
        return f"it was moved to {directory}; move it back to {self.path} to retry"

    def trim(self) -> None:
        """Put the oldest ones of too many aside."""
        for path in self.waiting()[:-MAX_SPOOLED]:
            parcel = self.take(path)
            name = parcel.name if parcel is not None else str(path)
            if os.path.lexists(path):
                why = f"more than {MAX_SPOOLED} audits wait in {self.path}"
                warn(f"{name} was discarded: {why}; {self.set_aside(path)}")


class _Tries(NamedTuple):
    """How often an audit has failed by itself, and when it is tried again, in Unix seconds."""

    failures: int
    next_at: float


class Tries:
    """What is known of the tries of each audit in the spool; it lies in a file there, a line for each.

    A try counts as failed from its begin, since a program that is killed cannot note that. What the file says is
    advice: without it, or with one that is not right, all is tried as if for the first time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, _Tries] = {}
        with contextlib.suppress(OSError):
            for line in readable(path.read_bytes()).splitlines():
                found = re.fullmatch(r"(\S+\.audit) ([0-9]{1,6}) ([0-9]{1,12})", line)
                if found and os.path.lexists(path.with_name(found[1])):
                    self._found[found[1]] = _Tries(int(found[2]), float(found[3]))

    def failures(self, path: Path | None) -> int:
        """Return how often an audit has failed by itself."""
        return self._of(path).failures

    def wait(self, path: Path | None, now: float) -> float:
        """Return the seconds until an audit is due, also if the clock was set back."""
        left = self._of(path).next_at - now
        return left if 0.0 < left <= _LONGEST_WAIT else 0.0

    def begin(self, path: Path | None, now: float) -> None:
        """Note that an audit is about to be tried; if nothing is ever noted after that, it is last in the next run."""
        failures = self.failures(path)
        self._note(path, _Tries(failures + 1, now + _wait_after(failures)))

    def fail(self, path: Path | None, now: float) -> None:
        """Note that the try which was begun has failed."""
        failures = self.failures(path)
        self._note(path, _Tries(failures, now + _wait_after(failures)))

    def forgive(self, path: Path | None) -> None:
        """Take the last try back: it was not for the audit that it failed. One that failed before keeps its pause."""
        tries = self._of(path)
        if tries.failures > 1:
            self._note(path, tries._replace(failures=tries.failures - 1))
        else:
            self.forget(path)

    def forget(self, path: Path | None) -> None:
        """Note that an audit is gone."""
        if path is not None and self._found.pop(path.name, None) is not None:
            self._write()

    def _of(self, path: Path | None) -> _Tries:
        return self._found.get(path.name if path is not None else "", _Tries(0, 0.0))

    def _note(self, path: Path | None, tries: _Tries) -> None:
        if path is not None:
            self._found[path.name] = tries
            self._write()

    def _write(self) -> None:
        # rounded down: an audit that is due at once must not wait for the rest of the second
        lines = [f"{name} {tries.failures} {int(tries.next_at)}\n" for name, tries in sorted(self._found.items())]
        new = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # on a full disk
            if not lines:
                self._path.unlink()
                return
            new.write_text("".join(lines), encoding="utf-8")
            new.rename(self._path)


def _wait_after(failures: int) -> float:
    """Return the seconds that an audit waits after so many failures of its own."""
    return min(_FIRST_WAIT * 2 ** min(failures - 1, 30), _LONGEST_WAIT) if failures else 0.0


# --- Sending ----------------------------------------------------------------------------------------------------------


class Fate(enum.Enum):
    """What became of an attempt."""

    SENT = enum.auto()
    REFUSED = enum.auto()  # by portspec, for good
    TOO_LARGE = enum.auto()  # for what is on the way, as long as nobody raises its limit
    FAILED = enum.auto()  # for now, be it for this audit or for all
    UNPROVEN = enum.auto()  # the answer may not be portspec's: the audit is kept, and a retry in this run is of no use


@dataclass(frozen=True)
class Attempt:
    """How an attempt ended, in words that go on after "the audit …"; `pause`: seconds that the server asks for."""

    fate: Fate
    text: str
    pause: float = 0.0


class _PatientConnection(http.client.HTTPConnection):
    """Reads the answer of a server that closed the connection while it was still being written to, as for a 413."""

    def endheaders(self, message_body: Any = None, *, encode_chunked: bool = False) -> None:
        try:
            super().endheaders(message_body, encode_chunked=encode_chunked)
        except (BrokenPipeError, ConnectionResetError):
            if self.sock is None:
                raise


class _PatientTlsConnection(_PatientConnection, http.client.HTTPSConnection):
    """The same within TLS."""


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PatientConnection, req)


class _TlsHandler(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._trusted = context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_PatientTlsConnection, context=self._trusted), req)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect as the answer: urllib would turn the POST into a GET."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_ACCEPTED = {201: "was accepted", 200: "was already archived"}
_REFUSALS = frozenset(
    {"too_large", "malformed", "roster", "signature", "time", "duplicate", "quota"}
)  # audit/admission.py
_SUCCESSES, _REDIRECTS, _REJECTIONS = range(200, 300), range(300, 400), range(400, 500)
_UNSIGNED = (
    "; nothing proves that portspec says so, because the answer has no signature. If the exporter is of version 0.2 or "
    "earlier, upgrade it before the agents"
)
_LATER = frozenset({408, 429})  # request timeout, too many requests: RFC 9110, RFC 6585
_CONTENT_TOO_LARGE = 413  # RFC 9110, 15.5.14
_HINTS = {  # what may be wrong where no route of portspec answers
    401: "portspec or a proxy in front of it requires a user or a token: set url = https://USER:PASSWORD@… "
    "or token_file",
    403: "portspec or a proxy in front of it does not let this host send audits",
    413: "no portspec answers there; that server accepts no audit of {size}; raise its limit (nginx: "
    "client_max_body_size)",
}
_NO_PORTSPEC = "no portspec answers there; url must end after the port"
_REMEDIES = {
    "signature": "; write the output of `portspec key {host}` on the server to {key_file}",
    "roster": "; if the host has another name in portspec's conf.yml, set host to that name",
    "too_large": "; its size is {size}: lower max_output",
}


class HttpSender:
    """Posts audits to portspec, and believes only who shows that it has the key of this host, too."""

    def __init__(self, settings: Settings, key: bytes) -> None:
        self._key = key
        self._key_file = settings.key_file
        parts = urllib.parse.urlsplit(settings.url)
        address = parts.netloc.rpartition("@")[2]
        self._endpoint = f"{parts.scheme}://{address}{parts.path}/api/v1/audits"
        proxy = proxy_of(parts.scheme, address)
        self._where = f"{self._endpoint} through the proxy {proxy}" if proxy else self._endpoint
        self._headers = {"Content-Type": CONTENT_TYPE, "User-Agent": AGENT.replace(" ", "/")}
        if settings.token_file:
            self._headers["Authorization"] = f"Bearer {read_token(settings.token_file)}"
        elif parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")
        handlers = _Handler(), _TlsHandler(make_tls_context(settings)), _NoRedirect()
        self._opener = urllib.request.build_opener(*handlers)

    def send(self, parcel: Parcel) -> Attempt:
        """Try once to send an audit."""
        request = urllib.request.Request(self._endpoint, parcel.packed, self._headers, method="POST")
        try:
            with _time_limit(_ATTEMPT_TIMEOUT):
                try:
                    response = self._opener.open(request, timeout=_SOCKET_TIMEOUT)
                except urllib.error.HTTPError as error:
                    response = error
                with response:
                    status, headers, body = response.getcode(), response.headers, response.read(_MAX_REPLY)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Attempt(Fate.FAILED, f"could not be sent to {self._where}: {_reason(error)}")
        return self._judge(parcel, status, headers, body)

    def _judge(self, parcel: Parcel, status: int, headers: email.message.Message, body: bytes) -> Attempt:
        """Believe portspec alone: what a proxy or another server says neither takes an audit nor refuses it."""
        reply = read_reply(body)
        is_accepted = status in _ACCEPTED and reply is not None and not reply.error
        if reply is not None and (is_accepted or (status in _REJECTIONS and reply.error in _REFUSALS)):
            said = f"{reply.message} ({status} from {self._where})"
            doubt = self._doubt(parcel.packed, status, headers, body)
            remedy = _REMEDIES.get(reply.error, "")
            remedy = remedy.format(host=parcel.host, key_file=self._key_file, size=spell_size(len(parcel.packed)))
            if doubt:
                fate = Fate.TOO_LARGE if status == _CONTENT_TOO_LARGE else Fate.UNPROVEN
                # What portspec refuses before the audit's signature is verified it cannot sign: hence the remedies.
                how = "may not have arrived" if is_accepted else "was not accepted"
                return Attempt(fate, f"{how}: {said}{remedy or doubt}")
            if is_accepted:
                return Attempt(Fate.SENT, _ACCEPTED[status])
            return Attempt(Fate.REFUSED, f"was rejected: {said}{remedy}")
        if status in _REDIRECTS:
            said = f"{self._where} redirects to {headers.get('Location')} ({status}): set url to portspec's own"
        elif reply is not None and reply.error:
            said = f"{reply.message} ({status} from {self._where})"
        else:
            said = self._describe_stranger(status, first_line(body), len(parcel.packed))
        wanted = headers.get("Retry-After") or ""
        pause = min(float(wanted), _LONGEST_PAUSE) if re.fullmatch(r"[0-9]{1,9}", wanted) else 0.0
        fate = Fate.TOO_LARGE if status == _CONTENT_TOO_LARGE else Fate.FAILED
        return Attempt(fate, f"was not accepted: {said}", pause)

    def _doubt(self, packed: bytes, status: int, headers: email.message.Message, body: bytes) -> str:
        """Return why an answer may not be portspec's; "" if it is signed with the key of this host."""
        found = ",".join(headers.get_all(ANSWER_SIGNATURE) or ())
        if not found:
            return _UNSIGNED
        expected = sign_answer(packed, status, body, self._key).encode("ascii")
        if any(hmac.compare_digest(each.strip().encode("utf-8", "replace"), expected) for each in found.split(",")):
            return ""
        return f"; that is not portspec, or has another key than {self._key_file}: the signature of the answer is wrong"

    def _describe_stranger(self, status: int, line: str, size: int) -> str:
        """Say who answered instead of portspec."""
        if status in _SUCCESSES:
            return f"no portspec answers at {self._where} ({status}{': ' if line else ''}{line})"
        said = f"{line} ({status} from {self._where})".strip()
        if status in _REJECTIONS and status not in _LATER:
            said += f": {_HINTS.get(status, _NO_PORTSPEC).format(size=spell_size(size))}"
        return said


def proxy_of(scheme: str, address: str) -> str:
    """Return the proxy of the environment on the way to an address, without its password, and its variable; "" if none.

    It is found as urllib.request.ProxyHandler does.
    """
    proxy = urllib.request.getproxies().get(scheme, "")
    if not proxy or urllib.request.proxy_bypass(address):
        return ""
    return f"{proxy.rpartition('@')[2].rpartition('//')[2].rstrip('/')} ({scheme}_proxy)"


class Reply(NamedTuple):
    """An answer of portspec: a sentence, and the word for what is wrong, "" if nothing is."""

    message: str
    error: str


def read_reply(body: bytes) -> Reply | None:
    """Read the JSON of portspec/web/audits.py; None if somebody else wrote this."""
    try:
        reply = json.loads(readable(body))
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict):
        return None
    error = reply.get("error", "")
    message = reply.get("detail" if error else "message")  # RFC 9457 has the former
    if not isinstance(message, str) or not isinstance(error, str):
        return None
    return Reply(printable(message, 500), error)


def spell_size(count: int) -> str:
    """Spell a number of bytes with the units of the settings."""
    for unit, name in ((1_000_000, "MB"), (1000, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def first_line(body: bytes) -> str:
    """Return what somebody else said, as far as it fits a line."""
    return printable(readable(body).strip().partition("\n")[0], 300)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after so many seconds: a server that sends a byte a minute never runs into other limits."""

    def expire(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"timed out after {seconds:.1f} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# What sendmails say of a mail that is too large: exim "message too big", Postfix "message file too big", others what
# the server of their relay says, by the codes of RFC 5321, 4.2.3, and RFC 3463, 3.3 and 3.4.
_TOO_LARGE = re.compile(r"too (big|large)|exceeds .*\b(size|limit)|\b(552|5\.2\.3|5\.3\.4)\b", re.IGNORECASE)


class MailSender:
    """Hands audits to the local sendmail."""

    def __init__(self, settings: Settings, environ: dict[str, str]) -> None:
        self._settings = settings
        self._environ = tool_environment(environ)

    def send(self, parcel: Parcel) -> Attempt:
        """Try once to hand an audit over."""
        settings = self._settings
        warn_of_program(settings.sendmail)
        # By default exim tells of errors in a mail to the sender and says nothing here; -oep is for others no news.
        command = (settings.sendmail, "-oi", "-oep", "-t", "-f", settings.mail_from)
        mail = make_mail(parcel, settings.mail_from, settings.mail_to)
        try:
            with tempfile.TemporaryFile() as file:
                file.write(mail)
                file.seek(0)
                done = run(command, environ=self._environ, timeout=_ATTEMPT_TIMEOUT, limit=_MAX_ERRORS, stdin=file)
        except OSError as error:
            return Attempt(Fate.FAILED, f"could not be handed to {settings.sendmail}: {_reason(error)}")
        if done.status == 0:
            return Attempt(Fate.SENT, f"was handed to {settings.sendmail} for {settings.mail_to}")
        last = _last_line(done.errors or done.output)
        size = spell_size(len(mail))
        if _TOO_LARGE.search(readable(done.errors + b"\n" + done.output)):
            remedy = "raise its limit (Postfix and exim: message_size_limit), or send by HTTP (url)"
            return Attempt(
                Fate.TOO_LARGE, f"is too large for {settings.sendmail}: its mail has {size} ({last}); {remedy}"
            )
        reason = done.note or f"it ended with {done.status}{': ' if last else ''}{last}"
        if not last:
            reason += f" and printed nothing; the mail has {size}"
        return Attempt(Fate.FAILED, f"could not be handed to {settings.sendmail}: {reason}")


def make_mail(parcel: Parcel, sender: str, recipient: str) -> bytes:
    """Write the mail that carries an audit; an audit that is sent again has the same Message-ID."""
    mail = email.message.EmailMessage(email.policy.default.clone(max_line_length=78))
    mail["From"] = sender
    mail["To"] = recipient
    mail["Subject"] = f"portspec audit of {parcel.host} for {parcel.day}"
    mail["Date"] = email.utils.formatdate(usegmt=True)
    mail["Message-ID"] = f"<portspec.{parcel.nonce}@{re.sub(r'[^a-z0-9.-]', '-', parcel.host)}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's vacation answers
    mail.set_content(
        f"The attachment is the signed audit of {parcel.host} for {parcel.day}.\n"
        "It is meant for `portspec receive`, not for reading.\n"
    )
    main, sub = CONTENT_TYPE.split("/")
    mail.add_attachment(parcel.packed, maintype=main, subtype=sub, filename="portspec-audit.bin")
    return mail.as_bytes()


class Delivery:
    """Sends audits. The pauses of a run are for all of them together: a server that is down is down for all."""

    def __init__(
        self,
        sender: HttpSender | MailSender,
        settings: Settings,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sender = sender
        self._sleep = sleep
        self.clock = clock  # Unix seconds
        self.timer = timer  # seconds, from whatever begin
        tries = settings.retries if settings.url else 0  # sendmail has a queue of its own
        self._pauses = [settings.pause * 2**index for index in range(tries)]

    def send(self, parcel: Parcel) -> Attempt:
        """Send an audit, if need be after pauses; say what became of it."""
        attempt = self._sender.send(parcel)
        while attempt.fate is Fate.FAILED and self._pauses:
            pause = max(self._pauses.pop(0) * random.uniform(0.5, 1.5), attempt.pause)  # noqa: S311 - not a secret
            if sys.stderr.isatty():  # somebody waits; cron's mails are for what came of it
                warn(f"{parcel.name} {attempt.text}; trying again in {pause:.0f} s")
            self._sleep(pause)
            attempt = self._sender.send(parcel)
        return attempt


class _Left(NamedTuple):
    """An audit that was tried and is still there: how the try ended, and in which words."""

    name: str
    path: Path | None
    fate: Fate
    text: str


class _Round:
    """One run's way through all that waits: each audit that is due gets its try, whatever became of the others.

    A failure counts against an audit if others arrive, or if it is too large; else it may be the way that is shut, and
    then all are tried again the next time. Answers without proof make an audit wait, too, or a host with a wrong key
    would have all that it keeps refused each hour; but nobody who gives them can make it give up.

    One that has failed before comes after those that have not: so what takes minutes to fail, or gets this program
    killed, keeps no other waiting.
    """

    def __init__(self, spool: Spool | None, delivery: Delivery) -> None:
        self._spool = spool
        self._delivery = delivery
        self._has_arrived = False
        self._in_vain = 0.0  # seconds
        self.left: list[_Left] = []
        self.untried = 0
        self.refused: list[Path | None] = []

    def send_all(self, own: Parcel | None, *, is_now: bool) -> None:
        """Try what waits, oldest first, and the audit of today; `is_now`: also what has to wait for its next try."""
        spool = self._spool
        of_today = own.path if own is not None else None
        paths = [path for path in spool.waiting() if path != of_today] if spool is not None else []
        new = [path for path in paths if self._failures(path) == 0]
        for path in new:
            self._try_file(path, is_wanted=own is None and path == new[-1])
        if own is not None:
            self._try(own)
        for path in paths:
            if spool is not None and path not in new:
                if is_now or not spool.tries.wait(path, self._delivery.clock()):
                    self._try_file(path)
                else:
                    self.untried += 1

    def _failures(self, path: Path | None) -> int:
        return self._spool.tries.failures(path) if self._spool is not None else 0

    def _try_file(self, path: Path, *, is_wanted: bool = False) -> None:
        if self._in_vain >= _MAX_IN_VAIN and not is_wanted:
            self.untried += 1
            return
        parcel = self._spool.take(path) if self._spool is not None else None
        if parcel is not None:
            self._try(parcel)

    def _try(self, parcel: Parcel) -> None:
        if self._spool is not None:
            self._spool.tries.begin(parcel.path, self._delivery.clock())
        began = self._delivery.timer()
        attempt = self._delivery.send(parcel)
        if attempt.fate is Fate.SENT:
            self._has_arrived = True
            if self._spool is not None:
                self._spool.tries.forget(parcel.path)
            parcel.drop()
            say(f"{parcel.name} {attempt.text}")
        elif attempt.fate is Fate.REFUSED:
            self._give_up(parcel.name, parcel.path, attempt.text)
        else:
            self._in_vain += self._delivery.timer() - began
            self.left.append(_Left(parcel.name, parcel.path, attempt.fate, attempt.text))

    def _give_up(self, name: str, path: Path | None, text: str) -> None:
        kept = f"; {self._spool.set_aside(path)}" if path is not None and self._spool is not None else ""
        warn(f"{name} {text}{kept}")
        self.refused.append(path)

    def settle(self) -> None:
        """When all were tried: judge whether a failure counts against an audit, and give up those of too many."""
        now = self._delivery.clock()
        still = []
        for each in self.left:
            age = 0.0
            if each.path is not None and self._spool is not None:
                with contextlib.suppress(OSError):
                    age = now - each.path.stat().st_mtime
                if self._has_arrived or each.fate in {Fate.TOO_LARGE, Fate.UNPROVEN}:
                    self._spool.tries.fail(each.path, now)
                else:
                    self._spool.tries.forgive(each.path)
            failures = self._failures(each.path)
            if failures >= MAX_TRIES and each.fate is not Fate.UNPROVEN:
                self._give_up(each.name, each.path, f"{each.text}; given up after {failures} tries")
            elif age > MAX_WAIT:
                self._give_up(each.name, each.path, f"{each.text}; given up after {MAX_WAIT / 86_400:.0f} days")
            else:
                still.append(each)
        self.left = still


def deliver(
    spool: Spool | None,
    own: Parcel | None,
    delivery: Delivery,
    tell_waiting: Callable[[str], None] = warn,
    *,
    is_now: bool = False,
) -> int:
    """Send what waits, and the audit of today if there is one; return the exit code."""
    tour = _Round(spool, delivery)
    tour.send_all(own, is_now=is_now)
    tour.settle()
    names: dict[str, list[str]] = {}
    for each in tour.left:
        if each.path is None or spool is None:
            warn(f"{each.name} {each.text}; it could not be stored and is lost")
        else:
            names.setdefault(each.text, []).append(each.name)
    for text, of_text in names.items():
        who, wait = (of_text[0], "it waits") if len(of_text) == 1 else (f"{len(of_text)} audits", "they wait")
        tell_waiting(f"{who} {text}; {wait} in {spool.path if spool else ''} for the next run")
    if tour.untried:
        who, wait = ("1 audit", "waits") if tour.untried == 1 else (f"{tour.untried} audits", "wait")
        say(f"{who} {wait} for a later attempt; portspec-send --flush --now retries at once")
    if (own is not None and own.path in tour.refused) or (tour.refused and not tour.left and not tour.untried):
        return REFUSED
    return SPOOLED if tour.left or tour.untried else SENT


# --- Schedules --------------------------------------------------------------------------------------------------------

_SERVICE = """\
# /etc/systemd/system/portspec-send.service: audits this host and sends the audit, once.
[Unit]
Description=portspec-send: audit of this host
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={command}
# exim's sendmail delivers in a process that outlives portspec-send. With the default KillMode, systemd would kill it,
# and the mail would stay in the queue.
KillMode=process
UMask=0077
Nice=10
IOSchedulingClass=idle
# trivy and grype keep their databases here.
CacheDirectory=portspec-send
Environment=XDG_CACHE_HOME=/var/cache/portspec-send

# It runs as root, because only root can see which process listens on a port. The restrictions below leave the local
# sendmail the rights that it needs.
ProtectSystem=full
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
"""

_TIMER = """\
# /etc/systemd/system/portspec-send.timer: systemctl enable --now portspec-send.timer
[Unit]
Description=portspec-send: daily audit of this host

[Timer]
# portspec accepts one audit per day (UTC). The delay differs between hosts and is constant on each host.
OnCalendar=*-*-* 03:00:00 UTC
RandomizedDelaySec=1h
FixedRandomDelay=true
# Run at boot if the machine was off at that time.
Persistent=true
# An audit that cannot be sent waits for the next day; a timer for portspec-send --flush can retry each hour.

[Install]
WantedBy=timers.target
"""

_CRON = """\
# portspec-send, for root's crontab: (crontab -l; portspec-send --cron) | crontab -
# cron adds no random delay: use a different minute on each host, so that the hosts do not all send at once, or let
# --cron choose one. --cron also writes the path of the python3 that runs it, on FreeBSD /usr/local/bin/python3.
# cron mails only warnings: other messages go to standard output.
{minute} {hour} * * * {command} >/dev/null
# Retry each hour what could not be sent. Only the line above mails that an audit waits.
{minute_of_flush} * * * * {command} --flush >/dev/null
"""


_DAY = 24 * 60  # minutes
_MARGIN = 2 * 60  # an hour for summer time, and one for the tool


def own_command(flags: list[str]) -> str:
    """Return the command line that starts this program as it was started, for a crontab or a unit."""
    script = os.path.abspath(sys.argv[0])  # noqa: PTH100 - a link to it stays one
    words = [sys.executable or "/usr/bin/python3", "-I", script, *flags]
    return " ".join(shlex.quote(word) for word in words)


def cron_line(command: str, minute: int, utc_offset: int) -> str:
    """Return the lines for a crontab, at a minute between 0 and 59; `utc_offset` is the local time's, in seconds.

    A run close to midnight of UTC could give one day two audits, of which one is refused, and the next day none.
    """
    hour = 3
    minute_of_utc = (60 * hour + minute - utc_offset // 60) % _DAY
    if not _MARGIN <= minute_of_utc < _DAY - _MARGIN:
        hour += 3
    # A per cent sign ends the command in a crontab.
    return _CRON.format(
        minute=minute, hour=hour, minute_of_flush=(minute + 30) % 60, command=command.replace("%", "\\%")
    )


def unit_texts(command: str, kind: str) -> str:
    """Return the units for systemd: "service", "timer", or "both"."""
    command = command.replace("%", "%%").replace("$", "$$")
    texts = {"service": _SERVICE.format(command=command), "timer": _TIMER}
    return "\n".join(texts.values()) if kind == "both" else texts[kind]


# --- The command ------------------------------------------------------------------------------------------------------

_EPILOG = f"""\
FILE is {" or ".join(CONFIGS)} unless -c names another.
Its lines are "key = value" or comments that begin with #. Environment variables such as
{ENVIRONMENT}URL override it, and flags override both. Required are either url or mail_to, and
the key of this host, which the server prints:

  server$ portspec key db1.example.org -c portspec.yml
  db1# install -m 600 /dev/null /etc/{KEY_NAME} && cat > /etc/{KEY_NAME}

{textwrap.fill(f"Tools: {', '.join(TOOLS)}.", 95)}
"auto" selects the first that is installed:
  FreeBSD   pkg-audit, portaudit            NetBSD   pkg-admin, trivy, grype
  Debian    debsecan, trivy, grype, osv-scanner, apt
  Ubuntu    trivy, grype, ubuntu-pro (with apt), apt
  Arch      arch-audit, trivy, grype        Alpine   trivy, grype, osv-scanner, apk
  RHEL      trivy, grype, dnf (or yum)      Fedora and other systems with RPM   dnf
  SUSE      trivy, grype (SLES), zypper
  derived from Debian or Ubuntu: ubuntu-pro (with apt), apt, grype, trivy
  others    trivy, grype, osv-scanner
and pip-audit if none of them is installed. osv-scanner finds nothing in Ubuntu's packages, and
trivy finds nothing in a release of Debian without a number.

Exit codes: {SENT} sent, {REFUSED} rejected, {SPOOLED} waits in the spool, {MISCONFIGURED} wrong settings or usage.
If the audit tool fails, portspec-send prints the failure to standard error and sends the audit,
which portspec counts as failed; the exit code does not change. --flush exits with {SENT} if the
spool is empty.

Only an answer that portspec has signed with the key of this host takes an audit out of the spool.
HTTP_PROXY, HTTPS_PROXY and NO_PROXY are respected.

Test:         portspec-send --url http://portspec.example.org:10190 --dry-run
Every day:    (crontab -l; portspec-send --cron) | crontab -
Or:           portspec-send --systemd service > /etc/systemd/system/portspec-send.service
              portspec-send --systemd timer > /etc/systemd/system/portspec-send.timer
              systemctl enable --now portspec-send.timer
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.exit(MISCONFIGURED, f"{self.prog}: {message} (see {self.prog} --help)\n")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="portspec-send",
        description="Audit this host and send the signed audit to portspec.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="settings file")
    parser.add_argument("--version", action="version", version=AGENT)
    parser.add_argument("--again", action="store_true", help="audit and send even if today's audit was already sent")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--dry-run", action="store_true", help="print the audit without sending it")
    ways.add_argument("--print", action="store_true", help="print the audit and send it")
    ways.add_argument("--flush", action="store_true", help="send the audits in the spool, without a new audit")
    ways.add_argument("--cron", action="store_true", help="print lines for root's crontab, at a random minute")
    ways.add_argument(
        "--systemd",
        nargs="?",
        const="both",
        choices=("service", "timer", "both"),
        help="print a service and a timer for systemd, or one of them",
    )
    parser.add_argument("--now", action="store_true", help="also send audits that wait for a later attempt")
    group = parser.add_argument_group("settings")
    for name, key in KEYS.items():
        group.add_argument(f"--{name.replace('_', '-')}", metavar=name.upper(), help=key.meaning.replace("%", "%%"))
    return parser


_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def _stop(number: int, _: FrameType | None) -> None:
    for each in _ENDING_SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # what follows takes care to end what runs
    raise Stopped(number)


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    arguments = argument_parser().parse_args(argv)
    for number in _ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1)
            signal.signal(number, _stop)
    os.umask(0o077)
    try:
        return _main(arguments)
    except SettingsError as error:
        warn(str(error))
        return MISCONFIGURED
    except BusyError as error:
        warn(str(error))
        return SPOOLED
    except OSError as error:
        warn(f"{error.filename or 'I/O error on this machine'}: {_reason(error)}")
        return SPOOLED
    except Stopped as stopped:
        warn(f"stopped by {_name_of_signal(stopped.number)}")
        return 128 + stopped.number


def _main(arguments: argparse.Namespace) -> int:
    flags = ["-c", os.path.abspath(arguments.config)] if arguments.config else []  # noqa: PTH100 - a link stays one
    if arguments.cron or arguments.systemd:
        for path in filter(None, (sys.executable, sys.argv[0])):
            _read_own(os.path.abspath(path))  # noqa: PTH100 - a link stays one
    if arguments.cron:
        now = time.localtime()
        sys.stdout.write(cron_line(own_command(flags), secrets.randbelow(60), now.tm_gmtoff))
        return SENT
    if arguments.systemd:
        sys.stdout.write(unit_texts(own_command(flags), arguments.systemd))
        return SENT
    environ = dict(os.environ)
    given = {name: getattr(arguments, name) for name in KEYS if getattr(arguments, name) is not None}
    settings = gather_settings(arguments.config, environ, given)
    if arguments.dry_run:
        payload, trouble = make_payload(settings, environ)
        if trouble:
            warn(f"{trouble}; if sent, the audit would count as failed")
        _print(payload)
        return SENT
    if bool(settings.url) == bool(settings.mail_to):
        raise SettingsError("set either url or mail_to" + (", not both" if settings.url else ""))
    key = read_key(settings.key_file)
    delivery = Delivery(HttpSender(settings, key) if settings.url else MailSender(settings, environ), settings)
    if arguments.flush:
        return _flush(settings, delivery, is_now=arguments.now)
    return _audit_and_send(settings, environ, key, delivery, arguments)


def _audit_and_send(
    settings: Settings, environ: dict[str, str], key: bytes, delivery: Delivery, arguments: argparse.Namespace
) -> int:
    """Audit this host, and send what waits and the new audit; one that did not fail is enough for a day."""
    with contextlib.ExitStack() as stack:
        spool: Spool | None = None
        try:
            spool = stack.enter_context(Spool(settings.spool))
        except OSError as error:
            warn(f"{settings.spool} cannot be used; audits that cannot be sent are lost: {_reason(error)}")
        today = spell_time(time.time())[:10]
        if spool is not None and not arguments.again and spool.last_sent() == (settings.host, today):
            counts = "only one per day counts (--again sends another)"
            say(f"the audit of {settings.host} for {today} was already sent, and {counts}")
            return deliver(spool, None, delivery, is_now=arguments.now)
        payload, trouble = make_payload(settings, environ)
        if trouble:
            counts = "the audit is sent anyway and counts as failed; a later audit of today replaces it"
            warn(f"{trouble}; {counts}")
        if arguments.print:
            _print(payload)
        own = _keep(spool, pack(payload, key))
        code = deliver(spool, own, delivery, is_now=arguments.now)
        if spool is not None:
            if code == SENT and not trouble and _has_succeeded(payload):
                spool.remember(own)
            spool.trim()
    return code


def _has_succeeded(payload: bytes) -> bool:
    """Return whether all tools ended as those that found something or nothing; what they printed, the server judges."""
    audit = json.loads(payload)
    tools = [audit["tool"], *audit.get("more_tools", [])]
    # 100 and 101 of zypper(8): there are patches, and some for security
    said = {0, 1, 100, 101} if audit["tool"]["name"] == "zypper" else {0, 1}
    return all(tool["exit_status"] in said and not tool["truncated"] for tool in tools)


def _flush(settings: Settings, delivery: Delivery, *, is_now: bool) -> int:
    """Send what waits; that it goes on waiting is no news, so neither that nor another agent at work is trouble."""
    try:
        with Spool(settings.spool) as spool:
            if not spool.waiting():
                say(f"no audits wait in {spool.path}")
            return deliver(spool, None, delivery, say, is_now=is_now)
    except BusyError as error:
        say(str(error))
        return SPOOLED


def _print(payload: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(payload + b"\n")
    sys.stdout.flush()


def _keep(spool: Spool | None, packed: bytes) -> Parcel:
    if spool is not None:
        try:
            return spool.add(packed)
        except OSError as error:
            warn(f"the audit could not be written to the spool: {_reason(error)}")
    return make_parcel(packed, None)


if __name__ == "__main__":
    sys.exit(main())
