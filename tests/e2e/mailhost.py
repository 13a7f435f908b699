"""A mail host: an MTA in a network and a mount namespace of its own, from which no mail gets anywhere.

What somebody sets up who wants audits by mail is set up there: what hands mail to `portspec receive`; a conf.yml that
the user of portspec may read; and a directory of this user for the state file. The user stands in for one who would be
called "portspec" and is made by no test.
"""

from __future__ import annotations

import mailbox
import os
import pwd
import shutil
import stat
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Self

import portspec
from tests.e2e.audits import PORTSPEC, configure, printed, run
from tests.e2e.exporter import Exporter
from tests.lab.namespaces import LabError, Namespace, tool
from tests.requirements import forbidden, missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from email.message import Message

    from tests.e2e.audits import Made

USER: Final = pwd.getpwnam("daemon")
DOMAIN: Final = "mail.example.org"
REPORTS: Final = f"portspec@{DOMAIN}"
RECEIVE: Final = "{portspec} receive -c {conf}"
_SEND: Final = """\
import smtplib, sys
smtplib.SMTP("127.0.0.1", 25).sendmail(sys.argv[1], sys.argv[2], sys.stdin.buffer.read())
"""


class MailHost:
    """The machine that audits are mailed to; gone on leaving, with all that runs there.

    `hosts` are those that have to audit; mail for the users there ends here, too, in one mailbox. It is made by
    entering it, in a subclass for each MTA, which knows its programs and its package.
    """

    programs: tuple[str, ...]  # that have to be there
    package: str
    sendmail: str
    needs: tuple[Path, ...] = ()  # what it needs of directories that not everybody may enter

    def __init__(self, hosts: Sequence[str]) -> None:
        if lacking := self.lacking():
            missing(lacking)
        if os.geteuid() != 0:
            forbidden("an MTA")
        self.hosts = hosts
        self._stack = ExitStack()

    def lacking(self) -> str | None:
        """Say what is not installed; None if nothing is."""
        try:
            for name in self.programs:
                tool(name)
        except LabError as error:
            return f"{error} (Debian: {self.package})"
        return None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            try:
                self.namespace = Namespace()
            except LabError as error:
                forbidden(str(error))
            # Not pytest's directory, which nobody but root may enter. Removed after the namespaces are.
            self.directory = Path(stack.enter_context(TemporaryDirectory(prefix="portspec-mail-")))
            stack.callback(self.namespace.close)
            self._prepare()
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _prepare(self) -> None:
        self.directory.chmod(0o755)
        for name, owner in (("etc", "root"), ("mail", USER.pw_name)):
            (self.directory / name).mkdir(mode=0o755)
            shutil.chown(self.directory / name, owner)
        self.state = self.directory / "state"
        self.state.mkdir(mode=0o700)
        shutil.chown(self.state, USER.pw_name)
        self.conf = self.directory / "etc" / "portspec.yml"
        self.receive = RECEIVE.format(portspec=PORTSPEC, conf=self.conf)
        self.configure()
        self.namespace.run("set the loopback up", [tool("ip"), "link", "set", "lo", "up"])
        for closed, needed in closed_directories(self.needs).items():
            self._open(closed, needed)

    def start(self) -> None:
        """Configure the MTA, and start it."""
        raise NotImplementedError

    def limit(self, size: int) -> None:
        """Have the MTA's sendmail take no mail of more bytes than this."""
        raise NotImplementedError

    @property
    def within(self) -> tuple[str, ...]:
        """The begin of a command line that has the agent find this MTA."""
        raise NotImplementedError

    @property
    def environment(self) -> dict[str, str]:
        """The environment that has the agent find this MTA."""
        return {}

    def wait_until_done(self) -> None:
        """Wait until no mail is left."""
        raise NotImplementedError

    def log(self) -> str:
        """Return the log of the MTA."""
        raise NotImplementedError

    def _open(self, closed: Path, needed: Sequence[Path]) -> None:
        """Let everybody into a directory, where nothing is seen but what is needed; in the namespace only."""
        scratch = self.directory / "scratch"
        scratch.mkdir(exist_ok=True)
        steps = [[tool("mount"), "-t", "tmpfs", "-o", "mode=755", "none", str(scratch)]]
        for path in needed:
            place = str(scratch / path.relative_to(closed))
            steps += [[tool("mkdir"), "-p", place], [tool("mount"), "--bind", str(path), place]]
        steps.append([tool("mount"), "--move", str(scratch), str(closed)])
        for step in steps:
            self.namespace.run(f"open {closed}", step)

    def configure(self) -> None:
        """Write conf.yml, for the user of portspec alone: the passphrase is in there."""
        configure(self.conf, self.hosts, state=str(self.state / "portspec.db"), reportfile=str(self.state / "all.html"))
        self.conf.chmod(0o640)
        shutil.chown(self.conf, "root", USER.pw_gid)

    def script(self, name: str, text: str) -> Path:
        """Install a program; {receive} stands for the command that takes a mail."""
        path = self.directory / "mail" / name
        path.write_text(text.format(receive=self.receive), encoding="utf-8")
        path.chmod(0o755)
        return path

    # --- Mail ---

    def send(self, mail: bytes, sender: str, recipient: str = REPORTS) -> None:
        """Bring a mail by SMTP, as the mail host of another machine does."""
        done = run(*self.inside(sys.executable, "-I", "-c", _SEND, sender, recipient), stdin=mail)
        assert done.code == 0, done.errors

    def returned(self) -> list[Message]:
        """Return the mails in the mailbox of those who send audits."""
        path = self.directory / "mail" / "root"
        if not path.exists():
            return []
        with closing(mailbox.mbox(path, create=False)) as box:
            return list(box)

    # --- portspec, as its user ---

    def portspec(self, *arguments: str) -> list[str]:
        """Return the argv that runs portspec as its user in the network of the tests, where directories are open."""
        nsenter = [tool("nsenter"), f"--target={self.namespace.pid}", "--mount"]
        return [*nsenter, f"--setuid={USER.pw_uid}", f"--setgid={USER.pw_gid}", "--", PORTSPEC, *arguments]

    @contextmanager
    def exporter(self) -> Iterator[Exporter]:
        """Run the exporter as this user, and end it."""
        running = _Exporter(self.conf, self.directory / "exporter.log", self.portspec("serve"))
        try:
            yield running
        finally:
            if running.process.poll() is None:
                running.kill()

    def seen(self, path: Path) -> Path:
        """Return the path by which a file is to be had that something was mounted over in the namespace."""
        return Path(f"/proc/{self.namespace.pid}/root{path}")

    def mount(self, path: Path, size: str) -> None:
        """Mount a disk of a size on a directory of the user of portspec."""
        options = f"size={size},mode=700,uid={USER.pw_uid},gid={USER.pw_gid}"
        self.namespace.run("mount", [tool("mount"), "-t", "tmpfs", "-o", options, "none", str(path)])

    def archived(self, made: Made) -> bytes:
        """Return what the archive has of an audit's host and day."""
        command = self.portspec("report", "--raw", "--host", made.host, "--day", made.day, "-c", str(self.conf))
        return printed(*command)

    def inside(self, *argv: str) -> list[str]:
        """Return the argv that runs a program there as root."""
        return self.namespace.argv([tool(argv[0]) if "/" not in argv[0] else argv[0], *argv[1:]], cwd="/")


