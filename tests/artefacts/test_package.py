from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.unit.cli.run import call

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(target.glob("*.whl"))


def test_wheel_holds_all_that_the_package_needs(wheel: Path) -> None:
    """Every file of the package is in the wheel: modules, templates, py.typed."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "exporter"
    files = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} <= packed
    assert "portspec/py.typed" in packed
    assert "portspec/web/templates/index.html" in packed


def test_wheel_has_the_files_that_assets_writes(wheel: Path) -> None:
    """`portspec assets` writes the same files from the wheel as from a clone."""
    packed = zipfile.ZipFile(wheel)
    prefix = "portspec/assets/"
    names = {name.removeprefix(prefix) for name in packed.namelist() if name.startswith(prefix)}
    listed = call("assets").out.splitlines()
    assert names == set(listed)
    for name in listed:
        assert packed.read(prefix + name) == (ROOT / name).read_bytes()


def test_wheel_runs_by_itself(wheel: Path, tmp_path: Path) -> None:
    """The wheel alone, away from the repository, serves its help and checks a file."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    conf = tmp_path / "conf.yml"
    conf.write_text("hosts: {127.0.0.1: [22]}\nscanports: [22]\n", encoding="utf-8")
    check = "c.main(['check', '-c', 'conf.yml'])"
    program = f"import sys, portspec, portspec.cli as c; print(portspec.__file__); sys.exit({check})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
