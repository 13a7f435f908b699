from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING

import pytest

from portspec.inventory.hostsfile import HostsFile, is_first

if TYPE_CHECKING:
    from pathlib import Path


def hosts_file(tmp_path: Path, hosts: str | None, switch: str | None = "hosts: files dns\n") -> HostsFile:
    """Make the two files, but for those that are None."""
    for name, text in (("hosts", hosts), ("nsswitch.conf", switch)):
        if text is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
    return HostsFile(tmp_path / "hosts", tmp_path / "nsswitch.conf")


def test_addresses_of_a_name_are_those_of_all_its_lines(tmp_path: Path) -> None:
    """Names and aliases, whatever their case; comments and lines that the C library passes over say nothing."""
    file = hosts_file(
        tmp_path,
        "192.0.2.1\tDB1.example.org db1 # db9\n#192.0.2.9 db1\n2001:db8::1 db1\n300.1.2.3 db2\n192.0.2.3\n\n"
        "0x7f000001 db2\n fe80::1%eth0 db2\n::1 bücher\n",
    )
    assert file.addresses("Db1") == (ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1"))
    assert file.addresses("db1.example.org") == (ipaddress.ip_address("192.0.2.1"),)
    assert [file.addresses(name) for name in ("db2", "db9", "db1.", "example.org", "")] == [()] * 5


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    """The next look-up after an edit goes by the new file."""
    file = hosts_file(tmp_path, "192.0.2.1 db1\n")
    assert file.answers_alone("db1")
    (tmp_path / "new").write_text("192.0.2.1 db2\n")
    os.replace(tmp_path / "new", tmp_path / "hosts")  # noqa: PTH105 - as editors do
    assert [file.answers_alone(name) for name in ("db1", "db2")] == [False, True]
    (tmp_path / "hosts").unlink()
    assert not file.answers_alone("db2")


@pytest.mark.parametrize(("hosts", "switch"), [(None, "hosts: files dns\n"), ("192.0.2.1 db1\n", None), ("", "")])
def test_a_file_that_is_not_there_answers_for_nothing(tmp_path: Path, hosts: str | None, switch: str | None) -> None:
    """Without nsswitch.conf the C library asks name servers first."""
    assert not hosts_file(tmp_path, hosts, switch).answers_alone("db1")


@pytest.mark.parametrize("name", ["hosts", "nsswitch.conf"])
def test_a_pipe_answers_for_nothing(tmp_path: Path, name: str) -> None:
    """A FIFO in the place of a file is not waited for."""
    file = hosts_file(tmp_path, "192.0.2.1 db1\n")
    assert file.answers_alone("db1")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert not file.answers_alone("db1")


@pytest.mark.parametrize(
    ("line", "first"),
    [
        *((f"hosts: {services}", True) for services in ("files dns", "files", "files [NOTFOUND=return] dns")),
        *((f"hosts: {services}", True) for services in ("mymachines files dns", "files [SUCCESS=return] dns")),
        *((f"passwd: db\n  hosts:\tmyhostname {services} # x", True) for services in ("files resolve", "files dns")),
        *(
            (f"hosts: {services}", False)
            for services in ("dns files", "resolve [!UNAVAIL=return] files dns", "", "dns")
        ),
        *((f"hosts: {services}", False) for services in ("mdns4_minimal [NOTFOUND=return] files dns", "db files dns")),
        *(
            (f"hosts: files [{action}] dns", False)
            for action in ("SUCCESS=continue", "success = merge", "!NOTFOUND=merge")
        ),
        ("hosts: files[SUCCESS=merge]dns", False),
        ("#hosts: files dns", False),
        ("passwd: files", False),
    ],
)
def test_the_file_is_first_if_nothing_that_asks_others_is_before_it(line: str, first: bool) -> None:  # noqa: FBT001
    """nsswitch.conf(5) says who is asked, in which order, and whether what was found is the end of it."""
    assert is_first(line) is first
