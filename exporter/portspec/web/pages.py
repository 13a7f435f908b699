"""The HTML pages, from templates with escaping on.

Links are relative to the page, so that they work below any path of a reverse proxy.
"""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import replace
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import jinja2

from portspec import __version__
from portspec.audit.model import Status
from portspec.report.worklist import Worklist, owners, worklist
from portspec.times import moment
from portspec.web import spelling
from portspec.web.host_page import scan_values, vulnerability_values
from portspec.web.overview import HostFilter, Row, Shown, overview
from portspec.web.rows import AUDIT_CSS, AUDITED, VERDICTS, row_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from portspec.audit.state import AuditState
    from portspec.state.changes import DatedVerdict
    from portspec.state.snapshot import HostState, Snapshot
    from portspec.store import Change
    from portspec.web.accept_page import AcceptPage
    from portspec.web.health import Fact
    from portspec.web.status_page import StatusReport

REFRESH: Final = 15  # seconds after which a page that is looked at is read again
REFRESH_AFTER_SCAN: Final = 2
MAX_ITEMS: Final = 500  # that the page of a worklist shows
CHANGES_PER_HOST: Final = 50  # that the page of a host lists
_WAYS: Final = (("until", "exception, until"), ("allow", "allowed from now on"), ("expect", "expected from now on"))
_COLUMNS: Final = {
    "Host": "host",
    "Verdict": "worst",
    "Unexpected": None,
    "Missing": None,
    "Open": "open",
    "Expected": None,
    "Last scan": "last_scan",
    "Audit": "audit",
}


