from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import bcrypt
import pytest
from aiohttp import web

from portspec.access.model import Permission
from portspec.access.watched import CurrentWebConfig
from portspec.metrics import HttpStatus
from portspec.web import Gate, WebServer, limits
from portspec.web.address import ListenAddress, ListenerName
from portspec.web.gate import REASONS, is_open, permission_for
from portspec.web.site import Sites
from portspec.web.sockets import Inherited, bind_unix
from tests.unit.metrics.scrape import zoo
from tests.unit.web.site import LOOPBACK, Answer, ScriptedService, fetch, open_gate, serving

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HASH = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()
TOKEN = "a-token-of-thirty-two-characters"  # noqa: S105 - of a test
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Accept-Language": "en"}
DOCS = Path(__file__).parents[3] / "docs/http.md"

Request = tuple[str, str, "dict[str, str]"]


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header that a client sends for a user (RFC 7617)."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    """Return the header that a client sends for a token (RFC 6750, 2.1)."""
    return {"Authorization": f"Bearer {token}"}


def asked(gate: Gate, *requests: Request, listeners: Sequence[ListenAddress] = (LOOPBACK,)) -> list[Answer]:
    """Send requests to a server, one after the other."""

    async def scenario() -> list[Answer]:
        async with serving(zoo, listeners, gate=gate) as (url, *_):
            return [await fetch(url.rstrip("/") + path, method, headers) for method, path, headers in requests]

    return asyncio.run(scenario())


def statuses(gate: Gate, *requests: Request) -> list[int]:
    """Send requests to a server, and return the status of each answer."""
    return [answer.status for answer in asked(gate, *requests)]


def gate_of(path: Path, document: Mapping[str, Any], **options: Any) -> Gate:
    """Return what a web configuration file makes; JSON is YAML."""
    file = path / "web.yml"
    file.write_text(json.dumps(document), encoding="utf-8")
    return Gate(CurrentWebConfig(str(file)), **options)


USERS = {
    "basic_auth_users": {"alice": HASH, "prometheus": HASH},
    "roles": {"prometheus": "read"},
    "tokens": {"grafana": {"token": TOKEN, "role": "probe"}},
}


def test_without_a_file_everybody_reads_and_loopback_acts() -> None:
    """Reading needs no user; a program of this machine may reload (which fails here, as there is no file)."""
    assert statuses(
        open_gate(), ("GET", "/", {}), ("GET", "/metrics", {}), ("GET", "/api/v1/hosts", {}), ("POST", "/-/reload", {})
    ) == [200, 200, 200, 500]


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_request_of_an_unknown_proxy_is_not_from_this_machine(name: str) -> None:
    """A proxy on this machine passes on what comes from elsewhere: it may read, and not act."""
    value = {"Forwarded": "for=127.0.0.1", "Via": "1.1 proxy"}.get(name, "127.0.0.1")
    refused, read = asked(open_gate(), ("POST", "/-/reload", {name: value}), ("GET", "/metrics", {name: value}))
    assert (refused.status, read.status) == (403, 200)
    assert "--web.config.file" in refused.text


def test_client_behind_a_trusted_proxy_is_the_one_that_counts(tmp_path: Path) -> None:
    """A trusted proxy says where a request is from: this machine may act, another may not."""
    gate = gate_of(tmp_path, {"trusted_proxies": ["127.0.0.1"]})
    away = {"X-Forwarded-For": "203.0.113.5"}
    assert statuses(gate, ("POST", "/-/reload", away), ("POST", "/-/reload", {})) == [403, 500]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (basic("alice", "open sesame"), 200),
        (basic("alice", "wrong"), 401),
        (basic("nobody", "open sesame"), 401),
        ({"Authorization": "Basic !!!"}, 401),
        ({"Authorization": "Basic YWxpY2U="}, 401),  # no colon
        (bearer(TOKEN), 200),
        (bearer(f"{TOKEN}x"), 401),
        ({"Authorization": f"bearer  {TOKEN}"}, 200),
        ({"Authorization": "Digest username=alice"}, 401),
    ],
)
def test_reading_with_users(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    """With users a page is for those who have a password or a token; all others are told how to authenticate."""
    (answer,) = asked(gate_of(tmp_path, USERS), ("GET", "/metrics", headers))
    assert answer.status == status
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="portspec", charset="UTF-8", Bearer realm="portspec"'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (basic("alice", "open sesame"), 500),  # there is no conf.yml
        (basic("prometheus", "open sesame"), 403),
        (bearer(TOKEN), 403),
    ],
)
def test_acting_with_users(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    """With users acting is for those whose role allows it, wherever they are."""
    assert statuses(gate_of(tmp_path, USERS), ("POST", "/-/reload", headers)) == [status]


def test_audit_needs_no_user(tmp_path: Path) -> None:
    """An audit carries its signature: it is refused for what it is (here nobody expects one), and not at the door."""
    (answer,) = asked(gate_of(tmp_path, USERS), ("POST", "/api/v1/audits", {}))
    assert (answer.status, json.loads(answer.text)["error"]) == (503, "unable")


def test_audits_may_need_a_token(tmp_path: Path) -> None:
    """With `anonymous: []` nothing is done for those who do not say who they are."""
    token = {"agents": {"token": TOKEN, "role": "audit"}}
    gate = gate_of(tmp_path, {"anonymous": [], "tokens": token})
    assert statuses(
        gate,
        ("POST", "/api/v1/audits", {}),
        ("POST", "/api/v1/audits", bearer(TOKEN)),
        ("GET", "/agent.py", bearer(TOKEN)),
        ("GET", "/metrics", bearer(TOKEN)),
    ) == [401, 503, 200, 403]


def test_user_that_a_proxy_names(tmp_path: Path) -> None:
    """A name in `user_header` counts from a trusted proxy, with the role of that user."""
    keys = {"user_header": "X-Remote-User", "roles": {"alice": "act"}}
    trusted = gate_of(tmp_path, keys | {"trusted_proxies": ["127.0.0.1"]})
    act = [("POST", "/-/reload", {"X-Remote-User": name}) for name in ("alice", "bob")]
    assert statuses(trusted, *act, ("GET", "/", {"X-Remote-User": "bob"}), ("GET", "/", {})) == [500, 403, 200, 401]
    (tmp_path / "other").mkdir()
    other = gate_of(tmp_path / "other", keys | {"trusted_proxies": ["203.0.113.1"]})
    assert statuses(other, act[0], ("GET", "/", {"X-Remote-User": "alice"})) == [401, 401]


@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready"])
def test_health_is_for_everybody(tmp_path: Path, path: str) -> None:
    """Health needs no user, keeps to no rate limit, and does not depend on the file."""
    gate = gate_of(tmp_path, USERS | {"rate_limit": {"interval": "1h", "burst": 1}})
    (tmp_path / "web.yml").write_text("nonsense: true\n", encoding="utf-8")
    assert statuses(gate, *[("GET", path, {})] * 3) == statuses(open_gate(), *[("GET", path, {})] * 3)


def test_rate_limit(tmp_path: Path) -> None:
    """Beyond the burst an answer is 429, with the time after which there is a place."""
    gate = gate_of(tmp_path, {"rate_limit": {"interval": "1h", "burst": 2}})
    *served, refused = asked(gate, *[("GET", "/metrics", {})] * 3)
    assert [answer.status for answer in served] == [200, 200]
    assert refused.status == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 3600


def test_file_that_becomes_invalid_is_500_until_it_is_mended(tmp_path: Path) -> None:
    """While the file is invalid all answers are 500, but not at once: it may be half-written."""
    file = tmp_path / "web.yml"
    good = json.dumps(USERS)
    file.write_text(good, encoding="utf-8")
    now = 0.0
    gate = Gate(CurrentWebConfig(str(file), clock=lambda: now))

    async def scenario() -> list[int]:
        async with serving(zoo, gate=gate) as (url,):
            nonlocal now
            found = []
            for text in (good, "nonsense: true\n", "nonsense: true\n", good):
                file.write_text(text, encoding="utf-8")
                found.append((await fetch(f"{url}metrics", headers=basic("alice", "open sesame"))).status)
                now += 10.0
            return found

    assert asyncio.run(scenario()) == [200, 200, 500, 200]
    assert gate.refused["config"] == 1


def test_headers_of_the_file_are_sent_with_every_answer(tmp_path: Path) -> None:
    """What `headers` sets comes with answers, refusals and errors alike, instead of portspec's own value."""
    keys = {"http_server_config": {"headers": {"Content-Security-Policy": "default-src 'self'"}}}
    answers = asked(
        gate_of(tmp_path, USERS | keys),
        ("GET", "/", basic("alice", "open sesame")),
        ("GET", "/", {}),
        ("GET", "/x", {}),
    )
    assert [answer.headers["Content-Security-Policy"] for answer in answers] == ["default-src 'self'"] * 3


