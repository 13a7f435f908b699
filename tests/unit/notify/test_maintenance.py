from __future__ import annotations

from typing import TYPE_CHECKING

from portspec.notify.content import Links
from portspec.notify.decision import decide
from portspec.notify.encoding import decode_notification, encode_notification
from portspec.notify.host_mail import host_content
from portspec.notify.notification import Event
from tests.unit.factories import NOW, exception, target, window
from tests.unit.notify.hosts import HOUR, MINUTE, Host, missing, resolved, unexpected

if TYPE_CHECKING:
    from portspec.inventory import Target

END = NOW + 2 * HOUR


def maintained(**more: object) -> Target:
    """Return the target of a host that is under maintenance for two hours from NOW + 1 minute on."""
    return target("web1", expect=[22], maintenance=[window(NOW + MINUTE, END)], **more)  # type: ignore[arg-type]


def test_nobody_is_notified_while_maintenance_lasts_and_once_at_its_end() -> None:
    """What deviates at the end is told with the time since when it does, in one mail that says why it is late."""
    host = Host(maintained())
    assert host.scan(22, at=NOW) is None
    assert host.scan(at=NOW + MINUTE) is None
    assert host.scan(22, 80, at=NOW + 20 * MINUTE) is None
    assert host.scan(22, 80, 8080, at=NOW + HOUR) is None
    assert host.told(END - 1) is None
    notification = host.told(END)
    assert notification
    assert notification.event is Event.OUT_OF_SPEC
    assert set(notification.lines) == {unexpected("80", NOW + 20 * MINUTE), unexpected("8080", NOW + HOUR)}
    assert notification.maintenance == END
    content = host_content(decode_notification(encode_notification(notification)), Links(), END)
    assert any(text.startswith("Maintenance ended 2023-11-15 00:13:20 UTC") for text in content.paragraphs)
    assert host.told(END + 1) is None
    assert host.scan(22, 80, 8080, at=END + MINUTE) is None


def test_host_that_is_right_again_at_the_end_is_no_news() -> None:
    """Who was told nothing is not told that nothing is wrong."""
    host = Host(maintained())
    host.scan(22, at=NOW)
    assert host.scan(at=NOW + MINUTE) is None
    assert host.scan(22, at=NOW + HOUR) is None
    assert host.told(END) is None
    later = host.scan(at=END + HOUR)
    assert later
    assert later.lines == (missing("22", END + HOUR),)
    assert later.maintenance is None


def test_problem_that_was_told_before_and_is_mended_is_told_at_the_end() -> None:
    """Whoever was told that a port is open learns that it no longer is, and when that was."""
    host = Host(maintained())
    assert host.scan(22, 80, at=NOW)
    assert host.scan(22, at=NOW + HOUR) is None
    notification = host.told(END)
    assert notification
    assert notification.event is Event.IN_SPEC
    assert notification.resolved == (resolved(unexpected("80", NOW), seen=NOW),)
    assert notification.until == NOW + HOUR


def test_problem_that_was_told_before_and_persists_is_told_again_at_the_end() -> None:
    """Also without reminders: the maintenance has not mended it."""
    host = Host(maintained(), remind=0)
    assert host.scan(22, 80, at=NOW)
    assert host.scan(22, 80, at=NOW + HOUR) is None
    notification = host.told(END)
    assert notification
    assert notification.event is Event.REMINDER
    assert notification.lines == (unexpected("80", NOW),)
    assert host.scan(22, 80, at=END + HOUR) is None


def test_host_that_cannot_be_seen_at_the_end_is_told_with_its_first_failure() -> None:
    """The failures while maintenance lasted count, and the mail comes at its end, not with the next scan."""
    host = Host(maintained())
    host.scan(22, at=NOW)
    assert host.fail(NOW + MINUTE) is None
    assert host.fail(NOW + HOUR) is None
    assert host.told(END - 1) is None
    notification = host.told(END)
    assert notification
    assert (notification.event, notification.since) == (Event.UNKNOWN, NOW + MINUTE)
    assert host.told(END + 1) is None


def test_host_that_was_told_as_unknown_and_is_seen_again_is_told_at_the_end() -> None:
    """With the time for which it could not be scanned."""
    host = Host(maintained())
    host.fail(NOW - HOUR)
    assert host.fail(NOW)
    assert host.scan(22, at=NOW + HOUR) is None
    notification = host.told(END)
    assert notification
    assert notification.event is Event.IN_SPEC
    assert notification.unknown_period
    assert (notification.unknown_period.since, notification.unknown_period.until) == (NOW - HOUR, NOW)


def test_exception_that_ends_soon_is_told_after_maintenance() -> None:
    """It is one more thing that nobody is alerted about."""
    host = Host(maintained(exceptions=[exception(80, until=END + HOUR)]))
    assert host.scan(22, 80, at=NOW + MINUTE) is None
    notification = host.told(END)
    assert notification
    assert notification.event is Event.EXPIRING


def test_maintenance_that_is_ended_early_ends_then() -> None:
    """What deviates is told at once, with that time as the end."""
    host = Host(maintained())
    assert host.scan(at=NOW + MINUTE) is None
    notification = host.reload(NOW + HOUR, target("web1", expect=[22]))
    assert notification
    assert (notification.event, notification.maintenance) == (Event.OUT_OF_SPEC, NOW + HOUR)


def test_maintenance_that_follows_another_goes_on() -> None:
    """Nobody is notified where one ends and the next one lasts."""
    host = Host(target("web1", expect=[22], maintenance=[window(NOW, END), window(END, END + HOUR)]))
    assert host.scan(at=NOW) is None
    assert host.told(END) is None
    notification = host.told(END + HOUR)
    assert notification
    assert notification.maintenance == END + HOUR


def test_exporter_that_was_down_at_the_end_tells_with_the_next_scan() -> None:
    """What recipients know is in the state file: the mail has the end as it was planned."""
    host = Host(maintained())
    assert host.scan(at=NOW + MINUTE) is None
    _, notification = decide(host.known, host.state, END + HOUR, host.remind)
    assert notification
    assert notification.maintenance == END
