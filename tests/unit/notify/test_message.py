from __future__ import annotations

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.errors import printable
from portspec.notify.content import Links
from portspec.notify.message import (
    render_mail,
    render_report_mail,
    render_store_failure_mail,
)
from portspec.notify.notification import (
    AcceptedPorts,
    DeviationEnd,
    DeviationLine,
    Event,
    ListeningProcesses,
    Notification,
    UnknownPeriod,
)
from portspec.notify.wording import MAX_SUBJECT, cut
from portspec.ports import PortSet
from portspec.scan import Reason
from tests.unit.factories import MODEST, NOW
from tests.unit.notify.mails import IN_THREAD, RECIPIENT, SENDER, body, digest_of, mail, make_notification, parsed

pytestmark = pytest.mark.usefixtures("few_services", "central_europe")

NASTY = [
    "web1\r\nBcc: evil@example.org",
    "web1\nBcc: evil@example.org\n\nbody",
    "web1\r\n\r\n.\r\nQUIT",
    "\x00\x1b[31m\x7f",
    "a\u2028b\u2029c\x85d\x0be",
    "a\tb",
    "a\u202eb",
    "\u2066a\u200eb",
    "\u3164\u034f\u115f\u2800",
    "<b>&amp;<script>alert(1)</script>",
    "<img src=https://example.org/x onerror=x>",
    "<!--",
    "' onmouseover='x\"",
    "😀" * 60,
    "bücher.example",
    "\ud800",
    "x" * 5000,
    "ü" * 3000,
    "]",
    '"; <evil@example.org>, (comment)',
    "",
    " ",
    "  a  b  ",
]
ENCODED_WORDS = [
    "=?utf-8?q?x=0ABcc:_evil@example.org?=",
    "=?utf-8?q?x=0D=0ABcc:_evil@example.org?=",
    "=?utf-8?b?CkJjYzogZXZpbEBleGFtcGxlLm9yZw==?=",
    "=?utf-8?q?db1?=",
]


def identity(notification: Notification, number: int = 1, recipient: str = RECIPIENT, now: float = NOW) -> str:
    """Return the Message-ID of a mail."""
    return str(mail(notification, number, recipient=recipient, now=now)["Message-ID"])


def test_message_id_of_a_notification_is_stable() -> None:
    """A notification that is rendered again for the same recipient has the same Message-ID."""
    assert identity(make_notification()) == identity(make_notification(), now=NOW + 86_400)
    assert identity(make_notification()).endswith("@example.org>")


def test_message_ids_differ() -> None:
    """Recipient, host, number, event and time each change the Message-ID."""
    found = [
        identity(make_notification()),
        identity(make_notification(), 2),
        identity(make_notification(), recipient="oncall@example.org"),
        identity(make_notification("web2")),
        identity(make_notification(event=Event.IN_SPEC)),
        identity(make_notification(at=NOW + 1)),
    ]
    assert len(set(found)) == len(found)


def test_message_ids_of_digests_differ() -> None:
    """Hosts and number change the Message-ID of a digest; rendering it again does not."""
    first, second = (
        [make_notification("web1"), make_notification("web2")],
        [make_notification("web1"), make_notification("web3")],
    )
    assert digest_of(first)["Message-ID"] == digest_of(first)["Message-ID"]
    assert (
        len({digest_of(first)["Message-ID"], digest_of(second)["Message-ID"], digest_of(first, 2)["Message-ID"]}) == 3
    )


def test_mails_about_a_host_are_one_thread() -> None:
    """All mails about a host refer to the same Message-ID, those about another host to another."""
    mails = [mail(make_notification(event=event, at=NOW + number), number) for number, event in enumerate(Event)]
    (thread,) = {message["References"] for message in mails}
    assert {message["In-Reply-To"] for message in mails} == {thread}
    assert thread not in {message["Message-ID"] for message in mails}
    other = mail(make_notification("web2"))
    assert other["References"] == other["In-Reply-To"] != thread


def test_digests_are_one_thread() -> None:
    """Digests refer to the same Message-ID, which no mail about a single host refers to."""
    first, second = (
        digest_of([make_notification("web1"), make_notification("web2")]),
        digest_of([make_notification("web3"), make_notification("web4")], 2),
    )
    assert first["References"] == first["In-Reply-To"] == second["References"]
    assert first["References"] != mail(make_notification(""))["References"]
    assert first["Message-ID"] != second["Message-ID"]


def test_thread_headers_are_not_encoded() -> None:
    """References and In-Reply-To are readable even with a long sender domain."""
    sender = f"portspec@{'department.' * 8}example.org"
    raw = render_mail(make_notification(), 1, sender=sender, recipient=RECIPIENT, now=NOW)
    assert b"=?utf-8?" not in raw
    references = str(parsed(raw)["References"])
    assert references.startswith("<host.")
    assert references.endswith(f"@{sender.partition('@')[2]}>")


@pytest.mark.parametrize(
    "address",
    [
        "a@b",
        f"{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}",
        "first.last+tag@sub.example.org",
        "a@[192.0.2.1]",
        "a@[IPv6:2001:db8::1]",
        "!#$%&'*+/=?^_`{|}~-@example.org",
    ],
)
def test_addresses_are_those_of_the_configuration(address: str) -> None:
    """Long addresses, address literals and unusual characters are kept."""
    message = parsed(render_mail(make_notification(), 1, sender=address, recipient=address, now=NOW))
    assert message["To"].addresses[0].addr_spec == message["From"].addresses[0].addr_spec == address
    assert message["From"].addresses[0].display_name == "PortSpec"


