"""Every query of the shipped dashboards, asked of a real Prometheus that scrapes real exporters."""

from __future__ import annotations

import json
import sys
import time
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import yaml

from tests.artefacts.dashboards import NAMES, label_queries, panels, queries, substituted
from tests.e2e.audits import PASSPHRASE, make
from tests.e2e.test_alertmanager import ended
from tests.e2e.test_prometheus import PORTSPEC, PROMETHEUS, RULES, eventually, query
from tests.lab.program import PROGRAM, configure
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.artefacts.dashboards import Query
    from tests.lab.network import Lab

OTHER: Final = "127.0.0.1:10191"
GOOD, LACKING, OPENED, SILENT = "198.18.3.1", "198.18.3.2", "198.18.3.3", "198.18.3.4"
UNKNOWN: Final = "nowhere.lab"
DISCOVERED: Final = "198.18.3.5"
HOSTS: Final = (GOOD, LACKING, OPENED, SILENT, UNKNOWN, DISCOVERED)
REDIS: Final = {"protocol": "tcp", "address": OPENED, "port": 6379, "process": "redis-server", "user": "redis"}
#: Panels without rows in the story: this one needs the metrics of a day ago.
EMPTY: Final = {("portspec-audits", "New vulnerabilities")}
TOTALS: Final = ("Hosts", "In specification", "Out of specification", "Unknown", "Vulnerable hosts", "Exporters down")
ALERTS: Final = {"PortspecUnexpectedPortOpen", "PortspecExpectedPortMissing", "PortspecExporterDown"}
#: What the panels say of the story in the end; numbers of states are those of grafana/source/.
TOLD: Final = {
    "empty": EMPTY,
    "totals": [6, 3, 2, 1, 1, 1],
    "owners": {("db", "bob"): 1, ("web", "ada"): 1},
    "alerts": {
        ("PortspecUnexpectedPortOpen", OPENED, "6379", "ada", PORTSPEC),
        ("PortspecExpectedPortMissing", LACKING, "22", "bob", PORTSPEC),
        ("PortspecExporterDown", "", "", "", OTHER),
    },
    "exporters": {(PORTSPEC,): 1, (OTHER,): 0},
    "verdicts": {(GOOD,): 0, (LACKING,): 1, (OPENED,): 1, (SILENT,): 0, (UNKNOWN,): 2, (DISCOVERED,): 0},
    "ports": {
        (GOOD, "80"): 1,
        (LACKING, "22"): 2,
        (LACKING, "80"): 1,
        (OPENED, "22"): 1,
        (OPENED, "6379"): 3,
        (OPENED, "8080"): 0,
    },
    "audits": {(GOOD,): 0, (OPENED,): 1, (LACKING,): 2, (SILENT,): 5},
    "listeners": {(OPENED, "6379", "redis-server"): 1},
}

_OUTPUTS: Final = Path(__file__).parents[1] / "data" / "audit" / "debsecan"
# Asks for paths, a JSON list, and prints what is answered, error or not.
_ASK: Final = """
import http.client, json, sys
answers = []
connection = http.client.HTTPConnection(sys.argv[1], timeout=30)
for path in json.load(sys.stdin):
    connection.request("GET", path)
    answers.append(connection.getresponse().read().decode())
print(json.dumps(answers))
"""
# Posts what is in a file.
_POST: Final = """
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], data=open(sys.argv[2], "rb").read(), timeout=10)
"""


Series: TypeAlias = "tuple[dict[str, str], float]"  # its labels and last value


@dataclass(frozen=True, slots=True)
class Answer:
    """What Prometheus answered: series, or an error."""

    series: tuple[Series, ...]
    error: str


def ask(lab: Lab, asked: Iterable[tuple[str, bool]]) -> list[Answer]:
    """Ask for expressions: the present value, or the last half a minute."""
    now = time.time()
    paths = []
    for expression, is_instant in asked:
        times = {"time": now} if is_instant else {"start": now - 30, "end": now, "step": 1}
        what = "query" if is_instant else "query_range"
        paths.append(f"/api/v1/{what}?{urllib.parse.urlencode({'query': expression, **times})}")
    return [Answer(tuple(series_of(answer)), answer.get("error", "")) for answer in fetch_all(lab, paths)]


def series_of(answer: dict[str, Any]) -> Iterator[Series]:
    """Return labels and last value of each series of an answer."""
    for item in answer.get("data", {}).get("result", ()):
        _, value = item["value"] if "value" in item else item["values"][-1]
        yield item["metric"], float(value)


def fetch_all(lab: Lab, paths: list[str]) -> list[dict[str, Any]]:
    """Fetch paths of Prometheus."""
    done = lab.run([sys.executable, "-c", _ASK, PROMETHEUS], input=json.dumps(paths), timeout=120, check=True)
    return [json.loads(answer) for answer in json.loads(done.stdout)]


