from __future__ import annotations

import json
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

from portspec.ports import PortSet
from tests.unit.capabilities import need_raw_sockets
from tests.unit.cli.run import PROGRAM, environment, run
from tests.unit.scan.loopback import PATIENCE, V6, listeners, own_address, ports_of, silent_ports

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Configure

HOST_KEYS = [
    "host", "labels", "verdict", "reason", "detail", "expected", "allowed", "missing", "unexpected", "excepted",
    "overdue",
    "addresses", "last_scan", "duration_seconds", "last_change", "next_scan", "pace", "maintenance",
    "audit",
]  # fmt: skip
NO_SUCH_NAME = "nowhere.invalid"


def spelled(ports: PortSet) -> list[str]:
    """Spell ports one by one, as in JSON."""
    return [str(port) for port in ports]


def test_host_in_spec_is_exit_0(configure: Configure) -> None:
    """A host that has open what it should is exit 0, with a table that says so."""
    address = own_address()
    with listeners(address) as opened:
        conf = configure({address: spelled(ports_of(opened))})
        done = run("scan", "-c", conf, program=PROGRAM)
        (port,) = ports_of(opened)
    assert (done.code, done.err) == (0, "")
    header, rule, row, *_ = [line for line in done.out.splitlines() if line.strip()]
    assert header.split() == ["HOST", "VERDICT", "MISSING", "UNEXPECTED", "OPEN", "NOTE"]
    assert rule.strip(" ─") == ""
    assert row.split() == [address, "in", "spec", str(port)]
    assert "1 host: 1 in spec, 0 out of spec, 0 unknown; 2 probes in " in done.out


@pytest.mark.parametrize("kind", ["missing", "unexpected"])
def test_host_out_of_spec_is_exit_1(configure: Configure, kind: str) -> None:
    """A port that is missing or unexpected is exit 1, and the table names it."""
    address = own_address()
    with listeners(address) as opened:
        (port,) = ports_of(opened)
        conf = configure({address: [1, port]} if kind == "missing" else {address: []}, [port])
        done = run("scan", "-c", conf)
    assert (done.code, done.err) == (1, "")
    (row,) = [line.split() for line in done.out.splitlines() if line.strip().startswith(address)]
    assert row[:4] == [address, "out", "of", "spec"]
    assert row[4:] == (["1", str(port)] if kind == "missing" else [str(port), str(port)])


def test_table_begins_with_its_header(configure: Configure) -> None:
    """In a pipe the first line is no empty one, and no line begins with a blank."""
    lines = run("scan", "-c", configure({own_address(): []}, [1])).out.splitlines()
    assert lines[0].startswith("HOST ")
    assert lines[2].startswith("127.")
    assert [line for line in lines if line.startswith(" ")] == []


def test_silent_host_is_noted(configure: Configure) -> None:
    """A host that answers nothing is out of spec for what it should have open, with a note."""
    address = own_address()
    with silent_ports(address) as silent:
        conf = configure({address: spelled(silent)}, spelled(silent), scan={"timeout": 0.05, "retries": 0})
        done = run("scan", "-c", conf)
    assert done.code == 1
    assert "no answer to any probe" in done.out


def unresolvable(configure: Configure) -> str:
    """Configure a name that does not resolve."""
    return configure({NO_SUCH_NAME: []})


def test_unknown_host_is_exit_3(configure: Configure) -> None:
    """A host that could not be seen is exit 3, and the table says why."""
    done = run("scan", "-c", unresolvable(configure))
    assert (done.code, done.err) == (3, "")
    assert "unknown" in done.out
    assert "does not resolve" in done.out


def test_out_of_spec_outweighs_unknown(configure: Configure) -> None:
    """With one host out of spec and one unknown the exit is 1."""
    conf = configure({own_address(): [1], NO_SUCH_NAME: []})
    assert run("scan", "-c", conf).code == 1


