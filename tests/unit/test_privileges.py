from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.capabilities import ALL_BUT_SETPCAP, AS_DOCKER, AS_SYSTEMD, NET_RAW, fields, setpriv, unprivileged

ROOT = Path(__file__).parents[2]
CHILD = [sys.executable, "-m", "tests.unit.privileges_child"]
SYS_ADMIN, PERFMON = 21, 38  # one of each 32-bit word of the kernel's structure


def run(*command: str) -> Any:
    """Run a command that prints JSON; give that."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def dropped(*prefix: str) -> list[dict[str, int]]:
    """Run drop_all(); return what the thread, a later one and a later child have then."""
    found: dict[str, str] = run(*prefix, *CHILD, "drop_all")
    assert list(found) == ["self", "thread", "child"]
    return [fields(status) for status in found.values()]


def test_root_gives_up_every_capability() -> None:
    """Of a root process all five sets are empty and no_new_privs is set, also in later threads and children."""
    nothing = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0) | {"NoNewPrivs": 1}
    assert dropped(*setpriv("--inh-caps=+net_raw", "--ambient-caps=+net_raw")) == [nothing] * 3


@pytest.mark.parametrize("options", [ALL_BUT_SETPCAP, AS_SYSTEMD, AS_DOCKER], ids=["root", "systemd", "docker"])
def test_process_without_setpcap_gives_up_every_capability(options: tuple[str, ...]) -> None:
    """Who may not empty the bounding set has no capability either, and no_new_privs keeps an exec from giving any."""
    for found in dropped(*setpriv(*options)):
        assert found["CapBnd"]
        assert [found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs")] == [0, 0, 0, 0, 1]


def test_locked_securebits_keep_no_capability() -> None:
    """Where the securebits are locked by whoever started the process it gives up its capabilities all the same."""
    for found in dropped(*setpriv("--securebits=+no_setuid_fixup_locked")):
        assert [found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs")] == [0, 0, 0, 0, 1]


def test_process_without_capabilities_has_nothing_to_give_up() -> None:
    """An unprivileged process may call drop_all(), and has no_new_privs from then on."""
    for found in dropped(*unprivileged()):
        assert [found[name] for name in ("CapPrm", "CapEff", "CapAmb", "NoNewPrivs")] == [0, 0, 0, 1]


def test_what_was_opened_before_works_after() -> None:
    """A raw socket stays usable; another one is refused, and so is getting the capability back."""
    assert run(*setpriv(), *CHILD, "keep_socket") == [20, "PermissionError", True]


@pytest.mark.parametrize("capability", [NET_RAW, PERFMON])
def test_permitted_capability_becomes_effective(capability: int) -> None:
    """claim() makes one capability of the permitted set effective, and no other; the permitted set stays."""
    kept = (NET_RAW, SYS_ADMIN, PERFMON)
    permitted = sum(1 << number for number in kept)
    found = run(*setpriv(), *CHILD, "claim", str(capability), *map(str, kept))
    assert found == [1 << capability, permitted]


def test_capability_that_is_not_permitted_cannot_be_claimed() -> None:
    """claim() of what is not in the permitted set changes nothing and is no error."""
    assert run(*setpriv(), *CHILD, "claim", str(NET_RAW), str(SYS_ADMIN)) == [0, 1 << SYS_ADMIN]
    assert run(*unprivileged(), *CHILD, "claim", str(NET_RAW)) == [0, 0]
