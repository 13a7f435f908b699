"""Who holds a listening socket: executable, package, unit and container, or why that is not known."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socketserver
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.agent import (
    Container,
    Holder,
    Listener,
    Owner,
    Owners,
    _within,
    gather_containers,
    linux_listeners,
    read_apk_owners,
    read_cgroup,
    read_dpkg_owners,
    read_pacman_owners,
    read_rpm_owners,
    with_containers,
    with_packages,
)
from portspec.audit.payload import read_payload
from tests.unit.agent.test_listeners import ANY, USER, Proc, line

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "4f5e" * 16
PLAIN: dict[str, Any] = {
    "version": 1,
    "host": "web1",
    "day": "2026-11-22",
    "time": "2026-11-22T03:17:09Z",
    "nonce": "00",
    "agent": "portspec-send",
    "system": None,
    "tool": {"name": "apt", "version": None, "exit_status": 0, "output": "", "errors": "", "truncated": False},
}
NGINX = Owner("nginx-core", "1.22.1-9", "nginx")


def held(proc: Proc) -> Holder:
    """Return the holder of the only socket."""
    proc.write_net("tcp", [line("00000000", 80, "0A", 0, 5)])
    (listener,) = linux_listeners(proc.path) or []
    return listener.holder


def test_process_has_its_executable_unit_and_container(tmp_path: Path) -> None:
    """As /proc tells them."""
    proc = Proc(tmp_path / "proc")
    mine = os.geteuid()
    proc.add(7, b"nginx", mine, 5, executable="/usr/sbin/nginx", cgroup=f"0::/system.slice/docker-{ID}.scope\n")
    assert held(proc) == Holder("nginx", USER, "/usr/sbin/nginx", unit=f"docker-{ID}.scope", container=ID)


def test_executable_that_is_gone_is_told_so(tmp_path: Path) -> None:
    """As after an upgrade, of which the process has still the old file."""
    proc = Proc(tmp_path / "proc")
    proc.add(7, b"nginx", 0, 5, executable="/usr/sbin/nginx (deleted)")
    assert (held(proc).executable, held(proc).is_deleted) == ("/usr/sbin/nginx", True)


@pytest.mark.parametrize("is_container", [True, False])
def test_executable_of_a_container_is_not_looked_up(tmp_path: Path, *, is_container: bool) -> None:
    """The same path in a container is another file; of a process in a chroot(2) it is the same."""
    proc = Proc(tmp_path / "proc")
    directory = proc.add(7, b"nginx", 0, 5, executable="/usr/sbin/nginx")
    (directory / "root").unlink()
    (directory / "root").symlink_to(tmp_path)
    (directory / "ns").mkdir()
    (directory / "ns" / "mnt").symlink_to("mnt:[1]" if is_container else Path("/proc/self/ns/mnt").readlink())
    holder = held(proc)
    assert holder.executable == "/usr/sbin/nginx"
    if not is_container:
        assert holder.note is None
        return
    assert holder.note == "its executable is in another root directory, such as that of a container"
    (listener,), _ = with_packages([Listener("tcp", ANY, 80, holder)], Known({"/usr/sbin/nginx": NGINX}))
    assert listener.holder == holder


@pytest.mark.parametrize(
    ("text", "unit", "container"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service", None),
        ("0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n", "postgresql@15-main.service", None),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service\n", "web.service", None),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope", None),
        ("0::/system.slice/php8.2-fpm.service/workers\n", "php8.2-fpm.service", None),
        (f"0::/system.slice/docker-{ID}.scope\n", f"docker-{ID}.scope", ID),
        (f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n", None, ID),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n", f"libpod-{ID}.scope", ID),
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n", f"cri-containerd-{ID}.scope", ID),
        (f"1:name=systemd:/kubepods/besteffort/pod1/{ID}\n", None, ID),
        (f"0::/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}\n", "containerd.service", ID),
        ("4:memory:/other.service\n1:name=systemd:/system.slice/cron.service\n", "cron.service", None),
        ("0::/\n", None, None),
        ("", None, None),
    ],
)
def test_cgroup_names_unit_and_container(text: str, unit: str | None, container: str | None) -> None:
    """Of systemd, Docker, Podman, containerd and Kubernetes, with cgroup v1 and v2."""
    assert read_cgroup(text) == (unit, container)


class Known(Owners):
    """Owners that a test knows."""

    def __init__(self, owners: dict[str, Owner], why: str = "") -> None:
        self.asked: list[list[str]] = []
        self._owners, self._why = owners, why

    def of(self, paths: list[str]) -> tuple[dict[str, Owner], str]:
        """Return what is known."""
        self.asked.append(paths)
        return {path: self._owners[path] for path in paths if path in self._owners}, self._why


def listener(port: int, executable: str | None, note: str | None = None) -> Listener:
    """Make a listener whose process runs a file."""
    return Listener("tcp", ANY, port, Holder("x", "root", executable, note=note))


def test_packages_are_looked_up_at_once_and_what_is_not_known_has_a_reason() -> None:
    """No executable, no owner, no answer of the package manager: each is told, and none is "none"."""
    owners = Known({"/usr/sbin/nginx": NGINX})
    found, _ = with_packages(
        [listener(80, "/usr/sbin/nginx"), listener(443, "/usr/sbin/nginx"), listener(99, "/opt/x"),
         listener(1, None, "not to be seen")],
        owners,
    )  # fmt: skip
    assert owners.asked == [["/usr/sbin/nginx", "/opt/x"]]
    assert [(each.holder.package, each.holder.version, each.holder.source, each.holder.note) for each in found] == [
        ("nginx-core", "1.22.1-9", "nginx", None),
        ("nginx-core", "1.22.1-9", "nginx", None),
        (None, None, None, "no package owns its executable"),
        (None, None, None, "not to be seen"),
    ]
    (silent,), _ = with_packages([listener(80, "/usr/sbin/nginx")], Known({}, "dpkg-query did not tell"))
    assert silent.holder.note == "dpkg-query did not tell"


def test_more_executables_than_fit_into_a_command_line_are_not_looked_up() -> None:
    """A host cannot make the command line of the package manager as long as it likes."""
    owners = Known({})
    found, _ = with_packages([listener(port, f"/{port}{'x' * 900}") for port in range(1, 201)], owners)
    assert sum(map(len, owners.asked[0])) <= 100_000
    assert {each.holder.note for each in found} == {
        "no package owns its executable",
        "its package was not looked up: too many executables",
    }


def test_item_of_the_audit_has_only_what_is_known() -> None:
    """Process and user are always there, null if unknown, as older agents write them."""
    assert Listener("tcp", ANY, 80, Holder(None, None)).as_json() == {
        "protocol": "tcp", "address": ANY, "port": 80, "process": None, "user": None,
    }  # fmt: skip
    whole = Holder(
        "nginx",
        "www",
        "/x",
        *(True, "nginx.service", ID, "shop", "nginx:1.27"),
        *NGINX,
        "a note",
        ("/y",),
        ("/z",),
        "/s",
    )
    item = Listener("tcp", ANY, 80, whole).as_json({"/y": 7})
    assert item.keys() == {"protocol", "address", "port", *Holder._fields} - {"script"}
    assert item["libraries"] == [7]


def test_text_that_is_too_long_for_the_server_is_cut() -> None:
    """A user who runs a program from a long path cannot have the audit of the host refused."""
    item = Listener("tcp", ANY, 80, Holder("x", "eve", f"/{'d/' * 2000}x", image="i" * 5000)).as_json()
    assert max(len(value) for value in item.values() if isinstance(value, str)) == 1000
    payload = {**PLAIN, "listeners": [item]}
    (found,) = read_payload(json.dumps(payload).encode()).listeners or ()
    assert found.executable == item["executable"]


def test_listeners_take_some_room_in_the_audit_and_no_more() -> None:
    """Of those beyond it the process and its user stay, and that there is more is told."""
    many = [Listener("tcp", ANY, port, Holder("x", "eve", f"/{'d/' * 450}{port}")) for port in range(1, 10_001)]
    found, _ = _within(many, {}, 1_000_000)
    assert len(found) == len(many)
    assert len(json.dumps(found)) < 3_000_000
    assert "executable" in found[0]
    assert found[-1] == {
        "protocol": "tcp", "address": ANY, "port": 10_000, "process": "x", "user": "eve",
        "note": "the audit has no room for more of it",
    }  # fmt: skip


def test_answer_of_dpkg_is_read() -> None:
    """The first of several packages, no diversions, paths with colons."""
    assert read_dpkg_owners(
        "diversion by dash from: /bin/sh\nnginx-core: /usr/sbin/nginx\nlibc6:amd64, libc6:i386: /lib/x: /y\n"
    ) == {"/usr/sbin/nginx": "nginx-core", "/lib/x: /y": "libc6:amd64"}


def test_answers_of_apk_pacman_and_rpm_are_read() -> None:
    """What no package owns is left out."""
    assert read_apk_owners(
        "/usr/sbin/nginx is owned by nginx-1.24.0-r16\n/bin/nc symlink target is owned by busybox-1.36.1-r5\n"
        "ERROR: /opt/x: Could not find owner package\n"
    ) == {
        "/usr/sbin/nginx": Owner("nginx", "1.24.0-r16", "nginx"),
        "/bin/nc": Owner("busybox", "1.36.1-r5", "busybox"),
    }
    assert read_pacman_owners("/usr/bin/nginx is owned by nginx 1.26.2-1\nerror: No package owns /opt/x\n") == {
        "/usr/bin/nginx": Owner("nginx", "1.26.2-1", "nginx")
    }
    text = (
        "nginx-core\t1.20.1-14.el9\tnginx-1.20.1-14.el9.src.rpm\t/usr/sbin/nginx\n"
        "nginx-core\t1.20.1-14.el9\tnginx-1.20.1-14.el9.src.rpm\t/usr/share/x\n"
        "file /opt/x is not owned by any package\n"
        "bash\t4.2.46-34.el7\tbash-4.2.46-34.el7.src.rpm\t/bin/bash\n"
    )
    assert read_rpm_owners(text, ["/opt/x", "/usr/bin/bash", "/usr/sbin/nginx"]) == {
        "/usr/bin/bash": Owner("bash", "4.2.46-34.el7", "bash"),
        "/usr/sbin/nginx": Owner("nginx-core", "1.20.1-14.el9", "nginx"),
    }


@given(st.text(max_size=300))
def test_strange_answers_do_no_harm(text: str) -> None:
    """Whatever a package manager prints is read without an error."""
    for path in (*read_dpkg_owners(text), *read_apk_owners(text), *read_pacman_owners(text)):
        assert path.startswith("/")
    read_rpm_owners(text, ["/x"])
    read_cgroup(text)


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs dpkg")
def test_real_dpkg_tells_who_owns_a_file() -> None:
    """Also of a file that it has below /bin or /lib, and of what is no plain name for it."""
    shell = os.path.realpath(shutil.which("bash") or "/bin/bash")
    found, why = Owners(dict(os.environ)).of([shell, "/usr/bin/dpkg-query", "/opt/no such", "/usr/bin/[*]"])
    assert why == ""
    versions = {
        name: subprocess.run(
            ["dpkg-query", "--show", "--showformat=${Version}", name], capture_output=True, text=True, check=True
        ).stdout
        for name in ("bash", "dpkg")
    }
    assert found == {
        shell: Owner("bash", versions["bash"], "bash"),
        "/usr/bin/dpkg-query": Owner("dpkg", versions["dpkg"], "dpkg"),
    }


def test_system_without_a_package_manager_says_so() -> None:
    """A package that cannot be looked up is not none."""
    assert Owners({}, {"rpm": ("/no/such/database",)}).of(["/x"]) == ({}, "no package manager is known here")


class EngineHandler(BaseHTTPRequestHandler):
    """The API of a container engine that has one answer."""

    server: EngineServer

    def do_GET(self) -> None:
        """Answer as Docker does, or in no time at all."""
        self.server.asked.append(self.requestline)
        if self.server.answer is None:
            self.server.over.wait(60.0)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.answer)

    def address_string(self) -> str:
        """Return the client, which has no address."""
        return "agent"

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class EngineServer(socketserver.ThreadingUnixStreamServer):
    """A server on a Unix socket."""

    daemon_threads = True

    def __init__(self, path: Path, answer: bytes | None) -> None:
        super().__init__(str(path), EngineHandler)
        self.answer = answer
        self.asked: list[str] = []
        self.over = threading.Event()


@contextlib.contextmanager
def engine(path: Path, answer: bytes | None) -> Iterator[EngineServer]:
    """Run a container engine whose answer is this, or none."""
    with EngineServer(path, answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


SHOP = Container(ID, "shop", "nginx:1.27", {("tcp", 8443): {ANY, "::"}, ("udp", 53): {ANY}})
ANSWER = json.dumps(
    [
        {
            "Id": ID,
            "Names": ["/shop"],
            "Image": "nginx:1.27",
            "Ports": [
                {"IP": ANY, "PrivatePort": 443, "PublicPort": 8443, "Type": "tcp"},
                {"IP": "::", "PrivatePort": 443, "PublicPort": 8443, "Type": "tcp"},
                {"IP": ANY, "PrivatePort": 53, "PublicPort": 53, "Type": "udp"},
                {"PrivatePort": 9000, "Type": "tcp"},
                {"IP": "x", "PrivatePort": 1, "PublicPort": 1, "Type": "sctp"},
            ],
        }
    ]
).encode()


def test_containers_are_asked_for_by_get_alone(tmp_path: Path) -> None:
    """On the socket of DOCKER_HOST."""
    path = tmp_path / "docker.sock"
    with engine(path, ANSWER) as server:
        assert gather_containers({"DOCKER_HOST": f"unix://{path}"}) == ([SHOP], "")
        assert server.asked == ["GET /containers/json HTTP/1.1"]


@pytest.mark.parametrize(
    "answer", [b"", b"{", b"<html>", b"null", b"{}", b'[{"Id": 1}]', b"[[]]", b'[{"Id":"x","Names":[]}]']
)
def test_engine_that_answers_something_else_does_no_harm(tmp_path: Path, answer: bytes) -> None:
    """The containers are not known then, and why is told."""
    path = tmp_path / "docker.sock"
    with engine(path, answer):
        found, why = gather_containers({"DOCKER_HOST": f"unix://{path}"})
        assert found == []
        assert why.startswith(f"the container engine at {path} does not tell: ") is (answer != b"{}")


def test_engine_that_hangs_does_not_keep_the_audit(tmp_path: Path) -> None:
    """The question has a limit of time."""
    path = tmp_path / "docker.sock"
    with engine(path, None):
        found, why = gather_containers({"DOCKER_HOST": f"unix://{path}"}, timeout=0.1)
        assert found == []
        assert why.startswith(f"the container engine at {path} does not tell: timed out")


def test_engine_that_is_not_there_does_no_harm(tmp_path: Path) -> None:
    """As on most hosts."""
    assert gather_containers({"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}) == ([], "")


def test_container_without_a_name_says_why() -> None:
    """As where an engine may not be asked; the id is known all the same."""
    proxy = Holder("docker-proxy", "root", "/usr/bin/docker-proxy")
    inside = Holder("nginx", "root", "/usr/sbin/nginx", container=ID, note="elsewhere")
    why = "permission denied"
    holders = (proxy, inside, inside._replace(note=None))
    found = with_containers([Listener("tcp", ANY, 80, holder) for holder in holders], [], why)
    assert [each.holder.note for each in found] == [why, f"elsewhere; {why}", why]
    assert found[1].holder.container == ID


def test_published_port_has_the_container_that_it_leads_to() -> None:
    """Held by docker-proxy, or by no process where a rule of NAT leads there; what is not known is told."""
    proxy = Holder("docker-proxy", "root", "/usr/bin/docker-proxy")
    inside = Holder("nginx", "root", "/usr/sbin/nginx", container=ID, note="in a container")
    found = with_containers(
        [Listener("tcp", ANY, 8443, proxy), Listener("tcp", ANY, 80, inside), Listener("tcp", ANY, 99, proxy)], [SHOP]
    )
    named: dict[str, Any] = {"container": ID, "container_name": "shop", "image": "nginx:1.27"}
    assert found[:3] == [
        Listener("tcp", ANY, 8443, proxy._replace(**named)),
        Listener("tcp", ANY, 80, inside._replace(**named)),
        Listener("tcp", ANY, 99, proxy._replace(note="no container engine tells to which container it leads")),
    ]
    assert found[3:] == [
        Listener(
            "udp",
            ANY,
            53,
            Holder(None, None, **named, note="no process holds it: a rule of NAT leads to the container"),
        )
    ]
