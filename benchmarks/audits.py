"""The reports of a fleet: how fast they are taken, how small they are kept, how long the report of all machines takes.

    python -m benchmarks.audits [--hosts N] [--connections N] [--interval SECONDS]

The exporter scans the whole fleet on its interval and is scraped every second, in the lab, as in the soak; beside that
a client posts one signed report of about 50 kB for each host over some connections, each as soon as the one before is
answered. The peer is the least that could be called an intake: a handler of aiohttp's that reads, verifies and commits
each report by itself, with nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fleet import PASSPHRASE, Fleet
from benchmarks.soak import percentile
from benchmarks.targets import OUTCOMES, Target
from benchmarks.workload import Workload
from portspec import log
from portspec.audit.service import AuditService
from portspec.config import load
from portspec.inventory import audited_hosts
from portspec.store import Store
from tests.lab.network import Lab
from tests.lab.program import PROGRAM
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Sequence

FINDINGS = 225  # 50 kB of `pkg audit`
LISTED = 100  # findings of each host in the report of all machines
RATE, LATENCY, BLOCK, RATIO = 300.0, 0.25, 0.02, 10.0  # the targets: a second, seconds, seconds, times smaller
SECONDS, MEMORY = 5.0, 500e6  # of the report of all machines
PORTS = 100
ADDRESS = "127.0.0.1:10190"  # the namespace is the benchmark's own, so that its ports are free
PATIENCE = 300.0  # seconds

# The exporter, and beside it a task that says each second how late it woke at worst from a sleep of a millisecond.
_EXPORTER = """
import asyncio, json, sys, time
from portspec import log
from portspec.app.process import WebOptions, serve
from portspec.config import load
from portspec.inventory import Shard

async def watch():
    with open(sys.argv[3], "w", buffering=1) as file:
        worst, told = 0.0, time.monotonic()
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - began - 0.001)
            if time.monotonic() > told + 1:
                file.write(json.dumps([time.time(), worst]) + "\\n")
                worst, told = 0.0, time.monotonic()

async def main():
    watching = asyncio.create_task(watch())
    await serve(load(sys.argv[1]), Shard(), WebOptions((sys.argv[2],)))
    watching.cancel()

log.set_up(sys.stdout, level="warning")
asyncio.run(main())
"""

# Posts files that hold reports, one after the other on each connection; prints the seconds of each, and the whole time.
_CLIENT = """
import asyncio, json, sys, time
from pathlib import Path
import aiohttp

async def main(url, connections, folder):
    bodies = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    left, seconds, statuses = iter(bodies), [], {}
    async def post(session):
        for body in left:
            began = time.perf_counter()
            async with session.post(url, data=body) as response:
                await response.read()
            seconds.append(time.perf_counter() - began)
            statuses[response.status] = statuses.get(response.status, 0) + 1
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        began = time.perf_counter(), time.time()
        await asyncio.gather(*(post(session) for _ in range(connections)))
        print(json.dumps([time.perf_counter() - began[0], began[1], time.time(), statuses, seconds]))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
"""

# What an evening's work would be.
_PEER = """
import sqlite3, sys, time
from aiohttp import web
from benchmarks.fleet import PASSPHRASE
from portspec.audit.admission import AdmissionPolicy, admit

hosts = frozenset(open(sys.argv[2]).read().split())
file = sqlite3.connect(sys.argv[1])
file.execute("PRAGMA journal_mode = WAL")
file.execute("CREATE TABLE report (host TEXT, day TEXT, payload BLOB, UNIQUE (host, day))")

async def take(request):
    packed = await request.read()
    report, _ = admit(packed, AdmissionPolicy(hosts, (PASSPHRASE,)), time.time())
    with file:
        file.execute("INSERT INTO report VALUES (?, ?, ?)", (report.host, report.day, packed))
    return web.Response(status=201)

application = web.Application()
application.router.add_post("/api/v1/audits", take)
web.run_app(application, host="127.0.0.1", port=10191, print=lambda *_: print("listening", flush=True))
"""

_SCRAPER = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen("http://" + sys.argv[1] + "/metrics", timeout=60).read()
    time.sleep(1)
"""


@dataclass(frozen=True, slots=True)
class Posting:
    """What the client saw: seconds in all, from and until (Unix time), statuses, seconds of each report."""

    seconds: float
    began: float
    ended: float
    statuses: dict[str, int]
    each: Sequence[float]

    @property
    def rate(self) -> float:
        """Reports a second."""
        return len(self.each) / self.seconds

    def row(self, name: str, block: str) -> str:
        """Return the line of the table."""
        spelled = ", ".join(f"{count:,} of {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"| {name} | {self.rate:.0f} | {1e3 * statistics.median(self.each):.0f} "
            f"| {1e3 * percentile(self.each, 99):.0f} | {1e3 * max(self.each):.0f} | {block} | {spelled} |"
        )


