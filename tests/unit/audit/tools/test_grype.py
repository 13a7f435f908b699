"""grype: the age of its database, which systems it has data for, and its exit status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from portspec.audit.model import Audit, Scope, Status, System
from portspec.audit.tools import parse
from tests.unit.audit.tools.outputs import KIN_OF_RHEL, grype

DAY = 86400.0
BUILT = "2026-03-01T00:00:00Z"
BUILT_AT = 1772323200.0


def with_database(db: dict[str, Any], ended_at: float = 0.0) -> Audit:
    """Read an output of grype with such a database, at a time."""
    return parse(replace(grype(descriptor={"name": "grype", "db": db}), ended_at=ended_at))


@pytest.mark.parametrize(
    "db",
    [{"status": {"built": BUILT, "valid": True}}, {"built": BUILT, "error": None}, {"dataAge": BUILT, "error": {}}],
)
def test_grype_has_the_time_of_its_database(db: dict[str, Any]) -> None:
    """Each schema has it in another place; the database is stale after 14 days."""
    fresh = with_database(db, BUILT_AT + 14 * DAY)
    assert (fresh.status, fresh.database_at) == (Status.CLEAN, BUILT_AT)
    stale = with_database(db, BUILT_AT + 14 * DAY + 1)
    assert (stale.status, stale.database_at) == (Status.STALE_DATABASE, BUILT_AT)
    assert stale.reason == "the database dates from 2026-03-01 and is 14 days old; update it"


@pytest.mark.parametrize("ended_at", [0.0, -1e300, float("nan"), float("inf")])
def test_invalid_end_time_does_not_make_the_database_stale(ended_at: float) -> None:
    """The age is known only if both times are."""
    assert with_database({"built": BUILT}, ended_at).status == Status.CLEAN


def test_invalid_database_of_grype_is_stale() -> None:
    """The reason quotes grype."""
    audit = with_database({"status": {"built": BUILT, "valid": False, "error": "checksum mismatch"}})
    assert audit.status == Status.STALE_DATABASE
    assert audit.reason == 'grype reports that its database is not valid: "checksum mismatch"'


@pytest.mark.parametrize("built", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "", "yesterday", "9999-99-99"])
def test_placeholder_for_a_missing_time_is_ignored(built: str) -> None:
    """Go's zero time and anything that is not a time have no age."""
    audit = with_database({"built": built}, 1e300)
    assert (audit.status, audit.database_at) == (Status.CLEAN, None)


@pytest.mark.parametrize(
    ("name", "version", "like"),
    [
        ("ubuntu", "21.3", ("ubuntu", "debian")),  # Linux Mint
        ("ubuntu", "17", ("ubuntu", "debian")),  # Zorin
        ("debian", "7", ("debian",)),  # LMDE, made of Debian 13
        ("debian", "2024.1", ("debian",)),  # Kali
        ("debian", "5", ("debian",)),  # Devuan
        ("debian", "", ()),
        ("ubuntu", "", ()),
        ("redhat", "", ()),
        *((name, "1", ()) for name in ("fedora", "archlinux", "gentoo", "opensuse-leap", "nixos")),
    ],
)
def test_grype_without_data_for_the_system_is_unsupported(name: str, version: str, like: tuple[str, ...]) -> None:
    """No provider covers it, or grype looks up a derivative by the derivative's own version, and finds nothing."""
    audit = parse(grype(name, version, like))
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason == f'grype has no data for packages of "{name} {version}'.rstrip() + '"'


def test_grype_that_names_no_system_is_unsupported() -> None:
    """It compares the packages of the system with nothing."""
    audit = parse(grype("", "1"))
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason.startswith("grype names no system")


@pytest.mark.parametrize(
    ("name", "version", "system"),
    [
        ("almalinux", "9.4", System("Linux", "almalinux", KIN_OF_RHEL, "9.4")),
        ("alpine", "3.20", System("Linux", "alpine", (), "3.20.1")),
        ("amazonlinux", "2", System("Linux", "amzn", ("centos", "rhel", "fedora"), "2")),
        ("debian", "unstable", System("Linux", "debian")),
        ("oraclelinux", "9.4", System("Linux", "ol", ("fedora",), "9.4")),
        ("raspbian", "12", System("Linux", "raspbian", ("debian",), "12")),
        ("redhat", "8.9", System("Linux", "cloudlinux", KIN_OF_RHEL, "8.9")),
        ("rockylinux", "9.4", System("Linux", "rocky", KIN_OF_RHEL, "9.4")),
        ("rocky-linux", "9.4", System("Linux", "rocky", KIN_OF_RHEL, "9.4")),
        ("sles", "15.5", System("Linux", "sles_sap", ("suse",), "15.5")),
        ("ubuntu", "22.04", System("Linux", "pop", ("ubuntu", "debian"), "22.04")),
        ("ubuntu", "24.04", System("Linux", "ubuntu", ("debian",), "24.04")),
        ("wolfi", "20230201", System("Linux", "wolfi", (), "20230201")),
    ],
)
def test_grype_on_systems_with_data_is_clean(name: str, version: str, system: System) -> None:
    """The name may have hyphens; derivatives may keep the version of the distribution they are based on."""
    audit = parse(grype(name, version, system.like, system))
    assert (audit.status, audit.reason, audit.scopes) == (Status.CLEAN, "", (Scope.SYSTEM, Scope.LANGUAGES))


@pytest.mark.parametrize(("name", "provider"), [("photon", "photon"), ("fedora", "fedora"), ("archlinux", "arch")])
def test_grype_has_data_for_the_providers_in_its_database(name: str, provider: str) -> None:
    """A newer database may list providers for systems that the reader does not know."""
    descriptor = {"name": "grype", "db": {"providers": {provider: {"captured": "2026-11-01T00:00:00Z"}}}}
    assert parse(grype(name, "41", descriptor=descriptor)).status == Status.CLEAN
    assert parse(grype(name, "41")).status == Status.UNSUPPORTED


@pytest.mark.parametrize("kind", ["distro-eol", "distro-unknown", "distro-disabled"])
def test_grype_with_an_alert_about_the_system_is_unsupported(kind: str) -> None:
    """Every kind of alert about the distribution of a package counts."""
    alerts = [{"package": {"name": "bash"}, "alerts": [{"type": kind, "message": "too old"}]}]
    audit = parse(grype("debian", "9", alertsByPackage=alerts))
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason == f'grype has no data for packages of "debian 9" ({kind}: "too old")'


def test_grype_with_fail_on_is_vulnerable() -> None:
    """--fail-on exits with 2, in older versions with 1; without a vulnerability 1 is an error."""
    match = {"vulnerability": {"id": "CVE-2024-1"}, "artifact": {"name": "bash", "version": "5"}}
    for status in (0, 1, 2):
        assert parse(replace(grype(matches=[match]), exit_status=status)).status == Status.VULNERABLE
    assert parse(replace(grype(), exit_status=1)).status == Status.FAILED


@pytest.mark.parametrize("option", ["only-fixed", "only-notfixed"])
def test_grype_with_options_that_hide_vulnerabilities_is_failed(option: str) -> None:
    """The output of grype has its configuration."""
    for is_set, status in ((True, Status.FAILED), (False, Status.CLEAN)):
        assert parse(grype(descriptor={"name": "grype", "configuration": {option: is_set}})).status == status
