from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .program import PROGRAM, QUICK, configure
from .truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .network import Lab

WEB: Final = "198.18.7.1"
DB: Final = "2001:db8:18::7"
EXPORTER: Final = "127.0.0.1:10190"
NONE: Final = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0000000000000000")


def metrics(lab: Lab) -> dict[str, str]:
    """Fetch the exporter's metrics: values by name and labels."""
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode(), end='')"
    page = lab.run([sys.executable, "-c", code, f"http://{EXPORTER}/metrics"], check=True).stdout
    return dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))


def capabilities(pid: int) -> dict[str, dict[str, str]]:
    """Return the capability sets of each thread, by its name."""
    found = {}
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        fields = dict(line.split(":\t", 1) for line in status.read_text(encoding="utf-8").splitlines())
        found[f"{fields['Name']} {fields['Pid']}"] = {name: fields[name].strip() for name in NONE}
    return found


def wait_for_rounds(log: Iterable[str], count: int) -> None:
    """Read JSON log lines until so many rounds have finished."""
    for line in log:
        count -= json.loads(line)["event"] == "round finished"
        if not count:
            return
    raise AssertionError("the exporter has ended")


def test_exporter_keeps_no_capability_and_works(lab: Lab, tmp_path: Path) -> None:
    """Started as root with the SYN engine, no thread has any capability left, and round after round is right."""
    lab.apply(
        [
            HostTruth("web.lab", (WEB,), {(WEB, 80): State.OPEN, (WEB, 81): State.DROPPED}),
            HostTruth("db.lab", (DB,), {(DB, 22): State.OPEN, (DB, 23): State.OPEN}),
        ]
    )
    conf = configure(
        tmp_path, {"web.lab": [80], "db.lab": [22, 80]}, ["1-2000"], interval=1, scan=QUICK | {"engine": "syn"}
    )
    argv = [*PROGRAM, "-c", str(conf), "-j", "--web.listen-address", EXPORTER]
    exporter = lab.popen(argv, stdout=subprocess.PIPE)
    try:
        assert exporter.stdout is not None
        log = iter(exporter.stdout)
        wait_for_rounds(log, 1)
        threads = capabilities(exporter.pid)
        assert threads == dict.fromkeys(threads, NONE)
        assert len(threads) > 2  # the engine that scans, the one that confirms, and who serves
        lab.open_port(WEB, 1000)
        lab.close_port(DB, 23)
        wait_for_rounds(log, 2)  # the first of them may have begun before
        threads = capabilities(exporter.pid)
        assert threads == dict.fromkeys(threads, NONE)
        seen = metrics(lab)
        assert seen['portspec_engine_info{engine="syn"}'] == "1.0"
        assert (seen['port_open{host="web.lab",port="80"}'], seen['port_open{host="web.lab",port="1000"}']) == (
            "1.0",
            "1.0",
        )
        assert (seen['port_open{host="db.lab",port="22"}'], seen['port_open{host="db.lab",port="80"}']) == (
            "1.0",
            "0.0",
        )
        assert (seen['port_out_of_spec{host="web.lab"}'], seen['port_out_of_spec{host="db.lab"}']) == ("1.0", "1.0")
        assert float(seen["portspec_scan_rounds_total"]) >= 3
        exporter.terminate()
        assert exporter.wait(timeout=10) == 0
    finally:
        exporter.kill()
        exporter.communicate()
