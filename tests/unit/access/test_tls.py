"""tls_server_config → a context for connections, tried by handshakes in memory."""

from __future__ import annotations

import os
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from portspec.access import certificate
from portspec.access.load import load_web_config
from portspec.access.model import ClientAuth, Pem, TlsConfig
from portspec.access.tls import is_allowed, sans, server_context, validity
from portspec.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import trustme


def tls_of(place: Path, name: str = "server", **changes: Any) -> TlsConfig:
    """Return the settings for one of the certificates."""
    tls = TlsConfig(Pem(path=str(place / f"{name}.crt")), Pem(path=str(place / f"{name}.key")))
    return replace(tls, **changes)


def client_context(place: Path) -> ssl.SSLContext:
    """Return the context of a client that trusts the authority of the tests."""
    return ssl.create_default_context(cafile=place / "ca.crt")


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Connect client and server in memory; return the ends of both. Raises ssl.SSLError."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    waiting = list(ends)
    while waiting:
        for end in tuple(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    return ends


def test_a_client_that_trusts_the_authority_connects(place: Path) -> None:
    """The newest version is chosen, and HTTP/1.1 of what the client offers."""
    client = client_context(place)
    client.set_alpn_protocols(["h2", "http/1.1"])
    end, _ = shake_hands(server_context(tls_of(place)), client)
    assert end.version() == "TLSv1.3"
    assert end.selected_alpn_protocol() == "http/1.1"


def test_certificate_and_key_in_the_file_itself(place: Path) -> None:
    """`cert` and `key` serve as files do, and no file is written or descriptor kept."""
    tls = TlsConfig(Pem((place / "server.crt").read_text()), Pem((place / "server.key").read_text()))
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - as short as it is
    shake_hands(server_context(tls), client_context(place))
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208 - as above


def test_versions(place: Path) -> None:
    """Only versions between min_version and max_version are served."""
    server = server_context(tls_of(place, max_version=ssl.TLSVersion.TLSv1_2))
    end, _ = shake_hands(server, client_context(place))
    assert end.version() == "TLSv1.2"
    client = client_context(place)
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        shake_hands(server, client)


@pytest.mark.parametrize("prefer", [True, False])
def test_cipher_suites_and_who_chooses(place: Path, prefer: bool) -> None:  # noqa: FBT001 - a column
    """The server chooses in the order of cipher_suites, or the client does."""
    wanted = ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256")
    tls = tls_of(place, max_version=ssl.TLSVersion.TLSv1_2, ciphers=wanted, prefer_server_ciphers=prefer)
    client = client_context(place)
    client.set_ciphers(":".join(reversed(wanted)))
    end, _ = shake_hands(server_context(tls), client)
    cipher = end.cipher()
    assert cipher is not None
    assert cipher[0] == wanted[0 if prefer else 1]
    client.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    with pytest.raises(ssl.SSLError):
        shake_hands(server_context(tls), client)


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1", "X25519"])
def test_a_curve(place: Path, curve: str) -> None:
    """A client that has the curve connects, one with another curve does not."""
    server = server_context(tls_of(place, curves=(curve,)))
    client = client_context(place)
    client.set_ecdh_curve(curve)
    shake_hands(server, client)
    client.set_ecdh_curve("secp384r1" if curve != "secp384r1" else "prime256v1")
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client)


