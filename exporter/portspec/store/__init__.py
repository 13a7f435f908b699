"""What outlives the process, in one SQLite file: every host's last state, the change log, the archive of reports."""

from portspec.state.changes import Change
from portspec.store.archive import Archive, Archived, Arrival, Mark, Outcome
from portspec.store.deposit import deposit, note_refusal
from portspec.store.lock import present_holder
from portspec.store.place import Place, announce, is_same_file, place_of, place_of_exporter
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
    "Place",
    "Store",
    "StoreError",
    "StoreStatus",
    "announce",
    "deposit",
    "is_same_file",
    "note_refusal",
    "place_of",
    "place_of_exporter",
    "present_holder",
]
