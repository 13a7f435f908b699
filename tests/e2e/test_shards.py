from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from portspec.inventory.shard import hashmod
from tests.e2e.exporter import exporter, hosts_of, prometheus, until, write
from tests.e2e.shards import fleet
from tests.unit.scan.loopback import listeners

if TYPE_CHECKING:
    from pathlib import Path

SHARDS: Final = 3
#: Addresses of loopback, some with labels, one address of the other family, and names, in any case.
HOSTS: Final[dict[str, Any]] = {
    **{f"127.81.0.{number}": [] for number in range(1, 31)},
    **{
        f"127.81.1.{number}": {"expect": [], "labels": {"team": f"team {number % 2}", "note": 'a "b" \\ ☃'}}
        for number in range(1, 9)
    },
    "::1": [],
    "localhost": [],
    "Localhost.localdomain": {"labels": {"team": "none"}},
}


def jobs(address: str) -> dict[str, Any]:
    """Configure Prometheus: three jobs, each of which keeps its shard of /sd/targets and probes it."""
    return {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": f"shard {shard}",
                "metrics_path": "/probe",
                "http_sd_configs": [{"url": f"http://{address}/sd/targets"}],
                "relabel_configs": [
                    {"source_labels": ["__address__"], "modulus": SHARDS, "target_label": "__tmp_hash",
                     "action": "hashmod"},
                    {"source_labels": ["__tmp_hash"], "regex": str(shard), "action": "keep"},
                    {"source_labels": ["__address__"], "target_label": "__param_target"},
                    {"source_labels": ["__param_target"], "target_label": "instance"},
                    {"target_label": "__address__", "replacement": address},
                ],
            }
            for shard in range(SHARDS)
        ],
    }  # fmt: skip


def test_prometheus_and_the_exporters_shard_alike(tmp_path: Path) -> None:
    """Three hashmod shards of /sd/targets hold every host once, host by host those of three `--shard` exporters."""
    keys: dict[str, Any] = {"scanports": [7, 9], "ipv6": True, "parallelscans": 50}
    conf = write(tmp_path / "conf.yml", HOSTS, **keys)
    with ExitStack() as stack:
        whole = stack.enter_context(exporter(conf, environment={"STATE_DIRECTORY": str(tmp_path)}))
        sharded = []
        for shard in range(SHARDS):
            state = tmp_path / str(shard)
            state.mkdir()
            one = exporter(
                conf, "--shard", f"{shard}/{SHARDS}", log=state / "log", environment={"STATE_DIRECTORY": str(state)}
            )
            sharded.append(stack.enter_context(one))
        whole.wait_until_ready()
        peer = stack.enter_context(prometheus(tmp_path / "prometheus", jobs(whole.address)))
        until(lambda: sum(value for _, value in peer.query("up")) == len(HOSTS))
        probed = [(item["job"], item["instance"]) for item, _ in peer.query("probe_duration_seconds")]
        assert sorted(host for _, host in probed) == sorted(HOSTS)
        by_prometheus = [{host for job, host in probed if job == f"shard {shard}"} for shard in range(SHARDS)]
        assert all(by_prometheus)

        for shard, service in enumerate(sharded):
            service.wait_until_ready()
            page = service.series()
            assert hosts_of(page) == by_prometheus[shard]
            assert page["portspec_shard_info"] == {f'shard="{shard}",shards="{SHARDS}"': 1.0}
            assert page["portspec_hosts"] == {"": len(by_prometheus[shard])}
            groups = service.json("/sd/targets")
            assert {host for group in groups for host in group["targets"]} == by_prometheus[shard]
        assert hosts_of(whole.series()) == set(HOSTS)
        assert whole.series()["portspec_shard_info"] == {'shard="0",shards="1"': 1.0}

        teams = {item["instance"]: (item.get("team"), item.get("note")) for item, _ in peer.query("up")}
        assert teams["127.81.1.3"] == ("team 1", 'a "b" \\ ☃')
        assert teams["127.81.0.3"] == (None, None)


def test_no_host_is_twice_or_left_out_while_shards_come_and_go(tmp_path: Path) -> None:
    """Prometheus has each host once: with three shards, with one of them killed, and with four after all stopped.

    Of a shard that is killed only its own hosts are missing; it comes back with its verdicts, though it scans once a
    day. What is out of specification is found again by the shard that it moved to.
    """
    hosts = [f"127.82.0.{number}" for number in range(1, 61)]
    with listeners("0.0.0.0", backlog=1024) as (listener,):  # noqa: S104 - each host has the port open; none accepts
        ports = [listener.getsockname()[1], 9]
        conf = write(tmp_path / "conf.yml", {host: [] for host in hosts}, scanports=ports, interval="1d")
        with fleet(tmp_path, conf) as shards:
            for shard in range(SHARDS):
                shards.start(shard, SHARDS)
            shards.wait_for(len(hosts), deviating=len(hosts))
            shards.kill(1)
            shards.wait_for(sum(hashmod(host, SHARDS) != 1 for host in hosts))
            shards.start(1, SHARDS)
            shards.wait_for(len(hosts), deviating=len(hosts))
            shards.stop()
            shards.wait_for(0)
            for shard in range(SHARDS + 1):
                shards.start(shard, SHARDS + 1)
            shards.wait_for(len(hosts), deviating=len(hosts))
            assert shards.twice == 0
