"""What tests of audits share: hosts that send audits, audits made by hand, and portspec's commands as processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import portspec.agent
from portspec.audit import envelope
from tests.e2e.exporter import PATIENCE, write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.e2e.exporter import Exporter

PASSPHRASE: Final = "a passphrase of the tests"  # noqa: S105 - of hosts that there are none of
FOUND: Final = Path(__file__).parents[1] / "data" / "audit" / "debsecan" / "detail_vulnerable.txt"
PACKAGE: Final = "libisc7"  # one of those that it finds
SCANNED: Final = "127.93.0.1"  # conf.yml has to name a host; nothing listens there
PORTSPEC: Final = str(Path(sys.executable).with_name("portspec"))
WAIT: Final = 60.0  # seconds for a command; none gets near it


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    output: bytes
    errors: str


def run(*command: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> Done:
    """Run a command to its end, by default in the environment of the tests."""
    done = subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=WAIT, check=False)
    return Done(done.returncode, done.stdout, done.stderr.decode())


def printed(*command: str) -> bytes:
    """Run a command that must not fail, and give what it prints."""
    done = run(*command)
    assert done.code == 0, done.errors
    return done.output


def configure(path: Path, reporting: Iterable[str], *, audit: Mapping[str, Any] | None = None, **keys: Any) -> Path:
    """Write a conf.yml by which some hosts have to send audits; `audit` are further keys of that block."""
    scanned = {"hosts": {SCANNED: []}, "scanports": [7]} | keys
    block = {"passphrase": PASSPHRASE, "hosts": list(reporting), **(audit or {})}
    return write(path, **scanned, audit=block)


def key(conf: Path, host: str) -> str:
    """Ask portspec for the key of a host."""
    return printed(PORTSPEC, "key", host, "-c", str(conf)).decode()


class Agent:
    """A host with the agent: agent.py copied there by hand, its key and settings, and a debsecan that prints a file."""

    def __init__(self, directory: Path, host: str, own_key: str, *, source: Path | None = None) -> None:
        directory.mkdir()
        self.host = host
        self.within: tuple[str, ...] = ()  # a command that runs the command line behind it
        self.spool = directory / "spool"
        self.program = directory / "portspec-send"
        shutil.copy(source or Path(portspec.agent.__file__), self.program)
        key_file = directory / "portspec-send.key"
        key_file.touch(mode=0o600)
        key_file.write_text(own_key, encoding="ascii")
        self._settings = directory / "portspec-send.conf"
        self._tool = directory / "debsecan"
        self.finds(FOUND)
        self.configure()

    def finds(self, sample: Path) -> None:
        """Let the tool print a file."""
        self._tool.write_text(f"#!/bin/sh\nexec cat {sample}\n", encoding="utf-8")
        self._tool.chmod(0o755)

    def configure(self, **settings: object) -> None:
        """Write the settings; "" takes one away."""
        command = f"{self._tool} --format detail"
        values = {"host": self.host, "spool": self.spool, "command": command, "retries": 0, "pause": 0} | settings
        lines = [f"{name} = {value}\n" for name, value in values.items() if value != ""]
        self._settings.write_text("".join(lines), encoding="utf-8")

    def send(self, *arguments: str, **environment: str) -> Done:
        """Run it; with `--print` it prints the payload, and one line."""
        command = (*self.within, sys.executable, "-I", str(self.program), "-c", str(self._settings), *arguments)
        return run(*command, environment={"PATH": os.defpath, **environment})

    def waiting(self) -> list[Path]:
        """Return the audits in its spool, the oldest first."""
        return sorted(self.spool.glob("*.audit"))


def payload_of(done: Done) -> bytes:
    """Return the payload that an agent printed, byte for byte, before what it says."""
    lines = done.output.split(b"\n")
    assert lines[0].startswith(b'{"version":1,'), done
    return lines[0]


@dataclass(frozen=True, slots=True)
class Made:
    """An audit made by hand, as an agent makes it: the payload, and that signed."""

    host: str
    day: str
    payload: bytes
    packed: bytes


def make(
    host: str,
    at: float,
    *,
    output: str | None = None,
    listeners: Iterable[Mapping[str, Any]] = (),
    passphrase: str = PASSPHRASE,
) -> Made:
    """Make an audit of a host, whose tool ended at `at`, in Unix seconds; each is another one."""
    moment = datetime.fromtimestamp(int(at), UTC)
    day = f"{moment:%Y-%m-%d}"
    audit = {
        "version": 1,
        "host": host,
        "day": day,
        "time": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "nonce": secrets.token_hex(16),
        "agent": portspec.agent.AGENT,
        "tool": {
            "name": "debsecan",
            "version": None,
            "command": ["debsecan", "--format", "detail"],
            "exit_status": 0,
            "output": FOUND.read_text(encoding="utf-8") if output is None else output,
            "errors": "",
            "truncated": False,
        },
        "listeners": list(listeners),
    }
    payload = json.dumps(audit).encode()
    return Made(host, day, payload, envelope.pack(payload, envelope.key_of(host, passphrase)))


def mail(made: Made, sender: str, recipient: str) -> bytes:
    """Write the mail that carries an audit, as an agent does."""
    parcel = portspec.agent.make_parcel(made.packed, None)
    return portspec.agent.make_mail(parcel, sender, recipient)


def post(
    address: str, body: bytes | Iterable[bytes], headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str]]:
    """Post an audit; give status and document of the answer."""
    with closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as connection:
        connection.request("POST", "/api/v1/audits", body, dict(headers or {}))
        response = connection.getresponse()
        document = json.loads(response.read())
        assert isinstance(document, dict)
        return response.status, document


def status(exporter: Exporter, host: str) -> str | None:
    """Return the portspec_audit_status of a host on /metrics."""
    series = exporter.series().get("portspec_audit_status", {})
    found = [
        re.fullmatch(f'host="{re.escape(host)}",status="([a-z_]+)"', each) for each, is_it in series.items() if is_it
    ]
    return next((each[1] for each in found if each), None)


def rejected(exporter: Exporter) -> dict[str, float]:
    """Return the refused audits on /metrics by reason, without those of which there are none."""
    series = exporter.series()["portspec_audits_rejected_total"]
    return {labels.removeprefix('reason="').removesuffix('"'): count for labels, count in series.items() if count}


def received(exporter: Exporter) -> float:
    """Return the number of accepted audits on /metrics."""
    return exporter.series()["portspec_audits_received_total"][""]
