from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from .spoiling import KINDS, draw, run, wrong

if TYPE_CHECKING:
    from pathlib import Path

    from .network import Lab


@pytest.mark.parametrize("engine", ["connect", "syn"])
@pytest.mark.parametrize(
    ("kind", "seed"),
    [("ban", 1), ("ban", 2), ("ban that resets", 2), ("ban 5 s", 3), ("host unreachable", 4), ("port unreachable", 5)],
)
def test_scan_that_was_spoilt_is_no_verdict(lab: Lab, tmp_path: Path, engine: str, kind: str, seed: int) -> None:
    """What a ban, or a router that restarts, hid is not believed to be closed: neither "in spec" nor a false deviation.

    The long run of it is `make soak-truth`.
    """
    assert kind in KINDS
    case = replace(draw(kind, seed), engine=engine)
    host, was_spoilt = run(lab, case, tmp_path)
    assert was_spoilt
    assert wrong(case, host, was_spoilt=was_spoilt) is None
    if kind == "ban that resets":
        assert host["reason"] == "cut_off"
        assert "refuses" in host["detail"]
    elif kind == "ban":
        assert host["reason"] == "cut_off"
        assert "is this scanner banned" in host["detail"]
    else:
        assert set(host["unexpected"]) == {str(port) for port in case.open}


@pytest.mark.parametrize("engine", ["connect", "syn"])
def test_host_that_comes_up_after_its_ports_were_scanned_is_scanned_again(
    lab: Lab, tmp_path: Path, engine: str
) -> None:
    """What is expected answers when it is asked again; the silence before that does not hide what else is open."""
    case = replace(draw("wakes", 1), engine=engine, packets=12_001, rate=None)  # 4,000 ports, asked three times
    host, was_spoilt = run(lab, case, tmp_path)
    assert was_spoilt
    assert (host["verdict"], set(host["unexpected"]), host["missing"]) == (
        "out_of_spec",
        {str(port) for port in case.open},
        [],
    )