class Pages:
    """Renders pages; `wall_clock` gives Unix seconds.

    Attributes:
        security_policy: What a browser may do with a page: show it with its own style, read it again with its own
            script, and send its forms back (CSP 3).
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._environment, self.security_policy = _environment()

    def index(self, snapshot: Snapshot, by: HostFilter, health: Sequence[Fact]) -> str:
        """Return the page of all hosts, filtered and sorted."""
        now = self._wall_clock()
        found = overview(snapshot, by)
        page = min(by.page, found.pages)
        has_audits = bool(found.audits)
        return self._environment.get_template("index.html").render(
            root="./",
            now=now,
            by=by,
            refresh=REFRESH,
            is_kiosk=by.is_kiosk,
            rows=[row_values(row, now, "./", by) for row in found.rows],
            total=found.total,
            matching=found.matching,
            totals=list(_totals(found.verdicts, found.audits, by)),
            health=health,
            rounds=snapshot.rounds,
            verdict_names=[(shown.value, name) for shown, name in VERDICTS.items()],
            audit_names=[(status.value, status.value.replace("_", " ")) for status in Status],
            has_audits=has_audits,
            columns=[_column(name, order, by) for name, order in _COLUMNS.items() if name != "Audit" or has_audits],
            page=page,
            pages=found.pages,
            previous_url=_url(replace(by, page=page - 1)) if page > 1 else "",
            next_url=_url(replace(by, page=page + 1)) if page < found.pages else "",
        )

    def host(
        self,
        state: HostState | None,
        audit: AuditState | None,
        changes: Sequence[Change] | None,
        verdicts: Sequence[DatedVerdict] = (),
        *,
        changes_error: str = "",
        is_asked: bool = False,
    ) -> str:
        """Return the page of a host; `changes` is None where the change log cannot be read.

        `is_asked` tells that a scan was asked for and has not ended. One of state and audit is there.
        """
        now = self._wall_clock()
        host = state.host if state else audit.host if audit else ""
        details = scan_values(state, audit, verdicts, changes or (), now) if state else {}
        return self._environment.get_template("host.html").render(
            root="../",
            now=now,
            refresh=REFRESH_AFTER_SCAN if is_asked else REFRESH,
            row=row_values(Row.of(host, state, audit), now, "../", HostFilter()),
            is_scanned=state is not None,
            is_asked=is_asked,
            scan_url=f"{spelling.quoted(host)}/scan",
            json_url=f"../api/v1/hosts/{spelling.quoted(host)}",
            changes=changes if changes is None else changes[:CHANGES_PER_HOST],
            changes_error=changes_error,
            **vulnerability_values(audit),
            **details,
        )

    def worklist(self, snapshot: Snapshot, owner: str | None, max_age: float) -> str:
        """Return the page of what an owner has to do; None for the page of all owners.

        An audit is late after `max_age` seconds.
        """
        now = self._wall_clock()
        found = Worklist() if owner is None else worklist(snapshot, now, owner, limit=MAX_ITEMS, max_age=max_age)
        every = owners(snapshot, now, max_age=max_age) if owner is None else []
        query = urlencode({"owner": owner or ""}, errors="replace")
        return self._environment.get_template("worklist.html").render(
            root="./",
            now=now,
            owner=owner,
            owners=[(item, urlencode({"owner": item.owner}, errors="replace")) for item in every],
            items=[(item, f"hosts/{spelling.quoted(item.host)}") for item in found.items],
            more=found.total - len(found.items),
            table_url=f"./api/v1/worklist.csv?{query}",
        )

    def changes(self, rows: Sequence[Change], *, host: str, next_before: int | None) -> str:
        """Return the page of changes, newest first, by day (UTC); `host` is the one that they are of, "" for all.

        `next_before` is the number before which the changes of the next part are, None if these are the last.
        """
        names = {"host": host, "before": "" if next_before is None else str(next_before)}
        query = urlencode({name: value for name, value in names.items() if value}, errors="replace")
        feed = urlencode({"host": host}, errors="replace") if host else ""
        days = groupby(rows, key=lambda row: moment(row.at).strftime("%Y-%m-%d"))
        return self._environment.get_template("changes.html").render(
            root="./",
            now=self._wall_clock(),
            refresh=REFRESH,
            host=host,
            days=[(day, list(found)) for day, found in days],
            next_url=f"./changes?{query}" if next_before is not None else "",
            feed_url=f"./changes.atom?{feed}" if feed else "./changes.atom",
        )

    def accept(self, page: AcceptPage, error: str = "") -> str:
        """Return the page that shows how conf.yml changes; `error` tells why the change was not written."""
        return self._environment.get_template("accept.html").render(
            root="../../", now=self._wall_clock(), page=page, ways=_WAYS, error=error
        )

    def status(self, report: StatusReport) -> str:
        """Return the page of the exporter itself."""
        return self._environment.get_template("status.html").render(
            root="./", now=self._wall_clock(), refresh=REFRESH, report=report
        )

    def config(self, path: str, text: str, sources: Sequence[tuple[str, int]]) -> str:
        """Return the page of the configuration in force, as YAML; `sources` are those of hosts, with their number."""
        return self._environment.get_template("config.html").render(
            root="./", now=self._wall_clock(), path=path, text=text, sources=sources
        )

    def problem(self, title: str, message: str, root: str) -> str:
        """Return a page that says what is wrong with a request; `root` is the way to the first page."""
        return self._environment.get_template("problem.html").render(
            root=root, now=self._wall_clock(), title=title, message=message
        )


@cache
def _environment() -> tuple[jinja2.Environment, str]:
    """Return the templates, and the policy for the style and the script in them.

    Those of the page of all hosts are compiled here: the first who ask for it are many when an exporter was restarted,
    and compiling holds up scrapes.
    """
    loader = jinja2.PackageLoader("portspec.web")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        time=spelling.full_time,
        rfc3339=spelling.rfc3339,
        relative=spelling.relative,
        clock=spelling.clock_time,
        quoted=spelling.quoted,
    )
    environment.tests["of_one_host"] = lambda change: not set("*?[/").intersection(change.host)
    house = jinja2.PackageLoader("portspec.report").get_source(environment, "house.css")[0]
    style, script = (loader.get_source(environment, name)[0] for name in ("page.css", "page.js"))
    style = house + style  # that of the report of all machines, too
    environment.globals.update(version=__version__, style=style, script=script, is_kiosk=False, refresh=0)
    for name in ("base.html", "parts.html", "index.html"):
        environment.get_template(name)
    policy = (
        f"default-src 'none'; style-src '{_source(style)}'; script-src '{_source(script)}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    return environment, policy


def _source(text: str) -> str:
    """Return the hash by which a policy names what stands in a page (CSP 3, 2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _totals(verdicts: Mapping[Shown, int], audits: Mapping[Status, int], by: HostFilter) -> Iterator[dict[str, Any]]:
    """Yield the numbers above the table, each with the filter that it counts; what is zero is left out."""
    for shown, name in VERDICTS.items():
        if count := verdicts.get(shown, 0):
            url = _url(replace(by, shown=shown, audit=None, page=1))
            yield {"css": f"verdict {shown}", "count": count, "name": name, "url": url, "is_current": by.shown is shown}
    for status in Status:
        if (count := audits.get(status, 0)) and status is not Status.CLEAN:
            url = _url(replace(by, shown=None, audit=status, page=1))
            css = AUDIT_CSS[status]
            yield {"css": css, "count": count, "name": AUDITED[status], "url": url, "is_current": by.audit is status}


def _column(name: str, order: str | None, by: HostFilter) -> dict[str, str]:
    if order is None:
        return {"name": name, "url": "", "sorted": ""}
    is_sorted = by.order == order
    direction = ("descending" if by.is_descending else "ascending") if is_sorted else ""
    return {"name": name, "url": _url(by.sorted_by(order)), "sorted": direction}


def _url(by: HostFilter) -> str:
    query = by.query()
    return f"./?{query}" if query else "./"
