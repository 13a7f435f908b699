"""What waits in the agent's spool: each audit gets its try, whatever becomes of the others."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec import agent
from portspec.agent import MAX_SET_ASIDE, MAX_SPOOLED, MAX_TRIES, Attempt, Delivery, Fate, Settings, Spool, deliver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from portspec.agent import HttpSender, Parcel

KEY = b"k" * 32
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


def audit(day: str) -> bytes:
    """Return a signed audit of a day."""
    return agent.pack(json.dumps({"host": "db1", "day": day, "nonce": day}).encode(), KEY)


class Host:
    """A host with the agent: its spool, a clock that a test sets, and a sender that has one answer for each day."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1_795_000_000.0
        self.fates: dict[str, Fate] = {}  # else SENT
        self.way: Fate | None = None  # of all
        self.seconds: dict[str, float] = {}  # that a try takes
        self.tried: list[str] = []
        self.tried_ever: list[str] = []
        self.killed_at = ""
        self._delivery = Delivery(
            cast("HttpSender", self),
            Settings(mail_to="portspec"),
            clock=lambda: self.now,
            timer=lambda: self.now,
        )

    def send(self, parcel: Parcel) -> Attempt:
        """Answer, as a sender does."""
        self.tried.append(parcel.day)
        self.tried_ever.append(parcel.day)
        self.now += self.seconds.get(parcel.day, 0.0)
        if parcel.day == self.killed_at:
            raise agent.Stopped(signal.SIGTERM)
        return Attempt(self.way or self.fates.get(parcel.day, Fate.SENT), "failed it")

    def spool(self, *days: str) -> None:
        """Let audits of days wait."""
        with Spool(str(self.path)) as spool:
            for day in days:
                path = spool.add(audit(day)).path
                assert path is not None
                os.utime(path, (self.now, self.now))

    def run(self, day: str) -> tuple[int, list[str]]:
        """Audit, and send what is there; return the exit code, and the days of the audits that were tried."""
        return self._send(day)

    def flush(self, *, is_now: bool = False) -> tuple[int, list[str]]:
        """Send what is there."""
        return self._send("", is_now=is_now)

    def _send(self, day: str, *, is_now: bool = False) -> tuple[int, list[str]]:
        self.tried = []
        with Spool(str(self.path)) as spool:
            own = None
            if day:
                self.spooled = spool.add(audit(day))
                assert self.spooled.path is not None
                os.utime(self.spooled.path, (self.now, self.now))
                own = self.spooled
            code = deliver(spool, own, self._delivery, is_now=is_now)
            spool.trim()
        return code, self.tried

    def waiting(self) -> list[str]:
        """Return the days of the audits that wait."""
        return [path.stem.partition("-")[2] for path in sorted(self.path.glob("*.audit"))]

    def refused(self) -> list[str]:
        """Return the days of those that were put aside."""
        return [path.stem.partition("-")[2] for path in sorted((self.path / "refused").glob("*.audit"))]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a host whose spool is empty."""
    return Host(tmp_path / "spool")


@pytest.mark.parametrize("fate", [Fate.FAILED, Fate.TOO_LARGE])
def test_audit_that_fails_holds_up_no_other(host: Host, fate: Fate) -> None:
    """Whatever becomes of the oldest audit, all others are sent, oldest first, and it waits."""
    host.spool("a", "b", "c")
    host.fates["a"] = fate
    assert host.run("d") == (75, ["a", "b", "c", "d"])
    assert host.waiting() == ["a"]


def test_audit_that_failed_waits_ever_longer(host: Host) -> None:
    """An audit that fails while others arrive is tried after half an hour, an hour and so on, up to 16, and is last."""
    host.fates["a"] = Fate.FAILED
    host.spool("a")
    assert host.run("b")[1] == ["a", "b"]
    for index, hours in enumerate((0.5, 1, 2, 4, 8, 16, 16)):
        host.now += hours * HOUR - MINUTE
        assert host.run(f"c{index}") == (75, [f"c{index}"])
        host.now += MINUTE
        assert host.run(f"d{index}") == (75, [f"d{index}", "a"])
    host.fates.clear()
    host.now += 16 * HOUR
    assert host.flush() == (0, ["a"])
    assert sorted(path.name for path in host.path.iterdir()) == ["lock"]


def test_flush_now_does_not_wait(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A flush says how many wait for a later try and how to have it now, and `--now` tries them."""
    host.spool("a", "b")
    host.fates["a"] = Fate.FAILED
    host.flush()
    capsys.readouterr()
    assert host.flush() == (75, [])
    said = capsys.readouterr()
    assert said.out == "portspec-send: 1 audit waits for a later attempt; portspec-send --flush --now retries at once\n"
    assert said.err == ""
    host.fates.clear()
    assert host.flush(is_now=True) == (0, ["a"])


