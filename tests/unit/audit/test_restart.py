"""What has to be restarted, by the audit of a host."""

from __future__ import annotations

from dataclasses import replace

from portspec.audit.model import Audit, Status
from portspec.audit.payload import Kernel, Library, ListeningSocket
from portspec.audit.restart import RestartNeeds, StaleProcess, restart_needs
from portspec.audit.state import AuditState, HostAudit
from portspec.metrics.host_families import AUDIT_PARTS
from portspec.report.model import FleetReport, Need, ReportSettings
from portspec.report.text import write_text
from portspec.state.document import audit_document
from portspec.state.snapshot import Snapshot
from portspec.state.table import HostTable
from tests.unit.factories import NOW

LIBSSL = "/usr/lib/x86_64-linux-gnu/libssl.so.3"
NGINX = ListeningSocket(
    "tcp", "0.0.0.0", 443, "nginx", "www", unit="nginx.service",  # noqa: S104 - of an audit
    libraries=(Library("/usr/lib/libz.so.1", "zlib1g", "1.2", "zlib"),),
)  # fmt: skip
OLD = replace(NGINX, replaced=(LIBSSL,))
UNSEEN = ListeningSocket("tcp", "0.0.0.0", 22, "sshd", "root")  # noqa: S104 - of an audit
STALE = StaleProcess("nginx", "www", "nginx.service", (LIBSSL,))
KERNEL = Kernel("6.1.0-25-amd64", "6.1.0-28-amd64")


def test_process_is_told_once_however_many_sockets_it_has() -> None:
    """Of IPv4 and IPv6, for example."""
    needs = restart_needs((OLD, replace(OLD, address="::"), NGINX), None)
    assert needs == RestartNeeds((STALE,), is_complete=True, kernel=None)
    assert list(needs.lines) == [f"nginx (www) [nginx.service] runs a replaced version of {LIBSSL}"]


def test_what_the_agent_did_not_see_is_not_up_to_date() -> None:
    """Neither listeners, nor what a process has mapped; without listeners there is nothing to restart."""
    assert restart_needs(None, None) == RestartNeeds(None, is_complete=False, kernel=None)
    assert restart_needs((UNSEEN,), None) == RestartNeeds(None, is_complete=False, kernel=None)
    assert restart_needs((UNSEEN, NGINX), None) == RestartNeeds((), is_complete=False, kernel=None)
    assert restart_needs((), Kernel("6.1")) == RestartNeeds((), is_complete=True, kernel=Kernel("6.1"))


def clean(*listeners: ListeningSocket, kernel: Kernel | None = None) -> AuditState:
    """Make a host whose packages are clean."""
    return AuditState("web1", (), HostAudit(NOW, "debsecan", None, Audit(Status.CLEAN), listeners, kernel), NOW)


def samples(state: AuditState) -> dict[str, float]:
    """Return the value of each kind."""
    (part,) = [part for part in AUDIT_PARTS if part.metric.name == "portspec_audit_restart_needed"]
    return {labels["kind"]: value for labels, value in part.samples(state)}


def test_metric_is_absent_for_what_is_not_known() -> None:
    """And 0 for what is up to date."""
    assert samples(clean(OLD, kernel=KERNEL)) == {"process": 1, "kernel": 1}
    assert samples(clean(NGINX, kernel=Kernel("6.1"))) == {"process": 0, "kernel": 0}
    assert samples(clean(UNSEEN)) == samples(clean(UNSEEN, NGINX)) == {}
    assert samples(clean(UNSEEN, OLD)) == {"process": 1}
    assert samples(AuditState("web1")) == {}


def test_report_names_what_has_to_be_restarted() -> None:
    """The machine needs attention although its packages are clean."""
    snapshot = replace(Snapshot.of([]), audits=HostTable([clean(OLD, kernel=KERNEL)]))
    report = FleetReport.of(snapshot, ReportSettings(), NOW)
    assert [machine.need for machine in report.machines] == [Need.RESTART]
    text = "".join(write_text(report))
    assert "  - restart needed: 1 process, kernel\n" in text
    assert "Restart needed                nginx (www) [nginx.service] runs a replaced version of\n" in text
    assert "kernel 6.1.0-25-amd64 runs, 6.1.0-28-amd64 is installed\n" in text


def test_json_has_what_has_to_be_restarted() -> None:
    """Null is what is not known."""
    assert audit_document(clean(OLD, kernel=KERNEL), None)["restart_needed"] == {
        "processes": [{"process": "nginx", "user": "www", "details": "nginx.service", "files": [LIBSSL]}],
        "is_complete": True,
        "kernel": {"running": "6.1.0-25-amd64", "newer": "6.1.0-28-amd64"},
    }
    assert audit_document(clean(UNSEEN), None)["restart_needed"] == {
        "processes": None, "is_complete": False, "kernel": None,
    }  # fmt: skip
    assert audit_document(AuditState("web1"), None)["restart_needed"] is None
