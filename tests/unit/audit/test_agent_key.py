from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

import pytest

from portspec.audit import sshsig
from portspec.audit.agent_key import FILE_NAME, IDENTITY, NAMESPACE, AgentKey, AgentKeyError
from tests.requirements import NEEDS_ROOT, require

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM: Final = b"#!/usr/bin/env python3\nprint('hello')\n"
STRANGER: Final = 12345


def verified(
    directory: Path, message: bytes, signature: str, signers: str, *, namespace: str = NAMESPACE
) -> str | None:
    """Let ssh-keygen check a signature; return what it says, None if it refuses it."""
    (directory / "signers").write_text(signers, encoding="ascii")
    (directory / "message.sig").write_text(signature, encoding="ascii")
    command = ["-Y", "verify", "-f", "signers", "-I", IDENTITY, "-n", namespace, "-s", "message.sig"]
    done = subprocess.run(
        [require("ssh-keygen"), *command], cwd=directory, input=message, capture_output=True, check=False
    )
    return done.stdout.decode() if done.returncode == 0 else None


@pytest.fixture
def key(tmp_path: Path) -> AgentKey:
    """Return the key of an exporter that starts for the first time."""
    (tmp_path / "state").mkdir()
    return AgentKey.beside(str(tmp_path / "state" / "portspec.db"))


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_ssh_keygen_verifies_the_signature(key: AgentKey, tmp_path: Path, size: int) -> None:
    """OpenSSH finds a signature good, and tells the fingerprint that portspec prints."""
    key.make()
    program = os.urandom(size)
    said = f'Good "{NAMESPACE}" signature for {IDENTITY} with ED25519 key {key.fingerprint}\n'
    assert verified(tmp_path, program, key.sign(program), f"# a comment\n{key.allowed_signers}\n") == said


def test_ssh_keygen_refuses_what_was_not_signed(key: AgentKey, tmp_path: Path) -> None:
    """A changed byte, another key, or a signature for another purpose is refused."""
    key.make()
    other = AgentKey(tmp_path / "other.key")
    other.make()
    signature = key.sign(PROGRAM)
    assert verified(tmp_path, PROGRAM, signature, key.allowed_signers)
    assert verified(tmp_path, PROGRAM.replace(b"hello", b"hellp"), signature, key.allowed_signers) is None
    assert verified(tmp_path, PROGRAM, signature, other.allowed_signers) is None
    elsewhere = sshsig.SigningKey.read(key.path.read_bytes()).sign(PROGRAM, "git")
    assert verified(tmp_path, PROGRAM, elsewhere, key.allowed_signers) is None
    assert verified(tmp_path, PROGRAM, elsewhere, key.allowed_signers, namespace="git") is None  # not what it is for


def test_signature_is_that_of_ssh_keygen(key: AgentKey, tmp_path: Path) -> None:
    """With the same key ssh-keygen writes the same signature, byte for byte, and the same public key."""
    key.make()
    command = [require("ssh-keygen"), "-q", "-Y", "sign", "-f", str(key.path), "-n", NAMESPACE]
    done = subprocess.run(command, input=PROGRAM, capture_output=True, check=True)
    assert key.sign(PROGRAM) == done.stdout.decode()
    public = subprocess.run(["ssh-keygen", "-y", "-f", str(key.path)], capture_output=True, text=True, check=True)
    assert key.allowed_signers == f'{IDENTITY} namespaces="{NAMESPACE}" {public.stdout.strip()}'


def test_key_of_ssh_keygen_is_taken(key: AgentKey, tmp_path: Path) -> None:
    """An admin may make the key, for example one for several exporters."""
    command = [require("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key.path)]
    subprocess.run(command, check=True)
    key.make()
    assert verified(tmp_path, PROGRAM, key.sign(PROGRAM), key.allowed_signers)


def test_key_is_made_once(key: AgentKey) -> None:
    """The first start makes a file for the exporter's user only; later ones use it, and leave nothing else behind."""
    key.make()
    assert key.path.stat().st_mode & 0o777 == 0o600
    again = AgentKey(key.path)
    again.make()
    assert again.fingerprint == key.fingerprint
    assert [path.name for path in key.path.parent.iterdir()] == [FILE_NAME]


def test_exporters_that_start_at_once_have_one_key(key: AgentKey) -> None:
    """Of several exporters with one directory the first makes the key, and all of them sign with it."""
    found: list[str] = []
    together = threading.Barrier(8)

    def start() -> None:
        mine = AgentKey(key.path)
        together.wait()
        mine.make()
        found.append(mine.fingerprint)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_exporter_without_audits_needs_no_cryptography() -> None:
    """The library takes memory and time to import, which is spared where nothing is signed."""
    program = "import sys, portspec.app.process; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_missing_key_is_told(key: AgentKey) -> None:
    """Who only asks for the key makes none, and is told who does."""
    with pytest.raises(AgentKeyError, match=f"^{key.path}: there is no key that signs the agent; an exporter with an"):
        _ = key.allowed_signers
    assert not key.path.exists()


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_file_that_is_no_key_stays(key: AgentKey, text: str) -> None:
    """A damaged key is an error that says what to do; it is not replaced, because hosts know its public half."""
    key.path.write_text(text, encoding="ascii")
    key.path.chmod(0o600)
    with pytest.raises(AgentKeyError, match=r"not a private key of OpenSSH without a passphrase; restore it"):
        key.make()
    assert key.path.read_text(encoding="ascii") == text


@pytest.mark.parametrize(
    ("options", "why"),
    [(("-t", "rsa", "-b", "2048", "-N", ""), "not an Ed25519 key"), (("-t", "ed25519", "-N", "words"), "passphrase")],
)
def test_key_of_another_kind_is_refused(key: AgentKey, options: tuple[str, ...], why: str) -> None:
    """Keys that portspec cannot use are told."""
    subprocess.run([require("ssh-keygen"), "-q", *options, "-f", str(key.path)], check=True)
    with pytest.raises(AgentKeyError, match=why):
        key.make()


@pytest.mark.parametrize(("mode", "is_refused"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True)])
def test_key_that_others_know_or_choose_is_refused(key: AgentKey, mode: int, *, is_refused: bool) -> None:
    """Its group may read it, as a mounted secret's does; everybody else may not, and nobody else may write to it."""
    key.make()
    key.path.chmod(mode)
    again = AgentKey(key.path)
    if not is_refused:
        again.make()
        return
    with pytest.raises(AgentKeyError, match=r"other users can read or change the key that signs the agent: chmod 600"):
        again.make()


@pytest.mark.skipif(os.geteuid() != 0, reason=f"{NEEDS_ROOT}only root can give files away")
def test_key_of_another_user_is_refused(key: AgentKey) -> None:
    """A file of the directory's owner is read, as root does for `portspec key --agent`; one of a stranger is not."""
    key.make()
    os.chown(key.path, STRANGER, STRANGER)
    with pytest.raises(AgentKeyError, match="is owned by another user"):
        AgentKey(key.path).make()
    os.chown(key.path.parent, STRANGER, STRANGER)
    AgentKey(key.path).make()


def test_directory_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    """Without a place for the key that is an error with the path, not a crash."""
    with pytest.raises(AgentKeyError, match=r"^/.*: the key that signs the agent cannot be written: .*"):
        AgentKey(tmp_path / "missing" / FILE_NAME).make()
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(AgentKeyError, match=r"cannot be read: is a directory|chmod 600"):
        AgentKey(tmp_path / FILE_NAME).make()
