from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from portspec.cli.check import host_lines
from portspec.config import HostConfig, Specification
from portspec.inventory import Resolution, Target
from portspec.ports import PortSet
from tests.unit.capabilities import need_raw_sockets, unprivileged
from tests.unit.cli.run import ONLY_PERMITTED, PROGRAM, call, run
from tests.unit.feeds.lists import kev
from tests.unit.scan.loopback import own_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.cli.conftest import Configure

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "conf.yml"


def estimate(conf: str, *, program: Sequence[str] = ()) -> tuple[str, str]:
    """Return the engine that `check` counts with, and how long it estimates a round to take."""
    done = run("check", "-c", conf, cwd=ROOT, program=program) if program else call("check", "-c", conf)
    found = re.search(r"^estimated duration of a round with the (\w+) engine: (.*)$", done.out, re.MULTILINE)
    assert found, done
    return found[1], found[2]


def test_right_file_is_exit_0(configure: Configure) -> None:
    """Check prints each host with its addresses and ports, then probes and duration of a round, and exits 0."""
    conf = configure({"127.0.0.1": {"expect": [22, 80], "allow": [443]}, "::1": {"scanports": ["1-1000"]}}, ["1-100"])
    done = run("check", "-c", conf)
    assert (done.code, done.err) == (0, "")
    first, second, *rest = done.out.splitlines()
    assert " ".join(first.split()) == "127.0.0.1 127.0.0.1 101 ports, expect 22, 80, allow 443"
    assert " ".join(second.split()) == "::1 ::1 1,000 ports, expect none"
    assert rest[1] == "2 hosts, 2 addresses, 1,101 probes per round"
    assert rest[-1] == f"{conf} is valid."


@pytest.mark.parametrize("engine", ["connect", "syn"])
def test_estimate_heeds_the_rate(configure: Configure, engine: str) -> None:
    """The estimated duration is that of the rate, where that is what a round takes."""
    conf = configure({"127.0.0.1": []}, ["1-6000"], scan={"rate": 100, "engine": engine})
    assert estimate(conf) == (engine, "1 min if every probe is answered at once, 3 min if none is")


@pytest.mark.parametrize("engine", ["connect", "syn"])
def test_estimate_heeds_the_host_rate(configure: Configure, engine: str) -> None:
    """With a host rate a round takes as long as the host with the most ports, not as long as all of them."""
    hosts = {"127.0.0.1": [], "127.0.0.2": [], "::1": {"scanports": [1]}}
    conf = configure(hosts, ["1-6000"], scan={"host_rate": 100, "engine": engine})
    assert estimate(conf) == (engine, "1 min if every probe is answered at once, 3 min if none is")


@pytest.mark.parametrize("engine", ["connect", "syn"])
def test_estimate_heeds_how_many_hosts_share_the_time(configure: Configure, engine: str) -> None:
    """One host after the other, each at the host rate, take as long as all of them together."""
    hosts: dict[str, list[int]] = {"127.0.0.1": [], "127.0.0.2": [], "127.0.0.3": []}
    conf = configure(hosts, ["1-6000"], parallelscans=1, scan={"host_rate": 100, "engine": engine})
    assert estimate(conf) == (engine, "3 min if every probe is answered at once, 9 min if none is")


def test_estimate_is_that_of_the_engine_that_would_scan(configure: Configure) -> None:
    """With `engine: auto` the estimate is for connect(2) where raw sockets may not be used."""
    conf = configure({"127.0.0.1": []})
    assert estimate(conf, program=[*unprivileged(), *PROGRAM])[0] == "connect"


@pytest.mark.parametrize(
    "program",
    [PROGRAM, ONLY_PERMITTED],
    ids=["effective", "permitted"],
)
def test_estimate_is_that_of_syns_where_they_may_be_sent(configure: Configure, program: Sequence[str]) -> None:
    """With `engine: auto` the estimate is for the SYN engine where it would scan."""
    need_raw_sockets()
    assert estimate(configure({"127.0.0.1": []}), program=program)[0] == "syn"


