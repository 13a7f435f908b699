from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.inventory.discovery.nameserver import trimmed
from tests.unit.factories import MODEST
from tests.unit.inventory.discovery.parts import dns_source, name_server, names

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.inventory.discovery import Answer

NAME = "_ssh._tcp.example.org."
GOOD = "good.example.org."
RECORDS = {(GOOD, "SRV"): ["0 0 22 web1.example.org."], (NAME, "SRV"): []}
QUESTION = dns.message.make_query(NAME, "SRV").to_wire()[12:]
NAME_SIZE = len(QUESTION) - 4
POINTER = b"\xc0\x0c"  # to the name of the question


def message(query: bytes, *records: bytes, answers: int | None = None) -> bytes:
    """Make an answer of records to a question."""
    count = len(records) if answers is None else answers
    return query[:2] + struct.pack("!HHHHH", 0x8180, 1, count, 0, 0) + QUESTION + b"".join(records)


def record(data: bytes, kind: int = 33, owner: bytes = POINTER) -> bytes:
    """Make a record of the question's name."""
    return owner + struct.pack("!HHIH", kind, 1, 60, len(data)) + data


def service(target: bytes, port: int = 22) -> bytes:
    """Make a record SRV."""
    return record(struct.pack("!HHH", 0, 0, port) + target)


LONG = b"\1a" * 127 + b"\0"
LONG_AT = 12 + len(QUESTION) + 12 + 6  # where the first record has its target


def long_names(query: bytes) -> bytes:
    """Make 64 kB of records that lead to a name of 127 labels: dnspython reads them for half a minute."""
    pointed = struct.pack("!H", 0xC000 | LONG_AT)
    return message(query, service(LONG), *(service(pointed, port) for port in range(3000)))


def pointers(query: bytes) -> bytes:
    """Make names that are chains of thousands of pointers."""
    chain = b"".join(struct.pack("!H", 0xC000 | (LONG_AT + max(0, 2 * place - 2))) for place in range(8000))
    return message(query, record(bytes(6) + b"\0" + chain), service(struct.pack("!H", 0xC000 | (LONG_AT + 15_990))))


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "long names": long_names,
    "pointers": pointers,
    "a pointer to itself": lambda query: message(query, service(struct.pack("!H", 0xC000 | LONG_AT))),
    "a pointer ahead": lambda query: message(query, service(b"\xc3\xff")),
    "records that are not there": lambda query: message(query, answers=65_535),
    "questions that are not there": lambda query: query[:4] + b"\xff\xff" + query[6:],
    "a cut record": lambda query: message(query, service(b"\4web1" + POINTER)[:-3]),
    "a label too long": lambda query: message(query, service(b"\x7f" + bytes(127))),
    "other types": lambda query: message(query, *[record(POINTER, kind=2)] * 3000),
    "an alias of itself": lambda query: message(query, record(POINTER, kind=5)),
    "nothing": lambda _: b"",
    "another question": lambda query: message(query).replace(b"_ssh", b"_ftp"),
    "another number": lambda query: bytes([query[0] ^ 1]) + message(query)[1:],
}


def asked(answer: Callable[[bytes], bytes], timeout: float = 5.0) -> dict[str, Answer]:
    """Look up a name that is answered so over TCP, and a good one beside it."""

    async def scenario() -> dict[str, Answer]:
        async with name_server(RECORDS) as served:
            served.long.add(NAME)
            served.raw[NAME] = answer
            return dict(await served.client(dns_source(NAME, GOOD, timeout=timeout)).ask())

    return asyncio.run(scenario())


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_answer_is_a_failure_of_its_name(kind: str) -> None:
    """What whoever owns a name answers costs little, and leaves other names."""
    answers = asked(HOSTILE[kind])
    assert answers[NAME].hosts == ()
    assert answers[NAME].failure is not None
    assert names(answers[GOOD]) == ["web1.example.org"]


@pytest.mark.parametrize("kind", ["long names", "other types"])
def test_answer_that_costs_much_is_refused_before_it_is_read(kind: str) -> None:
    """The failure says what is wrong with it, not that the time is over."""
    failure = asked(HOSTILE[kind])[NAME].failure
    assert failure is not None
    assert "the answer has too many or too long names" in failure


def test_answer_with_thousands_of_records_is_read() -> None:
    """As many hosts as an answer has room for are no fault, if their names are of usual length."""
    answers = asked(lambda query: message(query, *(service(b"\5h%04d" % number + POINTER) for number in range(2500))))
    assert answers[NAME].failure is None
    assert len(answers[NAME].hosts) == 2500


def test_forged_datagrams_are_passed_over() -> None:
    """Over UDP what is no answer to the question is ignored until the time is over."""

    async def scenario() -> Answer:
        async with name_server(RECORDS) as served:
            served.raw[NAME] = HOSTILE["another number"]
            return (await served.client(dns_source(NAME, timeout=0.2)).ask())[NAME]

    assert asyncio.run(scenario()).failure == "no answer in 0.2 s"


LABELS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=5).map(lambda labels: ".".join(labels) + ".")


@MODEST
@given(st.lists(NAMES, max_size=20), NAMES)
def test_trimmed_answer_has_the_same_answers(targets: list[str], other: str) -> None:
    """What is cut off says nothing of the answers."""
    response = dns.message.make_response(dns.message.make_query(NAME, "SRV"))
    if targets:
        texts = [f"0 0 {port} {target}" for port, target in enumerate(targets)]
        response.answer.append(dns.rrset.from_text_list(NAME, 60, "IN", "SRV", texts))
    response.authority.append(dns.rrset.from_text(NAME, 60, "IN", "NS", other))
    response.additional.append(dns.rrset.from_text(other, 60, "IN", "A", "192.0.2.1"))
    found = dns.message.from_wire(trimmed(response.to_wire(max_size=65535)))
    assert found.answer == response.answer
    assert (found.authority, found.additional) == ([], [])


@MODEST
@given(st.binary(max_size=300), st.integers(0, 300), st.binary(max_size=4))
def test_any_bytes_are_read_or_refused(noise: bytes, place: int, spoilt: bytes) -> None:
    """Whatever arrives there is an answer or an error of the DNS, and what was cut is no longer than before."""
    whole = message(QUESTION, service(b"\4web1" + POINTER), service(LONG))
    for data in (noise, whole[:12] + noise, whole[:place] + spoilt + whole[place + len(spoilt) :], whole[:place]):
        try:
            found = trimmed(data)
        except dns.exception.FormError:
            continue
        assert len(found) <= len(data)
