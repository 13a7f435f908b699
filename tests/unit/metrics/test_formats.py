from __future__ import annotations

import gzip

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from portspec.state.snapshot import Snapshot
from tests.unit.factories import MODEST, result, seen, snapshot, target
from tests.unit.metrics.scrape import NASTY, OPENMETRICS, PROMETHEUS, TEXT, audited_zoo, body, exposition, text, zoo

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
        ("APPLICATION/OpenMetrics-Text; Version=1.0.0", KNOWN_TYPES[2]),
        ("text/plain;q=0.5,application/openmetrics-text;version=1.0.0", KNOWN_TYPES[2]),
        ("text/plain;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4", KNOWN_TYPES[0]),
        ("text/plain,application/openmetrics-text;version=1.0.0", KNOWN_TYPES[0]),
        ("application/openmetrics-text;version=1.0.0,text/plain", KNOWN_TYPES[2]),
        ("application/openmetrics-text;version=1.0.0;q=0,text/plain;q=0.1", KNOWN_TYPES[0]),
        ("application/openmetrics-text;version=1.0.0;q=0", KNOWN_TYPES[0]),
        ("text/plain;q=0,application/openmetrics-text;version=1.0.0;q=0.001", KNOWN_TYPES[2]),
        ("text/plain;q=0", KNOWN_TYPES[0]),
        ("text/*;q=0.2,application/openmetrics-text;q=0.3", KNOWN_TYPES[2]),
        ("application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=nonsense", KNOWN_TYPES[0]),
        ("application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=nan", KNOWN_TYPES[0]),
        ("application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=-1", KNOWN_TYPES[0]),
        ("application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=99", KNOWN_TYPES[0]),
    ],
)
def test_format_is_what_the_client_accepts(accept: str, content_type: str) -> None:
    """OpenMetrics 1.0.0 for those who like it best, by its weight or its place; the text format for everybody else."""
    page = EMPTY.write(accept)
    assert page.content_type.startswith(content_type)
    assert body(page).endswith(b"# EOF\n") == ("openmetrics" in content_type)


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
    page = EMPTY.write(accept)
    assert b"portspec_hosts 0.0\n" in body(page)
    assert page.content_type.startswith(KNOWN_TYPES)


@pytest.mark.parametrize("version", ["1.0.1", "2.0.0", "99.0.0"])
def test_version_that_does_not_exist_is_not_claimed(version: str) -> None:
    """A client that names a version of the future gets one of the present, and is told which."""
    for kind in ("application/openmetrics-text", "text/plain"):
        assert EMPTY.write(f"{kind};version={version}").content_type.startswith(KNOWN_TYPES)


@MODEST
@given(accept=st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=20).map("".join)))
@example("application/openmetrics-text;version=0")
def test_no_accept_header_raises(accept: str) -> None:
    """No text at all in an Accept header makes the exposition fail."""
    page = EMPTY.write(accept)
    assert b"portspec_hosts 0.0\n" in body(page)
    assert page.content_type.startswith(("text/plain", "application/openmetrics-text"))


@pytest.mark.parametrize(
    ("accept_encoding", "is_gzip"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("gzip, deflate, br", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("gzip; q = 0", False),
        ("gzip;q=0.001", True),
        ("identity", False),
        ("identity;q=0, *", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0, gzip", True),
        ("deflate, br, zstd", False),
        ("gzipped", False),
        ("gzip;q=nonsense", True),
        (";q=1", False),
    ],
)
def test_page_is_gzip_for_those_who_take_it(accept_encoding: str, *, is_gzip: bool) -> None:
    """The page is gzip for a client that names it, or everything, with a weight above 0; else it is as it is."""
    page = EMPTY.write("", accept_encoding)
    assert page.content_encoding == ("gzip" if is_gzip else None)
    assert body(page).startswith(b"\x1f\x8b") == is_gzip


@MODEST
@given(
    accept_encoding=st.one_of(
        st.text(max_size=80),
        st.lists(st.sampled_from(["gzip", "x-gzip", "*", ";", ",", "q=", "0", "1", ".", " ", "=", "\t", "nan"])).map(
            "".join
        ),
    )
)
def test_no_accept_encoding_header_raises(accept_encoding: str) -> None:
    """No text at all in an Accept-Encoding header makes the exposition fail: the page comes, gzip or not."""
    page = EMPTY.write("", accept_encoding)
    plain = gzip.decompress(body(page)) if page.content_encoding else body(page)
    assert b"portspec_hosts 0.0\n" in plain


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_names_choose_what_is_written(accept: str) -> None:
    """With names the page has the samples of these names and no other, the exporter's own ones as well."""
    everything = text(zoo(), accept).splitlines()
    names = ["port_up", "port_host_up", "portspec_hosts", "portspec_scan_rounds_total", "port_open"]
    chosen = body(exposition(zoo()).write(accept, "", names)).decode().splitlines()
    wanted = tuple(f"{name}{end}" for name in names for end in ("{", " "))
    assert [line for line in chosen if not line.startswith("#")] == [
        line for line in everything if line.startswith(wanted)
    ]
    assert len([line for line in chosen if line.startswith("# TYPE")]) == 4


def test_names_of_nothing_choose_nothing() -> None:
    """With a name that no sample has, the page is empty: in OpenMetrics, but for its end."""
    assert body(exposition(zoo()).write(TEXT, "", ["nothing"])) == b""
    assert body(exposition(zoo()).write(OPENMETRICS, "", ["nothing"])) == b"# EOF\n"
    assert gzip.decompress(body(exposition(zoo()).write(TEXT, "gzip", ["nothing"]))) == b""


def samples(accept: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Write the zoo in a format, and read it back; what the process itself does is left out."""
    families = (parse_openmetrics if accept else parse_text)(text(audited_zoo(), accept))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith(("port", "audit"))
    }


def test_both_formats_parse_and_say_the_same() -> None:
    """The text format and OpenMetrics are read by their parsers, and hold the same samples."""
    assert samples(TEXT) == samples(OPENMETRICS)
    assert len(samples(TEXT)) > 150


def test_labels_survive_quotes_backslashes_and_newlines() -> None:
    """Any label value comes out of the parser as it stood in conf.yml or in a report, in both formats."""
    for accept in (TEXT, OPENMETRICS):
        (labels,) = [dict(labels) for name, labels in samples(accept) if ("nasty", NASTY) in labels]
        assert labels == {"host": "good", "nasty": NASTY, "site": "here"}
        (labels,) = [dict(labels) for _, labels in samples(accept) if ("package", NASTY) in labels]
        assert labels == {
            "host": "cut off",
            "package": NASTY,
            "version": "é😀\\",
            "id": NASTY,
            "severity": "low",
            "fixed_version": "",
            "class": "rest",
        }
        (labels,) = [dict(labels) for _, labels in samples(accept) if ("process", NASTY) in labels]
        nothing = dict.fromkeys(["user", "package", "unit", "container"], "")
        assert labels == {"host": "good", "port": "22", "process": NASTY, **nothing}


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
