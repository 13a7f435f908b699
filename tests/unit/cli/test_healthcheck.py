from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from portspec.cli.healthcheck import healthcheck
from tests.unit.cli.run import Server, call

if TYPE_CHECKING:
    from pathlib import Path


def test_running_exporter_is_healthy(tmp_path: Path) -> None:
    """The check exits with 0 at an exporter that serves."""
    conf = tmp_path / "conf.yml"
    conf.write_text("hosts: {127.0.0.1: []}\nscanports: [1]\n", encoding="utf-8")
    with Server(conf) as server:
        done = call("healthcheck", "--url", server.wait_for("listening")["url"])
    assert (done.code, done.err) == (0, "")
    assert "healthy" in done.out.lower()


def test_nothing_that_answers_is_unhealthy() -> None:
    """Where nothing listens the check exits with 1 and says so in one line, which `docker inspect` shows."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    done = call("healthcheck", "--url", url)
    assert (done.code, done.out) == (1, f"unhealthy: {url} does not answer: connection refused\n")


def test_name_in_a_url_is_looked_up_as_idna_2008_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with letters that IDNA 2003 replaces are others to it."""
    asked = []

    def look_up(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert healthcheck("http://fa\u00df.test:1") == 1
    assert asked == ["xn--fa-hia.test"]


@pytest.mark.parametrize("url", ["", "localhost:10190", "ftp://localhost", "http://", "http://[::1", "http://x:99999"])
def test_what_is_no_url_is_wrong_usage(url: str) -> None:
    """Something else than a URL is an error of usage, exit code 2."""
    done = call("healthcheck", "--url", url)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("--url: ")
