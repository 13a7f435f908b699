from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.audit.model import Audit, Status
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.notify.decision import EXPIRES_SOON, add_listeners, decide
from portspec.notify.encoding import decode_notification, encode_notification, encode_state
from portspec.notify.notification import (
    NOTHING_NOTIFIED,
    AcceptedPorts,
    DeviationEnd,
    DeviationLine,
    Event,
    ListeningProcesses,
    Notification,
    UnknownPeriod,
)
from portspec.ports import ALL_PORTS, PortSet
from portspec.scan import Reason
from portspec.state.snapshot import HostState
from portspec.state.verdict import Verdict
from tests.unit.factories import MODEST, NOW, exception, result, seen, target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.config import PortException
    from portspec.inventory import Target
from tests.unit.notify.hosts import DAY, HOUR, MINUTE, OTHER_ADDRESS, WEB, Host, missing, resolved, unexpected


def test_host_without_a_scan_needs_no_notification() -> None:
    """Before the first scan there is no verdict."""
    assert Host().told(NOW) is None


def test_each_deviation_keeps_its_beginning() -> None:
    """New deviations begin with the scan, known ones keep their beginning, and resolved ones are listed."""
    host = Host()
    host.scan(22, 80, 443, at=NOW)
    notification = host.scan(80, 8080, at=NOW + HOUR)
    assert notification
    assert notification.event is Event.DIFFERENT
    assert set(notification.lines) == {unexpected("80", NOW), unexpected("8080", NOW + HOUR), missing("22", NOW + HOUR)}
    assert notification.resolved == (resolved(unexpected("443", NOW), seen=NOW),)
    assert (notification.at, notification.since) == (NOW + HOUR, NOW)
    later = host.scan(8080, at=NOW + 2 * HOUR)
    assert later
    assert set(later.lines) == {unexpected("8080", NOW + HOUR), missing("22", NOW + HOUR)}
    assert later.resolved == (resolved(unexpected("80", NOW), seen=NOW + HOUR),)
    assert later.since == NOW + HOUR


def test_ports_with_the_same_beginning_are_one_line() -> None:
    """Ports that began to deviate in the same scan share a line."""
    host = Host()
    host.scan(22, *range(8000, 8010), at=NOW)
    notification = host.scan(22, *range(8000, 8020), at=NOW + HOUR)
    assert notification
    assert notification.lines == (
        unexpected("8000-8008", NOW),
        unexpected("8009", NOW, severity="critical"),
        unexpected("8010-8019", NOW + HOUR),
    )


def test_each_address_has_its_own_lines() -> None:
    """The same port of another address is another deviation."""
    host = Host()
    host.scan_all(seen(is_open=[22, 80]), seen(OTHER_ADDRESS, is_open=[22]), at=NOW)
    notification = host.scan_all(seen(is_open=[22]), seen(OTHER_ADDRESS, is_open=[22, 80]), at=NOW + HOUR)
    assert notification
    assert notification.event is Event.DIFFERENT
    assert notification.lines == (replace(unexpected("80", NOW + HOUR, OTHER_ADDRESS), opened=NOW),)
    assert notification.resolved == (resolved(unexpected("80", NOW), seen=NOW),)


def test_missing_port_that_changes_its_state_is_no_change() -> None:
    """Closed or filtered, a port is missing; the next notification has its present state."""
    host = Host()
    assert host.scan(at=NOW)
    assert host.scan(at=NOW + MINUTE, filtered=[22]) is None
    assert host.scan(at=NOW + 2 * MINUTE) is None
    notification = host.scan(80, at=NOW + 3 * MINUTE, filtered=[22])
    assert notification
    assert set(notification.lines) == {missing("22", NOW, "filtered"), unexpected("80", NOW + 3 * MINUTE)}


