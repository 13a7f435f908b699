from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from portspec.config import Config, HostConfig, ScanConfig, Specification, load
from portspec.errors import ConfigError, Problem
from portspec.ports import ALL_PORTS, NO_PORTS, PortSet
from tests.requirements import missing

if TYPE_CHECKING:
    from portspec.config.model import EngineChoice
    from tests.unit.config.conftest import Conf

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data" / "conf"
FAULTY = sorted(file.stem for file in DATA.glob("*.yml"))

# The shape of the example that PortSpec came with, and every key of mail that its manual names.
PORTSPEC = """\
# How often to scan
interval: 86400

# Both of these did nothing yet
ipv6: true
parallelscans: 10

hosts:
    "www.example.org":
        - 80
        - 443
        - 8443
    "mail.example.com":
        - 25
        - 587
    "example.net":

scanports:
    - 21
    - 22
    - 25
    - 80
    - 443
    - 3306
    - 27017

sendemail: false
smtpserver: "smtp.example.com"
smtpport: 587
smtpusername: "portspec@example.com"
smtppassword: "correct horse: battery #staple"
alertemail:
    - "security@example.com"
    - "noc@example.com"
fromemail: "portspec@example.com"
"""


def ports(*members: int) -> PortSet:
    """Make the set of these ports."""
    return PortSet.of(members)


def host_of(config: Config, name: str) -> HostConfig:
    """Return the entry of a host."""
    return next(host for host in config.hosts if host.name == name)


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_file_is_answered_with_exactly_the_expected_lines(name: str) -> None:
    """Each fault has one line that says where it is, what is wrong and what to write instead; at a reload, too."""
    file = DATA / f"{name}.yml"
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            load(file, {"NAME": "value"})
        said = str(caught.value).replace(str(file), "conf.yml").replace(f"{DATA}{os.sep}", "")
        assert said.split("\n") == file.with_suffix(".expected").read_text(encoding="utf-8").splitlines()


def test_every_faulty_file_has_its_expected_lines() -> None:
    """No file of expected lines is left behind when its configuration goes."""
    assert FAULTY
    assert sorted(file.stem for file in DATA.glob("*.expected")) == FAULTY


def test_an_error_carries_path_and_problems_by_line(conf: Conf, tmp_path: Path) -> None:
    """Programs get the same as people: the file, and line, key and message of each problem."""
    with pytest.raises(ConfigError) as caught:
        conf.load("interval: 60\nhosts:\n  db1: [22]\nscanports: [22]\nipv6: maybe\ninterval: 60\n")
    assert caught.value.path == str(tmp_path / "conf.yml")
    assert caught.value.problems == (
        Problem(5, "ipv6", "expected true or false"),
        Problem(6, "interval", "duplicate key (first defined on line 1)"),
    )
    assert caught.value.exit_code == 2


def test_a_portspec_file_loads_unchanged(conf: Conf) -> None:
    """The file of a PortSpec user means here what it meant there."""
    config = conf.load(PORTSPEC)
    scanned = ports(21, 22, 25, 80, 443, 3306, 27017)
    assert config.hosts == (
        HostConfig("www.example.org", Specification(ports(80, 443, 8443)), scanned | ports(8443), 86400.0),
        HostConfig("mail.example.com", Specification(ports(25, 587)), scanned | ports(587), 86400.0),
        HostConfig("example.net", Specification(), scanned, 86400.0),
    )
    assert config.ipv6 is True
    assert config.parallelscans == 10
    assert config.scan == ScanConfig()


def test_the_shipped_example_loads() -> None:
    """The conf.yml of the repository, which the first command of the README runs, has no fault."""
    assert load(ROOT / "conf.yml", {}).hosts


