from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.notify.decision import decide
from portspec.notify.encoding import decode_notification, decode_state, encode_notification, encode_state
from portspec.notify.notification import (
    NOTHING_NOTIFIED,
    AcceptedPorts,
    DeviationEnd,
    DeviationLine,
    Event,
    KnownDeviation,
    ListeningProcesses,
    Notification,
    NotificationState,
    UnknownPeriod,
)
from portspec.ports import PortSet
from portspec.state.snapshot import HostState
from portspec.state.verdict import Kind, Verdict
from tests.unit.factories import ADDRESS, MODEST, NOW, result, seen
from tests.unit.notify.hosts import DAY, HOUR, WEB, Host, missing, resolved, unexpected

TIMES = st.floats(0, 253_402_214_399)  # to the last day of which every time zone can make a date
TEXTS = st.text(st.characters(), max_size=10)  # lone surrogates are among them
PORT_SETS = st.lists(st.tuples(st.integers(1, 65_535), st.integers(1, 65_535)).map(sorted), max_size=4).map(
    lambda pairs: PortSet.of_ranges((first, last) for first, last in pairs)
)
STATES = st.builds(
    NotificationState,
    verdict=st.sampled_from(Verdict),
    notified_at=TIMES,
    deviations=st.lists(
        st.builds(KnownDeviation, address=TEXTS, kind=st.sampled_from(Kind), ports=PORT_SETS, since=TIMES, seen=TIMES),
        max_size=3,
    ).map(tuple),
    unknown_scans=st.integers(0, 10**9),
    unknown_at=TIMES,
    unknown_since=TIMES,
    expiring=st.lists(TIMES, max_size=3).map(tuple),
    since=TIMES,
    reason=TEXTS,
)
SPELLED = PORT_SETS.map(str)
SOME_TIME = st.none() | TIMES
LINES = st.lists(
    st.builds(
        DeviationLine,
        address=TEXTS,
        kind=TEXTS,
        state=TEXTS,
        ports=SPELLED,
        since=TIMES,
        opened=SOME_TIME,
        seen=SOME_TIME,
        end=st.sampled_from([*DeviationEnd, "", "of a later version"]).map(str),
    ),
    max_size=3,
).map(tuple)
ACCEPTED_PORTS = st.lists(st.builds(AcceptedPorts, SPELLED, TIMES, TEXTS, TEXTS), max_size=2).map(tuple)
NOTIFICATIONS = st.builds(
    Notification,
    host=TEXTS,
    event=st.sampled_from(Event),
    at=TIMES,
    expected=TEXTS,
    open=TEXTS,
    lines=LINES,
    resolved=LINES,
    since=SOME_TIME,
    reason=TEXTS,
    is_unknown=st.booleans(),
    expiring=ACCEPTED_PORTS,
    last_seen=SOME_TIME,
    until=SOME_TIME,
    answers_nothing=st.booleans(),
    expired=ACCEPTED_PORTS,
    accepted=ACCEPTED_PORTS,
    unknown_period=st.none() | st.builds(UnknownPeriod, TIMES, TIMES, TEXTS),
    listeners=st.lists(st.builds(ListeningProcesses, SPELLED, TEXTS, st.booleans()), max_size=2).map(tuple),
    audited_at=SOME_TIME,
)


@MODEST
@given(STATES)
def test_state_is_decoded_as_it_was_encoded(known: NotificationState) -> None:
    """Any NotificationState survives the state file."""
    assert decode_state(encode_state(known)) == known


