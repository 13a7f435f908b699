from __future__ import annotations

import email
import email.policy
from typing import TYPE_CHECKING, Any, Self

import pytest

import portspec.notify.smtp
from portspec.cli import main
from portspec.notify import DeliveryError
from portspec.notify import DeliveryErrorReason as Reason
from tests.unit.cli.run import call
from tests.unit.factories import process_restored

if TYPE_CHECKING:
    from portspec.config import MailConfig
    from tests.unit.cli.conftest import Configure

A, B, C = "a@example.org", "b@example.org", "c@example.org"
MAIL = {"smtpserver": "smtp.example.org", "alertemail": [A, B, C], "fromemail": "p@example.org", "sendemail": True}
HEAD = "smtp.example.org port 587, STARTTLS, without credentials\n"


class Server:
    """A mail server that follows a script, in the place of the Session with it.

    `refusals` are by recipient; `why` it lets nobody in.
    """

    def __init__(self, refusals: dict[str, DeliveryError], why: DeliveryError | None) -> None:
        self.refusals = refusals
        self.why = why
        self.connections = 0
        self.taken: list[tuple[str, bytes]] = []

    def __call__(self, mail: MailConfig) -> Self:
        """Begin a session."""
        assert mail.server == "smtp.example.org"
        return self

    async def __aenter__(self) -> Self:
        self.connections += 1
        if self.why:
            raise self.why
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it."""

    async def send(self, recipient: str, message: bytes) -> str:
        """Take a mail, or not."""
        if recipient in self.refusals:
            raise self.refusals[recipient]
        self.taken.append((recipient, message))
        return f"250 queued as {len(self.taken)}"


class Runner:
    """Runs `portspec mail-test` with a scripted server."""

    def __init__(
        self, configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._configure = configure
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.server = Server({}, None)

    def __call__(
        self, refusals: dict[str, DeliveryError] | None = None, why: DeliveryError | None = None, **keys: Any
    ) -> tuple[int, str]:
        """Run it; gives exit code and output."""
        self.server = Server(refusals or {}, why)
        self._monkeypatch.setattr(portspec.notify.smtp, "Session", self.server)
        with process_restored():
            code = main(["mail-test", "-c", self._configure({"127.0.0.1": []}, **{**MAIL, **keys})])
        done = self._capsys.readouterr()
        assert done.err == ""
        return code, done.out


@pytest.fixture
def mail_test(configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Return a runner of the command."""
    return Runner(configure, monkeypatch, capsys)


def test_every_address_gets_a_test_message(mail_test: Runner) -> None:
    """Each address gets a mail of its own over one connection, the server's answer is printed, and the exit is 0."""
    assert mail_test() == (
        0,
        f"{HEAD}{A}: accepted: 250 queued as 1\n{B}: accepted: 250 queued as 2\n{C}: accepted: 250 queued as 3\n",
    )
    assert mail_test.server.connections == 1
    assert [recipient for recipient, _ in mail_test.server.taken] == [A, B, C]
    for recipient, raw in mail_test.server.taken:
        message = email.message_from_bytes(raw, policy=email.policy.default)
        assert (message["To"], message["Subject"]) == (recipient, "[portspec] test mail")


def test_address_that_is_refused_is_exit_1(mail_test: Runner) -> None:
    """An address that the server does not take is told, the others get their message, and the exit is 1."""
    no = DeliveryError(Reason.REFUSED, "the server answered 550 no such user", is_of_mail=True)
    assert mail_test({B: no}) == (
        1,
        (
            f"{HEAD}{A}: accepted: 250 queued as 1\n{B}: NOT accepted: refused: the server answered 550 no such user\n"
            f"{C}: accepted: 250 queued as 2\n"
        ),
    )


def test_server_that_lets_nobody_in_is_exit_1(mail_test: Runner) -> None:
    """Where there is no dialogue at all, no address is served, and why is told for each."""
    why = DeliveryError(Reason.CERTIFICATE, "the certificate of smtp.example.org: certificate has expired")
    told = "NOT accepted: certificate: the certificate of smtp.example.org: certificate has expired\n"
    assert mail_test(why=why) == (1, f"{HEAD}{A}: {told}{B}: {told}{C}: {told}")
    assert mail_test.server.connections == 1


def test_server_that_hangs_up_in_between_is_exit_1(mail_test: Runner) -> None:
    """What was taken before the connection was lost is told as taken; the others are not."""
    gone = DeliveryError(Reason.CLOSED, "the server closed the connection")
    told = "NOT accepted: closed: the server closed the connection\n"
    assert mail_test({B: gone}) == (1, f"{HEAD}{A}: accepted: 250 queued as 1\n{B}: {told}{C}: {told}")


@pytest.mark.parametrize(
    ("keys", "how"),
    [
        ({"smtpport": 465}, "port 465, TLS, without credentials"),
        ({"smtptls": "none", "smtpport": 25}, "port 25, WITHOUT TLS, without credentials"),
        ({"smtpusername": "portspec", "smtppassword": "hunter2"}, "port 587, STARTTLS, as portspec"),
    ],
)
def test_way_to_the_server_is_told(mail_test: Runner, keys: dict[str, Any], how: str) -> None:
    """Port, TLS and user stand in the first line, the password nowhere."""
    code, out = mail_test(**keys)
    assert (code, out.splitlines()[0]) == (0, f"smtp.example.org {how}")
    assert "hunter2" not in out


def test_settings_can_be_tried_before_they_are_used(mail_test: Runner) -> None:
    """With `sendemail: false` the message is sent all the same, and that nothing else is, is told."""
    code, out = mail_test(sendemail=False)
    assert code == 0
    assert out.endswith("250 queued as 3\nnote: sendemail is false; portspec sends only this test\n")


@pytest.mark.parametrize("key", ["smtpserver", "alertemail", "fromemail"])
def test_settings_without_which_nothing_can_be_sent_are_exit_2(configure: Configure, key: str) -> None:
    """Where conf.yml has no server, sender or address, mail-test says so and exits 2."""
    keys = {name: value for name, value in MAIL.items() if name not in (key, "sendemail")}
    conf = configure({"127.0.0.1": []}, **keys)
    done = call("mail-test", "-c", conf)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"{conf}: has no mail server to test; set smtpserver, alertemail and fromemail\n"


def test_check_tells_where_mails_go(configure: Configure) -> None:
    """`check` says who sends mails to how many, and warns where they are sent without TLS."""
    done = call("check", "-c", configure({"127.0.0.1": []}, **MAIL))
    assert (done.code, done.err) == (0, "")
    told = "mails to 3 addresses by smtp.example.org port 587; test this with `portspec mail-test`"
    assert told in done.out.splitlines()
    assert "TLS" not in done.out
    bare = call("check", "-c", configure({"127.0.0.1": []}, **{**MAIL, "alertemail": A}, smtptls="none"))
    assert bare.code == 0
    assert "mails to 1 address by" in bare.out
    assert 'warning: mails are sent without TLS (smtptls is "none")' in bare.out
    silent = call("check", "-c", configure({"127.0.0.1": []}, **{**MAIL, "sendemail": False}))
    assert "mails to" not in silent.out