def report(hosts: int = 10_000, *, connections: int = 32, interval: float = 10.0) -> list[Target]:
    """Print what came of each; `interval` in seconds. Returns the target of the event loop."""
    print(f"\n## Reports: {hosts:,} hosts, 50 kB each, {connections} connections\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = _write_reports(Fleet(FINDINGS), hosts, folder / "reports")
        with Lab() as lab:
            ours, block = _ours(lab, folder, hosts, connections, interval)
            theirs = _peer(lab, folder, hosts, connections)
        print("| intake | reports/s | p50 ms | p99 ms | max ms | longest block ms | answers |\n|" + "---|" * 7)
        print(ours.row("portspec, scanning and scraped", f"{1e3 * block:.1f}"))
        print(theirs.row("the peer, idle otherwise", "-"))
        worst = percentile(ours.each, 99)
        print(
            f"\n* {ours.rate:.0f} reports/s (target {RATE:.0f}: {OUTCOMES[ours.rate >= RATE]}), "
            f"{ours.rate / theirs.rate:.2f} times the peer's\n"
            f"* p99 {1e3 * worst:.0f} ms (target {1e3 * LATENCY:.0f} ms: {OUTCOMES[worst < LATENCY]})\n"
            f"* longest block of the event loop {1e3 * block:.1f} ms "
            f"(target {1e3 * BLOCK:.0f} ms: {OUTCOMES[block < BLOCK]})"
        )
        _tell_archive(folder, raw)
    _tell_page(hosts)
    work = (
        f"longest block of the loop: {hosts:,} hosts every {interval:g} s, scraped each second, audits as fast as taken"
    )
    return [Target(work, 1e3 * block, 1e3 * BLOCK, " ms")]


def _write_reports(fleet: Fleet, hosts: int, folder: Path) -> tuple[int, int]:
    """Write the reports of a fleet; return the bytes of all payloads, and what each by itself has as `gzip -9`."""
    folder.mkdir()
    now = time.time()
    raw = packed = 0
    for number in range(hosts):
        payload = fleet.payload(number, now)
        raw += len(payload)
        packed += len(gzip.compress(payload, 9)) if number < 1000 else 0
        (folder / f"{number:05}").write_bytes(fleet.packed(number, now))
    return raw, packed * hosts // min(hosts, 1000)


def _ours(lab: Lab, folder: Path, hosts: int, connections: int, interval: float) -> tuple[Posting, float]:
    fleet = Fleet(FINDINGS)
    addresses = [f"198.18.{16 + number // 256}.{number % 256}" for number in range(hosts)]
    truths = [HostTruth(f"h{n}.lab", (address,), {(address, 22): State.OPEN}) for n, address in enumerate(addresses)]
    workload = Workload("fleet", tuple(truths), range(1, PORTS + 1))
    workload.apply(lab)
    conf = folder / "conf.yml"
    document = {
        "interval": interval,
        "parallelscans": 256,
        "scanports": [workload.spelled],
        "hosts": {address: [22] for address in addresses},
        "audit": {"passphrase": PASSPHRASE, "hosts": [fleet.host(number) for number in range(hosts)]},
    }
    conf.write_text(json.dumps(document), encoding="utf-8")
    blocks, log = folder / "blocks", folder / "log"
    with log.open("w") as output:
        exporter = lab.popen(
            [sys.executable, "-c", _EXPORTER, str(conf), ADDRESS, str(blocks)], stdout=output, stderr=output
        )
        scraper = None
        try:
            lab.run([sys.executable, "-c", _WAIT, f"http://{ADDRESS}/-/ready"], check=True, timeout=PATIENCE)
            scraper = lab.popen([sys.executable, "-c", _SCRAPER, ADDRESS])
            time.sleep(2 * 1.0)  # the scraper's first page, which is written anew
            before = _metric(lab, "portspec_probes_sent_total")
            found = _post(lab, f"http://{ADDRESS}/api/v1/audits", connections, folder / "reports")
            probes = _metric(lab, "portspec_probes_sent_total") - before
            until = time.monotonic() + PATIENCE
            while _metric(lab, "portspec_audits_unread") and time.monotonic() < until:
                time.sleep(1)
            print(
                f"{probes:,.0f} probes were sent meanwhile; all reports are read {time.time() - found.ended:.0f} s "
                "after the last one was accepted\n"
            )
        finally:
            for process in filter(None, (scraper, exporter)):
                process.terminate()
                process.wait()
    seen = [json.loads(line) for line in blocks.read_text(encoding="utf-8").splitlines()]
    return found, max(worst for at, worst in seen if found.began + 1 <= at <= found.ended + 1)


_WAIT = """
import sys, time, urllib.request
while True:
    try:
        urllib.request.urlopen(sys.argv[1], timeout=10).read(); break
    except OSError:
        time.sleep(0.2)
"""
_FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())"


