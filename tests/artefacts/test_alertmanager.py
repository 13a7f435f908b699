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
        "team": "web",
    },
    "annotations": {
        "summary": "web1: 8080 (http-alt) open, not expected",
        "description": "Port 8080 of 192.0.2.1 is open, and conf.yml neither expects nor allows it.",
        "seen_by": "scan1:10190",
        "runbook_url": RUNBOOK,
    },
    "startsAt": "2027-03-14T06:30:00.412Z",
    "endsAt": "2027-03-14T07:30:00Z",
}


def amtool(*arguments: str) -> tuple[int, str]:
    """Run amtool; returns its exit code and what it said."""
    command = [tool("amtool", "prometheus-alertmanager"), "--no-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def routes(*labels: str) -> str:
    """Return the receivers of an alert with these labels, as amtool names them."""
    code, said = amtool("config", "routes", "test", f"--config.file={ALERTMANAGER}", *labels)
    assert code == 0, said
    return said.strip()


def render(directory: Path, template: str, alerts: list[dict[str, Any]]) -> str:
    """Return what a template makes of alerts."""
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
    """Return every key of a configuration with its value."""
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
        (["severity=critical", "host=web1", "team=web"], "web-team,pager,mail"),
        (["severity=info", "host=web1", "team=web"], "nowhere"),
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
    """Each word of an inhibition matches an alert of the rules, and no exporter or place hides another's alerts."""
    for rule in CONFIGURATION["inhibit_rules"]:
        if rule["source_matchers"][1:]:  # an alert that counts hides those that it counts
            assert rule["source_matchers"][1] == rule["target_matchers"][0].replace("alertname", "alert")
        for matcher in (rule["source_matchers"][0], *rule["target_matchers"]):
            found = re.fullmatch(r'alertname=~?"(.+?)"', matcher)
            assert found, matcher
            for word in found[1].split("|"):
                assert [name for name in ALERTS if re.fullmatch(word, name)], word
        assert rule["equal"][:2] in (["job", "instance"], ["job", "vantage"])


def test_subject_and_text_of_a_mail_name_everything(tmp_path: Path) -> None:
    """A mail says what is wrong, since when, where, who sees it and what to do; what is over is told in the past."""
    over = OPEN | {"status": "resolved"}
    over["annotations"] = OPEN["annotations"] | {"resolved": "web1: 23 (telnet) no longer seen open, or allowed now"}
    alerts = [OPEN | {"status": "firing"}, over]
    subject = "[portspec] web1: 8080 (http-alt) open, not expected; 1 resolved"
    assert render(tmp_path, "portspec.mail.subject", alerts) == subject
    assert (
        render(tmp_path, "portspec.mail.text", alerts)
        == f"""\

web1: 8080 (http-alt) open, not expected

Port 8080 of 192.0.2.1 is open, and conf.yml neither expects nor allows it.

Since: 2027-03-14 06:30:00 UTC
Address: 192.0.2.1
Seen by: scan1:10190
Vantage: outside
Team: web
Alert: PortspecUnexpectedPortOpen (critical)
What to do: {RUNBOOK}

Resolved: 1
- web1: 23 (telnet) no longer seen open, or allowed now
  from 2027-03-14 06:30:00 until 2027-03-14 07:30:00 UTC

--
http://alertmanager:9093
"""
    )


def test_subject_says_when_all_is_over(tmp_path: Path) -> None:
    """The subject of a mail without a firing alert says so in the past tense; of several alerts it says how many."""
    over = OPEN | {"status": "resolved"}
    over["annotations"] = OPEN["annotations"] | {"resolved": "web1: 23 no longer seen open, or allowed now"}
    said = "[portspec] resolved: web1: 23 no longer seen open, or allowed now"
    assert render(tmp_path, "portspec.mail.subject", [over]) == said
    assert render(tmp_path, "portspec.mail.subject", [over, over]) == f"{said}; 2 in total"


def test_the_worst_comes_first(tmp_path: Path) -> None:
    """A critical alert stands in the subject, and before the others in the text."""
    labels = OPEN["labels"] | {"severity": "warning"}
    mild = OPEN | {"status": "firing", "labels": labels, "annotations": OPEN["annotations"] | {"summary": "db1: mild"}}
    bad = OPEN | {"status": "firing", "annotations": OPEN["annotations"] | {"summary": "web1: bad"}}
    for alerts in ([mild, bad], [bad, mild], [mild] * 20 + [bad]):
        assert render(tmp_path, "portspec.mail.subject", alerts) == f"[portspec] web1: bad; {len(alerts)} in total"
        text = render(tmp_path, "portspec.mail.text", alerts)
        assert text.index("web1: bad") < text.index("db1: mild")


def test_hostile_texts_stay_on_their_line(tmp_path: Path) -> None:
    """A label or an audit with line feeds and marks of direction makes no line of its own, and turns nothing round."""
    hostile = "web1\n\nResolved: 1\r\n\u202eevil\u2066\u2028"
    annotations = OPEN["annotations"] | {"summary": hostile, "description": hostile, "resolved": hostile}
    alert = OPEN | {"labels": OPEN["labels"] | {"team": hostile}, "annotations": annotations}
    for alerts in (
        [alert | {"status": "firing"}] * 3,
        [alert | {"status": "resolved"}],
        [alert | {"status": "firing"}] * 20,
    ):
        subject, text = (render(tmp_path, f"portspec.mail.{part}", alerts) for part in ("subject", "text"))
        assert "\n" not in subject
        assert not re.search("[\u202e\u2066\u2028\r]", subject + text)
        assert "\nResolved: 1\n" not in text.replace("\nResolved: 1\n- ", "")


def test_the_latest_of_the_worst_is_in_the_subject(tmp_path: Path) -> None:
    """A mail about one more alert names that one, and no mail names a later one that is less bad."""
    old = OPEN | {"status": "firing"}
    new = old | {"startsAt": "2027-03-14T06:31:00Z", "annotations": OPEN["annotations"] | {"summary": "web1: new"}}
    mild = old | {"startsAt": "2027-03-14T06:32:00Z", "labels": OPEN["labels"] | {"severity": "warning"}}
    for alerts in ([old, new], [new, old], [mild, old, new], [new, old, mild]):
        assert render(tmp_path, "portspec.mail.subject", alerts) == f"[portspec] web1: new; {len(alerts)} in total"


def test_a_mail_about_many_has_a_line_for_each(tmp_path: Path) -> None:
    """More than ten alerts have a line each, and no more than 300 are shown."""
    text = render(tmp_path, "portspec.mail.text", [OPEN | {"status": "firing"}] * 2000)
    assert text.startswith("Firing: 2000\n")
    line = "- web1: 8080 (http-alt) open, not expected, on 192.0.2.1, since 2027-03-14 06:30 UTC\n"
    assert text.count(line) == 300
    assert "- and others: 300 of 2000 are shown\n" in text
    assert f"What to do: {RUNBOOK}\n" in text


def test_each_kind_is_one_notification_and_hides_what_follows_from_it(tmp_path: Path) -> None:
    """A real Alertmanager mails each kind of alert once, pages what is critical, and hides the ports of a dead host."""
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
        until(lambda: len(running.mails) >= 4 and len(running.calls) >= 2)
        assert {str(mail["Subject"]) for mail in running.mails} == {
            "[portspec] PortspecHostDown of web1",
            "[portspec] PortspecExpectedPortMissing of web1",
            "[portspec] PortspecHostUnknown of db1",
            "[portspec] PortspecExporterDown of nobody",
        }
        assert {call["commonLabels"]["alertname"] for call in running.calls} == {
            "PortspecHostDown", "PortspecExporterDown",
        }  # fmt: skip
        first = running.mails[0]
        assert (first["To"], first["Auto-Submitted"]) == ("security@example.org", "auto-generated")
        assert first["From"] == "PortSpec <portspec@example.org>"
        running.post(over=[other])
        until(lambda: len(running.mails) >= 5)
        assert running.mails[4]["Subject"] == "[portspec] resolved: no longer: PortspecHostUnknown of db1"
        assert len(running.calls) == 2


def test_a_storm_is_one_call_and_one_mail(tmp_path: Path) -> None:
    """300 hosts that go wrong at once are one call and one mail: those of the alert that counts them."""
    here = {"job": "portspec", "instance": "scan1:10190", "severity": "critical"}
    hosts = [
        here | {"alertname": "PortspecUnexpectedPortOpen", "host": f"h{n}", "port": "23", "address": "192.0.2.1"}
        for n in range(300)
    ]
    many = {
        "alertname": "PortspecManyHosts",
        "alert": "PortspecUnexpectedPortOpen",
        "job": "portspec",
        "severity": "critical",
    }
    another = here | {"alertname": "PortspecHostDown", "host": "db1"}
    with alertmanager(tmp_path / "alertmanager") as running:
        running.post([many, *hosts])
        until(lambda: running.mails and running.calls)
        running.post([another])  # time goes by
        until(lambda: len(running.mails) == 2 and len(running.calls) == 2)
        assert [mail["Subject"] for mail in running.mails] == [
            "[portspec] PortspecManyHosts of nobody",
            "[portspec] PortspecHostDown of db1",
        ]
        running.post(over=[many, *hosts])
        until(lambda: len(running.mails) == 3)
        assert running.mails[2]["Subject"] == "[portspec] resolved: no longer: PortspecManyHosts of nobody"


def test_up_to_a_hundred_hosts_are_one_call_and_one_mail(tmp_path: Path) -> None:
    """Without an alert that counts them, hosts that go wrong in the same way are one call and one mail, all named."""
    here = {"job": "portspec", "instance": "scan1:10190", "severity": "critical"}
    hosts = [
        here | {"alertname": "PortspecUnexpectedPortOpen", "host": f"h{n:02}", "port": "23", "address": "192.0.2.1"}
        for n in range(100)
    ]
    with alertmanager(tmp_path / "alertmanager") as running:
        running.post(hosts)
        until(lambda: running.mails and running.calls)
        (mail,), (call,) = running.mails, running.calls
        assert mail["Subject"] == "[portspec] PortspecUnexpectedPortOpen of h00; 100 in total"
        assert all(f"of h{n:02}, on 192.0.2.1" in text_of(mail) for n in range(100))
        assert len(call["alerts"]) == 100


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
        assert running.mails[1]["Subject"] == "[portspec] PortspecHostUnknown of web1"
        assert "Resolved:" not in text_of(running.mails[1])
        running.post(over=[unknown])
        # The port, too, if its group was not looked at while the host was unknown: it is known by now that it is shut.
        ended = "[portspec] resolved: no longer: PortspecHostUnknown of web1"
        until(lambda: any(mail["Subject"] == ended for mail in running.mails[2:]))


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
            "[portspec] PortspecCanaryUnseen of nobody",
            "[portspec] PortspecHostNeverScanned of web1",
        ]
        assert "Resolved:" not in text_of(running.mails[2])
        assert [call["status"] for call in running.calls] == ["firing"] * 2