REBINDING = [
    ("POST", "/-/reload", {"Host": "evil.example:10190"}),
    ("POST", "/-/reload", {"Host": "evil.example:10190", "Origin": "http://evil.example:10190"}),
    ("POST", "/api/v1/scan?host=web1", {"Host": "localhost.evil.example"}),
    ("GET", "/api/v1/hosts", {"Host": "evil.example:10190", **BROWSER}),
    ("GET", "/", {"Host": "evil.example", "User-Agent": "x", "Accept-Language": "en"}),
    ("GET", "/metrics", {"Host": "evil.example", "Origin": "http://evil.example"}),
    ("GET", "/probe?target=web1", {"Host": "127.0.0.1.evil.example", **BROWSER}),
]


@pytest.mark.parametrize("request_", REBINDING)
def test_page_whose_name_leads_here_is_refused(request_: Request) -> None:
    """DNS rebinding: a browser takes an exporter for a page's own site, and says so in Host."""
    (answer,) = asked(open_gate(), request_)
    assert answer.status == 421
    assert "--web.external-url" in answer.text


def test_names_of_this_exporter_are_known(tmp_path: Path) -> None:
    """An address, localhost, the external URL, what it listens on and `allowed_hosts` are names of this exporter."""
    gate = gate_of(
        tmp_path,
        {"allowed_hosts": ["ports.example"]},
        listening=["scan.example"],
        external_url="https://portspec.example/x",
    )
    names = ["127.0.0.1:10190", "[::1]:10190", "192.0.2.1", "localhost", "LOCALHOST.:1", "portspec.example"]
    names += ["scan.example:10190", "ports.example"]
    assert statuses(gate, *[("GET", "/", BROWSER | {"Host": name}) for name in names]) == [200] * len(names)


