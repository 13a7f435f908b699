from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.requirements import missing

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "portspec.service"
DROP_INS = {
    "plain": (),
    "raw": ("raw.conf",),
    "all": ("raw.conf", "reportfile.conf", "credentials.conf"),
}
MOST_EXPOSED = 2.0  # of 10; systemd-analyze calls up to 2.0 "OK"


@pytest.fixture(params=DROP_INS)
def unit(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return the unit with a program that is there, without drop-ins, with the one for raw sockets, and with all."""
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze (Debian: systemd) is not installed")
    path = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    path.write_text(text.replace("/opt/portspec/bin/portspec", "/bin/true"), encoding="utf-8")
    directory = tmp_path / f"{UNIT.name}.d"
    directory.mkdir()
    for name in DROP_INS[request.param]:
        shutil.copy(UNIT.with_name(name), directory)
    return path


def test_every_drop_in_is_tested() -> None:
    """The files beside the unit are the drop-ins that the other tests add."""
    assert {path.name for path in UNIT.parent.glob("*.conf")} == set(DROP_INS["all"])


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    """`systemd-analyze verify` says nothing."""
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    about_it = [line for line in (done.stdout + done.stderr).splitlines() if "portspec" in line]
    assert (done.returncode, about_it) == (0, [])


def test_systemd_finds_nothing_wrong_with_the_units_of_the_agent(tmp_path: Path) -> None:
    """`systemd-analyze verify` says nothing of the service and the timer that run portspec-send."""
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze (Debian: systemd) is not installed")
    for path in (ROOT / "deploy" / "agent").glob("portspec-send.[st]*"):
        text = path.read_text(encoding="utf-8").replace("/usr/local/bin/portspec-send", "/bin/true")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    units = sorted(map(str, tmp_path.iterdir()))
    assert [Path(unit).suffix for unit in units] == [".service", ".timer"]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    about_them = [line for line in (done.stdout + done.stderr).splitlines() if "portspec" in line]
    assert (done.returncode, about_them) == (0, [])


def test_unit_is_well_confined(unit: Path) -> None:
    """`systemd-analyze security` counts little that the service could do beyond its work."""
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for portspec.service: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_unit_and_page_name_the_same_paths() -> None:
    """The paths of docs/deployment/systemd.md are those of the unit, and the constraints it names are there."""
    page = (ROOT / "docs" / "deployment" / "systemd.md").read_text(encoding="utf-8")
    start = re.search(r"^ExecStart=(\S+) -c (\S+)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    assert start
    assert start[1] in page
    assert start[2] in page
    assert (ROOT / "constraints.txt").exists()
