"""Whether an audit is accepted: the checks that need no archive, in their order. Pure; the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portspec.audit.envelope import EnvelopeError, is_signed, key_of, peek, unpack
from portspec.audit.model import Status
from portspec.audit.payload import MAX_HEAD, host_of, read_payload
from portspec.audit.tools import parse

if TYPE_CHECKING:
    from collections.abc import Collection

    from portspec.audit.payload import AuditPayload

REASONS: Final = ("too_large", "malformed", "roster", "signature", "time", "duplicate", "quota")
MAX_PACKED: Final = 16 * 1024 * 1024  # bytes of an audit as it is sent
MAX_PACKED_HEAD: Final = 8 << 10  # bytes as it is sent, in which its host must be named; gzip(1) adds a file's name
MAX_PAYLOAD: Final = 24 * 1024 * 1024  # the agent's has 23 MB at most; to read it takes some 200 MB of memory
MAX_AHEAD: Final = 600.0  # seconds that a host's clock may be ahead of ours
MAX_DELAY: Final = 5 * 86_400.0  # seconds that an audit may be on its way: mail is tried as long (RFC 5321, 4.5.4.1)


class RejectedError(Exception):
    """An audit that is not accepted.

    `reason` is a word for metrics: one of REASONS. `host` is what it says
    it is of, if that could be read; anybody may say so. `size` is that of its payload in bytes, if it was unpacked.
    `is_signed` tells that the host has signed it: then the answer may be signed with the key of the host, too.
    """

    def __init__(
        self, reason: str, message: str, host: str | None = None, size: int = 0, *, is_signed: bool = False
    ) -> None:
        self.reason = reason
        self.host = host
        self.size = size
        self.is_signed = is_signed
        super().__init__(message)

    @classmethod
    def duplicate(cls, host: str, day: str) -> RejectedError:
        """Make the one for an audit of a day of which the host has sent another."""
        why = f"{host} has already sent another audit for {day}; only one per day counts"
        return cls("duplicate", why, host, is_signed=True)

    @classmethod
    def quota(cls, host: str) -> RejectedError:
        """Make the one for an audit of a host whose audits take all the room that a host has in the archive."""
        why = f"the audits of {host} have reached the size limit of one host in the archive"
        return cls("quota", why, host, is_signed=True)


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """Who may send audits: the roster, by canonical names, and the passphrases, the present one first."""

    roster: Collection[str]
    passphrases: tuple[str, ...]

    def keys_of(self, host: str) -> list[bytes]:
        """Return the keys that a host may sign with, by its canonical name: one for each passphrase."""
        return [key_of(host, passphrase) for passphrase in self.passphrases]


def admit(packed: bytes, rules: AdmissionPolicy, now: float) -> tuple[AuditPayload, bytes]:
    """Return the audit in an envelope and its payload, if it is one of a host of the roster, signed by it, and in time.

    Size, roster, signature and time are checked in this order; what strangers send is not read before its signature
    is, but for the name of the host. Raises RejectedError.
    """
    if len(packed) > MAX_PACKED:
        raise RejectedError("too_large", f"it has {len(packed):,} bytes, more than {MAX_PACKED:,}")
    host = sender_of(packed, rules)
    try:
        payload, signature = unpack(packed, MAX_PAYLOAD)
    except EnvelopeError as error:
        raise RejectedError(error.reason, str(error), host, MAX_PAYLOAD) from None
    size = len(payload)
    if not is_signed(payload, signature, rules.keys_of(host)):
        raise RejectedError("signature", f"it is not signed with the key of {host} (portspec key {host})", host, size)
    try:
        audit = read_payload(payload)
    except EnvelopeError as error:
        raise RejectedError(error.reason, str(error), host, size, is_signed=True) from None
    if audit.at > now + MAX_AHEAD:
        why = f"it is {audit.at - now:.0f} s in the future: the clock of {host} or of this machine is wrong"
        raise RejectedError("time", why, host, size, is_signed=True)
    if audit.at < now - MAX_DELAY:
        why = f"it is {(now - audit.at) / 86_400:.1f} days old, more than {MAX_DELAY / 86_400:.0f}"
        raise RejectedError("time", why, host, size, is_signed=True)
    return audit, payload


def sender_of(packed: bytes, rules: AdmissionPolicy) -> str:
    """Return the host that an audit says it is of, by its first MAX_PACKED_HEAD bytes; anybody may say so.

    Raises RejectedError: "malformed" if they do not name one, "roster" for one that need not send audits.
    """
    try:
        host = host_of(peek(packed[:MAX_PACKED_HEAD], MAX_HEAD))
    except EnvelopeError as error:
        raise RejectedError(error.reason, str(error)) from None
    if host not in rules.roster:
        raise RejectedError("roster", f"{host} is not on the roster (audit.hosts, or audit: true at the host)", host)
    return host


def is_good(payload: bytes) -> bool:
    """Return whether the audit in a payload is clean or vulnerable; any other may be replaced on its day."""
    try:
        return parse(*read_payload(payload).runs).status in (Status.CLEAN, Status.VULNERABLE)
    except Exception:  # noqa: BLE001 - as where it is read: what cannot be read has failed
        return False
