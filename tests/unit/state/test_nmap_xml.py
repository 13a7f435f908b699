from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec import __version__
from portspec.scan import Failure, Reason
from portspec.state.nmap_xml import MAX_LISTED, NmapRun, nmap_xml
from portspec.state.snapshot import HostState
from tests.requirements import missing
from tests.unit.factories import MODEST, NOW, result, seen, target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.inventory import Target
    from portspec.scan import AddressObservation

DTD = Path("/usr/share/nmap/nmap.dtd")
RUN = NmapRun("portspec scan", "syn", NOW + 60)


def state(of: Target, *addresses: AddressObservation, failure: Failure | None = None) -> HostState:
    """Make the state of a host after one scan."""
    return HostState(of).after(result(of, *addresses, failure=failure))


def written(states: Iterable[HostState], run: NmapRun = RUN) -> ET.Element:
    """Write states, and read what was written."""
    return ET.fromstring(b"".join(nmap_xml(list(states), run)))  # noqa: S314 - our own


def only(root: ET.Element) -> ET.Element:
    """Return the one host of a document."""
    (host,) = root.findall("host")
    return host


def status(host: ET.Element) -> tuple[str | None, str | None]:
    """Return the state of a host and the reason for it."""
    found = host.find("status")
    assert found is not None
    return found.get("state"), found.get("reason")


def ports(host: ET.Element) -> dict[str | None, str | None]:
    """Return the state of each port that has an element of its own."""
    return {port.get("portid"): one.get("state") for port in host.iter("port") for one in port.iter("state")}


def others(host: ET.Element) -> dict[str | None, tuple[str | None, str | None]]:
    """Return the number of the other ports by their state, and which ones they are."""
    return {
        extra.get("state"): (extra.get("count"), reason.get("ports"))
        for extra in host.iter("extraports")
        for reason in extra.iter("extrareasons")
    }


def zoo() -> list[HostState]:
    """Make hosts of all kinds."""
    web, silent, six = target("web1", expect=[22]), target("192.0.2.9"), target("v6", address="2001:db8::1")
    return [
        state(web, seen(is_open=[22, 80], unconfirmed=[80], filtered=[8443], rtt=0.0123)),
        state(target("nowhere"), failure=Failure(Reason.RESOLVE, "does not resolve -- at all")),
        state(target("db1"), seen("192.0.2.2", reason=Reason.NO_ROUTE)),
        state(silent, seen("192.0.2.9", filtered=[22, 80, 443])),
        state(six, seen("2001:db8::1", is_open=[443])),
        state(target("late"), seen("192.0.2.3", reason=Reason.TIMEOUT)),
        HostState(target("never")),
    ]


def test_document_is_valid() -> None:
    """What hosts of all kinds are written as is valid by the DTD that comes with nmap."""
    try:
        etree = import_module("lxml.etree")
    except ImportError:
        missing("lxml is not installed")
    if not DTD.exists():
        missing("nmap.dtd (nmap-common) is not installed")
    dtd = etree.DTD(str(DTD))
    for states in (zoo(), []):
        assert dtd.validate(etree.fromstring(b"".join(nmap_xml(states, RUN)))), dtd.error_log


def test_host_has_its_open_ports_and_its_name() -> None:
    """Open ports stand one by one with the name of their service, closed and filtered ones as numbers."""
    of = target("web1", expect=[22], scan=range(1, 101))
    host = only(written([state(of, seen(scanned=range(1, 101), is_open=[22, 80], filtered=[50, 51]))]))
    assert status(host) == ("up", "syn-ack")
    assert [dict(one.attrib) for one in host.iter("address")] == [{"addr": "192.0.2.1", "addrtype": "ipv4"}]
    assert [dict(one.attrib) for one in host.iter("hostname")] == [{"name": "web1", "type": "user"}]
    assert ports(host) == {"22": "open", "80": "open"}
    assert others(host) == {"closed": ("96", "1-21,23-49,52-79,81-100"), "filtered": ("2", "50-51")}
    assert [dict(one.attrib) for one in host.iter("service")] == [
        {"name": name, "method": "table", "conf": "3"} for name in ("ssh", "http")
    ]


