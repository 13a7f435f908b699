"""What people write out of habit: anchors, lists in lists, misspelt keys, far days."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.config.fields import lists_nothing
from portspec.config.schema import ConfModel
from portspec.ports import PortSet
from portspec.state.document import timestamp

if TYPE_CHECKING:
    from tests.unit.config.conftest import Conf

ENDING = "scanports: [22]\n"


def test_a_key_that_begins_with_x_is_a_place_for_anchors(conf: Conf) -> None:
    """It is not read by itself, whatever it holds; what refers to it is."""
    text = """
x-ports: &common [22, 9100]
x-note: {a: b, a: "${NOT_SET}"}
x-host: &web {expect: *common, labels: {team: web}}
hosts:
  web1: *web
  web2: {<<: *web, allow: [[*common, 443], ["8000-8100"], []]}
  db1: [*common, 5432]
"""
    web1, web2, db1 = conf.load(text + ENDING).hosts
    assert web1.specification.expect == PortSet.of([22, 9100])
    assert web2.specification.allow == PortSet.of([22, 443, 9100, *range(8000, 8101)])
    assert dict(web2.labels) == {"team": "web"}
    assert db1.specification.expect == PortSet.of([22, 5432, 9100])


def test_a_fault_behind_an_anchor_is_told_where_it_is_used(conf: Conf) -> None:
    """Only at the top level is a key of that kind nobody's."""
    text = 'x-ports: &common [22, "80a", "${NOT_SET}"]\nhosts:\n  db1: {expect: *common, x-a: 1}\n'
    assert [line.partition(" (")[0] for line in conf.problems(text + ENDING)] == [
        'conf.yml:1: hosts."db1".expect: "80a" is not a port',
        'conf.yml:1: hosts."db1".expect: the environment variable NOT_SET is not set',
        'conf.yml:3: hosts."db1"."x-a": unknown key',
    ]


@pytest.mark.parametrize("nothing", ["[]", "[[]]", "[[], [[]]]"])
def test_a_list_of_empty_lists_is_empty(conf: Conf, nothing: str) -> None:
    """A file that scans nothing is refused, however that is spelled."""
    assert conf.problems(f"hosts: {{db1: [22]}}\nscanports: {nothing}\n")
    assert conf.problems(f"hosts: {{db1: {{expect: [22], scanports: {nothing}}}}}\n{ENDING}")
    assert conf.problems(f"hosts: {{db1: [22]}}\nmodules: {{m: {{scanports: {nothing}}}}}\n{ENDING}")
    exception = f"{{hosts: [db1], ports: {nothing}, until: 2027-03-31}}"
    assert conf.problems(f"hosts: {{db1: [22]}}\nexceptions: [{exception}]\n{ENDING}")
    discovery = f"{{file_sd: [{{files: a.json, scanports: {nothing}}}]}}"
    assert conf.problems(f"hosts: {{db1: [22]}}\ndiscovery: {discovery}\n{ENDING}")


nested = st.recursive(st.integers(1, 65535), lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@given(st.lists(nested, max_size=5))
def test_nested_lists_are_as_good_as_flat_ones(ports: list[object]) -> None:
    """However lists are put into each other, the same ports come out."""

    def flat(value: object) -> list[int]:
        return [port for item in value for port in flat(item)] if isinstance(value, list) else [int(str(value))]

    found = ConfModel.model_validate({"scanports": ports}).scanports
    assert {port for each in found for port in each} == set(flat(ports))
    assert bool(found) != lists_nothing(ports)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("host: {db1: [22]}\nscanports: [22]", ["1: host: unknown key (did you mean hosts?)"]),
        ("hosts: {db1: [22]}\nscanport: [22]", ["2: scanport: unknown key (did you mean scanports?)"]),
        (
            "hosts: {db1: [22]}\nscanports: [22]\nexceptions: [{hosts: db1, ports: 80, untill: 2027-03-31}]",
            ["3: exceptions.untill: unknown key (did you mean until?)"],
        ),
        (
            "hosts: {db1: [22]}\nscanports: [22]\ndiscovery: {file_sd: [{file: a.json}]}",
            ["3: discovery.file_sd.file: unknown key (did you mean files?)"],
        ),
        (
            "hosts: {db1: [22]}\nscanports: [22]\naudit: {passphase: abcdefghijklmnopqrst}",
            ["3: audit.passphase: unknown key (did you mean passphrase?)"],
        ),
        (
            (
                "hosts: {db1: [22]}\nscanports: [22]\nsendemail: true\nsmtpserv: mail.example.org\n"
                "alertemail: a@example.org\nfromemail: a@example.org"
            ),
            ["4: smtpserv: unknown key (did you mean smtpserver?)"],
        ),
        (
            "hosts: {db1: [22]}\nscanports: [22]\nscanport: [80]",
            ["3: scanport: unknown key (did you mean scanports?)"],
        ),
        ("hosts: {db1: {scanport: [22]}}", ['1: hosts."db1".scanport: unknown key (did you mean scanports?)']),
    ],
)
def test_a_misspelt_key_is_one_fault(conf: Conf, text: str, problems: list[str]) -> None:
    """The key that was meant is not reported as missing, too."""
    assert conf.problems(text) == [f"conf.yml:{problem}" for problem in problems]


@pytest.mark.parametrize(
    ("until", "end"),
    [
        ("9999-12-31", "9999-12-31T23:59:59.000Z"),
        ("2027-03-31", "2027-04-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59.000Z"),
        ("0001-01-01T00:00:00+12:00", "0001-01-01T00:00:00.000Z"),
    ],
)
def test_an_exception_may_end_on_any_day_of_the_calendar(conf: Conf, until: str, end: str) -> None:
    """The last day there is means for good; what is beyond a calendar is shown as its end."""
    exception = f"exceptions: [{{hosts: db1, ports: 80, until: {until}}}]\n"
    (item,) = conf.load(f"hosts: {{db1: [22]}}\n{exception}{ENDING}").exceptions
    assert timestamp(item.until) == end


@given(st.dates())
def test_a_day_is_over_when_it_is_over_in_utc(day: object) -> None:
    """Of each day of the calendar."""
    raw = {"exceptions": [{"hosts": "db1", "ports": 80, "until": str(day)}]}
    (item,) = ConfModel.model_validate(raw).exceptions
    begin = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    assert item.until - (begin - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() == 86400


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${SMTP_PASSWORD}", "the environment variable SMTP_PASSWORD is not set"),
        ('" ${SMTP_PASSWORD} "', "the environment variable SMTP_PASSWORD is not set"),
        ("a${bc}d", "an environment variable in it is not set (write $${ for a literal ${)"),
        ("${A}${B}", "an environment variable in it is not set (write $${ for a literal ${)"),
    ],
)
def test_a_variable_that_is_a_secret_is_named(conf: Conf, written: str, message: str) -> None:
    """What may be a piece of a password is not."""
    lines = conf.problems(f"hosts: {{db1: [22]}}\nsmtpusername: u\nsmtppassword: {written}\n{ENDING}")
    assert set(lines) == {f"conf.yml:3: smtppassword: {message}"}
