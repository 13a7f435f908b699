from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Final

import pytest
from aiosmtplib.protocol import SMTPProtocol

from portspec.notify import DeliveryError, Session
from portspec.notify import DeliveryErrorReason as Reason
from tests.unit.app.exporter import until
from tests.unit.notify.smtp_server import (
    BEARER_ONLY,
    LOGIN_ONLY,
    MESSAGE,
    PASSWORD,
    RECIPIENT,
    USER,
    Identities,
    Peer,
    Server,
    Step,
    close,
    nothing_in_clear,
    nothing_left,
    refuse,
    refuse_token,
    run,
    say,
    settings,
)
from tests.unit.scan.loopback import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from portspec.config import MailConfig
from pathlib import Path

from portspec.notify.authentication import MAX_OUTPUT, access_token


@pytest.mark.parametrize(
    ("offer", "is_login"),
    [
        (b"250 AUTH LOGIN", True),
        (b"250 AUTH=LOGIN", True),
        (b"250-AUTH=LOGIN\r\n250 AUTH LOGIN XOAUTH2 CRAM-MD5", True),
        (b"250 auth login", True),
        (b"250 AUTH LOGIN PLAIN", False),
        (b"250-AUTH LOGIN\r\n250 AUTH=PLAIN", False),
        (b"250 AUTH=PLAIN LOGIN", False),
    ],
)
def test_plain_precedes_login(identities: Identities, offer: bytes, *, is_login: bool) -> None:
    """LOGIN is used only without PLAIN; the old form with "=" counts as an offer."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server), Session(settings(server.port, identities)) as session:
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    with Server({Step.SECURE_EHLO: say(b"250-mail.test\r\n" + offer + b"\r\n")}, identities.good) as server:
        run(scenario(server))
    (peer,) = server.peers
    assert peer.answers == ([USER.encode(), PASSWORD.encode()] if is_login else [])
    assert (b"\r\nAUTH PLAIN " in peer.secure) is not is_login
    nothing_in_clear(server)


def test_long_password_is_not_an_initial_response(identities: Identities) -> None:
    """A line of more than 512 bytes is not sent: AUTH PLAIN waits for the challenge (RFC 4954, 4)."""
    asked: list[bytes] = []

    def ask(peer: Peer) -> None:
        peer.socket.sendall(b"334 \r\n")
        asked.append(base64.b64decode(peer.read()))
        peer.socket.sendall(Step.AUTH.value)

    async def scenario(server: Server) -> None:
        async with Session(settings(server.port, identities, password="x" * 400)):
            pass

    with Server({Step.AUTH: ask}, identities.good) as server:
        run(scenario(server))
    assert asked == [f"\0{USER}\0{'x' * 400}".encode()]
    assert b"\r\nAUTH PLAIN\r\n" in server.peers[0].secure


TOKEN: Final = "ya29.a0AfH6SMBx-" + 60 * "0123456789_" + "=="
EXPIRED: Final = b'{"status":"401","schemes":"bearer","scope":"https://mail.google.com/"}'


def token_settings(port: int, identities: Identities, *command: str) -> MailConfig:
    """Make settings with a command that prints a token."""
    return settings(port, identities, password=None, token_command=command or ("/bin/echo", TOKEN))


def test_token_of_a_command_is_sent(identities: Identities) -> None:
    """XOAUTH2 sends user and token after the challenge, since a token is longer than a command may be."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server), Session(token_settings(server.port, identities)) as session:
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    with Server({Step.SECURE_EHLO: BEARER_ONLY}, identities.good) as server:
        run(scenario(server))
    (peer,) = server.peers
    assert peer.answers == [f"user={USER}\x01auth=Bearer {TOKEN}\x01\x01".encode()]
    nothing_in_clear(server)


