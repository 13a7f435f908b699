"""Tools that list security updates, not vulnerabilities: what counts as vulnerable, and when "no updates" is clean."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from portspec.audit.model import Audit, Status, System, ToolRun, count_by_severity
from portspec.audit.tools import parse

JAMMY: Final = System("Linux", "ubuntu", ("debian",), "22.04")
AT: Final = 1_700_000_000.0
POCKET: Final = "http://security.ubuntu.com/ubuntu jammy-security/main amd64 Packages"
UPDATES: Final = "http://archive.ubuntu.com/ubuntu jammy-updates/main amd64 Packages"
ESM: Final = "https://esm.ubuntu.com/infra/ubuntu jammy-infra-security/main amd64 Packages"
RELEASES: Final = {
    POCKET: "v=22.04,o=Ubuntu,a=jammy-security,n=jammy,l=Ubuntu,c=main,b=amd64",
    UPDATES: "v=22.04,o=Ubuntu,a=jammy-updates,n=jammy,l=Ubuntu,c=main,b=amd64",
    ESM: "v=22.04,o=UbuntuESM,a=jammy-infra-security,n=jammy,l=UbuntuESM,c=main,b=amd64",
}


def table(name: str, installed: str, *newer: tuple[str, str]) -> str:
    """Return the version table of a package, with the versions above the installed one and their sources."""
    rows = "".join(f"     {version} 500\n        500 {source}\n" for version, source in newer)
    head = f"{name}:\n  Installed: {installed}\n  Candidate: {installed}\n  Version table:\n"
    return f"{head}{rows} *** {installed} 100\n        100 /var/lib/dpkg/status\n"


def apt(tables: str, sources: tuple[str, ...] = (POCKET, UPDATES), **fields: Any) -> ToolRun:
    """Return a run of apt."""
    rows = "".join(f" 500 {source}\n     release {RELEASES[source]}\n     origin e.org\n" for source in sources)
    output = (
        f"{tables}# portspec: apt-cache policy\nPackage files:\n 100 /var/lib/dpkg/status\n     release a=now\n{rows}"
        "Pinned packages:\n# portspec: apt-cache ended with 0\n"
    )
    return ToolRun("apt", 0, output, **{"ended_at": AT, "system": JAMMY, **fields})


def pro(*updates: tuple[str, str, str, str], **fields: Any) -> ToolRun:
    """Return a run of pro that lists some updates: package, version, service and status."""
    keys = ("package", "version", "service_name", "status")
    services = [update[2] for update in updates]
    summary = {
        "ua": {"attached": False, "enabled_services": [], "entitled_services": []},
        "num_installed_packages": 9,
        "num_standard_security_updates": services.count("standard-security"),
        "num_esm_infra_updates": services.count("esm-infra"),
        "num_esm_apps_updates": services.count("esm-apps"),
    }
    document = {
        "_schema_version": "0.1",
        "summary": summary,
        "packages": [dict(zip(keys, update, strict=True)) for update in updates],
    }
    return ToolRun("ubuntu-pro", 0, json.dumps(document), **{"ended_at": AT, "system": JAMMY, **fields})


def found(audit: Audit) -> list[tuple[str, str, str]]:
    """Return package, installed version and title of each vulnerability."""
    return [(each.package, each.version, each.title) for each in audit.vulnerabilities]


@pytest.mark.parametrize(
    ("newer", "fixed"),
    [
        ([("2", POCKET)], ["2"]),
        ([("3", UPDATES), ("2", POCKET)], ["2"]),
        ([("3", ESM), ("2", POCKET)], ["3", "2"]),
        ([("3", UPDATES)], []),
        ([], []),
    ],
)
def test_newer_version_counts_if_a_security_pocket_has_it(newer: list[tuple[str, str]], fixed: list[str]) -> None:
    """A newer version in another pocket neither counts nor hides one in a security pocket."""
    audit = parse(apt(table("bash", "1", *newer), (POCKET, UPDATES, ESM)))
    assert [list(each.fixed_in) for each in audit.vulnerabilities] == ([fixed] if fixed else [])
    assert audit.status == (Status.VULNERABLE if fixed else Status.CLEAN)


def test_update_of_each_package_counts_separately() -> None:
    """Updates have the same title and no id, but are separate vulnerabilities."""
    audit = parse(apt(table("bash", "1", ("2", POCKET)) + table("tar", "1", ("2", POCKET))))
    assert sum(count_by_severity(audit.vulnerabilities).values()) == 2


def test_update_from_pro_and_apt_is_one_vulnerability() -> None:
    """Apt's entry with the installed version replaces pro's entry without one."""
    title = "security update available"
    esm = "security update only with Ubuntu Pro (esm-apps), which this host is not attached to"
    runs = (
        pro(("bash", "2", "standard-security", "upgrade_available"), ("ansible", "3", "esm-apps", "pending_attach")),
        apt(table("bash", "1", ("2", POCKET)) + table("ansible", "2")),
    )
    assert found(parse(*runs)) == [("ansible", "", esm), ("bash", "1", title)]


@pytest.mark.parametrize(
    ("beside", "status"),
    [
        (apt(table("bash", "1")), Status.CLEAN),
        (apt(table("bash", "1"), (UPDATES,)), Status.UNSUPPORTED),
        (apt(table("bash", "1"), errors="# portspec: database of 2023-10-01T00:00:00Z\n"), Status.STALE_DATABASE),
        (ToolRun("apt", 100, "", "E: The package cache file is corrupted\n", system=JAMMY, ended_at=AT), Status.FAILED),
        (ToolRun("apt", None, "", system=JAMMY, ended_at=AT), Status.FAILED),
    ],
    ids=["clean", "no pocket", "old lists", "failed", "did not run"],
)
def test_pro_without_updates_has_the_status_of_apt(beside: ToolRun, status: Status) -> None:
    """Pro uses apt's package lists, and does not show whether there are any or how old they are."""
    assert parse(pro(), beside).status == status


