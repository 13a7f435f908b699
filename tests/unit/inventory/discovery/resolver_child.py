"""Looks a name up with /etc/resolv.conf as it is, by the C library and by the `dns` source; for namespaces of a test.

A name server answers on port 53 of the loopback. Prints what both found.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

from portspec.inventory.discovery.dns import DnsClient
from portspec.threads import in_daemon_thread
from tests.unit.inventory.discovery.parts import dns_source, name_server

RECORDS = {("www.example.org.", "A"): ["192.0.2.9", "192.0.2.10"]}


async def main(name: str) -> None:
    """Look the name up."""
    async with name_server(RECORDS, 53):
        answer = (await DnsClient(dns_source(name, kind="A")).ask())[name]
        found = await in_daemon_thread(lambda: socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM))
    system = sorted(str(address[0]) for *_, address in found)
    sys.stdout.write(
        json.dumps({"system": system, "source": sorted(host.name for host in answer.hosts), "why": answer.failure})
        + "\n"
    )


asyncio.run(main(sys.argv[1]))
