"""Names whose owner wants to disturb the scan: thousands of addresses, loops, changing and unreadable answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.faults.registry import fault

from .plumbing import SCANNER4
from .program import configure, scan
from .truth import HostTruth, State

if TYPE_CHECKING:
    from pathlib import Path

    from .network import Lab

V4: Final = "198.18.11.1"
V6: Final = "2001:db8:18::11:1"
OPEN: Final = {(address, 22): State.OPEN for address in (V4, V6)}
UNREADABLE: Final = ("loop", "chain", "cut", "noise", "other", "pointer")
CUT: Final = ("cut", "other")  # of these there would be an address
METADATA: Final = "169.254.169.254"


def discovering(directory: Path, *names: str, **keys: Any) -> Path:
    """Write a conf.yml whose hosts are those of a list; port 22 is expected of each."""
    (directory / "found.json").write_text(json.dumps([{"targets": names}]), encoding="utf-8")
    source = {"files": ["found.json"], "expect": [22]}
    return configure(directory, {}, [22], discovery={"file_sd": [source]}, **keys)


def by_host(document: dict[str, Any]) -> dict[str, Any]:
    """Return the hosts that a scan printed by their names."""
    return {host["host"]: host for host in document["hosts"]}


@fault(
    "name server",
    "scans",
    "A loop of aliases, or an answer that is garbage, makes its own host unknown, and no other.",
)
def test_names_that_cannot_be_read_are_unknown_and_disturb_no_other(lab: Lab, tmp_path: Path) -> None:
    """A loop of aliases, or an answer that is none, makes its own host unknown; others are scanned."""
    lab.apply([HostTruth("good.lab", (V4, V6), OPEN)])
    lab.write_hosts("127.0.0.1 localhost\n")
    lab.serve_names(
        {"good.lab": [V4, V6]} | {f"h.{kind}.lab": [V4] if kind in CUT else [] for kind in UNREADABLE},
        odd={kind: kind for kind in UNREADABLE} | {f"h.{kind}.lab": kind for kind in UNREADABLE},
    )
    names = [f"h.{kind}.lab" for kind in UNREADABLE]
    _, document = scan(lab, configure(tmp_path, {name: [22] for name in ["good.lab", *names]}, [22]))
    hosts = by_host(document)
    assert hosts["good.lab"]["verdict"] == "in_spec"
    assert {(hosts[name]["verdict"], hosts[name]["reason"]) for name in names} == {("unknown", "resolve")}


def test_name_with_thousands_of_addresses_is_scanned_in_part_and_unknown(lab: Lab, tmp_path: Path) -> None:
    """A name whose owner gives it as many addresses as an answer has room for is scanned on max_addresses of them."""
    lab.apply([HostTruth("good.lab", (V4, V6), OPEN)])
    many = [f"198.18.{64 + number // 250}.{number % 250 + 1}" for number in range(3000)]
    many += [f"2001:db8:18:1::{number:x}" for number in range(2000)]
    lab.write_hosts("127.0.0.1 localhost\n")
    lab.serve_names({"good.lab": [V4, V6], "many.lab": many})
    _, document = scan(lab, configure(tmp_path, {"good.lab": [22], "many.lab": [22]}, [22]))
    hosts = by_host(document)
    assert hosts["good.lab"]["verdict"] == "in_spec"
    assert hosts["many.lab"]["verdict"] != "in_spec"
    assert len(hosts["many.lab"]["addresses"]) == 64
    assert "has 5,000 addresses, of which 64 are scanned" in hosts["many.lab"]["detail"]


@pytest.mark.parametrize("engine", ["connect", "syn"])
def test_discovered_name_that_leads_to_the_machine_itself_is_denied(lab: Lab, tmp_path: Path, engine: str) -> None:
    """What a list, or the owner of a name in it, points at loopback or a metadata service is not scanned."""
    lab.apply([HostTruth("good.lab", (V4, V6), OPEN)])
    lab.write_hosts("127.0.0.1 localhost mine.lab\n")
    lab.serve_names(
        {"good.lab": [V4, V6], "meta.lab": [METADATA], "half.lab": [V4, "127.0.0.1"], "nat.lab": ["64:ff9b::a9fe:a9fe"]}
    )
    bad = ["localhost", "mine.lab", "meta.lab", "half.lab", "nat.lab", METADATA, "127.0.0.1", "::1"]
    conf = discovering(tmp_path, "good.lab", *bad, scan={"engine": engine})
    _, document = scan(lab, conf)
    hosts = by_host(document)
    assert hosts["good.lab"]["verdict"] == "in_spec"
    for name in bad:
        assert (hosts[name]["verdict"], hosts[name]["reason"]) == ("unknown", "denied"), hosts[name]
        assert [item["address"] for item in hosts[name]["addresses"]] == ([V4] if name == "half.lab" else [])


def test_name_that_turns_to_a_denied_address_is_denied_from_then_on(lab: Lab, tmp_path: Path) -> None:
    """DNS rebinding: the second scan of a name that was good, and now leads to loopback, does not follow it."""
    lab.apply([HostTruth("good.lab", (V4, V6), OPEN)])
    lab.write_hosts("\n")
    conf = discovering(tmp_path, "turning.lab", ipv6=False)
    lab.serve_names({"turning.lab": [V4]})
    assert scan(lab, conf)[0] == 0
    lab.serve_names({"turning.lab": ["127.0.0.1"]})
    code, document = scan(lab, conf)
    assert (code, document["hosts"][0]["reason"], document["hosts"][0]["addresses"]) == (3, "denied", [])


def test_name_that_has_another_address_each_time_is_judged_by_those_of_its_scan(lab: Lab, tmp_path: Path) -> None:
    """Answers that change between scans are no fault: each scan judges the address that it got."""
    turning = [f"198.18.12.{number}" for number in range(1, 9)]
    lab.apply([HostTruth("turning.lab", tuple(turning), {(address, 22): State.OPEN for address in turning})])
    lab.write_hosts("\n")
    lab.serve_names({"turning.lab": turning}, odd={"turning.lab": "turning"})
    conf = configure(tmp_path, {"turning.lab": [22]}, [22], ipv6=False)
    seen = set()
    for _ in range(3):
        code, document = scan(lab, conf)
        (host,) = document["hosts"]
        assert (code, host["verdict"], len(host["addresses"])) == (0, "in_spec", 1)
        seen.add(host["addresses"][0]["address"])
    assert len(seen) > 1


@pytest.mark.parametrize("engine", ["connect", "syn"])
def test_name_that_leads_to_an_address_of_the_exporter_is_scanned_unless_denied(
    lab: Lab, tmp_path: Path, engine: str
) -> None:
    """Inventories list the exporter's machine, too: it is a host like others, until `deny` has its address."""
    lab.apply([])
    lab.write_hosts("127.0.0.1 localhost\n")
    lab.serve_names({"me.lab": [SCANNER4]})
    for deny, verdict, reason in (([], "out_of_spec", None), ([SCANNER4], "unknown", "denied")):
        conf = discovering(tmp_path, "me.lab", ipv6=False, scan={"engine": engine}, deny=deny)
        (host,) = scan(lab, conf)[1]["hosts"]
        assert (host["verdict"], host["reason"]) == (verdict, reason), host["detail"]
