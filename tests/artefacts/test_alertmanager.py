from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.artefacts.receivers import alertmanager, text_of
from tests.artefacts.rules import ALERTMANAGER, DIRECTORY, read, tool
from tests.e2e.exporter import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIGURATION: Final[dict[str, Any]] = yaml.safe_load(ALERTMANAGER.read_text(encoding="utf-8"))
ALERTS: Final = frozenset(rule.name for rule in read() if rule.is_alert)
RUNBOOK: Final = "https://github.com/portspec/portspec/blob/main/docs/runbooks.md#portspecunexpectedportopen"

OPEN: Final[dict[str, Any]] = {
    "labels": {
        "alertname": "PortspecUnexpectedPortOpen",
        "job": "portspec",
        "instance": "scan1:10190",
        "vantage": "outside",
        "host": "web1",
        "address": "192.0.2.1",
        "port": "8080",
        "kind": "unexpected",
        "state": "open",
        "severity": "critical",
    },
    "annotations": {
        "summary": "web1: port 8080 is open and should not be",
        "description": "Port 8080 of 192.0.2.1 (web1) is open.",
        "runbook_url": RUNBOOK,
    },
    "startsAt": "2027-03-14T06:30:00.412Z",
    "endsAt": "2027-03-14T07:30:00Z",
}


def amtool(*arguments: str) -> tuple[int, str]:
    """Run amtool; gives its exit code and what it said."""
    command = [tool("amtool", "prometheus-alertmanager"), "--no-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def routes(*labels: str) -> str:
    """Give the receivers of an alert with these labels, as amtool names them."""
    code, said = amtool("config", "routes", "test", f"--config.file={ALERTMANAGER}", *labels)
    assert code == 0, said
    return said.strip()


def render(directory: Path, template: str, alerts: list[dict[str, Any]]) -> str:
    """Give what a template makes of alerts."""
    data = directory / "data.json"
    document = {"receiver": "mail", "status": "firing", "alerts": alerts, "externalURL": "http://alertmanager:9093"}
    data.write_text(json.dumps(document), encoding="utf-8")
    code, said = amtool(
        "template", "render", f"--template.glob={DIRECTORY / 'templates' / '*.tmpl'}",
        f'--template.text={{{{ template "{template}" . }}}}', f"--template.data={data}",
    )  # fmt: skip
    assert code == 0, said
    return said


def values(document: Any) -> Iterator[tuple[str, Any]]:
    """Give every key of a configuration with its value."""
    if isinstance(document, dict):
        yield from document.items()
    for item in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from values(item)


def test_amtool_finds_nothing_wrong() -> None:
    """`amtool check-config` accepts the configuration and its templates."""
    code, said = amtool("check-config", str(ALERTMANAGER))
    assert code == 0, said
    assert " - 1 templates\n  SUCCESS" in said


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["severity=critical", "host=web1"], "pager,mail"),
        (["severity=warning", "host=web1"], "mail"),
        (["severity=info"], "nowhere"),
        (["severity=warning", "alertname=PortspecExceptionExpiring"], "mail"),
        (["alertname=Another"], "mail"),
    ],
)
def test_each_severity_goes_its_way(labels: list[str], receivers: str) -> None:
    """Critical alerts go to the pager and to mail, warnings to mail, info nowhere, and what has no severity to mail."""
    assert routes(*labels) == receivers


def test_every_secret_is_in_a_file() -> None:
    """No key of the configuration holds a secret; each names a file."""
    secret = re.compile(r"password|token|secret|credentials|api_key")
    found = [key for key, _ in values(CONFIGURATION) if secret.search(key)]
    assert sorted(found) == ["credentials_file", "smtp_auth_password_file"]


def test_placeholders_are_nobodys() -> None:
    """Whoever runs the example as it is reaches nobody: servers and addresses are of example.org (RFC 2606)."""
    text = re.sub(r"^ *#.*$", "", ALERTMANAGER.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"(?:@|://|\.)((?:\w+\.)*\w+\.(?:org|com|net))\b", text)) <= {
        "example.org",
        "pager.example.org",
    }


