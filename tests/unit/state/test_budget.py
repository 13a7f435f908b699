"""What the audit of one host may add to /metrics, whatever it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.metrics.host_families import AUDITS
from portspec.metrics.render import Renderer, render_host
from portspec.state.budget import (
    MAX_LABEL,
    MAX_LISTENER_BYTES,
    MAX_SERIES,
    MAX_VULNERABILITY_BYTES,
    cut,
    left_out_of,
    listeners_of,
    vulnerabilities_of,
)
from portspec.state.table import HostTable
from tests.unit.factories import NOW
from tests.unit.metrics.scrape import UNLIMITED

TEXTS = st.one_of(
    st.text(max_size=200), st.text('"\\\n…\U0001f600é', max_size=200), st.sampled_from(["a" * 128, "a" * 129])
)
FOUND = st.builds(Vulnerability, TEXTS, TEXTS, TEXTS, st.sampled_from(Severity))
SOCKETS = st.builds(
    ListeningSocket, st.just("tcp"), st.just("::"), st.integers(1, 65535), TEXTS | st.none(), TEXTS | st.none()
)


def audited(*found: Vulnerability, listeners: tuple[ListeningSocket, ...] = ()) -> AuditState:
    """Make a host whose audit found these."""
    return AuditState("db1", (), HostAudit(NOW, "x", None, Audit(Status.VULNERABLE, found), listeners), NOW)


def written(state: AuditState, name: str) -> list[str]:
    """Return the lines of a host in a family."""
    return next(render_host(part, state)[0] for part in AUDITS.parts if part.metric.name == name)


@given(st.text())
def test_label_is_cut_at_a_character(value: str) -> None:
    """A value of at most 128 bytes stays as it is; a longer one is cut between characters, before an ellipsis."""
    found = cut(value)
    assert len(found.encode()) <= MAX_LABEL
    if found != value:
        assert len(value.encode()) > MAX_LABEL
        assert found.endswith("…")
        assert value.startswith(found[:-1])
        assert len((found[:-1] + value[len(found) - 1]).encode()) > MAX_LABEL - 3


@given(st.lists(FOUND, max_size=30), st.lists(SOCKETS, max_size=30))
def test_no_series_is_there_twice_and_each_is_shown_or_counted(
    found: list[Vulnerability], sockets: list[ListeningSocket]
) -> None:
    """Of series that are the same once they are cut there is one; all that is not shown counts as left out."""
    state = audited(*found, listeners=tuple(sockets))
    vulnerabilities, listeners = vulnerabilities_of(state), listeners_of(state)
    assert len(set(vulnerabilities.series)) == len(vulnerabilities.series)
    assert len(set(listeners.series)) == len(listeners.series)
    different = {(item.package, item.version, item.id) for item in found}
    assert len(vulnerabilities.series) + vulnerabilities.left_out == len(different)
    assert len(listeners.series) + listeners.left_out == len(
        {(item.port, item.process or "", item.user or "") for item in sockets}
    )
    assert left_out_of(state) == vulnerabilities.left_out + listeners.left_out
    for name, share in (("portspec_audit_vulnerability", vulnerabilities), ("port_listener_info", listeners)):
        lines = written(state, name)
        assert len(set(lines)) == len(lines) == len(share.series)


@pytest.mark.parametrize("length", [0, 3, 4, 40])
@pytest.mark.parametrize("letter", list('x"\\\n…\U0001f600'))
def test_page_of_one_host_has_a_budget_of_bytes(length: int, letter: str) -> None:
    """Whatever a host sends, its lines on the page take no more than its budget, the worst being kept."""
    value = letter * (length * 30)
    found = [Vulnerability(f"{number}{value}", value, value, Severity.HIGH) for number in range(2 * MAX_SERIES)]
    sockets = tuple(ListeningSocket("tcp", "::", number + 1, value, value) for number in range(2 * MAX_SERIES))
    state = audited(*found, listeners=sockets)
    for name, most in (
        ("portspec_audit_vulnerability", MAX_VULNERABILITY_BYTES),
        ("port_listener_info", MAX_LISTENER_BYTES),
    ):
        lines = written(state, name)
        assert 0 < sum(len(line.encode()) for line in lines) <= most
        assert len(lines) <= MAX_SERIES
    assert vulnerabilities_of(state).series[0][0].startswith("0")
    page, dropped = Renderer(AUDITS, UNLIMITED).render(HostTable([state]))
    assert dropped == left_out_of(state) > 0
    (told,) = [
        block.text for metric, blocks in page for block in blocks if metric.name == "portspec_audit_series_dropped"
    ]
    assert told == f'portspec_audit_series_dropped{{host="db1"}} {dropped}.0\n'.encode()


def test_usual_audit_is_shown_whole() -> None:
    """A thousand findings with names of the usual length fit, and nothing is said to be left out."""
    found = [
        Vulnerability(f"linux-image-{number}-amd64", "6.1.119-1+deb12u1", f"CVE-2026-{number:05}", Severity.NEGLIGIBLE)
        for number in range(MAX_SERIES)
    ]
    state = audited(
        *found, listeners=tuple(ListeningSocket("tcp", "::", number, "nginx", "www-data") for number in range(1, 500))
    )
    assert left_out_of(state) == 0
    assert not any(
        part.metric.name == "portspec_audit_series_dropped" and render_host(part, state)[0] for part in AUDITS.parts
    )
