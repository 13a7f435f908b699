from __future__ import annotations

import json
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from portspec.cli import learn, learned
from portspec.config import load
from portspec.ports import PortSet
from portspec.scan import Reason
from portspec.state.nmap_xml import NmapRun, nmap_xml
from portspec.state.snapshot import HostState
from tests.requirements import require
from tests.unit.cli.run import call
from tests.unit.factories import MODEST, NOW, result, seen, target
from tests.unit.scan.loopback import V6, listeners, own_address, ports_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.cli.run import Done

MASSCAN: Final = Path(__file__).parents[2] / "data/nmap/masscan.xml"  # written by masscan 1.3.2
SCANINFO: Final = '<scaninfo type="syn" protocol="tcp" numservices="101" services="1-100,443"/>'
UP: Final = '<status state="up" reason="syn-ack" reason_ttl="64"/>'


def run_of(*hosts: str, info: str = SCANINFO) -> bytes:
    """Make the document of a run."""
    prolog = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE nmaprun>\n'
    return f"{prolog}<nmaprun>{info}{''.join(hosts)}</nmaprun>".encode()


def host(*ports: str, address: str = "192.0.2.1", names: str = "", status: str = UP) -> str:
    """Make a host with ports of it."""
    return (
        f'<host>{status}<address addr="{address}" addrtype="ipv4"/><hostnames>{names}</hostnames>'
        f"<ports>{''.join(ports)}</ports></host>"
    )


def port(number: int, state: str = "open", protocol: str = "tcp") -> str:
    """Make a port."""
    return f'<port protocol="{protocol}" portid="{number}"><state state="{state}" reason="x" reason_ttl="0"/></port>'


def learned_from(document: bytes) -> Done:
    """Learn from standard input."""
    return call("learn", "--from", "-", stdin=document)


def block(done: Done) -> Any:
    """Return the hosts of the output, which must be YAML."""
    assert done.err == ""
    return yaml.safe_load(done.out)["hosts"]


def test_masscan_names_a_host_for_each_port() -> None:
    """The open ports of a host are put together; what masscan calls IPv4 may be IPv6, and it names no scanned ports."""
    done = call("learn", "--from", str(MASSCAN))
    assert (done.code, done.err) == (0, "")
    assert yaml.safe_load(done.out) == {
        "hosts": {"192.0.2.1": [22, 443], "192.0.2.7": [22], "2001:db8::7": [8080]},
        "scanports": "all",
    }
    assert '  # "192.0.2.7": only TCP ports are scanned, not 53/udp\n' in done.out
    assert f"\nscanports: all  # {MASSCAN} does not say which ports were scanned\n" in done.out


def test_nmap_is_read(tmp_path: Path) -> None:
    """What nmap -oX finds on loopback becomes what learn itself finds there."""
    nmap = require("nmap")
    with listeners(own_address(), 3) as opened, listeners(V6) as on_v6:
        is_open, is_open6 = ports_of(opened), ports_of(on_v6)
        address = opened[0].getsockname()[0]
        scanned = PortSet.of([1, 2]) | is_open
        spelled = ",".join(map(str, scanned))
        file = tmp_path / "scan.xml"
        subprocess.run([nmap, "-n", "-sT", "-p", spelled, "-oX", file, address], check=True, capture_output=True)
        done = call("learn", "--from", str(file))
        on6 = [nmap, "-n", "-6", "-sT", "-p", str(is_open6), "-oX", "-", V6]
        six = subprocess.run(on6, check=True, capture_output=True)
        done6 = learned_from(six.stdout)
    assert (done.code, done.err) == (0, "")
    assert yaml.safe_load(done.out) == {"hosts": {address: list(is_open)}, "scanports": list(scanned)}
    assert block(done6) == {V6: list(is_open6)}


def test_result_is_a_configuration(tmp_path: Path) -> None:
    """The output is a whole conf.yml."""
    conf = tmp_path / "conf.yml"
    conf.write_text(learned_from(run_of(host(port(22)))).out, encoding="utf-8")
    (found,) = load(str(conf)).hosts
    assert (found.name, found.specification.expect) == ("192.0.2.1", PortSet.of([22]))
    assert found.ports == PortSet.of([*range(1, 101), 443])


