"""Audits that mean harm, or are merely old, against a real exporter: by HTTP, scraped, from a real file."""

from __future__ import annotations

import gzip
import json
import socket
import sqlite3
import threading
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec.audit import envelope
from portspec.state.budget import MAX_LABEL
from tests.e2e.audits import (
    FOUND,
    PASSPHRASE,
    PORTSPEC,
    Agent,
    configure,
    key,
    mail,
    make,
    post,
    printed,
    received,
    rejected,
    run,
    status,
)
from tests.e2e.exporter import exporter, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.exporter import Exporter

HOST: Final = "db1.example.org"
EVIL: Final = "db2.example.org"
DAY: Final = 86_400.0
PAGE: Final = 370_000  # bytes that one host may add to /metrics: its three budgets, and what is never cut
MEMORY: Final = 230 << 20  # bytes by which a payload may make the exporter larger for a moment


def signed(host: str, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return an audit of a host that is changed before it is signed."""
    payload = json.loads(make(host, time.time()).payload)
    change(payload)
    return envelope.pack(json.dumps(payload, ensure_ascii=False).encode(), envelope.key_of(host, PASSPHRASE))


def status_of(service: Exporter, name: str) -> int:
    """Return a line of /proc/PID/status of the exporter, in bytes."""
    with open(f"/proc/{service.process.pid}/status", encoding="ascii") as file:  # noqa: PTH123 - of no directory
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(f"{name}:"))


def greedy(payload: dict[str, Any]) -> None:
    """Let an audit have 1,500 findings and sockets with names of a thousand characters."""
    payload["tool"] |= {
        "name": "grype",
        "exit_status": 0,
        "output": json.dumps(
            {
                "matches": [
                    {
                        "vulnerability": {"id": f"{number}-" + "i" * 1000, "severity": "High"},
                        "artifact": {"name": f"{number}-" + "é" * 1000, "version": '"' * 1000},
                    }
                    for number in range(1500)
                ],
                "descriptor": {"name": "grype", "version": "0.80.0"},
            }
        ),
    }
    payload["listeners"] = [
        {"protocol": "tcp", "address": "::", "port": number + 1, "process": "p" * 999, "user": "\\" * 999}
        for number in range(1500)
    ]


def test_one_host_adds_a_bounded_page_to_metrics(tmp_path: Path) -> None:
    """An audit of long names leaves /metrics and each label small; what is left out is told in all three places."""
    conf = configure(tmp_path / "conf.yml", [HOST, EVIL])
    body = signed(EVIL, greedy)
    with exporter(conf) as service:
        before = len(service.get("/metrics").text.encode())
        assert post(service.address, body)[0] == 201
        until(lambda: service.series().get("port_listener_info"))
        page = service.get("/metrics").text
        assert len(page.encode()) < before + PAGE
        series = service.series()
        for labels in (*series.get("portspec_audit_vulnerability", {}), *series["port_listener_info"]):
            for value in labels.split('",'):
                assert len(value.partition('="')[2].replace("\\\\", "\\").replace('\\"', '"').encode()) <= MAX_LABEL + 1
        (dropped,) = series["portspec_audit_series_dropped"].items()
        assert dropped[0] == f'host="{EVIL}"'
        assert dropped[1] == series["portspec_series_dropped"][""] > 2000
        assert service.json(f"/api/v1/hosts/{EVIL}")["audit"]["series_dropped"] == dropped[1]
        told = [
            json.loads(line) for line in service.log.read_text().splitlines() if "exceeds the limit of series" in line
        ]
        assert [(line["level"], line["host"], line["series"]) for line in told] == [("warning", EVIL, dropped[1])]


PAYLOADS: Final[dict[str, Callable[[dict[str, Any]], None]]] = {
    "values": lambda payload: payload.update(x=["\u0142"] * 5_000_000),
    "numbers": lambda payload: payload.update(x=[0.5] * 4_000_000),
    "values within the output": lambda payload: payload["tool"].update(
        name="grype", output='{"matches":[' + '"\u0142",' * 3_000_000 + "1]}"
    ),
    "a character that needs four bytes": lambda payload: payload["tool"].update(output="\U0001f600" + "x" * 22_000_000),
    "lines": lambda payload: payload["tool"].update(output="x\n" * 7_000_000),
}


@pytest.mark.parametrize("kind", PAYLOADS)
def test_payload_of_the_largest_size_takes_bounded_memory(tmp_path: Path, kind: str) -> None:
    """Whatever a signed payload is made of, to read it takes no more than some 200 MB."""
    conf = configure(tmp_path / "conf.yml", [HOST, EVIL])
    body = signed(EVIL, PAYLOADS[kind])
    with exporter(conf) as service:
        assert post(service.address, make(HOST, time.time()).packed)[0] == 201
        until(lambda: status(service, HOST) == "vulnerable")
        before = status_of(service, "VmRSS")
        code, _ = post(service.address, body)
        until(lambda: status(service, EVIL) == ("failed" if code == 201 else "never"), patience=60)
        grown = status_of(service, "VmHWM") - before
        assert grown < MEMORY


def test_forged_audits_of_one_address_do_not_hold_up_those_of_another(tmp_path: Path) -> None:
    """40 bodies of 24 kB that unpack to 24 MB come from one address, and a true audit from another is soon taken."""
    conf = configure(tmp_path / "conf.yml", [HOST, EVIL])
    forged = b"portspec-audit 1 %s\n%s" % (
        b"0" * 64,
        gzip.compress(b'{"version": 1, "host": "%s", "x": "' % EVIL.encode() + bytes(24_000_000), 9),
    )
    with exporter(conf) as service, ExitStack() as stack:
        host, _, port = service.address.partition(":")
        floods = []
        for _ in range(40):
            flood = stack.enter_context(
                closing(socket.create_connection((host, int(port)), source_address=("127.0.0.66", 0)))
            )
            flood.sendall(
                b"POST /api/v1/audits HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(forged) + forged
            )
            floods.append(flood)
        answers: list[int] = []
        reading = threading.Thread(target=lambda: answers.extend(int(each.recv(4096).split()[1]) for each in floods))
        reading.start()
        assert post(service.address, make(HOST, time.time()).packed)[0] == 201
        seen = rejected(service).get("signature", 0)
        reading.join()
        assert answers == [403] * 40
        assert seen < 40  # it did not wait for all of them


def rows(conf: Path, statement: str) -> list[Any]:
    """Ask the state file something."""
    with closing(sqlite3.connect(conf.with_name("portspec.db"))) as connection:
        return connection.execute(statement).fetchall()


def test_audit_that_failed_is_replaced_and_a_good_one_never(tmp_path: Path) -> None:
    """By HTTP and by mail: a day with a failed audit can be mended, both are archived, and nobody is alarmed."""
    conf = configure(tmp_path / "conf.yml", [HOST])
    now = time.time()
    failed, again, good, late = (
        make(HOST, now + number, output=text) for number, text in enumerate(("?", "!", None, None))
    )
    with exporter(conf) as service:
        assert post(service.address, failed.packed)[0] == 201
        until(lambda: status(service, HOST) == "failed")
        done = run(
            PORTSPEC,
            "receive",
            "--log.level",
            "warning",
            "-c",
            str(conf),
            stdin=mail(again, "a@example.org", "b@example.org"),
        )
        assert (done.code, (done.output + done.errors.encode()).count(b"a failed audit was replaced")) == (0, 1)
        told = "accepted; it replaces the failed audit of that day"
        assert post(service.address, good.packed) == (201, {"message": told})
        until(lambda: status(service, HOST) == "vulnerable")
        assert "a failed audit was replaced" in service.log.read_text()
        for known in (failed, again, good):  # sent once more, by an agent that got no answer or by whoever listened
            assert post(service.address, known.packed)[0] == 200
        until(lambda: received(service) == 3)
        assert rejected(service) == {}
        for other in (late, make(HOST, now + 4, output="?")):
            assert post(service.address, other.packed)[0] == 409
        until(lambda: rejected(service) == {"duplicate": 2})
        assert status(service, HOST) == "vulnerable"
    assert printed(PORTSPEC, "report", "--host", HOST, "--day", good.day, "--raw", "-c", str(conf)) == good.payload
    assert rows(conf, "SELECT count(*) FROM audit") == [(1,)]
    assert rows(conf, "SELECT count(*) FROM replaced_audit") == [(2,)]


def test_agent_that_has_reported_for_the_day_sends_no_more(tmp_path: Path) -> None:
    """After a failed audit it runs and sends again; after a good one it says so, ends with 0, and sends nothing."""
    conf = configure(tmp_path / "conf.yml", [HOST])
    agent = Agent(tmp_path / "db1", HOST, key(conf, HOST))
    with exporter(conf) as service:
        agent.configure(url=f"http://{service.address}")
        agent.finds(tmp_path / "nothing")
        for _ in range(2):
            done = agent.send()
            assert (done.code, b"was accepted" in done.output) == (0, True), done
        until(lambda: status(service, HOST) == "failed")
        agent.finds(FOUND)
        assert agent.send().code == 0
        until(lambda: status(service, HOST) == "vulnerable")
        done = agent.send()
        assert (done.code, done.errors) == (0, "")
        assert b"was already sent, and only one per day counts (--again sends another)" in done.output
        until(lambda: received(service) == 3)
        assert rejected(service) == {}
        assert agent.send("--again").code == 1
        until(lambda: rejected(service) == {"duplicate": 1})


def test_port_that_was_opened_after_the_last_audit_is_no_alarm(tmp_path: Path) -> None:
    """What is open and not in an audit from before is newer than that; once a later audit lacks it, nobody holds it."""
    with socket.create_server(("127.93.0.2", 0)) as server:
        port = server.getsockname()[1]
        conf = configure(
            tmp_path / "conf.yml", [], audit={"hosts": ["127.93.0.2"]}, hosts={"127.93.0.2": []}, scanports=[port]
        )
        with exporter(conf) as service:
            assert post(service.address, make("127.93.0.2", time.time() - 2 * DAY).packed)[0] == 201
            service.wait_until_ready()
            until(lambda: received(service) == 1 and status(service, "127.93.0.2") == "vulnerable")
            found = service.json("/api/v1/hosts/127.93.0.2")["audit"]
            assert (found["reachable_unheld"], found["reachable_newer"]) == ([], [str(port)])
            assert post(service.address, make("127.93.0.2", time.time() + 2).packed)[0] == 201

            def later() -> Any:
                audit = service.json("/api/v1/hosts/127.93.0.2")["audit"]
                return audit if audit["reported_at"] != found["reported_at"] else None

            found = until(later)
            assert (found["reachable_unheld"], found["reachable_newer"]) == ([str(port)], [])
