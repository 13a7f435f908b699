"""`portspec serve` as a process on loopback, and what it answers."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PATIENCE: Final = 60.0
PAUSE: Final = 0.02  # seconds before the second look; before each further one it is half as long again, up to
MAX_PAUSE: Final = 0.2  # this: a look is often a program, or a page of the exporter
PROGRAM: Final = (sys.executable, "-m", "portspec", "serve")
_SERIES: Final = re.compile(r"([^#\s][^\s{]*)(?:\{(.*)\})? (\S+)")


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to a request."""

    status: int
    text: str
    headers: Mapping[str, str]


def until(look: Callable[[], Any], *, patience: float = PATIENCE) -> Any:
    """Look again and again until what is seen is true; returns it. Fails after so many seconds."""
    deadline = time.monotonic() + patience
    pause = PAUSE
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not seen in {patience} s; the last look gave {seen!r}"
        time.sleep(pause)
        pause = min(1.5 * pause, MAX_PAUSE)
    return seen


class Exporter:
    """A running `portspec serve`, by default on a free port; its log is in `log`."""

    def __init__(
        self,
        conf: Path,
        log: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        program: Sequence[str] = PROGRAM,
        listen: str = "127.0.0.1:0",
    ) -> None:
        self.conf = conf
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [*program, "-c", str(conf), "-j", "--web.listen-address", listen, *arguments],
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
            )

    @property
    def address(self) -> str:
        """Host and port of its web server, once that listens."""
        return str(until(self._listens)[1])

    def _listens(self) -> re.Match[str] | None:
        assert self.process.poll() is None, self.log.read_text()
        return re.search(r"https?://([\d.:]+)/", self.log.read_text())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for a path."""
        return self._ask("GET", path, headers or {})

    def post(self, path: str) -> Answer:
        """Ask for something to be done."""
        return self._ask("POST", path, {})

    def json(self, path: str) -> Any:
        """Ask for a document."""
        answer = self.get(path)
        assert answer.status == 200, answer
        return json.loads(answer.text)

    def series(self, path: str = "/metrics") -> dict[str, dict[str, float]]:
        """Scrape, and give the values by name and labels."""
        answer = self.get(path)
        assert answer.status == 200, answer
        return parse(answer.text)

    def wait_until_ready(self) -> None:
        """Wait until every host was scanned."""
        until(lambda: self.get("/-/ready").status == 200)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it by a signal, and wait for that."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE)

    def peak(self) -> int:
        """Return the most memory that it took, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        with closing(http.client.HTTPConnection(self.address, timeout=PATIENCE)) as connection:
            connection.request(method, path, headers=dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(), dict(response.headers))


@contextmanager
def exporter(
    conf: Path,
    *arguments: str,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
) -> Iterator[Exporter]:
    """Run `portspec serve`, or another program that does so, with more arguments, and end it."""
    running = Exporter(conf, log or conf.with_suffix(".log"), arguments, environment or {}, program)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


def write(path: Path, hosts: Mapping[str, Any], **keys: Any) -> Path:
    """Write a conf.yml (as JSON, which is YAML): the engine that needs no right, and quick timeouts."""
    scan = {"engine": "connect", "timeout": 0.2, "retries": 1, "confirm": 1} | keys.pop("scan", {})
    path.write_text(json.dumps({"autoreload": False, "hosts": hosts, "scan": scan} | keys, indent=1), encoding="utf-8")
    return path


def parse(page: str) -> dict[str, dict[str, float]]:
    """Read a page of metrics: by name and by the text of the labels, the value."""
    found: dict[str, dict[str, float]] = {}
    for line in page.splitlines():
        if match := _SERIES.fullmatch(line):
            found.setdefault(match[1], {})[match[2] or ""] = float(match[3])
    return found


def host_of(labels: str) -> str | None:
    """Return the label `host` of a series."""
    match = re.search(r'(?:^|,)host="([^"]*)"', labels)
    return match and match[1]


def hosts_of(page: Mapping[str, Mapping[str, float]], name: str = "port_scan_success") -> set[str]:
    """Return the hosts that have a series of a name."""
    return {host for labels in page.get(name, {}) if (host := host_of(labels))}


class Prometheus:
    """A running Prometheus on a free port."""

    def __init__(self, directory: Path, configuration: Mapping[str, Any]) -> None:
        directory.mkdir()
        conf = directory / "prometheus.yml"
        conf.write_text(json.dumps(configuration), encoding="utf-8")
        self._log = directory / "log"
        with self._log.open("w") as output:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={conf}", f"--storage.tsdb.path={directory / 'tsdb'}",
                 "--web.listen-address=127.0.0.1:0"],
                stdout=output,
                stderr=output,
            )  # fmt: skip

    @property
    def address(self) -> str:
        """Host and port of its web server, once that listens."""
        found = until(lambda: re.search(r'"Listening on" address=([\d.:]+)', self._log.read_text()))
        return str(found[1])

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Ask for an instant vector: labels and value of each series."""
        with closing(http.client.HTTPConnection(self.address, timeout=PATIENCE)) as connection:
            connection.request("GET", f"/api/v1/query?query={urllib.parse.quote(expression)}")
            response = connection.getresponse()
            answer = response.read()
        result = json.loads(answer)["data"]["result"] if response.status == 200 else []  # 503 while it starts
        return [(item["metric"], float(item["value"][1])) for item in result]


@contextmanager
def prometheus(directory: Path, configuration: Mapping[str, Any]) -> Iterator[Prometheus]:
    """Run Prometheus, and end it."""
    running = Prometheus(directory, configuration)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
