"""Pictures for the documentation: a story in the lab, told by the real exporter, taken by Chromium.

    python -m tests.screenshots [DIRECTORY]          (default: docs/images)

A dozen hosts are scanned. On one a port is open that should not be, one has lost a service, one has no name any more,
and some send audits. What the exporter records in some seconds is spread over two weeks, so that there is a history.
It also writes the cast of `portspec scan` (`cast.py`). Needs root, or user namespaces, and chromium.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from playwright.sync_api import sync_playwright

from tests.cast import cast
from tests.e2e.audits import PASSPHRASE, make
from tests.lab.network import Lab
from tests.lab.program import PROGRAM
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Browser

PORT: Final = 10190
URL: Final = f"http://127.0.0.1:{PORT}"
DIRECTORY: Final = Path(__file__).parents[1] / "docs" / "images"
WAIT: Final = 60.0  # seconds for a step
HISTORY: Final = 14 * 86_400.0  # seconds that the recorded ones are spread over

#: Hosts of the story: name, its number in the network, ports that are open, what conf.yml expects, and labels.
_Host = tuple[str, int, tuple[int, ...], tuple[int, ...], dict[str, str]]
HOSTS: Final[tuple[_Host, ...]] = (
    ("web1.example.org", 11, (22, 80, 443, 8080), (22, 80, 443), {"team": "web", "site": "Berlin"}),
    ("web2.example.org", 12, (22, 80, 443), (22, 80, 443), {"team": "web", "site": "Berlin"}),
    ("web3.example.org", 13, (22, 80, 443), (22, 80, 443), {"team": "web", "site": "Oslo"}),
    ("db1.example.org", 21, (22,), (22, 5432), {"team": "data", "site": "Berlin"}),
    ("db2.example.org", 22, (22, 5432), (22, 5432), {"team": "data", "site": "Oslo"}),
    ("mail.example.org", 31, (22, 25, 587, 993), (22, 25, 587, 993), {"team": "mail", "site": "Berlin"}),
    ("build1.example.org", 41, (22, 2375, 9100), (22, 9100), {"team": "build", "site": "Oslo"}),
    ("build2.example.org", 42, (22, 9100), (22, 9100), {"team": "build", "site": "Oslo"}),
    ("backup.example.org", 51, (22, 873), (22, 873), {"team": "data", "site": "Oslo"}),
    ("monitor.example.org", 61, (22, 3000, 9090, 9093), (22, 3000, 9090, 9093), {"team": "ops", "site": "Berlin"}),
    ("vpn.example.org", 71, (22, 443), (22, 443), {"team": "ops", "site": "Berlin"}),
)
GONE: Final = "backup.example.org"
AUDITS: Final = Path(__file__).parent / "data" / "audit" / "debsecan"
LISTENERS: Final = (
    {"protocol": "tcp", "address": "0.0.0.0", "port": 22, "process": "sshd", "user": "root"},  # noqa: S104 - a value
    {"protocol": "tcp", "address": "0.0.0.0", "port": 443, "process": "nginx", "user": "www-data"},  # noqa: S104
    {"protocol": "tcp", "address": "0.0.0.0", "port": 8080, "process": "python3", "user": "alice"},  # noqa: S104
)


def truths(*, is_earlier: bool) -> list[HostTruth]:
    """Return the hosts, or what they were earlier, when all did as they should; one no longer has a name."""
    found = []
    for name, number, ports, expected, _ in HOSTS:
        if name == GONE and not is_earlier:
            continue
        own = (f"198.18.0.{number}", f"2001:db8:18::{number}")
        states = {(address, port): State.OPEN for address in own for port in (expected if is_earlier else ports)}
        found.append(HostTruth(name, own, states))
    return found


def configuration(directory: Path, *, accepts: bool) -> Path:
    """Write conf.yml, as people write it; in the end somebody accepts a port."""
    hosts = "".join(
        f"  {name}: {{expect: [{', '.join(map(str, expected))}], labels: {json.dumps(labels)}}}\n"
        for name, _, _, expected, labels in HOSTS
    )
    path = directory / "conf.yml"
    end = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 6 * 86_400))
    accepted = f"""\
exceptions:
  - hosts: [build1.example.org]
    ports: [2375]
    until: "{end}"
    reason: migration to rootless builds
    owner: build
"""
    path.write_text(
        f"""\
interval: 1h
scanports: [1-10000]
ipv6: true
accept: true
scan: {{timeout: 0.2, retries: 1}}
hosts:
{hosts}{accepted if accepts else ""}\
audit:
  passphrase: {PASSPHRASE}
  hosts: [web1.example.org, web2.example.org, db1.example.org, mail.example.org, vpn.example.org]
