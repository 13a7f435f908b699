"""conf.yml, which people write by hand and programs generate: it is a Config, or ConfigError says what is wrong."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from portspec.config import load, yaml_document
from portspec.errors import ConfigError
from portspec.names import canonical
from tests.fuzz.harness import LARGE, Harness, Limit, assert_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path(__file__).parents[2]
DATA: Final = _ROOT / "tests" / "data"
_ENVIRONMENT: Final = {"NAME": "value", "EMPTY": "", "STATE_DIRECTORY": "/nowhere"}
_MAX_MESSAGE: Final = 1000  # characters
_MAX_VALUES: Final = 10_000  # here: aliases of YAML multiply, and a million values take seconds


@cache
def file_of(name: str) -> Path:
    """Return the path of a file in a directory of its own, which goes with this process."""
    directory = Path(tempfile.mkdtemp(prefix="portspec-fuzz-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory / name


def check_problems(error: ConfigError, data: bytes) -> None:
    """Check that each problem of a file is one line for the log, with the number of a line of the file."""
    last = len(data.decode("utf-8", "replace").splitlines()) + 1  # in YAML 1.1, U+0085 and U+2028 end lines as well
    assert error.problems
    for problem in error.problems:
        assert 0 <= problem.line <= last
    for line in error.lines():
        assert_line(line, _MAX_MESSAGE)


def load_conf(data: bytes) -> None:
    """Load a file; every problem is one line with a line number of the file, and a Config has canonical hosts."""
    path = file_of("conf.yml")
    path.write_bytes(data)
    try:
        with patch.object(yaml_document, "MAX_VALUES", _MAX_VALUES):
            config = load(path, _ENVIRONMENT)
    except ConfigError as error:
        check_problems(error, data)
        return
    assert len(config.hosts) <= min(len(data), _MAX_VALUES)
    assert len({canonical(host.name) for host in config.hosts}) == len(config.hosts)
    for host in config.hosts:
        assert host.ports
        assert host.specification.expect <= host.ports
        assert 1 <= host.interval <= 366 * 86_400


def _files() -> Iterator[bytes]:
    yield (_ROOT / "conf.yml").read_bytes()
    for path in sorted((DATA / "conf").glob("*.yml")):
        data = path.read_bytes()
        if len(data) < 3000:
            yield data


_KEYS: Final = (
    *("interval", "ipv6", "parallelscans", "hosts", "scanports", "sendemail", "smtpserver", "smtpport", "alertemail"),
    *("fromemail", "expect", "allow", "labels", "audit", "scan", "engine", "rate", "host_rate", "timeout", "retries"),
    *("confirm", "exceptions", "ports", "ids", "until", "reason", "owner", "discovery", "file_sd", "http_sd", "dns"),
    *("passphrase", "passphrase_file", "domain", "max_age", "state", "modules", "probe_allow", "history", "canary"),
    "renamed_from",
)
_VALUES: Final = (
    *(
        "${NAME}",
        "${UNSET}",
        "$${X}",
        "&a ",
        "*a",
        "<<: *a",
        "[",
        "]",
        "{",
        "}",
        "- ",
        "? ",
        ": ",
        "!!binary ",
        "!!set ",
    ),
    *("all", "ssh", "8000-8100", "53/udp", "1h30m", "9" * 400, "-1", "1e999", ".nan", "~", "yes", "2027-03-31", "0x10"),
    *(
        "web1",
        "192.0.2.0/24",
        "2001:db8::1",
        "faß.test",
        "x-anchors: ",
        "---\n",
        "%YAML 1.1\n",
        "|\n  ",
        '"\\x00"',
        "# ",
    ),
    *(
        '"\\U00110000"',
        '"\\ud800"',
        "\t",
        "\u2028",
        "\x85",
        "\ufeff",
        "\0",
        "\x1b[31m",
        "\u202e",
        "[" * 60,
        "{a: " * 50,
    ),
)

_CONF: Final = Harness(
    "conf",
    load_conf,
    _files,
    (*(f"\n{key}: ".encode() for key in _KEYS), *(value.encode() for value in _VALUES), b"\xff", b"\xfe\xff"),
    longest=4096,
    calls=Limit(100_000, 1500),
    memory=Limit(48 << 20, 2000),  # of which 32 MiB are asked for to read a file of any size
    examples=100,
    largest=LARGE,
)

HARNESSES: Final = (_CONF,)
