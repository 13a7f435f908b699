from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from typing import TYPE_CHECKING, cast

import pytest

from portspec import agent
from portspec.agent import (
    Attempt,
    Delivery,
    Fate,
    HttpSender,
    Parcel,
    Reply,
    Settings,
    Spool,
    deliver,
    first_line,
    proxy_of,
    read_reply,
)
from portspec.audit.admission import REASONS
from portspec.audit.envelope import sign_answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = b"k" * 32


class Clerk:
    """A sender that answers by a script, and keeps what it was given."""

    def __init__(self, *fates: Fate, pause: float = 0.0) -> None:
        self._fates = list(fates)
        self._pause = pause
        self.sent: list[bytes] = []

    def send(self, parcel: Parcel) -> Attempt:
        """Answer the next of the script."""
        self.sent.append(parcel.packed)
        fate = self._fates.pop(0)
        return Attempt(fate, f"was {fate.name.lower()}", self._pause)


class Post:
    """A spool, a sender with a script, and the pauses that were made."""

    def __init__(self, path: Path, *fates: Fate, retries: int = 0, pause: float = 0.0) -> None:
        self.path = path
        self.clerk = Clerk(*fates, pause=pause)
        self.pauses: list[float] = []
        settings = Settings(url="http://a", retries=retries, pause=4.0)
        self._delivery = Delivery(cast("HttpSender", self.clerk), settings, self.pauses.append)

    def run(self, day: str = "2026-11-22") -> int:
        """Spool an audit of the day, and send what is there."""
        with Spool(str(self.path)) as spool:
            code = deliver(spool, spool.add(audit(day)), self._delivery)
            spool.trim()
            return code

    def flush(self) -> int:
        """Send what is there."""
        with Spool(str(self.path)) as spool:
            return deliver(spool, None, self._delivery, agent.say)

    @property
    def waiting(self) -> int:
        """How many audits wait."""
        return len(list(self.path.glob("*.audit")))


def audit(day: str) -> bytes:
    """Return a signed audit of a day."""
    return agent.pack(json.dumps({"host": "db1", "day": day, "nonce": day}).encode(), KEY)


def test_pauses_grow_and_are_for_all_together(tmp_path: Path) -> None:
    """A server that does not answer is tried again after 4, 8 and 16 seconds, give or take a half, and not for each."""
    post = Post(tmp_path / "spool", *[Fate.FAILED] * 6, retries=3)
    assert [post.run(), post.run()] == [75, 75]
    assert [pytest.approx(pause, rel=0.5) for pause in (4, 8, 16)] == post.pauses
    assert post.waiting == 2


def test_server_may_ask_for_a_longer_pause(tmp_path: Path) -> None:
    """A pause that the server asks for is kept if it is longer than ours."""
    post = Post(tmp_path / "spool", Fate.FAILED, Fate.SENT, retries=1, pause=100.0)
    assert (post.run(), post.pauses) == (0, [100.0])


def test_wait_for_a_retry_is_told_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits at a terminal is told why and how long; cron is not."""
    for is_terminal, count in ((False, 0), (True, 1)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda found=is_terminal: found)
        post = Post(tmp_path / "spool", Fate.FAILED, Fate.SENT, retries=1, pause=60.0)
        assert post.run() == 0
        said = capsys.readouterr().err
        assert said.count("the audit of db1 for 2026-11-22 was failed; trying again in 60 s\n") == count


def test_flush_sends_what_waits_and_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flush sends the audits of the spool; that one goes on waiting is no trouble, that one is refused is."""
    for day in ("2026-11-19", "2026-11-20", "2026-11-21"):
        Post(tmp_path / "spool", *[Fate.FAILED] * 3).run(day)
    capsys.readouterr()
    post = Post(tmp_path / "spool", *[Fate.FAILED] * 3)
    assert (post.flush(), post.waiting) == (75, 3)
    said = capsys.readouterr()
    assert said.err == ""
    assert f"3 audits was failed; they wait in {tmp_path}/spool for the next run" in said.out
    post = Post(tmp_path / "spool", Fate.SENT, Fate.REFUSED, Fate.SENT)
    assert (post.flush(), post.waiting) == (1, 0)
    assert "2026-11-20 was refused" in capsys.readouterr().err
    assert Post(tmp_path / "spool").flush() == 0