def test_prometheus_may_use_any_name() -> None:
    """What is no browser reads whatever name it knows the exporter by, such as that of a service of Kubernetes."""
    headers = {"Host": "portspec.monitoring.svc:10190", "User-Agent": "Prometheus/2.53.0", "Accept": "*/*"}
    assert statuses(open_gate(), ("GET", "/metrics", headers), ("GET", "/sd/targets", headers)) == [200, 200]


def test_one_who_has_a_password_may_use_any_name(tmp_path: Path) -> None:
    """A page of another site has no password of this one, so the name is no matter."""
    headers = BROWSER | {"Host": "some.example"} | basic("alice", "open sesame")
    assert statuses(gate_of(tmp_path, USERS), ("GET", "/", headers)) == [200]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (("POST", "/-/reload", {"Sec-Fetch-Site": "cross-site"}), 403),
        (("GET", "/probe?target=web1", {"Sec-Fetch-Site": "cross-site"}), 403),
        (("GET", "/probe?target=web1", {"Sec-Fetch-Site": "same-site"}), 403),
        (("POST", "/api/v1/audits", {"Origin": "https://evil.example"}), 403),
        (("POST", "/-/reload", {"Origin": "null"}), 403),
        (("POST", "/-/reload", {"Origin": "https://portspec.example", "Sec-Fetch-Site": "cross-site"}), 403),
        (
            ("POST", "/-/reload", {"Origin": "null", "Sec-Fetch-Site": "same-origin"}),
            500,
        ),  # a form of a page without referrer
        (("GET", "/", {"Sec-Fetch-Site": "cross-site"}), 200),  # a link of another site leads here
        (("POST", "/-/reload", {"Origin": "https://portspec.example", "Sec-Fetch-Site": "same-origin"}), 500),
    ],
)
def test_page_of_another_site(request_: Request, status: int) -> None:
    """What a page of another site makes a browser send is refused, but for links."""
    assert statuses(open_gate(external_url="https://portspec.example/"), request_) == [status]


SERVED = {
    ListenerName.METRICS: ["/metrics", "/sd/targets"],
    ListenerName.UI: ["/", "/api/v1/hosts"],
    ListenerName.AUDITS: ["/agent.py"],
}


