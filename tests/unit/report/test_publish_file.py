"""The report of all machines as a file: when it is written, and what happens when it cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec.report import ReportSettings, publish_file, write_report
from portspec.report.output import write_file
from portspec.report.publish_file import MAX_WRITING_SHARE, POLL_INTERVAL, REWRITE_INTERVAL, ReportFile
from portspec.state.table import HostTable
from portspec.store import Outcome
from tests.unit.app.exporter import metric, remove, running, until, write
from tests.unit.factories import result, seen, settle, snapshot, target, with_targets
from tests.unit.report.fleets import audited, vulnerability
from tests.unit.signed import CURL, PASSPHRASE, VULNERABLE, WEB, payload, signed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    from tests.unit.store.scenes import Logs

HOST: Final = target("db1", expect=[22])
A, B = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Return the path of the page, in a directory of its own."""
    (tmp_path / "pages").mkdir()
    return tmp_path / "pages" / "index.html"


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it be looked all the time whether there is anything new."""
    monkeypatch.setattr(publish_file, "POLL_INTERVAL", 0.0)


class Scene:
    """A snapshot that a test replaces, the time, and how often the page was written."""

    def __init__(self, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.page = page
        self.now = 1000.0
        self.snapshot = replace(snapshot((HOST, [result(HOST, seen(is_open=[22]))])), rounds=1)
        self.written = 0
        self.looks = 0
        self._put = write_file
        monkeypatch.setattr(publish_file, "write_file", self._counted)

    def _counted(self, *parts: Any) -> None:
        self.written += 1
        self._put(*parts)

    def _looked(self) -> Any:
        self.looks += 1
        return self.snapshot

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the file up to date."""
        task = asyncio.create_task(ReportFile(str(self.page), ReportSettings(), self._looked, lambda: self.now).run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def become(self, written: int) -> None:
        """Wait until the page was written so often, and see that it is not once more."""
        await until(lambda: self.written >= written)
        seen_then = self.looks
        await until(lambda: self.looks >= seen_then + 5)
        assert self.written == written

    def text(self) -> str:
        """Return the page, which is whole."""
        text = self.page.read_text(encoding="utf-8")
        assert text.startswith("<!doctype html>")
        assert text.rstrip().endswith("</html>")
        return text


@pytest.fixture
def scene(page: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Return a scene of one host that was scanned."""
    return Scene(page, monkeypatch)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on an event loop of its own."""
    asyncio.run(asyncio.wait_for(scenario(), 60.0))


def test_file_is_written_after_a_round_and_not_in_between(scene: Scene) -> None:
    """It is there from the start, and written again when a round has finished, not when one host of it has."""

    async def scenario() -> None:
        async with scene.running():
            await scene.become(1)
            assert "db1" in scene.text()
            scene.snapshot = scene.snapshot.with_state(scene.snapshot.hosts["db1"].after(result(HOST, seen())))
            await scene.become(1)
            assert "missing" not in scene.text()
            scene.snapshot = replace(scene.snapshot, rounds=2)
            await scene.become(2)
            assert "missing" in scene.text()

    run(scenario)


def test_file_is_written_after_a_report(scene: Scene) -> None:
    """A report that was read is on the page without a round."""

    async def scenario() -> None:
        async with scene.running():
            await scene.become(1)
            scene.snapshot = replace(scene.snapshot, audits=HostTable([audited("db1", vulnerability("CVE-2023-7"))]))
            await scene.become(2)
            assert "CVE-2023-7" in scene.text()

    run(scenario)


def test_file_is_written_after_a_reload(scene: Scene) -> None:
    """Hosts that come or go with a reload are on the page, or gone from it, at once."""

    async def scenario() -> None:
        async with scene.running():
            await scene.become(1)
            scene.snapshot = with_targets(scene.snapshot, [target("web1")], 0.0)
            await scene.become(2)
            assert "db1" not in scene.text()

    run(scenario)


def test_file_is_written_every_hour_in_any_case(scene: Scene) -> None:
    """It tells how old reports are, so it must not itself be old."""

    async def scenario() -> None:
        async with scene.running():
            await scene.become(1)
            scene.now += REWRITE_INTERVAL - 1
            await scene.become(1)
            scene.now += 1
            await scene.become(2)

    run(scenario)


def test_trouble_is_told_once_and_so_is_its_end(scene: Scene, logs: Logs) -> None:
    """While the directory is not there the error is told once; the next round after it is back writes the file."""
    scene.page.parent.rmdir()

    async def scenario() -> None:
        async with scene.running():
            for rounds in range(1, 4):
                scene.snapshot = replace(scene.snapshot, rounds=rounds)
                await scene.become(rounds)
            assert logs.events == [
                {
                    "event": "writing the report failed; retrying after the next round",
                    "level": "error",
                    "file": str(scene.page),
                    "why": "no such file or directory",
                }
            ]
            scene.page.parent.mkdir()
            await scene.become(3)
            scene.snapshot = replace(scene.snapshot, rounds=4)
            await scene.become(4)
            assert logs.levels == ["error", "info"]
            assert "db1" in scene.text()

    run(scenario)


def test_fault_in_the_report_ends_nothing(scene: Scene, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that cannot be made is logged with its traceback, the page of before stays, and the next is tried."""

    def fault(*_: object) -> None:
        raise ZeroDivisionError("somewhere")

    async def scenario() -> None:
        async with scene.running():
            await scene.become(1)
            before = scene.text()
            with monkeypatch.context() as patch:
                patch.setattr(publish_file, "write_report", fault)
                scene.snapshot = replace(scene.snapshot, rounds=2)
                await until(lambda: logs.events)
            assert scene.text() == before
            scene.snapshot = replace(scene.snapshot, rounds=3)
            await scene.become(2)
            assert [event["event"] for event in logs.events] == ["rendering the report failed"]

    run(scenario)


def test_report_is_made_beside_the_event_loop(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting and naming 10,000 machines takes a second, in which scans and scrapes go on."""
    threads: list[threading.Thread] = []

    def noted(*parts: Any) -> Iterator[str]:
        threads.append(threading.current_thread())
        return write_report(*parts)

    monkeypatch.setattr(publish_file, "write_report", noted)

    async def scenario() -> None:
        async with scene.running():
            await scene.become(1)

    run(scenario)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_writing_takes_a_tenth_of_the_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longer it takes to write the file, the longer it is until the next time."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    def slow(*parts: Any) -> None:
        scene._counted(*parts)
        scene.now += 7.0

    monkeypatch.setattr(asyncio, "sleep", noted)
    monkeypatch.setattr(publish_file, "write_file", slow)

    async def scenario() -> None:
        async with scene.running():
            await scene.become(1)

    run(scenario)
    assert [pause for pause in pauses if pause >= POLL_INTERVAL] == [7.0 / MAX_WRITING_SHARE]


# --- As a part of the exporter ---


def test_exporter_keeps_the_file_up_to_date(tmp_path: Path, page: Path) -> None:
    """Both views are in the file that conf.yml names: what was scanned, and what a host has sent."""
    conf = tmp_path / "conf.yml"
    write(conf, {A: [22]}, reportfile=str(page), audit={"passphrase": PASSPHRASE, "hosts": [WEB], "domain": r"\.org"})

    def has(*texts: str) -> bool:
        return page.exists() and all(text in page.read_text(encoding="utf-8") for text in texts)

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: has(A, "missing 22", "audit never received", "web1.example<"))
            report = signed(payload(at=time.time(), output=VULNERABLE))
            assert await service.audits.take(report, "192.0.2.7") is Outcome.ACCEPTED
            await until(lambda: has(A, CURL))

    run(scenario)


def test_reload_moves_the_file(tmp_path: Path, page: Path) -> None:
    """After a reload the file that conf.yml names now is written, and the one before no more."""
    conf, other = tmp_path / "conf.yml", page.with_name("other.html")
    write(conf, {A: [22]}, reportfile=str(page))

    async def scenario() -> None:
        async with running(conf) as service:
            await until(page.exists)
            write(conf, {B: [22]}, reportfile=str(other))
            assert await service.reload() is None
            await until(lambda: other.exists() and B in other.read_text(encoding="utf-8"))
            remove(page)
            write(conf, {B: [22]})
            assert await service.reload() is None
            remove(other)
            service.scan_now(B)
            await until(lambda: service.snapshot.rounds)
            await settle()
            assert [entry.name for entry in page.parent.iterdir()] == []

    run(scenario)


def test_metrics_tell_whether_the_file_is_written(tmp_path: Path, page: Path) -> None:
    """1 and the time while it is, 0 while it cannot be; absent without the key."""
    conf = tmp_path / "conf.yml"
    write(conf, {A: [22]}, reportfile=str(page))

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: metric(service, "portspec_reportfile_up") == ["portspec_reportfile_up 1.0"])
            (line,) = metric(service, "portspec_reportfile_last_success_timestamp_seconds")
            assert abs(float(line.split()[1]) - time.time()) < 60
            other = page.with_name("other.html")
            make_pipe(other)
            write(conf, {A: [22]}, reportfile=str(other))
            assert await service.reload() is None
            await until(lambda: metric(service, "portspec_reportfile_up") == ["portspec_reportfile_up 0.0"])
            assert metric(service, "portspec_reportfile_last_success_timestamp_seconds") == [
                "portspec_reportfile_last_success_timestamp_seconds 0.0"
            ]
            write(conf, {A: [22]})
            assert await service.reload() is None
            assert metric(service, "portspec_reportfile_up") == []

    run(scenario)


def make_pipe(path: Path) -> None:
    """Make a named pipe."""
    os.mkfifo(path)
