from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec.scan.syn.filter import FIRST_SOURCE_PORT, SOURCE_PORTS
from portspec.scan.syn.reference_ports import TRY_SLOTS
from tests.faults.registry import fault
from tests.requirements import forbidden

from .namespaces import script
from .plumbing import SCANNER4, SCANNER6
from .program import OBSERVE, QUICK, Job, configure, expected_states, observe, order, scan, states
from .responder import Syn, packed
from .truth import HostTruth, State, draw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .network import Lab

V4: Final = "198.18.1.1"
V6: Final = "2001:db8:18::1"
BOTH: Final = (V4, V6)
LISTENERS: Final = Path(__file__).with_name("listeners.py")
PROBES: Final = Path(__file__).with_name("probes.py")
#: Ports and states that a scan of 1,000 ports is to tell.
PORTS: Final = range(1, 1001)
STATES: Final = {(a, p): s for a in BOTH for p, s in ((22, State.OPEN), (80, State.OPEN), (81, State.DROPPED))}
TRUTH: Final = HostTruth("h.lab", BOTH, STATES)


@contextmanager
def rules(lab: Lab, chain: str) -> Iterator[None]:
    """Put a chain of nftables in force on the scanner's side."""
    lab.run(["nft", "-f", "-"], input=f"table inet own {{ {chain} }}", check=True)
    try:
        yield
    finally:
        lab.run(["nft", "delete", "table", "inet", "own"], check=True)


