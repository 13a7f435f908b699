"""The `audit` block and the keys of the report; what is wrong with them is in tests/data/conf/audit_* and report*."""

from __future__ import annotations

import contextlib
import os
import threading
from datetime import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.config import AuditConfig, PortException, VulnerabilityException, load
from portspec.config.model import DnsSource, FileSource
from portspec.errors import ConfigError
from portspec.ports import PortSet
from tests.unit.factories import MODEST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.config.conftest import Conf

HOSTS = "hosts: {db1: 22}\nscanports: [22, 80]\n"
WORDS = "correct horse battery staple"
AUDIT = f"audit:\n  passphrase: {WORDS}\n"
HOUR, DAY = 3600.0, 86_400.0
END = 1_806_537_600.0  # 2027-04-01T00:00:00Z


def audit(conf: Conf, text: str = "") -> AuditConfig:
    """Load the block of a file with a passphrase, and with this below it."""
    found = conf.load(HOSTS + AUDIT + text).audit
    assert found
    return found


def test_defaults_of_audit(conf: Conf) -> None:
    """A passphrase is enough: nobody is on the roster, a report is late after 26 hours, and kept for 90 days."""
    assert audit(conf) == AuditConfig(passphrases=(WORDS,), hosts=(), domain=None, max_age=26 * HOUR, keep=90 * DAY)
    assert conf.load(HOSTS).audit is None


def test_every_key_of_audit(conf: Conf) -> None:
    """Each key is what it says."""
    text = r"""
  previous_passphrase: tuna mayonnaise sandwich
  hosts: [db1.example.org, 192.0.2.7, "2001:db8::7"]
  domain: '\.example\.(org|net)'
  max_age: 50h
  keep: 52w
"""
    assert audit(conf, text) == AuditConfig(
        passphrases=(WORDS, "tuna mayonnaise sandwich"),
        hosts=("db1.example.org", "192.0.2.7", "2001:db8::7"),
        domain=r"\.example\.(org|net)",
        max_age=50 * HOUR,
        keep=364 * DAY,
    )


def test_hosts_keep_their_spelling(conf: Conf) -> None:
    """A name is the label of the host as the file has it, also where it is one alone and no list."""
    assert audit(conf, "  hosts: DB1.Example.org.\n").hosts == ("DB1.Example.org.",)
    assert audit(conf, "  hosts:\n").hosts == ()


@pytest.mark.parametrize("text", [WORDS, f"{WORDS}\n", f"\n  {WORDS} \r\n", f"\ufeff{WORDS}\r\n"])
def test_passphrase_in_a_file_is_the_same_one(conf: Conf, tmp_path: Path, text: str) -> None:
    """What an editor puts around a passphrase makes no other keys."""
    (tmp_path / "passphrase").write_text(text, encoding="utf-8")
    found = conf.load(f"{HOSTS}audit: {{passphrase_file: passphrase}}\n").audit
    assert found
    assert found.passphrases == (WORDS,)


def test_blanks_around_a_passphrase_are_not_part_of_it(conf: Conf) -> None:
    """A variable that ends in a line feed has the same passphrase as a file that does."""
    found = conf.load(HOSTS + 'audit: {passphrase: "${WORDS}"}\n', {"WORDS": f"{WORDS}\n"}).audit
    assert found
    assert found.passphrases == (WORDS,)


def test_passphrase_that_is_all_digits_is_a_text(conf: Conf) -> None:
    """YAML takes it for a number; its zeros, and its end, stay."""
    for digits in ("0123456789012345", "1234567890123456", "12345678901234567890", "1234567890.1234500"):
        found = conf.load(f"{HOSTS}audit: {{passphrase: {digits}}}\n").audit
        assert found
        assert found.passphrases == (digits,)