def test_inhibitions_are_about_alerts_that_exist() -> None:
    """Each word of an inhibition matches an alert of the rules, and no exporter hides the alerts of another."""
    for rule in CONFIGURATION["inhibit_rules"]:
        for (matcher,) in (rule["source_matchers"], rule["target_matchers"]):
            found = re.fullmatch(r'alertname=~?"(.+)"', matcher)
            assert found, matcher
            for word in found[1].split("|"):
                assert [name for name in ALERTS if re.fullmatch(word, name)], word
        assert rule["equal"][:2] in (["job", "instance"], ["job", "vantage"])


def test_subject_and_text_of_a_mail_name_everything(tmp_path: Path) -> None:
    """A mail has host, address, port, state, exporter, place, times in UTC and runbook, and says what is over."""
    over = OPEN | {"status": "resolved", "labels": OPEN["labels"] | {"port": "23"}}
    over["annotations"] = OPEN["annotations"] | {"summary": "web1: port 23 is open and should not be"}
    alerts = [OPEN | {"status": "firing"}, over]
    assert render(tmp_path, "portspec.mail.subject", alerts) == "portspec: web1: port 8080 is open and should not be"
    assert (
        render(tmp_path, "portspec.mail.text", alerts)
        == f"""\
Wrong now: 1

web1: port 8080 is open and should not be
  host      web1
  address   192.0.2.1
  port      8080
  state     open
  seen by   scan1:10190
  vantage   outside
  alert     PortspecUnexpectedPortOpen (critical)
  since     2027-03-14 06:30:00 UTC
  runbook   {RUNBOOK}
  Port 8080 of 192.0.2.1 (web1) is open.

Over: 1. (Of a port also when its host cannot be judged any more; another alert says so then.)

web1: port 23 is open and should not be
  host      web1
  address   192.0.2.1
  port      23
  state     open
  seen by   scan1:10190
  vantage   outside
  alert     PortspecUnexpectedPortOpen (critical)
  since     2027-03-14 06:30:00 UTC
  until     2027-03-14 07:30:00 UTC
  runbook   {RUNBOOK}
  Port 8080 of 192.0.2.1 (web1) is open.

--
http://alertmanager:9093
"""
    )


def test_a_mail_about_a_missing_port_names_its_state_in_words(tmp_path: Path) -> None:
    """An alert without the label `state` has no line for it; summary and description tell it."""
    labels = {name: text for name, text in OPEN["labels"].items() if name != "state"} | {"port": "443"}
    annotations = {
        "summary": "web1: port 443 should be open and is filtered",
        "description": "Port 443 of 192.0.2.1 (web1) is filtered, and conf.yml expects it to be open.",
    }
    alert = OPEN | {"status": "firing", "labels": labels, "annotations": OPEN["annotations"] | annotations}
    text = render(tmp_path, "portspec.mail.text", [alert])
    assert "\nweb1: port 443 should be open and is filtered\n  host      web1\n" in text
    assert "  port      443\n  seen by   scan1:10190\n" in text
    assert f"  {annotations['description']}\n" in text


def test_subject_says_when_all_is_over(tmp_path: Path) -> None:
    """The subject of a mail without a firing alert begins with "over"; of several alerts it says how many."""
    over = OPEN | {"status": "resolved"}
    assert render(tmp_path, "portspec.mail.subject", [over]) == (
        "portspec: over: web1: port 8080 is open and should not be"
    )
    assert render(tmp_path, "portspec.mail.subject", [over, over]) == (
        "portspec: over: web1: port 8080 is open and should not be (1 of 2)"
    )


def test_a_mail_about_thousands_shows_fifty(tmp_path: Path) -> None:
    """However many alerts a host has, a mail about them can be read."""
    text = render(tmp_path, "portspec.mail.text", [OPEN | {"status": "firing"}] * 2000)
    assert text.startswith("Wrong now: 2000\n")
    assert text.count("  address   192.0.2.1\n") == 50
    assert "The first 50 are shown.\n" in text


