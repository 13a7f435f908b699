"""Mails as their recipients read them. PORTSPEC_GOLDEN=write writes tests/data/mail."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from portspec.audit.model import Audit, Status
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.config import PortException
from portspec.notify.content import Links
from portspec.notify.decision import add_listeners, decide
from portspec.notify.encoding import decode_notification, decode_state, encode_notification, encode_state
from portspec.notify.message import render_digest, render_mail, render_store_failure_mail, render_test_mail
from portspec.notify.notification import NOTHING_NOTIFIED
from portspec.ports import PortSet
from portspec.scan import Failure, Reason
from portspec.state.snapshot import HostState
from tests.unit.factories import result, seen, target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.inventory import Target
    from portspec.notify.notification import Notification
    from portspec.scan import AddressObservation

GOLDEN: Final = Path(__file__).parents[1] / "data" / "mail"
SENDER: Final = "portspec@example.org"
RECIPIENT: Final = "oncall@example.org"
LINKS: Final = Links("https://portspec.example.org")
NIGHT: Final = 1_795_662_303.0  # Thursday 2026-11-26 03:05:03 UTC, 04:05:03 in central Europe
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
SCANNED: Final = (22, 443, 5432, 6379, 8080, 8443)
DB1: Final = target("db1", expect=[22, 5432], scan=SCANNED, interval=300.0, address="192.0.2.10")
WWW: Final = replace(target("www.example.org", expect=[22, 443], scan=SCANNED, interval=300.0), address=None)
REDIS: Final = ListeningSocket("tcp", "0.0.0.0", 6379, "redis-server", "redis")  # noqa: S104 - of a made-up host


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in central Europe."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


def audited(at: float, *listeners: ListeningSocket) -> AuditState:
    """Make the last audit of a host."""
    return AuditState("db1", (), HostAudit(at, "debsecan", "0.4", Audit(Status.CLEAN), listeners), at)


def accepted(*ports: int, until: float) -> PortException:
    """Make an exception."""
    return PortException(("*",), PortSet.of(ports), until, "migration of the shop", "web team")


class Host:
    """A host as the mailer sees it: it is scanned, and notifications are encoded as in the state file."""

    def __init__(self, of: Target = DB1, audit: AuditState | None = None) -> None:
        self.state = HostState(of)
        self.audit = audit
        self.known = NOTHING_NOTIFIED

    def told(self, now: float) -> Notification | None:
        """Return the notification about the present state, if one is needed."""
        known, notification = decide(self.known, self.state, now, DAY)
        self.known = decode_state(encode_state(known))
        return (
            decode_notification(encode_notification(add_listeners(notification, self.state, self.audit)))
            if notification
            else None
        )

    def scan(self, at: float, *is_open: int, filtered: tuple[int, ...] = ()) -> Notification | None:
        """Scan its address, where other ports than these refuse."""
        address = self.state.target.address or "198.51.100.7"
        return self._after(at, seen(address, scanned=SCANNED, is_open=is_open, filtered=filtered))

    def silence(self, at: float) -> Notification | None:
        """Scan it while nothing of it answers."""
        return self.scan(at, filtered=SCANNED)

    def fail(self, at: float, failure: Failure) -> Notification | None:
        """Let a scan fail."""
        self.state = self.state.after(result(self.state.target, at=at, failure=failure))
        return self.told(at)

    def _after(self, at: float, *addresses: AddressObservation) -> Notification | None:
        self.state = self.state.after(result(self.state.target, *addresses, at=at))
        return self.told(at)


def compare(name: str, mail: bytes) -> None:
    """Compare a mail with the golden file of a name, or write that file."""
    file = GOLDEN / f"{name}.eml"
    found = mail.decode("ascii").replace("\r\n", "\n")
    if os.environ.get("PORTSPEC_GOLDEN") == "write":
        file.write_text(found, encoding="ascii")
    assert found == file.read_text(encoding="ascii")


def compare_told(name: str, notification: Notification | None, *, later: float = 2.0) -> None:
    """Compare the mail about a host with the golden file of a name."""
    assert notification
    now = notification.at + later
    compare(name, render_mail(notification, 1, sender=SENDER, recipient=RECIPIENT, now=now, links=LINKS))


def test_life_of_a_host() -> None:
    """Ports open and close, the host goes down and comes back; each mail has the facts of its time."""
    host = Host(audit=audited(NIGHT - 26 * HOUR))
    assert host.scan(NIGHT - 5 * MINUTE, 22, 5432) is None
    compare_told("a-port-opens", host.scan(NIGHT, 22, 5432, 6379))
    host.audit = audited(NIGHT + 10 * MINUTE, REDIS)
    compare_told("a-second-port-opens", host.scan(NIGHT + 15 * MINUTE, 22, 5432, 6379, 8080))
    assert host.scan(NIGHT + 25 * MINUTE, 22, 5432, 6379, 8080) is None
    compare_told("one-of-them-closes", host.scan(NIGHT + 30 * MINUTE, 22, 5432, 6379))
    compare_told("nothing-has-changed-for-a-day", host.scan(NIGHT + 30 * MINUTE + DAY, 22, 5432, 6379))
    died = NIGHT + DAY + HOUR
    compare_told("the-host-dies", host.silence(died))
    assert host.silence(died + 5 * MINUTE) is None
    compare_told("the-host-comes-back", host.scan(died + 40 * MINUTE, 22, 5432))


def test_services_that_stop() -> None:
    """Closed ports are distinguished from filtered ones."""
    host = Host()
    assert host.scan(NIGHT - 5 * MINUTE, 22, 5432) is None
    compare_told("a-service-stops", host.scan(NIGHT, 22))
    compare_told("a-firewall-changes", host.scan(NIGHT + 5 * MINUTE, filtered=(22, 5432)))


def test_exceptions() -> None:
    """There is a mail before and after the end of an exception; a new exception resolves a deviation."""
    until = NIGHT - NIGHT % DAY + 3 * DAY  # the end of a Saturday in UTC
    host = Host(replace(DB1, exceptions=(accepted(8443, until=until),)))
    assert host.scan(NIGHT - DAY, 22, 5432, 8443) is None
    compare_told("an-exception-ends-soon", host.scan(NIGHT + DAY, 22, 5432, 8443))
    last = until - 4 * MINUTE
    assert host.scan(last, 22, 5432, 8443) is None
    host.state = host.state.judged(host.state.target, until)
    compare_told("an-exception-has-ended", host.told(until + 1), later=5 * MINUTE)
    host.state = host.state.under(replace(DB1, exceptions=(accepted(8443, until=until + 30 * DAY),)), until + HOUR)
    compare_told("an-exception-is-made", host.told(until + HOUR), later=HOUR + 5 * MINUTE)


def test_names_that_do_not_resolve() -> None:
    """Mails about an unknown host have the reason and the last known facts; another one says that it is back."""
    failure = Failure(Reason.RESOLVE, "does not resolve (no A record)")
    new = Host(WWW)
    assert new.fail(NIGHT, failure) is None
    compare_told("a-name-never-resolved", new.fail(NIGHT + 5 * MINUTE, failure))
    known = Host(WWW)
    assert known.scan(NIGHT - 2 * HOUR, 22, 443, 8080)
    assert known.fail(NIGHT, failure) is None
    compare_told("a-name-does-not-resolve", known.fail(NIGHT + 5 * MINUTE, failure))
    compare_told("a-name-does-not-resolve-for-a-day", known.fail(NIGHT + DAY + 5 * MINUTE, failure))
    compare_told("a-name-resolves-again", known.scan(NIGHT + DAY + 6 * MINUTE, 22, 443))


def test_host_that_is_seen_again() -> None:
    """A host that was in specification before and after failed scans was not out of specification."""
    host = Host()
    assert host.scan(NIGHT - 5 * MINUTE, 22, 5432) is None
    failure = Failure(Reason.CUT_OFF, "192.0.2.10 stopped answering 0.4 s after its scan began, after 40 probes")
    assert host.fail(NIGHT, failure) is None
    compare_told("the-scanner-is-cut-off", host.fail(NIGHT + 5 * MINUTE, failure))
    compare_told("the-host-is-seen-again", host.scan(NIGHT + 35 * MINUTE, 22, 5432))


def fleet(count: int) -> list[Notification]:
    """Return notifications about a fleet: most hosts have 6379 open, some 22 closed, a few cannot be scanned."""
    notifications = []
    for number in range(count):
        address = f"198.18.{number // 250}.{number % 250 + 1}"
        of = target(f"web{number + 1}", expect=[22, 443], scan=SCANNED, interval=300.0, address=address)
        host = Host(of)
        host.scan(NIGHT - 5 * MINUTE, 22, 443)
        if number % 30 == 7:
            host.fail(NIGHT - MINUTE, Failure(Reason.NO_ROUTE, f"no route to {address}: network is unreachable"))
            found = host.fail(NIGHT, Failure(Reason.NO_ROUTE, f"no route to {address}: network is unreachable"))
        elif number % 100 == 3:
            found = host.scan(NIGHT, 443)
        else:
            found = host.scan(NIGHT, 22, 443, 6379, *((8080,) if number % 50 == 1 else ()))
        assert found
        notifications.append(found)
    return notifications


def test_hundreds_of_hosts_at_once() -> None:
    """A digest begins with common deviations, and names the worst hosts."""
    mail = render_digest(fleet(300), 1, sender=SENDER, recipient=RECIPIENT, now=NIGHT + MINUTE, links=LINKS)
    compare("many-hosts-go-wrong", mail)


def test_other_mails() -> None:
    """Test mails and mails about the state file have the same form."""
    compare("test-mail", render_test_mail(sender=SENDER, recipient=RECIPIENT, now=NIGHT))
    why = "/var/lib/portspec/portspec.db: the state cannot be written: database or disk is full"
    compare("state-file", render_store_failure_mail(why, sender=SENDER, recipient=RECIPIENT, now=NIGHT))
