"""Scan results as the XML that nmap writes with -oX, for programs that read that. Pure.

The elements are those of nmap.dtd of nmap 7.93 (xmloutputversion 1.05), which has no place for some of what portspec
knows, and demands some that it does not know:

* What the latest scan of an address could not see is `unknown`, with the reason of the failure, and has only the ports
  that were seen before it. A host without an address, or without a scan, is a skipped target.
* An open port that accepted no connection is `open|filtered`. The reason of a filtered port is `unknown`: whether it
  was silent or rejected by an ICMP error is not kept.
* rttvar and the timeout of <times> are those of RFC 6298, 2.2, after one measurement: there is no other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final

from portspec import __version__
from portspec.errors import printable
from portspec.names import address_of
from portspec.ports import ALL_PORTS, NO_PORTS, PortSet
from portspec.scan import Reason
from portspec.services import name_of
from portspec.times import moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portspec.scan import AddressObservation, Failure
    from portspec.state.snapshot import HostState, ScanResult

MAX_LISTED: Final = 1000  # expected ports of an address that are not open and have an element of their own

# The reason of each state; a port is closed if it answered with RST, whatever sent the probe.
_REASONS: Final = {"open": "syn-ack", "open|filtered": "syn-ack", "closed": "reset", "filtered": "unknown"}
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2
_REFERENCES: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)


@dataclass(frozen=True, slots=True)
class NmapRun:
    """What the XML says of the scans as a whole.

    Attributes:
        arguments: the command line that led to it.
        engine: the name of the engine.
        now: in Unix seconds; the time of what contains no scan.
        elapsed: the duration in seconds; None if the scans were no run of their own.
    """

    arguments: str
    engine: str
    now: float
    elapsed: float | None = None


def nmap_xml(states: Sequence[HostState], run: NmapRun) -> Iterator[bytes]:
    """Write the latest scan of each host as XML in UTF-8, in pieces; a piece is at most one host."""
    scans = [state.latest for state in states if state.latest]
    begun = min((scan.finished_at - scan.duration for scan in scans), default=run.now)
    ended = max((scan.seen_at for scan in scans), default=run.now)
    yield _encoded(_head(scans, run, begun))
    counts = {"up": 0, "down": 0, "unknown": 0}
    skipped = 0
    for state in states:
        scan = state.latest
        if scan is None or not scan.addresses:
            skipped += 1
            yield _encoded(_target(state))
            continue
        failure = scan.judgement.failure
        note = ""
        if failure and not any(seen.failure for seen in scan.addresses):
            note = _comment(f"{state.host}: {failure.detail}")
        hosts = [note] if note else []
        for seen in scan.addresses:
            status, reason = _status(seen)
            counts[status] += 1
            hosts.append(_host(state, scan, seen, status, reason))
        yield _encoded("".join(hosts))
    yield _encoded(_tail(counts, skipped, ended, ended - begun if run.elapsed is None else run.elapsed))


def _head(scans: Sequence[ScanResult], run: NmapRun, begun: float) -> str:
    scanned = _scanned_everywhere(scans)
    info = (
        f'<scaninfo type="{"syn" if run.engine == "syn" else "connect"}" protocol="tcp" '
        f'numservices="{len(scanned)}" services="{_ranges(scanned)}"/>\n'
        if scanned
        else ""
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        "<!DOCTYPE nmaprun>\n"
        f"{_comment(f'portspec {__version__}, in the format of nmap')}"
        f'<nmaprun scanner="nmap" args="{_text(run.arguments)}" start="{int(begun)}" startstr="{_date(begun)}" '
        f'version="{__version__}" xmloutputversion="1.05">\n'
        f'{info}<verbose level="0"/>\n<debugging level="0"/>\n'
    )


def _tail(counts: dict[str, int], skipped: int, ended: float, elapsed: float) -> str:
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    summary = f"{sum(counts.values())} addresses: {states}; {skipped} hosts without a result"
    return (
        f'<runstats><finished time="{int(ended)}" timestr="{_date(ended)}" summary="{summary}" '
        f'elapsed="{max(elapsed, 0.0):.2f}" exit="success"/>'
        f'<hosts up="{counts["up"]}" down="{counts["down"]}" total="{sum(counts.values())}"/>\n'
        "</runstats>\n</nmaprun>\n"
    )


def _scanned_everywhere(scans: Sequence[ScanResult]) -> PortSet:
    """Return the ports that were scanned on each address that was seen as a whole: <scaninfo> is about all hosts."""
    common, found = ALL_PORTS, False
    for ports in {seen.scanned for scan in scans for seen in scan.addresses if seen.failure is None}:
        common, found = common & ports, True
    return common if found else NO_PORTS


def _target(state: HostState) -> str:
    """Write a host without an address to scan, or without a scan."""
    failure = state.latest.judgement.failure if state.latest else None
    reason = ' reason="invalid"' if failure else ""
    why = failure.detail if failure else "not scanned yet"
    return f'{_comment(f"{state.host}: {why}")}<target specification="{_text(state.host)}" status="skipped"{reason}/>\n'


def _status(seen: AddressObservation) -> tuple[str, str]:
    """Return the state of a host for nmap, and the reason for it."""
    if seen.failure:
        return "unknown", seen.failure.reason.value.replace("_", "-")
    if not seen.answered:
        return "down", "no-response"
    if seen.open:
        return "up", "syn-ack"
    return "up", "reset" if seen.closed else "unknown-response"


def _host(state: HostState, scan: ScanResult, seen: AddressObservation, status: str, reason: str) -> str:
    family = "ipv6" if ":" in seen.address else "ipv4"
    name = "" if address_of(state.host) else f'\n<hostname name="{_text(state.host)}" type="user"/>'
    ports = _ports(seen, state.target.config.specification.expect) if seen.is_usable and seen.scanned else ""
    return (
        f'<host starttime="{int(scan.finished_at - scan.duration)}" endtime="{int(scan.seen_at)}"'
        f'{_failed(seen.failure) if seen.failure else ""}><status state="{status}" reason="{reason}" reason_ttl="0"/>\n'
        f'<address addr="{_text(seen.address)}" addrtype="{family}"/>\n'
        f"<hostnames>{name}\n</hostnames>\n"
        f"{ports}{_times(seen.rtt)}</host>\n"
    )


def _failed(failure: Failure) -> str:
    is_late = ' timedout="true"' if failure.reason is Reason.TIMEOUT else ""
    return f'{is_late} comment="{_text(printable(failure.detail))}"'


def _ports(seen: AddressObservation, expect: PortSet) -> str:
    """Write the open ports, and the expected ones that are not open, one by one; the others as numbers."""
    closed = seen.scanned - seen.open - seen.filtered
    missing = PortSet.of(islice((expect & seen.scanned) - seen.open, MAX_LISTED))
    lines = ["<ports>"]
    for state, ports in (("closed", closed - missing), ("filtered", seen.filtered - missing)):
        if ports:
            number = len(ports)
            lines.append(
                f'<extraports state="{state}" count="{number}">\n'
                f'<extrareasons reason="{_REASONS[state]}" count="{number}" proto="tcp" ports="{_ranges(ports)}"/>\n'
                "</extraports>\n"
            )
    for port in seen.open | missing:
        state = "open|filtered" if port in seen.unconfirmed else seen.state(port).value
        lines.append(_port(port, state))
    lines.append("</ports>\n")
    return "".join(lines)


@lru_cache(maxsize=4096)  # most hosts have the same few ports, and to look up the name of a service reads a file
def _port(port: int, state: str) -> str:
    return (
        f'<port protocol="tcp" portid="{port}"><state state="{state}" reason="{_REASONS[state]}" reason_ttl="0"/>'
        f'<service name="{_text(name_of(port) or "unknown")}" method="table" conf="3"/></port>\n'
    )


def _times(rtt: float | None) -> str:
    """Write round-trip times in microseconds: RFC 6298, 2.2, with the shortest as the only measurement."""
    if rtt is None:
        return ""
    srtt = round(rtt * 1e6)
    rttvar = srtt // 2
    return f'<times srtt="{srtt}" rttvar="{rttvar}" to="{srtt + 4 * rttvar}"/>\n'


def _ranges(ports: PortSet) -> str:
    """Spell ports as nmap does: "22,8000-8100"."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ports.ranges)


def _date(seconds: float) -> str:
    return f"{moment(seconds).ctime()} UTC"


def _text(text: str) -> str:
    """Escape the value of an attribute; what XML cannot have at all becomes U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", text).translate(_REFERENCES)


def _comment(text: str) -> str:
    """Write a comment, which must not have two hyphens in a row (XML 1.0, 2.5)."""
    safe = _FORBIDDEN.sub("\ufffd", printable(text))
    return f"<!-- {re.sub('-(?=-)', '- ', safe)} -->\n"


def _encoded(text: str) -> bytes:
    return text.encode()
