from __future__ import annotations

import email
import email.policy
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from portspec import agent
from portspec.audit import envelope
from portspec.audit import tools as formats
from portspec.audit.model import Audit, Status, ToolRun
from tests.e2e.exporter import until
from tests.faults.registry import fault
from tests.matrix import interpreter
from tests.requirements import NEEDS_ROOT, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

ROOT = Path(__file__).parents[2]
SOURCE = Path(agent.__file__)
HOST, PASSPHRASE = "db1.example.org", "a passphrase of the test"
KEY = envelope.key_of(HOST, PASSPHRASE)
COMMAND = "/usr/bin/python3 -I /usr/local/bin/portspec-send"
WAIT = 60.0  # seconds; no test gets near it
MAX_PAYLOAD = 100_000_000
OUTPUT = "CVE-2005-3184 ethereal (fixed, remotely exploitable, medium urgency)\n"
PROOF = "# portspec: debsecan ended with 0\n"
NO_VERSION = '[ "$1" = --version ] && exit;'
ERRORS = {400: "malformed", 403: "time", 409: "duplicate", 413: "too_large"}
SENT_ALL_THE_SAME = "; the audit is sent anyway and counts as failed; a later audit of today replaces it\n"
# Not tail(1), which ends by itself when nobody reads its output any more.
CHILD = 'sh -c "echo \\$\\$ > $D/child; exec sleep 300"'


class Server:
    """A portspec that answers by a script: codes, each for one request, the last one for ever."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.is_reading = True
        self.body = b""  # of every answer, in place of portspec's JSON
        self.key = KEY  # that answers are signed with; b"" for none
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.headers.append({**{key.lower(): value for key, value in self.headers.items()}, "": self.path})
                if server.is_reading:
                    server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                code = server.codes.pop(0) if len(server.codes) > 1 else server.codes[0]
                told = f"what {code} means"
                said = {"detail": told, "error": ERRORS.get(code, "store")} if code >= 300 else {"message": told}
                body = server.body or json.dumps(said).encode()
                self.send_response(code)
                if server.key and server.is_reading:
                    signature = envelope.sign_answer(server.bodies[-1], code, body, server.key)
                    self.send_header(envelope.ANSWER_SIGNATURE, f"{'0' * 64}, {signature}")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Location", "https://elsewhere.example/")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        # Bound, so that nobody else gets the port, and not listening: connections are refused.
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._http.server_bind()
        self._thread: threading.Thread | None = None
        self.address = f"127.0.0.1:{self._http.server_address[1]}"
        self.url = f"http://{self.address}"

    def start(self, context: ssl.SSLContext | None = None) -> None:
        """Listen from now on."""
        if context is not None:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
            self.url = f"https://{self.address}"
        self._http.server_activate()
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join(WAIT)
        self._http.server_close()

    def audits(self) -> list[dict[str, Any]]:
        """Return the payloads that it got, whose signatures must be right."""
        return [opened(body) for body in self.bodies]


def opened(packed: bytes) -> dict[str, Any]:
    """Return the payload of an audit, which must be signed with the key of HOST."""
    payload, signature = envelope.unpack(packed, MAX_PAYLOAD)
    assert envelope.is_signed(payload, signature, [KEY])
    assert json.dumps(json.loads(payload), ensure_ascii=False, separators=(",", ":")).encode() == payload
    audit = json.loads(payload)
    assert isinstance(audit, dict)
    return audit


def audited(audit: dict[str, Any]) -> Audit:
    """Return what portspec makes of the audit's tool."""
    tool = audit["tool"]
    ended_at = datetime.fromisoformat(audit["time"]).timestamp()
    run = ToolRun(tool["name"], tool["exit_status"], tool["output"], tool["errors"], tool["truncated"], ended_at)
    return formats.parse(run)


class Machine:
    """An audited host: agent.py copied by hand, a key, a settings file, and tools that are scripts of the test."""

    def __init__(self, path: Path, python: str = sys.executable) -> None:
        self.path = path
        self.python = python
        self.spool = path / "spool"
        self.bin = path / "bin"
        self.bin.mkdir()
        self.agent = path / "agent.py"
        shutil.copy(SOURCE, self.agent)
        self.key = path / "portspec-send.key"
        self.key.write_text(f"{KEY.hex()}\n", encoding="ascii")
        self.key.chmod(0o600)
        self.configuration = path / "portspec-send.conf"
        self.configure()

    def configure(self, **settings: object) -> None:
        """Write the settings file."""
        values = {"host": HOST, "spool": self.spool, "tool": "debsecan", "retries": 0, "pause": 0, **settings}
        lines = [f"{name} = {value}\n" for name, value in values.items()]
        self.configuration.write_text("".join(lines), encoding="utf-8")

    def script(self, name: str, text: str) -> Path:
        """Install a program; $D is the machine's directory."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\nD={self.path}\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start the agent."""
        return subprocess.Popen(
            [self.python, "-I", str(self.agent), "-c", str(self.configuration), *arguments],
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.path), "TZ": "UTC", **environ},
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Run the agent; give exit code, standard output and standard error."""
        return ended(self.start(*arguments, **environ))

    def audit(self, *arguments: str) -> dict[str, Any]:
        """Return the audit that the agent would send."""
        code, out, err = self.run("--dry-run", *arguments)
        assert code == 0, err
        audit = json.loads(out)
        assert isinstance(audit, dict)
        return audit

    def waiting(self) -> list[Path]:
        """Return the audits in the spool, oldest first."""
        return sorted(self.spool.glob("*.audit"))

    def said(self, name: str) -> str:
        """Return what a script wrote into a file."""
        return (self.path / name).read_text(encoding="utf-8")


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Wait for the end of the agent."""
    out, err = process.communicate(timeout=WAIT)
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a host with a debsecan that finds one vulnerability."""
    found = Machine(tmp_path)
    found.script("debsecan", f'[ "$1" = --version ] && echo "debsecan 0.4.20.1" || echo "{OUTPUT.strip()}"')
    return found


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server that does not listen yet, and accepts."""
    found = Server(201)
    yield found
    found.stop()


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that nobody waits for is over all the same."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_signed_audit_arrives(machine: Machine, server: Server) -> None:
    """The audit that arrives is signed for this host and tells day, tool and what it said; exit 0, and a line."""
    server.start()
    machine.configure(url=server.url)
    before = datetime.now(UTC).replace(microsecond=0)
    assert machine.run() == (0, f"portspec-send: the audit of {HOST} for {before:%Y-%m-%d} was accepted\n", "")
    (audit,) = server.audits()
    keys = ["version", "host", "day", "time", "nonce", "agent", "system", "tool", "more_tools"]
    assert list(audit) == [*keys, "files", "kernel", "listeners"]
    moment = datetime.fromisoformat(audit["time"])
    assert before <= moment <= datetime.now(UTC)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", audit["time"])
    assert re.fullmatch(r"[0-9a-f]{32}", audit["nonce"])
    assert (audit["version"], audit["host"], audit["day"]) == (1, HOST, audit["time"][:10])
    assert audit["agent"] == f"portspec-send {agent.VERSION}"
    assert (audit["system"]["kernel"], audit["more_tools"]) == (os.uname().sysname, [])
    assert audit["tool"] == {
        "name": "debsecan",
        "scope": "system",
        "version": "0.4.20.1",
        "command": [str(machine.bin / "debsecan"), "--format", "detail"],
        "exit_status": 0,
        "output": OUTPUT + PROOF,
        "errors": "",
        "truncated": False,
    }
    assert audited(audit).status is Status.VULNERABLE
    (headers,) = server.headers
    assert headers["content-type"] == "application/vnd.portspec.audit"
    assert headers["user-agent"] == f"portspec-send/{agent.VERSION}"
    assert headers[""] == "/api/v1/audits"
    assert machine.waiting() == []


