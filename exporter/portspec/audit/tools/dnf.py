"""The advisories that dnf lists for a system: dnf 4, dnf 5, and the yum of RHEL 7 and Amazon Linux 2.

dnf prints nothing and ends with 0 where nothing is to be updated, and just the same where no repository has advisories
(CentOS, and many of other vendors). So our agent asks for three lists (lists.py): the advisories for newer versions of
what is installed, those that are installed already, and the CVEs of the first. The last line is END_MARKER if dnf ended with
0. It is clean only if the first list is empty and the second tells that there are advisories of the system's vendor.

As text a line has an id, a kind and a package. The option --with-cve prints the ids of all references, and leaves out
advisories without a CVE (dnf/cli/commands/updateinfo.py). It does not tell which advisory has which CVE, but which
version fixes it; dnf 5 tells both in JSON. Of kernels dnf looks at the newest that is installed and at the one that
runs, yum at the newest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from portspec.audit.model import CVE, Scope, Severity
from portspec.audit.tools import severity
from portspec.audit.tools.draft import quote
from portspec.audit.tools.lines import ends_whole, numbered_lines
from portspec.audit.tools.lists import split_lists
from portspec.audit.tools.moment import read_moment
from portspec.audit.tools.proof import proof_of, split_proof
from portspec.audit.tools.tree import read_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.audit.tools.draft import Draft
    from portspec.audit.tools.tree import Node

END_MARKER: Final = proof_of("dnf")
LISTS: Final = ("available", "installed", "CVEs")

_PACKAGE = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9_.+~^-]{0,200})-(?:0:)?((?:[0-9]{1,10}:)?[^-:\s]{1,100}-[^-:\s]{1,100})\.([a-z0-9_]{1,20})"
)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CLOCK = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}")
_HEAD = re.compile(r"(?:Name|CVE) +Type +Severity +Package +Issued")  # of the table of dnf 5
_WORDS: Final = {3, 4}  # an id, a kind, in dnf 5 a severity, a package
_AGE: Final = "Last metadata expiration check: "
_OLD: Final = "Repodata is over 2 weeks old."  # yum
# What is printed without --quiet: progress, mirrors, plugins.
_NOISE = re.compile(
    r".{1,100}\| +[0-9.]{1,9} [kMG]?B? +[0-9:]{5,8}(?: ETA)?"
    r"| \* [^\s:]{1,100}: \S{1,200}"
    r"|(?:Last metadata expiration check|Loaded plugins): [ -~]{1,300}"
    r"|Loading mirror speeds from cached hostfile|updateinfo list done|Updating Subscription Management repositories\."
)
_TROUBLE: Final = ("Error: ", "Errors during ", "Failed to ", "Ignoring repositories: ", "Skipping ", ">>> ")
_EXPECTED: Final = "an advisory, its kind and a package"

# How the ids of the vendors' own advisories begin; EPEL's tell nothing of the packages of the system.
_OF_VENDOR: Final = {
    "rhel": "RHSA-",
    "fedora": "FEDORA-",
    "almalinux": "ALSA-",
    "rocky": "RLSA-",
    "ol": "ELSA-",
    "amzn": "ALAS",
}
_OF_EPEL: Final = "FEDORA-EPEL-"
_WITHOUT: Final = {"centos"}  # systems whose repositories have no advisories


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of a list: `ids` are those of advisories, or of their references in the list of CVEs.

    `advisory` is that which has the references, "" where that is not told. `evr` is epoch:version-release.
    """

    ids: tuple[str, ...]
    severity: Severity
    package: str
    evr: str
    advisory: str = ""
    is_installed: bool = False

    @property
    def fix(self) -> tuple[str, str]:
        """The package that fixes it."""
        return self.package, self.evr


def read(draft: Draft) -> None:
    """Read the lists that dnf printed."""
    run = draft.run
    draft.covers(Scope.SYSTEM)
    body, is_proven = split_proof(run.output, END_MARKER)
    _read_errors(draft)
    names: list[str] = []
    lists: dict[str, list[_Entry]] = {name: [] for name in LISTS}
    for arguments, start, end in split_lists(body, " ".join(run.command)):
        name = _name(arguments)
        names.append(name)
        lists[name] += _read_list(draft, body, start, end, is_of_cves=name == LISTS[2])
    if not names:
        draft.no_output("lists of advisories")
        return
    installed = [each for each in chain(lists["available"], lists["installed"]) if each.is_installed]
    available = [each for each in lists["available"] if not each.is_installed]
    installed += lists["installed"]
    _add(draft, available, lists["CVEs"])
    if tuple(names) != LISTS[: len(names)]:
        draft.fail(f"the output has the lists {', '.join(names)}, expected {', '.join(LISTS)}")
    elif not is_proven and not ends_whole(body):
        draft.fail("the output is cut off within its last line")
    elif run.exit_status == 0 and not (available or lists["CVEs"] or (is_proven and tuple(names) == LISTS)):
        draft.fail(
            f"the output lists no vulnerability, yet not all of {', '.join(LISTS)}, or does not end with {quote(END_MARKER)}"
        )
    else:
        _judge(draft, [advisory for each in chain(available, installed) for advisory in each.ids])
    draft.end(clean=(0,), found=(0,))


def _read_errors(draft: Draft) -> None:
    """Look for repositories that were skipped; with them dnf ends with 0 all the same."""
    for line in draft.run.errors.splitlines():
        if line.startswith(_TROUBLE):
            draft.doubt(f"dnf says {quote(line)}")


