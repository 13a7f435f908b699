from __future__ import annotations

import ipaddress
import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from portspec import agent
from portspec.agent import (
    Holder,
    Listener,
    Socket,
    System,
    decode_address,
    linux_listeners,
    read_proc_net,
    read_sockstat,
)

if TYPE_CHECKING:
    from pathlib import Path

ANY = "0.0.0.0"  # noqa: S104 - told, not bound to
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
USER = agent.name_of_user(os.geteuid())
BOTH_ENDS = 2


def spelled(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Spell an address as the kernel does: each 32 bits of it as a number of this machine."""
    data = address.packed
    return "".join(f"{int.from_bytes(data[i : i + 4], sys.byteorder):08X}" for i in range(0, len(data), 4))


def line(
    local: str, port: int, state: str, uid: int, inode: int, remote: str | None = None, remote_port: int = 0
) -> str:
    """Write a line of /proc/net/tcp as net/ipv4/tcp_ipv4.c does."""
    remote = remote or "0" * len(local)
    return (
        f"{7:4d}: {local}:{port:04X} {remote}:{remote_port:04X} {state} 00000000:00000000 00:00000000 00000000 "
        f"{uid:5d}        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
    )


@settings(max_examples=300, deadline=None)
@given(
    st.ip_addresses(),
    st.integers(1, 65535),
    st.sampled_from(["tcp", "udp"]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**63),
)
@example(ipaddress.ip_address("127.0.0.1"), 631, "tcp", 0, 1)
@example(ipaddress.ip_address("::ffff:192.0.2.1"), 8080, "tcp", 0, 1)
def test_what_the_kernel_writes_is_read(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, protocol: str, uid: int, inode: int
) -> None:
    """A socket that waits is read from its line with address, port, owner and inode, whatever they are."""
    text = line(spelled(address), port, "0A" if protocol == "tcp" else "07", uid, inode)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert read_proc_net([HEAD, text], protocol) == [Socket(protocol, str(mapped or address), port, uid, str(inode))]


def test_byte_order_is_the_machine_s() -> None:
    """On a little-endian machine 127.0.0.1 stands as 0100007F, and ::1 with its last four bytes turned."""
    assert decode_address("0100007F" if sys.byteorder == "little" else "7F000001") == "127.0.0.1"
    last = "01000000" if sys.byteorder == "little" else "00000001"
    assert decode_address("0" * 24 + last) == "::1"


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        ("tcp", line("0100007F", 22, "01", 0, 1, "0200007F", 4000)),  # established
        ("tcp", line("0100007F", 22, "06", 0, 0)),  # time wait
        ("tcp", line("0100007F", 22, "07", 0, 1)),  # closed
        ("udp", line("0100007F", 53, "01", 0, 1, "0200007F", 4000)),  # connected
        ("udp", line("00000000", 0, "07", 0, 1)),  # bound to nothing
    ],
)
def test_sockets_that_wait_for_nobody_are_left_out(protocol: str, text: str) -> None:
    """Connections, closed sockets and those without a port are not listening."""
    assert read_proc_net([text], protocol) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=200),
            st.from_regex(r" *[0-9]{1,3}: [0-9A-F]{6,34}:[0-9A-F]{3,5} [0-9A-F]{8}:0000 0A .{0,80}", fullmatch=True),
        )
    ),
    st.sampled_from(["tcp", "udp"]),
)
def test_strange_lines_of_proc_do_no_harm(lines: list[str], protocol: str) -> None:
    """Any text in /proc/net is passed over, and what is read has an address and a port."""
    for found in read_proc_net(lines, protocol):
        ipaddress.ip_address(found.address)
        assert 0 < found.port < 65536


NO_EXECUTABLE = "its executable cannot be seen: no such file or directory"


class Proc:
    """A directory that looks like /proc."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "net").mkdir(parents=True)
        for name in ("tcp", "udp"):
            self.write_net(name, [])

    def write_net(self, name: str, lines: list[str]) -> None:
        """Write a file of /proc/net."""
        (self.path / "net" / name).write_text(HEAD + "".join(lines), encoding="ascii")

    def add(self, pid: int, comm: bytes, uid: int, *inodes: int, executable: str = "", cgroup: str = "") -> Path:
        """Add a process that holds sockets; without an executable that of a user whose processes may not be seen."""
        directory = self.path / str(pid)
        (directory / "fd").mkdir(parents=True)
        (directory / "comm").write_bytes(comm + b"\n")
        status = f"Name:\tx\nUid:\t0\t{uid}\t0\t0\nGid:\t0\t0\t0\t0\n"
        (directory / "status").write_text(status, encoding="ascii")
        (directory / "cgroup").write_text(cgroup, encoding="ascii")
        if executable:
            (directory / "exe").symlink_to(executable)
            (directory / "root").symlink_to("/")
        (directory / "fd" / "0").symlink_to("/dev/null")
        for number, inode in enumerate(inodes, 3):
            (directory / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
        return directory


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    """Return an empty one."""
    return Proc(tmp_path / "proc")


def test_each_process_that_holds_a_socket_is_told(proc: Proc) -> None:
    """A socket that two programs hold is told with both, and with the user that each acts as."""
    mine = os.geteuid()
    proc.write_net("tcp", [line("00000000", 80, "0A", mine, 5), line("00000000", 22, "0A", mine, 6)])
    proc.add(1, b"systemd", mine, 5, 6)
    proc.add(200, b"nginx: ma\xffster", 4_000_000_000, 5)
    proc.add(201, b"nginx: ma\xffster", 4_000_000_000, 5)
    found = linux_listeners(proc.path)
    assert found is not None
    assert set(found) == {
        Listener("tcp", ANY, 22, Holder("systemd", USER, note=NO_EXECUTABLE)),
        Listener("tcp", ANY, 80, Holder("systemd", USER, note=NO_EXECUTABLE)),
        Listener("tcp", ANY, 80, Holder("nginx: ma\\xffster", "4000000000", note=NO_EXECUTABLE)),
    }


def test_socket_of_a_process_that_may_not_be_seen_has_its_owner(proc: Proc) -> None:
    """Where the process is gone, or may not be looked into, it is null, and the user is the socket's owner."""
    proc.write_net("udp", [line("00000000", 53, "07", os.geteuid(), 5)])
    vanishing = proc.add(300, b"named", 0, 5)
    (vanishing / "comm").unlink()
    (proc.path / "301").mkdir()  # without an fd
    assert linux_listeners(proc.path) == [Listener("udp", ANY, 53, Holder(None, USER, note=agent._UNSEEN))]


def test_kernel_without_ipv6_is_fine(proc: Proc) -> None:
    """Without /proc/net/tcp6 there are the sockets of IPv4, and with it those of IPv6 as well."""
    proc.write_net("tcp", [line("00000000", 22, "0A", 0, 5)])
    assert len(linux_listeners(proc.path) or []) == 1
    proc.write_net("tcp6", [line("0" * 32, 22, "0A", 0, 6)])
    found = linux_listeners(proc.path) or []
    assert {each.address for each in found} == {ANY, "::"}


def test_without_proc_nothing_is_claimed(proc: Proc) -> None:
    """Where /proc/net/tcp is not there, the listeners are unknown, not none."""
    (proc.path / "net" / "tcp").unlink()
    assert linux_listeners(proc.path) is None


# FreeBSD 13.2 and 14.1, sockstat -l46w; the columns of the older one are as wide as its header
SOCKSTAT = """\
USER     COMMAND    PID   FD  PROTO  LOCAL ADDRESS         FOREIGN ADDRESS
root     sshd       893   3   tcp6   *:22                  *:*
root     sshd       893   4   tcp4   *:22                  *:*
www      nginx      1021  6   tcp46  *:80                  *:*
root     nginx      1020  6   tcp46  *:80                  *:*
named    isc-net 00 700   20  udp6   ::1:53                *:*
named    named      700   21  udp4   127.0.0.1:53          *:*
_dhcp    dhclient   500   5   udp4   *:*                   *:*
root     ntpd       650   22  udp6   fe80::1%lo0:123       *:*
?        ?          ?     ?   tcp4   10.0.0.1:2049         *:*
??       ??         ??    ??  tcp4   10.0.0.1:2049         *:*
root     bird       651   9   tcp6   2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff:179 *:*
root     rtsock     652   9   sctp4  10.0.0.1:36412        *:*
root     cut        653   9   tcp6   2001:db8:aaaa:bbbb:c* *:*
"""


def test_sockstat_is_read() -> None:
    """The lines of sockstat give protocol, address, port, process and user, twice for a socket of both families."""
    assert read_sockstat(SOCKSTAT) == [
        Listener("tcp", "::", 22, Holder("sshd", "root")),
        Listener("tcp", ANY, 22, Holder("sshd", "root")),
        Listener("tcp", ANY, 80, Holder("nginx", "www")),
        Listener("tcp", "::", 80, Holder("nginx", "www")),
        Listener("tcp", ANY, 80, Holder("nginx", "root")),
        Listener("tcp", "::", 80, Holder("nginx", "root")),
        Listener("udp", "::1", 53, Holder("isc-net 00", "named")),
        Listener("udp", "127.0.0.1", 53, Holder("named", "named")),
        Listener("udp", "fe80::1", 123, Holder("ntpd", "root")),
        Listener("tcp", "10.0.0.1", 2049, Holder(None, None)),
        Listener("tcp", "10.0.0.1", 2049, Holder(None, None)),
        Listener("tcp", "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", 179, Holder("bird", "root")),
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.text(max_size=300),
        st.lists(st.sampled_from([*SOCKSTAT.split(), ":", "*", "", "tcp4", "-1", "１"]), max_size=12).map(" ".join),  # noqa: RUF001
    )
)
def test_strange_lines_of_sockstat_do_no_harm(text: str) -> None:
    """Any text is passed over, and what is read has an address and a port."""
    for found in read_sockstat(text):
        ipaddress.ip_address(found.address)
        assert 0 < found.port < 100_000


def test_sockstat_of_old_is_asked_without_w(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sockstat that does not know -w is asked again without it, and each listener is told once, in order."""
    script = tmp_path / "sockstat"
    script.write_text(f'#!/bin/sh\n[ "$1" = -l46 ] || exit 1\ncat <<E\n{SOCKSTAT}E\n', encoding="utf-8")
    script.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    bsd = System("FreeBSD", "freebsd", "/var/db/pkg/local.sqlite")
    found, _ = agent.gather_listeners(bsd, environ)
    assert found is not None
    assert len(found) == len(set(read_sockstat(SOCKSTAT)))
    assert found[0] == {"protocol": "tcp", "address": ANY, "port": 22, "process": "sshd", "user": "root"}
    assert [each["port"] for each in found if each["protocol"] == "udp"] == [53, 53, 123]
    script.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    assert agent.gather_listeners(bsd, environ) == (None, [])


@pytest.mark.parametrize(("jailed", "told"), [("0", 1), ("1", 2)])
def test_sockets_of_jails_are_not_those_of_the_host(tmp_path: Path, jailed: str, told: int) -> None:
    """A host asks for the sockets of jail 0, itself; an agent within a jail, where that is none, for all it sees."""
    own = "root sshd 1 3 tcp4 *:22 *:*"
    scripts = {
        "sysctl": f"echo {jailed}",
        "sockstat": f'echo "{own}"; [ "$2" = -j ] || echo "www nginx 2 6 tcp4 10.0.0.2:80 *:*"',
    }
    for name, line in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    found, _ = agent.gather_listeners(System("FreeBSD", "freebsd", ""), environ)
    assert found is not None
    assert len(found) == told


def test_number_of_listeners_is_bounded(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with more listening sockets than an audit may have audits the first of them."""
    monkeypatch.setattr(agent, "MAX_LISTENERS", BOTH_ENDS)
    monkeypatch.setattr(agent, "Path", lambda _: proc.path)
    proc.write_net("tcp", [line("00000000", port, "0A", 0, port) for port in (80, 22, 443)])
    found, _ = agent.gather_listeners(System("Linux", "", ""), {})
    assert [each["port"] for each in found or []] == [22, 80]