@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_old_python_is_enough(tmp_path: Path, server: Server, version: str) -> None:
    """The file runs with an old Python, from the tool's run to the accepted audit and to the mail."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"python{version} is not installed")
    machine = Machine(tmp_path, str(python))
    machine.script("debsecan", f'echo "{OUTPUT.strip()}"')
    sendmail = machine.script("sendmail", "cat > $D/mail")
    server.start()
    machine.configure(url=server.url)
    assert machine.run("--again")[0] == 0
    machine.configure(mail_to="portspec", sendmail=sendmail)
    assert machine.run("--again")[::2] == (0, "")
    assert opened(attachment_of((tmp_path / "mail").read_bytes())[1])["tool"]["output"] == OUTPUT + PROOF
    assert [audit["host"] for audit in server.audits()] == [HOST]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert port in {each["port"] for each in machine.audit()["listeners"]}


def test_audit_that_was_there_already_is_fine(machine: Machine, server: Server) -> None:
    """A server that has the very same audit already is believed, and the agent ends with 0."""
    server.codes = [200]
    server.start()
    code, out, err = machine.run("--url", server.url)
    assert (code, err) == (0, "")
    assert out.endswith(" was already archived\n")
    assert machine.waiting() == []


@pytest.mark.parametrize("code", [400, 403, 409, 413])
def test_refused_audit_is_not_sent_again(machine: Machine, server: Server, code: int) -> None:
    """An audit that the server refuses for good is sent once and put aside, and the server's reason is told; exit 1."""
    server.codes = [code]
    server.start()
    machine.configure(url=server.url, retries=3)
    status, out, err = machine.run()
    assert (status, out) == (1, "")
    remedy = "; its size is .*: lower max_output" if code == 413 else ""
    assert re.fullmatch(
        f"portspec-send: the audit of {HOST} for .* was rejected: "
        rf"what {code} means \({code} from {server.url}/api/v1/audits\){remedy}"
        rf"; it was moved to {machine.spool}/refused; move it back to {machine.spool} to retry\n",
        err,
    )
    assert len(server.bodies) == 1
    assert machine.waiting() == []
    (path,) = (machine.spool / "refused").iterdir()
    assert path.read_bytes() == server.bodies[0]
    assert machine.run("--flush")[0] == 0


@pytest.mark.parametrize("code", [200, 201, 401, 403, 404, 405, 413, 422])
def test_audit_is_kept_where_no_portspec_answers(machine: Machine, server: Server, code: int) -> None:
    """Whatever a login page, a proxy or another program says, the audit waits until portspec has it; exit 75."""
    server.codes, server.body = [code], b"<html>\n"
    server.start()
    machine.configure(url=server.url)
    status, out, err = machine.run()
    assert (status, out) == (75, "")
    assert f"was not accepted: {'' if code in (200, 201) else '<html> '}" in err
    assert len(machine.waiting()) == 1
    server.codes, server.body = [201], b""
    status, out, err = machine.run("--flush", "--now")  # 413 is about this audit, which has to wait for its next try
    assert (status, err, machine.waiting()) == (0, "", [])
    assert out.endswith(" was accepted\n")
    assert server.bodies[0] == server.bodies[1]


@pytest.mark.parametrize("code", [200, 201, 400, 403, 409])
@pytest.mark.parametrize(
    ("key", "why"),
    [
        (
            b"",
            "nothing proves that portspec says so, because the answer has no signature. If the exporter is of version ",
        ),
        (b"x" * 32, "that is not portspec, or has another key than {}: the signature of the answer is wrong"),
    ],
    ids=["none", "another's"],
)
def test_answer_is_believed_only_with_proof(machine: Machine, server: Server, code: int, key: bytes, why: str) -> None:
    """Portspec's own words without the host's key behind them neither take nor refuse an audit; exit 75, no retry."""
    server.codes, server.key = [code], key
    server.start()
    machine.configure(url=server.url, retries=3)
    status, out, err = machine.run()
    assert (status, out) == (75, "")
    how = "may not have arrived" if code < 300 else "was not accepted"
    assert f" {how}: what {code} means ({code} from {server.url}/api/v1/audits); " in err
    assert why.format(machine.key) in err
    assert (len(server.bodies), len(machine.waiting())) == (1, 1)
    server.codes, server.key = [201], KEY
    assert machine.run("--flush", "--now")[::2] == (0, "")
    assert server.bodies[0] == server.bodies[1]


