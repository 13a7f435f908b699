"""Audits by HTTP: what is taken, what is refused and how, and that each arrives once whatever happens meanwhile."""

from __future__ import annotations

import http.client
import json
import random
import re
import selectors
import signal
import socket
import subprocess
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import pytest

import portspec.agent
from portspec.audit import envelope
from portspec.store import Store
from tests.e2e import racers
from tests.e2e.audits import (
    PASSPHRASE,
    PORTSPEC,
    Agent,
    Made,
    configure,
    key,
    mail,
    make,
    payload_of,
    post,
    printed,
    received,
    rejected,
    run,
    status,
)
from tests.e2e.exporter import PATIENCE, exporter, until
from tests.faults.registry import fault
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.exporter import Exporter

HOST: Final = "db1.example.org"
OTHER: Final = "db2.example.org"
HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
SAME: Final = {"message": "this audit is already archived"}
CODES: Final = ((0, 65), (0, 65), (201, 409))  # of receive, receive and POST: accepted, refused
FORKED: Final = 80  # races
STARTED: Final = 6
LISTENING: Final = "127.83.0.1"  # so that no client's own port can be the exporter's while that is down
MEGABYTE: Final = 1_000_000


def archived(conf: Path, host: str, day: str | None = None) -> bytes | None:
    """Return what the archive has of a host and day, by default of the last."""
    found = Store(str(conf.with_name("portspec.db")), history=DAY).find_audit(host, day)
    return found.payload if found else None


def test_audit_goes_by_http_from_the_agent_to_the_metrics(tmp_path: Path) -> None:
    """The agent, as the exporter serves it, runs as a copied file; what it posts shows, and is kept byte for byte."""
    conf = configure(tmp_path / "conf.yml", [HOST])
    with exporter(conf) as service:
        command = ("curl", "--silent", "--show-error", "--fail", "-O", f"http://{service.address}/agent.py")
        try:
            subprocess.run(command, cwd=tmp_path, check=True, timeout=PATIENCE)
        except FileNotFoundError:
            missing("curl is not installed")
        copied = tmp_path / "agent.py"
        with open(portspec.agent.__file__, "rb") as ours:  # noqa: PTH123 - a path that the module has as text
            assert copied.read_bytes() == ours.read()
        agent = Agent(tmp_path / "db1", HOST, key(conf, HOST), source=copied)
        agent.configure(url=f"http://{service.address}")
        done = agent.send("--print")
        assert (done.code, done.errors) == (0, "")
        assert done.output.endswith(b" was accepted\n")
        until(lambda: status(service, HOST) == "vulnerable")
        assert received(service) == 1
    assert printed(PORTSPEC, "report", "--host", HOST, "--raw", "-c", str(conf)) == payload_of(done)


def bomb() -> bytes:
    """Return a signature with 4 GB behind it: the same block again and again, in the middle of a gzip file."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    head = packer.compress(b'{"version": 1, "host": "%s"' % HOST.encode()) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"portspec-audit 1 %s\n%s%s" % (b"0" * 64, head, block * 4095)


def flipped(made: Made) -> bytes:
    """Change the last digit of an audit's signature."""
    line, newline, rest = made.packed.partition(b"\n")
    return line[:-1] + (b"1" if line.endswith(b"0") else b"0") + newline + rest


def changed(made: Made, name: str, value: str) -> bytes:
    """Change a word in the payload."""
    return re.sub(rf'"{name}": "[^"]*"'.encode(), f'"{name}": "{value}"'.encode(), made.payload, count=1)


def altered(made: Made, name: str, value: str) -> bytes:
    """Change a word in the payload, and leave the signature as it was."""
    packed = envelope.pack(changed(made, name, value), b"any key")
    return b"%s\n%s" % (made.packed.partition(b"\n")[0], packed.partition(b"\n")[2])


def signed(made: Made, name: str, value: str) -> bytes:
    """Change a word in the payload, and sign that."""
    return envelope.pack(changed(made, name, value), envelope.key_of(made.host, PASSPHRASE))


