"""Reads `pip-audit --format json`: an object with "dependencies"; in the first versions only their list.

Exit status 0: nothing found; 1: found, or an error, which comes without JSON. Dependencies that pip-audit skipped
(packages that are not on PyPI) are not audited. If it skipped all, or had none, the result is failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portspec.audit.model import Scope
from portspec.audit.tools.json_reader import read_json

if TYPE_CHECKING:
    from portspec.audit.tools.result import ResultBuilder


def read(result: ResultBuilder) -> None:
    """Read the output of pip-audit."""
    root = read_json(result.run.output, result)
    if root is None:
        return
    is_old = isinstance(root.value, list)
    audited = skipped = 0
    for package in root.elements() if is_old else root.objects("dependencies", is_required=True):
        if package.text("skip_reason"):
            skipped += 1
            continue
        audited += 1
        name, version = package.text("name", is_required=True), package.text("version", is_required=True)
        for vulnerability in package.objects("vulns", is_required=True):
            first = vulnerability.text("id", is_required=True)
            if not (name and first):
                continue
            result.add(
                name,
                version,
                [first, *vulnerability.texts("aliases")],
                fixed_in=vulnerability.texts("fix_versions"),
                title=vulnerability.text("description").partition("\n")[0],
            )
    result.covers(Scope.LANGUAGES)
    if not audited:
        result.mark_inconclusive(f"pip-audit audited no packages and skipped {skipped}")
    result.complete(clean=(0,), vulnerable=(1,))
