"""Write the dashboards: `python -m grafana.source`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grafana.source import audits, exporter, host, overview
from grafana.source.page import text

DIRECTORY: Final = Path(__file__).parents[1] / "dashboards"


def files() -> dict[str, str]:
    """Return the text of each file by its name."""
    made = (overview.dashboard(), host.dashboard(), audits.dashboard(), exporter.dashboard())
    return {f"{made_of.uid}.json": text(made_of) for made_of in made}


def main() -> None:
    """Write all files."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, content in files().items():
        (DIRECTORY / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
