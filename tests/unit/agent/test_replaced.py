"""Which processes and kernels run in another version than the one that is installed."""

from __future__ import annotations

import json
import mmap
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec import agent
from portspec.agent import (
    Holder,
    Listener,
    Owner,
    _order,
    _within,
    kernel_of_linux,
    linux_listeners,
    newer_kernel,
    read_maps,
    with_packages,
)
from portspec.audit.payload import Kernel, Library, read_payload
from tests.unit.agent.test_holders import PLAIN, Known, held
from tests.unit.agent.test_listeners import ANY, Proc

if TYPE_CHECKING:
    from collections.abc import Sequence

BOOTED = 1_700_000_000
LIBSSL = "/usr/lib/x86_64-linux-gnu/libssl.so.3"
OPENSSL = Owner("libssl3:amd64", "3.0.11-1", "openssl")
PYTHON = "/usr/bin/python3"


def mapping(path: str, permissions: str = "r-xp", inode: int = 42) -> str:
    """Write a line of /proc/PID/maps as fs/proc/task_mmu.c does."""
    return f"7f31a7c28000-7f31a7d9d000 {permissions} 00028000 fe:01 {inode}                   {path}\n"


TRANSIENT = [
    "/root/.cache/JNA/temp/jna123.tmp", "/home/eve/orcexec.AbC123", "/#1234", "/var/lib/x/ffiAbC123", "/dev/shm/x",
    "/opt/tomcat/temp/libnetty_transport_native_epoll_x86_64123.so",
]  # fmt: skip


def test_files_whose_code_is_mapped_are_read() -> None:
    """Each once; without data, anonymous memory, devices and what programs make and remove to run it."""
    text = "".join(
        [
            mapping("/usr/sbin/nginx"), mapping("/usr/sbin/nginx", "r--p"), mapping(LIBSSL), mapping(LIBSSL),
            mapping("/usr/share/locale/x.mo", "r--p"), mapping("/opt/with space/lib.so"),
            "7ffd-7ffe r-xp 00000000 00:00 0                          [vdso]\n",
            "7f31-7f32 rwxp 00000000 00:00 0 \n",
            mapping("/dev/zero (deleted)", inode=0), mapping("/memfd:jit (deleted)"), mapping("/tmp/ffi1 (deleted)"),
            mapping("/usr/lib/libz.so.1.2.13 (deleted)"), mapping("/usr/lib/libz.so.1.2.13 (deleted)", "r--p"),
            *(mapping(f"{path} (deleted)") for path in TRANSIENT),
        ]
    )  # fmt: skip
    assert read_maps(text) == (["/usr/sbin/nginx", LIBSSL, "/opt/with space/lib.so"], ["/usr/lib/libz.so.1.2.13"])


@given(st.text(max_size=300) | st.lists(st.sampled_from([mapping("/x"), mapping("y"), "\0", " "])).map("".join))
def test_strange_maps_do_no_harm(text: str) -> None:
    """Whatever is read is an absolute path."""
    assert all(path.startswith("/") for paths in read_maps(text) for path in paths)


def process(
    tmp_path: Path, maps: str, *, script: Path | None = None, age: float = 0.0, interpreter: str = PYTHON
) -> Holder:
    """Return the holder of a socket that has mapped files, or runs a script that is so much newer than it."""
    proc = Proc(tmp_path / "proc")
    directory = proc.add(7, b"x", 0, 5, executable=PYTHON if script else "/usr/sbin/nginx")
    (directory / "maps").write_text(maps, encoding="utf-8")
    words = [interpreter, "-s", str(script), "start"] if script else ["nginx: master process"]
    (directory / "cmdline").write_text("\0".join(words), encoding="utf-8")
    began = (script.stat().st_ctime if script else BOOTED) - age
    (proc.path / "stat").write_text(f"cpu 1 2\nbtime {int(began) - 10}\n", encoding="ascii")
    ticks = 10 * os.sysconf("SC_CLK_TCK")
    numbers = " ".join(["S", *["0"] * 18, str(ticks), "0"])
    (directory / "stat").write_text(f"7 (a) b) {numbers}\n", encoding="ascii")
    return held(proc)


def test_process_has_its_libraries_and_those_that_are_gone(tmp_path: Path) -> None:
    """The executable is none of them."""
    holder = process(tmp_path, mapping("/usr/sbin/nginx") + mapping(LIBSSL) + mapping("/usr/lib/libz.so.1 (deleted)"))
    assert (holder.libraries, holder.replaced) == ((LIBSSL,), ("/usr/lib/libz.so.1",))


