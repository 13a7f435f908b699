"""What strangers can send, changed at random: it is refused or read, in time, and nothing false comes of it.

`PORTSPEC_FUZZ=N` tries N times as much, at random; without it the same is tried each time, in some seconds.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, AnyStr, Final, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portspec.agent import Parcel, make_mail
from portspec.audit.admission import REASONS, RejectedError, admit
from portspec.audit.envelope import EnvelopeError, unpack
from portspec.audit.mail import mail_origin, read_mail
from portspec.audit.model import Status, ToolRun
from portspec.audit.payload import AuditPayload, read_payload
from portspec.audit.tools import TOOLS, apk, apt, parse, pkg_admin
from portspec.audit.tools.debsecan import END_MARKER
from portspec.audit.tools.dnf import END_MARKER as DNF_END_MARKER
from tests.unit.audit.test_admission import NOW, PLAIN, RULES, packed, payload
from tests.unit.audit.test_mail import HEAD, HTML, NAMED, TEXT, forwarded, multipart, part, wrapped
from tests.unit.audit.tools.samples import Sample, load
from tests.unit.audit.tools.test_properties import check, values, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

TIMES: Final = int(os.environ.get("PORTSPEC_FUZZ", "1"))
pytestmark = pytest.mark.timeout(60 + 30 * TIMES)


def fuzz(examples: int) -> settings:
    """Return how much is tried; the machine may be slow, and what is drawn large."""
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        derandomize=TIMES == 1,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# --- Changes ----------------------------------------------------------------------------------------------------------

Edit = tuple[str, int, int, AnyStr]
BY_PLACE: Final = ("insert", "replace", "delete", "double", "swap", "cut", "drop")
BY_LINE: Final = ("line", "delete line", "double line", "swap lines")
places = st.integers(0, 2**16)
lengths = st.one_of(st.integers(0, 40), places)


def edits(tokens: st.SearchStrategy[AnyStr], kinds: tuple[str, ...] = BY_PLACE + BY_LINE) -> Any:
    """Return some changes, which put in tokens, take out and move what is there."""
    return st.lists(st.tuples(st.sampled_from(kinds), places, lengths, tokens), min_size=1, max_size=4)


def edited(data: AnyStr, changes: list[Edit[AnyStr]], end: AnyStr) -> AnyStr:
    """Return a text or bytes with the changes made, one after the other; `end` is how a line that is put in ends."""
    for kind, place, length, token in changes:
        if kind in BY_LINE:
            data = data[:0].join(_by_line(data.splitlines(keepends=True), kind, place, length, token + end))
        else:
            data = _by_place(data, kind, place, length, token)
    return data


def _by_place(data: AnyStr, kind: str, place: int, length: int, token: AnyStr) -> AnyStr:
    begin = place % (len(data) + 1)
    end = min(begin + length, len(data))
    before, span, after = data[:begin], data[begin:end], data[end:]
    middle = len(after) // 2
    return {
        "insert": before + token + span + after,
        "replace": before + token + data[begin + len(token) :],
        "delete": before + after,
        "double": before + span + span + after,
        "swap": before + after[:middle] + span + after[middle:],
        "cut": before,
        "drop": after,
    }[kind]


def _by_line(lines: Sequence[T], kind: str, place: int, length: int, token: T) -> Sequence[T]:
    begin, other = sorted((place % (len(lines) + 1), length % (len(lines) + 1)))
    before, line, after = lines[:begin], lines[begin : begin + 1], lines[begin + 1 :]
    return {
        "line": [*before, token, *line, *after],
        "delete line": [*before, *after],
        "double line": [*before, *line, *line, *after],
        "swap lines": [*before, *lines[other : other + 1], *lines[begin + 1 : other], *line, *lines[other + 1 :]],
    }[kind]


# --- Outputs of tools -------------------------------------------------------------------------------------------------

SAMPLES: Final = load()
VULNERABLE: Final = [sample for sample in SAMPLES if sample.audit.status == Status.VULNERABLE]
CLEAN: Final = [sample for sample in SAMPLES if sample.audit.status == Status.CLEAN]
LINES: Final = sorted({line for sample in SAMPLES for line in sample.run.output.splitlines()})
CALMING: Final = sorted({line for sample in CLEAN for line in sample.run.output.splitlines() if line[:3] != "***"})
DEEP: Final = ("[" * 100_000, '{"a":' * 100_000, '{"a":[' * 50_000 + "]}" * 50_000, "[" * 101 + "]" * 101)
ODD: Final = (
    "9" * 5000,
    "-1",
    "1e999",
    "NaN",
    "0",
    "null",
    "{}",
    '"',
    "\\",
    "\\ud800",
    "\ud800",
    "\0",
    "\ufeff",
    "\r",
    "\x0b",
)

anything = st.text(st.characters(codec=None), max_size=30)  # with halves of surrogate pairs, as JSON can spell them
words = st.one_of(st.sampled_from(LINES), st.sampled_from(ODD), anything, st.sampled_from(DEEP))
calming = st.one_of(st.sampled_from(CALMING), st.sampled_from(ODD), anything)


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


@fuzz(400)
@given(st.sampled_from(SAMPLES), edits(words), st.sampled_from([{}, {"exit_status": 0}, {"is_truncated": True}]))
def test_output_is_clean_only_by_what_the_tool_says(
    sample: Sample, changes: list[Edit[str]], end: Mapping[str, Any]
) -> None:
    """However an output is changed, it comes to an audit, and to a clean one only where the tool's words for it are."""
    run = replace(sample.run, output=edited(sample.run.output, changes, "\n"), **end)
    audit = parse(run)
    check(audit)
    if audit.status == Status.CLEAN:
        assert not run.is_truncated
        assert SAYS_NONE[run.tool](run.output)


