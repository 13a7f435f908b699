"""Reads `zypper --xmlout list-patches` of zypper 1.6 (SUSE Linux Enterprise 11) to 1.14.

The document lists the needed patches, for security or not: with --xmlout zypper 1.14.42 ignores --category. If zypper
itself has to be updated first, only the patches that do so are in update-list, and all others in blocked-update-list.
If the repositories have no patches at all, as on a system without an update repository, there is
`<appletinfo status="no-update-repositories"/>` instead of an empty list (src/update.cc).

Exit status: 0; 100 and 101 if updates are needed; 106 if a repository was skipped; others are errors (zypper(8)). A
patch does not name its packages, so the patch takes their place in the result.

If zypper does not find the rpm database, because it is in another place, it sees no installed packages and so needs no
patches. That is why the agent first lets it search for zypper itself (see split_lists in output.py); the search exits
with 104 if it finds nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.parsers import expat

from portspec.audit.model import CVE, Scope
from portspec.audit.tools.fields import severity_of_word
from portspec.audit.tools.output import split_lists
from portspec.audit.tools.result import plain, quote

if TYPE_CHECKING:
    from portspec.audit.tools.result import ResultBuilder

_MAX_DEPTH: Final = 20  # zypper's documents have 8 levels
_MAX_TEXT_LENGTH: Final = 500  # characters of a text that is kept
_ELEMENTS: Final = {
    *("stream", "progress", "download", "message", "update-status", "update-list", "blocked-update-list", "update"),
    *("summary", "description", "license", "source", "issue-date", "issue-list", "issue", "title", "href"),
    *("appletinfo", "prompt", "option", "text", "media-info", "search-result", "solvable-list", "solvable"),
}
_ELEMENTS_WITH_TEXT: Final = {
    *("message", "summary", "description", "license", "title", "href", "prompt", "option", "text"),
}
_LISTS: Final = {"update-list", "blocked-update-list"}
# The categories besides "security" that SUSE and other vendors use (libzypp, zypp/Patch.cc).
_OTHER_CATEGORIES: Final = {
    *("recommended", "optional", "feature", "yast", "document", "bugfix", "enhancement", "newpackage"),
}
# Whether a patch is needed, by textPatchStatus() of zypper's src/utils/misc.cc. An unwanted patch is needed but locked.
_STATUSES: Final = {"needed": True, "unwanted": True, **dict.fromkeys(("applied", "not-needed", "optional"), False)}
_EXIT_STATUSES_WITH_LIST: Final = (0, 100, 101)
# Rolling releases fix vulnerabilities with newer versions, without patches.
_SYSTEMS_WITHOUT_PATCHES: Final = {
    *("opensuse-tumbleweed", "opensuse-microos", "opensuse-slowroll", "opensuse-aeon", "opensuse-kalpa"),
}


class _PatchListReader:
    """Reads the document event by event, and keeps only what is needed of it."""

    def __init__(self, result: ResultBuilder) -> None:
        self._result = result
        self._parser = expat.ParserCreate("utf-8")
        self._parser.StartDoctypeDeclHandler = self._reject_doctype  # entities need one
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._collect_text
        self._open: list[str] = []
        self._text = ""
        self._patch: dict[str, str] = {}
        self._issues: list[tuple[str, str]] = []
        self._is_error = False
        self.has_list = self.has_no_repository = self.has_package = False

    def read(self, text: str) -> bool:
        """Read the document. Return whether it is complete."""
        try:
            self._parser.Parse(text.encode("utf-8", "replace"), True)  # noqa: FBT003 - "is final", positional only
        except expat.ExpatError as error:
            why = expat.ErrorString(error.code)
            self._result.fail(f"the XML document is broken or truncated in line {error.lineno}: {why}")
            return False
        except _UnexpectedXmlError as error:
            self._result.fail(f"line {self._parser.CurrentLineNumber} {error}")
            return False
        return True

    def _reject_doctype(self, *_: object) -> None:
        raise _UnexpectedXmlError("has a document type declaration, which zypper does not print")

    def _check(self, name: str) -> None:
        if name not in _ELEMENTS:
            raise _UnexpectedXmlError(f"has the element {quote(name)}, which is not in zypper's list of patches")
        if len(self._open) >= _MAX_DEPTH:
            raise _UnexpectedXmlError(f"is nested more than {_MAX_DEPTH} levels deep")
        if bool(self._open) == (name == "stream"):
            raise _UnexpectedXmlError(f'has the element {quote(name)}, expected "stream" around all other elements')
        if name == "update" and self._open[-1] not in _LISTS:
            raise _UnexpectedXmlError("has a patch outside of a list")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._check(name)
        self._open.append(name)
        self._text = ""
        if name == "update":
            self._patch, self._issues = attributes, []
        elif name == "issue":
            self._issues.append((attributes.get("type", ""), attributes.get("id", "")))
        elif name == "appletinfo":
            self.has_no_repository = True
        elif name in _LISTS:
            self.has_list = True
        elif name == "solvable":
            self.has_package = self.has_package or attributes.get("status") == "installed"
        elif name == "message":
            self._is_error = attributes.get("type") == "error"

    def _collect_text(self, data: str) -> None:
        if self._open and self._open[-1] in _ELEMENTS_WITH_TEXT:
            if len(self._text) < _MAX_TEXT_LENGTH:
                self._text += data[:_MAX_TEXT_LENGTH]
        elif data.strip():
            raise _UnexpectedXmlError(f"has the text {quote(data)}, expected an element")

    def _end(self, name: str) -> None:
        self._open.pop()
        if name == "summary":
            self._patch["summary"] = self._text
        elif name == "message" and self._is_error:
            self._result.fail(f"zypper reports {quote(self._text)}")
        elif name == "update":
            self._add()

    def _add(self) -> None:
        patch = self._patch
        name, is_needed = patch.get("name", ""), _STATUSES.get(patch.get("status", "needed"))
        if is_needed is None:
            raise _UnexpectedXmlError(
                f"has a patch with the status {quote(patch['status'])}, expected {', '.join(_STATUSES)}"
            )
        if patch.get("kind", "patch") != "patch" or not name:
            raise _UnexpectedXmlError(
                f"has an update of the kind {quote(patch.get('kind', ''))}, expected a patch with a name"
            )
        cves = [text for kind, text in self._issues if kind == "cve" and CVE.fullmatch(text)]
        if is_needed and (cves or patch.get("category") not in _OTHER_CATEGORIES):
            severity = severity_of_word(patch.get("severity", ""))
            self._result.add(
                name, "", cves, severity=severity, title=plain(patch.get("summary", "")), advisories=[name]
            )
        if self._result.should_stop:
            raise _UnexpectedXmlError("has too many patches")


class _UnexpectedXmlError(Exception):
    """The document has something that zypper does not print. The message continues "line N …"."""


def read(result: ResultBuilder) -> None:
    """Read the output of zypper."""
    run = result.run
    result.covers(Scope.SYSTEM)
    documents = [run.output[start:end].lstrip() for _, start, end in split_lists(run.output, "")]
    if not documents:
        result.no_output("the XML document of zypper --xmlout list-patches")
        return
    readers = [_PatchListReader(result) for _ in documents]
    broken = [text for reader, text in zip(readers, documents, strict=True) if not reader.read(text)]
    if run.system and run.system.id in _SYSTEMS_WITHOUT_PATCHES:
        result.mark_unsupported(
            f"{run.system.spelled} has no patches, it fixes vulnerabilities with newer versions; use another tool"
        )
    elif any(reader.has_no_repository for reader in readers):
        result.mark_unsupported("no repository of this system has patches: no update repository is set up")
    elif not broken and run.exit_status in _EXIT_STATUSES_WITH_LIST and not any(reader.has_list for reader in readers):
        result.fail("the XML document has no list of patches")
    elif not broken and len(readers) > 1 and not any(reader.has_package for reader in readers):
        result.fail("zypper found no installed packages")
    if not broken:
        result.complete(clean=(0, 100), vulnerable=_EXIT_STATUSES_WITH_LIST)