def test_name_that_does_not_resolve_is_a_warning(configure: Configure) -> None:
    """A name without an address is told and warned of; the file is right nevertheless."""
    done = call("check", "-c", configure({"nowhere.invalid": [], "localhost": []}))
    assert done.code == 0
    assert "nowhere.invalid  does not resolve (no A record)" in done.out
    assert "1 of 2 hosts would be unknown" in done.out


def warnings(conf: str) -> list[str]:
    """Return the warnings of `check` about a file that is right."""
    done = call("check", "-c", conf)
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f"{conf} is valid.\n")
    return [line.removeprefix("warning: ") for line in done.out.splitlines() if line.startswith("warning: ")]


def test_former_names_are_told(configure: Configure, tmp_path: Path) -> None:
    """Those of a host stand in its line; those that do not count are a warning."""
    targets = [{"targets": ["127.0.0.2"], "labels": {"__portspec_renamed_from": "old2,127.0.0.1"}}]
    (tmp_path / "found.json").write_text(json.dumps(targets))
    sources = {"file_sd": [{"files": [str(tmp_path / "found.json")]}]}
    conf = configure({"127.0.0.1": {"renamed_from": ["OLD1", "old0"]}}, discovery=sources, deny=[])
    lines = [" ".join(line.split()) for line in call("check", "-c", conf).out.splitlines()[:2]]
    assert [line.partition("expect none, ")[2] for line in lines] == ["renamed from old1, old0", "renamed from old2"]
    (warning,) = warnings(conf)
    assert warning.startswith("127.0.0.2 does not go on with what is known of 127.0.0.1: that is a host, too, or ")


def test_exception_that_does_nothing_is_a_warning(configure: Configure) -> None:
    """An exception that has lapsed, matches no host, or is about ports that nobody scans is told; others are not."""
    conf = configure(
        {"127.0.0.1": [22], "127.1.0.0/30": []},
        [22, 80],
        exceptions=[
            {"hosts": ["127.0.0.1"], "ports": [80], "until": "2020-02-29"},
            {"hosts": ["db*", "web1"], "ports": [80, 443], "until": "2999-12-31"},
            {"hosts": ["127.*"], "ports": ["8000-8100"], "until": "2999-12-31"},
            {"hosts": ["127.0.0.*"], "ports": [80], "until": "2999-12-31"},
            {"hosts": ["127.1.0.0/30"], "ports": "all", "until": "2999-12-31"},
            {"hosts": ["127.1.0.3"], "ports": [22, 8080], "until": "2999-12-31"},
        ],
    )
    assert warnings(conf) == [
        (
            "the exception (hosts 127.0.0.1; ports 80) expired after 2020-02-29; its deviations count again: "
            "remove it or extend it"
        ),
        "the exception (hosts db*, web1; ports 80, 443) matches no host",
        "the exception (hosts 127.*; ports 8000-8100) is about ports that are not scanned",
    ]


def test_source_that_fails_is_a_warning(configure: Configure, tmp_path: Path) -> None:
    """A source of discovery that cannot be read, and targets that are no hosts, are told; the file is right."""
    (tmp_path / "bad.json").write_text("nonsense: [", encoding="utf-8")
    (tmp_path / "odd.json").write_text('[{"targets": ["192.0.2.1", "http://x/"]}]', encoding="utf-8")
    sources = [{"files": ["bad.json"]}, {"files": ["odd.json"]}]
    done = call("check", "-c", configure({"127.0.0.1": []}, discovery={"file_sd": sources}))
    assert done.code == 0
    told = [line for line in done.out.splitlines() if line.startswith("warning: ")]
    assert len(told) == 2
    assert "failed" in told[0]
    assert "names 1 target that cannot be scanned" in told[1]
    assert "192.0.2.1" in done.out