def test_oracle_of_clean_holds_for_the_samples() -> None:
    """What the test above asks for is there in each clean sample."""
    assert all(SAYS_NONE[sample.run.tool](sample.run.output) for sample in CLEAN)


@fuzz(300)
@given(st.sampled_from(VULNERABLE), edits(calming, ("insert", "line", "double line")))
def test_nothing_that_is_added_makes_a_vulnerable_output_clean(sample: Sample, changes: list[Edit[str]]) -> None:
    """Vulnerabilities that are there are not taken back by lines of a clean output, nor by any others."""
    if sample.is_json:  # within a key, it takes away what the key says
        changes = [("line", place, length, token) for _, place, length, token in changes]
    run = replace(sample.run, output=edited(sample.run.output, changes, "\n"))
    for each in (run, replace(run, exit_status=0)):
        assert parse(each).status != Status.CLEAN


@fuzz(200)
@given(st.sampled_from(CLEAN), places, anything)
def test_line_of_nobody_makes_a_clean_output_failed(sample: Sample, place: int, text: str) -> None:
    """A line that no tool prints, wherever it stands, means that the output was not understood."""
    line = f"@ {''.join(text.split())} @"
    audit = parse(replace(sample.run, output=edited(sample.run.output, [("line", place, 0, line)], "\n")))
    assert audit.status in {Status.FAILED, Status.STALE_DATABASE}