def test_addresses_of_a_name_are_compared_as_one() -> None:
    """Deviations that move between the addresses of a name are no change."""
    named = replace(target("web1"), address=None)
    state, known, event = HostState(named), NOTHING_NOTIFIED, []
    for number in range(6):
        observed = seen(f"192.0.2.{10 + number % 2}", is_open=[22, 80])
        state = state.after(result(named, observed, at=NOW + number))
        known, notification = decide(known, state, NOW + number, DAY)
        event += (
            [(notification.event, [(line.address, line.ports) for line in notification.lines])] if notification else []
        )
    assert event == [(Event.OUT_OF_SPEC, [("192.0.2.10", "22, 80")])]


def test_host_that_was_never_scanned_is_unknown() -> None:
    """The notification names no ports if no scan has succeeded."""
    host = Host()
    assert host.fail(NOW) is None
    notification = host.fail(NOW + HOUR)
    assert notification
    assert (notification.event, notification.open, notification.lines) == (Event.UNKNOWN, "", ())
    assert notification.last_seen is None


def test_partly_scanned_host_is_unknown() -> None:
    """If one address was never scanned, open ports are named, but no earlier verdict."""
    host = Host(replace(WEB, address=None))
    for minutes in (0, 6):
        addresses = seen(is_open=[22]), seen(OTHER_ADDRESS, reason=Reason.NO_ROUTE)
        notification = host.scan_all(*addresses, at=NOW + minutes * MINUTE)
    assert notification
    assert (notification.event, notification.open, notification.last_seen) == (Event.UNKNOWN, "22", None)


def test_failed_scan_is_counted_once() -> None:
    """A reload, after which a host is judged again, is not another failure."""
    host = Host()
    assert host.fail(NOW) is None
    for minute in range(1, 5):
        assert (
            host.reload(NOW + minute * MINUTE, replace(WEB, exceptions=(exception(minute, until=NOW + DAY),))) is None
        )
    assert host.known.unknown_scans == 1
    assert host.fail(NOW + HOUR)


def test_unknown_host_out_of_specification_again() -> None:
    """Known deviations keep their beginning, and resolved ones are listed."""
    host = Host()
    host.scan(22, 80, 443, at=NOW)
    host.fail(NOW + HOUR)
    unknown = host.fail(NOW + 2 * HOUR)
    assert unknown
    assert unknown.event is Event.UNKNOWN
    assert set(unknown.lines) == {unexpected("80, 443", NOW)}
    notification = host.scan(22, 80, at=NOW + 3 * HOUR)
    assert notification
    assert notification.event is Event.OUT_OF_SPEC
    assert notification.lines == (unexpected("80", NOW),)
    assert notification.resolved == (resolved(unexpected("443", NOW), seen=NOW),)
    assert notification.unknown_period == UnknownPeriod(NOW + HOUR, NOW + 2 * HOUR, "no_route")


def test_deviation_with_a_failed_address_has_the_reason() -> None:
    """A host that deviates on the scanned addresses is out of specification."""
    notification = Host().scan_all(seen(is_open=[22, 80]), seen(OTHER_ADDRESS, reason=Reason.TIMEOUT), at=NOW)
    assert notification
    assert (notification.event, notification.reason) == (
        Event.OUT_OF_SPEC,
        f"timeout: no connection to {OTHER_ADDRESS}: timeout",
    )


def excepted(*exceptions: PortException) -> Target:
    """Return the target with exceptions."""
    return replace(WEB, exceptions=exceptions)


def ends(notification: Notification | None) -> list[tuple[str, float]] | None:
    """Return ports and ends of the exceptions that a notification is about, if there is one."""
    if notification is None:
        return None
    assert notification.event is Event.EXPIRING
    return [(item.ports, item.until) for item in notification.expiring]


def test_exception_without_a_deviation_is_not_notified() -> None:
    """The end of an exception that covers no deviation changes nothing."""
    host = Host(excepted(exception(80, until=NOW + DAY)))
    assert host.scan(22, at=NOW) is None
    assert encode_state(host.known) is None


