"""`arch-audit --json` (since version 0.1.20): the advisories of Arch that concern installed packages, as a list.

It downloads them at each run. It ends with 0 whether it lists some or not, and with 1 for an error, without JSON. So
an empty list means that nothing was found; on a system that is not like Arch it means that it has no data.
Source: src/types.rs, struct Avg; https://security.archlinux.org/ has the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portspec.audit.model import Scope
from portspec.audit.tools import severity
from portspec.audit.tools.options import first_set, words_of
from portspec.audit.tools.tree import read_tree

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft

_TRACKER = "https://security.archlinux.org/"


def read(draft: Draft) -> None:
    """Read what arch-audit printed."""
    system = draft.run.system
    if system is None:
        draft.doubt("nothing tells that this is Arch, of whose packages alone arch-audit has data")
    elif not system.is_kin("arch"):
        draft.unsupported(f"arch-audit has no data for packages of {system.spelled}, only for those of Arch")
    if option := first_set(words_of(draft.run.command, "arch-audit"), "--upgradable", "-u", "--dbpath", "-b"):
        draft.doubt(f"arch-audit {option} says nothing of other vulnerabilities; run it without")
    root = read_tree(draft.run.output, draft)
    if root is None:
        return
    if not isinstance(root.value, list):
        root.fail("a list of advisories")
    for advisory in root.own_branches():
        name = advisory.text("name", is_required=True)
        fixed = advisory.text("fixed")
        packages = advisory.texts("packages")
        if not packages:
            advisory.fail("an advisory with packages")
        for package in packages:
            draft.add(
                package,
                "",
                advisory.texts("issues"),
                severity=severity.of_word(advisory.text("severity")),
                fixed_in=[fixed] if fixed else (),
                title=advisory.text("type"),
                url=_TRACKER + name if name else "",
                advisories=[name],
            )
    draft.covers(Scope.SYSTEM)
    draft.end(clean=(0,), found=(0,))