@fuzz(30)
@given(st.sampled_from(TOOLS), st.lists(st.sampled_from(LINES), min_size=1, max_size=3), st.sampled_from("\n\r "))
def test_tool_that_prints_for_ever_is_read_in_time(tool: str, lines: list[str], end: str) -> None:
    """An output of a million characters, over and over the same, is read to its end or given up."""
    unit = end.join([*lines, ""])
    audit = parse(ToolRun(tool, 0, unit * (1_000_000 // len(unit)), unit * 1000, is_truncated=True))
    check(audit)
    assert audit.status == Status.FAILED


# --- Audits ----------------------------------------------------------------------------------------------------------

RUN: Final = next(sample.run for sample in VULNERABLE if sample.run.tool == PLAIN["tool"]["name"])
BODY: Final = payload(tool=PLAIN["tool"] | {"output": RUN.output, "exit_status": RUN.exit_status})
REPORT: Final = packed(BODY)
OTHER_BODY: Final = payload(host="db1.example.org", day="2026-11-21", time="2026-11-21T03:17:09Z")
OTHER: Final = packed(OTHER_BODY, "db1.example.org")
raw_tokens = st.one_of(
    st.binary(max_size=8),
    st.sampled_from([*(word.encode("utf-8", "surrogatepass") for word in (*DEEP, *ODD)), b"\xff", b"\\u0000", b'"a":']),
    st.sampled_from(["true", "1e9999", '"\\ud800\\u0000\\u001b"', "[[]]", '{"": null}', "65536", "-0"]).map(str.encode),
)


def texts_of(audit: AuditPayload) -> list[str]:
    """Return the texts of an audit that are shown as they are: all but what the tool printed."""
    values = [getattr(audit, field.name) for field in fields(AuditPayload) if field.name not in {"run", "listeners"}]
    for listener in audit.listeners or ():
        values += [getattr(listener, field.name) for field in fields(listener)]
    return [value for value in (*values, *(run.tool for run in audit.runs)) if isinstance(value, str)]


def check_report(audit: AuditPayload) -> None:
    """Hold an audit to what everyone downstream relies on, and read its tool's output."""
    for text in texts_of(audit):
        assert text.isprintable()
        assert text.encode().decode() == text
    assert {audit.at} == {run.ended_at for run in audit.runs}
    check(parse(*audit.runs))


def unless_refused(read: Callable[[], T]) -> T | None:
    """Return what is read; None if it is refused, for one of the reasons and in one line."""
    try:
        return read()
    except (EnvelopeError, RejectedError) as error:
        refused = error
    assert refused.reason in REASONS
    assert str(refused).isprintable()
    return None


@fuzz(500)
@given(edits(raw_tokens))
def test_changed_payload_is_an_audit_or_malformed(changes: list[Edit[bytes]]) -> None:
    """A payload that is changed anyhow reads as an audit that can be shown, or is malformed; nothing else."""
    body = edited(BODY, changes, b"\n")
    audit = unless_refused(lambda: read_payload(body))
    if audit is not None:
        check_report(audit)
    under_the_signature_of_another = REPORT[: REPORT.index(b"\n") + 1] + gzip.compress(body)
    assert accepted(under_the_signature_of_another) in {None, BODY}


@fuzz(300)
@given(st.data())
def test_value_of_any_type_in_any_place_is_an_audit_or_malformed(data: Any) -> None:
    """What a host signs may have any value anywhere, deep in it as well."""
    plain = json.loads(BODY)
    container, key = data.draw(st.sampled_from(list(walk(plain))))
    container[key] = data.draw(values)
    audit = unless_refused(lambda: admit(packed(json.dumps(plain).encode()), RULES, NOW)[0])
    if audit is not None:
        check_report(audit)


@fuzz(100)
@given(st.lists(anything, min_size=8, max_size=8))
def test_words_of_a_host_can_be_shown(found: list[str]) -> None:
    """Control characters and halves of surrogate pairs in names and versions stand escaped."""
    nonce, agent, version, tool, protocol, address, process, user = found
    listener = {"protocol": protocol, "address": address, "port": 1, "process": process, "user": user}
    body = payload(
        nonce=nonce, agent=agent, tool=PLAIN["tool"] | {"version": version, "name": tool}, listeners=[listener]
    )
    audit = read_payload(body)
    check_report(audit)
    assert len(texts_of(audit)) == 2 + 8
    for text in found:
        assert not text.isprintable() or text in texts_of(audit)


@fuzz(500)
@given(edits(st.one_of(raw_tokens, st.sampled_from([REPORT, OTHER, OTHER[:83], OTHER[83:]]))))
def test_changed_audit_is_refused_or_the_same(changes: list[Edit[bytes]]) -> None:
    """Of all that can be made of signed audits only what their hosts signed is accepted, to the byte."""
    data = edited(REPORT, changes, b"\n")
    found = unless_refused(lambda: unpack(data, 5000))
    assert found is None or len(found[0]) <= 5000
    assert accepted(data) in {None, BODY, OTHER_BODY}


def accepted(data: bytes) -> bytes | None:
    """Return the payload of an audit that is accepted; None for one that is refused."""
    return unless_refused(lambda: admit(data, RULES, NOW)[1])


# --- Mails ------------------------------------------------------------------------------------------------------------

SENT: Final = make_mail(Parcel(REPORT, "web1", "2026-11-22", "00" * 16, None), "root@web1.example.org", "p@example.org")
ATTACHED: Final = part(body=wrapped(REPORT))
MAILS: Final = (
    SENT,
    SENT.replace(b"\n", b"\r\n"),
    HEAD + ATTACHED,
    HEAD + multipart(TEXT, part(encoding="binary", body=REPORT), HTML),
    HEAD + multipart(ATTACHED, part("application/octet-stream", "base64", wrapped(OTHER), NAMED)),
    forwarded(SENT, 2),
    forwarded(HEAD + ATTACHED, 1).replace(b"\n", b"\r\n"),
)
TYPES: Final = (
    *(b"multipart/mixed; boundary=b1", b"multipart/digest; boundary*0=b; boundary*1=1", b"multipart/x"),
    *(b"multipart/mixed; boundary=\xff", b'multipart/mixed; boundary=""', b"message/rfc822", b"message/partial"),
    *(b"message/delivery-status", b"application/vnd.portspec.audit", b"\xff/\xfe; x=\xfd", b"", b"/", b";"),
    *(b"a/b; name*=x\0''%41", b"a/b; name*0*=idna'x'%ff", b"a/b; name*9999999999999999=a"),
)
ENCODINGS: Final = (b"base64", b"quoted-printable", b"8bit", b"x-uuencode", b"\xff")
PIECES: Final = (
    *(b"Content-Type: " + kind for kind in TYPES),
    *(b"Content-Transfer-Encoding: " + encoding for encoding in ENCODINGS),
    *(NAMED.encode(), b'Content-Disposition: ; filename="\\', b"From x", b"From ", b":", b"x: y", b" folded"),
    *(b"--b1", b"--b1--", b"--b1 \t", b"--\xff", b"--", b"--=====", b"--alternative0", b"--forward0--"),
    *(b"", b"=", b"QUJD", b"=3D=", b"\0", b"\xff" * 9, b"\xef\xbb\xbf", b"Received: a;b", b"Return-Path: <"),
    *(wrapped(OTHER), SENT, ATTACHED),
)
pieces = st.sampled_from(PIECES)
environments = st.dictionaries(
    st.sampled_from(["SENDER", "MESSAGE_ID", "CLIENT_HOSTNAME", "CLIENT_ADDRESS", "CLIENT_PROTOCOL"]), anything
)


def carried(raw: bytes) -> bytes | None:
    """Return the payload that a mail brings in; None if the mail or its audit is refused."""
    found = unless_refused(lambda: read_mail(raw))
    return None if found is None else accepted(found)


@fuzz(500)
@given(st.sampled_from(MAILS), edits(st.one_of(pieces, st.binary(max_size=8))))
def test_changed_mail_is_refused_or_brings_the_same_audit(raw: bytes, changes: list[Edit[bytes]]) -> None:
    """Of a mail that is changed on the way comes what a host signed, to the byte, or nothing."""
    assert carried(edited(raw, changes, b"\n")) in {None, BODY, OTHER_BODY}


@fuzz(500)
@given(st.lists(pieces, max_size=40), st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n"]))
def test_lines_of_mime_in_any_order_are_read_or_refused(lines: list[bytes], end: bytes) -> None:
    """Headers, boundaries and attachments without sense raise nothing but a refusal."""
    assert carried(end.join(lines)) in {None, BODY, OTHER_BODY}


@fuzz(100)
@given(st.one_of(st.lists(pieces, max_size=9).map(b"\n".join), st.binary(max_size=99)), environments)
def test_postmark_is_always_lines_that_can_be_logged(raw: bytes, environment: dict[str, str]) -> None:
    """Whatever a mail and its environment are, there is a mail_origin, and no character of it does anything."""
    found = mail_origin(raw, environment)
    for text in dataclasses.astuple(found):
        assert text.isprintable()
        assert len(text) <= 300
