"""A mail host: a private Postfix in a network and a mount namespace of its own, from which no mail gets anywhere.

What somebody sets up who wants reports by mail is set up here: an alias file that belongs to the user of portspec, for
local(8) runs the command of an alias as the owner of the file, and as default_privs ("nobody") if that is root; a
conf.yml that this user may read; and a directory of this user for the state file. Or a transport for pipe(8), which has
the user in master.cf. The user stands in for one who would be called "portspec" and is made by no test.
"""

from __future__ import annotations

import json
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
from typing import TYPE_CHECKING, Any, Final, Self

import portspec
from tests.e2e.exporter import Exporter, until
from tests.e2e.reports import PORTSPEC, configure, run
from tests.lab.namespaces import LabError, Namespace, tool
from tests.requirements import forbidden, missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from email.message import Message

USER: Final = pwd.getpwnam("daemon")
DOMAIN: Final = "mail.example.org"
REPORTS: Final = f"portspec@{DOMAIN}"
PIPED: Final = f"piped@{DOMAIN}"  # by the transport
RECEIVE: Final = "{portspec} receive -c {conf}"

_MAIN: Final = """\
compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
maillog_file_prefixes = {directory}
maillog_file = {directory}/log
myhostname = {domain}
mydestination = {domain} {hosts}
mynetworks_style = host
inet_interfaces = loopback-only
inet_protocols = ipv4
default_transport = error:5.7.1 nothing leaves this machine
relay_transport = error:5.7.1 nothing leaves this machine
smtpd_relay_restrictions = reject_unauth_destination
disable_dns_lookups = yes
notify_classes =
local_recipient_maps =
alias_maps = ${{default_database_type}}:{directory}/mail/aliases
alias_database = $alias_maps
transport_maps = inline:{{ {piped}=portspec: }}
"""
# Its port is in the namespace of its own.
_MASTER: Final = """\
127.0.0.1:25 inet n - n - - smtpd
pickup  unix  n - n 60  1 pickup
cleanup unix  n - n -   0 cleanup
qmgr    unix  n - n 300 1 qmgr
rewrite unix  - - n -   - trivial-rewrite
bounce  unix  - - n -   0 bounce
defer   unix  - - n -   0 bounce
trace   unix  - - n -   0 bounce
error   unix  - - n -   - error
retry   unix  - - n -   - error
showq   unix  n - n -   - showq
local   unix  - n n -   - local
anvil   unix  - - n -   1 anvil
postlog unix-dgram n - n - 1 postlogd
portspec unix - n n -   4 pipe
  flags=R user={user} argv={receive}
"""
_SEND: Final = """\
import smtplib, sys
smtplib.SMTP("127.0.0.1", 25).sendmail(sys.argv[1], sys.argv[2], sys.stdin.buffer.read())
"""


