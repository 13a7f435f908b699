from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.exporter import PATIENCE, exporter, hosts_of, parse, until, write
from tests.lab.program import PROGRAM
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.network import Lab

SILENT: Final = "198.18.4.1"
WEB: Final = "198.18.4.2"
# The namespace is the test's own, so that ports in it are free.
PORTSPEC: Final = "127.0.0.1:10190"
PROMETHEUS: Final = "127.0.0.1:9090"
PROBES: Final = 1000
FETCH: Final = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Let this process have a socket for each probe, as long as a test runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * PROBES)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ask(lab: Lab, url: str) -> str:
    """Fetch a URL on the scanner's side; an empty text while nobody answers."""
    return lab.run([sys.executable, "-c", FETCH, url]).stdout


def test_prometheus_gets_an_answer_within_its_scrape_timeout(lab: Lab, tmp_path: Path) -> None:
    """Of a host that drops everything, a real Prometheus gets `timeout` before its own limit is over."""
    lab.apply(
        [
            HostTruth("silent.lab", (SILENT,), default=State.DROPPED),
            HostTruth("web.lab", (WEB,), {(WEB, 80): State.OPEN}),
        ]
    )
    conf = write(
        tmp_path / "conf.yml",
        {SILENT: [80], WEB: [80]},
        scanports=["1-100"],
        parallelscans=100,
        scan={"engine": "auto", "timeout": 20, "retries": 2},
    )
    scrape = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "1500ms"},
        "scrape_configs": [
            {
                "job_name": "probe",
                "metrics_path": "/probe",
                "static_configs": [{"targets": [SILENT, WEB]}],
                "relabel_configs": [
                    {"source_labels": ["__address__"], "target_label": "__param_target"},
                    {"source_labels": ["__param_target"], "target_label": "instance"},
                    {"target_label": "__address__", "replacement": PORTSPEC},
                ],
            }
        ],
    }
    peer_yml = tmp_path / "prometheus.yml"
    peer_yml.write_text(json.dumps(scrape), encoding="utf-8")
    with (tmp_path / "log").open("w") as log:
        service = lab.popen(
            [*PROGRAM, "-c", str(conf), "--web.listen-address", PORTSPEC], stdout=log, stderr=log
        )  # fmt: skip
        peer = lab.popen(
            ["prometheus", f"--config.file={peer_yml}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
             f"--web.listen-address={PROMETHEUS}"],
            stdout=log,
            stderr=log,
        )  # fmt: skip

    def query(expression: str) -> dict[str, float]:
        answer = ask(lab, f"http://{PROMETHEUS}/api/v1/query?query={expression}")
        result: list[dict[str, Any]] = json.loads(answer or '{"data": {"result": []}}')["data"]["result"]
        return {item["metric"]["instance"]: float(item["value"][1]) for item in result}

    try:
        until(lambda: query("up") == {SILENT: 1.0, WEB: 1.0})
        assert query("probe_success") == {SILENT: 0.0, WEB: 1.0}
        assert query("port_scan_failure%7Breason=%22timeout%22%7D") == {SILENT: 1.0}
        assert query("port_out_of_spec") == {WEB: 0.0}
    finally:
        for process in (peer, service):
            process.kill()
            process.wait()


def test_a_probe_does_not_outlast_the_limit_that_it_is_told(tmp_path: Path) -> None:
    """By X-Prometheus-Scrape-Timeout-Seconds a scan of a minute is answered in time, and promtool likes the answer."""
    conf = write(tmp_path / "conf.yml", {"127.82.0.1": []}, scanports=["1-60"], scan={"host_rate": 1})
    with exporter(conf) as service:
        answer = service.get("/probe?target=127.82.0.1", {"X-Prometheus-Scrape-Timeout-Seconds": "1.5"})
        page = parse(answer.text)
        assert (answer.status, page["probe_success"]) == (200, {"": 0.0})
        assert page["port_scan_failure"] == {'host="127.82.0.1",reason="timeout"': 1.0}
        assert 0.8 < page["probe_duration_seconds"][""] < 1.5
        # what a probe saw is that probe's own: /metrics is the monitor's
        assert "port_scan_failure" not in service.series()
        assert promtool(answer.text) == (0, "", "")