@pytest.mark.parametrize("host", NASTY, ids=lambda host: ascii(host)[:20])
def test_host_name_injects_nothing(host: str) -> None:
    """A host name is one line of printable characters in all headers and in the body."""
    message = mail(make_notification(host), links=Links("https://portspec.example.org"))
    assert set(message.keys()) == IN_THREAD
    assert str(message["Subject"]).startswith("[portspec] ")
    assert len(str(message["Subject"])) <= MAX_SUBJECT
    assert str(message["X-PortSpec-Alert"]) == f"PortSpec Alert [{printable(host)}]"
    assert body(message).splitlines()[0] == f"{printable(host)} is out of specification."
    many = digest_of([make_notification(host), make_notification("web2")])
    assert set(many.keys()) == IN_THREAD
    assert f"\n- {cut(host, 80)}: " in body(many)


@pytest.mark.parametrize("host", ENCODED_WORDS)
def test_encoded_word_in_a_host_name_is_not_decoded(host: str) -> None:
    """An encoded word (RFC 2047) would otherwise be decoded to a newline."""
    message = mail(make_notification(host))
    assert set(message.keys()) == IN_THREAD
    assert "\n" not in str(message["Subject"])
    assert str(message["Subject"]).startswith("[portspec] = ?utf-8?")
    assert "\n" not in str(message["X-PortSpec-Alert"])
    assert str(message["X-PortSpec-Alert"]).startswith("PortSpec Alert [=")


def test_reasons_and_owners_inject_nothing() -> None:
    """Text from resolvers, files or conf.yml cannot begin a line."""
    notification = make_notification(reason="a\r\nb", expiring=(AcceptedPorts("80", NOW, "c\r\nd", "e\u2028f"),))
    lines = body(mail(notification)).splitlines()
    assert not {"b", "d", "f"} & {text.strip(" ,()") for text in lines}
    assert any("a\\r\\nb" in text for text in lines)
    failure = parsed(render_store_failure_mail("disk\nfull", sender=SENDER, recipient=RECIPIENT, now=NOW))
    assert "disk\\nfull" in body(failure).splitlines()


def test_report_mail_has_subject_and_alert_header() -> None:
    """The daily mail has its outcome in the subject, and the subject of PortSpec in a header."""
    raw = render_report_mail(
        "no machine needs attention", "Body.\n", b"<p>", sender=SENDER, recipient=RECIPIENT, now=NOW
    )
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message["Subject"] == "[portspec] report: no machine needs attention"
    assert message["X-PortSpec-Alert"] == "PortSpec Report [no machine needs attention]"


TEXTS = st.text(max_size=40) | st.sampled_from(NASTY)
TIMES = st.floats(0, 4e9)
PORTS = st.lists(st.integers(1, 65_535), max_size=30).map(lambda ports: str(PortSet.of(ports)))
ADDRESSES = st.ip_addresses().map(str)
SOME_TIME = st.none() | TIMES
LINES = st.lists(
    st.builds(
        DeviationLine,
        address=ADDRESSES,
        kind=st.sampled_from(["missing", "unexpected"]),
        state=st.sampled_from(["open", "closed", "filtered"]) | TEXTS,
        ports=PORTS,
        since=TIMES,
        opened=SOME_TIME,
        seen=SOME_TIME,
        end=st.sampled_from([*DeviationEnd, ""]) | TEXTS,
    ),
    max_size=4,
).map(tuple)
ACCEPTED_PORTS = st.lists(st.builds(AcceptedPorts, PORTS, TIMES, TEXTS, TEXTS), max_size=2).map(tuple)
REASONS = TEXTS | st.builds("{}: {}".format, st.sampled_from(Reason), TEXTS)
NOTIFICATIONS = st.builds(
    Notification,
    host=TEXTS,
    event=st.sampled_from(Event),
    at=TIMES,
    expected=PORTS,
    open=PORTS | st.just(""),
    lines=LINES,
    resolved=LINES,
    since=SOME_TIME,
    reason=REASONS,
    is_unknown=st.booleans(),
    expiring=ACCEPTED_PORTS,
    last_seen=SOME_TIME,
    until=SOME_TIME,
    answers_nothing=st.booleans(),
    expired=ACCEPTED_PORTS,
    accepted=ACCEPTED_PORTS,
    unknown_period=st.none() | st.builds(UnknownPeriod, TIMES, TIMES, TEXTS),
    listeners=st.lists(st.builds(ListeningProcesses, PORTS, TEXTS, st.booleans()), max_size=3).map(tuple),
    audited_at=SOME_TIME,
)


@MODEST
@given(NOTIFICATIONS, st.integers(1, 2**63 - 1), TIMES)
def test_any_notification_is_a_valid_mail(notification: Notification, number: int, now: float) -> None:
    """Any notification makes a valid mail, whose text and HTML have the same words, without foreign markup."""
    message = mail(notification, number, now=now, links=Links("https://portspec.example.org"))
    assert set(message.keys()) == IN_THREAD
    assert len(str(message["Subject"]).replace("= ?", "=?")) <= MAX_SUBJECT
    if "=?" not in notification.host:
        assert str(message["X-PortSpec-Alert"]) == f"PortSpec Alert [{printable(notification.host)}]"
    assert body(message).startswith(printable(notification.host))
    assert all(text.isprintable() for text in body(message).splitlines())


@MODEST
@given(st.lists(NOTIFICATIONS, min_size=1, max_size=15))
def test_any_notifications_are_a_valid_digest(notifications: list[Notification]) -> None:
    """Any notifications make a valid digest, whose text and HTML have the same words."""
    message = digest_of(notifications)
    assert set(message.keys()) == IN_THREAD
    assert len(str(message["Subject"])) <= MAX_SUBJECT
    assert str(message["Subject"]).startswith("[portspec] ")