class MailHost:
    """The machine that reports are mailed to; gone on leaving, with all that runs there.

    `hosts` are those that have to report; mail for the users there ends here, too, in one mailbox.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        try:
            self.sendmail = tool("sendmail")
            for name in ("postfix", "postalias", "postqueue"):
                tool(name)
        except LabError as error:
            missing(f"{error} (Debian: postfix)")
        if os.geteuid() != 0:
            forbidden("Postfix")
        self._hosts = hosts
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            try:
                self._namespace = Namespace()
            except LabError as error:
                forbidden(str(error))
            # Not pytest's directory, which nobody but root may enter. Removed after the namespaces are.
            self.directory = Path(stack.enter_context(TemporaryDirectory(prefix="portspec-mail-")))
            stack.callback(self._namespace.close)
            self._set_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _set_up(self) -> None:
        self.directory.chmod(0o755)
        for name, owner in (("etc", "root"), ("spool", "root"), ("data", "postfix"), ("mail", USER.pw_name)):
            (self.directory / name).mkdir(mode=0o755)
            shutil.chown(self.directory / name, owner)
        self.state = self.directory / "state"
        self.state.mkdir(mode=0o700)
        shutil.chown(self.state, USER.pw_name)
        self.conf = self.directory / "etc" / "portspec.yml"
        self.configure()
        self._namespace.run("set the loopback up", [tool("ip"), "link", "set", "lo", "up"])
        for closed, needed in closed_directories().items():
            self._open(closed, needed)
        receive = RECEIVE.format(portspec=PORTSPEC, conf=self.conf)
        values = {"directory": self.directory, "domain": DOMAIN, "piped": PIPED, "hosts": " ".join(self._hosts)}
        (self.directory / "etc/main.cf").write_text(_MAIN.format(**values), encoding="utf-8")
        master = _MASTER.format(user=USER.pw_name, receive=receive)
        (self.directory / "etc/master.cf").write_text(master, encoding="utf-8")
        self.alias(f'"|{receive}"')
        self._postfix("start")

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
            self._namespace.run(f"open {closed}", step)

    def configure(self) -> None:
        """Write conf.yml, for the user of portspec alone: the passphrase is in there."""
        configure(
            self.conf, self._hosts, state=str(self.state / "portspec.db"), reportfile=str(self.state / "all.html")
        )
        self.conf.chmod(0o640)
        shutil.chown(self.conf, "root", USER.pw_gid)

    def alias(self, target: str, owner: str = USER.pw_name) -> None:
        """Say where mail for REPORTS goes, in an alias file of an owner; postalias(1) gives him the database, too."""
        path = self.directory / "mail" / "aliases"
        for old in path.parent.glob("aliases*"):
            old.unlink()
        path.write_text(f"portspec: {target}\nroot: {self.directory}/mail/root\n", encoding="utf-8")
        shutil.chown(path, owner)
        done = run(*self._inside("postalias", "-c", str(self.directory / "etc"), str(path)))
        assert done.code == 0, done.errors

    def script(self, name: str, text: str) -> Path:
        """Install a program; {receive} stands for the command that takes a mail."""
        path = self.directory / "mail" / name
        path.write_text(text.format(receive=RECEIVE.format(portspec=PORTSPEC, conf=self.conf)), encoding="utf-8")
        path.chmod(0o755)
        return path

    # --- Mail ---

    @property
    def environment(self) -> dict[str, str]:
        """By what sendmail(1) finds this Postfix."""
        return {"MAIL_CONFIG": str(self.directory / "etc")}

    def send(self, mail: bytes, sender: str, recipient: str = REPORTS) -> None:
        """Bring a mail by SMTP, as the mail host of another machine does."""
        done = run(*self._inside(sys.executable, "-I", "-c", _SEND, sender, recipient), stdin=mail)
        assert done.code == 0, done.errors

    def log(self) -> str:
        """Give the log of Postfix."""
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def queue(self) -> list[dict[str, Any]]:
        """Give what is in its queue: of each mail queue_name, sender, recipients and so on, see postqueue(1)."""
        done = run(*self._inside("postqueue", "-c", self.environment["MAIL_CONFIG"], "-j"))
        assert done.code == 0, done.errors
        return [json.loads(line) for line in done.output.splitlines()]

    def reasons(self) -> list[str]:
        """Give why mails wait, of those that were tried and have to."""
        deferred = [item for item in self.queue() if item["queue_name"] == "deferred"]
        return [recipient.get("delay_reason", "") for item in deferred for recipient in item["recipients"]]

    def flush(self) -> None:
        """Try all that waits now."""
        done = run(*self._inside("postqueue", "-c", self.environment["MAIL_CONFIG"], "-f"))
        assert done.code == 0, done.errors

    def reload(self) -> None:
        """Have Postfix read its files anew."""
        self._postfix("reload")

    def returned(self) -> list[Message]:
        """Give the mails in the mailbox of those who send reports."""
        path = self.directory / "mail" / "root"
        if not path.exists():
            return []
        with closing(mailbox.mbox(path, create=False)) as box:
            return list(box)

    def wait_until_done(self) -> None:
        """Wait until no mail is left."""
        until(lambda: not self.queue())

    # --- portspec, as its user ---

    def portspec(self, *arguments: str) -> list[str]:
        """Give the argv that runs portspec as its user, where directories are open, but in the network of the tests."""
        nsenter = [tool("nsenter"), f"--target={self._namespace.pid}", "--mount"]
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
        """Give the path by which a file is to be had that something was mounted over in the namespace."""
        return Path(f"/proc/{self._namespace.pid}/root{path}")

    def mount(self, path: Path, size: str) -> None:
        """Mount a disk of a size on a directory of the user of portspec."""
        options = f"size={size},mode=700,uid={USER.pw_uid},gid={USER.pw_gid}"
        self._namespace.run("mount", [tool("mount"), "-t", "tmpfs", "-o", options, "none", str(path)])

    def _inside(self, *argv: str) -> list[str]:
        return self._namespace.argv([tool(argv[0]) if "/" not in argv[0] else argv[0], *argv[1:]], cwd="/")

    def _postfix(self, command: str) -> None:
        # Its output goes into a file: its daemons would keep a pipe open.
        with (self.directory / "commands").open("a") as output:
            argv = self._inside("postfix", "-c", str(self.directory / "etc"), command)
            done = subprocess.run(argv, stdout=output, stderr=output, timeout=60, check=False)
        assert done.returncode == 0, (self.directory / "commands").read_text() + self.log()


class _Exporter(Exporter):
    """One that is started by another command."""

    def __init__(self, conf: Path, log: Path, command: Sequence[str]) -> None:
        self.conf, self.log = conf, log
        with log.open("w") as output:
            argv = [*command, "-c", str(conf), "-j", "--web.listen-address", "127.0.0.1:0"]
            self.process = subprocess.Popen(argv, stdout=output, stderr=output)


def closed_directories() -> Mapping[Path, list[Path]]:
    """Give what portspec needs of directories that not everybody may enter, such as a Python below /root."""
    python = Path(sys.executable).resolve()
    roots = {Path(sys.prefix), Path(sys.base_prefix), python.parents[1], Path(portspec.__file__).resolve().parents[1]}
    found: dict[Path, list[Path]] = {}
    for root in sorted(roots):
        closed = [each for each in reversed(root.parents) if not each.stat().st_mode & stat.S_IXOTH]
        if closed:
            found.setdefault(closed[0], []).append(root)
    return found
