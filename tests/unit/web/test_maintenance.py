from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from portspec.audit.state import AuditState
from portspec.state.snapshot import Snapshot
from portspec.state.table import HostTable
from portspec.store import StoreError
from portspec.store.faults import StoreFault, StoreFaultKind
from tests.unit.factories import NOW, target, window
from tests.unit.web.exporter import Exporter
from tests.unit.web.site import ScriptedMaintenance

if TYPE_CHECKING:
    from portspec.config import MaintenanceWindow

FAR = 4e9  # Unix seconds: later than any clock of a test
PATH = "/api/v1/maintenance"


def served(*windows: MaintenanceWindow, requested: MaintenanceWindow | None = None) -> Exporter:
    """Make an exporter with the hosts web1, under maintenance of conf.yml, db1, and mail1, which only sends audits."""
    own = (requested,) if requested else ()
    snapshot = Snapshot.of([target("web1", maintenance=windows), target("DB1.example.org", maintenance=own)])
    snapshot = Snapshot(snapshot.hosts, HostTable([AuditState("mail1", windows=windows)]))
    asked = ScriptedMaintenance({"db1.example.org": requested} if requested else {})
    exporter = Exporter(snapshot=snapshot, maintenance=asked)
    audits = {state.host: state for state in snapshot.audits.values()}
    vars(exporter.audits)["find"] = audits.get
    return exporter


def error(exporter: Exporter, method: str, query: str, status: int) -> str:
    """Return the message of a request that is refused with a status."""
    answer = exporter.ask(f"{PATH}?{query}", method)
    assert answer.status == status, answer.text
    assert exporter.maintenance.asked == []
    return str(json.loads(answer.text)["detail"])


def listed(exporter: Exporter, query: str = "") -> list[dict[str, Any]]:
    """Return the list."""
    answer = exporter.ask(PATH + query)
    assert answer.status == 200, answer.text
    found: list[dict[str, Any]] = json.loads(answer.text)["maintenance"]
    return found


def test_list_has_what_lasts_and_what_is_to_come() -> None:
    """Each with where it stands; what is over is left out."""
    exporter = served(
        window(-math.inf, FAR, "move", "ops"),
        window(FAR, FAR + 1),
        window(NOW - 2, NOW - 1),
        requested=window(NOW, FAR),
    )
    found = listed(exporter)
    assert found[0] == {
        "host": "web1",
        "from": None,
        "until": "2096-10-02T07:06:40.000Z",
        "reason": "move",
        "owner": "ops",
        "lasts": True,
        "source": "conf.yml",
    }
    assert [(item["host"], item["lasts"], item["source"]) for item in found] == [
        ("web1", True, "conf.yml"),
        ("web1", False, "conf.yml"),
        ("DB1.example.org", True, "request"),
        ("mail1", True, "conf.yml"),
        ("mail1", False, "conf.yml"),
    ]
    assert listed(exporter, "?host=db1.EXAMPLE.org") == [found[2]]


def test_maintenance_begins_for_hosts_in_any_spelling() -> None:
    """Hosts that are scanned and hosts that only send audits; a reason may be markup."""
    exporter = served()
    answer = exporter.ask(f"{PATH}?host=db1.EXAMPLE.org&host=mail1&for=2h&reason=%3Cb%3E&owner=ops", "POST")
    assert answer.status == 200, answer.text
    ((what, *hosts, until, reason, owner),) = exporter.maintenance.asked
    assert (what, hosts, reason, owner) == ("begin", ["db1.example.org", "mail1"], "<b>", "ops")
    assert isinstance(until, float)


def test_maintenance_that_was_asked_for_ends() -> None:
    """DELETE ends it."""
    exporter = served(requested=window(NOW, FAR))
    assert exporter.ask(f"{PATH}?host=DB1.example.org", "DELETE").status == 200
    assert exporter.maintenance.asked == [("end", "db1.example.org")]


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("for=2h", 400, "the parameter host is missing"),
        ("host=&for=2h", 400, "the parameter host is missing"),
        ("host=nowhere&for=2h", 404, '"nowhere" is not a host of this exporter'),
        ("host=web1&host=%1b%5b31m&for=2h", 404, '"\\x1b[31m" is not a host of this exporter'),
        ("host=web1", 400, 'give "for", a duration such as "2h", or "until", a time, but not both'),
        ("host=web1&for=-1h", 400, 'for: "-1h" is not a duration (expected for example "2h")'),
        ("host=web1&for=10y", 400, "for: 10y is more than 90 days from now; write longer maintenance into conf.yml"),
        ("host=web1&for=2h&for=3h", 400, "the parameter for is given more than once"),
        ("host=web1&for=2h&reason=a%0ab", 400, "reason: the text has characters that cannot be seen"),
        ("host=web1&for=2h&owner=" + "x" * 501, 400, "owner: the text has 501 characters (expected at most 500)"),
        (
            "host=web1&hours=2",
            400,
            '"hours" is not a parameter of /api/v1/maintenance (known: host, for, until, reason, owner)',
        ),
        (
            "&".join(["host=web1"] * 26),
            400,
            "host: it is given 26 times (expected at most 25)",
        ),
    ],
)
def test_request_that_makes_no_sense_begins_nothing(query: str, status: int, message: str) -> None:
    """The message says which parameter, and what is expected."""
    assert error(served(), "POST", query, status) == message


def test_only_maintenance_that_was_asked_for_can_be_ended() -> None:
    """What stands in conf.yml ends there, and what does not last cannot end."""
    exporter = served(window(NOW, FAR), requested=window(NOW - 2, NOW - 1))
    stands = "the maintenance of web1 stands in conf.yml; change it there"
    assert error(exporter, "DELETE", "host=web1", 409) == stands
    message = error(exporter, "DELETE", "host=DB1.example.org", 409)
    assert message == "the maintenance of DB1.example.org does not last"
    assert error(exporter, "DELETE", "host=nowhere", 404) == '"nowhere" is not a host of this exporter'


@pytest.mark.parametrize(("method", "query"), [("POST", "host=web1&for=2h"), ("DELETE", "host=DB1.example.org")])
def test_state_file_that_cannot_be_written_is_told(method: str, query: str) -> None:
    """Maintenance that a restart would forget does not begin; the message says why, and what needs no file."""
    exporter = served(requested=window(NOW, FAR))
    exporter.maintenance.fault = StoreError("/x/portspec.db", StoreFault(StoreFaultKind.FULL, "the disk is full"))
    message = error(exporter, method, query, 503)
    assert "the disk is full" in message
    assert message.endswith("`maintenance` in conf.yml needs no state file")
