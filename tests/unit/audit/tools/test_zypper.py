from __future__ import annotations

from dataclasses import replace
from typing import Final
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Audit, Status, System, ToolRun
from portspec.audit.tools import parse
from tests.unit.audit.tools.samples import load

SAMPLES: Final = {sample.name.removeprefix("zypper/"): sample.run for sample in load() if sample.name[:3] == "zyp"}
NAME: Final = "openSUSE-2026-1"
characters: Final = st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="\ufffe\uffff")


def patch(inner: str = "", **attributes: str) -> str:
    """Return a needed security patch with some attributes changed."""
    given_attributes = {"kind": "patch", "name": NAME, "status": "needed", "category": "security"} | attributes
    words = " ".join(f"{name}={quoteattr(value)}" for name, value in given_attributes.items() if value)
    return f"<update {words}>{inner}</update>"


def document(patches: str, before: str = "") -> str:
    """Return a document of zypper with some patches."""
    within = f"<update-status><update-list>{patches}</update-list></update-status>"
    return f"<?xml version='1.0'?>\n{before}<stream>{within}</stream>\n"


def audit(text: str, status: int = 0, system: System | None = None) -> Audit:
    """Read an output."""
    return parse(ToolRun("zypper", status, text, system=system))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (document("", '<!DOCTYPE stream [<!ENTITY a "b">]>'), "document type declaration"),
        (document("<summary>&a;</summary>", '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'), "document type"),
        (document("", '<!DOCTYPE stream SYSTEM "http://127.0.0.1:9/a.dtd">'), "document type declaration"),
        (document("<summary>&a;</summary>"), "undefined entity"),
        (document("<text>" * 100 + "</text>" * 100), "nested more than 20 levels deep"),
        ("<stream>" * 100_000, 'expected "stream" around all other elements'),
        (document("<html/>"), 'has the element "html"'),
        (document("words"), 'has the text "words"'),
        ("<update-list/>", 'expected "stream" around all other elements'),
        ("<stream/>", "has no list of patches"),
        (f"<stream>{patch()}</stream>", "has a patch outside of a list"),
        (document(patch(status="maybe")), 'has a patch with the status "maybe"'),
        (document(patch(kind="package")), 'has an update of the kind "package"'),
        (document(patch(name="")), "has an update of the kind"),
        (document("") * 2, "junk after document element"),
        (document("").encode("utf-16").decode("latin-1"), "broken or truncated"),
        ("<?xml version='1.0' encoding='utf-7'?><stream>+ADw-", 'has the text "+ADw-"'),
        (document("<message type='error'>No such repository.</message>"), 'zypper reports "No such repository."'),
    ],
)
def test_unknown_document_is_failed(text: str, reason: str) -> None:
    """Declarations are rejected before an entity can expand or a file is read."""
    found = audit(text)
    assert found.status == Status.FAILED
    assert reason in found.reason


@pytest.mark.parametrize(
    ("status", "expected"),
    [(0, Status.VULNERABLE), (100, Status.VULNERABLE), (101, Status.VULNERABLE), (106, Status.FAILED)]
    + [(status, Status.FAILED) for status in (1, 4, 5, 6, 7, 8, 102, 103, 104, 105, 107)],
)
def test_exit_status_of_an_error_is_failed(status: int, expected: Status) -> None:
    """The statuses of zypper(8) for needed updates are not errors; all others are."""
    assert audit(document(patch()), status).status == expected


@pytest.mark.parametrize("category", ["recommended", "optional", "feature", "bugfix", "enhancement"])
def test_patch_of_another_category_counts_only_with_a_cve(category: str) -> None:
    """A patch that fixes a CVE is a vulnerability in any category."""
    assert audit(document(patch(category=category))).status == Status.CLEAN
    issues = '<issue-list><issue type="cve" id="CVE-2026-10001"/></issue-list>'
    found = audit(document(patch(issues, category=category)))
    assert [each.id for each in found.vulnerabilities] == ["CVE-2026-10001"]


@pytest.mark.parametrize("category", ["security", "whatever", ""])
def test_patch_of_unknown_category_counts(category: str) -> None:
    """Only known categories are harmless."""
    assert audit(document(patch(category=category))).status == Status.VULNERABLE


@pytest.mark.parametrize(("status", "is_found"), [("needed", True), ("unwanted", True), ("applied", False)])
def test_patch_counts_by_its_status(status: str, *, is_found: bool) -> None:
    """A locked patch is still needed; with --all the output also has applied patches."""
    assert (audit(document(patch(status=status))).status == Status.VULNERABLE) == is_found


@pytest.mark.parametrize("name", ["opensuse-tumbleweed", "opensuse-microos", "opensuse-slowroll"])
def test_rolling_release_is_unsupported(name: str) -> None:
    """Tumbleweed has no security patches, so "nothing found" proves nothing."""
    found = audit(SAMPLES["clean"].output, system=System("Linux", name, ("opensuse", "suse"), "20261128"))
    assert found.status == Status.UNSUPPORTED


def test_leap_and_enterprise_without_needed_patches_are_clean() -> None:
    """An empty list is complete if the repositories have patches."""
    for name in ("opensuse-leap", "sles", "sled"):
        assert audit(SAMPLES["clean"].output, system=System("Linux", name, ("suse",), "15.6")).status == Status.CLEAN


@given(st.text(characters), st.text(characters))
def test_texts_of_a_patch_are_kept(title: str, description: str) -> None:
    """Special characters of XML in a title or a description do not change the list."""
    inner = f"<summary>{escape(title)}</summary><description>{escape(description)}</description>"
    found = audit(document(patch(inner) + patch(name="other")))
    assert found.status == Status.VULNERABLE
    assert [each.id for each in found.vulnerabilities] == [NAME, "other"]


def test_very_long_document_is_read_in_time() -> None:
    """A very long text is cut, and reading stops after too many patches."""
    found = audit(document(patch(f"<summary>{'a' * 5_000_000}</summary>")))
    assert len(found.vulnerabilities[0].title) == 500
    many = document("".join(patch(name=f"p{number}") for number in range(100_100)))
    assert audit(many).status == Status.FAILED


def test_characters_that_xml_does_not_allow_are_failed() -> None:
    """NUL and lone surrogates, which an audit may contain, do not raise."""
    for text in ("\0", "\ud800", "\x0b"):
        whole = SAMPLES["clean"]
        assert parse(replace(whole, output=whole.output.replace("<stream>", f"<stream>{text}"))).status == Status.FAILED
