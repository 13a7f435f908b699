from __future__ import annotations

import json
import tracemalloc
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit import document as encoding
from portspec.audit.document import Decoder, encode
from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.payload import Kernel, Library, ListeningSocket
from portspec.audit.state import HostAudit
from tests.unit.factories import MODEST, NOW

TEXTS: Final = st.text(st.characters(), max_size=20)  # lone surrogates are among them
TIMES: Final = st.floats(allow_nan=False, allow_infinity=False)
VULNERABILITIES: Final = st.builds(
    Vulnerability,
    TEXTS,
    TEXTS,
    TEXTS,
    st.sampled_from(Severity),
    st.lists(TEXTS, max_size=3).map(tuple),
    st.lists(TEXTS, max_size=3).map(tuple),
    TEXTS,
    TEXTS,
)
LIBRARIES: Final = st.builds(Library, TEXTS, TEXTS, TEXTS, TEXTS)
LISTENERS: Final = st.builds(
    ListeningSocket,
    TEXTS,
    TEXTS,
    st.integers(0, 65535),
    st.none() | TEXTS,
    st.none() | TEXTS,
    libraries=st.none() | st.lists(LIBRARIES, max_size=4).map(tuple),
    replaced=st.lists(TEXTS, max_size=3).map(tuple),
)
INSPECTIONS: Final = st.builds(
    HostAudit,
    TIMES,
    TEXTS,
    st.none() | TEXTS,
    st.builds(
        Audit,
        st.sampled_from([status for status in Status if status is not Status.NEVER]),
        st.lists(VULNERABILITIES, max_size=4).map(tuple),
        TEXTS,
        st.none() | TIMES,
    ),
    st.none() | st.lists(LISTENERS, max_size=4).map(tuple),
    st.none() | st.builds(Kernel, TEXTS, st.none() | TEXTS),
)

CURL: Final = Vulnerability(
    "curl", "7.50.1", "CVE-2016-7167", Severity.HIGH, ("DSA-3705-1",), ("7.50.3",), "overflows", "https://curl.example/"
)
SSHD: Final = ListeningSocket("tcp", "0.0.0.0", 22, "sshd", "root")  # noqa: S104 - of an audit
FOUND: Final = HostAudit(NOW, "pkg-audit", "1.20.9", Audit(Status.VULNERABLE, (CURL,), "", NOW - 60), (SSHD,))


def changed(**values: Any) -> str:
    """Return the document of an audit with some of its values changed."""
    return json.dumps(json.loads(encode(FOUND)) | values)


@MODEST
@given(host_audit=INSPECTIONS)
def test_what_is_encoded_is_decoded(host_audit: HostAudit) -> None:
    """A document is the whole host_audit, whatever texts the host has in it."""
    assert Decoder().decode(encode(host_audit)) == host_audit


def test_no_listeners_and_none_gathered_are_told_apart() -> None:
    """A host on which nothing listens is not one whose listeners could not be gathered."""
    for listeners in ((), None):
        host_audit = HostAudit(NOW, "pkg-audit", None, Audit(Status.CLEAN), listeners)
        found = Decoder().decode(encode(host_audit))
        assert found
        assert found.listeners == listeners


def test_equal_vulnerabilities_are_one_object() -> None:
    """What many hosts have takes memory once: of vulnerabilities the objects, and so of listeners."""
    decoder = Decoder()
    first, second = decoder.decode(encode(FOUND)), decoder.decode(encode(FOUND))
    assert first
    assert second
    assert first.audit.vulnerabilities[0] is second.audit.vulnerabilities[0]
    assert first.listeners
    assert second.listeners
    assert first.listeners[0] is second.listeners[0]


def test_vulnerabilities_that_nobody_has_any_more_are_forgotten() -> None:
    """A decoder that runs for years keeps the vulnerabilities of the last audits only."""
    decoder = Decoder()
    kept = decoder.decode(encode(FOUND))
    assert len(decoder._known) == 1
    assert kept
    del kept
    assert len(decoder._known) == 0


