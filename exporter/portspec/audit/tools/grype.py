"""Reads `grype -o json`.

Exit status 0: the scan completed, whatever it found; 1: error, and until 0.49 also --fail-on, which comes with the
document; 2: --fail-on found a vulnerability; 100: there is a newer database (`grype db check`). The time when the
database was built is in descriptor.db.status.built (schema 6 of the database), descriptor.db.built (schema 5), or
descriptor.db.dataAge (anchore/grype#302). grype rejects a database of more than 5 days.

`distro` is the system that the packages are taken to be of. Without one, packages of a system are not compared with any
data. grype has no data for some systems, and only newer versions say so, in alertsByPackage (distro-eol,
distro-unknown). It takes a derivative for the distribution that it is based on, but with the version of the derivative,
which it has no data for ("ubuntu 21.3" for Linux Mint). A derivative can be recognized by idLike. Newer databases list
the providers that their data comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.coverage import compare_system, has_own_release_numbers, is_known_release
from portspec.audit.tools.fields import parse_timestamp, severity_of_word
from portspec.audit.tools.json_reader import read_json
from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.audit.tools.json_reader import JsonReader
    from portspec.audit.tools.result import ResultBuilder

_TOO_OLD: Final = "max allowed age"
_SYSTEM_PACKAGE_TYPES: Final = {"deb", "rpm", "apk", "alpm", "portage"}  # their path is that of the package database
# The systems of its providers (grype.anchore.io/data-sources), and those that it takes for one of them.
_SYSTEMS_WITH_DATA: Final = frozenset(
    {
        *("almalinux", "alpine", "amazonlinux", "amzn", "azurelinux", "busybox", "centos", "chainguard", "debian"),
        *("echo", "mariner", "minimos", "ol", "oraclelinux", "raspbian", "redhat", "rhel", "rocky", "rockylinux"),
        *("scientific", "scientificlinux", "sles", "ubuntu", "wolfi"),
    }
)
_PROVIDERS: Final = {"archlinux": "arch", "clnstrt": "cleanstart"}  # other providers have the name of the system
_UNSTABLE: Final = "unstable"  # the version for Debian testing and unstable
_SYSTEMS_WITHOUT_VERSIONS: Final = {"archlinux", "busybox", "chainguard", "echo", "minimos", "wolfi"}
_SOURCES_OTHER_THAN_HOST: Final = {"image", "snap", "purl", "cpe"}
# The IDs of os-release(5) for each of its names of systems (grype/distro/type.go).
_OS_RELEASE_IDS: Final = {
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


def read(result: ResultBuilder) -> None:
    """Read the output of grype."""
    run = result.run
    for line in run.errors.splitlines():
        if _TOO_OLD in line:
            result.mark_stale(f"grype reports {quote(line)}")
    if result.is_stale and not run.output.strip():
        return
    root = read_json(run.output, result)
    if root is None:
        return
    for match in root.objects("matches", is_required=True):
        _add(result, match)
    descriptor = root.object("descriptor", is_required=True)
    _read_database(result, descriptor.object("db"))
    _check_coverage(result, root)
    for option in ("only-fixed", "only-notfixed"):
        if descriptor.object("configuration").raw(option) is True:
            result.mark_inconclusive(f"grype --{option} hides other vulnerabilities; run it without this option")
    result.complete(clean=(0,), vulnerable=(0, 1, 2))


def _check_coverage(result: ResultBuilder, root: JsonReader) -> None:
    """Check which packages grype compared with data."""
    result.covers(Scope.LANGUAGES)
    if result.run.is_of_applications:
        return
    source = root.object("source")
    if (kind := source.text("type")) in _SOURCES_OTHER_THAN_HOST and result.run.system:
        named = "an image" if kind == "image" else quote(kind)
        result.mark_unsupported(f"grype looked at {named}, not at this host")
    distro = root.object("distro")
    name, version = distro.text("name"), distro.text("version")
    letters = _letters(name)
    providers = root.object("descriptor").object("db").object("providers")
    has_data = letters in _SYSTEMS_WITH_DATA or providers.raw(_PROVIDERS.get(letters, letters)) is not None
    alerts = {
        kind: quote(alert.text("message"))
        for package in root.objects("alertsByPackage")
        for alert in package.objects("alerts")
        if (kind := alert.text("type")).startswith("distro-")
    }
    spelled = quote(f"{name} {version}".strip())
    if alerts:
        kind, message = next(iter(alerts.items()))
        result.mark_unsupported(f"grype has no data for packages of {spelled} ({kind}: {message})")
    elif not name:
        result.mark_unsupported("grype names no system, so it did not compare the packages of the system with any data")
    elif not (has_data and _has_data_for_release(result, letters, version, distro.texts("idLike"))):
        result.mark_unsupported(f"grype has no data for packages of {spelled}")
    else:
        result.covers(Scope.SYSTEM)
    compare_system(result, "grype", _OS_RELEASE_IDS.get(letters, ()), name, version)


def _has_data_for_release(result: ResultBuilder, name: str, version: str, like: list[str]) -> bool:
    """Return whether grype may have data for a version."""
    if not version:
        return name in _SYSTEMS_WITHOUT_VERSIONS
    if name == "debian" and ("debian" in like or has_own_release_numbers(result)):
        return False  # based on Debian: the version is that of the derivative
    return (name == "debian" and version == _UNSTABLE) or is_known_release(name, version)


def _letters(name: str) -> str:
    """Return the letters of a system's name: grype, syft and os-release(5) separate its parts differently."""
    return "".join(character for character in name.lower() if character.isalpha())


