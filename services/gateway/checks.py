"""Checks of single values: `test` takes the field's name and value and raises InvalidValue with a sentence that says what is allowed;
`schema` says the same as JSON Schema, for /openapi.json, as far as that can say it. One place, so that they can't come to differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from services.gateway.body import deeper_than
from services.wire.errors import InvalidValue

Schema = dict[str, Any]


class Check(NamedTuple):
    test: Callable[[str, Any], None]
    schema: Schema


_JSON_TYPES: dict[type, str] = {dict: "object", list: "array"}


def shown(value: Any) -> str:
    """A value as an error names it: numbers as they are, of anything else only the kind, since it may be a prompt."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.10g}"
    return "a string" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def refuse(name: str, allowed: str, value: Any) -> InvalidValue:
    return InvalidValue(f"{name} must be {allowed}; got {shown(value)}.", param=name)


def integer(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise refuse(name, f"a whole number from {low} to {high}", value)

    return Check(check, {"type": "integer", "minimum": low, "maximum": high})


def number(low: float, high: float, above: bool = False) -> Check:
    """A finite number from `low` to `high`; `above`: more than `low`."""

    def check(name: str, value: Any) -> None:
        if type(value) not in (int, float) or not low <= value <= high or (above and value == low):
            raise refuse(name, f"a number {f'above {low:g} and at most' if above else f'from {low:g} to'} {high:g}", value)

    return Check(check, {"type": "number", "exclusiveMinimum" if above else "minimum": low, "maximum": high})


def _boolean(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise refuse(name, "true or false", value)


boolean = Check(_boolean, {"type": "boolean"})


def text(longest: int, empty: bool = True) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise refuse(name, "a string", value)
        if len(value) > longest or (not value and not empty):
            raise InvalidValue(f"{name} must be {'0' if empty else '1'} to {longest} characters long; got {len(value)}.", param=name)

    return Check(check, {"type": "string", "minLength": 0 if empty else 1, "maxLength": longest})


def one_of(*allowed: str) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise InvalidValue(f"{name} must be one of {', '.join(allowed)}.", param=name)

    return Check(check, {"type": "string", "enum": list(allowed)})


def list_of(item: Check, most: int) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, list):
            raise refuse(name, "a list", value)
        if len(value) > most:
            raise InvalidValue(f"{name} may have at most {most} entries; got {len(value)}.", param=name)
        for entry in value:
            item.test(name, entry)

    return Check(check, {"type": "array", "items": item.schema, "maxItems": most})


def either(kind: type, first: Check, second: Check) -> Check:
    """`first` when the value is of `kind`, else `second`."""

    def check(name: str, value: Any) -> None:
        (first if isinstance(value, kind) else second).test(name, value)

    return Check(check, {"anyOf": [first.schema, second.schema]})


def mapping(
    most: int, value_check: Check, key_ok: Callable[[str], bool] = lambda key: True, keys: str = "names", key_schema: Schema | None = None
) -> Check:
    """`key_schema` says of the keys what `key_ok` decides."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise refuse(name, "an object", value)
        if len(value) > most:
            raise InvalidValue(f"{name} may have at most {most} entries; got {len(value)}.", param=name)
        for key, entry in value.items():
            if not key_ok(key):
                raise InvalidValue(f"{name} has a key that is not allowed; its keys are {keys}.", param=name)
            value_check.test(name, entry)

    said = {"propertyNames": key_schema} if key_schema else {}
    return Check(check, {"type": "object", "additionalProperties": value_check.schema, "maxProperties": most} | said)


def _scalar(name: str, value: Any) -> None:
    if isinstance(value, list | dict):
        raise refuse(name, "made of strings, numbers, true, false and null", value)


scalar = Check(_scalar, {"type": ["string", "number", "boolean", "null"]})


def schema(kinds: tuple[type, ...], most_bytes: int = 65536, most_entries: int = 1000, depth: int = 32) -> Check:
    """Something that an engine compiles into a grammar: bounded, since compiling is where engines were brought down."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, kinds):
            raise refuse(name, " or ".join(shown(kind()) for kind in kinds), value)
        if deeper_than(value, depth):
            raise InvalidValue(f"{name} is nested deeper than {depth} levels.", param=name)
        if len(orjson.dumps(value)) > most_bytes:
            raise InvalidValue(f"{name} is longer than {most_bytes} bytes.", param=name)
        if _longest(value) > most_entries:
            raise InvalidValue(f"{name} holds a list or object of more than {most_entries} entries.", param=name)

    return Check(check, {"type": [_JSON_TYPES[kind] for kind in kinds]})


def _longest(value: Any) -> int:
    if isinstance(value, dict):
        return max(len(value), max(map(_longest, value.values()), default=0))
    if isinstance(value, list):
        return max(len(value), max(map(_longest, value), default=0))
    return 0
