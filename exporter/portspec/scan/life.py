"""An address that answered, and then does not: how long it is waited for, and what is told of it."""

from __future__ import annotations

from portspec.scan.job import Failure, Reason

# Seconds: longer than short bans and than a router's restart, and so short that who is gone holds nobody up.
LONGEST_SILENCE = 12.0
LONGEST_STANDSTILL = 30.0  # seconds in which an address answers, and yet nothing more is known of its ports


def pace(failure: Failure | None, heard: float, probes: int) -> float | None:
    """Give the probes per second that an address got which was cut off, was last heard after so many seconds."""
    return probes / max(heard, 0.01) if failure and failure.reason is Reason.CUT_OFF else None


def cut_off(address: str, *, heard: float, probes: int, unseen: int, ports: int, is_silent: bool = True) -> Failure:
    """Say that an address was last heard so many seconds after its scan began, when so many probes were sent to it.

    `unseen` of its `ports` are not known. It may still answer now and then, but too little to tell anything.
    """
    what = (
        f"stopped answering {max(heard, 0.0):.1f} s after its scan began, after {probes:,} probes"
        if is_silent
        else "answers too few probes to tell which ports are silent"
    )
    return Failure(
        Reason.CUT_OFF,
        f"{address} {what}; {unseen:,} of {ports:,} ports were not seen (does something ban or limit this scanner?)",
    )