def test_file_whose_hosts_are_all_to_be_discovered_is_right(tmp_path: Path) -> None:
    """Where no source gives a host yet, check says so and is no crash."""
    conf = tmp_path / "conf.yml"
    conf.write_text("scanports: [22]\ndiscovery: {file_sd: [{files: [none.json]}]}\n", encoding="utf-8")
    done = call("check", "-c", str(conf))
    assert done.code == 0, done.err
    assert done.out.endswith(f"{conf} is valid.\n")


def test_wrong_file_is_exit_2_with_every_problem(configure: Configure) -> None:
    """Each problem of a file is a line on standard error, as compilers print it; standard output stays empty."""
    conf = configure({"db1": ["80a"], "web 1": []}, ["0"], intervall=60)
    done = call("check", "-c", conf)
    assert (done.code, done.out) == (2, "")
    lines = done.err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"{conf}:1: ") for line in lines)
    assert any('hosts."db1": "80a" is not a port' in line for line in lines)
    assert any("intervall: unknown key (did you mean interval?)" in line for line in lines)


def test_missing_file_is_exit_2(tmp_path: Path) -> None:
    """A file that is not there is exit 2, with the way to name another one."""
    done = call("check", "-c", str(tmp_path / "none.yml"))
    assert (done.code, done.out) == (2, "")
    assert done.err == f"{tmp_path / 'none.yml'}: no such file; name the configuration file with -c FILE\n"


def test_variable_that_is_not_utf_8_is_refused(configure: Configure) -> None:
    """A ${VARIABLE} whose bytes are no text is a problem of the file: it could be written to no page and no metric."""
    conf = configure({"127.0.0.1": {"labels": {"site": "${SITE}"}}})
    done = call("check", "-c", conf, extra={"SITE": "caf\udce9"})
    assert (done.code, done.out) == (2, "")
    assert "SITE" in done.err


def test_example_of_the_repository_is_right() -> None:
    """The conf.yml of the repository passes its own check."""
    done = run("check", "-c", str(EXAMPLE))
    assert (done.code, done.err) == (0, "")
    assert "localhost  127.0.0.1" in done.out


def test_warning_of_an_exception_names_who_knows(configure: Configure) -> None:
    """Reason and owner stand in the warning of an exception that does nothing, so that one knows whom to ask."""
    item = {"hosts": ["nowhere"], "ports": [80], "until": "2999-01-01", "reason": "old balancer", "owner": "web team"}
    done = call("check", "-c", configure({own_address(): []}, exceptions=[item]))
    told = "the exception (hosts nowhere; ports 80; reason old balancer; owner web team) matches no host"
    assert f"warning: {told}" in done.out.splitlines()


AUDIT = {"passphrase": "correct horse battery staple"}


def test_check_warns_of_maintenance_without_effect(configure: Configure) -> None:
    """What is over, and what matches no host, is told; what is of an audited host, or to come, is not."""
    conf = configure(
        {"127.0.0.1": []},
        [22],
        audit=AUDIT | {"hosts": ["mail1"]},
        maintenance=[
            {"hosts": ["127.*"], "until": "2020-02-29", "reason": "move", "owner": "ops"},
            {"hosts": ["db*"], "until": "2999-12-31"},
            {"hosts": ["mail1"], "until": "2999-12-31"},
            {"hosts": ["127.0.0.1"], "from": "2998-12-31", "until": "1h"},
        ],
    )
    assert warnings(conf) == [
        "the maintenance (hosts 127.*; reason move; owner ops) expired after 2020-02-29: remove it or extend it",
        "the maintenance (hosts db*) matches no host",
    ]


def test_check_tells_who_has_to_report(configure: Configure, tmp_path: Path) -> None:
    """The hosts of the roster are counted, each once, wherever they stand; so are discovered ones."""
    (tmp_path / "found.json").write_text('[{"targets": ["192.0.2.9:9100", "127.0.0.1"]}]', encoding="utf-8")
    conf = configure(
        {"127.0.0.1": {"audit": True}, "127.1.0.0/30": {"audit": True}, "::1": []},
        audit=AUDIT | {"hosts": ["127.0.0.1", "127.0.0.2"], "max_age": "50h", "keep": 30},
        discovery={"file_sd": [{"files": ["found.json"], "audit": True}]},
    )
    done = call("check", "-c", conf)
    assert (done.code, done.err) == (0, "")
    told = "audits: expected from 7 hosts, late after 2 d 2 h, kept for 30 d"
    assert told in done.out.splitlines()
    assert "warning" not in done.out
    assert "correct horse" not in done.out


