"""The alert rules in a real Prometheus, with a large fleet; see benchmarks/__main__.py.

    python -m benchmarks.rules [--hosts N] [--evaluations N] [RULES.yml …]

Every tenth host is out of specification: half of these have a port open that is not expected, half miss one. Every host
has sent an audit with ten vulnerabilities, and the metrics of a day ago are there, with one vulnerability less. A page
of that is written by portspec's own code and scraped from loopback; each file of rules is evaluated by a Prometheus of
its own, one after the other, every 15 seconds. The first file is the peer of the others.
"""

from __future__ import annotations

import argparse
import http.server
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.targets import OUTCOMES
from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.config import HostConfig, Specification
from portspec.inventory import Shard, Target
from portspec.metrics import Exposition, ServiceStatus
from portspec.ports import PortSet
from portspec.scan import AddressObservation
from portspec.state.snapshot import ScanResult, Snapshot
from portspec.state.table import HostTable
from portspec.state.verdict import judge
from portspec.store import StoreStatus
from tests.e2e.test_restart import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SHIPPED: Final = Path(__file__).parents[1] / "alert_rules" / "portspec.rules.yml"
HOSTS: Final = 10_000
EVALUATIONS: Final = 5
INTERVAL: Final = 15  # seconds between two evaluations
LIMIT: Final = 2.0  # seconds for a group
VULNERABILITIES: Final = 10  # of a host
DAY: Final = 86_400
_BUDGET: Final = 1_000_000
_SEVERITIES: Final = (Severity.CRITICAL, Severity.HIGH, Severity.HIGH, Severity.MEDIUM, Severity.LOW)
_EXPECTED: Final = PortSet.of((22, 443))


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds for each evaluation of each group, how many alerts fired, and the memory of Prometheus in bytes."""

    groups: Mapping[str, Sequence[float]]
    firing: int
    peak: int


def report(files: Sequence[Path] = (SHIPPED,), hosts: int = HOSTS, evaluations: int = EVALUATIONS) -> None:
    """Print the table, and what came of the target."""
    measured = [_measure(file, hosts, evaluations) for file in files]
    print(f"\n## Alert rules, {hosts:,} hosts\n")
    print("| rules | group | evaluation s | of the first file's | alerts firing | Prometheus peak MB |")
    print("|---|---|---|---|---|---|")
    for file, found in zip(files, measured, strict=True):
        for name, seconds in found.groups.items():
            own = statistics.median(seconds)
            first = measured[0].groups.get(name)
            ratio = f"{own / statistics.median(first):.2f}" if first else "-"
            print(f"| {file.name} | {name} | {own:.2f} | {ratio} | {found.firing:,} | {found.peak / 1e6:.0f} |")
    for file, found in zip(files, measured, strict=True):
        worst = max(max(seconds) for seconds in found.groups.values())
        print(f"* {file.name}: the slowest evaluation of a group {worst:.2f} s, target 2 s {OUTCOMES[worst < LIMIT]}")


def _measure(rules: Path, hosts: int, evaluations: int) -> Measured:
    print(f"rules: {rules.name}, {hosts:,} hosts", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as temporary, _served(hosts) as exporter:
        directory = Path(temporary)
        _backfill(directory, hosts, exporter)
        (directory / "rules.yml").write_text(json.dumps(_hurried(rules)), encoding="utf-8")
        settings = {
            "global": {"scrape_interval": "15s", "scrape_timeout": "15s", "evaluation_interval": f"{INTERVAL}s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "portspec", "static_configs": [{"targets": [exporter]}]}],
        }
        (directory / "prometheus.yml").write_text(json.dumps(settings), encoding="utf-8")
        address = f"127.0.0.1:{free_ports(1)[0]}"
        command = [
            "prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address={address}", "--log.level=error",
        ]  # fmt: skip
        with (directory / "log").open("w") as log:
            program = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                return _watched(program, address, evaluations)
            finally:
                program.terminate()
                program.wait()


def _hurried(rules: Path) -> dict[str, Any]:
    """Read rules, none of which waits before it fires: an evaluation takes as long, and all alerts are there sooner."""
    document: dict[str, Any] = yaml.safe_load(rules.read_text(encoding="utf-8"))
    for rule in chain.from_iterable(group["rules"] for group in document["groups"]):
        rule.pop("for", None)
    return document


def _watched(program: subprocess.Popen[bytes], address: str, evaluations: int) -> Measured:
    """Take the duration of each evaluation until there are enough of each group with all alerts firing.

    The durations come from Prometheus's own metrics: /api/v1/rules writes out every alert, which takes a processor for
    a good part of each second and slows down what is measured.
    """
    taken: dict[str, dict[float, float]] = {}
    firing = 0
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        time.sleep(1)
        for name, moment, seconds in _evaluations(address):
            taken.setdefault(name, {})[moment] = seconds
        states = _alerts(address)
        if states.get("firing", 0) == firing and not states.get("pending"):
            settled = min((len(found) for found in taken.values()), default=0)
            if firing and settled >= evaluations:
                peak = _peak(program.pid)
                return Measured(
                    {name: list(found.values())[-evaluations:] for name, found in taken.items()}, firing, peak
                )
        else:
            firing = states.get("firing", 0)
            taken.clear()
    raise RuntimeError("the alerts do not settle")


def _evaluations(address: str) -> Iterator[tuple[str, float, float]]:
    """Return the last evaluation of each group: its name, Unix time and duration in seconds."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    except urllib.error.URLError:  # not up yet
        return
    durations, moments = (
        {sample.labels["rule_group"]: sample.value for sample in families[name].samples} if name in families else {}
        for name in (
            "prometheus_rule_group_last_duration_seconds",
            "prometheus_rule_group_last_evaluation_timestamp_seconds",
        )
    )
    for group, seconds in durations.items():
        if moments.get(group, 0) > 0:
            yield group.partition(";")[2], moments[group], seconds


