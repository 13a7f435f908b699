from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit import admission as intake
from portspec.audit.admission import MAX_AHEAD, MAX_DELAY, AdmissionPolicy, RejectedError, admit
from portspec.audit.envelope import key_of, pack, sign
from portspec.audit.model import System
from portspec.audit.payload import MAX_VALUES, ListeningSocket

NOW: Final = 1_795_317_429.0  # 2026-11-22T03:17:09Z
HOST: Final = "web1.example.org"
PASSPHRASE: Final = "correct horse"  # noqa: S105 - of no host
RULES: Final = AdmissionPolicy(frozenset({HOST, "db1.example.org"}), (PASSPHRASE, "the one before"))
PLAIN: Final[dict[str, Any]] = {
    "version": 1,
    "host": HOST,
    "day": "2026-11-22",
    "time": "2026-11-22T03:17:09Z",
    "nonce": "00" * 16,
    "agent": "portspec-send 1",
    "tool": {
        "name": "pkg-audit",
        "version": "1.20.9",
        "command": ["pkg", "audit"],
        "exit_status": 0,
        "output": "0 problem(s) in 0 package(s) found.\n",
        "errors": "",
        "truncated": False,
    },
    "listeners": [{"protocol": "tcp", "address": "192.0.2.9", "port": 22, "process": "sshd", "user": "root"}],
}

SYSTEM: Final = {"kernel": "FreeBSD", "id": "freebsd", "id_like": [], "version_id": "14.1-RELEASE-p5"}


def payload(**changes: Any) -> bytes:
    """Return a payload with some of its values changed."""
    return json.dumps(PLAIN | changes).encode()


def spoken(host: str) -> bytes:
    """Return the payload of a host whose name may have any letters, which stand there as they are."""
    return json.dumps(PLAIN | {"host": host}, ensure_ascii=False).encode()


def packed(body: bytes, host: str = HOST, words: str = PASSPHRASE) -> bytes:
    """Return a payload as a host sends it."""
    return pack(body, key_of(host, words))


def refusal(data: bytes, now: float = NOW, rules: AdmissionPolicy = RULES) -> RejectedError:
    """Return why an audit is not accepted."""
    with pytest.raises(RejectedError) as caught:
        admit(data, rules, now)
    return caught.value


def test_host_of_an_audit_is_spelled_by_idna_2008() -> None:
    """The name in an audit leads to the key that `portspec key` gives for it, and never to that of another host."""
    rules = AdmissionPolicy(frozenset({"xn--fa-hia.test", "fass.test"}), (PASSPHRASE,))
    for name in ("faß.test", "XN--FA-HIA.test."):
        audit, _ = admit(packed(spoken(name), "xn--fa-hia.test"), rules, NOW)
        assert audit.host == "xn--fa-hia.test"
        assert refusal(packed(spoken(name), "fass.test"), rules=rules).reason == "signature"


@pytest.mark.parametrize("name", ["192.0.2.0/24", "0x7f000001", "127.1", "2001:db8::1%eth0", "::ffff:192.0.2.1", "☕"])
def test_audit_of_no_host_is_malformed(name: str) -> None:
    """What conf.yml may not name as one host has no key, so nobody can sign for it."""
    refused = refusal(packed(spoken(name), name))
    assert (refused.reason, refused.host) == ("malformed", None)


def test_audit_of_a_host_is_admitted() -> None:
    """An audit that a host of the roster signed is given with its values, and with its very bytes."""
    body = payload()
    audit, found = admit(packed(body), RULES, NOW)
    assert found == body
    assert (audit.host, audit.day, audit.at, audit.runs[0].tool, audit.runs[0].ended_at) == (
        HOST,
        "2026-11-22",
        NOW,
        "pkg-audit",
        NOW,
    )
    assert audit.listeners == (ListeningSocket("tcp", "192.0.2.9", 22, "sshd", "root"),)