def test_one_audit_that_cannot_be_taken_holds_up_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An audit to which the server has an internal error waits, while younger ones are sent."""
    Post(tmp_path / "spool", Fate.FAILED).run("2026-11-21")
    post = Post(tmp_path / "spool", Fate.FAILED, Fate.SENT)
    assert post.run() == 75
    assert post.waiting == 1
    assert post.clerk.sent == [audit("2026-11-21"), audit("2026-11-22")]
    assert "the audit of db1 for 2026-11-21 was failed; it waits in" in capsys.readouterr().err


def test_refusal_of_an_older_audit_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run whose own audit is accepted ends with 1 if an older one was refused, and neither waits any more."""
    Post(tmp_path / "spool", Fate.FAILED).run("2026-11-21")
    post = Post(tmp_path / "spool", Fate.REFUSED, Fate.SENT)
    assert (post.run(), post.waiting) == (1, 0)
    said = capsys.readouterr()
    assert "the audit of db1 for 2026-11-21 was refused" in said.err
    assert "the audit of db1 for 2026-11-22 was sent" in said.out


def test_own_refusal_comes_before_what_waits(tmp_path: Path) -> None:
    """A run whose own audit is refused ends with 1, though an older one waits."""
    Post(tmp_path / "spool", Fate.FAILED).run("2026-11-21")
    post = Post(tmp_path / "spool", Fate.FAILED, Fate.REFUSED)
    assert (post.run(), post.waiting) == (1, 1)


def test_audit_that_cannot_be_spooled_is_sent_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a spool the audit is sent, and its loss is told if that fails."""
    own = agent.make_parcel(audit("2026-11-22"), None)
    for fate, code, words in ((Fate.SENT, 0, ""), (Fate.FAILED, 75, "it could not be stored and is lost")):
        sender = cast("HttpSender", Clerk(fate))
        assert deliver(None, own, Delivery(sender, Settings())) == code
        assert words in capsys.readouterr().err


def test_spool_must_be_private(tmp_path: Path) -> None:
    """A spool that others can enter, is a link or no directory is refused with what to do; a new one is private."""
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("open", "link", "file", "file/below"):
        with pytest.raises(agent.SettingsError, match=f"^spool: {tmp_path / name}"), Spool(str(tmp_path / name)):
            pass
    with Spool(str(tmp_path / "a" / "b")) as spool:
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
        assert spool.waiting() == []


def test_spool_is_for_one_at_a_time(tmp_path: Path) -> None:
    """A second agent is told that the first is at work, until that has ended."""
    path = str(tmp_path / "spool")
    with Spool(path), pytest.raises(agent.BusyError, match="another portspec-send is running"), Spool(path):
        pass
    with Spool(path):
        pass


@pytest.mark.parametrize(
    ("body", "reply", "line"),
    [
        (b'{"message": "accepted"}', Reply("accepted", ""), '{"message": "accepted"}'),
        (b'{"error": "time", "detail": "a\\nb"}', Reply("a b", "time"), '{"error": "time", "detail": "a\\nb"}'),
        (b'{"error": "time"}', None, '{"error": "time"}'),
        (b'{"message": {}}', None, '{"message": {}}'),
        (b'{"error": 1, "detail": ""}', None, '{"error": 1, "detail": ""}'),
        (b"<html>\n<title>502</title>", None, "<html>"),
        (b"[1]", None, "[1]"),
        (b"\x1b[31m\xff", None, "?[31m\\xff"),
        (b"[" * 60_000, None, "[" * 300),
        (b"", None, ""),
    ],
)
def test_answer_of_the_server_is_read(body: bytes, reply: Reply | None, line: str) -> None:
    """Portspec's JSON is told from what others say, of which there is the beginning."""
    assert (read_reply(body), first_line(body)) == (reply, line)