def test_document_of_another_version_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older portspec, or a newer one, made of a tool's output is not taken over: it is read anew."""
    document = encode(FOUND)
    monkeypatch.setattr(encoding, "VERSION", encoding.VERSION + 1)
    assert Decoder().decode(document) is None
    assert Decoder().decode(json.dumps({"version": 0})) is None
    assert Decoder().decode(json.dumps({"version": "1"})) is None


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{}",
        "[]",
        "null",
        "7",
        '"version"',
        "{",
        "\0",
        pytest.param("[" * 100_000, id="deep"),
        f'{{{{"version": {encoding.VERSION}}}}}',
        changed(at=None),
        changed(at="soon"),
        changed(at="7"),
        changed(at=True),
        pytest.param(changed(at=10**400), id="huge"),
        changed(at=float("nan")),
        changed(at=float("inf")),
        changed(database_at=float("-inf")),
        changed(database_at="yesterday"),
        changed(tool=None),
        changed(tool_version=[1]),
        changed(status="spotless"),
        changed(status=None),
        changed(reason=None),
        changed(listeners="tcp"),
        changed(listeners=["tcp"]),
        changed(listeners=[["tcp", "*", 22]]),
        changed(listeners=[["tcp", "*", "22", None, None]]),
        changed(listeners=[["tcp", "*", -1, None, None]]),
        changed(listeners=[["tcp", "*", 65536, None, None]]),
        changed(listeners=[["tcp", "*", 22.5, None, None]]),
        changed(listeners=[["tcp", None, 22, None, None]]),
        changed(listeners=[["tcp", "*", 22, 7, None]]),
        changed(listeners=[["tcp", "*", 22, None, ["root"]]]),
        changed(listeners=[[[], "*", 22, None, None]]),
        changed(vulnerabilities=None),
        changed(vulnerabilities="CVE"),
        changed(vulnerabilities=[7]),
        changed(vulnerabilities=[["curl"]]),
        changed(vulnerabilities=["curl"]),
        changed(vulnerabilities=["[]"]),
        changed(vulnerabilities=['["p","1","CVE","worst",[],[],"",""]']),
        changed(vulnerabilities=['["p","1","CVE","high","DSA",[],"",""]']),
        changed(vulnerabilities=['["p","1","CVE","high",[],[1],"",""]']),
        changed(vulnerabilities=['["p","1",null,"high",[],[],"",""]']),
        pytest.param(changed(vulnerabilities=["[" * 100_000]), id="deep vulnerability"),
    ],
)
def test_garbled_document_is_an_error(document: str) -> None:
    """What is no document of ours is a ValueError, and no value that makes trouble later."""
    with pytest.raises(ValueError, match=r"\w"):
        Decoder().decode(document)


@MODEST
@given(place=st.integers(0, len(encode(FOUND)) - 1), byte=st.integers(0, 255))
def test_document_with_one_wrong_byte_is_an_inspection_or_an_error(place: int, byte: int) -> None:
    """A bit that a disk has turned may change a text, and is never a crash."""
    document = encode(FOUND)
    try:
        found = Decoder().decode(document[:place] + chr(byte) + document[place + 1 :])
    except ValueError:
        return
    assert found is None or isinstance(found.audit.status, Status)


def test_audits_of_a_hostile_host_do_not_stay_in_memory() -> None:
    """What many hosts share is kept, and what is larger than that of any real one is not."""
    decoder = Decoder()

    def decoded(number: int) -> int:
        text = f"{number:05}{'x' * 900}"
        libraries = tuple(Library(f"/{place}{text}", text, text, text) for place in range(400))
        listeners = (
            ListeningSocket("tcp", "::", 80, "x", libraries=libraries),
            ListeningSocket("tcp", "::", 81, "x", libraries=(), replaced=tuple(f"/{text}{i}" for i in range(20))),
            ListeningSocket("tcp", "::", 82, text, text, text, libraries=()),
        )
        decoder.decode(encode(HostAudit(NOW, "x", None, Audit(Status.CLEAN), listeners)))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = decoded(0)
        assert max(decoded(number) for number in range(1, 20)) - before < 1_000_000
    finally:
        tracemalloc.stop()
