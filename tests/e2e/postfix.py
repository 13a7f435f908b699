"""A mail host with a private Postfix, set up as docs/audit.md has it.

Mail comes by an alias file that belongs to the user of portspec, for local(8) runs the command of an alias as the owner
of the file, and as default_privs ("nobody") if that is root; or by a transport for pipe(8), which has the user in
master.cf.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

from tests.e2e.audits import run
from tests.e2e.exporter import until
from tests.e2e.mailhost import DOMAIN, USER, MailHost
from tests.lab.namespaces import tool

if TYPE_CHECKING:
    from collections.abc import Sequence

PIPED: Final = f"piped@{DOMAIN}"  # by the transport

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
tlsmgr  unix  - - n 1000? 1 tlsmgr
local   unix  - n n -   - local
anvil   unix  - - n -   1 anvil
postlog unix-dgram n - n - 1 postlogd
portspec unix - n n -   4 pipe
  flags=R user={user} argv={receive}
"""


class PostfixHost(MailHost):
    """One with Postfix."""

    programs: tuple[str, ...] = ("sendmail", "postfix", "postalias", "postqueue")
    package = "postfix"

    def __init__(self, hosts: Sequence[str]) -> None:
        super().__init__(hosts)
        self.sendmail = tool("sendmail")

    def start(self) -> None:
        """Configure Postfix, and start it."""
        for name, owner in (("spool", "root"), ("data", "postfix")):
            (self.directory / name).mkdir(mode=0o755)
            shutil.chown(self.directory / name, owner)
        values = {"directory": self.directory, "domain": DOMAIN, "piped": PIPED, "hosts": " ".join(self.hosts)}
        (self.directory / "etc/main.cf").write_text(_MAIN.format(**values) + self.settings(), encoding="utf-8")
        master = _MASTER.format(user=USER.pw_name, receive=self.receive)
        (self.directory / "etc/master.cf").write_text(master, encoding="utf-8")
        self.alias(f'"|{self.receive}"')
        self._postfix("start")

    def settings(self) -> str:
        """Return what a subclass may have otherwise in main.cf."""
        return "smtpd_relay_restrictions = reject_unauth_destination\n"

    def alias(self, target: str, owner: str = USER.pw_name) -> None:
        """Say where mail for REPORTS goes, in an alias file of an owner; postalias(1) gives him the database, too."""
        path = self.directory / "mail" / "aliases"
        for old in path.parent.glob("aliases*"):
            old.unlink()
        path.write_text(f"portspec: {target}\nroot: {self.directory}/mail/root\n", encoding="utf-8")
        shutil.chown(path, owner)
        done = run(*self.inside("postalias", "-c", str(self.directory / "etc"), str(path)))
        assert done.code == 0, done.errors

    @property
    def environment(self) -> dict[str, str]:
        """By what sendmail(1) finds this Postfix."""
        return {"MAIL_CONFIG": str(self.directory / "etc")}

    @property
    def within(self) -> tuple[str, ...]:
        """By what the agent runs there; nothing, as the environment is enough."""
        return ()

    def limit(self, size: int) -> None:
        """Have Postfix's sendmail take no mail of more bytes than this."""
        directory = self.environment["MAIL_CONFIG"]
        done = run(
            *self.inside("postconf", "-c", directory, "-e", f"message_size_limit={size}", "mailbox_size_limit=0")
        )
        assert done.code == 0, done.errors

    def log(self) -> str:
        """Return the log of Postfix."""
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def queue(self) -> list[dict[str, Any]]:
        """Return what is in its queue: of each mail queue_name, sender, recipients and so on, see postqueue(1)."""
        done = run(*self.inside("postqueue", "-c", self.environment["MAIL_CONFIG"], "-j"))
        assert done.code == 0, done.errors
        return [json.loads(line) for line in done.output.splitlines()]

    def reasons(self) -> list[str]:
        """Return why mails wait, of those that were tried and have to."""
        deferred = [item for item in self.queue() if item["queue_name"] == "deferred"]
        return [recipient.get("delay_reason", "") for item in deferred for recipient in item["recipients"]]

    def flush(self) -> None:
        """Try all that waits now."""
        done = run(*self.inside("postqueue", "-c", self.environment["MAIL_CONFIG"], "-f"))
        assert done.code == 0, done.errors

    def reload(self) -> None:
        """Have Postfix read its files anew."""
        self._postfix("reload")

    def wait_until_done(self) -> None:
        """Wait until no mail is left."""
        until(lambda: not self.queue())

    def _postfix(self, command: str) -> None:
        # Its output goes into a file: its daemons would keep a pipe open.
        with (self.directory / "commands").open("a") as output:
            argv = self.inside("postfix", "-c", str(self.directory / "etc"), command)
            done = subprocess.run(argv, stdout=output, stderr=output, timeout=60, check=False)
        assert done.returncode == 0, (self.directory / "commands").read_text() + self.log()
