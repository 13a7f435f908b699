from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.unit.cli.run import run, run_on_terminal
from tests.unit.scan.loopback import listeners, own_address, ports_of

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Configure

ESCAPE = "\x1b"
CONNECT = {"engine": "connect"}  # which starts without numpy


def test_pipe_gets_no_escape_codes_and_no_bar(configure: Configure) -> None:
    """Through pipes the table is plain text of one width, and standard error stays empty."""
    conf = configure({own_address(): [1]}, ["1-3000"])
    done = run("scan", "-c", conf)
    assert ESCAPE not in done.out
    assert "\r" not in done.out
    assert done.err == ""


def test_bar_is_shown_on_a_terminal(configure: Configure) -> None:
    """With a terminal on standard error a bar shows hosts, percentage and probes per second, and goes away again."""
    conf = configure({own_address(): [], own_address(): []}, ["1-200"], scan={"rate": 1000, **CONNECT})
    done = run_on_terminal("scan", "-c", conf, err=True)
    assert done.code == 0
    assert ESCAPE not in done.out
    assert "2 hosts: 2 in spec" in done.out
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.err)
    assert re.search(r"[012]/2 hosts .* [0-9]+%.* probes/s", plain), plain
    assert done.err.rstrip().endswith((f"{ESCAPE}[2K", f"{ESCAPE}[?25h"))


def test_bar_does_not_disturb_json(configure: Configure) -> None:
    """The bar goes to standard error: what is on standard output is JSON alone."""
    conf = configure({own_address(): []}, ["1-200"], scan=CONNECT)
    done = run_on_terminal("scan", "-c", conf, "--json", err=True)
    assert json.loads(done.out)["probes_sent"] == 200
    assert done.err


def test_table_is_coloured_on_a_terminal(configure: Configure) -> None:
    """With a terminal on standard output the verdict has a colour, and standard error stays empty."""
    with listeners(own_address()) as opened:
        conf = configure({opened[0].getsockname()[0]: []}, list(ports_of(opened)), scan=CONNECT)
        done = run_on_terminal("scan", "-c", conf, out=True)
    assert (done.code, done.err) == (1, "")
    assert f"{ESCAPE}[1;31mout of spec" in done.out


def test_log_is_coloured_on_a_terminal(configure: Configure) -> None:
    """The log of `serve` has colours on a terminal, here for an error of the configuration."""
    done = run_on_terminal("serve", "-c", configure({"a b": []}), out=True)
    assert done.code == 2
    assert ESCAPE in done.out
    assert "is not a host" in done.out


def test_json_log_has_no_colours_on_a_terminal(configure: Configure) -> None:
    """With -j a line is plain JSON on a terminal, too."""
    done = run_on_terminal("serve", "-j", "-c", configure({"a b": []}), out=True)
    assert ESCAPE not in done.out
    assert json.loads(done.out)["level"] == "error"


def test_learned_block_is_plain_on_a_terminal() -> None:
    """What `learn` prints can be copied from a terminal: no codes among it."""
    done = run_on_terminal("learn", own_address(), "--ports", "1-10", out=True)
    assert done.code == 0
    assert ESCAPE not in done.out