def test_passphrase_may_be_given_by_a_pipe(conf: Conf, tmp_path: Path) -> None:
    """A file that can be read once is read once, as one that a secret manager hands over."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(WORDS,))
    writer.start()
    found = conf.load(f"{HOSTS}audit: {{passphrase_file: pipe}}\n").audit
    writer.join()
    assert found
    assert found.passphrases == (WORDS,)


def test_passphrase_before_may_be_in_a_file_too(conf: Conf, tmp_path: Path) -> None:
    """The present passphrase comes first, wherever each of the two stands."""
    (tmp_path / "before").write_text("tuna mayonnaise sandwich\n")
    text = f"{HOSTS}audit: {{previous_passphrase_file: before, passphrase: {WORDS}}}\n"
    found = conf.load(text).audit
    assert found
    assert found.passphrases == (WORDS, "tuna mayonnaise sandwich")


def test_passphrase_before_is_another(conf: Conf, tmp_path: Path) -> None:
    """A change-over between a passphrase and itself is a slip: the old one is lost, and reports would be refused."""
    (tmp_path / "before").write_text(f"{WORDS}\n")
    (line,) = conf.problems(HOSTS + AUDIT + "  previous_passphrase_file: before\n")
    assert line.startswith(
        "conf.yml:5: audit.previous_passphrase_file: equals the current passphrase; set the previous one"
    )


@pytest.mark.parametrize("length", [0, 1, 15])
def test_passphrase_that_can_be_guessed_is_refused(conf: Conf, tmp_path: Path, length: int) -> None:
    """Less than 16 characters are too few, blanks around them not counted, and no message has them."""
    (tmp_path / "passphrase").write_text("x" * length + " " * 20)
    (line,) = conf.problems(f"{HOSTS}audit: {{passphrase: '{'x' * length}{' ' * 20}'}}\n")
    assert line.startswith("conf.yml:3: audit.passphrase: expected at least 16 characters (")
    (line,) = conf.problems(f"{HOSTS}audit: {{passphrase_file: passphrase}}\n")
    path = tmp_path / "passphrase"
    assert line.startswith(f'conf.yml:3: audit.passphrase_file: the file "{path}" holds fewer than 16 characters (')


@pytest.mark.parametrize(("age", "seconds"), [("1h", HOUR), ("3600", HOUR), ("26h", 26 * HOUR), ("366d", 366 * DAY)])
def test_max_age_is_a_duration(conf: Conf, age: str, seconds: float) -> None:
    """A report is late after an hour to a year; numbers are seconds."""
    assert audit(conf, f"  max_age: {age}\n").max_age == seconds


@pytest.mark.parametrize(("keep", "seconds"), [("1", DAY), ("30", 30 * DAY), ("24h", DAY), ("36500", 36_500 * DAY)])
def test_keep_is_days(conf: Conf, keep: str, seconds: float) -> None:
    """Reports are kept for days, as changes are for `history`."""
    assert audit(conf, f"  keep: {keep}\n").keep == seconds


def test_hosts_that_report_may_be_all_there_are(conf: Conf) -> None:
    """A file for reports alone needs neither hosts to scan nor ports."""
    config = conf.load(f"{AUDIT}  hosts: [db1, db2]\n")
    assert config.hosts == ()
    assert config.audit
    assert config.audit.hosts == ("db1", "db2")


def test_roster_is_no_excuse_for_a_host_without_ports(conf: Conf) -> None:
    """Hosts to scan need ports to scan, whoever reports."""
    (line,) = conf.problems(f"hosts: {{db1: 22}}\n{AUDIT}  hosts: [db2]\n")
    assert line.startswith("conf.yml:1: scanports: missing")


def test_hosts_that_must_report_are_marked(conf: Conf) -> None:
    """`audit: true` at a host or a CIDR puts it on the roster; without it, or with false, it is not."""
    config = conf.load(
        f"hosts: {{a: {{audit: true}}, b: {{audit: no}}, c: 22, 192.0.2.0/24: {{audit: on}}}}\nscanports: 22\n{AUDIT}"
    )
    assert {host.name: host.is_audited for host in config.hosts} == {
        "a": True,
        "b": False,
        "c": False,
        "192.0.2.0/24": True,
    }


def test_sources_whose_hosts_must_report_are_marked(conf: Conf) -> None:
    """`audit: true` at a source of discovery is about every host that it finds."""
    config = conf.load(f"""scanports: 22
discovery:
  file_sd: [{{files: a.json, audit: true}}, {{files: b.json}}]
  dns: [{{names: _ssh._tcp.example.org, audit: yes}}]
{AUDIT}""")
    assert [(type(item), item.entry.is_audited) for item in config.discovery] == [
        (FileSource, True),
        (FileSource, False),
        (DnsSource, True),
    ]


def test_no_report_is_expected_without_the_block(conf: Conf) -> None:
    """`audit: false` needs no passphrase."""
    config = conf.load("hosts: {db1: {audit: false}, db2: {audit: 'off'}}\nscanports: 22\n")
    assert not any(host.is_audited for host in config.hosts)


def test_large_roster_loads(conf: Conf) -> None:
    """Ten thousand names are held against each other in no time, and two that are the same are found."""
    names = [f"host{number}.example.org" for number in range(10_000)]
    assert len(audit(conf, f"  hosts: [{', '.join(names)}]\n").hosts) == 10_000
    (line,) = conf.problems(HOSTS + AUDIT + f"  hosts: [{', '.join(names)}, HOST7.example.org]\n")
    assert line.endswith('"HOST7.example.org" is the same host as "host7.example.org" on line 5')


@MODEST
@given(domain=st.text(st.characters(codec="utf-8", exclude_characters="$"), min_size=1, max_size=12))
def test_any_domain_is_an_expression_or_is_told(tmp_path_factory: pytest.TempPathFactory, domain: str) -> None:
    """No text in `domain` makes a traceback, nor a warning of Python's."""
    file = tmp_path_factory.mktemp("domain") / "conf.yml"
    quoted = domain.replace("'", "''")
    file.write_text(f"{HOSTS}{AUDIT}  domain: '{quoted}'\n", encoding="utf-8")
    with contextlib.suppress(ConfigError):
        load(file, {})


@pytest.mark.parametrize("domain", ["(" * 5000, "(" * 5000 + ")" * 5000, "a{99999999999999999999}", "[a--b]", "*"])
def test_domain_that_is_no_expression_is_told(conf: Conf, domain: str) -> None:
    """An expression that Python cannot read, or warns of, is one line."""
    (line,) = conf.problems(HOSTS + AUDIT + f"  domain: '{domain}'\n")
    assert line.startswith("conf.yml:5: audit.domain: is ")


