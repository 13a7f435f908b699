"""Reads `osv-scanner --format json` of version 2 and of the first versions, which have packageSource for source.

Exit status 0: nothing found; 1 to 126: found; 127: error; 128: no packages; above: other errors. Packages without
vulnerabilities are listed with --all-packages only.

osv-scanner reads the dpkg status file of Ubuntu but finds nothing in it (google/osv-scanner#1293, open). So "nothing
found" in such a file is failed unless the packages are listed as Debian's. OSV has the packages of a system by release
number ("Debian:12"). "Debian" means all releases; with a code name ("Debian:trixie") nothing is found. The CVEs of a
distribution's own record are in `upstream`, of old records in `aliases`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope, Severity
from portspec.audit.tools.coverage import compare_system, has_own_release_numbers, is_known_release
from portspec.audit.tools.fields import severity_of_score, severity_of_word
from portspec.audit.tools.json_reader import read_json
from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from portspec.audit.tools.json_reader import JsonReader
    from portspec.audit.tools.result import ResultBuilder

_EXIT_STATUSES_IF_FOUND: Final = range(1, 127)
_EXIT_STATUS_NO_PACKAGES: Final = 128
_DPKG_STATUS: Final = "dpkg/status"
_PACKAGE_DATABASES: Final = (_DPKG_STATUS, "apk/db/installed")
_SYSTEM_ECOSYSTEMS: Final = {  # ecosystems of https://ossf.github.io/osv-schema/ that are distributions
    *("AlmaLinux", "Alpine", "Alpaquita", "Chainguard", "Debian", "Echo", "Mageia", "MinimOS"),
    *("Photon OS", "Red Hat", "Rocky Linux", "SUSE", "Ubuntu", "Wolfi", "openEuler", "openSUSE"),
}
# The IDs of os-release(5) for the ecosystems that have a release number in their name.
_OS_RELEASE_IDS: Final = {
    "AlmaLinux": ("almalinux",),
    "Alpine": ("alpine",),
    "Debian": ("debian",),
    "Rocky Linux": ("rocky",),
    "Ubuntu": ("ubuntu",),
}
_RELEASE = re.compile(r"(?:Pro:)?v?[0-9].*")
_DISTRIBUTION_CVE = re.compile(r"[A-Za-z]{2,20}-(CVE-[0-9]{4}-[0-9]{4,19})")  # DEBIAN-CVE-2005-2541
_PACKAGES_FOUND = re.compile(r"found ([0-9]{1,9}) packages?")


def read(result: ResultBuilder) -> None:
    """Read the output of osv-scanner."""
    run = result.run
    if run.exit_status == _EXIT_STATUS_NO_PACKAGES:
        result.fail(
            "osv-scanner found no packages (exit status 128): name a lock file, an SBOM or /var/lib/dpkg/status"
        )
    root = read_json(run.output, result)
    if root is None:
        return
    has_dpkg_status = _DPKG_STATUS in run.errors
    has_findings_in_dpkg_status = False
    dpkg_ecosystems: set[str] = set()
    system_ecosystems: set[str] = set()
    result.covers(Scope.LANGUAGES)
    for entry in root.objects("results", is_required=True):
        source = entry.object("packageSource" if entry.raw("source") is None else "source")
        path = source.text("path")
        is_dpkg_status = path.endswith(_DPKG_STATUS)
        is_of_system = path.endswith(_PACKAGE_DATABASES)
        has_dpkg_status = has_dpkg_status or is_dpkg_status
        for package in entry.objects("packages", is_required=True):
            has_findings = _read_package(result, package, "" if is_of_system else path)
            spelled = package.object("package").text("ecosystem")
            ecosystem, _, release = spelled.partition(":")
            if ecosystem in _SYSTEM_ECOSYSTEMS and spelled not in system_ecosystems:
                system_ecosystems.add(spelled)
                _check_ecosystem(result, ecosystem, release)
            if is_dpkg_status:
                has_findings_in_dpkg_status = has_findings_in_dpkg_status or has_findings
                dpkg_ecosystems.add(ecosystem)
    if has_dpkg_status and not has_findings_in_dpkg_status:
        _check_dpkg_status(result, dpkg_ecosystems)
    if root.raw("image_metadata") is not None and run.system and not run.is_of_applications:
        result.mark_unsupported("osv-scanner looked at an image, not at this host")
    counts = [int(count) for count in _PACKAGES_FOUND.findall(run.errors)]
    if counts and not any(counts):
        result.mark_inconclusive("osv-scanner found no packages")
    result.complete(clean=(0,), vulnerable=_EXIT_STATUSES_IF_FOUND)


def _check_ecosystem(result: ResultBuilder, ecosystem: str, release: str) -> None:
    """Check that OSV has data for a release, and that the release is that of this host."""
    result.covers(Scope.SYSTEM)
    has_data = ecosystem not in _OS_RELEASE_IDS or not release or _RELEASE.fullmatch(release) is not None
    if ecosystem == "Debian" and release:
        has_data = has_data and is_known_release("debian", release) and not has_own_release_numbers(result)
    if not has_data and not result.run.is_of_applications:
        spelled = quote(f"{ecosystem}:{release}")
        result.mark_unsupported(f"OSV has no data for the ecosystem {spelled}, only for releases with a number")
    compare_system(result, "osv-scanner", _OS_RELEASE_IDS.get(ecosystem, ()), ecosystem, release)


def _check_dpkg_status(result: ResultBuilder, ecosystems: set[str]) -> None:
    if "Ubuntu" in ecosystems:
        result.fail(
            "osv-scanner finds nothing in the dpkg status file of Ubuntu (google/osv-scanner#1293); use another tool"
        )
    elif ecosystems != {"Debian"}:
        result.mark_inconclusive(
            "osv-scanner found nothing in the dpkg status file, as is always the case on Ubuntu "
            "(google/osv-scanner#1293), and does not name its system; on Debian add --all-packages, elsewhere use "
            "another tool"
        )


def _read_package(result: ResultBuilder, reader: JsonReader, path: str) -> bool:
    """Add the vulnerabilities of a package, one for each group that counts. Return whether there are any."""
    package = reader.object("package", is_required=True)
    records = {record.text("id", is_required=True): record for record in reader.objects("vulnerabilities")}
    count = 0
    for group in reader.objects("groups"):
        ids = group.texts("ids")
        own = [records.pop(each) for each in ids if each in records]
        if _is_counted(group):
            count += 1
            _add(result, package, [*ids, *group.texts("aliases")], own, group.text("max_severity"), path)
    for each, record in records.items():  # in no group: the first versions have none
        count += 1
        _add(result, package, [each], [record], "", path)
    return count > 0


def _add(
    result: ResultBuilder, package: JsonReader, ids: list[str], records: list[JsonReader], score: str, path: str
) -> None:
    commit = package.text("commit")
    # A git repository, or a library that is identified by its commit only, has no name, so its directory is the name.
    name = package.text("name", is_required=not (commit and path)) or path
    if not (name and any(ids)):
        return
    other_ids = [each for record in records for key in ("aliases", "upstream") for each in record.texts(key)]
    cves = [found[1] for each in ids if (found := _DISTRIBUTION_CVE.fullmatch(each))]
    result.add(
        package.text("os_package_name") or name,
        package.text("version") or commit,
        [*ids, *other_ids, *cves],
        severity=_severity(score, records),
        fixed_in=[fixed for record in records for fixed in _fixed_in(record, name)],
        title=next(filter(None, (record.text("summary") for record in records)), ""),
        url=next(filter(None, map(_url, records)), ""),
        paths=[path],
    )


def _is_counted(group: JsonReader) -> bool:
    """Return whether osv-scanner counts a group for its exit status (pkg/models/results.go).

    It lists but does not count vulnerabilities that the call analysis finds never called, and those that Debian calls
    unimportant.
    """
    analyses = [analysis for _, analysis in group.object("experimental_analysis").members()]
    if not analyses:
        return True
    is_called = any(each.boolean("called") for each in analyses)
    return is_called and not any(each.boolean("unimportant") for each in analyses)


def _severity(score: str, records: list[JsonReader]) -> Severity:
    """Return the severity of the score; without one, that of the word in GitHub's advisories."""
    severity = severity_of_score(score)
    if severity != Severity.UNKNOWN:
        return severity
    for record in records:
        word = record.object("database_specific").raw("severity")
        if isinstance(word, str) and (severity := severity_of_word(word)) != Severity.UNKNOWN:
            return severity
    return Severity.UNKNOWN


def _fixed_in(record: JsonReader, name: str) -> list[str]:
    return [
        fixed
        for affected in record.objects("affected")
        if affected.object("package").text("name") in {"", name}
        for span in affected.objects("ranges")
        if span.text("type") != "GIT"  # the versions of these are commits
        for event in span.objects("events")
        if (fixed := event.text("fixed"))
    ]


def _url(record: JsonReader) -> str:
    return next((each.text("url") for each in record.objects("references") if each.text("type") == "ADVISORY"), "")