@pytest.mark.parametrize(
    ("twists", "reason", "detail"),
    [
        (
            {Step.AUTH: refuse_token(EXPIRED, b"535 5.7.8 Username and Password not accepted\r\n")},
            Reason.AUTH,
            "the server rejected the token: 535 5.7.8 Username and Password not accepted (status 401)",
        ),
        (
            {Step.AUTH: refuse_token(b'{"status": 400}', b"535 no\r\n")},
            Reason.AUTH,
            "the server rejected the token: 535 no (status 400)",
        ),
        *(
            (
                {Step.AUTH: refuse_token(challenge, b"535 no\r\n")},
                Reason.AUTH,
                "the server rejected the token: 535 no",
            )
            for challenge in (b"", b"no JSON", b"[1]", b'"x"', b"{}", b'{"status": [1]}', b"[" * 5_000, b"\xff")
        ),
        (
            {Step.AUTH: say(b"535 5.7.3 Authentication unsuccessful\r\n")},
            Reason.AUTH,
            "the server rejected the token: 535 5.7.3 Authentication unsuccessful",
        ),
        (
            {Step.BEARER: refuse(b"504 5.7.4 Unrecognized authentication type\r\n")},
            Reason.AUTH,
            "the server rejected the token: 504 5.7.4 Unrecognized authentication type",
        ),
        (
            {Step.BEARER: refuse(b"235 2.7.0 welcome\r\n")},
            Reason.PROTOCOL,
            "unexpected reply of the server: 2.7.0 welcome",
        ),
        (
            {Step.SECURE_EHLO: say(b"250-mail.test\r\n250 AUTH PLAIN LOGIN\r\n")},
            Reason.AUTH,
            "the server offers no AUTH XOAUTH2, it offers PLAIN, LOGIN",
        ),
        *(({step: close}, Reason.CLOSED, "the server closed the connection") for step in (Step.BEARER, Step.AUTH)),
    ],
)
def test_rejected_token(
    identities: Identities, twists: Mapping[Step, Callable[[Peer], None]], reason: Reason, detail: str
) -> None:
    """The error has the status in the JSON of the server, if any, and never the token."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server):
            with pytest.raises(DeliveryError) as caught:
                async with Session(token_settings(server.port, identities)):
                    pass
        assert (caught.value.reason, caught.value.detail) == (reason, detail)
        assert not caught.value.is_of_mail

    with Server({Step.SECURE_EHLO: BEARER_ONLY, **twists}, identities.good) as server:
        run(scenario(server))
    nothing_in_clear(server)


@pytest.mark.parametrize(
    ("twists", "has_token", "number"),
    [
        ({}, False, 1),
        *(({Step.SECURE_EHLO: LOGIN_ONLY}, False, number) for number in (1, 2, 3)),
        *(({Step.SECURE_EHLO: BEARER_ONLY}, True, number) for number in (1, 2)),
        ({Step.SECURE_EHLO: BEARER_ONLY, Step.AUTH: refuse_token(EXPIRED, b"535 no\r\n")}, True, 2),
    ],
)
def test_cancellation_during_authentication(
    identities: Identities,
    monkeypatch: pytest.MonkeyPatch,
    twists: Mapping[Step, Callable[[Peer], None]],
    number: int,
    *,
    has_token: bool,
) -> None:
    """A session that is cancelled when such a reply is received ends and sends nothing."""

    async def attempt(mail: MailConfig) -> None:
        async with Session(mail) as session:
            await session.send(RECIPIENT, MESSAGE)

    async def scenario(server: Server) -> None:
        mail = (token_settings if has_token else settings)(server.port, identities)
        count, real = itertools.count(1), SMTPProtocol.data_received

        def data_received(self: SMTPProtocol, data: bytes) -> None:
            real(self, data)
            if data[:3] in {b"334", b"235"} and next(count) == number:
                task.cancel()

        monkeypatch.setattr(SMTPProtocol, "data_received", data_received)
        async with nothing_left(server):
            task = asyncio.create_task(attempt(mail))
            await asyncio.wait({task})
            assert task.cancelled()
            assert next(count) == number + 1

    with Server(twists, identities.good) as server:
        run(scenario(server))
    assert server.peers[0].mails == []


def test_command_is_run_for_each_session(identities: Identities, tmp_path: Path) -> None:
    """No token is kept, so that an expired one is replaced at the next attempt."""
    tokens = tmp_path / "tokens"
    script = tmp_path / "token"
    script.write_text(f"#!/bin/sh\nhead -n 1 {tokens}\nsed -i 1d {tokens}\n", encoding="utf-8")
    script.chmod(0o755)
    tokens.write_text("expired\ngood\n", encoding="utf-8")

    async def scenario(server: Server) -> None:
        mail = token_settings(server.port, identities, str(script))
        with pytest.raises(DeliveryError, match="status 401"):
            async with Session(mail):
                pass
        async with Session(mail) as session:
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    twists = {Step.SECURE_EHLO: BEARER_ONLY, Step.AUTH: refuse_token(EXPIRED, b"535 no\r\n")}
    with Server(twists, identities.good, lasting={Step.SECURE_EHLO: BEARER_ONLY}) as server:
        run(scenario(server))
    assert [peer.answers[0].split(b"Bearer ")[1].strip(b"\x01") for peer in server.peers] == [b"expired", b"good"]


JWT: Final = "eyJ0eXAiOiJKV1QiLCJub25jZSI6.eyJhdWQiOiJodHRwczovL291.dGxvb2-k_Lm9mZmljZS5jb20="
NO_TOKEN: Final = "did not print an access token (RFC 6750) alone; extract it from JSON with jq -r"  # noqa: S105 - an error
SHORT: Final = 0.3  # seconds for a program that hangs


def token_of(*command: str, patience: float = PATIENCE) -> str:
    """Return what a command prints."""
    return asyncio.run(access_token(command, patience))


def shell(script: str) -> tuple[str, ...]:
    """Return a command of a line of shell."""
    return ("/bin/sh", "-c", script)


def living(group: int) -> list[str]:
    """Name the processes of a group that run; one that has ended and is not waited for does not."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group, *_ = entry.read_text(encoding="utf-8").rpartition(")")[2].split()
            if state not in "ZX" and int(its_group) == group:
                found.append(entry.parent.name)
    return found


