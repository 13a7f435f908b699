"""The Debian package: built in the smallest system that debootstrap makes, and installed there without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.debian import DebianError, system
from tests.e2e.machine import SYSTEM, Machine, MachineError
from tests.requirements import forbidden, missing
from tests.wheels import WheelsError, python_version, wheels

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(900)  # the first one may have to run debootstrap
ROOT: Final = Path(__file__).parents[2]
CONF: Final = "/etc/portspec/portspec.yml"
SOURCE: Final = "/usr/src/portspec"
WHEELS: Final = "/usr/src/wheels"
OUT: Final = "/usr/src/out"
PORT: Final = 8080
BUILD: Final = f"TMPDIR=%s sh {SOURCE}/deploy/debian/build.sh {OUT}/*.whl %s"

# Mounts, network and processes end with the shell.
_RUN: Final = f"""\
set -eu
root=$1 source=$2 wheels=$3 out=$4
mount -t proc proc "$root/proc"
mount --bind "$source" "$root{SOURCE}"
mount -o remount,bind,ro "$root{SOURCE}"
mount --bind "$wheels" "$root{WHEELS}"
mount --bind "$out" "$root{OUT}"
ip link set lo up
exec chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \\
    PIP_NO_INDEX=1 PIP_FIND_LINKS={WHEELS} DPKG_DEB_COMPRESSOR_TYPE=gzip DPKG_DEB_COMPRESSOR_LEVEL=1 sh -c "$5"
"""


class Debian:
    """The root directory of a system in which commands are run, with a network of its own that has only loopback."""

    def __init__(self, root: Path, found: Path, out: Path) -> None:
        self.root = root
        self.out = out
        self._wheels = found
        for path in (SOURCE, WHEELS, OUT):
            (root / path.lstrip("/")).mkdir()
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (root / "etc/dpkg/dpkg.cfg.d/test").write_text("force-unsafe-io\n")  # thousands of files, each synchronised

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell as root."""
        return subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", _RUN, "sh",
             str(self.root), str(ROOT), str(self._wheels), str(self.out), command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300.0,
            check=False,
        )  # fmt: skip

    def succeed(self, command: str) -> str:
        """Run a line of shell that must not fail; return what it prints."""
        done = self.run(command)
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def files(self) -> set[str]:
        """Return all files, but for what dpkg and the tools for users write down."""
        own = (
            "var/lib/dpkg/",
            "var/log/",
            "etc/passwd",
            "etc/group",
            "etc/shadow",
            "etc/gshadow",
            "etc/sub",
            "usr/src/",
        )
        found = (str(path.relative_to(self.root)) for path in self.root.rglob("*"))
        return {path for path in found if not path.startswith(own)}


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Debian]:
    """Unpack a system and build the package there."""
    if os.geteuid() != 0:
        forbidden("an ordinary user may not change the root directory")
    if lacking := [name for name in ("debootstrap", "unshare", "ip") if not shutil.which(name)]:
        missing(f"not installed: {', '.join(lacking)}")
    assert pytestconfig.cache is not None
    directory = tmp_path_factory.mktemp("debian")
    root, out = directory / "root", directory / "out"
    root.mkdir()
    out.mkdir()
    try:
        cache = pytestconfig.cache.mkdir("image")
        subprocess.run(["tar", "-C", str(root), "-xpf", str(system(cache))], check=True)
        found = wheels(cache, python_version(root))
    except (DebianError, WheelsError) as error:
        missing(f"no system: {error}")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    try:
        made = Debian(root, found, out)
        made.succeed(BUILD % ("/tmp", OUT))
        yield made
    finally:
        shutil.rmtree(directory)  # 300 MB


def _install(debian: Debian) -> None:
    """Install the package, anew unless it is as it was after that."""
    verified = debian.run("dpkg --verify portspec")
    if (verified.returncode, verified.stdout) != (0, ""):
        debian.succeed("dpkg --purge portspec")
        debian.succeed(f"dpkg --install {OUT}/portspec_*.deb")


