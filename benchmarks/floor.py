"""Run inside the lab: hand probes that are prepared beforehand to sendmmsg, and do nothing else.

Standard input: {"addresses": [...], "ports": N}. Standard output: {THREADS: packets a second}, for one thread and for
as many as portspec takes.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time

import numpy as np

from portspec.scan.netlink import Netlink
from portspec.scan.syn import libc
from portspec.scan.syn.packets import Probes, pack, partial_checksum
from portspec.scan.syn.socket import MAX_BATCH, MESSAGE_SIZE, MessageBlock


def main() -> None:
    """Prepare, send, print."""
    order = json.load(sys.stdin)
    source = Netlink().route(order["addresses"][0]).source
    blocks = _prepare([pack(address) for address in order["addresses"]], order["ports"], pack(source))
    shares = sorted({1, min(4, len(os.sched_getaffinity(0)))})
    json.dump({threads: _send(blocks, threads) for threads in shares}, sys.stdout)


def _prepare(peers: list[bytes], ports: int, own: bytes) -> list[tuple[MessageBlock, int]]:
    rng = np.random.default_rng(0)
    total = len(peers) * ports
    place = np.repeat(np.arange(len(peers)), ports)
    port = np.tile(np.arange(1, ports + 1, dtype=np.uint16), len(peers))
    peer = np.frombuffer(b"".join(peers), np.uint8).reshape(-1, 16)
    partial = np.array([partial_checksum(own, one) for one in peers], np.uint32)
    blocks = []
    for first in range(0, total, MAX_BATCH):
        rows = slice(first, min(total, first + MAX_BATCH))
        count = rows.stop - rows.start
        block = MessageBlock(socket.AF_INET)
        block.fill(
            Probes(
                own=np.tile(np.frombuffer(own, np.uint8), (count, 1)),
                peer=peer[place[rows]],
                partial=partial[place[rows]],
                source_port=np.full(count, 61008, np.uint16),
                port=port[rows],
                sequence=rng.integers(0, 1 << 32, count, np.uint32),
                target=place[rows],
            )
        )
        blocks.append((block, count))
    return blocks


def _send(blocks: list[tuple[MessageBlock, int]], threads: int) -> float:
    def part(number: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            for block, count in blocks[number::threads]:
                done = 0
                while done < count:
                    done += libc.sendmmsg(sock.fileno(), block.address + done * MESSAGE_SIZE, count - done, 0)

    workers = [threading.Thread(target=part, args=(number,)) for number in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(count for _, count in blocks) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
