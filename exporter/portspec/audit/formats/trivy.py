"""`trivy … --format json`, schema 2.

Exit status 0, or that of --exit-code when something was found; any other is an error. Results and Vulnerabilities are
left out when empty. trivy names the operating system whether it has data for it or not; only if it has, there is a
result of class os-pkgs, with or without vulnerabilities (pkg/scanner/ospkg/scan.go). Without one the packages of the
system were not looked at: because it has no data, because it knows no system (Arch, Gentoo, NixOS), or because it was
to look for other things (--scanners, --pkg-types). trivy does not tell the age of its database.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from portspec.audit.formats import severity
from portspec.audit.formats.draft import quote
from portspec.audit.formats.tree import read_tree
from portspec.audit.model import Scope

if TYPE_CHECKING:
    from portspec.audit.formats.draft import Draft
    from portspec.audit.formats.tree import Node

_SCHEMA: Final = 2
_CLASSES: Final = {"os-pkgs": Scope.SYSTEM, "lang-pkgs": Scope.LANGUAGES}
_EXIT_CODES: Final = range(256)


def read(draft: Draft) -> None:
    """Read what trivy printed."""
    root = read_tree(draft.run.output, draft)
    if root is None:
        return
    if isinstance(root.value, list):
        draft.fail(
            "the document is a list, which is trivy's schema 1: use trivy 0.20 or later, or set "
            "TRIVY_NEW_JSON_SCHEMA=true for 0.19"
        )
        return
    schema = root.count("SchemaVersion", is_required=True)
    if schema is not None and schema != _SCHEMA:
        draft.fail(f"SchemaVersion is {schema}, expected {_SCHEMA}")
    system = root.branch("Metadata").branch("OS")
    family, release = system.text("Family"), system.text("Name")
    scopes = set()
    for result in root.branches("Results"):
        scope = _CLASSES.get(result.text("Class"))
        if scope is not None:
            scopes.add(scope)
            draft.covers(scope)
        for vulnerability in result.branches("Vulnerabilities"):
            path = vulnerability.text("PkgPath") or (result.text("Target") if scope is not Scope.SYSTEM else "")
            _add(draft, vulnerability, path)
    if root.text("ArtifactType") == "container_image" and draft.run.system and not _is_of_applications(draft):
        draft.unsupported(f"trivy looked at the image {quote(root.text('ArtifactName'))}, not at this host")
    _judge(draft, f"{family} {release}".strip(), scopes)
    if system.flag("EOSL"):
        draft.doubt(f"trivy has no new vulnerabilities for {family} {release}, which is past its support")
    draft.end(clean=(0,), found=_EXIT_CODES)


def _judge(draft: Draft, system: str, scopes: set[Scope]) -> None:
    """Say what nothing found does not mean: of which packages the document does not tell anything."""
    if Scope.SYSTEM in scopes or (scopes and _is_of_applications(draft)):
        return
    if system:
        draft.unsupported(
            f"trivy did not look at the packages of {quote(system)}: it has no data for this system, or was to look "
            "for other things"
        )
    elif scopes:
        draft.unsupported("trivy did not look at the packages of the system, which it does not know")
    else:
        draft.doubt("trivy names neither an operating system nor a list of packages: it had nothing to look at")


def _is_of_applications(draft: Draft) -> bool:
    """Tell whether only applications are meant: trivy says so with an option, which had another name before 0.51."""
    words = " ".join(draft.run.command).replace("=", " ").split()
    options = {"--pkg-types", "--vuln-type"}
    return draft.run.is_of_applications or any(
        option in options and value == "library" for option, value in pairwise(words)
    )


def _add(draft: Draft, vulnerability: Node, path: str) -> None:
    name = vulnerability.text("PkgName", is_required=True)
    first = vulnerability.text("VulnerabilityID", is_required=True)
    if not (name and first):
        return
    draft.add(
        name,
        vulnerability.text("InstalledVersion"),
        [first],
        severity=severity.of_word(vulnerability.text("Severity")),
        fixed_in=vulnerability.text("FixedVersion").split(","),
        title=vulnerability.text("Title"),
        url=vulnerability.text("PrimaryURL"),
        advisories=vulnerability.texts("VendorIDs"),
        path=path,
    )
