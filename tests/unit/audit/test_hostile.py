"""What a host can say beside what tests/fuzz makes of bytes: values of any type, texts of any letters, without end."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portspec.audit.admission import admit
from portspec.audit.model import Status, ToolRun
from portspec.audit.payload import read_payload
from portspec.audit.tools import TOOLS, parse
from tests.fuzz.audits import BODY, check_report, texts_of, unless_refused
from tests.fuzz.readers import LINES
from tests.unit.audit.test_admission import NOW, PLAIN, RULES, packed, payload
from tests.unit.audit.tools.test_properties import check, values, walk

pytestmark = pytest.mark.timeout(90)
anything: Final = st.text(st.characters(codec=None), max_size=30)  # with halves of surrogate pairs, as JSON can spell


def fuzz(examples: int) -> settings:
    """Return how much is tried; the machine may be slow, and what is drawn large."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@fuzz(30)
@given(st.sampled_from(TOOLS), st.lists(st.sampled_from(LINES), min_size=1, max_size=3), st.sampled_from("\n\r "))
def test_tool_that_prints_for_ever_is_read_in_time(tool: str, lines: list[str], end: str) -> None:
    """An output of a million characters, over and over the same, is read to its end or given up."""
    unit = end.join([*lines, ""])
    audit = parse(ToolRun(tool, 0, unit * (1_000_000 // len(unit)), unit * 1000, is_truncated=True))
    check(audit)
    assert audit.status == Status.FAILED


@fuzz(300)
@given(st.data())
def test_value_of_any_type_in_any_place_is_an_audit_or_malformed(data: Any) -> None:
    """What a host signs may have any value anywhere, deep in it as well."""
    plain = json.loads(BODY)
    container, key = data.draw(st.sampled_from(list(walk(plain))))
    container[key] = data.draw(values)
    audit = unless_refused(lambda: admit(packed(json.dumps(plain).encode()), RULES, NOW)[0])
    if audit is not None:
        check_report(audit)


@fuzz(100)
@given(st.lists(anything, min_size=8, max_size=8))
def test_words_of_a_host_can_be_shown(found: list[str]) -> None:
    """Control characters and halves of surrogate pairs in names and versions stand escaped."""
    nonce, agent, version, tool, protocol, address, process, user = found
    listener = {"protocol": protocol, "address": address, "port": 1, "process": process, "user": user}
    body = payload(
        nonce=nonce, agent=agent, tool=PLAIN["tool"] | {"version": version, "name": tool}, listeners=[listener]
    )
    audit = read_payload(body)
    check_report(audit)
    assert len(texts_of(audit)) == 2 + 8
    for text in found:
        assert not text.isprintable() or text in texts_of(audit)
