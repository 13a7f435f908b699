"""The agent and the limits of real sendmails: what one audit meets holds up no other."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.audits import FOUND, Agent, key
from tests.e2e.exim import EximHost
from tests.e2e.mailhost import DOMAIN
from tests.e2e.postfix import PostfixHost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.mailhost import MailHost

HOST: Final = "db1.example.org"
SAYS: Final = {
    EximHost: r"exim: message rejected: message too big \(max=40000\)",
    PostfixHost: r"sendmail: fatal: .*: message file too big",
}


@pytest.fixture(params=[EximHost, PostfixHost], ids=["exim", "postfix"])
def host(request: pytest.FixtureRequest) -> Iterator[MailHost]:
    """Return a host whose sendmail takes mails of at most 40 kB; all mail for it ends in one mailbox."""
    with request.param([HOST]) as found:
        found.limit(40_000)
        yield found


@pytest.fixture
def agent(host: MailHost, tmp_path: Path) -> Agent:
    """Return the agent on that host."""
    found = Agent(tmp_path / "db1", HOST, key(host.conf, HOST))
    found.within = host.within
    found.configure(mail_to=f"root@{HOST}", sendmail=host.sendmail)
    return found


def large(tmp_path: Path) -> Path:
    """Write an output of a tool that makes a mail of some 100 kB, however well it is compressed."""
    path = tmp_path / "large"
    path.write_text("".join(f"CVE-2026-{number:07} {secrets.token_hex(32)}\n" for number in range(2_000)))
    return path


def test_audit_over_the_size_limit_holds_up_no_other(host: MailHost, agent: Agent, tmp_path: Path) -> None:
    """An audit that is too large for sendmail waits, which is told with its size and what to do; later ones go."""
    agent.finds(large(tmp_path))
    done = agent.send(**host.environment)
    assert done.code == 75
    assert re.fullmatch(
        rf"portspec-send: the audit of {HOST} for \S+ is too large for {host.sendmail}: its mail has "
        rf"[0-9.]+ kB \({SAYS[type(host)]}\); raise its limit \(Postfix and exim: message_size_limit\), "
        rf"or send by HTTP \(url\); it waits in {agent.spool} for the next run\n",
        done.errors,
    )
    (waiting,) = agent.waiting()
    agent.finds(FOUND)
    done = agent.send(**host.environment)
    assert done.code == 75
    assert b" was handed to " in done.output
    assert agent.waiting() == [waiting]
    host.wait_until_done()
    (arrived,) = host.returned()  # nothing but the audit: no complaint of sendmail in place of its message
    assert arrived["Subject"].startswith(f"portspec audit of {HOST} for ")
    assert DOMAIN not in (arrived["From"] or "")
    host.limit(1_000_000)
    done = agent.send("--flush", "--now", **host.environment)
    assert (done.code, done.errors, agent.waiting()) == (0, "", [])
    host.wait_until_done()
    assert len(host.returned()) == 2
