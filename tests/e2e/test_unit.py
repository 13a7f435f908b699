"""The installation of docs/deployment/systemd.md, word for word, on a machine that systemd boots."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.audits import PASSPHRASE, mail, make
from tests.e2e.exporter import parse, until
from tests.e2e.machine import ROOT, SYSTEM, Machine, MachineError
from tests.faults.registry import fault
from tests.requirements import forbidden, missing
from tests.wheels import WheelsError, python_version, wheels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DOCS: Final = ROOT / "docs" / "deployment"
PAGE: Final = (DOCS / "systemd.md").read_text(encoding="utf-8")
RAW: Final = (DOCS / "raw-sockets.md").read_text(encoding="utf-8")
CONF: Final = "/etc/portspec/portspec.yml"
URL: Final = "http://localhost:10190"
HOST: Final = "127.0.0.1"
REPORTING: Final = "db1.example.org"
pytestmark = pytest.mark.timeout(600)  # that of the first one includes the boot and pip
SCAN: Final = {"engine": "auto", "timeout": 0.2, "retries": 0, "confirm": 1}

WATCHDOG: Final = 8  # seconds
SOON: Final = 5.0 * WATCHDOG  # until a restart is over, on a busy machine
# Stops every thread of a process but the first one, as a debugger does (ptrace(2)), until the process ends.
STOP_THREADS: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
process = int(sys.argv[1])
for thread in map(int, os.listdir(f"/proc/{process}/task")):
    if thread != process:
        for request in (SEIZE, INTERRUPT):
            if libc.ptrace(request, thread, None, None):
                raise OSError(ctypes.get_errno(), "ptrace")
try:
    while True:
        os.waitpid(-1, WALL)
except ChildProcessError:
    pass
"""


def commands(after: str) -> list[str]:
    """Return the commands of root in the first block of a console behind a text of the page."""
    assert PAGE.count(after) == 1, after
    block = PAGE.split(after, 1)[1].split("```console\n", 1)[1].split("```", 1)[0]
    lines = block.splitlines()
    assert all(line.startswith("# ") for line in lines), lines
    return [line.removeprefix("# ") for line in lines]


