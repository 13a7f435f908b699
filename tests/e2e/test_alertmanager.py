"""The shipped rules and the shipped Alertmanager configuration at work, with real programs from scan to mail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.e2e.smtp import PASSWORD, USER, MailServer
from tests.e2e.test_prometheus import PORTSPEC, PROMETHEUS, WEB, eventually, query
from tests.lab.program import PROGRAM, configure
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    from tests.e2e.smtp import Mail
    from tests.lab.network import Lab

SHIPPED: Final = Path(__file__).parents[2] / "alert_rules"
ALERTMANAGER: Final = "127.0.0.1:9093"
PAGER: Final = 9095

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
    """Give the shipped rules, none of which waits."""
    rules: dict[str, Any] = yaml.safe_load((SHIPPED / "portspec.rules.yml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule.pop("for", None)
    return rules


def hurried_alertmanager(server: MailServer, directory: Path) -> dict[str, Any]:
    """Give the shipped configuration with this server, these secrets, and no pauses."""
    shipped: dict[str, Any] = yaml.safe_load((SHIPPED / "alertmanager.yml").read_text(encoding="utf-8"))
    for name, secret in (("password", PASSWORD), ("token", "a-token")):
        (directory / name).write_text(secret, encoding="utf-8")
    shipped["global"] |= {
        "smtp_smarthost": f"127.0.0.1:{server.port}",
        "smtp_auth_username": USER,
        "smtp_auth_password_file": str(directory / "password"),
    }
    shipped["templates"] = [str(SHIPPED / "templates" / "*.tmpl")]
    shipped["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    for receiver in shipped["receivers"]:
        for mail in receiver.get("email_configs", ()):
            mail["tls_config"] = {"ca_file": str(server.authority)}
        for hook in receiver.get("webhook_configs", ()):
            hook["url"] = f"http://127.0.0.1:{PAGER}/"
            hook["http_config"]["authorization"]["credentials_file"] = str(directory / "token")
    return shipped


def test_a_port_that_opens_is_mailed_and_paged_and_so_is_its_end(lab: Lab, tmp_path: Path) -> None:
    """A port opens, and mail and page name host and port; it closes, and a mail says that it is over."""
    lab.apply([HostTruth("web.lab", (WEB,), {(WEB, 80): State.OPEN})])
    conf = configure(tmp_path, {WEB: [80]}, ["1-1024"], interval=1)
    (tmp_path / "rules.yml").write_text(json.dumps(hurried_rules()), encoding="utf-8")
    (tmp_path / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "2s", "evaluation_interval": "1s"},  # a scrape may take as long
                "rule_files": ["rules.yml"],
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [ALERTMANAGER]}]}]},
                "scrape_configs": [{"job_name": "portspec", "static_configs": [{"targets": [PORTSPEC]}]}],
            }
        ),
        encoding="utf-8",
    )
    pages = tmp_path / "pages"
    with (
        MailServer(tmp_path / "mails", lab.popen) as server,
        (tmp_path / "log").open("w") as log,
        pages.open("w") as paged,
    ):
        (tmp_path / "alertmanager.yml").write_text(json.dumps(hurried_alertmanager(server, tmp_path)), encoding="utf-8")
        programs = [
            lab.popen([sys.executable, "-c", _PAGER, str(PAGER)], stdout=paged),
            lab.popen([*PROGRAM, "-c", str(conf), "--web.listen-address", PORTSPEC], stdout=log, stderr=log),
            lab.popen(
                [
                    "prometheus-alertmanager",
                    f"--config.file={tmp_path / 'alertmanager.yml'}",
                    f"--storage.path={tmp_path / 'alertmanager'}",
                    f"--web.listen-address={ALERTMANAGER}",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=log,
            ),
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
            eventually(lambda: query(lab, "port_out_of_spec"), {WEB: 0.0})
            assert query(lab, 'ALERTS{host!=""}') == {}

            lab.open_port(WEB, 1000)
            eventually(lambda: bool(about(server, "1000 open, not expected")), wanted=True)
            (mail,) = about(server, "1000 open, not expected")
            assert WEB in str(mail.message["Subject"])
            assert all(word in mail.text for word in (WEB, "1000", "open", "runbooks.md#portspecunexpectedportopen"))
            eventually(lambda: [page["status"] for page in documents(pages)], ["firing"])
            (page,) = documents(pages)
            assert [(alert["labels"]["host"], alert["labels"]["port"]) for alert in page["alerts"]] == [(WEB, "1000")]

            lab.close_port(WEB, 1000)
            eventually(lambda: len(about(server, "resolved: ")), 1)
            (over,) = about(server, "resolved: ")
            assert all(word in over.text for word in (WEB, "1000 was open", "until"))
            eventually(lambda: [page["status"] for page in documents(pages)], ["firing", "resolved"])
        finally:
            for program in programs:
                program.terminate()
                program.wait(timeout=10)


def about(server: MailServer, words: str) -> list[Mail]:
    """Give the mails that have these words in their subject."""
    return [mail for mail in server.mails() if words in str(mail.message["Subject"])]


def documents(path: Path) -> list[dict[str, Any]]:
    """Read what the pager was told."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
