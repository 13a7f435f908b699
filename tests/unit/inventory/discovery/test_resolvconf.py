"""What is taken of a resolv.conf is what the C library takes."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.inventory.discovery.dns import _resolver
from portspec.inventory.discovery.resolvconf import ResolvConf, parse, read
from tests.requirements import missing

ROOT = Path(__file__).parents[4]
EXAMPLE = (b"example", b"org")


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        (b"nameserver localhost\nnameserver 127.0.0.53\n", ("127.0.0.53",)),
        (b"nameserver\t192.0.2.1\t# the first\n", ("192.0.2.1",)),
        (b"nameserver 192.0.2.1;\nnameserver 192.0.2.2 ; the second", ("192.0.2.2",)),
        (b"nameserver 127.1\nnameserver 0x7f000002\n", ("127.0.0.1", "127.0.0.2")),
        (b" nameserver 192.0.2.1\n;nameserver 192.0.2.2\n#nameserver 192.0.2.3\n", ()),
        (b"nameserver 192.0.2.1\r\nnameserver 192.0.2.2\n", ("192.0.2.2",)),
        (b"nameserver 2001:db8::1%eth0\nnameserver 2001:db8::2%\n", ("2001:db8::1", "2001:db8::2")),
        (b"nameserver fe80::1%7\nnameserver fe80::2%lo\nnameserver fe80::3%nowhere\n", None),
        (b"nameserver [2001:db8::1]\nnameserver 192.0.2.1:53\nnameserver https://192.0.2.1/dns-query\n", ()),
        (b"".join(b"nameserver 192.0.2.%d\n" % last for last in range(9)), ("192.0.2.0", "192.0.2.1", "192.0.2.2")),
        (b"nameserver\nnameserver \nNAMESERVER 192.0.2.1\nnameserver192.0.2.1\nnonsense\n\xff\xfe\n", ()),
        (b"nameserver 192.0.2.1\0 and more\nnameserver \xe9\n", ("192.0.2.1",)),
        (b"", ()),
    ],
)
def test_name_servers(text: bytes, servers: tuple[str, ...] | None) -> None:
    """The first three addresses are asked; names, URLs, ports and what stands behind an address are passed over."""
    if servers is None:
        servers = ("fe80::1%7", f"fe80::2%{socket.if_nametoindex('lo')}", "fe80::3")
    assert parse(text, {}).servers == servers


@pytest.mark.parametrize(
    ("text", "search"),
    [
        (b"search example.org example.net.\n", (EXAMPLE, (b"example", b"net"))),
        (b"search a..b example.org .example.org . " + b"a" * 64 + b"\n", (EXAMPLE, EXAMPLE, ())),
        (b"domain example.net\nsearch example.org\nsearch\n", (EXAMPLE,)),
        (b"search example.org\ndomain example.net more\n", ((b"example", b"net"),)),
        (b"search " + b" ".join([b"example.org"] * 50) + b"\n", (EXAMPLE,) * 50),
        (b"search \xe9.org\n", ((b"\xe9", b"org"),)),
        (b"", ((b"here",),)),
    ],
)
def test_search_lists(text: bytes, search: tuple[tuple[bytes, ...], ...]) -> None:
    """The last list holds, without what is no name; without a list the domain of this machine is searched."""
    assert parse(text, {}, b"machine.here").search == search
    assert parse(b"", {}, b"machine").search == ()


def test_options() -> None:
    """Options that are not known, or have no number, cost nothing."""
    text = b"options nonsense ndots:99 timeout:x rotate  edns0\noptions use-vc timeout:3 debug:\n"
    assert parse(text, {}) == ResolvConf(ndots=15, timeout=3, rotate=True, edns0=True, use_tcp=True)
    assert parse(b"options ndots:-1 timeout:99999999999\n", {}) == ResolvConf(ndots=0, timeout=30)


def test_the_environment_wins() -> None:
    """LOCALDOMAIN and RES_OPTIONS count as they do for getaddrinfo(3)."""
    environment = {b"LOCALDOMAIN": b"example.org", b"RES_OPTIONS": b"ndots:2"}
    found = parse(b"search example.net\noptions ndots:3\n", environment, b"machine.here")
    assert found == ResolvConf(search=(EXAMPLE,), ndots=2)


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    """No file is as good as an empty one; a directory, too."""
    empty = tmp_path / "resolv.conf"
    empty.touch()
    assert read(tmp_path / "none") == read(tmp_path) == read(empty)


def test_a_pipe_is_an_error(tmp_path: Path) -> None:
    """A FIFO in the place of the file is not waited for."""
    os.mkfifo(tmp_path / "resolv.conf")
    with pytest.raises(OSError, match="it is a pipe; put a regular file in its place"):
        read(tmp_path / "resolv.conf")


pieces = st.sampled_from(
    [
        *(b"nameserver", b"search", b"domain", b"options", b"sortlist", b" ", b"\t", b"\n", b"\r\n", b"#", b";", b"\0"),
        *(
            b"127.0.0.1",
            b"::1",
            b"fe80::1%eth0",
            b"fe80::1%1",
            b"127.1",
            b"localhost",
            b"ndots:",
            b"timeout:",
            b"9" * 9,
        ),
        *(b".", b"..", b"a.b", b"a" * 64, b".".join([b"a" * 60] * 5), b"\xff", b"rotate", b"edns0", b"use-vc", b"\\3"),
    ]
)
files = st.lists(pieces | st.binary(max_size=4), max_size=40).map(b"".join) | st.binary(max_size=200)


@given(files, st.dictionaries(st.sampled_from([b"LOCALDOMAIN", b"RES_OPTIONS"]), files), st.binary(max_size=70))
def test_any_file_gives_a_resolver(data: bytes, environment: dict[bytes, bytes], host_name: bytes) -> None:
    """Whatever stands in the file, there is somebody to ask, by address, and each name to look up has a valid form."""
    found = parse(data, environment, host_name)
    assert len(found.servers) <= 3
    assert all(ipaddress.ip_address(server) for server in found.servers)
    for text in ("web1", "_ssh._tcp.example.org.", ".".join(["a" * 60] * 4)):
        query = dns.name.from_text(text, origin=None)
        resolver = _resolver(found, query, 53, 5.0)
        assert [str(server) for server in resolver.nameservers] == [
            f"Do53:{server}@53" for server in found.servers or ["127.0.0.1"]
        ]
        assert all(
            sum(len(label) + 1 for label in name.labels) <= 255
            for name in resolver._get_qnames_to_try(query, search=True)
        )
        assert 0 < resolver.timeout <= 5.0 / len(resolver.nameservers)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"nameserver localhost\nnameserver 127.0.0.1\n", "www.example.org"),
        (b"nameserver localhost\n", "www.example.org"),
        (b"", "www.example.org"),
        (b"nameserver 192.0.2.1\r\n\xff\xfe\n", "www.example.org"),
        (b"nameserver 127.1 # here\noptions nonsense ndots:x timeout\nsortlist x\n", "www.example.org"),
        (b"nameserver fe80::1%nowhere\nnameserver\t127.0.0.1\noptions timeout:1\n", "www.example.org"),
        (b"search none.example. .example.org\nnameserver 127.0.0.1", "www"),
        (b"nameserver 127.0.0.1\nsearch example.net\ndomain example.org\noptions use-vc\n", "www"),
    ],
)
def test_a_name_is_found_where_the_c_library_finds_it(text: bytes, name: str, tmp_path: Path) -> None:
    """With a real /etc/resolv.conf the `dns` source has the addresses that getaddrinfo(3) has in the same process."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "--net"]
    if any(shutil.which(tool) is None for tool in ("unshare", "ip")):
        missing("unshare and ip are not installed")
    if subprocess.run([*unshare, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        missing("this machine allows no namespaces")
    (tmp_path / "resolv.conf").write_bytes(text)
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n", encoding="utf-8")
    mounts = "; ".join(f"mount --bind {tmp_path / file} /etc/{file}" for file in ("resolv.conf", "nsswitch.conf"))
    child = f"{sys.executable} -m tests.unit.inventory.discovery.resolver_child {name}"
    command = [*unshare, "sh", "-ec", f"ip link set lo up; {mounts}; exec {child}"]
    environment = {key: value for key, value in os.environ.items() if key not in {"LOCALDOMAIN", "RES_OPTIONS"}}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["source"] == found["system"] == ["192.0.2.10", "192.0.2.9"], found