@pytest.mark.parametrize(
    "maps",
    [
        pytest.param("".join(mapping(f"/usr/lib/{number}.so") for number in range(2000)), id="many libraries"),
        pytest.param(mapping(f"/{'x' * 4000}") * 1100, id="many bytes"),
    ],
)
def test_process_with_too_many_mappings_has_unknown_libraries(tmp_path: Path, maps: str) -> None:
    """Some of them would look like all."""
    assert process(tmp_path, maps).libraries is None


def test_process_whose_maps_may_not_be_read_has_unknown_libraries(tmp_path: Path) -> None:
    """As that of another user, for an agent that does not run as root."""
    proc = Proc(tmp_path / "proc")
    proc.add(7, b"x", 0, 5, executable="/usr/sbin/nginx")
    assert held(proc).libraries is None


@pytest.mark.parametrize(("age", "expected"), [(60.0, True), (2.0, False), (-60.0, False)])
def test_script_of_a_package_that_is_newer_than_its_process_is_replaced(
    tmp_path: Path, age: float, *, expected: bool
) -> None:
    """The interpreter is still the same file; a process that began while the package was unpacked is left alone."""
    script = tmp_path / "fail2ban-server"
    script.write_text("", encoding="ascii")
    holder = process(tmp_path, mapping(PYTHON), script=script, age=age)
    assert (holder.script == str(script)) is expected
    owners = Known({str(script): Owner("fail2ban", "1.0.2-2", "fail2ban")})
    for known, replaced in ((owners, (str(script),) if expected else ()), (Known({}), ())):
        (found,), _ = with_packages([Listener("tcp", ANY, 80, holder)], known)
        assert found.holder.replaced == replaced


def test_file_that_another_program_is_given_is_no_script(tmp_path: Path) -> None:
    """Haproxy -f haproxy.cfg reads it again when it is told to, and is the same process then."""
    conf = tmp_path / "haproxy.cfg"
    conf.touch()
    assert process(tmp_path, mapping(PYTHON), script=conf, age=60.0, interpreter="/usr/sbin/haproxy").script is None


def test_command_line_that_fills_the_memory_is_not_read_whole(tmp_path: Path) -> None:
    """A process can make it of all of its memory; the agent reads the beginning."""
    holder = process(tmp_path, mapping("/usr/sbin/nginx"))
    command = tmp_path / "proc" / "7" / "cmdline"
    os.truncate(command, 1 << 40)
    assert held_again(tmp_path) == holder


def held_again(tmp_path: Path) -> Holder:
    """Return who holds the socket of process() now."""
    return (linux_listeners(tmp_path / "proc") or [])[0].holder


def some(port: int, user: str, *libraries: str, executable: str = "/usr/sbin/x") -> Listener:
    """Make a listener of a user."""
    return Listener("tcp", ANY, port, Holder("x", user, executable, libraries=libraries))


class Slow(Known):
    """Owners that do not tell of some files, nor of any file that is asked for with them."""

    def of(self, paths: list[str]) -> tuple[dict[str, Owner], str]:
        """Fail for names that begin with bad."""
        if any("/bad" in path for path in paths):
            return {}, "rpm did not tell"
        return super().of(paths)


def test_what_users_run_does_not_keep_out_what_root_runs() -> None:
    """However long their paths are, however many files they map, and however early their names come."""
    long = tuple(f"/home/eve/{'d/' * 490}{number}" for number in range(900))
    bad = tuple(f"/home/eve/bad{number}" for number in range(900))
    own = {LIBSSL: OPENSSL, "/usr/sbin/x": Owner("x", "1", "x")}
    listeners = [some(1024 + port, "eve", *files) for port, files in enumerate([long, bad] * 20)]
    listeners.append(some(60_000, "root", LIBSSL))
    found, owners = with_packages(listeners, Slow(own))
    assert (found[-1].holder.libraries, found[-1].holder.package) == ((LIBSSL,), "x")
    assert owners[LIBSSL] == OPENSSL
    crowd = [some(1024 + port, "eve", *[f"/usr/lib/{n}" for n in range(1000)]) for port in range(2000)]
    many = {f"/usr/lib/{number}": OPENSSL for number in range(6000)}
    items, files = _within([*crowd, some(60_000, "root", LIBSSL)], {**many, LIBSSL: OPENSSL}, 1_000_000)
    assert files[items[-1]["libraries"][0]][0] == LIBSSL