def _add(result: ResultBuilder, match: JsonReader) -> None:
    vulnerability = match.object("vulnerability", is_required=True)
    artifact = match.object("artifact", is_required=True)
    name, first = artifact.text("name", is_required=True), vulnerability.text("id", is_required=True)
    related = [other.text("id") for other in match.objects("relatedVulnerabilities")]
    advisories = [advisory.text("id") for advisory in vulnerability.objects("advisories")]
    if not (name and first):
        return
    urls = vulnerability.texts("urls")
    records = [vulnerability, *match.objects("relatedVulnerabilities")]
    result.add(
        name,
        artifact.text("version"),
        [first, *related],
        severity=severity_of_word(vulnerability.text("severity")),
        fixed_in=vulnerability.object("fix").texts("versions"),
        title=vulnerability.text("description").partition("\n")[0],
        url=vulnerability.text("dataSource") or (urls[0] if urls else ""),
        advisories=advisories,
        paths=() if artifact.text("type") in _SYSTEM_PACKAGE_TYPES else _paths(artifact),
        epss=_epss(records),
        is_exploited=any(record.raw("knownExploited") for record in records),
    )


def _epss(records: Iterable[JsonReader]) -> float | None:
    """Return the highest score of EPSS that newer versions (from 0.92) have beside a vulnerability."""
    lists = [found for record in records if isinstance(found := record.raw("epss"), list)]
    scores = [item.get("epss") for found in lists for item in found if isinstance(item, dict)]
    return max((score for score in scores if isinstance(score, float) and 0.0 <= score <= 1.0), default=None)


def _paths(artifact: JsonReader) -> list[str]:
    """Return the files that it was found in; of a jar in another archive with its path there ("/app.war:lib/x.jar")."""
    paths = [location.text("path") for location in artifact.objects("locations")]
    inner = artifact.object("metadata").raw("virtualPath")
    if isinstance(inner, str):
        paths = [inner if path and inner.startswith(f"{path}:") else path for path in paths]
    return paths


def _read_database(result: ResultBuilder, db: JsonReader) -> None:
    status = db.object("status")
    result.set_database_time(parse_timestamp(status.text("built") or db.text("built") or db.text("dataAge")))
    if status.boolean("valid") is False:
        result.mark_stale(f"grype reports that its database is not valid: {quote(status.text('error'))}")
