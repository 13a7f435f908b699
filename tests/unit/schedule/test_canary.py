"""Whether a canary can be seen, and which silence is not believed while none can."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from portspec.ports import NO_PORTS, PortSet
from portspec.scan import AddressObservation, Failure, Reason
from portspec.scan.sharing import SharedScans
from portspec.schedule.canary import FRESH, PAUSE, Canaries, Silence, disbelieved, silence
from tests.unit.factories import ManualClock, ScriptedEngine, seen, settle, target

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from portspec.inventory import Target

SSH = PortSet.of([22])
GATEWAY, SERVER = target("gateway", expect=[22]), target("server", expect=[53])
WHY = Failure(Reason.CANARY, "no canary is reachable")


class Scene:
    """Canaries with a clock that the test drives, and hosts that can be seen or not; `looks` are who was looked at."""

    def __init__(self, *canaries: Target, visible: tuple[str, ...] = ()) -> None:
        self.clock = ManualClock()
        self.canaries = Canaries(SharedScans(ScriptedEngine()), self.clock)
        self.canaries.watch(canaries)
        self.visible = set(visible)
        self.looks: list[tuple[str, float]] = []
        self.returned = 0
        self.canaries.on_return = self.note_return

    def note_return(self) -> None:
        """Count that a canary is reachable again."""
        self.returned += 1

    async def sees(self, canary: Target) -> bool:
        """Scan a canary: a tenth of a second if it answers, else a whole one."""
        self.looks.append((canary.host, self.clock.now()))
        is_visible = canary.host in self.visible
        await self.clock.sleep(0.1 if is_visible else 1.0)
        return is_visible

    def missed(self, since: float | None = None) -> asyncio.Task[Failure | None]:
        """Ask whether what has been silent since a time, by default now, is believed."""
        since = self.clock.now() if since is None else since
        return asyncio.create_task(self.canaries.missed(self.sees, since))

    async def answer(self, asking: Awaitable[Failure | None], seconds: float = 5.0) -> Failure | None:
        """Return the answer, which takes no longer than so many seconds."""
        await self.clock.advance(seconds)
        return await asyncio.wait_for(asking, 0)


def test_without_canaries_all_silence_is_believed() -> None:
    """Where no host is a canary nobody is looked at, and nothing is said of them."""

    async def scenario() -> None:
        scene = Scene()
        assert not scene.canaries
        assert await scene.answer(scene.missed()) is None
        assert scene.looks == []
        assert scene.canaries.is_seen is None

    asyncio.run(scenario())


def test_canary_is_looked_at_before_new_silence_is_believed() -> None:
    """A canary that was seen before a host fell silent proves nothing: it is looked at again."""

    async def scenario() -> None:
        scene = Scene(GATEWAY, visible=("gateway",))
        assert await scene.answer(scene.missed()) is None
        assert await scene.answer(scene.missed()) is None
        assert len(scene.looks) == 2
        assert scene.canaries.is_seen

    asyncio.run(scenario())


def test_recent_look_is_enough_for_old_silence() -> None:
    """A host that was silent before is believed if a canary was seen in the last half minute."""

    async def scenario() -> None:
        scene = Scene(GATEWAY, visible=("gateway",))
        scene.canaries.note("gateway", began=scene.clock.now(), is_seen=True)
        await scene.clock.advance(FRESH - 1)
        assert await scene.answer(scene.missed(scene.clock.now() - FRESH), 0.5) is None
        assert scene.looks == []
        await scene.clock.advance(1.0)
        assert await scene.answer(scene.missed(scene.clock.now() - FRESH)) is None
        assert len(scene.looks) == 1

    asyncio.run(scenario())


def test_silence_is_not_believed_while_no_canary_is_seen() -> None:
    """The failure names the canaries; while the last look is recent it is answer enough for all."""

    async def scenario() -> None:
        scene = Scene(GATEWAY, SERVER)
        with capture_logs() as logs:
            first = await scene.answer(scene.missed())
            second = await scene.answer(scene.missed(), 0.0)
        assert first == second
        assert first == Failure(Reason.CANARY, "no canary is reachable (gateway, server); silent hosts are not judged")
        assert len(scene.looks) == 2
        assert scene.canaries.is_seen is False
        assert [(entry["event"], entry["canaries"]) for entry in logs] == [
            ("no canary is reachable; silent hosts are not judged", "gateway, server")
        ]

    asyncio.run(scenario())


def test_one_of_several_canaries_is_enough() -> None:
    """While any canary is seen silence is believed."""

    async def scenario() -> None:
        scene = Scene(GATEWAY, SERVER, visible=("server",))
        assert await scene.answer(scene.missed()) is None
        assert scene.canaries.is_seen

    asyncio.run(scenario())


def test_all_who_ask_share_a_look() -> None:
    """A thousand hosts that fall silent within a second cost two looks: one a second at most."""

    async def scenario() -> None:
        scene = Scene(GATEWAY, visible=("gateway",))
        asking = []
        for _ in range(1000):
            asking.append(scene.missed())
            await scene.clock.advance(0.0005)
        await scene.clock.advance(2 * PAUSE)
        assert [await task for task in asking] == [None] * 1000
        assert [when - scene.looks[0][1] for _, when in scene.looks] == [0.0, pytest.approx(PAUSE)]

    asyncio.run(scenario())


def test_who_gives_up_waiting_ends_the_look_of_nobody_else() -> None:
    """A look goes on when one of those who wait for it leaves."""

    async def scenario() -> None:
        scene = Scene(GATEWAY)
        leaving, staying = scene.missed(), scene.missed()
        await settle()
        leaving.cancel()
        assert await scene.answer(staying) is not None
        assert len(scene.looks) == 1

    asyncio.run(scenario())


def test_canary_is_looked_at_until_it_returns() -> None:
    """While none is seen one is looked at each half minute, and its return is told, though nobody asks."""

    async def scenario() -> None:
        scene = Scene(GATEWAY)
        assert await scene.answer(scene.missed()) is not None
        await scene.clock.advance(2 * FRESH)
        assert len(scene.looks) == 3
        assert scene.returned == 0
        scene.visible.add("gateway")
        await scene.clock.advance(FRESH + 2)
        assert (len(scene.looks), scene.returned, scene.canaries.is_seen) == (4, 1, True)
        await scene.clock.advance(10 * FRESH)
        assert len(scene.looks) == 4

    asyncio.run(scenario())


def test_look_that_crashes_has_seen_nothing() -> None:
    """A fault of a look is logged, and the canary is not seen."""

    async def crash(_: Target) -> bool:
        raise ZeroDivisionError("of the look")

    async def scenario() -> None:
        scene = Scene(GATEWAY)
        with capture_logs() as logs:
            asking = asyncio.create_task(scene.canaries.missed(crash, scene.clock.now()))
            assert await scene.answer(asking, 0.0) is not None
        assert "canary scan crashed" in [entry["event"] for entry in logs]

    asyncio.run(scenario())


def test_scan_of_a_canary_is_a_look() -> None:
    """What the scans of canaries show counts, and what those of other hosts show does not."""

    async def scenario() -> None:
        scene = Scene(GATEWAY)
        now = scene.clock.now()
        scene.canaries.note("web1", began=now, is_seen=True)
        assert scene.canaries.is_seen is None
        scene.canaries.note("gateway", began=now, is_seen=True)
        assert await scene.answer(scene.missed(now), 0.0) is None
        scene.canaries.note("gateway", began=now + 1, is_seen=False)
        assert await scene.answer(scene.missed(), 0.0) is not None
        assert scene.looks == []

    asyncio.run(scenario())


def test_canary_that_is_one_no_more_is_forgotten() -> None:
    """With other canaries the looks at the old ones count no longer; without any silence is believed."""

    async def scenario() -> None:
        scene = Scene(GATEWAY)
        assert await scene.answer(scene.missed()) is not None
        scene.canaries.watch([SERVER])
        assert scene.canaries.is_seen is None
        scene.canaries.watch([])
        assert await scene.answer(scene.missed(), 0.0) is None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("item", "before", "found"),
    [
        (seen(is_open=[22]), None, None),
        (seen(is_open=[22], filtered=[80]), None, None),
        (seen(is_open=[22], filtered=[80]), seen(is_open=[22], filtered=[80]), None),
        (seen(reason=Reason.NO_ROUTE), seen(is_open=[22]), None),
        (seen(reason=Reason.CUT_OFF), seen(is_open=[22]), Silence(NO_PORTS, is_new=True)),
        (seen(filtered=[22, 80]), None, Silence(SSH, is_new=True)),
        (seen(filtered=[22, 80]), seen(filtered=[22]), Silence(SSH, is_new=False)),
        (seen(filtered=[80]), seen(is_open=[80]), Silence(PortSet.of([80]), is_new=True)),
        (seen(filtered=[80]), seen(reason=Reason.NO_ROUTE), None),
    ],
    ids=[
        "heard",
        "other",
        "as before",
        "unseen",
        "cut off",
        "expected",
        "expected as before",
        "was open",
        "unseen before",
    ],
)
def test_silence_of_ports(item: AddressObservation, before: AddressObservation | None, found: Silence | None) -> None:
    """A verdict rests on the silence of expected ports, and of those that were open; new is what was heard before."""
    assert silence(item, SSH, before) == found


@pytest.mark.parametrize(
    ("before", "is_new"),
    [(None, True), (seen(), True), (seen(filtered=[22, 80, 443]), False), (seen(reason=Reason.CANARY), True)],
    ids=["first", "answered", "silent", "unseen"],
)
def test_silence_of_an_address(before: AddressObservation | None, *, is_new: bool) -> None:
    """The silence of all ports counts in any case, and is new unless the address was silent before."""
    item = seen(filtered=[22, 80, 443])
    assert silence(item, NO_PORTS, before) == Silence(PortSet.of([22, 80, 443]), is_new=is_new)


@pytest.mark.parametrize(
    ("item", "scanned", "filtered"),
    [
        (seen(filtered=[22, 80, 443]), [], []),
        (seen(is_open=[80], filtered=[22, 443]), [80, 443], [443]),
        (dataclasses.replace(seen(is_open=[80]), failure=Failure(Reason.CUT_OFF, "banned")), [22, 80, 443], []),
    ],
    ids=["silent", "in part", "cut off"],
)
def test_nothing_is_known_of_what_is_not_believed(
    item: AddressObservation, scanned: list[int], filtered: list[int]
) -> None:
    """Of a silent address nothing is known, of others all but the silent ports; what answered stays."""
    silent = silence(item, SSH, None)
    assert silent is not None
    found = disbelieved(item, silent, WHY)
    assert (found.scanned, found.filtered) == (PortSet.of(scanned), PortSet.of(filtered))
    assert (found.open, found.failure) == (item.open, WHY)
    assert found.is_usable
