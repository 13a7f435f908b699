"""Since when ports deviate: `port_deviation_since_timestamp_seconds`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from portspec.ports import PortSet
from portspec.scan import Reason
from portspec.state.snapshot import HostState
from portspec.state.verdict import Kind
from portspec.store.states import StateCodec
from tests.unit.factories import NOW, exception, result, seen, target

if TYPE_CHECKING:
    from portspec.inventory import Target

PORTS = (22, 80, 443)
Since: TypeAlias = dict[tuple[int, Kind], float]
some_ports = st.frozensets(st.sampled_from(PORTS))
#: What may happen to a host: a scan that finds ports open, one that sees nothing, a recheck, another specification with
#: accepted ports, a restart.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("scan"), some_ports),
        st.tuples(st.just("fail"), st.just(None)),
        st.tuples(st.just("recheck"), some_ports),
        st.tuples(st.just("reload"), st.tuples(some_ports, some_ports, some_ports)),
        st.tuples(st.just("restart"), st.just(None)),
    ),
    max_size=12,
)


def since_of(state: HostState) -> Since:
    """Return since when each port deviates, accepted or not."""
    found: Since = {}
    for item in (*state.deviations, *state.excepted):
        since = state.deviates_since(item.kind, PortSet.of([item.port]))
        assert since is not None
        found[item.port, item.kind] = since
    return found


def restarted(state: HostState, of: Target, at: float) -> HostState:
    """Return a state as the next process reads it."""
    codec = StateCodec()
    return codec.decode(codec.encode(state), of, at)


@given(happened=steps)
def test_port_deviates_since_it_was_first_seen_to_do_so_without_a_break(happened: list[tuple[str, Any]]) -> None:
    """Through scans that see nothing, rechecks, changes of conf.yml, exceptions and restarts."""
    of = target("web1", expect=[22])
    state = HostState(of)
    model: Since = {}
    is_open: frozenset[int] | None = None  # as last seen
    for number, (what, argument) in enumerate(happened):
        at = NOW + 60 * number
        if what == "scan":
            is_open = argument
            state = state.after(result(of, seen(is_open=is_open), at=at))
        elif what == "fail":
            state = state.after(result(of, seen(reason=Reason.NO_ROUTE), at=at))
        elif what == "recheck" and is_open is not None and state.latest is state.conclusive:
            is_open = argument
            state = state.after_recheck([seen(is_open=is_open)], at)
        elif what == "reload":
            expect, allow, accepted = argument
            exceptions = [exception(*accepted, until=NOW + 86_400)] if accepted else []
            of = target("web1", expect=expect, allow=allow, exceptions=exceptions)
            state = state.under(of, at)
        elif what == "restart":
            state = restarted(state, of, at)
        if is_open is not None:
            specification = of.config.specification
            now = {(port, Kind.MISSING) for port in specification.expect if port not in is_open}
            now |= {
                (port, Kind.UNEXPECTED)
                for port in is_open
                if port not in specification.expect and port not in specification.allow
            }
            model = {key: model.get(key, at) for key in now}
        assert since_of(state) == model


def test_state_of_an_older_version_deviates_since_the_port_was_opened() -> None:
    """An older version did not write since when a port is unexpected; when it was opened is known."""
    of = target("web1", expect=[22])
    state = HostState(of).after(result(of, seen(is_open=[22]), at=NOW))
    state = state.after(result(of, seen(is_open=[22, 80]), at=NOW + 60))
    document = json.loads(StateCodec().encode(state))
    del document["unexpected"]
    (since,) = since_of(StateCodec().decode(json.dumps(document), of, NOW + 900)).values()
    assert since == NOW + 60
