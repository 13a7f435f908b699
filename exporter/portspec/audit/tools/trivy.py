"""Reads `trivy … --format json`, schema 2.

Exit status 0, or that of --exit-code if something was found; any other is an error. Results and Vulnerabilities are
omitted if they are empty. trivy names the operating system whether it has data for it or not. Only if it has data there
is a result of the class os-pkgs, with or without vulnerabilities (pkg/scan/ospkg/scan.go). Without this result trivy
did not check the packages of the system: it has no data, does not know the system (Arch, Gentoo, NixOS), or was told to
look for something else (--scanners, --pkg-types).

Even with this result trivy may not have checked them. It only lists the packages of CoreOS; with --list-all-pkgs it
lists the packages whatever it looks for; and it takes anything with a file /etc/debian_version for Debian, including
releases that it has no data for ("trixie/sid", "kali-rolling").

trivy does not print the age of its database. For SUSE it prints advisories (SUSE-SU-2024:0123-1), whose CVEs are in the
references.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.coverage import (
    arguments_of,
    compare_system,
    first_option_set,
    is_known_release,
    option_values,
)
from portspec.audit.tools.fields import severity_of_word
from portspec.audit.tools.json_reader import read_json
from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from portspec.audit.tools.json_reader import JsonReader
    from portspec.audit.tools.result import ResultBuilder

_SCHEMA_VERSION: Final = 2
_CLASSES: Final = {"os-pkgs": Scope.SYSTEM, "lang-pkgs": Scope.LANGUAGES}
_EXIT_CODES: Final = range(256)
_ARTIFACTS_OTHER_THAN_HOST: Final = {"container_image": "image", "vm": "virtual machine"}
_SYSTEMS_WITHOUT_DATA: Final = {"coreos", "none"}  # their packages are listed (pkg/detector/ospkg/coreos)
_COLLECTIVE_TARGETS: Final = {"Python", "Conda", "Ruby", "Node.js", "Java"}  # not files (pkg/scan/langpkg/scan.go)
_SEVERITIES: Final = {"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}
_SUSE_PREFIXES: Final = ("SUSE-", "openSUSE-")
_SUSE_CVE_URL = re.compile(r"https?://www\.suse\.com/security/cve/(CVE-[0-9]{4}-[0-9]{4,19})(?:\.html|/)?")
_NO_PACKAGES_MESSAGE: Final = "No OS package is detected"
# How older versions spell the names of systems (pkg/fanal/types/const.go).
_OLD_NAMES: Final = {
    "opensuse.leap": "opensuse-leap",
    "opensuse.tumbleweed": "opensuse-tumbleweed",
    "suse linux enterprise micro": "slem",
    "suse linux enterprise server": "sles",
}
# The IDs of os-release(5) for each of its names of systems.
_OS_RELEASE_IDS: Final = {
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


def read(result: ResultBuilder) -> None:
    """Read the output of trivy."""
    root = read_json(result.run.output, result)
    if root is None:
        return
    if isinstance(root.value, list):
        result.fail(
            "the document is a list, which is trivy's schema 1: use trivy 0.20 or later, or set "
            "TRIVY_NEW_JSON_SCHEMA=true for 0.19"
        )
        return
    schema = root.integer("SchemaVersion", is_required=True)
    if schema is not None and schema != _SCHEMA_VERSION:
        result.fail(f"SchemaVersion is {schema}, expected {_SCHEMA_VERSION}")
    system = root.object("Metadata").object("OS")
    family, release = system.text("Family"), system.text("Name")
    scopes = set()
    for entry in root.objects("Results"):
        scope = _CLASSES.get(entry.text("Class"))
        if scope is not None:
            scopes.add(scope)
            result.covers(scope)
        if scope is Scope.SYSTEM:
            _check_system(result, family, release, entry.text("Type") or family)
        for vulnerability in entry.objects("Vulnerabilities"):
            is_file = scope is not Scope.SYSTEM and entry.text("Target") not in _COLLECTIVE_TARGETS
            target = entry.text("Target") if is_file else ""
            _add(result, vulnerability, vulnerability.text("PkgPath") or target)
    artifact = _ARTIFACTS_OTHER_THAN_HOST.get(root.text("ArtifactType"))
    if artifact and result.run.system and not _is_of_applications(result):
        result.mark_unsupported(f"trivy looked at the {artifact} {quote(root.text('ArtifactName'))}, not at this host")
    _check_options(result)
    _check_scopes(result, f"{family} {release}".strip(), scopes)
    if system.boolean("EOSL"):
        result.mark_inconclusive(f"trivy gets no new vulnerabilities of {family} {release}, which is out of support")
    result.complete(clean=(0,), vulnerable=_EXIT_CODES)


def _check_scopes(result: ResultBuilder, system: str, scopes: set[Scope]) -> None:
    """Check that trivy looked at the packages of the system, unless only applications are meant."""
    if Scope.SYSTEM in scopes or (scopes and _is_of_applications(result)):
        return
    if system:
        result.mark_unsupported(
            f"trivy did not look at the packages of {quote(system)}: it has no data for this system, or is "
            "configured to look for something else"
        )
    elif scopes:
        result.mark_unsupported("trivy did not look at the packages of this system, because it does not know it")
    else:
        result.mark_inconclusive("trivy found neither an operating system nor a list of packages")


def _current_name(family: str) -> str:
    """Return the name of a system as newer versions spell it."""
    return _OLD_NAMES.get(family, family)


def _check_system(result: ResultBuilder, family: str, release: str, listed: str) -> None:
    """Check that trivy has data for a list of packages of a system, and that the system is that of this host.

    `family` is the system that trivy names, `listed` the one that the listed packages belong to.
    """
    system = quote(f"{family} {release}".strip())
    if _NO_PACKAGES_MESSAGE in result.run.errors:
        result.mark_inconclusive(f"trivy found no packages of {system}")
    if result.run.is_of_applications:
        return
    if not family and result.run.system:
        result.mark_unsupported("trivy lists packages of a system without naming the system")
    elif _current_name(listed) != _current_name(family):
        result.mark_unsupported(f"trivy names the system {quote(family)} but lists packages of {quote(listed)}")
    elif family in _SYSTEMS_WITHOUT_DATA or not is_known_release(family, release):
        result.mark_unsupported(f"trivy lists the packages of {system} but has no data for this system")
    compare_system(result, "trivy", _OS_RELEASE_IDS.get(_current_name(family), ()), family, release)


def _check_options(result: ResultBuilder) -> None:
    """Check for options that make trivy look for something else, or hide vulnerabilities."""
    arguments = _arguments(result)
    scanners = ",".join(option_values(arguments, "--scanners", "--security-checks"))
    if scanners and "vuln" not in scanners:
        result.mark_unsupported(f"trivy is configured to look for {quote(scanners)}, not for vulnerabilities (vuln)")
    severities = set(",".join(option_values(arguments, "--severity", "-s")).upper().split(","))
    if severities != {""} and not severities >= _SEVERITIES:
        result.mark_inconclusive("trivy --severity hides other vulnerabilities; run it without this option")
    if option := first_option_set(arguments, "--ignore-unfixed", "--ignore-status"):
        result.mark_inconclusive(f"trivy {option} hides vulnerabilities without updates; run it without this option")


def _is_of_applications(result: ResultBuilder) -> bool:
    """Return whether only applications are meant. trivy has an option for that, which was renamed in 0.51."""
    return result.run.is_of_applications or "library" in option_values(_arguments(result), "--pkg-types", "--vuln-type")


def _arguments(result: ResultBuilder) -> tuple[str, ...]:
    """Return the arguments of trivy, or the whole command if trivy runs in a container ("aquasec/trivy:0.58.1")."""
    return arguments_of(result.run.command, "trivy") or tuple(" ".join(result.run.command).split())


def _add(result: ResultBuilder, vulnerability: JsonReader, path: str) -> None:
    name = vulnerability.text("PkgName", is_required=True)
    first = vulnerability.text("VulnerabilityID", is_required=True)
    if not (name and first):
        return
    cves: list[str] = []
    if first.startswith(_SUSE_PREFIXES):
        cves = [found[1] for each in vulnerability.texts("References") if (found := _SUSE_CVE_URL.fullmatch(each))]
    result.add(
        name,
        vulnerability.text("InstalledVersion"),
        cves or [first],
        severity=severity_of_word(vulnerability.text("Severity")),
        fixed_in=vulnerability.text("FixedVersion").split(","),
        title=vulnerability.text("Title"),
        url=vulnerability.text("PrimaryURL"),
        advisories=[*([first] if cves else []), *vulnerability.texts("VendorIDs")],
        paths=[path],
    )
