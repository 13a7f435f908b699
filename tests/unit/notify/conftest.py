from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import trustme

from portspec.notify import wording
from tests.unit.notify.smtp_server import NAME, Identities
from tests.unit.scan.loopback import V4, V6

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = {22: "ssh", 80: "http", 443: "https"}


@pytest.fixture
def few_services(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace the database of services by `SERVICES`."""

    def look_up(port: int, protocol: str) -> str:
        assert protocol == "tcp"
        if port not in SERVICES:
            raise OSError("port/proto not found")
        return SERVICES[port]

    monkeypatch.setattr("socket.getservbyport", look_up)
    wording.named_one.cache_clear()
    yield
    wording.named_one.cache_clear()


def set_time_zone(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """Set the local time zone."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()


@pytest.fixture
def central_europe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the local time zone to that of central Europe."""
    with monkeypatch.context() as patch:
        set_time_zone(patch, "CET-1CEST,M3.5.0,M10.5.0/3")
        yield
    time.tzset()


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    """Return a test authority and certificates."""
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(path)

    def context(certificate: trustme.LeafCert) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(made)
        return made

    return Identities(
        authority=str(path),
        good=context(authority.issue_cert(NAME, V4, V6)),
        other_name=context(authority.issue_cert("other.test", "192.0.2.1")),
        expired=context(authority.issue_cert(NAME, V4, V6, not_after=datetime(2020, 1, 1, tzinfo=UTC))),
        unknown=context(trustme.CA().issue_cert(NAME, V4, V6)),
    )
