from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.audit.model import Audit, Status
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.notify.decision import EXPIRES_SOON, add_listeners, decide
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
from portspec.ports import ALL_PORTS, PortSet
from portspec.scan import Reason
from portspec.state.snapshot import HostState
from portspec.state.verdict import Kind, Verdict
from tests.unit.factories import ADDRESS, MODEST, NOW, exception, result, seen, target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.config import PortException
    from portspec.inventory import Target
    from portspec.scan import AddressObservation

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
WEB = target("web1", expect=[22])
OTHER_ADDRESS = "192.0.2.2"


class Host:
    """A host that is scanned, and what is told of it; every story goes through the file on its way."""

    def __init__(self, of: Target = WEB, *, remind: float = DAY) -> None:
        self.state = HostState(of)
        self.known = NOTHING_NOTIFIED
        self.remind = remind

    def told(self, at: float) -> Notification | None:
        """Give what is told of the host as it is."""
        known, notification = decide(self.known, self.state, at, self.remind)
        self.known = decode_state(encode_state(known))
        assert self.known == known
        return notification

    def scan(self, *is_open: int, at: float, filtered: Iterable[int] = ()) -> Notification | None:
        """Scan it, and give what is told of that."""
        return self.scan_all(seen(is_open=is_open, filtered=filtered), at=at)

    def scan_all(self, *addresses: AddressObservation, at: float) -> Notification | None:
        """Scan it on several addresses, and give what is told of that."""
        self.state = self.state.after(result(self.state.target, *addresses, at=at))
        return self.told(at)

    def fail(self, at: float) -> Notification | None:
        """Scan it in vain, and give what is told of that."""
        return self.scan_all(seen(reason=Reason.NO_ROUTE), at=at)

    def reload(self, at: float, of: Target) -> Notification | None:
        """Have another configuration, and give what is told of that."""
        self.state = self.state.under(of, at)
        return self.told(at)


def unexpected(port: str, since: float, address: str = ADDRESS) -> DeviationLine:
    """Make the line of an open port."""
    return DeviationLine(address, "unexpected", "open", port, since)


def missing(port: str, since: float, state: str = "closed") -> DeviationLine:
    """Make the line of a port that is not open."""
    return DeviationLine(ADDRESS, "missing", state, port, since)


def over(line: DeviationLine, *, seen: float, end: DeviationEnd = DeviationEnd.CHANGED) -> DeviationLine:
    """Make the line that says that another one is no longer so, when that was last seen, and how it ended."""
    return replace(line, state="", seen=seen, end=end)


def test_host_out_of_specification_is_told() -> None:
    """A host that deviates is told with everything that a mail needs."""
    assert Host().scan(80, at=NOW, filtered=[22]) == Notification(
        host="web1",
        event=Event.OUT_OF_SPEC,
        at=NOW,
        expected="22",
        open="80",
        lines=(missing("22", NOW, "filtered"), unexpected("80", NOW)),
        since=NOW,
        last_seen=NOW,
    )


def test_host_in_specification_is_no_news() -> None:
    """A host that is as it should be from the start is not told, and has no story to be kept."""
    host = Host()
    assert [host.scan(22, at=NOW + minute * MINUTE) for minute in range(5)] == [None] * 5
    assert encode_state(host.known) is None


def test_host_without_a_scan_is_no_news() -> None:
    """Before the first scan there is nothing to tell."""
    assert Host().told(NOW) is None


def test_same_again_is_no_news() -> None:
    """A host that stays as it was told is told once."""
    host = Host()
    assert host.scan(22, 80, at=NOW)
    assert [host.scan(22, 80, at=NOW + minute * MINUTE) for minute in range(1, 10)] == [None] * 9


