"""`osv-scanner --format json`, version 2, and the first versions, which say packageSource for source.

Exit status 0: nothing found, 1 to 126: found, 127: error, 128: no packages, above: other errors. Packages without
vulnerabilities are only listed with --all-packages. osv-scanner reads the dpkg status file of Ubuntu, but finds nothing
in it (google/osv-scanner#1293, open), so that nothing found there is failed unless the packages are listed as Debian's.
OSV has the packages of a system by the number of its release ("Debian:12"); "Debian" stands for all of them, and with a
code name ("Debian:trixie") it finds nothing. The CVEs that a system's own record is about stand in `upstream`, of old
ones in `aliases`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope, Severity
from portspec.audit.tools import host, severity
from portspec.audit.tools.draft import quote
from portspec.audit.tools.tree import read_tree

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft
    from portspec.audit.tools.tree import Node

_EXIT_STATUSES: Final = range(1, 127)
_NO_PACKAGES: Final = 128
_STATUS_FILE: Final = "dpkg/status"
_LISTS: Final = (_STATUS_FILE, "apk/db/installed")
_OF_SYSTEMS: Final = {  # ecosystems of https://ossf.github.io/osv-schema/ that are distributions
    *("AlmaLinux", "Alpine", "Alpaquita", "Chainguard", "Debian", "Echo", "Mageia", "MinimOS"),
    *("Photon OS", "Red Hat", "Rocky Linux", "SUSE", "Ubuntu", "Wolfi", "openEuler", "openSUSE"),
}
# IDs of os-release(5) for its ecosystems; these have a number in the name of each release.
_IDS: Final = {
    "AlmaLinux": ("almalinux",),
    "Alpine": ("alpine",),
    "Debian": ("debian",),
    "Rocky Linux": ("rocky",),
    "Ubuntu": ("ubuntu",),
}
_RELEASE = re.compile(r"(?:Pro:)?v?[0-9].*")
_OWN_CVE = re.compile(r"[A-Za-z]{2,20}-(CVE-[0-9]{4}-[0-9]{4,19})")  # DEBIAN-CVE-2005-2541
_COUNT = re.compile(r"found ([0-9]{1,9}) packages?")


def read(draft: Draft) -> None:
    """Read what osv-scanner printed."""
    run = draft.run
    if run.exit_status == _NO_PACKAGES:
        draft.fail("osv-scanner found no packages (exit status 128): name a lock file, an SBOM or /var/lib/dpkg/status")
    root = read_tree(run.output, draft)
    if root is None:
        return
    has_status_file = _STATUS_FILE in run.errors
    has_findings_in_it = False
    ecosystems: set[str] = set()
    of_system: set[str] = set()
    draft.covers(Scope.LANGUAGES)
    for result in root.branches("results", is_required=True):
        source = result.branch("packageSource" if result.peek("source") is None else "source")
        path = source.text("path")
        is_status_file = path.endswith(_STATUS_FILE)
        is_of_system = path.endswith(_LISTS)
        has_status_file = has_status_file or is_status_file
        for package in result.branches("packages"):
            has_findings = _read_package(draft, package, "" if is_of_system else path)
            spelled = package.branch("package").text("ecosystem")
            ecosystem, _, release = spelled.partition(":")
            if ecosystem in _OF_SYSTEMS and spelled not in of_system:
                of_system.add(spelled)
                _judge_ecosystem(draft, ecosystem, release)
            if is_status_file:
                has_findings_in_it = has_findings_in_it or has_findings
                ecosystems.add(ecosystem)
    if has_status_file and not has_findings_in_it:
        _judge_status_file(draft, ecosystems)
    if root.peek("image_metadata") is not None and run.system and not run.is_of_applications:
        draft.unsupported("osv-scanner looked at an image, not at this host")
    counts = [int(count) for count in _COUNT.findall(run.errors)]
    if counts and not any(counts):
        draft.doubt("osv-scanner found no packages in what it scanned")
    draft.end(clean=(0,), found=_EXIT_STATUSES)


def _judge_ecosystem(draft: Draft, ecosystem: str, release: str) -> None:
    """Say of packages of a system that OSV has no data for their release, or that they are not those of this host."""
    draft.covers(Scope.SYSTEM)
    is_known = ecosystem not in _IDS or not release or _RELEASE.fullmatch(release) is not None
    if ecosystem == "Debian" and release:
        is_known = is_known and host.is_release("debian", release) and not host.has_own_numbers(draft)
    if not is_known and not draft.run.is_of_applications:
        spelled = quote(f"{ecosystem}:{release}")
        draft.unsupported(f"OSV has no data for the ecosystem {spelled}, only for releases with their number")
    host.compare(draft, "osv-scanner", _IDS.get(ecosystem, ()), ecosystem, release)


def _judge_status_file(draft: Draft, ecosystems: set[str]) -> None:
    if "Ubuntu" in ecosystems:
        draft.fail(
            "osv-scanner finds nothing in the dpkg status file of Ubuntu (google/osv-scanner#1293); use another tool"
        )
    elif ecosystems != {"Debian"}:
        draft.doubt(
            "osv-scanner found nothing in the dpkg status file, as always in Ubuntu's (google/osv-scanner#1293), and "
            "does not say whose it is; on Debian add --all-packages, elsewhere use another tool"
        )


def _read_package(draft: Draft, node: Node, path: str) -> bool:
    """Read the vulnerabilities of a package, one for each group that counts; tell whether there are any."""
    package = node.branch("package", is_required=True)
    records = {record.text("id", is_required=True): record for record in node.branches("vulnerabilities")}
    count = 0
    for group in node.branches("groups"):
        ids = group.texts("ids")
        own = [records.pop(each) for each in ids if each in records]
        if _counts(group):
            count += 1
            _add(draft, package, [*ids, *group.texts("aliases")], own, group.text("max_severity"), path)
    for each, record in records.items():  # in no group: the first versions have none
        count += 1
        _add(draft, package, [each], [record], "", path)
    return count > 0


def _add(draft: Draft, package: Node, ids: list[str], records: list[Node], score: str, path: str) -> None:
    commit = package.text("commit")
    # A repository of git, or a library that is known by its commit alone, has no name but the one of its directory.
    name = package.text("name", is_required=not (commit and path)) or path
    if not (name and any(ids)):
        return
    named = [each for record in records for key in ("aliases", "upstream") for each in record.texts(key)]
    own = [found[1] for each in ids if (found := _OWN_CVE.fullmatch(each))]
    draft.add(
        package.text("os_package_name") or name,
        package.text("version") or commit,
        [*ids, *named, *own],
        severity=_severity(score, records),
        fixed_in=[fixed for record in records for fixed in _fixed_in(record, name)],
        title=next(filter(None, (record.text("summary") for record in records)), ""),
        url=next(filter(None, map(_url, records)), ""),
        paths=[path],
    )


def _counts(group: Node) -> bool:
    """Tell whether osv-scanner counts a group for its exit status (pkg/models/results.go).

    It lists, but does not count, what the call analysis finds never called and what Debian calls unimportant.
    """
    analyses = [analysis for _, analysis in group.branch("experimental_analysis").members()]
    if not analyses:
        return True
    return any(each.flag("called") for each in analyses) and not any(each.flag("unimportant") for each in analyses)


def _severity(score: str, records: list[Node]) -> Severity:
    """Give the severity of the score, or without one that of the word that GitHub's advisories have."""
    found = severity.of_score(score)
    if found != Severity.UNKNOWN:
        return found
    for record in records:
        word = record.branch("database_specific").peek("severity")
        if isinstance(word, str) and (found := severity.of_word(word)) != Severity.UNKNOWN:
            return found
    return Severity.UNKNOWN


def _fixed_in(record: Node, name: str) -> list[str]:
    return [
        fixed
        for affected in record.branches("affected")
        if affected.branch("package").text("name") in {"", name}
        for span in affected.branches("ranges")
        if span.text("type") != "GIT"  # their versions are commits
        for event in span.branches("events")
        if (fixed := event.text("fixed"))
    ]


def _url(record: Node) -> str:
    return next((each.text("url") for each in record.branches("references") if each.text("type") == "ADVISORY"), "")
