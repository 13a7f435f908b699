"""Reads `arch-audit --json` (since version 0.1.20): a list of the advisories of Arch for the installed packages.

arch-audit downloads the advisories at each run. It exits with 0 whether it lists some or not; with 1 on an error,
without JSON. So an empty list means that nothing was found, or, on a system that is not based on Arch, that it has no
data. Source: src/types.rs, struct Avg; https://security.archlinux.org/ uses the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.coverage import arguments_of, first_option_set
from portspec.audit.tools.fields import severity_of_word
from portspec.audit.tools.json_reader import read_json

if TYPE_CHECKING:
    from portspec.audit.tools.result import ResultBuilder

_TRACKER: Final = "https://security.archlinux.org/"


def read(result: ResultBuilder) -> None:
    """Read the output of arch-audit."""
    system = result.run.system
    if system is None:
        result.mark_inconclusive("the audit does not name the system of this host; arch-audit only has data for Arch")
    elif not system.is_kin("arch"):
        result.mark_unsupported(f"arch-audit only has data for packages of Arch, not of {system.spelled}")
    arguments = arguments_of(result.run.command, "arch-audit")
    if option := first_option_set(arguments, "--upgradable", "-u", "--dbpath", "-b"):
        result.mark_inconclusive(f"arch-audit {option} does not list all vulnerabilities; run it without this option")
    root = read_json(result.run.output, result)
    if root is None:
        return
    if not isinstance(root.value, list):
        root.fail("a list of advisories")
    for advisory in root.elements():
        name = advisory.text("name", is_required=True)
        fixed = advisory.text("fixed")
        packages = advisory.texts("packages")
        if not packages:
            advisory.fail("an advisory with packages")
        for package in packages:
            result.add(
                package,
                "",
                advisory.texts("issues"),
                severity=severity_of_word(advisory.text("severity")),
                fixed_in=[fixed] if fixed else (),
                title=advisory.text("type"),
                url=_TRACKER + name if name else "",
                advisories=[name],
            )
    result.covers(Scope.SYSTEM)
    result.complete(clean=(0,), vulnerable=(0,))