def test_expected_port_that_is_not_open_stands_by_itself() -> None:
    """A missing port is listed with its state, and not counted among the others."""
    host = only(written([state(target(expect=[22, 25, 80]), seen(is_open=[80], filtered=[25]))]))
    assert ports(host) == {"22": "closed", "25": "filtered", "80": "open"}
    assert others(host) == {"closed": ("1", "443")}


def test_many_missing_ports_are_numbers() -> None:
    """Of thousands of expected ports that are closed, the first have an element each, and none is lost."""
    host = only(written([state(target(expect=range(1, 65536)), seen(scanned=range(1, 65536)))]))
    assert len(ports(host)) == MAX_LISTED
    assert others(host) == {"closed": (str(65535 - MAX_LISTED), f"{MAX_LISTED + 1}-65535")}


def test_open_port_that_accepts_no_connection_is_not_open() -> None:
    """What a middlebox may have answered for is open|filtered."""
    assert ports(only(written([state(target(), seen(is_open=[22, 80], unconfirmed=[80]))]))) == {
        "22": "open",
        "80": "open|filtered",
    }


def test_silent_host_is_down() -> None:
    """A host that answered nothing is not up, and its ports are filtered."""
    host = only(written([state(target("192.0.2.1"), seen(filtered=[22, 80, 443]))]))
    assert status(host) == ("down", "no-response")
    assert list(host.iter("hostname")) == []
    assert others(host) == {"filtered": ("3", "22,80,443")}


@pytest.mark.parametrize("reason", [one for one in Reason if one is not Reason.RESOLVE])
def test_host_that_could_not_be_scanned_is_unknown(reason: Reason) -> None:
    """Whatever the failure, the host is neither up nor down, no port of it has a state, and the reason is there."""
    host = only(written([state(target(), seen(reason=reason))]))
    assert status(host) == ("unknown", reason.value.replace("_", "-"))
    assert host.get("comment") == f"no connection to 192.0.2.1: {reason.value}"
    assert host.find("ports") is None
    assert host.get("timedout") == ("true" if reason is Reason.TIMEOUT else None)


def test_host_whose_latest_scan_failed_is_unknown() -> None:
    """What an earlier scan saw is not told as if it were so now."""
    of = target()
    later = state(of, seen(is_open=[22])).after(result(of, seen(reason=Reason.NO_ROUTE), at=NOW + 60))
    host = only(written([later]))
    assert status(host)[0] == "unknown"
    assert ports(host) == {}


@pytest.mark.parametrize(
    ("of", "comment", "reason"),
    [
        (
            state(target("nowhere"), failure=Failure(Reason.RESOLVE, "no -- A record--")),
            "no - - A record- -",
            "invalid",
        ),
        (HostState(target("nowhere")), "not scanned yet", None),
    ],
)
def test_host_without_an_address_or_a_scan_is_skipped(of: HostState, comment: str, reason: str | None) -> None:
    """There is no host without an address: it is a target that was skipped, after a comment that says why."""
    document = b"".join(nmap_xml([of], RUN)).decode()
    root = ET.fromstring(document)  # noqa: S314 - our own
    assert root.findall("host") == []
    (skipped,) = root.findall("target")
    assert (skipped.get("specification"), skipped.get("status"), skipped.get("reason")) == (
        "nowhere",
        "skipped",
        reason,
    )
    assert f"<!-- nowhere: {comment} -->\n<target " in document


def test_services_are_those_that_every_host_was_scanned_for() -> None:
    """<scaninfo> is about all hosts: it has no port that was not scanned on each address that was seen."""
    first, second = target("a", scan=[22, 80, 443]), target("b", scan=[22, 80, 5432])
    states = [
        state(first, seen(scanned=[22, 80, 443])),
        state(second, seen(scanned=[22, 80, 5432]), seen("192.0.2.2", reason=Reason.NO_ROUTE)),
    ]
    (info,) = written(states).findall("scaninfo")
    assert dict(info.attrib) == {"type": "syn", "protocol": "tcp", "numservices": "2", "services": "22,80"}
    assert written(states[:1], NmapRun("", "connect", NOW)).findall("scaninfo")[0].get("type") == "connect"
    assert written([state(second, seen(reason=Reason.NO_ROUTE))]).findall("scaninfo") == []


