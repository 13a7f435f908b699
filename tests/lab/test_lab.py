from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import pytest

from .namespaces import LabError
from .network import Lab, Received
from .truth import HostTruth, State, draw

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .network import Side

HERE: Final = Path(__file__).parent
V4: Final = "198.18.1.1"
V6: Final = "2001:db8:18::1"
SILENT: Final = 0.3
SLEEP: Final = ["sleep", "1000"]


def connect(lab: Lab, *targets: tuple[str, int], seconds: float = SILENT) -> list[str]:
    """Connect from the scanner's side; see connect.py for the words."""
    script = [sys.executable, "-I", "-S", str(HERE / "connect.py"), str(seconds)]
    done = lab.run(script, input=json.dumps(targets), check=True)
    words: list[str] = json.loads(done.stdout)
    return words


def python(lab: Lab, code: str, *arguments: str, timeout: float = 30.0) -> str:
    """Run Python on the scanner's side."""
    return lab.run([sys.executable, "-c", code, *arguments], check=True, timeout=timeout).stdout


def host(*states: State, default: State = State.CLOSED) -> HostTruth:
    """Make a dual-stack host whose port 1 is in the first state, and so on."""
    ports = {(address, port): state for address in (V4, V6) for port, state in enumerate(states, 1)}
    return HostTruth("host.lab", (V4, V6), ports, default)


def network(lab: Lab, side: Side) -> str:
    """Name the network namespace of a side."""
    return lab.run(["readlink", "/proc/self/ns/net"], side=side, check=True).stdout.strip()


def residents(networks: Iterable[str]) -> list[int]:
    """List the processes in network namespaces."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str((entry / "ns/net").readlink()) in networks:
                found.append(int(entry.name))
    return found


def children() -> int:
    """Count the children of this process."""
    return len(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(encoding="ascii").split())


def wait_for_end(pids: Iterable[int], seconds: float) -> bool:
    """Wait until processes have ended; say whether they have."""
    with ExitStack() as stack:
        for pid in pids:
            with suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                stack.callback(os.close, fd)
                if not select.select([fd], [], [], seconds)[0]:
                    return False
    return True


@pytest.mark.parametrize(
    ("state", "word4", "word6"),
    [
        (State.OPEN, "open", "open"),
        (State.RESET, "reset", "reset"),
        (State.CLOSED, "closed", "closed"),
        (State.DROPPED, "silence", "silence"),
        (State.REJECTED, "icmp 3/3", "icmp 1/4"),
        (State.PROHIBITED, "icmp 3/13", "icmp 1/1"),
        (State.UNREACHABLE, "icmp 3/1", "icmp 1/3"),
    ],
)
def test_a_port_does_what_its_state_says(lab: Lab, state: State, word4: str, word6: str) -> None:
    """Each state is seen by a client of either family, and the next port is closed."""
    lab.apply([host(state)])
    assert connect(lab, (V4, 1), (V6, 1), (V4, 2), (V6, 2)) == [word4, word6, "closed", "closed"]


@pytest.mark.parametrize(
    ("default", "words"),
    [
        (State.DROPPED, ["open", "closed", "silence", "open", "closed", "silence"]),
        (State.REJECTED, ["open", "closed", "icmp 3/3", "open", "closed", "icmp 1/4"]),
    ],
)
def test_a_firewalled_host_lets_named_ports_through(lab: Lab, default: State, words: list[str]) -> None:
    """Where a host drops or rejects by default, its named ports still do what is said of them."""
    lab.apply([host(State.OPEN, State.CLOSED, default=default)])
    assert connect(lab, *((address, port) for address in (V4, V6) for port in (1, 2, 3))) == words


def test_every_address_in_the_networks_is_answered_for(lab: Lab) -> None:
    """An address that is no host's has all its ports closed, up to the ends of both networks."""
    lab.apply([])
    assert set(connect(lab, ("198.18.0.1", 1), ("198.18.127.254", 1), (V6, 1), ("2001:db8:18::ffff", 1))) == {"closed"}


