"""What audit tools print on hosts: the readers of their outputs, and what an output must say to be clean.

An input is a line with the tool, its exit status or "-", and "cut" if the agent cut the output off; then the output.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from portspec.audit.model import Status, System, ToolRun
from portspec.audit.tools import TOOLS, apk, apt, parse, pkg_admin
from portspec.audit.tools.debsecan import END_MARKER
from portspec.audit.tools.dnf import END_MARKER as DNF_END_MARKER
from tests.fuzz.harness import LARGE, Harness, Limit, first_line, text_of
from tests.unit.audit.tools.samples import load
from tests.unit.audit.tools.test_properties import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SAMPLES: Final = load()
VULNERABLE: Final = [sample for sample in SAMPLES if sample.audit.status == Status.VULNERABLE]
CLEAN: Final = [sample for sample in SAMPLES if sample.audit.status == Status.CLEAN]
LINES: Final = sorted({line for sample in SAMPLES for line in sample.run.output.splitlines()})
CALMING: Final = sorted({line for sample in CLEAN for line in sample.run.output.splitlines() if line[:3] != "***"})
DEEP: Final = ("[" * 100_000, '{"a":' * 100_000, '{"a":[' * 50_000 + "]}" * 50_000, "[" * 101 + "]" * 101)
ODD: Final = (
    *("9" * 5000, "-1", "1e999", "NaN", "0", "null", "{}", '"', "\\", "\\ud800", "\ud800", "\0", "\ufeff", "\r"),
    "\x0b",
)
_BY_NAME: Final = {sample.name.encode(): sample for sample in SAMPLES}


def _has_summary_of_none(output: str) -> bool:
    if re.search(r"(?:\A|[\r\n]|up-to-date\.?)\s*0+ problem\(s\) ", output):
        return True
    document = json.loads(output[output.index("{") :], parse_int=float)
    return document["pkg_count"] == 0 and not document.get("packages")


def _has_words_for_none(output: str) -> bool:
    return END_MARKER in output or "No known vulnerabilities were found on the system." in output


def _has_lists_of_dnf(output: str) -> bool:
    """Return whether all three lists are there, each once; nothing is to be updated, and something was."""
    lists = re.findall(r"(?m)^# portspec: list of [^\r\n]*\r?\n((?:(?!# portspec: )[^\n]*\n)*)", output)
    available, installed, _ = lists
    is_empty = all(line in {"", "[]"} or " Package " in line or "/Sec." not in line for line in available.split("\n"))
    return DNF_END_MARKER in output and is_empty and installed.strip() not in {"", "[]"}


def _has_list_of_zypper(output: str) -> bool:
    """Return whether a list of patches is there, without one of security that is needed."""
    output = re.sub(r"^# portspec: .*$", "", output, flags=re.MULTILINE)  # what the agent adds
    patches = re.findall(r'status="(?:needed|unwanted)" category="([^"]*)"', output)
    return "<update-list" in output and "no-update-repositories" not in output and "security" not in patches


def _has_no_finding(output: str) -> bool:
    """Return whether a JSON document is whole, with no list of findings in it that is not empty."""
    document = json.loads(output.strip(), parse_int=float)
    is_excused = "experimental_analysis" in output  # of osv-scanner, which lists what it does not count
    return is_excused or not any(_findings(document))


def _findings(value: Any) -> Any:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield key in {"matches", "Vulnerabilities", "vulns", "vulnerabilities", "groups"} and bool(inner)
        yield from _findings(inner)
    for inner in value if isinstance(value, list) else ():
        yield from _findings(inner)


def _has_no_security_update(output: str) -> bool:
    """Return whether apt's output is whole, and no version above an installed one is of a security pocket."""
    tables, marker, sources = output.partition(apt.SOURCES)
    above = [table.partition(" *** ")[0] for table in re.split(r"[\r\n](?=\S)", tables)]
    is_whole = output.rstrip().endswith(apt.END_MARKER) and bool(marker) and "Pinned packages:" in sources
    pockets = re.findall(r"(\S+(?:-security|/updates)/\S+) \S+ Packages\s+release ", sources)
    return is_whole and bool(pockets) and not any(pocket in part for pocket in pockets for part in above)


def _has_no_older_package(output: str) -> bool:
    """Return whether apk's output is whole, with no package of which a repository has a newer version."""
    is_whole = output.rstrip().endswith(apk.END_MARKER) and apk.INDEXES in output
    return is_whole and " = " in output and not re.search(r"^\S+-[0-9]\S* +< ", output, re.MULTILINE)


def _has_only_installed_packages(output: str) -> bool:
    """Return whether pkg_admin's output is whole, with no vulnerability before the packages."""
    found, marker, _ = output.partition(pkg_admin.PACKAGES)
    return output.rstrip().endswith(pkg_admin.END_MARKER) and bool(marker) and not found.strip()


