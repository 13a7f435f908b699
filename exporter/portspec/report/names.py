"""What a machine is called in the report, and the anchor of its section."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9.-]")


def displayed(hosts: Collection[str], domain: str | None) -> dict[str, str]:
    """Give the name of each host as it is shown: without what the regular expression `domain` matches at its end.

    Where nothing would be left, or two would look the same, the whole name is shown.
    """
    if domain is None:
        return {host: host for host in hosts}
    expression = re.compile(domain)
    short = {host: _without(host, expression) for host in hosts}
    counts = Counter(short.values())
    return {host: name if counts[name] == 1 else host for host, name in short.items()}


def _without(host: str, domain: re.Pattern[str]) -> str:
    """Cut off the longest end that the whole of an expression matches: it need not say that it is about the end."""
    for start in range(len(host)):
        if domain.fullmatch(host, start):
            return host[:start] or host
    return host


def anchor(host: str) -> str:
    """Give the anchor of a host, another one for each, of letters, digits, `.`, `-` and `_` alone."""
    return "host-" + _UNSAFE.sub(lambda found: b"_%02x" % found[0][0], host.encode("utf-8", "surrogatepass")).decode()
