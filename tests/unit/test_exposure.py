"""Severities of open ports: the table, and what conf.yml changes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.exposure import SOURCES, PortSeverities, PortSeverity, exposures, highest, reason_of
from portspec.ports import ALL_PORTS, PortSet

PORTS = st.integers(1, 65535)
RULES = st.lists(st.tuples(st.frozensets(PORTS, max_size=5).map(PortSet.of), st.sampled_from(PortSeverity)), max_size=5)


def test_reasons_are_short_sentences_with_a_source() -> None:
    """Each fits a label, which has 128 bytes at most, and a line of a mail."""
    found = exposures()
    assert len(found) >= 60
    for port, item in found.items():
        assert port in ALL_PORTS
        assert item.severity is not PortSeverity.INFO
        assert re.fullmatch(r"[A-Za-z0-9][ -~]{15,118}\.", item.reason), item
        assert item.source in SOURCES or " " in item.source or re.fullmatch(r"CVE-\d{4}-\d+", item.source)


@pytest.mark.parametrize(
    ("port", "severity"),
    [(23, "critical"), (445, "critical"), (2375, "critical"), (3389, "critical"), (6379, "critical"),
     (11211, "critical"), (10250, "critical"), (21, "warning"), (8443, "warning"), (22, "warning"), (61234, "warning")],
)  # fmt: skip
def test_port_has_the_severity_of_its_usual_service(port: int, severity: str) -> None:
    """What gives strangers commands or data is critical, everything else a warning."""
    assert PortSeverities().of(port) == severity


@given(rules=RULES, port=PORTS)
def test_first_rule_that_has_a_port_decides(rules: list[tuple[PortSet, PortSeverity]], port: int) -> None:
    """Without such a rule the table does."""
    named = [severity for ports, severity in rules if port in ports]
    assert PortSeverities.of_rules(rules).of(port) == (named[0] if named else PortSeverities().of(port))


def test_highest_severity_is_critical() -> None:
    """The order is critical, warning, info."""
    assert [highest(some) for some in ([*PortSeverity], [*PortSeverity][1:], [PortSeverity.INFO])] == [*PortSeverity]


def test_port_without_an_entry_has_no_reason() -> None:
    """No reason is made up."""
    assert reason_of(61234) is None
