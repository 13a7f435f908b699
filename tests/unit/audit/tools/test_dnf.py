from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec import agent
from portspec.audit.model import Severity, Status, System, ToolRun
from portspec.audit.tools import parse
from portspec.audit.tools.dnf import END_MARKER
from portspec.audit.tools.output import LIST_HEADER
from tests.unit.audit.tools.samples import load

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLES: Final = {sample.name.removeprefix("dnf/"): sample for sample in load() if sample.name.startswith("dnf/")}
OF: Final = {"rhel": "RHSA-2025:1", "almalinux": "ALSA-2025:1", "rocky": "RLSA-2025:1", "ol": "ELSA-2025-1"}
OF_OTHERS: Final = {"fedora": "FEDORA-2025-0a1b2c3d4e", "amzn": "ALAS2-2025-1", "openEuler": "openEuler-SA-2025-1"}
HEADS: Final = ("updateinfo list security", "updateinfo list installed security", "updateinfo list cves")


def rows(*found: tuple[str, str]) -> str:
    """Return the lines of dnf 4 for advisories and packages."""
    return "".join(f"{name} Important/Sec. {package}\n" for name, package in found)


def output(available: str = "", installed: str = "", cves: str = "", heads: Sequence[str] = HEADS) -> str:
    """Return the output of three lists as the agent sends it."""
    lists = zip(heads, (available, installed, cves), strict=False)
    return "".join(f"{LIST_HEADER}{head}\n{text}" for head, text in lists) + END_MARKER + "\n"


def run(text: str, system: System | None = None, **fields: Any) -> ToolRun:
    """Return a run of dnf that exited with 0."""
    return replace(ToolRun("dnf", 0, text, system=system), **fields)


def test_marker_lines_are_the_same_in_agent_and_reader() -> None:
    """The reader looks for the lines that the agent adds."""
    assert agent._LIST == LIST_HEADER
    assert agent._PROOF.format(program="dnf") == END_MARKER


@pytest.mark.parametrize(("name", "advisory"), [*OF.items(), *OF_OTHERS.items()])
def test_system_is_clean_only_with_advisories_of_its_vendor(name: str, advisory: str) -> None:
    """An installed advisory of the vendor proves that the repositories have some; one of EPEL does not."""
    system = System("Linux", name, version="9")
    command = ("dnf", "--releasever=latest")
    package = "bash-5.1.8-9.el9.x86_64"
    assert parse(run(output(installed=rows((advisory, package))), system, command=command)).status == Status.CLEAN
    for other in ("FEDORA-EPEL-2025-0a1b2c3d4e", *({"OTHER-1"} if name != "openEuler" else ())):
        audit = parse(run(output(installed=rows((other, package))), system, command=command))
        assert audit.status == Status.UNSUPPORTED
        assert audit.reason.startswith("dnf has no advisory")


def test_centos_is_unsupported() -> None:
    """CentOS has no advisories; those of other repositories say nothing about its packages, but are kept."""
    system = System("Linux", "centos", ("rhel", "fedora"), "9")
    found = output(rows(("X-1", "htop-3.3.0-2.el9.x86_64")), rows(("X-2", "nagios-4.4.14-2.el9.x86_64")))
    audit = parse(run(found, system))
    assert (audit.status, len(audit.vulnerabilities)) == (Status.UNSUPPORTED, 1)
    assert audit.reason == "the repositories of centos 9 have no advisories; use another tool"


@pytest.mark.parametrize(
    ("version", "option", "status"),
    [
        ("2023", "--releasever=latest", Status.CLEAN),
        ("2023", "--quiet", Status.FAILED),
        ("2", "--quiet", Status.CLEAN),
    ],
)
def test_amazon_linux_locked_to_a_release_is_failed(version: str, option: str, status: Status) -> None:
    """Dnf only lists the updates of the locked release."""
    text = output(installed=rows(("ALAS2023-2025-001", "curl-8.5.0-1.amzn2023.x86_64")))
    audit = parse(run(text, System("Linux", "amzn", version=version), command=("dnf", option)))
    assert audit.status == status


@pytest.mark.parametrize(
    "line",
    [
        "Error: Failed to download metadata for repo 'gone': Cannot download repomd.xml",
        "Errors during downloading metadata for repository 'gone':",
        "Ignoring repositories: gone",
        "Failed to set locale, defaulting to C",
        ">>> Curl error (6): Could not resolve hostname",
    ],
)
def test_empty_list_with_a_skipped_repository_is_failed(line: str) -> None:
    """Dnf exits with 0 even if it skipped a repository; vulnerabilities that it found are kept."""
    clean, vulnerable = SAMPLES["dnf4_clean"].run, SAMPLES["dnf4_vulnerable"].run
    assert parse(clean).status == Status.CLEAN
    assert parse(replace(clean, errors=f"{line}\n")).status == Status.FAILED
    assert parse(replace(vulnerable, errors=f"{line}\n")).status == Status.VULNERABLE


@pytest.mark.parametrize("name", ["dnf4_clean", "dnf5_json_clean", "dnf5_text_clean", "yum_clean"])
def test_missing_duplicate_or_swapped_list_is_failed(name: str) -> None:
    """All three lists must be there once, in the order of the agent."""
    whole = SAMPLES[name].run
    _, *parts = whole.output.removesuffix(END_MARKER + "\n").split(LIST_HEADER)
    for chosen in ((0, 1), (0, 2), (1, 0, 2), (0, 1, 1, 2), (1, 2), (0, 1, 2, 0), (1, 1, 2), ()):
        text = "".join(LIST_HEADER + parts[index] for index in chosen) + END_MARKER + "\n"
        assert parse(replace(whole, output=text)).status == Status.FAILED
    assert parse(replace(whole, output=whole.output.removesuffix(END_MARKER + "\n"))).status == Status.FAILED


