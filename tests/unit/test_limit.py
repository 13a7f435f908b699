from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from portspec.limit import Limit, LimitSlot
from tests.unit.factories import settle

if TYPE_CHECKING:
    from collections.abc import Coroutine


def taking(limit: Limit, got: list[str], name: str, *, is_urgent: bool = False) -> asyncio.Task[None]:
    """Take a place in a task, and note who got one."""

    async def take() -> None:
        await limit.acquire(is_urgent=is_urgent)
        got.append(name)

    return asyncio.create_task(take())


def test_places_are_given_in_the_order_of_asking_the_urgent_first() -> None:
    """Who is urgent gets the next place; among equals the one who has waited longest."""

    async def scenario() -> list[str]:
        limit, got = Limit(1), list[str]()
        tasks = [
            taking(limit, got, "first"),
            taking(limit, got, "second"),
            taking(limit, got, "third"),
            taking(limit, got, "urgent", is_urgent=True),
        ]
        for number in range(4):
            await settle()
            assert len(got) == number + 1
            limit.release()
        await asyncio.gather(*tasks)
        return got

    assert asyncio.run(scenario()) == ["first", "urgent", "second", "third"]


def test_fewer_places_take_nothing_away_and_more_let_in_at_once() -> None:
    """Who holds a place keeps it; nobody else gets one until fewer are held than there are."""

    async def scenario() -> None:
        limit, got = Limit(3), list[str]()
        tasks = [taking(limit, got, name) for name in "abcdef"]
        await settle()
        limit.most = 1
        for held in (3, 2):
            assert (limit.held, len(got)) == (held, 3)
            limit.release()
            await settle()
        assert (limit.held, len(got)) == (1, 3)
        limit.most = 3
        await settle()
        assert (limit.held, len(got)) == (3, 5)
        limit.release()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


@given(
    st.integers(1, 3),
    st.lists(st.sampled_from(["take", "urgent", "release", "cancel", "fewer", "more"]), max_size=40),
)
def test_no_place_is_lost_and_none_is_given_twice(most: int, steps: list[str]) -> None:
    """Whatever is taken, given back and given up: no more places are held than there are, and none is left idle."""

    async def scenario() -> None:
        limit = Limit(most)
        waiting: list[asyncio.Task[None]] = []
        got: list[str] = []
        held = 0
        for step in steps:
            if step in {"take", "urgent"}:
                waiting.append(taking(limit, got, "", is_urgent=step == "urgent"))
            elif step == "release" and limit.held:
                limit.release()
                held -= 1
            elif step == "cancel" and waiting:
                waiting.pop().cancel()  # perhaps in the moment in which it gets a place
            elif step == "fewer":
                limit.most = max(1, limit.most - 1)
            elif step == "more":
                limit.most += 1
            before = len(got)
            await settle()
            held += len(got) - before
            waiting = [task for task in waiting if not task.done()]
            assert limit.held == held
            assert not waiting or limit.is_full
        for task in waiting:
            task.cancel()

    asyncio.run(scenario())


def test_place_is_shared_and_kept_until_it_is_closed() -> None:
    """What belongs together takes one place, keeps it between its parts, and gives it back once, at the end."""

    async def scenario() -> None:
        limit = Limit(1)
        place = LimitSlot(limit)
        await asyncio.gather(place.take(), place.take())
        assert limit.held == 1
        place.put_back()
        place.keep()
        place.put_back()
        assert limit.held == 1
        await within(place.take())
        place.close()
        assert limit.held == 1
        place.put_back()
        assert limit.held == 0
        await within(place.take())
        place.keep()  # too late: it is closed
        place.put_back()
        assert limit.held == 0

    asyncio.run(scenario())


def test_place_that_is_not_kept_is_given_back() -> None:
    """A place whose user found nothing to do goes to the next one at once."""

    async def scenario() -> None:
        limit = Limit(1)
        place = LimitSlot(limit)
        await place.take()
        place.put_back()
        assert limit.held == 0

    asyncio.run(scenario())


def test_place_is_kept_for_nobody_while_somebody_rests() -> None:
    """Once all that is left goes on without the place, it goes to the next one; what follows takes another."""

    async def scenario() -> None:
        limit = Limit(1)
        place = LimitSlot(limit)
        await place.take()
        await place.take()
        place.keep()
        place.rest()  # one of the two
        place.put_back()
        assert limit.held == 1
        place.put_back()
        assert (limit.held, place.is_held) == (0, False)
        place.wake()
        assert limit.held == 0
        await within(place.take())
        place.keep()
        place.put_back()
        assert limit.held == 1
        place.close()
        assert limit.held == 0

    asyncio.run(scenario())


async def within(what: Coroutine[None, None, None]) -> None:
    """Wait for what must not wait."""
    await asyncio.wait_for(what, 30)
