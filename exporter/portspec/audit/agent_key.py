"""The key with which an exporter signs the agent that it serves: a file beside the state file.

The key is random, and not derived from the passphrase of the audits. Anybody may fetch a signature: if it depended on
the passphrase, everybody could test guesses of that against it. And who learns the passphrase, from a copy of conf.yml
for example, can forge audits, but no program that runs as root.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portspec.errors import PortspecError, why
from portspec.files import read_regular

if TYPE_CHECKING:
    from portspec.audit.sshsig import SigningKey

FILE_NAME: Final = "agent-signing.key"
IDENTITY: Final = "portspec"  # ssh-keygen -I
NAMESPACE: Final = "portspec-agent"  # ssh-keygen -n
_MAX_SIZE: Final = 65_536  # bytes
_ROOT: Final = 0


class AgentKeyError(PortspecError):
    """The key cannot be read or made; the message names the file and says what to do."""


class AgentKey:
    """The key in a file, which is read once: another file takes effect at the next start. Blocks: use it in a thread.

    `cryptography` is imported with the first use, since many exporters take no audits.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key: SigningKey | None = None

    @classmethod
    def beside(cls, state_file: str) -> AgentKey:
        """Return the key of the exporter with this state file."""
        return cls(Path(state_file).with_name(FILE_NAME))

    def make(self) -> None:
        """Make the key if there is no file yet. Raises AgentKeyError."""
        from portspec.audit.sshsig import SigningKey

        try:
            if self._key is None and not os.path.lexists(self.path):
                self._write(SigningKey.generate().write())
        except OSError as error:
            raise AgentKeyError(f"{self.path}: the key that signs the agent cannot be written: {why(error)}") from None
        self._load()

    def sign(self, program: bytes) -> str:
        """Return the detached signature of the agent, for ssh-keygen -Y verify. Raises AgentKeyError."""
        return self._load().sign(program, NAMESPACE)

    @property
    def allowed_signers(self) -> str:
        """The line of the file that ssh-keygen -Y verify -f takes (ssh-keygen(1), ALLOWED SIGNERS)."""
        return f'{IDENTITY} namespaces="{NAMESPACE}" {self._load().public_line}'

    @property
    def fingerprint(self) -> str:
        """The fingerprint, as ssh-keygen prints it."""
        return self._load().fingerprint

    def _load(self) -> SigningKey:
        if self._key is None:
            from portspec.audit.sshsig import SigningKey

            try:
                _refuse_foreign(self.path)
                self._key = SigningKey.read(read_regular(self.path, _MAX_SIZE))
            except FileNotFoundError:
                hint = "an exporter with an audit block makes it when it starts"
                raise AgentKeyError(f"{self.path}: there is no key that signs the agent; {hint}") from None
            except OSError as error:
                raise AgentKeyError(f"{self.path}: the key that signs the agent cannot be read: {why(error)}") from None
            except ValueError as error:
                hint = "restore it from a backup, or remove it and restart the exporter, which makes another"
                raise AgentKeyError(f"{self.path}: {error}; {hint}") from None
        return self._key

    def _write(self, text: bytes) -> None:
        """Write the file, whole or not at all; one that another exporter has made meanwhile stays."""
        new = self.path.with_name(f".{FILE_NAME}.{secrets.token_hex(4)}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            with suppress(FileExistsError):
                os.link(new, self.path)
        finally:
            new.unlink()


def _refuse_foreign(path: Path) -> None:
    """Raise AgentKeyError for a key that others than this user, root and the owner of the directory know or choose."""
    status = path.stat()
    if status.st_uid not in (_ROOT, os.geteuid(), path.parent.stat().st_uid):
        raise AgentKeyError(f"{path}: is owned by another user; chown it to the user of the exporter")
    if status.st_mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise AgentKeyError(f"{path}: other users can read or change the key that signs the agent: chmod 600 {path}")
