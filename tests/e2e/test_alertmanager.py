"""The shipped rules and the shipped Alertmanager configuration at work, with real programs from scan to mail.

PORTSPEC_GOLDEN=write writes tests/data/alerts anew.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.e2e.smtp import PASSWORD, USER, MailServer
from tests.e2e.test_prometheus import PORTSPEC, PROMETHEUS, WEB, eventually, query
from tests.lab.namespaces import tool
from tests.lab.program import PROGRAM, configure, get
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.e2e.smtp import Mail
    from tests.lab.network import Lab

SHIPPED: Final = Path(__file__).parents[2] / "alert_rules"
GOLDEN: Final = Path(__file__).parents[1] / "data/alerts"
ALERTMANAGER: Final = "127.0.0.1:9093"
PAGER: Final = 9095
DB: Final = "198.18.3.1"
#: The hosts that go wrong at once, by name, with their addresses.
FLEET: Final = {f"h{number:03}": f"198.18.{4 + number // 200}.{number % 200 + 1}" for number in range(1, 301)}
SCANPORTS: Final = [22, 5432, 6379, 8080]
#: How long alerts wait instead. A port that is missing waits for the alert about its host, as in the shipped rules.
#: The other alerts wait as they do there: they are not what a test is about, and a busy machine may raise them.
HURRIED: Final = {"PortspecHostDown": "0s", "PortspecExpectedPortMissing": "2s"}

DB1: Final = {"db1": {"expect": [22, 5432], "labels": {"team": "db", "site": "fra"}}}

# Prints the body of each POST, a JSON document a line.
_PAGER = """
import http.server, sys
class Pager(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
        print(body.decode(), flush=True)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Pager).serve_forever()
