"""The running exporter keeps to its own description of the API, as schemathesis has it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from portspec.web.api.catalogue import OPERATIONS
from tests.e2e.exporter import PATIENCE, exporter, write

HERE: Final = Path(__file__).parent
GOOD: Final = "127.64.0.1"
BAD: Final = "127.64.0.2"
EXAMPLES: Final = 10  # of each operation and phase: the run takes half a minute
COMMAND: Final = (
    *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
    *("--config-file", str(HERE / "schemathesis.toml"), "run", "--no-color", "--checks", "all", "--seed", "1"),
    *("--max-examples", str(EXAMPLES), "--request-timeout", "60", "--warnings", "off"),
)


@pytest.mark.timeout(15 * PATIENCE)
def test_exporter_keeps_to_its_description(tmp_path: Path) -> None:
    """Whatever is sent, valid or not, is answered as /api/v1/openapi.json says: no check of schemathesis fails."""
    with closing(socket.create_server((BAD, 0))) as listener:
        port = listener.getsockname()[1]
        conf = write(
            tmp_path / "conf.yml",
            {GOOD: {"expect": [], "labels": {"team": "web"}}, BAD: {"expect": []}},
            scanports=[port],
            interval="1d",
            exceptions=[{"hosts": [BAD], "ports": [port], "until": "2099-01-01", "reason": "a test"}],
            audit={"passphrase": "a long enough passphrase of a test", "hosts": [GOOD]},
        )
        with exporter(conf) as service:
            service.wait_until_ready()
            environment = {
                **os.environ,
                "SCHEMATHESIS_HOOKS": "tests.e2e.schemathesis_hooks",
                "PYTHONPATH": str(HERE.parents[1]),
            }
            # From its address it would test all but that of the description.
            description = tmp_path / "openapi.json"
            description.write_text(service.get("/api/v1/openapi.json").text, encoding="utf-8")
            done = subprocess.run(
                [*COMMAND, "--url", f"http://{service.address}", str(description)],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=10 * PATIENCE,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"Tested: {len(OPERATIONS)}\n" in done.stdout, done.stdout
            log = service.log.read_text()
            assert '"exception"' not in log, log