@pytest.mark.parametrize("output", ["%s", "%s\\n", "\\n  %s \\r\\n\\n"])
def test_token_is_the_output(output: str) -> None:
    """Blanks and empty lines around it, and standard error, are ignored."""
    assert token_of(*shell(f"printf 'a warning\\n' >&2; printf '{output}' {JWT}")) == JWT


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 1", "failed (exit status 1)"),
        ("echo; echo no refresh token >&2; echo more >&2; exit 3", "failed (exit status 3): no refresh token"),
        (f"echo {JWT}; echo had {JWT} here >&2; exit 1", "failed (exit status 1): had … here"),
        (f"echo 'refused: {JWT}' >&2; exit 1", "failed (exit status 1): refused: …"),
        ("printf '\\033[31mred' >&2; exit 1", "failed (exit status 1): \\x1b[31mred"),
        ("kill -9 $$", "failed (killed by SIGKILL)"),
        ("kill -TERM $$", "failed (killed by SIGTERM)"),
        ("true", "printed nothing, expected an access token"),
        ("echo not logged in >&2", "printed nothing, expected an access token: not logged in"),
        (f"echo {JWT}; echo {JWT}", "printed 2 lines, expected one line with an access token"),
        ("echo '{\"access_token\": \"x\"}'", NO_TOKEN),
        ("printf 'a\\001b'", NO_TOKEN),
        ("printf '\\377\\376'", NO_TOKEN),
    ],
)  # fmt: skip
def test_invalid_output_is_an_error(script: str, why: str) -> None:
    """The error has the first line of standard error, but nothing that may be a token."""
    with pytest.raises(DeliveryError) as caught:
        token_of(*shell(script))
    assert (caught.value.reason, caught.value.detail) == (Reason.TOKEN, f"smtptokencommand /bin/sh {why}")
    assert not caught.value.is_of_mail


def test_command_that_cannot_be_run(tmp_path: Path) -> None:
    """The error has the path of a command that was removed or is not executable."""
    path = tmp_path / "token"
    for why in ("no such file or directory", "permission denied"):
        with pytest.raises(DeliveryError) as caught:
            token_of(str(path))
        assert caught.value.detail == f"smtptokencommand {path} cannot be run: {why}"
        path.write_text("#!/bin/sh\n", encoding="utf-8")


@pytest.mark.parametrize(
    "script",
    [
        "exec sleep 1000",
        "exec >&- 2>&-; exec sleep 1000",
        "sleep 1000 & exit 0",
        "trap '' TERM HUP INT; while :; do sleep 1; done",
    ],
)
def test_command_is_killed_after_the_time_limit(tmp_path: Path, script: str) -> None:
    """Its children are killed, too, even if it has closed its output."""
    note = tmp_path / "number"
    with pytest.raises(DeliveryError) as caught:
        token_of(*shell(f"echo $$ > {note}; {script}"), patience=SHORT)
    assert caught.value.detail == f"smtptokencommand /bin/sh timed out after {SHORT:g} s"
    number = int(note.read_text(encoding="utf-8"))
    asyncio.run(until(lambda: not living(number)))


@pytest.mark.parametrize("script", ["exec yes", f"head -c {MAX_OUTPUT + 1} /dev/zero"])
def test_output_is_limited(script: str) -> None:
    """More output than a token can have is an error."""
    with pytest.raises(DeliveryError, match="printed more than 65,536 bytes, expected only an access token"):
        token_of(*shell(script))


def test_standard_error_is_drained() -> None:
    """Only its beginning is kept."""
    assert token_of(*shell(f"head -c 3000000 /dev/zero >&2; echo {JWT}")) == JWT


def test_command_is_killed_on_cancellation(tmp_path: Path) -> None:
    """The cancelled task does not wait for its exit."""
    note = tmp_path / "number"

    async def scenario() -> None:
        task = asyncio.create_task(access_token(shell(f"echo $$ > {note}; exec sleep 1000"), PATIENCE))
        await until(lambda: note.exists() and note.read_text(encoding="utf-8").strip())
        number = int(note.read_text(encoding="utf-8"))
        assert living(number)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not living(number))

    before = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - before < PATIENCE


def test_command_runs_without_shell_and_input() -> None:
    """Arguments are passed unchanged, standard input is empty, and the working directory is /."""
    assert token_of("/bin/echo", "a.$HOME;|b"[:2] + "b") == "a.b"
    assert token_of(*shell('test -z "$(cat)" && test "$PWD" = / && echo right')) == "right"
    with pytest.raises(DeliveryError, match="did not print an access token"):
        token_of("/bin/echo", "$HOME")
