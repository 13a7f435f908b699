from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec import agent
from portspec.agent import Settings, System
from portspec.audit.model import Audit, Status, ToolRun
from portspec.audit.tools import parse

if TYPE_CHECKING:
    from pathlib import Path

FEDORA: Final = System("Linux", "fedora", "", (), "44")
AMAZON: Final = System("Linux", "amzn", "", ("fedora",), "2023")
# Shells that answer as the generations do; real ones are in tests/e2e/test_real_rpm.py, as far as Debian has them.
DNF: Final = """#!/bin/sh
echo "$*" >> DIRECTORY/asked
case "$*" in
    *--version*) echo "$VERSION" ;;
    *"repo info"*)
        echo "Metadata expire : 172800 seconds (last: 2026-11-20 12:00:00)"
        echo "Metadata expire : 172800 seconds (last: 2026-11-18 12:00:00)"
        echo "Metadata expire : Never (last: unknown)" ;;
    *"repolist -v"*) echo "Repo-expire  : 172800 second(s) (last: Wed Nov 18 12:00:00 2026)" ;;
    *) answer "$@" ;;
esac
"""
GENERATIONS: Final = {
    "dnf 5": """
        *updateinfo*) exit 9 ;;
        *--with-cve*|*--installed*) echo "[]" ;;
        *) echo '[{"name": "FEDORA-2026-1", "nevra": "tar-1-2.x86_64"}]' ;;""",
    "dnf 5 without JSON": """
        *--json*) echo 'Unknown argument "--json" for command "list".' >&2; exit 2 ;;
        *updateinfo*) exit 9 ;;
        *--with-cve*|*--installed*) ;;
        *) echo "FEDORA-2026-1 security Low tar-1-2.x86_64 2026-10-03 01:09:41" ;;""",
    "dnf 4": """
        *advisory*) echo "No such command: advisory. Please use /usr/bin/dnf --help" >&2; exit 1 ;;
        *installed*|*cves*) ;;
        *) echo "FEDORA-2026-1 Low/Sec. tar-1-2.x86_64" ;;""",
}
LISTS: Final = {"dnf 5": 3, "dnf 5 without JSON": 4, "dnf 4": 5}  # how often it is asked for one


class Host:
    """A host with nothing but a dnf of the test."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        monkeypatch.setattr(agent, "DIRECTORIES", ())
        monkeypatch.setenv("TZ", "UTC")

    def install(self, name: str, answers: str, version: str = "4.14.0") -> None:
        """Install a dnf under some name."""
        begin, rest = DNF.replace("DIRECTORY", str(self.path)).split("\n", 1)
        text = f'{begin}\nVERSION="{version}"\nanswer() {{ case "$*" in {answers} esac; }}\n{rest}'
        program = self.path / name
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)

    def audit(self, system: System = FEDORA, **settings: Any) -> tuple[dict[str, Any], str]:
        """Run the audit; return the tool of the audit, and what the agent says of a failure."""
        audit = agent.Audit(Settings(scope="system", **settings), {"PATH": str(self.path)}, system)
        (tool,), _, trouble = audit.run()
        return tool, trouble

    def asked(self) -> list[str]:
        """Return the arguments of each list that dnf was asked for."""
        lines = (self.path / "asked").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if " list " in line]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return a host without any tool."""
    return Host(tmp_path, monkeypatch)


def audited(tool: dict[str, Any]) -> Audit:
    """Return what portspec makes of it."""
    return parse(ToolRun(tool["name"], tool["exit_status"], tool["output"], tool["errors"], tool["truncated"]))


@pytest.mark.parametrize("name", ["dnf", "dnf5", "yum"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_each_generation_is_asked_for_three_lists(host: Host, generation: str, name: str) -> None:
    """The first command that it knows is run for all lists; its output has the three, and an end."""
    host.install(name, GENERATIONS[generation], f"{generation.replace(' ', '')} version 1.2.3")
    tool, trouble = host.audit()
    *lines, end = tool["output"].splitlines()
    assert len([line for line in lines if line.startswith("# portspec: list of ")]) == 3
    assert end == "# portspec: dnf ended with 0"
    assert (tool["name"], tool["exit_status"], tool["version"], trouble) == ("dnf", 0, "1.2.3", "")
    assert tool["errors"] == "# portspec: database of 2026-11-18T12:00:00Z\n"
    assert tool["command"].count(str(host.path / name)) == tool["command"].count("&&") + 1 == 3
    assert len(host.asked()) == LISTS[generation]
    assert [(each.package, each.id) for each in audited(tool).vulnerabilities] == [("tar", "FEDORA-2026-1")]


@pytest.mark.parametrize("failing", ["security", "installed security", "cves"])
def test_list_that_fails_is_the_last(host: Host, failing: str) -> None:
    """Where dnf fails it is asked no more; the audit is failed, and the agent says why."""
    no_command = '*advisory*) echo "No such command" >&2; exit 1 ;;'
    host.install("dnf", f'{no_command} *"list {failing}") echo "Error: no such repository" >&2; exit 1 ;; *) ;;')
    tool, trouble = host.audit()
    assert host.asked()[-1].endswith(f"list {failing}")
    assert trouble == "dnf ended with 1 and printed nothing: Error: no such repository"
    assert audited(tool).status is Status.FAILED
    assert audited(tool).reason.endswith('(exit status 1, standard error ends with "Error: no such repository")')


def test_silence_of_dnf_is_not_clean(host: Host) -> None:
    """A dnf that ends with 0 and never prints anything knows no advisory."""
    host.install("dnf", '*advisory*) echo "No such command" >&2; exit 1 ;; *) ;;')
    assert audited(host.audit()[0]).status is Status.UNSUPPORTED


def test_lists_are_together_no_longer_than_an_output(host: Host) -> None:
    """The limit is that of all lists, after which dnf is asked no more."""
    host.install("dnf", f"*) echo {'x' * 60_000} ;;")
    tool, _ = host.audit(max_output=100_000)
    assert tool["truncated"]
    assert len(tool["output"]) <= 101_000
    assert len(host.asked()) == 2
    assert audited(tool).status is Status.FAILED


def test_amazon_linux_is_asked_for_the_latest_release(host: Host) -> None:
    """Each list is of the latest release, and so is the age of the metadata."""
    host.install("dnf", GENERATIONS["dnf 4"])
    tool, _ = host.audit(AMAZON)
    assert tool["command"].count("--releasever=latest") == 3
    arguments = (host.path / "asked").read_text(encoding="utf-8").splitlines()
    assert all("--releasever=latest" in line for line in arguments if "--version" not in line)


def test_command_of_the_settings_is_one_list(host: Host) -> None:
    """What the settings name is run as it is, once; what it finds counts, and nothing found is not clean."""
    host.install("dnf", GENERATIONS["dnf 4"])
    command = (str(host.path / "dnf"), "-q", "updateinfo", "list", "security")
    tool, _ = host.audit(tool="dnf", command=command)
    assert tool["output"] == "FEDORA-2026-1 Low/Sec. tar-1-2.x86_64\n# portspec: dnf ended with 0\n"
    assert audited(tool).status is Status.VULNERABLE
    host.install("dnf", "*) ;;")
    assert audited(host.audit(tool="dnf", command=command)[0]).status is Status.FAILED