def test_unknown_host_on_the_command_line_is_exit_2_with_a_hint(configure: Configure) -> None:
    """A host that the configuration does not have is exit 2 on standard error, with the name that was meant."""
    conf = configure({"database.example": [], "web.example": []})
    done = run("scan", "-c", conf, "databse.example")
    assert (done.code, done.out) == (2, "")
    assert done.err == '"databse.example" is not a host of the configuration; did you mean database.example?\n'


def test_named_hosts_alone_are_scanned(configure: Configure) -> None:
    """With hosts on the command line only these are scanned, in that order, whatever case they are typed in."""
    first, second, third = own_address(), own_address(), own_address()
    conf = configure({first: [], second: [], third: [], "::1": []})
    done = run("scan", "-c", conf, "--json", third, "0:0::1", first)
    assert done.code == 0
    assert [host["host"] for host in json.loads(done.out)["hosts"]] == [third, "::1", first]


@pytest.mark.parametrize("engine", ["connect", "syn"])
def test_xml_is_that_of_nmap(configure: Configure, engine: str) -> None:
    """`--format nmap-xml` prints nothing but the document, with what is open on each address."""
    if engine == "syn":
        need_raw_sockets()
    address = own_address()
    with listeners(address) as opened:
        (port,) = ports_of(opened)
        conf = configure({address: [], NO_SUCH_NAME: []}, [1, port], scan={"engine": engine})
        done = run("scan", "-c", conf, "--format", "nmap-xml")
    assert (done.code, done.err) == (1, "")
    root = ET.fromstring(done.out.encode())  # noqa: S314 - our own
    assert (root.tag, root.get("args")) == ("nmaprun", "portspec scan --format nmap-xml")
    (info,) = root.iter("scaninfo")
    assert (info.get("type"), info.get("services")) == (engine, f"1,{port}")
    assert [one.get("addr") for one in root.iter("address")] == [address]
    assert [one.get("portid") for one in root.iter("port")] == [str(port)]
    assert [one.get("specification") for one in root.iter("target")] == [NO_SUCH_NAME]


@pytest.mark.parametrize("form", ["table", "json"])
def test_format_has_a_short_form(configure: Configure, form: str) -> None:
    """`--format json` is `--json`, and `--format table` the default; not both at once."""
    conf = configure({NO_SUCH_NAME: []})
    done = run("scan", "-c", conf, "--format", form)
    assert (done.code, done.err) == (3, "")
    if form == "json":
        assert json.loads(done.out)["hosts"][0]["host"] == NO_SUCH_NAME
    else:
        assert done.out.startswith("HOST ")
    both = run("scan", "-c", "none.yml", "--json", "--format", form)
    assert (both.code, both.out) == (2, "")
    assert both.err.endswith("argument --format: not allowed with argument --json\n")


# 7 ports; those that deviate once more, with the others of the host beside them (syn: the missing one), and for syn
# a connection to the unexpected one, with an expected one beside it.
@pytest.mark.parametrize(
    ("engine", "confirm", "probes"),
    [("connect", 1, 7), ("connect", 2, 7 + 5), ("syn", 1, 7 + 2), ("syn", 2, 7 + 5 + 2)],
)
def test_json_is_the_object_of_the_contract(configure: Configure, engine: str, confirm: int, probes: int) -> None:
    """`--json` prints hosts, engine, probes_sent (repeats and confirmations included) and duration_seconds."""
    if engine == "syn":
        need_raw_sockets()
    address = own_address()
    with listeners(address, 2) as opened, listeners(V6) as on_v6:
        is_open = ports_of(opened)
        first, second = is_open
        hosts = {address: {"expect": [1, first], "allow": [2]}, V6: []}
        conf = configure(hosts, [3, second], scan={"engine": engine, "confirm": confirm})
        done = run("scan", "-c", conf, "--json")
        assert ports_of(on_v6)
    assert (done.code, done.err) == (1, "")
    document: dict[str, Any] = json.loads(done.out)
    assert list(document) == ["hosts", "engine", "probes_sent", "duration_seconds"]
    assert (document["engine"], document["probes_sent"]) == (engine, probes)
    assert 0.0 < document["duration_seconds"] < PATIENCE
    host, on_v6_host = document["hosts"]
    assert list(host) == list(on_v6_host) == HOST_KEYS
    (row,) = host["addresses"]
    assert 0.0 < row.pop("rtt_seconds") < 1.0
    assert row == {"address": address, "open": spelled(is_open), "unconfirmed": [], "closed": 3, "filtered": 0}
    assert host["last_scan"].endswith("Z")
    assert {key: host[key] for key in HOST_KEYS if key not in {"addresses", "last_scan", "duration_seconds"}} == {
        "host": address,
        "labels": {},
        "verdict": "out_of_spec",
        "reason": None,
        "detail": None,
        "expected": spelled(PortSet.of([1, first])),
        "allowed": ["2"],
        "missing": ["1"],
        "unexpected": [str(second)],
        "excepted": [],
        "overdue": [],
        "last_change": None,
        "next_scan": None,
        "pace": None,
        "maintenance": None,
        "audit": None,
    }
    assert (on_v6_host["host"], on_v6_host["verdict"]) == (V6, "in_spec")


