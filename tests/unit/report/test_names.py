from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.report.names import anchor, displayed
from tests.unit.factories import MODEST


@pytest.mark.parametrize(
    ("domain", "shown"),
    [
        (None, "web1.example.org"),
        (r"\.example\.org", "web1"),
        (r"\.example\.org$", "web1"),
        (r"(?i)\.EXAMPLE\.org", "web1"),
        (r"\.example|\.example\.org", "web1"),
        (r"\.example", "web1.example.org"),
        (r"example\.org", "web1."),
        (r"\.org|\.net", "web1.example"),
        (r"(\.[a-z]+)+", "web1"),
        (r"web1\.example\.org", "web1.example.org"),
        (r".*", "web1.example.org"),
        (r"", "web1.example.org"),
        (r"^\.example\.org", "web1.example.org"),
    ],
)
def test_domain_is_taken_off_the_end(domain: str | None, shown: str) -> None:
    """What the expression matches at the end of a name is not shown; where nothing would be left, the whole name is."""
    assert displayed(["web1.example.org"], domain) == {"web1.example.org": shown}


def test_names_stay_apart() -> None:
    """Names that would look the same without their domains are shown whole."""
    hosts = ["web1.example.org", "web1.example.net", "db1.example.org", "192.0.2.1"]
    assert list(displayed(hosts, r"\.example\.(org|net)").values()) == [*hosts[:2], "db1", "192.0.2.1"]


@MODEST
@given(st.lists(st.text(), unique=True))
def test_anchors_are_safe_and_apart(hosts: list[str]) -> None:
    """Whatever a host is called, its anchor has safe characters alone and is no other host's."""
    anchors = [anchor(host) for host in hosts]
    assert len(set(anchors)) == len(hosts)
    assert all(re.fullmatch(r"host-[A-Za-z0-9._-]*", each) for each in anchors)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("web1.example.org", "host-web1.example.org"),
        ("2001:db8::1", "host-2001_3adb8_3a_3a1"),
        ("a_b", "host-a_5fb"),
        ("é\udc80", "host-_c3_a9_ed_b2_80"),
    ],
)
def test_anchor_stays_the_same(host: str, expected: str) -> None:
    """An anchor can be kept as a bookmark: it depends on the host's name alone."""
    assert anchor(host) == expected
