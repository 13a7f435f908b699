"""What to do about a notice, in a sentence or two, and which sections of the runbooks say more. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.notify.notice import News
from portspec.notify.wording import cut
from portspec.scan import Reason
from portspec.state.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.notify.notice import Notice

_MAX_HOST: Final = 60  # characters
_UNSEEN: Final = {
    Reason.RESOLVE: "See whether the name is right in conf.yml and in the DNS, and whether the machine of portspec "
    "reaches its name servers: `getent hosts {host}`.",
    Reason.NO_ROUTE: "See whether the host is switched on, and whether the machine of portspec has a route to it.",
    Reason.LOCAL_LIMIT: "The fault is on the machine of portspec: raise its limit of open files or of tasks, or lower "
    "`parallelscans`. The log says which limit it is.",
    Reason.PERMISSION: "The fault is on the machine of portspec: its own packet filter refuses what portspec sends. "
    "Let it pass.",
    Reason.TIMEOUT: "Let the machine of portspec pass the limits of {host}, raise `max_duration` under `scan`, or scan "
    "fewer ports.",
    Reason.CUT_OFF: "See whether {host} or a firewall before it bans the address of portspec (Fail2ban, a limit of "
    "connections), and exempt it. Or {host} went down while it was scanned.",
    Reason.ANSWERS_EVERYTHING: "A firewall or a proxy before {host} takes every connection. Exempt the address of "
    "portspec there, or scan from behind it.",
    Reason.CANARY: "Look at the network of the machine of portspec first: not even the hosts that are always there can "
    "be seen.",
    Reason.INTERNAL: "This is a fault of portspec, not of {host}. Keep the traceback in its log for a report.",
}
_RUNBOOKS: Final = {Reason.CUT_OFF: "PortspecScannerCutOff", Reason.CANARY: "PortspecCanaryUnseen"}


def advice(notice: Notice) -> Iterator[str]:
    """Say what to do, in sentences."""
    host = cut(notice.host, _MAX_HOST)
    if notice.news is News.IN_SPEC:
        yield "Nothing."
    elif notice.news is News.EXPIRING:
        yield (
            f"Before it ends, close the port, add it to `expect` or `allow` of {host} in conf.yml, or give the "
            "exception a later `until`."
        )
    elif notice.is_unknown:
        reason = _reason(notice)
        yield _UNSEEN[reason].format(host=host) if reason else "The log of portspec says more."
    elif notice.answers_nothing:
        yield f"See whether {host} runs and its network is up; other hosts of that network may have the same."
        yield "If it is gone for good, take it out of conf.yml."
    else:
        yield from _of_ports(notice, host)


def _of_ports(notice: Notice, host: str) -> Iterator[str]:
    kinds = {line.kind for line in notice.lines}
    states = {line.state for line in notice.lines if line.kind == Kind.MISSING}
    if Kind.UNEXPECTED in kinds:
        yield (
            f"Close the port, or add it to `expect` or `allow` of {host} in conf.yml, or accept it for a time under "
            "`exceptions`."
        )
        yield "If nobody knows what it is, treat the host as broken into."
    if "closed" in states:
        yield "Start the service of the port that is closed, or see whether it listens on the right address."
    if states - {"closed"}:
        yield f"See whether a firewall between portspec and {host} drops what it is sent."
    if Kind.MISSING in kinds:
        yield "If it is gone for good, take the port out of `expect`."


def runbooks(notice: Notice) -> Iterator[str]:
    """Name the sections of the runbooks that a notice is about, the most important first."""
    kinds = {line.kind for line in notice.lines}
    if notice.news is News.IN_SPEC:
        return
    if notice.news is News.EXPIRING:
        yield "PortspecExceptionExpiring"
    elif notice.is_unknown:
        reason = _reason(notice)
        yield _RUNBOOKS.get(reason, "PortspecHostUnknown") if reason else "PortspecHostUnknown"
    elif notice.answers_nothing:
        yield "PortspecHostDown"
    else:
        if Kind.UNEXPECTED in kinds:
            yield "PortspecUnexpectedPortOpen"
        if Kind.MISSING in kinds:
            yield "PortspecExpectedPortMissing"


def _reason(notice: Notice) -> Reason | None:
    """Give the reason of a failure; None for one that a later portspec may know."""
    try:
        return Reason(notice.reason.partition(": ")[0])
    except ValueError:
        return None
