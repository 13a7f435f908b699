"""The keys about the running service: state, history, reload, /probe, and the size of /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from portspec.config import Module, Specification, load
from portspec.ports import ALL_PORTS, NO_PORTS, PortSet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.config.conftest import Conf

HOSTS = "hosts: {db1: 22}\nscanports: [22, 80]\n"
DAY = 86_400.0


@pytest.mark.parametrize("times", [1, 2, 10])
def test_a_deviation_is_seen_as_often_as_the_file_says(conf: Conf, times: int) -> None:
    """`scan.confirm` is how often, from once to ten times."""
    assert conf.load(f"{HOSTS}scan: {{confirm: {times}}}\n").scan.confirm == times


def test_a_deviation_is_seen_twice_unless_the_file_says_otherwise(conf: Conf) -> None:
    """Without `scan.confirm` a deviation counts when it was seen twice."""
    assert conf.load(HOSTS).scan.confirm == 2


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("5m", 300.0), ("null", None)])
def test_a_scan_takes_as_long_as_the_file_says(conf: Conf, text: str, seconds: float | None) -> None:
    """`scan.max_duration` is a duration, and none unless the file has one."""
    assert conf.load(f"{HOSTS}scan: {{max_duration: {text}}}\n").scan.max_duration == seconds
    assert conf.load(HOSTS).scan.max_duration is None


def test_a_name_has_as_many_addresses_as_the_file_says(conf: Conf) -> None:
    """`scan.max_addresses` is a number, 64 unless the file has another."""
    assert conf.load(f"{HOSTS}scan: {{max_addresses: 3}}\n").scan.max_addresses == 3
    assert conf.load(HOSTS).scan.max_addresses == 64


def test_the_state_lies_beside_the_configuration(conf: Conf, tmp_path: Path) -> None:
    """Without a key and without a directory of the service manager's, the state is portspec.db beside conf.yml."""
    assert conf.load(HOSTS).state == str(tmp_path / "portspec.db")


@pytest.mark.parametrize(
    ("directory", "state"),
    [
        ("/var/lib/portspec", "/var/lib/portspec/portspec.db"),
        ("/var/lib/portspec:/var/lib/other", "/var/lib/portspec/portspec.db"),
        ("/var/lib/portspec/", "/var/lib/portspec/portspec.db"),
    ],
)
def test_the_state_lies_in_the_directory_of_the_service_manager(conf: Conf, directory: str, state: str) -> None:
    """$STATE_DIRECTORY, the first of several (systemd.exec(5)), is where the state lies when the file says nothing."""
    assert conf.load(HOSTS, {"STATE_DIRECTORY": directory}).state == state


def test_an_empty_state_directory_is_none(conf: Conf, tmp_path: Path) -> None:
    """A variable that is set and empty is as good as none."""
    assert conf.load(HOSTS, {"STATE_DIRECTORY": ""}).state == str(tmp_path / "portspec.db")


@pytest.mark.parametrize("environment", [{}, {"STATE_DIRECTORY": "/var/lib/portspec"}])
def test_a_path_of_the_state_is_relative_to_the_configuration(
    conf: Conf, tmp_path: Path, environment: dict[str, str]
) -> None:
    """A relative path starts where conf.yml lies, whatever directory the service manager made."""
    assert conf.load(f"{HOSTS}state: data/ports.db\n", environment).state == str(tmp_path / "data" / "ports.db")


def test_an_absolute_path_of_the_state_is_kept(conf: Conf) -> None:
    """An absolute path stands as it is, also with a $STATE_DIRECTORY."""
    config = conf.load(f"{HOSTS}state: /srv/ports.db\n", {"STATE_DIRECTORY": "/var/lib/portspec"})
    assert config.state == "/srv/ports.db"


def test_the_state_directory_is_that_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment of its own the process's $STATE_DIRECTORY counts."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "lib"))
    (tmp_path / "conf.yml").write_text(HOSTS)
    assert load(tmp_path / "conf.yml").state == str(tmp_path / "lib" / "portspec.db")


@pytest.mark.parametrize("state", ["conf.yml", "./conf.yml", "link.yml"])
def test_the_state_may_not_be_the_configuration_itself(conf: Conf, tmp_path: Path, state: str) -> None:
    """A slip in `state` is an error: the store sets aside what is no database, which here would be conf.yml."""
    (tmp_path / "link.yml").symlink_to("conf.yml")
    (line,) = conf.problems(f"{HOSTS}state: {state}\n")
    assert line.startswith("conf.yml:3: state: ")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", DAY),
        ("30", 30 * DAY),
        ('"30"', 30 * DAY),
        ("1.5", 1.5 * DAY),
        ('" 7 "', 7 * DAY),
        ("24h", DAY),
        ("52w", 364 * DAY),
        ("90d", 90 * DAY),
        ("36500", 36_500 * DAY),
    ],
)
def test_history_is_days_or_a_duration(conf: Conf, value: str, seconds: float) -> None:
    """A number counts days; a duration has its unit."""
    assert conf.load(f"{HOSTS}history: {value}\n").history == seconds