def test_audit_tells_the_system_and_all_tools_that_ran() -> None:
    """Each run has the system, its command line, and whether applications alone are meant; older agents tell none."""
    tool = {**PLAIN["tool"], "command": ["pkg", "audit", "FreeBSD-14.1_5"], "scope": "applications"}
    audit, _ = admit(packed(payload(system=SYSTEM, more_tools=[tool])), RULES, NOW)
    assert [(run.command, run.is_of_applications) for run in audit.runs] == [
        (("pkg", "audit"), False),
        (("pkg", "audit", "FreeBSD-14.1_5"), True),
    ]
    assert {run.system for run in audit.runs} == {System("FreeBSD", "freebsd", (), "14.1-RELEASE-p5")}
    assert [run.system for run in admit(packed(payload()), RULES, NOW)[0].runs] == [None]


@pytest.mark.parametrize("changes", [
    {"system": []}, {"system": {"kernel": "Linux"}}, {"system": {**SYSTEM, "id_like": "debian"}},
    {"more_tools": {}}, {"more_tools": [PLAIN["tool"]] * 5}, {"more_tools": [1]},
    {"tool": {**PLAIN["tool"], "scope": "all"}},
])  # fmt: skip
def test_audit_with_another_shape_of_system_or_tools_is_malformed(changes: dict[str, Any]) -> None:
    """A signature makes no sense of nonsense."""
    assert refusal(packed(payload(**changes))).reason == "malformed"


def test_passphrase_before_counts_during_a_change_over() -> None:
    """Either of two passphrases is good, a third is not."""
    assert admit(packed(payload(), words="the one before"), RULES, NOW)
    assert refusal(packed(payload(), words="another")).reason == "signature"


@pytest.mark.parametrize("name", ["WEB1.Example.ORG", "web1.example.org."])
def test_name_in_another_spelling_is_the_same_host(name: str) -> None:
    """Capitals and a trailing dot make no other host."""
    assert admit(packed(payload(host=name)), RULES, NOW)[0].host == HOST


def test_key_of_another_host_is_no_key() -> None:
    """A host that is broken into cannot speak for another one."""
    assert refusal(packed(payload(host="db1.example.org"))).reason == "signature"


def test_changed_payload_has_no_right_signature() -> None:
    """A letter of the payload that is changed on the way is noticed."""
    body = payload()
    other = body.replace(b"0 problem", b"1 problem")
    forged = f"portspec-audit 1 {sign(body, key_of(HOST, PASSPHRASE))}\n".encode() + gzip.compress(other)
    assert refusal(forged).reason == "signature"


def test_host_off_the_roster_is_refused_before_its_signature_is_looked_at() -> None:
    """Only hosts of the roster may send audits; the refusal says where the roster is."""
    error = refusal(packed(payload(host="evil.example.org"), host="evil.example.org"))
    assert (error.reason, error.host) == ("roster", "evil.example.org")


@pytest.mark.parametrize(("now", "is_admitted"), [
    (NOW - MAX_AHEAD, True), (NOW - MAX_AHEAD - 1, False), (NOW - 7200, False),
    (NOW + MAX_DELAY, True), (NOW + MAX_DELAY + 1, False),
])  # fmt: skip
def test_audit_is_in_time_or_refused(now: float, is_admitted: bool) -> None:  # noqa: FBT001 - of the table
    """A clock that is ahead, and an audit that was on its way for too long, are refused for their time."""
    if is_admitted:
        assert admit(packed(payload()), RULES, now)
    else:
        assert refusal(packed(payload()), now).reason == "time"


def test_day_that_is_not_that_of_the_time_is_refused() -> None:
    """Nobody may have two audits in a day by naming another day."""
    assert refusal(packed(payload(day="2026-11-21"))).reason == "malformed"