def test_nothing_else_can_be_reached(lab: Lab) -> None:
    """The scanner has no route out of the lab."""
    assert connect(lab, ("192.0.2.1", 80), ("2001:db8::1", 80)) == ["ENETUNREACH", "ENETUNREACH"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_drawn_truth_is_what_a_client_finds(lab: Lab, seed: int) -> None:
    """Of every port of every address, a client finds what the truth expects."""
    hosts, ports = draw(seed, 16, range(1, 41)), range(1, 43)
    lab.apply(hosts)
    targets = [(owner, address, port) for owner in hosts for address in owner.addresses for port in ports]
    words = connect(lab, *((address, port) for _, address, port in targets), seconds=0.8)
    verdicts = {"open": "open", "reset": "open", "closed": "closed"}
    found = [verdicts.get(word, "filtered") for word in words]
    assert found == [owner.expected(address, port) for owner, address, port in targets]


def test_icmp_errors_are_not_rationed(lab: Lab) -> None:
    """A thousand rejected probes at once get a thousand ICMP errors, in either family."""
    lab.apply([host(default=State.REJECTED)])
    words = connect(lab, *((address, port) for address in (V4, V6) for port in range(1, 501)), seconds=0.8)
    assert Counter(words) == {"icmp 3/3": 500, "icmp 1/4": 500}


def test_thousands_of_ports_can_be_open(lab: Lab) -> None:
    """All of 64 addresses x 100 ports listen after one call."""
    addresses = [f"198.18.2.{number}" for number in range(64)]
    lab.apply([HostTruth(f"h{a}", (a,), {(a, port): State.OPEN for port in range(1, 101)}) for a in addresses])
    assert Counter(connect(lab, *((a, port) for a in addresses for port in (1, 50, 100, 101)), seconds=2)) == {
        "open": 192,
        "closed": 64,
    }


def test_a_port_opens_and_closes_at_run_time(lab: Lab) -> None:
    """open_port and close_port are in force when they return, also on a host that drops all else."""
    lab.apply([host(default=State.DROPPED)])
    for address in (V4, V6):
        assert connect(lab, (address, 9)) == ["silence"]
        lab.open_port(address, 9)
        assert connect(lab, (address, 9)) == ["open"]
        lab.close_port(address, 9)
        assert connect(lab, (address, 9)) == ["closed"]


def test_a_port_goes_from_any_state_to_any_other(lab: Lab) -> None:
    """set_state is in force when it returns, whatever the port did before."""
    lab.apply([host()])
    expected = {
        State.OPEN: "open",
        State.RESET: "reset",
        State.CLOSED: "closed",
        State.REJECTED: "icmp 3/3",
        State.PROHIBITED: "icmp 3/13",
        State.UNREACHABLE: "icmp 3/1",
    }
    for before in State:
        for after, word in expected.items():
            lab.set_state(V4, 5, before)
            lab.set_state(V4, 5, after)
            assert (before, after, connect(lab, (V4, 5))) == (before, after, [word])


def test_apply_replaces_all_of_the_last_truth(lab: Lab) -> None:
    """Hosts, ports, changes, loss, names and counts of before are gone after apply."""
    lab.apply([host(State.OPEN, State.DROPPED, default=State.REJECTED)])
    lab.open_port(V4, 3)
    connect(lab, (V4, 1))
    lab.loss(100)
    lab.apply([])
    assert connect(lab, *((V4, port) for port in (1, 2, 3, 4))) == ["closed"] * 4
    assert lab.received() == Received(connections=0, bytes=0)
    assert lab.run(["getent", "hosts", "host.lab"]).returncode == 2


def test_all_is_lost_at_100_percent_and_nothing_at_0(lab: Lab) -> None:
    """loss(100) silences open, closed and rejected ports; loss(0) lets them speak again."""
    lab.apply([host(State.OPEN, State.REJECTED)])
    targets = [(address, port) for address in (V4, V6) for port in (1, 2, 3)]
    lab.loss(100)
    assert connect(lab, *targets) == ["silence"] * 6
    lab.loss(0)
    assert connect(lab, *targets) == ["open", "icmp 3/3", "closed", "open", "icmp 1/4", "closed"]


def test_loss_takes_its_share_of_probes_and_of_answers(lab: Lab) -> None:
    """At 50 % each way, about a quarter of 600 probes is answered, whatever the answer is."""
    ports = {(V4, port): State.OPEN if port % 3 else State.REJECTED for port in range(1, 401)}
    lab.apply([HostTruth("host.lab", (V4,), ports)])
    lab.loss(50)
    # shorter than the second after which the kernel asks again
    words = Counter(connect(lab, *((V4, port) for port in range(1, 601)), seconds=0.5))
    answered = 600 - words["silence"]
    assert 80 < answered < 240  # 150, by more than six standard deviations
    assert {"open", "closed", "icmp 3/3"} <= set(words)


@pytest.mark.parametrize("percent", [-1, 100.1])
def test_a_loss_that_is_no_percentage_is_refused(lab: Lab, percent: float) -> None:
    """Outside of 0 to 100, loss is a ValueError."""
    with pytest.raises(ValueError, match="is not between 0 and 100 percent"):
        lab.loss(percent)


def test_names_resolve_to_their_addresses(lab: Lab) -> None:
    """A host's name gives all of its addresses inside the lab, of both families."""
    lab.apply([host(), HostTruth("two.lab", ("198.18.1.2", "198.18.1.3"))])
    code = "import socket, sys; print(*sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1], 1)}))"
    assert python(lab, code, "host.lab").split() == [V4, V6]
    assert python(lab, code, "two.lab").split() == ["198.18.1.2", "198.18.1.3"]


def test_an_unknown_name_fails_at_once(lab: Lab) -> None:
    """A name that is no host's is an error before any DNS time-out, which is 5 seconds."""
    code = "import socket\ntry: socket.getaddrinfo('nobody.lab', 1)\nexcept socket.gaierror: print('unknown')"
    assert python(lab, code, timeout=4) == "unknown\n"


def test_what_clients_send_is_counted(lab: Lab) -> None:
    """Connections to open ports are counted, and every byte that a client sends, also after the host's FIN."""
    lab.apply([host(State.OPEN, State.RESET)])
    connect(lab, (V4, 1), (V6, 1), (V4, 2))
    assert lab.received() == Received(connections=3, bytes=0)
    code = f"""
import socket
with socket.create_connection(({V4!r}, 1)) as client:
    assert client.recv(1) == b""
    client.sendall(b"hello")
    client.sendall(b"again")
"""
    python(lab, code)
    assert lab.received() == Received(connections=4, bytes=10)


def test_a_connection_leaves_no_trace(lab: Lab) -> None:
    """A connection that is over is not in TIME-WAIT, so it cannot answer in place of the port."""
    lab.apply([host(State.OPEN)])
    assert connect(lab, (V4, 1), (V6, 1)) == ["open", "open"]
    assert lab.received() == Received(connections=2, bytes=0)
    assert lab.run(["ss", "-Htan", "state", "time-wait"], side="hosts", check=True).stdout == ""


def test_a_program_inside_keeps_directory_environment_and_signals(lab: Lab, tmp_path: Path) -> None:
    """Programs run in the caller's directory or the given one, with its environment; signals reach them."""
    assert lab.run(["pwd", "-P"]).stdout.strip() == str(Path.cwd())
    shown = lab.run(["sh", "-c", "pwd -P; echo $WORD"], cwd=tmp_path, env={**os.environ, "WORD": "kept"})
    assert shown.stdout.split() == [str(tmp_path.resolve()), "kept"]
    process = lab.popen(["sh", "-c", "echo up; exec sleep 1000"], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM


def test_a_port_that_cannot_be_opened_is_an_error(lab: Lab) -> None:
    """An address that is not the hosts' is a LabError that names it, and the lab goes on."""
    lab.apply([])
    with pytest.raises(LabError, match=r"192\.0\.2\.1 port 1: Cannot assign requested address"):
        lab.open_port("192.0.2.1", 1)
    lab.open_port(V4, 1)
    assert connect(lab, (V4, 1)) == ["open"]


def test_nothing_is_left_after_the_lab() -> None:
    """Neither a process, a daemon's neither, nor a link, nor a mount outlives the with block."""

    def outside() -> tuple[list[str], str]:
        return sorted(link.name for link in Path("/sys/class/net").iterdir()), Path("/proc/self/mountinfo").read_text(
            encoding="utf-8"
        )

    before = outside()
    with Lab() as lab:
        networks = [network(lab, "scanner"), network(lab, "hosts")]
        child = lab.popen(SLEEP)
        lab.run(["setsid", "--fork", *SLEEP], capture_output=False)
        assert len(residents(networks)) >= 5  # two holders, the listeners, a child, a daemon
    assert residents(networks) == []
    assert child.returncode == -signal.SIGKILL
    assert outside() == before


def test_a_holder_refuses_a_network_that_is_not_its_own(lab: Lab) -> None:
    """Where it was started without new namespaces, a holder ends before it could end all processes."""
    lab.apply([])
    holder = [sys.executable, str(HERE / "holder.py"), network(lab, "scanner")]
    done = lab.run(holder, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "holder: not in a network namespace of its own\n"
    assert connect(lab, (V4, 1)) == ["closed"]


def test_a_lab_that_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that is missing, or a right, is named; what was begun is undone."""
    monkeypatch.setattr("shutil.which", lambda name, **_: None if name == "nft" else name)
    assert Lab.unavailable() == "find the lab's tools: nft is not installed"
    monkeypatch.undo()
    monkeypatch.setattr("shutil.which", lambda name, **_: "false" if name == "ip" else name)
    before = children()
    assert Lab.unavailable() == "make the link: exit status 1"
    assert children() == before


INTERRUPTED: Final = """
import os, signal, sys
from lab.network import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
with Lab() as lab:
    for side in ("scanner", "hosts"):
        lab.run(["setsid", "--fork", "sleep", "1000"], side=side, capture_output=False, stderr=-3, stdout=-3)
        print(lab.run(["readlink", "/proc/self/ns/net"], side=side).stdout, end="", flush=True)
    lab.popen(["sleep", "1000"], stderr=-3, stdout=-3)
    os.killpg(0, getattr(signal, sys.argv[1]))
    signal.pause()
"""

UNPRIVILEGED: Final = """
import sys
from lab.network import Lab
from lab.truth import HostTruth, State, draw
if why := Lab.unavailable():
    sys.exit(why)
with Lab() as lab:
    lab.apply([HostTruth("h.lab", ("198.18.1.1",), {("198.18.1.1", 1): State.OPEN, ("198.18.1.1", 2): State.REJECTED})])
    done = lab.run([sys.executable, sys.argv[1], "1"], input='[["198.18.1.1", 1], ["198.18.1.1", 2]]', check=True)
    print(done.stdout)
    many = [f"198.18.2.{number}" for number in range(60)]
    lab.apply([HostTruth(f"h{a}", (a,), {(a, port): State.UNREACHABLE for port in range(1, 101)}) for a in many])
"""


@pytest.fixture
def copy() -> Iterator[Path]:
    """Make a directory that anyone may read, with the lab as package ``lab``, whatever it is called here."""
    with TemporaryDirectory(prefix="portspec-lab-") as name:
        Path(name).chmod(0o755)
        shutil.copytree(HERE, Path(name) / "lab", ignore=shutil.ignore_patterns("test_*", "conftest.py", "__pycache__"))
        yield Path(name)


def run_copy(copy: Path, prefix: Sequence[str], code: str, argument: str) -> subprocess.CompletedProcess[str]:
    """Run Python code beside the copy, in a process group of its own."""
    return subprocess.run(
        [*prefix, "-B", "-c", code, argument],
        cwd=copy,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
@pytest.mark.usefixtures("lab")
def test_nothing_is_left_when_the_test_is_interrupted(copy: Path, name: str) -> None:
    """A signal to all of the test's process group, from the terminal say, ends all that runs inside."""
    done = run_copy(copy, [sys.executable], INTERRUPTED, name)
    networks = done.stdout.split()
    assert len(networks) == 2, done.stderr
    assert wait_for_end(residents(networks), seconds=10)
    assert residents(networks) == []


@pytest.mark.usefixtures("lab")
def test_the_lab_needs_no_root(copy: Path) -> None:
    """Where the system lets a user make namespaces, nobody can build a lab and scan in it."""
    if os.geteuid() != 0:
        pytest.skip("already not root: every other test shows it")
    # env: what setpriv itself executes is still looked up with root's rights
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env"]
    make = [*nobody, "unshare", "--user", "--map-root-user", "--net", "true"]
    made = subprocess.run(make, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"users cannot make namespaces here, which depends on the system, in CI too: {made.stderr.strip()}")
    new_enough = "import sys; sys.exit(sys.version_info < (3, 11))"
    for interpreter in (sys.executable, "/usr/bin/python3"):
        if run_copy(copy, [*nobody, interpreter], new_enough, "").returncode == 0:
            break
    else:
        pytest.skip("nobody cannot run a Python of 3.11 or later here, which depends on the system, in CI too")
    done = run_copy(copy, [*nobody, interpreter], UNPRIVILEGED, str(copy / "lab/connect.py"))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == ["open", "icmp 3/3"]