REFUSED: Final[dict[str, tuple[Callable[[float], bytes], int, str, str]]] = {
    "off the roster": (lambda now: make("web9.example.org", now).packed, 403, "roster", "web9.example.org is not on"),
    "other passphrase": (lambda now: make(HOST, now, passphrase=PASSPHRASE[1:]).packed, 403, "signature", HOST),
    "other host's key": (lambda now: altered(make(OTHER, now), "host", HOST), 403, "signature", HOST),
    "changed signature": (lambda now: flipped(make(HOST, now)), 403, "signature", "not signed with the key of"),
    "changed body": (
        lambda now: altered(make(HOST, now), "nonce", "0"),
        403,
        "signature",
        "not signed with the key of",
    ),
    "changed day": (lambda now: altered(make(HOST, now), "day", "2026-01-01"), 403, "signature", HOST),
    "wrong day": (lambda now: signed(make(HOST, now), "day", "2026-01-01"), 400, "malformed", "day: "),
    "wrong time": (lambda now: signed(make(HOST, now), "time", "noon"), 400, "malformed", "time: "),
    "clock ahead": (lambda now: make(HOST, now + 2 * HOUR).packed, 403, "time", "in the future"),
    "old": (lambda now: make(HOST, now - 6 * DAY).packed, 403, "time", "6.0 days old"),
    "no audit": (lambda _: b"hello", 400, "malformed", "does not begin with"),
    "nothing": (lambda _: b"", 400, "malformed", "does not begin with"),
    "cut off": (lambda now: make(HOST, now).packed[:-1], 400, "malformed", "truncated"),
    "gzip bomb": (lambda _: bomb(), 413, "too_large", "more than 25,165,824 bytes"),
}


@dataclass(frozen=True, slots=True)
class Taking:
    """An exporter that refuses all that it gets, and how often it has to have refused for which reason."""

    service: Exporter
    refused: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def taking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taking]:
    """Return an exporter to which two hosts have to send audits."""
    conf = configure(tmp_path_factory.mktemp("taking") / "conf.yml", [HOST, OTHER])
    with exporter(conf) as service:
        service.wait_until_ready()
        yield Taking(service)


def peak(service: Exporter) -> int:
    """Return the most memory that a process ever had, in bytes."""
    with open(f"/proc/{service.process.pid}/status", encoding="ascii") as file:  # noqa: PTH123 - a file of the kernel
        found = re.search(r"^VmHWM:\s*(\d+) kB", file.read(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def refusals(service: Exporter) -> list[dict[str, Any]]:
    """Return the lines of the log that tell of refused audits."""
    lines = [json.loads(line) for line in service.log.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["event"] == "audit rejected"]


@pytest.mark.parametrize("case", REFUSED)
def test_refused_audit_is_told_and_counted(taking: Taking, case: str) -> None:
    """A bad audit is refused with a status, a word and a sentence, counted by the word, logged, and not kept."""
    body, code, reason, words = REFUSED[case]
    service, memory = taking.service, peak(taking.service)
    lines = len(refusals(service))
    answer, document = post(service.address, body(time.time()))
    taking.refused[document.get("error", "")] += 1
    assert (answer, document["error"]) == (code, reason)
    assert document.keys() == {"type", "title", "status", "detail", "instance", "error"}
    assert words in document["detail"]
    until(lambda: rejected(service) == taking.refused)
    (line,) = refusals(service)[lines:]
    assert (line["reason"], line["why"], line["origin"]) == (reason, document["detail"], "127.0.0.1")
    assert received(service) == 0
    assert archived(service.conf, HOST) is None
    assert peak(service) < memory + 300 * MEGABYTE  # what a payload may have, a few times


def pour(address: str, head: str, piece: bytes, most: int) -> tuple[int, bytes]:
    """Send a request until there is an answer; return how many bytes went out, and the answer."""
    host, _, port = address.rpartition(":")
    sent, answer = 0, b""
    with socket.create_connection((host, int(port)), PATIENCE) as connection, selectors.DefaultSelector() as selector:
        connection.sendall(f"POST /api/v1/audits HTTP/1.1\r\nHost: {address}\r\n{head}\r\n\r\n".encode())
        connection.settimeout(0.0)
        selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while sent < most and not answer:
            ((_, events),) = selector.select(PATIENCE)
            if events & selectors.EVENT_READ:
                answer = connection.recv(65_536)
            else:
                sent += connection.send(piece[sent % len(piece) :])
    return sent, answer


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (f"Content-Length: {100 * MEGABYTE}", bytes(100_000)),
        ("Transfer-Encoding: chunked", b"186a0\r\n%s\r\n" % make(HOST, 0.0).packed.ljust(100_000, b"\0")),
    ],
    ids=["length", "chunked"],
)
def test_large_body_is_refused_before_it_was_read(taking: Taking, head: str, piece: bytes) -> None:
    """Of a body of 100 MB no more is read than shows that it is too large, with its length told or not."""
    sent, answer = pour(taking.service.address, head, piece, 100 * MEGABYTE)
    taking.refused["too_large"] += 1
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"error": "too_large"' in answer
    assert sent < 40 * MEGABYTE  # 16 MB are read, the rest waits in the system's buffers
    until(lambda: rejected(taking.service) == taking.refused)


