from __future__ import annotations

import errno
import json
import os
import platform
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

import portspec.app.engines
import portspec.scan.syn.socket
from portspec.config.model import ScanConfig
from portspec.errors import EngineError
from portspec.scan.pacing import Pacer
from portspec.scan.syn import privileges
from tests.requirements import forbidden, missing
from tests.unit.capabilities import AS_DOCKER, AS_SYSTEMD, fields, need_raw_sockets, of_threads, setpriv, unprivileged
from tests.unit.cli.limited import NUMBERS
from tests.unit.cli.run import ONLY_PERMITTED, PROGRAM, Server, environment, run
from tests.unit.scan.loopback import eventually, listeners, own_address, ports_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.config.model import EngineChoice
    from tests.unit.cli.conftest import Configure

ROOT = Path(__file__).parents[3]
WAYS = ("setcap cap_net_raw=ep", "AmbientCapabilities=CAP_NET_RAW", "--cap-add NET_RAW", "capabilities.add: [NET_RAW]")
NO_RIGHT = "this process has no CAP_NET_RAW"


def choice(err: str) -> dict[str, Any]:
    """Return engine and why of the one line that tells which engine was chosen."""
    entries = [json.loads(line) for line in err.splitlines()]
    (chosen,) = [entry for entry in entries if entry["event"] == "engine chosen"]
    assert chosen["level"] == "info"
    return {key: chosen[key] for key in ("engine", "why")}


