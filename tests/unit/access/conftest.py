"""What the tests of the web configuration share: certificates, and a web config file of their own."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives import serialization as form

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = b"a passphrase of the tests"
TOKEN = "qO3a5zJmJ2l0Yp9dE1vQ-robot"  # noqa: S105 - of nobody


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Return who signs the certificates of the server and of clients."""
    return trustme.CA()


@pytest.fixture(scope="session")
def certificates(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of certificates and keys, good and bad, and files of tokens."""
    place = tmp_path_factory.mktemp("certificates")
    server = authority.issue_cert("localhost", "127.0.0.1")
    other = authority.issue_cert("other.example.org")
    expired = authority.issue_cert("localhost", not_after=datetime(2021, 2, 3, 4, 5, 6, tzinfo=UTC))
    authority.cert_pem.write_to_path(str(place / "ca.crt"))
    for name, found in (("server", server), ("other", other), ("expired", expired)):
        found.private_key_pem.write_to_path(str(place / f"{name}.key"))
        found.cert_chain_pems[0].write_to_path(str(place / f"{name}.crt"))
    key = form.load_pem_private_key(server.private_key_pem.bytes(), None)
    encryption = form.BestAvailableEncryption(PASSPHRASE)
    encrypted = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, encryption)
    (place / "encrypted.key").write_bytes(encrypted)
    for name in ("server.crt", "server.key"):
        lines = (place / name).read_text().splitlines()
        lines[1] = "MAAA" + lines[1][4:]
        (place / f"damaged{name[-4:]}").write_text("\n".join(lines))
    (place / "robot.token").write_text(f"{TOKEN}\n")
    (place / "weak.token").write_text("hunter2\n")
    return place


@pytest.fixture
def place(certificates: Path, tmp_path: Path) -> Path:
    """Return a directory of the test's own with copies of the certificates, for its web config file."""
    directory = tmp_path / "web"
    shutil.copytree(certificates, directory)
    return directory
