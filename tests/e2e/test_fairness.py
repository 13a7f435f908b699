from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Final

from tests.lab.test_fairness import GOOD, INTERVAL, LISTEN, exporter

from .test_prometheus import PROMETHEUS, query

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.network import Lab

WATCHED: Final = 25  # seconds
PATIENCE: Final = 90.0
AGE: Final = 'time() - port_last_scan_timestamp_seconds{host=~"198.18.1..+"}'


def test_prometheus_sees_no_good_host_grow_old_beside_slow_ones(lab: Lab, tmp_path: Path) -> None:
    """By Prometheus's own reckoning the oldest scan of each good host is less than two intervals old, all the time."""
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "portspec", "static_configs": [{"targets": [LISTEN]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    with exporter(lab, tmp_path, "syn"), (tmp_path / "prometheus.log").open("w") as log:
        prometheus = lab.popen(
            [
                "prometheus",
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address={PROMETHEUS}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + PATIENCE
            # a host's age is there from its first scan on
            whole = (
                f'count_over_time(port_last_scan_timestamp_seconds{{host="{GOOD[0]}"}}[{WATCHED}s]) >= {WATCHED - 5}'
            )
            while not query(lab, whole):
                assert time.monotonic() < deadline, query(lab, AGE)
                time.sleep(0.5)
            ages = query(lab, f"max_over_time(({AGE})[{WATCHED}s:1s])")
            assert ages.keys() == set(GOOD)
            assert max(ages.values()) < 2 * INTERVAL, ages
            assert query(lab, "up") == {"portspec": 1.0}
        finally:
            prometheus.terminate()
            try:
                prometheus.wait(timeout=10)
            except subprocess.TimeoutExpired:
                prometheus.kill()
