"""`grype -o json`.

Exit status 0: the scan ended, whatever it found; 1: error, and until 0.49 also what --fail-on found, which comes with
the document; 2: --fail-on found something bad enough; 100: there is a newer database (`grype db check`). When the
database was built stands in descriptor.db.status.built (its schema 6), or descriptor.db.built (its schema 5), or
descriptor.db.dataAge (anchore/grype#302). grype refuses one of more than 5 days.

`distro` is the system that it took the packages to be of; without one, packages of a system are not compared with the
data of any. For some systems it has no data, and says so only in newer versions, in alertsByPackage (distro-eol,
distro-unknown).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.audit.formats import severity
from portspec.audit.formats.draft import quote
from portspec.audit.formats.moment import read_moment
from portspec.audit.formats.tree import read_tree
from portspec.audit.model import Scope

if TYPE_CHECKING:
    from portspec.audit.formats.draft import Draft
    from portspec.audit.formats.tree import Node

_TOO_OLD: Final = "max allowed age"
_OF_SYSTEM: Final = {"deb", "rpm", "apk", "alpm", "portage"}  # their path is that of the package database
# The systems of its providers (grype.anchore.io/data-sources), and those that it takes for one of them.
_WITH_DATA: Final = frozenset(
    {
        *("almalinux", "alpine", "amazonlinux", "amzn", "azurelinux", "busybox", "centos", "chainguard", "debian"),
        *("echo", "mariner", "minimos", "ol", "oraclelinux", "raspbian", "redhat", "rhel", "rocky", "rockylinux"),
        *("sles", "ubuntu", "wolfi"),
    }
)


def read(draft: Draft) -> None:
    """Read what grype printed."""
    run = draft.run
    for line in run.errors.splitlines():
        if _TOO_OLD in line:
            draft.stale(f"grype says {quote(line)}")
    if draft.is_stale and not run.output.strip():
        return
    root = read_tree(run.output, draft)
    if root is None:
        return
    for match in root.branches("matches", is_required=True):
        _add(draft, match)
    _read_database(draft, root.branch("descriptor", is_required=True).branch("db"))
    _judge_system(draft, root)
    draft.end(clean=(0,), found=(0, 1, 2))


def _judge_system(draft: Draft, root: Node) -> None:
    """Say of which packages nothing found means that there is nothing."""
    draft.covers(Scope.LANGUAGES)
    if draft.run.is_of_applications:
        return
    source = root.branch("source")
    if source.text("type") == "image" and draft.run.system:
        draft.unsupported("grype looked at an image, not at this host")
    distro = root.branch("distro")
    name, version = distro.text("name"), distro.text("version")
    kinds = {
        kind: quote(alert.text("message"))
        for package in root.branches("alertsByPackage")
        for alert in package.branches("alerts")
        if (kind := alert.text("type")).startswith("distro-")
    }
    if kinds:
        kind, message = next(iter(kinds.items()))
        draft.unsupported(f"grype has no data for packages of {quote(f'{name} {version}'.strip())} ({kind}: {message})")
    elif not name:
        draft.unsupported("grype names no system: it did not compare its packages with the data of any")
    elif _letters(name) not in _WITH_DATA:
        draft.unsupported(f"grype has no data for packages of {quote(f'{name} {version}'.strip())}")
    else:
        draft.covers(Scope.SYSTEM)


def _letters(name: str) -> str:
    """Give the letters of a system's name: grype, syft and os-release(5) put different signs between them."""
    return "".join(character for character in name.lower() if character.isalpha())


def _add(draft: Draft, match: Node) -> None:
    vulnerability = match.branch("vulnerability", is_required=True)
    artifact = match.branch("artifact", is_required=True)
    name, first = artifact.text("name", is_required=True), vulnerability.text("id", is_required=True)
    related = [other.text("id") for other in match.branches("relatedVulnerabilities")]
    advisories = [advisory.text("id") for advisory in vulnerability.branches("advisories")]
    paths = [location.text("path") for location in artifact.branches("locations")]
    if not (name and first):
        return
    urls = vulnerability.texts("urls")
    draft.add(
        name,
        artifact.text("version"),
        [first, *related],
        severity=severity.of_word(vulnerability.text("severity")),
        fixed_in=vulnerability.branch("fix").texts("versions"),
        title=vulnerability.text("description").partition("\n")[0],
        url=vulnerability.text("dataSource") or (urls[0] if urls else ""),
        advisories=advisories,
        path="" if artifact.text("type") in _OF_SYSTEM else next(iter(paths), ""),
    )


def _read_database(draft: Draft, db: Node) -> None:
    status = db.branch("status")
    built = status.text("built") or db.text("built") or db.text("dataAge")
    moment = read_moment(built)
    draft.database(moment)
    if status.flag("valid") is False:
        draft.stale(f"grype says that its database is not valid: {quote(status.text('error'))}")
