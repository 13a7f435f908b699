"""Snapshot → metrics. The only place for prometheus_client."""

from portspec.metrics.block import joined
from portspec.metrics.catalogue import CATALOGUE, Metric
from portspec.metrics.exposition import Exposition, Page, probe_page
from portspec.metrics.status import AuditStatus, ServiceStatus

__all__ = [
    "CATALOGUE",
    "AuditStatus",
    "Exposition",
    "Metric",
    "Page",
    "ServiceStatus",
    "joined",
    "probe_page",
]
