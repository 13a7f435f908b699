"""Audits by mail: agent, sendmail, Postfix, `portspec receive`, archive, and the exporter that shows them."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from itertools import repeat
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.audits import (
    PACKAGE,
    Agent,
    key,
    mail,
    make,
    payload_of,
    printed,
    received,
    rejected,
    status,
)
from tests.e2e.exporter import until
from tests.e2e.mailhost import REPORTS, USER, changed_body, changed_signature, notice_of
from tests.e2e.postfix import PIPED, PostfixHost
from tests.faults.registry import fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST: Final = "db1.example.org"
OTHER: Final = "db2.example.org"
SENDER: Final = f"root@{HOST}"
DROPPING: Final = "#!/bin/sh\n{receive}\n[ $? -eq 75 ] && exit 75\nexit 0\n"


@pytest.fixture
def host() -> Iterator[PostfixHost]:
    """Return a mail host to which two hosts have to send audits."""
    with PostfixHost([HOST, OTHER]) as found:
        yield found


def waits(host: PostfixHost, tries: int, words: str) -> None:
    """See that the MTA keeps the one mail after so many tries, and says why."""
    until(lambda: host.log().count("status=deferred") == tries)
    (why,) = until(host.reasons)
    assert why.startswith("temporary failure. Command output: "), why
    assert re.search(words, why), why


@pytest.mark.parametrize("recipient", [REPORTS, PIPED], ids=["alias", "transport"])
def test_audit_goes_by_mail_from_the_agent_to_the_page(host: PostfixHost, tmp_path: Path, recipient: str) -> None:
    """What the agent hands to sendmail shows in metrics and page, by an alias or a transport, and is kept as sent."""
    agent = Agent(tmp_path / "db1", HOST, key(host.conf, HOST))
    agent.configure(mail_to=recipient, sendmail=host.sendmail)
    with host.exporter() as exporter:
        exporter.wait_until_ready()
        until(lambda: status(exporter, HOST) == "never")
        done = agent.send("--print", **host.environment)
        assert (done.code, done.errors) == (0, "")
        assert done.output.decode().endswith(f" was handed to {host.sendmail} for {recipient}\n")
        assert agent.waiting() == []
        until(lambda: status(exporter, HOST) == "vulnerable")
        assert received(exporter) == 1
        assert rejected(exporter) == {}
        page = host.state / "all.html"
        until(lambda: page.exists() and PACKAGE in page.read_text(encoding="utf-8"))
    host.wait_until_done()
    assert host.returned() == []
    payload = payload_of(done)
    day = payload.partition(b'"day":"')[2][:10].decode()
    raw = host.portspec("report", "--host", HOST, "--day", day, "--raw", "-c", str(host.conf))
    assert printed(*raw) == payload


@pytest.mark.parametrize(
    ("of", "tamper", "reason", "words", "recipient"),
    [
        (HOST, changed_body, "malformed", "gzip|truncated|cannot be read", REPORTS),
        (HOST, changed_signature, "signature", "not signed", REPORTS),
        (HOST, changed_signature, "signature", "not signed", PIPED),
        ("web9.example.org", bytes, "roster", "not on the roster", REPORTS),
        (OTHER, bytes, "duplicate", "already sent another audit for .*", REPORTS),
    ],
    ids=["body", "signature", "transport", "roster", "second"],
)
def test_refused_mail_returns_to_its_sender(
    host: PostfixHost, of: str, tamper: Callable[[bytes], bytes], reason: str, words: str, recipient: str
) -> None:
    """A mail that is refused returns to its sender with the reason, is counted, and is told of in the MTA's log."""
    first, made = make(OTHER, time.time()), make(of, time.time())
    with host.exporter() as exporter:
        host.send(mail(first, f"root@{OTHER}", REPORTS), f"root@{OTHER}")
        until(lambda: received(exporter) == 1)
        raw = mail(made, SENDER, recipient)
        host.send(tamper(raw), SENDER, recipient)
        (returned,) = until(host.returned)
        until(lambda: rejected(exporter) == {reason: 1})
        assert received(exporter) == 1
    identity = re.search(rb"^Message-ID: (\S+)", raw, re.MULTILINE)
    assert identity
    (line,) = [each for each in host.log().splitlines() if "status=bounced" in each]
    found = re.search(r"data format error\. Command output: (.*)\)", line)
    assert found, line
    assert f"reason={reason} " in found[1]
    assert re.search(f'why="[^"]*({words})', found[1])
    (queue_id,) = re.findall(r": ([0-9A-F]+): to=", line)
    assert f" sender={SENDER} message_id={identity[1].decode()} queue_id={queue_id} " in found[1]
    # Only local(8) says it in so many words.
    assert re.search(
        r' relay="(localhost\[127\.0\.0\.1\] ESMTP"|from .*127\.0\.0\.1.* by mail\.example\.org )', found[1]
    )
    if reason != "malformed":  # which tells no host
        assert f" host={of} " in found[1]
    assert returned["To"] == SENDER
    assert re.search(words, notice_of(returned))
    assert host.archived(first) == first.payload
    host.wait_until_done()