def test_what_is_left_out_has_its_default(conf: Conf, tmp_path: Path) -> None:
    """Hosts and scanports are all that a file needs."""
    assert conf.load("hosts: {db1: 22}\nscanports: 80\n") == Config(
        path=str(tmp_path / "conf.yml"),
        hosts=(HostConfig("db1", Specification(ports(22)), ports(22, 80), 3600.0),),
        ipv6=False,
        parallelscans=10,
        scan=ScanConfig(engine="auto", rate=None, host_rate=None, timeout=0.9, retries=2, confirm=2),
        discovery=(),
        exceptions=(),
        modules={},
        probe_allow=(),
        series_budget=100_000,
        state=str(tmp_path / "portspec.db"),
        history=365 * 86_400.0,
        autoreload=True,
    )


def test_hosts_keep_the_order_of_the_file(conf: Conf) -> None:
    """What the user put first comes first."""
    config = conf.load("hosts: {zeta: 1, alpha: 2, 192.0.2.1: 3, '2001:db8::1': 4}\nscanports: 1\n")
    assert [host.name for host in config.hosts] == ["zeta", "alpha", "192.0.2.1", "2001:db8::1"]


@pytest.mark.parametrize("value", ["", "null", "~", "[]", "{}", "{expect: }", "{expect: []}", "{allow: , expect: ~}"])
def test_no_value_and_an_empty_list_both_expect_nothing(conf: Conf, value: str) -> None:
    """A host under which nothing stands should have nothing open, and is scanned all the same."""
    (host,) = conf.load(f"hosts:\n  db1: {value}\nscanports: [22]\n").hosts
    assert host.specification == Specification(NO_PORTS, NO_PORTS)
    assert host.ports == ports(22)


def test_what_is_expected_or_allowed_is_scanned_though_scanports_lacks_it(conf: Conf) -> None:
    """A port that the specification names is always looked at."""
    (host,) = conf.load("hosts: {db1: {expect: [443], allow: [8443], scanports: [80]}}\nscanports: [22]\n").hosts
    assert host.ports == ports(80, 443, 8443)
    (host,) = conf.load("hosts: {db1: {expect: [443], allow: [8443]}}\nscanports: [22]\n").hosts
    assert host.ports == ports(22, 443, 8443)


def test_a_host_may_be_a_mapping(conf: Conf) -> None:
    """Expected and allowed ports, scanports, interval and labels can be given for one host."""
    config = conf.load("""\
        hosts:
          db1:
            expect: [22]
            allow: "8000-8002"
            scanports: [1-10]
            interval: 1h30m
            labels: {site: here, rack: 12, height: 1.5}
          db2: [22]
        scanports: all
    """)
    assert config.hosts == (
        HostConfig(
            "db1",
            Specification(ports(22), ports(8000, 8001, 8002)),
            ports(*range(1, 11), 22, 8000, 8001, 8002),
            5400.0,
            {"height": "1.5", "rack": "12", "site": "here"},
        ),
        HostConfig("db2", Specification(ports(22)), ALL_PORTS, 3600.0),
    )


def test_a_host_may_have_former_names(conf: Conf) -> None:
    """One name or a list, in any spelling; each is known by its canonical form, once."""
    config = conf.load("""\
        hosts:
          db1: {expect: [22], renamed_from: DB.Example.org.}
          db2: {expect: [22], renamed_from: [db3, "2001:DB8::0:1", 192.0.2.1, Db3]}
          192.0.2.16/28: [22]
        audit: {passphrase: a passphrase of a test, hosts: [mail1]}
        scanports: all
    """)
    assert [host.renamed_from for host in config.hosts] == [
        ("db.example.org",),
        ("db3", "2001:db8::1", "192.0.2.1"),
        (),
    ]


def test_a_host_with_scanports_of_its_own_needs_no_others(conf: Conf) -> None:
    """Scanports may be left out at the top when every host has its own."""
    (host,) = conf.load("hosts: {db1: {scanports: 22}}\n").hosts
    assert host.ports == ports(22)


