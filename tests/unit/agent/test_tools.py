from __future__ import annotations

import pytest

from portspec.agent import TOOLS, System, choose_tool, read_os_release, tool_environment, usual_tool
from portspec.audit import formats

DEBIAN = System("Linux", "debian", "dpkg-status:/var/lib/dpkg/status")
UBUNTU = System("Linux", "ubuntu", "dpkg-status:/var/lib/dpkg/status")
FEDORA = System("Linux", "fedora", "")
FREEBSD = System("FreeBSD", "freebsd", "/var/db/pkg/local.sqlite")
OLD_FREEBSD = System("FreeBSD", "", "")


def test_every_tool_has_a_parser() -> None:
    """The tools that the agent names in reports are those that portspec reads."""
    assert set(TOOLS) == set(formats.TOOLS)


@pytest.mark.parametrize(
    ("system", "installed", "chosen"),
    [
        (FREEBSD, {"pkg", "portaudit", "trivy"}, "pkg-audit"),
        (OLD_FREEBSD, {"pkg", "portaudit"}, "portaudit"),  # /usr/sbin/pkg is in the base system
        (OLD_FREEBSD, {"pkg"}, "pkg-audit"),
        (DEBIAN, {"pkg", "debsecan", "trivy", "grype", "osv-scanner", "pip-audit"}, "debsecan"),
        (DEBIAN, {"trivy", "grype", "osv-scanner", "pip-audit"}, "trivy"),
        (DEBIAN, {"grype", "osv-scanner", "pip-audit"}, "grype"),
        (DEBIAN, {"osv-scanner", "pip-audit"}, "osv-scanner"),
        (UBUNTU, {"osv-scanner", "pip-audit"}, "pip-audit"),
        (FEDORA, {"osv-scanner", "pip-audit"}, "pip-audit"),
        (FEDORA, {"pkg"}, None),
        (DEBIAN, set(), None),
    ],
)
def test_tool_is_the_first_that_can_audit_the_system(system: System, installed: set[str], chosen: str | None) -> None:
    """Of the tools that are there the one that knows the system best is taken, and none that is blind to it."""
    tool = choose_tool(system, lambda program: f"/bin/{program}" if program in installed else None)
    assert (tool.name if tool else None) == chosen


def test_tool_that_is_missed_is_named() -> None:
    """A host without any tool reports as if its system's usual one had failed."""
    assert [usual_tool(system) for system in (FREEBSD, DEBIAN, UBUNTU, FEDORA)] == [
        *("pkg-audit", "debsecan", "trivy", "trivy")
    ]


def test_tools_are_never_run_in_ways_that_lie() -> None:
    """No command has an option that hides findings or failures, and trivy looks for no secrets."""
    commands = {tool.name: " ".join(tool.commands) for tool in TOOLS.values()}
    assert "-q" not in commands["pkg-audit"]
    assert "-F" not in commands["pkg-audit"]
    assert "--cron" not in commands["debsecan"]
    assert "secret" not in commands["trivy"]
    assert "--all-packages" in commands["osv-scanner"]


def test_system_is_that_of_os_release() -> None:
    """os-release(5) is read as a shell reads it; what is no assignment is passed over."""
    text = '# x\nNAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID=\'22.1\'\nbroken "\nA="b\n'
    assert read_os_release(text) == {
        "NAME": "Linux Mint",
        "ID": "linuxmint",
        "ID_LIKE": "ubuntu debian",
        "VERSION_ID": "22.1",
    }


@pytest.mark.parametrize("system", [UBUNTU, System("Linux", "linuxmint", "dpkg-status:/x", ("ubuntu", "debian"))])
def test_debsecan_is_not_taken_where_it_has_no_data(system: System) -> None:
    """It ends with 0 and says nothing on Ubuntu and its kin."""
    found = {"debsecan", "trivy"}
    assert choose_tool(system, lambda program: program if program in found else None) == TOOLS["trivy"]
    assert choose_tool(system, lambda program: program if program == "debsecan" else None) is None


def test_system_goes_with_the_report() -> None:
    """The server judges the output of a tool by it."""
    system = System("Linux", "ubuntu", "", ("debian",), "24.04")
    assert system.as_json() == {"kernel": "Linux", "id": "ubuntu", "id_like": ["debian"], "version_id": "24.04"}


def test_environment_of_tools() -> None:
    """Tools speak English, are found where cron does not look, and are told nothing of the agent's settings."""
    environ = tool_environment(
        {"PATH": "/opt/bin:/usr/bin", "LC_ALL": "de_DE.UTF-8", "PORTSPEC_SEND_URL": "x", "A": "b"}
    )
    assert environ["PATH"] == "/opt/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin"
    assert (environ["LC_ALL"], environ["A"]) == ("C", "b")
    assert "HOME" in environ
    assert "PORTSPEC_SEND_URL" not in environ
