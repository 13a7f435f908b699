from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

import portspec.cli.learn
from portspec.app.scan_once import ScanRun
from portspec.cli import main
from portspec.ports import PortSet
from portspec.state.snapshot import HostState
from tests.unit.cli.run import PROGRAM, run
from tests.unit.factories import process_restored, result, seen
from tests.unit.scan.loopback import V6, listeners, own_address, ports_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from portspec.config import Config
    from portspec.inventory import Target


def wanted(*ports: int) -> str:
    """Spell ports for --ports."""
    return ",".join(map(str, ports))


def test_learned_block_describes_what_listens() -> None:
    """The output is YAML: each host with exactly the ports that are open now, and the ports that were scanned."""
    address = own_address()
    with listeners(address, 3) as opened, listeners(V6) as on_v6:
        ports, ports6 = ports_of(opened), ports_of(on_v6)
        done = run("learn", address, V6, "--ports", wanted(1, 2, *ports, *ports6), program=PROGRAM)
    assert (done.code, done.err) == (0, "")
    assert yaml.safe_load(done.out) == {
        "hosts": {address: list(ports), V6: list(ports6)},
        "scanports": list(PortSet.of([1, 2]) | ports | ports6),
    }


def test_learned_block_is_a_configuration_that_is_in_spec(tmp_path: Path) -> None:
    """The output is a whole conf.yml: check takes it as it is, and a scan with it finds the host in spec."""
    conf = tmp_path / "conf.yml"
    with listeners(own_address(), 5) as opened:
        ports = ports_of(opened)
        done = run("learn", opened[0].getsockname()[0], "--ports", wanted(1, *ports))
        conf.write_text(done.out, encoding="utf-8")
        assert run("check", "-c", str(conf)).code == 0
        assert run("scan", "-c", str(conf)).code == 0
    assert run("scan", "-c", str(conf)).code == 1


def test_name_is_learned_by_its_name() -> None:
    """A name stands as itself in the block, not as its address."""
    done = run("learn", "localhost", "--ports", "1")
    assert yaml.safe_load(done.out) == {"hosts": {"localhost": []}, "scanports": [1]}


def test_host_that_could_not_be_seen_is_a_comment() -> None:
    """A host without a verdict is told in a comment, and the exit is 3; the others are learned."""
    done = run("learn", "nowhere.invalid", own_address(), "--ports", "1")
    assert (done.code, done.err) == (3, "")
    assert '  # "nowhere.invalid": does not resolve (no A record)\n' in done.out
    assert list(yaml.safe_load(done.out)["hosts"].values()) == [[]]


def test_same_host_twice_is_learned_once(tmp_path: Path) -> None:
    """Two spellings of one host give a block that portspec reads: not the same host twice."""
    done = run("learn", "localhost", "LOCALHOST", "::1", "0:0::1", "--ports", "1")
    conf = tmp_path / "conf.yml"
    conf.write_text(done.out, encoding="utf-8")
    checked = run("check", "-c", str(conf))
    assert (checked.code, checked.err) == (0, "")


def test_only_ports_that_take_connections_are_learned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every open port is to be confirmed, and one that takes no connection is not made a specification."""
    allowed: list[PortSet] = []

    async def scan_once(_: Config, chosen: Sequence[Target], __: object) -> ScanRun:
        allowed.extend(of.config.specification.allow for of in chosen)
        found = [
            result(chosen[0], seen(is_open=[22, 80], unconfirmed=[80])),
            result(chosen[1], seen(is_open=[22, 80], unconfirmed=[80]), seen("192.0.2.2", is_open=[22, 80, 443])),
            result(chosen[2], seen(is_open=[80], unconfirmed=[80])),
        ]
        states = [HostState(of).after(scan) for of, scan in zip(chosen, found, strict=True)]
        return ScanRun(tuple(states), "scripted", 0, 0.0)

    monkeypatch.setattr(portspec.cli.learn, "scan_once", scan_once)
    with process_restored():
        assert main(["learn", "192.0.2.1", "web1", "192.0.2.3", "--ports", "22,80,443"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {
        "hosts": {"192.0.2.1": [22], "web1": {"expect": [22], "allow": [80, 443]}, "192.0.2.3": []},
        "scanports": [22, 80, 443],
    }
    assert not any(allowed)  # what is allowed would not be confirmed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["127.0.0.1", "--ports", "80a"], '--ports: "80a" is not a port ('),
        (["http://127.0.0.1/"], '"http://127.0.0.1/" is not'),
    ],
)
def test_wrong_arguments_are_exit_2(arguments: list[str], message: str) -> None:
    """What is no host or no port is exit 2 with a message, and nothing is scanned."""
    done = run("learn", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