def _metric(lab: Lab, name: str) -> float:
    url = f"http://{ADDRESS}/metrics?name[]={name}"
    page = lab.run([sys.executable, "-c", _FETCH, url], check=True, timeout=60).stdout
    found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{name} is not on /metrics")
    return float(found[1])


def _peer(lab: Lab, folder: Path, hosts: int, connections: int) -> Posting:
    fleet = Fleet(1)
    names = folder / "names"
    names.write_text("\n".join(fleet.host(number) for number in range(hosts)), encoding="utf-8")
    peer = lab.popen([sys.executable, "-c", _PEER, str(folder / "peer.db"), str(names)], stdout=subprocess.PIPE)
    try:
        if peer.stdout is not None:
            peer.stdout.readline()
        return _post(lab, "http://127.0.0.1:10191/api/v1/audits", connections, folder / "reports")
    finally:
        peer.terminate()
        peer.wait()


def _post(lab: Lab, url: str, connections: int, folder: Path) -> Posting:
    client = [sys.executable, "-c", _CLIENT, url, str(connections), str(folder)]
    return Posting(*json.loads(lab.run(client, check=True, timeout=PATIENCE).stdout))


def _tell_archive(folder: Path, raw: tuple[int, int]) -> None:
    with sqlite3.connect(folder / "portspec.db") as file:
        (count, payloads), (dictionaries,), (documents,) = (
            file.execute(f"SELECT {what} FROM {table}").fetchone()  # noqa: S608 - of constants
            for what, table in (
                ("count(*), total(length(payload))", "report"),
                ("total(length(content))", "dictionary"),
                ("total(length(document))", "audit"),
            )
        )
    ratio = raw[0] / (payloads + dictionaries)
    print(
        f"* archive: {count:,} payloads of {raw[0] / 1e6:.0f} MB in {payloads / 1e6:.1f} MB and "
        f"{dictionaries / 1e6:.1f} MB of dictionaries: 1/{ratio:.0f} "
        f"(target 1/{RATIO:.0f}: {OUTCOMES[ratio >= RATIO]}); "
        f"`gzip -9` of each by itself would be {raw[1] / 1e6:.0f} MB, 1/{raw[0] / raw[1]:.1f}; "
        f"what was read of them takes {documents / 1e6:.1f} MB more"
    )


def _tell_page(hosts: int) -> None:
    """Time `portspec report` over a state file with a report of LISTED findings for each host."""
    fleet = Fleet(LISTED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document = {"audit": {"passphrase": PASSPHRASE, "hosts": [fleet.host(number) for number in range(hosts)]}}
        (folder / "conf.yml").write_text(json.dumps(document), encoding="utf-8")
        asyncio.run(_fill(str(folder / "conf.yml"), fleet, hosts))
        for form in ("html", "text", "json"):
            page = folder / f"all.{form}"
            command = [*PROGRAM, "report", "-c", str(folder / "conf.yml"), "--format", form, "-o", str(page)]
            began = time.perf_counter()
            process = subprocess.Popen(command)
            _, status, usage = os.wait4(process.pid, 0)
            seconds, memory = time.perf_counter() - began, usage.ru_maxrss * 1024
            if status:
                raise RuntimeError(f"portspec report ended with {status}")
            print(
                f"* `portspec report --format {form}`: {hosts:,} hosts, {LISTED} findings each: {seconds:.1f} s "
                f"(target {SECONDS:.0f}: {OUTCOMES[seconds < SECONDS]}), {memory / 1e6:.0f} MB of memory "
                f"(target {MEMORY / 1e6:.0f}: {OUTCOMES[memory < MEMORY]}), "
                f"a file of {page.stat().st_size / 1e6:.0f} MB",
                flush=True,
            )


async def _fill(conf: str, fleet: Fleet, hosts: int) -> None:
    """Have the reports of a fleet taken and read, as the exporter does."""
    log.set_up(sys.stderr, level="warning")
    config = load(conf)
    store = Store(config.state, history=config.history)
    store.open(())
    store.start()
    reports = AuditService(store)
    reports.apply(config.audit, audited_hosts(config, ()))
    running = asyncio.create_task(reports.run())
    now = time.time()
    for begin in range(0, hosts, 100):
        numbers = range(begin, min(begin + 100, hosts))
        await asyncio.gather(*(reports.take(fleet.packed(number, now), "") for number in numbers))
    while not _is_read(reports, hosts):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.2)
    running.cancel()
    store.close()


def _is_read(reports: AuditService, hosts: int) -> bool:
    states = reports.states.values()
    return not reports.unread and len(states) == hosts and all(item.host_audit for item in states)


def main() -> None:
    """Run it by itself."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audits")
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--interval", type=float, default=10.0, help="seconds")
    options = parser.parse_args()
    report(options.hosts, connections=options.connections, interval=options.interval)


if __name__ == "__main__":
    main()
