"""`zypper --xmlout list-patches`: zypper 1.6 (SUSE Linux Enterprise 11) to 1.14.

Patches that are needed, whether of security or not (with --xmlout zypper 1.14.42 passes over --category). Where
zypper itself has to be updated first, only the patches that do so are in update-list, and all others in
blocked-update-list. If the repositories have no patches at all, which is what a system without a repository of updates
looks like, there is `<appletinfo status="no-update-repositories"/>` in place of an empty list (src/update.cc).

Exit status 0, and 100 and 101 for updates that are needed; 106 says that a repository was skipped, others are errors
(zypper(8)). A patch does not name its packages, so it stands for them.

Where zypper finds no package that is installed, since it looks for the database of rpm in another place, it needs no
patch either. So our agent lets it search for itself before (lists.py), which ends with 104 if it is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.parsers import expat

from portspec.audit.model import CVE, Scope
from portspec.audit.tools import severity
from portspec.audit.tools.draft import plain, quote
from portspec.audit.tools.lists import split_lists

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft

_MAX_DEPTH: Final = 20  # zypper's has 8
_MAX_TEXT: Final = 500  # characters of a text that is kept
_ELEMENTS: Final = {
    *("stream", "progress", "download", "message", "update-status", "update-list", "blocked-update-list", "update"),
    *("summary", "description", "license", "source", "issue-date", "issue-list", "issue", "title", "href"),
    *("appletinfo", "prompt", "option", "text", "media-info", "search-result", "solvable-list", "solvable"),
}
_WITH_TEXT: Final = {"message", "summary", "description", "license", "title", "href", "prompt", "option", "text"}
_LISTS: Final = {"update-list", "blocked-update-list"}
# Other categories than "security" that SUSE and other vendors have (libzypp, zypp/Patch.cc).
_HARMLESS: Final = {"recommended", "optional", "feature", "yast", "document", "bugfix", "enhancement", "newpackage"}
# textPatchStatus() of zypper's src/utils/misc.cc; a patch is unwanted if it is locked, and needed all the same.
_STATUSES: Final = {"needed": True, "unwanted": True, **dict.fromkeys(("applied", "not-needed", "optional"), False)}
# Rolling releases: what they fix comes with a newer version, without a patch.
_WITH_LIST: Final = (0, 100, 101)  # exit statuses
_WITHOUT: Final = {"opensuse-tumbleweed", "opensuse-microos", "opensuse-slowroll", "opensuse-aeon", "opensuse-kalpa"}


class _Reader:
    """Takes the document apart while it is read, and keeps only what is asked for."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._parser = expat.ParserCreate("utf-8")
        self._parser.StartDoctypeDeclHandler = self._refuse  # entities need one
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._take
        self._open: list[str] = []
        self._text = ""
        self._patch: dict[str, str] = {}
        self._issues: list[tuple[str, str]] = []
        self._is_error = False
        self.has_list = self.has_none = self.has_package = False

    def read(self, text: str) -> bool:
        """Read the document; tell whether it is whole."""
        try:
            self._parser.Parse(text.encode("utf-8", "replace"), True)  # noqa: FBT003 - "is final", positional only
        except expat.ExpatError as error:
            why = expat.ErrorString(error.code)
            self._draft.fail(f"the XML document is broken or cut off in line {error.lineno}: {why}")
            return False
        except _RefusedError as error:
            self._draft.fail(f"line {self._parser.CurrentLineNumber} {error}")
            return False
        return True

    def _refuse(self, *_: object) -> None:
        raise _RefusedError("is a document type declaration, which zypper does not print")

    def _check(self, name: str) -> None:
        if name not in _ELEMENTS:
            raise _RefusedError(f"has the element {quote(name)}, expected one of zypper's list of patches")
        if len(self._open) >= _MAX_DEPTH:
            raise _RefusedError(f"is nested more than {_MAX_DEPTH} levels deep")
        if bool(self._open) == (name == "stream"):
            raise _RefusedError(f'has the element {quote(name)}, expected one "stream" around all others')
        if name == "update" and self._open[-1] not in _LISTS:
            raise _RefusedError("has a patch outside of the list")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._check(name)
        self._open.append(name)
        self._text = ""
        if name == "update":
            self._patch, self._issues = attributes, []
        elif name == "issue":
            self._issues.append((attributes.get("type", ""), attributes.get("id", "")))
        elif name == "appletinfo":
            self.has_none = True
        elif name in _LISTS:
            self.has_list = True
        elif name == "solvable":
            self.has_package = self.has_package or attributes.get("status") == "installed"
        elif name == "message":
            self._is_error = attributes.get("type") == "error"

    def _take(self, data: str) -> None:
        if self._open and self._open[-1] in _WITH_TEXT:
            if len(self._text) < _MAX_TEXT:
                self._text += data[:_MAX_TEXT]
        elif data.strip():
            raise _RefusedError(f"has the text {quote(data)}, expected elements only")

    def _end(self, name: str) -> None:
        self._open.pop()
        if name == "summary":
            self._patch["summary"] = self._text
        elif name == "message" and self._is_error:
            self._draft.fail(f"zypper says {quote(self._text)}")
        elif name == "update":
            self._add()

    def _add(self) -> None:
        patch = self._patch
        name, is_needed = patch.get("name", ""), _STATUSES.get(patch.get("status", "needed"))
        if is_needed is None:
            raise _RefusedError(
                f"has a patch with the status {quote(patch['status'])}, expected {', '.join(_STATUSES)}"
            )
        if patch.get("kind", "patch") != "patch" or not name:
            raise _RefusedError(
                f"has an update of the kind {quote(patch.get('kind', ''))}, expected a patch with a status"
            )
        cves = [text for kind, text in self._issues if kind == "cve" and CVE.fullmatch(text)]
        if is_needed and (cves or patch.get("category") not in _HARMLESS):
            worst = severity.of_word(patch.get("severity", ""))
            self._draft.add(name, "", cves, severity=worst, title=plain(patch.get("summary", "")), advisories=[name])
        if self._draft.is_lost:
            raise _RefusedError("has more patches than any system")


class _RefusedError(Exception):
    """Something in the document that zypper does not print; the text goes on after the number of the line."""


def read(draft: Draft) -> None:
    """Read what zypper printed."""
    run = draft.run
    draft.covers(Scope.SYSTEM)
    documents = [run.output[start:end].lstrip() for _, start, end in split_lists(run.output, "")]
    if not documents:
        draft.no_output("the XML document of zypper --xmlout list-patches")
        return
    readers = [_Reader(draft) for _ in documents]
    broken = [text for reader, text in zip(readers, documents, strict=True) if not reader.read(text)]
    if run.system and run.system.id in _WITHOUT:
        draft.unsupported(
            f"{run.system.spelled} has no patches: what it fixes comes with newer versions; use another tool"
        )
    elif any(reader.has_none for reader in readers):
        draft.unsupported("no repository of this system has patches: none of updates is set up")
    elif not broken and run.exit_status in _WITH_LIST and not any(reader.has_list for reader in readers):
        draft.fail("the XML document has no list of patches")
    elif not broken and len(readers) > 1 and not any(reader.has_package for reader in readers):
        draft.fail("zypper sees no package that is installed")
    if not broken:
        draft.end(clean=(0, 100), found=_WITH_LIST)
