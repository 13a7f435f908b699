from __future__ import annotations

import pytest

from portspec.audit.model import Severity, Status
from portspec.audit.tools import TOOLS, parse
from tests.unit.audit.tools.samples import DATA, Sample, load

SAMPLES = load()
GENERATIONS = [
    "portaudit/",
    "pkg-audit/text_1_0_",
    "pkg-audit/text_1_3_",
    "pkg-audit/text_1_12_",
    "pkg-audit/text_1_16_",
    "pkg-audit/text_2_0_",
    "pkg-audit/periodic_",
    "pkg-audit/raw_",
    "pkg-audit/raw_compact_",
    "debsecan/summary_",
    "debsecan/detail_",
    "debsecan/report_",
    "dnf/dnf4_",
    "dnf/dnf5_json_",
    "dnf/dnf5_text_",
    "dnf/yum_",
    "zypper/",
    "zypper/agent_",
    "zypper/old_",
    "osv-scanner/",
    "osv-scanner/old_",
    "trivy/",
    "grype/",
    "pip-audit/",
    "pip-audit/old_",
    "ubuntu-pro/",
    "ubuntu-pro/old_",
    "apt/bookworm_",
    "apt/jammy_",
    "apt/old_",
    "arch-audit/",
    "pkg-admin/",
    "pkg-admin/old_",
    "apk/v2_",
    "apk/v3_",
]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_sample_has_the_expected_audit(sample: Sample) -> None:
    """Status, vulnerabilities and their order, reason and time of the database are those of the expected file."""
    assert parse(sample.run) == sample.audit


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("status", [Status.CLEAN, Status.VULNERABLE, Status.FAILED])
def test_each_format_has_a_sample_of_each_status(generation: str, status: Status) -> None:
    """There is at least one clean, one vulnerable and one failed sample."""
    assert any(sample.name.startswith(generation) and sample.audit.status == status for sample in SAMPLES)


def test_each_tool_has_samples() -> None:
    """The directories of samples are the supported tools."""
    assert sorted(path.name for path in DATA.iterdir()) == sorted(TOOLS)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_every_status_but_clean_and_vulnerable_has_a_reason(sample: Sample) -> None:
    """The reason is a single printable line."""
    audit = parse(sample.run)
    assert audit.reason or audit.status in {Status.CLEAN, Status.VULNERABLE}
    assert audit.status != Status.CLEAN or not (audit.reason or audit.vulnerabilities)
    assert audit.reason.isprintable()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_vulnerabilities_of_a_sample_are_sorted_and_unique(sample: Sample) -> None:
    """They are sorted by severity, package and id, and no package has an id twice."""
    found = parse(sample.run).vulnerabilities
    ranks = list(Severity)
    keys = [(ranks.index(each.severity), each.package, each.id) for each in found]
    assert keys == sorted(keys)
    assert len({(each.package, each.version, each.id) for each in found}) == len(found)
