from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.ports import ALL_PORTS, PortSet
from portspec.scan import AddressObservation, Failure, Reason
from portspec.state.snapshot import HostState
from portspec.state.verdict import Verdict
from portspec.store.states import StateCodec, StateDocumentError
from tests.unit.factories import MODEST, NOW, result, seen, target
from tests.unit.store.scenes import WEB, scanned

ports = st.lists(st.integers(1, 65535), max_size=8).map(PortSet.of)
seconds = st.floats(0, 2e9, allow_nan=False)
failures = st.none() | st.builds(Failure, st.sampled_from(Reason), st.text(st.characters(), max_size=20))


@st.composite
def observations(draw: st.DrawFn) -> AddressObservation:
    """Draw an observation of an address; some of the open ports are unconfirmed."""
    found, unconfirmed, silent, closed = draw(ports), draw(ports), draw(ports), draw(ports)
    return AddressObservation(
        address=draw(st.ip_addresses().map(str)),
        scanned=found | unconfirmed | silent | closed,
        open=found | unconfirmed,
        filtered=silent - found - unconfirmed,
        answered=draw(st.booleans()),
        rtt=draw(st.none() | seconds),
        failure=draw(failures),
        unconfirmed=unconfirmed,
        lost=draw(ports),
        refusals=draw(st.integers(0, 10)),
    )


@st.composite
def host_states(draw: st.DrawFn) -> HostState:
    """Draw the state after some scans."""
    state = HostState(WEB)
    for _ in range(draw(st.integers(0, 3))):
        addresses = draw(st.lists(observations(), max_size=3, unique_by=lambda item: item.address))
        state = state.after(result(WEB, *addresses, at=draw(seconds), duration=draw(seconds), failure=draw(failures)))
    if state.conclusive and draw(st.booleans()):
        closed = [
            dataclasses.replace(item, open=PortSet(), unconfirmed=PortSet()) for item in state.conclusive.addresses
        ]
        state = state.after_recheck(closed, draw(seconds))
    return state


def round_trip(state: HostState, of: Any = WEB) -> HostState:
    """Encode and decode a state."""
    return StateCodec().decode(StateCodec().encode(state), of, NOW)


@MODEST
@given(host_states())
def test_decoded_state_equals_the_encoded_one(state: HostState) -> None:
    """Every state is decoded equal, with its verdict and deviations derived again."""
    found = round_trip(state)
    assert found == dataclasses.replace(state.judged(WEB, NOW), judged_at=NOW)
    assert (found.latest is found.conclusive) == (state.latest is state.conclusive)


def test_decoded_state_is_judged_by_the_current_specification() -> None:
    """A state that was in specification is out of it under another specification."""
    state = scanned(HostState(WEB), 22)
    assert state.verdict is Verdict.IN_SPEC
    assert round_trip(state, target("web1")).verdict is Verdict.OUT_OF_SPEC


def test_document_of_a_host_with_every_port_open_is_short() -> None:
    """A document of 65,535 open ports contains ranges and no deviations, but since when there are some."""
    document = StateCodec().encode(HostState(WEB).after(result(WEB, seen(scanned=ALL_PORTS, is_open=ALL_PORTS))))
    assert len(document) < 300
    assert document.count("unexpected") == 1


def test_more_port_sets_than_the_cache_holds_are_correct() -> None:
    """Port sets are correct even if there are more than the codec caches."""
    encoding = StateCodec()
    every = [scanned(HostState(WEB), port) for port in range(1, 3000)]  # at NOW
    assert [encoding.decode(encoding.encode(state), WEB, NOW) for state in every] == every


def test_nan_is_not_encoded() -> None:
    """A state with NaN raises ValueError."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        StateCodec().encode(HostState(WEB).after(result(WEB, seen(rtt=float("nan")))))


GOOD = json.loads(StateCodec().encode(dataclasses.replace(scanned(HostState(WEB), 22), last_change=NOW)))


def altered(*keys: str | int, to: object) -> str:
    """Return the valid document with one value replaced."""
    document = json.loads(json.dumps(GOOD))
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    return json.dumps(document)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        altered("version", to=2),
        altered("version", to=None),
        altered("latest", "at", to=1e300),
        altered("latest", "at", to=-1),
        altered("latest", "at", to=True),
        altered("latest", "seconds", to=float("nan")),
        altered("latest", "seconds", to="1"),
        pytest.param(altered("latest", "seconds", to=10**400), id="huge"),
        altered("latest", "addresses", to={}),
        altered("latest", "addresses", 0, to=None),
        altered("latest", "addresses", 0, "address", to=5),
        altered("latest", "addresses", 0, "address", to=""),
        altered("latest", "addresses", 0, "address", to="192.0.2.1\ud800"),
        altered("latest", "addresses", 0, "address", to="192.0.2.1\nport_open 1"),
        altered("latest", "addresses", 0, "address", to="fe80::1%eth0"),
        altered("latest", "addresses", 0, "scanned", to="0"),
        altered("latest", "addresses", 0, "open", to="22-21"),
        altered("latest", "addresses", 0, "open", to="all"),
        altered("latest", "addresses", 0, "open", to=[22]),
        altered("latest", "addresses", 0, "answered", to="yes"),
        altered("latest", "failure", to={"reason": "mood", "detail": ""}),
        altered("conclusive", to="earlier"),
        altered("last_change", to="yesterday"),
    ],
)
def test_invalid_document_is_rejected(document: str) -> None:
    """It raises StateDocumentError and nothing else."""
    with pytest.raises(StateDocumentError):
        StateCodec().decode(document, WEB, NOW)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


@MODEST
@given(
    st.sampled_from(
        [
            ("latest",),
            ("conclusive",),
            ("last_change",),
            ("latest", "at"),
            ("latest", "addresses"),
            ("latest", "failure"),
        ]
        + [("latest", "addresses", 0, key) for key in ("address", "scanned", "open", "rtt", "failure")]
    ),
    anything,
)
def test_document_with_any_value_is_decoded_or_rejected(keys: tuple[str | int, ...], value: object) -> None:
    """A document with any value replaced is decoded or raises StateDocumentError."""
    try:
        found = StateCodec().decode(altered(*keys, to=value), WEB, NOW)
    except StateDocumentError:
        return
    assert found.host == WEB.host
    assert found.latest is None or found.latest.finished_at < 1e12
