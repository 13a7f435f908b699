"""Where lists about vulnerabilities come from, and what is kept of them."""

from __future__ import annotations

import asyncio
import functools
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from portspec.app.feeds import FIRST_RETRY, FeedReader
from portspec.config import FeedsConfig
from portspec.feeds import FeedName
from portspec.priorities import DEFAULT_RULES, Priority, PriorityRule
from portspec.store import Store, stored_feeds
from tests.unit.feeds.lists import epss, kev, packed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from portspec.audit.priority import Priorities

NOW = 1_795_910_400.0  # 2026-11-29
DAY = 86_400.0
FIRST, SECOND = "CVE-2021-44228", "CVE-2026-0002"


class Scene:
    """The reader of lists of an exporter with a state file; `told` are the priorities after each change."""

    def __init__(self, directory: Path, config: FeedsConfig | None) -> None:
        self.now = NOW
        self.told: list[Priorities] = []
        self.store = Store(str(directory / "portspec.db"), history=1e6, wall_clock=lambda: self.now, retry=0.01)
        self.store.open([])
        self.reader = FeedReader(self.store, self.told.append, lambda: self.now)
        self.reader.apply(config, DEFAULT_RULES)
        self.reader.restore()
        self.store.start()
        self.store.flush(10)
        self.told.clear()

    def look(self, name: FeedName = FeedName.KEV, later: float = 0.0) -> None:
        """Look for a list, some seconds later."""
        self.now += later
        asyncio.run(self.reader.look(name))

    @property
    def exploited(self) -> set[str]:
        """What is known to be exploited."""
        kev = self.reader.feeds.kev
        return set(kev.entries) if kev else set()

    @property
    def failures(self) -> int:
        """How often the catalogue could not be read."""
        return self.reader.status["kev"].failures


