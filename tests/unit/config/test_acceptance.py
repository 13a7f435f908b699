from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.config import load
from portspec.config.acceptance import Acceptance, AcceptanceError, edited, intended
from portspec.ports import PortSet, parse_ports

if TYPE_CHECKING:
    from portspec.config.acceptance import Way

CONF = "conf.yml"
TAIL = "scanports: [22]\n"
UNTIL = "2030-03-31"


def edit(text: str, way: Way, *ports: str, host: str = "db1", **more: Any) -> str:
    """Return a text with ports of a host accepted."""
    wanted = PortSet.of_ranges(span for port in ports for span in parse_ports(port).ranges)
    acceptance = Acceptance(host, way, wanted, until=UNTIL if way == "until" else "", **more)
    return edited(CONF, text.encode(), acceptance, {}).decode()


def hosts(*lines: str) -> str:
    """Return a file with these lines below `hosts`."""
    return "".join(f"{line}\n" for line in ("# mine", "hosts:", *lines, "  web1: [80]  # the other")) + TAIL


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["  db1: [22, ssh]  # x"], ["  db1: [22, ssh, 443]  # x"]),
        (["  db1: [22,]"], ["  db1: [22, 443,]"]),
        (["  db1:  # nothing"], ["  db1: [443]  # nothing"]),
        (["  db1: ~"], ["  db1: [443]"]),
        (["  db1: []"], ["  db1: [443]"]),
        (["  db1: 22"], ["  db1: [22, 443]"]),
        (["  db1: ['22', # a", "     80]"], ["  db1: ['22', # a", "     80, 443]"]),
        (
            ["  db1:", "    # a", "    - 22  # b", "    # c"],
            ["  db1:", "    # a", "    - 22  # b", "    - 443", "    # c"],
        ),
        (["  db1:", "  - 22"], ["  db1:", "  - 22", "  - 443"]),
        (["  db1:", "    expect: 22", "    labels: {a: b}"], ["  db1:", "    expect: [22, 443]", "    labels: {a: b}"]),
        (["  db1:", "    allow: [80]  # c"], ["  db1:", "    allow: [80]  # c", "    expect: [443]"]),
        (["  db1: {expect: [22], labels: {}}"], ["  db1: {expect: [22, 443], labels: {}}"]),
        (["  db1: {labels: {}}"], ["  db1: {labels: {}, expect: [443]}"]),
        (['  "DB1": [22]'], ['  "DB1": [22, 443]']),
    ],
)
def test_expected_port_is_added_where_the_ports_stand(before: list[str], after: list[str]) -> None:
    """However a list is written, the port is added to it, and comments, quotes and the other lines stay."""
    assert edit(hosts(*before), "expect", "443") == hosts(*after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["  db1: [22, ssh]  # x"], ["  db1: {expect: [22, ssh], allow: [443]}  # x"]),
        (["  db1:"], ["  db1: {allow: [443]}"]),
        (["  db1: 22"], ["  db1: {expect: [22], allow: [443]}"]),
        (["  db1:", "    - 22  # b"], ["  db1:", "    expect:", "    - 22  # b", "    allow: [443]"]),
        (["  db1:", "  - 22", "", "  # c"], ["  db1:", "    expect:", "    - 22", "    allow: [443]", "", "  # c"]),
        (["  db1:", "    allow:", "    - 80"], ["  db1:", "    allow:", "    - 80", "    - 443"]),
        (["  db1: {expect: 22}"], ["  db1: {expect: 22, allow: [443]}"]),
    ],
)
def test_allowed_port_is_added_beside_what_is_expected(before: list[str], after: list[str]) -> None:
    """A list of ports becomes a mapping, since the short form has no place for what is allowed."""
    assert edit(hosts(*before), "allow", "443") == hosts(*after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["  db1: [22, '80', 443]"], ["  db1: {expect: [22, '80'], allow: [443]}"]),
        (["  db1: [440-445]"], ['  db1: {expect: ["440-442", 444, 445], allow: [443]}']),
        (["  db1: [400-500]"], ['  db1: {expect: ["400-442", "444-500"], allow: [443]}']),
        (["  db1: {expect: [https, 22]}"], ["  db1: {expect: [22], allow: [443]}"]),
        (
            ["  db1:", "    expect:", "      - 443  # a", "      - 22"],
            ["  db1:", "    expect:", "      - 22", "    allow: [443]"],
        ),
        (["  db1:", "    expect:  # a", "      - 443"], ["  db1:", "    expect: []  # a", "    allow: [443]"]),
        (
            ["  db1:", "    - 400-500  # a"],
            ["  db1:", "    expect:", '    - ["400-442", "444-500"]  # a', "    allow: [443]"],
        ),
    ],
)
def test_expected_port_that_may_be_closed_is_moved(before: list[str], after: list[str]) -> None:
    """A port that is missing and allowed from now on is expected no longer; of a range the rest is."""
    assert edit(hosts(*before), "allow", "443") == hosts(*after)


