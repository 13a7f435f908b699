"""The agent's units for systemd, as they are shipped, on a machine that systemd boots and that has exim."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.exim import FILES, USERS
from tests.e2e.machine import SOURCE, Machine, MachineError
from tests.requirements import forbidden, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(300)  # that of the first one includes the boot
GATE: Final = "/run/gate"  # a pipe: deliveries wait until somebody writes to it
MAILBOX: Final = "/var/mail/arrived"
EXIM: Final = f"""\
primary_hostname = db1.example.org
domainlist local_domains = example.org
keep_environment =
begin routers
all:
  driver = accept
  domains = +local_domains
  transport = slow
begin transports
slow:
  driver = pipe
  command = /bin/sh -c "read -r word < {GATE}; cat >> {MAILBOX}"
  user = mail
"""
SETTINGS: Final = """\
host = db1.example.org
mail_to = portspec@example.org
command = /bin/echo CVE-2026-0001 libc6
tool = debsecan
"""
SET_UP: Final = f"""\
set -e
cp -a {SOURCE}/{FILES.relative_to(FILES.parents[2])}/usr/. /usr/
cat >> /etc/passwd <<.
{USERS["passwd"]}.
cat >> /etc/group <<.
{USERS["group"]}.
install -d -o Debian-exim -g Debian-exim /var/spool/exim4 /var/log/exim4
install -d /etc/exim4
cat > /etc/exim4/exim4.conf <<'.'
{EXIM}.
install -m 755 exporter/portspec/agent.py /usr/local/bin/portspec-send
cat > /etc/portspec-send.conf <<'.'
{SETTINGS}.
(umask 077; printf %064d 7 > /etc/portspec-send.key)
install -m 644 deploy/agent/portspec-send.service deploy/agent/portspec-send.timer /etc/systemd/system/
systemctl daemon-reload
mkfifo -m 666 {GATE}
install -o mail -g mail -m 600 /dev/null {MAILBOX}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot a machine with exim, the agent and its units."""
    if os.geteuid() != 0:
        forbidden("systemd-nspawn boots no machine for an ordinary user")
    if lacking := Machine.missing():
        missing(f"no machine: {lacking}")
    if not (FILES.parent / "complete").exists():
        missing("exim is not there: `make packages` fetches it, as root on Debian or Ubuntu")
    try:
        with Machine(tmp_path_factory.mktemp("machine"), tmp_path_factory.mktemp("wheels")) as found:
            found.succeed(SET_UP)
            yield found
    except MachineError as error:
        missing(f"no machine: {error}")


def queue(machine: Machine) -> int:
    """Return how many mails are in exim's queue."""
    return int(machine.succeed("exim4 -bpc"))


def open_gate(machine: Machine) -> None:
    """Let deliveries go on until no mail is left; that fails where nothing delivers any more."""
    line = f'until [ $(exim4 -bpc) = 0 ]; do timeout 1 sh -c "echo go > {GATE}"; done; exit 0'
    machine.succeed(f"timeout 30 sh -c '{line}'")


def test_mail_is_delivered_after_the_service_has_ended(machine: Machine) -> None:
    """What exim begins to deliver while the service runs arrives, though the service has ended by then."""
    machine.succeed("systemctl start portspec-send.service")
    assert machine.succeed("systemctl show --property=ActiveState,Result portspec-send.service").split() == [
        "Result=success",
        "ActiveState=inactive",
    ]
    assert queue(machine) == 1
    open_gate(machine)
    assert "Subject: portspec audit of db1.example.org for " in machine.succeed(f"cat {MAILBOX}")


def test_service_can_be_started_while_a_delivery_goes_on(machine: Machine) -> None:
    """A delivery that is left of one run is no trouble for the next, and both mails arrive."""
    machine.succeed(f": > {MAILBOX}")
    for _ in range(2):  # the agent makes one audit a day, unless it forgets that it has made one
        machine.succeed("rm /var/spool/portspec-send/sent && systemctl start portspec-send.service")
    assert queue(machine) == 2
    open_gate(machine)
    assert machine.succeed(f"grep -c '^Subject: portspec audit' {MAILBOX}") == "2\n"