"""


def hurried_rules() -> dict[str, Any]:
    """Return the shipped rules, evaluated at Prometheus's own interval; those about ports and hosts hardly wait."""
    rules: dict[str, Any] = yaml.safe_load((SHIPPED / "portspec.rules.yml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            if rule.get("alert") in HURRIED:
                rule["for"] = HURRIED[rule["alert"]]
    return rules


def hurried_alertmanager(server: MailServer, directory: Path, pause: str) -> dict[str, Any]:
    """Return the shipped configuration with this server, these secrets, and a pause before each notification."""
    shipped: dict[str, Any] = yaml.safe_load((SHIPPED / "alertmanager.yml").read_text(encoding="utf-8"))
    for name, secret in (("password", PASSWORD), ("token", "a-token")):
        (directory / name).write_text(secret, encoding="utf-8")
    shipped["global"] |= {
        "smtp_smarthost": f"127.0.0.1:{server.port}",
        "smtp_auth_username": USER,
        "smtp_auth_password_file": str(directory / "password"),
    }
    shipped["templates"] = [str(SHIPPED / "templates" / "*.tmpl")]
    shipped["route"] |= {"group_wait": pause, "group_interval": pause}
    for receiver in shipped["receivers"]:
        for mail in receiver.get("email_configs", ()):
            mail["tls_config"] = {"ca_file": str(server.authority)}
        for hook in receiver.get("webhook_configs", ()):
            hook["url"] = f"http://127.0.0.1:{PAGER}/"
            hook["http_config"]["authorization"]["credentials_file"] = str(directory / "token")
    return shipped


@dataclass(frozen=True, slots=True)
class Heard:
    """What was mailed and what the pager was told."""

    server: MailServer
    directory: Path
    prometheus: subprocess.Popen[str]

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Stop Prometheus for a while: it sees all that happens meanwhile at once."""
        self.prometheus.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.prometheus.send_signal(signal.SIGCONT)

    def about(self, words: str) -> list[Mail]:
        """Return the mails that have these words in their subject."""
        return [mail for mail in self.server.mails() if words in str(mail.message["Subject"])]

    def pages(self) -> list[dict[str, Any]]:
        """Return the calls of the pager."""
        whole, _, _ = (self.directory / "pages").read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines() if line]

    def subjects(self) -> list[str]:
        """Return the subjects of all mails."""
        return [str(mail.message["Subject"]) for mail in self.server.mails()]

    def compare(self, name: str, *, after: int, count: int = 1) -> int:
        """Wait for so many mails after the first ones, hold them to the file of a name, or write that; count all."""
        eventually(lambda: len(self.server.mails()) >= after + count, wanted=True, seen=self.subjects)
        mails = self.server.mails()[after:]
        found = "\n".join(sorted(f"Subject: {mail.message['Subject']}\n\n{timeless(mail.text)}" for mail in mails))
        file = GOLDEN / f"{name}.txt"
        if os.environ.get("PORTSPEC_GOLDEN") == "write":
            file.write_text(found, encoding="utf-8")
        print(self.warnings())  # noqa: T201 - pytest shows it if the mails are others
        assert found == file.read_text(encoding="utf-8")
        return after + count

    def warnings(self) -> str:
        """Return what Prometheus and Alertmanager logged that is more than information."""
        lines = (self.directory / "log").read_text(encoding="utf-8").splitlines()
        return "\n".join(line for line in lines if "level=info" not in line)


def timeless(text: str) -> str:
    """Put TIME for each time of a mail."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d(\.\d+)?)?( \+0000)?( UTC)?", "TIME", text)


@contextmanager
def ended(programs: list[subprocess.Popen[str]]) -> Iterator[None]:
    """End programs in the end."""
    try:
        yield
    finally:
        for program in programs:
            program.terminate()
            program.wait(timeout=10)


@contextmanager
def scanning(lab: Lab, conf: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the exporter."""
    with conf.with_name("portspec.log").open("w") as log:
        command = [*PROGRAM, "-c", str(conf), "--web.listen-address", PORTSPEC]
        exporter = lab.popen(command, stdout=log, stderr=log)
        with ended([exporter]):
            yield exporter


@dataclass(frozen=True, slots=True)
class Exporter:
    """An exporter that runs, and its conf.yml in this directory."""

    lab: Lab
    directory: Path
    process: subprocess.Popen[str]

    def reload(self, hosts: dict[str, Any], **keys: Any) -> None:
        """Have it read a conf.yml with these hosts and keys."""
        before = self.reloads()
        night_conf(self.directory, hosts, **keys)
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: self.reloads() > before, wanted=True)

    def reloads(self) -> int:
        """Count the lines in its log that say that it has read the file anew."""
        return (self.directory / "portspec.log").read_text(encoding="utf-8").count("configuration reloaded")


def night_conf(directory: Path, hosts: dict[str, Any], **keys: Any) -> Path:
    """Write the conf.yml of the night."""
    patient = {"timeout": 0.5, "retries": 1}  # a busy machine answers late
    return configure(directory, hosts, SCANPORTS, interval=1, ipv6=False, scan=patient, **keys)


def exception(hours: float) -> dict[str, Any]:
    """Return the keys for an exception for port 8080 of db1 that ends in so many hours."""
    until = (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")
    return {"exceptions": [{"hosts": ["db1"], "ports": [8080], "until": until, "reason": "migration"}]}


@contextmanager
def alerting(lab: Lab, directory: Path, *, pause: str = "1s") -> Iterator[Heard]:
    """Run Prometheus, Alertmanager, a mail server and a pager that know nothing yet."""
    directory.mkdir()
    (directory / "rules.yml").write_text(json.dumps(hurried_rules()), encoding="utf-8")
    (directory / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "2s", "evaluation_interval": "1s"},  # a scrape may take as long
                "rule_files": ["rules.yml"],
                # On a busy machine an answer may take longer than the 10 s after which Prometheus drops what it sent:
                # Alertmanager would take what has ended for firing until it is sent again, a minute later.
                "alerting": {"alertmanagers": [{"timeout": "2m", "static_configs": [{"targets": [ALERTMANAGER]}]}]},
                "scrape_configs": [{"job_name": "portspec", "static_configs": [{"targets": [PORTSPEC]}]}],
            }
        ),
        encoding="utf-8",
    )
    with (
        MailServer(directory / "mails", lab.popen) as server,
        (directory / "log").open("w") as log,
        (directory / "pages").open("w") as paged,
    ):
        configuration = hurried_alertmanager(server, directory, pause)
        (directory / "alertmanager.yml").write_text(json.dumps(configuration), encoding="utf-8")
        programs = [
            lab.popen([sys.executable, "-c", _PAGER, str(PAGER)], stdout=paged),
            lab.popen(
                [
                    "prometheus-alertmanager",
                    f"--config.file={directory / 'alertmanager.yml'}",
                    f"--storage.path={directory / 'alertmanager'}",
                    f"--web.listen-address={ALERTMANAGER}",
                    "--web.external-url=http://alertmanager.example.org",
                    "--web.route-prefix=/",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=log,
            ),
            lab.popen(
                [
                    "prometheus",
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'tsdb'}",
                    f"--web.listen-address={PROMETHEUS}",
                ],
                stdout=log,
                stderr=log,
            ),
        ]
        with ended(programs):
            yield Heard(server, directory, programs[-1])


@contextmanager
def dead(lab: Lab, address: str) -> Iterator[None]:
    """Have an address answer nothing for a while; it dies and comes back between two scans."""
    nft = [tool("nft"), "-f", "-"]
    chain = f"chain first {{ type filter hook prerouting priority -300; ip daddr {address} drop; }};"
    await_scan(lab)
    lab.run(nft, side="hosts", input=f"table ip dead {{ {chain} }}", check=True)
    try:
        yield
        await_scan(lab)
    finally:
        lab.run(nft, side="hosts", input="delete table ip dead", check=True)


def await_scan(lab: Lab) -> None:
    """Wait until the exporter has just scanned db1."""
    before = values(lab, "port_last_scan_timestamp_seconds")["db1"]
    eventually(lambda: values(lab, "port_last_scan_timestamp_seconds")["db1"] > before, wanted=True)


def values(lab: Lab, metric: str) -> dict[str, float]:
    """Ask the exporter for the value that a metric has for each host."""
    found = re.findall(rf'^{metric}{{host="(.+?)"}} (.+)', get(lab, PORTSPEC, "/metrics"), re.MULTILINE)
    return {host: float(value) for host, value in found}


def test_a_port_that_opens_is_mailed_and_paged_and_so_is_its_end(lab: Lab, tmp_path: Path) -> None:
    """A port opens, and mail and page name host and port; it closes, and a mail says that it is over."""
    lab.apply([HostTruth("web.lab", (WEB,), {(WEB, 80): State.OPEN})])
    conf = configure(tmp_path, {WEB: [80]}, ["1-1024"], interval=1, port_severity={1000: "critical"})
    with scanning(lab, conf), alerting(lab, tmp_path / "alerting") as heard:
        eventually(lambda: query(lab, "port_out_of_spec"), {WEB: 0.0})
        assert query(lab, 'ALERTS{host!="",alertstate="firing"}') == {}

        lab.open_port(WEB, 1000)
        eventually(lambda: bool(heard.about("1000 open, not expected")), wanted=True)
        (mail,) = heard.about("1000 open, not expected")
        assert WEB in str(mail.message["Subject"])
        assert all(word in mail.text for word in (WEB, "1000", "open", "runbooks.md#portspecunexpectedportopen"))
        eventually(lambda: [page["status"] for page in heard.pages()], ["firing"])
        (page,) = heard.pages()
        assert [(alert["labels"]["host"], alert["labels"]["port"]) for alert in page["alerts"]] == [(WEB, "1000")]

        lab.close_port(WEB, 1000)
        eventually(lambda: len(heard.about("resolved: ")), 1)
        (over,) = heard.about("resolved: ")
        assert all(word in over.text for word in (WEB, "1000 no longer seen open", "until"))
        eventually(lambda: [page["status"] for page in heard.pages()], ["firing", "resolved"])


def test_night_of_a_host(lab: Lab, tmp_path: Path) -> None:
    """Each thing that happens to db1 is the mail of a file, and what is critical is a call of the pager."""
    lab.apply([HostTruth("db1", (DB,), {(DB, 22): State.OPEN, (DB, 5432): State.OPEN})])
    conf = night_conf(tmp_path, DB1)
    with scanning(lab, conf) as process, alerting(lab, tmp_path / "night") as heard:
        exporter = Exporter(lab, tmp_path, process)
        eventually(lambda: query(lab, 'port_out_of_spec{host="db1"}'), {"db1": 0.0})
        lab.open_port(DB, 6379)
        told = heard.compare("a-port-opens", after=0)
        lab.open_port(DB, 8080)
        told = heard.compare("a-second-port-opens", after=told)
        lab.close_port(DB, 8080)
        told = heard.compare("one-of-them-closes", after=told)
        lab.close_port(DB, 5432)
        told = heard.compare("a-service-stops", after=told)
        lab.open_port(DB, 5432)
        told = heard.compare("the-service-comes-back", after=told)
        with dead(lab, DB):
            told = heard.compare("the-host-dies", after=told, count=2)
        told = heard.compare("the-host-comes-back", after=told, count=2)
        lab.close_port(DB, 6379)
        told = heard.compare("all-is-well", after=told)
        exporter.reload(DB1, **exception(hours=48))
        lab.open_port(DB, 8080)
        told = heard.compare("an-exception-ends-soon", after=told)
        exporter.reload(DB1, **exception(hours=0))
        heard.compare("an-exception-has-ended", after=told, count=2)
        lab.close_port(DB, 8080)
        eventually(lambda: [page["status"] for page in heard.pages()][-1], "resolved")
        labels = [alert["labels"] for page in heard.pages() for alert in page["alerts"]]
        assert {(each["host"], each["team"], each["site"]) for each in labels} == {("db1", "db", "fra")}
        assert {(each["alertname"], each.get("port")) for each in labels} == {
            ("PortspecUnexpectedPortOpen", "6379"),  # 8080 is a warning
            ("PortspecHostDown", None),
        }


def test_storm(lab: Lab, tmp_path: Path) -> None:
    """300 hosts that go wrong at once are one mail and one call, also when it is over; another host is heard."""
    db1 = HostTruth("db1", (DB,), {(DB, 22): State.OPEN, (DB, 5432): State.OPEN})
    fleet = [
        HostTruth(name, (address,), {(address, 22): State.OPEN, (address, 6379): State.OPEN})
        for name, address in FLEET.items()
    ]
    lab.apply([db1, *fleet])
    wrong = DB1 | {name: [22] for name in FLEET}
    with scanning(lab, night_conf(tmp_path, wrong)) as process:
        eventually(lambda: values(lab, "port_out_of_spec"), {"db1": 0.0} | dict.fromkeys(FLEET, 1.0))
        # It starts when all are wrong, and so sees them go wrong at once, however long the scans took.
        # Alertmanager's dispatcher and its inhibitor each take in 300 alerts by themselves, one after the other. A
        # notification between the two is about alerts that are no longer inhibited and have ended. Long pauses make it
        # unlikely.
        with alerting(lab, tmp_path / "storm", pause="10s") as heard:
            told = heard.compare("many-hosts-go-wrong", after=0)
            (storm,) = heard.server.mails()
            assert set(re.findall(r"\bh\d{3}\b", storm.text)) == set(FLEET)
            with dead(lab, DB):  # what is told of it comes after all that is told of the storm
                told = heard.compare("the-host-dies-in-the-storm", after=told)
                eventually(lambda: len(heard.pages()) >= 2, wanted=True)
                assert names(heard.pages()) == [["PortspecManyHosts"], ["PortspecHostDown"]]
            told = heard.compare("the-host-comes-back-in-the-storm", after=told)
            with heard.deaf():
                values(lab, "port_out_of_spec")  # after it, a scrape that is in progress has its page, of before
                Exporter(lab, tmp_path, process).reload(DB1 | {name: [22, 6379] for name in FLEET})
                eventually(lambda: values(lab, "port_out_of_spec"), dict.fromkeys(["db1", *FLEET], 0.0))
            told = heard.compare("the-storm-is-over", after=told)
            eventually(lambda: names(heard.pages())[2:], [["PortspecHostDown"], ["PortspecManyHosts"]])
            assert len(heard.server.mails()) == told


def names(pages: list[dict[str, Any]]) -> list[list[str]]:
    """Return the names of the alerts of each call."""
    return [[alert["labels"]["alertname"] for alert in page["alerts"]] for page in pages]
