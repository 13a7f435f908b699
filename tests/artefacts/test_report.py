"""The report of all machines as its readers see it; PORTSPEC_GOLDEN=write writes tests/data/report anew."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from portspec import __version__
from portspec.report import mail_report, write_report
from tests.requirements import missing
from tests.unit.factories import NOW
from tests.unit.report.fleets import SETTINGS, fleet

if TYPE_CHECKING:
    from collections.abc import Sequence

GOLDEN: Final = Path(__file__).parents[1] / "data" / "report"
COLUMNS: Final = 80
BROWSERS: Final = {
    "links": ["links", "-dump", "-width", str(COLUMNS), "-codepage", "utf-8"],
    "w3m": ["w3m", "-dump", "-cols", str(COLUMNS), "-I", "UTF-8", "-O", "UTF-8", "-T", "text/html"],
}


def written(form: str) -> str:
    """Write the report of a made-up fleet that has a machine of every kind."""
    text = "".join(write_report(fleet(), SETTINGS, NOW, form))
    return text.replace(f"portspec {__version__}", "portspec VERSION")


def dumped(command: Sequence[str], directory: Path) -> str:
    """Return what a browser of terminals makes of the page, without spaces at the ends of lines."""
    if shutil.which(command[0]) is None:
        missing(f"{command[0]} is not installed")
    file = directory / "report.html"
    file.write_text(written("html"), encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*command, str(file)], capture_output=True, check=True, env=environment, timeout=60)
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.decode().splitlines())


def compare(name: str, found: str) -> None:
    """Hold a text to the file of a name, or write that."""
    file = GOLDEN / name
    if os.environ.get("PORTSPEC_GOLDEN") == "write":
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("browser", BROWSERS)
def test_page_in_browsers_of_terminals(browser: str, tmp_path: Path) -> None:
    """The page reads well without styles: every word in its place, tables no wider than the terminal."""
    text = dumped(BROWSERS[browser], tmp_path)
    assert max(map(len, text.splitlines())) <= COLUMNS
    compare(f"{browser}.txt", text)


@pytest.mark.parametrize(("form", "name"), [("html", "report.html"), ("text", "report.txt"), ("json", "report.json")])
def test_report_in_each_form(form: str, name: str) -> None:
    """The report is the same as ever, to the letter."""
    compare(name, written(form))


def test_report_as_a_mail() -> None:
    """The daily mail is the same as ever, to the letter."""
    outcome, body = mail_report(fleet(), SETTINGS, NOW)
    compare("mail.txt", f"Outcome: {outcome}\n\n{body}")
