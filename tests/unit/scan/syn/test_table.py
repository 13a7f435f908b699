from __future__ import annotations

import itertools
import random
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.syn import cookie
from portspec.scan.syn.filter import FIRST_SOURCE_PORT, SOURCE_PORTS
from portspec.scan.syn.packets import Answers, Probes, Template, pack, parse
from portspec.scan.syn.port_states import CLOSED, FILTERED, OPEN
from portspec.scan.syn.table import AddressTable
from tests.unit.factories import MODEST
from tests.unit.scan.syn.siphash import siphash
from tests.unit.scan.syn.wire import Probe, checksum, frames, pseudo_header, raw

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from portspec.scan.syn.address import SynAddressScan

OWN4, OWN6 = "192.0.2.9", "2001:db8::9"
KINDS = (OPEN, CLOSED, FILTERED)


@dataclass(frozen=True, slots=True)
class Address:
    """The attributes of a scan that the table uses."""

    address: str
    packed: bytes


class Entropy:
    """A source of bytes that are different each time, and the same in each run; `given` is what it gave."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a test's
        self.given: list[bytes] = []

    def __call__(self, count: int) -> bytes:
        """Return so many bytes."""
        self.given.append(self._random.randbytes(count))
        return self.given[-1]


def scan(address: str) -> SynAddressScan:
    """Return a stand-in for a scan."""
    return cast("SynAddressScan", Address(address, pack(address)))


def with_source(address: str) -> tuple[SynAddressScan, str]:
    """Return a scan, with the source address of its probes."""
    return scan(address), OWN6 if ":" in address else OWN4


def addresses(count: int) -> list[str]:
    """Return addresses, half of them of either family: neighbours in a network, and distant ones."""
    fours = [f"198.51.{number >> 8}.{number & 255}" for number in range(count // 4)]
    far4 = [f"{number % 223 + 1}.{number * 7 % 256}.{number >> 8}.1" for number in range(count // 4)]
    sixes = [f"2001:db8::{number + 1:x}" for number in range(count // 4)]
    far6 = [f"2001:db8:{number * 7919 % 65536:x}:{number:x}::1:{number + 1:x}" for number in range(count // 4)]
    return fours + far4 + sixes + far6


def table_of(some: Iterable[str], entropy: Entropy | None = None) -> AddressTable:
    """Return a table with a scan for each address, all added at once."""
    table = AddressTable(entropy or Entropy())
    table.add([with_source(address) for address in some])
    return table


def probes(table: AddressTable, some: Sequence[str], *, tries: int = 0, ports: Sequence[int] | None = None) -> Probes:
    """Return a probe to each address, by default to port 1000 and those above."""
    indices = np.array([table.index(scan(address)) for address in some], np.intp)
    source_ports = np.full(len(some), FIRST_SOURCE_PORT + tries, np.uint16)
    return table.probes(indices, source_ports, np.array(ports or range(1000, 1000 + len(some)), np.uint16))


def answers(to: Probes, kind: int = OPEN, *, ahead: int = 0) -> Answers:
    """Return the answers to probes; `ahead` is how far their sequence numbers are off."""
    count = len(to)
    own, peer = (np.ascontiguousarray(side).view("<u8").astype(np.uint64) for side in (to.own, to.peer))
    return Answers(
        peer_high=peer[:, 0],
        peer_low=peer[:, 1],
        own_high=own[:, 0],
        own_low=own[:, 1],
        port=to.port.copy(),
        source_port=to.source_port.copy(),
        sequence=to.sequence + np.uint32(ahead % 2**32),
        kind=np.full(count, kind, np.uint8),
        direct=np.ones(count, np.bool_),
        at=np.zeros(count),
    )


def are_proven(table: AddressTable, some: Answers) -> list[bool]:
    """Return which answers are proven."""
    _, good = table.proven(some)
    assert good.dtype == np.bool_
    return [bool(one) for one in good]


def proven_addresses(table: AddressTable, some: Answers) -> list[str | None]:
    """Return the addresses whose answers are proven, None for the others."""
    indices, good = table.proven(some)
    return [
        table.scan(index).address if one else None for index, one in zip(indices.tolist(), good.tolist(), strict=True)
    ]


# What is proven.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [4, 64, 68, 400])
def test_each_answer_finds_its_scan(count: int, kind: int) -> None:
    """Every answer to a probe is proven, and its address is found, with addresses of both families."""
    some = addresses(count)
    table = table_of(some)
    assert proven_addresses(table, answers(probes(table, some), kind)) == some


@pytest.mark.parametrize("kind", KINDS)
def test_only_an_rst_may_be_one_behind(kind: int) -> None:
    """An RST may leave the SYN uncounted; a SYN-ACK and an ICMP error have the number exactly."""
    some = addresses(40)
    table = table_of(some)
    made = probes(table, some)
    assert are_proven(table, answers(made, kind, ahead=-1)) == [kind == CLOSED] * 40
    assert are_proven(table, answers(made, kind, ahead=1)) == [False] * 40


@pytest.mark.parametrize("number", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_numbers_go_round(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The number before 0 is 2³² - 1."""

    def fixed(_: object, source_ports: NDArray[np.uint16], __: object) -> NDArray[np.uint32]:
        return np.full(len(source_ports), number, np.uint32)

    monkeypatch.setattr(cookie, "sequence_numbers", fixed)
    table = table_of(["192.0.2.1"])
    made = probes(table, ["192.0.2.1"])
    for ahead, kind in itertools.product([-2, -1, 0, 1, 2], KINDS):
        expected = ahead == 0 or (ahead == -1 and kind == CLOSED)
        assert are_proven(table, answers(made, kind, ahead=ahead)) == [expected]