def test_other_deviations_are_told_each_since_its_own_time() -> None:
    """What is new begins now, what is still so began when it did, and what is over is named as that."""
    host = Host()
    host.scan(22, 80, 443, at=NOW)
    notification = host.scan(80, 8080, at=NOW + HOUR)
    assert notification
    assert notification.event is Event.DIFFERENT
    assert set(notification.lines) == {unexpected("80", NOW), unexpected("8080", NOW + HOUR), missing("22", NOW + HOUR)}
    assert notification.resolved == (over(unexpected("443", NOW), seen=NOW),)
    assert (notification.at, notification.since) == (NOW + HOUR, NOW)
    later = host.scan(8080, at=NOW + 2 * HOUR)
    assert later
    assert set(later.lines) == {unexpected("8080", NOW + HOUR), missing("22", NOW + HOUR)}
    assert later.resolved == (over(unexpected("80", NOW), seen=NOW + HOUR),)
    assert later.since == NOW + HOUR


def test_port_that_comes_back_deviates_since_then() -> None:
    """A port that was closed in between has not been open since the first time."""
    host = Host()
    host.scan(22, 80, 443, at=NOW)
    host.scan(22, 80, at=NOW + HOUR)
    notification = host.scan(22, 80, 443, at=NOW + 2 * HOUR)
    assert notification
    assert set(notification.lines) == {unexpected("80", NOW), unexpected("443", NOW + 2 * HOUR)}


def test_ports_of_several_scans_stand_together_by_their_times() -> None:
    """Ports that began to deviate together are one line."""
    host = Host()
    host.scan(22, *range(8000, 8010), at=NOW)
    notification = host.scan(22, *range(8000, 8020), at=NOW + HOUR)
    assert notification
    assert notification.lines == (unexpected("8000-8009", NOW), unexpected("8010-8019", NOW + HOUR))


def test_each_address_of_a_host_has_its_own_lines() -> None:
    """The same port on another address is another deviation, since another time."""
    host = Host()
    host.scan_all(seen(is_open=[22, 80]), seen(OTHER_ADDRESS, is_open=[22]), at=NOW)
    notification = host.scan_all(seen(is_open=[22]), seen(OTHER_ADDRESS, is_open=[22, 80]), at=NOW + HOUR)
    assert notification
    assert notification.event is Event.DIFFERENT
    assert notification.lines == (replace(unexpected("80", NOW + HOUR, OTHER_ADDRESS), opened=NOW),)
    assert notification.resolved == (over(unexpected("80", NOW), seen=NOW),)


def test_missing_port_that_is_dropped_instead_of_refused_is_no_news() -> None:
    """Closed or filtered, a port is missing all the same; the next mail has the state of its day."""
    host = Host()
    assert host.scan(at=NOW)
    assert host.scan(at=NOW + MINUTE, filtered=[22]) is None
    assert host.scan(at=NOW + 2 * MINUTE) is None
    notification = host.scan(80, at=NOW + 3 * MINUTE, filtered=[22])
    assert notification
    assert set(notification.lines) == {missing("22", NOW, "filtered"), unexpected("80", NOW + 3 * MINUTE)}


def test_host_that_is_in_specification_again_is_told() -> None:
    """The end of a story is told, with what is over; and then the host is as one of which nothing was told."""
    host = Host()
    host.scan(80, at=NOW)
    notification = host.scan(22, at=NOW + HOUR)
    assert notification == Notification(
        host="web1",
        event=Event.IN_SPEC,
        at=NOW + HOUR,
        expected="22",
        open="22",
        resolved=(over(missing("22", NOW), seen=NOW), over(unexpected("80", NOW), seen=NOW)),
        since=NOW,
        until=NOW + HOUR,
        last_seen=NOW + HOUR,
    )
    assert host.scan(22, at=NOW + 3 * DAY) is None
    again = host.scan(22, 80, at=NOW + 4 * DAY)
    assert again
    assert (again.event, again.resolved, again.since) == (Event.OUT_OF_SPEC, (), NOW + 4 * DAY)


