"""What to fix first on a real machine: packages of dpkg, a service of systemd, a firewall, an upgrade and a restart.

A machine that systemd boots has a service, whose program and library are packages that the test builds. An exporter in
another network namespace scans it and takes its audits. How long it took to fix the library is counted.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.exporter import parse, until
from tests.e2e.machine import SOURCE, Machine, MachineError
from tests.requirements import forbidden, missing
from tests.unit.feeds.lists import kev

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(300)  # that of the first one includes the boot
INSIDE, OUTSIDE, PORT = "192.0.2.1", "192.0.2.2", 8443
CVE: Final = "CVE-2026-1000"
LIBRARY: Final = "/usr/lib/libdemo.so.1"
# One audit a day is accepted of a host, so before each one conf.yml gives the machine another name.
BEFORE, UPGRADED, RESTARTED = (f"{name}.example.org" for name in ("before", "upgraded", "restarted"))
SERVER: Final = f"""\
import ctypes, socket
ctypes.CDLL("{LIBRARY}")
server = socket.create_server(("0.0.0.0", {PORT}))
while True:
    server.accept()[0].close()
"""
UNIT: Final = """\
[Service]
ExecStart=/usr/sbin/demo-server /usr/lib/demo/server.py
"""
# As debsecan prints it: the library is vulnerable until 1.1, and bash always.
AUDIT_TOOL: Final = f"""\
#!/bin/sh
[ "$(dpkg-query --show --showformat='${{Version}}' libdemo1)" = 1.1 ] || echo "{CVE} libdemo1 (low urgency)"
echo "CVE-2026-2000 bash (low urgency)"
"""
SETTINGS: Final = f"""\
url = http://{OUTSIDE}:10190
tool = debsecan
command = /usr/local/bin/list-vulnerabilities
"""
SET_UP: Final = f"""\
set -e
build() {{  # name, version; its files are in a directory of its name
    mkdir -p "$1/DEBIAN"
    printf 'Package: %s\\nVersion: %s\\nArchitecture: %s\\nSource: %s\\nMaintainer: T <t@example.org>\\n' \\
        "$1" "$2" "$(dpkg --print-architecture)" "$3" > "$1/DEBIAN/control"
    echo "Description: of a test" >> "$1/DEBIAN/control"
    dpkg-deb --build --root-owner-group "$1" "$1_$2.deb" > /dev/null
}}
mkdir /root/demo && cd /root/demo
mkdir -p libdemo1/usr/lib demo-server/usr/sbin demo-server/usr/lib/demo demo-server/lib/systemd/system
cp "$(readlink -f /usr/lib/*/libz.so.1)" libdemo1{LIBRARY}
build libdemo1 1.0 demo
printf x >> libdemo1{LIBRARY}
build libdemo1 1.1 demo
cp "$(readlink -f /usr/bin/python3)" demo-server/usr/sbin/demo-server
cat > demo-server/usr/lib/demo/server.py <<'.'
{SERVER}.
cat > demo-server/lib/systemd/system/demo.service <<'.'
{UNIT}.
build demo-server 2.0 demo-server
dpkg --install libdemo1_1.0.deb demo-server_2.0.deb > /dev/null
systemctl daemon-reload
systemctl start demo.service
install -m 755 {SOURCE}/exporter/portspec/agent.py /usr/local/bin/portspec-send
cat > /usr/local/bin/list-vulnerabilities <<'.'
{AUDIT_TOOL}.
chmod 755 /usr/local/bin/list-vulnerabilities
cat > /etc/portspec-send.conf <<'.'
{SETTINGS}.
"""


def program(*words: str) -> list[str]:
    """Return a command of portspec's."""
    return [sys.executable, "-m", "portspec", *words]