def test_exceptions_that_end_soon_share_a_notification() -> None:
    """They are ordered by their ends."""
    first, second = exception(80, until=NOW + DAY), exception(443, until=NOW + 2 * DAY)
    host = Host(excepted(second, first))
    assert ends(host.scan(22, 80, 443, at=NOW)) == [("80", NOW + DAY), ("443", NOW + 2 * DAY)]
    assert host.scan(22, 80, 443, at=NOW + HOUR) is None


def test_known_exception_is_not_notified_again() -> None:
    """After the first of two known exceptions has ended, the second one is not notified again."""
    first, second = exception(80, until=NOW + DAY), exception(443, until=NOW + 2 * DAY)
    host = Host(excepted(first, second))
    host.scan(22, 80, 443, at=NOW)
    lapsed = host.scan(22, 80, 443, at=NOW + DAY)
    assert lapsed
    assert lapsed.event is Event.OUT_OF_SPEC
    assert host.scan(22, 80, 443, at=NOW + DAY + HOUR) is None


def test_each_exception_is_notified_before_its_end() -> None:
    """Also while an exception that is known to end soon is in force."""
    first, second = exception(80, until=NOW + DAY), exception(443, until=NOW + EXPIRES_SOON + HOUR)
    host = Host(excepted(first, second))
    assert ends(host.scan(22, 80, 443, at=NOW)) == [("80", NOW + DAY)]
    told = ends(host.scan(22, 80, 443, at=NOW + 2 * HOUR))
    assert told
    assert ("443", NOW + EXPIRES_SOON + HOUR) in told


def test_extended_exception_is_notified_before_its_new_end() -> None:
    """Until three days before the new end there is no notification."""
    host = Host(excepted(exception(80, until=NOW + DAY)))
    assert ends(host.scan(22, 80, at=NOW)) == [("80", NOW + DAY)]
    assert host.reload(NOW + HOUR, excepted(exception(80, until=NOW + 10 * DAY))) is None
    assert host.scan(22, 80, at=NOW + 2 * HOUR) is None
    assert ends(host.scan(22, 80, at=NOW + 8 * DAY)) == [("80", NOW + 10 * DAY)]


def test_deviation_counts_at_the_end_of_its_exception() -> None:
    """No further scan is needed."""
    until = NOW + DAY
    host = Host(excepted(exception(80, until=until)))
    host.scan(22, 80, at=NOW)
    host.state = host.state.judged(host.state.target, until)
    notification = host.told(until)
    assert notification
    assert (notification.event, notification.lines) == (
        Event.OUT_OF_SPEC,
        (replace(unexpected("80", until), opened=NOW),),
    )
    assert notification.expired == (AcceptedPorts("80", until),)
    assert host.scan(22, 80, at=until + HOUR) is None


def test_deviation_is_notified_before_an_exception() -> None:
    """If a host goes out of specification while an exception ends soon, there are two notifications."""
    host = Host(excepted(exception(80, until=NOW + DAY)))
    first, second = host.scan(80, at=NOW), host.scan(80, at=NOW + MINUTE)
    assert first
    assert (first.event, first.lines) == (Event.OUT_OF_SPEC, (missing("22", NOW),))
    assert ends(second) == [("80", NOW + DAY)]
    assert second
    assert second.lines == (missing("22", NOW),)


def test_all_ports_open_are_a_small_document() -> None:
    """65,535 ports are stored as ranges, not as a list."""
    host = Host(target("web1"))
    notification = host.scan_all(seen(scanned=ALL_PORTS, is_open=ALL_PORTS), at=NOW)
    assert notification
    assert notification.lines == (unexpected("all", NOW, severity="critical"),)
    assert len(encode_state(host.known) or "") < 500
    assert len(encode_notification(notification)) < 500
    assert host.scan_all(seen(scanned=ALL_PORTS, is_open=ALL_PORTS), at=NOW + HOUR) is None
    fewer = host.scan_all(seen(scanned=ALL_PORTS, is_open=ALL_PORTS - PortSet.of([80])), at=NOW + 2 * HOUR)
    assert fewer
    assert fewer.lines == (unexpected("1-79, 81-65535", NOW, severity="critical"),)
    assert fewer.resolved == (resolved(unexpected("80", NOW), seen=NOW + HOUR),)


