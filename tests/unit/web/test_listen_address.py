from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.errors import UsageError
from portspec.web import ListenAddress, ListenerName, parse_listen_address
from tests.unit.factories import MODEST


@pytest.mark.parametrize(
    ("text", "listener"),
    [
        (":10190", ListenAddress(None, 10190)),
        (":0", ListenAddress(None, 0)),
        (":65535", ListenAddress(None, 65535)),
        ("127.0.0.1:10190", ListenAddress("127.0.0.1", 10190)),
        ("0.0.0.0:80", ListenAddress("0.0.0.0", 80)),  # noqa: S104 - parsed, not listened on
        ("localhost:0", ListenAddress("localhost", 0)),
        ("exporter.example.org:443", ListenAddress("exporter.example.org", 443)),
        ("fa\u00df.example.org:443", ListenAddress("xn--fa-hia.example.org", 443)),  # IDNA 2003 has fass
        ("[::1]:10190", ListenAddress("::1", 10190)),
        ("[::]:10190", ListenAddress("::", 10190)),
        ("[fe80::1%eth0]:10190", ListenAddress("fe80::1%eth0", 10190)),
    ],
)
def test_address_is_read(text: str, listener: ListenAddress) -> None:
    """An address is a port with an optional host before it, an IPv6 address in brackets."""
    assert parse_listen_address(text) == listener


@pytest.mark.parametrize("text", [":10190", "127.0.0.1:10190", "[::1]:10190", "localhost:80"])
def test_address_is_spelled_as_it_was_read(text: str) -> None:
    """The spelling of a listener is what the user gave."""
    assert str(parse_listen_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "10190",
        "localhost",
        "127.0.0.1",
        "::1",
        "::1:10190",
        "[::1]",
        "[::1]10190",
        "[::1:10190",
        "::1]:10190",
        "[127.0.0.1]:80",
        "[]:80",
        ":65536",
        ":99999999999999999999",
        ":00000099999",
        ":-1",
        ":+80",
        ":80 ",
        ": 80",
        ":8_0",
        ":0x50",
        ":http",
        ":٨٠",
        ":²",
        "a:b:80",
        "http://localhost:80",
        "localhost:80/",
    ],
)
def test_what_is_no_address_is_an_error_that_shows_one(text: str) -> None:
    """Anything else is a usage error that quotes the text and gives examples."""
    with pytest.raises(UsageError) as caught:
        parse_listen_address(text)
    assert str(caught.value) == (
        f'--web.listen-address: "{text}" is not an address and port '
        '(expected ":10190", "127.0.0.1:10190" or "[::1]:10190")'
    )


@MODEST
@given(text=st.one_of(st.text(max_size=20), st.text("[]:0123456789a.", max_size=20)))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Every text gives a listener with a port that exists, or a usage error; nothing else."""
    try:
        listener = parse_listen_address(text)
    except UsageError:
        return
    assert 0 <= listener.port <= 65535


@pytest.mark.parametrize(
    ("text", "listener"),
    [
        ("metrics=:10190", ListenAddress(None, 10190, ListenerName.METRICS)),
        ("ui=127.0.0.1:80", ListenAddress("127.0.0.1", 80, ListenerName.UI)),
        ("audits=[::]:443", ListenAddress("::", 443, ListenerName.AUDITS)),
    ],
)
def test_address_may_have_a_name(text: str, listener: ListenAddress) -> None:
    """A name before the address says what is served there, and is spelled as it was read."""
    assert parse_listen_address(text) == listener
    assert str(listener) == text


@pytest.mark.parametrize("name", ["", "web", "Metrics", "metrics ", "metrics=ui"])
def test_name_that_is_not_known_is_an_error_that_lists_them(name: str) -> None:
    """A name of nothing that portspec serves is a usage error."""
    with pytest.raises(UsageError) as caught:
        parse_listen_address(f"{name}=:10190")
    assert str(caught.value) == (
        f'--web.listen-address: "{name}" in "{name}=:10190" does not name what is served (known: metrics, ui, audits)'
    )
