from __future__ import annotations

import pytest

from portspec.notify.content import Links
from portspec.notify.digest import MAX_HOSTS
from portspec.notify.notification import (
    AcceptedPorts,
    Event,
)
from portspec.notify.wording import MAX_SUBJECT
from tests.unit.factories import NOW
from tests.unit.notify.mails import DAY, IN_THREAD, NOW_TEXT, SILENT, body, digest_of, line, make_notification

pytestmark = pytest.mark.usefixtures("few_services", "central_europe")


def test_digest_groups_hosts() -> None:
    """A digest counts hosts by group, says what they have in common, and names the worst first."""
    notifications = [make_notification(f"web{number}", lines=(line("80"),)) for number in range(8)]
    notifications += [
        make_notification("db1", Event.IN_SPEC),
        make_notification("db2", Event.UNKNOWN, reason="timeout: no answer", is_unknown=True),
        make_notification("db3", lines=tuple(line(str(port)) for port in (1, 2, 3, 4, 5))),
        make_notification("db4", Event.EXPIRING, expiring=(AcceptedPorts("80", NOW + 2 * DAY),)),
    ]
    message = digest_of(notifications)
    assert set(message.keys()) == IN_THREAD
    counts = "9 out of specification, 1 cannot be scanned, 1 with an exception that ends, 1 in specification again"
    assert str(message["X-PortSpec-Alert"]) == "PortSpec Alert [12 hosts]"
    assert str(message["Subject"]).startswith("[portspec] 12 hosts: 9 out of specification, 1 cannot be scanned, ")
    assert body(message).startswith(f"""\
12 hosts: {counts}.

The same on many hosts
- 80 (http) open on 8 hosts

Out of specification (9)
- db3: 1 (tcpmux) open, not expected, and 4 more
- 80 (http) open, not expected
  web0, web1, web2, web3, web4, web5, web6, web7

Cannot be scanned (1)
- db2: cannot be scanned: the scan takes too long

Exceptions that end (1)
- db4: exception for 80 (http) ends on Thursday

In specification again (1)
- db1: in specification again

What to do: So many hosts at once""")
    assert f"\nScanned until: {NOW_TEXT}\n" in body(message)


def test_digest_counts_a_host_once() -> None:
    """A host with several notifications is counted once, by the last one; the end of an exception is kept."""
    ending = make_notification("web2", Event.EXPIRING, expiring=(AcceptedPorts("80", NOW + 2 * DAY),))
    text = body(
        digest_of(
            [make_notification("web1"), make_notification("web1", Event.IN_SPEC), make_notification("web2"), ending]
        )
    )
    counts = "1 out of specification, 1 with an exception that ends, 1 in specification again"
    assert text.startswith(f"2 hosts: {counts}.\n")
    assert "\n- web1: in specification again\n" in text
    assert text.count("web1") == 1
    assert "\n- web2: out of specification\n" in text
    assert "\n- web2: exception for 80 (http) ends on Thursday\n" in text


def test_digest_lists_common_deviations() -> None:
    """Ports are counted also on hosts with very many deviations; silent hosts are counted separately."""
    notifications = [make_notification(f"web{number}", lines=(line("all"),)) for number in range(2)]
    notifications += [
        make_notification(f"db{number}", lines=(line("6379"), line("22", "missing", state="closed")))
        for number in range(4)
    ]
    notifications += [make_notification(f"off{number}", lines=SILENT, answers_nothing=True) for number in range(3)]
    notifications += [
        make_notification(f"x{number}", Event.UNKNOWN, reason="resolve: x", is_unknown=True) for number in range(3)
    ]
    assert """
The same on many hosts
- 3 hosts answer nothing
- 6379 (redis) open on 6 hosts
- 22 (ssh) missing on 4 hosts
- name does not resolve: 3 hosts
""" in body(digest_of(notifications))


def test_digest_of_very_many_hosts_is_short() -> None:
    """Some hosts of each group are named, the worst first; the others are counted."""
    notifications = [make_notification(f"web{number}", lines=(line("6379"),)) for number in range(9_000)]
    notifications += [
        make_notification(f"db{number}", Event.UNKNOWN, reason="no_route: x", is_unknown=True) for number in range(990)
    ]
    notifications += [make_notification(f"ok{number}", Event.IN_SPEC) for number in range(10)]
    message = digest_of(notifications, links=Links("https://portspec.example.org"))
    assert (
        str(message["Subject"])
        == ("[portspec] 10,000 hosts: 9,000 out of specification, 990 cannot be scanned, 10 in specification again")[
            : MAX_SUBJECT - 3
        ]
        + "..."
    )
    text = body(message)
    assert (
        f"\n{MAX_HOSTS} hosts are named here, the worst first; https://portspec.example.org/ shows all 10,000.\n"
        in text
    )
    assert "\n- 6379 (redis) open on 9,000 hosts\n" in text
    assert "\n- and 8,920 more hosts\n" in text
    assert "\n- and 980 more hosts\n" in text
    assert len(text.splitlines()) < 60
    assert len(message.as_bytes()) < 20_000
    assert "the page of the exporter, /, shows all 10,000." in body(digest_of(notifications))
