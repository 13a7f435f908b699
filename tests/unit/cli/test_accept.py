"""`portspec accept`: the diff, the question, and what is written."""

from __future__ import annotations

import json
import os
import pty
import pwd
import shutil
import stat
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from portspec.cli.accept import accept
from portspec.config import load
from portspec.config.acceptance import AcceptanceError
from portspec.config.proposal import Request
from portspec.errors import UsageError
from tests.e2e.exporter import until
from tests.unit.cli.run import PROGRAM, Server, environment, run
from tests.unit.factories import NOW
from tests.unit.scan.loopback import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT = "# mine\nhosts:\n  127.0.0.1: [22]  # ssh\nscanports: [1]\n"
ALLOWED = TEXT.replace("[22]  #", "{expect: [22], allow: [443]}  #")
ALLOW = ("accept", "127.0.0.1", "443", "--allow")


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a configuration file that others may read."""
    path = tmp_path / "conf.yml"
    path.write_text(TEXT, encoding="utf-8")
    path.chmod(0o640)
    return path


def test_dry_run_shows_the_diff_and_writes_nothing(conf: Path) -> None:
    """The diff is that of `diff -u`."""
    done = run(*ALLOW, "-n", "-c", str(conf))
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"--- {conf}",
        f"+++ {conf}",
        "@@ -1,4 +1,4 @@",
        " # mine",
        " hosts:",
        "-  127.0.0.1: [22]  # ssh",
        "+  127.0.0.1: {expect: [22], allow: [443]}  # ssh",
        " scanports: [1]",
    ]
    assert conf.read_text(encoding="utf-8") == TEXT


def answered(conf: Path, answer: str, before_that: Callable[[], object] = lambda: None) -> tuple[int, str]:
    """Answer the question on a terminal; return the exit code and what was printed after the question."""
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            [*PROGRAM, *ALLOW, "-c", str(conf)],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
        )
        assert process.stdout
        with process, os.fdopen(os.dup(process.stdout.fileno()), "rb", 0) as output:
            shown = b""
            while not shown.endswith(b"[y/N] "):
                part = output.read(4096)
                assert part, shown
                shown += part
            before_that()
            os.write(master, f"{answer}\n".encode())
            rest = b"".join(iter(lambda: output.read(4096), b""))
            return process.wait(PATIENCE), rest.decode()
    finally:
        os.close(master)
        os.close(slave)


def test_answer_decides(conf: Path) -> None:
    """After "n", or nothing, the file is as it was; after "y" it is written, and keeps its mode."""
    for no in ("n", ""):
        assert answered(conf, no) == (1, "nothing is written.\n")
        assert conf.read_text(encoding="utf-8") == TEXT
    code, told = answered(conf, "y")
    assert (code, told.splitlines()[0]) == (0, f"{conf} is written.")
    assert conf.read_text(encoding="utf-8") == ALLOWED
    assert stat.S_IMODE(conf.stat().st_mode) == 0o640
    assert os.listdir(conf.parent) == ["conf.yml"]  # noqa: PTH208 - names


def test_file_that_was_changed_meanwhile_is_not_written(conf: Path) -> None:
    """What somebody else wrote between the question and the answer stays."""
    other = TEXT.replace("# mine", "# ours")
    code, told = answered(conf, "y", lambda: conf.write_text(other, encoding="utf-8"))
    assert code == 2
    assert told == f"{conf} was changed meanwhile; nothing is written. Look at the change again\n"
    assert conf.read_text(encoding="utf-8") == other


def test_without_a_terminal_nobody_is_asked(conf: Path) -> None:
    """In a script --yes is needed; the error says so."""
    done = run(*ALLOW, "-c", str(conf))
    assert (done.code, done.err.splitlines()) == (
        2,
        ["nothing is written: there is no terminal to ask on; give --yes, or --dry-run for the diff"],
    )
    assert run(*ALLOW, "--yes", "-c", str(conf)).code == 0
    assert conf.read_text(encoding="utf-8") == ALLOWED
    again = run(*ALLOW, "-c", str(conf))
    assert (again.code, again.out) == (0, f"{conf} has this already.\n")


def test_exporter_takes_it_up(conf: Path) -> None:
    """The exporter of the unit reloads, and the command prints what came of it."""
    directory = tempfile.mkdtemp(prefix="portspec-")  # the path of a socket has at most 107 bytes (unix(7))
    try:
        with Server(conf, extra={"RUNTIME_DIRECTORY": directory}) as server:
            done = run(*ALLOW, "-y", "-c", str(conf), extra={"RUNTIME_DIRECTORY": directory})
            assert done.out.splitlines()[-2:] == [
                f"{conf} is written.",
                "the exporter of the systemd unit says: configuration reloaded.",
            ]
            assert "portspec_config_last_reload_successful 1.0" in server.get("/metrics")[1]
            rows = until(lambda: json.loads(server.get("/api/v1/changes")[1])["changes"])
            user = pwd.getpwuid(os.geteuid()).pw_name
            assert [(row["to"], row["note"]) for row in rows] == [("allowed", f"by {user}")]
    finally:
        shutil.rmtree(directory)


def written(conf: Path, *what: str, until: str, reason: str = "", owner: str = "") -> str:
    """Make an exception at NOW; return what was added."""
    before = conf.read_text(encoding="utf-8")
    request = Request("127.0.0.1", what, "until", until, reason, owner)
    assert accept(str(conf), request, asks=False, environment={}, now=lambda: NOW) == 0
    return conf.read_text(encoding="utf-8").removeprefix(before) or before


def test_end_of_an_exception_is_a_duration_a_day_or_a_time(conf: Path) -> None:
    """A duration counts from now, and the file has the time; exceptions are added one after the other."""
    assert 'until: "2023-11-21T22:13:20Z"' in written(conf, "443", until="1w")
    assert 'until: "2027-03-31"' in written(conf, "443", until="2027-03-31")
    assert 'until: "2027-03-31T18:00:00Z"' in written(conf, "cve-2026-1234", until="2027-03-31T18:00:00Z")
    assert len(load(conf).exceptions) == 2
    assert load(conf).accepted[0].ids == ("cve-2026-1234",)
    written(conf, "443", until="1d", reason="a # b: 'c' \"d\" ☃", owner="no")
    assert (load(conf).exceptions[-1].reason, load(conf).exceptions[-1].owner) == ("a # b: 'c' \"d\" ☃", "no")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("127.0.0.1", ("80a",), "allow"), r'"80a" is not a port'),
        (
            Request("127.0.0.2", ("80",), "allow"),
            r'"127.0.0.2" is not a host of the configuration; did you mean 127.0.0.1\?',
        ),
        (Request("127.0.0.1", ("80", "CVE-2026-1"), "until", "1w"), "in two commands"),
        (Request("127.0.0.1", ("CVE-2026-1",), "allow"), "give --until 1w"),
        (Request("127.0.0.1", ("80",), "allow", reason="x"), "--reason belongs to an exception, which needs --until"),
        (
            Request("127.0.0.1", ("80",), "until", "1w", owner="a\nb"),
            "--owner: the text has characters that cannot be seen",
        ),
        (Request("127.0.0.1", ("80",), "until", "soon"), '--until: "soon" is no end of an exception'),
        (Request("127.0.0.1", ("80",), "until", "2020-01-01"), "--until: 2020-01-01 is in the past"),
        (Request("127.0.0.1", ("80",), "until", "30"), '--until: "30" has no unit; write for example "30d"'),
        (Request("127.0.0.*", ("80",), "until", "1w"), "is not a host; name one host, or a CIDR"),
        (Request("127.0.0.1", ("22 80",), "until", "1w"), "several ports are a list"),
        (Request("127.0.0.1", ("80a-90",), "allow"), '"80a-90" is not a port'),
        (Request("127.0.0.1", ("80",), "until", "0s"), "--until: 0s is in the past"),
        (Request("127.0.0.1", ("80",), "until", "9999999y"), "--until: 9999999y is too long"),
    ],
)
def test_bad_arguments_are_refused(conf: Path, request_: Request, message: str) -> None:
    """The message says what is wrong, and the file stays as it is."""
    with pytest.raises(UsageError, match=message):
        accept(str(conf), request_, asks=False, environment={}, now=lambda: NOW)
    assert conf.read_text(encoding="utf-8") == TEXT


def test_link_is_followed_but_not_into_a_config_map(conf: Path, tmp_path: Path) -> None:
    """The file behind a link is replaced, and the link stays; a mounted ConfigMap belongs to Kubernetes."""
    link = tmp_path / "link.yml"
    link.symlink_to(conf.name)
    assert run(*ALLOW, "-y", "-c", str(link)).code == 0
    assert link.is_symlink()
    assert conf.read_text(encoding="utf-8") == ALLOWED
    data = tmp_path / "..2026_11_29"
    data.mkdir()
    (data / "portspec.yml").write_text(TEXT, encoding="utf-8")
    (tmp_path / "..data").symlink_to(data.name)
    mounted = tmp_path / "portspec.yml"
    mounted.symlink_to("..data/portspec.yml")
    done = run(*ALLOW, "-y", "-c", str(mounted))
    assert (done.code, done.err) == (
        2,
        f"{mounted} is a file of a Kubernetes ConfigMap; change the ConfigMap (--dry-run prints the diff)\n",
    )
    assert run(*ALLOW, "-n", "-c", str(mounted)).code == 0


def test_write_that_fails_leaves_the_file_as_it_was(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error tells why, and nothing is left beside the file."""

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AcceptanceError, match="nothing is written: no space left on device"):
        accept(str(conf), Request("127.0.0.1", ("443",), "allow"), asks=False, environment={})
    assert conf.read_text(encoding="utf-8") == TEXT
    assert os.listdir(conf.parent) == ["conf.yml"]  # noqa: PTH208 - names


