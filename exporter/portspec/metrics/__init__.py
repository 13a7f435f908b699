"""Snapshot → metrics. The only place for prometheus_client."""

from portspec.metrics.catalogue import CATALOGUE, Metric
from portspec.metrics.exposition import Exposition

__all__ = ["CATALOGUE", "Exposition", "Metric"]
