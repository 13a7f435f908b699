"""Which hosts belong to this exporter when several share the work."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from portspec.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` exporters; `index` from 0.

    A host belongs to the shard that Prometheus's relabelling action `hashmod` gives for its name: MD5 of the name,
    its last eight bytes as a big-endian number, modulo the count (prometheus/model/relabel/relabel.go).
    """

    index: int = 0
    count: int = 1

    def holds(self, host: str) -> bool:
        """Return whether a host belongs to this shard."""
        return self.count == 1 or hashmod(host, self.count) == self.index


def hashmod(text: str, modulus: int) -> int:
    """Return the number that Prometheus's `hashmod` gives for a label value and a modulus of at least 1."""
    digest = hashlib.md5(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "big") % modulus


def parse_shard(text: str) -> Shard:
    """Read "I/N", such as "0/3" for the first of three; UsageError if it is not one."""
    if found := re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text):
        index, count = int(found[1]), int(found[2])
        if index < count:
            return Shard(index, count)
    raise UsageError(
        f'--shard: "{text}" is not a shard (expected I/N with I from 0 to N-1, such as "0/3" for the first of three)'
    )
