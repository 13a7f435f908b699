"""Detached signatures in the format of `ssh-keygen -Y sign`, so that every admin can check them with OpenSSH. Pure.

The format is that of OpenSSH's PROTOCOL.sshsig; the keys are Ed25519 (RFC 8032), which OpenSSH writes as in RFC 8709.
`ssh-keygen -Y verify` came with OpenSSH 8.1, of 2019.
"""

from __future__ import annotations

import base64
import hashlib
import textwrap
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

_MAGIC: Final = b"SSHSIG"
_VERSION: Final = 1
_KEY_TYPE: Final = b"ssh-ed25519"
_HASH: Final = "sha512"
_WIDTH: Final = 70  # characters in a line, as ssh-keygen writes them


class SigningKey:
    """An Ed25519 key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._public = _string(_KEY_TYPE) + _string(public)  # RFC 8709, 4

    @classmethod
    def generate(cls) -> SigningKey:
        """Return a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, text: bytes) -> SigningKey:
        """Read a key as ssh-keygen writes it, without a passphrase. ValueError says what is wrong."""
        try:
            key = load_ssh_private_key(text, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a passphrase
            raise ValueError("it is not a private key of OpenSSH without a passphrase") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("it is not an Ed25519 key (ssh-keygen -t ed25519)")  # noqa: TRY004 - of the text
        return cls(key)

    def write(self) -> bytes:
        """Return the key as ssh-keygen writes it."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

    @property
    def public_line(self) -> str:
        """The public key as a line: "ssh-ed25519 AAAA…"."""
        return f"{_KEY_TYPE.decode()} {base64.b64encode(self._public).decode()}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the public key, as ssh-keygen -l prints it: "SHA256:…"."""
        digest = base64.b64encode(hashlib.sha256(self._public).digest()).decode()
        return f"SHA256:{digest.rstrip('=')}"

    def sign(self, message: bytes, namespace: str) -> str:
        """Return the signature of a message; it is good in this namespace only."""
        scope = _string(namespace.encode()) + _string(b"") + _string(_HASH.encode())
        signature = self._key.sign(_MAGIC + scope + _string(hashlib.new(_HASH, message).digest()))
        signed = _string(_KEY_TYPE) + _string(signature)
        blob = _MAGIC + _VERSION.to_bytes(4) + _string(self._public) + scope + _string(signed)
        lines = textwrap.wrap(base64.b64encode(blob).decode(), _WIDTH)
        return "\n".join(("-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""))


def _string(data: bytes) -> bytes:
    """Return bytes as a string of RFC 4251, 5."""
    return len(data).to_bytes(4) + data
