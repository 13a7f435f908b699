"""A real mail server as a process: TLS, AUTH PLAIN inside it only, and a file for each mail.

`python -m tests.e2e.smtp DIRECTORY` runs aiosmtpd by the settings in DIRECTORY/settings.json, prints the port when it
listens, and writes into the directory: NUMBER.json for each mail before it is acknowledged, and `clear`, all that it
was sent outside of TLS. While there is a file `hold`, mails are written and not acknowledged.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
import sys
from dataclasses import dataclass
from email import message_from_bytes, policy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from email.message import EmailMessage

    from aiosmtpd.smtp import Envelope, Session

USER: Final = "portspec"
PASSWORD: Final = "correct-horse-battery"  # noqa: S105 - of a server that lives for seconds
_REPOSITORY: Final = Path(__file__).parents[2]
_HOLD: Final = 0.02  # seconds between two looks whether mails are still not to be acknowledged


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as the server was given it: the envelope, who had authenticated, and the message."""

    sender: str
    recipients: tuple[str, ...]
    user: str
    message: EmailMessage

    @property
    def identity(self) -> str:
        """Its Message-ID."""
        return str(self.message["Message-ID"])

    @property
    def text(self) -> str:
        """Its body."""
        body = self.message.get_body(("plain", "html"))
        assert body is not None
        return str(body.get_content()).replace("\r\n", "\n")


class MailServer:
    """A mail server with a certificate of a test authority, started and killed at will; always on the same port.

    `popen` starts a program, in a namespace for example, with the options of subprocess.Popen; `address` is what the
    server listens on and what its certificate is for.
    """

    def __init__(
        self,
        directory: Path,
        popen: Callable[..., subprocess.Popen[Any]] = subprocess.Popen,
        *,
        address: str = "127.0.0.1",
        tls: Literal["starttls", "implicit"] = "starttls",
    ) -> None:
        directory.mkdir()
        authority = trustme.CA()
        self.authority = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.authority)
        certificate = directory / "server.pem"
        authority.issue_cert(address).private_key_and_cert_chain_pem.write_to_path(certificate)
        self.port = 0
        self._directory = directory
        self._popen = popen
        self._settings = {"address": address, "tls": tls, "certificate": str(certificate)}
        self._process: subprocess.Popen[Any] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        settings = json.dumps({**self._settings, "port": self.port})
        (self._directory / "settings.json").write_text(settings, encoding="utf-8")
        with (self._directory / "log").open("a") as log:
            argv: Sequence[str] = [sys.executable, "-m", "tests.e2e.smtp", str(self._directory)]
            self._process = self._popen(argv, cwd=_REPOSITORY, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said, (self._directory / "log").read_text()
        self.port = int(said)

    def kill(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def keys(self) -> dict[str, Any]:
        """Return the keys of conf.yml by which it is sent to, but for sender and recipients."""
        return {
            "smtpserver": self._settings["address"],
            "smtpport": self.port,
            "smtptls": self._settings["tls"],
            "smtpcafile": str(self.authority),
            "smtpusername": USER,
            "smtppassword": PASSWORD,
        }

    def mails(self) -> list[Mail]:
        """Return the mails that it got, in their order."""
        return [_read(path) for path in sorted(self._directory.glob("[0-9]*.json"))]

    @property
    def clear(self) -> bytes:
        """What it was sent outside of TLS, on all connections."""
        path = self._directory / "clear"
        return path.read_bytes() if path.exists() else b""

    def hold(self, *, is_held: bool) -> None:
        """Acknowledge no mail that is sent from now on, or those that wait for it, too."""
        path = self._directory / "hold"
        if is_held:
            path.touch()
        else:
            path.unlink()


def _read(path: Path) -> Mail:
    plain = json.loads(path.read_text(encoding="utf-8"))
    message = message_from_bytes(base64.b64decode(plain["message"]), policy=policy.default)
    return Mail(plain["sender"], tuple(plain["recipients"]), plain["user"], message)


class _Keeper:
    """Writes what comes on all connections, so that each mail has its own number."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = len(list(directory.glob("[0-9]*.json")))

    async def handle_DATA(self, _: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep a mail, and then say so."""
        self._count += 1
        plain = {
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "user": str(session.auth_data),
            "message": base64.b64encode(envelope.original_content or b"").decode(),
        }
        path = self._directory / f"{self._count:04}.json"
        path.with_suffix(".new").write_text(json.dumps(plain), encoding="utf-8")
        path.with_suffix(".new").rename(path)  # whole, or not there
        while (self._directory / "hold").exists():  # noqa: ASYNC110 - another process removes it
            await asyncio.sleep(_HOLD)
        return f"250 2.0.0 kept as {self._count}"


class _Recorder(SMTP):
    """Writes down what comes outside of TLS."""

    def __init__(self, directory: Path, keeper: _Keeper, context: ssl.SSLContext, *, is_implicit: bool) -> None:
        self._directory = directory
        self._is_clear = not is_implicit
        super().__init__(
            keeper,
            hostname="mail.test",
            tls_context=None if is_implicit else context,
            require_starttls=not is_implicit,
            auth_required=True,
            auth_require_tls=not is_implicit,  # which for aiosmtpd is STARTTLS
            auth_exclude_mechanism=["LOGIN"],
            authenticator=self._judge,
        )

    def data_received(self, data: bytes) -> None:
        """Take bytes of the other side, after TLS if there is any."""
        if self._is_clear and self._tls_protocol is None:
            with (self._directory / "clear").open("ab") as record:
                record.write(data)
        super().data_received(data)

    def _judge(self, _: SMTP, __: Session, ___: object, mechanism: str, login: object) -> AuthResult:
        is_right = (
            isinstance(login, LoginPassword)
            and mechanism == "PLAIN"
            and (login.login, login.password) == (USER.encode(), PASSWORD.encode())
        )
        return AuthResult(success=is_right, handled=False, auth_data=USER if is_right else None)


async def serve(directory: Path) -> None:
    """Serve for ever."""
    settings = json.loads((directory / "settings.json").read_text(encoding="utf-8"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings["certificate"])
    is_implicit = settings["tls"] == "implicit"
    keeper = _Keeper(directory)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Recorder(directory, keeper, context, is_implicit=is_implicit),
        settings["address"],
        settings["port"],
        ssl=context if is_implicit else None,
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