def test_times_are_microseconds() -> None:
    """The round-trip time and what RFC 6298 makes of it; without an answer there is none."""
    of = target()
    (times,) = only(written([state(of, seen(rtt=0.0123))])).iter("times")
    assert dict(times.attrib) == {"srtt": "12300", "rttvar": "6150", "to": "36900"}
    assert list(written([state(of, seen())]).iter("times")) == []


def test_run_has_its_times_and_its_numbers() -> None:
    """The document says when the scans began and ended, and how many addresses were up, down, or unknown."""
    root = written(zoo())
    (finished,) = root.iter("finished")
    (hosts,) = root.iter("hosts")
    assert (root.get("scanner"), root.get("xmloutputversion"), root.get("version")) == ("nmap", "1.05", __version__)
    assert (root.get("start"), finished.get("time"), finished.get("elapsed")) == (
        str(int(NOW - 1.5)),
        str(int(NOW)),
        "1.50",
    )
    assert dict(hosts.attrib) == {"up": "2", "down": "1", "total": "5"}
    assert finished.get("summary") == "5 addresses: 2 up, 1 down, 2 unknown; 2 hosts without a result"
    host = root.findall("host")[0]
    assert (host.get("starttime"), host.get("endtime")) == (str(int(NOW - 1.5)), str(int(NOW)))


def test_exporter_without_hosts_has_a_whole_document() -> None:
    """Without a host there is a run of none, now."""
    root = written([])
    assert (root.get("start"), root.findall("host")) == (str(int(NOW + 60)), [])
    assert [one.get("total") for one in root.iter("hosts")] == ["0"]


def test_each_host_is_a_piece() -> None:
    """Many hosts are written one by one, not as one text."""
    of = [target(f"web{number}") for number in range(100)]
    assert len(list(nmap_xml([state(one, seen()) for one in of], RUN))) == 102


@given(st.text(), st.text())
@MODEST
def test_no_text_breaks_the_document(name: str, detail: str) -> None:
    """Whatever a name or a detail has in it, the document can be read, with the name but for what XML forbids."""
    states = [
        state(target(name), seen(), seen("192.0.2.2", reason=Reason.NO_ROUTE)),
        state(target(name), failure=Failure(Reason.RESOLVE, detail)),
        state(target(name), seen(), failure=Failure(Reason.RESOLVE, detail)),
    ]
    root = written(states, NmapRun(detail, "syn", NOW))
    (skipped,) = root.findall("target")
    found = skipped.get("specification", "")
    assert len(found) == len(name)
    assert all(one in {other, "\ufffd"} for one, other in zip(found, name, strict=True))


def test_markup_and_control_characters_are_escaped() -> None:
    """A name is the value of one attribute, whatever it contains; what XML forbids is replaced."""
    host = only(written([state(target("a\"/><x y='&\n\t\x00\x1b\ud800\u202e"), seen())]))
    (hostname,) = host.iter("hostname")
    assert hostname.get("name") == "a\"/><x y='&\n\t\ufffd\ufffd\ufffd\u202e"
    assert list(hostname) == []


def test_ports_of_a_partial_scan_are_those_that_were_seen() -> None:
    """An address that was cut off is unknown, with the ports that were seen before."""
    cut = replace(seen(scanned=[22, 80], is_open=[22]), failure=Failure(Reason.CUT_OFF, "it fell silent"))
    host = only(written([state(target(expect=[22, 443]), cut)]))
    assert status(host) == ("unknown", "cut-off")
    assert (ports(host), others(host)) == ({"22": "open"}, {"closed": ("1", "80")})
