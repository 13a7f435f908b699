"""What is said while something takes long."""

from __future__ import annotations

import asyncio
import io
import json
import re
from typing import TYPE_CHECKING

from portspec.cli.check import look_up
from portspec.cli.progress import LINE_INTERVAL, Lines, Step
from portspec.config import HostConfig, Specification
from portspec.deny import NOTHING, Deny
from portspec.inventory import MAX_LOOKUPS, Resolution, Target
from portspec.ports import PortSet
from tests.unit.cli.run import run, run_on_terminal
from tests.unit.scan.loopback import own_address

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Configure


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class _SlowResolver:
    """Takes a second for each name."""

    def __init__(self, clock: _Clock) -> None:
        self.asked: list[str] = []
        self._clock = clock

    async def resolve(self, name: str, _deny: Deny = NOTHING, /) -> Resolution:
        self.asked.append(name)
        self._clock.now += 1.0
        await asyncio.sleep(0)
        return Resolution(("192.0.2.1",))


def test_without_a_terminal_what_takes_long_says_so_now_and_then() -> None:
    """What is over soon says nothing, and lines are far apart."""
    clock, stream = _Clock(), io.StringIO()
    lines = Lines("scanning", stream, clock)
    for _ in range(1000):
        lines.show(Step(500, 1000, "1/2 hosts", "100 probes/s"))
        clock.now += 3.5 * LINE_INTERVAL / 1000
    assert stream.getvalue().splitlines() == ["scanning: 1/2 hosts, 50 %, 100 probes/s"] * 3


def test_nothing_to_do_yet_is_no_division_by_zero() -> None:
    """Before the first name resolves there is no share to tell."""
    clock, stream = _Clock(), io.StringIO()
    lines = Lines("looking up", stream, clock)
    clock.now += LINE_INTERVAL
    lines.show(Step(0, 0, "0/0 names"))
    assert stream.getvalue() == "looking up: 0/0 names\n"


def test_learn_shows_a_bar_on_a_terminal() -> None:
    """A scan of all ports takes a while, so it is seen that something goes on."""
    done = run_on_terminal("learn", own_address(), "--ports", "1-2000", err=True)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.err)
    assert re.search(r"[01]/1 hosts .* [0-9]+%.* probes/s", plain), plain
    assert done.out.startswith("hosts:\n")


def test_json_log_lines_are_not_mixed_with_a_bar(configure: Configure) -> None:
    """With -j, or with log lines of every host, nothing else goes to standard error."""
    conf = configure({own_address(): []}, ["1-200"], scan={"rate": 1000})
    for flag in (["-j"], ["--log.level", "info"]):
        done = run_on_terminal("scan", "-c", conf, *flag, err=True)
        assert "probes/s" not in done.err
        assert done.err == "" or "host scanned" in done.err


def test_names_are_looked_up_for_a_limited_time() -> None:
    """A file of very many names is checked all the same; those whose turn did not come are not among the answers."""
    config = HostConfig("h", Specification(), PortSet.of([22]), interval=60.0)
    known = [Target("192.0.2.9", config, "192.0.2.9"), *(Target(f"h{number}", config) for number in range(1000))]
    clock = _Clock()
    resolver = _SlowResolver(clock)
    found = asyncio.run(look_up(known, resolver, seconds=100.0, shows_progress=False, clock=clock))
    assert 100 <= len(resolver.asked) <= 100 + MAX_LOOKUPS
    assert sorted(found) == list(range(1, len(found) + 1))
    everything = asyncio.run(look_up(known, resolver, seconds=float("inf"), shows_progress=False, clock=clock))
    assert len(everything) == 1000


def test_warnings_are_json_where_the_log_is(configure: Configure) -> None:
    """With -j each line of standard error is an object; otherwise a warning is a line for people."""
    conf = configure({own_address(): []}, [1], discovery={"file_sd": [{"files": "none.json"}]})
    warning = "discovery.file_sd[0] failed and returned 0 hosts: "
    assert run("scan", "-c", conf).err.startswith(f"warning: {warning}")
    (line,) = run("scan", "-j", "-c", conf).err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["event"].startswith(warning)) == ("warning", True)
