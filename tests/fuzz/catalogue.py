"""All harnesses by name: the module of each, so that only what is to be run is imported.

The name is that of the corpus and of `make fuzz HARNESS=name`, and the key in the HARNESSES of the module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.fuzz.harness import Harness

MODULES: Final = {
    "packets": "packets",
    "filter": "packets",
    "envelopes": "audits",
    "payloads": "audits",
    "mails": "audits",
    "replies": "replies",
    "readers": "readers",
    "additions": "readers",
    "conf": "configuration",
    "targets": "discovery",
    "dns": "discovery",
    "resolvconf": "discovery",
    "requests": "requests",
    "entrance": "requests",
    "labels": "requests",
    "accept": "spellings",
    "names": "spellings",
    "ports": "spellings",
    "durations": "spellings",
    "documents": "documents",
    "webconfig": "access",
    "forwarded": "access",
    "host": "access",
}


def find_harness(name: str) -> Harness:
    """Return a harness by its name. Raises KeyError if there is none."""
    module = importlib.import_module(f"tests.fuzz.{MODULES[name]}")
    (found,) = [harness for harness in module.HARNESSES if harness.name == name]
    harness: Harness = found
    return harness