def test_answer_to_another_audit_proves_nothing(machine: Machine, server: Server) -> None:
    """An answer that portspec once gave, played again by somebody else, takes no other audit."""
    server.start()
    machine.configure(url=server.url)
    assert machine.run()[0] == 0
    earlier = server.bodies[0]

    def replayed(packed: bytes, *rest: Any) -> str:
        return signer(earlier, *rest)

    signer = envelope.sign_answer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "sign_answer", replayed)
        code, _, err = machine.run("--again")
    assert code == 75
    assert "the signature of the answer is wrong" in err
    assert len(machine.waiting()) == 1


def test_flush_makes_no_audit(machine: Machine, server: Server) -> None:
    """--flush sends what waits without a new audit; that it goes on waiting is no trouble, and with nothing it is 0."""
    machine.configure(url=server.url)
    assert machine.run()[0] == 75
    machine.script("debsecan", "touch $D/ran")
    code, out, err = machine.run("--flush")
    assert (code, err) == (75, "")
    assert out.endswith(f"; it waits in {machine.spool} for the next run\n")
    server.start()
    assert machine.run("--flush")[::2] == (0, "")
    assert machine.run("--flush") == (0, f"portspec-send: no audits wait in {machine.spool}\n", "")
    assert len(server.audits()) == 1
    assert not (machine.path / "ran").exists()
    assert machine.run("--flush", "--dry-run")[0] == 78


def test_refusal_is_heard_before_all_is_sent(machine: Machine, server: Server) -> None:
    """A server that refuses a large audit without reading it is heard, and the audit waits, since nothing is proven."""
    server.codes, server.is_reading = [413], False
    server.start()
    machine.script("debsecan", "head -c 6000000 /dev/urandom | base64")
    code, _, err = machine.run("--url", server.url, "--retries", "3")
    assert code == 75, err
    assert "was not accepted: what 413 means (413 from" in err
    assert ": lower max_output; it waits in " in err
    assert len(server.headers) == 1


def test_server_that_cannot_now_is_tried_again(machine: Machine, server: Server) -> None:
    """Server errors, overload and a timeout are tried again, each time with the very same bytes."""
    server.codes = [500, 429, 408, 503, 201]
    server.start()
    machine.configure(url=server.url, retries=4)
    code, out, err = machine.run()
    assert (code, err) == (0, "")
    assert out.endswith(" was accepted\n")
    assert len(server.bodies) == 5
    assert len(set(server.bodies)) == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (503, r"was not accepted: what 503 means \(503 from URL\)"),
        (
            302,
            r"was not accepted: URL redirects to https://elsewhere\.example/ \(302\): set url to portspec's own",
        ),
    ],
)
def test_audit_waits_for_a_server_that_cannot(machine: Machine, server: Server, code: int, words: str) -> None:
    """An audit that no try could get through is kept, privately; exit 75 with the reason and the place."""
    server.codes = [code]
    server.start()
    machine.configure(url=server.url, retries=1)
    status, out, err = machine.run()
    assert (status, out) == (75, "")
    pattern = words.replace("URL", f"{server.url}/api/v1/audits")
    waits = f"it waits in {machine.spool} for the next run"
    assert re.fullmatch(f"portspec-send: the audit of {HOST} for .* {pattern}; {waits}\n", err)
    (path,) = machine.waiting()
    assert path.read_bytes() == server.bodies[0] == server.bodies[1]
    assert (machine.spool.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)


def test_audits_arrive_once_when_the_server_is_back(machine: Machine, server: Server) -> None:
    """What was reported while the server was down arrives when it is up again: once each, oldest first, unchanged."""
    machine.configure(url=server.url)
    for count in ("it waits", "2 audits could not be sent"):
        code, _, err = machine.run("--again")
        assert code == 75
        assert f"to {server.url}/api/v1/audits: connection refused; " in err
        assert count in err
    waiting = [path.read_bytes() for path in machine.waiting()]
    server.start()
    code, out, err = machine.run("--again")
    assert (code, out.count(" was accepted\n"), err) == (0, 3, "")
    assert server.bodies[:2] == waiting
    assert len({audit["nonce"] for audit in server.audits()}) == 3
    assert machine.waiting() == []
    assert machine.run("--again")[0] == 0
    assert len(server.bodies) == 4


def test_certificate_is_checked(machine: Machine, server: Server) -> None:
    """A certificate of a private authority is accepted with ca_file only, and only for the right name."""
    authority = trustme.CA()
    path = machine.path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.start(context)
    code, _, err = machine.run("--again", "--url", server.url)
    assert code == 75
    assert "the certificate is not trusted: " in err
    code, _, err = machine.run("--again", "--url", server.url.replace("127.0.0.1", "localhost"), "--ca-file", str(path))
    assert code == 75
    assert "the certificate is not trusted: hostname mismatch" in err.lower()
    assert server.bodies == []
    assert machine.run("--again", "--url", server.url, "--ca-file", str(path))[::2] == (0, "")
    assert len(server.audits()) == 3