ADDRESSES = st.integers(0, 0xFF).map(lambda number: str(IPv4Address("192.0.2.0") + number))
PORTS = st.frozensets(st.integers(1, 65535) | st.integers(1, 5), max_size=6)


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "web1", "DB1.example.org", "bücher.example"]), ADDRESSES, PORTS, PORTS, PORTS),
        min_size=1,
        max_size=5,
        unique_by=(lambda one: one[1], lambda one: one[0] or one[1]),
    )
)
@MODEST
def test_export_becomes_a_configuration_of_the_same_open_ports(
    tmp_path_factory: pytest.TempPathFactory,
    hosts: list[tuple[str, str, frozenset[int], frozenset[int], frozenset[int]]],
) -> None:
    """What portspec writes as XML and learns from it expects exactly the ports that were open, and scans the others."""
    states = []
    for name, address, is_open, silent, expect in hosts:
        of = target(name or address, expect=expect, address=address)
        observation = seen(address, scanned=of.config.ports, is_open=is_open, filtered=silent - is_open, answered=True)
        states.append(HostState(of).after(result(of, observation)))
    done = learned_from(b"".join(nmap_xml(states, NmapRun("", "syn", NOW))))
    conf = tmp_path_factory.mktemp("learned") / "conf.yml"
    conf.write_text(done.out, encoding="utf-8")
    loaded = {one.name: one for one in load(str(conf)).hosts}
    assert (done.code, done.err) == (0, "")
    assert list(loaded) == [state.host for state in states]
    for state in states:
        assert state.latest
        assert loaded[state.host].specification.expect == state.latest.open_ports
        assert not loaded[state.host].specification.allow
        assert state.latest.addresses[0].scanned <= loaded[state.host].ports


@pytest.mark.parametrize("reason", [Reason.NO_ROUTE, Reason.ANSWERS_EVERYTHING])
def test_export_of_what_was_not_seen_is_a_comment(reason: Reason) -> None:
    """A host that portspec could not scan, or that was silent, is no host without open ports."""
    first, second, third = target("web1"), target("web2"), target("web3")
    states = [
        HostState(first).after(result(first, seen(reason=reason))),
        HostState(second).after(result(second, seen("192.0.2.2", filtered=[22, 80, 443]))),
        HostState(third),
    ]
    done = learned_from(b"".join(nmap_xml(states, NmapRun("", "syn", NOW))))
    assert (done.code, block(done)) == (3, None)
    assert done.out.splitlines()[1:3] == [
        f'  # "web1" (192.0.2.1): unknown ({reason.value.replace("_", "-")})',
        '  # "web2" (192.0.2.2): down (no-response)',
    ]


def test_name_that_the_user_gave_is_the_host() -> None:
    """The name on the command line of nmap is the host; that of the DNS is only a comment."""
    user, ptr = '<hostname name="db1" type="user"/>', '<hostname name="x.isp.example" type="PTR"/>'
    done = learned_from(run_of(host(port(22), names=user + ptr), host(port(80), address="192.0.2.2", names=ptr)))
    assert (done.code, block(done)) == (0, {"db1": [22], "192.0.2.2": [80]})
    assert '  # "192.0.2.2" has the name "x.isp.example" in the DNS\n' in done.out
    assert done.out.count("isp.example") == 1


def test_addresses_of_one_name_are_one_host() -> None:
    """What is open on all addresses of a name is expected, what is open on some is allowed, as learn has it."""
    name, again = '<hostname name="db1" type="user"/>', '<hostname name="DB1." type="user"/>'
    first = host(port(22), port(80), names=name)
    done = learned_from(run_of(first, host(port(22), address="192.0.2.2", names=again), first))
    assert block(done) == {"db1": {"expect": [22], "allow": [80]}}


