from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import portspec
from tests.requirements import missing
from tests.unit.cli.run import call
from tests.wheels import WheelsError, wheels

ROOT = Path(__file__).parents[2]
#: The SHA-256 hashes of a requirement, behind its name, version and marker.
PIN: Final = re.compile(r"^([\w.-]+)==(\S+)[^\\]*\\\n((?:    --hash=.*\n)+)", re.MULTILINE)


def build(source: Path, kind: str, target: Path) -> Path:
    """Build the wheel or the sdist of a directory."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing of the tests' own environment on its path."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "LANG": "C.UTF-8", **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    return build(ROOT, "wheel", tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def dependencies(pytestconfig: pytest.Config) -> Path:
    """Return a directory with the wheels of constraints.txt for this interpreter."""
    assert pytestconfig.cache is not None
    try:
        return wheels(pytestconfig.cache.mkdir("wheels"), platform.python_version())
    except WheelsError as error:
        missing(str(error))


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


def test_wheel_does_its_work_in_an_empty_environment(wheel: Path, dependencies: Path, tmp_path: Path) -> None:
    """Installed by pip with nothing else there, `check`, `scan` and `assets` work."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", "--quiet", "--no-compile")
    done = run(*pip, "--no-index", "--find-links", dependencies, wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    program = venv / "bin" / "portspec"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        conf = {"hosts": {"127.0.0.1": [port]}, "scanports": [port]}
        (tmp_path / "conf.yml").write_text(json.dumps(conf), encoding="utf-8")
        done = run(program, "check", "-c", "conf.yml", cwd=tmp_path)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "conf.yml is valid."), done.stderr
        done = run(program, "scan", "-c", "conf.yml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (host,) = json.loads(done.stdout)["hosts"]
    assert [address["open"] for address in host["addresses"]] == [[str(port)]]
    done = run(program, "assets", "--output", "assets", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "assets" / "conf.yml").read_bytes() == (ROOT / "conf.yml").read_bytes()


def test_uv_tool_installs_both_programs(wheel: Path, dependencies: Path, tmp_path: Path) -> None:
    """`uv tool install` of docs/deployment/packages.md takes the wheel, and both programs start."""
    uv = Path(sys.executable).with_name("uv")
    options = ("--offline", "--no-index", "--find-links", dependencies, "--python", sys.executable)
    own = {f"UV_{name}_DIR": str(tmp_path / name.lower()) for name in ("TOOL", "TOOL_BIN", "CACHE")}
    command = (uv, "tool", "install", *options, "--constraints", ROOT / "constraints.txt", wheel)
    done = run(*command, cwd=tmp_path, **own)
    assert done.returncode == 0, done.stderr
    assert run(tmp_path / "tool_bin/portspec", "version", cwd=tmp_path).stdout.startswith(
        f"portspec {portspec.__version__}"
    )
    assert run(tmp_path / "tool_bin/portspec-send", "--help", cwd=tmp_path).returncode == 0


def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """The source distribution has all that the wheel is made of: it builds a wheel with the same bytes."""
    sdist = build(ROOT, "sdist", tmp_path / "dist")
    subprocess.run(["tar", "-C", tmp_path, "-xf", sdist], check=True)
    again = build(tmp_path / sdist.name.removesuffix(".tar.gz"), "wheel", tmp_path / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert other.namelist() == one.namelist()
        assert [name for name in one.namelist() if one.read(name) != other.read(name)] == []


def test_bill_of_materials_lists_each_dependency(tmp_path: Path) -> None:
    """It is valid CycloneDX 1.6, and has each requirement of constraints.txt with version, purl and hashes."""
    subprocess.run(["sh", ROOT / "deploy" / "sbom.sh", tmp_path], check=True, env=os.environ)
    written = (tmp_path / f"portspec-{portspec.__version__}.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written) is None
    document: dict[str, Any] = json.loads(written)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    component = document["metadata"]["component"]
    assert (component["name"], component["version"]) == ("portspec", portspec.__version__)
    found = {
        part["purl"]: {
            digest["content"]
            for reference in part["externalReferences"]
            for digest in reference["hashes"]
            if digest["alg"] == "SHA-256"
        }
        for part in document["components"]
    }
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = PIN.findall(constraints)
    assert len(pins) == len(re.findall(r"^\w", constraints, re.MULTILINE))
    assert found == {
        f"pkg:pypi/{name}@{version}": set(re.findall(r"--hash=sha256:(\w+)", hashes)) for name, version, hashes in pins
    }
