"""Requests to the web server: paths, query strings, globs, times and headers; and label values on /metrics.

A request is a line with method and target, then a header on each line.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from functools import cache
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

import bcrypt
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from portspec.access.watched import CurrentWebConfig
from portspec.audit.model import Audit, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.metrics.host_families import AUDITS, PORTS
from portspec.metrics.render import Renderer
from portspec.state.budget import cut
from portspec.state.snapshot import Snapshot
from portspec.state.table import HostTable
from portspec.web import WebServer
from portspec.web.connection import _has_tiny_chunks
from portspec.web.gate import Gate
from tests.fuzz.configuration import file_of
from tests.fuzz.harness import Harness, Limit, words
from tests.unit.factories import NOW, result, seen, target
from tests.unit.metrics.scrape import UNLIMITED
from tests.unit.web.site import LOOPBACK, open_gate
from tests.unit.web.test_api import fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.unit.web.exporter import Exporter

_PATIENCE: Final = 30.0  # seconds that an answer may take on a busy machine
_MAX_HEAD: Final = 16 << 10  # bytes of a head that is answered for sure
_LOST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"  # in the place of an answer that was lost
_MAX_ANSWER: Final = 200_000  # bytes; the agent, the longest there is, has half of it
_HEADER: Final = re.compile(rb"[!-9;-~]+:[ \t-\xff]*")
#: Headers of the connection, about which aiohttp decides.
_HOP_BY_HOP: Final = re.compile(rb"(?i)(connection|content-length|transfer-encoding|upgrade|expect|keep-alive)\s*:")
_TARGET: Final = re.compile(rb"[!-~]+")
_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH")


class _Site:
    """A web server with four hosts behind a gate, in an event loop of its own, started with the first request."""

    def __init__(self, gate: Callable[[], Gate]) -> None:
        self._gate = gate
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exporter: Exporter = fleet()
        self._address: tuple[str, int] = ("", 0)

    def ask(self, request: bytes) -> bytes:
        """Send the head of a request; return all that is answered until the server closes the connection."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            server = WebServer(self._exporter, [LOOPBACK], gate=self._gate())
            (url,) = self._loop.run_until_complete(server.start())
            host, _, port = url.removeprefix("http://").rstrip("/").rpartition(":")
            self._address = (host, int(port))
        return self._loop.run_until_complete(self._answer(request))

    async def _answer(self, request: bytes) -> bytes:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(*self._address)
            answer = b""
            try:
                writer.write(request)
                while piece := await reader.read(1 << 16):
                    answer += piece
            except ConnectionResetError:
                # What has a line end every few bytes is closed without an answer, and that to a head that is too large
                # may be lost, since not all of the head was read.
                if len(request) < _MAX_HEAD and not _has_tiny_chunks(request):
                    raise
                return answer or _LOST
            finally:
                writer.close()
            return answer


_SITE: Final = _Site(open_gate)