def _has_no_advisory(output: str) -> bool:
    document = json.loads(output.strip())
    return document == [] or (isinstance(document, dict) and document["packages"] == [])


SAYS_NONE: Final[Mapping[str, Callable[[str], bool]]] = {
    "portaudit": _has_summary_of_none,
    "pkg-audit": _has_summary_of_none,
    "debsecan": _has_words_for_none,
    "dnf": _has_lists_of_dnf,
    "zypper": _has_list_of_zypper,
    "osv-scanner": _has_no_finding,
    "trivy": _has_no_finding,
    "grype": _has_no_finding,
    "pip-audit": _has_no_finding,
    "ubuntu-pro": _has_no_advisory,
    "apt": _has_no_security_update,
    "arch-audit": _has_no_advisory,
    "pkg-admin": _has_only_installed_packages,
    "apk": _has_no_older_package,
}


def is_said_to_be_clean(run: ToolRun) -> bool:
    """Return whether an output has the words with which its tool says that it found nothing."""
    try:
        return SAYS_NONE[run.tool](run.output)
    except (ValueError, KeyError, TypeError):
        return False


def read_output(data: bytes) -> None:
    """Read an output; it comes to an audit, and to a clean one only where the tool's words for it are."""
    words, rest = first_line(data)
    tool, status, *others = (*words, "", "")[: max(2, len(words))]
    systems = [System("Linux", *_system(word)) for word in others if "/" in word]
    run = ToolRun(
        tool,
        int(status) if re.fullmatch("[0-9]{1,3}", status) else None,
        text_of(rest),
        is_truncated="cut" in others,
        system=systems[0] if systems else None,
    )
    audit = parse(run)
    check(audit)
    if audit.status == Status.CLEAN:
        assert not run.is_truncated
        assert run.exit_status is not None
        assert is_said_to_be_clean(run)


def _system(word: str) -> tuple[str, tuple[str, ...], str]:
    """Read a system, such as "ubuntu/24.04/debian,linux": what it is, its version, and what it is like."""
    name, version, like = [*word.split("/"), ""][:3]
    return name, tuple(filter(None, like.split(","))), version


def add_lines(data: bytes) -> None:
    """Add lines to an output: vulnerable ones do not become clean, and clean ones not by words of nobody.

    An input is a line with the name of a sample; then lines to add, each behind two bytes for its place.
    """
    head, _, rest = data.partition(b"\n")
    sample = _BY_NAME.get(head)
    if sample is None:
        return
    lines = sample.run.output.splitlines(keepends=True)
    for piece in rest.split(b"\n")[:8]:
        place, line = int.from_bytes(piece[:2], "big"), text_of(piece[2:])
        if sample.audit.status == Status.CLEAN:
            line = f"@ {''.join(line.split())} @"
        lines.insert(place % (len(lines) + 1), line + "\n")
    run = replace(sample.run, output="".join(lines))
    for each in (run, replace(run, exit_status=0)):
        audit = parse(each)
        check(audit)
        if sample.audit.status in {Status.CLEAN, Status.VULNERABLE}:
            assert audit.status != Status.CLEAN, each.output


# --- Seeds ------------------------------------------------------------------------------------------------------------


def _head(run: ToolRun) -> bytes:
    system = f" {run.system.id}/{run.system.version}/{','.join(run.system.like)}" if run.system else ""
    status = "-" if run.exit_status is None else run.exit_status
    return f"{run.tool} {status}{' cut' if run.is_truncated else ''}{system.replace(' ', '')}\n".encode()


def _outputs() -> Iterator[bytes]:
    for sample in SAMPLES:
        yield _head(sample.run) + sample.run.output.encode()


def _additions() -> Iterator[bytes]:
    for number, sample in enumerate([*CLEAN, *VULNERABLE]):
        calming = CALMING[number % len(CALMING)].encode()
        yield sample.name.encode() + b"\n\0\1" + calming[:400] + b"\n\xff\xff@ nobody @"


_SHORT: Final = sorted({line[:60].strip() for line in LINES if len(line) < 200})
_TOKENS: Final = tuple(
    dict.fromkeys(
        [*(word.encode("utf-8", "surrogatepass") for word in (*_SHORT, *ODD)), *(tool.encode() for tool in TOOLS)]
    )
)
#: A reader makes several passes over each line, and json a call for each value.
_CALLS: Final = Limit(30_000, 300)

_READERS: Final = Harness(
    "readers",
    read_output,
    _outputs,
    _TOKENS,
    longest=8192,
    calls=_CALLS,
    largest=LARGE,
)
_ADDITIONS: Final = Harness(
    "additions",
    add_lines,
    _additions,
    (*(line[:60].encode() for line in CALMING), *(sample.name.encode() for sample in SAMPLES)),
    longest=2048,
    calls=Limit(3_000_000, 1000),  # by the size of the sample, not of the input
    memory=Limit(64 << 20, 1000),
)

HARNESSES: Final = (_READERS, _ADDITIONS)
