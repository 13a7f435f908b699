"""Reads the lists of advisories of dnf 4, dnf 5, and the yum of RHEL 7 and Amazon Linux 2.

dnf prints nothing and exits with 0 if there are no updates, and also if no repository has advisories (CentOS, and many
of other vendors). So the agent asks for three lists (see output.py): the advisories for newer versions of installed
packages, the advisories that are installed already, and the CVEs of the first list. The last line is END_MARKER if dnf
exited with 0. The result is clean only if the first list is empty, and the second shows that there are advisories of
the system's vendor.

As text a line has an id, a kind and a package. With --with-cve dnf prints the ids of all references, and omits
advisories without a CVE (dnf/cli/commands/updateinfo.py). Text does not show which advisory has which CVE, only which
version fixes it; the JSON of dnf 5 shows both. Of several kernels dnf checks the newest that is installed and the one
that is running, yum only the newest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from portspec.audit.model import CVE, Scope, Severity
from portspec.audit.tools.fields import parse_timestamp, severity_of_word
from portspec.audit.tools.json_reader import read_json
from portspec.audit.tools.output import (
    end_marker_of,
    ends_with_newline,
    numbered_lines,
    split_end_marker,
    split_lists,
)
from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.audit.tools.json_reader import JsonReader
    from portspec.audit.tools.result import ResultBuilder

END_MARKER: Final = end_marker_of("dnf")
LISTS: Final = ("available", "installed", "CVEs")

_PACKAGE = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9_.+~^-]{0,200})-(?:0:)?((?:[0-9]{1,10}:)?[^-:\s]{1,100}-[^-:\s]{1,100})\.([a-z0-9_]{1,20})"
)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CLOCK = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}")
_TABLE_HEADER = re.compile(r"(?:Name|CVE) +Type +Severity +Package +Issued")  # dnf 5
_WORDS: Final = {3, 4}  # an id, a kind, in dnf 5 a severity, a package
_METADATA_TIME: Final = "Last metadata expiration check: "
_OLD_METADATA: Final = "Repodata is over 2 weeks old."  # yum
# Progress, mirrors and plugins, which are printed without --quiet.
_IGNORED = re.compile(
    r".{1,100}\| +[0-9.]{1,9} [kMG]?B? +[0-9:]{5,8}(?: ETA)?"
    r"| \* [^\s:]{1,100}: \S{1,200}"
    r"|(?:Last metadata expiration check|Loaded plugins): [ -~]{1,300}"
    r"|Loading mirror speeds from cached hostfile|updateinfo list done|Updating Subscription Management repositories\."
)
# With these messages dnf has skipped a repository; it exits with 0 nevertheless.
_ERRORS: Final = ("Error: ", "Errors during ", "Failed to ", "Ignoring repositories: ", "Skipping ", ">>> ")
_EXPECTED: Final = "an advisory, its kind and a package"

# How the ids of each vendor's own advisories begin. Those of EPEL say nothing about the packages of the system.
_VENDOR_PREFIXES: Final = {
    "rhel": "RHSA-",
    "fedora": "FEDORA-",
    "almalinux": "ALSA-",
    "rocky": "RLSA-",
    "ol": "ELSA-",
    "amzn": "ALAS",
}
_EPEL_PREFIX: Final = "FEDORA-EPEL-"
_SYSTEMS_WITHOUT_ADVISORIES: Final = {"centos"}


@dataclass(frozen=True, slots=True)
class _AdvisoryLine:
    """An entry of a list.

    `ids` are those of advisories; in the list of CVEs those of their references. `advisory` is the one that has the
    references, "" if dnf does not print it. `evr` is epoch:version-release.
    """

    ids: tuple[str, ...]
    severity: Severity
    package: str
    evr: str
    advisory: str = ""
    is_installed: bool = False

    @property
    def fix(self) -> tuple[str, str]:
        """The package and the version that fix it."""
        return self.package, self.evr


def read(result: ResultBuilder) -> None:
    """Read the lists of dnf."""
    run = result.run
    result.covers(Scope.SYSTEM)
    body, has_end_marker = split_end_marker(run.output, END_MARKER)
    for line in run.errors.splitlines():
        if line.startswith(_ERRORS):
            result.mark_inconclusive(f"dnf reports {quote(line)}")
    names: list[str] = []
    lists: dict[str, list[_AdvisoryLine]] = {name: [] for name in LISTS}
    for arguments, start, end in split_lists(body, " ".join(run.command)):
        name = _list_name(arguments)
        names.append(name)
        lists[name] += _read_list(result, body, start, end, is_of_cves=name == LISTS[2])
    if not names:
        result.no_output("lists of advisories")
        return
    installed = [each for each in chain(lists["available"], lists["installed"]) if each.is_installed]
    available = [each for each in lists["available"] if not each.is_installed]
    installed += lists["installed"]
    _add(result, available, lists["CVEs"])
    if tuple(names) != LISTS[: len(names)]:
        result.fail(f"the output has the lists {', '.join(names)}, expected {', '.join(LISTS)}")
    elif not has_end_marker and not ends_with_newline(body):
        result.fail("the output is truncated in its last line")
    elif run.exit_status == 0 and not (available or lists["CVEs"] or (has_end_marker and tuple(names) == LISTS)):
        result.fail(
            f"the output has no vulnerabilities, but lacks a list ({', '.join(LISTS)}) or the last line "
            f"{quote(END_MARKER)}"
        )
    else:
        _check_coverage(result, [advisory for each in chain(available, installed) for advisory in each.ids])
    result.complete(clean=(0,), vulnerable=(0,))


def _list_name(arguments: str) -> str:
    words = set(arguments.split())
    if words & {"cves", "cve", "--with-cve"}:
        return "CVEs"
    return "installed" if words & {"installed", "--installed"} else "available"


def _read_list(result: ResultBuilder, body: str, start: int, end: int, *, is_of_cves: bool) -> Iterator[_AdvisoryLine]:
    text = body[start:end]
    if "--json" in result.run.command or text.lstrip()[:1] in {"[", "{"}:
        return _read_json_list(result, text, is_of_cves=is_of_cves)
    return _read_lines(result, text, body.count("\n", 0, start), is_of_cves=is_of_cves)


def _read_lines(result: ResultBuilder, text: str, lines_before: int, *, is_of_cves: bool) -> Iterator[_AdvisoryLine]:
    """Yield the entries of a list as text, which begins after `lines_before` lines of the output."""
    for number, line in numbered_lines(text):
        if line.startswith(_METADATA_TIME):
            _, _, time = line.rstrip(".").rpartition(" on ")
            day, year = time[:-5], time[-4:]  # Thu Mar 16 09:40:27 2023, in local time
            result.set_database_time(parse_timestamp(f"{day} UTC {year}"))
        elif line.startswith(_OLD_METADATA):
            result.mark_stale(f"yum reports {quote(line)}")
        if line.startswith(_OLD_METADATA) or _IGNORED.fullmatch(line) or _TABLE_HEADER.fullmatch(line):
            continue
        entry = _read_line(line)
        if entry is None:
            result.unexpected_line(lines_before + number, line, _EXPECTED)
            if result.should_stop:
                return
        elif not is_of_cves or CVE.fullmatch(entry.ids[0]):  # other references are the advisories themselves
            yield entry


def _read_line(line: str) -> _AdvisoryLine | None:
    is_installed = line.startswith("i ")
    words = line.split(maxsplit=8)[is_installed:]
    if len(words) > min(_WORDS) and _CLOCK.fullmatch(words[-1]) and _DAY.fullmatch(words[-2]):
        del words[-2:]
    package = _PACKAGE.fullmatch(words[-1]) if len(words) in _WORDS else None
    if package is None:
        return None
    severity = severity_of_word(words[-2].removesuffix("/Sec."))
    return _AdvisoryLine((words[0],), severity, package[1], package[2], is_installed=is_installed)


def _read_json_list(result: ResultBuilder, text: str, *, is_of_cves: bool) -> Iterator[_AdvisoryLine]:
    """Yield the entries of a list as JSON."""
    root = read_json(text, result)
    if root is None:
        return
    if not isinstance(root.value, list):
        root.fail("a list")
    for entry in root.elements():
        package = _PACKAGE.fullmatch(entry.text("nevra", is_required=True))
        advisory = entry.text("advisory_name" if is_of_cves else "name", is_required=True)
        if package is None or not advisory:
            _fail_entry(result, entry)
        elif is_of_cves:
            ids = [reference.text("reference_id", is_required=True) for reference in entry.objects("references")]
            cves = tuple(each for each in ids if CVE.fullmatch(each))
            # Here "severity" is the type of the advisory: a bug of dnf.
            yield _AdvisoryLine(cves, Severity.UNKNOWN, package[1], package[2], advisory)
        else:
            yield _AdvisoryLine((advisory,), severity_of_word(entry.text("severity")), package[1], package[2])


def _fail_entry(result: ResultBuilder, entry: JsonReader) -> None:
    nevra = quote(entry.text("nevra"))
    result.fail(f'an advisory has the package {nevra}, expected "name-version-release.arch"')


def _add(result: ResultBuilder, available: Iterable[_AdvisoryLine], with_cves: Iterable[_AdvisoryLine]) -> None:
    """Add each advisory for each of its packages, with the CVEs that dnf lists for it."""
    cves: dict[tuple[str, tuple[str, str]], list[str]] = {}
    severities: dict[tuple[str, tuple[str, str]], Severity] = {}
    for each in with_cves:
        cves.setdefault((each.advisory, each.fix), []).extend(each.ids)
        severities[each.advisory, each.fix] = each.severity
    remaining = dict.fromkeys(cves)
    for each in available:
        keys = [(advisory, each.fix) for advisory in (each.ids[0], "")]
        ids = [cve for key in keys for cve in cves.get(key, ())]
        result.add(each.package, "", ids, severity=each.severity, fixed_in=[each.evr], advisories=each.ids)
        for key in keys:
            remaining.pop(key, None)
        if result.should_stop:
            return
    for advisory, (package, evr) in remaining:  # CVEs of advisories that dnf does not list as security advisories
        key = (advisory, (package, evr))
        result.add(package, "", cves[key], severity=severities[key], fixed_in=[evr], advisories=[advisory])


def _check_coverage(result: ResultBuilder, advisories: Iterable[str]) -> None:
    """Check what "no updates" depends on: that there are advisories for this system, by the ids of those it has."""
    system = result.run.system
    prefix = _VENDOR_PREFIXES.get(system.id, "") if system else ""
    if system and system.id in _SYSTEMS_WITHOUT_ADVISORIES:
        result.mark_unsupported(f"the repositories of {system.spelled} have no advisories; use another tool")
    elif not any(each.startswith(prefix) and not each.startswith(_EPEL_PREFIX) for each in advisories):
        named = f" ({prefix}…)" if prefix else ""
        result.mark_unsupported(
            f"dnf has no advisory{named} for any installed package: the repositories of this system have none, or dnf "
            "may not read them"
        )
    elif (
        system and system.id == "amzn" and system.version >= "2023" and "--releasever=latest" not in result.run.command
    ):
        result.mark_inconclusive(
            f"{system.spelled} is locked to a release, and dnf lists no newer advisories without --releasever=latest"
        )
