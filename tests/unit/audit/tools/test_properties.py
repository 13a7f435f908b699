from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.audit.model import Audit, Severity, Status, ToolRun, Vulnerability
from portspec.audit.tools import TOOLS, parse
from tests.unit.audit.tools.samples import Sample, load

Draw = Any  # hypothesis' DrawFn is generic over what is drawn

SAMPLES: Final = load()
WHOLE: Final = [sample for sample in SAMPLES if sample.audit.status in {Status.CLEAN, Status.VULNERABLE}]
DOCUMENTS: Final = [sample for sample in SAMPLES if sample.is_json]
# What the tools print, so that text made of it goes deep into the readers.
WORDS: Final = sorted({line for sample in SAMPLES for line in sample.run.output.splitlines() if not sample.is_json})

properties = settings(max_examples=150, deadline=None)

characters = st.characters(codec=None)  # with halves of surrogate pairs, as JSON can spell them, and with NUL
texts = st.one_of(
    st.text(characters, max_size=200),
    st.lists(st.sampled_from([*WORDS, "", "  ", "\0", "{", "["]), max_size=12).map("\n".join),
    st.lists(st.sampled_from([*WORDS, "\x0b", "\u2028"]), max_size=12).map(lambda lines: "\r\n".join([*lines, ""])),
)
runs = st.builds(
    ToolRun,
    tool=st.sampled_from([*TOOLS, "vuls", ""]),
    exit_status=st.one_of(st.none(), st.integers(-1, 3), st.sampled_from([64, 74, 126, 127, 128, 255, 10**30])),
    output=texts,
    errors=texts,
    is_truncated=st.booleans(),
    ended_at=st.floats(),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(characters, max_size=20),
        st.sampled_from([10**400, -1, 1e308, "CVE-2024-1", "9.8", "0001-01-01T00:00:00Z", "2026-03-24T04:03:42Z"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=5,
)


def check(audit: Audit) -> None:
    """Check the properties of an audit that other modules rely on."""
    assert isinstance(audit.status, Status)
    assert audit.reason.isprintable()
    assert len(audit.reason) <= 400
    assert audit.status in {Status.CLEAN, Status.VULNERABLE} or audit.reason
    assert (audit.status == Status.VULNERABLE) <= bool(audit.vulnerabilities)
    assert audit.status != Status.CLEAN or not audit.vulnerabilities
    assert audit.database_at is None or audit.database_at > 0
    for each in audit.vulnerabilities:
        check_vulnerability(each)


def check_vulnerability(each: Vulnerability) -> None:
    """Check that the texts of a vulnerability fit into labels, pages and mails."""
    assert isinstance(each.severity, Severity)
    assert each.id not in each.aliases
    assert list(each.aliases) == sorted(set(each.aliases))
    for text in (each.package, each.version, each.id, each.title, each.url, *each.aliases, *each.fixed_in):
        assert text.isprintable()
        assert len(text) <= 500
        assert text.encode().decode() == text


@settings(max_examples=400, deadline=None)
@given(runs)
def test_no_output_of_any_tool_makes_it_raise(run: ToolRun) -> None:
    """Any output and exit status results in an audit with a status and a reason of one line."""
    audit = parse(run)
    check(audit)
    if run.is_truncated or run.exit_status is None:
        assert audit.status in {Status.FAILED, Status.UNSUPPORTED}
    if not run.output.strip():
        assert audit.status in {Status.FAILED, Status.STALE_DATABASE, Status.UNSUPPORTED}


@pytest.mark.parametrize("sample", WHOLE, ids=lambda sample: sample.name)
def test_truncated_output_is_not_clean(sample: Sample) -> None:
    """Of all beginnings of an output only the whole output may be clean."""
    output = sample.run.output
    is_clean = sample.audit.status == Status.CLEAN
    for length in range(len(output)):
        if is_clean and output[:length].strip() == output.strip():
            continue
        audit = parse(replace(sample.run, output=output[:length]))
        assert audit.status != Status.CLEAN, output[:length]


@pytest.mark.parametrize("sample", WHOLE, ids=lambda sample: sample.name)
def test_run_marked_as_truncated_is_failed_and_keeps_vulnerabilities(sample: Sample) -> None:
    """The mark counts even if the output looks complete."""
    audit = parse(replace(sample.run, is_truncated=True))
    assert audit.status == Status.FAILED
    assert audit.reason == "the output is truncated: it exceeds the size limit of an audit"
    assert audit.vulnerabilities == sample.audit.vulnerabilities


@pytest.mark.parametrize("part", [{"is_truncated": True}, {"exit_status": None}])
def test_note_of_the_agent_is_in_the_reason(part: dict[str, Any]) -> None:
    """The agent knows why the output is incomplete, and which setting would change that."""
    said = "portspec-send: it took longer than 30m (timeout)"
    run = replace(WHOLE[0].run, errors=f"the tool's own words\n{said}\n", **part)
    assert parse(run).reason.endswith(f': "{said}"')


@pytest.mark.parametrize("sample", WHOLE, ids=lambda sample: sample.name)
def test_tool_killed_by_a_signal_is_failed(sample: Sample) -> None:
    """Without an exit status nothing is clean, and vulnerabilities are kept."""
    audit = parse(replace(sample.run, exit_status=None))
    assert (audit.status, audit.vulnerabilities) == (Status.FAILED, sample.audit.vulnerabilities)


@pytest.mark.parametrize("sample", WHOLE, ids=lambda sample: sample.name)
def test_crlf_line_ends_change_nothing(sample: Sample) -> None:
    """Mail may convert line ends to CR LF."""
    assert parse(replace(sample.run, output=sample.run.output.replace("\n", "\r\n"))) == sample.audit


@properties
@given(st.sampled_from(SAMPLES), st.data())
def test_lost_duplicate_or_swapped_lines_do_not_raise(sample: Sample, data: Draw) -> None:
    """An output with such lines still results in an audit."""
    lines = sample.run.output.splitlines(keepends=True)
    chosen = data.draw(st.lists(st.integers(0, max(len(lines) - 1, 0)), max_size=len(lines) + 2))
    check(parse(replace(sample.run, output="".join(lines[index] for index in chosen if index < len(lines)))))


@properties
@given(st.sampled_from(SAMPLES), st.data())
def test_changed_characters_do_not_raise(sample: Sample, data: Draw) -> None:
    """An output with garbage in one place still results in an audit."""
    output = sample.run.output
    start = data.draw(st.integers(0, len(output)))
    end = data.draw(st.integers(start, min(start + 20, len(output))))
    garbage = data.draw(st.text(characters, max_size=10))
    check(parse(replace(sample.run, output=output[:start] + garbage + output[end:])))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(DOCUMENTS), st.data())
def test_values_of_any_type_do_not_raise(sample: Sample, data: Draw) -> None:
    """A JSON document with another value in any place still results in an audit."""
    try:
        document = json.loads(sample.run.output)
    except json.JSONDecodeError:
        return
    places = list(walk(document))
    if not places:
        return
    container, key = data.draw(st.sampled_from(places))
    container[key] = data.draw(values)
    check(parse(replace(sample.run, output=json.dumps(document))))


def walk(value: Any) -> Any:
    """Yield every place in a document: its container, and its key or index there."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from walk(inner)