@MODEST
@given(NOTIFICATIONS)
def test_notification_is_decoded_as_it_was_encoded(notification: Notification) -> None:
    """Any notification survives the state file."""
    assert decode_notification(encode_notification(notification)) == notification


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from([10**400, math.inf, "1-2", "all"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
STATE_PLAIN = json.loads(
    encode_state(
        NotificationState(Verdict.OUT_OF_SPEC, NOW, (KnownDeviation(ADDRESS, Kind.MISSING, PortSet.of([22]), NOW),))
    )
    or ""
)
NOTIFICATION_PLAIN = json.loads(
    encode_notification(Notification("web1", Event.OUT_OF_SPEC, NOW, "22", "none", (missing("22", NOW),)))
)


@st.composite
def garbled(draw: st.DrawFn, plain: Any) -> str:
    """Return a document in which one value, however deep, is something else or gone; or something else altogether."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.text() | JSON.map(json.dumps))
    document = json.loads(json.dumps(plain))
    place = document
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not (place[key] and isinstance(place[key], dict | list) and draw(st.booleans())):
            break
        place = place[key]
    if draw(st.integers(0, 4)):
        place[key] = draw(JSON)
    else:
        del place[key]
    return json.dumps(document)


@settings(MODEST, max_examples=300)
@given(garbled(STATE_PLAIN))
def test_invalid_state_counts_as_none(document: str) -> None:
    """No document raises an error; the worst result is a second notification."""
    known = decode_state(document)
    decide(known, HostState(WEB).after(result(WEB, seen(is_open=[80]))), NOW, DAY)


@pytest.mark.parametrize(
    "changed",
    [
        {"findings": [[ADDRESS, "missing", 22, NOW]]},
        {"findings": [[ADDRESS, "missing", "22", 10**400]]},
        {"unknown_scans": math.inf},
        {"told_at": 10**400},
        {"told": "in_between"},
        {"findings": None},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_state_with_an_invalid_value_counts_as_none(changed: dict[str, Any]) -> None:
    """A value of another type, or out of range, invalidates the document."""
    assert decode_state(json.dumps({**STATE_PLAIN, **changed})) == NOTHING_NOTIFIED


@settings(MODEST, max_examples=300)
@given(garbled(NOTIFICATION_PLAIN))
def test_invalid_notification_is_a_value_error(document: str) -> None:
    """Any document is a notification or raises ValueError."""
    with contextlib.suppress(ValueError):
        assert isinstance(decode_notification(document), Notification)


@pytest.mark.parametrize(
    "changed",
    [
        {"host": 5},
        {"at": "yesterday"},
        {"at": math.inf},
        {"at": 1e300},
        {"since": [1]},
        {"reason": None},
        {"expected": 22},
        {"lines": [{"address": 5, "kind": "missing", "state": "closed", "ports": "22", "since": NOW}]},
        {"lines": [{"address": ADDRESS, "kind": "missing", "state": "closed", "ports": 22, "since": NOW}]},
        {"expiring": [["80", 10**400, "", ""]]},
        {"expiring": [["80", 1e300, "", ""]]},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_notification_with_an_invalid_value_is_a_value_error(changed: dict[str, Any]) -> None:
    """Invalid times and texts are found when a notification is decoded, not when its mail is rendered."""
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        decode_notification(json.dumps({**NOTIFICATION_PLAIN, **changed}))


def test_missing_state_is_none() -> None:
    """A host without a document is one without a notification."""
    assert decode_state(None) == decode_state("") == decode_state("null") == NOTHING_NOTIFIED


#: As the version wrote them that knew no more of hosts than this.
OLD_STATE = (
    '{"told":"out_of_spec","told_at":1700000000.0,"findings":[["192.0.2.1","unexpected","80",1699990000.0]],'
    '"unknown_scans":0,"unknown_at":0.0,"unknown_since":0.0,"expiring":[1700100000.0]}'
)
OLD_NOTIFICATION = (
    '{"host":"web1","news":"different","at":1700000000.0,"expected":"22","open":"22, 80","lines":[{"address":'
    '"192.0.2.1","kind":"unexpected","state":"open","ports":"80","since":1699990000.0}],"over":[{"address":"192.0.2.1","kind":'
    '"missing","state":"","ports":"443","since":1699990000.0}],"since":1699990000.0,"reason":"","is_unknown":false,'
    '"expiring":[["8080",1700100000.0,"why","who"]]}'
)


def test_state_of_an_older_version_is_used() -> None:
    """After an upgrade nothing is notified again, and the end of a problem has its beginning."""
    host = Host()
    host.scan(22, 80, at=NOW)
    host.known = decode_state(OLD_STATE)
    assert host.scan(22, 80, at=NOW + HOUR) is None
    notification = host.scan(22, at=NOW + 2 * HOUR)
    assert notification
    assert (notification.event, notification.since) == (Event.IN_SPEC, 1699990000.0)
    assert notification.resolved == (resolved(unexpected("80", 1699990000.0), seen=NOW + HOUR),)


def test_notification_of_an_older_version_is_decoded() -> None:
    """Notifications that are queued during an upgrade are decoded with the facts that they have."""
    notification = decode_notification(OLD_NOTIFICATION)
    assert (notification.event, notification.expiring) == (
        Event.DIFFERENT,
        (AcceptedPorts("8080", 1700100000.0, "why", "who"),),
    )
    assert (notification.resolved[0].seen, notification.resolved[0].end, notification.last_seen) == (None, "", None)


def test_documents_of_a_newer_version_are_decoded() -> None:
    """After a downgrade unknown keys are ignored, and an unknown event is an error."""
    newer = {**json.loads(OLD_NOTIFICATION), "of_tomorrow": 1}
    newer["lines"][0] |= {"of_tomorrow": 1, "end": "of tomorrow"}
    assert decode_notification(json.dumps(newer)).lines[0].ports == "80"
    assert decode_state(json.dumps({**json.loads(OLD_STATE), "of_tomorrow": 1})) == decode_state(OLD_STATE)
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        decode_notification(json.dumps({**newer, "news": "of tomorrow"}))
    known = NotificationState(
        Verdict.OUT_OF_SPEC, NOW, (KnownDeviation(ADDRESS, Kind.MISSING, PortSet.of([22]), NOW, NOW),)
    )
    (finding,) = json.loads(encode_state(known) or "")["findings"]
    assert finding == [ADDRESS, "missing", "22", NOW]  # as an older version reads it
