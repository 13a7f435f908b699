from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from portspec.cli.arguments import COMMANDS
from tests.requirements import require

if TYPE_CHECKING:
    from types import ModuleType

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPLETION = DEPLOY / "completion"


def _generate() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate", DEPLOY / "generate.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_files_are_generated_from_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completion and manual pages fit the commands, and the copies in the chart their originals: `make generated`."""
    monkeypatch.setenv("COLUMNS", "80")
    for path, text in _generate().generated():
        assert path.read_text(encoding="utf-8") == text, f"{path} differs: make generated"


def test_manual_pages_have_a_name_that_apropos_finds() -> None:
    """Below NAME stand the program, a dash and what it does, as whatis(1) and apropos(1) index them."""
    for program in ("portspec", "portspec-send"):
        text = (DEPLOY / "man" / f"{program}.1").read_text(encoding="utf-8").replace(r"\-", "-")
        assert re.search(rf"^\.SH NAME\n{program} - [a-z][^\n]+$", text, re.MULTILINE)


def test_manual_page_names_every_command() -> None:
    """The page of portspec has a section for each command."""
    text = (DEPLOY / "man" / "portspec.1").read_text(encoding="utf-8").replace(r"\-", "-")
    for command in COMMANDS:
        assert f"portspec {command}'" in text


def _bash(line: str) -> list[str]:
    """Return what bash offers at the end of a line."""
    words = line.split(" ")
    script = f"""
        source {COMPLETION}/bash/portspec
        COMP_WORDS=({" ".join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; COMP_LINE={line!r}
        COMP_POINT={len(line)}
        $(complete -p portspec | sed 's/.*-F \\([^ ]*\\).*/echo \\1/' | sh)
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True, cwd=DEPLOY.parent
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("portspec sc", ["scan"]),
        ("portspec scan --js", ["--json"]),
        ("portspec report --format ", ["html", "text", "json"]),
        ("portspec check -c conf", ["conf.yml"]),
    ],
)
def test_bash_completes_commands_options_values_and_files(line: str, offered: list[str]) -> None:
    """A TAB in bash offers what fits: a command, an option of the command, one of its values, a file."""
    assert _bash(line) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [("portspec sc", "scan"), ("portspec scan --js", "--json"), ("portspec report --format h", "html")],
)
def test_fish_completes_commands_options_and_values(line: str, offered: str, tmp_path: Path) -> None:
    """The same in fish."""
    require("fish")
    script = f"source {COMPLETION}/fish/portspec.fish; complete --do-complete {line!r}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert offered in [listed.split("\t")[0] for listed in done.stdout.splitlines()], done


@pytest.mark.parametrize("program", ["portspec", "portspec-send"])
def test_zsh_reads_the_completion(program: str, tmp_path: Path) -> None:
    """Zsh takes the file for the completion of the program."""
    require("zsh")
    script = f"""
        fpath=({COMPLETION}/zsh $fpath)
        autoload -U compinit
        compinit -u -d {tmp_path}/dump
        echo $_comps[{program}]
    """
    done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"_{program}"
    subprocess.run(["zsh", "-n", str(COMPLETION / "zsh" / f"_{program}")], check=True)