@contextmanager
def scene(directory: Path, config: FeedsConfig | None) -> Iterator[Scene]:
    """Return an exporter that holds the state file."""
    found = Scene(directory, config)
    try:
        yield found
    finally:
        found.store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a catalogue."""
    path = tmp_path / "kev.json"
    path.write_bytes(kev(FIRST))
    return path


def test_file_is_read_and_read_again_when_it_is_replaced(tmp_path: Path, path: Path) -> None:
    """At the next look, which is once a minute; what did not change is not read."""
    with scene(tmp_path, FeedsConfig(str(path))) as one:
        one.look()
        assert (one.exploited, len(one.told)) == ({FIRST}, 1)
        assert one.told[0].feeds is one.reader.feeds
        one.look(later=60)
        assert len(one.told) == 1
        path.write_bytes(packed(kev(FIRST, SECOND, at="2026-11-28T15:00:00Z")))
        one.look(later=60)
        assert (one.exploited, len(one.told)) == ({FIRST, SECOND}, 2)


@pytest.mark.parametrize("content", [b"<html>", kev(SECOND)[:-5], kev(SECOND, at="2026-11-26T15:00:00Z"), None])
def test_what_cannot_be_used_leaves_what_was_known(tmp_path: Path, path: Path, content: bytes | None) -> None:
    """HTML, a file that is cut off, older than the one before, or gone: it counts as a failure, and is tried again."""
    with scene(tmp_path, FeedsConfig(str(path))) as one:
        one.look()
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        one.look(later=DAY)
        assert (one.exploited, one.failures, len(one.told)) == ({FIRST}, 1, 1)
        path.write_bytes(kev(SECOND, at="2026-11-28T15:00:00Z"))
        one.look(later=FIRST_RETRY)
        assert (one.exploited, one.failures) == ({SECOND}, 1)


def test_file_that_is_replaced_is_read_however_often_it_failed(tmp_path: Path, path: Path) -> None:
    """As one that was read while it was copied: at the next look, and not a day later."""
    with scene(tmp_path, FeedsConfig(str(path))) as one:
        for number in range(1, 6):
            path.write_bytes(b"<html>" * number)
            one.look(later=60)
            assert one.failures == number
        path.write_bytes(kev(FIRST))
        one.look(later=60)
        assert one.exploited == {FIRST}


def test_other_content_of_the_same_time_and_size_is_taken(tmp_path: Path, path: Path) -> None:
    """A list that was wrong may be published again."""
    with scene(tmp_path, FeedsConfig(str(path))) as one:
        one.look()
        path.write_bytes(kev(SECOND))
        one.look(later=60)
        assert one.exploited == {SECOND}


def test_list_of_another_source_replaces_a_newer_one(tmp_path: Path, path: Path) -> None:
    """With another path or URL in conf.yml nothing of the old one counts, also after a restart."""
    other = tmp_path / "other.json"
    other.write_bytes(kev(SECOND, at="2026-11-01T00:00:00Z"))
    with scene(tmp_path, FeedsConfig(str(path))) as one:
        one.look()
        one.reader.apply(FeedsConfig(str(other)), DEFAULT_RULES)
        assert one.exploited == set()
        one.look()
        assert (one.exploited, one.failures) == ({SECOND}, 0)
    with scene(tmp_path, FeedsConfig(str(path))) as again:
        assert again.exploited == set()


def test_list_of_the_future_is_refused(tmp_path: Path, path: Path) -> None:
    """Else none of the real ones would be newer."""
    path.write_bytes(kev(FIRST, at="2027-11-28T15:00:00Z"))
    with scene(tmp_path, FeedsConfig(str(path))) as one:
        one.look()
        assert (one.exploited, one.failures) == (set(), 1)


def test_lists_survive_a_restart(tmp_path: Path, path: Path) -> None:
    """They are in the state file: before the first answer, and if the source is gone, they count."""
    scores = tmp_path / "epss.csv.gz"
    scores.write_bytes(packed(epss([(FIRST, 0.5)])))
    config = FeedsConfig(str(path), str(scores))
    with scene(tmp_path, config) as one:
        for name in FeedName:
            one.look(name)
        assert stored_feeds(one.store, {"kev": str(path)}).epss is None
        assert stored_feeds(one.store, {"kev": "https://example.org/other"}).kev is None
    path.unlink()
    with scene(tmp_path, config) as again:
        assert again.exploited == {FIRST}
        assert again.reader.feeds.score([FIRST]) == 0.5
        again.look()
        assert (again.exploited, again.failures) == ({FIRST}, 1)


def test_other_rules_and_lists_of_conf_yml_count_at_once(tmp_path: Path, path: Path) -> None:
    """A list whose key is gone is dropped; the same configuration changes nothing."""
    with scene(tmp_path, FeedsConfig(str(path))) as one:
        one.look()
        one.reader.apply(FeedsConfig(str(path)), DEFAULT_RULES)
        assert len(one.told) == 1
        rules = (PriorityRule(Priority.PLAN),)
        one.reader.apply(FeedsConfig(str(path)), rules)
        assert (one.told[-1].rules, one.exploited) == (rules, {FIRST})
        one.reader.apply(None, rules)
        assert (one.exploited, one.reader.status, bool(one.told[-1].feeds)) == (set(), {}, False)


class Handler(BaseHTTPRequestHandler):
    """Answers with what the test has."""

    def __init__(self, answers: list[tuple[int, bytes]], *arguments: object) -> None:
        self._answers = answers
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Give the next answer."""
        status, body = self._answers.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def server(*answers: tuple[int, bytes]) -> Iterator[str]:
    """Run a web server on a free port of loopback; returns its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, list(answers))) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{found.server_port}/kev.json?key=secret"
        finally:
            found.shutdown()
            thread.join()


def test_url_is_asked_once_a_day_and_again_soon_after_a_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error, a page, or more bytes than a list may have; no line of the log has the query, which may be secret."""
    newer = kev(FIRST, SECOND, at="2026-11-28T15:00:00Z")
    with (
        server((200, kev(FIRST)), (404, b""), (200, b"<html>"), (200, bytes(17 << 20)), (200, newer)) as url,
        scene(tmp_path, FeedsConfig(url)) as one,
    ):
        one.look()
        assert one.exploited == {FIRST}
        one.look(later=DAY - 1)
        assert one.failures == 0
        for number, pause in enumerate((1, FIRST_RETRY, 2 * FIRST_RETRY), 1):
            one.look(later=pause)
            assert (one.failures, one.exploited) == (number, {FIRST})
            one.look(later=0)
            assert one.failures == number
        one.look(later=4 * FIRST_RETRY)
        assert one.exploited == {FIRST, SECOND}
    logged = caplog.text
    assert "is not there: the server answers 404" in logged
    assert "is larger than 16 MiB" in logged
    assert "secret" not in logged


def test_server_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    """Nothing of the exporter ends by it."""
    with server() as url:
        pass
    with scene(tmp_path, FeedsConfig(url)) as one:
        one.look()
        assert (one.exploited, one.failures) == (set(), 1)
