"""The lab: a scanner's namespace and a hosts' namespace, joined by a veth pair, and nothing else.

One namespace answers for all hosts: 198.18.0.0/17 and 2001:db8:18::/64 are local to it. What they do is made by
listening sockets, by nftables rules, and, for closed ports, by the kernel's own RST; its limits are lifted (see
:mod:`.plumbing`).
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from . import plumbing, rules
from .namespaces import LabError, Namespace, script, tool
from .truth import HostTruth, State

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

Side = Literal["scanner", "hosts"]

_LISTENERS: Final = Path(__file__).with_name("listeners.py")
_NAMES: Final = Path(__file__).with_name("names.py")
_ROOT: Final = Path(__file__).parents[2]
_FORK_SERVER: Final = [sys.executable, "-m", "tests.lab.forkserver"]


@dataclass(frozen=True, slots=True)
class Received:
    """What the hosts' open ports received: accepted connections, and bytes that clients sent on them."""

    connections: int
    bytes: int


class Forked:
    """A program that runs in the lab, forked from the fork server; see :meth:`Lab.fork`."""

    def __init__(self, server: subprocess.Popen[str], command: dict[str, Any]) -> None:
        self._server = server
        self._arguments = [command["program"], *command["arguments"]]
        self._answer: dict[str, Any] | None = None
        _tell(server, command)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        assert self._server.stdout is not None
        return self._answer is not None or bool(select.select([self._server.stdout], [], [], 0)[0])

    def result(self, *, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Wait for the end of it. Raises what :func:`subprocess.run` raises; it is killed when its time is up."""
        if self._answer is None:
            self._answer = _answer(self._server, f"run {self._arguments[0]}")
        if "timeout" in self._answer:
            raise subprocess.TimeoutExpired(self._arguments, self._answer["timeout"])
        done = subprocess.CompletedProcess(
            self._arguments, self._answer["code"], self._answer["stdout"], self._answer["stderr"]
        )
        if check:
            done.check_returncode()
        return done


class Lab:
    """A context manager that builds the network on entry; see the module for what it is.

    Until :meth:`apply` there are no hosts and every port is closed. On exit, and when this process dies, everything
    that runs inside is ended and nothing is left. Its methods raise :exc:`LabError` when the system refuses a step.
    Not for use by two threads at once, but for :meth:`argv`, :meth:`run` and :meth:`popen`.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._nft = tool("nft")
        self._processes: list[subprocess.Popen[str]] = []
        self._server: subprocess.Popen[str] | None = None
        self._forked: Forked | None = None
        self._verdicts: rules.Verdicts = {}
        #: the sockets that listen, and whether they reset their connections
        self._sockets: dict[tuple[str, int], bool] = {}

    @classmethod
    def unavailable(cls) -> str | None:
        """Why the lab cannot be built on this machine, found by building one; None if it can."""
        try:
            with cls() as lab:
                lab.loss(1)
        except LabError as error:
            return str(error)
        return None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._scanner = Namespace()
            stack.callback(self._scanner.close)
            self._hosts = Namespace(inside=self._scanner)
            stack.callback(self._hosts.close)
            stack.callback(self._end_processes)
            plumbing.connect(self._scanner, self._hosts)
            self._listeners = self.popen(
                script(_LISTENERS), side="hosts", cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._names = self.popen(script(_NAMES), cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.apply(())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def apply(self, hosts: Sequence[HostTruth]) -> None:
        """Make ``hosts`` the whole truth; in force on return.

        Whatever was set before is gone: hosts, ports, loss, and what :meth:`received` counted.
        """
        self._verdicts = rules.port_verdicts(hosts)
        self._sockets = {
            key: state is State.RESET for host in hosts for key, state in host.ports.items() if state.listens
        }
        self._listen({"do": "reset"})
        self._listen({"do": "open", "sockets": [[*key, reset] for key, reset in self._sockets.items()]})
        for transaction in rules.transactions(hosts, self._verdicts):
            self._load(transaction)
        self.write_hosts(rules.hosts_file(hosts))
        names = {host.name: list(host.addresses) for host in hosts}
        self.serve_names(names)

    def serve_names(
        self,
        names: Mapping[str, Sequence[str]],
        *,
        fail: Sequence[str] = (),
        silent: Sequence[str] = (),
        odd: Mapping[str, str] | None = None,
    ) -> None:
        """Have the name server know these names alone, until the next :meth:`apply`; /etc/hosts stays as it is.

        Questions for record types ("A", "AAAA") in ``fail`` are answered with SERVFAIL, in ``silent`` not at all. What
        ``odd`` names are answered with, names.py says; "loop" as the last label but one stands for all names under it.
        """
        known = {name: list(found) for name, found in names.items()}
        state = {"names": known, "fail": fail, "silent": silent, "odd": dict(odd or {})}
        _ask(self._names, "set names", state)

    def write_hosts(self, text: str) -> None:
        """Write the scanner's /etc/hosts, until the next :meth:`apply`; the name server stays as it is."""
        self._scanner.run("write /etc/hosts", ["sh", "-c", "cat > /etc/hosts"], text)

    def set_state(self, address: str, port: int, state: State) -> None:
        """Change what one port does; in force on return. Connections that were accepted go on."""
        key, verdict = (address, port), rules.VERDICTS[state]
        if key in self._sockets and (not state.listens or self._sockets[key] is not (state is State.RESET)):
            del self._sockets[key]
            self._listen({"do": "close", "sockets": [key]})
        if state.listens and key not in self._sockets:
            self._listen({"do": "open", "sockets": [[*key, state is State.RESET]]})
            self._sockets[key] = state is State.RESET
        if self._verdicts.get(key) != verdict:
            self._load(rules.change(address, port, self._verdicts.get(key), verdict))
            self._verdicts[key] = verdict

    def open_port(self, address: str, port: int) -> None:
        """Open a port, whatever it was; in force on return."""
        self.set_state(address, port, State.OPEN)

    def close_port(self, address: str, port: int) -> None:
        """Close a port, whatever it was: from now on it answers with an RST; in force on return."""
        self.set_state(address, port, State.CLOSED)

    def loss(self, percent: float, burst: int = 1) -> None:
        """Lose that share of the SYNs that reach the hosts, and of their answers; 0 loses none.

        Each is lost at random, or ``burst`` in a row, of both directions and all hosts, and then none for a while.
        In steps of 0.1; :exc:`ValueError` outside of 0 to 100. A probe is answered with probability (1 - share)².
        """
        self._load(rules.loss(percent, burst))

    @contextmanager
    def link_down(self, side: Side = "scanner") -> Iterator[None]:
        """Take a side's end of the link down for a while: the other one has no carrier then."""
        with self.link_restored():
            namespace = self._scanner if side == "scanner" else self._hosts
            namespace.run("take the link down", [tool("ip"), "link", "set", "lab0", "down"])
            yield

    @contextmanager
    def link_restored(self) -> Iterator[None]:
        """Put links, addresses, neighbours and routes back in the end, whatever was done to them."""
        try:
            yield
        finally:
            plumbing.configure(self._scanner, self._hosts)

    def received(self) -> Received:
        """Say what the open ports received since :meth:`apply`; from a scanner that only looks, no byte."""
        answer = self._listen({"do": "received"})
        return Received(connections=answer["connections"], bytes=answer["bytes"])

    def argv(
        self, argv: Sequence[str], *, side: Side = "scanner", cwd: str | os.PathLike[str] | None = None
    ) -> list[str]:
        """Return the command that runs ``argv`` inside, in the directory ``cwd`` (by default the present one).

        The environment is that of who runs it. Signals and exit status are the program's own.
        """
        namespace = self._scanner if side == "scanner" else self._hosts
        return namespace.argv(argv, cwd=cwd)

    def run(
        self,
        argv: Sequence[str],
        *,
        side: Side = "scanner",
        timeout: float = 120.0,
        check: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, to its end; its output is captured as text.

        ``options`` are those of :func:`subprocess.run`, which also says what is raised; ``timeout`` is in seconds.
        """
        command = self.argv(argv, side=side, cwd=options.pop("cwd", None))
        options = {"capture_output": True, **options}
        return subprocess.run(command, text=True, timeout=timeout, check=check, **options)

    def popen(self, argv: Sequence[str], *, side: Side = "scanner", **options: Any) -> subprocess.Popen[str]:
        """Start a program inside; it is killed with the lab, if it has not ended by then.

        ``options`` are those of :class:`subprocess.Popen`; its pipes are text.
        """
        process = subprocess.Popen(self.argv(argv, side=side, cwd=options.pop("cwd", None)), text=True, **options)
        self._processes.append(process)
        return process

    def fork(self, program: str, *arguments: str, stdin: str = "", timeout: float = 120.0) -> Forked:
        """Run one of the programs of forkserver.py on the scanner's side, in less time than :meth:`run` takes to start.

        One at a time: this waits for the end of the one before. ``timeout`` is in seconds.
        """
        if self._forked is not None:
            with suppress(LabError, subprocess.TimeoutExpired):
                self._forked.result()
        if self._server is None or self._server.poll() is not None:
            self._server = self.popen(_FORK_SERVER, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        command = {"program": program, "arguments": arguments, "input": stdin, "timeout": timeout}
        self._forked = Forked(self._server, command)
        return self._forked

    def _load(self, ruleset: str) -> None:
        self._hosts.run("load nftables rules", [self._nft, "-f", "-"], ruleset)

    def _listen(self, command: dict[str, Any]) -> dict[str, Any]:
        return _ask(self._listeners, f"{command['do']} listeners", command)

    def _end_processes(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # what was never flushed
                        pipe.close()


def _ask(server: subprocess.Popen[str], step: str, command: dict[str, Any]) -> dict[str, Any]:
    """Have a server of the lab do something; return its answer, when it is done."""
    with suppress(BrokenPipeError):  # then there is no answer either
        _tell(server, command)
    return _answer(server, step)


def _tell(server: subprocess.Popen[str], command: dict[str, Any]) -> None:
    assert server.stdin is not None
    server.stdin.write(json.dumps(command) + "\n")
    server.stdin.flush()


def _answer(server: subprocess.Popen[str], step: str) -> dict[str, Any]:
    assert server.stdout is not None
    answer: dict[str, Any] = json.loads(server.stdout.readline() or '{"error": "it has ended"}')
    if "error" in answer:
        raise LabError(step, answer["error"])
    return answer
