"""Which Host headers name this exporter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.access.hosts import host_is_ours, local_names, may_be_of_browser


def is_ours(host: str | None) -> bool:
    """Ask for an exporter on the machine `scanner`, with a URL and two more names."""
    return host_is_ours(
        host,
        listening=[":10190", "metrics.example.org:10191", "[2001:db8::1]:10190", "192.0.2.1:10190"],
        external_url="https://portspec.example.org:8443/ports",
        allowed_hosts={"extra.example.net", "*.svc.cluster.local"},
        local_names={"scanner", "scanner.corp.example.com"},
    )


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "127.0.0.1",
        "192.0.2.77:10190",
        "[::1]:10190",
        "[2001:db8::7]",
        "localhost",
        "LOCALHOST:10190",
        "localhost.",
        "app.localhost:10190",
        "scanner:10190",
        "Scanner.Corp.Example.COM.:10190",
        "portspec.example.org",
        "portspec.example.org:1",
        "metrics.example.org:10190",
        "extra.example.net",
        "portspec.monitoring.svc.cluster.local:10190",
        "scanner:",
    ],
)
def test_names_of_this_exporter(host: str | None) -> None:
    """Addresses, loopback, this machine, the listen addresses, the external URL and allowed hosts are ours."""
    assert is_ours(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil:10190",
        "evil.example.org",
        "xlocalhost",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.1",
        "0x7f000001",
        "portspec.example.org.evil.example",
        "user@portspec.example.org",
        "evil.example/portspec.example.org",
        "svc.cluster.local",
        "xsvc.cluster.local",
        "[::1].evil.example",
        "[evil]",
        "[]",
        "portspec.example.org:10190:10190",
        "portspec.example.org, evil.example",
        "*.svc.cluster.local",
        "..",
        ".",
        "портспек",
        "scanner\udcff",
    ],
)
def test_names_of_others(host: str) -> None:
    """A page of another name is no page of ours, wherever its name leads."""
    assert not is_ours(host)


def test_the_check_can_be_turned_off() -> None:
    """With * in allowed_hosts every name is taken."""
    nothing = {"listening": (), "external_url": None, "local_names": ()}
    assert host_is_ours("evil.example", allowed_hosts={"*"}, **nothing)  # type: ignore[arg-type]
    assert not host_is_ours("evil.example", allowed_hosts=(), **nothing)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.text())
def test_no_host_header_raises(host: str) -> None:
    """Whatever a client sends is ours or not."""
    is_ours(host)


def test_names_of_this_machine() -> None:
    """They are as Host headers are compared: lower case, without a final dot."""
    names = local_names()
    assert names
    assert all(name and name == name.lower().rstrip(".") for name in names)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "x", "User-Agent": "Prometheus/2.42.0", "Accept": "*/*", "Accept-Encoding": "gzip"}, False),
        ({"Host": "x", "User-Agent": "curl/7.88.1", "Accept": "*/*"}, False),
        ({}, False),
        ({"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}, True),
        ({"user-agent": "changed by a script", "accept-language": ""}, True),
        ({"Origin": "http://evil.example"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Referer": "http://evil.example/"}, True),
    ],
)
def test_requests_of_browsers(headers: dict[str, str], expected: bool) -> None:  # noqa: FBT001 - a column
    """What a script in a page cannot remove tells a browser from Prometheus and curl."""
    assert may_be_of_browser(headers) is expected
