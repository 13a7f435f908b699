"""Makes lists about vulnerabilities as their publishers do."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

EPSS_HEAD = "#model_version:v2025.03.14,score_date:{at}\ncve,epss,percentile\n"


def kev(*cves: str, at: str = "2026-11-27T15:00:11.123Z", **changes: Any) -> bytes:
    """Make a catalogue of exploited vulnerabilities."""
    entries = [
        {
            "cveID": cve,
            "vendorProject": "Example",
            "product": "Server",
            "vulnerabilityName": "Example Server Buffer Overflow Vulnerability",
            "dateAdded": "2026-01-02",
            "shortDescription": "A «buffer» overflows.",
            "requiredAction": "Apply updates.",
            "dueDate": "2026-01-23",
            "knownRansomwareCampaignUse": "Known" if cve.endswith("7") else "Unknown",
            "notes": "",
            "cwes": ["CWE-120"],
        }
        for cve in cves
    ]
    document = {"title": "CISA Catalog of Known Exploited Vulnerabilities", "catalogVersion": "2026.11.27"}
    return json.dumps(
        {**document, "dateReleased": at, "count": len(entries), "vulnerabilities": entries, **changes}
    ).encode()


def epss(rows: Iterable[tuple[str, float]], at: str = "2026-11-28T12:00:00Z") -> bytes:
    """Make a list of scores."""
    lines = (f"{cve},{score:.5f},0.50000\n" for cve, score in rows)
    return (EPSS_HEAD.format(at=at) + "".join(lines)).encode()


def packed(data: bytes) -> bytes:
    """Compress a list."""
    return gzip.compress(data, 6, mtime=0)
