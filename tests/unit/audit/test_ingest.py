"""Audits that are posted: whose turn it is, whatever arrives and wherever a batch is cut."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit import ingest as module
from portspec.audit.admission import RejectedError
from portspec.audit.ingest import FairQueue, _Submission, network_of
from portspec.store import Outcome
from tests.unit.factories import settle
from tests.unit.reporting import Clock, prepared
from tests.unit.signed import APP, DB, WEB, packed, rostered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FLOOD, TRUE = "192.0.2.66", "192.0.2.7"

ARRIVALS = st.tuples(st.just("add"), st.integers(0, 4))
BATCHES = st.tuples(st.just("take"), st.tuples(st.integers(1, 6), st.integers(0, 6), st.lists(st.integers(0, 4))))
GONE = st.tuples(st.just("hang up"), st.integers(0, 30))


@given(st.lists(st.one_of(ARRIVALS, BATCHES, GONE), max_size=60))
def test_no_network_is_served_twice_while_another_waits(steps: Sequence[tuple[str, Any]]) -> None:
    """Whoever was served goes to the back, and what is left over of a batch keeps its place, in order."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        turns = FairQueue()
        waiting: list[_Submission] = []
        began: dict[str, int] = {}  # by network that waits: how many were served when it began to
        served: list[_Submission] = []

        def arrive(number: int) -> None:
            item = _Submission(b"", f"192.0.2.{number}", loop.create_future())
            if all(other.origin != item.origin for other in waiting if not other.outcome.done()):
                began[item.origin] = len(served)
            turns.add(item)
            waiting.append(item)

        def serve(item: _Submission) -> None:
            for origin in {other.origin for other in waiting if not other.outcome.done()} - {item.origin}:
                since = [other.origin for other in served[began[origin] :]]
                assert item.origin not in since, f"{item.origin} is served again, and {origin} waits"
            first = next(other for other in waiting if other.origin == item.origin and not other.outcome.done())
            assert item is first, "a network is served in the order in which it sends"
            served.append(item)
            waiting.remove(item)
            began[item.origin] = len(served)

        for what, value in steps:
            if what == "add":
                arrive(value)
            elif what == "hang up":
                if waiting:
                    waiting[value % len(waiting)].outcome.cancel()
            else:
                most, cut, meanwhile = value
                taken = turns.take(most)
                assert len(taken) <= most
                for _, item in taken[:cut]:
                    serve(item)
                for number in meanwhile:
                    arrive(number)
                turns.put_back(taken[cut:])
            waiting[:] = [item for item in waiting if not item.outcome.done()]
        while taken := turns.take(3):
            for _, item in taken:
                serve(item)
        assert not turns
        assert waiting == []

    asyncio.run(scenario())


def forged(host: str, size: int) -> bytes:
    """Return an audit of some host, signed by nobody, that unpacks to so many bytes."""
    return b"portspec-audit 1 %s\n%s" % (b"0" * 64, gzip.compress(b'{"host": "%s"}' % host.encode() + bytes(size)))


def test_true_audit_waits_for_one_forged_one_at_most(path: Path) -> None:
    """Large forged bodies cut each batch, and the audit from another address is taken after the first of them."""

    async def scenario() -> None:
        order: list[str] = []

        async def post(scene: Any, body: bytes, origin: str) -> Outcome | RejectedError:
            try:
                outcome: Outcome | RejectedError = await scene.audits.take(body, origin)
            except RejectedError as error:
                outcome = error
            order.append(origin)
            return outcome

        async with prepared(path, Clock(), rostered(WEB, DB, APP)) as scene:
            body = forged(DB, module.MAX_BATCH_BYTES)
            floods = [asyncio.create_task(post(scene, body, FLOOD)) for _ in range(40)]
            await settle()
            true = [asyncio.create_task(post(scene, packed(host), TRUE)) for host in (WEB, APP)]
            await settle()
            async with scene.running():
                assert await asyncio.gather(*true) == [Outcome.ACCEPTED] * 2
                assert order.count(FLOOD) <= 3
                refused = await asyncio.gather(*floods)
            assert {getattr(item, "reason", item) for item in refused} == {"signature"}

    asyncio.run(asyncio.wait_for(scenario(), 60.0))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("unix socket", "unix socket"),
    ],
)
def test_network_of_an_address(address: str, network: str) -> None:
    """One client may have a /64 of IPv6 for itself, and of IPv4 it has an address, however that is spelled."""
    assert network_of(address) == network
