from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from urllib.parse import quote

import pytest

from portspec.audit.model import Audit, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.scan import Failure, Reason
from portspec.state.table import HostTable
from tests.unit.factories import NOW, result, seen, snapshot, target
from tests.unit.web.exporter import Exporter
from tests.unit.web.site import converse, serving
from tests.unit.web.test_api import fleet

#: What clears a terminal, sets its title, turns the direction of writing, is not seen; C0 and C1 controls.
NASTY = "\x1b[2J\x1b]0;title\x07\x9b2J\u202e\u2800\x7f\r\n"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/probe?target={}"),
        ("GET", "/probe?target=web1&module={}"),
        ("GET", "/probe?target=web1&debug={}"),
        ("GET", "/probe?{}=1"),
        ("GET", "/api/v1/hosts/{}"),
        ("GET", "/api/v1/hosts?verdict={}"),
        ("GET", "/api/v1/hosts?limit={}"),
        ("GET", "/api/v1/hosts?{}=1"),
        ("GET", "/api/v1/changes?since={}"),
        ("POST", "/api/v1/scan?host={}"),
    ],
)
def test_message_that_quotes_a_request_can_be_shown_on_a_terminal(method: str, path: str) -> None:
    """What a request has in it stands escaped in the answer, which people see with curl."""
    answer = fleet().ask(path.format(quote(NASTY)), method)
    assert 400 <= answer.status < 500
    is_json = answer.headers["Content-Type"] == "application/problem+json"
    message = json.loads(answer.text)["detail"] if is_json else answer.text.removesuffix("\n")
    assert "\\x1b[2j" in message.lower()
    assert message.isprintable()
    assert "\u2800" not in message


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/v1/hosts", "/api/v1/hosts/web1"])
def test_text_that_cannot_be_encoded_takes_no_page_away(path: str) -> None:
    """Half a surrogate pair from a corrupt state file is a question mark; everything else is as ever."""
    half = "a\ud800b"
    web1, db1 = target("web1", expect=[22]), target("db1")
    found = Audit(Status.VULNERABLE, (Vulnerability(half, half, half, title=half),), half)
    sockets = (ListeningSocket("tcp", "192.0.2.1", 22, half, half),)
    audit = AuditState("web1", (), HostAudit(NOW, "pkg-audit", half, found, sockets), NOW)
    failed = result(web1, at=NOW, failure=Failure(Reason.RESOLVE, half))
    states = snapshot((web1, [failed]), (db1, [result(db1, seen(is_open=[80]))]))
    answer = Exporter(replace(states, audits=HostTable([audit]))).ask(path)
    assert answer.status == 200
    assert "a?b" in answer.text
    assert path == "/api/v1/hosts/web1" or "db1" in answer.text


@pytest.mark.parametrize("path", [b"/-/reload", b"/api/v1/scan?host=web1"])
@pytest.mark.parametrize(
    "host", [b"ev\xffil", "ev\u202eil".encode(), b"ev\x9b2Jil", b'"\xc3\x28"', b"\xf0\x9f\x98\x80.example"]
)
def test_refusal_that_quotes_a_header_is_no_failure(path: bytes, host: bytes) -> None:
    """A header may have bytes that are no UTF-8: the refusal is the same as for any other name, and can be shown."""

    async def scenario() -> bytes:
        async with serving(lambda: fleet().snapshot) as (url,):
            head = b"POST %s HTTP/1.1\r\nHost: %s\r\nAccept-Language: en\r\nConnection: close\r\n\r\n" % (path, host)
            return await converse(url, head)

    head, _, body = asyncio.run(scenario()).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 421 ", b"HTTP/1.1 403 "))
    message = json.loads(body)["detail"] if path.startswith(b"/api/") else body.decode().removesuffix("\n")
    assert "does not know itself by the name" in message
    assert message.isprintable()