@pytest.mark.parametrize("name", ["dnf4_vulnerable", "dnf5_json_vulnerable", "dnf5_text_vulnerable", "yum_vulnerable"])
def test_swapped_lists_with_vulnerabilities_are_failed(name: str) -> None:
    """Only the order of the agent shows which list is which."""
    whole = SAMPLES[name].run
    _, *parts = whole.output.removesuffix(END_MARKER + "\n").split(LIST_HEADER)
    for chosen in ((1, 0, 2), (2, 1, 0), (0, 0, 1, 2), (1, 0)):
        text = "".join(LIST_HEADER + parts[index] for index in chosen) + END_MARKER + "\n"
        assert parse(replace(whole, output=text)).status == Status.FAILED


def test_package_and_version_are_split_from_the_right() -> None:
    """Names have hyphens and digits, versions have epochs; the epoch 0 is omitted."""
    packages = {
        "kernel-livepatch-5.10.102-99.473-1.0-3.amzn2.x86_64": ("kernel-livepatch-5.10.102-99.473", "1.0-3.amzn2"),
        "openssl-libs-1:3.0.7-28.el9_4.x86_64": ("openssl-libs", "1:3.0.7-28.el9_4"),
        "tar-0:1.35-9.fc44.noarch": ("tar", "1.35-9.fc44"),
        "gcc-c++-11.4.1-3.el9.i686": ("gcc-c++", "11.4.1-3.el9"),
        "java-1.8.0-openjdk-1:1.8.0.402.b06-2.el8.x86_64": ("java-1.8.0-openjdk", "1:1.8.0.402.b06-2.el8"),
        "python3.11-3.11.7~rc1-1.el9^git1.s390x": ("python3.11", "3.11.7~rc1-1.el9^git1"),
    }
    found = parse(run(output(rows(*((f"RHSA-{number}", each) for number, each in enumerate(packages))))))
    assert {(each.package, each.fixed_in[0]) for each in found.vulnerabilities} == set(packages.values())


def test_advisories_with_the_same_version_share_its_cves() -> None:
    """Text only shows which version fixes a CVE, so both advisories of this version are about the CVE."""
    package = "bash-5.1.8-9.el9.x86_64"
    text = output(rows(("RHSA-1", package), ("RHSA-2", package)), "", rows(("CVE-2026-10001", package)))
    (found,) = parse(run(text)).vulnerabilities
    assert (found.id, found.advisories, found.severity) == ("CVE-2026-10001", ("RHSA-1", "RHSA-2"), Severity.HIGH)


def test_advisory_is_a_vulnerability_of_each_of_its_packages() -> None:
    """Packages of several architectures are the same package."""
    packages = ("a-1-1.i686", "a-1-1.x86_64", "b-1-1.x86_64")
    text = output(rows(*(("RHSA-1", each) for each in packages)))
    assert [(each.package, each.id) for each in parse(run(text)).vulnerabilities] == [("a", "RHSA-1"), ("b", "RHSA-1")]


def test_metadata_check_is_the_time_of_the_database() -> None:
    """Metadata that dnf checked more than 14 days ago is stale."""
    text = "Last metadata expiration check: 21 days, 0:54:46 ago on Thu Nov  5 09:40:27 2026.\n"
    installed = rows(("RHSA-1", "bash-5.1.8-9.el9.x86_64"))
    audit = parse(run(output(text, installed), ended_at=1_795_686_027.0))
    assert (audit.status, audit.database_at) == (Status.STALE_DATABASE, 1_793_871_627.0)
    assert parse(run(output("Repodata is over 2 weeks old. Install yum-cron?\n", installed))).status == (
        Status.STALE_DATABASE
    )


@given(
    entries=st.lists(
        st.tuples(
            st.from_regex(r"[A-Z]{1,5}-[0-9]{4}:[0-9]{1,5}", fullmatch=True),
            st.from_regex(r"[a-z][a-z0-9.+_]{0,8}(-[a-z0-9.+_]{1,8}){0,3}", fullmatch=True),
            st.from_regex(r"([1-9][0-9]{0,3}:)?[a-z0-9.+~^_]{1,8}-[a-z0-9.+~^_]{1,8}", fullmatch=True),
            st.sampled_from(["x86_64", "i686", "noarch"]),
        ),
        min_size=1,
        max_size=5,
    ),
    is_json=st.booleans(),
)
def test_every_package_of_every_advisory_is_found(*, entries: list[tuple[str, str, str, str]], is_json: bool) -> None:
    """Text and JSON have each package with the version that fixes it."""
    nevras = [(advisory, f"{name}-{evr}.{architecture}") for advisory, name, evr, architecture in entries]
    text = rows(*nevras)
    if is_json:
        text = json.dumps([{"name": advisory, "nevra": nevra} for advisory, nevra in nevras]) + "\n"
    audit = parse(run(output(text, "[]\n" if is_json else "", "[]\n" if is_json else "")))
    assert audit.status == Status.VULNERABLE
    found = {(each.id, each.package, evr) for each in audit.vulnerabilities for evr in each.fixed_in}
    assert found == {(advisory, name, evr) for advisory, name, evr, _ in entries}