def test_way_that_is_shut_counts_against_no_audit(host: Host) -> None:
    """After days without a server all audits are there, and go at the first run at which it answers."""
    host.way = Fate.FAILED
    days = [f"{number:02}" for number in range(MAX_TRIES + 5)]
    for day in days:
        assert host.run(day)[0] == 75
        for _ in range(3):
            host.now += 8 * HOUR
            host.flush()
    assert host.waiting() == days
    host.way = None
    assert host.flush() == (0, days)


def test_outage_does_not_count_against_one_that_failed_before(host: Host) -> None:
    """The tries of an audit stay as many as they were while nothing else gets through either."""
    host.fates["a"] = Fate.FAILED
    host.spool("a")
    for index in range(MAX_TRIES - 1):
        assert host.run(f"b{index}")[0] == 75
        host.now += DAY
    host.way = Fate.FAILED
    for _ in range(5):
        assert host.flush() == (75, ["a"])
        host.now += DAY
    host.way = None
    assert host.waiting() == ["a"]
    assert host.run("c") == (1, ["c", "a"])
    assert (host.waiting(), host.refused()) == ([], ["a"])


@pytest.mark.parametrize("fate", [Fate.FAILED, Fate.TOO_LARGE])
def test_audit_that_fails_for_good_is_put_aside(host: Host, fate: Fate, capsys: pytest.CaptureFixture[str]) -> None:
    """After ten tries an audit is put aside where it is kept, and that is told once, with the reason; exit 1."""
    host.spool("a")
    host.fates["a"] = fate
    for index in range(MAX_TRIES - 1):
        assert host.run(f"b{index}")[0] == 75
        host.now += DAY
    capsys.readouterr()
    assert host.run("c") == (1, ["c", "a"])
    assert (host.waiting(), host.refused()) == ([], ["a"])
    (path,) = (host.path / "refused").iterdir()
    assert path.read_bytes() == audit("a")
    assert capsys.readouterr().err == (
        f"portspec-send: the audit of db1 for a failed it; given up after 10 tries; it was moved to {path.parent}; "
        f"move it back to {host.path} to retry\n"
    )
    path.rename(host.path / path.name)
    host.fates.clear()
    assert host.flush() == (0, ["a"])


def test_too_large_audit_is_given_up_though_nothing_else_is_sent(host: Host) -> None:
    """An audit that is too large needs no other that arrives for its tries to count."""
    host.spool("a")
    host.fates["a"] = Fate.TOO_LARGE
    for _ in range(MAX_TRIES):
        host.flush()
        host.now += DAY
    assert (host.waiting(), host.refused()) == ([], ["a"])


def test_audit_without_proof_waits_ever_longer_and_is_not_given_up(host: Host) -> None:
    """An audit that only got answers without proof is tried ever more rarely, and stays in the spool."""
    host.way = Fate.UNPROVEN
    host.spool("a", "b")
    assert host.flush() == (75, ["a", "b"])
    assert host.flush() == (75, [])
    for _ in range(MAX_TRIES + 5):
        host.now += 16 * HOUR
        assert host.flush() == (75, ["a", "b"])
    assert (host.waiting(), host.refused()) == (["a", "b"], [])
    host.way = None
    assert host.flush(is_now=True) == (0, ["a", "b"])


def test_audit_is_put_aside_after_thirty_days(host: Host) -> None:
    """An audit that nobody could take for thirty days is put aside."""
    host.way = Fate.FAILED
    host.spool("a")
    host.now += 30 * DAY
    assert host.run("b")[0] == 75
    assert host.waiting() == ["a", "b"]
    host.now += MINUTE
    assert host.flush()[0] == 75
    assert (host.waiting(), host.refused()) == (["b"], ["a"])


