"""`make run` in a checkout of the test's own: the real Makefile, venv and pip, and a project that needs no network.

All but one of the environments take pip from the environment of the tests, since ensurepip takes five seconds of a
processor for it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.requirements import forbidden, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
#: In place of the 120 seconds of other tests, in which a busy machine makes no two environments.
pytestmark = pytest.mark.timeout(900)
LIMIT: Final = 300.0  # seconds; a venv takes five of a processor, and much longer beside other work
PYTHON: Final = str(Path(sys.executable).resolve())
# The interpreter, whose `-m venv DIRECTORY` alone is another: with a pip that is there already.
_QUICK_PYTHON: Final = f"""\
#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec "{PYTHON}" "$@"
"{PYTHON}" -m venv --without-pip "$3"
cd "{distribution("pip").locate_file("")}"
exec ln -s "$PWD"/pip "$PWD"/pip-*.dist-info "$OLDPWD/$3"/lib/python*/site-packages
"""
_PROJECT: Final = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "portspec"
version = "1"
"""
# A backend of PEP 660 that needs no package: a wheel with nothing but the command.
_BACKEND: Final = """\
import zipfile
FILES = {
    "METADATA": "Metadata-Version: 2.1\\nName: portspec\\nVersion: 1\\n",
    "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "entry_points.txt": "[console_scripts]\\nportspec = started:main\\n",
    "RECORD": "",
}
def build_editable(directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{directory}/portspec-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("started.py", "import sys\\ndef main(): print('started in', sys.prefix, *sys.argv[1:])\\n")
        for name, text in FILES.items():
            wheel.writestr(f"portspec-1.dist-info/{name}", text)
    return "portspec-1-py3-none-any.whl"
build_wheel = build_editable
"""
_TOOLS: Final = ("sh", "make", "cat", "cksum", "dirname", "rm", "mkdir", "id", "flock", "nproc", "env", "sed")


class Checkout:
    """A directory in which `make run` sets up a small project."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "tests").mkdir(parents=True)
        for name in ("venv.sh", "packages.sh", "packages.txt", "exim.sh", "helm.sh"):
            shutil.copy(ROOT / "tests" / name, directory / "tests" / name)
        shutil.copy(ROOT / "Makefile", directory)
        (directory / "pyproject.toml").write_text(_PROJECT)
        (directory / "backend.py").write_text(_BACKEND)
        (directory / "constraints.txt").write_text("")
        (directory / "tests/constraints.txt").write_text("")
        python = directory.with_name("quick-python")  # the directory may be moved
        python.write_text(_QUICK_PYTHON)
        python.chmod(0o755)
        self.environment = {
            "PATH": f"{Path(PYTHON).parent}:{os.environ['PATH']}",
            "HOME": str(directory),
            "PIP_NO_INDEX": "1",
            "PYTHON": str(python),
        }

    def make(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command, such as make, to its end."""
        return subprocess.run(
            command,
            cwd=self.directory,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def runs(self, **environment: str) -> bool:
        """Return whether `make run` gets as far as the program, and which .venv that is in."""
        done = self.make("make", "run", **environment)
        assert f"started in {self.directory}/.venv -c conf.yml\n" in done.stdout, (done.stdout, done.stderr)
        return done.returncode == 0


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Return a checkout in which nothing is set up yet, at a path with a blank in it."""
    return Checkout(tmp_path / "a checkout")


@pytest.fixture
def silent_index() -> Iterator[str]:
    """Return the URL of a package index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_set_up_is_made_anew(checkout: Checkout, silent_index: str, number: signal.Signals) -> None:
    """After Ctrl-C or a crash while pip works, and wherever the checkout is moved, the next `make run` works."""
    (checkout.directory / "constraints.txt").write_text(f"portspec-needs-this==1 --hash=sha256:{64 * '0'}\n")
    with subprocess.Popen(
        ["make", "run"],
        cwd=checkout.directory,
        env={**checkout.environment, "PIP_NO_INDEX": "0", "PIP_INDEX_URL": silent_index},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            while "portspec-needs-this" not in (line := process.stdout.readline()) and "Looking in" not in line:
                assert line, "make ended before pip began"
        finally:
            os.killpg(process.pid, number)
        process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert (checkout.directory / ".venv/bin/python").exists()  # this is what was half-made
    (checkout.directory / "constraints.txt").write_text("")
    assert checkout.runs()
    before = (checkout.directory / ".venv/pyvenv.cfg").stat().st_ino
    assert checkout.runs()
    assert (checkout.directory / ".venv/pyvenv.cfg").stat().st_ino == before  # what is whole is left alone
    checkout.directory = checkout.directory.rename(checkout.directory.with_name("moved"))
    assert checkout.runs()


def test_failed_download_is_told_and_mended(checkout: Checkout) -> None:
    """Where pip finds no package, make says that it is not finished; called again, it begins anew."""
    (checkout.directory / "constraints.txt").write_text(f"portspec-needs-this==1 --hash=sha256:{64 * '0'}\n")
    done = checkout.make("make", "run")
    assert done.returncode != 0
    assert "setting up .venv" in done.stdout
    assert "portspec-needs-this" in done.stderr
    assert (
        f"make: {checkout.directory}/.venv is not finished; mend what is said above and call make again" in done.stderr
    )
    (checkout.directory / "constraints.txt").write_text("")
    assert checkout.runs(PYTHON=PYTHON)


def test_unusable_interpreter_is_told(checkout: Checkout) -> None:
    """A Python that is missing or too old is told with what to do, and leaves nothing behind."""
    old = checkout.directory / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit $(( $# > 1 ))\n')
    old.chmod(0o755)
    told = {
        "no-such-python": "make: no-such-python cannot be run; portspec needs Python 3.11 or later",
        str(old): f"make: portspec needs Python 3.11 or later, and {old} is Python 3.9.2; name another",
    }
    for python, message in told.items():
        done = checkout.make("make", "run", PYTHON=python)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not (checkout.directory / ".venv").exists()


def test_missing_ensurepip_is_told(checkout: Checkout) -> None:
    """Where Python has venv but no ensurepip, the command that installs it is told, and nothing is left behind."""
    unshare = shutil.which("unshare")
    if unshare is None:
        missing("unshare (util-linux) is not installed")
    apart = [unshare, "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user"))]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        forbidden("no mount namespaces here")
    programs = checkout.directory / "bin"
    programs.mkdir()
    for tool in _TOOLS:
        if (path := shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")) is not None:
            (programs / tool).symlink_to(path)
    (programs / "python3").symlink_to(PYTHON)
    where = "import ensurepip; print(ensurepip.__path__[0])"
    ensurepip = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    hidden = (*apart, "sh", "-c", f'mount -t tmpfs none "{ensurepip}" && PATH="{programs}" PYTHON= exec "$@"', "sh")
    told = "install it: sudo apt-get install python3-venv"
    done = checkout.make(*hidden, "make", "run")
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert not (checkout.directory / ".venv").exists()


def test_help_lists_each_target_that_is_for_people(checkout: Checkout) -> None:
    """`make` without a target shows every target of README and CONTRIBUTING with what it does, and no comment."""
    done = checkout.make("make")
    listed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("  make ")}
    assert listed >= {"run", "test", "check", "matrix", "venv", "lint", "bench", "audit", "lab", "constraints", "dist"}
    assert "clean" in listed
    assert "##" not in done.stdout
    assert all(len(line.split()) > 2 for line in done.stdout.splitlines())