EXCEPTION = [
    "  - hosts: [db1]",
    '    ports: [443, "8000-8100"]',
    '    until: "2030-03-31"',
    '    reason: "a: b"',
    "    owner: me",
]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["exceptions:", *EXCEPTION]),
        (["exceptions:  # none yet"], None),
        (
            ["exceptions:", "- hosts: [x]", "  ports: [1]", '  until: "2030-01-01"', "", "# end"],
            [
                *["exceptions:", "- hosts: [x]", "  ports: [1]", '  until: "2030-01-01"'],
                *[line[2:] for line in EXCEPTION],
                "",
                "# end",
            ],
        ),
    ],
)
def test_exception_is_added_to_the_others(before: list[str], after: list[str] | None) -> None:
    """It is an item of its own at the end of the list, which is made if there is none."""
    text = hosts("  db1: [22]")
    new = edit(text + "".join(f"{line}\n" for line in before), "until", "443", "8000-8100", reason="a: b", owner="me")
    item = '{hosts: ["db1"], ports: [443, "8000-8100"], until: "2030-03-31", reason: "a: b", owner: "me"}'
    expected = after or [f"exceptions: [{item}]  # none yet"]
    assert new == text + "".join(f"{line}\n" for line in expected)


def test_vulnerability_is_accepted_by_its_id() -> None:
    """An id stands in the exception as it was given."""
    text = hosts("  db1: [22]")
    new = edited(CONF, text.encode(), Acceptance("db1", "until", ids=("CVE-2026-1",), until=UNTIL), {}).decode()
    assert new.removeprefix(text).splitlines()[1:3] == ["  - hosts: [db1]", "    ids: [CVE-2026-1]"]


def test_port_that_is_accepted_already_changes_nothing() -> None:
    """The bytes are the same; of several ports those are added that are new."""
    text = hosts("  db1: {expect: [22], allow: [80]}")
    assert edit(text, "expect", "22") == edit(text, "allow", "80") == text
    assert edit(text, "expect", "22", "443") == hosts("  db1: {expect: [22, 443], allow: [80]}")


def test_json_stays_json() -> None:
    """A file that another program writes as JSON can be read by it afterwards."""
    text = json.dumps({"hosts": {"db1": [22], "web1": {"expect": [80]}}, "scanports": [22]}, indent=1)
    for way in ("expect", "allow", "until"):
        assert json.loads(edit(text, way, "443"))


def test_ends_of_lines_and_the_byte_order_mark_stay() -> None:
    """A file of Windows stays one."""
    text = "\ufeff" + hosts("  db1: [22]", "  db2:", "    - 22").replace("\n", "\r\n")
    assert edit(text, "until", "443").count("\n") == edit(text, "until", "443").count("\r\n")
    assert edit(text, "allow", "443", host="db2").startswith("\ufeff# mine\r\nhosts:\r\n")


def test_shared_lines_are_not_changed_for_one_host() -> None:
    """What other hosts take over by an alias stays; a host that takes it over gets its own addition."""
    shared = hosts("  db1: &all [22]", "  db2: *all")
    with pytest.raises(AcceptanceError, match=r"its value on line 3 is used in other places, too: &all") as refused:
        edit(shared, "expect", "443")
    assert str(refused.value).endswith("The ports of db1 have to be: `{expect: [22, 443], allow: []}`")
    assert "  db2: [*all, 443]\n" in edit(shared, "expect", "443", host="db2")
    assert "  db2: {expect: [*all ], allow: [443]}\n" in edit(shared, "allow", "443", host="db2")


def test_address_of_a_network_has_no_lines_of_its_own() -> None:
    """The message has the line to write, and where."""
    with pytest.raises(AcceptanceError, match=r'hosts: `"10\.0\.0\.7": \{expect: \[22\], allow: \[443\]\}`'):
        edit(hosts("  10.0.0.0/24: [22]"), "allow", "443", host="10.0.0.7")
    assert 'hosts: ["10.0.0.7"]' in edit(hosts("  10.0.0.0/24: [22]"), "until", "443", host="10.0.0.7")


def test_network_is_an_entry_like_others() -> None:
    """It is named as it stands in the file."""
    assert "  10.0.0.0/30: [22, 443]\n" in edit(hosts("  10.0.0.0/30: [22]"), "expect", "443", host="10.0.0.0/30")


def test_ports_are_taken_from_beside_an_alias() -> None:
    """An alias stays where none of its ports are concerned."""
    text = hosts("  db1: [*all, 5432]").replace("hosts:", "x-all: &all [22]\nhosts:")
    assert "  db1: {expect: [*all ], allow: [5432]}\n" in edit(text, "allow", "5432")
    with pytest.raises(AcceptanceError, match="has an alias, whose ports are listed elsewhere"):
        edit(text, "allow", "22")


