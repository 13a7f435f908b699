from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.config import PortException, load
from portspec.ports import ALL_PORTS, PortSet
from tests.unit.factories import MODEST

if TYPE_CHECKING:
    from pathlib import Path

    from portspec.config import Config
    from tests.unit.config.conftest import Conf

HOSTS = "hosts: {db1: 22}\nscanports: [22, 80]\n"


def exception_of(config: Config) -> PortException:
    """Return the only exception of a configuration."""
    (item,) = config.exceptions
    return item


def seconds(*moment: int) -> float:
    """Return a time in UTC as Unix seconds."""
    return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


def test_an_exception_is_read_whole(conf: Conf) -> None:
    """Hosts, ports, end, reason and owner come from the file."""
    config = conf.load(f"""{HOSTS}
exceptions:
  - hosts: ["web*.example.org", db1]
    ports: [80, 8000-8002]
    until: 2027-03-31
    reason: the new mail server moves in
    owner: alice@example.org
""")
    assert exception_of(config) == PortException(
        ("web*.example.org", "db1"),
        PortSet.of([80, 8000, 8001, 8002]),
        seconds(2027, 4, 1),
        "the new mail server moves in",
        "alice@example.org",
    )


def test_exceptions_keep_the_order_of_the_file(conf: Conf) -> None:
    """What stands first comes first, also when it ends last."""
    config = conf.load(f"""{HOSTS}
exceptions:
  - {{hosts: a, ports: 1, until: 2028-01-01}}
  - {{hosts: b, ports: 2, until: 2027-01-01}}
""")
    assert [item.hosts for item in config.exceptions] == [("a",), ("b",)]


@pytest.mark.parametrize("value", ["", "null", "[]"])
def test_no_exceptions(conf: Conf, value: str) -> None:
    """A key under which nothing stands is as good as none."""
    assert conf.load(f"{HOSTS}exceptions: {value}\n").exceptions == ()


def test_a_host_and_a_port_may_stand_alone(conf: Conf) -> None:
    """A single host, a single port and `all` need no list; reason and owner may be left out."""
    item = exception_of(conf.load(f"{HOSTS}exceptions: [{{hosts: '*', ports: all, until: 2027-03-31}}]\n"))
    assert item == PortException(("*",), ALL_PORTS, seconds(2027, 4, 1), "", "")


@pytest.mark.parametrize(
    ("until", "end"),
    [
        ("2027-03-31", seconds(2027, 4, 1)),
        ('"2027-03-31"', seconds(2027, 4, 1)),
        ('" 2027-03-31 "', seconds(2027, 4, 1)),
        ("2027-12-31", seconds(2028, 1, 1)),
        ("2028-02-28", seconds(2028, 2, 29)),
        ("2028-02-29", seconds(2028, 3, 1)),
        ("1999-01-01", seconds(1999, 1, 2)),
        ("2027-03-31T18:00:00Z", seconds(2027, 3, 31, 18)),
        ('"2027-03-31T18:00:00Z"', seconds(2027, 3, 31, 18)),
        ("2027-03-31T18:00:00+02:00", seconds(2027, 3, 31, 16)),
        ("2027-03-31T18:00:00-05:30", seconds(2027, 3, 31, 23, 30)),
        ("2027-03-31 18:00:00", seconds(2027, 3, 31, 18)),
        ("2027-03-31T18:00", seconds(2027, 3, 31, 18)),
        ("2027-03-31T18:00:00.5Z", seconds(2027, 3, 31, 18) + 0.5),
    ],
)
def test_an_exception_ends_with_its_day_or_at_its_time(conf: Conf, until: str, end: float) -> None:
    """A day is over when it is over in UTC; a time is UTC unless it has an offset of its own."""
    config = conf.load(f"{HOSTS}exceptions: [{{hosts: db1, ports: 80, until: {until}}}]\n")
    assert exception_of(config).until == end


@pytest.mark.parametrize("until", ['"20270331"', "2027-W13-3", '"20270331T180000Z"'])
def test_other_spellings_of_a_day_are_refused(conf: Conf, until: str) -> None:
    """ISO 8601 without dashes or by weeks would end a day at its beginning; it is none of the two accepted forms."""
    (line,) = conf.problems(f"{HOSTS}exceptions: [{{hosts: db1, ports: 80, until: {until}}}]\n")
    assert line.startswith("conf.yml:3: exceptions.until: expected the last day on which it applies")


def test_a_day_does_not_depend_on_the_time_zone_of_the_machine(conf: Conf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two exporters in two countries end an exception at the same moment."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    config = conf.load(f"{HOSTS}exceptions: [{{hosts: db1, ports: 80, until: 2027-03-31}}]\n")
    assert exception_of(config).until == seconds(2027, 4, 1)


@MODEST
@given(day=st.dates())
def test_any_day_that_has_a_next_one_is_an_end(tmp_path_factory: pytest.TempPathFactory, day: object) -> None:
    """Every day of the calendar but its last is read, and its end is 24 hours after its beginning."""
    if str(day) == "9999-12-31":
        return
    file: Path = tmp_path_factory.mktemp("day") / "conf.yml"
    file.write_text(f"{HOSTS}exceptions: [{{hosts: db1, ports: 80, until: {day}}}]\n")
    until = exception_of(load(file, {})).until
    assert until - 86_400 == datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()


@pytest.mark.parametrize("glob", ["web*", "web?", "web[0-9]", "*.example.org", "2001:db8::*", "192.0.2.0/24", "WEB1"])
def test_a_host_of_an_exception_may_be_a_glob(conf: Conf, glob: str) -> None:
    """Names, addresses, CIDRs and globs of them are taken as they are written."""
    item = exception_of(conf.load(f"{HOSTS}exceptions: [{{hosts: ['{glob}'], ports: 80, until: 2027-03-31}}]\n"))
    assert item.hosts == (glob,)


def test_variables_are_replaced_in_exceptions(conf: Conf) -> None:
    """${NAME} stands for the environment's value in every text of an exception."""
    text = f"{HOSTS}exceptions: [{{hosts: '${{SITE}}-*', ports: 80, until: '${{DAY}}', owner: '${{SITE}}'}}]\n"
    item = exception_of(conf.load(text, {"SITE": "rome", "DAY": "2027-03-31"}))
    assert (item.hosts, item.until, item.owner) == (("rome-*",), seconds(2027, 4, 1), "rome")


def test_ports_of_an_exception_are_scanned_only_where_the_host_says_so(conf: Conf) -> None:
    """An exception accepts a deviation; it adds no port to what is looked at."""
    config = conf.load(f"{HOSTS}exceptions: [{{hosts: db1, ports: 8080, until: 2027-03-31}}]\n")
    assert config.hosts[0].ports == PortSet.of([22, 80])
