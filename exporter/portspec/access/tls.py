"""The block tls_server_config → ssl.SSLContext, and the names in a client's certificate."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import ssl
from typing import TYPE_CHECKING, Any, Final, NoReturn

from portspec import files
from portspec.access import certificate
from portspec.access.model import ClientAuth
from portspec.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from portspec.access.model import Pem, TlsConfig

MAX_PEM_BYTES: Final = 1 << 20
_VERIFY: Final = {
    ClientAuth.NONE: ssl.CERT_NONE,
    ClientAuth.IF_GIVEN: ssl.CERT_OPTIONAL,
    ClientAuth.REQUIRED: ssl.CERT_REQUIRED,
}
_KINDS: Final = {"DNS", "email", "IP Address", "URI"}  # of names, as ssl spells them
_KEY: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_MISMATCH: Final = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}


class _EncryptedError(Exception):
    """OpenSSL asks for the passphrase of a key."""


def server_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return the context for connections of clients, with the certificate, key and authorities of now.

    Raises ConfigError, with file and reason: not readable, not PEM, a key that is encrypted or of another certificate,
    what OpenSSL refuses. An expired certificate is accepted: `validity` tells.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = tls.min_version, tls.max_version
    context.options |= ssl.OP_NO_RENEGOTIATION  # which costs the server more than the client
    if tls.prefer_server_ciphers:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    _choose(context, tls)
    _load_certificate(context, tls)
    if tls.client_ca is not None:
        authorities = "".join(certificate.blocks(_read(tls.client_ca, "client_ca")))
        if not authorities:
            _fail(tls.client_ca, "client_ca", _NO_CERTIFICATE)
        try:
            context.load_verify_locations(cadata=authorities)
        except (ssl.SSLError, ValueError) as error:
            _fail(tls.client_ca, "client_ca", f"has a certificate that cannot be read: {_reason(error)}")
        # A certificate in client_ca is trusted even if its issuer is not there, as in Go.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = _VERIFY[tls.client_auth]
    return context


_NO_CERTIFICATE: Final = "contains no certificate in PEM (-----BEGIN CERTIFICATE-----)"


def _choose(context: ssl.SSLContext, tls: TlsConfig) -> None:
    """Set cipher suites and curves. Raises ConfigError for what this OpenSSL lacks."""
    try:
        if tls.ciphers:
            context.set_ciphers(":".join(tls.ciphers))
    except ssl.SSLError:
        raise _unavailable("cipher_suites", tls.ciphers) from None
    offered = {str(cipher["name"]) for cipher in context.get_ciphers()}
    if lacking := [name for name in tls.ciphers if name not in offered]:
        raise _unavailable("cipher_suites", lacking)
    try:
        if len(tls.curves) == 1:
            context.set_ecdh_curve(tls.curves[0])
        elif tls.curves:
            set_groups: Callable[[str], None] = vars(ssl.SSLContext)["set_groups"].__get__(context)
            set_groups(":".join(tls.curves))
    except (ssl.SSLError, ValueError):
        raise _unavailable("curve_preferences", tls.curves) from None


def _unavailable(key: str, names: tuple[str, ...] | list[str]) -> ConfigError:
    message = f"{ssl.OPENSSL_VERSION} does not offer {', '.join(names)}; remove it from the list"
    return ConfigError(f"tls_server_config.{key}", [Problem(0, "", message)])


def _load_certificate(context: ssl.SSLContext, tls: TlsConfig) -> None:
    chain, key = _read(tls.certificate, "cert"), _read(tls.key, "key")
    if not certificate.blocks(chain):
        _fail(tls.certificate, "cert", _NO_CERTIFICATE)
    if not _KEY.search(key):
        _fail(tls.key, "key", "contains no private key in PEM (-----BEGIN PRIVATE KEY-----)")

    def refuse() -> NoReturn:
        raise _EncryptedError

    try:
        with _in_memory(chain) as chain_path, _in_memory(key) as key_path:
            context.load_cert_chain(chain_path, key_path, password=refuse)
    except _EncryptedError:
        _fail(tls.key, "key", "is encrypted; remove the passphrase: openssl pkey -in KEY -out NEW_KEY")
    except ssl.SSLError as error:
        if error.reason in _MISMATCH:
            other = f" in {tls.certificate.path}" if tls.certificate.path else ""
            _fail(tls.key, "key", f"is not the key of the certificate{other}")
        if not _is_certificate(chain):
            _fail(tls.certificate, "cert", "has a certificate that cannot be read; it may be damaged")
        if error.reason is None:  # "PEM lib": what of it, OpenSSL does not tell
            _fail(tls.key, "key", "cannot be read; it may be damaged")
        _fail(tls.certificate, "cert", f"OpenSSL refuses it: {_reason(error)}")
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        _fail(tls.certificate, "cert", f"cannot be passed to OpenSSL, which needs /proc: {why}")


def _is_certificate(pem: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="".join(certificate.blocks(pem)))
    except (ssl.SSLError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """Give a text a path without a file: ssl reads keys from paths only, and none of them belongs on a disk."""
    descriptor = os.memfd_create("portspec-pem")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def validity(tls: TlsConfig) -> tuple[float, float] | None:
    """Return from when until when the certificate is valid, in Unix seconds; None if it cannot be read."""
    try:
        return certificate.validity(_read(tls.certificate, "cert"))
    except (ConfigError, ValueError):
        return None


def _read(pem: Pem, key: str) -> str:
    if pem.path is None:
        return pem.text or ""
    try:
        data = files.read_regular(pem.path, MAX_PEM_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "not a path"
        _fail(pem, key, f"cannot be read: {why}")
    if len(data) > MAX_PEM_BYTES:
        _fail(pem, key, "is larger than 1 MiB; is this the right file?")
    return data.decode("utf-8", "replace")  # letters beyond ASCII may stand between the blocks of PEM


def _fail(pem: Pem, key: str, message: str) -> NoReturn:
    raise ConfigError(pem.path or f"tls_server_config.{key}", [Problem(0, "", message)])


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error).lower().replace("_", " ")


def normal_san(name: str) -> str:
    """Return an IP address in its one spelling, and any other name as it is."""
    try:
        return str(ipaddress.ip_address(name.strip()))
    except ValueError:
        return name


def sans(peercert: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the names in a verified certificate, as ssl's getpeercert() gives it: DNS, e-mail, IP address and URI.

    Empty for None, which a client without certificate has. The common name does not count (RFC 6125, 6.4.4).
    """
    names = (peercert or {}).get("subjectAltName", ())
    return frozenset(normal_san(name) if kind == "IP Address" else name for kind, name in names if kind in _KINDS)


def is_allowed(tls: TlsConfig, peercert: Mapping[str, Any] | None) -> bool:
    """Return whether client_allowed_sans admits a client, by one name that is exactly the same.

    The toolkit ends the handshake of another one. ssl has no hook there: close the connection before the first request.
    """
    return tls.client_allowed_sans is None or not tls.client_allowed_sans.isdisjoint(sans(peercert))
