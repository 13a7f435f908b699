"""A real audit of the machine that runs the tests: debsecan on a list of vulnerabilities that the test serves."""

from __future__ import annotations

import html
import os
import pwd
import shutil
import socket
import subprocess
import threading
import zlib
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.audits import PORTSPEC, Agent, configure, key, printed, status
from tests.e2e.exporter import exporter, until
from tests.requirements import forbidden, missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOST: Final = "127.92.0.1"  # this machine, as the exporter sees it
SOURCE: Final = "base-files"  # a source package of which something is installed wherever there is dpkg
FOUND: Final = "CVE-2026-10001"
TITLE: Final = 'A "test" <b>of</b> the tests'
DEFAULTS: Final = "/etc/default/debsecan"


@dataclass(frozen=True, slots=True)
class Package:
    """A package that is installed on this machine."""

    name: str
    version: str


class Tracker:
    """Serves lists of vulnerabilities in the way of Debian's security tracker, each at the name of its suite."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._lists: dict[str, bytes] = {}
        tracker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                tracker.asked.append(self.path)
                found = tracker._lists.get(self.path)
                self.send_response(404 if found is None else 200)
                self.end_headers()
                self.wfile.write(found or b"")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """End it; connections are refused from then on."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def publish(self, suite: str, vulnerabilities: Sequence[tuple[str, str, str]], binaries: str = "") -> None:
        """Serve a list: of each vulnerability the name, the title, and what debsecan reads of the package.

        That is the source package, the number of the vulnerability, four flags (source or binary package, urgency,
        remotely exploitable, fixed in the suite), the version that fixes it in unstable, and others that do.
        """
        names = [f"{name},,{title}\n" for name, title, _ in vulnerabilities]
        packages = [line.format(number=number) + "\n" for number, (_, _, line) in enumerate(vulnerabilities)]
        text = "".join(("VERSION 1\n", *names, "\n", *packages, "\n", binaries, "\n"))
        self._lists[f"/{suite}"] = zlib.compress(text.encode())


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    """Return a server of lists."""
    if shutil.which("debsecan") is None:
        missing("debsecan (Debian: debsecan) is not installed")
    found = Tracker()
    yield found
    found.stop()


def installed() -> list[Package]:
    """Ask dpkg for what is installed of SOURCE."""
    lines = printed("dpkg-query", "-W", "-f", "${source:Package}\t${Package}\t${Version}\n").decode().splitlines()
    rows = [line.split("\t") for line in lines]
    return [Package(name, version) for source, name, version in rows if source == SOURCE]


VULNERABLE: Final = (
    (FOUND, TITLE, f"{SOURCE},{{number}},SHR ,9999:1,"),
    ("CVE-2026-10002", "Fixed long ago", f"{SOURCE},{{number}},S  F,0,"),
    ("CVE-2026-10003", "Not installed here", "no-such-package,{number},S ? ,1.0,"),
)


def settings(path: Path, tracker: Tracker, suite: str) -> Path:
    """Write debsecan's own settings."""
    path.write_text(f"SUITE={suite}\nSOURCE={tracker.url}\n", encoding="ascii")
    return path


def mounted_over(path: str, file: Path) -> tuple[str, ...]:
    """Return the command that runs another where a file is mounted over `path`."""
    unshare = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    ):
        forbidden("no mount namespaces here: they need root, or user namespaces")
    return (*unshare, "sh", "-c", f'mount --bind "$0" {path} && exec "$@"', str(file))