# What may happen to a host: a scan that finds ports open and others filtered, one that sees nothing, another look at
# what is known; after so many seconds, some of them negative.
PORTS = (22, 80, 443)
steps = st.lists(
    st.tuples(
        st.one_of(
            st.tuples(st.frozensets(st.sampled_from(PORTS)), st.frozensets(st.sampled_from(PORTS))),
            st.just("fail"),
            st.just("look"),
        ),
        st.sampled_from([0.5, MINUTE, HOUR, DAY - 1, DAY, 30 * DAY, -HOUR, -40 * DAY]),
    ),
    max_size=25,
)


class Model:
    """The decisions that docs/mail.md describes, with sets of single ports."""

    def __init__(self, remind: float) -> None:
        self.remind = remind
        self.told: Verdict = Verdict.IN_SPEC
        self.told_at = 0.0
        self.told_ports: dict[tuple[str, int], float] = {}
        self.failures = 0

    def expect(self, ports: set[tuple[str, int]], at: float) -> Event | None:
        """Return what a scan that found these deviations is for."""
        self.failures = 0
        found = {port: self.told_ports.get(port, at) for port in ports}
        if not ports:
            event = None if self.told is Verdict.IN_SPEC else Event.IN_SPEC
        elif self.told is not Verdict.OUT_OF_SPEC:
            event = Event.OUT_OF_SPEC
        elif found.keys() != self.told_ports.keys():
            event = Event.DIFFERENT
        else:
            event = Event.REMINDER if self._is_due(at) else None
        if event:
            self.told = Verdict.OUT_OF_SPEC if ports else Verdict.IN_SPEC
            self.told_at, self.told_ports = at, found
        return event

    def expect_unknown(self, at: float) -> Event | None:
        """Return what a scan that saw nothing is for."""
        self.failures += 1
        if self.failures < 2:
            return None
        if self.told is not Verdict.UNKNOWN:
            event = Event.UNKNOWN
        elif self._is_due(at):
            event = Event.REMINDER
        else:
            return None
        self.told, self.told_at = Verdict.UNKNOWN, at
        return event

    def _is_due(self, at: float) -> bool:
        return bool(self.remind) and (at < self.told_at or at - self.told_at >= self.remind)


def single(lines: Iterable[DeviationLine]) -> dict[tuple[str, int], float]:
    """Return kind, port and beginning of each port in some lines."""
    return {(line.kind, int(port)): line.since for line in lines for port in line.ports.split(", ")}


@settings(MODEST, max_examples=300)
@given(steps, st.sampled_from([0.0, DAY]))
def test_decisions_equal_those_of_a_model(
    taken: list[tuple[tuple[frozenset[int], frozenset[int]] | str, float]], remind: float
) -> None:
    """After any scans recipients know verdict and deviations, and no notification is redundant."""
    host, model, at = Host(remind=remind), Model(remind), NOW
    known: dict[tuple[str, int], float] = {}
    for what, seconds in taken:
        at += seconds + 0.001  # so that no two scans end at the same time
        if isinstance(what, tuple):
            is_open, silent = what
            notification = host.scan(*is_open, at=at, filtered=silent - is_open)
            deviating = {("unexpected", port) for port in is_open if port != 22}
            deviating |= set() if 22 in is_open else {("missing", 22)}
            event = model.expect(deviating, at)
        elif what == "fail":
            notification, event = host.fail(at), model.expect_unknown(at)
        else:
            before = host.known
            notification, event = host.told(at), None
            if notification:  # nothing but a reminder can be due without a scan
                assert notification.event is Event.REMINDER
                assert before.verdict is Verdict.OUT_OF_SPEC
                event, model.told_at = Event.REMINDER, at
        assert (notification and notification.event) == event
        if notification:
            known = (
                (known | single(notification.lines))
                if notification.event is Event.UNKNOWN
                else single(notification.lines)
            )
            assert not single(notification.resolved).keys() & single(notification.lines).keys()
            assert notification.since is not None or notification.event is Event.IN_SPEC
            assert decode_notification(encode_notification(notification)) == notification
        if isinstance(what, tuple):
            assert known == model.told_ports
            assert known.keys() == deviating


