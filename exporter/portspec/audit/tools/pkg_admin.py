"""Reads `pkg_admin -v audit -e` of pkgsrc (NetBSD, SmartOS and others), followed by `pkg_info`, as the agent runs them.

pkg_admin prints a line for each vulnerability of each installed package, and nothing if there is none; with -v it says
so on standard error. It also prints nothing on a host without a package database, so the output of pkg_info shows that
there are packages. It exits with 1 for a vulnerability as well as for an error, which it describes on standard error.
For packages past their end of life (-e) the first versions exit with 0, later ones with 1.
Source: pkgtools/pkg_install/files/admin/audit.c 1.1 to 1.18, lib/vulnerabilities-file.c 1.11.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.coverage import arguments_of
from portspec.audit.tools.fields import find_cves, is_name_version, split_name_version
from portspec.audit.tools.output import (
    AGENT_PREFIX,
    end_marker_of,
    ends_with_newline,
    numbered_lines,
    split_end_marker,
)
from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from portspec.audit.tools.result import ResultBuilder

END_MARKER: Final = end_marker_of("pkg_admin")
PACKAGES: Final = f"{AGENT_PREFIX}pkg_info"

_VULNERABLE = re.compile(r"Package (\S{1,300}) has an? (?:ignored )?(\S{1,100}) vulnerability, see (\S{1,500})")
_END_OF_LIFE = re.compile(r"Package (\S{1,300}) has reached end-of-life \(eol\), see (\S{1,500})")
_INSTALLED = re.compile(r"(\S{1,300}?-[^\s-]{1,100})(?:\s.*)?")
_AGE = re.compile(r"pkg_admin: pkg-vulnerabilities is out of da(?:te|y) \(([0-9]{1,6}) days old\)")
_NO_DATABASE: Final = ("pkg_admin: pkg-vulnerabilities not found", "pkg_admin: Cannot open ")
_HARMLESS: Final = ("pkg_admin: pkg-vulnerabilities is from the future", "pkg_admin: pkg-vulnerabilities is ")
_KERNELS_WITHOUT_PKGSRC: Final = {"Linux", "FreeBSD", "OpenBSD", "Darwin"}  # the system's own packages are others
_EXPECTED: Final = 'a line such as "Package … has a … vulnerability, see …"'


def read(result: ResultBuilder) -> None:
    """Read the output of pkg_admin."""
    result.covers(Scope.SYSTEM)
    system = result.run.system
    if system is not None and system.kernel in _KERNELS_WITHOUT_PKGSRC and not result.run.is_of_applications:
        result.mark_unsupported(
            f"pkg_admin only knows packages of pkgsrc, not of {system.spelled}; set "
            '"scope = applications" for portspec-send to audit only these'
        )
    _read_errors(result)
    arguments = arguments_of(result.run.command, "pkg_admin")
    if arguments and ("audit" not in arguments or "-t" in arguments):
        result.mark_inconclusive(
            "pkg_admin looked for some packages or vulnerabilities only; run `pkg_admin audit` without -t"
        )
    body, has_end_marker = split_end_marker(result.run.output, END_MARKER)
    if not result.run.output.strip():
        if not result.is_stale:
            result.no_output(f"vulnerabilities, or the last line {quote(END_MARKER)}")
        return
    found, installed = _read_lines(result, body)
    if has_end_marker and not installed:
        result.mark_inconclusive("pkg_info lists no installed packages")
    if not has_end_marker and not (found and ends_with_newline(body)):
        result.fail(f"the last line is neither a complete vulnerability nor {quote(END_MARKER)}")
    result.complete(clean=(0,), vulnerable=(0, 1))


def _read_errors(result: ResultBuilder) -> None:
    for line in result.run.errors.splitlines():
        if line.startswith(_NO_DATABASE):
            result.mark_stale(f"pkg_admin has no vulnerability database: {quote(line)}")
        elif age := _AGE.fullmatch(line):
            result.set_database_time(result.run.ended_at - int(age[1]) * 86400.0)
        elif line.startswith("pkg_admin: ") and not line.startswith(_HARMLESS):
            result.mark_inconclusive(f"pkg_admin reports {quote(line)}")


def _read_lines(result: ResultBuilder, body: str) -> tuple[int, int]:
    """Read the vulnerabilities and then the installed packages. Return the number of both."""
    found = installed = 0
    is_in_packages = False
    for number, line in numbered_lines(body):
        if line == PACKAGES and not is_in_packages:
            is_in_packages = True
        elif is_in_packages and _INSTALLED.fullmatch(line):
            installed += 1
        elif not is_in_packages and _add(result, line):
            found += 1
        else:
            result.unexpected_line(number, line, _EXPECTED)
            if result.should_stop:
                break
    return found, installed


def _add(result: ResultBuilder, line: str) -> bool:
    """Add the vulnerability in a line. Return whether there is one."""
    if found := _VULNERABLE.fullmatch(line):
        cves = find_cves(found[3])
        advisories = () if cves else [found[3]]
        result.add(*split_name_version(found[1]), cves, title=found[2], url=found[3], advisories=advisories)
    elif ended := _END_OF_LIFE.fullmatch(line):
        result.add(*split_name_version(ended[1]), (), title="end of life", url=ended[2])
    elif is_name_version(line):  # as printed with -q
        result.add(*split_name_version(line), ())
    else:
        return False
    return True