def test_same_audit_is_acknowledged_and_another_refused(tmp_path: Path) -> None:
    """The same bytes again are acknowledged as often as they come; another audit of the day is refused, also later."""
    conf = configure(tmp_path / "conf.yml", [HOST])
    now = time.time()
    first, second, before = make(HOST, now), make(HOST, now), make(HOST, now - DAY)
    with exporter(conf) as service:
        assert post(service.address, first.packed) == (201, {"message": "accepted"})
        assert post(service.address, first.packed) == (200, SAME)
        code, document = post(service.address, second.packed)
        assert (code, document["error"]) == (409, "duplicate")
        assert f"{HOST} has already sent another audit for {first.day}" in document["detail"]
        assert post(service.address, before.packed)[0] == 201
        until(lambda: (rejected(service), received(service)) == ({"duplicate": 1}, 2))
    with exporter(conf) as service:
        assert post(service.address, first.packed) == (200, SAME)
        assert post(service.address, second.packed)[0] == 409
        until(lambda: (received(service), rejected(service)) == (2, {"duplicate": 2}))
    assert archived(conf, HOST, first.day) == archived(conf, HOST) == first.payload
    assert archived(conf, HOST, before.day) == before.payload


def test_counts_never_go_back(tmp_path: Path) -> None:
    """No scrape has fewer accepted or refused audits than one before, while they come in and across a restart."""
    conf = configure(tmp_path / "conf.yml", [HOST])
    counts: list[tuple[float, float]] = []
    for day in range(4):
        with exporter(conf, log=tmp_path / f"{day}.log") as service:
            for _ in range(40):
                counts.append((received(service), rejected(service).get("malformed", 0.0)))
                post(service.address, b"hello")
            post(service.address, make(HOST, time.time() - day * DAY).packed)
            until(lambda: received(service) == counts[-1][0] + 1)  # in the file, and what came before, too
            service.kill(signal.SIGTERM)
    assert counts[-1] == (3.0, 159.0)
    assert [each for each, _ in counts] == sorted(each for each, _ in counts)
    assert [each for _, each in counts] == sorted(each for _, each in counts)


class Senders:
    """Many hosts that post: each its own audit again and again, until it is acknowledged."""

    def __init__(self, address: str) -> None:
        self.acknowledged: dict[str, int] = {}
        self.lost = 0
        self._address = address
        self._lock = threading.Lock()

    def send(self, made: Made) -> None:
        """Post an audit until there is an answer, in a thread of its own."""
        self.acknowledged[made.host] = until(lambda: self._answer(made), patience=6 * PATIENCE)  # over all starts

    def _answer(self, made: Made) -> int | None:
        try:
            status = post(self._address, made.packed)[0]
        except ConnectionRefusedError:
            return None
        except (OSError, http.client.HTTPException):  # it was there, and is there no more
            with self._lock:
                self.lost += 1
            return None
        return None if status == HTTPStatus.SERVICE_UNAVAILABLE else status  # it starts: again later


