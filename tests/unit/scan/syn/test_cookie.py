from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.syn import cookie
from tests.unit.factories import MODEST
from tests.unit.scan.syn.siphash import siphash, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY = bytes(range(16))
# The hashes of 00, 00 01, 00 01 02 and so on under KEY, as bytes: vectors_sip64 of the reference implementation.
VECTORS = """
    310e0edd47db6f72 fd67dc93c539f874 5a4fa9d909806c0d 2d7efbd796666785 b7877127e09427cf 8da699cd64557618
    cee3fe586e46c9cb 37d1018bf50002ab 6224939a79f5f593 b0e4a90bdf82009e f3b9dd94c5bb5d7a a7ad6b22462fb3f4
    fbe50e86bc8f1e75 903d84c02756ea14 eef27a8e90ca23f7 e545be4961ca29a1 db9bc2577fcc2a3f 9447be2cf5e99a69
    9cd38d96f0b3c14b bd6179a71dc96dbb 98eea21af25cd6be c7673b2eb0cbf2d0 883ea3e395675393 c8ce5ccd8c030ca8
    94af49f6c650adb8 eab8858ade92e1bc f315bb5bb835d817 adcf6b0763612e2f a5c91da7acaa4dde 716595876650a2a6
    28ef495c53a387ad 42c341d8fa92d832 ce7cf2722f512771 e37859f94623f3a7 381205bb1ab0e012 ae97a10fd434e015
    b4a31508beff4d31 81396229f0907902 4d0cf49ee5d4dcca 5c73336a76d8bf9a d0a704536ba93e0e 925958fcd6420cad
    a915c29bc8067318 952b79f3bc0aa6d4 f21df2e41d4535f9 87577519048f53a9 10a56cf5dfcd9adb eb75095ccd986cd0
    51a9cb9ecba312e6 96afadfc2ce666c7 72fe52975a4364ee 5a1645b276d592a1 b274cb8ebf87870a 6f9bb4203de7b381
    eaecb2a30b22a87f 9924a43cc1315724 bd838d3aafbf8db7 0b1a2a3265d51aea 135079a3231ce660 932b2846e4d70666
    e1915f5cb1eca46c f325965ca16d629f 575ff28e60381be5 724506eb4c328a95
"""
HASHES = [int.from_bytes(bytes.fromhex(vector), "little") for vector in VECTORS.split()]

KEYS = st.binary(min_size=16, max_size=16)
ADDRESSES = st.binary(min_size=16, max_size=16)
PORTS = st.integers(0, 65535)
ROWS = st.lists(st.tuples(KEYS, ADDRESSES, ADDRESSES, PORTS, PORTS), min_size=1, max_size=20)
Row = tuple[bytes, bytes, bytes, int, int]


def started(keys: list[bytes]) -> NDArray[np.uint64]:
    """Return the states of some keys, before any message."""
    return cookie.start(np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2).T.astype(np.uint64))


def hashed(keys: list[bytes], messages: list[bytes]) -> list[int]:
    """Hash messages that have the same number of words, all at once."""
    state = started(keys)
    *first, last = np.array([words(message) for message in messages], np.uint64).T
    for word in first:
        cookie.absorb(state, word)
    return [int(one) for one in cookie.finish(state, last)]


def sequence_numbers(rows: list[Row]) -> list[int]:
    """Return the sequence numbers of probes, all at once: of keys, two addresses each, and two ports."""
    keys, owns, peers, source_ports, ports = zip(*rows, strict=True)
    state = started(list(keys))
    for addresses in (owns, peers):
        for word in np.frombuffer(b"".join(addresses), "<u8").reshape(-1, 2).T:
            cookie.absorb(state, word)
    numbers = cookie.sequence_numbers(state, np.array(source_ports, np.uint16), np.array(ports, np.uint16))
    return [int(number) for number in numbers]


@pytest.mark.parametrize("length", range(64))
def test_oracle_gives_the_published_hashes(length: int) -> None:
    """What the other tests compare with gives the hashes that the reference implementation publishes."""
    assert siphash(KEY, bytes(range(length))) == HASHES[length]


