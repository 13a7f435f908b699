"""Errors of the API are problem documents, whoever finds them."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from portspec.scan import PortState
from portspec.store import StoreError
from portspec.store.faults import StoreFault, StoreFaultKind
from tests.unit.web.exporter import Exporter
from tests.unit.web.test_api import fleet

if TYPE_CHECKING:
    from tests.unit.web.site import Answer


def told(answer: Answer, status: int, instance: str) -> dict[str, object]:
    """Return a problem document, which must be whole (RFC 9457, 3.1)."""
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, object] = json.loads(answer.text)
    assert (found["type"], found["title"]) == ("about:blank", HTTPStatus(status).phrase)
    assert (found["status"], found["instance"]) == (status, instance)
    return found


@pytest.mark.parametrize(
    "path", ["/api/", "/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v2/hosts", "/api/v1/hosts/a/b"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_path_that_is_not_there_is_404(path: str, method: str) -> None:
    """An unknown path below /api/ is told as an error of the API, with where the known ones are listed."""
    found = told(fleet().ask(path, method), 404, path)
    assert found["detail"] == f'"{path}" is not a path of the API that is served here; /api/v1/openapi.json lists them'


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/v1/hosts", "GET, HEAD"),
        ("OPTIONS", "/api/v1/hosts/web1", "GET, HEAD"),
        ("PUT", "/api/v1/changes", "GET, HEAD"),
        ("GET", "/api/v1/scan", "POST"),
        ("GET", "/api/v1/audits", "POST"),
    ],
)
def test_method_that_a_path_does_not_have_is_405(method: str, path: str, allowed: str) -> None:
    """The answer names the methods that there are (RFC 9110, 15.5.6)."""
    answer = fleet().ask(path, method)
    assert told(answer, 405, path)["detail"] == f"the method {method} is not for this path (expected: {allowed})"
    assert answer.headers["Allow"] == allowed


def test_answer_to_head_has_no_body() -> None:
    """HEAD of a path that is not there has the header fields of GET alone."""
    answer = fleet().ask("/api/v1/nothing", "HEAD")
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (404, "application/problem+json", b"")


def test_refusal_of_the_gate_has_its_reason() -> None:
    """What the web configuration refuses has a word for programs beside the sentence."""
    answer = fleet().ask("/api/v1/scan?host=web1", "POST", {"Origin": "https://elsewhere.example"})
    found = told(answer, 403, "/api/v1/scan")
    assert (found["error"], found["detail"]) == ("cross_site", "cross-site requests are not allowed")


def test_change_log_that_cannot_be_read_says_when_to_ask_again() -> None:
    """A state file that is out of order is 503 with Retry-After."""
    exporter = Exporter(fault=StoreError("portspec.db", StoreFault(StoreFaultKind.LOCKED, "database is locked")))
    answer = exporter.ask("/api/v1/changes")
    assert told(answer, 503, "/api/v1/changes")["detail"] == str(exporter.fault)
    assert answer.headers["Retry-After"] == "5"


def test_body_that_nobody_expects_is_413() -> None:
    """A large body on a path that takes none is refused before it is read."""
    answer = fleet().ask("/api/v1/hosts", headers={"Content-Length": "20000"})
    assert told(answer, 413, "/api/v1/hosts")["detail"] == "no body is expected here; send none"


def test_fault_is_told_without_details(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of a handler is 500, and the client learns nothing of it."""

    def fault(_: object, host: str) -> bool:
        raise ZeroDivisionError(host, PortState.OPEN)

    monkeypatch.setattr(Exporter, "scan_now", fault)
    answer = fleet().ask("/api/v1/scan?host=web1", "POST")
    assert told(answer, 500, "/api/v1/scan")["detail"] == "internal error; see the log of portspec"


@pytest.mark.parametrize("path", ["/nothing", "/hosts/nothing", "/metrics/api/"])
def test_other_paths_are_for_people(path: str) -> None:
    """Errors of pages are no problem documents."""
    answer = fleet().ask(path)
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("text/")
