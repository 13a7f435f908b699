"""The state file: last state of every host, change log, mail outbox and archive of audits, in one SQLite file.

Store is the interface for the exporter, archive_audit() and count_rejection() are for `portspec receive`. A single
thread writes (writer.py); reads open the file for themselves. To add a table or column, append a migration in
schema.py and test it as tests/unit/store/test_schema.py does.
"""

from portspec.state.changes import Change
from portspec.store.archive import (
    Archive,
    ArchivedAudit,
    ArchivePosition,
    IncomingAudit,
    Outcome,
    archive_audit,
    count_rejection,
)
from portspec.store.faults import StoreError
from portspec.store.feeds import stored_feeds, write_feed
from portspec.store.fixes import read_fixes
from portspec.store.location import (
    StateFileLocation,
    exporter_state_file,
    find_state_file,
    is_same_file,
    publish_location,
)
from portspec.store.lock import current_lock_holder
from portspec.store.maintenance import read_maintenance, write_maintenance
from portspec.store.rulings import log_rules, read_rules
from portspec.store.schema import read_value, write_value
from portspec.store.status import StoreStatus
from portspec.store.store import Restored, Store

__all__ = [
    "Archive",
    "ArchivePosition",
    "ArchivedAudit",
    "Change",
    "IncomingAudit",
    "Outcome",
    "Restored",
    "StateFileLocation",
    "Store",
    "StoreError",
    "StoreStatus",
    "archive_audit",
    "count_rejection",
    "current_lock_holder",
    "exporter_state_file",
    "find_state_file",
    "is_same_file",
    "log_rules",
    "publish_location",
    "read_fixes",
    "read_maintenance",
    "read_rules",
    "read_value",
    "stored_feeds",
    "write_feed",
    "write_maintenance",
    "write_value",
]
