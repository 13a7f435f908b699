"""Alertmanager with the shipped configuration, and the two that it notifies: a mail server and a pager, on loopback."""

from __future__ import annotations

import email
import email.policy
import http.server
import json
import re
import socketserver
import subprocess
import threading
import urllib.request
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.artefacts.rules import ALERTMANAGER, DIRECTORY, tool
from tests.e2e.exporter import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from email.message import EmailMessage
    from pathlib import Path

TOKEN: Final = "a secret of the pager"  # noqa: S105 - of this test
QUICK: Final = {"group_wait": "500ms", "group_interval": "1s"}


class MailServer(socketserver.ThreadingTCPServer):
    """Takes every mail (RFC 5321, as little as there must be) and keeps it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Dialogue)
        self.mails: list[EmailMessage] = []


class _Dialogue(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self._say("220 mail.example.org")
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"DATA":
                self._say("354 go on")
                data = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(email.message_from_bytes(data, policy=email.policy.default))
            self._say("221 bye" if verb == b"QUIT" else "250 as you say")
            if verb == b"QUIT":
                return

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Pager(http.server.ThreadingHTTPServer):
    """Takes what a webhook says, if it knows the token."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.calls: list[dict[str, Any]] = []


class _Call(http.server.BaseHTTPRequestHandler):
    server: Pager

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_right = self.headers["Authorization"] == f"Bearer {TOKEN}"
        if is_right:
            self.server.calls.append(json.loads(body))
        self.send_response(200 if is_right else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Alertmanager:
    """A running Alertmanager on a free port, the mails that it sent and the calls that it made."""

    def __init__(self, directory: Path, mail_server: MailServer, pager: Pager) -> None:
        directory.mkdir()
        conf = directory / "alertmanager.yml"
        conf.write_text(json.dumps(_configuration(directory, mail_server, pager)), encoding="utf-8")
        self._mail_server = mail_server
        self._pager = pager
        self._log = directory / "log"
        with self._log.open("w") as output:
            self.process = subprocess.Popen(
                [tool("prometheus-alertmanager", "prometheus-alertmanager"), f"--config.file={conf}",
                 f"--storage.path={directory / 'data'}", "--web.listen-address=127.0.0.1:0",
                 "--cluster.listen-address="],
                stdout=output,
                stderr=output,
            )  # fmt: skip

    @property
    def address(self) -> str:
        """Host and port of its web server, once that listens."""
        return str(until(self._listens)[1])

    def _listens(self) -> re.Match[str] | None:
        assert self.process.poll() is None, self._log.read_text()
        return re.search(r'"Listening on" address=([\d.:]+)', self._log.read_text())

    @property
    def mails(self) -> list[EmailMessage]:
        """The mails that it sent, the first one first."""
        return self._mail_server.mails

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls of the pager, the first one first."""
        return self._pager.calls

    def post(self, firing: Sequence[Mapping[str, str]] = (), over: Sequence[Mapping[str, str]] = ()) -> None:
        """Say at once that alerts with these labels fire, and that others are over."""
        now = datetime.now(UTC)
        ends = [now + timedelta(hours=1)] * len(firing) + [now] * len(over)
        document = [
            {"labels": labels, "annotations": {"summary": _summary(labels)}, "endsAt": end.isoformat()}
            for labels, end in zip((*firing, *over), ends, strict=True)
        ]
        request = urllib.request.Request(
            f"http://{self.address}/api/v2/alerts",
            json.dumps(document).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - http, on loopback


@contextmanager
def alertmanager(directory: Path) -> Iterator[Alertmanager]:
    """Run Alertmanager, a mail server and a pager, and end them."""
    with ExitStack() as stack:
        mail_server = stack.enter_context(MailServer())
        pager = stack.enter_context(Pager())
        for server in (mail_server, pager):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
        running = Alertmanager(directory, mail_server, pager)
        stack.callback(running.process.wait)
        stack.callback(running.process.kill)
        yield running


def text_of(mail: EmailMessage) -> str:
    """Return the text of a mail, which must have no other part."""
    (part,) = mail.iter_parts()
    assert part.get_content_type() == "text/plain"
    return str(part.get_content()).replace("\r\n", "\n")


def _configuration(directory: Path, mail_server: MailServer, pager: Pager) -> dict[str, Any]:
    """Return the shipped configuration, with servers that are there, no password, and no patience."""
    found: dict[str, Any] = yaml.safe_load(ALERTMANAGER.read_text(encoding="utf-8"))
    found["templates"] = [str(DIRECTORY / pattern) for pattern in found["templates"]]
    settings = found["global"]
    del settings["smtp_auth_username"], settings["smtp_auth_password_file"]
    settings |= {"smtp_smarthost": f"127.0.0.1:{mail_server.server_address[1]}", "smtp_require_tls": False}
    found["route"] |= QUICK
    token = directory / "token"
    token.write_text(TOKEN, encoding="utf-8")
    (webhook,) = next(receiver for receiver in found["receivers"] if receiver["name"] == "pager")["webhook_configs"]
    webhook["url"] = f"http://127.0.0.1:{pager.server_address[1]}/"
    webhook["http_config"]["authorization"]["credentials_file"] = str(token)
    return found


def _summary(labels: Mapping[str, str]) -> str:
    return f"{labels['alertname']} of {labels.get('host', 'nobody')}"
