"""Ways to spoil a scan at a moment of it, and what may be said of the host afterwards; made with nftables.

A case is drawn from a seed: which ports are open, how the scan is set, what spoils it, when, and for how long. It runs
`portspec scan`. The host shows something that is out of specification, so neither "in spec" nor a deviation that is
none may come of it, whatever was seen.

    python -m tests.lab.spoiling [--runs N] [--seed S] [KIND ...]

runs N cases of each kind and prints how many verdicts were wrong, and how many unknown.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from .network import Lab
from .program import configure
from .truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDRESSES: Final = {4: "198.18.7.1", 6: "2001:db8:18::7:1"}
ALLOWED: Final = 22
#: How long a ban lasts, in seconds; None: for ever.
BANS: Final[Mapping[str, float | None]] = {"ban 5 s": 5.0, "ban 60 s": 60.0, "ban": None}
#: What a ban answers that does not drop, for ever, by family.
REJECTIONS: Final[dict[str, dict[int, str]]] = {
    "ban that rejects": {4: "icmp type port-unreachable", 6: "icmpv6 type port-unreachable"},
    "ban that resets": dict.fromkeys((4, 6), "tcp reset"),
}
#: What a router that restarts says of a host for a second, by family.
ERRORS: Final[dict[str, dict[int, str]]] = {
    "net unreachable": {4: "icmp type net-unreachable", 6: "icmpv6 type no-route"},
    "host unreachable": {4: "icmp type host-unreachable", 6: "icmpv6 type addr-unreachable"},
    "protocol unreachable": {4: "icmp type prot-unreachable"},
    "port unreachable": {4: "icmp type port-unreachable", 6: "icmpv6 type port-unreachable"},
    "prohibited": {4: "icmp type admin-prohibited", 6: "icmpv6 type admin-prohibited"},
    "net prohibited": {4: "icmp type net-prohibited", 6: "icmpv6 type reject-route"},
    "host prohibited": {4: "icmp type host-prohibited", 6: "icmpv6 type policy-fail"},
}
#: What stands before the host all the time: something that answers on every port in its place.
STANDING: Final[dict[str, str]] = {
    "syn proxy": """\
table inet spoiler {{
  chain untracked {{ type filter hook prerouting priority raw; policy accept;
    {what} daddr {address} tcp flags & (fin | syn | rst | ack) == syn notrack
  }}
  chain proxy {{ type filter hook input priority filter; policy accept;
    ct state invalid,untracked meta l4proto tcp synproxy mss 1460 wscale 7 timestamp sack-perm
    ct state invalid drop
  }}
}}
""",
    "answers everything": """\
table inet spoiler {{
  chain redirection {{ type nat hook prerouting priority dstnat; policy accept;
    {what} daddr {address} meta l4proto tcp dnat {what} to {quoted}:22
  }}
}}
""",
}
#: The host answers nothing until so many packets have come.
WAKES: Final = "wakes"
KINDS: Final = (*BANS, *REJECTIONS, "reboot", WAKES, *ERRORS, *STANDING)


@dataclass(frozen=True, slots=True)
class Case:
    """One scan and what spoils it, after `packets` packets of the scanner to the host."""

    kind: str
    engine: str
    family: int
    packets: int
    ports: tuple[int, int]
    open: tuple[int, ...]
    rate: float | None

    @property
    def address(self) -> str:
        """The host's only address."""
        return ADDRESSES[self.family]

    @property
    def truth(self) -> HostTruth:
        """What the host is: `open` is open beside ALLOWED, every other port closed."""
        return HostTruth("one", (self.address,), {(self.address, port): State.OPEN for port in (ALLOWED, *self.open)})

    @property
    def keys(self) -> dict[str, Any]:
        """The settings of the scan."""
        rate = {"host_rate": self.rate} if self.rate else {}
        known = "expect" if self.kind == WAKES else "allow"
        return {"scan": {"engine": self.engine, **rate}, "hosts": {self.address: {known: [ALLOWED]}}}


def draw(kind: str, seed: int) -> Case:
    """Draw a case of a kind."""
    rng = random.Random(f"{kind}/{seed}")  # noqa: S311 - reproducible, no secret
    engine = rng.choice(["syn", "connect"])
    # The kernel of the lab answers no SYN over IPv6 from a raw socket where it is a SYN proxy.
    families = [4] if (kind, engine) == ("syn proxy", "syn") else list(ERRORS.get(kind, ADDRESSES))
    return Case(
        kind,
        engine,
        rng.choice(families),
        # Of a host that wakes up each port has been asked three times by 12,000; then it is asked again.
        rng.randint(50, 12_020 if kind == WAKES else 3900),
        (1, 4000),
        tuple(rng.sample(range(23, 4001), rng.randint(1, 3))),
        rng.choice([None, None, 2000.0]),
    )