def test_host_that_cannot_be_seen_is_told_after_two_scans() -> None:
    """Once is an accident; twice in a row is told, with the reason and since the first of the two; more is not."""
    host = Host()
    host.scan(22, at=NOW)
    assert host.fail(NOW + HOUR) is None
    assert host.fail(NOW + 2 * HOUR) == Notification(
        host="web1",
        event=Event.UNKNOWN,
        at=NOW + 2 * HOUR,
        expected="22",
        open="22",
        since=NOW + HOUR,
        reason=f"no_route: no connection to {ADDRESS}: no_route",
        is_unknown=True,
        last_seen=NOW,
    )
    assert [host.fail(NOW + hours * HOUR) for hours in range(3, 26)] == [None] * 23


def test_name_whose_addresses_take_turns_is_told_once() -> None:
    """Of a host that is looked up it is no news that the same ports deviate on another address than before."""
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


def test_host_that_was_never_seen_is_told_as_unknown() -> None:
    """Also a host that could not be scanned from the start is told after two scans; no port of it is known."""
    host = Host()
    assert host.fail(NOW) is None
    notification = host.fail(NOW + HOUR)
    assert notification
    assert (notification.event, notification.open, notification.lines) == (Event.UNKNOWN, "", ())
    assert notification.last_seen is None


def test_host_of_which_a_part_was_seen_has_no_verdict_to_tell() -> None:
    """Where one address was seen and another one never was, its ports are told, and no verdict is."""
    host = Host(replace(WEB, address=None))
    for minutes in (0, 6):
        addresses = seen(is_open=[22]), seen(OTHER_ADDRESS, reason=Reason.NO_ROUTE)
        notification = host.scan_all(*addresses, at=NOW + minutes * MINUTE)
    assert notification
    assert (notification.event, notification.open, notification.last_seen) == (Event.UNKNOWN, "22", None)


def test_host_that_is_seen_in_between_is_not_unknown_twice_in_a_row() -> None:
    """A scan that reaches a verdict begins the count anew."""
    host = Host()
    for hours in range(0, 20, 2):
        assert host.fail(NOW + hours * HOUR) is None
        assert host.scan(22, at=NOW + (hours + 1) * HOUR) is None


def test_same_scan_does_not_count_twice() -> None:
    """A change of the configuration, after which a host is looked at again, is no second scan."""
    host = Host()
    assert host.fail(NOW) is None
    for minute in range(1, 5):
        assert (
            host.reload(NOW + minute * MINUTE, replace(WEB, exceptions=(exception(minute, until=NOW + DAY),))) is None
        )
    assert host.known.unknown_scans == 1
    assert host.fail(NOW + HOUR)


def test_host_that_is_seen_again_in_specification_is_told() -> None:
    """After an unknown host in specification everybody knows how it is."""
    host = Host()
    host.fail(NOW)
    host.fail(NOW + HOUR)
    notification = host.scan(22, at=NOW + 2 * HOUR)
    assert notification
    assert (notification.event, notification.reason, notification.since, notification.until) == (
        Event.IN_SPEC,
        "",
        NOW,
        NOW + 2 * HOUR,
    )
    assert notification.unknown_period == UnknownPeriod(NOW, NOW + HOUR, "no_route")


def test_host_that_is_seen_again_out_of_specification_is_told() -> None:
    """After an unknown host what was told of it before is still since its time, and what is over is told."""
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
    assert notification.resolved == (over(unexpected("443", NOW), seen=NOW),)
    assert notification.unknown_period == UnknownPeriod(NOW + HOUR, NOW + 2 * HOUR, "no_route")


def test_one_failure_between_the_same_deviations_is_no_news() -> None:
    """A host that is out of specification, was not seen once, and is as before, is told once."""
    host = Host()
    host.scan(22, 80, at=NOW)
    assert host.fail(NOW + HOUR) is None
    assert host.scan(22, 80, at=NOW + 2 * HOUR) is None


def test_deviation_beside_an_address_that_cannot_be_seen_is_told_with_the_reason() -> None:
    """A host that is out of specification on what could be seen is out of specification."""
    notification = Host().scan_all(seen(is_open=[22, 80]), seen(OTHER_ADDRESS, reason=Reason.TIMEOUT), at=NOW)
    assert notification
    assert (notification.event, notification.reason) == (
        Event.OUT_OF_SPEC,
        f"timeout: no connection to {OTHER_ADDRESS}: timeout",
    )


