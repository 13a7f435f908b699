"""Documents of the state file, old, corrupt or by another's hand: each is read, or refused as what it is.

An input is a line with the kind of document, then the document.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portspec.audit import document
from portspec.audit.fixes import Known
from portspec.audit.model import Audit, Scope, Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.result import result_of
from portspec.audit.since import dated
from portspec.audit.state import AuditState, HostAudit
from portspec.notify.encoding import decode_notification, decode_state, encode_notification, encode_state
from portspec.notify.notification import NOTHING_NOTIFIED
from portspec.state.document import host_document
from portspec.state.snapshot import HostState, Snapshot
from portspec.state.table import HostTable
from portspec.store.states import StateCodec
from tests.fuzz.harness import LARGE, Harness, Limit, first_line, text_of
from tests.unit.factories import NOW, result, seen, target
from tests.unit.metrics.scrape import text as metrics_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MOST_SHOWN: Final = 200  # open ports: a range is short to write, and each of its ports is shown
_TARGET: Final = target("web1", expect=[22, 443], allow=[80])


def _show(state: HostState, audit: AuditState | None = None) -> None:
    """Show a host as the API and /metrics do."""
    document = json.dumps(host_document(state, audit), ensure_ascii=False, allow_nan=False)
    json.loads(document.encode(errors="replace"))
    audits = HostTable([audit] if audit else [])
    assert metrics_of(Snapshot(HostTable([state]), audits=audits))


def _read_state(text: str) -> None:
    state = StateCodec().decode(text, _TARGET, NOW)
    again = StateCodec().encode(state)
    assert StateCodec().decode(again, _TARGET, NOW) == state
    results = [found for found in (state.latest, state.conclusive) if found]
    if sum(len(item.open) for found in results for item in found.addresses) <= _MOST_SHOWN:
        _show(state)


def _read_notified(text: str) -> None:
    state = decode_state(text)
    if state != NOTHING_NOTIFIED:
        assert decode_state(encode_state(state)) == state


def _read_notification(text: str) -> None:
    found = decode_notification(text)
    assert decode_notification(encode_notification(found)) == found


def _read_audit(text: str) -> None:
    found = document.Decoder().decode(text)
    if found is not None:
        assert document.Decoder().decode(document.encode(found)) == replace(found, since=())
        result = result_of(found, text, document.Decoder())
        assert result.before in (None, found)  # what it remembers may be invalid
        assert not result.fixes  # of the very same audit
        _show(HostState(_TARGET), AuditState("web1", (), found, NOW))


_KINDS: Final[dict[str, Callable[[str], None]]] = {
    "state": _read_state,
    "notified": _read_notified,
    "notification": _read_notification,
    "audit": _read_audit,
}


def read_document(data: bytes) -> None:
    """Read a document; nothing but ValueError is raised, and what is read is written, shown and read again."""
    words, rest = first_line(data)
    read = _KINDS.get(words[0] if words else "")
    if read is None:
        return
    text = text_of(rest)
    try:
        _decode(words[0], text)
    except ValueError:
        return
    read(text)


def _decode(kind: str, text: str) -> None:
    """Decode a document. Raises ValueError if it is invalid."""
    if kind == "state":
        StateCodec().decode(text, _TARGET, NOW)
    elif kind == "audit":
        document.Decoder().decode(text)
    elif kind == "notification":
        decode_notification(text)


# --- Seeds ------------------------------------------------------------------------------------------------------------


def _documents() -> Iterator[bytes]:
    once = result(_TARGET, seen(is_open=[22, 8080], filtered=[443], rtt=0.1), seen("2001:db8::1", is_open=[22]), at=NOW)
    for state in (HostState(_TARGET), HostState(_TARGET, once, once, NOW, opened=())):
        yield b"state\n" + StateCodec().encode(state).encode()
    found = Vulnerability(
        "curl", "8.1", "CVE-2026-0001", Severity.HIGH, ("GHSA-a",), ("8.2",), "title", "https://a.example"
    )
    audit = Audit(Status.VULNERABLE, (found,), "", NOW, Status.CLEAN, tuple(Scope)[:1])
    listeners = (ListeningSocket("tcp", "::", 22, "sshd", "root"), ListeningSocket("udp", "192.0.2.1", 53))
    host_audit = HostAudit(NOW, "pkg-audit", "2.1", audit, listeners)
    yield b"audit\n" + document.encode(host_audit).encode()
    failed = replace(host_audit, audit=Audit(Status.FAILED))
    known = Known(found, NOW - 9.5, "pkg-audit", audit.scopes)
    yield b"audit\n" + document.encode(failed, (dated(found, NOW - 9),), (known,)).encode()
    yield b"audit\n" + document.encode(host_audit, (dated(found, NOW - 9),), (known,)).encode()
    yield (
        b'notified\n{"told":"out_of_spec","told_at":1.5,"unknown_scans":0,"unknown_at":0,"unknown_since":0,"expiring":[1],'
        b'"findings":[["192.0.2.1","missing","22,80-90",1.5]],"since":1,"reason":"x","seen":[2]}'
    )
    yield (
        b'notification\n{"host":"web1","news":"out_of_spec","at":1.5,"expected":"22","open":"80","lines":[{"ports":"22",'
        b'"address":"192.0.2.1","kind":"missing","state":"closed","since":1.0}],"over":[],"since":null,"reason":"",'
        b'"is_unknown":false,"expiring":[["22",9.0,"why","who"]],"holders":[["80","nginx",false]],"gap":[1,2,"x"]}'
    )


_WORDS: Final = tuple(
    word.encode()
    for word in (
        *("null", "true", "1e999", "-1", "NaN", "0.5", "253402214400", "9" * 400, '"\\ud800"', "[[]]", "{}", "latest"),
        *('"1-65535"', '"0"', '"65536"', '"22,22"', '"-"', '"5-"', '"a"', '"version":1', '"addresses":[', '"latest":'),
        *('"conclusive":"latest"', '"opened":[[1,"22"]]', '"failure":{"reason":"no_route","detail":"x"}', "[" * 200),
    )
)

_DOCUMENTS: Final = Harness(
    "documents",
    read_document,
    _documents,
    _WORDS,
    longest=4096,
    calls=Limit(6_000_000, 500),  # each open port that deviates is judged, and a range of all is short to write
    memory=Limit(128 << 20, 1000),
    examples=100,
    largest=LARGE,
)

HARNESSES: Final = (_DOCUMENTS,)