def _name(arguments: str) -> str:
    words = set(arguments.split())
    if words & {"cves", "cve", "--with-cve"}:
        return "CVEs"
    return "installed" if words & {"installed", "--installed"} else "available"


def _read_list(draft: Draft, body: str, start: int, end: int, *, is_of_cves: bool) -> Iterator[_Entry]:
    text = body[start:end]
    if "--json" in draft.run.command or text.lstrip()[:1] in {"[", "{"}:
        return _read_json(draft, text, is_of_cves=is_of_cves)
    return _read_lines(draft, text, body.count("\n", 0, start), is_of_cves=is_of_cves)


def _read_lines(draft: Draft, text: str, before: int, *, is_of_cves: bool) -> Iterator[_Entry]:
    """Read the lines of a list, before which there are `before` others."""
    for number, line in numbered_lines(text):
        if line.startswith(_AGE):
            _, _, moment = line.rstrip(".").rpartition(" on ")
            day, year = moment[:-5], moment[-4:]  # Thu Mar 16 09:40:27 2023, in the local time
            draft.database(read_moment(f"{day} UTC {year}"))
        elif line.startswith(_OLD):
            draft.stale(f"yum says {quote(line)}")
        if line.startswith(_OLD) or _NOISE.fullmatch(line) or _HEAD.fullmatch(line):
            continue
        entry = _read_line(line)
        if entry is None:
            draft.strange(before + number, line, _EXPECTED)
            if draft.is_lost:
                return
        elif not is_of_cves or CVE.fullmatch(entry.ids[0]):  # other references are the advisories themselves
            yield entry


def _read_line(line: str) -> _Entry | None:
    is_installed = line.startswith("i ")
    words = line.split(maxsplit=8)[is_installed:]
    if len(words) > min(_WORDS) and _CLOCK.fullmatch(words[-1]) and _DAY.fullmatch(words[-2]):
        del words[-2:]
    package = _PACKAGE.fullmatch(words[-1]) if len(words) in _WORDS else None
    if package is None:
        return None
    worst = severity.of_word(words[-2].removesuffix("/Sec."))
    return _Entry((words[0],), worst, package[1], package[2], is_installed=is_installed)


def _read_json(draft: Draft, text: str, *, is_of_cves: bool) -> Iterator[_Entry]:
    root = read_tree(text, draft)
    if root is None:
        return
    if not isinstance(root.value, list):
        root.fail("a list")
    for node in root.own_branches():
        package = _PACKAGE.fullmatch(node.text("nevra", is_required=True))
        advisory = node.text("advisory_name" if is_of_cves else "name", is_required=True)
        if package is None or not advisory:
            _fail_entry(draft, node)
        elif is_of_cves:
            ids = [reference.text("reference_id", is_required=True) for reference in node.branches("references")]
            cves = tuple(each for each in ids if CVE.fullmatch(each))
            yield _Entry(cves, Severity.UNKNOWN, package[1], package[2], advisory)  # its severity is the type, a bug
        else:
            yield _Entry((advisory,), severity.of_word(node.text("severity")), package[1], package[2])


def _fail_entry(draft: Draft, node: Node) -> None:
    draft.fail(f'an advisory has the package {quote(node.text("nevra"))}, expected "name-version-release.arch"')


def _add(draft: Draft, available: Iterable[_Entry], with_cves: Iterable[_Entry]) -> None:
    """Add each advisory for each of its packages, with its CVEs as far as dnf tells them."""
    cves: dict[tuple[str, tuple[str, str]], list[str]] = {}
    severities: dict[tuple[str, tuple[str, str]], Severity] = {}
    for each in with_cves:
        cves.setdefault((each.advisory, each.fix), []).extend(each.ids)
        severities[each.advisory, each.fix] = each.severity
    left = dict.fromkeys(cves)
    for each in available:
        known = [(advisory, each.fix) for advisory in (each.ids[0], "")]
        ids = [cve for key in known for cve in cves.get(key, ())]
        draft.add(each.package, "", ids, severity=each.severity, fixed_in=[each.evr], advisories=each.ids)
        for key in known:
            left.pop(key, None)
        if draft.is_lost:
            return
    for advisory, (package, evr) in left:  # of an advisory that is not said to be of security
        key = (advisory, (package, evr))
        draft.add(package, "", cves[key], severity=severities[key], fixed_in=[evr], advisories=[advisory])


def _judge(draft: Draft, advisories: Iterable[str]) -> None:
    """Say what speaks against it that nothing is to be updated, by the system and the ids of the advisories it has."""
    system = draft.run.system
    prefix = _OF_VENDOR.get(system.id, "") if system else ""
    if system and system.id in _WITHOUT:
        draft.unsupported(f"the repositories of {system.spelled} have no advisories; use another tool")
    elif not any(each.startswith(prefix) and not each.startswith(_OF_EPEL) for each in advisories):
        named = f" ({prefix}…)" if prefix else ""
        draft.unsupported(
            f"dnf knows no advisory{named} of any package that is installed: the repositories of this system have none,"
            " or none that it may read"
        )
    elif system and system.id == "amzn" and system.version >= "2023" and "--releasever=latest" not in draft.run.command:
        draft.doubt(
            f"{system.spelled} is locked to a release, and dnf lists no newer advisory without --releasever=latest"
        )
