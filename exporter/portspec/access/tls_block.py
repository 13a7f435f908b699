"""The block tls_server_config of the web config file → TlsConfig."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from portspec.access.model import ClientAuth, Pem, TlsConfig
from portspec.access.tls import normal_san

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from portspec.access.block import Block

KEYS: Final = (
    "cert",
    "cert_file",
    "key",
    "key_file",
    "client_ca",
    "client_ca_file",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
    "curve_preferences",
)
_UNVERIFIED: Final = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
_OBSOLETE: Final = ("TLS10", "TLS11")
_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
# The cipher suites of Go's crypto/tls (CipherSuites() of Go 1.19, which promtool 2.42 knows, and later), by the names
# of OpenSSL (ciphers(1)).
_CIPHERS: Final = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}
# Those of TLS 1.3, which Go takes in the list and does not choose by it; neither does Python.
_CIPHERS_13: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
CURVES: Final = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}


def tls_config(block: Block, directory: Path, warnings: list[str]) -> TlsConfig | None:
    """Return what the block says, with paths relative to `directory`; None if it is empty. Adds to `warnings`."""
    if not any(key in block for key in block.keys):
        return None
    certificate = _pem(block, "cert", directory)
    key = _pem(block, "key", directory)
    client_ca = _pem(block, "client_ca", directory)
    if lacking := [name for name, found in (("cert", certificate), ("key", key)) if found is None]:
        block.problem(None, f"requires {_joined([f'{name} or {name}_file' for name in lacking])}")
    auth = _client_auth(block, has_ca=client_ca is not None)
    min_version = _version(block, "min_version", ssl.TLSVersion.TLSv1_2)
    max_version = _version(block, "max_version", ssl.TLSVersion.TLSv1_3)
    if min_version > max_version:
        block.problem("max_version", "is lower than min_version")
    return TlsConfig(
        certificate=certificate or Pem(),
        key=key or Pem(),
        client_ca=client_ca,
        client_auth=auth,
        client_allowed_sans=_allowed_sans(block, auth),
        min_version=min_version,
        max_version=max_version,
        ciphers=_ciphers(block, warnings),
        prefer_server_ciphers=block.flag("prefer_server_cipher_suites", default=True),
        curves=_curves(block),
    )


def _pem(block: Block, name: str, directory: Path) -> Pem | None:
    text, path = block.text(name), block.text(f"{name}_file")
    if text and path:
        block.problem(f"{name}_file", f"conflicts with {name}; set only one")
    if path and "\0" in path:
        block.problem(f"{name}_file", "expected the path of a file")
        return Pem()
    if path:
        return Pem(path=str(directory / path))
    return Pem(text=text) if text else None


def _client_auth(block: Block, *, has_ca: bool) -> ClientAuth:
    word = block.text("client_auth_type")
    if word in _UNVERIFIED:
        block.problem(
            "client_auth_type",
            f"{word} accepts certificates without verifying them, which Python's ssl cannot do; set "
            "RequireAndVerifyClientCert or VerifyClientCertIfGiven, and client_ca_file",
        )
        return ClientAuth.NONE
    auth = block.choice("client_auth_type", {item.value: item for item in ClientAuth}, ClientAuth.NONE)
    if has_ca and auth is ClientAuth.NONE:
        block.problem(
            "client_auth_type" if "client_auth_type" in block else None,
            "client_ca has no effect without client certificates; set client_auth_type: RequireAndVerifyClientCert",
        )
    if not has_ca and auth is not ClientAuth.NONE:
        block.problem("client_auth_type", f"{auth.value} requires client_ca or client_ca_file")
    return auth


def _allowed_sans(block: Block, auth: ClientAuth) -> frozenset[str] | None:
    names = block.texts("client_allowed_sans")
    if names is None:
        return None
    if not names:
        block.problem("client_allowed_sans", "is empty, so that no client is admitted; name at least one")
    if auth is not ClientAuth.REQUIRED:
        message = "requires client_auth_type: RequireAndVerifyClientCert, so that every client has a certificate"
        block.problem("client_allowed_sans", message)
    return frozenset(normal_san(name) for _, name in names)


def _version(block: Block, key: str, default: ssl.TLSVersion) -> ssl.TLSVersion:
    word = block.text(key)
    if word in _OBSOLETE:
        block.problem(
            key,
            f"{word} is not available: OpenSSL offers it at its security level 0 only, which would also weaken newer "
            "versions (RFC 8996 deprecates it); set TLS12",
        )
        return default
    return block.choice(key, _VERSIONS, default)


def _ciphers(block: Block, warnings: list[str]) -> tuple[str, ...]:
    names = block.texts("cipher_suites") or ()
    known = {**_CIPHERS, **dict.fromkeys(_CIPHERS_13, "")}
    found = [block.choose("cipher_suites", name, known, "", place) for place, name in names]
    if ignored := [name for _, name in names if name in _CIPHERS_13]:
        warnings.append(
            f"tls_server_config.cipher_suites: {_joined(ignored)} {'is' if len(ignored) == 1 else 'are'} of TLS 1.3, "
            "whose cipher suites are always all offered"
        )
    return tuple(dict.fromkeys(filter(None, found)))


def _curves(block: Block) -> tuple[str, ...]:
    names = block.texts("curve_preferences") or ()
    found = tuple(
        dict.fromkeys(
            filter(None, (block.choose("curve_preferences", name, CURVES, "", place) for place, name in names))
        )
    )
    if len(found) > 1 and not hasattr(ssl.SSLContext, "set_groups"):
        message = "this version of Python can offer one curve or those of OpenSSL; name one, or remove the key"
        block.problem("curve_preferences", message)
    return found


def _joined(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