def scan(conf: str, *, program: Sequence[str] = PROGRAM) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scan once; return the choice that the log tells of, and the result."""
    done = run("scan", "-c", conf, "--json", "-j", "--log.level", "info", cwd=ROOT, program=program)
    return choice(done.err), json.loads(done.out)


def scan_listener(
    configure: Configure, engine: str | None, prefix: Sequence[str] = (), program: Sequence[str] = PROGRAM
) -> dict[str, Any]:
    """Scan a host with one open port, see to it that it is found, and give the choice that the log tells of."""
    address = own_address()
    with listeners(address) as opened:
        (port,) = ports_of(opened)
        conf = configure({address: []}, [1, port], **({"scan": {"engine": engine}} if engine else {}))
        chosen, result = scan(conf, program=[*prefix, *program])
    (host,) = result["hosts"]
    assert (host["verdict"], host["unexpected"], host["addresses"][0]["closed"]) == ("out_of_spec", [str(port)], 1)
    assert result["engine"] == chosen["engine"]
    return chosen


@pytest.mark.parametrize("engine", [None, "auto"])
def test_auto_is_connect_without_the_right_to_raw_sockets(configure: Configure, engine: str | None) -> None:
    """Without CAP_NET_RAW `auto`, the default, scans with connect(2), and the log says once that and why."""
    assert scan_listener(configure, engine, unprivileged()) == {
        "engine": "connect",
        "why": f"the syn engine cannot run: {NO_RIGHT}",
    }


@pytest.mark.parametrize("engine", [None, "auto"])
def test_auto_is_syn_for_root(configure: Configure, engine: str | None) -> None:
    """Who may use raw sockets scans with SYNs, unless told otherwise; the log says once that and why."""
    need_raw_sockets()
    assert scan_listener(configure, engine) == {"engine": "syn", "why": "raw sockets may be used"}


@pytest.mark.parametrize(
    ("options", "program"),
    [(AS_SYSTEMD, PROGRAM), (AS_DOCKER, PROGRAM), ((), ONLY_PERMITTED)],
    ids=["ambient", "docker", "permitted"],
)
def test_auto_is_syn_with_net_raw_alone(configure: Configure, options: tuple[str, ...], program: list[str]) -> None:
    """CAP_NET_RAW is all that is needed, however it was given: as systemd, as Docker, or as setcap p does."""
    assert scan_listener(configure, None, setpriv(*options), program)["engine"] == "syn"


@pytest.mark.parametrize("engine", ["syn", "connect"])
def test_engine_of_the_configuration_is_taken(configure: Configure, engine: str) -> None:
    """Whoever may use raw sockets gets the engine that conf.yml names, and the log says so."""
    need_raw_sockets()
    assert scan_listener(configure, engine) == {"engine": engine, "why": "conf.yml says so"}


def test_connect_needs_no_right_at_all(configure: Configure) -> None:
    """`engine: connect` runs without any capability, and nobody asks for one."""
    chosen = scan_listener(configure, "connect", unprivileged())
    assert chosen == {"engine": "connect", "why": "conf.yml says so"}


def refused(configure: Configure, *command: str) -> tuple[int, str, str]:
    """Run a command that wants the SYN engine without the right to it."""
    conf = configure({own_address(): []}, scan={"engine": "syn"})
    done = run(*command, "-c", conf, program=[*unprivileged(), *PROGRAM])
    return done.code, done.out, done.err


def test_syn_without_the_right_is_exit_2_with_the_ways_to_get_it(configure: Configure) -> None:
    """`engine: syn` without CAP_NET_RAW scans nothing: exit 2, one line that says how each platform gives it."""
    code, out, err = refused(configure, "scan")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"the syn engine cannot run: {NO_RIGHT}; ")
    assert all(way in err for way in WAYS)
    assert "Kubernetes" in err
    assert "`engine: auto`" in err


def test_exporter_that_may_not_use_syn_ends_with_exit_2(configure: Configure) -> None:
    """`serve` with `engine: syn` and without CAP_NET_RAW logs one error, listens nowhere, and exits 2."""
    code, out, err = refused(configure, "serve", "-j", "--web.listen-address", "127.0.0.1:0")
    assert (code, err) == (2, "")
    (entry,) = [json.loads(line) for line in out.splitlines()]
    assert entry["level"] == "error"
    assert entry["event"].startswith(f"the syn engine cannot run: {NO_RIGHT}; ")


def test_right_that_does_not_reach_the_network_is_none(configure: Configure) -> None:
    """In a user namespace that does not own its network CAP_NET_RAW is worth nothing: `auto` is connect then."""
    unshare = shutil.which("unshare")
    if unshare is None:
        missing("unshare (util-linux) is not installed")
    apart = [unshare, "--user", "--map-root-user"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        forbidden("this user may not make user namespaces")
    chosen = scan_listener(configure, "auto", apart)
    assert chosen == {"engine": "connect", "why": "the syn engine cannot run: operation not permitted"}


def test_syn_engine_needs_no_proc(configure: Configure) -> None:
    """Where nothing is mounted on /proc `auto` is syn all the same."""
    if os.geteuid():
        forbidden("only root may mount something on /proc")
    unshare = shutil.which("unshare") or missing("unshare (util-linux) is not installed")
    hidden = [unshare, "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    if subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode:
        forbidden("nothing may be mounted here")
    assert scan_listener(configure, "auto", hidden)["engine"] == "syn"


def choose(monkeypatch: pytest.MonkeyPatch, engine: EngineChoice, error: OSError) -> list[dict[str, Any]]:
    """Choose an engine where the raw sockets cannot be opened; return what was logged."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(privileges, "claim", lambda _: None)
    monkeypatch.setattr(privileges, "effective", lambda: frozenset({privileges.CAP_NET_RAW}))
    monkeypatch.setattr(portspec.scan.syn.socket, "RawChannel", fail)
    with capture_logs() as logs:
        assert portspec.app.engines._syn_engine(ScanConfig(engine=engine), Pacer(None), None, has_ip6=True) is None
    return [dict(entry) for entry in logs]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOPROTOOPT, "Protocol not available"), "protocol not available"),
        (OSError(errno.EADDRINUSE, "no 16 free ports together"), "no 16 free ports together"),
        (OSError("no kernel"), "no kernel"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/dev/x"), "/dev/x: no such file or directory"),
    ],
    ids=["old kernel", "no ports", "without a number", "of a file"],
)
def test_sockets_that_cannot_be_opened_are_told(monkeypatch: pytest.MonkeyPatch, error: OSError, why: str) -> None:
    """Whatever the kernel refuses: `auto` falls back to connect and says why, `syn` is an error that says why."""
    (entry,) = choose(monkeypatch, "auto", error)
    assert (entry["engine"], entry["why"]) == ("connect", f"the syn engine cannot run: {why}")
    with pytest.raises(EngineError, match=why) as caught:
        choose(monkeypatch, "syn", error)
    assert (caught.value.why, caught.value.exit_code) == (why, 2)


@pytest.mark.parametrize(("engine", "needs"), [("connect", False), ("syn", True)])
def test_numpy_is_loaded_for_the_syn_engine_alone(configure: Configure, engine: str, needs: bool) -> None:  # noqa: FBT001
    """Who scans with connect(2) waits for no import and pays no memory for the packets of the other engine."""
    if needs:
        need_raw_sockets()
    program = "import sys, portspec.cli as c; code = c.main(sys.argv[1:]); print(code, 'numpy' in sys.modules)"
    conf = configure({own_address(): []}, scan={"engine": engine})
    command = [sys.executable, "-c", program, "scan", "-c", conf]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"0 {needs}"


