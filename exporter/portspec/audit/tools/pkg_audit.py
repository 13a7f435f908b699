"""`pkg audit` of every generation, as text and with --raw=json, and what periodic(8) prints around it.

Exit status 0: nothing found; 1: found, or any error (since 1.16; before, errors had those of sysexits(3)). An error
comes without a summary and without JSON, so that it is not taken for a finding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portspec.audit.tools import pkg_audit_json, pkg_audit_text
from portspec.audit.tools.draft import quote
from portspec.audit.tools.freebsd import KERNELS
from portspec.audit.tools.options import words_of

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft

_ELSEWHERE = ("-j", "-c", "-r", "--jail", "--chroot", "--rootdir")  # before the word audit; after it they are others
_WITH_VALUE = {"-f", "--file"}


def read(draft: Draft) -> None:
    """Read what pkg audit printed."""
    run = draft.run
    if run.system is not None and run.system.kernel not in KERNELS:
        draft.unsupported(f"pkg audit knows packages of FreeBSD, not those of {run.system.spelled}")
    _judge_command(draft)
    for line in run.errors.splitlines():
        if pkg_audit_text.lacks_database(line):
            draft.stale(f"pkg has no database of vulnerabilities: {quote(line)}")
    if not run.output.strip():
        if not draft.is_stale:
            draft.no_output("the report of pkg audit, as text or --raw=json")
        return
    start = 0 if run.output.startswith("{") else max(run.output.find(f"{end}{{") for end in "\n\r") + 1
    if run.output[start] == "{":
        pkg_audit_json.read(draft, start)
    else:
        pkg_audit_text.read(draft)


def _judge_command(draft: Draft) -> None:
    """Say that pkg looked at a jail, or at packages that it was given, and not at all that are installed here."""
    words = words_of(draft.run.command, "pkg")
    if "audit" not in words:
        return
    at = words.index("audit")
    if elsewhere := next((word for word in words[:at] if word.startswith(_ELSEWHERE)), ""):
        draft.unsupported(f"pkg {quote(elsewhere)} looked at a jail or another root, not at this host")
    names = [
        word
        for before, word in zip(words[at:], words[at + 1 :], strict=False)
        if not word.startswith(("-", "FreeBSD-")) and before not in _WITH_VALUE
    ]
    if names:
        draft.doubt(f"pkg audit looked at {quote(names[0])} only, not at all installed packages; run it without names")
