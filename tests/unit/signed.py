"""Signed audits of hosts, made by hand, and who may send them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from portspec.audit.envelope import key_of, pack
from portspec.config import AuditConfig, VulnerabilityException
from portspec.inventory import AuditedHost
from tests.unit.factories import NOW

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DAY: Final = 86_400.0
TODAY: Final = "2023-11-14"  # of NOW
YESTERDAY: Final = "2023-11-13"
PASSPHRASE: Final = "a passphrase of the tests"  # noqa: S105 - of no host
AUDIT: Final = AuditConfig((PASSPHRASE,))
WEB, DB, APP = "web1.example.org", "db1.example.org", "app1.example.org"
CLEAN: Final = "0 problem(s) in 0 installed package(s) found.\n"
CURL: Final = "CVE-2023-38545"
VULNERABLE: Final = f"""\
curl-8.1.0 is vulnerable:
  curl -- heap buffer overflow in the SOCKS5 proxy handshake
  CVE: {CURL}
  WWW: https://vuxml.FreeBSD.org/freebsd/d6c19e8c-6806-11ee-9464-b42e991fc52e.html

1 problem(s) in 1 installed package(s) found.
"""


def payload(
    host: str = WEB,
    at: float = NOW,
    output: str = CLEAN,
    *,
    nonce: str = "00" * 16,
    listeners: Iterable[Mapping[str, Any]] | None = (),
) -> bytes:
    """Return the payload of a host that ran `pkg audit`; another nonce makes another audit."""
    moment = datetime.fromtimestamp(at, UTC)
    audit = {
        "version": 1,
        "host": host,
        "day": f"{moment:%Y-%m-%d}",
        "time": moment.isoformat(),
        "nonce": nonce,
        "agent": "portspec-send 1",
        "tool": {
            "name": "pkg-audit",
            "version": "1.20.9",
            "exit_status": int("is vulnerable" in output),
            "output": output,
            "errors": "",
            "truncated": False,
        },
        "listeners": None if listeners is None else list(listeners),
    }
    return json.dumps(audit).encode()


def signed(body: bytes, host: str = WEB, passphrase: str = PASSPHRASE) -> bytes:
    """Return a payload as a host sends it."""
    return pack(body, key_of(host, passphrase))


def packed(host: str = WEB, at: float = NOW, output: str = CLEAN, *, nonce: str = "00" * 16) -> bytes:
    """Return the audit of a host as it sends it."""
    return signed(payload(host, at, output, nonce=nonce), host)


def socket(
    port: int, process: str | None = None, user: str | None = None, address: str = "192.0.2.1"
) -> dict[str, Any]:
    """Return what an audit has of a socket that something listens on."""
    return {"protocol": "tcp", "address": address, "port": port, "process": process, "user": user}


def accept(*ids: str, until: float) -> VulnerabilityException:
    """Make an exception for vulnerabilities of all hosts."""
    return VulnerabilityException(("*",), tuple(name.lower() for name in ids), until)


def rostered(*hosts: str, exceptions: Iterable[VulnerabilityException] = ()) -> dict[str, AuditedHost]:
    """Make a roster of hosts whose names are canonical."""
    return {host: AuditedHost(host, tuple(exceptions)) for host in hosts}
