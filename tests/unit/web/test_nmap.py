from __future__ import annotations

import asyncio
import json
import threading
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import portspec.web.api.nmap
from portspec.audit.state import AuditState
from portspec.state.nmap_xml import nmap_xml
from portspec.state.table import HostTable
from tests.unit.factories import result, seen, snapshot, target
from tests.unit.web.exporter import Exporter
from tests.unit.web.site import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portspec.state.nmap_xml import NmapRun
    from portspec.state.snapshot import HostState


def fleet(*names: str) -> Exporter:
    """Make an exporter with hosts of these names, each with the port 22 open; that of web2 is unexpected."""
    every = [target(name, expect=[] if name == "web2" else [22]) for name in names]
    return Exporter(snapshot(*((one, [result(one, seen(is_open=[22]))]) for one in every)))


def document(exporter: Exporter, path: str) -> ET.Element:
    """Ask for XML."""
    answer = exporter.ask(path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/xml"), answer.text
    return ET.fromstring(answer.body)  # noqa: S314 - our own


def hosts(root: ET.Element) -> list[str | None]:
    """Return the names of the hosts of a document."""
    return [one.get("name") for one in root.iter("hostname")]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["web1", "web2", "db.xml"]),
        ("?host=WEB*", ["web1", "web2"]),
        ("?verdict=out_of_spec", ["web2"]),
        ("?host=db.xml&verdict=in_spec", ["db.xml"]),
        ("?host=none", []),
    ],
)
def test_hosts_are_chosen_as_those_of_the_json(query: str, found: list[str]) -> None:
    """All hosts in the order of conf.yml, or those of a glob and a verdict."""
    assert hosts(document(fleet("web1", "web2", "db.xml"), f"/api/v1/hosts.xml{query}")) == found


def test_document_names_the_engine() -> None:
    """The type of the scan is that of the engine of the exporter."""
    exporter = fleet("web1")
    exporter.status = replace(exporter.status, engine="syn")
    root = document(exporter, "/api/v1/hosts.xml")
    assert [one.get("type") for one in root.iter("scaninfo")] == ["syn"]
    assert root.get("args") == "portspec serve"


def test_host_has_a_document_of_its_own() -> None:
    """A host in any spelling with .xml behind it."""
    exporter = fleet("web1", "web2")
    assert hosts(document(exporter, "/api/v1/hosts/web1.xml")) == ["web1"]
    assert hosts(document(exporter, "/api/v1/hosts/WEB2..xml")) == ["web2"]


def test_host_whose_name_ends_in_xml_is_itself() -> None:
    """Its JSON is where that of every host is, its XML has .xml twice, and what it hides is found by the glob."""
    exporter = fleet("db", "db.xml")
    assert exporter.document("/api/v1/hosts/db.xml")["host"] == "db.xml"
    assert exporter.document("/api/v1/hosts/DB.XML")["host"] == "db.xml"
    assert hosts(document(exporter, "/api/v1/hosts/db.xml.xml")) == ["db.xml"]
    assert hosts(document(exporter, "/api/v1/hosts.xml?host=db")) == ["db"]


def test_host_that_only_sends_audits_has_no_xml() -> None:
    """There is no scan of it; if its own name ends in .xml, it is itself."""
    exporter = fleet("web1")
    audits = HostTable([AuditState(name) for name in ("mail", "mail.xml")])
    exporter.snapshot = replace(exporter.snapshot, audits=audits)
    vars(exporter.audits)["find"] = audits.get
    assert exporter.document("/api/v1/hosts/mail.xml")["host"] == "mail.xml"
    exporter.snapshot = replace(exporter.snapshot, audits=HostTable([AuditState("mail")]))
    vars(exporter.audits)["find"] = exporter.snapshot.audits.get
    assert exporter.ask("/api/v1/hosts/mail").status == 200
    assert exporter.ask("/api/v1/hosts/mail.xml").status == 404


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/v1/hosts/none.xml", 404, '"none" is not a host that this exporter scans'),
        ("/api/v1/hosts/.xml", 404, '".xml" is not a host of this exporter'),
        ("/api/v1/hosts.xml?verdict=good", 400, 'verdict: "good" is not known (known: '),
        (
            "/api/v1/hosts.xml?limit=1",
            400,
            '"limit" is not a parameter of /api/v1/hosts.xml (known: host, label, verdict)',
        ),
    ],
)
def test_errors_are_those_of_the_api(path: str, status: int, message: str) -> None:
    """What is wrong is said as on the other paths of /api/v1."""
    answer = fleet("web1").ask(path)
    assert answer.status == status
    assert message in json.dumps(json.loads(answer.text), ensure_ascii=False).replace('\\"', '"')


@pytest.mark.parametrize("path", ["/api/v1/hosts.xml", "/api/v1/hosts/web1.xml"])
def test_document_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """There is a limit to what is held in memory, and the message says how to ask for less."""
    monkeypatch.setattr(portspec.web.api.nmap, "MAX_BYTES", 1 << 10)
    answer = fleet("web1", "web2").ask(path)
    assert answer.status == 400
    assert "choose hosts by host, label or verdict" in answer.text


def test_document_is_written_once_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who ask for the same hosts share one document, which no client waits for on the event loop."""
    written: list[str] = []

    def counted(states: Sequence[HostState], run: NmapRun) -> Iterator[bytes]:
        written.append(threading.current_thread().name)
        return nmap_xml(states, run)

    monkeypatch.setattr(portspec.web.api.nmap, "nmap_xml", counted)
    exporter = fleet("web1")

    async def scenario() -> None:
        async with exporter.served() as url:
            await asyncio.gather(*(fetch(f"{url}/api/v1/hosts.xml") for _ in range(20)))
            assert len(written) == 1
            await fetch(f"{url}/api/v1/hosts.xml")
            assert len(written) == 1
            exporter.snapshot = fleet("web2").snapshot
            answer = await fetch(f"{url}/api/v1/hosts.xml")
            assert b'"web2"' in answer.body
            assert len(written) == 2

    asyncio.run(scenario())
    assert threading.main_thread().name not in written