def test_what_lasts_is_told_again_after_the_time_to_remind() -> None:
    """A reminder is sent when the last mail is so old, and not before; then it takes as long again."""
    host = Host()
    host.scan(22, 80, at=NOW)
    assert host.scan(22, 80, at=NOW + DAY - 1) is None
    notification = host.scan(22, 80, at=NOW + DAY)
    assert notification
    assert (notification.event, notification.lines, notification.since) == (
        Event.REMINDER,
        (unexpected("80", NOW),),
        NOW,
    )
    assert host.scan(22, 80, at=NOW + 2 * DAY - 1) is None
    assert host.scan(22, 80, at=NOW + 2 * DAY + 1)


def test_what_stays_unknown_is_told_again_after_the_time_to_remind() -> None:
    """A reminder says since when a host cannot be seen, and why."""
    host = Host()
    host.fail(NOW)
    host.fail(NOW + HOUR)
    assert host.fail(NOW + DAY) is None
    notification = host.fail(NOW + HOUR + DAY)
    assert notification
    assert (notification.event, notification.since) == (Event.REMINDER, NOW)
    assert notification.reason.startswith("no_route: ")


def test_time_to_remind_begins_anew_with_each_mail() -> None:
    """Whoever was written to an hour ago needs no reminder."""
    host = Host()
    host.scan(22, 80, at=NOW)
    host.scan(22, 443, at=NOW + DAY - HOUR)
    assert host.scan(22, 443, at=NOW + DAY + HOUR) is None
    assert host.scan(22, 443, at=NOW + 2 * DAY - HOUR)


def test_nobody_is_reminded_who_does_not_want_it() -> None:
    """With `remind: 0` what lasts is told once, for ever."""
    host = Host(remind=0)
    host.scan(22, 80, at=NOW)
    assert host.scan(22, 80, at=NOW + 1000 * DAY) is None
    host.fail(NOW + 1001 * DAY)
    host.fail(NOW + 1002 * DAY)
    assert host.fail(NOW + 2000 * DAY) is None


def test_host_in_specification_needs_no_reminder() -> None:
    """That all is well is told once."""
    host = Host()
    host.scan(22, 80, at=NOW)
    host.scan(22, at=NOW + HOUR)
    assert host.scan(22, at=NOW + 1000 * DAY) is None


def test_clock_that_is_set_back_silences_nobody() -> None:
    """After a clock that was years ahead there is a reminder at once, and then one a day."""
    host = Host()
    host.scan(22, 80, at=NOW + 3650 * DAY)
    notification = host.scan(22, 80, at=NOW)
    assert notification
    assert notification.event is Event.REMINDER
    assert host.scan(22, 80, at=NOW + DAY - 1) is None
    assert host.scan(22, 80, at=NOW + DAY)


def excepted(*exceptions: PortException) -> Target:
    """Make the target with exceptions."""
    return replace(WEB, exceptions=exceptions)


def ends(notification: Notification | None) -> list[tuple[str, float]] | None:
    """Give ports and ends of the exceptions that a notification is about; None without one that is about exceptions."""
    if notification is None:
        return None
    assert notification.event is Event.EXPIRING
    return [(ports, until) for ports, until, _, _ in notification.expiring]


def test_exception_that_is_about_to_lapse_is_told_once() -> None:
    """An exception that covers a deviation is told when it ends within three days, with its reason and owner."""
    until = NOW + EXPIRES_SOON + HOUR
    host = Host(excepted(replace(exception(80, 443, until=until), reason="migration", owner="ops")))
    assert host.scan(22, 80, at=NOW + HOUR) is None
    notification = host.scan(22, 80, at=NOW + HOUR + 1)
    assert notification == Notification(
        host="web1",
        event=Event.EXPIRING,
        at=NOW + HOUR + 1,
        expected="22",
        open="22, 80",
        expiring=(AcceptedPorts("80", until, "migration", "ops"),),
        last_seen=NOW + HOUR + 1,
    )
    assert [host.scan(22, 80, at=NOW + hours * HOUR) for hours in range(2, 60)] == [None] * 58