class _Exporter(Exporter):
    """One that is started by another command."""

    def __init__(self, conf: Path, log: Path, command: Sequence[str]) -> None:
        self.conf, self.log = conf, log
        with log.open("w") as output:
            argv = [*command, "-c", str(conf), "-j", "--web.listen-address", "127.0.0.1:0"]
            self.process = subprocess.Popen(argv, stdout=output, stderr=output)


def closed_directories(needs: Sequence[Path] = ()) -> Mapping[Path, list[Path]]:
    """Return what portspec needs of directories that not everybody may enter, such as a Python below /root."""
    python = Path(sys.executable).resolve()
    roots = {Path(sys.prefix), Path(sys.base_prefix), python.parents[1], Path(portspec.__file__).resolve().parents[1]}
    roots |= {path.resolve() for path in needs}
    found: dict[Path, list[Path]] = {}
    for root in sorted(roots):
        closed = [each for each in reversed(root.parents) if not each.stat().st_mode & stat.S_IXOTH]
        if closed:
            found.setdefault(closed[0], []).append(root)
    return found


def notice_of(returned: Message) -> str:
    """Return what the MTA says in a mail that it returns, which is the first part, as one line."""
    part = next(part for part in returned.walk() if part.get_content_type() == "text/plain")
    found = part.get_payload(decode=True)
    assert isinstance(found, bytes)
    return " ".join(found.decode().split())


def attachment(raw: bytes) -> int:
    """Tell where the base64 of the attachment begins."""
    return raw.index(b"\n\n", raw.index(b"filename=")) + 2


def changed_body(raw: bytes) -> bytes:
    """Change one character in the middle of the attachment."""
    at = (attachment(raw) + len(raw)) // 2
    while not raw[at : at + 1].isalnum():
        at += 1
    return raw[:at] + (b"B" if raw[at : at + 1] == b"A" else b"A") + raw[at + 1 :]


def changed_signature(raw: bytes) -> bytes:
    """Change one character of the attachment, so that one digit of the signature is another one."""
    start = attachment(raw)
    begin = 24  # characters of base64: "portspec-audit 1 " and a digit; the last of each four is of one digit alone
    at = next(at for at in range(start + begin + 3, start + begin + 40, 4) if raw[at : at + 1] in b"wxyz012345")
    return raw[:at] + (b"x" if raw[at : at + 1] == b"w" else b"w") + raw[at + 1 :]
