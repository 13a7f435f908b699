"""`grype -o json`.

Exit status 0: the scan ended, whatever it found; 1: error, and until 0.49 also what --fail-on found, which comes with
the document; 2: --fail-on found something bad enough; 100: there is a newer database (`grype db check`). When the
database was built stands in descriptor.db.status.built (its schema 6), or descriptor.db.built (its schema 5), or
descriptor.db.dataAge (anchore/grype#302). grype refuses one of more than 5 days.

`distro` is the system that it took the packages to be of; without one, packages of a system are not compared with the
data of any. For some systems it has no data, and says so only in newer versions, in alertsByPackage (distro-eol,
distro-unknown). A derivative it takes for the system that it is made of, with the version of the derivative, of which
it then has no data ("ubuntu 21.3" for Linux Mint); that it is one can be seen in idLike. Newer databases tell from
which providers they have data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools import host, severity
from portspec.audit.tools.draft import quote
from portspec.audit.tools.moment import read_moment
from portspec.audit.tools.tree import read_tree

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft
    from portspec.audit.tools.tree import Node

_TOO_OLD: Final = "max allowed age"
_OF_SYSTEM: Final = {"deb", "rpm", "apk", "alpm", "portage"}  # their path is that of the package database
# The systems of its providers (grype.anchore.io/data-sources), and those that it takes for one of them.
_WITH_DATA: Final = frozenset(
    {
        *("almalinux", "alpine", "amazonlinux", "amzn", "azurelinux", "busybox", "centos", "chainguard", "debian"),
        *("echo", "mariner", "minimos", "ol", "oraclelinux", "raspbian", "redhat", "rhel", "rocky", "rockylinux"),
        *("scientific", "scientificlinux", "sles", "ubuntu", "wolfi"),
    }
)
_PROVIDERS: Final = {"archlinux": "arch", "clnstrt": "cleanstart"}  # the others have the names of the systems
_UNSTABLE: Final = "unstable"  # what it calls Debian's testing and unstable, which have no version
_WITHOUT_VERSIONS: Final = {"archlinux", "busybox", "chainguard", "echo", "minimos", "wolfi"}
_NOT_A_HOST: Final = {"image", "snap", "purl", "cpe"}
# IDs of os-release(5) for its names of systems (grype/distro/type.go).
_IDS: Final = {
    "almalinux": ("almalinux",),
    "alpine": ("alpine",),
    "amazonlinux": ("amzn",),
    "azurelinux": ("azurelinux",),
    "centos": ("centos",),
    "chainguard": ("chainguard",),
    "debian": ("debian",),
    "mariner": ("mariner",),
    "oraclelinux": ("ol",),
    "raspbian": ("raspbian", "debian"),
    "redhat": ("rhel",),
    "rockylinux": ("rocky",),
    "sles": ("sles", "suse"),
    "ubuntu": ("ubuntu",),
    "wolfi": ("wolfi",),
}


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
    descriptor = root.branch("descriptor", is_required=True)
    _read_database(draft, descriptor.branch("db"))
    _judge_system(draft, root)
    for option in ("only-fixed", "only-notfixed"):
        if descriptor.branch("configuration").peek(option) is True:
            draft.doubt(f"grype --{option} says nothing of other vulnerabilities; run it without")
    draft.end(clean=(0,), found=(0, 1, 2))


def _judge_system(draft: Draft, root: Node) -> None:
    """Say of which packages nothing found means that there is nothing."""
    draft.covers(Scope.LANGUAGES)
    if draft.run.is_of_applications:
        return
    source = root.branch("source")
    if (kind := source.text("type")) in _NOT_A_HOST and draft.run.system:
        draft.unsupported(f"grype looked at {'an image' if kind == 'image' else quote(kind)}, not at this host")
    distro = root.branch("distro")
    name, version = distro.text("name"), distro.text("version")
    letters = _letters(name)
    providers = root.branch("descriptor").branch("db").branch("providers")
    has_data = letters in _WITH_DATA or providers.peek(_PROVIDERS.get(letters, letters)) is not None
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
    elif not (has_data and _has_data_of_release(draft, letters, version, distro.texts("idLike"))):
        draft.unsupported(f"grype has no data for packages of {quote(f'{name} {version}'.strip())}")
    else:
        draft.covers(Scope.SYSTEM)
    host.compare(draft, "grype", _IDS.get(letters, ()), name, version)


def _has_data_of_release(draft: Draft, name: str, version: str, like: list[str]) -> bool:
    """Tell whether a version may be one that grype has data of."""
    if not version:
        return name in _WITHOUT_VERSIONS
    if name == "debian" and ("debian" in like or host.has_own_numbers(draft)):
        return False  # made of Debian: the version is that of the derivative
    return (name == "debian" and version == _UNSTABLE) or host.is_release(name, version)


def _letters(name: str) -> str:
    """Give the letters of a system's name: grype, syft and os-release(5) put different signs between them."""
    return "".join(character for character in name.lower() if character.isalpha())


def _add(draft: Draft, match: Node) -> None:
    vulnerability = match.branch("vulnerability", is_required=True)
    artifact = match.branch("artifact", is_required=True)
    name, first = artifact.text("name", is_required=True), vulnerability.text("id", is_required=True)
    related = [other.text("id") for other in match.branches("relatedVulnerabilities")]
    advisories = [advisory.text("id") for advisory in vulnerability.branches("advisories")]
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
        paths=() if artifact.text("type") in _OF_SYSTEM else _paths(artifact),
    )


def _paths(artifact: Node) -> list[str]:
    """Give all files that it was found in; for a jar within another one also where in that ("/app.war:lib/x.jar")."""
    paths = [location.text("path") for location in artifact.branches("locations")]
    inner = artifact.branch("metadata").peek("virtualPath")
    if isinstance(inner, str):
        paths = [inner if path and inner.startswith(f"{path}:") else path for path in paths]
    return paths


def _read_database(draft: Draft, db: Node) -> None:
    status = db.branch("status")
    built = status.text("built") or db.text("built") or db.text("dataAge")
    moment = read_moment(built)
    draft.database(moment)
    if status.flag("valid") is False:
        draft.stale(f"grype says that its database is not valid: {quote(status.text('error'))}")
