from __future__ import annotations

import email
import email.policy
import time
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.errors import printable
from portspec.notify import letter as module
from portspec.notify.letter import MAX_LINES, digest, letter, spell_time, trial_letter, trouble_letter
from portspec.notify.story import Line, News, Notice
from portspec.ports import PortSet
from tests.unit.factories import ADDRESS, MODEST, NOW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SENDER, RECIPIENT = "portspec@example.org", "security@example.org"
SERVICES = {22: "ssh", 80: "http", 443: "https"}
SPELLED_NOW = "2023-11-14 22:13:20 UTC (23:13:20 CET)"
HEADERS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Auto-Submitted",
    "Content-Type",
    "Content-Transfer-Encoding",
    "MIME-Version",
    "Message-ID",
}
OF_HOST = HEADERS | {"In-Reply-To", "References"}
NASTY = [
    "web1\r\nBcc: evil@example.org",
    "web1\nBcc: evil@example.org\n\nbody",
    "web1\r\n\r\n.\r\nQUIT",
    "\x00\x1b[31m\x7f",
    "a\u2028b\u2029c\x85d\x0be",
    "a\tb",
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


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a database of services that knows a few."""

    def look_up(port: int, protocol: str) -> str:
        assert protocol == "tcp"
        if port not in SERVICES:
            raise OSError("port/proto not found")
        return SERVICES[port]

    monkeypatch.setattr("socket.getservbyport", look_up)
    module._service.cache_clear()
    yield
    module._service.cache_clear()


def set_time_zone(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """Have a local time, until the test ends."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in central Europe."""
    with monkeypatch.context() as patch:
        set_time_zone(patch, "CET-1CEST,M3.5.0,M10.5.0/3")
        yield
    time.tzset()


def told(host: str = "web1", news: News = News.OUT_OF_SPEC, *, at: float = NOW, **parts: Any) -> Notice:
    """Make a notice."""
    return Notice(host, news, at, **{"expected": "22", "open": "80", **parts})


def line(ports: str, kind: str = "unexpected", *, state: str = "open", since: float = NOW) -> Line:
    """Make a line of a notice."""
    return Line(ADDRESS, kind, state, ports, since)


def parsed(raw: bytes) -> EmailMessage:
    """Read a mail as its recipient's program does; see that it is one that any server passes on."""
    assert raw.isascii()
    assert not raw.replace(b"\r\n", b"").count(b"\n")
    assert not raw.replace(b"\r\n", b"").count(b"\r")
    assert raw.endswith(b"\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 998  # RFC 5322, 2.1.1
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    assert not [header.defects for header in message.values() if header.defects]
    assert len(message.keys()) == len(set(message.keys()))
    assert message.get_content_type() == "text/plain"
    return message


def mail(notice: Notice, number: int = 1, *, recipient: str = RECIPIENT, now: float = NOW) -> EmailMessage:
    """Write a mail about one host, and read it."""
    return parsed(letter(notice, number, sender=SENDER, recipient=recipient, now=now))


def digest_of(notices: Sequence[Notice], number: int = 1) -> EmailMessage:
    """Write a mail about many hosts, and read it."""
    return parsed(digest(notices, number, sender=SENDER, recipient=RECIPIENT, now=NOW))


def body(message: EmailMessage) -> str:
    """Give the text of a mail."""
    text = message.get_content()
    assert isinstance(text, str)
    return text.replace("\r\n", "\n")


def test_head_of_a_mail() -> None:
    """Sender and subject are PortSpec's; the date is of the writing, and no program shall answer."""
    message = mail(told(), now=NOW + 5)
    assert set(message.keys()) == OF_HOST
    assert str(message["From"]) == "PortSpec <portspec@example.org>"
    assert str(message["To"]) == "security@example.org"
    assert str(message["Subject"]) == "PortSpec Alert [web1]"
    assert str(message["Date"]) == "Tue, 14 Nov 2023 22:13:25 +0000"
    assert message["Auto-Submitted"] == "auto-generated"


def test_head_stands_in_the_mail_as_people_know_it() -> None:
    """Sender, recipient and subject of a usual mail are readable without decoding anything."""
    lines = letter(told(), 1, sender=SENDER, recipient=RECIPIENT, now=NOW).split(b"\r\n")
    assert lines[:3] == [
        b"From: PortSpec <portspec@example.org>",
        b"To: security@example.org",
        b"Subject: PortSpec Alert [web1]",
    ]
    assert b"Content-Transfer-Encoding: 7bit" in lines
    assert b"web1 is out of specification." in lines


def test_body_of_a_host_out_of_specification() -> None:
    """The mail names host, address, port, service, state and beginning of each deviation, desired and open ports."""
    notice = told(
        lines=(line("80, 8000-8100"), line("22", "missing", state="filtered", since=NOW - 3600)),
        over=(line("443", state="", since=NOW - 86_400),),
        open="80, 8000-8100",
        since=NOW - 3600,
        at=NOW + 60,
    )
    assert (
        body(mail(notice))
        == f"""\
web1 is out of specification.

Unexpected:
  {ADDRESS}  80 (http), 8000-8100  open  since {SPELLED_NOW}

Missing:
  {ADDRESS}  22 (ssh)  filtered  since 2023-11-14 21:13:20 UTC (22:13:20 CET)

No longer so:
  {ADDRESS}  443 (https)  since 2023-11-13 22:13:20 UTC (23:13:20 CET)

Desired ports: 22
Open ports:    80, 8000-8100
Since:         2023-11-14 21:13:20 UTC (22:13:20 CET)
Scanned:       2023-11-14 22:14:20 UTC (23:14:20 CET)
"""
    )


def test_body_of_a_host_in_specification() -> None:
    """The mail that ends a story names what is over."""
    text = body(mail(told(news=News.IN_SPEC, over=(line("80", state=""),), open="22")))
    assert text.startswith(f"web1 is in specification again.\n\nNo longer so:\n  {ADDRESS}  80 (http)  since")
    assert "Since:" not in text


def test_body_of_a_host_that_cannot_be_seen() -> None:
    """The mail says why nobody knows, and what was wrong when somebody did."""
    lines = (line("80"),)
    notice = told(news=News.UNKNOWN, reason="resolve: no\nsuch name", lines=lines, since=NOW, is_unknown=True)
    text = body(mail(notice))
    assert "nobody knows whether it is in specification" in text
    assert "resolve: no\\nsuch name\n" in text
    assert "It is unknown whether that is so now; when it was last seen:\n" in text
    assert "(when it was last seen)\n" in text
    assert f"  {ADDRESS}  80 (http)  open  since {SPELLED_NOW}\n" in text
    assert f"Since:         {SPELLED_NOW}\n" in text


def test_body_of_an_exception_that_ends() -> None:
    """The mail names ports, end, reason and owner of each exception."""
    until = NOW + 86_400
    notice = told(
        news=News.EXPIRING,
        expiring=(("80", until, "migration\nto db2", "ops"), ("443", until + 1, "", ""), ("8080", until, "", "dev")),
    )
    assert """
Until 2023-11-15 22:13:20 UTC (23:13:20 CET): ports 80 (migration\\nto db2, owner: ops)
Until 2023-11-15 22:13:21 UTC (23:13:21 CET): ports 443
Until 2023-11-15 22:13:20 UTC (23:13:20 CET): ports 8080 (owner: dev)

Desired ports: 22
""" in body(mail(notice))


@pytest.mark.parametrize("news", News)
def test_every_kind_of_news_names_the_host(news: News) -> None:
    """Whatever a mail is for, its first line has the host, and so has a digest's."""
    assert body(mail(told("db7", news))).splitlines()[0].startswith("db7")
    assert "\ndb7: " in body(digest_of([told("db7", news), told("db8", news)]))


@pytest.mark.parametrize(
    ("zone_name", "seconds", "spelled"),
    [
        ("CET-1CEST,M3.5.0,M10.5.0/3", NOW, SPELLED_NOW),
        ("CET-1CEST,M3.5.0,M10.5.0/3", NOW + 7200, "2023-11-15 00:13:20 UTC (01:13:20 CET)"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", NOW + 3600, "2023-11-14 23:13:20 UTC (2023-11-15 00:13:20 CET)"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", 1_690_000_000.9, "2023-07-22 04:26:40 UTC (06:26:40 CEST)"),
        ("EST5", NOW - 82_000, "2023-11-13 23:26:40 UTC (18:26:40 EST)"),
        ("EST5", NOW - 72_000, "2023-11-14 02:13:20 UTC (2023-11-13 21:13:20 EST)"),
        ("<+0545>-5:45", NOW, "2023-11-14 22:13:20 UTC (2023-11-15 03:58:20 +0545)"),
        ("UTC0", NOW, "2023-11-14 22:13:20 UTC"),
    ],
)
def test_times_are_in_utc_and_in_local_time(
    monkeypatch: pytest.MonkeyPatch, zone_name: str, seconds: float, spelled: str
) -> None:
    """Where the day is another one in local time, it is spelled; where both times are the same, it is spelled once."""
    set_time_zone(monkeypatch, zone_name)
    assert spell_time(seconds) == spelled


def identity(notice: Notice, number: int = 1, recipient: str = RECIPIENT, now: float = NOW) -> str:
    """Give the Message-ID of a mail."""
    return str(mail(notice, number, recipient=recipient, now=now)["Message-ID"])


def test_same_mail_has_the_same_message_id() -> None:
    """A notice that is written again for the same recipient is the same mail, whenever that is."""
    assert identity(told()) == identity(told(), now=NOW + 86_400)
    assert identity(told()).endswith("@example.org>")


def test_other_mails_have_other_message_ids() -> None:
    """Each recipient, host, notice and time has a Message-ID of its own."""
    found = [
        identity(told()),
        identity(told(), 2),
        identity(told(), recipient="oncall@example.org"),
        identity(told("web2")),
        identity(told(news=News.IN_SPEC)),
        identity(told(at=NOW + 1)),
    ]
    assert len(set(found)) == len(found)


def test_mails_of_a_host_are_one_conversation() -> None:
    """All that a host's mails refer to is the same, whatever they tell, and another host's is another."""
    mails = [mail(told(news=news, at=NOW + number), number) for number, news in enumerate(News)]
    (thread,) = {message["References"] for message in mails}
    assert {message["In-Reply-To"] for message in mails} == {thread}
    assert thread not in {message["Message-ID"] for message in mails}
    other = mail(told("web2"))
    assert other["References"] == other["In-Reply-To"] != thread


def test_conversation_holds_together_with_a_long_domain() -> None:
    """References and In-Reply-To stand as they are on the line, however long the sender's domain is."""
    sender = f"portspec@{'department.' * 8}example.org"
    raw = letter(told(), 1, sender=sender, recipient=RECIPIENT, now=NOW)
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
def test_address_stands_as_it_is_in_the_configuration(address: str) -> None:
    """Whatever address conf.yml may have is that of the mail, long, a literal, or odd."""
    message = parsed(letter(told(), 1, sender=address, recipient=address, now=NOW))
    assert message["To"].addresses[0].addr_spec == message["From"].addresses[0].addr_spec == address
    assert message["From"].addresses[0].display_name == "PortSpec"


@pytest.mark.parametrize("host", NASTY, ids=lambda host: ascii(host)[:20])
def test_name_of_a_host_injects_nothing(host: str) -> None:
    """A name is one line of printable characters wherever it stands, and is whole."""
    message = mail(told(host))
    assert set(message.keys()) == OF_HOST
    assert str(message["Subject"]) == f"PortSpec Alert [{printable(host)}]"
    assert body(message).splitlines()[0] == f"{printable(host)} is out of specification."
    many = digest_of([told(host), told("web2")])
    assert set(many.keys()) == HEADERS
    assert f"\n{printable(host)}: " in body(many)


@pytest.mark.parametrize("host", ENCODED_WORDS)
def test_name_that_looks_like_an_encoded_header_injects_nothing(host: str) -> None:
    """What RFC 2047 would have decoded is not, or a newline would come out of it."""
    message = mail(told(host))
    assert set(message.keys()) == OF_HOST
    assert "\n" not in str(message["Subject"])
    assert str(message["Subject"]).startswith("PortSpec Alert [=")


def test_reason_and_state_inject_nothing() -> None:
    """What a resolver or a configuration says cannot begin a line of its own."""
    notice = told(reason="a\r\nb", expiring=(("80", NOW, "c\r\nd", "e\u2028f"),))
    lines = body(mail(notice)).splitlines()
    assert not {"b", "d", "f"} & {text.strip(" ,()") for text in lines}
    assert any("a\\r\\nb" in text for text in lines)


def test_digest_tells_all_hosts_in_one_mail() -> None:
    """A mail about many hosts counts them by what happened, and has a line for each with its first deviations."""
    notices = [told(f"web{number}", lines=(line("80"),)) for number in range(8)]
    notices += [
        told("db1", News.IN_SPEC),
        told("db2", News.UNKNOWN, reason="timeout: no answer"),
        told("db3", lines=tuple(line(str(port)) for port in (1, 2, 3, 4, 5))),
    ]
    message = digest_of(notices)
    assert set(message.keys()) == HEADERS
    assert str(message["Subject"]) == "PortSpec Alert [11 hosts]"
    text = body(message)
    assert text.startswith("There is news of 11 hosts at once.\n\n")
    assert "\nout of specification: 9\n" in text
    assert "\nin specification again: 1\n" in text
    assert "\nunknown: 1\n" in text
    assert "reminder" not in text
    assert f"\nweb0: out of specification: unexpected 80 (open) on {ADDRESS}\n" in text
    assert "\ndb1: in specification again\n" in text
    assert "\ndb2: unknown: timeout: no answer\n" in text
    assert text.count(f"(open) on {ADDRESS}") == 8 + 3
    assert "; 2 more\n" in text
    assert f"Scanned until: {SPELLED_NOW}\n" in text


def test_digest_counts_a_host_once() -> None:
    """A host that is told of twice in one round is one of the hosts, with both lines."""
    message = digest_of([told("web1"), told("web1", News.IN_SPEC), told("web2")])
    assert str(message["Subject"]) == "PortSpec Alert [2 hosts]"
    assert body(message).count("\nweb1: ") == 2


def test_digest_of_very_many_hosts_can_be_read() -> None:
    """Of ten thousand hosts the first are listed, and the others counted."""
    text = body(digest_of([told(f"web{number}") for number in range(10_000)]))
    assert text.startswith("There is news of 10000 hosts at once.")
    assert f"… and {10_000 - MAX_LINES} more\n" in text
    assert len(text.splitlines()) < MAX_LINES + 20


def test_digests_differ_by_what_they_tell() -> None:
    """Each digest has a Message-ID of its own, the same when it is written again."""
    first, second = [told("web1"), told("web2")], [told("web1"), told("web3")]
    assert digest_of(first)["Message-ID"] == digest_of(first)["Message-ID"]
    assert (
        len({digest_of(first)["Message-ID"], digest_of(second)["Message-ID"], digest_of(first, 2)["Message-ID"]}) == 3
    )


def test_host_with_very_many_ports_is_a_mail_that_can_be_read() -> None:
    """Scattered ports by the thousand are cut where a reader would stop, between two ports."""
    ports = str(PortSet.of(range(1, 65_536, 2)))
    text = body(mail(told(open=ports, lines=(line(ports), *(line(str(port)) for port in range(1, 1000))))))
    assert len(text) < 50_000
    assert f"… and {1000 - MAX_LINES} more lines\n" in text
    (told_open,) = (text for text in text.splitlines() if text.startswith("Open ports:"))
    assert told_open.endswith(", …")
    assert set(told_open.removeprefix("Open ports:").removesuffix(", …").strip().split(", ")) <= set(ports.split(", "))


def test_ports_are_named_by_the_services_of_the_system() -> None:
    """Each port has its name, by the system or by the table; ranges and others have none; many ports are not named."""
    text = body(mail(told(lines=(line("4, 22, 80-82, 8080"), line(", ".join(map(str, range(1, 100, 2))))))))
    assert "  4, 22 (ssh), 80-82, 8080 (http-alt)  open" in text
    assert "  1, 3, 5, 7, 9, 11, 13" in text


def test_test_mail_says_what_it_is() -> None:
    """The mail of `portspec mail-test` is told as one, from PortSpec to the recipient."""
    message = parsed(trial_letter(sender=SENDER, recipient=RECIPIENT, now=NOW))
    assert set(message.keys()) == HEADERS
    assert str(message["Subject"]) == "PortSpec Alert [test]"
    assert (str(message["From"]), str(message["To"])) == ("PortSpec <portspec@example.org>", RECIPIENT)
    assert SPELLED_NOW in body(message)


def test_mail_about_the_state_file_says_why() -> None:
    """When mails wait for the state file, the mail that says so has the cause and the time, on lines of their own."""
    message = parsed(trouble_letter("disk\nfull", sender=SENDER, recipient=RECIPIENT, now=NOW))
    assert str(message["Subject"]) == "PortSpec Alert [portspec]"
    assert {"disk\\nfull", SPELLED_NOW} <= set(body(message).splitlines())


TEXTS = st.text(max_size=40) | st.sampled_from(NASTY)
TIMES = st.floats(0, 4e9)
PORTS = st.lists(st.integers(1, 65_535), max_size=30).map(lambda ports: str(PortSet.of(ports)))
ADDRESSES = st.ip_addresses().map(str)
LINES = st.lists(
    st.builds(
        Line,
        address=ADDRESSES,
        kind=st.sampled_from(["missing", "unexpected"]),
        state=st.sampled_from(["open", "closed", "filtered"]),
        ports=PORTS,
        since=TIMES,
    ),
    max_size=4,
).map(tuple)
NOTICES = st.builds(
    Notice,
    host=TEXTS,
    news=st.sampled_from(News),
    at=TIMES,
    expected=PORTS,
    open=PORTS,
    lines=LINES,
    over=LINES,
    since=st.none() | TIMES,
    reason=TEXTS,
    expiring=st.lists(st.tuples(PORTS, TIMES, TEXTS, TEXTS), max_size=2).map(tuple),
)


@MODEST
@given(NOTICES, st.integers(1, 2**63 - 1), TIMES)
def test_whatever_is_told_is_a_mail(notice: Notice, number: int, now: float) -> None:
    """Any notice is a mail that any server passes on, and its host is read as it was meant."""
    message = mail(notice, number, now=now)
    assert set(message.keys()) == OF_HOST
    if "=?" not in notice.host:
        assert str(message["Subject"]) == f"PortSpec Alert [{printable(notice.host)}]"
    assert body(message).startswith(printable(notice.host))


@MODEST
@given(st.lists(NOTICES, min_size=1, max_size=15))
def test_whatever_is_told_together_is_a_mail(notices: list[Notice]) -> None:
    """Any notices are a digest that any server passes on."""
    message = digest_of(notices)
    assert set(message.keys()) == HEADERS
    assert str(message["Subject"]) == f"PortSpec Alert [{len({notice.host for notice in notices})} hosts]"
