"""`trivy … --format json`, schema 2.

Exit status 0, or that of --exit-code when something was found; any other is an error. Results and Vulnerabilities are
left out when empty. trivy names the operating system whether it has data for it or not; only if it has, there is a
result of class os-pkgs, with or without vulnerabilities (pkg/scan/ospkg/scan.go). Without one the packages of the
system were not looked at: because it has no data, because it knows no system (Arch, Gentoo, NixOS), or because it was
to look for other things (--scanners, --pkg-types). With one they may not have been looked at either: of CoreOS it only
lists them, with --list-all-pkgs it lists them whatever it was to look for, and it takes anything with a file
/etc/debian_version for Debian, also of a release that it has no data of ("trixie/sid", "kali-rolling").
trivy does not tell the age of its database. Of SUSE it tells advisories (SUSE-SU-2024:0123-1); their CVEs are in the
references.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools import host, severity
from portspec.audit.tools.draft import quote
from portspec.audit.tools.options import first_set, values_of, words_of
from portspec.audit.tools.tree import read_tree

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft
    from portspec.audit.tools.tree import Node

_SCHEMA: Final = 2
_CLASSES: Final = {"os-pkgs": Scope.SYSTEM, "lang-pkgs": Scope.LANGUAGES}
_EXIT_CODES: Final = range(256)
_NOT_A_HOST: Final = {"container_image": "image", "vm": "virtual machine"}
_WITHOUT_DATA: Final = {"coreos", "none"}  # whose packages it lists all the same (pkg/detector/ospkg/coreos)
_SUMS: Final = {"Python", "Conda", "Ruby", "Node.js", "Java"}  # targets that are no file (pkg/scan/langpkg/scan.go)
_SEVERITIES: Final = {"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}
_OF_SUSE: Final = ("SUSE-", "openSUSE-")
_CVE_OF_SUSE = re.compile(r"https?://www\.suse\.com/security/cve/(CVE-[0-9]{4}-[0-9]{4,19})(?:\.html|/)?")
_NO_MESSAGE_OF_PACKAGES: Final = "No OS package is detected"
# Its names of systems as older versions spell them (pkg/fanal/types/const.go), and the IDs of os-release(5) for them.
_OLD_NAMES: Final = {
    "opensuse.leap": "opensuse-leap",
    "opensuse.tumbleweed": "opensuse-tumbleweed",
    "suse linux enterprise micro": "slem",
    "suse linux enterprise server": "sles",
}
_IDS: Final = {
    "alma": ("almalinux",),
    "alpine": ("alpine",),
    "amazon": ("amzn",),
    "azurelinux": ("azurelinux",),
    "bottlerocket": ("bottlerocket",),
    "cbl-mariner": ("mariner",),
    "centos": ("centos", "rhel"),
    "chainguard": ("chainguard",),
    "debian": ("debian",),
    "oracle": ("ol",),
    "opensuse-leap": ("opensuse-leap", "opensuse"),
    "opensuse-tumbleweed": ("opensuse-tumbleweed", "opensuse"),
    "photon": ("photon",),
    "redhat": ("rhel", "centos", "fedora"),
    "rocky": ("rocky",),
    "sles": ("sles", "suse"),
    "ubuntu": ("ubuntu",),
    "wolfi": ("wolfi",),
}


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
        if scope is Scope.SYSTEM:
            _judge_system(draft, family, release, result.text("Type") or family)
        for vulnerability in result.branches("Vulnerabilities"):
            target = "" if scope is Scope.SYSTEM or result.text("Target") in _SUMS else result.text("Target")
            _add(draft, vulnerability, vulnerability.text("PkgPath") or target)
    artifact = _NOT_A_HOST.get(root.text("ArtifactType"))
    if artifact and draft.run.system and not _is_of_applications(draft):
        draft.unsupported(f"trivy looked at the {artifact} {quote(root.text('ArtifactName'))}, not at this host")
    _judge_options(draft)
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


def _modern(family: str) -> str:
    """Give a system's name as newer versions spell it."""
    return _OLD_NAMES.get(family, family)


def _judge_system(draft: Draft, family: str, release: str, listed: str) -> None:
    """Say what a list of a system's packages does not mean: that trivy has data for them, or that they are ours.

    `listed` is the family that the packages are of.
    """
    system = quote(f"{family} {release}".strip())
    if _NO_MESSAGE_OF_PACKAGES in draft.run.errors:
        draft.doubt(f"trivy found no package of {system}")
    if draft.run.is_of_applications:
        return
    if not family and draft.run.system:
        draft.unsupported("trivy lists packages of a system, and does not name it")
    elif _modern(listed) != _modern(family):
        draft.unsupported(f"trivy names the system {quote(family)}, and lists packages of {quote(listed)}")
    elif family in _WITHOUT_DATA or not host.is_release(family, release):
        draft.unsupported(f"trivy lists the packages of {system}, but has no data for this system")
    host.compare(draft, "trivy", _IDS.get(_modern(family), ()), family, release)


def _judge_options(draft: Draft) -> None:
    """Say which vulnerabilities trivy was not to look for, or not to tell."""
    words = _words(draft)
    scanners = ",".join(values_of(words, "--scanners", "--security-checks"))
    if scanners and "vuln" not in scanners:
        draft.unsupported(f"trivy was to look for {quote(scanners)}, not for vulnerabilities (vuln)")
    severities = set(",".join(values_of(words, "--severity", "-s")).upper().split(","))
    if severities != {""} and not severities >= _SEVERITIES:
        draft.doubt("trivy --severity says nothing of other vulnerabilities; run it without")
    if option := first_set(words, "--ignore-unfixed", "--ignore-status"):
        draft.doubt(f"trivy {option} says nothing of vulnerabilities without updates; run it without")


def _is_of_applications(draft: Draft) -> bool:
    """Tell whether only applications are meant: trivy says so with an option, which had another name before 0.51."""
    return draft.run.is_of_applications or "library" in values_of(_words(draft), "--pkg-types", "--vuln-type")


def _words(draft: Draft) -> tuple[str, ...]:
    """Give the options: what follows trivy, or an image of it ("aquasec/trivy:0.58.1") whose name ends otherwise."""
    return words_of(draft.run.command, "trivy") or tuple(" ".join(draft.run.command).split())


def _add(draft: Draft, vulnerability: Node, path: str) -> None:
    name = vulnerability.text("PkgName", is_required=True)
    first = vulnerability.text("VulnerabilityID", is_required=True)
    if not (name and first):
        return
    cves: list[str] = []
    if first.startswith(_OF_SUSE):
        cves = [found[1] for each in vulnerability.texts("References") if (found := _CVE_OF_SUSE.fullmatch(each))]
    draft.add(
        name,
        vulnerability.text("InstalledVersion"),
        cves or [first],
        severity=severity.of_word(vulnerability.text("Severity")),
        fixed_in=vulnerability.text("FixedVersion").split(","),
        title=vulnerability.text("Title"),
        url=vulnerability.text("PrimaryURL"),
        advisories=[*([first] if cves else []), *vulnerability.texts("VendorIDs")],
        paths=[path],
    )