def test_client_certificate_and_token_are_shown(machine: Machine, server: Server) -> None:
    """A server that wants a client certificate and a token gets those of the settings, also from one PEM file."""
    authority = trustme.CA()
    path, token, whole = (machine.path / name for name in ("ca.pem", "token", "client.pem"))
    authority.cert_pem.write_to_path(str(path))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(path))
    context.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("127.0.0.1").configure_cert(context)
    client = authority.issue_cert(HOST)
    for file, content in (
        ("client.crt", client.cert_chain_pems[0].bytes()),
        ("client.key", client.private_key_pem.bytes()),
    ):
        (machine.path / file).write_bytes(content)
    whole.write_bytes(client.private_key_and_cert_chain_pem.bytes())
    token.write_text("a.token-of_tests==\n", encoding="ascii")
    for each in machine.path.glob("*"):
        each.chmod(0o700 if each.is_dir() else 0o600)
    server.start(context)
    machine.configure(url=server.url, ca_file=path)
    assert machine.run()[0] == 75
    pair = {"cert_file": machine.path / "client.crt", "cert_key_file": machine.path / "client.key"}
    for shown in (pair, {"cert_file": whole}):
        machine.configure(url=server.url, ca_file=path, token_file=token, **shown)
        assert machine.run("--again")[::2] == (0, "")
        assert server.headers[-1]["authorization"] == "Bearer a.token-of_tests=="


def attachment_of(data: bytes) -> tuple[EmailMessage, bytes]:
    """Return a mail, and the content of its one attachment."""
    mail = email.message_from_bytes(data, policy=email.policy.default)
    (part,) = mail.iter_attachments()
    assert (part.get_content_type(), part.get_filename()) == ("application/vnd.portspec.audit", "portspec-audit.bin")
    content = part.get_content()
    assert isinstance(content, bytes)
    return mail, content


def test_audit_goes_by_mail(machine: Machine) -> None:
    """With mail_to the audit is handed to sendmail, as a mail whose attachment is the signed audit."""
    sendmail = machine.script("sendmail", 'echo "$@" > $D/arguments; cat > $D/mail')
    machine.configure(mail_to="portspec@example.org", mail_from="agent@example.org", sendmail=sendmail)
    code, out, err = machine.run()
    assert (code, err) == (0, "")
    assert out.endswith(f" was handed to {sendmail} for portspec@example.org\n")
    assert machine.said("arguments") == "-oi -oep -t -f agent@example.org\n"
    mail, packed = attachment_of((machine.path / "mail").read_bytes())
    audit = opened(packed)
    assert (mail["From"], mail["To"]) == ("agent@example.org", "portspec@example.org")
    assert mail["Subject"] == f"portspec audit of {HOST} for {audit['day']}"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert abs(mail["Date"].datetime - datetime.now(UTC)) < timedelta(seconds=WAIT)
    assert audit["tool"]["output"] == OUTPUT + PROOF
    assert machine.waiting() == []


def test_mail_waits_for_sendmail(machine: Machine) -> None:
    """An audit waits while sendmail is missing, fails, or is killed, and goes once when it works again."""
    sendmail = machine.bin / "sendmail"
    machine.configure(mail_to="portspec", sendmail=sendmail, retries=3)
    for text, words in (
        (None, "no such file or directory"),
        ("echo mail queue is full >&2; exit 75", "it ended with 75: mail queue is full"),
        ("kill -9 $$", "was killed by SIGKILL"),
    ):
        if text is not None:
            machine.script("sendmail", text)
        code, out, err = machine.run("--again")
        assert (code, out) == (75, "")
        assert f"could not be handed to {sendmail}: " in err
        assert words in err
    assert len(machine.waiting()) == 3
    machine.script("sendmail", "cat > $D/$$.mail")
    assert machine.run("--again")[0] == 0
    mails = [attachment_of(path.read_bytes()) for path in machine.path.glob("*.mail")]
    assert len({opened(packed)["nonce"] for _, packed in mails}) == 4
    assert len({mail["Message-ID"] for mail, _ in mails}) == 4
    assert machine.waiting() == []


def test_tool_that_prints_for_ever_is_cut(machine: Machine, server: Server) -> None:
    """A tool that prints without end is ended with all that it started, and its audit says that it was cut."""
    machine.script("debsecan", 'echo $$ > $D/pid; sh -c "echo \\$\\$ > $D/child; while :; do echo CVE; done"')
    server.start()
    code, _, err = machine.run("--url", server.url, "--max-output", "100kB")
    why = "portspec-send: debsecan printed more than 100,000 bytes and was terminated (setting: max_output)"
    assert (code, err) == (0, why + SENT_ALL_THE_SAME)
    (audit,) = server.audits()
    tool = audit["tool"]
    assert (tool["exit_status"], tool["truncated"], len(tool["output"])) == (None, True, 100_000)
    assert tool["errors"] == f"{why}\n"
    assert audited(audit).status is Status.FAILED
    assert not any(is_running(int(machine.said(name))) for name in ("pid", "child"))


def test_errors_without_end_are_cut(machine: Machine) -> None:
    """A tool that prints errors without end is ended as well, and begin and end of them are in the audit."""
    machine.script("debsecan", "echo first >&2; while :; do echo again >&2; done")
    tool = machine.audit("--max-output", "500kB")["tool"]
    assert (tool["exit_status"], tool["truncated"]) == (None, False)
    assert tool["errors"].startswith("first\nagain\n")
    assert " bytes left out]\n" in tool["errors"]
    why = "portspec-send: debsecan printed more than 500,000 bytes and was terminated (setting: max_output)"
    assert tool["errors"].endswith(f"\n{why}\n")
    assert len(tool["errors"]) < 70_000


@pytest.mark.skipif(os.geteuid() != 0, reason=f"{NEEDS_ROOT}only root runs what it should not")
def test_tool_of_another_user_is_told(machine: Machine) -> None:
    """A tool that another user can change runs, since no audit would hide more, and root is warned of it."""
    tool = machine.bin / "debsecan"
    assert machine.run("--dry-run")[2] == ""
    tool.chmod(0o777)
    told = f"portspec-send: {tool}: is writable by other users: chmod go-w {tool}; root runs it\n"
    assert machine.run("--dry-run")[::2] == (0, told)
    tool.chmod(0o755)
    os.chown(machine.bin, 12345, 12345)
    assert (
        f"{tool}: can be replaced by other users, who can write to {machine.bin}; root" in machine.run("--dry-run")[2]
    )