def _alerts(address: str) -> dict[str, int]:
    """Count alerts by state, as of now."""
    query = urllib.parse.urlencode({"query": "count by (alertstate) (ALERTS)"})
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=60) as answer:
            found = json.load(answer)["data"]["result"]
    except urllib.error.URLError:
        return {}
    return {series["metric"]["alertstate"]: int(series["value"][1]) for series in found}


def _peak(process: int) -> int:
    (line,) = (line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def _backfill(directory: Path, hosts: int, exporter: str) -> None:
    """Write blocks with the metrics of a day ago: audits with one vulnerability less, every four minutes."""
    page = _page(hosts, time.time() - DAY, VULNERABILITIES - 1).decode().splitlines()
    now = int(time.time()) - DAY
    path = directory / "yesterday"
    names = ("portspec_audit_", "port_scan_success", "port_out_of_spec", "port_scan_interval", "up")
    with path.open("w", encoding="utf-8") as file:
        for line in page:
            if line.startswith(("# TYPE portspec_audit_", "# HELP portspec_audit_")):
                file.write(f"{line}\n")
            elif line.startswith(names) and "{" in line:
                name, rest = line.split("{", 1)
                labels, value = rest.rsplit(" ", 1)
                for moment in range(now - 120, now + 1500, 240):
                    file.write(f'{name}{{job="portspec",instance="{exporter}",{labels} {value} {moment}\n')
        for target in _targets(hosts):  # what a rule recorded then
            labels = f'job="portspec",instance="{exporter}",host="{target.host}"'
            for moment in range(now - 120, now + 1500, 240):
                file.write(f"instance_host:portspec_audit_vulnerability:listed{{{labels}}} 1 {moment}\n")
        file.write("# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(path), str(directory / "tsdb")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    path.unlink()


@contextmanager
def _served(hosts: int) -> Iterator[str]:
    """Serve the page of a fleet on loopback; returns the address."""
    page = _page(hosts, time.time(), VULNERABILITIES)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def _page(hosts: int, now: float, vulnerabilities: int) -> bytes:
    """Write /metrics of a fleet as of a Unix time."""
    targets = list(_targets(hosts))
    snapshot = Snapshot.of(targets)
    states = (state.after(_result(state.target, number, now)) for number, state in enumerate(snapshot.hosts.values()))
    audits = HostTable(_audit(target.host, number, now, vulnerabilities) for number, target in enumerate(targets))
    world = Snapshot(HostTable(states), audits=audits)
    store = StoreStatus(is_up=True, errors=0, pending=0, dropped=0)
    status = ServiceStatus("benchmark", now, config_is_good=True, is_ready=True, shard=Shard(), store=store)
    return b"".join(Exposition(lambda: world, lambda: status, series_budget=_BUDGET).write().pieces)


def _targets(hosts: int) -> Iterator[Target]:
    for number in range(hosts):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        name = f"host-{number:05}.example.org"
        labels = {"team": f"team{number % 7}", "site": f"site{number % 3}"}
        config = HostConfig(name, Specification(_EXPECTED), PortSet.of(range(1, 1025)), 3600.0, labels=labels)
        yield Target(name, config, address)


def _result(target: Target, number: int, now: float) -> ScanResult:
    """Return a scan of a host; of every twenty one has an open port too many, and another one too few."""
    found = {22, 443} | ({23} if number % 20 == 0 else set()) if number % 20 != 10 else {22}
    ports = PortSet.of(found)
    addresses = (AddressObservation(target.address or "", target.config.ports, open=ports, answered=True, rtt=0.001),)
    return ScanResult(addresses, judge(addresses, target.config.specification), now, 1.5)


def _audit(host: str, number: int, now: float, vulnerabilities: int) -> AuditState:
    found = tuple(
        Vulnerability(
            f"package{item}",
            "1.0-1",
            f"CVE-2026-{(number % 50) * 100 + item:05}",
            _SEVERITIES[item % len(_SEVERITIES)],
            fixed_in=("1.0-2",),
        )
        for item in range(vulnerabilities)
    )
    listeners = tuple(ListeningSocket("tcp", "192.0.2.1", port, process, "root") for port, process in _LISTENING)
    return AuditState(host, (), HostAudit(now - 3600, "debsecan", "1", Audit(Status.VULNERABLE, found), listeners), now)


_LISTENING: Final = ((22, "sshd"), (23, "telnetd"), (443, "nginx"))


def main() -> None:
    """Run and print what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rules", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rules", nargs="*", type=Path, default=[SHIPPED], help="files of rules (default: the shipped)")
    parser.add_argument("--hosts", type=int, default=HOSTS)
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS)
    options = parser.parse_args()
    report(options.rules, options.hosts, options.evaluations)


if __name__ == "__main__":
    main()
