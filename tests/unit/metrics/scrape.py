"""A snapshot's metrics, as Prometheus would get them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.metrics import Exposition
from portspec.scan import Failure, Reason
from tests.unit.factories import NOW, result, seen, snapshot, target

if TYPE_CHECKING:
    from portspec.snapshot import Snapshot

TEXT: Final = ""
OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"
PROMETHEUS: Final = (  # as sent by Prometheus 3
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

NASTY: Final = 'quote " backslash \\ newline \n and <b>&amp;</b>'


def exposition(of: Snapshot) -> Exposition:
    """Make the exposition of one snapshot."""
    return Exposition(lambda: of, engine="scripted", config_loaded_at=NOW)


def text(of: Snapshot, accept: str = TEXT) -> str:
    """Write the metrics of one snapshot."""
    body, _ = exposition(of).write(accept)
    return body.decode("utf-8")


def host_lines(of: Snapshot) -> list[str]:
    """Give the lines of the families about hosts, without HELP."""
    lines = text(of).splitlines()
    return [line for line in lines if "port_" in line.split("{")[0] and not line.startswith("# HELP")]


def zoo() -> Snapshot:
    """Make a snapshot with a host of every kind."""
    good = target("good", expect=[22, 443], allow=[80], interval=60.0, labels={"site": "here", "nasty": NASTY})
    bad = target("bad", expect=[22, 25], interval=3600.0, labels={"site": "there"})
    lost = target("lost", expect=[22], interval=60.5, address=None)
    never = target("never", expect=[80])
    waiting = target("waiting", expect=[443])
    blind = target("blind")
    return snapshot(
        (good, [result(good, seen("192.0.2.1", is_open=[443, 22, 80], rtt=0.1), at=NOW, duration=2.5)]),
        (
            bad,
            [
                result(bad, seen("192.0.2.2", is_open=[22]), at=NOW - 60),
                result(
                    bad,
                    seen("192.0.2.2", scanned=bad.config.ports, is_open=[22, 80], filtered=[25]),
                    seen("2001:db8::2", scanned=bad.config.ports, is_open=[22, 80, 8080]),
                    at=NOW + 0.125,
                    duration=0.001,
                ),
            ],
        ),
        (
            lost,
            [
                result(lost, seen("192.0.2.3", is_open=[23]), at=NOW),
                result(lost, at=NOW + 60, failure=Failure(Reason.RESOLVE, "does not resolve")),
            ],
        ),
        (never, [result(never, seen("192.0.2.4", reason=Reason.NO_ROUTE), seen("::4", reason=Reason.LOCAL_LIMIT))]),
        (waiting, []),
        (blind, [result(blind, seen("192.0.2.6", filtered=[22, 80, 443]), at=NOW)]),
        probes_sent=123456,
        answers_dropped=78,
    )
