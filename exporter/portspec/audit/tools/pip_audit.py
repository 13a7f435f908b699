"""`pip-audit --format json`: an object with "dependencies", in the first versions just their list.

Exit status 0: nothing found, 1: found, or an error, which comes without JSON. Dependencies that it skipped (packages
that are not on PyPI) are not in the audit; one that skipped all, or had none, audited nothing and is failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portspec.audit.model import Scope
from portspec.audit.tools.tree import read_tree

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft


def read(draft: Draft) -> None:
    """Read what pip-audit printed."""
    root = read_tree(draft.run.output, draft)
    if root is None:
        return
    is_old = isinstance(root.value, list)
    audited = skipped = 0
    for package in root.own_branches() if is_old else root.branches("dependencies", is_required=True):
        if package.text("skip_reason"):
            skipped += 1
            continue
        audited += 1
        name, version = package.text("name", is_required=True), package.text("version", is_required=True)
        for vulnerability in package.branches("vulns", is_required=True):
            first = vulnerability.text("id", is_required=True)
            if not (name and first):
                continue
            draft.add(
                name,
                version,
                [first, *vulnerability.texts("aliases")],
                fixed_in=vulnerability.texts("fix_versions"),
                title=vulnerability.text("description").partition("\n")[0],
            )
    draft.covers(Scope.LANGUAGES)
    if not audited:
        draft.doubt(f"pip-audit audited no package and skipped {skipped}")
    draft.end(clean=(0,), found=(1,))