def test_retries_do_not_make_a_host_unknown_early() -> None:
    """If the interval is longer than five minutes, a host is unknown after five minutes at the earliest."""
    host = Host(target("web1", expect=[22], interval=HOUR))
    assert [host.fail(NOW + minute * MINUTE) for minute in (0, 1, 3)] == [None, None, None]
    told = host.fail(NOW + 8 * MINUTE)
    assert told
    assert (told.event, told.since) == (Event.UNKNOWN, NOW)


def test_recheck_resolves_a_deviation_at_its_time() -> None:
    """The notification has the time of the recheck, not of the scan before."""
    host = Host()
    assert host.scan(22, 80, at=NOW)
    host.state = host.state.after_recheck([seen(is_open=[22])], NOW + 15 * MINUTE)
    told = host.told(NOW + 15 * MINUTE)
    assert told
    ended = (resolved(unexpected("80", NOW), seen=NOW),)
    assert (told.event, told.at, told.resolved) == (Event.IN_SPEC, NOW + 15 * MINUTE, ended)
    assert host.state.latest is not None
    assert host.state.latest.finished_at == NOW


def test_unseen_canary_is_notified_instead_of_other_hosts() -> None:
    """While no canary is seen, there are notifications about canaries alone."""
    web, canary = Host(), Host(target("gateway", expect=[22], is_canary=True))
    unseen = seen(reason=Reason.CANARY)
    told = [[host.scan_all(unseen, at=NOW + number * 60) for number in range(10)] for host in (web, canary)]
    assert told[0] == [None] * 10
    assert [notification.event for notification in told[1] if notification] == [Event.UNKNOWN]
    assert web.scan(22, at=NOW + HOUR) is None
    back = canary.scan(22, at=NOW + HOUR)
    assert back is not None
    assert back.event is Event.IN_SPEC


def test_change_of_conf_yml_is_not_a_change_of_the_host() -> None:
    """A deviation that conf.yml resolves ends as specified or unscanned."""
    host = Host(target("web1", expect=[22, 443]))
    host.scan(80, 8080, at=NOW, filtered=[22, 443])
    other = target("web1", expect=[22], allow=[80], scan=[22])
    host.state = host.state.under(other, NOW + MINUTE)
    notification = host.told(NOW + MINUTE)
    assert notification
    assert set(notification.resolved) == {
        resolved(unexpected("80", NOW), seen=NOW, end=DeviationEnd.SPECIFIED),
        resolved(missing("443", NOW), seen=NOW, end=DeviationEnd.SPECIFIED),
    }
    later = host.scan_all(seen(scanned=[22, 80], is_open=[22]), at=NOW + HOUR)
    assert later
    assert later.event is Event.IN_SPEC
    assert set(later.resolved) == {
        resolved(missing("22", NOW), seen=NOW),
        resolved(unexpected("8080", NOW), seen=NOW, end=DeviationEnd.UNSCANNED),
    }


def test_problem_begins_with_its_first_deviation() -> None:
    """The end of a problem has its beginning, whatever changed in between."""
    host = Host()
    host.scan(22, 80, at=NOW)
    host.scan(22, 443, at=NOW + HOUR)
    host.fail(NOW + 2 * HOUR)
    assert host.fail(NOW + 3 * HOUR)
    host.scan(22, 8080, at=NOW + 4 * HOUR)
    notification = host.scan(22, at=NOW + 5 * HOUR)
    assert notification
    assert (notification.since, notification.until, notification.unknown_period) == (NOW, NOW + 5 * HOUR, None)
    again = host.scan(80, at=NOW + 9 * HOUR)
    assert again
    end = host.scan(22, at=NOW + 10 * HOUR)
    assert end
    assert end.since == NOW + 9 * HOUR


