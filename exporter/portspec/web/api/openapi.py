"""The OpenAPI 3.1 document, from the operations and the types by which requests are checked and answers are written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypedDict

import msgspec

from portspec import __version__
from portspec.web.api.operation import EVERYWHERE, JSON, Answer, Operation
from portspec.web.api.query import Moment
from portspec.web.problems import CONTENT_TYPE as PROBLEM
from portspec.web.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_REFERENCE: Final = "#/components/schemas/{name}"
_DESCRIPTION: Final = (
    "What the pages of portspec show, as JSON and CSV. Errors are problem documents (RFC 9457). A list has "
    "`next_cursor`, and a header Link, for as long as there is more. Each answer to GET has an ETag, so that "
    "If-None-Match asks for what has changed (304 if nothing has)."
)


class ApiDocument(TypedDict):
    """An OpenAPI document (version 3.1)."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]


OPENAPI: Final = Operation(
    "GET",
    "/api/v1/openapi.json",
    "getDescription",
    "this document",
    {200: Answer("the document", {JSON: ApiDocument})},
    tag="description",
)


def describe(operations: Iterable[Operation]) -> ApiDocument:
    """Return the document of some operations."""
    every = tuple(operations)
    types = list(dict.fromkeys(_types(every)))
    schemas, components = msgspec.json.schema_components(types, schema_hook=_schema_of, ref_template=_REFERENCE)
    known = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in every:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, known, components)
    queries = {one.query.__name__ for one in every}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "portspec",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "BSD-2-Clause", "identifier": "BSD-2-Clause"},
        },
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in sorted(components.items()) if name not in queries},
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic", "description": "A user of the web config file."},
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token of the web config file."},
            },
        },
    }


def _types(operations: Iterable[Operation]) -> Iterator[Any]:
    yield Problem
    for one in operations:
        yield one.query
        for answer in one.answers.values():
            yield from (kind for kind in answer.contents.values() if kind is not None)


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is Moment:
        return {"anyOf": [{"type": "number"}, {"type": "string", "format": "date-time"}]}
    raise NotImplementedError(kind)


def _operation(one: Operation, known: Mapping[Any, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    answers = {status: Answer(meaning, {PROBLEM: Problem}) for status, meaning in EVERYWHERE.items()} | dict(
        one.answers
    )
    described: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "tags": [one.tag],
        # Whether a user is required depends on the web config file: without one nobody needs a password.
        "security": [{}, {"basic": []}, {"bearer": []}],
        "parameters": [*_in_path(one), *_in_query(components[one.query.__name__])],
        "responses": {str(status): _answer(answers[status], known, status) for status in sorted(answers)},
    }
    if one.method == "GET":
        described["responses"]["304"] = {"description": "nothing has changed since the tag of If-None-Match"}
    if one.body:
        described["requestBody"] = {"required": True, "content": {one.body: {"schema": {"type": "string"}}}}
    return described


def _in_path(one: Operation) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", one.path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": one.in_path[name],
            "schema": {"type": "string", "minLength": 1},
        }


def _in_query(struct: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, schema in struct["properties"].items():
        shown = _without_null(schema)
        parameter: dict[str, Any] = {"name": name, "in": "query", "required": name in struct["required"]}
        if description := shown.pop("description", None):
            parameter["description"] = description
        yield {**parameter, "schema": shown}


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter that may be left out, which no query can set to null."""
    plain = {name: value for name, value in schema.items() if not (name == "default" and value in (None, (), ""))}
    kinds = [kind for kind in plain.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del plain["anyOf"]
        return {**kinds[0], **plain}
    if kinds:
        plain["anyOf"] = kinds
    return plain


def _answer(answer: Answer, known: Mapping[Any, Any], status: int) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.meaning}
    if answer.contents:
        described["content"] = {
            media: {"schema": {"type": "string"} if kind is None else known[kind]}
            for media, kind in answer.contents.items()
        }
    if status in (429, 503):
        described["headers"] = {
            "Retry-After": {"description": "Seconds until it may be asked again.", "schema": {"type": "string"}}
        }
    return described