def _user_and_owners_are_those_of_the_documentation(installed: Debian, __: set[str]) -> None:
    """Have a user without shell and home, and a configuration for root and for this user, who can check it."""
    name, _, _, _, _, home, shell = installed.succeed("getent passwd portspec").strip().split(":")
    assert (name, home, shell) == ("portspec", "/nonexistent", "/usr/sbin/nologin")
    assert installed.succeed(f"stat -c '%A %U:%G' /etc/portspec {CONF}").splitlines() == [
        "drwxr-x--- root:portspec",
        "-rw-r----- root:portspec",
    ]
    done = installed.succeed("setpriv --reuid=portspec --regid=portspec --clear-groups portspec check")
    assert "warning" not in done
    assert installed.run(f"setpriv --reuid=nobody --regid=nogroup --clear-groups cat {CONF}").returncode != 0


def _installed_program_scans(installed: Debian, _: set[str]) -> None:
    """`portspec scan` finds the port that is open on loopback, and no other."""
    (installed.out / "conf.yml").write_text(json.dumps({"hosts": {"127.0.0.1": [PORT]}, "scanports": ["1-10000"]}))
    program = (
        f"import socket, subprocess; s = socket.create_server(('127.0.0.1', {PORT})); "
        f"raise SystemExit(subprocess.call(['portspec', 'scan', '--json', '-c', '{OUT}/conf.yml']))"
    )
    output = installed.succeed(f'python3 -c "{program}" 2>/dev/null')
    (host,) = json.loads(output)["hosts"]
    assert host["verdict"] == "in_spec"
    assert [address["open"] for address in host["addresses"]] == [[str(PORT)]]


def _package_has_what_debian_expects_of_a_service(installed: Debian, _: set[str]) -> None:
    """Manual pages, completion, unit, licence and examples are where Debian has them; no file is other than built."""
    assert installed.succeed("dpkg --verify portspec") == ""
    for name in ("portspec", "portspec-send"):
        assert installed.succeed(f"zcat /usr/share/man/man1/{name}.1.gz | grep -m 1 '^\\.TH'")
        installed.succeed(f"{name} --help")
        for path in (
            "bash-completion/completions/%s",
            "zsh/vendor-completions/_%s",
            "fish/vendor_completions.d/%s.fish",
        ):
            installed.succeed(f"test -s /usr/share/{path % name}")
    unit = ROOT / "deploy" / "systemd" / "portspec.service"
    assert installed.succeed("cat /usr/lib/systemd/system/portspec.service") == unit.read_text(encoding="utf-8")
    page = next(
        line for line in unit.read_text(encoding="utf-8").splitlines() if line.startswith("Documentation=file:")
    )
    installed.succeed(f"test -s {page.removeprefix('Documentation=file:')}")
    installed.succeed("cd /usr/share/doc/portspec && zcat changelog.gz && test -s copyright -a -s examples/raw.conf")
    assert "not found" not in installed.succeed("find /opt/portspec -name '*.so' -exec ldd {} +")


def _programs_write_nothing_into_the_installation(installed: Debian, _: set[str]) -> None:
    """All modules are compiled, and the compiled ones are valid: a check by root adds no file and changes none."""
    was = installed.succeed("find /opt/portspec -type f -newer /var/lib/dpkg/info/portspec.list")
    files = installed.files()
    installed.succeed("portspec check")
    assert installed.succeed("find /opt/portspec -type f -newer /var/lib/dpkg/info/portspec.list") == was
    assert installed.files() == files


def _changed_configuration_survives_a_reinstallation(installed: Debian, _: set[str]) -> None:
    """Keep what the administrator wrote, and its mode, at a reinstallation and at a removal."""
    installed.succeed(f"echo '# mine' >> {CONF} && chmod 600 {CONF} && chown portspec:adm {CONF}")
    for command in ("true", "dpkg --remove portspec && test ! -e /opt/portspec"):
        installed.succeed(f"{command} && dpkg --install {OUT}/portspec_*.deb")
        assert installed.succeed(f"tail -n 1 {CONF}") == "# mine\n"
        assert installed.succeed(f"stat -c '%a %U:%G' {CONF}") == "600 portspec:adm\n"


def _purge_leaves_nothing(installed: Debian, before: set[str]) -> None:
    """Take configuration, state, user and group along at a purge."""
    installed.succeed("install -d -o portspec /var/lib/portspec && touch /var/lib/portspec/portspec.db")
    installed.succeed("touch /etc/portspec/passphrase")
    installed.succeed("dpkg --purge portspec")
    files = installed.files()
    assert files <= before
    assert before - files <= {"opt"}  # dpkg removes it if nothing else is in it
    assert installed.run("getent passwd portspec || getent group portspec").returncode != 0


