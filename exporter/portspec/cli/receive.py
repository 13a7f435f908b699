"""`portspec receive`: one mail from the MTA's pipe into the archive.

The exit codes are those of sysexits(3), by which an MTA knows what to do: 65 returns the mail to its sender, 75 keeps
it in the queue and tries again. Whatever keeps a good audit from being archived is 75, a mistake in conf.yml too.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, BinaryIO, Final

from portspec import log
from portspec.audit.admission import AdmissionPolicy, RejectedError, admit, is_good
from portspec.audit.mail import MAX_MAIL, mail_origin, read_mail
from portspec.config import load
from portspec.errors import STANDARD_INPUT, PortspecError
from portspec.inventory import audited_hosts, targets
from portspec.store import IncomingAudit, Outcome, archive_audit, count_rejection, find_state_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.audit.payload import AuditPayload
    from portspec.config import Config

EX_OK: Final = 0
EX_DATAERR: Final = 65
EX_TEMPFAIL: Final = 75
_CHUNK = 1 << 20

_log = log.get("receive")


def receive(path: str, stdin: BinaryIO | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Receive the mail on standard input with the configuration at `path`; return the exit code."""
    mark: dict[str, str] = {}
    if path == STANDARD_INPUT:
        _log.error("mail deferred", why="standard input is the mail; name a configuration file with -c")
        return EX_TEMPFAIL
    try:
        raw = _read(stdin or sys.stdin.buffer)
        # In the order of the line; what is not known is left out.
        mark = {name: text for name, text in asdict(mail_origin(raw, environment)).items() if text}
        return _receive(path, raw, mark)
    except PortspecError as error:
        _log.error("mail deferred", why=str(error), **mark)
    except Exception:  # noqa: BLE001 - a fault of ours must not lose an audit
        _log.exception("mail deferred: portspec crashed", **mark)
    return EX_TEMPFAIL


def _receive(path: str, raw: bytes, mark: Mapping[str, str]) -> int:
    config = load(path)
    if config.audit is None:
        raise PortspecError(f"{path}: has no audit block, so no audit is expected")
    place = find_state_file(config)
    if not place.is_certain:
        raise PortspecError(place.why)  # an archive begun by a guess is one that nobody reads
    now = time.time()
    try:
        audit, payload = _admit(config, read_mail(raw), now)
        outcome = archive_audit(place.path, IncomingAudit(audit.host, audit.day, audit.at, payload), now, is_good)
        if outcome is Outcome.CONFLICT:
            raise RejectedError.duplicate(audit.host, audit.day)
        if outcome is Outcome.QUOTA_EXCEEDED:
            raise RejectedError.quota(audit.host)
    except RejectedError as error:
        known = {"host": error.host} if error.host else {}
        _log.error("audit rejected", reason=error.reason, why=str(error), **known, **mark)
        count_rejection(place.path, error.reason)
        return EX_DATAERR
    if outcome is Outcome.REPLACED:
        _log.warning("a failed audit was replaced by a later one of the same day", host=audit.host, day=audit.day)
        return EX_OK
    _log.info(
        "an audit was accepted" if outcome is Outcome.ACCEPTED else "the audit is already archived",
        host=audit.host,
        **mark,
    )
    return EX_OK


def _admit(config: Config, packed: bytes, now: float) -> tuple[AuditPayload, bytes]:
    """Admit an audit; sources of discovery are only polled if the host is not known otherwise."""
    passphrases = config.audit.passphrases if config.audit else ()
    try:
        return admit(packed, AdmissionPolicy(audited_hosts(config, targets(config)), passphrases), now)
    except RejectedError as error:
        naming = {source.name for source in config.discovery if source.entry.is_audited}
        if error.reason != "roster" or not naming:
            raise
        import asyncio

        from portspec.inventory.discovery import Discovery

        discovery = Discovery(config.discovery)
        asyncio.run(discovery.refresh_all())
        if failed := [item.name for item in discovery.stats if item.failures and item.name in naming]:
            raise PortspecError(f"{error}, and {', '.join(failed)}, which may name it, cannot be reached") from None
        return admit(packed, AdmissionPolicy(audited_hosts(config, targets(config, discovery.hosts)), passphrases), now)


def _read(stdin: BinaryIO) -> bytes:
    """Read the mail; of one that is too large no more is kept than shows that, and the MTA gets rid of the rest."""
    raw = stdin.read(MAX_MAIL + 1)
    while len(raw) > MAX_MAIL and stdin.read(_CHUNK):
        pass
    return raw