def test_machine_is_audited_with_its_own_debsecan(tmp_path: Path, tracker: Tracker) -> None:
    """The agent, left to itself, finds a vulnerable package of this machine; it shows in metrics, page and text.

    So does who listens on the port that should not be open.
    """
    if os.geteuid() != 0:
        forbidden("in a user namespace root's directories are nobody's, below which the agent believes no settings")
    packages = installed()
    tracker.publish("GENERIC", VULNERABLE)
    # What listens on the loopback alone is of no concern.
    with socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104 - nobody is answered
        port = listener.getsockname()[1]
        conf = configure(
            tmp_path / "conf.yml", [HOST], hosts={HOST: []}, scanports=[port], reportfile=str(tmp_path / "all.html")
        )
        agent = Agent(tmp_path / "here", HOST, key(conf, HOST))
        agent.within = mounted_over(DEFAULTS, settings(tmp_path / "debsecan", tracker, "GENERIC"))
        with exporter(conf) as service:
            service.wait_until_ready()
            agent.configure(url=f"http://{service.address}", tool="auto", command="")
            done = agent.send()
            assert (done.code, done.errors) == (0, "")
            until(lambda: status(service, HOST) == "vulnerable")
            series = service.series()
            assert series["portspec_audit_vulnerability"] == {
                f'class="plan",fixed_version="9999:1",host="{HOST}",id="{FOUND}",package="{each.name}",'
                f'severity="high",version="{each.version}"': 1.0
                for each in packages
            }
            assert series["portspec_audit_vulnerable_packages"] == {f'host="{HOST}"': float(len(packages))}
            process = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
            user = pwd.getpwuid(os.geteuid()).pw_name
            wanted = {f'host="{HOST}"', f'port="{port}"', f'process="{process}"', f'user="{user}"'}
            assert any(wanted <= set(labels.split(",")) for labels in series["port_listener_info"])
            page = until(lambda: FOUND in (text := (tmp_path / "all.html").read_text(encoding="utf-8")) and text)
    assert tracker.asked == ["/GENERIC"]
    assert TITLE in html.unescape(page)
    assert "<b>of" not in page
    text = printed(PORTSPEC, "report", "--format", "text", "-c", str(conf)).decode()
    for word in (FOUND, *(each.name for each in packages), *(each.version for each in packages), str(port), process):
        assert word in page
        assert word in text


def audit(path: Path, tracker: Tracker, suite: str) -> tuple[str | None, dict[str, dict[str, float]], str]:
    """Run debsecan with settings of its own as the agent's command; return the status, the metrics and the audit."""
    host = "db1.example.org"
    conf = configure(path / "conf.yml", [host])
    agent = Agent(path / "here", host, key(conf, host))
    command = f"debsecan --config {settings(path / 'debsecan', tracker, suite)} --format detail"
    with exporter(conf) as service:
        until(lambda: status(service, host) == "never")
        agent.configure(url=f"http://{service.address}", command=command)
        done = agent.send()
        assert done.code == 0
        until(lambda: status(service, host) != "never")
        found = status(service, host), service.series()
        assert ("ended with 1 and printed nothing" in done.errors) == (found[0] == "failed")
    return *found, printed(PORTSPEC, "report", "--format", "text", "-c", str(conf)).decode()


def test_machine_without_vulnerable_packages_is_clean(tmp_path: Path, tracker: Tracker) -> None:
    """Where nothing that is installed is on the list the host is clean, with a number of 0."""
    tracker.publish("bookworm", VULNERABLE[1:], f"{SOURCE},{SOURCE}\n")
    found, series, text = audit(tmp_path, tracker, "bookworm")
    assert (found, tracker.asked) == ("clean", ["/bookworm"])
    assert series["portspec_audit_vulnerable_packages"] == {'host="db1.example.org"': 0.0}
    assert "portspec_audit_vulnerability" not in series
    assert "CVE" not in text


@pytest.mark.parametrize("is_there", [True, False], ids=["no such suite", "no server"])
def test_audit_that_failed_is_not_clean(tmp_path: Path, tracker: Tracker, *, is_there: bool) -> None:
    """Without its list debsecan finds nothing, and that is failed, with what it said."""
    if not is_there:
        tracker.stop()
    found, series, text = audit(tmp_path, tracker, "trixie")
    assert found == "failed"
    assert "portspec_audit_vulnerable_packages" not in series
    assert "error" in text