@pytest.mark.parametrize("service", ListenerName)
def test_listener_with_a_name_serves_that_alone(service: ListenerName) -> None:
    """Agents that reach the listener of audits find no page there, and so on; each says whether portspec is healthy."""
    paths = [path for one in ListenerName for path in SERVED[one]]
    answers = asked(
        open_gate(),
        *[("GET", path, {}) for path in [*paths, "/-/healthy"]],
        listeners=[ListenAddress("127.0.0.1", 0, service)],
    )
    assert {path for path, answer in zip(paths, answers, strict=False) if answer.status == 200} == set(SERVED[service])
    assert answers[-1].status == 200


def test_every_route_is_documented() -> None:
    """The table of docs/http.md has each route, with its method, the permission it requires, and its listener."""
    row = re.compile(r"^\| `(/[^`]*)` \| (\w+) \| (\S+) \| (\w+) \|", re.MULTILINE)
    documented = {match.groups() for match in row.finditer(DOCS.read_text(encoding="utf-8"))}
    sites = Sites(ScriptedService(zoo), open_gate(), lambda: HttpStatus({}, {}, {}), None)
    listeners: dict[tuple[str, str], set[str]] = {}
    for service in ListenerName:
        for route in sites.application(service).router.routes():
            if route.method != "HEAD" and route.resource:
                listeners.setdefault((route.resource.canonical, route.method), set()).add(service)
    found = set()
    for (path, method), services in listeners.items():
        permission = "everybody" if is_open(path) else f"`{permission_for(method, path).value}`"
        listener = "all" if services == set(ListenerName) else "".join(services)
        found.add((path.replace("{host}", "NAME"), method, permission, listener))
    assert documented == found


def test_every_reason_is_documented() -> None:
    """docs/http.md has each reason for which a request is refused, and each for which a connection is closed."""
    page = DOCS.read_text(encoding="utf-8")
    refusals = set(re.findall(r"^\| [45]\d\d \| `(\w+)` \|", page, re.MULTILINE))
    closings = set(re.findall(r"^\| `(\w+)` \|", page.split("## Connections")[1].split("## Access")[0], re.MULTILINE))
    assert (refusals, closings) == (set(REASONS), set(limits.REASONS))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_method_that_is_not_known_acts(method: str) -> None:
    """What is neither GET nor HEAD needs the permission to act, whatever it may come to mean."""
    assert permission_for(method, "/metrics") is Permission.ACT


def test_acting_is_logged_with_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says who acted, and from where."""
    caplog.set_level("INFO")
    asked(gate_of(tmp_path, USERS), ("POST", "/-/reload", basic("alice", "open sesame")))
    assert any("alice" in str(record.msg) and "/-/reload" in str(record.msg) for record in caplog.records)


def test_refusals_are_logged_a_few_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flood of refusals is counted, and does not fill the log."""
    gate = gate_of(tmp_path, USERS)
    asked(gate, *[("GET", "/", bearer("x" * 20))] * 50)
    assert gate.refused["unauthorized"] == 50
    assert 1 <= sum("request refused" in str(record.msg) for record in caplog.records) <= 11


def reload_over(path: Path, gate: Gate, **options: Any) -> int:
    """Return the status of POST /-/reload over a Unix socket of a server."""

    async def scenario() -> int:
        server = WebServer(ScriptedService(zoo), [], gate=gate, **options)
        await server.start()
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
                session.post("http://localhost/-/reload") as response,
            ):
                return response.status
        finally:
            await server.stop()

    return asyncio.run(scenario())


def test_control_socket_is_for_its_owner(tmp_path: Path) -> None:
    """`portspec reload` needs no user: the socket can be used by portspec's user and root alone."""
    path = tmp_path / "portspec.sock"
    assert reload_over(path, gate_of(tmp_path, USERS), control=str(path)) == 500  # there is no conf.yml


def test_unix_socket_of_a_socket_unit_is_a_listener_like_any_other(tmp_path: Path) -> None:
    """Who may connect to it is not for portspec to say, so it needs the users of all others."""
    path = tmp_path / "http.sock"
    passed = Inherited("ui", bind_unix(str(path)))
    assert reload_over(path, gate_of(tmp_path, USERS), inherited=[passed]) == 401


def test_handler_error_is_no_refusal() -> None:
    """A page that does not exist is 404 for those who may read."""
    assert statuses(open_gate(), ("GET", "/nowhere", {})) == [web.HTTPNotFound.status_code]