@pytest.mark.parametrize("value", ["", "null", "~"])
def test_a_host_without_scanports_of_its_own_is_scanned_as_all_others(conf: Conf, value: str) -> None:
    """No value means no list of its own: the ports of the file are scanned."""
    config = conf.load(
        f"hosts: {{db1: {{expect: 80, scanports: {value}}}, db2: {{scanports: {value}}}}}\nscanports: 22\n"
    )
    assert host_of(config, "db1").ports == ports(22, 80)
    assert host_of(config, "db2").ports == ports(22)


def test_labels_cannot_be_changed(conf: Conf) -> None:
    """What is loaded is a value: readers in other threads need no copy."""
    (host,) = conf.load("hosts: {db1: {labels: {site: here}}}\nscanports: 22\n").hosts
    with pytest.raises(TypeError):
        host.labels["site"] = "there"  # type: ignore[index]


def test_a_network_is_one_entry(conf: Conf) -> None:
    """A CIDR may be a key of hosts, IPv4 or IPv6, up to 65,536 addresses."""
    config = conf.load("hosts: {192.0.2.0/24: 22, 10.0.0.0/16: , '2001:db8::/112': , 192.0.2.1: }\nscanports: 22\n")
    assert [host.name for host in config.hosts] == ["192.0.2.0/24", "10.0.0.0/16", "2001:db8::/112", "192.0.2.1"]


@pytest.mark.parametrize(
    "name", ["db-1", "_dmarc.example.org", "xn--bcher-kva.example", "bücher.example", "example.org.", "1.example", "a"]
)
def test_a_host_may_have_any_name_that_dns_has(conf: Conf, name: str) -> None:
    """Underscores, a final dot and international names are hosts, and are spelled as in the file."""
    assert [host.name for host in conf.load(f"hosts: {{{name}: 22}}\nscanports: 22\n").hosts] == [name]


