"""A fleet that reports: the text of `pkg audit` as hosts of a few roles would have it, in signed reports.

A made-up database of vulnerabilities, each in one package; a role is a choice of some hundred of them, and a host has
nearly all of its role's and a few of its own, in an order and with a version of its own here and there. So hosts have
most lines in common, as machines that are installed from the same lists do, and no two reports are the same.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from portspec.audit.envelope import key_of, pack

PASSPHRASE: Final = "of the benchmark and of nobody else"  # noqa: S105 - made up
KNOWN: Final = 4_000  # vulnerabilities in the database
ROLES: Final = 20
OWN: Final = 0.05  # of a host's vulnerabilities: none of its role's
_FAULTS: Final = (
    "buffer overflow",
    "use after free",
    "denial of service",
    "remote code execution",
    "cross site scripting",
    "information leak",
    "multiple vulnerabilities",
    "certificate validation",
    "privilege escalation",
    "path traversal",
    "integer overflow",
)
_PARTS: Final = (
    "parser",
    "scheduler",
    "TLS handshake",
    "decoder",
    "web interface",
    "resolver",
    "image loader",
    "shell",
)


@dataclass(frozen=True, slots=True)
class Known:
    """An entry of the database."""

    package: str
    title: str
    cves: tuple[str, ...]
    uuid: str

    def text(self, version: str) -> str:
        """Return what `pkg audit` 1.19 prints of it."""
        cves = "".join(f"  CVE: {cve}\n" for cve in self.cves)
        url = f"https://vuxml.FreeBSD.org/freebsd/{self.uuid}.html"
        return f"{self.package}-{version} is vulnerable:\n  {self.title}\n{cves}  WWW: {url}\n\n"


class Fleet:
    """Hosts and their reports, the same ones for the same seed; `findings` are the vulnerabilities of each host."""

    def __init__(self, findings: int, seed: int = 1) -> None:
        rng = random.Random(seed)  # noqa: S311 - repeatable
        self._findings = findings
        self._seed = seed
        self._known = [_known(rng) for _ in range(KNOWN)]
        self._roles = [rng.sample(range(KNOWN), findings) for _ in range(ROLES)]

    def host(self, number: int) -> str:
        """Return the name of a host."""
        return f"host-{number:05}.example.org"

    def output(self, number: int) -> str:
        """Return what the tool of a host prints."""
        rng = random.Random(f"{self._seed} {number}")  # noqa: S311 - repeatable
        role = self._roles[number % ROLES]
        chosen = {place if rng.random() > OWN else rng.randrange(KNOWN) for place in role}
        pieces = [self._known[place].text(_version(place, is_own=rng.random() < OWN)) for place in sorted(chosen)]
        packages = len({self._known[place].package for place in chosen})
        return "".join(pieces) + f"{len(chosen)} problem(s) in {packages} installed package(s) found.\n"

    def payload(self, number: int, at: float) -> bytes:
        """Return the payload of a host's report, of a Unix time, as the agent makes it."""
        rng = random.Random(f"{self._seed} {number} listeners")  # noqa: S311 - repeatable
        moment = datetime.fromtimestamp(at, UTC)
        listeners = [
            {
                "protocol": "tcp",
                "address": "0.0.0.0",  # noqa: S104 - what a host says
                "port": port,
                "process": f"service{port}",
                "user": f"user{port % 7}",
            }
            for port in rng.sample(range(1024, 2048), 20)
        ]
        report = {
            "version": 1,
            "host": self.host(number),
            "day": f"{moment:%Y-%m-%d}",
            "time": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
            "nonce": f"{rng.getrandbits(128):032x}",
            "agent": "portspec-send benchmark",
            "tool": {
                "name": "pkg-audit",
                "version": "1.19.0",
                "exit_status": 1,
                "output": self.output(number),
                "errors": "",
                "truncated": False,
            },
            "listeners": listeners,
        }
        return json.dumps(report, ensure_ascii=False, separators=(",", ":")).encode()

    def packed(self, number: int, at: float) -> bytes:
        """Return the signed report of a host as it is sent."""
        return pack(self.payload(number, at), key_of(self.host(number), PASSPHRASE))


def _known(rng: random.Random) -> Known:
    package = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(4, 12)))
    title = f"{package} -- {rng.choice(_FAULTS)} in the {rng.choice(_PARTS)}"
    cves = tuple(f"CVE-{rng.randint(2015, 2026)}-{rng.randint(1000, 59999)}" for _ in range(rng.randint(1, 3)))
    digits = f"{rng.getrandbits(128):032x}"
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return Known(package, title, cves, uuid)


def _version(place: int, *, is_own: bool) -> str:
    return f"{place % 10}.{place % 37}.{place % 11 + is_own}"
