from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.faults.registry import fault

from .program import configure, scan
from .truth import HostTruth, State

if TYPE_CHECKING:
    from pathlib import Path

    from .network import Lab

V4: Final = "198.18.1.1"
V6: Final = "2001:db8:18::1"
OPEN: Final = {(address, 22): State.OPEN for address in (V4, V6)}


WRONG: Final = (
    *("0.0.0.0", "224.0.0.1", "255.255.255.255"),  # noqa: S104 - what a name resolves to
    *("::", "ff02::1", "::ffff:198.18.1.1", "fe80::1", "64:ff9b::"),
)


def scanned(lab: Lab, tmp_path: Path, *names: str) -> list[dict[str, Any]]:
    """Scan hosts, of which port 22 is expected, and give what is printed of each."""
    _, document = scan(lab, configure(tmp_path, {name: [22] for name in names}, [22]))
    hosts: list[dict[str, Any]] = document["hosts"]
    assert [host["host"] for host in hosts] == list(names)
    return hosts


def addresses(host: dict[str, Any]) -> list[str]:
    """Return the addresses that a host was scanned on."""
    return [item["address"] for item in host["addresses"]]


@fault("name server", "scans", "A name that is in /etc/hosts is scanned while every name server is down.")
@pytest.mark.parametrize("trouble", ["fail", "silent"])
def test_name_that_is_only_in_the_hosts_file_needs_no_name_server(lab: Lab, tmp_path: Path, trouble: str) -> None:
    """A name that stands in /etc/hosts with one family is judged by it, while every name server is down."""
    lab.apply([HostTruth("h.lab", (V4, V6), OPEN)])
    lab.write_hosts(f"{V4} H4.lab alias\n{V6} h6.lab\n")
    lab.serve_names({}, **{trouble: ("A", "AAAA")})  # type: ignore[arg-type]  # one of two keywords
    hosts = scanned(lab, tmp_path, "h4.lab", "Alias", "h6.lab")
    assert [(host["verdict"], addresses(host)) for host in hosts] == [
        ("in_spec", [V4]),
        ("in_spec", [V4]),
        ("in_spec", [V6]),
    ]


def test_name_in_the_hosts_file_has_the_addresses_of_the_file_alone(lab: Lab, tmp_path: Path) -> None:
    """As for every other program, what name servers say of a name in /etc/hosts does not matter."""
    lab.apply([HostTruth("h.lab", (V4, V6), OPEN)])
    lab.write_hosts(f"{V4} half.lab\n{V6} both.lab\n{V4} both.lab\n")
    lab.serve_names({"half.lab": [V4, V6], "both.lab": ["198.18.1.9"]})
    assert [addresses(host) for host in scanned(lab, tmp_path, "half.lab", "both.lab")] == [[V4], [V4, V6]]


@pytest.mark.parametrize("trouble", [{"fail": ["AAAA"]}, {"silent": ["AAAA"]}, {"fail": ["A"]}])
def test_half_resolved_host_is_unknown(lab: Lab, tmp_path: Path, trouble: dict[str, list[str]]) -> None:
    """Where one family's look-up fails, the addresses that were found do not make the host in spec."""
    lab.apply([HostTruth("h.lab", (V4, V6), OPEN)])
    lab.write_hosts("127.0.0.1 localhost\n")
    lab.serve_names({"h.lab": [V4, V6]}, **trouble)  # type: ignore[arg-type]  # one of two keywords
    (host,) = scanned(lab, tmp_path, "h.lab")
    assert (host["verdict"], host["reason"]) == ("unknown", "resolve")
    assert addresses(host) == [V6 if trouble == {"fail": ["A"]} else V4]


@pytest.mark.parametrize("source", ["file", "server"])
def test_address_that_conf_yml_may_not_name_makes_the_host_unknown(lab: Lab, tmp_path: Path, source: str) -> None:
    """What a sinkhole answers with is not scanned; the good addresses are, and a deviation of theirs still counts."""
    lab.apply([HostTruth("h.lab", (V4, V6), OPEN)])
    names = {f"bad{number}.lab": [wrong] for number, wrong in enumerate(WRONG)}
    names |= {f"half{number}.lab": [wrong, V4] for number, wrong in enumerate(WRONG)}
    lines = [f"{address} {name}\n" for name, found in names.items() for address in found]
    lab.write_hosts("".join(lines) if source == "file" else "\n")
    lab.serve_names(names if source == "server" else {})
    for host in scanned(lab, tmp_path, *names):
        assert (host["verdict"], host["reason"]) == ("unknown", "resolve"), host
        assert addresses(host) == ([V4] if host["host"].startswith("half") else [])
    lab.close_port(V4, 22)
    verdicts = [host["verdict"] for host in scanned(lab, tmp_path, *names)]
    assert verdicts == ["unknown"] * len(WRONG) + ["out_of_spec"] * len(WRONG)


def test_loopback_address_counts_only_where_this_machine_is_meant(lab: Lab, tmp_path: Path) -> None:
    """A name server that answers with 127.0.0.1 would have the scanner judge itself; /etc/hosts may say so."""
    lab.apply([])
    lab.serve_names({"h.lab": ["127.0.0.1"]})
    lab.write_hosts("127.0.1.1 own.lab\n127.0.0.1 localhost\n")
    sinkhole, own, localhost = scanned(lab, tmp_path, "h.lab", "own.lab", "localhost")
    assert (sinkhole["verdict"], sinkhole["reason"], addresses(sinkhole)) == ("unknown", "resolve", [])
    assert (addresses(own), addresses(localhost)) == (["127.0.1.1"], ["127.0.0.1"])


def test_name_server_is_asked_by_idna_2008(lab: Lab, tmp_path: Path) -> None:
    """faß.lab is not fass.lab, which is somebody else's."""
    lab.apply([HostTruth("h.lab", (V4,), {(V4, 22): State.OPEN})])
    lab.serve_names({"xn--fa-hia.lab": [V4], "fass.lab": ["198.18.1.9"]})
    (host,) = scanned(lab, tmp_path, "faß.lab")
    assert (host["verdict"], addresses(host)) == ("in_spec", [V4])
