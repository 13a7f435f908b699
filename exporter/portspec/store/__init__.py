"""What outlives the process, in one SQLite file: every host's last state, the change log, the archive of reports."""

from portspec.changes import Change
from portspec.store.archive import Archive, Archived, Arrival, Mark, Outcome
from portspec.store.deposit import deposit, note_refusal
from portspec.store.store import Store
from portspec.store.trouble import StoreError
from portspec.store.writer import StoreStatus

__all__ = [
    "Archive",
    "Archived",
    "Arrival",
    "Change",
    "Mark",
    "Outcome",
    "Store",
    "StoreError",
    "StoreStatus",
    "deposit",
    "note_refusal",
]