@pytest.mark.parametrize("kind", KINDS)
def test_near_misses(kind: int) -> None:
    """A sequence number that is off by one bit, by a few, or by a half of all is not proven."""
    some = addresses(20)
    table = table_of(some)
    made = probes(table, some)
    right = answers(made, kind)
    for bit in range(32):
        wrong = replace(right, sequence=right.sequence ^ np.uint32(1 << bit))
        is_behind = (right.sequence - wrong.sequence == 1) & (kind == CLOSED)
        assert are_proven(table, wrong) == is_behind.tolist()
    for ahead in (-(2**31), -65536, -256, -3, -2, 2, 3, 255, 65535):
        assert not any(are_proven(table, answers(made, kind, ahead=ahead)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("column", "bits"),
    [("peer_high", 64), ("peer_low", 64), ("own_high", 64), ("own_low", 64), ("port", 16), ("source_port", 16)],
)
def test_every_bit_of_what_is_claimed_counts(column: str, bits: int, kind: int) -> None:
    """With the right number, another address on either side, another port or another source port proves nothing."""
    some = addresses(20)
    table = table_of(some)
    right = answers(probes(table, some), kind)
    for bit in range(bits):
        values = getattr(right, column)
        wrong = replace(right, **{column: values ^ values.dtype.type(1 << bit)})
        assert not any(are_proven(table, wrong))


def test_colliding_addresses_are_distinguished() -> None:
    """An address that differs in both halves, so that the differences may cancel out, proves nothing."""
    some = addresses(20)
    table = table_of(some)
    right = answers(probes(table, some), CLOSED)
    for bit in range(64):
        flip = np.uint64(1 << bit)
        wrong = replace(right, peer_high=right.peer_high ^ flip, peer_low=right.peer_low ^ flip)
        assert not any(are_proven(table, wrong))
        wrong = replace(right, own_high=right.own_high ^ flip, own_low=right.own_low ^ flip)
        assert not any(are_proven(table, wrong))


def test_addresses_cannot_answer_for_each_other() -> None:
    """A number that is right for one address is wrong for all others, of either family."""
    some = addresses(40)
    table = table_of(some)
    made = probes(table, some, ports=[443] * 40)
    right = answers(made)
    for shift in range(1, 40):
        wrong = replace(right, sequence=np.roll(right.sequence, shift))
        assert not any(are_proven(table, wrong))
        assert not any(are_proven(table, replace(wrong, kind=np.full(40, CLOSED, np.uint8))))


def test_tries_and_ports_have_numbers_of_their_own() -> None:
    """Each try of each of 100 ports has a number that proves no other."""
    table = table_of(["192.0.2.1"])
    numbers = [
        number
        for tries in range(SOURCE_PORTS)
        for number in probes(table, ["192.0.2.1"] * 100, tries=tries, ports=range(1, 101)).sequence.tolist()
    ]
    assert len(set(numbers)) == SOURCE_PORTS * 100


def test_right_and_wrong_in_one_batch() -> None:
    """In a batch of answers of all kinds, each is judged by itself and in its place."""
    some = addresses(400)
    table = table_of(some)
    chooser = np.random.default_rng(1)
    chosen = [some[number] for number in chooser.integers(0, 400, 3000)]
    made = answers(probes(table, chosen, ports=chooser.integers(0, 65536, 3000).tolist()))
    kind = chooser.choice(np.array(KINDS, np.uint8), 3000)
    behind = chooser.choice(np.array([0, 0, 0, 1, 2], np.uint32), 3000)
    mixed = replace(made, kind=kind, sequence=made.sequence - behind)
    expected = [
        address if off == 0 or (off == 1 and what == CLOSED) else None
        for address, off, what in zip(chosen, behind.tolist(), kind.tolist(), strict=True)
    ]
    assert proven_addresses(table, mixed) == expected


def test_unknown_peer_proves_nothing() -> None:
    """Addresses that are not in the table, below, between and above those that are, prove nothing."""
    some = addresses(400)
    table, other = table_of(some[::2]), table_of(some)
    strangers = answers(probes(other, some[1::2]))
    assert not any(are_proven(table, strangers))
    assert not any(are_proven(table, replace(strangers, kind=np.full(200, CLOSED, np.uint8))))


@MODEST
@given(
    words=st.lists(st.tuples(*[st.integers(0, 2**64 - 1)] * 4), min_size=1, max_size=20),
    number=st.integers(0, 2**32 - 1),
    ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
)
def test_random_answers_prove_nothing(
    words: list[tuple[int, int, int, int]], number: int, ports: tuple[int, int]
) -> None:
    """Random answers are never proven, and never an error."""
    table = table_of(addresses(40))
    claims = np.array(words, np.uint64)
    count = len(words)
    made_up = Answers(
        peer_high=claims[:, 0],
        peer_low=claims[:, 1],
        own_high=claims[:, 2],
        own_low=claims[:, 3],
        port=np.full(count, ports[0], np.uint16),
        source_port=np.full(count, ports[1], np.uint16),
        sequence=np.full(count, number, np.uint32),
        kind=np.full(count, CLOSED, np.uint8),
        direct=np.ones(count, np.bool_),
        at=np.zeros(count),
    )
    assert not any(are_proven(table, made_up))


def test_empty_table_proves_nothing() -> None:
    """Without scans no answer is proven: before the first is added, and after the last is removed."""
    other = table_of(["192.0.2.1", "2001:db8::1"])
    some = answers(probes(other, ["192.0.2.1", "2001:db8::1"]))
    table = AddressTable(Entropy())
    assert are_proven(table, some) == [False, False]
    table.add([with_source("192.0.2.1")])
    table.remove(scan("192.0.2.1"))
    assert are_proven(table, some) == [False, False]
    assert (len(table), "192.0.2.1" in table) == (0, False)


def test_empty_batch_proves_nothing() -> None:
    """A batch without answers is no error, with or without scans."""
    table = table_of(addresses(4))
    none = answers(probes(table, []))
    assert (are_proven(table, none), are_proven(AddressTable(Entropy()), none)) == ([], [])


def test_addresses_of_numbered_networks() -> None:
    """Addresses with regular patterns are distinguished like any others."""
    some = [f"2001:db8:0:{network:x}::{host:x}" for network in range(1, 21) for host in range(1, 21)]
    table = table_of(some)
    assert proven_addresses(table, answers(probes(table, some))) == some


def test_addresses_that_differ_in_two_chosen_bits() -> None:
    """An attacker cannot choose two colliding addresses without the secret of the process."""
    some = ["2001:db8::1", "2001:db8:0:80::81"]
    for seed in range(5):
        table = table_of(some, Entropy(seed))
        assert proven_addresses(table, answers(probes(table, some))) == some


def test_addresses_whose_first_half_is_zero() -> None:
    """IPv6 addresses that begin with zeros, loopback among them, do not collide with IPv4 addresses."""
    some = ["::1", "::2", "::fffe:c000:201", "192.0.2.1", "192.0.2.2", "2001:db8::1", "::1:0:0:0", "1::"]
    table = table_of(some)
    assert proven_addresses(table, answers(probes(table, some))) == some
    for present in some:
        strangers = [address for address in some if address != present]
        assert not any(are_proven(table_of([present]), answers(probes(table, strangers))))


# The probes.


def test_number_is_the_keyed_hash_of_addresses_and_ports() -> None:
    """The sequence number is the low half of SipHash-2-4 of addresses and ports, with a key of the scan's own."""
    some = addresses(400)
    entropy = Entropy()
    table = table_of(some, entropy)
    keys = entropy.given[-1]
    assert len(keys) == 16 * 400
    made = probes(table, some, tries=3)
    for number, address in enumerate(some):
        own = pack(OWN6 if ":" in address else OWN4)
        message = own + pack(address) + (FIRST_SOURCE_PORT + 3).to_bytes(2, "big") + (1000 + number).to_bytes(2, "big")
        key = keys[16 * number : 16 * number + 16]
        assert made.sequence[number] == siphash(key, message) & 0xFFFFFFFF


def test_probes_have_the_columns_of_their_scans() -> None:
    """Probes to several addresses, some of them twice, have both addresses, the ports, and the row."""
    some = ["192.0.2.1", "2001:db8::1", "192.0.2.1", "192.0.2.2"]
    table = table_of(sorted(set(some)))
    made = probes(table, some, tries=5, ports=[80, 443, 81, 65535])
    assert len(made) == 4
    assert [row.tobytes() for row in made.peer] == [pack(address) for address in some]
    assert [row.tobytes() for row in made.own] == [pack(OWN6 if ":" in address else OWN4) for address in some]
    assert (made.port.tolist(), made.source_port.tolist()) == ([80, 443, 81, 65535], [FIRST_SOURCE_PORT + 5] * 4)
    assert made.target.tolist() == [table.index(scan(address)) for address in some]


def test_probes_are_repeated_exactly() -> None:
    """The same probe made twice is the same: numbers are computed, not stored."""
    some = addresses(40)
    table = table_of(some)
    first, second = probes(table, some), probes(table, some)
    assert np.array_equal(first.sequence, second.sequence)
    assert all(are_proven(table, answers(first)))
    assert np.array_equal(probes(table, some).sequence, first.sequence)
    for number in range(40):
        (alone,) = probes(table, [some[number]], ports=[1000 + number]).sequence
        assert alone == first.sequence[number]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_from_the_table_to_the_wire_and_back(family: int) -> None:
    """Probes have right checksums, and all answers of hosts are parsed and proven."""
    some = [address for address in addresses(400) if (":" in address) == (family == socket.AF_INET6)]
    table = table_of(some)
    made = probes(table, some)
    template = Template(family, len(some))
    template.fill(made)
    own = raw(OWN6 if family == socket.AF_INET6 else OWN4)
    replies = []
    for number, (address, row) in enumerate(zip(some, template.packets, strict=True)):
        segment = row.tobytes()[-24:]
        probe = Probe(own, raw(address), FIRST_SOURCE_PORT, 1000 + number, int.from_bytes(segment[4:8], "big"))
        assert checksum(pseudo_header(probe.own, probe.peer, 6, 24) + segment) == 0
        replies.append([probe.syn_ack(), probe.rst_ack(), probe.reply(0x14, ahead=0), probe.unreachable()][number % 4])
    read = Answers.joined(parse(family, frames(replies)))
    order = np.argsort(read.at)
    assert proven_addresses(table, read.only(order)) == some


# Lanes that come and go.


def test_two_scans_of_one_address_have_different_numbers() -> None:
    """An answer to an earlier scan does not prove anything in the next scan of the address."""
    table = table_of(["192.0.2.1", "2001:db8::1"])
    before = probes(table, ["192.0.2.1"] * 100)
    table.remove(scan("192.0.2.1"))
    table.add([with_source("192.0.2.1")])
    after = probes(table, ["192.0.2.1"] * 100)
    assert not (before.sequence == after.sequence).any()
    for kind in KINDS:
        assert not any(are_proven(table, answers(before, kind)))
        assert all(are_proven(table, answers(after, kind)))


def test_sequence_numbers_differ_with_the_same_key() -> None:
    """Without randomness, the addresses alone make the sequence numbers differ."""
    some = addresses(40)
    table = AddressTable(bytes)
    table.add([with_source(address) for address in some])
    assert len(set(probes(table, some, ports=[80] * 40).sequence.tolist())) == 40


def test_each_scan_takes_sixteen_random_bytes() -> None:
    """Randomness is drawn once for the table and once for each scan."""
    entropy = Entropy()
    table = AddressTable(entropy)
    assert [len(some) for some in entropy.given] == [16]
    table.add([])
    assert len(entropy.given) == 1
    table.add([with_source("192.0.2.1")])
    table.add([with_source("192.0.2.2"), with_source("2001:db8::1")])
    probes(table, ["192.0.2.2"])
    assert [len(some) for some in entropy.given] == [16, 16, 32]


def test_source_address_that_changed() -> None:
    """Once an address is probed from another source, answers to the former one prove nothing."""
    table = AddressTable(bytes)  # the same key for both
    peer = scan("192.0.2.1")
    table.add([(peer, "198.51.100.1")])
    before = answers(probes(table, ["192.0.2.1"]))
    table.remove(peer)
    table.add([(peer, "198.51.100.2")])
    assert are_proven(table, before) == [False]
    assert are_proven(table, answers(probes(table, ["192.0.2.1"]))) == [True]


@pytest.mark.parametrize("count", [63, 64, 65, 128, 129, 700])
@pytest.mark.parametrize("at_once", [True, False])
def test_table_grows(count: int, *, at_once: bool) -> None:
    """Each scan has a row; those that were there before keep theirs, and their numbers."""
    some = [f"10.0.{number >> 8}.{number & 255}" for number in range(count)]
    table = table_of(["2001:db8::1"])
    index = table.index(scan("2001:db8::1"))
    before = answers(probes(table, ["2001:db8::1"]))
    for batch in [some] if at_once else [some[number : number + 7] for number in range(0, count, 7)]:
        table.add([with_source(address) for address in batch])
    assert len(table) == count + 1
    assert len({table.index(scan(address)) for address in [*some, "2001:db8::1"]}) == count + 1
    assert table.index(scan("2001:db8::1")) == index
    assert are_proven(table, before) == [True]
    assert proven_addresses(table, answers(probes(table, some))) == some


def test_rows_are_reused() -> None:
    """A thousand scans in sequence take no more rows than one."""
    table = AddressTable(Entropy())
    indices = set()
    for number in range(1000):
        address = f"10.0.{number >> 8}.{number & 255}"
        table.add([with_source(address)])
        indices.add(table.index(scan(address)))
        table.remove(scan(address))
    assert len(indices) <= 64
    assert len(table) == 0


def test_row_has_its_scan() -> None:
    """A row has the scan that was added, and none once that has been removed."""
    table = AddressTable(Entropy())
    first, second = scan("192.0.2.1"), scan("2001:db8::1")
    table.add([(first, OWN4), (second, OWN6)])
    index = table.index(second)
    assert table.scan(table.index(first)) is first
    assert table.scan(index) is second
    assert "192.0.2.1" in table
    table.remove(second)
    assert "2001:db8::1" not in table
    with pytest.raises(KeyError):
        table.scan(index)
    with pytest.raises(KeyError):
        table.index(second)
    with pytest.raises(KeyError):
        table.remove(second)
    assert table.scan(table.index(first)) is first


POOL = addresses(120)
STEPS = st.lists(st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=90, unique=True), min_size=1, max_size=8)


@MODEST
@given(steps=STEPS, seed=st.integers(0, 2**32))
def test_scans_come_and_go(steps: list[list[int]], seed: int) -> None:
    """Whatever is added and removed in whatever order, exactly the present scans are proven, by their last numbers."""
    table = AddressTable(Entropy(seed))
    there: dict[str, Answers] = {}
    gone: dict[str, Answers] = {}
    for step in steps:  # who is there goes, who is not comes
        some = [POOL[number] for number in step]
        leaving = [address for address in some if address in there]
        coming = [address for address in some if address not in there]
        for address in leaving:
            table.remove(scan(address))
            gone[address] = there.pop(address)
        table.add([with_source(address) for address in coming])
        if coming:
            made = answers(probes(table, coming))
            there.update({address: made.only(np.array([row])) for row, address in enumerate(coming)})
        assert len(table) == len(there)
        assert [address in table for address in POOL] == [address in there for address in POOL]
        if there:
            assert proven_addresses(table, Answers.joined(list(there.values()))) == list(there)
        if gone:
            assert not any(are_proven(table, Answers.joined(list(gone.values()))))
