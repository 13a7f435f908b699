"""Snapshot → /metrics. The only place for prometheus_client.

How to add a metric:

1. Describe it in `catalogue.py` (name, type, help, labels): the only place that spells its name.
2. If its samples belong to a host, add a `Part` to `PORT_PARTS` or `AUDIT_PARTS` in `host_families.py`: a pure
   function of the state of that host. Samples of ports, vulnerabilities and listeners get a `rank`, by which the series
   budget cuts them. Samples are kept between scrapes: a value that changes with every scan is `is_timed`; for any
   other one, `_findings()` must contain what it reads, or the page keeps the old value. If the metric is about the
   exporter itself, add a field to `ServiceStatus` and a line to `exporter_families()` in `exporter_families.py`, and
   set the field in `Service.status` (app/service.py).
3. Tests: copy one in tests/unit/metrics/test_host_families.py, which also has the test of the exporter's own families
   (`test_exporter_tells_of_itself`, with `STATUS` of scrape.py). Tests that list every metric of a host need the new
   one: `EXPECTED` there, `said_of()` in test_golden.py, which computes the samples a second time, and, without a
   `rank`, the number of families in test_budget.py. Document the metric in docs/metrics.md;
   tests/artefacts/test_documents.py checks that.

`render.py` writes the samples of hosts as text and caches what does not change, `block.py` caches it compressed, and
`exposition.py` joins the page in the format that the request asks for.
"""

from portspec.metrics.catalogue import CATALOGUE, Metric
from portspec.metrics.exporter_families import AuditStatus, FeedStatus, HttpStatus, ServiceStatus
from portspec.metrics.exposition import Exposition, Page, negotiated, probe_page

__all__ = [
    "CATALOGUE",
    "AuditStatus",
    "Exposition",
    "FeedStatus",
    "HttpStatus",
    "Metric",
    "Page",
    "ServiceStatus",
    "negotiated",
    "probe_page",
]