def test_check_tells_of_a_change_over(configure: Configure) -> None:
    """As long as two passphrases are good, that is said."""
    audit = AUDIT | {"previous_passphrase": "tuna mayonnaise sandwich", "hosts": ["127.0.0.1"]}
    out = call("check", "-c", configure({"127.0.0.1": []}, audit=audit)).out
    told = "audits: expected from 1 host, late after 1 d 2 h, kept for 90 d; both passphrases are valid"
    assert told in out.splitlines()


def test_check_tells_where_the_report_goes(configure: Configure, tmp_path: Path) -> None:
    """The file and the daily mail are told, also where no other mail is sent; without TLS there is a warning."""
    mail = {"smtpserver": "smtp.example.org", "alertemail": ["a@example.org", "b@example.org"], "fromemail": "p@x.org"}
    conf = configure({"127.0.0.1": []}, reportfile="all.html", reportmail="7:05", smtptls="none", **mail)
    done = call("check", "-c", conf)
    assert (done.code, done.err) == (0, "")
    written = f"report of all machines: written to {tmp_path / 'all.html'}"
    told = f"{written}, mailed at 07:05 each day to 2 addresses by smtp.example.org"
    assert told in done.out.splitlines()
    assert "mails to" not in done.out
    assert 'warning: mails are sent without TLS (smtptls is "none")' in done.out
    assert written in call("check", "-c", configure({"127.0.0.1": []}, reportfile="all.html")).out.splitlines()


def test_exception_of_vulnerabilities_that_does_nothing_is_a_warning(configure: Configure) -> None:
    """An exception by id that has lapsed, or is about no host that has to report, is told, and who knows of it."""
    ids = {"ids": ["CVE-2026-12345", "DSA-6789-1"], "until": "2999-12-31"}
    conf = configure(
        {"127.0.0.1": {"audit": True}, "127.1.0.0/30": []},
        [22, 80],
        audit=AUDIT | {"hosts": ["127.1.0.2"]},
        exceptions=[
            {"hosts": ["127.0.0.1"], **ids},
            {"hosts": ["127.1.0.0/30"], **ids},
            {"hosts": ["127.0.0.1"], **ids, "until": "2020-02-29"},
            {"hosts": ["127.1.0.1", "db*"], **ids, "reason": "not reachable", "owner": "web team"},
            {"hosts": ["127.1.0.3"], **ids, "ports": [80]},
        ],
    )
    known = "ids cve-2026-12345, dsa-6789-1"
    assert warnings(conf) == [
        (
            f"the exception (hosts 127.0.0.1; {known}) expired after 2020-02-29; its vulnerabilities "
            "count again: remove it or extend it"
        ),
        (
            f"the exception (hosts 127.1.0.1, db*; {known}; reason not reachable; owner web team) matches no audited "
            "host"
        ),
        f"the exception (hosts 127.1.0.3; {known}) matches no audited host",
    ]


def test_exception_of_vulnerabilities_without_reports_is_a_warning(configure: Configure) -> None:
    """Without an audit block there are no vulnerabilities to accept."""
    item = {"hosts": ["*"], "ids": ["CVE-2026-12345"], "until": "2999-12-31"}
    assert warnings(configure({"127.0.0.1": []}, exceptions=[item])) == [
        "the exception (hosts *; ids cve-2026-12345) matches no audited host"
    ]


def test_passphrase_that_nobody_uses_is_a_warning(configure: Configure) -> None:
    """An audit block without a roster asks nobody for a report."""
    assert warnings(configure({"127.0.0.1": []}, audit=AUDIT)) == [
        "no host is audited: list hosts in audit.hosts, or set audit: true on hosts or sources"
    ]