@pytest.mark.parametrize("option", ["--cron", "--systemd"])
def test_agent_that_others_may_change_is_not_for_a_schedule(machine: Machine, option: str) -> None:
    """A crontab or a unit for a file that everybody may change would run their code as root each day."""
    machine.agent.chmod(0o666)
    told = f"portspec-send: {machine.agent}: is writable by other users: chmod go-w {machine.agent}\n"
    assert machine.run(option) == (78, "", told)
    machine.agent.chmod(0o644)
    assert machine.run(option)[::2] == (0, "")


def test_tool_that_hangs_is_ended(machine: Machine) -> None:
    """A tool that takes too long is killed with all that it started, even if it does not want to."""
    machine.script("debsecan", f'{NO_VERSION} trap "" TERM; echo $$ > $D/pid; echo part; {CHILD} & wait')
    audit = machine.audit("--timeout", "1s")
    tool = audit["tool"]
    assert (tool["exit_status"], tool["output"]) == (None, "part\n")
    assert tool["errors"] == "portspec-send: debsecan timed out after 1 s (setting: timeout)\n"
    assert audited(audit).status is Status.FAILED
    assert not any(is_running(int(machine.said(name))) for name in ("pid", "child"))


def test_tool_that_is_killed_has_no_exit_status(machine: Machine) -> None:
    """A tool that a signal ends, as for want of memory, has no exit status, and the signal is told."""
    machine.script("debsecan", f'echo "{OUTPUT.strip()}"; echo trouble >&2; kill -9 $$')
    audit = machine.audit()
    assert audit["tool"]["exit_status"] is None
    assert audit["tool"]["errors"] == "trouble\nportspec-send: debsecan was killed by SIGKILL\n"
    assert audited(audit).status is Status.FAILED


def test_what_a_tool_leaves_behind_is_not_waited_for(machine: Machine) -> None:
    """A tool whose child lives on with its output has ended, with its exit status and all that it printed."""
    machine.script("debsecan", f'{NO_VERSION} sleep 300 & echo $! > $D/child; echo "{OUTPUT.strip()}"')
    tool = machine.audit()["tool"]
    os.kill(int(machine.said("child")), signal.SIGKILL)
    assert (tool["exit_status"], tool["output"], tool["errors"]) == (0, OUTPUT + PROOF, "")


def test_both_streams_are_read_at_once(machine: Machine) -> None:
    """A tool that fills one stream and then the other is read to its end, with its own exit status."""
    machine.script("debsecan", "for i in 1 2 3; do head -c 300000 /dev/zero | tr '\\0' e >&2; seq 50000; done; exit 7")
    tool = machine.audit()["tool"]
    assert tool["exit_status"] == 7
    assert tool["output"] == "".join(f"{number}\n" for number in range(1, 50_001)) * 3


def test_any_bytes_of_a_tool_come_through(machine: Machine, server: Server) -> None:
    """NULs, control characters, UTF-8 and what is none of it are in the audit, the last with a backslash."""
    machine.script("debsecan", "printf 'CVE \\000 \\033[31m \\303\\274 \\377\\n'; printf '\\377' >&2")
    server.start()
    assert machine.run("--url", server.url)[0] == 0
    (audit,) = server.audits()
    assert audit["tool"]["output"] == f"CVE \0 \x1b[31m ü \\xff\n{PROOF}"
    assert audit["tool"]["errors"] == "\\xff\n"


def test_tool_has_a_clean_environment(machine: Machine) -> None:
    """A tool runs in English, at the root, without input and without the agent's settings, and is found by cron too."""
    machine.script("debsecan", 'cat; echo "$LC_ALL|$PORTSPEC_SEND_HOST|$PATH"; pwd')
    code, out, err = machine.run(
        "--dry-run", LC_ALL="de_DE.UTF-8", PORTSPEC_SEND_HOST="db2.example", PATH=f"{machine.bin}:/usr/bin:/bin"
    )
    assert (code, err) == (0, "")
    audit = json.loads(out)
    assert audit["host"] == "db2.example"
    of_pkgsrc = "/usr/pkg/sbin:/usr/pkg/bin:/opt/local/sbin:/opt/local/bin:/opt/pkg/sbin:/opt/pkg/bin"
    path = f"{machine.bin}:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:{of_pkgsrc}"
    assert audit["tool"]["output"] == f"C||{path}\n/\n{PROOF}"


@pytest.mark.parametrize(
    ("command", "output", "status"),
    [
        ("debsecan --format detail", PROOF, Status.CLEAN),
        ("debsecan --cron", "", Status.FAILED),
        ("debsecan --format audit --mailto root", "", Status.FAILED),
        ("nice debsecan", "", Status.FAILED),
    ],
)
def test_silence_of_debsecan_is_clean_only_if_it_ended_well(
    machine: Machine, command: str, output: str, status: Status
) -> None:
    """A debsecan that finds nothing is clean, one that may have failed silently is not."""
    machine.script("debsecan", "exit 0")
    code, out, err = machine.run("--dry-run", "--command", command, "--tool", "debsecan")
    audit = json.loads(out)
    assert audit["tool"]["output"] == output
    assert audited(audit).status is status
    assert (code, bool(err)) == (0, status is not Status.CLEAN)


def test_debsecan_that_fails_is_failed(machine: Machine, server: Server) -> None:
    """A debsecan that could not load its data is failed, with its reason, and the agent says so, in a dry run too."""
    machine.script("debsecan", "echo trying >&2; echo error: while downloading: no route to host >&2; exit 1")
    why = "portspec-send: debsecan ended with 1 and printed nothing: error: while downloading: no route to host"
    assert machine.run("--dry-run")[::2] == (0, f"{why}; if sent, the audit would count as failed\n")
    server.start()
    assert machine.run("--url", server.url)[::2] == (0, why + SENT_ALL_THE_SAME)
    audit = audited(machine.audit())
    assert audit.status is Status.FAILED
    assert "no route to host" in audit.reason


