from __future__ import annotations

import http.client
import re
import signal
import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from tests.e2e.exporter import exporter, host_of, hosts_of, parse, until, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.exporter import Exporter

KEPT: Final = tuple(f"127.84.0.{number}" for number in range(1, 31))
OTHERS: Final = {"odd": "127.84.1.1", "even": "127.84.1.2"}  # each in one of the two files only
PORTS: Final = [7, 9, 11]
SCRAPERS: Final = 8
RELOADS: Final = 24
LEAST: Final = 300  # scrapes


@pytest.fixture
def open_port() -> Iterator[int]:
    """Return a port that is open on the first host."""
    with socket.create_server((KEPT[0], 0)) as listener:
        yield int(listener.getsockname()[1])


class Load:
    """Scrapes all the time from several threads, each over one connection, and notes what was not as it should be."""

    def __init__(self, address: str, expected: frozenset[str]) -> None:
        self.scrapes = 0
        self.problems: list[str] = []
        self._address = address
        self._expected = expected
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._scrape) for _ in range(SCRAPERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _scrape(self) -> None:
        with closing(http.client.HTTPConnection(self._address, timeout=10)) as connection:
            while not self._ended.is_set():
                try:
                    connection.request("GET", "/metrics")
                    response = connection.getresponse()
                    text = response.read().decode()
                except (OSError, http.client.HTTPException) as error:
                    self._note(f"{type(error).__name__}: {error}")
                    continue
                if response.status != 200:
                    self._note(f"{response.status}: {text[:100]}")
                elif (found := series_of_kept(text)) != self._expected:
                    self._note(f"missing {sorted(self._expected - found)}, more {sorted(found - self._expected)}"[:500])
                self._note()

    def _note(self, problem: str | None = None) -> None:
        with self._lock:
            if problem:
                self.problems.append(problem)
            else:
                self.scrapes += 1


def series_of_kept(page: str) -> frozenset[str]:
    """Return name and labels of every series that is about a host which both files have."""
    return frozenset(
        f"{name}{{{labels}}}" for name, series in parse(page).items() for labels in series if host_of(labels) in KEPT
    )


def configure(directory: Path, port: int, which: str) -> Path:
    """Write one of the two files: the kept hosts are the same in both, one is in only one of them."""
    hosts: dict[str, Any] = {host: [] for host in KEPT}
    hosts[KEPT[0]] = [port, 9]  # one that is open, and one that is missing
    hosts[KEPT[1]] = {"expect": [7, 11], "labels": {"team": "a"}}
    hosts[OTHERS[which]] = [9]
    return write(
        directory / "conf.yml",
        hosts,
        interval=1,
        scanports=PORTS,
        parallelscans=50 if which == "odd" else 40,
        exceptions=[{"hosts": [KEPT[1]], "ports": [11], "until": "2999-01-01"}],
    )


def loaded_at(service: Exporter) -> float:
    """Tell when the configuration was last loaded without an error."""
    return service.series()["portspec_config_last_reload_success_timestamp_seconds"][""]


def hang_up(service: Exporter) -> None:
    """Reload by SIGHUP."""
    before = loaded_at(service)
    service.process.send_signal(signal.SIGHUP)
    until(lambda: loaded_at(service) > before)


def wait_for_verdict(service: Exporter, host: str) -> None:
    """Wait until a host has been scanned."""
    until(lambda: host in hosts_of(service.series(), "port_out_of_spec"))


def test_no_scrape_and_no_series_is_lost_while_reloading(tmp_path: Path, open_port: int) -> None:
    """Reloaded back and forth under load, every scrape is whole: each series of each host that stays is in each."""
    conf = configure(tmp_path, open_port, "odd")
    with exporter(conf) as service:
        service.wait_until_ready()
        expected = series_of_kept(service.get("/metrics").text)
        assert any(series.startswith("port_deviation{") for series in expected)
        assert any(series.startswith("port_exception_expiry_timestamp_seconds{") for series in expected)
        with Load(service.address, expected) as load:
            for number in range(RELOADS):
                which, other = ("even", "odd") if number % 2 == 0 else ("odd", "even")
                configure(tmp_path, open_port, which)
                if number % 4 < 2:
                    hang_up(service)
                else:
                    assert service.post("/-/reload").status == 200
                page = service.series()
                # the one that left is gone from every family at once, the new one is scanned at once
                about = {host_of(labels) for series in page.values() for labels in series}
                assert OTHERS[other] not in about
                wait_for_verdict(service, OTHERS[which])
            until(lambda: load.scrapes >= LEAST or load.problems)
        assert load.problems == []
        assert service.process.poll() is None
        page = service.series()
        assert page["portspec_config_last_reload_successful"] == {"": 1.0}
        assert page["portspec_hosts"] == {"": len(KEPT) + 1}
        assert '"level": "error"' not in service.log.read_text()


@pytest.mark.parametrize("way", ["SIGHUP", "POST"])
def test_a_bad_file_keeps_the_old_one(tmp_path: Path, open_port: int, way: str) -> None:
    """After a file that is not right everything goes on, two metrics and the answer say so, until it is right again."""
    conf = configure(tmp_path, open_port, "odd")
    with exporter(conf) as service:
        service.wait_until_ready()
        good_text, begun = conf.read_text(), loaded_at(service)
        expected = series_of_kept(service.get("/metrics").text)
        with Load(service.address, expected) as load:
            lines = good_text.splitlines()
            bad = next(number for number, line in enumerate(lines, 1) if f'"{OTHERS["odd"]}"' in line) + 1
            conf.write_text("\n".join([*lines[: bad - 1], '   "80a"', *lines[bad:]]), encoding="utf-8")
            if way == "POST":
                answer = service.post("/-/reload")
                assert answer.status == 500
                assert f"{conf}:{bad}: " in answer.text
                assert '"80a" is not a port' in answer.text
            else:
                service.process.send_signal(signal.SIGHUP)
            until(lambda: service.series()["portspec_config_last_reload_successful"] == {"": 0.0})
            assert loaded_at(service) == begun
            until(lambda: re.search(rf'"problem": "[^\n]*:{bad}: ', service.log.read_text()))
            scans = service.series()["portspec_scan_rounds_total"][""]
            until(lambda: service.series()["portspec_scan_rounds_total"][""] > scans + 1)
            assert hosts_of(service.series()) == {*KEPT, OTHERS["odd"]}
            conf.unlink()
            answer = service.post("/-/reload")
            assert (answer.status, str(conf) in answer.text) == (500, True)

            configure(tmp_path, open_port, "even")
            if way == "POST":
                assert service.post("/-/reload").status == 200
            else:
                service.process.send_signal(signal.SIGHUP)
            until(lambda: service.series()["portspec_config_last_reload_successful"] == {"": 1.0})
            assert loaded_at(service) > begun
            until(lambda: hosts_of(service.series()) == {*KEPT, OTHERS["even"]})
        assert load.problems == []
        assert load.scrapes