def test_libraries_of_a_process_of_many_sockets_take_the_room_of_one() -> None:
    """Sorting does not spell them for each socket."""
    holder = Holder("x", "eve", libraries=tuple(f"/usr/lib/{'x' * 200}{number}" for number in range(900)))
    tracemalloc.start()
    try:
        for port in range(1, 2000):
            assert _order(Listener("tcp", ANY, port, holder))[1] == port
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


CHILD = """
import mmap, os, socket, sys
file = os.open(sys.argv[1], os.O_RDONLY)
code = mmap.mmap(file, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_real_process_whose_library_was_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As dpkg does it: the new file is renamed over the old one, which the process has mapped."""
    monkeypatch.setattr(agent, "_TRANSIENT", re.compile("none"))
    library = tmp_path / "libfoo.so.1"
    library.write_bytes(bytes(mmap.PAGESIZE))
    command = [sys.executable, "-c", CHILD, str(library)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdin
        port = int(child.stdout.readline())
        before = holder_of(port)
        (tmp_path / "libfoo.so.1.dpkg-new").write_bytes(bytes(mmap.PAGESIZE))
        (tmp_path / "libfoo.so.1.dpkg-new").rename(library)
        after = holder_of(port)
        child.stdin.close()
    assert (str(library) in (before.libraries or ()), before.replaced) == (True, ())
    assert (str(library) in (after.libraries or ()), after.replaced) == (False, (str(library),))


def holder_of(port: int) -> Holder:
    """Return who really listens on a port of this machine."""
    (found,) = [each.holder for each in linux_listeners(Path("/proc")) or () if each.port == port]
    return found


def test_audit_has_each_file_once_and_processes_have_their_numbers() -> None:
    """The server reads what the agent writes; what no package owns is left out."""
    libraries = (LIBSSL, "/opt/x.so")
    holder = Holder("nginx", "www", "/usr/sbin/nginx", libraries=libraries, replaced=("/usr/lib/libz.so.1",))
    bare = Holder("x", "eve", libraries=())
    unseen = Holder("y", "eve")
    listeners = [Listener("tcp", ANY, port, each) for port, each in enumerate((holder, holder, bare, unseen), 1)]
    items, files = _within(listeners, {LIBSSL: OPENSSL, "/usr/bin/other": OPENSSL}, 1_000_000)
    assert files == [[LIBSSL, *OPENSSL]]
    payload = {**PLAIN, "listeners": items, "files": files, "kernel": {"running": "6.1.0-25-amd64", "newer": None}}
    found = read_payload(json.dumps(payload).encode())
    library = Library(LIBSSL, *OPENSSL)
    assert [item.libraries for item in found.listeners or ()] == [(library,), (library,), (), None]
    assert next(item.replaced for item in found.listeners or ()) == ("/usr/lib/libz.so.1",)
    assert found.kernel == Kernel("6.1.0-25-amd64")


@pytest.mark.parametrize(
    ("running", "images", "expected"),
    [
        ("6.1.0-25-amd64", {"6.1.0-25-amd64": 0, "6.1.0-28-amd64": 0}, (True, "6.1.0-28-amd64")),
        ("6.1.0-28-amd64", {"6.1.0-25-amd64": 9, "6.1.0-28-amd64": 0}, (True, None)),
        ("6.1.0-9-amd64", {"6.1.0-9-amd64": 0, "6.1.0-10-amd64": 0}, (True, "6.1.0-10-amd64")),
        ("6.1.0-25-amd64", {"6.1.0-25-amd64": 2}, (True, None)),  # its file may have been touched
        ("6.1.0-0.deb11.17-amd64", {"6.1.0-0.deb11.21-amd64": 0}, (True, "6.1.0-0.deb11.21-amd64")),
        ("4.19.0-27-amd64", {"6.1.0-0.deb11.21-amd64": 0}, (True, "6.1.0-0.deb11.21-amd64")),
        ("6.1.0-25-amd64", {"6.1.0-25-amd64": 0, "6.1.0-28-rt-amd64": 0}, (True, None)),
        ("6.1.0-25-cloud-amd64", {"6.1.0-28-amd64": 0}, (False, None)),
        ("6.12.57+deb13-amd64", {"6.12.57+deb13-amd64": 0, "6.12.63+deb13-amd64": 0}, (True, "6.12.63+deb13-amd64")),
        ("5.15.0-91-generic", {"5.15.0-91-generic": 0, "5.15.0-101-generic": 0}, (True, "5.15.0-101-generic")),
        (
            "5.14.0-427.13.1.el9_4.x86_64",
            {"5.14.0-427.13.1.el9_4.x86_64": 0, "5.14.0-503.11.1.el9_5.x86_64": 0},
            (True, "5.14.0-503.11.1.el9_5.x86_64"),
        ),
        ("6.8.5-301.fc40.x86_64", {"6.9.1-200.fc40.x86_64": 0}, (True, "6.9.1-200.fc40.x86_64")),
        ("6.12.1-arch1-1", {"6.12.3-arch1-1": 0}, (True, "6.12.3-arch1-1")),  # the old one is gone
        ("6.6.58-0-lts", {"lts": 0}, (True, None)),
        ("6.6.58-0-lts", {"lts": 2}, (True, "lts")),
        ("6.6.58-0-virt", {"lts": 2}, (False, None)),
        ("6.18.44-fc-v595", {"6.1.0-28-amd64": 9}, (False, None)),  # a machine whose kernel comes from its host
        ("6.1.0-25-amd64", {}, (False, None)),
        ("strange", {"6.1.0-25-amd64": 0}, (False, None)),
    ],
)  # fmt: skip
def test_kernel_is_newer_by_version_or_by_time(
    running: str, images: dict[str, float], expected: tuple[bool, str | None]
) -> None:
    """Among those of its flavour; booted at 1."""
    assert newer_kernel(running, 1, images) == expected


def test_kernels_are_found_in_boot_and_among_the_modules(tmp_path: Path) -> None:
    """Of Debian and others, or of Arch and Fedora; links and what is no kernel do not count."""
    boot, modules, proc = (tmp_path / name for name in ("boot", "modules", "proc"))
    proc.mkdir()
    (proc / "stat").write_text("btime 99999999999\n", encoding="ascii")
    assert kernel_of_linux(boot, modules, proc, "6.1.0-25-amd64") is None
    boot.mkdir()
    for name in (
        "vmlinuz-6.1.0-25-amd64",
        "vmlinuz-6.1.0-28-amd64",
        "initrd.img-6.1.0-30-amd64",
        "config-6.1.0-30-amd64",
    ):
        (boot / name).touch()
    (boot / "vmlinuz-6.1.0-99-amd64").symlink_to("/nowhere")
    expected = {"running": "6.1.0-25-amd64", "newer": "6.1.0-28-amd64"}
    assert kernel_of_linux(boot, modules, proc, "6.1.0-25-amd64") == expected
    (modules / "6.12.3-arch1-1").mkdir(parents=True)
    (modules / "6.12.3-arch1-1" / "vmlinuz").touch()
    assert kernel_of_linux(boot, modules, proc, "6.12.3-arch1-1") == {"running": "6.12.3-arch1-1", "newer": None}
    (proc / "stat").write_text("", encoding="ascii")
    assert kernel_of_linux(boot, modules, proc, "6.1.0-25-amd64") is None


def lines(values: Sequence[object]) -> bytes:
    """Return a payload with files, of which a listener has some."""
    files, libraries = values
    listener = {"protocol": "tcp", "address": ANY, "port": 80, "process": None, "user": None, "libraries": libraries}
    return json.dumps({**PLAIN, "files": files, "listeners": [listener]}).encode()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (([], [0]), "libraries: 0 is not the number of a file"),
        (([[LIBSSL, *OPENSSL]], [-1]), "libraries: -1 is not the number of a file"),
        (([[LIBSSL, *OPENSSL]], [True]), "libraries: True is not the number of a file"),
        (([[LIBSSL, *OPENSSL]], ["0"]), "libraries: '0' is not the number of a file"),
        (([[LIBSSL]], []), "files: expected path, package, version and source, found"),
        (([[1, 2, 3, 4]], []), "files: expected at most 4 strings of at most 1000 characters"),
        (([["/x", "a", "b", "c"]] * 20_001, []), "files: more than 20,000"),
        (("x", []), "expected list, found 'x'"),
    ],
)
def test_files_that_are_none_are_refused(values: Sequence[object], message: str) -> None:
    """With what was expected."""
    with pytest.raises(ValueError, match=message) as error:
        read_payload(lines(values))
    assert "the payload cannot be read" in str(error.value)