def test_file_for_reports_alone_is_right(tmp_path: Path) -> None:
    """Where hosts only report there is nothing to scan, and check says so."""
    conf = tmp_path / "conf.yml"
    conf.write_text("audit: {passphrase: correct horse battery staple, hosts: [db1, db2]}\n", encoding="utf-8")
    done = call("check", "-c", str(conf))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("0 hosts, 0 addresses, 0 probes per round\n")
    assert "audits: expected from 2 hosts, late after 1 d 2 h, kept for 90 d\n" in done.out


@pytest.mark.parametrize(("mode", "is_told"), [(0o600, False), (0o666, True)])
def test_check_warns_of_files_that_others_may_change(configure: Configure, mode: int, *, is_told: bool) -> None:
    """A configuration of mode 0666 is a warning with what to do; it is valid nevertheless."""
    conf = configure({"127.0.0.1": []})
    Path(conf).chmod(mode)
    done = call("check", "-c", conf)
    assert done.code == 0
    assert (f"warning: {conf} is writable by every user: chmod o-w {conf}" in done.out.splitlines()) == is_told


def test_check_warns_of_a_secret_that_everybody_may_read(configure: Configure, tmp_path: Path) -> None:
    """A file of a passphrase of mode 0644 is a warning, without a word of the passphrase."""
    (tmp_path / "secret").write_text("open sesame, open sesame", encoding="utf-8")
    (tmp_path / "secret").chmod(0o644)
    done = call("check", "-c", configure({"127.0.0.1": {"audit": True}}, audit={"passphrase_file": "secret"}))
    told = f"warning: {tmp_path}/secret contains a secret and is readable by every user: chmod o-r {tmp_path}/secret"
    assert told in done.out.splitlines()
    assert "sesame" not in done.out


def test_check_warns_of_a_report_that_cannot_be_written(configure: Configure, tmp_path: Path) -> None:
    """Where this user may not write `reportfile` there is a warning, and a directory that is not there is an error."""
    (tmp_path / "pages").mkdir()
    conf = configure({"127.0.0.1": []}, reportfile="pages/index.html")
    assert "warning" not in call("check", "-c", conf).out
    os.mkfifo(tmp_path / "pages" / "index.html")
    told = f"warning: reportfile {tmp_path}/pages/index.html cannot be written: it exists and is not a regular file"
    assert told in call("check", "-c", conf).out.splitlines()
    (tmp_path / "pages" / "index.html").unlink()
    tmp_path.chmod(0o755)
    (tmp_path / "pages").chmod(0o555)
    prefix = unprivileged() if os.geteuid() == 0 else ()
    done = run("check", "-c", conf, program=[*prefix, *PROGRAM])
    assert f"{tmp_path}/pages/index.html cannot be written: this user may not write to its directory" in done.out
    (tmp_path / "pages").rmdir()
    done = call("check", "-c", conf)
    assert (done.code, f'directory "{tmp_path}/pages" does not exist' in done.err) == (2, True)


def test_check_warns_of_lists_that_cannot_be_used(configure: Configure, tmp_path: Path) -> None:
    """A file is read as the exporter does; a URL is not asked for."""
    audit = {"passphrase": "a passphrase of the test", "hosts": ["db1"]}
    feeds = {"kev": "kev.json", "epss": "https://example.org/epss.csv.gz"}
    conf = configure({"127.0.0.1": []}, audit=audit, feeds=feeds)
    path = tmp_path / "kev.json"
    told = f"warning: feeds.kev: {path} cannot be read: no such file or directory"
    assert told in call("check", "-c", conf).out.splitlines()
    path.write_text("<html>", encoding="utf-8")
    told = f"warning: feeds.kev: the list in {path} is HTML or XML; is the URL or path that of a page about it?"
    assert told in call("check", "-c", conf).out.splitlines()
    path.write_bytes(kev("CVE-2021-44228"))
    assert "feeds" not in call("check", "-c", conf).out
    conf = configure({"127.0.0.1": []}, feeds=feeds)
    assert "warning: feeds has no effect without audit" in call("check", "-c", conf).out


