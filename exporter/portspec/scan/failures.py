"""Why an address could not be scanned: the error numbers that tell, and the sentences that users read.

Engines share this module, so that one cause has one reason and one text whichever engine meets it.
"""

from __future__ import annotations

import errno
import os

from portspec.scan.job import Failure, Reason

# Seconds without any answer after which an address that has answered counts as cut off. Longer than short bans and the
# restart of a router; short enough that an address that is gone does not delay its host.
MAX_SILENCE = 12.0
MAX_STALL = 30.0  # seconds in which an address answers and yet the state of no further port becomes known

# Error numbers of a send or a look-up, by what they mean.
NO_RESOURCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
NO_PERMISSION = {errno.EPERM, errno.EACCES}
NO_ROUTE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EOPNOTSUPP,
    errno.ENODEV,
    errno.ENXIO,
    errno.EINVAL,  # a blackhole route
}


def send_failure(address: str, code: int) -> Failure:
    """Return the failure of an address to which a send, or the look-up of its route, failed with an error number."""
    detail = f"no probe to {address}: {os.strerror(code).lower()}"
    if code in NO_RESOURCE:
        return Failure(Reason.LOCAL_LIMIT, detail)
    if code in NO_PERMISSION:
        return Failure(
            Reason.PERMISSION,
            f"{detail}; this machine's packet filter or routing table refuses it, or its connection table is full",
        )
    if code == errno.EINVAL:
        detail = f"no probe to {address}: the route is a blackhole"
    return Failure(Reason.NO_ROUTE if code in NO_ROUTE else Reason.INTERNAL, detail)


def local_rejection(address: str, *, is_filter: bool = False) -> Failure:
    """Return the failure of an address for which this machine itself sent an ICMP error.

    Args:
        address: the address that was probed.
        is_filter: True if the type and code are those that a packet filter rejects with.
    """
    if is_filter:
        return Failure(Reason.PERMISSION, f"a firewall of this machine rejects what it sends to {address}")
    return no_route(
        f"no probe to {address}: this machine answers them itself with an ICMP error, as it does where the next hop "
        "does not answer ARP or neighbour discovery"
    )


def no_route(detail: str) -> Failure:
    """Return a failure with the reason `no_route`."""
    return Failure(Reason.NO_ROUTE, detail)


def cut_off(address: str, *, heard: float, probes: int, unseen: int, ports: int, is_silent: bool = True) -> Failure:
    """Return the failure of an address that answered and then stopped.

    Args:
        address: the address.
        heard: seconds from the beginning of its scan to its last answer.
        probes: how many probes had been sent to it by then.
        unseen: how many of its ports have no known state.
        ports: how many ports were to be scanned.
        is_silent: False if it still answers now and then, but too few probes to prove that a port is silent.
    """
    what = (
        f"stopped answering {max(heard, 0.0):.1f} s after its scan began, after {probes:,} probes"
        if is_silent
        else "answers too few probes to tell which ports are silent"
    )
    return Failure(
        Reason.CUT_OFF,
        f"{address} {what}; {unseen:,} of {ports:,} ports were not seen (is this scanner banned or rate-limited?)",
    )


def rate_until_cut_off(failure: Failure | None, heard: float, probes: int) -> float | None:
    """Return how many probes per second an address got until it was cut off; None for any other outcome.

    `heard` is in seconds from the beginning of the scan to the last answer, `probes` counts those sent by then.
    """
    return probes / max(heard, 0.01) if failure and failure.reason is Reason.CUT_OFF else None