def test_exception_that_covers_nothing_ends_unnoticed() -> None:
    """The end of an exception for ports that are as they should be changes nothing."""
    host = Host(excepted(exception(80, until=NOW + DAY)))
    assert host.scan(22, at=NOW) is None
    assert encode_state(host.known) is None


def test_exceptions_that_end_soon_are_told_together() -> None:
    """Two exceptions that are about to lapse are one notification, the one that ends first at its head."""
    first, second = exception(80, until=NOW + DAY), exception(443, until=NOW + 2 * DAY)
    host = Host(excepted(second, first))
    assert ends(host.scan(22, 80, 443, at=NOW)) == [("80", NOW + DAY), ("443", NOW + 2 * DAY)]
    assert host.scan(22, 80, 443, at=NOW + HOUR) is None


def test_exception_that_was_told_of_is_not_told_again_when_another_one_lapses() -> None:
    """Of two exceptions that were told together the second is no news when the first is over."""
    first, second = exception(80, until=NOW + DAY), exception(443, until=NOW + 2 * DAY)
    host = Host(excepted(first, second))
    host.scan(22, 80, 443, at=NOW)
    lapsed = host.scan(22, 80, 443, at=NOW + DAY)
    assert lapsed
    assert lapsed.event is Event.OUT_OF_SPEC
    assert host.scan(22, 80, 443, at=NOW + DAY + HOUR) is None


def test_exception_is_told_of_though_another_one_ends_before_it() -> None:
    """Each exception is told three days before its own end, also while one that was told of is in force."""
    first, second = exception(80, until=NOW + DAY), exception(443, until=NOW + EXPIRES_SOON + HOUR)
    host = Host(excepted(first, second))
    assert ends(host.scan(22, 80, 443, at=NOW)) == [("80", NOW + DAY)]
    told = ends(host.scan(22, 80, 443, at=NOW + 2 * HOUR))
    assert told
    assert ("443", NOW + EXPIRES_SOON + HOUR) in told


def test_exception_that_is_prolonged_is_told_at_its_new_end() -> None:
    """A new end three days off or more is no news; when it comes near it is."""
    host = Host(excepted(exception(80, until=NOW + DAY)))
    assert ends(host.scan(22, 80, at=NOW)) == [("80", NOW + DAY)]
    assert host.reload(NOW + HOUR, excepted(exception(80, until=NOW + 10 * DAY))) is None
    assert host.scan(22, 80, at=NOW + 2 * HOUR) is None
    assert ends(host.scan(22, 80, at=NOW + 8 * DAY)) == [("80", NOW + 10 * DAY)]


def test_deviation_counts_when_its_exception_lapses() -> None:
    """At the end of an exception its deviations are told, without another scan."""
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


def test_exception_for_a_deviation_that_was_told_ends_its_story() -> None:
    """Whoever accepts a deviation for a while hears that the host is in specification again."""
    host = Host()
    host.scan(22, 80, at=NOW)
    notification = host.reload(NOW + HOUR, excepted(exception(80, until=NOW + 30 * DAY)))
    assert notification
    assert (notification.event, notification.resolved) == (
        Event.IN_SPEC,
        (over(unexpected("80", NOW), seen=NOW, end=DeviationEnd.ACCEPTED),),
    )
    assert (notification.accepted, notification.until) == ((AcceptedPorts("80", NOW + 30 * DAY),), NOW + HOUR)


def test_deviation_is_told_before_an_exception_is() -> None:
    """When a host goes out of specification while an exception of it is about to lapse, both are told, one by one."""
    host = Host(excepted(exception(80, until=NOW + DAY)))
    first, second = host.scan(80, at=NOW), host.scan(80, at=NOW + MINUTE)
    assert first
    assert (first.event, first.lines) == (Event.OUT_OF_SPEC, (missing("22", NOW),))
    assert ends(second) == [("80", NOW + DAY)]
    assert second
    assert second.lines == (missing("22", NOW),)


