"""docs/api.md from the gateway's own OpenAPI document (`services/gateway/openapi.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from services.gateway.access import Audience
from services.gateway.openapi import document

GROUPS = {"Inference": ("/v1/chat", "/v1/completions", "/v1/images"), "Models and fit": ("/v1/models", "/v1/fit", "/v1/catalogue"),
          "Cards and speed": ("/v1/cards", "/v1/throughput"), "Who asks, and what was used": ("/v1/me", "/v1/usage", "/v1/refusals"),
          "Administration": ("/admin",), "Operation": ("/",)}  # fmt: skip
AUDIENCES = {
    Audience.ALL: "everyone", Audience.USER: "user keys", Audience.ANY_KEY: "any key", Audience.ADMIN: "admin keys",
    Audience.STATUS: "any key, or anyone with `--open-status`", Audience.SCRAPER: "admin keys, or anyone with `--open-status`",
    Audience.OPERATOR: "admin keys, or this machine while there are no keys",
}  # fmt: skip
HEADER = """# API reference

Made from the gateway's OpenAPI document by `make docs`: do not edit. The document itself, with every schema, is `GET /openapi.json`; what
to do about an error stands in [guides/troubleshooting.md](guides/troubleshooting.md), who may ask what in [keys.md](keys.md).
"""
LONGEST = 200


def page() -> str:
    api = json.loads(document())
    lines = [HEADER, api["info"]["description"], ""]
    lines += [f"Besides what stands with it, every route that needs a key may answer {', '.join(every(api))}.", ""]
    left = dict(api["paths"])
    for title, prefixes in GROUPS.items():
        mine = [path for path in left if path.startswith(prefixes)]
        lines += [f"## {title}", ""]
        for path in mine:
            for method, operation in left.pop(path).items():
                lines += section(method.upper(), path, operation, api)
    lines += ["## Refused fields", "", "| a field of this name | is refused because it |", "|---|---|"]
    return "\n".join([*lines, *refused_fields(api["x-refused-fields"])]) + "\n"


def section(method: str, path: str, operation: dict[str, Any], api: dict[str, Any]) -> list[str]:
    answers = {status: answer for status, answer in operation["responses"].items() if status < "400"}
    status, answer = next(iter(answers.items()))
    media = ", ".join(f"`{name}`" for name in answer["content"])
    audience = AUDIENCES[operation["x-audience"]]
    lines = [f"### `{method} {path}`", f"{operation['summary']}. For {audience}. Answers {status} with {media}.", ""]
    parameters = [one for one in operation["parameters"] if one["in"] != "path"]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    rows = [(f"`{one['name']}` ({one['in']})", "yes" if one.get("required") else "", shape(one["schema"])) for one in parameters]
    if body:
        rows += list(fields(body["schema"]))
    if rows:
        lines += ["| field | required | value |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]
    if body:
        lines += [f"Example: `{json.dumps(body['example'])}`", ""]
    own = [code for code in codes_of(operation) if code not in every(api)]
    return [*lines, f"Errors: {', '.join(own)}.", ""] if own else lines


def refused_fields(reasons: dict[str, str]) -> Iterator[str]:
    for why in dict.fromkeys(reasons.values()):
        yield f"| {', '.join(f'`{name}`' for name in sorted(reasons) if reasons[name] == why)} | {cell(why)} |"


def codes_of(operation: dict[str, Any]) -> list[str]:
    """The errors of an operation, each with its status and its entry on the page about trouble."""
    refusals = {status: answer["content"]["application/json"] for status, answer in operation["responses"].items() if status >= "400"}
    return [f"{status} [`{code}`](guides/troubleshooting.md#{code})" for status, said in refusals.items() for code in said["examples"]]


def every(api: dict[str, Any]) -> list[str]:
    """The errors that nearly every route that needs a key may answer: those of the route that tells who asks."""
    return codes_of(api["paths"]["/v1/me"]["get"])


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    required = schema.get("required", [])
    for name, one in sorted(schema["properties"].items(), key=lambda item: (item[0] not in required, item[0])):
        yield f"`{name}`", "yes" if name in required else "", shape(one)


def shape(schema: dict[str, Any]) -> str:
    """A schema in words, on one line."""
    said = cell(_shape(schema))
    return said if len(said) <= LONGEST else said[: LONGEST - 4].rsplit(",", 1)[0] + ", ..."


def _shape(schema: dict[str, Any]) -> str:
    options = [one for one in schema.get("anyOf", schema.get("oneOf", [])) if one != {"type": "null"}]
    if options:
        return " or ".join(dict.fromkeys(_shape(one) for one in options))
    if "$ref" in schema:
        return f"a {schema['$ref'].rpartition('/')[2]}"
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(one) for one in schema["enum"] if one is not None)
    if "const" in schema:
        return json.dumps(schema["const"])
    kinds = schema.get("type", "anything")
    kinds = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind != "null"]
    said = " or ".join(kinds)
    if "array" in kinds:
        said += f" of {_shape(schema['items']).replace(', ', ' ')}" if schema.get("items") else ""
    return ", ".join([said, *_bounds(schema)])


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    names = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below",
             "maxLength": "at most characters", "maxItems": "at most items"}  # fmt: skip
    if schema.get("minLength") or schema.get("minItems"):
        yield "not empty"
    for key, word in names.items():
        if key in schema:
            value = f"{schema[key]:,}"
            yield f"{word.rpartition(' ')[0]} {value} {word.rpartition(' ')[2]}" if " " in word else f"{word} {value}"
    if "description" in schema:
        yield schema["description"]


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
