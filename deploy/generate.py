"""Write what is made of other files: completion scripts, manual pages, docs/severity.md, and copies for the Helm chart.

    make generated

Run it after a change of commands, options, their help, rules, dashboards or the severities of ports; a test compares
the files with what it writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

import shtab
from argparse_manpage.manpage import Manpage

from portspec import agent, exposure
from portspec.cli import arguments
from portspec.services import by_port

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY: Final = Path(__file__).parent
_SEVERITY_PAGE: Final = """# Severity of open ports

<!-- `make generated` writes this page from exporter/portspec/exposure.py. -->

An open port that conf.yml neither expects nor allows has a severity: the label `severity` of `port_deviation` and of
the alert PortspecUnexpectedPortOpen. With the shipped `alertmanager.yml`, `critical` calls the pager and sends a mail,
`warning` sends a mail, and `info` does neither.

The table below names services that should not face a network, and why:

* `critical`: what is meant for a trusted network only, such as remote control, databases, storage, and the control of
  clusters and industrial devices, unless its clients need a certificate or a token; or what had a fault that was
  exploited on a large scale.
* `warning`: all others. Every port that is not in the table is a warning, too.

portspec does not know which service listens on a port: the severity is that of the usual one.
`port_severity_reason_info{port, reason}` has the sentence for each port that deviates, in either way, or has an
exception.

A missing port is always a warning. If more than 100 ports of an address deviate in the same way, they are one series,
with the highest severity of them.

[`port_severity`](configuration.md#port_severity) in conf.yml changes severities. `port_severity: {all: critical}` makes
every unexpected port call the pager, as it did up to version 0.2.0. When the severity of an open port changes, its
alert ends, and another one begins.

```yaml
port_severity:
  8443: critical
  "3000-3010": info
hosts:
  "web1.example.org": [443]
scanports: all
```

| ports | service | severity | why | source |
|---|---|---|---|---|
"""
_FILES: Final = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}  # by metavar
_NOTES: Final = {"portspec": arguments.EXAMPLES}  # what else is in the epilog of its help is in the page already
_SEE_ALSO: Final = {
    "portspec": "portspec-send(1), prometheus(1), nmap(1)",
    "portspec-send": "portspec(1)",
}


def generated() -> Iterator[tuple[Path, str]]:
    """Yield each file and its text."""
    for program, parser in (("portspec", arguments.parser), ("portspec-send", agent.argument_parser)):
        for shell, name in (("bash", program), ("zsh", f"_{program}"), ("fish", f"{program}.fish")):
            completed = parser()
            _complete_files(completed)
            yield DIRECTORY / "completion" / shell / name, f"{shtab.complete(completed, shell).rstrip()}\n"
        yield DIRECTORY / "man" / f"{program}.1", _manual(parser(), program)
    yield DIRECTORY.parent / "docs" / "severity.md", _severities()
    yield from _chart_files()


def _chart_files() -> Iterator[tuple[Path, str]]:
    """Yield the rules and the dashboards: a chart reads no file outside its directory."""
    files = DIRECTORY / "helm" / "portspec" / "files"
    rules = DIRECTORY.parent / "alert_rules" / "portspec.rules.yml"
    yield files / rules.name, rules.read_text(encoding="utf-8")
    for dashboard in sorted((DIRECTORY.parent / "grafana" / "dashboards").glob("*.json")):
        yield files / "dashboards" / dashboard.name, dashboard.read_text(encoding="utf-8")


def _severities() -> str:
    """Return the page about the severities of ports."""
    rows: dict[exposure.Exposure, list[int]] = {}
    for port, found in exposure.exposures().items():
        rows.setdefault(found, []).append(port)
    lines = [
        f"| {', '.join(map(str, ports))} | {_services(ports)} | {found.severity} | {found.reason} | {_source(found)} |"
        for found, ports in rows.items()
    ]
    return f"{_SEVERITY_PAGE}{chr(10).join(lines)}\n"


def _services(ports: list[int]) -> str:
    return ", ".join(dict.fromkeys(name for port in ports if (name := by_port().get(port))))


def _source(found: exposure.Exposure) -> str:
    if found.source in exposure.SOURCES:
        title, url = exposure.SOURCES[found.source]
        return f"[{title}]({url})"
    if found.source.startswith("CVE-"):
        return f"[{found.source}](https://nvd.nist.gov/vuln/detail/{found.source})"
    return found.source


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let options whose value is a file or a directory complete to one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command)
        elif isinstance(action.metavar, str) and (completion := _FILES.get(action.metavar)):
            action.complete = completion  # type: ignore[attr-defined]  # by which shtab goes


def _manual(parser: argparse.ArgumentParser, program: str) -> str:
    """Return the page, whose sections are those of man-pages(7); apropos(1) reads the line below NAME."""
    notes = _verbatim(_NOTES.get(program) or parser.epilog or "")
    parser.epilog = None  # argparse-manpage would fill its lines
    page = Manpage(parser)
    page.date = page.source = ""  # or each day and each version would change the page
    page.manual = "User Commands"
    title = str(parser.description).rstrip(".")
    name = f".SH NAME\n{program}".replace("-", r"\-")
    text = str(page).replace(f"{name}\n", f"{name} \\- {title[0].lower()}{title[1:]}\n")
    return f"{text.rstrip()}\n.SH NOTES\n{notes}.SH SEE ALSO\n{_SEE_ALSO[program]}\n"


def _verbatim(text: str) -> str:
    """Return a text whose lines are kept, in the language of man(7)."""
    escaped = text.strip().replace("\\", "\\e").replace("-", "\\-")
    lines = (f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())
    return "".join(f"{line}\n" for line in (".nf", *lines, ".fi"))


def main() -> None:
    """Write the files."""
    for path, text in generated():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(DIRECTORY.parent))


if __name__ == "__main__":
    main()