def test_host_with_every_port_open_is_a_small_story() -> None:
    """65,535 unexpected ports are a range in the story and in the notification, not a list."""
    host = Host(target("web1"))
    notification = host.scan_all(seen(scanned=ALL_PORTS, is_open=ALL_PORTS), at=NOW)
    assert notification
    assert notification.lines == (unexpected("all", NOW),)
    assert len(encode_state(host.known) or "") < 500
    assert len(encode_notification(notification)) < 500
    assert host.scan_all(seen(scanned=ALL_PORTS, is_open=ALL_PORTS), at=NOW + HOUR) is None
    fewer = host.scan_all(seen(scanned=ALL_PORTS, is_open=ALL_PORTS - PortSet.of([80])), at=NOW + 2 * HOUR)
    assert fewer
    assert fewer.lines == (unexpected("1-79, 81-65535", NOW),)
    assert fewer.resolved == (over(unexpected("80", NOW), seen=NOW + HOUR),)


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
    """Whom to tell what, as docs/mail.md says it, with sets of single ports."""

    def __init__(self, remind: float) -> None:
        self.remind = remind
        self.told: Verdict = Verdict.IN_SPEC
        self.told_at = 0.0
        self.told_ports: dict[tuple[str, int], float] = {}
        self.failures = 0

    def expect(self, ports: set[tuple[str, int]], at: float) -> Event | None:
        """Give what a scan that found these deviations is for."""
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
        """Give what a scan that saw nothing is for."""
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
    """Give kind, port and beginning of each port in some lines."""
    return {(line.kind, int(port)): line.since for line in lines for port in line.ports.split(", ")}


@settings(MODEST, max_examples=300)
@given(steps, st.sampled_from([0.0, DAY]))
def test_there_is_a_notice_whenever_and_only_if_something_is_news(
    taken: list[tuple[tuple[frozenset[int], frozenset[int]] | str, float]], remind: float
) -> None:
    """Whatever happens, whoever reads the notifications knows verdict and deviations, and gets none that says nothing."""
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


TIMES = st.floats(0, 253_402_214_399)  # to the last day of which every time zone can make a date
TEXTS = st.text(max_size=10)
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
ACCEPTANCES = st.lists(st.builds(AcceptedPorts, SPELLED, TIMES, TEXTS, TEXTS), max_size=2).map(tuple)
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
    expiring=ACCEPTANCES,
    last_seen=SOME_TIME,
    until=SOME_TIME,
    answers_nothing=st.booleans(),
    expired=ACCEPTANCES,
    accepted=ACCEPTANCES,
    unknown_period=st.none() | st.builds(UnknownPeriod, TIMES, TIMES, TEXTS),
    listeners=st.lists(st.builds(ListeningProcesses, SPELLED, TEXTS, st.booleans()), max_size=2).map(tuple),
    audited_at=SOME_TIME,
)


@MODEST
@given(STATES)
def test_state_is_read_as_it_was_written(known: NotificationState) -> None:
    """A story survives the file, whatever it is."""
    assert decode_state(encode_state(known)) == known


@MODEST
@given(NOTIFICATIONS)
def test_notice_is_read_as_it_was_written(notification: Notification) -> None:
    """A notification survives the file, whatever it is."""
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
    """Give a document in which one value, however deep, is something else or gone; or something else altogether."""
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
def test_state_that_cannot_be_read_is_none(document: str) -> None:
    """Whatever stands in the file, nothing is raised: at worst everything is told anew."""
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
def test_state_with_values_of_another_kind_is_none(changed: dict[str, Any]) -> None:
    """A value that another version, or a garbled page, left is as good as no story."""
    assert decode_state(json.dumps({**STATE_PLAIN, **changed})) == NOTHING_NOTIFIED