def powers(pid: int) -> list[tuple[int, int, int]]:
    """Return permitted and effective capabilities and no_new_privs of each thread of a process."""
    return [(found["CapPrm"], found["CapEff"], found["NoNewPrivs"]) for found in of_threads(pid)]


@pytest.mark.parametrize("listen", ["[::1]:0", "localhost:0", ":0"])
def test_exporter_scans_without_any_capability(configure: Configure, listen: str) -> None:
    """No thread of the running exporter has a capability, and it scans with SYNs all the same, again and again."""
    need_raw_sockets()
    address = own_address()
    with listeners(address) as opened:
        (port,) = ports_of(opened)
        hosts = {address: {"expect": port, "allow": "1-3000"}, "localhost": {"allow": "1-3000"}}
        conf = configure(hosts, ["1-3000"], interval=1)

        def scans(host: str) -> list[str]:
            return [entry["verdict"] for entry in server.events("host scanned") if entry["host"] == host]

        with Server(Path(conf), "--web.listen-address", listen, "--log.level", "debug") as server:
            eventually(lambda: all(len(scans(host)) > 1 for host in hosts), "each host is scanned twice")
            assert {*scans(address), *scans("localhost")} == {"in_spec"}
            assert 'portspec_engine_info{engine="syn"} 1.0' in server.get("/metrics")[1]
            assert set(powers(server.process.pid)) == {(0, 0, 1)}


def test_threads_of_numpy_have_no_capability(configure: Configure) -> None:
    """Whatever the environment says of numpy's threads, none of them keeps a capability."""
    need_raw_sockets()
    conf = Path(configure({own_address(): []}))
    with Server(conf, program=PROGRAM, extra={"OPENBLAS_NUM_THREADS": "4"}) as server:
        server.wait_for("round finished")
        assert set(powers(server.process.pid)) == {(0, 0, 1)}


def test_scan_on_a_terminal_has_no_capability(configure: Configure) -> None:
    """No thread of a scan has a capability, that of the bar included."""
    need_raw_sockets()
    conf = configure({own_address(): []}, "all", scan={"host_rate": 10})  # takes hours
    master, slave = pty.openpty()
    process = subprocess.Popen([*PROGRAM, "scan", "-c", conf], env=environment(), stderr=slave)

    def has_begun() -> bool:
        own = fields(Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"))
        return own["NoNewPrivs"] == 1 and len(powers(process.pid)) > 1

    try:
        eventually(has_begun, "the scan has begun")
        assert set(powers(process.pid)) == {(0, 0, 1)}
    finally:
        process.kill()
        process.wait()
        os.close(slave)
        os.close(master)


def test_capabilities_that_cannot_be_dropped_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel refuses to take them, as under some seccomp profiles, the program goes on and says so."""

    def refuse() -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(privileges, "drop_all", refuse)
    with capture_logs() as logs:
        portspec.app.engines.drop_privileges()
    (entry,) = logs
    assert (entry["log_level"], entry["why"]) == ("warning", "operation not permitted")
    assert "dropping the capabilities failed" in entry["event"]


def test_exporter_listens_before_it_gives_up_its_capabilities(configure: Configure) -> None:
    """An exporter of root's may listen on a port below 1024, here in a network of its own."""
    if shutil.which("ip") is None:
        missing("ip (iproute2) is not installed")
    network = [*setpriv(), "unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    conf = Path(configure({own_address(): []}))
    with Server(conf, "--web.listen-address", "127.0.0.1:80", program=[*network, *PROGRAM]) as server:
        eventually(lambda: len(server.events("listening")) == 2, "two addresses")
        assert server.events("listening")[1]["url"] == "http://127.0.0.1:80/"
        assert server.wait_for("host scanned")["verdict"] == "in_spec"
        assert set(powers(server.process.pid)) == {(0, 0, 1)}


def test_limit_of_open_files_that_cannot_be_raised_ends_nothing(configure: Configure) -> None:
    """Where the system refuses that, a warning says so, and the scan is made with what there is."""
    if platform.machine() not in NUMBERS:
        missing("the number of prlimit64 on this machine")
    conf = configure({own_address(): []}, scan={"engine": "connect"})
    program = [sys.executable, "-m", "tests.unit.cli.limited"]
    done = run("scan", "-c", conf, "-j", "--log.level", "warning", cwd=ROOT, program=program)
    (warning,) = [json.loads(line) for line in done.err.splitlines() if "limit of open files" in line]
    assert (warning["level"], warning["limit"]) == ("warning", 256)
    assert done.code == 0, done