def test_refused_audit_is_kept_aside(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """An audit that portspec refuses is out of the way at once, and is kept with the reason told; exit 1."""
    host.spool("a")
    host.fates["b"] = Fate.REFUSED
    assert host.run("b") == (1, ["a", "b"])
    assert (host.waiting(), host.refused()) == ([], ["b"])
    assert f"the audit of db1 for b failed it; it was moved to {host.path}/refused;" in capsys.readouterr().err


def test_more_than_may_wait_are_put_aside(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Of more audits than may wait the oldest is put aside, after it was tried once more, and that is told."""
    host.way = Fate.FAILED
    days = [f"{number:02}" for number in range(MAX_SPOOLED + 1)]
    host.spool(*days[:-1])
    assert host.run(days[-1]) == (75, days)
    assert host.waiting() == days[1:]
    assert host.refused() == days[:1]
    assert f"the audit of db1 for 00 was discarded: more than {MAX_SPOOLED} audits wait in" in capsys.readouterr().err


def test_what_is_put_aside_is_bounded(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the audits that were put aside the newest are kept, and that an older one is dropped is told."""
    host.way = Fate.REFUSED
    days = [f"{number:02}" for number in range(MAX_SET_ASIDE + 3)]
    host.spool(*days)
    host.flush()
    assert host.refused() == days[3:]
    said = capsys.readouterr().err
    assert said.count(f" was deleted: the directory keeps {MAX_SET_ASIDE} audits at most") == 3


def test_place_for_what_is_put_aside_that_is_none(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be put aside a refused audit is dropped, and that is told, rather than tried for ever."""
    host.spool("a")
    (host.path / "refused").touch()
    host.way = Fate.REFUSED
    assert host.flush() == (1, ["a"])
    assert host.waiting() == []
    assert "it was deleted, because it could not be moved to " in capsys.readouterr().err


def test_tries_that_hang_do_not_take_all_night(host: Host) -> None:
    """After ten minutes of tries that fail only the newest audit is tried, and the next run begins with others."""
    host.spool("a", "b", "c", "d")
    host.fates = dict.fromkeys("ab", Fate.FAILED)
    host.seconds = dict.fromkeys("ab", 300.0)
    assert host.run("e") == (75, ["a", "b", "e"])
    host.now += MINUTE
    assert host.run("f") == (75, ["c", "d", "f"])
    host.now += HOUR
    assert host.run("g") == (75, ["g", "a", "b"])


def test_sendmail_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sendmail that never ends is ended after the time of an attempt, and the audit has failed for now."""
    monkeypatch.setattr(agent, "_ATTEMPT_TIMEOUT", 0.2)
    sendmail = tmp_path / "sendmail"
    sendmail.write_text("#!/bin/sh\nexec tail -f /dev/null\n", encoding="ascii")
    sendmail.chmod(0o755)
    sender = agent.MailSender(Settings(mail_to="portspec", mail_from="root", sendmail=str(sendmail)), {})
    attempt = sender.send(agent.make_parcel(audit("a"), None))
    assert attempt.fate is Fate.FAILED
    assert attempt.text.startswith(f"could not be handed to {sendmail}: sendmail timed out after 0 s")


@pytest.mark.parametrize("end", [agent.Stopped, MemoryError])
def test_audit_at_which_the_agent_ends_blocks_no_other(
    host: Host, end: Callable[[int], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try that never came to its end has failed: the next run begins with the other audits."""
    monkeypatch.setattr(agent, "Stopped", end)
    host.spool("a", "b")
    host.killed_at = "a"
    with pytest.raises(BaseException, match="15"):
        host.flush()
    for day, tried in (("", ["b", "a"]), ("c", ["c", "a"])):
        with pytest.raises(BaseException, match="15"):
            host.run(day) if day else host.flush()
        assert host.tried == tried
        host.now += HOUR
    host.now -= MINUTE + HOUR / 2
    assert host.run("d") == (75, ["d"])
    host.killed_at = ""
    assert host.flush(is_now=True) == (0, ["a"])


def fifo(path: Path) -> None:
    """Make a pipe that nobody writes to."""
    os.mkfifo(path)


GARBLED: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(audit("x")[:-9]),
    "deep": lambda path: path.write_bytes(agent.pack(b"[" * 100_000, KEY)),
    "of zeros": lambda path: path.write_bytes(bytes(5000)),
    "a directory": lambda path: path.mkdir(),
    "a pipe": fifo,
    "a link that leads nowhere": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize("make", GARBLED.values(), ids=GARBLED.keys())
def test_garbled_file_is_put_aside(
    host: Host, make: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the spool that is no audit is put aside with a message, and the others are sent."""
    host.path.mkdir(mode=0o700)
    make(host.path / "0.audit")
    (host.path / "2.new").write_bytes(b"half")
    (host.path / "mine.txt").write_bytes(b"note")
    assert host.run("b") == (0, ["b"])
    assert {each.name for each in host.path.iterdir()} == {"lock", "mine.txt", "refused"}
    assert [each.name for each in (host.path / "refused").iterdir()] == ["0.audit"]
    assert f"{host.path}/0.audit is not an audit: " in capsys.readouterr().err


@settings(deadline=None, max_examples=50)  # it writes to the disk
@given(st.one_of(st.binary(), st.from_regex(rb"\A(NAME -?[0-9]{1,20} -?[0-9]{1,20}\n)+\Z")))
def test_note_of_tries_that_is_garbled_is_none(tmp_path_factory: pytest.TempPathFactory, note: bytes) -> None:
    """Whatever stands in the file of tries, the audit of today is sent, and with `--now` the one that waits, too."""
    host = Host(tmp_path_factory.mktemp("host") / "spool")
    host.spool("a")
    (path,) = host.path.glob("*.audit")
    (host.path / "tries").write_bytes(note.replace(b"NAME", path.name.encode()))
    host.run("b")
    host.flush(is_now=True)
    assert host.waiting() == []
    assert sorted(set(host.tried_ever)) == ["a", "b"]


def test_clock_that_was_set_back_holds_up_nothing(host: Host) -> None:
    """A next try that lies further ahead than any pause is due now."""
    host.spool("a", "b")
    host.fates["a"] = Fate.FAILED
    host.flush()
    host.now -= 365 * DAY
    assert host.flush()[1] == ["a"]


def test_tries_that_cannot_be_noted_hold_up_nothing(host: Host) -> None:
    """Where the tries cannot be written down, as on a full disk, all is tried at each run."""
    host.spool("a")
    (host.path / "tries").mkdir()
    host.fates["a"] = Fate.FAILED
    assert host.run("b") == (75, ["a", "b"])
    assert host.run("c") == (75, ["a", "c"])


@pytest.mark.parametrize("fraction", [0.0, 0.4, 0.5, 0.6, 0.999])
def test_first_try_that_was_killed_makes_no_audit_wait(tmp_path: Path, fraction: float) -> None:
    """An audit whose first try was begun and never ended is due at once, in whatever part of a second that was."""
    path = tmp_path / "2026-11-29.audit"
    path.touch()
    now = 1_795_000_000.0 + fraction
    agent.Tries(tmp_path / "tries").begin(path, now)
    assert agent.Tries(tmp_path / "tries").wait(path, now) == 0.0


def test_what_an_older_agent_left_is_sent(host: Host) -> None:
    """A file of portspec-send 0.1 waits as an audit, in the present envelope, with its signature."""
    host.path.mkdir(mode=0o700)
    old = host.path / f"{1:020}-d1.report"
    old.write_bytes(audit("d1").replace(b"portspec-audit 1 ", b"portspec-report 1 "))
    with Spool(str(host.path)) as spool:
        (path,) = spool.waiting()
        assert path.read_bytes() == audit("d1")
    assert not old.exists()
    assert host.flush() == (0, ["d1"])


def test_what_an_older_agent_left_garbled_is_put_aside(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of portspec-send 0.1 that is no audit is named, and kept among the refused ones."""
    host.path.mkdir(mode=0o700)
    (host.path / "1-x.report").write_bytes(b"nothing")
    assert host.flush() == (0, [])
    assert "1-x.audit is not an audit" in capsys.readouterr().err


def test_day_that_an_older_agent_sent_is_remembered(host: Host) -> None:
    """What portspec-send 0.1 noted as sent is not sent once more after an upgrade."""
    host.path.mkdir(mode=0o700)
    (host.path / "reported").write_text("db1 2026-11-29\n", encoding="utf-8")
    with Spool(str(host.path)) as spool:
        assert spool.last_sent() == ("db1", "2026-11-29")


def test_leftover_that_is_no_file_is_named(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory in the place of an old audit is left alone, with a warning, and holds up nothing."""
    host.path.mkdir(mode=0o700)
    (host.path / "1-x.report").mkdir()
    host.spool("d1")
    assert host.flush() == (0, ["d1"])
    assert "1-x.report is ignored: it is not a regular file" in capsys.readouterr().err