@settings(MODEST, max_examples=300)
@given(garbled(NOTIFICATION_PLAIN))
def test_notice_that_cannot_be_read_is_a_value_error(document: str) -> None:
    """Whatever stands in the file, it is a notification or ValueError."""
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
def test_notice_with_values_of_another_kind_is_a_value_error(changed: dict[str, Any]) -> None:
    """What is no time or no text is found when a notification is read, not when its mail is written."""
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        decode_notification(json.dumps({**NOTIFICATION_PLAIN, **changed}))


def test_nothing_in_the_file_is_no_story() -> None:
    """A host without a story is one of which nothing was told."""
    assert decode_state(None) == decode_state("") == decode_state("null") == NOTHING_NOTIFIED


def test_host_that_is_tried_again_soon_is_not_told_as_unknown_at_once() -> None:
    """Where the interval is longer than five minutes a host is not told as unknown before it was for so long."""
    host = Host(target("web1", expect=[22], interval=HOUR))
    assert [host.fail(NOW + minute * MINUTE) for minute in (0, 1, 3)] == [None, None, None]
    told = host.fail(NOW + 8 * MINUTE)
    assert told
    assert (told.event, told.since) == (Event.UNKNOWN, NOW)


def test_deviation_that_a_recheck_ends_is_told_as_of_then() -> None:
    """What is no longer so is told with the time at which that was seen, not that of the scan before."""
    host = Host()
    assert host.scan(22, 80, at=NOW)
    host.state = host.state.after_recheck([seen(is_open=[22])], NOW + 15 * MINUTE)
    told = host.told(NOW + 15 * MINUTE)
    assert told
    ended = (over(unexpected("80", NOW), seen=NOW),)
    assert (told.event, told.at, told.resolved) == (Event.IN_SPEC, NOW + 15 * MINUTE, ended)
    assert host.state.latest is not None
    assert host.state.latest.finished_at == NOW


def test_a_host_that_is_not_believed_is_no_news_and_a_canary_is() -> None:
    """While no canary is seen the mails are about the canaries; of the others only what is so afterwards is told."""
    web, canary = Host(), Host(target("gateway", expect=[22], is_canary=True))
    unseen = seen(reason=Reason.CANARY)
    told = [[host.scan_all(unseen, at=NOW + number * 60) for number in range(10)] for host in (web, canary)]
    assert told[0] == [None] * 10
    assert [notification.event for notification in told[1] if notification] == [Event.UNKNOWN]
    assert web.scan(22, at=NOW + HOUR) is None
    back = canary.scan(22, at=NOW + HOUR)
    assert back is not None
    assert back.event is Event.IN_SPEC


def test_what_conf_yml_ends_is_not_told_as_changed() -> None:
    """A port that is allowed by now, or expected no more, or scanned no more, was not seen to change."""
    host = Host(target("web1", expect=[22, 443]))
    host.scan(80, 8080, at=NOW, filtered=[22, 443])
    other = target("web1", expect=[22], allow=[80], scan=[22])
    host.state = host.state.under(other, NOW + MINUTE)
    notification = host.told(NOW + MINUTE)
    assert notification
    assert set(notification.resolved) == {
        over(unexpected("80", NOW), seen=NOW, end=DeviationEnd.SPECIFIED),
        over(missing("443", NOW), seen=NOW, end=DeviationEnd.SPECIFIED),
    }
    later = host.scan_all(seen(scanned=[22, 80], is_open=[22]), at=NOW + HOUR)
    assert later
    assert later.event is Event.IN_SPEC
    assert set(later.resolved) == {
        over(missing("22", NOW), seen=NOW),
        over(unexpected("8080", NOW), seen=NOW, end=DeviationEnd.UNSCANNED),
    }


def test_state_began_when_its_first_deviation_did() -> None:
    """The end of a story tells since when the host was not in specification, whatever came and went in between."""
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


