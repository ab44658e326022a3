"""The OpenAPI document: whole, well-formed, and true of its own examples. tests/reliability/test_fuzz_openapi.py asks anything at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from services.gateway.access import ROUTES, Audience
from services.gateway.fields import CHAT
from services.gateway.openapi import document
from services.gateway.openapi_operations import OPERATIONS
from services.wire import errors
from services.wire.errors import ApiError, TooManyConnections

DOCUMENT: dict[str, Any] = json.loads(document())
JSON = "application/json"


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def test_every_route_is_in_it_with_its_audience() -> None:
    assert set(OPERATIONS) == set(ROUTES)
    shown = {(method, path): operation["x-audience"] for method, path, operation in operations()}
    assert shown == {(method, path.replace(":path", "")): str(audience) for (method, path), audience in ROUTES.items()}
    for _, path, operation in operations():
        assert (operation["security"] == []) == (operation["x-audience"] == Audience.ALL), path
        assert {one["name"] for one in operation["parameters"] if one["in"] == "path"} == {
            part[1:-1] for part in path.split("/") if part.startswith("{")
        }  # fmt: skip
    identities = [operation["operationId"] for _, _, operation in operations()]
    assert len(identities) == len(set(identities))


def parts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(item)


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    for part in parts(DOCUMENT):
        if isinstance(part.get("schema"), dict):
            Draft202012Validator.check_schema(part["schema"])
        if isinstance(part.get("$ref"), str):
            found: Any = DOCUMENT
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name]
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_the_error_table_is_the_error_tree() -> None:
    """Every error of services/wire/errors.py is documented on some route, with its own status and shape."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ApiError) and kind is not ApiError]
    tree = {kind.code: kind for kind in kinds}
    shown = {
        (int(status), code) for _, _, operation in operations() for status, answer in operation["responses"].items()
        for code in answer["content"].get(JSON, {}).get("examples", {})
    }  # fmt: skip
    missing = {(kind.status, kind.code) for kind in tree.values()} - shown
    assert missing == {(405, "method_not_allowed")}, "it is the answer to what is no operation"
    for code, example in DOCUMENT["components"]["examples"].items():
        assert example["value"]["error"]["code"] == code
        assert example["value"]["error"]["type"] == tree[code].type
    for _, path, operation in operations():
        assert TooManyConnections.code in operation["responses"]["503"]["content"][JSON]["examples"], path


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, operation in operations() if "requestBody" in operation])
def test_every_body_has_an_example_that_is_one(method: str, path: str) -> None:
    said = DOCUMENT["paths"][path][method.lower()]["requestBody"]["content"][JSON]
    Draft202012Validator(said["schema"]).validate(said["example"])


def test_the_ranges_are_those_of_the_checks() -> None:
    fields = DOCUMENT["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"][JSON]["schema"]["properties"]
    assert set(fields) == set(CHAT)
    assert fields["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}
    assert fields["model"] == {"type": "string", "minLength": 1, "maxLength": 256}