@pytest.mark.parametrize("way", ["expect", "allow"])
def test_comments_in_a_list_over_several_lines_stay(way: Way) -> None:
    """They tell why a port is there."""
    lines = ["  db1: [  # a", "    22,  # ssh", "    5432  # OPS-12", "    # c", "  ]  # d"]
    new = edit(hosts(*lines), way, "443")
    assert all(comment in new for comment in ("# a", "# ssh", "# OPS-12", "# c", "# d"))


def test_host_that_was_discovered_has_no_line() -> None:
    """The message says where its ports come from."""
    with pytest.raises(AcceptanceError, match="__portspec_allow"):
        edit(hosts("  db1: [22]"), "allow", "443", host="db2")


@dataclass
class Conf:
    """A drawn file: its lines, the first line of each host, and the line after its last."""

    lines: list[str] = field(default_factory=list)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)


SPELLINGS = ("22", "'80'", '"8000-8100"', "ssh", "443/tcp", "1-1000")


@st.composite
def values(draw: st.DrawFn, key: str, column: int) -> list[str]:
    """Draw the lines of a list of ports below a key, in any style."""
    ports = draw(st.lists(st.sampled_from(SPELLINGS), max_size=3))
    comment = draw(st.sampled_from(["", "  # why: [22, - 80]"]))
    style = draw(st.sampled_from(["flow", "block", "indentless", "lines"]))
    if not ports:
        return [f"{key}:{draw(st.sampled_from(['', ' []', ' ~', ' null']))}{comment}"]
    if len(ports) == 1 and draw(st.booleans()):
        return [f"{key}: {ports[0]}{comment}"]
    if style == "flow":
        return [f"{key}: [{', '.join(ports)}{draw(st.sampled_from(['', ',']))}]{comment}"]
    if style == "lines":
        return [f"{key}: [", *(f"{' ' * column}  {port},{comment}" for port in ports), f"{' ' * column} ]"]
    indent = " " * (column if style == "indentless" else column + draw(st.integers(1, 4)))
    blank = draw(st.sampled_from([[], [""], [f"{indent}# between"]]))
    return [f"{key}:{comment}", *blank, *(f"{indent}- {port}{comment}" for port in ports)]


@st.composite
def confs(draw: st.DrawFn) -> Conf:
    """Draw a file with some hosts, in any style."""
    conf = Conf(["---"] if draw(st.booleans()) else [])
    conf.lines.append("hosts:")
    column = draw(st.integers(1, 4))
    for name in ("db1", "web1", "10.0.0.9"):
        begin = len(conf.lines)
        inside = column + draw(st.integers(1, 4))
        if draw(st.booleans()):
            conf.lines += [
                " " * column + line if not place else line for place, line in enumerate(draw(values(name, column)))
            ]
        else:
            conf.lines.append(f"{' ' * column}{name}:  # a mapping")
            for key in draw(st.permutations(["expect", "allow"])):
                if draw(st.booleans()):
                    first, *rest = draw(values(key, inside))
                    conf.lines += [" " * inside + first, *rest]
            conf.lines.append(f"{' ' * inside}labels: {{team: db}}")
        conf.spans[name] = (begin, len(conf.lines))
        conf.lines += draw(st.sampled_from([[], [""], ["# next: *host"]]))
    conf.lines += ["scanports: [22, 443]", *draw(st.sampled_from([[], ["exceptions:"], ["exceptions: []", "# end"]]))]
    return conf


@settings(deadline=None, max_examples=150)
@given(
    conf=confs(),
    host=st.sampled_from(["db1", "web1", "10.0.0.9"]),
    way=st.sampled_from(["expect", "allow", "until"]),
    ports=st.lists(st.sampled_from(["22", "443", "8050", "9000-9100"]), min_size=1, unique=True),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_acceptance_changes_what_is_meant_and_no_other_line(
    conf: Conf, host: str, way: Way, ports: list[str], newline: str
) -> None:
    """In whatever style a file is written, the result says what was intended, and no other host's line differs."""
    text = newline.join([*conf.lines, ""])
    wanted = PortSet.of_ranges(span for port in ports for span in parse_ports(port).ranges)
    acceptance = Acceptance(host, way, wanted, until=UNTIL if way == "until" else "")
    new = edited(CONF, text.encode(), acceptance, {})
    before, after = (load(CONF, {}, data=data) for data in (text.encode(), new))
    assert after == intended(before, acceptance)
    begin, end = conf.spans[host] if way != "until" else (len(conf.lines) - 2, len(conf.lines))
    old_lines, new_lines = text.split(newline), new.decode().split(newline)
    for kind, first, last, *_ in difflib.SequenceMatcher(None, old_lines, new_lines, autojunk=False).get_opcodes():
        if kind != "equal":
            assert begin <= first
            assert last <= end + 1
    kept = [line for place, line in enumerate(old_lines) if not begin <= place <= end]
    assert [line for line in kept if line in new_lines] == kept
    assert yaml.safe_load(new)