def test_deviation_that_is_kept_of_an_address_was_not_seen_again() -> None:
    """What a scan could not see stays as it was last seen, and not as of that scan."""
    host = Host(replace(WEB, address=None))
    host.scan_all(seen(is_open=[22, 80]), seen(OTHER_ADDRESS, is_open=[22, 443]), at=NOW)
    assert host.scan_all(seen(reason=Reason.TIMEOUT), seen(OTHER_ADDRESS, is_open=[22, 443]), at=NOW + HOUR) is None
    notification = host.scan_all(seen(is_open=[22]), seen(OTHER_ADDRESS, is_open=[22]), at=NOW + 2 * HOUR)
    assert notification
    assert {line.seen for line in notification.resolved} <= {NOW, NOW + HOUR}


@pytest.mark.parametrize("is_first", [True, False])
def test_host_that_answers_nothing_is_told_as_that(*, is_first: bool) -> None:
    """Silence on every port is another thing than refusals, also when something else was wrong before."""
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


def test_host_that_cannot_be_seen_at_all_is_not_told_to_answer_nothing() -> None:
    """Where no probe could be sent nobody knows what would be answered."""
    host = Host()
    host.scan(22, 80, at=NOW)
    host.fail(NOW + HOUR)
    unknown = host.fail(NOW + 2 * HOUR)
    assert unknown
    assert not unknown.answers_nothing


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


def test_state_of_an_older_version_goes_on() -> None:
    """After an upgrade nothing is told again, and the end of what was told is told with its beginning."""
    host = Host()
    host.scan(22, 80, at=NOW)
    host.known = decode_state(OLD_STATE)
    assert host.scan(22, 80, at=NOW + HOUR) is None
    notification = host.scan(22, at=NOW + 2 * HOUR)
    assert notification
    assert (notification.event, notification.since) == (Event.IN_SPEC, 1699990000.0)
    assert notification.resolved == (over(unexpected("80", 1699990000.0), seen=NOW + HOUR),)


def test_notice_of_an_older_version_is_told() -> None:
    """What waits in the state file during an upgrade is read with what it has."""
    notification = decode_notification(OLD_NOTIFICATION)
    assert (notification.event, notification.expiring) == (
        Event.DIFFERENT,
        (AcceptedPorts("8080", 1700100000.0, "why", "who"),),
    )
    assert (notification.resolved[0].seen, notification.resolved[0].end, notification.last_seen) == (None, "", None)


def test_documents_of_a_newer_version_are_read_as_far_as_they_are_known() -> None:
    """After a step back nobody is lost: keys that are new are passed over, a kind of news that is new is an error."""
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


def audit(at: float, *listeners: ListeningSocket, tells: bool = True) -> AuditState:
    """Make the last audit of the host."""
    return AuditState(
        "web1", (), HostAudit(at, "debsecan", None, Audit(Status.CLEAN), listeners if tells else None), at
    )


def listening(port: int, process: str, address: str = "*") -> ListeningSocket:
    """Make a socket that listens."""
    return ListeningSocket("tcp", address, port, process, "www")


def test_who_listens_is_told_by_when_the_port_was_opened() -> None:
    """An audit from before a port was seen open, or one that has nobody on it, is told as what it is."""
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


def test_who_listens_is_not_told_where_nobody_knows() -> None:
    """Without an audit, without listeners in it, and without an open port there is nothing to tell."""
    host = Host()
    notification = host.scan(22, 80, at=NOW)
    assert notification
    for without in (None, AuditState("web1"), audit(NOW, tells=False)):
        assert add_listeners(notification, host.state, without) is notification
    closed = host.scan(at=NOW + HOUR)
    assert closed
    assert add_listeners(closed, host.state, audit(NOW, listening(22, "sshd"))) is closed


def test_processes_of_a_port_are_named_up_to_a_few() -> None:
    """Where very many listen on a port the first few are named, and the others counted."""
    host = Host()
    notification = host.scan(22, 80, at=NOW)
    assert notification
    sockets = [listening(80, f"worker{number}") for number in range(8)]
    (holder,) = add_listeners(notification, host.state, audit(NOW, *sockets)).listeners
    assert holder.names == f"{', '.join(f'worker{number} (www)' for number in range(5))}, 3 more"