def test_changes_are_kept_for_a_year(conf: Conf) -> None:
    """Without `history` the change log goes back 365 days."""
    assert conf.load(HOSTS).history == 365 * DAY


@pytest.mark.parametrize(("word", "is_on"), [("true", True), ("yes", True), ("false", False), ("off", False)])
def test_autoreload_is_a_flag(conf: Conf, word: str, is_on: bool) -> None:  # noqa: FBT001 - a value of the test
    """`autoreload` turns the watching of conf.yml on and off."""
    assert conf.load(f"{HOSTS}autoreload: {word}\n").autoreload is is_on


def test_autoreload_is_on(conf: Conf) -> None:
    """Without the key, a change of the file is noticed."""
    assert conf.load(HOSTS).autoreload is True


@pytest.mark.parametrize("budget", [0, 1, 100_000, 10_000_000])
def test_the_series_budget_is_a_number(conf: Conf, budget: int) -> None:
    """From none to ten million per-port series may be on /metrics."""
    assert conf.load(f"{HOSTS}series_budget: {budget}\n").series_budget == budget


def test_there_is_a_series_budget_without_the_key(conf: Conf) -> None:
    """A file that says nothing has 100,000 series."""
    assert conf.load(HOSTS).series_budget == 100_000


@pytest.mark.parametrize(
    ("value", "networks"),
    [
        ("", ()),
        ("[]", ()),
        ("192.0.2.0/24", ("192.0.2.0/24",)),
        ("[192.0.2.0/24, '2001:DB8::/32']", ("192.0.2.0/24", "2001:db8::/32")),
        ("192.0.2.7", ("192.0.2.7/32",)),
        ("['2001:db8::7']", ("2001:db8::7/128",)),
        ("[0.0.0.0/0, '::/0']", ("0.0.0.0/0", "::/0")),
    ],
)
def test_probe_allow_is_a_list_of_networks(conf: Conf, value: str, networks: tuple[str, ...]) -> None:
    """CIDRs and single addresses of both families, one or many, say what else may be probed."""
    assert conf.load(f"{HOSTS}probe_allow: {value}\n").probe_allow == networks


def test_nothing_else_may_be_probed_unless_the_file_says_so(conf: Conf) -> None:
    """Without `probe_allow` there is no network that strangers may have scanned."""
    assert conf.load(HOSTS).probe_allow == ()


def test_a_module_is_read_whole(conf: Conf) -> None:
    """Specification, ports and engine of a module come from the file; what it specifies is always scanned."""
    config = conf.load(f"""{HOSTS}
modules:
  mail_1.0-x:
    expect: [25, 587]
    allow: 465
    scanports: [25, 110]
    engine: connect
""")
    specification = Specification(PortSet.of([25, 587]), PortSet.of([465]))
    assert config.modules == {
        "mail_1.0-x": Module("mail_1.0-x", specification, PortSet.of([25, 110, 465, 587]), "connect")
    }


def test_a_module_without_scanports_scans_those_of_the_file(conf: Conf) -> None:
    """As with a host, the file's scanports count where a module has none of its own."""
    modules = conf.load(f"{HOSTS}modules: {{web: {{expect: 443}}, all: {{scanports: all}}}}\n").modules
    assert modules["web"] == Module("web", Specification(PortSet.of([443])), PortSet.of([22, 80, 443]), "auto")
    assert modules["all"] == Module("all", Specification(NO_PORTS, NO_PORTS), ALL_PORTS, "auto")


def test_modules_cannot_be_changed(conf: Conf) -> None:
    """What is loaded is a value: a probe in the middle of a reload sees one configuration."""
    modules = conf.load(f"{HOSTS}modules: {{web: {{expect: 443}}}}\n").modules
    with pytest.raises(TypeError):
        modules["web"] = modules["web"]  # type: ignore[index]


@pytest.mark.parametrize(
    "modules",
    ["{web: {}}", "{web: {scanports: ~}}", "{web: {allow: []}}"],
)
def test_a_module_that_would_scan_nothing_is_an_error(conf: Conf, modules: str) -> None:
    """Where the file has no scanports, a module needs ports: a probe that looks at nothing finds nothing wrong."""
    (line,) = conf.problems(f"hosts: {{db1: {{scanports: 22}}}}\nmodules: {modules}\n")
    assert line.startswith("conf.yml:2: modules.web")


def test_a_module_whose_scanports_are_empty_is_an_error(conf: Conf) -> None:
    """An empty list is the same mistake in a module as in a host."""
    (line,) = conf.problems(f"{HOSTS}modules: {{web: {{scanports: []}}}}\n")
    assert line.startswith("conf.yml:3: modules.web.scanports: is empty")
