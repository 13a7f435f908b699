"""`pkg audit --raw=json` and --raw=json-compact (pkg 1.16 and later).

Nothing found is {"pkg_count": 0}, since libucl leaves out what is null. With -q as well pkg drops all but one issue of
each package (libpkg/pkg_audit.c: stop_quick), which the output does not show: collect without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portspec.audit.tools.freebsd import cves_of, entries_of, fixed_version, scope_of
from portspec.audit.tools.lines import numbered_lines
from portspec.audit.tools.pkg_audit_text import is_fetch, lacks_database
from portspec.audit.tools.tree import read_tree

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft
    from portspec.audit.tools.tree import Node


def read(draft: Draft, start: int) -> None:
    """Read the document that begins at `start`; before it stands at most what -F prints."""
    run = draft.run
    for number, line in numbered_lines(run.output[:start]):
        if not is_fetch(line) and not lacks_database(line):
            draft.strange(number, line, "JSON")
    root = read_tree(run.output, draft, start)
    if root is None:
        return
    draft.covers(scope_of(run.command))
    packages = root.branch("packages")
    count = 0
    for name, package in packages.members():
        count += 1
        issues = 0
        for issue in package.branches("issues", is_required=True):
            issues += 1
            _add(draft, name, package.text("version"), issue)
        said = package.count("issue_count", is_required=True)
        if said != issues:
            draft.fail(f'packages."{name}": issue_count is {said}, but it has {issues} issues')
        if not issues:
            draft.add(name, package.text("version"), ())
    said = root.count("pkg_count", is_required=True)
    if said != count:
        draft.fail(f"pkg_count is {said}, but there are {count} packages")
    draft.end(clean=(0,), found=(1,))


def _add(draft: Draft, name: str, version: str, issue: Node) -> None:
    url = issue.text("url")
    ranges = issue.texts("Affected versions")
    draft.add(
        name,
        version,
        issue.texts("cve") + cves_of(url),
        fixed_in=[fixed for each in ranges if (fixed := fixed_version(each))],
        title=issue.text("description", is_required=True),
        url=url,
        advisories=entries_of(url),
    )