def test_standard_input_cannot_be_edited() -> None:
    """There is no file to write."""
    done = run(*ALLOW, "-y", "-c", "-")
    assert (done.code, done.err) == (
        2,
        "standard input cannot be edited; name the configuration file with -c FILE\n",
    )


@pytest.mark.parametrize(
    "name",
    [
        "CVE-2026-1234",
        "GHSA-cfgh-jmpq-rvwx",
        "ALAS2023-2024-123",
        "4b448a96-ff73-11e2-b28d-080027ef73ec",
        "a certificate with a long chain takes for ever",
        " DSA-6789-1 ",
    ],
)
def test_every_kind_of_id_is_accepted(conf: Path, name: str) -> None:
    """What the report calls a vulnerability can be accepted: its ids, or its title."""
    written(conf, name, until="1w")
    assert load(conf).accepted[0].ids == (name.strip().lower(),)
    before = conf.read_text(encoding="utf-8")
    assert written(conf, name, until="1w") == before  # it is there already, and nothing is added


def test_text_that_looks_like_a_variable_is_text(conf: Path) -> None:
    """What a person writes as a reason is not replaced by the environment."""
    written(conf, "443", until="1w", reason="see ${HOME} and $${x}")
    assert load(conf).exceptions[0].reason == "see ${HOME} and $${x}"


