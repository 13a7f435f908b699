from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from portspec.config import MaintenanceWindow
from portspec.errors import ConfigError
from portspec.inventory import audited_hosts, targets
from tests.unit.factories import NOW, window

if TYPE_CHECKING:
    from tests.unit.config.conftest import Conf

HOSTS = "hosts: {db1: 22, 192.0.2.0/30: 22}\nscanports: [22, 80]\n"


def seconds(*moment: int) -> float:
    """Return a time in UTC as Unix seconds."""
    return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


def test_maintenance_is_read_whole(conf: Conf) -> None:
    """Hosts, beginning, end, reason and owner come from the file."""
    config = conf.load(f"""{HOSTS}
maintenance:
  - hosts: ["db*", 192.0.2.0/30]
    from: 2027-03-30
    until: 2027-03-31
    reason: new storage
    owner: dba
""")
    assert config.maintenance == (
        MaintenanceWindow(("db*", "192.0.2.0/30"), seconds(2027, 3, 30), seconds(2027, 4, 1), "new storage", "dba"),
    )


@pytest.mark.parametrize(
    ("keys", "begins", "until"),
    [
        ("until: 2027-03-31", -math.inf, seconds(2027, 4, 1)),
        ('from: "2027-03-31T20:00:00Z", until: 4h', seconds(2027, 3, 31, 20), seconds(2027, 4, 1)),
        (
            'from: "2027-03-31 20:00", until: "2027-03-31T22:00:00+01:00"',
            seconds(2027, 3, 31, 20),
            seconds(2027, 3, 31, 21),
        ),
        ("from: 2027-03-31, until: 1w", seconds(2027, 3, 31), seconds(2027, 4, 7)),
    ],
)
def test_end_is_a_day_a_time_or_a_duration_from_the_beginning(
    conf: Conf, keys: str, begins: float, until: float
) -> None:
    """A day begins with its first second in UTC and ends with its last one."""
    (item,) = conf.load(f"{HOSTS}maintenance: [{{hosts: db1, {keys}}}]\n").maintenance
    assert (item.begins, item.until) == (begins, until)


@pytest.mark.parametrize(
    ("block", "until", "instead"),
    [
        ("maintenance", "1w", "2023-11-21"),
        ("maintenance", "2h", "2023-11-15T00:13:20Z"),
        ("exceptions", "1w", "2023-11-21"),
        ("exceptions", "90m", "2023-11-14T23:43:20Z"),
    ],
)
def test_duration_without_a_beginning_is_refused_with_what_to_write(
    conf: Conf, monkeypatch: pytest.MonkeyPatch, block: str, until: str, instead: str
) -> None:
    """A file does not say since when it has a line, so a duration in it would never end."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    ports = ", ports: 80" if block == "exceptions" else ""
    with pytest.raises(ConfigError) as error:
        conf.load(f"{HOSTS}{block}: [{{hosts: db1{ports}, until: {until}}}]\n")
    (problem,) = error.value.problems
    message = f'{until}: a duration has no beginning in a file; write until: "{instead}"'
    assert (problem.key, problem.message) == (f"{block}.until", message)


def test_targets_have_their_maintenance(conf: Conf) -> None:
    """By globs and CIDRs as exceptions have them, and by what was asked for; others have none."""
    config = conf.load(f"{HOSTS}maintenance: [{{hosts: [192.0.2.0/30, mail1], until: 2027-03-31}}]\n")
    asked = window(NOW, NOW + 60, hosts=["db1"])
    found = {target.host: target.maintenance for target in targets(config, (), {"db1": asked})}
    assert found == {"db1": (asked,), **{f"192.0.2.{number}": config.maintenance for number in range(4)}}


def test_audited_host_has_maintenance_of_its_own_only_if_it_is_not_scanned(conf: Conf) -> None:
    """Of a host that is scanned, the scan has it, so that its series is there once."""
    config = conf.load(
        f"{HOSTS}audit: {{passphrase: correct horse battery staple, hosts: [db1, mail1]}}\n"
        'maintenance: [{hosts: "*", until: 2027-03-31}]\n'
    )
    found = audited_hosts(config, targets(config))
    assert {host: entry.maintenance for host, entry in found.items()} == {"db1": (), "mail1": config.maintenance}