def test_hash_of_the_paper() -> None:
    """The hash of 15 bytes is the one that appendix A of the paper works out."""
    assert hashed([KEY], [bytes(range(15))]) == [0xA129CA6149BE45E5]


@pytest.mark.parametrize("length", range(64))
def test_published_hashes(length: int) -> None:
    """A hash by itself is that of the reference implementation, for each length that it publishes."""
    assert hashed([KEY], [bytes(range(length))]) == [HASHES[length]]


@pytest.mark.parametrize("count", range(8))
def test_published_hashes_all_at_once(count: int) -> None:
    """Messages of different lengths that advance together each get their own published hash."""
    lengths = range(8 * count, 8 * count + 8)
    assert hashed([KEY] * 8, [bytes(range(length)) for length in lengths]) == HASHES[8 * count : 8 * count + 8]


def test_sequence_number_is_the_low_half_of_a_published_hash() -> None:
    """Where addresses and ports are the bytes 00 to 23, the sequence number is in the published hash of 36 bytes."""
    row = (KEY, bytes(range(16)), bytes(range(16, 32)), 0x2021, 0x2223)
    assert sequence_numbers([row]) == [HASHES[36] & 0xFFFFFFFF]
    assert cookie.MESSAGE_LENGTH == 36


@MODEST
@given(rows=ROWS)
def test_sequence_numbers_are_hashes_of_addresses_and_ports(rows: list[Row]) -> None:
    """Each of many is the low half of the hash of both addresses and both ports, the probe's own first."""
    assert sequence_numbers(rows) == [
        siphash(key, own + peer + source_port.to_bytes(2, "big") + port.to_bytes(2, "big")) & 0xFFFFFFFF
        for key, own, peer, source_port, port in rows
    ]


@MODEST
@given(rows=ROWS)
def test_rows_do_not_touch_each_other(rows: list[Row]) -> None:
    """Many sequence numbers at once are those that come one at a time."""
    assert sequence_numbers(rows) == [number for row in rows for number in sequence_numbers([row])]


def test_whole_batch_of_ports() -> None:
    """All ports of one address in one batch get the hashes that they get one by one, and few meet by chance."""
    own, peer = bytes(range(50, 66)), bytes(range(100, 116))
    rows = [(KEY, own, peer, 61008, port) for port in range(65536)]
    numbers = sequence_numbers(rows)
    for port in (0, 1, 255, 256, 32768, 65535):
        message = own + peer + (61008).to_bytes(2, "big") + port.to_bytes(2, "big")
        assert numbers[port] == siphash(KEY, message) & 0xFFFFFFFF
    assert len(set(numbers)) > 65536 - 20  # of 2³² numbers, half a pair is expected to meet


@MODEST
@given(row=ROWS.map(lambda rows: rows[0]), bit=st.integers(0, 16 * 8 * 3 + 32 - 1))
def test_every_bit_counts(row: Row, bit: int) -> None:
    """A bit changed in the key, in an address or in a port gives another hash."""
    key, own, peer, source_port, port = row
    packed = key + own + peer + source_port.to_bytes(2, "big") + port.to_bytes(2, "big")
    changed = (int.from_bytes(packed, "big") ^ 1 << bit).to_bytes(len(packed), "big")
    first, second = hashed([packed[:16], changed[:16]], [packed[16:], changed[16:]])
    assert first != second


def test_hashing_leaves_keys_and_words_alone() -> None:
    """Only the states change: the keys and the words that they were made of can be used again."""
    keys = np.frombuffer(KEY, "<u8").reshape(2, 1).astype(np.uint64)
    word = np.array([7], np.uint64)
    before = keys.copy(), word.copy()
    first = cookie.finish(cookie.start(keys), word)
    assert np.array_equal(keys, before[0])
    assert np.array_equal(word, before[1])
    assert np.array_equal(first, cookie.finish(cookie.start(keys), word))