def free_port() -> int:
    """Find a port that nobody has."""
    with socket.create_server((LISTENING, 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def listening(conf: Path, address: str, log: Path) -> Iterator[Exporter]:
    """Run the exporter on an address that stays the same."""
    with exporter(conf, "--web.listen-address", address, log=log) as service:
        until(lambda: log.read_text(encoding="utf-8").count('"event": "listening"') == 2)
        yield service


@fault("kill", "audits", "Each audit arrives once; the agents send again what was not acknowledged.")
def test_every_audit_arrives_once_though_the_exporter_is_killed(tmp_path: Path) -> None:
    """Killed and started again while 48 hosts post, the exporter has each audit once, and says so when asked again."""
    rng = random.Random(7)  # noqa: S311 - repeatable
    rounds = [[f"host{number:02}-{each}.example.org" for each in range(8)] for number in range(6)]
    audits = {host: make(host, time.time()) for host in chain(*rounds)}
    conf = configure(tmp_path / "conf.yml", audits)
    address = f"{LISTENING}:{free_port()}"
    senders = Senders(address)
    with ThreadPoolExecutor(len(audits)) as pool:
        for number, hosts in enumerate(rounds):
            with listening(conf, address, tmp_path / f"{number}.log") as service:
                if number == 0:  # some answers are lost in any case
                    service.process.send_signal(signal.SIGSTOP)
                work = [pool.submit(senders.send, audits[host]) for host in hosts]
                time.sleep(rng.uniform(0.02, 0.1))  # a moment, not a wait for something
                service.kill()
        with listening(conf, address, tmp_path / "last.log") as service:
            until(lambda: len(senders.acknowledged) == len(audits))
            assert all(each.done() for each in work)
            assert set(senders.acknowledged.values()) <= {200, 201}
            assert senders.lost
            until(lambda: received(service) == len(audits))
            assert [post(address, made.packed)[0] for made in audits.values()] == [200] * len(audits)
            assert (received(service), rejected(service)) == (len(audits), {})
    for host, made in audits.items():
        assert archived(conf, host, made.day) == made.payload


def test_audit_whose_answer_was_lost_is_acknowledged(tmp_path: Path) -> None:
    """An audit that was archived when the exporter was killed, its answer unread, is there already when sent again."""
    conf = configure(tmp_path / "conf.yml", [HOST])
    made = make(HOST, time.time())
    with exporter(conf) as service:
        host, _, port = service.address.rpartition(":")
        with socket.create_connection((host, int(port)), PATIENCE) as connection:
            head = f"POST /api/v1/audits HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(made.packed)}\r\n\r\n"
            connection.sendall(head.encode() + made.packed)
            until(lambda: received(service) == 1)
            service.kill()
    with exporter(conf) as service:
        assert post(service.address, made.packed) == (200, SAME)
        until(lambda: received(service) == 1)
        until(lambda: status(service, HOST) == "vulnerable")


def test_agents_get_their_audits_through_a_restart(tmp_path: Path) -> None:
    """An agent that tries again while the exporter is down gets through; one that gave up does so the next time."""
    conf = configure(tmp_path / "conf.yml", [HOST, OTHER])
    address = f"{LISTENING}:{free_port()}"
    patient, spooling = (Agent(tmp_path / host, host, key(conf, host)) for host in (HOST, OTHER))
    patient.configure(url=f"http://{address}", retries=8, pause="0.1s")
    spooling.configure(url=f"http://{address}")
    done = spooling.send("--print")
    assert done.code == 75, done.errors
    assert len(spooling.waiting()) == 1
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(patient.send, "--print")
        until(patient.waiting)  # its first try comes next
        with listening(conf, address, tmp_path / "first.log") as service:
            service.kill()
        with listening(conf, address, tmp_path / "second.log") as service:
            sent = work.result(PATIENCE)
            assert (sent.code, sent.errors) == (0, "")
            again = spooling.send("--again")
            assert again.code == 1
            assert again.output.endswith(b" was accepted\n")
            assert (
                f"{OTHER} has already sent another audit for" in again.errors
            )  # that of its second run: one a day counts
            assert spooling.waiting() == []
            until(lambda: received(service) == 2)
    assert archived(conf, HOST) == payload_of(sent)
    assert archived(conf, OTHER) == payload_of(done)


@dataclass(slots=True)
class Race:
    """Two `portspec receive` and one POST for a host and day; `start` starts the two, and gives their exit codes.

    A process has to read conf.yml first, so the POST is sent `delay` seconds later, by which it wins every other time.
    """

    start: Callable[[Path, list[bytes]], Callable[[], list[int | None]]]
    delay: float
    winners: list[int] = field(default_factory=lambda: [0, 0, 0])

    def run(self, service: Exporter, host: str, at: float) -> None:
        """Race once, and see that one was accepted, the others were refused, and the archive has the one."""
        made = [make(host, at) for _ in range(3)]
        wait = self.start(service.conf, [mail(each, f"root@{host}", "portspec@example.org") for each in made[:2]])
        time.sleep(self.delay)  # for nothing to happen
        status, _ = post(service.address, made[2].packed)
        codes = (*wait(), status)
        winner = next((place for place, code in enumerate(codes) if code in {0, 201}), 0)
        assert codes == tuple(won if place == winner else lost for place, (won, lost) in enumerate(CODES)), codes
        assert archived(service.conf, host, made[0].day) == made[winner].payload
        self.winners[winner] += 1
        self.delay *= 1.1 if winner == 2 else 0.9


def forked(conf: Path, mails: list[bytes]) -> Callable[[], list[int | None]]:
    """Start processes that have portspec loaded already, at the same instant."""
    context = racers.context()
    start = context.Barrier(len(mails) + 1)
    processes = [context.Process(target=racers.receive, args=(str(conf), each, start)) for each in mails]
    for process in processes:
        process.start()
    start.wait(racers.PATIENCE)

    def wait() -> list[int | None]:
        for process in processes:
            process.join(racers.PATIENCE)
        return [process.exitcode for process in processes]

    return wait


def started(conf: Path, mails: list[bytes]) -> Callable[[], list[int | None]]:
    """Start them as an MTA does."""
    pool = ThreadPoolExecutor(len(mails))
    work = [pool.submit(run, PORTSPEC, "receive", "-c", str(conf), stdin=each) for each in mails]
    pool.shutdown(wait=False)
    return lambda: [each.result(PATIENCE).code for each in work]


@pytest.mark.timeout(300)
def test_one_of_three_audits_at_the_same_instant_wins(tmp_path: Path) -> None:
    """Of three audits of a host and day, two by mail and one posted at the same time, one is accepted and kept."""
    now = time.time()
    hosts = [f"host{number}.example.org" for number in range((FORKED + STARTED + 3) // 4)]
    days = [(host, now - DAY * day) for host in hosts for day in range(4)][: FORKED + STARTED]
    conf = configure(tmp_path / "conf.yml", hosts)
    races = Race(forked, 0.1), Race(started, 0.5)
    with exporter(conf) as service:
        service.wait_until_ready()
        for number, (host, at) in enumerate(days):
            races[number >= FORKED].run(service, host, at)
        until(lambda: (received(service), rejected(service)) == (len(days), {"duplicate": 2 * len(days)}))
    posted = races[0].winners[2]
    assert FORKED // 10 < posted < FORKED * 9 // 10  # they did run side by side
    assert all(races[0].winners)


def test_keys_change_over(tmp_path: Path) -> None:
    """While previous_passphrase is set a host's old key and its new one are good, and after that the new one only."""
    new = "another passphrase of the tests"
    conf = configure(tmp_path / "conf.yml", [HOST, OTHER])
    agents = {host: Agent(tmp_path / host, host, key(conf, host)) for host in (HOST, OTHER)}
    now = time.time()

    def post_of(day: int, passphrase: str) -> int:
        return post(service.address, make(HOST, now - day * DAY, passphrase=passphrase).packed)[0]

    def apply(**audit: Any) -> None:
        configure(conf, [HOST, OTHER], audit=audit)
        assert service.post("/-/reload").status == 200

    with exporter(conf) as service:
        assert [post_of(1, new), post_of(1, PASSPHRASE)] == [403, 201]
        apply(passphrase=new, previous_passphrase=PASSPHRASE)
        assert [post_of(2, new), post_of(3, PASSPHRASE)] == [201, 201]
        for agent in agents.values():
            agent.configure(url=f"http://{service.address}")
        assert agents[HOST].send().code == 0  # its key is still that of before
        fresh = Agent(tmp_path / "fresh", OTHER, key(conf, OTHER))
        fresh.configure(url=f"http://{service.address}")
        apply(passphrase=new)
        done = agents[OTHER].send()
        assert done.code == 75
        assert f"not signed with the key of {OTHER}" in done.errors
        assert fresh.send().code == 0
        assert [post_of(4, PASSPHRASE), post_of(4, new)] == [403, 201]
        until(lambda: rejected(service) == {"signature": 3})
        until(lambda: received(service) == 6)
