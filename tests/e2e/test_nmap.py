"""Scan results as nmap writes them, read by the programs that come with nmap."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from portspec.state.nmap_xml import NmapRun, nmap_xml
from portspec.state.snapshot import HostState
from tests.requirements import require
from tests.unit.factories import NOW, result, seen, target

if TYPE_CHECKING:
    from pathlib import Path

    from portspec.scan import AddressObservation

WEB = target("web1", expect=[22, 443])
OTHER = target("192.0.2.2")


def export(path: Path, at: float, *addresses: AddressObservation) -> Path:
    """Write the state after a scan of two hosts, whose observations come in their order."""
    states = [HostState(of).after(result(of, one, at=at)) for of, one in zip((WEB, OTHER), addresses, strict=False)]
    path.write_bytes(b"".join(nmap_xml(states, NmapRun("portspec scan", "connect", at))))
    return path


def test_ndiff_shows_what_changed_between_two_scans(tmp_path: Path) -> None:
    """A port that was opened, one that was closed, and a host that is silent now, are what ndiff finds."""
    ndiff = require("ndiff")
    same = seen("192.0.2.2", is_open=[80])
    before = export(tmp_path / "before.xml", NOW, seen(is_open=[22, 443]), same)
    after = export(tmp_path / "after.xml", NOW + 3600, seen(is_open=[22, 80]), same)
    silent = export(tmp_path / "silent.xml", NOW + 7200, seen(filtered=[22, 80, 443]), same)
    equal = subprocess.run([ndiff, "--text", before, before], check=False, capture_output=True, text=True)
    assert (equal.returncode, equal.stderr) == (0, "")
    done = subprocess.run([ndiff, "--text", before, after], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    changed = [" ".join(line.split()) for line in done.stdout.splitlines() if line[:1] in "+-"]
    assert "web1 (192.0.2.1):" in done.stdout
    assert "192.0.2.2" not in done.stdout
    assert "+80/tcp open http" in changed
    assert {"-443/tcp open https", "+443/tcp closed https"} <= set(changed)
    gone = subprocess.run([ndiff, "--text", before, silent], check=False, capture_output=True, text=True)
    assert gone.returncode == 1
    assert "-Host is up." in gone.stdout
    assert "+Host is down." in gone.stdout