""",
        encoding="utf-8",
    )
    return path


@contextmanager
def exporter(lab: Lab, conf: Path) -> Iterator[None]:
    """Run the exporter in the lab; every host has been scanned."""
    with conf.with_suffix(".log").open("a") as log:
        command = [*PROGRAM, "serve", "-c", conf.name, "--web.listen-address", f"127.0.0.1:{PORT}"]
        process = lab.popen(command, cwd=conf.parent, stdout=log, stderr=log)
        try:
            end = time.monotonic() + WAIT
            while lab.run(["curl", "-sf", "-o", "/dev/null", f"{URL}/-/ready"]).returncode:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(conf.with_suffix(".log").read_text(encoding="utf-8"))
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(WAIT)


def scan_all(lab: Lab) -> None:
    """Have every host scanned, and wait for that."""
    for name, *_ in HOSTS:
        lab.run(["curl", "-sf", "-X", "POST", f"{URL}/api/v1/scan?host={name}"], check=True)


def send_audits(lab: Lab, directory: Path) -> None:
    """Post an audit of each host that sends any but the last one."""
    samples = {"web1": "detail_vulnerable", "web2": "detail_clean", "db1": "detail_clean", "mail": "detail_clean"}
    for name, sample in samples.items():
        output = (AUDITS / f"{sample}.txt").read_text(encoding="utf-8")
        made = make(f"{name}.example.org", time.time() - 7200, output=output, listeners=LISTENERS)
        body = directory / "audit"
        body.write_bytes(made.packed)
        lab.run(["curl", "-s", "--data-binary", f"@{body}", f"{URL}/api/v1/audits"], check=True)


def spread(state: Path, since: float, until: float) -> None:
    """Spread what was recorded between two Unix times over two weeks before the second; scans stay where they are."""

    def earlier(value: float) -> float:
        return until - (until - value) * HISTORY / (until - since)

    def with_earlier_changes(text: str) -> str:
        document = json.loads(text)
        document["opened"] = [[earlier(began), ports] for began, ports in document.get("opened", [])]
        if document["last_change"] is not None:
            document["last_change"] = earlier(document["last_change"])
        return json.dumps(document)

    with closing(sqlite3.connect(state)) as file:
        file.create_function("earlier", 1, earlier)
        file.create_function("with_earlier_changes", 1, with_earlier_changes)
        file.execute("UPDATE change SET at = earlier(at), first_seen = earlier(first_seen)")
        file.execute("UPDATE verdict SET at = earlier(at)")
        file.execute("UPDATE state SET document = with_earlier_changes(document)")
        file.commit()


def take(browser: Browser, directory: Path) -> None:
    """Take the pictures."""
    for name, path, width, height, scheme in (
        ("hosts", "/", 1280, 800, "light"),
        ("hosts-dark", "/", 1280, 800, "dark"),
        ("phone", "/", 390, 800, "light"),
        ("host", "/hosts/web1.example.org", 1280, 1100, "light"),
        ("accept", "/hosts/web1.example.org/accept?what=8080&reason=load+test&owner=web", 1280, 760, "light"),
        ("changes", "/changes", 1280, 700, "light"),
        ("status", "/status", 1280, 900, "dark"),
        ("kiosk", "/?kiosk=1", 1920, 900, "dark"),
    ):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"{URL}{path}")
        page.screenshot(path=directory / f"{name}.png", full_page=name == "hosts")
        context.close()
        sys.stdout.write(f"{directory / name}.png\n")


def wrapper(lab: Lab, command: Sequence[str], path: Path) -> Path:
    """Write a program that runs a command in the lab."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(lab.argv(command))} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def main(directory: Path) -> None:
    """Play the story, and write the pictures."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, Lab() as lab:
        conf = configuration(Path(place), accepts=False)
        lab.apply(truths(is_earlier=True))
        since = time.time()
        with exporter(lab, conf):
            lab.open_port("198.18.0.42", 8000)
            scan_all(lab)
            time.sleep(4)
            lab.close_port("198.18.0.42", 8000)
            scan_all(lab)
            time.sleep(4)
            lab.apply(truths(is_earlier=False))
            scan_all(lab)
            time.sleep(8)
            send_audits(lab, Path(place))
            time.sleep(2)
        spread(Path(place) / "portspec.db", since, time.time())
        configuration(Path(place), accepts=True)
        (directory / "scan.svg").write_text(
            cast(
                ["portspec", "scan", "web1.example.org", "db1.example.org"], lambda command: _typed(lab, conf, command)
            ),
            encoding="utf-8",
        )
        with exporter(lab, conf), sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=wrapper(lab, [chromium], Path(place) / "chromium"),
                args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            )
            scan_all(lab)
            time.sleep(8)
            take(browser, directory)
            browser.close()


def _typed(lab: Lab, conf: Path, command: Sequence[str]) -> str:
    """Return what a command prints on a terminal of the lab."""
    line = f"COLUMNS=100 {shlex.join([*PROGRAM, *command[1:], '-c', str(conf)])} 2>/dev/null"  # without progress
    done: Any = lab.run(["script", "-qec", line, "/dev/null"], timeout=WAIT)
    return re.sub(r"\x1b\[\?[0-9]+[hl]", "", done.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY)
