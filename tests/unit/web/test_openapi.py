"""The OpenAPI document: valid, complete, and true of what is answered."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from portspec.metrics import HttpStatus
from portspec.store import StoreError
from portspec.store.faults import StoreFault, StoreFaultKind
from portspec.web.api.catalogue import OPERATIONS
from portspec.web.api.openapi import describe
from portspec.web.site import Sites
from tests.unit.metrics.scrape import audited_zoo, zoo
from tests.unit.web.exporter import Exporter
from tests.unit.web.site import ScriptedService, open_gate
from tests.unit.web.test_api import change, fleet

DOCUMENT: Final[Any] = json.loads(json.dumps(describe(OPERATIONS)))


def test_document_is_valid() -> None:
    """It is OpenAPI 3.1, as the validator of the python-openapi project has it."""
    # Imported here: it takes two seconds, in each process that collects the tests.
    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_document_is_served() -> None:
    """It is at /api/v1/openapi.json."""
    assert fleet().document("/api/v1/openapi.json") == DOCUMENT


def test_every_route_is_described() -> None:
    """Each route below /api/v1 is in the document with its method, and the document has no other."""
    sites = Sites(ScriptedService(zoo), open_gate(), lambda: HttpStatus({}, {}, {}), None)
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in sites.application(None).router.routes()
        if route.resource and route.method != "HEAD" and route.resource.canonical.startswith("/api/")
    }
    assert routes == {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}


def test_parameters_are_those_that_are_checked() -> None:
    """Parameters have the bounds by which requests are checked, and none can be null."""
    parameters = {one["name"]: one for one in DOCUMENT["paths"]["/api/v1/hosts"]["get"]["parameters"]}
    assert list(parameters) == ["q", "label", "host", "verdict", "audit", "sort", "limit", "cursor"]
    assert {"minimum": 1, "maximum": 10_000, "type": "integer"}.items() <= parameters["limit"]["schema"].items()
    assert parameters["label"]["schema"]["maxItems"] == 10
    assert not any(one["required"] for one in parameters.values())
    assert "null" not in json.dumps(parameters)
    (host,) = DOCUMENT["paths"]["/api/v1/scan"]["post"]["parameters"]
    assert (host["name"], host["required"], host["schema"]["minLength"]) == ("host", True, 1)


def check(path: str, template: str, *, of: Exporter, method: str = "GET", status: int = 200) -> Any:
    """Ask, and check the answer against its schema; returns it."""
    answer = of.ask(path, method)
    assert answer.status == status, answer.text
    described = DOCUMENT["paths"][template][method.lower()]["responses"][str(status)]["content"]
    media = answer.headers["Content-Type"].partition(";")[0]
    schema = {**described[media]["schema"], "components": DOCUMENT["components"]}
    document = json.loads(answer.text)
    import jsonschema  # see above

    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(document)
    return document


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/api/v1/hosts", "/api/v1/hosts"),
        *((f"/api/v1/hosts/{host}", "/api/v1/hosts/{host}") for host in zoo().hosts),
        ("/api/v1/deviations", "/api/v1/deviations"),
        ("/api/v1/vulnerabilities", "/api/v1/vulnerabilities"),
        ("/api/v1/exceptions", "/api/v1/exceptions"),
        ("/api/v1/openapi.json", "/api/v1/openapi.json"),
        ("/api/v1/status", "/api/v1/status"),
        ("/api/v1/config", "/api/v1/config"),
    ],
)
def test_answer_is_as_described(path: str, template: str) -> None:
    """Of hosts in every state, each document is valid by its schema."""
    check(path, template, of=Exporter(audited_zoo()))


def test_changes_are_as_described() -> None:
    """So are rows of the change log."""
    found = check("/api/v1/changes", "/api/v1/changes", of=Exporter(rows=[change(7), change(6, before=None)]))
    assert len(found["changes"]) == 2


def test_scan_is_as_described() -> None:
    """So is the answer to a POST."""
    check("/api/v1/scan?host=web1", "/api/v1/scan", of=fleet(), method="POST", status=202)


@pytest.mark.parametrize(
    ("path", "template", "method", "status"),
    [
        ("/api/v1/hosts?limit=0", "/api/v1/hosts", "GET", 400),
        ("/api/v1/hosts/nobody", "/api/v1/hosts/{host}", "GET", 404),
        ("/api/v1/changes", "/api/v1/changes", "GET", 503),
        ("/api/v1/scan", "/api/v1/scan", "POST", 400),
        ("/api/v1/reports", "/api/v1/reports", "POST", 410),
        ("/api/v1/audits", "/api/v1/audits", "POST", 503),
    ],
)
def test_problem_is_as_described(path: str, template: str, method: str, status: int) -> None:
    """Errors are described where they occur."""
    exporter = fleet()
    exporter.fault = StoreError("portspec.db", StoreFault(StoreFaultKind.LOCKED, "database is locked"))
    assert check(path, template, of=exporter, method=method, status=status)["status"] == status