def test_ports_may_be_ranges_service_names_and_all(conf: Conf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every spelling of a port stands alone or in a list, under every key that takes ports."""
    monkeypatch.setattr("socket.getservbyname", lambda name, _: {"ssh": 22, "https": 443}[name])
    config = conf.load("""\
        hosts:
          web: [ssh, "8000-8002", 443/tcp, 80]
          db1: {expect: ssh, allow: 8000-8001}
          db2: all
        scanports: [ssh, https, 100-102]
    """)
    assert host_of(config, "web").specification.expect == ports(22, 80, 443, 8000, 8001, 8002)
    assert host_of(config, "db1").specification == Specification(ports(22), ports(8000, 8001))
    assert host_of(config, "db1").ports == ports(22, 100, 101, 102, 443, 8000, 8001)
    assert host_of(config, "db2").specification.expect == ALL_PORTS
    assert host_of(config, "db2").ports == ALL_PORTS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1.0),
        ("90", 90.0),
        ("1.5", 1.5),
        ('"90"', 90.0),
        ("90m", 5400.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("1500ms", 1.5),
        ("7d", 604800.0),
        ("1w", 604800.0),
        ("366d", 31622400.0),
    ],
)
def test_an_interval_is_seconds_or_a_duration(conf: Conf, value: str, seconds: float) -> None:
    """Numbers count seconds, units are those of Prometheus."""
    (host,) = conf.load(f"interval: {value}\nhosts: {{db1: 22}}\nscanports: 22\n").hosts
    assert host.interval == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 900.0), ("recheck: 0\n", 0.0), ("recheck: 0s\n", 0.0), ("recheck: 90\n", 90.0), ("recheck: 1h30m\n", 5400.0)],
)
def test_recheck_is_seconds_or_a_duration_or_never(conf: Conf, text: str, seconds: float) -> None:
    """Ports that deviate are looked at again every 15 minutes unless the file says otherwise; 0 is never."""
    assert conf.load(f"{text}hosts: {{db1: 22}}\nscanports: 22\n").recheck == seconds


@pytest.mark.parametrize("value", ["0.5", "-1", "367d", "never", "true", "[]"])
def test_recheck_that_is_no_duration_is_an_error(conf: Conf, value: str) -> None:
    """The message says what may stand there."""
    with pytest.raises(ConfigError) as caught:
        conf.load(f"recheck: {value}\nhosts: {{db1: 22}}\nscanports: 22\n")
    (problem,) = caught.value.problems
    assert (problem.line, str(problem.key)) == (1, "recheck")
    assert problem.message.startswith("expected ")


@pytest.mark.parametrize("word", ["true", "yes", "on", "True", '"true"', '"YES"'])
def test_a_flag_may_be_any_of_the_words_of_yaml(conf: Conf, word: str) -> None:
    """What YAML 1.1 takes for true is true, in quotes, too."""
    assert conf.load(f"ipv6: {word}\nhosts: {{db1: 22}}\nscanports: 22\n").ipv6 is True


@pytest.mark.parametrize("engine", ["auto", "syn", "connect"])
def test_the_scan_block_is_read(conf: Conf, engine: EngineChoice) -> None:
    """Engine, rates, time limit, retries and confirmations come from the file."""
    scan = f"scan: {{engine: {engine}, rate: 5000, host_rate: 99.5, timeout: 300ms, retries: 0, confirm: 1}}"
    assert conf.load(f"hosts: {{db1: 22}}\nscanports: 22\n{scan}\n").scan == ScanConfig(
        engine=engine, rate=5000.0, host_rate=99.5, timeout=0.3, retries=0, confirm=1
    )


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(conf: Conf) -> None:
    """A file that was saved by Notepad loads, and its faults have the right lines."""
    text = "\ufeffhosts:\r\n  db1: [22]\r\nscanports: [22]\r\n"
    assert [host.name for host in conf.load(text).hosts] == ["db1"]
    assert conf.problems(text + "ipv6: maybe\r\n") == ["conf.yml:4: ipv6: expected true or false"]


def test_ten_thousand_hosts_load(conf: Conf) -> None:
    """A configuration with as many hosts as a large company has servers is no special case."""
    text = "".join(f"  host{number}.example.org: [22, 443, 8000-8100]\n" for number in range(10_000))
    assert len(conf.load(f"scanports: all\nhosts:\n{text}").hosts) == 10_000


def test_a_path_is_a_text_or_a_path(tmp_path: Path) -> None:
    """What the command line hands over as text loads as well, and is quoted as it was given."""
    file = tmp_path / "conf.yml"
    file.write_text("hosts: {db1: 22}\nscanports: 22\n")
    assert load(str(file)) == load(file)
    assert load(str(file)).path == str(file)


def test_the_environment_is_that_of_the_process_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment of its own, a variable is looked up where the process has it."""
    monkeypatch.setenv("PORTSPEC_TEST_HOST", "db1")
    file = tmp_path / "conf.yml"
    file.write_text('hosts: {"${PORTSPEC_TEST_HOST}": 22}\nscanports: 22\n')
    assert load(file).hosts[0].name == "db1"


PROGRAM = """\
import sys
from portspec.config import load
from portspec.errors import ConfigError
try:
    load(sys.argv[1], {})
except ConfigError as error:
    print(error)
"""


def load_apart(file: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Load a file in a process of its own, which prints the error."""
    command = [*prefix, sys.executable, "-c", PROGRAM, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def can_run(*command: str) -> bool:
    """Return whether a program is there and succeeds."""
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def told(path: Path | str) -> str:
    """Return what is said of a file that cannot be read."""
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert caught.value.path == str(path)
    return str(caught.value).replace(str(path), "conf.yml")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """The default path is not there on a new machine: the message says how to name another."""
    assert told(tmp_path / "conf.yml") == "conf.yml: no such file; name the configuration file with -c FILE"


def test_a_directory_is_told(tmp_path: Path) -> None:
    """A directory is a slip of the one who types, with a message of its own."""
    assert told(tmp_path) == "conf.yml: is a directory; name the configuration file in it"


def test_a_path_through_a_file_is_told(tmp_path: Path) -> None:
    """Whatever else the operating system says is passed on in its words."""
    (tmp_path / "conf.yml").touch()
    assert told(tmp_path / "conf.yml" / "conf.yml") == "conf.yml: cannot be read: not a directory"


def test_a_path_with_a_nul_is_told() -> None:
    """A path that no file can have is an error like another."""
    assert "cannot be read: the path contains a NUL character" in told("conf\0.yml")


def test_a_file_that_is_too_large_is_told(tmp_path: Path) -> None:
    """A disk image by mistake is refused before it fills the memory."""
    file = tmp_path / "conf.yml"
    with file.open("wb") as opened:
        opened.truncate(32 * 2**20 + 1)
    assert told(file) == "conf.yml: is larger than 32 MiB; is this the right file?"


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    """The user that runs portspec is often not the one that wrote the file."""
    file = tmp_path / "conf.yml"
    file.write_text("hosts: {db1: 22}\nscanports: 22\n")
    file.chmod(0)
    # Root reads everything by CAP_DAC_OVERRIDE; without it, root is an owner without permission.
    dropped = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if dropped and not can_run(*dropped, "true"):
        missing("setpriv (util-linux) cannot take away the right by which root reads every file")
    why = "permission denied; the user that runs portspec must be able to read it"
    assert load_apart(file, *dropped).stdout == f"{file}: {why}\n"


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[" * 100_000 + "]" * 100_000, "- " * 100_000, "? " * 100_000, "{a: " * 100_000],
    ids=["open", "flow", "block", "keys", "mappings"],
)
def test_nesting_that_would_overflow_the_stack_is_told(text: str, tmp_path: Path) -> None:
    """A hundred thousand levels are an error and no crash of the interpreter, hence the process of its own."""
    file = tmp_path / "conf.yml"
    file.write_text(text)
    result = load_apart(file)
    assert (result.returncode, result.stdout) == (0, f"{file}:1: nested more than 40 levels deep\n"), result.stderr


def test_a_host_whose_scanports_are_empty_is_an_error(conf: Conf) -> None:
    """An empty list would be a host that is in spec because nobody looks: each one is told."""
    line = "is empty; list ports, or remove the key to use the top-level scanports"
    assert conf.problems("hosts:\n  db1: {scanports: []}\n  db2: {scanports: [], expect: 22}\nscanports: 22\n") == [
        f'conf.yml:2: hosts."db1".scanports: {line}',
        f'conf.yml:3: hosts."db2".scanports: {line}',
    ]


def test_hosts_with_the_same_ports_share_one_set(conf: Conf) -> None:
    """Ten thousand hosts with the same ports cost one set of them."""
    first, second, other = conf.load("hosts: {db1: [22, 80], db2: [80, 22], db3: 443}\nscanports: 1-10\n").hosts
    assert first.ports is second.ports
    assert other.ports != first.ports


@pytest.mark.parametrize(
    "url",
    [
        "git.example.org/new",
        "ftp://git.example.org/new",
        "https://{host}/new",
        "https://me:secret@git.example.org/new",
        "https://git.example.org/a b",
        "https://git.example.org/{title",
        "https://git.example.org/{title!r}",
        "https://",
        "javascript:alert({title})",
        1,
    ],
)
def test_url_to_propose_a_change_at_is_one(conf: Conf, url: object) -> None:
    """What a page links to is an address of HTTP, and nothing of the change decides where it leads."""
    (problem,) = conf.problems(f"hosts: {{db1: 22}}\nscanports: 1\naccept_url: {json.dumps(url)}\n")
    assert problem.startswith("conf.yml:3: accept_url: ")