@dataclass
class Scene:
    """The machine, and the exporter in the namespaces of the process `outside`."""

    machine: Machine
    outside: int
    conf: Path
    exporter: subprocess.Popen[bytes]

    def rename(self, host: str, before: str) -> None:
        """Give the machine another name in conf.yml."""
        configure(self.conf, host, renamed_from=before)
        self.exporter.send_signal(signal.SIGHUP)
        until(lambda: bool(self.series("port_scan_success", host)))

    def run(self, *words: str) -> str:
        """Run a program beside the exporter."""
        command = ["nsenter", f"--target={self.outside}", "--net", "--mount", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def get(self, path: str) -> str:
        """Ask the exporter; "" if it does not answer."""
        command = ["nsenter", f"--target={self.outside}", "--net", "curl", "-s", f"http://{OUTSIDE}:10190{path}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout

    def audit(self, host: str) -> str:
        """Have the machine send an audit under a name; return what the agent says."""
        key = self.run(*program("key", host, "-c", str(self.conf)))
        file = f"/etc/{host}.key"
        self.machine.succeed(f"(umask 077; cat > {file})", stdin=key.encode())
        return self.machine.succeed(f"portspec-send --again --host {host} --key-file {file}")

    def series(self, name: str, host: str) -> dict[str, float]:
        """Return the values of a metric of a host by its labels."""
        found = parse(self.get("/metrics")).get(name, {})
        return {labels: value for labels, value in found.items() if f'host="{host}"' in labels}

    def classes(self, host: str) -> dict[str, str]:
        """Return the class of each vulnerability of a host."""
        found = (
            dict(re.findall(r'(\w+)="([^"]*)"', text)) for text in self.series("portspec_audit_vulnerability", host)
        )
        return {labels["id"]: labels["class"] for labels in found}

    def restarts(self, host: str) -> list[float]:
        """Return how many processes of a host have to be restarted."""
        found = self.series("portspec_audit_restart_needed", host)
        return [value for labels, value in found.items() if 'kind="process"' in labels]

    def fixed(self) -> dict[str, float]:
        """Return how many vulnerabilities were fixed, by class."""
        found = parse(self.get("/metrics")).get("portspec_audit_time_to_fix_seconds_count", {})
        return {labels.split('"')[1]: value for labels, value in found.items()}

    def document(self, host: str) -> Any:
        """Return what the API says of a host."""
        return json.loads(self.get(f"/api/v1/hosts/{host}"))


def configure(conf: Path, host: str, **more: str) -> None:
    """Write the configuration, in which the machine has a name."""
    document = {
        "hosts": {host: {"expect": [PORT], "audit": True, **more}},
        "scanports": [PORT, 9],  # the machine answers on the second one that it is closed, so that silence counts
        "interval": 1,
        "scan": {"timeout": 0.2, "retries": 0},
        "audit": {"passphrase": "a passphrase of the test"},
        "feeds": {"kev": "kev.json"},
    }
    conf.write_text(json.dumps(document), encoding="utf-8")


@contextmanager
def outside(machine: Machine, directory: Path) -> Iterator[int]:
    """Run a process in namespaces of its own, joined to the machine by a link, where its names are known."""
    names = directory / "hosts"
    names.write_text("".join(f"{INSIDE} {name}\n" for name in (BEFORE, UPGRADED, RESTARTED)), encoding="ascii")
    set_up = f"mount --bind {names} /etc/hosts && exec sleep infinity"
    command = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", set_up]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: Path(f"/proc/{process.pid}/comm").read_text(encoding="ascii") == "sleep\n")
            for there, words in (
                (machine.leader, f"link add in0 type veth peer name out0 netns {process.pid}"),
                (machine.leader, f"address add {INSIDE}/24 dev in0"),
                (machine.leader, "link set in0 up"),
                (process.pid, f"address add {OUTSIDE}/24 dev out0"),
                (process.pid, "link set lo up"),
                (process.pid, "link set out0 up"),
            ):
                subprocess.run(["nsenter", f"--target={there}", "--net", "ip", *words.split()], check=True, timeout=30)
            yield process.pid
        finally:
            process.kill()


@contextmanager
def exporter(outside: int, conf: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run an exporter there."""
    enter = ["nsenter", f"--target={outside}", "--net", "--mount"]
    serve = program("serve", "-c", str(conf), "--web.listen-address", f"{OUTSIDE}:10190")
    with (conf.parent / "log").open("w") as log, subprocess.Popen([*enter, *serve], stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Boot a machine with the service and the agent, and run an exporter outside of it."""
    if os.geteuid() != 0:
        forbidden("systemd-nspawn boots no machine for an ordinary user")
    if lacking := Machine.missing():
        missing(f"no machine: {lacking}")
    directory = tmp_path_factory.mktemp("exporter")
    (directory / "kev.json").write_bytes(kev(CVE))
    conf = directory / "conf.yml"
    configure(conf, BEFORE)
    try:
        with ExitStack() as stack:
            machine = stack.enter_context(
                Machine(tmp_path_factory.mktemp("machine"), tmp_path_factory.mktemp("wheels"))
            )
            machine.succeed(SET_UP)
            there = stack.enter_context(outside(machine, directory))
            found = Scene(machine, there, conf, stack.enter_context(exporter(there, conf)))
            until(lambda: found.get("/-/ready"))
            yield found
    except MachineError as error:
        missing(f"no machine: {error}")


def test_exploited_library_of_a_process_that_answers_is_to_be_fixed_now(scene: Scene) -> None:
    """With the whole proof; what nothing that listens uses is not."""
    scene.audit(BEFORE)
    until(lambda: scene.classes(BEFORE) == {CVE: "fix_now", "CVE-2026-2000": "rest"})
    (found, _) = scene.document(BEFORE)["audit"]["vulnerabilities"]
    steps = f"{LIBRARY}, demo-server, port {PORT}, open at {INSIDE}"
    assert found["why"] == f"exploited (in KEV since 2026-01-02); reachable: {steps}"
    (listener,) = [item for item in scene.document(BEFORE)["audit"]["listeners"] if item["port"] == PORT]
    assert (listener["package"], listener["version"], listener["unit"]) == ("demo-server", "2.0", "demo.service")
    report = scene.run(*program("report", "-c", str(scene.conf), "--format", "text", "--host", BEFORE))
    assert "  - vulnerabilities to fix: 1 fix now\n" in report
    assert steps.split(", ", maxsplit=1)[0] in report


def test_firewall_makes_it_less_urgent(scene: Scene) -> None:
    """With the next scan; without the firewall it is to be fixed now again."""
    if not scene.classes(BEFORE):  # this test runs alone
        scene.audit(BEFORE)
        until(lambda: scene.classes(BEFORE).get(CVE) == "fix_now")
    scene.machine.succeed(
        "nft add table inet test && nft 'add chain inet test in { type filter hook input priority 0; }' && "
        f"nft add rule inet test in tcp dport {PORT} drop"
    )
    until(lambda: scene.classes(BEFORE)[CVE] == "fix_soon")
    why = scene.document(BEFORE)["audit"]["vulnerabilities"][0]["why"]
    assert f"listening: {LIBRARY}, demo-server, port {PORT}, the scan did not find port {PORT} open" in why
    scene.machine.succeed("nft delete table inet test")
    until(lambda: scene.classes(BEFORE)[CVE] == "fix_now")


def test_upgrade_without_a_restart_leaves_a_process_to_be_restarted(scene: Scene) -> None:
    """Though the audit tool finds no vulnerability in the library any more, which is fixed; the restart ends it."""
    if not scene.classes(BEFORE):  # this test runs alone
        scene.audit(BEFORE)
    until(lambda: scene.classes(BEFORE).get(CVE) == "fix_now")
    known = scene.document(BEFORE)["audit"]["vulnerabilities"][-1]["first_seen"]
    assert scene.fixed() == {"fix_now": 0.0, "fix_soon": 0.0, "plan": 0.0, "rest": 0.0}
    scene.rename(UPGRADED, BEFORE)
    scene.machine.succeed("dpkg --install /root/demo/libdemo1_1.1.deb > /dev/null")
    scene.audit(UPGRADED)
    until(lambda: scene.restarts(UPGRADED) == [1.0])
    assert scene.classes(UPGRADED) == {"CVE-2026-2000": "rest"}
    until(lambda: scene.fixed() == {"fix_now": 1.0, "fix_soon": 0.0, "plan": 0.0, "rest": 0.0})
    needed = scene.document(UPGRADED)["audit"]["restart_needed"]
    (process,) = needed["processes"]
    assert (process["process"], process["files"]) == ("demo-server", [LIBRARY])
    assert "demo.service" in process["details"]
    scene.machine.succeed("systemctl restart demo.service")
    scene.rename(RESTARTED, UPGRADED)
    scene.audit(RESTARTED)
    until(lambda: scene.restarts(RESTARTED) == [0.0])
    (left,) = scene.document(RESTARTED)["audit"]["vulnerabilities"]
    assert (left["id"], left["first_seen"]) == ("CVE-2026-2000", known)
    assert sum(scene.fixed().values()) == 1
