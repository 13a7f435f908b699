from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from portspec.ports import PortSet
from portspec.scan import AddressObservation
from portspec.snapshot import Snapshot
from tests.unit.factories import MODEST, result, seen, snapshot, target
from tests.unit.metrics.scrape import NASTY, OPENMETRICS, PROMETHEUS, TEXT, exposition, text, zoo

KNOWN_TYPES = ("text/plain; version=0.0.4", "text/plain; version=1.0.0", "application/openmetrics-text; version=1.0.0")
EMPTY = exposition(Snapshot.of(()))
PIECES = st.sampled_from(
    ["application/openmetrics-text", "text/plain", "*/*", ";", ",", "version=", "1.0.0", "0.0.1", "escaping=",
     "allow-utf-8", "q=", "0.5", " ", "=", "1", ".", "abc", '"', "9" * 40]
)  # fmt: skip


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", KNOWN_TYPES[0]),
        ("*/*", KNOWN_TYPES[0]),
        ("text/html,application/xhtml+xml,*/*;q=0.8", KNOWN_TYPES[0]),
        ("text/plain", KNOWN_TYPES[0]),
        ("text/plain;version=0.0.4;q=0.5", KNOWN_TYPES[0]),
        (OPENMETRICS, KNOWN_TYPES[2]),
        ("application/openmetrics-text", KNOWN_TYPES[2]),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", KNOWN_TYPES[2]),
        ("application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5", KNOWN_TYPES[0]),
        ("application/openmetrics-text;version=0.0.1,application/openmetrics-text;version=1.0.0", KNOWN_TYPES[2]),
        (PROMETHEUS, KNOWN_TYPES[2]),
    ],
)
def test_format_is_what_the_client_accepts(accept: str, content_type: str) -> None:
    """OpenMetrics 1.0.0 for those who name it, the text format for everybody else."""
    body, given_type = EMPTY.write(accept)
    assert given_type.startswith(content_type)
    assert body.endswith(b"# EOF\n") == ("openmetrics" in content_type)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=abc",
        "application/openmetrics-text;version=",
        "application/openmetrics-text;version",
        "application/openmetrics-text;version=1..0",
        "application/openmetrics-text;version=.",
        "application/openmetrics-text;version=-1.0.0",
        "application/openmetrics-text;version=1.0.0.x",
        'application/openmetrics-text;version="1.0.0"',
        "application/openmetrics-text;version=1.0.0 ;q=1",
        "application/openmetrics-text; version = 1.0.0",
        "application/openmetrics-text;version=1_0.0.0",
        "application/openmetrics-text;version=١.٠.٠",  # noqa: RUF001 - digits to Python, not to HTTP
        "application/openmetrics-text;version=²",
        "application/openmetrics-text;version=1;version=abc",
        "application/openmetrics-text;xversion=abc;version=1.0.0",
        "application/openmetrics-text;escaping=",
        "application/openmetrics-text;version=1.0.0;escaping=abc",
        "application/openmetrics-text;version=" + "9" * 5000,  # more digits than Python reads as a number
        "text/plain;version=" + "9" * 5000,
        "text/plain;version=abc",
        ";;;",
        ",,,",
        "=;=,=",
        "version=abc",
        "\udcff",
    ],
)
def test_malformed_accept_header_gets_metrics(accept: str) -> None:
    """Whatever nonsense a client accepts, it gets metrics in a format that exists."""
    body, content_type = EMPTY.write(accept)
    assert b"portspec_hosts 0.0\n" in body
    assert content_type.startswith(KNOWN_TYPES)


@pytest.mark.parametrize("version", ["1.0.1", "2.0.0", "99.0.0"])
def test_version_that_does_not_exist_is_not_claimed(version: str) -> None:
    """A client that names a version of the future gets one of the present, and is told which."""
    for kind in ("application/openmetrics-text", "text/plain"):
        _, content_type = EMPTY.write(f"{kind};version={version}")
        assert content_type.startswith(KNOWN_TYPES)


@MODEST
@given(accept=st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=20).map("".join)))
@example("application/openmetrics-text;version=0")
def test_no_accept_header_raises(accept: str) -> None:
    """No text at all in an Accept header makes the exposition fail."""
    body, content_type = EMPTY.write(accept)
    assert b"portspec_hosts 0.0\n" in body
    assert content_type.startswith(("text/plain", "application/openmetrics-text"))


def samples(accept: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Write the zoo in a format, and read it back; what the process itself does is left out."""
    families = (parse_openmetrics if accept else parse_text)(text(zoo(), accept))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("port")
    }


def test_both_formats_parse_and_say_the_same() -> None:
    """The text format and OpenMetrics are read by their parsers, and hold the same samples."""
    assert samples(TEXT) == samples(OPENMETRICS)
    assert len(samples(TEXT)) > 50


def test_labels_survive_quotes_backslashes_and_newlines() -> None:
    """Any label value comes out of the parser as it stood in conf.yml, in both formats."""
    for accept in (TEXT, OPENMETRICS):
        (labels,) = [dict(labels) for name, labels in samples(accept) if ("nasty", NASTY) in labels]
        assert labels == {"host": "good", "nasty": NASTY, "site": "here"}


@MODEST
@given(
    value=st.text(st.characters(exclude_categories=["Cs"]), max_size=30), host=st.text('abc"\\\n{},= é', max_size=12)
)
def test_any_label_value_can_be_read_back(value: str, host: str) -> None:
    """Whatever a label holds, Prometheus's parser reads that."""
    of = target(host, labels={"label": value})
    families = parse_text(text(snapshot((of, [result(of, seen())]))))
    (sample,) = [sample for family in families if family.name == "port_host_info" for sample in family.samples]
    assert sample.labels == {"host": host, "label": value}


def test_many_open_ports_are_written() -> None:
    """A host with all ports open has a series for each."""
    of = target("honeypot", scan=range(1, 65536))
    everything = AddressObservation("192.0.2.1", of.config.ports, open=PortSet.of_ranges([(1, 65535)]), answered=True)
    lines = text(snapshot((of, [result(of, everything)]))).splitlines()
    for name, place in itertools.product(("port_open{", "port_deviation{"), (0, -1)):
        found = [line for line in lines if line.startswith(name)]
        assert len(found) == 65535
        assert 'port="1"' in found[0] or place
        assert 'port="65535"' in found[-1]