class Desk:
    """Answers each connection with the same bytes, after it has read the request."""

    def __init__(self, answer: bytes, signed: tuple[int, str] | None = None) -> None:
        if signed is not None:
            status, body = signed
            signature = sign_answer(b"x", status, body.encode(), KEY)
            answer = answer.replace(b"\r\n\r\n", b"\r\nPortspec-Signature: %s\r\n\r\n" % signature.encode(), 1)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.heard: list[bytes] = []

    def take(self) -> None:
        """Serve one connection."""
        connection, _ = self._server.accept()
        with connection, connection.makefile("rb") as stream:
            self.heard.extend(iter(stream.readline, b"\r\n"))
            stream.read(1)
            connection.sendall(self._answer)

    def reject(self) -> None:
        """Serve one connection of something else than HTTP."""
        connection, _ = self._server.accept()
        with connection, self._server:
            connection.recv(1)
            connection.sendall(self._answer)

    def attempt(self, settings: Settings) -> Attempt:
        """Send an audit of db1 to where the settings say, and answer it."""
        thread = threading.Thread(target=self.take)
        thread.start()
        try:
            return HttpSender(settings, KEY).send(Parcel(b"x", "db1", "", "", None))
        finally:
            thread.join()
            self._server.close()


def answer(status: int, body: str, *, is_signed: bool = True) -> tuple[Attempt, str]:
    """Return what becomes of an audit that is answered with this, and the URL that it went to."""
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    desk = Desk(head, (status, body) if is_signed else None)
    attempt = desk.attempt(Settings(url=f"http://{desk.address}", key_file="/etc/the.key"))
    return attempt, f"http://{desk.address}/api/v1/audits"


@pytest.mark.parametrize("status", [200, 201])
def test_only_portspec_accepts(status: int) -> None:
    """A login page or another program that says 200 or 201 has not taken an audit; portspec's own JSON has."""
    assert answer(status, '{"message": "accepted"}\n')[0].fate is Fate.SENT
    for body, said in (("<html>\n", ": <html>"), ("", ""), ('{"ok": true}', ': {"ok": true}')):
        attempt, url = answer(status, body)
        assert attempt == Attempt(Fate.FAILED, f"was not accepted: no portspec answers at {url} ({status}{said})")


def test_reasons_of_refusals_are_those_of_portspec() -> None:
    """The words by which a refusal is known are those that portspec gives."""
    assert set(REASONS) == agent._REFUSALS


REMEDIES = {
    "signature": "; write the output of `portspec key db1` on the server to /etc/the.key",
    "roster": "; if the host has another name in portspec's conf.yml, set host to that name",
    "too_large": "; its size is 1 bytes: lower max_output",
}


@pytest.mark.parametrize("reason", REASONS)
def test_only_portspec_refuses(reason: str) -> None:
    """A 4xx with a word of portspec's refuses, and what can be done about it is told."""
    attempt, url = answer(403, json.dumps({"error": reason, "detail": "why"}))
    assert attempt == Attempt(Fate.REFUSED, f"was rejected: why (403 from {url}){REMEDIES.get(reason, '')}")


@pytest.mark.parametrize("reason", REASONS)
def test_refusal_without_proof_is_none(reason: str) -> None:
    """Whoever says it: without a signature with this host's key the audit is kept, and what helps is told."""
    attempt, _ = answer(
        413 if reason == "too_large" else 403, json.dumps({"error": reason, "detail": "why"}), is_signed=False
    )
    assert attempt.fate is (Fate.TOO_LARGE if reason == "too_large" else Fate.UNPROVEN)
    assert attempt.text.startswith("was not accepted: why (4")
    assert attempt.text.endswith(REMEDIES.get(reason, agent._UNSIGNED))


