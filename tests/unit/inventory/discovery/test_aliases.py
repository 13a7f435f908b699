from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

import pytest

from portspec.inventory.discovery.hosts import find_hosts
from portspec.inventory.discovery.targetgroups import read_json, read_yaml
from tests.fuzz.catalogue import find_harness
from tests.fuzz.effort import check_effort
from tests.fuzz.harness import Limit
from tests.unit.inventory.discovery.parts import entry, names

COUNT: Final = 2000
LABELS: Final = ", ".join(f"l{number}: v" for number in range(COUNT))
ODD_PORTS: Final = ",".join(map(str, range(1, 30_000, 2)))
#: Lists in which a short line repeats something long.
LISTS: Final = {
    "groups": f"- &a {{targets: [web1], labels: {{{LABELS}}}}}\n" + "- *a\n" * COUNT,
    "labels": f"- {{targets: [web1], labels: &l {{{LABELS}}}}}\n" + "- {targets: [web2], labels: *l}\n" * COUNT,
    "wrong labels": f"- {{targets: [a], labels: &l {{__portspec_expect: x, {LABELS}}}}}\n" + "- {labels: *l}\n" * COUNT,
    "wrong ports": f"- {{labels: {{x: &p '{ODD_PORTS},x'}}}}\n"
    + "- {targets: [web1], labels: {__portspec_allow: *p}}\n" * COUNT,
    "keys": "- &a {"
    + ", ".join(f"l{number}: v" for number in range(COUNT))
    + ", targets: [web1]}\n"
    + "- *a\n" * COUNT,
    "targets": f"- targets: &t [{', '.join(f'h{number}' for number in range(4000))}]\n" + "- targets: *t\n" * 4000,
    "ports": f"- {{targets: [web1], labels: {{__portspec_expect: '{ODD_PORTS}'}}}}",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=list(LISTS))
def test_aliases_of_yaml_do_not_multiply_work(text: str) -> None:
    """However often a list repeats what is long, and whatever is wrong with that, it is read once."""
    harness = replace(find_harness("targets"), calls=Limit(20_000, 100), memory=Limit(32 << 20, 200))
    check_effort(harness, b"yaml\n" + text.encode())


def test_groups_that_share_labels_have_them() -> None:
    """What is read once counts for each group that has it, and what is wrong with it is told."""
    text = "- {targets: [web1], labels: &l {site: rome, 9: x}}\n- {targets: [web2], labels: *l}\n- {targets: [web3]}\n"
    answer = find_hosts(read_yaml(text.encode()), entry())
    assert names(answer) == ["web1", "web2", "web3"]
    assert [dict(host.labels) for host in answer.hosts] == [{"site": "rome"}, {"site": "rome"}, {}]
    assert answer.dropped == 1
    wrong = "- {targets: [web1, web2], labels: &l {__portspec_allow: x}}\n- {targets: [web3], labels: *l}\n"
    answer = find_hosts(read_yaml(wrong.encode()), entry())
    assert (names(answer), answer.refused) == ([], 3)
    assert answer.complaints[0].startswith('__portspec_allow: "x" is not a port')
    assert answer.complaints[0] == answer.complaints[1]


def test_name_of_a_label_is_quoted_in_short() -> None:
    """A name of a megabyte may be that of many labels, and goes into no message."""
    text = json.dumps([{"targets": ["web1"], "labels": {"x" * 100_000: "v"}}])
    answer = find_hosts(read_json(text.encode()), entry())
    assert (names(answer), answer.dropped) == (["web1"], 1)
    assert len(answer.complaints[0]) < 200
