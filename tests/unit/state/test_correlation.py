from __future__ import annotations

from dataclasses import replace

import pytest

from portspec.audit.model import Audit, Status
from portspec.audit.payload import ListeningSocket
from portspec.audit.reach import is_loopback
from portspec.audit.state import AuditState, HostAudit
from portspec.ports import PortSet
from portspec.scan import AddressObservation, Failure, Reason
from portspec.state.correlation import Correlation, correlate
from portspec.state.snapshot import HostState
from tests.unit.factories import NOW, exception, result, seen, target


def listening(port: int, address: str = "*", process: str | None = "nginx", protocol: str = "tcp") -> ListeningSocket:
    """Make a socket that listens."""
    return ListeningSocket(protocol, address, port, process, "www")


def reported(*listeners: ListeningSocket) -> AuditState:
    """Make a host whose report tells of these sockets."""
    return AuditState("web1", (), HostAudit(NOW, "pkg-audit", None, Audit(Status.CLEAN), listeners), NOW)


def scanned(*observations: AddressObservation, expect: tuple[int, ...] = ()) -> HostState:
    """Make a host that was scanned on 22, 80 and 443."""
    of = target("web1", expect=expect, address=None)
    return HostState(of).after(result(of, *observations))


def both(state: HostState | None, *listeners: ListeningSocket) -> Correlation:
    """Join what a scan saw and what a report tells."""
    correlation = correlate(state, reported(*listeners))
    assert correlation
    return correlation


def ports(*members: int) -> PortSet:
    """Make the set of these ports."""
    return PortSet.of(members)


def test_host_that_does_not_tell_of_listeners_has_no_exposure() -> None:
    """No report, or one whose agent could not gather listeners, says nothing of who holds a port."""
    state = scanned(seen(is_open=[22]))
    without = AuditState("web1", (), HostAudit(NOW, "pkg-audit", None, Audit(Status.CLEAN), None), NOW)
    assert correlate(state, None) is None
    assert correlate(state, AuditState("web1", judged_at=NOW)) is None
    assert correlate(state, without) is None
    assert correlate(None, None) is None


@pytest.mark.parametrize("state", [None, HostState(target("web1"))])
def test_host_that_was_not_scanned_has_listeners_alone(state: HostState | None) -> None:
    """Without a scan nothing is reachable or unreachable: no port is told of."""
    assert both(state, listening(80), listening(443)) == Correlation({80: (listening(80),), 443: (listening(443),)})


def test_host_whose_scans_all_failed_has_listeners_alone() -> None:
    """A scan that reached no verdict shows no port."""
    of = target("web1", address=None)
    failed = HostState(of).after(result(of, failure=Failure(Reason.RESOLVE, "web1 does not resolve")))
    assert both(failed, listening(80)) == Correlation({80: (listening(80),)})


def test_port_that_listens_and_is_open_is_in_order() -> None:
    """Where both views agree there is nothing to tell of."""
    correlation = both(scanned(seen(is_open=[80]), expect=(80,)), listening(80))
    assert correlation == Correlation({80: (listening(80),)})


def test_unexpected_port_has_its_listeners() -> None:
    """Each process that holds an unexpected port is named, on whatever address, in the order of the report."""
    holders = (listening(80, "192.0.2.1", "nginx"), listening(80, "::", "caddy"))
    correlation = both(scanned(seen(is_open=[22, 80]), expect=(22,)), listening(22, process="sshd"), *holders)
    assert correlation.unexpected == ports(80)
    assert correlation.listeners[80] == holders


def test_excepted_port_is_not_unexpected() -> None:
    """What is accepted for a while is no deviation, in both views."""
    of = target("web1", exceptions=[exception(80, until=NOW + 60)])
    state = HostState(of).after(result(of, seen(is_open=[80])))
    assert both(state, listening(80)).unexpected == ports()


def test_port_that_listens_and_is_not_open_is_unreachable() -> None:
    """A socket behind a firewall listens for nobody out here."""
    correlation = both(scanned(seen(is_open=[22], filtered=[80])), listening(22), listening(80), listening(443))
    assert (correlation.unreachable, correlation.unheld) == (ports(80, 443), ports())


def test_port_that_is_not_scanned_is_not_unreachable() -> None:
    """Nobody knows whether a port that was not looked at can be reached."""
    assert both(scanned(seen(is_open=[22])), listening(22), listening(5432)).unreachable == ports()


def test_port_that_is_open_on_one_address_is_reachable() -> None:
    """A service that listens on one of two addresses is reachable."""
    state = scanned(seen("192.0.2.1", is_open=[80]), seen("2001:db8::1"))
    assert both(state, listening(80, "192.0.2.1")) == Correlation(
        {80: (listening(80, "192.0.2.1"),)}, unexpected=ports(80)
    )