def test_promtool_finds_nothing_to_say_about_a_probe(tmp_path: Path) -> None:
    """The page of a probe with deviations, an exception, labels and a module passes `promtool check metrics`."""
    conf = write(
        tmp_path / "conf.yml",
        {"127.82.1.1": {"expect": [7, 9], "labels": {"team": 'a "b" \\ c'}}},
        scanports=["1-20"],
        exceptions=[{"hosts": ["127.82.1.1"], "ports": [9], "until": "2999-01-01"}],
        modules={"web": {"expect": [80, 443], "scanports": ["1-20"]}},
        probe_allow=["127.82.2.0/24"],
    )
    with exporter(conf) as service:
        for path, host in (
            ("/probe?target=127.82.1.1", "127.82.1.1"),
            ("/probe?target=127.82.1.1&module=web", "127.82.1.1"),
            ("/probe?target=127.82.2.9&module=web", "127.82.2.9"),
        ):
            answer = service.get(path)
            assert answer.status == 200
            page = parse(answer.text)
            assert page["probe_success"] == {"": 1.0}
            assert hosts_of(page, "port_deviation") == {host}
            assert promtool(answer.text) == (0, "", ""), path
        assert service.get("/probe?target=127.82.3.1&module=web").status == 403


@pytest.mark.usefixtures("descriptors")
def test_a_thousand_probes_at_once_are_answered_or_put_off(tmp_path: Path) -> None:
    """Of a thousand probes at once some are made, all others are told 429, and /metrics goes on."""
    conf = write(
        tmp_path / "conf.yml",
        {"127.82.0.1": []},
        scanports=["1-30"],
        parallelscans=100,
        modules={"slow": {"scanports": ["1-30"]}},
        probe_allow=["127.83.0.0/16"],
        scan={"host_rate": 60},  # half a second for a probe
    )
    with exporter(conf) as service:
        service.wait_until_ready()
        before = service.series()
        ended = threading.Event()
        scraped: list[int] = []

        def scrape() -> None:
            while not ended.is_set():
                scraped.append(service.get("/metrics").status)

        watcher = threading.Thread(target=scrape)
        watcher.start()
        try:
            paths = [f"/probe?target=127.83.{number // 250}.{number % 250}&module=slow" for number in range(PROBES)]
            answers = asyncio.run(flood(service.address, paths))
        finally:
            ended.set()
            watcher.join()
        counted = Counter(status for status, _ in answers)
        assert counted.keys() == {200, 429}, counted
        assert counted.total() == PROBES
        assert counted[200] >= 32
        assert set(scraped) == {200}
        told = [parse(text) for status, text in answers if status == 200]
        assert all(page["probe_success"] == {"": 1.0} for page in told)
        hosts = [hosts_of(page) for page in told]
        assert all(len(one) == 1 for one in hosts)
        assert len(set.union(*hosts)) == len(hosts)  # each of another target

        # and nothing of it stays: the same hosts are on /metrics, and a probe is made as before
        after = service.series()
        assert after["port_scan_success"] == before["port_scan_success"]
        assert service.series("/probe?target=127.83.9.9&module=slow")["probe_success"] == {"": 1.0}
        assert service.get("/-/ready").status == 200
        assert '"level": "error"' not in service.log.read_text()


async def flood(address: str, paths: list[str]) -> list[tuple[int, str]]:
    """Ask for all paths at once, each over a connection of its own; gives status and text of each."""
    host, _, port = address.partition(":")

    async def ask_one(path: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read(-1)).decode().partition("\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]) if head else 0, body

    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*map(ask_one, paths))


def promtool(page: str) -> tuple[int, str, str]:
    """Return what `promtool check metrics` says."""
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr
