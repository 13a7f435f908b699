"""README and docs/audit.md say how the agent is checked before root runs it: their own words, run by a shell."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from portspec import agent
from tests.e2e.audits import PORTSPEC, configure, printed
from tests.e2e.exporter import exporter
from tests.requirements import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.exporter import Exporter

ROOT: Final = Path(__file__).parents[2]
HOST: Final = "db1.example.org"
PROMPT: Final = re.compile(r"^(?:db1)?# ((?:curl|ssh|ssh-keygen|python3) .*)$", re.MULTILINE)
DOCUMENTED: Final = "portspec.example.org:10190"  # the exporter of the documents


def words(name: str) -> list[str]:
    """Return the commands of a document that fetch the agent, check it and run it, in their order."""
    page = (ROOT / name).read_text(encoding="utf-8")
    end = page.index("ssh-keygen -Y verify")
    begin = page.rindex("```console", 0, end)
    return PROMPT.findall(page[begin : page.index("```", end)])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Return an exporter that has started for the first time."""
    for program in ("curl", "ssh-keygen"):
        require(program)
    with exporter(configure(tmp_path_factory.mktemp("portspec") / "conf.yml", [HOST])) as running:
        running.wait_until_ready()
        yield running


class Db1:
    """A host at which an admin types what stands in a document; ssh to the exporter's machine runs a command here."""

    def __init__(self, directory: Path, service: Exporter) -> None:
        self.directory = directory
        self._service = service
        programs = directory / "bin"
        programs.mkdir()
        conf = shlex.quote(str(service.conf))
        (programs / "ssh").write_text(
            f'#!/bin/sh\n[ "$1" = root@portspec.example.org ] && shift && exec "$@" -c {conf}\n'
        )
        (programs / "portspec").write_text(f'#!/bin/sh\nexec {PORTSPEC} "$@"\n')
        for program in programs.iterdir():
            program.chmod(0o755)
        self._environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(directory), "LC_ALL": "C"}

    def types(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of the document, with the address of the exporter that there is."""
        line = command.replace(DOCUMENTED, self._service.address)
        return subprocess.run(
            ["sh", "-c", line], cwd=self.directory, env=self._environment, capture_output=True, text=True, check=False
        )


@pytest.mark.parametrize("name", ["README.md", "docs/audit.md"])
def test_agent_is_checked_as_the_documents_say(name: str, tmp_path: Path, service: Exporter) -> None:
    """The words fetch the agent and find it good, and they find one bad that was changed on the way."""
    db1 = Db1(tmp_path, service)
    commands = words(name)
    place = next(place for place, command in enumerate(commands) if command.startswith("ssh-keygen"))
    fetching, check, running = commands[:place], commands[place], commands[place + 1 :]
    assert len(fetching) >= 2
    if name == "README.md":  # there the exporter's machine prints it
        (tmp_path / "portspec.signers").write_bytes(printed(PORTSPEC, "key", "--agent", "-c", str(service.conf)))
    for command in fetching:
        done = db1.types(command)
        assert done.returncode == 0, (command, done.stderr)
    assert (tmp_path / "agent.py").read_bytes() == (ROOT / "exporter" / "portspec" / "agent.py").read_bytes()
    good = db1.types(check)
    assert good.returncode == 0, good.stderr
    assert re.fullmatch(r'Good "portspec-agent" signature for portspec with ED25519 key SHA256:\S{43}\n', good.stdout)
    for command in running:
        done = db1.types(command)
        assert (done.returncode, done.stdout) == (0, f"{agent.AGENT}\n")
    program = tmp_path / "agent.py"
    program.write_bytes(program.read_bytes().replace(b"python3", b"python4", 1))
    bad = db1.types(check)
    assert bad.returncode != 0
    assert "Good" not in bad.stdout


def test_agent_matches_its_hash(tmp_path: Path, service: Exporter) -> None:
    """`sha256sum -c` takes /agent.py.sha256."""
    for name in ("agent.py", "agent.py.sha256"):
        (tmp_path / name).write_text(service.get(f"/{name}").text, encoding="utf-8")
    done = subprocess.run(
        [require("sha256sum"), "-c", "agent.py.sha256"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "agent.py: OK\n")


def test_key_outlives_the_exporter(tmp_path: Path) -> None:
    """After a restart the agent is signed with the same key; another exporter has another one."""
    signatures: list[str] = []
    for number in (1, 1, 2):
        directory = tmp_path / str(number)
        directory.mkdir(exist_ok=True)
        conf = configure(directory / "conf.yml", [HOST])
        with exporter(conf, log=tmp_path / f"{len(signatures)}.log") as running:
            running.wait_until_ready()
            signatures.append(running.get("/agent.py.sig").text)
    assert signatures[0] == signatures[1] != signatures[2]


def test_damaged_key_keeps_nobody_from_scanning(tmp_path: Path) -> None:
    """An exporter whose key cannot be read starts, says so in the log, and has no signature to give."""
    key = tmp_path / "agent-signing.key"
    key.touch(mode=0o600)
    with exporter(configure(tmp_path / "conf.yml", [HOST])) as running:
        running.wait_until_ready()
        answer = running.get("/agent.py.sig")
        (line,) = [json.loads(line) for line in running.log.read_text().splitlines() if "without a signature" in line]
    assert (answer.status, answer.text) == (503, f"the agent cannot be signed: {line['why']}.\n")
    assert (line["level"], line["event"]) == ("error", "the agent is served without a signature")
    assert line["why"].startswith(f"{key}: it is not a private key of OpenSSH without a passphrase; restore it from a ")