@pytest.mark.parametrize(
    ("limit", "is_told"), [("fix_now", True), ("negligible", True), ("critical", False), ("missing", False)]
)
def test_deadlines_of_vulnerabilities_need_audits(configure: Configure, limit: str, *, is_told: bool) -> None:
    """Without audits, limits of vulnerabilities alone get a warning; critical is a severity of ports, too."""
    conf = configure({"127.0.0.1": []}, deadlines={limit: 3})
    done = call("check", "-c", conf)
    assert ("warning: the deadlines of vulnerabilities have no effect without audit" in done.out) is is_told
    assert "no effect" not in call("check", "-c", configure({"127.0.0.1": []})).out


def test_many_warnings_of_a_kind_are_the_first_ones_and_their_number(configure: Configure) -> None:
    """So that the conclusion stays visible; --all shows every one."""
    exceptions = [{"hosts": [f"gone{number}"], "ports": [22], "until": "9999-12-31"} for number in range(50)]
    conf = configure({"127.0.0.1": []}, [22], exceptions=exceptions)
    lines = call("check", "-c", conf).out.splitlines()
    assert sum("matches no host" in line for line in lines) == 20
    assert "warning: 30 others like the last one (--all shows them)" in lines
    lines = call("check", "--all", "-c", conf).out.splitlines()
    assert sum("matches no host" in line for line in lines) == 50


def test_long_list_of_ports_is_cut(configure: Configure) -> None:
    """It ends at a port, with the number of all; --all shows each one."""
    conf = configure({"127.0.0.1": list(range(1, 60_000, 2))}, ["all"])
    line = call("check", "-c", conf).out.splitlines()[0]
    assert line.endswith(", … (30,000 in all; --all shows them)")
    assert len(line) < 300
    assert "59997, 59999" in call("check", "--all", "-c", conf).out


def test_a_network_is_one_line(configure: Configure) -> None:
    """Each address of a CIDR is shown with --all only; an address with an entry of its own has its own line."""
    conf = configure({"10.0.0.0/16": [22], "10.0.0.5": [22, 80], "10.1.0.0/30": {"expect": [22], "allow": [80]}}, [22])
    done = call("check", "-c", conf)
    assert [" ".join(line.split()) for line in done.out.splitlines()[:4]] == [
        "10.0.0.0/16 65,535 addresses 1 port, expect 22",
        "10.0.0.5 10.0.0.5 2 ports, expect 22, 80",
        "10.1.0.0/30 4 addresses 2 ports, expect 22, allow 80",
        "",
    ]
    assert "65,540 hosts, 65,540 addresses" in done.out
    everything = call("check", "-c", conf, "--all").out.splitlines()
    assert len(everything) - len(done.out.splitlines()) == 65_540 - 3


def test_many_hosts_are_told_in_few_lines(configure: Configure) -> None:
    """Names that do not resolve come first, and the conclusion is seen; --all lists every host in its order."""
    hosts = {f"127.0.1.{last}": [22] for last in range(150)} | {"nowhere.invalid": [22]}
    conf = configure(hosts, [22])
    lines = call("check", "-c", conf).out.splitlines()
    assert len(lines) < 115
    assert lines[0].startswith("nowhere.invalid  does not resolve")
    assert lines[100] == "… and 51 more lines (--all shows every host)"
    assert lines[-1] == f"{conf} is valid."
    everything = call("check", "-c", conf, "--all").out.splitlines()
    assert [line.split()[0] for line in everything[:151]] == list(hosts)


def test_many_addresses_of_a_name_are_told_in_few_words() -> None:
    """A name with hundreds of addresses makes no line that nobody can read."""
    host = Target("many.example.org", HostConfig("many.example.org", Specification(), PortSet.of([22]), interval=60.0))
    found = {0: Resolution(tuple(f"192.0.2.{last}" for last in range(1, 101)))}
    (line,) = host_lines([host], found, everything=False)
    assert "192.0.2.8, and 92 more  1 port" in line
    (line,) = host_lines([host], found, everything=True)
    assert line.count("192.0.2.") == 100


