"""The output of any audit tool → one normal form. Pure: no clock, no files, and no output makes it raise."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Audit, Status
from portspec.audit.tools import (
    apk,
    apt,
    arch_audit,
    debsecan,
    dnf,
    grype,
    osv_scanner,
    pip_audit,
    pkg_admin,
    pkg_audit,
    portaudit,
    trivy,
    ubuntu_pro,
    zypper,
)
from portspec.audit.tools.draft import Draft, quote
from portspec.audit.tools.merge import merge
from portspec.audit.tools.moment import read_moment
from portspec.audit.tools.proof import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portspec.audit.model import ToolRun

_READERS: Final[Mapping[str, Callable[[Draft], None]]] = MappingProxyType(
    {
        "portaudit": portaudit.read,
        "pkg-audit": pkg_audit.read,
        "debsecan": debsecan.read,
        "osv-scanner": osv_scanner.read,
        "trivy": trivy.read,
        "grype": grype.read,
        "pip-audit": pip_audit.read,
        "ubuntu-pro": ubuntu_pro.read,
        "apt": apt.read,
        "arch-audit": arch_audit.read,
        "pkg-admin": pkg_admin.read,
        "apk": apk.read,
        "dnf": dnf.read,
        "zypper": zypper.read,
    }
)
TOOLS: Final = tuple(_READERS)
_DATABASE_OF: Final = f"{MARK}database of "
_LONGEST_TIME: Final = 64  # characters


def parse(*runs: ToolRun) -> Audit:
    """Read the output of the tools that ran on a host, each of them one of TOOLS; any other is unsupported.

    What is not understood to the last line, or contradicts itself or the exit status, is failed, with a reason that
    says what was expected and where; what was found on the way is kept. No output is never clean. A database of more
    than 14 days is stale, and so is a missing one; if vulnerabilities were found all the same it is vulnerable, with
    the reason telling of the database. It is clean only if the packages of the system were looked at (see merge()), and
    unsupported if the tool has no data for them. How old the database is the agent may tell as well, in the first line
    of what the tool wrote to standard error. Takes time linear in the length of the output.
    """
    return merge(runs, [_parse(run) for run in runs])


def _parse(run: ToolRun) -> Audit:
    reader = _READERS.get(run.tool)
    if reader is None:
        return Audit(Status.UNSUPPORTED, reason=f"the tool {quote(run.tool)} is not known, expected {', '.join(TOOLS)}")
    draft = Draft(run)
    first = run.errors[: len(_DATABASE_OF) + _LONGEST_TIME].partition("\n")[0]
    if first.startswith(_DATABASE_OF):
        draft.database(read_moment(first.removeprefix(_DATABASE_OF)))
    reader(draft)
    return draft.audit()
