from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.requirements import forbidden

from .namespaces import script
from .plumbing import SCANNER4
from .program import QUICK, configure, observe, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .network import Lab

RESPONDER: Final = Path(__file__).with_name("responder.py")
ROUTES: Final = f"""\
link set odd0 up txqueuelen 100000
route add 198.18.64.0/24 dev odd0 src {SCANNER4}
route add 2001:db8:18:64::/64 dev odd0
"""
OPEN: Final = [22, 443, 8000]
DROPPED: Final = [9001, 9002, 9003, 9004, 9005]
CLOSED: Final = range(20_000, 21_000)
#: Odd hosts; all have the same open ports, and closed ones.
HOSTS: Final[tuple[dict[str, Any], ...]] = (
    {"kind": "normal", "dropped": DROPPED},
    {"kind": "normal", "delay": 2},
    {"kind": "thrice", "dropped": DROPPED},
    {"kind": "limited", "dropped": DROPPED, "rate": 200},
    {"kind": "hasty", "dropped": DROPPED},
    {"kind": "uncounted", "dropped": DROPPED},
    {"kind": "icmp", "dropped": DROPPED},
    {"kind": "extended", "dropped": DROPPED},
)


def addresses(number: int) -> tuple[str, str]:
    """Return the addresses of an odd host."""
    return f"198.18.64.{number}", f"2001:db8:18:64::{number}"


@contextmanager
def tunnel(lab: Lab, hosts: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Have odd hosts answer behind a tunnel; see responder.py for what they can be."""
    responder = lab.popen(
        script(RESPONDER, "odd0"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert responder.stdin is not None
    assert responder.stdout is not None
    assert responder.stderr is not None
    responder.stdin.write(json.dumps(hosts) + "\n")
    responder.stdin.flush()
    try:
        if responder.stdout.readline() != "ready\n":
            forbidden(f"no TUN device: {responder.stderr.read().splitlines()[-1]}")
        lab.run(["ip", "-batch", "-"], input=ROUTES, check=True)
        yield
    finally:
        responder.communicate(timeout=10)  # the device and its routes go with it


def test_odd_hosts_are_told_the_truth_of(lab: Lab) -> None:
    """Each port is told right where answers are late, few, repeated, contradictory or short; through a tunnel."""
    hosts = {address: {**host, "open": OPEN} for number, host in enumerate(HOSTS, 1) for address in addresses(number)}
    lab.apply([])
    with tunnel(lab, hosts):
        found = observe(lab, [([address], [*OPEN, *DROPPED, *CLOSED]) for address in hosts], timeout=0.9, retries=2)
    for address, host in hosts.items():
        states = dict.fromkeys((*DROPPED, *CLOSED), "closed") | dict.fromkeys(OPEN, "open")
        states |= dict.fromkeys(host.get("dropped", []), "filtered")
        assert {port: found[address, port] for port in states} == states, host


@pytest.mark.parametrize("engine", ["connect", "syn"])
@pytest.mark.parametrize(
    ("timeout", "delay"), [(0.1, 0.25), (0.1, [0.05, 0.8]), (0.9, [0.05, 2.5])], ids=["each", "drawn", "over a second"]
)
def test_silence_of_a_slow_host_is_told_from_lateness(lab: Lab, engine: str, timeout: float, delay: object) -> None:
    """Where answers take longer than the time-out, up to eight times as long, each port is still told right.

    The kernel repeats the SYN of a connect after a second.
    """
    some = {"kind": "normal", "open": OPEN, "dropped": DROPPED, "delay": delay}
    hosts = dict.fromkeys(addresses(1), some)
    lab.apply([])
    ports = [*OPEN, *DROPPED, *CLOSED[:100]]
    with tunnel(lab, hosts):
        found = observe(lab, [(list(hosts), ports)], engine=engine, timeout=timeout, retries=2)
    states = dict.fromkeys(ports, "closed") | dict.fromkeys(OPEN, "open") | dict.fromkeys(DROPPED, "filtered")
    assert found == {(address, port): state for address in hosts for port, state in states.items()}


def test_ports_that_answer_and_let_nobody_connect_are_unconfirmed(lab: Lab, tmp_path: Path) -> None:
    """Where something answers on some ports and no connection can be made, none but the expected one counts.

    If connections get no answer at all, nothing is known of the host: something may be in the way here.
    """
    lab.apply([])
    refusing, ignoring = addresses(1), addresses(2)
    hosts = {address: {"kind": "refusing", "open": [22, 80, 81]} for address in refusing}
    hosts |= {address: {"kind": "ignoring", "open": [22, 80, 81]} for address in ignoring}
    told = {address: {"expect": [22], "scanports": ["1-500"]} for address in hosts}
    with tunnel(lab, hosts):
        code, document = scan(lab, configure(tmp_path, told, scan={"engine": "syn"}))  # the responder is busy
    assert code == 3
    for host in document["hosts"]:
        (address,) = host["addresses"]
        if host["host"] in ignoring:
            assert (host["verdict"], host["reason"]) == ("unknown", "permission"), host["detail"]
            continue
        assert (host["verdict"], host["missing"], host["unexpected"]) == ("in_spec", [], [])
        assert (address["open"], address["unconfirmed"]) == (["22", "80", "81"], ["80", "81"])


def test_host_all_of_whose_ports_answer_and_let_nobody_connect(lab: Lab, tmp_path: Path) -> None:
    """Where something answers on all ports and no connection can be made, nothing is known of the host."""
    lab.apply([])
    (refusing, refusing6), (ignoring, ignoring6) = addresses(1), addresses(2)
    hosts = {address: {"kind": "refusing"} for address in (refusing, refusing6)}
    hosts |= {address: {"kind": "ignoring"} for address in (ignoring, ignoring6)}
    told = {address: {"expect": [22], "scanports": ["all" if address == refusing else "1-500"]} for address in hosts}
    with tunnel(lab, hosts):
        code, document = scan(lab, configure(tmp_path, told, scan=QUICK | {"engine": "syn"}))
    assert code == 3
    for host in document["hosts"]:
        assert (host["verdict"], host["reason"]) == ("unknown", "answers_everything")


def test_unexpected_port_of_a_slow_host_counts(lab: Lab, tmp_path: Path) -> None:
    """A port that lets connect, only later than the time-out, is unexpected, as the scan has seen how late it is."""
    lab.apply([])
    slow, _ = addresses(1)
    with tunnel(lab, {slow: {"kind": "normal", "open": [22, 80], "delay": 0.5}}):
        settings = {"engine": "syn", "timeout": 0.2, "retries": 2}
        code, document = scan(lab, configure(tmp_path, {slow: [22]}, [22, 80, 81], scan=settings))
    assert (code, document["hosts"][0]["unexpected"]) == (1, ["80"])