@pytest.mark.parametrize("name", ["report.html", "index.htm", "out/report.html"])
def test_reportfile_is_relative_to_the_configuration(conf: Conf, tmp_path: Path, name: str) -> None:
    """The report lies where the path says, from conf.yml on; the file itself need not be there."""
    (tmp_path / "out").mkdir()
    assert conf.load(f"{HOSTS}reportfile: {name}\n").reportfile == str(tmp_path / name)
    assert conf.load(f"{HOSTS}reportfile: {tmp_path / name}\n").reportfile == str(tmp_path / name)
    assert conf.load(HOSTS).reportfile is None


def test_reportfile_is_no_directory(conf: Conf, tmp_path: Path) -> None:
    """A directory that is called like a page cannot be replaced by one."""
    (tmp_path / "report.html").mkdir()
    assert conf.problems(f"{HOSTS}reportfile: report.html\n") == [
        f'conf.yml:3: reportfile: "{tmp_path / "report.html"}" is a directory; name a file'
    ]


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 200] * 30)])
def test_reportfile_in_a_directory_that_cannot_be_is_told(conf: Conf, name: str) -> None:
    """What the system says of a path is one line, and no traceback."""
    (line,) = conf.problems(f"{HOSTS}reportfile: {name}/report.html\n")
    assert line.startswith("conf.yml:3: reportfile: directory ")


MAIL = "smtpserver: smtp.example.org\nalertemail: security@example.org\nfromemail: portspec@example.org\n"


@pytest.mark.parametrize(
    ("written", "at"),
    [
        ('"07:00"', time(7, 0)),
        ('"7:05"', time(7, 5)),
        ("07:00", time(7, 0)),
        ("19:30", time(19, 30)),
        ("7:30", time(7, 30)),
        ('"00:00"', time(0, 0)),
        ('"23:59"', time(23, 59)),
        ('" 07:00 "', time(7, 0)),
    ],
)
def test_reportmail_is_a_time_of_day(conf: Conf, written: str, at: time) -> None:
    """With quotes or without: 19:30, which YAML 1.1 reads as 1170, is half past seven in the evening."""
    config = conf.load(f"{HOSTS}{MAIL}reportmail: {written}\n")
    assert config.reportmail == at
    assert config.mail
    assert config.mail.mode == "off"


@pytest.mark.parametrize(
    "written", ["24:00", "7", "0700", "7:5", "07:60", "07:00:00", "7 am", "7:00pm", "[07:00]", "~"]
)
def test_reportmail_is_nothing_else(conf: Conf, written: str) -> None:
    """What is no time of a day is told as that, whether or not a mail could be sent."""
    expected = 'reportmail: expected a time of day from "00:00" to "23:59", such as "07:00"'
    assert conf.problems(f"{HOSTS}reportmail: {written}\n") == [f"conf.yml:3: {expected}"]
    assert conf.problems(f"{HOSTS}{MAIL}reportmail: {written}\n") == [f"conf.yml:6: {expected}"]


def test_exceptions_of_vulnerabilities_are_apart(conf: Conf) -> None:
    """An exception accepts ports, vulnerabilities, or both; ids are compared in lower case."""
    config = conf.load(f"""{HOSTS}
exceptions:
  - {{hosts: ["www*"], ids: [CVE-2026-12345, GHSA-g6xq-qcmv-9x6h], until: 2027-03-31, reason: unused, owner: web}}
  - {{hosts: db1, ports: 80, until: 2027-03-31}}
  - {{hosts: db1, ports: 22, ids: DSA-6789-1, until: 2027-03-31}}
""")
    assert config.accepted == (
        VulnerabilityException(("www*",), ("cve-2026-12345", "ghsa-g6xq-qcmv-9x6h"), END, "unused", "web"),
        VulnerabilityException(("db1",), ("dsa-6789-1",), END),
    )
    assert config.exceptions == (
        PortException(("db1",), PortSet.of([80]), END),
        PortException(("db1",), PortSet.of([22]), END),
    )
    assert conf.load(HOSTS).accepted == ()


@pytest.mark.parametrize(
    "written",
    [
        "CVE-2026-12345",
        "TEMP-0000000-F4CE43",
        "40a3bca2-6809-11d9-a9e7-0001020eed82",
        "FreeBSD-SA-26:01.openssl",
        "RUSTSEC-2022-0013",
        "Gitlab -- no CVE",
        "dns/c-ares -- malformatted file, or none: what then?",
        "mailman -- cross-site scripting (XSS) *",
        "bücher -- ungültig",
        "2026",
    ],
)
def test_id_is_what_the_report_shows(conf: Conf, written: str) -> None:
    """Every id that a tool gives can be accepted, and the title of what its tool gives no id."""
    config = conf.load(f'{HOSTS}exceptions: [{{hosts: db1, ids: " {written} ", until: 2027-03-31}}]\n')
    assert config.accepted[0].ids == (written.lower(),)