@fault("disk full", "audits", "A mail with an audit is delivered once there is space, and only once.")
def test_mail_waits_while_the_disk_is_full(host: PostfixHost) -> None:
    """While there is no room for the archive the MTA keeps the mail, and delivers it once when there is."""
    host.mount(host.state, "1m")
    host.send(mail(make(OTHER, time.time()), SENDER, REPORTS), SENDER)
    host.wait_until_done()
    noise = "".join(f"CVE-2026-{number:07} {secrets.token_hex(20)}\n" for number in range(5_000))
    made = make(HOST, time.time(), output=noise)
    with (host.seen(host.state) / "fill").open("wb", buffering=0) as fill:
        with pytest.raises(OSError, match="No space left"):
            fill.writelines(repeat(bytes(4096)))
        host.send(mail(made, SENDER, REPORTS), SENDER)
        waits(host, 1, "free space on its file system")
        fill.truncate(fill.tell() - 65_536)  # room for the begin of what is to be written
        host.flush()
        waits(host, 2, "free space on its file system")
        fill.truncate(0)
    host.flush()
    host.wait_until_done()
    assert host.returned() == []
    assert host.archived(made) == made.payload
    with host.exporter() as exporter:
        until(lambda: status(exporter, HOST) == "vulnerable")
        assert received(exporter) == 2
        assert rejected(exporter) == {}


def broken(host: PostfixHost) -> None:
    """Leave a slip in conf.yml."""
    host.conf.write_text("audit: {passphrase: short\n", encoding="utf-8")


def alias_of_root(host: PostfixHost) -> None:
    """Let root own the alias file, so that "nobody" runs the command."""
    receive = re.search(r'"\|.*"', (host.directory / "mail" / "aliases").read_text(encoding="utf-8"))
    assert receive
    host.alias(receive[0], owner="root")
    host.reload()


def mended(host: PostfixHost) -> None:
    """Set all right again."""
    host.configure()
    for path in (host.directory / "mail").glob("aliases*"):
        shutil.chown(path, USER.pw_name)
    host.reload()


@pytest.mark.parametrize(
    ("slip", "words"), [(broken, "portspec.yml:"), (alias_of_root, "[Pp]ermission denied")], ids=["conf", "owner"]
)
def test_mail_waits_while_portspec_is_set_up_wrong(
    host: PostfixHost, slip: Callable[[PostfixHost], None], words: str
) -> None:
    """A mail that cannot be judged, for conf.yml is wrong or may not be read, waits until that is put right."""
    slip(host)
    made = make(HOST, time.time())
    host.send(mail(made, SENDER, REPORTS), SENDER)
    waits(host, 1, words)
    mended(host)
    host.flush()
    host.wait_until_done()
    assert host.returned() == []
    assert host.archived(made) == made.payload


def test_refused_mail_is_dropped_by_a_script(host: PostfixHost) -> None:
    """Behind a script that hides what is refused nobody gets mail back; it is counted, and what has to wait waits."""
    script = host.script("receive", DROPPING)
    host.alias(f'"|{script}"')
    made = make(HOST, time.time())
    with host.exporter() as exporter:
        host.send(mail(made, SENDER, REPORTS), SENDER)
        host.send(changed_signature(mail(made, SENDER, REPORTS)), SENDER)
        host.wait_until_done()
        until(lambda: received(exporter) == 1)
        until(lambda: rejected(exporter) == {"signature": 1})
    broken(host)
    host.send(mail(make(OTHER, time.time()), SENDER, REPORTS), SENDER)
    until(host.reasons)
    assert host.returned() == []