def test_audit_that_is_too_large_is_refused_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that stand for megabytes are not inflated beyond the limit."""
    monkeypatch.setattr(intake, "MAX_PAYLOAD", 10_000)
    assert refusal(packed(payload() + b" " * 10_000_000)).reason == "too_large"
    monkeypatch.setattr(intake, "MAX_PACKED", 100)
    assert refusal(packed(payload())).reason == "too_large"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"portspec-audit 1 ",
        packed(payload())[:-1],
        packed(payload()) + b"x",
        packed(payload()).replace(b"audit 1", b"audit 2"),
        b"portspec-audit 1 " + b"0" * 64 + b"\nno gzip",
        packed(b"[" * 100_000 + b"]" * 100_000),
        packed(payload(more=[1] * MAX_VALUES)),
        packed(payload(more=[{}] * (MAX_VALUES // 2))),
        packed(payload(more=[""] * 4 * MAX_VALUES)),
        packed(b"\xff\xfe"),
        packed(b"{}"),
        packed(b"null"),
        packed(payload(version=2)),
        packed(payload(time="yesterday")),
        packed(payload(time="2026-11-22T03:17:09")),
        packed(payload(host="a/24")),
        packed(payload(host="a\nb")),
        packed(payload(host=5)),
        packed(payload(tool=PLAIN["tool"] | {"exit_status": True})),
        packed(payload(tool=PLAIN["tool"] | {"output": None})),
        packed(payload(tool=None)),
        packed(payload(listeners=[{"protocol": "tcp", "address": "::", "port": 65536}])),
        packed(payload(listeners=5)),
        packed(payload(nonce="x" * 2000)),
        packed(json.dumps(PLAIN | {"nonce": float("nan")}).encode()),
    ],
)
def test_what_is_no_audit_is_malformed(data: bytes) -> None:
    """Whatever arrives, it is refused in one line that says what was expected."""
    error = refusal(data)
    assert error.reason == "malformed"
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("output", "is_whole"),
    [
        ("[" + "1," * (MAX_VALUES - 10) + "1]", True),
        ("[" + "1," * MAX_VALUES + "1]", False),
        ('["' + ",[" * MAX_VALUES + '"]', True),  # in a text they are no values
        ('["' + '","' * 2 * MAX_VALUES + '"]', False),
        ("x" * 5_000_000, True),
    ],
)
def test_output_of_too_many_values_counts_as_cut_off(output: str, is_whole: bool) -> None:  # noqa: FBT001 - of the table
    """A tool's output may have as many values as a payload; of more it is left out."""
    run = admit(packed(payload(tool=PLAIN["tool"] | {"output": output})), RULES, NOW)[0].runs[0]
    assert (run.output, run.is_truncated) == ((output, False) if is_whole else ("", True))


def test_large_payload_holds_no_character_of_four_bytes() -> None:
    """Such a character would take four bytes for each other one; in a payload of the usual size it stays."""
    wide = "\U0001f600 \\ud83d \\\\ud83d\\ude00"
    for rest, expected in (("", wide), ("x" * (5 << 20), wide.replace("\U0001f600", "?"))):
        for is_ascii in (True, False):
            body = json.dumps(PLAIN | {"tool": PLAIN["tool"] | {"output": wide + rest}}, ensure_ascii=is_ascii).encode()
            assert admit(packed(body), RULES, NOW)[0].runs[0].output == expected + rest


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    """Bytes that nobody signed are refused, in an envelope or not."""
    assert refusal(data).reason == "malformed"
    assert refusal(packed(data)).reason == "malformed"


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(PLAIN)), JSON)
def test_any_value_in_any_place_is_admitted_or_refused(name: str, value: Any) -> None:
    """A payload with a value of any kind in any of its places raises nothing but a refusal."""
    reason = None
    try:
        admit(packed(payload(**{name: value})), RULES, NOW)
    except RejectedError as error:
        reason = error.reason
    assert reason in {None, "malformed", "roster", "signature", "time"}


def test_rules_without_a_passphrase_admit_nobody() -> None:
    """Without a key nothing is signed."""
    assert refusal(packed(payload()), rules=replace(RULES, passphrases=())).reason == "signature"