PKG = """\
echo "$*" >> $D/calls
case "$*" in
-v) echo 1.20.9;;
"audit -Fq") FETCH;;
"audit --raw=json-compact") RAW;;
audit) echo '0 problem(s) in the installed packages found.';;
esac
"""
FOUND = (
    '{"pkg_count":1,"packages":{"curl":{"version":"7.50.1","issue_count":1,"issues":[{"description":"cURL -- overflow",'
    '"cve":["CVE-2016-7167"],"url":"https://vuxml.FreeBSD.org/freebsd/b018121b-7a4b-11e6-bf52-b499baebfeaf.html"}]}}}'
)
OLD_PKG = (
    "echo \"pkg: unrecognized option '--raw=json-compact'\" >&2; echo 'Usage: pkg audit [-Fqr] <pattern>' >&2; exit 64"
)
NOT_FETCHED = (
    "portspec-send: the database could not be updated: pkg ended with 1\npkg: vuln.xml.xz: No address record\n"
)
NO_FETCH = "echo 'pkg: vuln.xml.xz: No address record' >&2; exit 1"


@pytest.mark.parametrize(
    ("fetch", "raw", "command", "status", "errors"),
    [
        ("echo curl-7.50.1; exit 1", f"echo '{FOUND}'; exit 1", "audit --raw=json-compact", Status.VULNERABLE, ""),
        ("exit 0", """echo '{"pkg_count":0}'""", "audit --raw=json-compact", Status.CLEAN, ""),
        ("exit 0", "exit 0", "audit --raw=json-compact", Status.FAILED, ""),  # without a package database
        ("exit 0", OLD_PKG, "audit", Status.CLEAN, ""),
        (
            NO_FETCH,
            f"echo '{FOUND}'; exit 1",
            "audit --raw=json-compact",
            Status.VULNERABLE,
            NOT_FETCHED,
        ),
    ],
)
def test_pkg_is_run_as_it_needs(
    machine: Machine, fetch: str, raw: str, command: str, status: Status, errors: str
) -> None:
    """The database is fetched apart from the audit, which is never quiet; an old pkg is asked for text."""
    machine.script("pkg", PKG.replace("FETCH", fetch).replace("RAW", raw))
    audit = machine.audit("--tool", "pkg-audit")
    tool = audit["tool"]
    assert tool["command"] == [str(machine.bin / "pkg"), *command.split()]
    assert (tool["version"], tool["errors"]) == ("1.20.9", errors)
    assert audited(audit).status is status
    calls = ["audit -Fq", "audit --raw=json-compact", *(["audit"] if command == "audit" else []), "-v"]
    assert machine.said("calls").splitlines() == calls


def test_trivy_of_every_version_is_asked_for_vulnerabilities_only(machine: Machine) -> None:
    """A trivy that does not know --scanners is asked in its own way, and the time of its database is in the audit."""
    machine.script(
        "trivy",
        """\
case "$*" in
--version) echo "Version: 0.36.1"; echo "Vulnerability DB:"; echo "  UpdatedAt: 2026-11-20 06:12:12.345 +0000 UTC";;
*--scanners*) echo "FATAL unknown flag: --scanners" >&2; exit 1;;
*) echo '{"SchemaVersion":2,"Metadata":{"OS":{"Family":"debian","Name":"12.1"}},
"Results":[{"Target":"web1 (debian 12.1)","Class":"os-pkgs","Type":"debian"}]}';;
esac""",
    )
    audit = machine.audit("--tool", "trivy", "--timeout", "20m")
    tool = audit["tool"]
    options = "rootfs --format json --quiet --timeout 1200s --security-checks vuln /"
    assert tool["command"] == [str(machine.bin / "trivy"), *options.split()]
    assert (tool["version"], tool["errors"]) == ("0.36.1", "# portspec: database of 2026-11-20T06:12:12Z\n")
    assert audited(audit).status is Status.CLEAN


def test_given_command_is_run_in_place(machine: Machine) -> None:
    """A command of the settings is run as it stands, and its tool is told from its name."""
    machine.script("grype", 'for each; do echo "[$each]"; done; exit 2')
    tool = machine.audit("--tool", "auto", "--command", "grype dir:/srv --output 'a b'")["tool"]
    assert (tool["name"], tool["exit_status"], tool["version"]) == ("grype", 2, None)
    assert tool["output"] == "[dir:/srv]\n[--output]\n[a b]\n"


@pytest.mark.parametrize(
    ("arguments", "errors"),
    [
        (["--tool", "portaudit"], "portspec-send: portaudit is not installed (setting: tool)"),
        (
            ["--tool", "debsecan", "--command", "/no/such/tool"],
            "portspec-send: /no/such/tool could not be run: no such file or directory (setting: command)",
        ),
    ],
)
def test_missing_tool_is_reported(machine: Machine, server: Server, arguments: list[str], errors: str) -> None:
    """A host whose tool is missing audits all the same, as failed, and the agent says what is missing."""
    server.start()
    code, _, err = machine.run("--url", server.url, *arguments)
    assert (code, err) == (0, errors + SENT_ALL_THE_SAME)
    (audit,) = server.audits()
    assert audit["tool"]["exit_status"] is None
    assert audit["tool"]["errors"] == f"{errors}\n"
    assert audited(audit).status is Status.FAILED