def test_json_of_an_unknown_host_has_its_reason(configure: Configure) -> None:
    """In JSON an unknown host has verdict unknown and reason resolve."""
    done = run("scan", "-c", unresolvable(configure), "--json")
    (host,) = json.loads(done.out)["hosts"]
    assert (done.code, host["verdict"], host["reason"], host["addresses"]) == (3, "unknown", "resolve", [])


def test_each_address_of_a_network_is_a_host(configure: Configure) -> None:
    """A CIDR in conf.yml is scanned address by address."""
    done = run("scan", "-c", configure({"127.77.0.0/30": []}), "--json")
    hosts = json.loads(done.out)["hosts"]
    assert [host["host"] for host in hosts] == [f"127.77.0.{number}" for number in range(4)]


def test_interrupt_ends_a_scan(configure: Configure) -> None:
    """Control-C in the middle of a scan ends it within moments: exit 130, no traceback."""
    quick = own_address()
    conf = configure({quick: {"scanports": [1]}, own_address(): []}, "all", scan={"host_rate": 10})  # takes hours
    process = subprocess.Popen(
        [*PROGRAM, "scan", "-c", conf, "--log.level", "info"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        assert any(f'event="host scanned" host={quick}' in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()  # closes its pipes, too, which would be the fault of a later test
    assert (process.returncode, out, err) == (130, "", "")


def test_network_is_scanned_by_its_name(configure: Configure) -> None:
    """`scan HOST` with a CIDR of the file, in any spelling, scans each of its addresses and no other host."""
    conf = configure({"127.77.0.0/30": [], "127.78.0.1": []})
    for name in ("127.77.0.0/30", "127.77.0.0/255.255.255.252"):
        done = run("scan", "-c", conf, "--json", name)
        assert done.code == 0
        assert [host["host"] for host in json.loads(done.out)["hosts"]] == [f"127.77.0.{last}" for last in range(4)]


@pytest.mark.parametrize("arguments", [("scan",), ("learn", "nowhere.invalid", "--ports", "1")])
def test_commands_log_only_errors(configure: Configure, arguments: tuple[str, ...]) -> None:
    """A host out of spec or unknown is told in the result alone; with --log.level warning it is logged, too."""
    given = [*arguments] if arguments[0] == "learn" else [*arguments, "-c", unresolvable(configure)]
    assert (run(*given).err, run(*given, "--log.level", "warning").err.count("host scanned")) == ("", 1)


def test_scan_does_not_load_the_web_server() -> None:
    """A command that scans once starts without what only the exporter needs."""
    told = "import sys, portspec.cli.scan, portspec.cli.check, portspec.cli.learn; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert {"aiohttp", "jinja2", "prometheus_client", "sqlite3"}.isdisjoint(done.stdout.split())