def test_address_of_a_network_card_is_none() -> None:
    """For nmap a neighbour has a MAC address, too, which is no address to scan."""
    mac = '<address addr="00:00:5E:00:53:01" addrtype="mac" vendor="x"/>'
    assert block(learned_from(run_of(host(port(22)).replace("<hostnames>", f"{mac}<hostnames>")))) == {
        "192.0.2.1": [22]
    }


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a b&lt;/script&gt;", '"a b</script>" is not'),
        ("10.0.0.0/24", "is a CIDR; name one host"),
        ("db1:22", "has a port; name the host alone"),
        ("&#x202e;gpj.exe", r'"\u202egpj.exe" is not'),
        ("a&#10;b: [1]", r"a\nb: [1]"),
    ],
)
def test_name_that_a_configuration_refuses_is_a_comment(name: str, why: str) -> None:
    """The reason stands in one line, whatever the name contains, and the address is the host."""
    done = learned_from(run_of(host(port(22), names=f'<hostname name="{name}" type="user"/>')))
    assert block(done) == {"192.0.2.1": [22]}
    (comment,) = [line for line in done.out.splitlines() if "#" in line]
    assert comment.startswith('  # "')
    assert why in comment
    assert comment.isprintable()


def test_host_without_a_usable_name_is_a_comment() -> None:
    """Where neither name nor address can stand in conf.yml there is no host, and the exit is 3."""
    done = learned_from(run_of(host(port(22), address="fe80::1"), host(port(22), address="192.0.2.2")))
    assert (done.code, block(done)) == (3, {"192.0.2.2": [22]})
    assert '  # "fe80::1": it has neither a name nor an address that conf.yml takes\n' in done.out


@pytest.mark.parametrize(
    ("one", "comment"),
    [
        (host(status='<status state="down" reason="no-response"/>'), '"192.0.2.1": down (no-response)'),
        (host(port(22), status='<status state="unknown"/>'), '"192.0.2.1": unknown; open: 22'),
        (host(port(22)).replace("<host>", '<host timedout="true">'), '"192.0.2.1": its scan timed out; open: 22'),
        (host().replace("<ports></ports>", ""), '"192.0.2.1": no TCP port of it was scanned'),
        (host(port(53, protocol="udp")), '"192.0.2.1": no TCP port of it was scanned'),
        (host(status='<status state="&#10;x: [1]"/>'), r'"192.0.2.1": \nx: [1]'),
    ],
)
def test_host_that_was_not_seen_is_a_comment(one: str, comment: str) -> None:
    """A host that is down, or whose TCP ports were not scanned, is not one without open ports; the exit is 3."""
    done = learned_from(run_of(one, host(port(25), address="192.0.2.2")))
    assert (done.code, block(done)) == (3, {"192.0.2.2": [25]})
    assert f"  # {comment}\n" in done.out


def test_only_open_is_open() -> None:
    """open|filtered, closed, filtered and UDP ports are not learned; comments name those that may be open."""
    one = host(
        '<extraports state="open|filtered" count="1000"/>',
        *(port(number, state) for number, state in ((1, "open|filtered"), (2, "closed"), (3, "filtered"), (4, "open"))),
        port(53, protocol="udp"),
        port(123, "open|filtered", "udp"),
        port(161, "closed", "udp"),
        port(0),
    )
    done = learned_from(run_of(one))
    assert (done.code, block(done)) == (0, {"192.0.2.1": [4]})
    assert [line for line in done.out.splitlines() if "#" in line] == [
        '  # "192.0.2.1": open|filtered is not open: 1',
        '  # "192.0.2.1": open|filtered is not open: 1,000 ports',
        '  # "192.0.2.1": only TCP ports are scanned, not 53/udp, 123/udp',
        '  # "192.0.2.1": port 0 is open, which conf.yml has no word for',
    ]