def test_host_without_any_tool_audits(machine: Machine) -> None:
    """Where nothing that audits is installed the audit says so, under the name of the tool that one would expect."""
    if any(shutil.which(tool.program) for tool in agent.TOOLS.values()):
        pytest.skip("this machine has an audit tool")
    (machine.bin / "debsecan").unlink()
    audit = machine.audit("--tool", "auto")
    assert audit["tool"]["name"] in agent.TOOLS
    assert (audit["tool"]["command"], audit["tool"]["exit_status"]) == ([], None)
    assert audit["tool"]["errors"].endswith(" (setting: tool)\n")


def test_tool_is_found_by_itself(machine: Machine) -> None:
    """With tool = auto on a machine with debsecan that is the tool."""
    if sys.platform != "linux":
        pytest.skip("debsecan is for Linux")
    tool = machine.audit("--tool", "auto")["tool"]
    assert (tool["name"], tool["output"]) == ("debsecan", OUTPUT + PROOF)


def test_listening_sockets_are_told(machine: Machine) -> None:
    """Sockets that listen are in the audit with address, port, process and user, those that are connected are not."""
    families = [(socket.AF_INET, "127.0.0.1"), *([(socket.AF_INET6, "::1")] if has_ipv6() else [])]
    expected = set()
    sockets = []
    own = {
        "process": Path("/proc/self/comm").read_text(encoding="utf-8").strip(),
        "user": agent.name_of_user(os.geteuid()),
    }
    try:
        for family, address in families:
            for kind, protocol in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
                opened_socket = socket.socket(family, kind)
                sockets.append(opened_socket)
                opened_socket.bind((address, 0))
                expected.add((protocol, address, opened_socket.getsockname()[1]))
                if kind == socket.SOCK_STREAM:
                    opened_socket.listen()
        connected = socket.create_connection(sockets[0].getsockname())
        talking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sockets += [connected, talking]
        talking.bind(("127.0.0.1", 0))
        talking.connect(sockets[1].getsockname())
        found = machine.audit()["listeners"]
        silent = {connected.getsockname()[1], talking.getsockname()[1]}
    finally:
        for each in sockets:
            each.close()
    mine = [each for each in found if {"process": each["process"], "user": each["user"]} == own]
    assert expected <= {(each["protocol"], each["address"], each["port"]) for each in mine}
    assert not silent & {each["port"] for each in mine}
    assert found == sorted(found, key=lambda each: (each["protocol"], each["port"], each["address"]))


