"""The HTML pages, from templates with escaping on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import jinja2

from portspec import __version__
from portspec.ports import PortSet
from portspec.verdict import Kind, Verdict

if TYPE_CHECKING:
    from portspec.snapshot import HostState, Snapshot

_ORDER = {Verdict.OUT_OF_SPEC: 0, Verdict.UNKNOWN: 1, Verdict.IN_SPEC: 2}


class Pages:
    """Renders pages from a Snapshot."""

    def __init__(self) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("portspec.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["time"] = _time
        self._environment.filters["ports"] = lambda ports: str(PortSet.of(ports)) if ports else "-"

    def index(self, snapshot: Snapshot) -> str:
        """Give the table of all hosts, those that need attention first."""
        states = sorted(snapshot.hosts.values(), key=lambda state: (_ORDER[state.verdict], state.host))
        counts = {verdict: sum(state.verdict is verdict for state in states) for verdict in Verdict}
        return self._environment.get_template("index.html").render(
            version=__version__, rows=[_row(state) for state in states], counts=counts, snapshot=snapshot
        )


def _row(state: HostState) -> dict[str, object]:
    failure = state.latest.judgement.failure if state.latest else None
    return {
        "state": state,
        "verdict": state.verdict.value.replace("_", " ") if state.latest else "not scanned yet",
        "css": state.verdict.value if state.latest else "waiting",
        "missing": {item.port for item in state.deviations if item.kind is Kind.MISSING},
        "unexpected": {item.port for item in state.deviations if item.kind is Kind.UNEXPECTED},
        "failure": failure.detail if failure else "",
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
