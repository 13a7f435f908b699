"""Columns that tables of several dashboards have."""

from __future__ import annotations

from typing import Final

from grafana.source.page import TO_HOST, TO_PAGE_OF_HOST, TO_RUNBOOK
from grafana.source.panels import SEVERITIES, Column

HOST: Final = Column("host", "Host", link=TO_HOST)
ADDRESS: Final = Column("address", "Address")
PORT: Final = Column("port", "Port")
SERVICE: Final = Column("service_name", "Service")
KIND: Final = Column("kind", "Kind", colours={"unexpected": "red", "missing": "orange"})
STATE: Final = Column("state", "State")
VANTAGE: Final = Column("vantage", "Vantage point")
#: The exporter whose pages have the host; needs `queries.with_page`.
PAGE: Final = Column("page", "Exporter", link=TO_PAGE_OF_HOST)
#: Whose a host is, by its labels in conf.yml; needs `queries.owned`.
OWNERS: Final = (Column("team", "Team"), Column("owner", "Owner"), Column("site", "Site"))
#: The time at which the open ports of the host last changed; 0 if portspec never saw them change.
CHANGED: Final = Column("Value", "Ports last changed", "dateTimeFromNow", states={0: ("not seen to change", "text")})

ALERT: Final = Column("alertname", "Alert", link=TO_RUNBOOK)
ALERT_SEVERITY: Final = Column("severity", "Severity", colours={"critical": "red", "warning": "orange", "info": "blue"})
ALERT_STATE: Final = Column("alertstate", "State", colours={"firing": "red", "pending": "text"})
SINCE: Final = Column("Value", "Since", "dateTimeFromNow")

SEVERITY: Final = Column("severity", "Severity", colours=SEVERITIES)
PACKAGE: Final = Column("package", "Package")
VERSION: Final = Column("version", "Version")
FIXED: Final = Column("fixed_version", "Fixed in")
ID: Final = Column("id", "Vulnerability")
PROCESS: Final = Column("process", "Process")
USER: Final = Column("user", "User")
