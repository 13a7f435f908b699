"""The pages in a browser: from the host that deviates to a scan that finds it in specification."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Final

from tests.e2e.exporter import PATIENCE, Exporter, exporter, until, write
from tests.requirements import require

if TYPE_CHECKING:
    from pathlib import Path

BAD: Final = "127.62.0.1"
GOOD: Final = "127.62.0.2"
BROWSER: Final = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"),
    "--dump-dom",
)


def show(service: Exporter, path: str, directory: Path, width: int = 1280) -> str:
    """Return the text of a page as Chromium has it; it has nothing to complain of."""
    command = [
        *(require("chromium"), *BROWSER, f"--user-data-dir={directory / 'chromium'}", f"--window-size={width},900"),
        f"http://{service.address}{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * PATIENCE)
    assert "CONSOLE" not in done.stderr, done.stderr
    body = re.sub(r"<style>.*?</style>", "", done.stdout, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_way_from_a_deviation_to_its_end(tmp_path: Path) -> None:
    """The host that deviates comes first; its page has the port; once that is closed, a scan shows it in spec."""
    with closing(socket.create_server((BAD, 0))) as listener:
        port = listener.getsockname()[1]
        conf = write(tmp_path / "conf.yml", {GOOD: [], BAD: []}, scanports=[port], interval="1d")
        with exporter(conf) as service:
            service.wait_until_ready()
            first = show(service, "/", tmp_path)
            assert "2 hosts" in first
            assert first.index(BAD) < first.index(GOOD)
            assert BAD in show(service, "/?verdict=out_of_spec&sort=-host", tmp_path, width=360)
            assert GOOD not in show(service, "/?verdict=out_of_spec", tmp_path)
            assert f"{port} {BAD} unexpected open" in show(service, f"/hosts/{BAD}", tmp_path)
            listener.close()

            def is_in_spec() -> bool:
                answer = service.post(f"/hosts/{BAD}/scan")  # what the button does
                assert (answer.status, answer.headers["Location"]) == (303, f"../{BAD}?asked")
                return bool(service.json(f"/api/v1/hosts/{BAD}")["verdict"] == "in_spec")

            until(is_in_spec)
            page = show(service, f"/hosts/{BAD}?asked", tmp_path)
            assert "in spec" in page
            assert f"{BAD} {port} open closed" in page  # the change
            assert f"{BAD} {BAD} {port} open closed" in show(service, "/changes", tmp_path)
            assert json.loads(service.get(f"/api/v1/hosts/{BAD}").text)["verdict"] == "in_spec"
