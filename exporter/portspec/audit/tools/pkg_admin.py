"""`pkg_admin -v audit -e` of pkgsrc: NetBSD, SmartOS and others; followed by `pkg_info`, as our agent runs them.

It prints a line for each vulnerability of each installed package, and nothing where there is none; with -v it says
that on standard error. A host without a database of packages prints nothing, too, so the packages that are installed
follow. It ends with 1 for a vulnerability as well as for an error, of which it says something on standard error; for
packages past their end of life (-e) with 0 in the first versions and with 1 since then.
Source: pkgtools/pkg_install/files/admin/audit.c 1.1 to 1.18, lib/vulnerabilities-file.c 1.11.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.draft import quote
from portspec.audit.tools.freebsd import cves_of, is_package, split_package
from portspec.audit.tools.lines import ends_whole, numbered_lines
from portspec.audit.tools.options import words_of
from portspec.audit.tools.proof import MARK, proof_of, split_proof

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft

END_MARKER: Final = proof_of("pkg_admin")
PACKAGES: Final = f"{MARK}pkg_info"

_FOUND = re.compile(r"Package (\S{1,300}) has an? (?:ignored )?(\S{1,100}) vulnerability, see (\S{1,500})")
_ENDED = re.compile(r"Package (\S{1,300}) has reached end-of-life \(eol\), see (\S{1,500})")
_INSTALLED = re.compile(r"(\S{1,300}?-[^\s-]{1,100})(?:\s.*)?")
_AGE = re.compile(r"pkg_admin: pkg-vulnerabilities is out of da(?:te|y) \(([0-9]{1,6}) days old\)")
_NO_DATABASE: Final = ("pkg_admin: pkg-vulnerabilities not found", "pkg_admin: Cannot open ")
_HARMLESS: Final = ("pkg_admin: pkg-vulnerabilities is from the future", "pkg_admin: pkg-vulnerabilities is ")
_OTHERS: Final = {"Linux", "FreeBSD", "OpenBSD", "Darwin"}  # whose own packages are not those of pkgsrc
_EXPECTED: Final = 'a line such as "Package … has a … vulnerability, see …"'


def read(draft: Draft) -> None:
    """Read what pkg_admin printed."""
    draft.covers(Scope.SYSTEM)
    system = draft.run.system
    if system is not None and system.kernel in _OTHERS and not draft.run.is_of_applications:
        draft.unsupported(
            f"pkg_admin knows packages of pkgsrc, not those of {system.spelled}; set "
            '"scope = applications" for portspec-send if only these are meant'
        )
    _read_errors(draft)
    words = words_of(draft.run.command, "pkg_admin")
    if words and ("audit" not in words or "-t" in words):
        draft.doubt("pkg_admin was to look at some packages or vulnerabilities only; run `pkg_admin audit` without -t")
    body, is_proven = split_proof(draft.run.output, END_MARKER)
    if not draft.run.output.strip():
        if not draft.is_stale:
            draft.no_output(f"vulnerabilities, or the last line {quote(END_MARKER)}")
        return
    found, installed = _read_lines(draft, body)
    if is_proven and not installed:
        draft.doubt("pkg_info knows no installed package")
    if not is_proven and not (found and ends_whole(body)):
        draft.fail(f"the last line is neither a whole vulnerability nor {quote(END_MARKER)}")
    draft.end(clean=(0,), found=(0, 1))


def _read_errors(draft: Draft) -> None:
    for line in draft.run.errors.splitlines():
        if line.startswith(_NO_DATABASE):
            draft.stale(f"pkg_admin has no database of vulnerabilities: {quote(line)}")
        elif age := _AGE.fullmatch(line):
            draft.database(draft.run.ended_at - int(age[1]) * 86400.0)
        elif line.startswith("pkg_admin: ") and not line.startswith(_HARMLESS):
            draft.doubt(f"pkg_admin says {quote(line)}")


def _read_lines(draft: Draft, body: str) -> tuple[int, int]:
    """Read the vulnerabilities, and after them the installed packages; give how many there are of both."""
    found = installed = 0
    is_in_packages = False
    for number, line in numbered_lines(body):
        if line == PACKAGES and not is_in_packages:
            is_in_packages = True
        elif is_in_packages and _INSTALLED.fullmatch(line):
            installed += 1
        elif not is_in_packages and _add(draft, line):
            found += 1
        else:
            draft.strange(number, line, _EXPECTED)
            if draft.is_lost:
                break
    return found, installed


def _add(draft: Draft, line: str) -> bool:
    """Add what a line tells; tell whether it is one of pkg_admin."""
    if found := _FOUND.fullmatch(line):
        cves = cves_of(found[3])
        draft.add(*split_package(found[1]), cves, title=found[2], url=found[3], advisories=() if cves else [found[3]])
    elif ended := _ENDED.fullmatch(line):
        draft.add(*split_package(ended[1]), (), title="end of life", url=ended[2])
    elif is_package(line):  # as -q prints it
        draft.add(*split_package(line), ())
    else:
        return False
    return True