def test_several_curves_need_a_newer_python(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused where Python can offer one alone; where it has set_groups(), OpenSSL gets them in order."""
    file = place / "web.yml"
    file.write_text(
        "tls_server_config: {cert_file: server.crt, key_file: server.key, curve_preferences: [X25519, CurveP256]}\n"
    )
    asked: list[str] = []
    monkeypatch.delattr(ssl.SSLContext, "set_groups", raising=False)
    with pytest.raises(ConfigError, match="this version of Python can offer one curve or those of OpenSSL"):
        load_web_config(file)
    monkeypatch.setattr(ssl.SSLContext, "set_groups", lambda _, groups: asked.append(groups), raising=False)
    config = load_web_config(file)
    assert config.tls is not None
    server_context(config.tls)
    assert asked == ["X25519:prime256v1"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ciphers": ("ENIGMA",)}, "cipher_suites: OpenSSL .* does not offer ENIGMA; remove it from the list"),
        ({"ciphers": ("ECDHE-ECDSA-AES128-SHA", "ENIGMA")}, "does not offer ENIGMA; remove"),
        ({"curves": ("curve42",)}, "curve_preferences: OpenSSL .* does not offer curve42"),
    ],
)
def test_what_this_openssl_lacks_is_refused(place: Path, changes: dict[str, Any], why: str) -> None:
    """A build of OpenSSL may have less than the names that are known; none is left out silently."""
    with pytest.raises(ConfigError, match=why):
        server_context(tls_of(place, **changes))


def test_an_authority_of_clients_may_stand_among_other_text(place: Path, authority: trustme.CA) -> None:
    """Bundles have comments in any encoding; an intermediate authority or a client's own certificate is one, too."""
    intermediate = authority.create_child_ca()
    text = "# Autorité\n" + intermediate.cert_pem.bytes().decode() + "text\n"
    (place / "bundle.crt").write_bytes(text.encode("latin-1"))
    tls = tls_of(place, client_ca=Pem(path=str(place / "bundle.crt")), client_auth=ClientAuth.REQUIRED)
    client = client_context(place)
    intermediate.issue_cert("a.example.org").configure_cert(client)
    _, end = shake_hands(server_context(tls), client)
    assert sans(end.getpeercert()) == {"a.example.org"}


def test_names_in_a_certificate(place: Path, authority: trustme.CA) -> None:
    """Names of hosts, addresses in their shortest spelling, and e-mail addresses are names; a common name is none."""
    names = ("a.example.org", "b.example.org", "192.0.2.1", "2001:db8::1", "admin@example.org")
    client = client_context(place)
    authority.issue_cert(*names, common_name="common.example.org").configure_cert(client)
    tls = tls_of(place, client_ca=Pem(path=str(place / "ca.crt")), client_auth=ClientAuth.IF_GIVEN)
    _, end = shake_hands(server_context(tls), client)
    assert sans(end.getpeercert()) == set(names)
    _, end = shake_hands(server_context(tls), client_context(place))
    assert sans(end.getpeercert()) == set()


@pytest.mark.parametrize(
    ("allowed", "is_admitted"),
    [
        (None, True),
        ({"a.example.org"}, True),
        ({"x", "spiffe://example.org/a"}, True),
        ({"2001:db8::1"}, True),
        ({"A.example.org"}, False),
        ({"example.org"}, False),
        ({"*.example.org"}, False),
        ({"dir.example.org"}, False),
    ],
)
def test_allowed_names(place: Path, allowed: set[str] | None, is_admitted: bool) -> None:  # noqa: FBT001 - a column
    """A client is admitted by one name that is exactly the same, of whatever kind."""
    peercert = {
        "subjectAltName": (
            ("DNS", "a.example.org"),
            ("URI", "spiffe://example.org/a"),
            ("IP Address", "2001:DB8:0:0:0:0:0:1\n"),
            ("DirName", "dir.example.org"),
        )
    }
    tls = tls_of(place, client_allowed_sans=None if allowed is None else frozenset(allowed))
    assert is_allowed(tls, peercert) is is_admitted
    assert is_allowed(tls, None) is (allowed is None)


def test_a_certificate_that_has_expired_is_served(place: Path) -> None:
    """Who lets a certificate expire shall not be locked out of the metrics that tell of it; its times are known."""
    tls = tls_of(place, "expired")
    server_context(tls)
    times = validity(tls)
    assert times is not None
    assert times[1] == 1_612_325_106  # 2021-02-03T04:05:06Z, as the fixture has it
    assert validity(tls_of(place, "nowhere")) is None


def test_times_agree_with_those_of_a_peer(place: Path) -> None:
    """What is read from the file is what ssl tells a client."""
    end, _ = shake_hands(server_context(tls_of(place)), client_context(place))
    peercert: Any = end.getpeercert()
    times = (ssl.cert_time_to_seconds(peercert["notBefore"]), ssl.cert_time_to_seconds(peercert["notAfter"]))
    assert validity(tls_of(place)) == times


@pytest.mark.parametrize("length", [0, 1, 5, 40, 200])
def test_a_certificate_that_is_cut_off_has_no_times(place: Path, length: int) -> None:
    """It is a ValueError, wherever it ends."""
    lines = (place / "server.crt").read_text().splitlines()
    body = "".join(lines[1:-1])[: length // 4 * 4]
    with pytest.raises(ValueError, match=r"cut off|not a"):
        certificate.validity(f"{lines[0]}\n{body or chr(10)}\n{lines[-1]}\n")