def test_a_host_is_one_notification_and_hides_what_follows_from_it(tmp_path: Path) -> None:
    """A real Alertmanager mails each host once, pages what is critical, and hides the ports of a host that is down."""
    here = {"job": "portspec", "instance": "scan1:10190", "host": "web1"}
    there = here | {"instance": "scan2:10190"}
    down = here | {"alertname": "PortspecHostDown", "severity": "critical"}
    missing = [
        here | {"alertname": "PortspecExpectedPortMissing", "severity": "warning", "port": port}
        for port in ("22", "80")
    ]
    seen = there | {"alertname": "PortspecExpectedPortMissing", "severity": "warning", "port": "443"}
    other = here | {"alertname": "PortspecHostUnknown", "severity": "warning", "host": "db1"}
    hint = {"alertname": "PortspecRoundOverrun", "severity": "info", "job": "portspec", "instance": "scan1:10190"}
    shard = {"alertname": "PortspecShardMismatch", "severity": "warning", "job": "portspec", "shards": "3"}
    exporter_down = {"alertname": "PortspecExporterDown", "severity": "critical", "job": "portspec", "instance": "s3"}
    with alertmanager(tmp_path / "alertmanager") as running:
        running.post([down, *missing, seen, other, hint, shard, exporter_down])
        until(lambda: len(running.mails) >= 3 and len(running.calls) >= 2)
        mails = {str(mail["Subject"]): text_of(mail) for mail in running.mails}
        assert mails.keys() == {
            "portspec: PortspecHostDown of web1 (1 of 2)",
            "portspec: PortspecHostUnknown of db1",
            "portspec: PortspecExporterDown of nobody",
        }
        text = mails["portspec: PortspecHostDown of web1 (1 of 2)"]
        assert "  port      443\n" in text
        assert "  port      22\n" not in text
        assert {call["commonLabels"]["alertname"] for call in running.calls} == {
            "PortspecHostDown", "PortspecExporterDown",
        }  # fmt: skip
        first = running.mails[0]
        assert (first["To"], first["Auto-Submitted"]) == ("security@example.org", "auto-generated")
        assert first["From"] == "PortSpec <portspec@example.org>"
        running.post(over=[other])
        until(lambda: len(running.mails) >= 4)
        assert running.mails[3]["Subject"] == "portspec: over: PortspecHostUnknown of db1"
        assert len(running.calls) == 2


def test_a_host_that_becomes_unknown_does_not_read_as_mended(tmp_path: Path) -> None:
    """An alert about a port that ends as the host's verdict is lost is not told of as over."""
    here = {"job": "portspec", "instance": "scan1:10190", "host": "web1"}
    port = here | {"alertname": "PortspecUnexpectedPortOpen", "severity": "critical", "port": "23"}
    unknown = here | {"alertname": "PortspecHostUnknown", "severity": "warning"}
    with alertmanager(tmp_path / "alertmanager") as running:
        running.post([port])
        until(lambda: len(running.mails) == 1 and len(running.calls) == 1)
        running.post([unknown], over=[port])
        until(lambda: len(running.mails) == 2)
        assert running.mails[1]["Subject"] == "portspec: PortspecHostUnknown of web1"
        assert "Over:" not in text_of(running.mails[1])
        running.post(over=[unknown])
        until(lambda: len(running.mails) == 3)
        assert running.mails[2]["Subject"] == "portspec: over: PortspecHostUnknown of web1"
        assert [call["status"] for call in running.calls] == ["firing"]


def test_one_notification_says_that_no_canary_is_seen(tmp_path: Path) -> None:
    """While no canary is seen nothing is told of hosts that cannot be judged, nor that what was wrong is over."""
    here = {"job": "portspec", "instance": "scan1:10190"}
    port = here | {"alertname": "PortspecUnexpectedPortOpen", "severity": "critical", "port": "23", "host": "web1"}
    other = here | {"alertname": "PortspecHostNeverScanned", "severity": "warning", "host": "web1"}
    unknown = [here | {"alertname": "PortspecHostUnknown", "severity": "warning", "host": f"db{n}"} for n in range(9)]
    unseen = here | {"alertname": "PortspecCanaryUnseen", "severity": "critical"}
    with alertmanager(tmp_path / "alertmanager") as running:
        running.post([port])
        until(lambda: len(running.mails) == 1 and len(running.calls) == 1)
        running.post([unseen])
        until(lambda: len(running.mails) == 2 and len(running.calls) == 2)
        running.post([other, *unknown], over=[port])
        until(lambda: len(running.mails) == 3)
        assert [mail["Subject"] for mail in running.mails[1:]] == [
            "portspec: PortspecCanaryUnseen of nobody",
            "portspec: PortspecHostNeverScanned of web1",
        ]
        assert "Over:" not in text_of(running.mails[2])
        assert [call["status"] for call in running.calls] == ["firing"] * 2