def test_port_of_an_address_that_was_not_seen_is_not_unreachable() -> None:
    """What an address that could not be seen has open is not known."""
    state = scanned(
        seen("192.0.2.1", scanned=[22], is_open=[22]), seen("2001:db8::1", scanned=[80], reason=Reason.NO_ROUTE)
    )
    assert both(state, listening(22), listening(80)).unreachable == ports()


def test_open_port_that_nobody_holds_is_unheld() -> None:
    """What is open though nothing listens is a redirection, another machine, or a socket that is hidden."""
    assert both(scanned(seen(is_open=[22, 443])), listening(22)).unheld == ports(443)
    assert both(scanned(seen(is_open=[22]))).unheld == ports(22)


def watched(*scans: tuple[float, tuple[int, ...]]) -> HostState:
    """Make a host that was scanned at some times, as seconds after its report, each with the ports that were open."""
    of = target("web1", address=None)
    state = HostState(of)
    for at, is_open in scans:
        state = state.after(result(of, seen(is_open=list(is_open)), at=NOW + at))
    return state


@pytest.mark.parametrize(
    ("scans", "unheld", "newer"),
    [
        ([(-60, [22, 443]), (60, [22, 443])], [443], []),
        ([(-60, [22]), (60, [22, 443])], [], [443]),
        ([(60, [22, 443])], [], [443]),
        ([(0, [22, 443])], [443], []),
        ([(-60, [22, 443]), (60, [22]), (120, [22, 443])], [], [443]),
        ([(-60, [22, 443]), (60, [22, 80, 443])], [443], [80]),
        ([(-60, [22, 443]), (60, [22])], [], []),
        ([(-120, [443]), (-60, [22, 80, 443]), (60, [80, 443]), (90, [80, 443, 8080])], [80, 443], [8080]),
    ],
)
def test_port_is_unheld_only_if_it_was_open_before_the_report_and_ever_since(
    scans: list[tuple[float, tuple[int, ...]]], unheld: list[int], newer: list[int]
) -> None:
    """A port that was seen open first after the report was made, or not all the time, was opened since then."""
    correlation = both(watched(*scans), listening(22))
    assert (correlation.unheld, correlation.newer) == (ports(*unheld), ports(*newer))


def test_port_of_which_it_is_not_known_since_when_it_is_open_is_not_unheld() -> None:
    """A state that an older portspec has kept does not tell: the calm words, until a later report."""
    correlation = both(replace(watched((-60, (22, 443))), opened=()), listening(22))
    assert (correlation.unheld, correlation.newer) == (ports(), ports(443))


def test_port_that_took_no_connection_is_not_unheld() -> None:
    """A port that only answered a SYN does not count as open, as in the verdict."""
    assert both(scanned(seen(is_open=[22, 443], unconfirmed=[443])), listening(22)).unheld == ports()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.53", "127.0.0.53%lo", "::1", "::ffff:127.0.0.1"])
def test_listener_on_loopback_is_not_reachable(address: str) -> None:
    """A socket for the machine itself holds no port that is open out here."""
    assert both(scanned(seen(is_open=[80])), listening(80, address)) == Correlation({}, ports(80), ports(), ports(80))


@pytest.mark.parametrize("scanned_at", ["127.0.0.1", "::1"])
def test_listener_on_loopback_counts_where_loopback_is_scanned(scanned_at: str) -> None:
    """`localhost` in conf.yml is the machine that scans: who listens on 127.0.0.1 holds what is open there."""
    state = scanned(seen(scanned_at, is_open=[22, 80]), expect=(22,))
    correlation = both(state, listening(22, process="sshd"), listening(80, "127.0.0.1"))
    assert correlation.listeners[80] == (listening(80, "127.0.0.1"),)
    assert (correlation.unexpected, correlation.unheld) == (ports(80), ports())


def test_udp_is_left_out() -> None:
    """A UDP socket holds no TCP port."""
    correlation = both(scanned(seen(is_open=[80])), listening(80, protocol="udp"))
    assert (correlation.listeners, correlation.unheld) == ({}, ports(80))


def test_port_0_is_left_out() -> None:
    """Port 0, which only a host that makes up its report can have, is no port of TCP."""
    assert both(scanned(seen(is_open=[80])), listening(0), listening(80)).listeners.keys() == {80}


def test_listeners_without_end_are_joined_in_no_time() -> None:
    """As many sockets on one port as a report may have do not stop the exporter."""
    many = [listening(80, process=str(number)) for number in range(200_000)]
    assert len(both(None, *many).listeners[80]) == 200_000


@pytest.mark.parametrize(
    "address",
    ["*", "", "0.0.0.0", "::", "192.0.2.1", "128.0.0.1", "fe80::1%lo0", "::ffff:192.0.2.1", "localhost"],  # noqa: S104 - of a report
)
def test_what_is_not_known_to_be_loopback_may_be_reachable(address: str) -> None:
    """An address that cannot be read is taken for one that others reach: nothing is hidden by it."""
    assert not is_loopback(address)