@pytest.mark.parametrize(("sources", "status"), [((POCKET,), Status.FAILED), ((POCKET, ESM), Status.CLEAN)])
def test_release_past_standard_support_needs_ubuntu_pro(sources: tuple[str, ...], status: Status) -> None:
    """Its security pocket gets no more updates, so "no updates" in it proves nothing."""
    assert parse(apt(table("bash", "1"), sources, ended_at=AT + 5 * 365 * 86_400)).status == status


@pytest.mark.parametrize(
    ("system", "status"),
    [
        (System("Linux", "linuxmint", ("ubuntu", "debian"), "21.3"), Status.CLEAN),
        (System("Linux", "pop", ("ubuntu", "debian"), "22.04"), Status.CLEAN),
        (System("Linux", "raspbian", ("debian",), "12"), Status.UNSUPPORTED),
        (System("Linux", "ubuntu", ("debian",), "24.04"), Status.FAILED),
    ],
)
def test_security_pocket_must_belong_to_the_system(system: System, status: Status) -> None:
    """It is of the system or of one that it is like, and of the same version where both number versions alike."""
    assert parse(apt(table("bash", "1"), system=system)).status == status


@pytest.mark.parametrize(
    ("line", "where"),
    [
        (" *** 1 100\n", "     2 500\n"),
        ("  Installed: (none)\n", "  Candidate: 1\n"),
        ("tar:\n", "     2 500\n"),
        ("     release a=now\n", "     origin e.org\n"),
        (f" 500 {UPDATES}x\n", "     release v=22.04"),
        ("Pinned packages:\n", "Package files:\n"),
        ("# portspec: apt-cache policy\n", "     2 500\n"),
    ],
)
def test_line_that_would_hide_an_update_is_failed(line: str, where: str) -> None:
    """A table has one installed version and a source one release; a second one fails the result."""
    run = apt(table("bash", "1", ("2", POCKET)))
    assert where in run.output
    changed = ToolRun("apt", 0, run.output.replace(where, line + where, 1), system=JAMMY, ended_at=AT)
    assert parse(run).status == Status.VULNERABLE
    assert parse(changed).status == Status.FAILED
