"""A mail host with a private exim, set up as docs/audit.md has it.

Debian's exim cannot be installed beside Postfix. Its files, which tests/exim.sh fetches, are laid over /usr in the
mount namespace, and its configuration and users over /etc: so it is found there as on a machine that has it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from tests.e2e.audits import FOUND, run
from tests.e2e.exporter import until
from tests.e2e.mailhost import DOMAIN, USER, MailHost
from tests.lab.namespaces import tool

ROOT: Final = Path(__file__).parents[2]
FILES: Final = ROOT / ".packages" / "exim" / "files"  # of tests/exim.sh
PORTAUDIT: Final = f"portaudit@{DOMAIN}"  # the alias
EXIM: Final = "/usr/sbin/exim4"
_PAGE: Final = ROOT / "docs" / "audit.md"
_OWN: Final = "Debian-exim"  # the user that Debian's exim is built for
USERS: Final = {
    "passwd": f"{_OWN}:x:64999:64999::/var/spool/exim4:/usr/sbin/nologin\n",
    "group": f"{_OWN}:x:64999:\n",
}
# Its port is in the network of its own.
_CONFIGURATION: Final = """\
primary_hostname = {domain}
domainlist local_domains = {domains}
spool_directory = {directory}/spool
log_file_path = {directory}/log/%s
local_interfaces = 127.0.0.1
daemon_smtp_ports = 25
message_size_limit = 50M
acl_smtp_rcpt = check_recipient
tls_advertise_hosts =
keep_environment =
host_lookup =

begin acl
check_recipient:
  accept domains = +local_domains
  deny

begin routers
{router}
others:
  driver = accept
  domains = +local_domains
  transport = mailbox

begin transports
{transport}
mailbox:
  driver = appendfile
  file = {directory}/mail/root
  user = {own}

begin retry
* * F,1d,1h
"""


def block(name: str) -> str:
    """Return a block of exim's configuration, or a file of aliases, as docs/audit.md has it."""
    found = re.findall(rf"(?m)^(    {name}:.*\n(?:    .*\n)*)", _PAGE.read_text(encoding="utf-8"))
    assert len(found) == 1, name
    return "".join(line[4:] for line in str(found[0]).splitlines(keepends=True))


class EximHost(MailHost):
    """One with exim."""

    programs = ("nsenter", "mount")
    package = "util-linux, mount"
    sendmail = "/usr/sbin/sendmail"
    needs = (FILES, FOUND.parent)  # what the agent's tool prints is in the latter

    def lacking(self) -> str | None:
        """Say what is not installed; None if nothing is."""
        if not (FILES.parent / "complete").exists():
            return "exim is not there: `make packages` fetches it, as root on Debian or Ubuntu"
        return super().lacking()

    def start(self) -> None:
        """Lay exim over this machine's files in the namespace, configure it, and start it."""
        over = self.directory / "over"
        (over / "exim4").mkdir(parents=True)
        for name, line in USERS.items():
            (over / name).write_text(Path("/etc", name).read_text(encoding="utf-8") + line, encoding="utf-8")
        for own, system in ((FILES / "usr", "/usr"), (over, "/etc")):
            options = f"lowerdir={own}:{system}"
            self.namespace.run(
                f"lay exim over {system}", [tool("mount"), "-t", "overlay", "-o", options, "none", system]
            )
        for name in ("spool", "log"):
            (self.directory / name).mkdir(mode=0o755)
            shutil.chown(self.directory / name, 64999, 64999)
        shutil.chown(self.directory / "mail", 64999, 64999)
        self._aliases = over / "exim4" / "portspec-aliases"
        self.alias(self.receive)
        router = block("portspec_aliases")
        (path,) = re.findall(r"lsearch\{(/[^}]*)\}", router)
        assert path == "/etc/exim4/portspec-aliases"
        assert "user = portspec\n" in router
        configuration = _CONFIGURATION.format(
            domain=DOMAIN,
            domains=" : ".join((DOMAIN, *self.hosts)),
            directory=self.directory,
            router=router.replace("user = portspec\n", f"user = {USER.pw_name}\n"),
            transport=block("portspec_pipe"),
            own=_OWN,
        )
        self._configuration = over / "exim4" / "exim4.conf"
        self._configuration.write_text(configuration, encoding="utf-8")
        self._exim("-bd", "-q1h")

    @property
    def within(self) -> tuple[str, ...]:
        """By what the agent runs there."""
        return tuple(self.namespace.argv([], cwd="/"))

    def limit(self, size: int) -> None:
        """Have exim's sendmail take no mail of more bytes than this."""
        text = self._configuration.read_text(encoding="utf-8")
        text = re.sub(r"(?m)^message_size_limit = .*$", f"message_size_limit = {size}", text)
        self._configuration.write_text(text, encoding="utf-8")

    def alias(self, command: str) -> None:
        """Say which command the alias pipes to."""
        text = block("portaudit")
        written = "/usr/local/bin/portspec receive -c /etc/portspec/portspec.yml"
        assert written in text
        self._aliases.write_text(text.replace(written, command), encoding="utf-8")

    def log(self) -> str:
        """Return exim's main log."""
        path = self.directory / "log" / "main"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def queue(self) -> list[str]:
        """Return exim's own ids of the mails in its queue."""
        return re.findall(r"(?m)^ *[0-9]+[mhdw] +\S+ +(\S+) <", self._exim("-bp"))

    def flush(self) -> None:
        """Try all that waits until nothing does; a queue run passes over a mail whose last try is just ending."""

        def is_empty() -> bool:
            self._exim("-qff")
            return not self.queue()

        until(is_empty)

    def wait_until_done(self) -> None:
        """Wait until no mail is left."""
        until(lambda: not self.queue())

    def _exim(self, *arguments: str) -> str:
        done = run(*self.inside(EXIM, *arguments))
        assert done.code == 0, done.errors + self.log()
        return done.output.decode()