def _request(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the method and the head of a request; None if it is not the beginning of one."""
    first, *lines = data.split(b"\n")
    method, _, address = first.partition(b" ")
    if method not in _METHODS or not _TARGET.fullmatch(address):
        return None
    headers = [line for line in lines if _HEADER.fullmatch(line) and not _HOP_BY_HOP.match(line)]
    if not any(line.lower().startswith(b"host:") for line in headers):
        headers.insert(0, b"Host: localhost")
    return method, b"\r\n".join([b"%s %s HTTP/1.1" % (method, address), *headers, b"Connection: close", b"", b""])


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    kind: str
    is_metrics: bool
    body: bytes


def _read_answer(method: bytes, answer: bytes) -> _Answer:
    """Read an answer by the rules of RFC 9112; it is whole, and of a size that anybody can take."""
    assert len(answer) <= _MAX_ANSWER
    status_line, _, rest = answer.partition(b"\r\n")
    found = re.fullmatch(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [ -~]*", status_line)
    assert found, status_line
    status = int(found[1])
    fields, _, body = rest.partition(b"\r\n\r\n")
    headers = BytesHeaderParser().parsebytes(fields + b"\r\n\r\n")
    assert not headers.defects
    if method == b"HEAD" or status in {204, 304}:
        assert body == b"" or status == 400  # aiohttp's own, before it knows the method
        return _Answer(status, "", is_metrics=False, body=b"")
    assert len(body) == int(headers["Content-Length"])
    if headers["Content-Encoding"] == "gzip":
        body = gzip.decompress(body)
    return _Answer(status, headers.get_content_type(), is_metrics="version" in str(headers["Content-Type"]), body=body)


def send_request(data: bytes) -> None:
    """Send a request; the answer is whole, says what it is, is no failure of the server, and tells nothing of it."""
    made = _request(data)
    if made is None:
        return
    method, head = made
    answer = _read_answer(method, _SITE.ask(head))
    assert answer.status < 500 or answer.status == 503, answer
    assert b"Traceback" not in answer.body
    if answer.kind in ("application/json", "application/problem+json"):
        json.loads(answer.body.decode())
    elif answer.kind == "text/plain" and not answer.is_metrics:
        assert all(line.isprintable() for line in answer.body.decode().split("\n")), answer


# --- Credentials ------------------------------------------------------------------------------------------------------

_TOKEN: Final = "a-token-of-thirty-two-characters"  # noqa: S105 - of the tests
_USER: Final = b"alice:open sesame"
_BASIC: Final = base64.b64encode(_USER).decode()
_OPEN: Final = {b"/-/healthy", b"/-/ready"}
_ORIGIN: Final = re.compile(rb"^[A-Za-z][A-Za-z0-9+.-]*://[^/]*")  # of a target in absolute form (RFC 9112, 3.2.2)
_REFUSED: Final = {400, 401, 403, 413, 421, 429, 503}


@cache
def _closed_gate() -> Gate:
    """Return what lets nobody in but a user who may read, and a token that may read."""
    document = {
        "basic_auth_users": {"alice": bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()},
        "tokens": {"grafana": {"token": _TOKEN, "role": "read"}},
        "roles": {"alice": "read"},
        "anonymous": [],
        "trusted_proxies": ["192.0.2.1"],
        "user_header": "X-Remote-User",
    }
    path = file_of("gate.yml")
    path.write_text(json.dumps(document), "utf-8")  # which is YAML
    return Gate(CurrentWebConfig(str(path)))


_CLOSED_SITE: Final = _Site(_closed_gate)


def _has_password(head: bytes) -> bool:
    """Return whether the right password is there, in any spelling: base64 has some bits that say nothing."""
    return any(_decoded(word) == _USER for word in re.findall(rb"[A-Za-z0-9+/]{22,}", head))


def _decoded(word: bytes) -> bytes:
    """Decode base64 without its padding; b"" if it is none."""
    try:
        return base64.b64decode(word + b"===")
    except ValueError:
        return b""


def ask_for_entrance(data: bytes) -> None:
    """Send a request to a server with users; only right credentials let it in, and then it may only read."""
    made = _request(data)
    if made is None:
        return
    method, head = made
    answer = _read_answer(method, _CLOSED_SITE.ask(head))
    path = data.split(b"\n")[0].split(b" ")[1].partition(b"?")[0].partition(b"#")[0]
    if unquote_to_bytes(_ORIGIN.sub(b"", path)) in _OPEN:
        return
    if (
        (_TOKEN.encode() not in head and not _has_password(head))
        or method not in {b"GET", b"HEAD"}
        or path == b"/probe"
    ):
        assert answer.status in _REFUSED, answer


# --- Label values -----------------------------------------------------------------------------------------------------


def write_labels(data: bytes) -> None:
    """Write any texts into labels; the parsers of both formats read them back, cut where a host chose them."""
    texts = [piece.decode("utf-8", "replace") for piece in data.split(b"\0")]
    host, label, package, version, number, process, user = (texts + [""] * 7)[:7]
    of = target(host, labels={"label": label})
    audit = Audit(Status.VULNERABLE, (Vulnerability(package, version, number),))
    listeners = (ListeningSocket("tcp", "::", 22, process, user),)
    state = AuditState(host, (), HostAudit(NOW, "pkg-audit", None, audit, listeners), NOW)
    made = Snapshot.of([of]).after(host, result(of, seen(is_open=[22]), at=NOW), probes_sent=0)
    snapshot = Snapshot(made.hosts, HostTable([state]))
    text = _host_metrics(snapshot)
    for families in (parse_text(text), parse_openmetrics(f"{text}# EOF\n")):  # type: ignore[no-untyped-call]  # as in the library
        samples = {sample.name: sample.labels for family in families for sample in family.samples}
        _check_labels(samples["port_host_info"], host=host, label=label)
        chosen = {"package": cut(package), "version": cut(version), "id": cut(number)}
        _check_labels(samples["portspec_audit_vulnerability"], host=host, **chosen)


def _host_metrics(of: Snapshot) -> str:
    """Return the families of hosts, without those of the exporter, which are the same each time."""
    text = ""
    for found, _ in (Renderer(PORTS, UNLIMITED).render(of.hosts), Renderer(AUDITS, UNLIMITED).render(of.audits)):
        for metric, blocks in found:
            text += f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
            text += b"".join(block.text for block in blocks).decode()
    return text


def _check_labels(found: Mapping[str, str], **expected: str) -> None:
    for name, value in expected.items():
        assert found[name] == value, (name, found[name], value)


# --- Seeds ------------------------------------------------------------------------------------------------------------

_PATHS: Final = (
    *("/", "/metrics", "/metrics?name[]=port_open&name[]=portspec_hosts", "/hosts/web1", "/changes", "/sd/targets"),
    *("/api/v1/hosts", "/api/v1/hosts?host=web*&verdict=in_spec&limit=1&sort=-open", "/api/v1/hosts/2001:db8::1"),
    *(
        "/api/v1/hosts?host=[!a-w]*[z-a]",
        "/api/v1/changes?host=web1&since=2027-03-31T18:00:00Z&until=1e9&cursor=7",
        "/api/v1/deviations.csv?label=a=b",
        "/api/v1/vulnerabilities?cursor=W10",
        "/api/v1/exceptions?limit=1",
    ),
    *("/probe?target=web1&module=x&debug=true", "/probe?target=192.0.2.1", "/-/healthy", "/-/ready", "/status"),
    *("/agent.py", "/config", "/api/v1/openapi.json", "/%2e%2e/etc/passwd", "/api/v1/hosts/%00%0d%0a", "http://a/"),
)
_HEADERS: Final = (
    *("Accept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1", "Accept-Encoding: gzip;q=0.1, *;q=0"),
    *("Range: bytes=0-10,20-", "If-Range: x", "If-None-Match: *", "If-Modified-Since: x", "Cookie: a=b; c"),
    *("Origin: null", "Sec-Fetch-Site: cross-site", "X-Prometheus-Scrape-Timeout-Seconds: 1e-3", "Host: evil:99999"),
    *("Forwarded: for=_x", "X-Forwarded-For: ::1, unknown", "Authorization: Basic YTpi", "Content-Encoding: gzip"),
    'Content-Type: text/x;="',
)


def _requests() -> Iterator[bytes]:
    for path in _PATHS:
        yield f"GET {path}".encode()
        yield "\n".join([f"GET {path}", *_HEADERS[:3]]).encode()
    for header in _HEADERS:
        yield f"HEAD /metrics\n{header}".encode()
        yield f"POST /api/v1/scan?host=web1\n{header}".encode()
    for path in ("/-/reload", "/api/v1/audits", "/api/v1/reports", "/api/v1/scan", "/metrics"):
        yield f"POST {path}".encode()


_REQUESTS: Final = Harness(
    "requests",
    send_request,
    _requests,
    (
        *(path.encode() for path in _PATHS),
        *(b"\n" + header.encode() for header in _HEADERS),
        *words(
            "%00 %0a %ff %E2%80%AE %1b & = ; # host= limit= offset= since= until= before= target= module= debug=true"
        ),
        *words("nan inf 1e308 0001-01-01 9999-12-31T23:59:59+14:00 [[] ************ [! // /../ %252e"),
        b"9" * 30,
    ),
    longest=2048,
    calls=Limit(20_000, 200),
    memory=Limit(8 << 20, 200),
    examples=100,
)


def _attempts() -> Iterator[bytes]:
    for line in (f"Authorization: Bearer {_TOKEN}", f"Authorization: Basic {_BASIC}"):
        for path in ("/", "/metrics", "/api/v1/hosts", "/probe?target=web1", "/agent.py"):
            yield f"GET {path}\n{line}".encode()
        yield f"POST /-/reload\n{line}".encode()
    yield b"GET /metrics\nAuthorization: Basic YTpi\nX-Remote-User: alice\nX-Forwarded-For: 192.0.2.1"
    yield b"GET //-/healthy\nForwarded: for=127.0.0.1\nAuthorization: Digest x"
    yield from _requests()


_ENTRANCE: Final = Harness(
    "entrance",
    ask_for_entrance,
    _attempts,
    (
        *(path.encode() for path in _PATHS),
        *words(
            "Authorization: Basic Bearer basic bearer Og== OmE= YWxpY2U6 X-Remote-User: alice grafana /../-/healthy"
        ),
        *words("//-/healthy /-/healthy/../../metrics /-/healthy;/metrics /-/healthy%2f..%2fmetrics ?/-/healthy"),
        *(b"\nAuthorization: ", b"\nX-Remote-User: alice", b"\nHost: localhost", b"\nHost: evil", _TOKEN[:-1].encode()),
    ),
    longest=2048,
    memory=Limit(48 << 20, 200),  # of which 32 MiB are asked for to read a file of any size
    examples=100,
)


def _labels() -> Iterator[bytes]:
    yield b"web1\0rome\0curl\x008.1\0CVE-2026-1\0nginx\0www"
    yield b"\0".join([b'"', b"\\n", b"\n", "é😀".encode(), b"x" * 200, b"\\", b'\\"', b" # {} 1"])


_LABELS: Final = Harness(
    "labels",
    write_labels,
    _labels,
    (
        *words('" \\ \\n { } , = # é 😀'),
        *(b"\n", b"\r", b"\xe2\x80\xa8", b"\xc2\x85", b"# EOF\n", b" # ", b"x" * 130, b"\0"),
    ),
    longest=1024,
    calls=Limit(60_000, 200),
    memory=Limit(8 << 20, 1000),
    examples=40,
)

HARNESSES: Final = (_REQUESTS, _ENTRANCE, _LABELS)