@pytest.mark.parametrize(
    ("scan", "told"),
    [
        ({"host_rate": 10}, "127.0.0.1 and 1 other host would be unknown, reason timeout: at host_rate 10 "),
        (
            {"host_rate": 15},
            "127.0.0.1 would be unknown, reason timeout: at host_rate 15 a scan takes 1 min 7 s, and it is ",
        ),
        ({"host_rate": 15, "max_duration": "2m"}, None),
        ({"host_rate": 1000, "max_duration": 1}, None),
        ({"max_duration": 1}, None),
    ],
)
def test_hosts_that_take_longer_than_they_may_are_warned_of(
    configure: Configure, scan: dict[str, object], told: str | None
) -> None:
    """Check tells of hosts whose ports cannot be scanned within the limit of time at `host_rate`."""
    hosts = {"127.0.0.1": {"scanports": ["1-1000"]}, "127.0.0.2": {"scanports": ["1-700"]}, "127.0.0.3": [1]}
    done = run("check", "-c", configure(hosts, [1], interval=30, scan=scan))
    found = [line.removeprefix("warning: ") for line in done.out.splitlines() if "reason timeout" in line]
    assert done.code == 0
    assert len(found) == (told is not None)
    assert told is None or found[0].startswith(told)


def test_web_configuration_file_is_checked(configure: Configure, tmp_path: Path) -> None:
    """With --web.config.file that file is validated as well, and what is doubtful in it is a warning."""
    conf, web = configure({"127.0.0.1": []}, [1]), tmp_path / "web.yml"
    web.write_text("basic_auth_users: {alice: $2b$12$abcdefghijklmnopqrstuuSvDJmfFKDiZ0ac4rcqwjIPvNcgDzWwW}\n")
    web.chmod(0o600)
    done = call("check", "-c", conf, "--web.config.file", str(web))
    assert (done.code, done.err) == (0, "")
    assert "warning: passwords and tokens cross the network unencrypted" in done.out
    assert done.out.endswith(f"{conf} is valid.\n{web} is valid.\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense: 1\n", "web.yml:1: nonsense: "),
        ("tls_server_config: {cert_file: none.crt, key_file: none.key}\n", "none.crt: "),
    ],
)
def test_web_configuration_file_that_is_not_valid_is_exit_2(
    configure: Configure, tmp_path: Path, text: str, problem: str
) -> None:
    """What `serve` would not start with is an error here, with the file and what is wrong."""
    web = tmp_path / "web.yml"
    web.write_text(text)
    done = call("check", "-c", configure({"127.0.0.1": []}, [1]), "--web.config.file", str(web))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"{tmp_path / problem}")


def test_check_tells_which_discovered_hosts_are_denied(configure: Configure, tmp_path: Path) -> None:
    """Each is shown with its denied address and costs no probe; the same address in conf.yml is not denied."""
    (tmp_path / "found.json").write_text(
        '[{"targets": ["127.0.0.9:9100", "localhost", "192.0.2.1", "127.0.0.1"]}]', encoding="utf-8"
    )
    sources = {"file_sd": [{"files": ["found.json"]}]}
    done = call("check", "-c", configure({"127.0.0.1": []}, [22], discovery=sources))
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    hint = "is denied to discovered hosts (deny: 127.0.0.0/8); to scan it, name the host under hosts, or leave"
    assert any(line.startswith(f"127.0.0.9 127.0.0.9 {hint}") for line in lines)
    assert any(line.startswith(f"localhost its address 127.0.0.1 {hint}") for line in lines)
    assert "4 hosts, 2 addresses, 2 probes per round" in lines
    assert lines[-3] == "warning: 2 discovered hosts would be unknown, reason denied: `deny` covers an address of each"
    done = call("check", "-c", configure({"127.0.0.1": []}, [22], discovery=sources, deny=[]))
    assert "denied" not in done.out
    assert "4 hosts, 3 addresses, 3 probes per round" in done.out
