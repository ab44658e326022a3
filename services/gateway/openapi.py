"""The OpenAPI 3.1 document of the gateway, for /openapi.json.

Made from what decides: the table of audiences, the tables of fields, the error tree, the sizing library's types.
tests/gateway/test_openapi.py asks every route anything, and holds the answers against it.
"""

from __future__ import annotations

import re
from functools import cache
from http import HTTPStatus
from typing import Any

import orjson

from services.gateway.access import ROUTES, Audience
from services.gateway.fields import REFUSED
from services.gateway.openapi_answers import Schema, components, record, ref
from services.gateway.openapi_operations import JSON, OPERATIONS, Operation
from services.wire.errors import (
    ApiError,
    BodyTooLarge,
    HeadersTooLarge,
    InternalError,
    InvalidApiKey,
    InvalidValue,
    KeysUnavailable,
    PermissionDenied,
    RateLimited,
    TooManyConnections,
)

ABOUT = """One OpenAI-compatible door in front of every card of a rig.

Without keys the gateway serves its own machine only, and nobody needs a key; else `Authorization: Bearer rs-...`;
`x-audience` says whose.
Every error has the same shape and a `code`; `x-should-retry: false` where sending it again can't help, `retry-after` where it can.
A field that a route does not know is left out and named in `x-rigserve-dropped-fields`; a field that is named like an address or a file, or
that would reach into an engine, is refused."""
EVERY: tuple[type[ApiError], ...] = (InvalidValue, HeadersTooLarge, InternalError, TooManyConnections)
KEYED: tuple[type[ApiError], ...] = (InvalidApiKey, PermissionDenied, RateLimited, KeysUnavailable)
_PARAMETER = re.compile(r"\{([a-z_]+)(:path)?\}")


@cache
def document() -> bytes:
    """The document as JSON; the same for every gateway."""
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), audience in ROUTES.items():
        shown = _PARAMETER.sub(r"{\1}", path)
        paths.setdefault(shown, {})[method.lower()] = operation(method, path, audience, OPERATIONS[method, path])
    return orjson.dumps({
        "openapi": "3.1.0",
        "info": {"title": "rigserve", "version": "1", "description": ABOUT, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": components() | {"Error": ERROR}, "examples": _examples(),
                       "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "x-refused-fields": REFUSED,
    })  # fmt: skip


ERROR: Schema = record({"error": {
    "type": "object", "required": ["message", "type", "param", "code"], "additionalProperties": False,
    "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
                   "code": {"type": "string"}},
}})  # fmt: skip


def operation(method: str, path: str, audience: Audience, said: Operation) -> dict[str, Any]:
    """One operation object."""
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name, _ in _PARAMETER.findall(path)]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in said.query.items()]
    parameters += [{"name": name, "in": "header", "schema": {"type": "string", "minLength": 1}} for name in said.headers]
    success = {"description": said.summary, "headers": _headers("x-request-id"),
               "content": {media: {"schema": schema} for media, schema in said.answers.items()}}
    made: dict[str, Any] = {
        "operationId": f"{method.lower()}{re.sub('[^a-z]+', '_', path)}", "summary": said.summary, "x-audience": str(audience),
        "parameters": parameters, "responses": {str(said.status): success, **_refusals(errors_of(method, audience, said))},
        "security": [] if audience is Audience.ALL else [{"key": []}, {}],
    }  # fmt: skip
    if said.takes is not None:
        content: dict[str, Any] = {JSON: {"schema": said.takes, "example": said.example}}
        if said.form:
            content["multipart/form-data"] = {"schema": _form(said.takes)}
        made["requestBody"] = {"required": True, "content": content}
    return made


def errors_of(method: str, audience: Audience, said: Operation) -> set[type[ApiError]]:
    """Whatever may be refused there: its own, those of every route, of every key, of another site's page, of a body."""
    found = {*said.errors, *EVERY}
    found |= set() if audience is Audience.ALL else set(KEYED)
    found |= set() if method == "GET" else {PermissionDenied}
    return found | ({BodyTooLarge} if said.takes is not None else set())


def _refusals(errors: set[type[ApiError]]) -> dict[str, Any]:
    """The answers by status; where several codes share one, each has its example."""
    found: dict[str, Any] = {}
    for status in sorted({error.status for error in errors}):
        of_status = sorted((error for error in errors if error.status == status), key=lambda error: error.code)
        codes = {"properties": {"error": {"properties": {"code": {"enum": [error.code for error in of_status]}}}}}
        found[str(status)] = {
            "description": HTTPStatus(status).phrase, "headers": _headers("x-request-id", "x-should-retry", "retry-after"),
            "content": {JSON: {"schema": {"allOf": [ref("Error"), codes]},
                               "examples": {error.code: {"$ref": f"#/components/examples/{error.code}"} for error in of_status}}},
        }  # fmt: skip
    return found


def _examples() -> dict[str, Any]:
    """One of each error."""
    errors = {error for key, said in OPERATIONS.items() for error in errors_of(key[0], ROUTES.get(key, Audience.ADMIN), said)}
    message = "A sentence that says what is wrong and what to do."
    return {error.code: {"value": error(message).body()} for error in sorted(errors, key=lambda error: error.code)}


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"schema": {"type": "string"}} for name in names}


def _form(takes: Schema) -> Schema:
    """As OpenAI's SDKs send an edit: the pictures as files."""
    file = {"type": "string", "contentMediaType": "image/png"}
    fields = {name: schema for name, schema in takes["properties"].items() if name not in ("images", "mask")}
    return {"type": "object", "required": ["prompt", "image"], "properties": fields | {"image": file, "mask": file}}
