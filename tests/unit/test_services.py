"""Names of services, on a machine that has /etc/services and on one that has not."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from portspec import services
from portspec.ports import PortSet, parse_ports
from tests.requirements import missing

ETC = Path("/etc/services")
NMAP = Path("/usr/share/nmap/nmap-services")


def tcp_services(file: Path, separator: str | None = None) -> list[tuple[int, list[str]]]:
    """Read a file in the format of services(5), or of nmap: each TCP port with its names."""
    if not file.exists():
        missing(f"there is no {file}")
    lines = (line.partition("#")[0].split(separator) for line in file.read_text(encoding="utf-8").splitlines())
    rows = [words for words in lines if len(words) > 1 and words[1].endswith("/tcp")]
    return [(int(words[1].removesuffix("/tcp")), [words[0], *words[2:]]) for words in rows]


@pytest.fixture
def no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a machine without /etc/services."""

    def look_up(*_: object) -> int:
        raise OSError("service/proto not found")

    monkeypatch.setattr(socket, "getservbyname", look_up)
    monkeypatch.setattr(socket, "getservbyport", look_up)


@pytest.mark.usefixtures("no_file")
def test_common_services_are_known_without_the_file() -> None:
    """In conf.yml by name, in mails by port."""
    named = {
        "ssh": 22,
        "smtp": 25,
        "http": 80,
        "www": 80,
        "https": 443,
        "postgresql": 5432,
        "mysql": 3306,
        "redis": 6379,
    }
    assert {name: services.port_of(name) for name in named} == named
    assert parse_ports("PostgreSQL/tcp") == PortSet.of([5432])
    assert [services.name_of(port) for port in (22, 80, 6379, 9100)] == ["ssh", "http", "redis", "pdl-datastream"]
    assert services.port_of("no-such-service") is None
    assert services.name_of(4) is services.name_of(65535) is None


def test_the_file_has_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the administrator of this machine says holds."""
    monkeypatch.setattr(socket, "getservbyname", lambda name, _: {"ssh": 2222}[name])
    monkeypatch.setattr(socket, "getservbyport", lambda port, _: {22: "shell-in"}[port])
    assert (services.port_of("ssh"), services.name_of(22)) == (2222, "shell-in")


def test_what_is_no_port_has_no_name() -> None:
    """Nothing is raised for it."""
    assert services.name_of(-1) is services.name_of(70_000) is services.name_of(2**70) is None


def test_the_table_is_sound() -> None:
    """Ports ascend, stand once, and have names that conf.yml takes; it has a few hundred."""
    ports = list(services.by_port())
    assert ports == sorted(set(ports))
    assert 300 <= len(ports) <= 600
    for name, port in services.by_name().items():
        assert services.by_port()[port]
        assert name == name.lower()
        assert parse_ports(name)


def test_the_table_says_what_the_file_of_the_system_says() -> None:
    """A name means the same port with and without the file, and a port has the same name."""
    rows = tcp_services(ETC)
    first: dict[str, int] = {}
    names: dict[int, str] = {}
    for port, words in rows:
        names.setdefault(port, words[0])
        for word in words:
            first.setdefault(word.lower(), port)
    table = services.by_name()
    assert {name: first[name] for name in first.keys() & table.keys()} == {
        name: table[name] for name in first.keys() & table.keys()
    }
    shared = names.keys() & services.by_port().keys()
    assert len(shared) > 100
    assert {port: names[port].lower() for port in shared} == {port: services.by_port()[port] for port in shared}


def test_the_ports_that_are_most_often_open_have_names() -> None:
    """Of the forty that nmap found open most often all but a few that nobody has named."""
    lines = NMAP.read_text(encoding="utf-8").splitlines() if NMAP.exists() else missing(f"there is no {NMAP}")
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    often = sorted((-float(row[2]), int(row[1].removesuffix("/tcp"))) for row in rows if row[1].endswith("/tcp"))
    unnamed = [port for _, port in often[:40] if port not in services.by_port()]
    assert len(unnamed) <= 6, unnamed


def test_names_work_where_there_is_no_file() -> None:
    """`portspec check` takes them in a mount namespace in which /etc/services is empty."""
    if shutil.which("unshare") is None:
        missing("unshare is not installed")
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "mount", "--bind", "/dev/null", ETC], capture_output=True, check=False).returncode:
        missing("this machine allows no mount namespaces")
    code = "from portspec.services import *; print(port_of('postgresql'), name_of(5432), port_of('tcpmux'))"
    command = f'mount --bind /dev/null {ETC} && exec {sys.executable} -c "{code}"'
    done = subprocess.run([*unshare, "sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["5432", "postgresql", "1"]