class Spoiler:
    """Counts the scanner's SYNs to a host, and from one of them on has them dropped or answered with an error."""

    def __init__(self, lab: Lab, case: Case) -> None:
        self._lab = lab
        what = "ip" if case.family == 4 else "ip6"
        error = (ERRORS | REJECTIONS).get(case.kind)
        does = f"reject with {error[case.family]}" if error else "drop"
        # A quota is exact to the packet: probes are of one size, 40 bytes without and 60 with the options of connect.
        size = {("syn", 4): 44, ("syn", 6): 64, ("connect", 4): 60, ("connect", 6): 80}[case.engine, case.family]
        family = f"{what} daddr {case.address}"
        hook = "input" if error else "prerouting"
        quoted = f"[{case.address}]" if case.family == 6 else case.address
        self._is_standing = case.kind in STANDING
        when = "until" if case.kind == WAKES else "over"
        self._table = (
            STANDING[case.kind].format(what=what, address=case.address, quoted=quoted)
            if self._is_standing
            else f"""\
table inet spoiler {{
  counter spoilt {{}}
  chain spoil {{
    type filter hook {hook} priority -300; policy accept;
    {family} tcp flags & (syn | ack) == syn quota {when} {case.packets * size} bytes counter name spoilt {does}
  }}
}}
"""
        )

    def __enter__(self) -> Self:
        self._nft(self._table)
        # A SYN proxy takes over what conntrack does not know: our ACK to its SYN-ACK must not pass for a connection.
        self._lab.run(
            ["sh", "-c", "echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose || true"], side="hosts", check=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Let everything through again."""
        self._nft("table inet spoiler\ndelete table inet spoiler\n")

    @property
    def has_begun(self) -> bool:
        """True once a packet was spoilt."""
        if self._is_standing:
            return True
        listed = self._lab.run(["nft", "list", "counter", "inet", "spoiler", "spoilt"], side="hosts", check=True)
        return "packets 0 " not in listed.stdout

    def _nft(self, text: str) -> None:
        self._lab.run(["nft", "-f", "-"], side="hosts", input=text, check=True)


def run(lab: Lab, case: Case, directory: Path) -> tuple[dict[str, Any], bool]:
    """Scan while it is spoilt; returns what was said of the host, and whether the scan met what spoils it."""
    lab.apply([case.truth])
    conf = configure(directory, scanports=[f"{case.ports[0]}-{case.ports[1]}"], **case.keys)
    lasts = None if case.kind in (*STANDING, *REJECTIONS, WAKES) else BANS.get(case.kind, 1.0)
    with Spoiler(lab, case) as spoiler:
        scan = lab.fork("portspec", "scan", "-c", str(conf), "--json", timeout=180)
        ends_at = None
        while not scan.is_over and lasts is not None:
            if ends_at is None and spoiler.has_begun:
                ends_at = time.monotonic() + lasts
            if ends_at is not None and time.monotonic() >= ends_at:
                spoiler.end()
                spoiler._nft("table inet spoiler {\n counter spoilt { packets 1 bytes 1 } \n}\n")
                break
            time.sleep(0.02)
        done = scan.result()
        was_spoilt = spoiler.has_begun
    assert done.stdout, done.stderr
    (host,) = json.loads(done.stdout)["hosts"]
    return host, was_spoilt


def wrong(case: Case, host: dict[str, Any], *, was_spoilt: bool) -> str | None:
    """Say what is wrong in what was said of a host; None if nothing is."""
    is_open = {str(port) for port in case.open}
    (address,) = host["addresses"]
    if case.kind == WAKES and not (address["open"] or address["closed"]):
        return None  # it slept all the time
    if host["verdict"] == "in_spec":
        return "in spec"
    if not set(host["unexpected"]) <= is_open or host["missing"]:
        return f"deviations that are none: {host['missing']}, {set(host['unexpected']) - is_open}"
    if not was_spoilt and set(host["unexpected"]) != is_open:
        return f"not spoilt, and yet {host['verdict']}, {host['unexpected']}"
    return None


def main() -> int:
    """Run cases and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", default=list(KINDS), help=f"{', '.join(KINDS)}; all of them by default"
    )
    parser.add_argument("--runs", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first run; the next have the next ones (default: 1)"
    )
    arguments = parser.parse_args()
    faults = 0
    print("| kind | runs | spoilt | wrong | unknown | out of spec, in part | whole |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with Lab() as lab, tempfile.TemporaryDirectory() as directory:
        for kind in arguments.kinds:
            counts: Counter[str] = Counter()
            try:
                for number in range(arguments.runs):
                    count(lab, draw(kind, arguments.seed + number), Path(directory), counts)
                    if counts["runs"] % 20 == 0:
                        print(
                            f"{kind}: {counts['runs']} of {arguments.runs} runs, {counts['wrong']} wrong",
                            file=sys.stderr,
                        )
            finally:  # also where it is interrupted
                columns = (counts[name] for name in ("runs", "spoilt", "wrong", "unknown", "part", "whole"))
                print(f"| {kind} | {' | '.join(map(str, columns))} |", flush=True)
            faults += counts["wrong"]
    return 1 if faults else 0


def count(lab: Lab, case: Case, directory: Path, counts: Counter[str]) -> None:
    """Run a case, and count what came of it."""
    host, was_spoilt = run(lab, case, directory)
    counts["runs"] += 1
    counts["spoilt"] += was_spoilt
    if fault := wrong(case, host, was_spoilt=was_spoilt):
        counts["wrong"] += 1
        print(f"{case}: {fault}: {host['reason']}: {host['detail']}", file=sys.stderr)
    is_whole = set(host["unexpected"]) == {str(port) for port in case.open} and not host["reason"]
    counts[("whole" if is_whole else "part") if host["unexpected"] else "unknown"] += 1


if __name__ == "__main__":
    sys.exit(main())