def has_ipv6() -> bool:
    """Return whether this machine has ::1."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_dry_run_sends_nothing(machine: Machine) -> None:
    """--dry-run needs neither key nor server nor spool, prints the payload and leaves nothing behind."""
    machine.key.unlink()
    before = set(machine.path.iterdir())
    assert machine.audit()["tool"]["output"] == OUTPUT + PROOF
    assert set(machine.path.iterdir()) == before


def test_print_shows_what_is_sent(machine: Machine, server: Server) -> None:
    """--print prints the very payload that is sent."""
    server.start()
    code, out, _ = machine.run("--url", server.url, "--print")
    assert code == 0
    payload, _, said = out.partition("\n")
    assert json.loads(payload) == server.audits()[0]
    assert said.endswith(" was accepted\n")


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({}, [], "set either url or mail_to"),
        ({"url": "http://a", "mail_to": "b"}, [], "set either url or mail_to, not both"),
        (
            {"url": "http://a", "timeout": "soon"},
            [],
            'CONF:7: timeout is "soon", expected a time such as 90s, 30m or 2h',
        ),
        ({"url": "http://a", "ulr": ""}, [], 'CONF:7: "ulr" is not a key, expected one of url, '),
        (
            {"url": "http://a", "key_file": "/no/key"},
            [],
            "/no/key: no such file or directory; `portspec key HOST` on the",
        ),
        ({"url": "http://a", "spool": "/dev/null"}, [], "spool: /dev/null: "),
        ({"url": "http://a"}, ["--tool", "x"], '--tool: tool is "x", expected auto, pkg-audit'),
        ({"url": "http://a"}, ["-c", "/no/file"], "/no/file: no such file or directory"),
        ({"url": "http://a"}, ["--no-such-flag"], "unrecognized arguments: --no-such-flag (see portspec-send --help)"),
        ({"url": "http://a"}, ["--time", "1s"], "unrecognized arguments: --time 1s"),
    ],
)
def test_what_is_set_up_wrongly_is_told(
    machine: Machine, settings: dict[str, str], arguments: list[str], message: str
) -> None:
    """What is wrong in file, flags, key or spool is told in one line before anything runs; exit 78."""
    machine.script("debsecan", "touch $D/ran")
    machine.configure(**settings)
    code, out, err = machine.run(*arguments)
    assert (code, out, err.count("\n")) == (78, "", 1)
    assert err.startswith("portspec-send: " + message.replace("CONF", str(machine.configuration)))
    assert not (machine.path / "ran").exists()


def test_key_that_others_can_read_is_warned_of(machine: Machine, server: Server) -> None:
    """A key file that others can read is used, with a warning that says what to do."""
    machine.key.chmod(0o644)
    server.start()
    code, _, err = machine.run("--url", server.url)
    assert code == 0
    why = "is readable by other users, who can send audits as this host"
    assert err == f"portspec-send: {machine.key} {why}: chmod 600 {machine.key}\n"


def test_two_agents_do_not_meet(machine: Machine, server: Server) -> None:
    """While one agent is at work another one says so and ends with 75, without an audit of its own."""
    server.start()
    machine.configure(url=server.url)
    os.mkfifo(machine.path / "begun")
    os.mkfifo(machine.path / "go")
    machine.script("debsecan", "[ $1 = --version ] || { echo > $D/begun; cat $D/go; }")
    first = machine.start()
    assert (machine.path / "begun").read_text(encoding="ascii") == "\n"
    said = f"portspec-send: another portspec-send is running (it holds {machine.spool}/lock)\n"
    assert machine.run() == (75, "", said)
    assert machine.run("--flush") == (75, said, "")
    (machine.path / "go").write_text(OUTPUT, encoding="ascii")
    assert ended(first)[::2] == (0, "")
    assert len(server.audits()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_agent_that_is_stopped_stops_its_tool(machine: Machine, number: signal.Signals) -> None:
    """A signal to the agent ends the tool with all that it started."""
    machine.configure(url="http://127.0.0.1:1")
    os.mkfifo(machine.path / "begun")
    machine.script("debsecan", 'sh -c "echo \\$\\$ > $D/begun; exec sleep 300"; :')
    process = machine.start()
    child = int((machine.path / "begun").read_text(encoding="ascii"))
    process.send_signal(number)
    assert ended(process) == (128 + number, "", f"portspec-send: stopped by {number.name}\n")
    until(lambda: not is_running(child))  # it was killed, and takes a moment to end
    assert machine.waiting() == []


def test_agent_that_is_stopped_while_its_tool_starts_stops_it(machine: Machine) -> None:
    """A signal before the agent knows the process of its tool ends the tool, too."""
    machine.script("debsecan", "exec sleep 300")
    wrapper = machine.path / "stopped.py"
    wrapper.write_text(
        "import os, pathlib, runpy, signal, subprocess, sys\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *arguments, **options):\n"
        "        super().__init__(*arguments, **options)\n"
        f"        pathlib.Path({str(machine.path / 'child')!r}).write_text(str(self.pid))\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        f"subprocess.Popen = Popen; runpy.run_path({str(machine.agent)!r}, run_name='__main__')\n",
        encoding="utf-8",
    )
    machine.agent = wrapper
    machine.configure(url="http://127.0.0.1:1")
    assert machine.run() == (128 + signal.SIGTERM, "", "portspec-send: stopped by SIGTERM\n")
    assert not is_running(int(machine.said("child")))


def test_audit_survives_a_crash_while_it_is_sent(machine: Machine, server: Server) -> None:
    """An audit whose agent is killed while it sends is in the spool already, and the next run sends its very bytes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = machine.start("--url", f"http://127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        assert connection.recv(1)
        process.kill()
        ended(process)
        connection.close()
    (path,) = machine.waiting()
    packed = path.read_bytes()
    server.start()
    code, _, errors = machine.run("--url", server.url)
    assert code == 0, errors
    assert packed in server.bodies
    assert len(server.audits()) == 2


@fault("disk full", "audits", "An agent that cannot write its spool sends the audit nevertheless.")
def test_spool_on_a_full_disk_does_not_hold_up_the_audit(machine: Machine, server: Server) -> None:
    """An audit that cannot be spooled is sent all the same, with a word on the spool."""
    server.start()
    machine.spool.mkdir(mode=0o700)
    script = (
        "import os, runpy, sys\n"
        "def full(_): raise OSError(28, 'No space left on device')\n"
        f"os.fsync = full; sys.argv = sys.argv[1:]; runpy.run_path({str(machine.agent)!r}, run_name='__main__')\n"
    )
    wrapper = machine.path / "full.py"
    wrapper.write_text(script, encoding="utf-8")
    machine.agent, agent_path = wrapper, machine.agent
    command = ["-c", str(machine.configuration), "--url", server.url]
    done = subprocess.run(
        [machine.python, "-I", str(wrapper), str(agent_path), *command],
        env={"PATH": f"{machine.bin}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == "portspec-send: the audit could not be written to the spool: no space left on device\n"
    assert len(server.audits()) == 1
    assert machine.waiting() == []


def test_schedules_are_those_that_are_shipped(machine: Machine) -> None:
    """--cron and --systemd print what deploy/agent has, with the command that runs this very file and its settings."""
    own = f"{machine.python} -I {machine.agent} -c {machine.configuration}"
    shipped = {
        path.suffix: path.read_text(encoding="utf-8") for path in (ROOT / "deploy" / "agent").glob("portspec-send.*")
    }
    for flags, text in (
        (["--systemd", "service"], shipped[".service"]),
        (["--systemd", "timer"], shipped[".timer"]),
        (["--systemd"], shipped[".service"] + "\n" + shipped[".timer"]),
    ):
        assert machine.run(*flags) == (0, text.replace(COMMAND, own), "")
    minutes = set()
    for _ in range(5):
        code, out, err = machine.run("--cron")
        assert (code, err) == (0, "")
        found = re.search(r"^([0-9]+) 3 ", out, re.MULTILINE)
        assert found
        minutes.add(int(found[1]))
        minute = re.compile(r"(?m)^[0-9]+ ")
        assert minute.sub("", out) == minute.sub("", shipped[".cron"].replace(COMMAND, own))
    assert minutes <= set(range(60))
    assert len(minutes) > 1


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` says nothing of the shipped service and timer."""
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze (Debian: systemd) is not installed")
    for name in ("portspec-send.service", "portspec-send.timer"):
        text = (ROOT / "deploy" / "agent" / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace(COMMAND, "/bin/true"), encoding="utf-8")
    command = [
        "systemd-analyze",
        "verify",
        str(tmp_path / "portspec-send.service"),
        str(tmp_path / "portspec-send.timer"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    about_it = [line for line in (done.stdout + done.stderr).splitlines() if "portspec" in line]
    assert (done.returncode, about_it) == (0, [])


def test_help_tells_what_there_is(machine: Machine) -> None:
    """--help names every key, tool, file and exit code, in lines that fit a terminal; --version tells the version."""
    code, out, _ = machine.run("--help", COLUMNS="100")
    assert code == 0
    assert all(f"--{name.replace('_', '-')} " in out for name in agent.KEYS)
    assert all(name in out for name in (*agent.TOOLS, *agent.CONFIGS, "0 sent", "1 rejected", "75 waits", "78 wrong"))
    assert max(map(len, out.splitlines())) <= 100
    assert machine.run("--version") == (0, f"portspec-send {agent.VERSION}\n", "")