@contextmanager
def listening(lab: Lab, sockets: Sequence[tuple[str, int]]) -> Iterator[None]:
    """Have sockets listen on the scanner's side."""
    listeners = lab.popen(script(LISTENERS), cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert listeners.stdin is not None
    assert listeners.stdout is not None
    command = {"do": "open", "sockets": [[*key, False] for key in sockets]}
    listeners.stdin.write(json.dumps(command) + "\n")
    listeners.stdin.flush()
    assert listeners.stdout.readline() == "{}\n"
    try:
        yield
    finally:
        listeners.communicate(timeout=10)


@contextmanager
def seen(lab: Lab, count: int) -> Iterator[Iterator[Syn]]:
    """Return the first SYNs that arrive at the hosts, as they come."""
    watcher = lab.popen(script(PROBES, str(count)), side="hosts", cwd="/", stdout=subprocess.PIPE)
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "ready\n"
    try:
        yield (Syn(bytes.fromhex(line)) for line in watcher.stdout)
    finally:
        watcher.kill()
        watcher.communicate()


def start(lab: Lab, jobs: Sequence[Job], **options: Any) -> subprocess.Popen[str]:
    """Begin a scan with the SYN engine; returns its process when its first probe has arrived at a host."""
    with seen(lab, 1) as probes:
        process = lab.popen(OBSERVE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(order(jobs, **options))
        process.stdin.close()
        process.stdin = None
        next(probes)
    return process


@pytest.mark.parametrize(
    ("addresses", "ports"),
    [(["127.0.0.1"], range(1, 65536)), (["::1", SCANNER4, SCANNER6], [*range(1, 101), *range(60_900, 61_100)])],
)
def test_own_addresses_are_told_the_truth_of(lab: Lab, addresses: list[str], ports: Sequence[int]) -> None:
    """This machine's own ports are told right, all 65,535 of them, those that probes are sent from too."""
    opened = {22, 60999, 61000, 61099} | ({1, 32768, 40001, 65535} & set(ports))
    with listening(lab, [(address, port) for address in addresses for port in opened]):
        found = observe(lab, [(addresses, ports)])
    assert found == {(address, port): "open" if port in opened else "closed" for address in addresses for port in ports}


@fault("network", "scans", "Nothing is concluded from silence if the link went down during the scan.")
@pytest.mark.parametrize("side", ["scanner", "hosts"])
def test_link_that_goes_down_while_silence_is_waited_for(lab: Lab, side: str) -> None:
    """If either end of the link goes down during a scan nothing is concluded from silence; the next scan is right."""
    truth = HostTruth("h.lab", BOTH, default=State.DROPPED)
    ports = range(1, 201)
    lab.apply([truth])
    process = start(lab, [(BOTH, ports)], timeout=0.9, retries=3)
    with lab.link_down("scanner" if side == "scanner" else "hosts"):
        found = states(process.communicate(timeout=180)[0])
    assert found == {(address, 0): "no_route" for address in BOTH}
    assert observe(lab, [(BOTH, ports)]) == expected_states([truth], ports)


def test_own_firewall_that_answers_for_the_target_is_no_verdict(lab: Lab) -> None:
    """An RST that this machine's own packet filter makes up is none of the target's."""
    lab.apply([TRUTH])
    with rules(lab, "chain out { type filter hook output priority 0; tcp dport 80 reject with tcp reset; };"):
        found = observe(lab, [(BOTH, PORTS)])
    assert found == {(address, 0): "permission" for address in BOTH}


def test_own_firewall_that_lets_only_answers_in_does_not_matter(lab: Lab, tmp_path: Path) -> None:
    """Behind a packet filter that knows connections every port is told right, and unexpected ones are confirmed."""
    lab.apply([TRUTH])
    filtering = (
        "chain in { type filter hook input priority 0; policy drop; iif lo accept; ct state established accept; };"
    )
    with rules(lab, filtering):
        found = observe(lab, [(BOTH, PORTS)])
        code, document = scan(lab, configure(tmp_path, {"h.lab": [22]}, PORTS, scan=QUICK | {"engine": "syn"}))
    assert found == expected_states([TRUTH], PORTS)
    assert (code, document["hosts"][0]["unexpected"]) == (1, ["80"])


def test_answers_are_seen_that_own_firewall_drops(lab: Lab) -> None:
    """Answers are read before the packet filter, so that one that lets nothing in changes nothing."""
    lab.apply([TRUTH])
    with rules(lab, "chain in { type filter hook input priority 0; policy drop; };"):
        assert observe(lab, [(BOTH, PORTS)]) == expected_states([TRUTH], PORTS)


def test_targets_that_are_not_told_to_forget_are_seen_again(lab: Lab) -> None:
    """Where the RSTs to SYN-ACKs get lost, an open port is open in every one of several scans within a minute."""
    lab.apply([TRUTH])
    with rules(lab, "chain out { type filter hook output priority 0; tcp flags rst drop; };"):
        found = [observe(lab, [(BOTH, [22, 79])], retries=3) for _ in range(4)]
    assert found == [expected_states([TRUTH], [22, 79])] * 4


@pytest.mark.parametrize("qdisc", ["pfifo limit 1", "tbf rate 4mbit burst 1600 limit 3000"])
def test_full_queue_of_the_interface_costs_time_only(lab: Lab, qdisc: str) -> None:
    """Probes that the interface's queue has no room for are sent later, and every port is told right."""
    lab.apply([TRUTH])
    lab.run(["tc", "qdisc", "replace", "dev", "lab0", "root", *qdisc.split()], check=True)
    try:
        found = observe(lab, [(BOTH, range(1, 2001))])
    finally:
        lab.run(["tc", "qdisc", "delete", "dev", "lab0", "root"], check=True)
    assert found == expected_states([TRUTH], range(1, 2001))


def test_neighbour_that_is_not_known_yet_costs_time_only(lab: Lab) -> None:
    """Of the probes that wait for the next hop's address most are lost, and every port is told right."""
    lab.apply([TRUTH])
    lab.run(["ip", "neighbour", "flush", "dev", "lab0", "nud", "permanent"], check=True)
    with lab.link_restored():
        assert observe(lab, [(BOTH, range(1, 2001))], timeout=0.9) == expected_states([TRUTH], range(1, 2001))


def test_low_rate_ends(lab: Lab) -> None:
    """A rate of a few probes per second is slow, but comes to an end."""
    lab.apply([TRUTH])
    found = observe(lab, [([V4], [22, 79, 81])], rate=50, limit=5)
    assert found == {(V4, 22): "open", (V4, 79): "closed", (V4, 81): "filtered"}


def test_probes_are_well_formed(lab: Lab) -> None:
    """Probes have right checksums, and are like a client's: one option, no two sequence numbers alike."""
    lab.apply([HostTruth("h.lab", BOTH, default=State.DROPPED)])
    ports = range(1, 101)
    with seen(lab, 3 * 2 * len(ports)) as probes:
        observe(lab, [(BOTH, ports)], retries=2)
        syns = list(probes)
    assert all(syn.is_right() for syn in syns)
    assert {syn.header for syn in syns} == {24}
    assert len({syn.sequence for syn in syns}) == len(syns)
    # each try from a port of its own, one after the other, around the block
    for source, own in ((packed(SCANNER4), packed(V4)), (packed(SCANNER6), packed(V6))):
        slots = sorted((syn.port, syn.source_port - FIRST_SOURCE_PORT) for syn in syns if syn.own == own)
        used = {slot for _, slot in slots}
        (first,) = (slot for slot in used if (slot - 1) % TRY_SLOTS not in used)
        assert slots == sorted((port, (first + attempt) % TRY_SLOTS) for port in ports for attempt in range(3))
        assert {syn.source for syn in syns if syn.own == own} == {source}


@pytest.mark.parametrize(
    ("address", "pattern"), [(V4, "tcp[tcpflags] == tcp-syn"), (V6, "ip6[6] == 6 and ip6[53] == 2")]
)
def test_tcpdump_finds_the_checksums_correct(lab: Lab, address: str, pattern: str) -> None:
    """Another program that knows checksums finds those of the probes right."""
    if os.geteuid() != 0:
        forbidden("tcpdump takes another user's rights, which a user namespace does not let it")
    lab.apply([HostTruth("h.lab", (address,), default=State.DROPPED)])
    argv = ["tcpdump", "-i", "lab0", "-Q", "in", "-c", "40", "-nn", "-vv", "--immediate-mode", pattern]
    with lab.popen(argv, side="hosts", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tcpdump:
        assert tcpdump.stderr is not None
        assert "listening" in next(line for line in tcpdump.stderr if "listening" in line)
        observe(lab, [([address], range(1, 21))])
        told = tcpdump.communicate(timeout=10)[0]
    assert (told.count("(correct)"), told.count("incorrect"), told.count("bad cksum")) == (40, 0, 0)


def test_source_ports_are_nobody_elses(lab: Lab) -> None:
    """A second engine takes the next block; nobody else can bind the ports of either, nor is given one to connect."""
    lab.apply([TRUTH])
    code = f"""
import json, socket
from pathlib import Path
from portspec.scan.syn.socket import RawChannel

def bind(family, address, port):
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except OSError as error:
            return error.errno
        return 0

def connect(address):
    sock = socket.create_connection((address, 22))
    return sock, sock.getsockname()[1]

channels = [RawChannel(), RawChannel()]
bound = [
    bind(family, address, port)
    for family, address in (
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "{SCANNER4}"),
        (socket.AF_INET6, "::"),
        (socket.AF_INET6, "::1"),
    )
    for port in range({FIRST_SOURCE_PORT}, {FIRST_SOURCE_PORT} + 2 * {SOURCE_PORTS} + 1)
]
first, last = {FIRST_SOURCE_PORT}, {FIRST_SOURCE_PORT} + 2 * {SOURCE_PORTS} + 3
Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{{first}} {{last}}")
given = [connect(address) for address in ("{V4}", "{V6}") for _ in range(4)]
for channel in channels:
    channel.close()
print(json.dumps([[channel.first_source_port for channel in channels], bound, [port for _, port in given],
                  bind(socket.AF_INET, "0.0.0.0", {FIRST_SOURCE_PORT})]))
"""
    try:
        done = lab.run([sys.executable, "-c", code], check=True)
    finally:
        lab.run(["sh", "-c", "echo 32768 60999 > /proc/sys/net/ipv4/ip_local_port_range"], check=True)
    blocks, bound, given, again = json.loads(done.stdout)
    third = FIRST_SOURCE_PORT + 2 * SOURCE_PORTS
    assert blocks == [FIRST_SOURCE_PORT, FIRST_SOURCE_PORT + SOURCE_PORTS]
    assert bound == ([98] * 2 * SOURCE_PORTS + [0]) * 5  # EADDRINUSE
    assert sorted(given) == sorted([*range(third, third + 4)] * 2)
    assert again == 0


def test_two_engines_at_once_are_both_right(lab: Lab) -> None:
    """Two scans of the same hosts at the same time, each with an engine of its own, both find the truth."""
    ports = [22, 80, 443, 8080, FIRST_SOURCE_PORT, FIRST_SOURCE_PORT + 1, FIRST_SOURCE_PORT + SOURCE_PORTS, 65535]
    truths = draw(7, 32, ports)
    lab.apply(truths)
    jobs = [(truth.addresses, ports) for truth in truths]
    process = start(lab, jobs, timeout=5.0, retries=1)  # so long that it outlasts the other one on a busy machine, too
    second = observe(lab, jobs)
    assert process.poll() is None
    first = states(process.communicate(timeout=180)[0])
    assert first == second == expected_states(truths, ports)
