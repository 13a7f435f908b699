"""Readers of the output of audit tools: one module for each tool, all with the same result.

A host runs an audit tool (debsecan, trivy, …) and sends its output. The agent does not interpret the output; portspec
does, here. A reader never raises and uses neither files nor the clock: the same run always has the same result.

    parse(*runs) → reader of the tool → ResultBuilder → Audit (audit/model.py)

How to add a reader for another tool
====================================

This takes five steps. The examples are for a tool "foo-audit".

1. Collect samples
------------------

Put outputs of the tool in tests/data/audit/foo-audit/, at least one each that is clean, vulnerable and failed:

    clean.txt       the output (.txt, .json or .xml), byte for byte as the tool printed it, followed by the lines that
                    the agent adds to it (step 3)
    clean.expected.json

The second file has the run, the audit that you expect, written by hand, and the source of the sample:

    {
      "source": "foo-audit 1.2 of Debian 12",
      "run": {"exit_status": 0, "errors": "", "system": {"kernel": "Linux", "id": "debian", "version": "12"}},
      "status": "clean",
      "scopes": ["system packages"]
    }

"source" names where the output comes from, so that others can check it: the version of the tool and the system, or the
file of its source code or of its tests. The fields of "run" are those of ToolRun, the others those of Audit, both in
audit/model.py; defaults may be omitted. Vulnerabilities are sorted by severity, package and id. If the output has the
time of the database, set "ended_at" in "run" and "database_at", both as Unix times.

tests/unit/audit/tools/test_samples.py compares all samples. Add "foo-audit/" to its GENERATIONS. If the tool has or had
several formats, give the samples of each a prefix ("v2_clean.txt") and add an entry for each. Other tests cut, double
and change the samples, and check that none of that is clean.

2. Write the reader
-------------------

Write foo_audit.py with a function `read(result: ResultBuilder) -> None`, and add it at the end of _READERS below. Copy
arch_audit.py if the tool prints JSON, pkg_admin.py if it prints lines. Put what you know about the output, its versions
and its exit statuses in the docstring of the module. These modules help:

    result.py       ResultBuilder: read the docstring of the class first; quote() and plain() for text of the tool
    json_reader.py  read_json() and JsonReader, for untrusted JSON
    output.py       numbered_lines(), and the lines that the agent adds to an output
    fields.py       timestamps, severities, name-version, CVEs in URLs
    coverage.py     which system a tool looked at, and the options that it ran with

The reader gets the run as `result.run` and calls:

    result.add(package, version, ids, …)        for each vulnerability
    result.covers(Scope.SYSTEM)                 for what the tool looked at
    result.complete(clean=(0,), vulnerable=(1,))
                                                at the end, with the exit statuses if it found nothing and something

`covers` decides what a clean result is about. SYSTEM means the packages of the distribution, BASE the base system of
FreeBSD, LANGUAGES packages of pip, npm and so on. A host is clean only if one of its tools covers SYSTEM, unless it is
set up to have only its applications audited (result.run.is_of_applications). A scanner for many systems covers it if
the output shows that it compared the packages of the system with data (trivy.py). A tool for one system covers it
always, and its result is marked unsupported on all systems but those that it is known to have data for (debsecan.py).
Only the reader does that: without it, the tool is clean on every system.

The status of a result is the first of these that applies:

    failed          result.fail(reason): the output is empty, truncated, has an unexpected line or type, contradicts
                    itself or the exit status; or the reader did not call `complete`, and the database is not stale
    unsupported     result.mark_unsupported(reason): the tool has no data for the packages of this system
                    (result.run.system), or did not look at them
    vulnerable      there is a vulnerability
    stale_database  result.mark_stale(reason), or result.set_database_time(time) of more than 14 days ago
    failed          result.mark_inconclusive(reason): nothing was found, but that proves nothing: options that hide
                    vulnerabilities, a repository that could not be reached
    clean           otherwise

When in doubt, do not let it be clean. Fail on every line and every value that you do not know, with
result.unexpected_line() in text: a new version of the tool then is failed until somebody has looked at it. An empty
output is never clean. If the tool prints nothing when all is well, or nothing that shows the end (a header alone),
let the agent add an end marker (`is_silent` in step 3): the exit status may be that of another program, as in
"foo-audit | cat". The agent adds it only after exit status 0. If that is the only exit status, read the output with
read_marked_output() (apk.py), else with split_end_marker() (pkg_admin.py).

A reason is one line for the administrator of the host: what is wrong, where, and what to do ("…; run it without this
option"). Quote text of the tool with quote(). Regular expressions must have bounds ("{0,200}") and take linear time.

3. Let the agent run it
-----------------------

In exporter/portspec/agent.py add a Tool to TOOLS; `name` is the one in _READERS. Its fields are described in its
docstring. The rest of agent.py to look at:

    choose_tool()     where the tool comes in the order of the tools of a system; a tool that is in no order runs only
                      if the settings name it (`tool = foo-audit`)
    usual_tool()      if the tool should be named on a system that has no tool at all
    _databases()      the files of its database, if the output does not have the time of the database
    _has_succeeded()  exit statuses besides 0 and 1 that are not errors
    the help          the names and the order, at the end of the file; also in deploy/agent/portspec-send.conf

The tests are in tests/unit/agent/test_tools.py: which tool is chosen on which system, which is the usual one, that no
command hides vulnerabilities, and that agent and readers have the same tools. Those of end markers are in
tests/unit/agent/test_silent_tools.py.

4. Write the tests
------------------

The samples are the main test. Besides them (test_parse.py and tests/fuzz fail until they know the tool; no test
fails without the first two):

    tests/unit/audit/tools/test_foo_audit.py  lines and values that have no sample; copy test_debsecan.py
    tests/unit/audit/tools/test_coverage.py   other systems (test_tool_of_another_system_is_unsupported), and
                                              options of the tool that hide vulnerabilities
    tests/unit/audit/tools/test_parse.py      the list of tools in a reason; JSON_TOOLS, if the tool prints JSON
    tests/fuzz/readers.py                     SAYS_NONE: a simple second check of when the tool found nothing

Run: pytest -n auto tests/unit/audit tests/unit/agent

5. Document it
--------------

docs/audit.md: a row in the table under "Requirements for `clean`", the order under "Choice of the tool", and, if the
tool only knows updates, a row under "Updates in place of vulnerabilities". docs/architecture.md: the module, in the
table of audit/tools/. README.md: the list of tools. CHANGELOG.md: an entry.

Run: pytest tests/artefacts/test_documents.py. It knows the table of modules, and not the other lists.

If you change how an existing tool is read, increase VERSION in audit/document.py, so that archived audits are read
again.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Audit, Status
from portspec.audit.tools import (
    apk,
    apt,
    arch_audit,
    debsecan,
    dnf,
    grype,
    osv_scanner,
    pip_audit,
    pkg_admin,
    pkg_audit,
    portaudit,
    trivy,
    ubuntu_pro,
    zypper,
)
from portspec.audit.tools.fields import parse_timestamp
from portspec.audit.tools.output import AGENT_PREFIX
from portspec.audit.tools.result import ResultBuilder, merge, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portspec.audit.model import ToolRun

_READERS: Final[Mapping[str, Callable[[ResultBuilder], None]]] = MappingProxyType(
    {
        "portaudit": portaudit.read,
        "pkg-audit": pkg_audit.read,
        "debsecan": debsecan.read,
        "osv-scanner": osv_scanner.read,
        "trivy": trivy.read,
        "grype": grype.read,
        "pip-audit": pip_audit.read,
        "ubuntu-pro": ubuntu_pro.read,
        "apt": apt.read,
        "arch-audit": arch_audit.read,
        "pkg-admin": pkg_admin.read,
        "apk": apk.read,
        "dnf": dnf.read,
        "zypper": zypper.read,
    }
)
TOOLS: Final = tuple(_READERS)
_DATABASE_TIME: Final = f"{AGENT_PREFIX}database of "  # followed by a timestamp
_MAX_TIMESTAMP_LENGTH: Final = 64  # characters


def parse(*runs: ToolRun) -> Audit:
    """Return the audit that the runs of a host's tools amount to; there is at least one run.

    Never raises, whatever the output. Takes time linear in the length of the output. A tool that is not in TOOLS is
    unsupported.
    """
    return merge(runs, [_parse(run) for run in runs])


def _parse(run: ToolRun) -> Audit:
    reader = _READERS.get(run.tool)
    if reader is None:
        return Audit(Status.UNSUPPORTED, reason=f"unknown tool {quote(run.tool)}, expected one of {', '.join(TOOLS)}")
    result = ResultBuilder(run)
    # If the tool does not print the age of its database, the agent may do so in the first line of standard error.
    first = run.errors[: len(_DATABASE_TIME) + _MAX_TIMESTAMP_LENGTH].partition("\n")[0]
    if first.startswith(_DATABASE_TIME):
        result.set_database_time(parse_timestamp(first.removeprefix(_DATABASE_TIME)))
    reader(result)
    return result.build()