def rules() -> dict[str, Any]:
    """Return the shipped rules, none of which waits."""
    document: dict[str, Any] = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in document["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    return document


@contextmanager
def prometheus(lab: Lab, directory: Path, targets: dict[str, str]) -> Iterator[None]:
    """Run Prometheus with the shipped rules; `targets` are addresses of exporters and their vantage points."""
    directory.mkdir()
    static = [{"targets": [address], "labels": {"vantage": vantage}} for address, vantage in targets.items()]
    (directory / "rules.yml").write_text(json.dumps(rules()), encoding="utf-8")
    (directory / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "2s", "evaluation_interval": "1s"},
                "rule_files": ["rules.yml"],
                "scrape_configs": [{"job_name": "portspec", "static_configs": static}] if static else [],
            }
        ),
        encoding="utf-8",
    )
    with (directory / "log").open("w") as log:
        command = [
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address={PROMETHEUS}",
        ]
        with ended([lab.popen(command, stdout=log, stderr=log)]):
            eventually(lambda: query(lab, "vector(1)"), {"": 1.0})
            yield


def story(directory: Path) -> Path:
    """Write the conf.yml of the fleet: each host is of another kind."""
    day = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")
    web, db = (
        {"team": team, "owner": owner, "site": "fra", "env": "prod", "role": "server"}
        for team, owner in (("web", "ada"), ("db", "bob"))
    )
    (directory / "found.json").write_text(json.dumps([{"targets": [DISCOVERED]}]), encoding="utf-8")
    hosts = {
        GOOD: {"expect": [80], "canary": True},
        LACKING: {"expect": [22, 80], "labels": db},
        OPENED: {"expect": [22], "labels": web},
        SILENT: {"expect": [], "labels": web},
        UNKNOWN: {"expect": [], "labels": db},
    }
    return configure(
        directory,
        hosts,
        [22, 80, 6379, 8080],
        interval=2,
        ipv6=False,
        scan={"timeout": 0.5, "retries": 1},
        audit={"passphrase": PASSPHRASE, "hosts": [GOOD, OPENED, LACKING, SILENT]},
        exceptions=[{"hosts": [OPENED], "ports": [8080], "until": day, "reason": "migration"}],
        deadlines={"unexpected": 30, "fix_now": 30},
        discovery={"file_sd": [{"files": ["found.json"]}]},
        reportfile="report.html",
        sendemail=True,
        smtpserver="127.0.0.1",
        smtpport=9,
        smtptls="none",
        fromemail="portspec@example.org",
        alertemail="ops@example.org",
    )


def send_audits(lab: Lab, directory: Path) -> None:
    """Send an audit that found nothing, one that found something, and one that failed; another host sends none."""
    sent: dict[str, dict[str, Any]] = {
        GOOD: {"output": _OUTPUTS.joinpath("detail_clean.txt").read_text(encoding="utf-8")},
        OPENED: {"listeners": [REDIS]},
        LACKING: {"output": _OUTPUTS.joinpath("detail_failed.txt").read_text(encoding="utf-8")},
    }
    for host, kind in sent.items():
        path = directory / "audit"
        path.write_bytes(make(host, time.time(), **kind).packed)
        lab.run([sys.executable, "-c", _POST, f"http://{PORTSPEC}/api/v1/audits", str(path)], check=True)


@contextmanager
def exporting(lab: Lab, conf: Path, address: str) -> Iterator[Any]:
    """Run an exporter."""
    with conf.with_name("portspec.log").open("w") as log:
        command = [*PROGRAM, "-c", str(conf), "--web.listen-address", address]
        exporter = lab.popen(command, stdout=log, stderr=log)
        with ended([exporter]):
            yield exporter


@dataclass(frozen=True, slots=True)
class Found:
    """What was answered to each query; to one about a host, for each host."""

    answers: dict[Query, list[Answer]]

    def series(self, dashboard: str, panel: str, letter: str = "") -> list[Series]:
        """Return the series that a panel shows, by all its queries or the one of a letter."""
        of_panel = (
            given
            for each, given in self.answers.items()
            if (each.dashboard, each.panel) == (dashboard, panel) and letter in {"", each.name}
        )
        return [series for answer in chain.from_iterable(of_panel) for series in answer.series]

    def values(self, dashboard: str, panel: str, *labels: str, letter: str = "") -> dict[tuple[str, ...], float]:
        """Return the values that a panel shows, by labels."""
        found = self.series(f"portspec-{dashboard}", panel, letter)
        return {tuple(own.get(label, "") for label in labels): value for own, value in found}

    def errors(self) -> dict[str, str]:
        """Return the errors, by query."""
        return {str(each): one.error for each, given in self.answers.items() for one in given if one.error}

    def empty(self) -> set[tuple[str, str]]:
        """Return dashboard and panel of each query without any series."""
        without = (each for each, given in self.answers.items() if not any(one.series for one in given))
        return {(each.dashboard, each.panel) for each in without}

    def blank_columns(self) -> set[tuple[str, str]]:
        """Return the panel and the label of each column that is empty in all rows."""
        blank = set()
        for name in NAMES:
            for panel in panels(name):
                if panel["type"] == "table" and (rows := self.series(name, panel["title"])):
                    labels = {label for own, _ in rows for label in own}
                    columns = set(panel["transformations"][-2]["options"]["include"]["names"]) - labels
                    blank |= {(panel["title"], column) for column in columns if not column.startswith("Value")}
        return blank

    def table(self) -> str:
        """Return how many series each query gave, as a table."""
        lines = ["", "| dashboard | panel | query | series |", "|---|---|---|---|"]
        for each, given in self.answers.items():
            count = sum(len(one.series) for one in given)
            lines.append(f"| {each.dashboard} | {each.panel} | {each.name} | {count} |")
        return "\n".join([*lines, ""])


