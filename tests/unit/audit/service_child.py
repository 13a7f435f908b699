"""What test_service runs in a mount namespace of its own: `python -m tests.unit.audit.service_child COMMAND DIR`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
from pathlib import Path
from typing import Any

from portspec.audit.service import AuditService
from portspec.store import StoreError
from tests.unit.app.exporter import until
from tests.unit.factories import NOW
from tests.unit.signed import AUDIT, CLEAN, DB, WEB, packed, payload, rostered, signed
from tests.unit.store.child import _fill, _mount
from tests.unit.store.scenes import Logs, opened


async def full_disk(directory: Path) -> dict[str, Any]:
    """Fill a small file system under an archive, post an audit, and make space again."""
    _mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory))
    large = payload(DB, output=f"{secrets.token_hex(200_000)}\n{CLEAN}")
    with Logs(), opened(directory / "portspec.db", (), retry=0.01) as (store, _):
        audits = AuditService(store, lambda: NOW)
        audits.apply(AUDIT, rostered(WEB, DB))
        await audits.restore()
        task = asyncio.create_task(audits.run())
        found: dict[str, Any] = {"before": await audits.take(packed(WEB), "192.0.2.7")}
        await until(lambda: len(audits.states) == 2 and audits.states[WEB].host_audit)
        filler = _fill(directory)
        try:
            await audits.take(signed(large, DB), "192.0.2.7")
        except StoreError as error:
            found["full"] = error.why
        found["days"] = store.audit_days(DB)
        filler.unlink()
        while "again" not in found:
            with contextlib.suppress(StoreError):
                found["again"] = await audits.take(signed(large, DB), "192.0.2.7")
        archived = store.find_audit(DB)
        found["is_whole"] = archived is not None and archived.payload == large
        await until(lambda: audits.states[DB].host_audit)
        found["statuses"] = {host: state.status for host, state in audits.states.items()}
        task.cancel()
        await asyncio.wait({task})
    return found


if __name__ == "__main__":
    name, place = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run({"full_disk": full_disk}[name](Path(place)))))