class Installation:
    """portspec on a machine, with the configuration that a test gives it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def write(self, hosts: Mapping[str, Any], **keys: Any) -> None:
        """Write a configuration (JSON is YAML), as the page has it owned."""
        conf = {"hosts": hosts, "scanports": [9], "interval": "1d", "autoreload": False, "scan": SCAN} | keys
        self.put(json.dumps(conf))

    def put(self, text: str) -> None:
        """Write any text in place of the configuration."""
        self.machine.succeed(f"cat > {CONF}", stdin=text.encode())

    def get(self, path: str) -> str:
        """Ask the exporter from within the machine."""
        return self.machine.succeed(f"curl -sS --fail '{URL}{path}'")

    def metrics(self) -> dict[str, dict[str, float]]:
        """Scrape."""
        return parse(self.get("/metrics"))

    def verdicts(self) -> dict[str, str]:
        """Return the verdicts of all hosts."""
        return {host["host"]: host["verdict"] for host in json.loads(self.get("/api/v1/hosts"))["hosts"]}

    def log(self, since: float) -> str:
        """Return what the unit has logged since a time, in Unix seconds."""
        return self.machine.succeed(f"journalctl --unit=portspec --output=cat --no-pager --since=@{since:.3f}")

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.machine.succeed(f"systemctl show --property={name} --value portspec").strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Installation]:
    """Boot a machine and do there what the page says."""
    if os.geteuid() != 0:
        forbidden("systemd-nspawn boots no machine for an ordinary user")
    if lacking := Machine.missing():
        missing(f"no machine: {lacking}")
    assert pytestconfig.cache is not None
    try:
        found = wheels(pytestconfig.cache.mkdir("wheels"), python_version(SYSTEM))
        with Machine(tmp_path_factory.mktemp("machine"), found) as machine:
            machine.run("userdel portspec")  # one of the machine that the tests run on
            for command in commands("## Install\n"):
                machine.succeed(command)
            yield Installation(machine)
    except (MachineError, WheelsError) as error:
        missing(f"no machine: {error}")


@pytest.fixture
def unit(installed: Installation) -> Installation:
    """Return the installation as the page leaves it: without drop-ins, and running.

    It is started anew only if the test before left it stopped or with a drop-in, since starts take most of the time.
    """
    machine = installed.machine
    installed.write({HOST: [10190]})
    is_as_installed = "test ! -e /etc/systemd/system/portspec.service.d && systemctl is-active --quiet portspec"
    if machine.run(is_as_installed).code == 0:
        machine.succeed("systemctl reload portspec")
        machine.succeed("rm -rf /var/www/portspec")
    else:
        machine.succeed("systemctl stop portspec && systemctl reset-failed portspec || true")
        machine.succeed("rm -rf /etc/systemd/system/portspec.service.d /var/www/portspec /var/lib/portspec")
        machine.succeed("systemctl daemon-reload")
        machine.succeed("systemctl start portspec")
    return installed


def test_installed_exporter_scans_and_tells_of_its_process(unit: Installation) -> None:
    """It is up when `start` ends, scans, has process_* on /metrics, and its log has no warning."""
    began = time.time() - 1
    unit.machine.succeed("systemctl restart portspec")
    assert unit.machine.succeed(f"curl -sS {URL}/-/healthy") == "portspec is healthy.\n"
    until(lambda: unit.verdicts() == {HOST: "in_spec"})
    found = unit.metrics()
    assert {name for name in found if name.startswith("process_")} >= {
        "process_cpu_seconds_total",
        "process_max_fds",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    }
    assert found["portspec_store_up"] == {"": 1.0}
    assert not re.search(r"level=(warning|error)|\"level\": \"(warning|error)\"", unit.log(began))


def test_unit_names_documentation_that_is_installed(unit: Installation) -> None:
    """`systemctl help portspec` finds the page that the unit names, and that is this one."""
    (path,) = unit.show("Documentation").split()
    assert unit.machine.succeed(f"cat {path.removeprefix('file:')}") == PAGE


def test_paths_of_the_installation_are_safe(unit: Installation) -> None:
    """`portspec check`, by root as on the page, has nothing to warn of."""
    check, reload = commands("Edit `/etc/portspec/portspec.yml`, check it, then reload it:")
    assert "warning" not in unit.machine.succeed(check)
    unit.machine.succeed(reload)


def test_reload_is_done_when_the_command_ends(unit: Installation) -> None:
    """`systemctl reload` waits until the new configuration is in force."""
    unit.write({HOST: [10190], "127.0.0.2": []})
    unit.machine.succeed("systemctl reload portspec")
    assert list(unit.verdicts()) == [HOST, "127.0.0.2"]
    assert unit.show("ActiveState") == "active"


def test_reload_of_a_bad_file_fails(unit: Installation) -> None:
    """`systemctl reload` fails on a file that is not right, the log says why, and the exporter goes on as before."""
    began = time.time() - 1
    unit.put('hosts: {"127.0.0.1": ["80a"]}\nscanports: [9]\n')
    done = unit.machine.run("systemctl reload portspec")
    assert done.code != 0
    assert '"80a" is not a port' in unit.log(began)
    assert '"80a" is not a port' in unit.show("StatusText")
    assert list(unit.verdicts()) == [HOST]
    assert unit.show("ActiveState") == "active"
    assert unit.metrics()["portspec_config_last_reload_successful"] == {"": 0.0}
    unit.write({HOST: [10190]})
    unit.machine.succeed("systemctl reload portspec")
    assert unit.show("StatusText") == "1 host"


def test_hang_up_signal_reloads(unit: Installation) -> None:
    """SIGHUP, as an older unit sent it, still has the file read."""
    unit.write({"127.0.0.2": []})
    unit.machine.succeed("systemctl kill --kill-who=main --signal=HUP portspec")
    until(lambda: list(unit.verdicts()) == ["127.0.0.2"])


def test_start_with_a_bad_file_fails(unit: Installation) -> None:
    """`systemctl start` fails on a file that is not right, the log says why, and it is not started again."""
    began = time.time() - 1
    unit.put("hosts: {}\n")
    done = unit.machine.run("systemctl restart portspec")
    assert done.code != 0
    assert "name at least one host" in unit.log(began)
    assert (unit.show("ActiveState"), unit.show("ExecMainStatus"), unit.show("NRestarts")) == ("failed", "2", "0")


def test_start_at_an_address_that_is_taken_fails(unit: Installation) -> None:
    """`systemctl start` fails when the exporter cannot listen."""
    unit.machine.succeed("systemctl stop portspec")
    taken = "systemd-run --quiet --collect --unit=taken python3 -m http.server --bind 127.0.0.1 10190"
    unit.machine.succeed(taken)
    try:
        until(lambda: unit.machine.run(f"curl -sS --fail {URL}/").code == 0)
        assert unit.machine.run("systemctl start portspec").code != 0
    finally:
        unit.machine.succeed("systemctl stop taken")
    assert unit.show("ActiveState") == "failed"


def test_report_of_all_machines_is_for_the_web_server(unit: Installation) -> None:
    """With the drop-in the report is written, and a web server may read it."""
    unit.put((ROOT / "conf.yml").read_text(encoding="utf-8"))
    for command in commands("## Write the report file for a web server\n"):
        unit.machine.succeed(command)
    page = "/var/www/portspec/index.html"
    until(lambda: unit.machine.run(f"test -s {page}").code == 0)
    assert unit.machine.succeed(f"stat --format='%U %a' {page}") == "portspec 644\n"
    assert "localhost" in unit.machine.succeed(f"runuser -u nobody -- cat {page}")
    until(lambda: unit.metrics().get("portspec_reportfile_up") == {"": 1.0})


def test_report_that_the_unit_may_not_write_is_told(unit: Installation) -> None:
    """Without the drop-in the metric is 0, and the log says why and what to do."""
    began = time.time() - 1
    unit.machine.succeed("install -d -o portspec -g portspec -m 755 /var/www/portspec")
    unit.write({HOST: [10190]}, reportfile="/var/www/portspec/index.html")
    unit.machine.succeed("systemctl reload portspec")
    until(lambda: unit.metrics().get("portspec_reportfile_up") == {"": 0.0})
    assert "read-only file system" in unit.log(began)
    assert "ReadWritePaths" in unit.log(began)


def test_secret_is_passed_as_a_credential(unit: Installation) -> None:
    """With the drop-in the exporter reads a secret that neither its group nor another user can read."""
    file = "${CREDENTIALS_DIRECTORY}/smtp_password"
    unit.put(
        f"hosts: {{{HOST}: [10190]}}\nscanports: [9]\nautoreload: false\nscan: {json.dumps(SCAN)}\n"
        "sendemail: true\nsmtpserver: localhost\nsmtpusername: portspec\nalertemail: [root@example.org]\n"
        f"fromemail: portspec@example.org\naudit: {{passphrase_file: '{file}', hosts: [{REPORTING}]}}\n"
    )
    began = time.time() - 1
    for command in commands("type it, press Enter, then Ctrl-D."):
        unit.machine.succeed(command, stdin=f"{PASSPHRASE}\n".encode())
    (check,) = commands("Root sets it to\nthe directory of the files:")
    assert "warning" not in unit.machine.succeed(check)
    made = make(REPORTING, time.time(), output="")
    unit.machine.succeed(f"curl -sS --fail --data-binary @- {URL}/api/v1/audits", stdin=made.packed)
    until(lambda: json.loads(unit.get(f"/api/v1/hosts/{REPORTING}"))["audit"]["status"] != "never")
    unit.machine.succeed("systemctl reload portspec")
    assert "insecure" not in unit.log(began)
    for user in ("portspec", "nobody"):
        assert unit.machine.run(f"runuser -u {user} -- cat /etc/portspec/credentials/smtp_password").code != 0
    unit.machine.succeed("rm -r /etc/portspec/credentials")


def test_mail_that_is_received_outside_of_the_unit_arrives(unit: Installation) -> None:
    """What `portspec receive` takes, as an MTA starts it, is shown by the exporter of the unit."""
    unit.write({HOST: [10190]}, audit={"passphrase": PASSPHRASE, "hosts": [REPORTING]})
    unit.machine.succeed("systemctl reload portspec")
    made = make(REPORTING, time.time(), output="")
    receive = f"runuser -u portspec -- /opt/portspec/bin/portspec receive -c {CONF}"
    unit.machine.succeed(receive, stdin=mail(made, f"root@{REPORTING}", "portspec@example.org"))
    until(lambda: json.loads(unit.get(f"/api/v1/hosts/{REPORTING}"))["audit"]["status"] != "never")
    assert unit.metrics()["portspec_audits_received_total"] == {"": 1.0}
    report = unit.machine.succeed(f"/opt/portspec/bin/portspec report -c {CONF} --format text")
    assert " 0 never received" in report


def test_drop_in_gives_the_syn_engine(unit: Installation) -> None:
    """With raw.conf the SYN engine scans, and the process has no capability left."""
    (line,) = re.findall(r"^\| systemd \| (.*) \|$", RAW, re.MULTILINE)
    install, daemon_reload = re.findall(r"`([^`]+)`", line)
    began = time.time() - 1
    for command in (install, daemon_reload, "systemctl restart portspec"):
        unit.machine.succeed(command)
    assert list(unit.metrics()["portspec_engine_info"]) == ['engine="syn"']
    until(lambda: unit.verdicts() == {HOST: "in_spec"})
    status = unit.machine.succeed(f"cat /proc/{unit.show('MainPID')}/status")
    sets = dict(re.findall(r"^(Cap(?:Inh|Prm|Eff|Amb)):\t0*([0-9a-f]+)$", status, re.MULTILINE))
    assert sets == {"CapInh": "0", "CapPrm": "0", "CapEff": "0", "CapAmb": "0"}
    assert "dropping the capabilities failed" not in unit.log(began)


def watch_closely(unit: Installation) -> int:
    """Restart the unit with a watchdog of a few seconds and wait for the first scan; return the main process."""
    unit.machine.succeed("mkdir -p /etc/systemd/system/portspec.service.d")
    drop_in = f"[Service]\nWatchdogSec={WATCHDOG}s\nRestartSec=100ms\n"
    unit.machine.succeed("cat > /etc/systemd/system/portspec.service.d/watchdog.conf", stdin=drop_in.encode())
    unit.machine.succeed("systemctl daemon-reload && systemctl restart portspec")
    until(lambda: unit.verdicts() == {HOST: "in_spec"})
    return int(unit.show("MainPID"))


def last_ping(unit: Installation) -> float:
    """Return when the unit was pinged last, by time.monotonic(): machines on one kernel share that clock."""
    return int(unit.show("WatchdogTimestampMonotonic")) / 1e6


def check_restarted(unit: Installation, process: int, began: float, before: str, frame: str) -> str:
    """Check that another process serves with the states of the one before, which left no core dump; return the log.

    `frame` is a line of a thread's stack that the log must have.
    """
    until(lambda: (unit.show("NRestarts"), unit.show("ActiveState")) == ("1", "active"), patience=SOON)
    assert int(unit.show("MainPID")) != process
    assert unit.verdicts() == {HOST: "in_spec"}
    assert unit.get("/api/v1/changes") == before
    until(lambda: re.search(frame, unit.log(began)))  # the journal has the last words of a process a moment later
    log = unit.log(began)
    assert re.search(r"Watchdog timeout \(limit .*\)!", log)
    assert "Fatal Python error: Aborted" in log
    assert "dumped core" not in log
    return log


def test_idle_exporter_is_not_restarted(unit: Installation) -> None:
    """An exporter with the SYN engine that has nothing to do for much longer than the limit pings as before."""
    directory = "/etc/systemd/system/portspec.service.d"
    unit.machine.succeed(f"install -D -m 644 deploy/systemd/raw.conf {directory}/raw.conf")
    process = watch_closely(unit)
    assert list(unit.metrics()["portspec_engine_info"]) == ['engine="syn"']
    first = last_ping(unit)
    until(lambda: last_ping(unit) > first + 2 * WATCHDOG, patience=SOON)
    assert (int(unit.show("MainPID")), unit.show("NRestarts")) == (process, "0")


def test_exporter_that_is_stopped_for_a_moment_is_not_restarted(unit: Installation) -> None:
    """A process that is stopped for half of the limit pings at once when it continues."""
    process = watch_closely(unit)
    unit.machine.succeed(f"kill -STOP {process}")
    last = last_ping(unit)
    until(lambda: time.monotonic() > last + WATCHDOG / 2)
    unit.machine.succeed(f"kill -CONT {process}")
    until(lambda: last_ping(unit) > last)
    assert (int(unit.show("MainPID")), unit.show("NRestarts")) == (process, "0")


@fault(
    "part that hangs",
    "whole exporter",
    "An exporter whose event loop hangs is restarted by systemd; the journal has the stack of each thread.",
)
def test_exporter_whose_event_loop_hangs_is_restarted(unit: Installation) -> None:
    """A process that is stopped is restarted, its state is kept, and the journal has the stack of each thread."""
    process = watch_closely(unit)
    began, changes = time.time() - 1, unit.get("/api/v1/changes")
    assert unit.show("NRestarts") == "0"
    unit.machine.succeed(f"kill -STOP {process}")
    frame = r'File ".*/asyncio/base_events\.py", line \d+ in run_forever'
    log = check_restarted(unit, process, began, changes, frame)
    assert "a part of portspec hangs" not in log


@fault("part that hangs", "scans", "An exporter whose engine hangs is restarted by systemd; the log names the part.")
def test_exporter_whose_scan_thread_hangs_is_restarted(unit: Installation) -> None:
    """If every thread but that of the event loop stands still, the log says which part hangs before the restart."""
    process = watch_closely(unit)
    began, changes = time.time() - 1, unit.get("/api/v1/changes")
    unit.machine.succeed(f"python3 - {process}", stdin=STOP_THREADS.encode())
    frame = r'File ".*/scan/connect/engine\.py", line \d+ in _turn'
    log = check_restarted(unit, process, began, changes, frame)
    told = log.index("a part of portspec hangs")
    assert re.search(r"a part of portspec hangs.*connect engine", log)
    assert told < log.index("Watchdog timeout")


def test_stop_ends_in_the_middle_of_a_scan(unit: Installation) -> None:
    """`systemctl stop` ends the exporter by itself while it scans, without a signal that kills."""
    unit.write({"127.0.0.0/16": []}, parallelscans=1000, scanports="all", scan={**SCAN, "host_rate": 1})
    unit.machine.succeed("systemctl restart portspec")
    began = time.monotonic()
    unit.machine.succeed("systemctl stop portspec")
    assert time.monotonic() - began < 9.0  # the unit's TimeoutStopSec is 10
    assert (unit.show("ActiveState"), unit.show("Result"), unit.show("ExecMainStatus")) == ("inactive", "success", "0")