def look(lab: Lab, hosts: Iterable[str]) -> Found:
    """Ask every query of the dashboards, those about a host once for each."""
    asked = [(each, host) for each in queries() for host in (hosts if "$host" in each.expression else [""])]
    found: dict[Query, list[Answer]] = {}
    every = ask(lab, [(each.substituted(host=host), each.is_instant) for each, host in asked])
    for (each, _), answer in zip(asked, every, strict=True):
        found.setdefault(each, []).append(answer)
    return Found(found)


def told(found: Found) -> dict[str, Any]:
    """Return what panels say of the story: which show nothing, and the values of some by labels."""
    alerts = found.values("overview", "What is wrong now", "alertname", "host", "port", "owner", "page")
    return {
        "empty": found.empty(),
        "totals": [found.values("overview", total).get(()) for total in TOTALS],
        "owners": found.values("overview", "Whose they are", "team", "owner"),
        "alerts": {alert for alert in alerts if alert[0] in ALERTS},
        "exporters": found.values("exporter", "Exporters", "instance", letter="A"),
        "verdicts": found.values("host", "Verdict over time", "host"),
        "ports": found.values("host", "Ports over time", "host", "port"),
        "audits": found.values("host", "Status of audits over time", "host"),
        "listeners": found.values("host", "What listens", "host", "port", "process"),
    }


def test_every_panel_has_data_of_a_fleet(lab: Lab, tmp_path: Path) -> None:
    """Each query of each panel and annotation is answered with series, and they say what is the case.

    The fleet has a host in specification, one that lacks a port, one with a port too many that changed and was audited,
    one that answers nothing, one whose name does not resolve, and one that was discovered; an exporter is down.
    """
    lab.apply(
        [
            HostTruth("good.lab", (GOOD,), {(GOOD, 80): State.OPEN}),
            HostTruth("lacking.lab", (LACKING,), {(LACKING, 80): State.OPEN}),
            HostTruth("opened.lab", (OPENED,), {(OPENED, 22): State.OPEN, (OPENED, 8080): State.OPEN}),
            HostTruth("silent.lab", (SILENT,), default=State.DROPPED),
            HostTruth("found.lab", (DISCOVERED,)),
        ]
    )
    (tmp_path / "other").mkdir()
    other = configure(tmp_path / "other", {GOOD: [80]}, [80], interval=2, ipv6=False)
    with (
        prometheus(lab, tmp_path / "prometheus", {PORTSPEC: "inside", OTHER: "outside"}),
        exporting(lab, story(tmp_path), PORTSPEC),
    ):
        with exporting(lab, other, OTHER):
            eventually(lambda: query(lab, "sum(up)"), {"": 2.0})
            eventually(lambda: query(lab, "count(port_out_of_spec)"), {"": 6.0})
        send_audits(lab, tmp_path)
        lab.open_port(OPENED, 6379)
        eventually(lambda: told(look(lab, HOSTS)), TOLD)
        found = look(lab, HOSTS)
        sys.stdout.write(found.table())
        assert not found.errors()
        assert not found.blank_columns()
        since = found.values("overview", "What is wrong now", "alertname", "host", "port").values()
        assert all(abs(moment / 1000 - time.time()) < 600 for moment in since)

        labels = [(f"count by ({label}) ({substituted(selector)})", True) for _, selector, label in label_queries()]
        assert all(answer.series for answer in ask(lab, labels))


def test_no_query_fails_without_data(lab: Lab, tmp_path: Path) -> None:
    """A Prometheus that knows nothing answers every query without an error."""
    lab.apply([])
    with prometheus(lab, tmp_path / "prometheus", {}):
        found = look(lab, HOSTS[:1])
        assert not found.errors()
        assert {each.dashboard for each in found.answers} == set(NAMES)