@pytest.mark.parametrize(
    ("status", "extra", "line"),
    [
        ("user-set", "filtered", '  "192.0.2.1": []  # no answer to any probe'),
        ("user-set", "closed", '  "192.0.2.1": []'),
        ("echo-reply", "filtered", '  "192.0.2.1": []'),
    ],
)
def test_silent_host_is_noted(status: str, extra: str, line: str) -> None:
    """Of a host that nmap -Pn takes to be up nothing shows that it is; learn says so as of its own scan."""
    one = host(f'<extraports state="{extra}" count="101"/>', status=f'<status state="up" reason="{status}"/>')
    assert learned_from(run_of(one)).out.splitlines()[1] == line


@pytest.mark.parametrize(
    ("info", "scanports"),
    [
        (SCANINFO, [*["1-100"], 443]),
        ('<scaninfo type="syn" protocol="tcp" services="0-65535"/>', ["all"]),
        ('<scaninfo type="udp" protocol="udp" services="53"/>', "all"),
        (
            '<scaninfo type="syn" protocol="tcp" services="22"/><scaninfo type="udp" protocol="udp" services="53"/>',
            [22],
        ),
        ("", "all"),
    ],
)
def test_scanports_are_those_of_the_scan(info: str, scanports: object) -> None:
    """The TCP ports that nmap scanned are scanned from now on; all, if the file does not tell."""
    document = run_of(host(port(22)), info=info)
    assert yaml.safe_load(learned_from(document).out)["scanports"] == scanports


def test_file_without_hosts_says_so() -> None:
    """There is nothing to learn from a scan in which no host was up."""
    done = learned_from(run_of())
    assert (done.code, block(done)) == (3, None)
    assert "  # standard input has no host\n" in done.out


BOMB = '<!DOCTYPE nmaprun [<!ENTITY a "aaaaaaaaaa">{}]><nmaprun args="&j;"/>'.format(
    "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "standard input: is empty"),
        (b"Starting Nmap 7.93\n", "standard input:1: is not XML: syntax error (expected the XML that nmap"),
        (b"{}", "standard input:1: is not XML: "),
        (b"<!DOCTYPE html><html><body>", "standard input:1: is not of nmap: its first element is <html>"),
        (b"<x>" + b"a" * 100_000, "standard input:1: is not of nmap: its first element is <x>"),
        (BOMB.encode(), "standard input:1: declares entities or elements of its own"),
        (
            b'<!DOCTYPE nmaprun [<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;]><nmaprun/>',
            "standard input:1: declares entities or elements of its own",
        ),
        (b'<nmaprun args="&x;"/>', "standard input:1: is not XML: undefined entity"),
        (run_of(host(port(22)))[:-30], "standard input:3: ends before </nmaprun>: the scan was interrupted"),
        (run_of(host(port(22)))[:-5], "standard input:3: ends before </nmaprun>"),
        (run_of(host(port(22))) * 2, "standard input:3: goes on after </nmaprun>; give one file at a time"),
        (b"<nmaprun>\n<host></nmaprun>", "standard input:2: is not well-formed XML: mismatched tag"),
        ('<nmaprun args="\xe9"/>'.encode("latin-1"), "standard input:1: is not XML: not well-formed"),
        (b'<?xml version="1.0" encoding="x-none"?><nmaprun/>', "unknown encoding: x-none"),
        (b'<?xml version="1.0" encoding="shift_jis"?><nmaprun/>', "multi-byte encodings are not supported"),
        (run_of(host(port(65536))), 'standard input:3: portid="65536" is not a port'),
        (run_of(info=SCANINFO.replace("443", "ssh")), 'services="1-100,ssh" is not a list of ports'),
        (run_of(info=SCANINFO.replace("443", "9-1")), 'services="1-100,9-1" is not a list of ports'),
        (run_of(host('<extraports state="closed" count="-1"/>')), 'count="-1" is not a number of ports'),
        (
            run_of('<runstats><finished exit="error" errormsg="no &#10;route"/></runstats>'),
            r"standard input:3: the scan ended with an error (no \nroute); scan again",
        ),
    ],
)
def test_file_that_is_no_whole_scan_is_exit_2(document: bytes, message: str) -> None:
    """The message says where and why in one line, and nothing is printed that could be taken for a configuration."""
    done = learned_from(document)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