def test_deviation_of_a_failed_address_keeps_its_last_time() -> None:
    """A failed scan of an address does not update when its deviations were last seen."""
    host = Host(replace(WEB, address=None))
    host.scan_all(seen(is_open=[22, 80]), seen(OTHER_ADDRESS, is_open=[22, 443]), at=NOW)
    assert host.scan_all(seen(reason=Reason.TIMEOUT), seen(OTHER_ADDRESS, is_open=[22, 443]), at=NOW + HOUR) is None
    notification = host.scan_all(seen(is_open=[22]), seen(OTHER_ADDRESS, is_open=[22]), at=NOW + 2 * HOUR)
    assert notification
    assert {line.seen for line in notification.resolved} <= {NOW, NOW + HOUR}


@pytest.mark.parametrize("is_first", [True, False])
def test_silent_host_is_notified_as_silent(*, is_first: bool) -> None:
    """Silence on every port is not a refusal, also if there were other deviations before."""
    host = Host()
    if not is_first:
        host.scan(22, 80, at=NOW - HOUR)
    notification = host.scan(at=NOW, filtered=[22, 80, 443])
    assert notification
    assert (notification.event, notification.answers_nothing) == (
        Event.OUT_OF_SPEC if is_first else Event.DIFFERENT,
        True,
    )
    back = host.scan(80, at=NOW + HOUR)
    assert back
    assert not back.answers_nothing


def test_failed_scan_is_not_silence() -> None:
    """Without any probe sent, it is unknown whether the host would answer."""
    host = Host()
    host.scan(22, 80, at=NOW)
    host.fail(NOW + HOUR)
    unknown = host.fail(NOW + 2 * HOUR)
    assert unknown
    assert not unknown.answers_nothing


def audit(at: float, *listeners: ListeningSocket, tells: bool = True) -> AuditState:
    """Return the last audit of the host."""
    return AuditState(
        "web1", (), HostAudit(at, "debsecan", None, Audit(Status.CLEAN), listeners if tells else None), at
    )


def listening(port: int, process: str, address: str = "*") -> ListeningSocket:
    """Return a socket that listens."""
    return ListeningSocket("tcp", address, port, process, "www")


def test_listening_processes_are_older_or_newer_than_the_open_port() -> None:
    """An audit from before a port was opened is marked as older, and a port without a process is listed."""
    host = Host()
    host.scan(22, 80, 443, at=NOW)
    notification = host.scan(22, 80, 443, 8080, 8081, at=NOW + HOUR)
    assert notification
    sockets = (listening(22, "sshd"), listening(80, "nginx"), listening(8080, "java"), listening(443, "x", "127.0.0.1"))
    found = add_listeners(notification, host.state, audit(NOW + MINUTE, *sockets))
    assert found.audited_at == NOW + MINUTE
    assert set(found.listeners) == {
        ListeningProcesses("80", "nginx (www)", is_older=False),
        ListeningProcesses("8080", "java (www)", is_older=True),
        ListeningProcesses("443", "", is_older=False),
        ListeningProcesses("8081", "", is_older=True),
    }


def test_notification_without_listeners_is_unchanged() -> None:
    """Without an audit, listeners in it, or an open port there is nothing to add."""
    host = Host()
    notification = host.scan(22, 80, at=NOW)
    assert notification
    for without in (None, AuditState("web1"), audit(NOW, tells=False)):
        assert add_listeners(notification, host.state, without) is notification
    closed = host.scan(at=NOW + HOUR)
    assert closed
    assert add_listeners(closed, host.state, audit(NOW, listening(22, "sshd"))) is closed


def test_many_processes_of_a_port_are_counted() -> None:
    """The first processes are named, the others are counted."""
    host = Host()
    notification = host.scan(22, 80, at=NOW)
    assert notification
    sockets = [listening(80, f"worker{number}") for number in range(8)]
    (holder,) = add_listeners(notification, host.state, audit(NOW, *sockets)).listeners
    assert holder.names == f"{', '.join(f'worker{number} (www)' for number in range(5))}, 3 more"
