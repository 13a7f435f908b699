from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.config import PortException, VulnerabilityException
from portspec.errors import printable
from portspec.ports import PortSet
from portspec.report import FORMATS, ReportSettings, mail_report
from portspec.scan import Failure, Reason
from portspec.state.snapshot import HostState, Snapshot
from tests.unit.factories import MODEST, NOW, result, seen, target
from tests.unit.report.fleets import snapshot_of
from tests.unit.report.reading import Page, page, written

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.inventory import Target

MARKUP: Final = "</td></table></style><script>alert('{}')</script><b onclick=\"x\">&lt;&amp;¦ \\<!--{{{{ 7*7 }}}}"
FIELDS: Final = (
    "host", "detail", "address", "package", "version", "id", "fixed", "title", "reason", "tool", "tool_version",
    "process", "user", "protocol", "socket", "exception", "owner", "port_exception", "port_owner", "other",
)  # fmt: skip


def world(text: Callable[[str], str]) -> Snapshot:
    """Make machines each of whose texts is that of its field; one is scanned in vain, one fails, one has it all."""
    found = Vulnerability(
        text("package"), text("version"), text("id"), Severity.HIGH, ("accepted",), (text("fixed"),), text("title")
    )
    listeners = (
        ListeningSocket("tcp", text("socket"), 80, text("process"), text("user")),
        ListeningSocket(text("protocol"), "::", 53, None, None),
    )
    exception = VulnerabilityException(("*",), ("accepted",), NOW + 60, text("exception"), text("owner"))
    ports = PortException(("*",), PortSet.of([22]), NOW + 60, text("port_exception"), text("port_owner"))
    host, other = text("host"), text("other")
    of = target(host, expect=[443], exceptions=[ports])
    state = HostState(of).after(result(of, seen(text("address"), is_open=[22, 80]), at=NOW - 60))
    away = target(other)
    failure = Failure(Reason.RESOLVE, text("detail"))
    audit = Audit(Status.VULNERABLE, (replace(found, aliases=()), found), text("reason"))
    failed = Audit(Status.FAILED, (), text("reason"))
    return snapshot_of(
        [replace(state, judged_at=NOW), HostState(away).after(result(away, failure=failure, at=NOW))],
        [
            AuditState(host, (exception,), HostAudit(NOW, text("tool"), text("tool_version"), audit, listeners), NOW),
            AuditState(other, (), HostAudit(NOW, text("tool"), None, failed, None), NOW),
        ],
    )


def skeleton(of: Page) -> list[tuple[str, list[str]]]:
    """Return the tags of a page and the names of their attributes."""
    return [(tag, [name for name, _ in attributes]) for tag, attributes in of.tags]


def texts(of: Page) -> str:
    """Return all that is seen on a page, cell by cell."""
    sections = [of.top, *of.sections.values()]
    cells = [cell for each in sections for table in each.tables for row in table.rows for cell in row]
    return "\n".join(
        [*cells, *(each.name for each in sections), *(part for each in sections for part in each.paragraphs)]
    )


def test_markup_is_shown_as_text() -> None:
    """Markup in any text leaves the page's tags as they are, and stands on it as it was written."""
    tame, wild = page(world(lambda name: name), ReportSettings()), page(world(MARKUP.format), ReportSettings())
    assert skeleton(wild) == skeleton(tame)
    shown = texts(wild)
    assert [name for name in FIELDS if MARKUP.format(name) not in shown] == []
    assert (wild.policy, wild.style, wild.title) == (tame.policy, tame.style, tame.title)
    assert [text for _, text in wild.links] == [MARKUP.format("host"), MARKUP.format("other")]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    "text", ["\udc80", "a\nb\rc\x00\x1b[31m\u202e\u2028\ud83d", "\N{PILE OF POO}é", "", " ", "x" * 20_000]
)
def test_any_text_can_be_written(name: str, text: str) -> None:
    """Whatever text stands in a field, the report can be encoded, and nothing in it moves a cursor or breaks a line."""
    of = world(lambda field: text if field == name else field)
    for form in FORMATS:
        whole = written(of, form, ReportSettings())
        assert whole.replace("\n", "").isprintable()
    assert printable(text).strip() in texts(page(of, ReportSettings()))
    assert all(line.isprintable() for line in mail_report(of, ReportSettings(), NOW)[1].split("\n"))


@MODEST
@given(st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=30)))
def test_no_text_changes_the_page(given_texts: dict[str, str]) -> None:
    """The tags are the same whatever the texts are, and JSON gives each text back as it is."""
    plain = world(lambda name: f"-{name}")
    of = world(lambda name: f"-{name}{given_texts.get(name, '')}")
    assert skeleton(page(of, ReportSettings())) == skeleton(page(plain, ReportSettings()))
    machines = json.loads(written(of, "json", ReportSettings()))["machines"]
    assert {machine["host"] for machine in machines} == set(of.hosts)
    audit = next(iter(of.audits.values()))
    found = next(machine for machine in machines if machine["host"] == audit.host)["audit"]
    assert [item["title"] for item in found["vulnerabilities"]] == [item.title for item in audit.vulnerabilities]


def test_host_of_any_name_has_an_anchor() -> None:
    """The link to a machine's section leads there, whatever the machine is called."""
    of = page(world(lambda name: f'"><i id=x>{name}#?%20\udc80'), ReportSettings())
    assert [href.removeprefix("#") for href, _ in of.links] == list(of.sections)


def machine(host: str) -> Target:
    """Make a target of a CIDR."""
    return target(host, address=host)


def test_machines_of_a_network() -> None:
    """Each address of a CIDR, of IPv4 or IPv6, is a machine with an anchor of its own."""
    hosts = ["192.0.2.8", "192.0.2.10", "2001:db8::10", "2001:db8::a"]
    states = [HostState(machine(host)).after(result(machine(host), seen(host, is_open=[22]))) for host in hosts]
    found = page(snapshot_of(states), ReportSettings())
    assert [each.name for each in found.sections.values()] == hosts
    assert list(found.sections) == [
        "host-192.0.2.8",
        "host-192.0.2.10",
        "host-2001_3adb8_3a_3a10",
        "host-2001_3adb8_3a_3aa",
    ]