WHOLE: Final = run_of(
    host(port(22), port(53, protocol="udp"), names='<hostname name="db1" type="user"/><hostname name="x" type="PTR"/>'),
    host(
        '<extraports state="closed" count="2"><extrareasons reason="x" count="2" proto="tcp" ports="1-2"/></extraports>'
    ),
    host(status='<status state="down" reason="no-response"/>', address="2001:db8::1"),
)


@given(
    st.integers(0, len(WHOLE)),
    st.integers(0, 40),
    st.binary(max_size=8) | st.text('<>/="&;#x0123456789 \n\u202e', max_size=8).map(str.encode),
)
@MODEST
def test_damaged_file_is_an_error_or_a_configuration(start: int, length: int, instead: bytes) -> None:
    """Whatever part of a file is replaced by something else, the output is YAML, or there is none and one message."""
    done = learned_from(WHOLE[:start] + instead + WHOLE[start + length :])
    if done.code == 2:
        assert (done.out, done.err.count("\n")) == ("", 1)
    else:
        assert done.code in {0, 3}
        assert (done.err, set(yaml.safe_load(done.out))) == ("", {"hosts", "scanports"})


def test_other_encodings_are_read() -> None:
    """XML may be in UTF-16, or in what its first line says."""
    text = run_of(host(port(22))).decode()
    for encoding in ("utf-16", "iso-8859-1"):
        assert block(learned_from(text.replace("UTF-8", encoding).encode(encoding))) == {"192.0.2.1": [22]}


def test_reference_to_the_dtd_is_not_followed(tmp_path: Path) -> None:
    """A file may name nmap.dtd, as its author proposes; nobody reads that."""
    dtd = tmp_path / "nmap.dtd"
    dtd.write_text('<!ENTITY x "y">', encoding="utf-8")
    document = run_of(host(port(22))).replace(b"<!DOCTYPE nmaprun>", f'<!DOCTYPE nmaprun SYSTEM "{dtd}">'.encode())
    assert block(learned_from(document)) == {"192.0.2.1": [22]}


def test_large_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit to what is read, and to the number of hosts."""
    monkeypatch.setattr(learn, "MAX_BYTES", 1 << 20)
    done = learned_from(run_of(" " * (1 << 20)))
    assert (done.code, done.out, done.err) == (2, "", "standard input: is larger than 1 MiB; split the scan\n")
    monkeypatch.setattr(learned, "MAX_HOSTS", 2)
    three = [host(port(22), address=f"192.0.2.{number}") for number in range(3)]
    assert block(learned_from(run_of(*three[:2])))
    assert learned_from(run_of(*three)).err == "standard input: has more than 2 hosts; split the scan\n"


@pytest.mark.parametrize(
    ("path", "message"),
    [("none.xml", "none.xml: no such file or directory\n"), (".", ".: is a directory\n")],
)
def test_file_that_cannot_be_read_is_exit_2(tmp_path: Path, path: str, message: str) -> None:
    """The message names the file."""
    done = call("learn", "--from", path, cwd=tmp_path)
    assert (done.code, done.out, done.err) == (2, "", message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "-", "db1"], "--from scans nothing: it excludes HOST, --ports and --ipv6\n"),
        (["--from", "-", "--ports", "22"], "--from scans nothing: it excludes HOST, --ports and --ipv6\n"),
        (["--from", "-", "--ipv6"], "--from scans nothing: it excludes HOST, --ports and --ipv6\n"),
        ([], "name the hosts to scan, or a file of nmap with --from\n"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: Sequence[str], message: str) -> None:
    """A file and a scan exclude each other, and one of them is needed."""
    done = call("learn", *arguments)
    assert (done.code, done.out, done.err) == (2, "", message)


def test_hosts_are_quoted() -> None:
    """A name that YAML would take for something else stays a name."""
    done = learned_from(run_of(host(port(22), names='<hostname name="yes" type="user"/>')))
    assert block(done) == {"yes": [22]}
    assert json.dumps("yes") in done.out