def test_changed_answer_proves_nothing() -> None:
    """A signature is for one request, status and body: with any of them another it is none."""
    body = '{"message": "accepted"}'
    for status, signed in ((201, (200, body)), (201, (201, body + " "))):
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        desk = Desk(head, signed)
        assert desk.attempt(Settings(url=f"http://{desk.address}")).fate is Fate.UNPROVEN


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            404,
            "404: Not Found",
            "404: Not Found (404 from URL): no portspec answers there; url must end after",
        ),
        (405, "", "(405 from URL): no portspec answers there; url must end after the port"),
        (
            403,
            '{"message": "no"}',
            '{"message": "no"} (403 from URL): portspec or a proxy in front of it does not let this host send audits',
        ),
        (
            401,
            "",
            "(401 from URL): portspec or a proxy in front of it requires a user or a token: set url = https://USER:",
        ),
        (413, "<html>", "<html> (413 from URL): no portspec answers there; that server accepts no audit of 1 bytes; "),
        (429, "slowly", "slowly (429 from URL)"),
        (408, '{"error": "timeout", "detail": "too slow"}', "too slow (408 from URL)"),
        (503, '{"error": "unable", "detail": "no audit block"}', "no audit block (503 from URL)"),
        (502, "<html>", "<html> (502 from URL)"),
    ],
)
def test_audit_is_kept_whatever_others_say(status: int, body: str, said: str) -> None:
    """Any other 4xx, as of a proxy or at another path, and any 5xx keeps the audit, and tells what may be wrong."""
    attempt, url = answer(status, body)
    assert attempt.fate is (Fate.TOO_LARGE if status == 413 else Fate.FAILED)
    assert attempt.text.startswith("was not accepted: " + said.replace("URL", url))


def test_errors_tell_of_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error on the way through a proxy of the environment names it, without its password."""
    desk = Desk(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    monkeypatch.setenv("HTTP_PROXY", f"http://user:word@{desk.address}/")
    monkeypatch.setenv("NO_PROXY", "10.0.0.1,local.example")
    attempt = desk.attempt(Settings(url="http://portspec.example"))
    assert desk.heard[0] == b"POST http://portspec.example/api/v1/audits HTTP/1.1\r\n"
    where = f"http://portspec.example/api/v1/audits through the proxy {desk.address} (http_proxy)"
    assert attempt.text.startswith(f"was not accepted: (403 from {where}): portspec or a proxy in front of it does ")
    attempt = HttpSender(Settings(url="http://portspec.example"), KEY).send(Parcel(b"x", "", "", "", None))
    assert attempt == Attempt(Fate.FAILED, f"could not be sent to {where}: connection refused")
    assert proxy_of("http", "10.0.0.1:10190") == proxy_of("http", "local.example") == proxy_of("https", "a") == ""


def test_https_to_a_server_without_tls_is_told() -> None:
    """Of a server that speaks no TLS it is said that url may have to begin with http://."""
    desk = Desk(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    thread = threading.Thread(target=desk.reject)
    thread.start()
    attempt = HttpSender(Settings(url=f"https://{desk.address}"), KEY).send(Parcel(b"x", "", "", "", None))
    thread.join()
    assert attempt.fate is Fate.FAILED
    assert attempt.text.endswith(" (if the server does not use TLS, url must begin with http://)")


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Listen on a port of loopback without ever answering."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_server_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt ends after its time, whatever the server does."""
    monkeypatch.setattr(agent, "_ATTEMPT_TIMEOUT", 0.1)
    with silent_server() as port:
        attempt = HttpSender(Settings(url=f"http://127.0.0.1:{port}"), KEY).send(Parcel(b"x", "", "", "", None))
    assert (attempt.fate, attempt.text) == (
        Fate.FAILED,
        f"could not be sent to http://127.0.0.1:{port}/api/v1/audits: timed out after 0.1 s",
    )


def test_password_in_the_url_is_sent_and_not_told() -> None:
    """User and password in url are basic authentication, and are in no message."""
    desk = Desk(b"HTTP/1.1 500 No\r\n\r\n")
    attempt = desk.attempt(Settings(url=f"http://db1:a%40b@{desk.address}/x"))
    assert desk.heard[0] == b"POST /x/api/v1/audits HTTP/1.1\r\n"
    assert b"Authorization: Basic ZGIxOmFAYg==\r\n" in desk.heard
    assert f"Host: {desk.address}\r\n".encode() in desk.heard
    assert attempt == Attempt(Fate.FAILED, f"was not accepted: (500 from http://{desk.address}/x/api/v1/audits)")


def test_authority_that_is_none_is_an_error(tmp_path: Path) -> None:
    """A ca_file that is missing, or holds no certificate, is an error of the settings."""
    (tmp_path / "empty.pem").write_text("no certificate\n", encoding="ascii")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(agent.SettingsError, match=f"^ca_file: {tmp_path / name}: "):
            HttpSender(Settings(url="https://a", ca_file=str(tmp_path / name)), KEY)
