"""`apk version -l '<=>?'` of apk-tools 2 and 3, followed by `apk version --indexes`, as our agent runs them.

apk knows which version its repositories have of each installed package. It does not know which of them mend something:
the secfixes of Alpine are in a file of each release on a server of its own, not in the index. So what it tells is
"update available", whatever the update is for. A package of which no repository has any version is equal to itself
("="); so "no update" needs the indexes, each with the description that it is made with. apk ends with 0, also where
an index is not there, of which it warns.
Source: src/app_version.c (ver_print_package_status, ver_indexes).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.draft import quote
from portspec.audit.tools.lines import numbered_lines
from portspec.audit.tools.proof import MARK, proof_of, read_proven

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft

END_MARKER: Final = proof_of("apk")
INDEXES: Final = f"{MARK}apk version --indexes"
UPDATE: Final = "update available"

_OTHERS: Final = ("debian", "ubuntu", "rhel", "fedora", "suse", "opensuse", "arch")  # of which apk has no packages
_HEAD = re.compile(r"Installed: +Available:")
_PACKAGE = re.compile(r"(\S{1,200})-([0-9][^\s-]{0,100}(?:-r[0-9]{1,10})?) +([<=>?]) (\S{1,200})(?: @\S{1,100})?")
_INDEX = re.compile(r"(.{0,200}) \[(\S{1,500})\]")


class _Reader:
    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._packages = self._known = 0
        self._missing: list[str] = []
        self._has_head = self._is_in_indexes = False

    def read(self, body: str) -> None:
        """Read all lines, and judge: the packages, then the indexes."""
        for number, line in numbered_lines(body):
            if line == INDEXES and not self._is_in_indexes:
                self._is_in_indexes = True
            elif not (self._read_index(line) if self._is_in_indexes else self._read_package(line)):
                self._draft.strange(number, line, "what apk version prints of a package, or of an index")
                if self._draft.is_lost:
                    break
        self._judge()

    def _read_package(self, line: str) -> bool:
        if _HEAD.fullmatch(line) and not self._has_head:
            self._has_head = True
            return True
        found = _PACKAGE.fullmatch(line)
        if found is None:
            return False
        self._packages += 1
        name, installed, relation, available = found.groups()
        if relation == "<":
            self._draft.add(name, installed, (), title=UPDATE, fixed_in=[available])
        elif relation == "?":
            self._draft.doubt(f"apk cannot compare the versions of {quote(name)}")
        return True

    def _read_index(self, line: str) -> bool:
        found = _INDEX.fullmatch(line)
        if found is None:
            return False
        if found[1].strip():
            self._known += 1
        else:
            self._missing.append(found[2])
        return True

    def _judge(self) -> None:
        """Say what is missing for "no update" to mean anything."""
        if not self._is_in_indexes:
            self._draft.fail(f"the output has no indexes, expected {quote(INDEXES)} and what it prints")
        elif not self._known:
            self._draft.stale("apk has no index of a repository; run apk update")
        elif self._missing:
            self._draft.doubt(f"apk has no index of {quote(self._missing[0])}")
        if not self._packages:
            self._draft.doubt("apk told of no installed package")


def read(draft: Draft) -> None:
    """Read what apk printed."""
    draft.covers(Scope.SYSTEM)
    system = draft.run.system
    if system is not None and system.is_kin(*_OTHERS):
        draft.unsupported(f"apk knows the packages of Alpine and its kin, not those of {system.spelled}")
    for line in draft.run.errors.splitlines():
        if line.startswith(("WARNING: ", "ERROR: ")):
            draft.doubt(f"apk says {quote(line)}")
    read_proven(draft, END_MARKER, "what apk version prints", _Reader(draft).read)