def _package_is_not_mixed_with_an_installation_by_hand(debian: Debian, before: set[str]) -> None:
    """Where /opt/portspec is an environment of the administrator's, dpkg installs nothing and says what to do."""
    debian.succeed("dpkg --purge portspec")
    debian.succeed("mkdir -p /opt/portspec && echo mine > /opt/portspec/pyvenv.cfg")
    done = debian.run(f"dpkg --install {OUT}/portspec_*.deb")
    assert done.returncode != 0
    assert "rm -rf /opt/portspec" in done.stdout
    assert debian.succeed("cat /opt/portspec/pyvenv.cfg; rm -r /opt/portspec") == "mine\n"
    assert debian.files() == before


def _package_is_reproducible(debian: Debian, _: set[str]) -> None:
    """Built again, in another directory, the package has the same bytes."""
    debian.succeed(f"mkdir {OUT}/again && {BUILD % ('/var/tmp', f'{OUT}/again')}")
    debian.succeed(f"cmp {OUT}/portspec_*.deb {OUT}/again/portspec_*.deb")


@contextmanager
def _machine(debian: Debian, directory: Path) -> Iterator[Machine]:
    """Boot a machine that has the package as a file."""
    if Path("/") != SYSTEM:
        missing("the package is for this machine's release, and $PORTSPEC_TEST_ROOT may be another")
    if lacking := Machine.missing():
        missing(f"no machine: {lacking}")
    (package,) = debian.out.glob("*.deb")
    try:
        with Machine(directory, debian.out) as found:
            found.run("userdel portspec")  # one of the machine that the tests run on
            found.succeed("cat > /root/portspec.deb", stdin=package.read_bytes())
            yield found
    except MachineError as error:
        missing(f"no machine: {error}")


def _service_is_started_by_the_administrator_alone(machine: Machine) -> None:
    """Start nothing at an installation, restart at an upgrade what runs, stop it at a removal, forget it at a purge."""
    install = "dpkg --install /root/portspec.deb"
    pid = "systemctl show --property=MainPID --value portspec"
    machine.succeed(install)
    assert machine.run("systemctl is-enabled portspec").output == "disabled\n"
    assert machine.run("systemctl is-active portspec").output == "inactive\n"
    machine.succeed(f"echo '{{hosts: {{127.0.0.1: [10190]}}, scanports: [10190]}}' > {CONF}")
    machine.succeed("systemctl enable --now portspec")
    first = machine.succeed(pid)
    machine.succeed(install)
    assert machine.succeed("curl -sS --fail http://localhost:10190/-/healthy") == "portspec is healthy.\n"
    assert machine.succeed(pid) not in (first, "0\n")
    machine.succeed("dpkg --remove portspec")
    assert machine.run("systemctl is-active portspec").output == "inactive\n"
    assert machine.run("pgrep -u portspec").output == ""
    machine.succeed(f"test -s /var/lib/portspec/portspec.db && {install} && systemctl start portspec")
    machine.succeed("dpkg --purge portspec")
    left = machine.run(
        "ls -d /etc/portspec /var/lib/portspec /etc/systemd/system/*.wants/portspec.service; id portspec"
    )
    assert left.output.count("No such file or directory") == 3
    assert "no such user" in left.output


def test_package(debian: Debian, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """The package is installed, used, reinstalled and purged as an administrator of Debian expects.

    One test, since each process that runs tests would build the package.
    """
    before = debian.files()
    for check in (
        _user_and_owners_are_those_of_the_documentation,
        _installed_program_scans,
        _package_has_what_debian_expects_of_a_service,
        _programs_write_nothing_into_the_installation,
        _changed_configuration_survives_a_reinstallation,
        _purge_leaves_nothing,
    ):
        with subtests.test(check.__doc__):
            _install(debian)
            check(debian, before)
    debian.succeed("dpkg --purge portspec")
    with subtests.test(_package_is_not_mixed_with_an_installation_by_hand.__doc__):
        _package_is_not_mixed_with_an_installation_by_hand(debian, before)
    with subtests.test(_package_is_reproducible.__doc__):
        _package_is_reproducible(debian, before)
    with subtests.test(_service_is_started_by_the_administrator_alone.__doc__), _machine(debian, tmp_path) as machine:
        _service_is_started_by_the_administrator_alone(machine)