def test_secrets_beside_the_change_are_not_shown(conf: Path) -> None:
    """The diff may end up in a log."""
    conf.write_text(f"{TEXT}smtppassword: hunter2\nsmtppassword_file: /x\n", encoding="utf-8")
    conf.write_text(f"{TEXT}audit: {{passphrase: 'hunter2 hunter2 hunter2', hosts: [a]}}\n", encoding="utf-8")
    done = run("accept", "127.0.0.1", "443", "--until", "1w", "-n", "-c", str(conf))
    assert done.code == 0, done.err
    assert "hunter2" not in done.out
    assert "passphrase: …, hosts: [a]" in done.out


def test_failed_reload_is_told(conf: Path) -> None:
    """The file is written, and the exit code says that the exporter goes on as before."""
    directory = tempfile.mkdtemp(prefix="portspec-")
    other = conf.with_name("other.yml")
    other.write_text(TEXT, encoding="utf-8")
    try:
        with Server(other, extra={"RUNTIME_DIRECTORY": directory}):
            other.write_text("hosts: 5\n", encoding="utf-8")
            done = run(*ALLOW, "-y", "-c", str(conf), extra={"RUNTIME_DIRECTORY": directory})
            assert done.code == 2
            assert "the exporter of the systemd unit says: reload failed" in done.out
    finally:
        shutil.rmtree(directory)
    assert conf.read_text(encoding="utf-8") == ALLOWED


def test_attributes_of_the_file_stay(conf: Path) -> None:
    """An access control list would be lost with the file that is replaced, and with it who may read it."""
    try:
        os.setxattr(conf, "user.note", b"mine")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    assert run(*ALLOW, "-y", "-c", str(conf)).code == 0
    assert os.getxattr(conf, "user.note") == b"mine"
