"""`make lab`: a shell in a small network of hosts whose truth is known, to play in."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from .namespaces import LabError
from .network import Lab
from .program import configure
from .truth import HostTruth, State

HOSTS = (
    HostTruth(
        "web.lab",
        ("198.18.1.1", "2001:db8:18::1"),
        {(address, port): State.OPEN for address in ("198.18.1.1", "2001:db8:18::1") for port in (22, 80, 443)},
    ),
    HostTruth("db.lab", ("198.18.1.2",), {("198.18.1.2", 22): State.OPEN, ("198.18.1.2", 23): State.OPEN}),
    HostTruth("walled.lab", ("198.18.1.3",), {("198.18.1.3", 22): State.OPEN}, default=State.DROPPED),
    HostTruth("dead.lab", ("198.18.1.4",), default=State.DROPPED),
)


def main() -> int:
    """Build the lab, say what is in it, and run a shell on the scanner's side until it ends."""
    with tempfile.TemporaryDirectory() as name, Lab() as lab:
        lab.apply(HOSTS)
        conf = configure(Path(name), {host.name: [22] for host in HOSTS}, ["1-1024"], ipv6=False)
        print("hosts:")
        for host in HOSTS:
            opened = sorted({port for (_, port), state in host.ports.items() if state is State.OPEN})
            print(f"  {host.name:<11} {', '.join(host.addresses):<28} open: {opened}, else {host.default.value}")
        print(f"try: portspec scan -c {conf}\nexit ends the lab")
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        shell = environment.get("SHELL", "/bin/sh")
        with lab.popen([shell], env=environment) as process:
            return process.wait()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"make lab: no lab on this machine: {error}; `sudo make packages` installs the programs that it needs")
