from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.lab.program import PROGRAM, configure
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.network import Lab

WEB: Final = "198.18.3.1"
DB: Final = "2001:db8:18::3"
GONE: Final = "198.18.3.2"
PATIENCE: Final = 60.0
RULES: Final = Path(__file__).parents[2] / "alert_rules/portspec.rules.yml"

# The namespace is the test's own, so that ports in it are free.
PROMETHEUS: Final = "127.0.0.1:9090"
PORTSPEC: Final = "127.0.0.1:10190"


def fetch(lab: Lab, url: str) -> str:
    """Fetch a URL on the scanner's side."""
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode(), end='')"
    return lab.run([sys.executable, "-c", code, url], check=True).stdout


def query(lab: Lab, expression: str) -> dict[str, float]:
    """Ask Prometheus; returns the values by host (by job for `up`)."""
    code = (
        "import sys, urllib.request, urllib.parse; print(urllib.request.urlopen("
        "sys.argv[1] + urllib.parse.quote(sys.argv[2]), timeout=10).read().decode())"
    )
    url = f"http://{PROMETHEUS}/api/v1/query?query="
    done = lab.run([sys.executable, "-c", code, url, expression])
    if done.returncode:
        return {}
    result: list[dict[str, Any]] = json.loads(done.stdout)["data"]["result"]
    return {item["metric"].get("host", item["metric"].get("job", "")): float(item["value"][1]) for item in result}


def eventually(look: Callable[[], Any], wanted: Any, *, seen: Callable[[], Any] | None = None) -> None:
    """Look until what is found is what is wanted; fail with what was found last, or with what there is to be seen."""
    deadline = time.monotonic() + PATIENCE
    while (found := look()) != wanted:
        assert time.monotonic() < deadline, f"still {seen() if seen else found}, not {wanted}"
        time.sleep(0.2)


def lines_until(stream: Iterator[str], event: str) -> dict[str, Any]:
    """Read JSON log lines until one of an event; give it."""
    for line in stream:
        entry: dict[str, Any] = json.loads(line)
        if entry["event"] == event:
            return entry
    raise AssertionError(f"no {event}")


def test_a_real_prometheus_sees_the_verdicts(lab: Lab, tmp_path: Path) -> None:
    """Prometheus scrapes every verdict, and sees within a round that a port was opened and closed."""
    lab.apply(
        [
            HostTruth("web.lab", (WEB,), {(WEB, 80): State.OPEN}),
            HostTruth("db.lab", (DB,), {(DB, 22): State.OPEN, (DB, 23): State.OPEN}),
            HostTruth("gone.lab", (GONE,), default=State.DROPPED),
        ]
    )
    conf = configure(
        tmp_path, {WEB: [80], DB: [22, 80], GONE: [22], "nowhere.lab": []}, ["1-1024"], interval=1
    )  # fmt: skip
    prometheus_yml = tmp_path / "prometheus.yml"
    prometheus_yml.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: portspec, static_configs: [{{targets: ['{PORTSPEC}']}}]}}]\n",
        encoding="utf-8",
    )
    exporter = lab.popen(
        [*PROGRAM, "-c", str(conf), "-j", "--web.listen-address", PORTSPEC], stdout=subprocess.PIPE
    )  # fmt: skip
    assert exporter.stdout
    log = iter(exporter.stdout)
    lines_until(log, "round finished")
    with (tmp_path / "prometheus.log").open("w") as prometheus_log:
        prometheus = lab.popen(
            [
                "prometheus",
                f"--config.file={prometheus_yml}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address={PROMETHEUS}",
            ],
            stdout=prometheus_log,
            stderr=prometheus_log,
        )
    eventually(lambda: query(lab, "up"), {"portspec": 1.0})
    verdicts = {WEB: 0.0, DB: 2.0, GONE: 1.0}
    eventually(lambda: query(lab, "port_out_of_spec"), verdicts)
    assert query(lab, "port_scan_success") == {WEB: 1.0, DB: 1.0, GONE: 1.0, "nowhere.lab": 0.0}
    assert query(lab, "port_host_up") == {WEB: 1.0, DB: 1.0, GONE: 0.0}
    assert query(lab, 'port_scan_failure{reason="resolve"}') == {"nowhere.lab": 1.0}
    assert query(lab, 'port_deviation{kind="unexpected",port="23",state="open"}') == {DB: 1.0}

    lab.open_port(WEB, 1000)
    eventually(lambda: query(lab, "port_out_of_spec"), verdicts | {WEB: 1.0})
    lab.close_port(WEB, 1000)
    eventually(lambda: query(lab, "port_out_of_spec"), verdicts)

    metrics = fetch(lab, f"http://{PORTSPEC}/metrics")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    prometheus.terminate()
    exporter.terminate()
    assert exporter.wait(timeout=5) == 0


def test_alert_of_a_port_that_closed_ends_though_hosts_are_scanned_once_a_day(lab: Lab, tmp_path: Path) -> None:
    """The alert ends within `recheck` of the moment at which the port is closed, and the last scan stays the last."""
    lab.apply([HostTruth("web.lab", (WEB,), {(WEB, 80): State.OPEN, (WEB, 1000): State.OPEN})])
    conf = configure(tmp_path, {WEB: [80]}, ["1-1024"], interval="1d", recheck="2s")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "portspec", "static_configs": [{"targets": [PORTSPEC]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    with (tmp_path / "log").open("w") as log:
        programs = [
            lab.popen([*PROGRAM, "-c", str(conf), "--web.listen-address", PORTSPEC], stdout=log, stderr=log),
            lab.popen(
                [
                    "prometheus",
                    f"--config.file={tmp_path / 'prometheus.yml'}",
                    f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                    f"--web.listen-address={PROMETHEUS}",
                ],
                stdout=log,
                stderr=log,
            ),
        ]
    try:
        alerts = 'ALERTS{alertname="PortspecUnexpectedPortOpen",alertstate="firing",port="1000"}'
        eventually(lambda: query(lab, alerts), {WEB: 1.0})
        scanned_at = query(lab, "port_last_scan_timestamp_seconds")
        lab.close_port(WEB, 1000)
        eventually(lambda: query(lab, alerts), {})
        eventually(lambda: query(lab, "port_out_of_spec"), {WEB: 0.0})
        assert query(lab, 'port_open{port="80"}') == {WEB: 1.0}
        assert query(lab, "port_last_scan_timestamp_seconds") == scanned_at
        assert query(lab, "port_last_change_timestamp_seconds")[WEB] > scanned_at[WEB]
    finally:
        for program in programs:
            program.terminate()
            program.wait(timeout=10)


def test_the_page_shows_every_host(lab: Lab, tmp_path: Path) -> None:
    """The first page names every host with its verdict, and /-/ready turns from 503 to 200."""
    lab.apply(
        [HostTruth("web.lab", (WEB,), {(WEB, 80): State.OPEN}), HostTruth("dead.lab", (GONE,), default=State.DROPPED)]
    )
    conf = configure(tmp_path, {WEB: [80], GONE: [22]}, [80])
    exporter = lab.popen([*PROGRAM, "-c", str(conf), "-j", "--web.listen-address", PORTSPEC], stdout=subprocess.PIPE)
    assert exporter.stdout
    lines_until(iter(exporter.stdout), "round finished")
    page = fetch(lab, f"http://{PORTSPEC}/")
    assert page.index(GONE) < page.index(WEB)
    assert "out of spec" in page
    assert fetch(lab, f"http://{PORTSPEC}/-/ready") == "portspec is ready.\n"
    exporter.terminate()
    assert exporter.wait(timeout=5) == 0
