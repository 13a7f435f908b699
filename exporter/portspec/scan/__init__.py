"""Which ports are open. Knows nothing of configuration, HTTP or metrics."""

from portspec.scan.job import (
    AddressObservation,
    Engine,
    EngineStats,
    Failure,
    Observation,
    PortState,
    Reason,
    ScanJob,
)

__all__ = [
    "AddressObservation",
    "Engine",
    "EngineStats",
    "Failure",
    "Observation",
    "PortState",
    "Reason",
    "ScanJob",
]
