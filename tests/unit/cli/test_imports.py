"""What each command imports: an import that a command does not need delays its start."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import pytest

from tests.unit.cli.run import environment

if TYPE_CHECKING:
    from pathlib import Path

_CONF: Final = """
hosts: {127.0.0.1: []}
scanports: [9]
scan: {engine: connect, timeout: 0.1s, retries: 0, confirm: 1}
audit: {passphrase: "a passphrase of the tests", hosts: [web1]}
state: state.db
"""
# Prints what is imported at the end of a command, the standard library only as far as it is large.
_PROGRAM: Final = """
import os, sys
from portspec.__main__ import main
sys.stdout = open(os.devnull, "w")
try:
    main()
except SystemExit:
    pass
libraries = {
    name.partition(".")[0] for name, module in sys.modules.items()
    if "-packages" in (getattr(module, "__file__", None) or "") and not name.startswith(("portspec", "_"))
}
large = set(sys.modules) & {"asyncio", "ctypes", "http.client", "numpy.ma", "sqlite3", "ssl", "xml.etree.ElementTree"}
print(*sorted(libraries | large), file=sys.__stdout__)
"""
_PYDANTIC: Final = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
_CONFIGURATION: Final = _PYDANTIC | {"yaml", "idna", "asyncio", "ssl"}
_SCAN: Final = _CONFIGURATION | {"msgspec", "ctypes"}
_STATE: Final = {"sqlite3", "zstandard"}


def _older(library: str, bound: tuple[int, int]) -> bool:
    """Whether the installed `library` is older than the version `bound`, (major, minor)."""
    major, minor = version(library).split(".")[:2]
    return (int(major), int(minor)) < bound


@pytest.mark.skipif(_older("pydantic", (2, 11)), reason="older releases of the libraries import others")
@pytest.mark.parametrize(
    ("command", "imported"),
    [
        ("--version", set()),
        ("scan --help", set()),
        ("reload", {"http.client", "ssl"}),
        ("maintenance --list", {"http.client", "ssl"}),
        ("key -c conf.yml web1", _CONFIGURATION),
        ("check -c conf.yml", _SCAN | _STATE),
        ("scan -c conf.yml --json", _SCAN),
        ("scan -c conf.yml", _SCAN | {"rich"}),
    ],
)
def test_a_command_imports_what_it_needs_and_nothing_else(command: str, imported: set[str], tmp_path: Path) -> None:
    """A command imports the libraries that it needs, and no other."""
    (tmp_path / "conf.yml").write_text(_CONF, "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *command.split()],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == imported, done.stderr


@pytest.mark.skipif(_older("numpy", (2, 0)), reason="numpy 1 imports its masked arrays itself")
def test_the_syn_engine_imports_numpy_without_its_masked_arrays(tmp_path: Path) -> None:
    """The SYN engine imports numpy without its masked arrays."""
    program = "import sys; import portspec.scan.syn.engine; print('numpy' in sys.modules, 'numpy.ma' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
