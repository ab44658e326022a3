"""Checks of single values. Each takes the field's name and value and raises InvalidValue with a sentence that says what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from services.gateway.body import deeper_than
from services.wire.errors import InvalidValue

Check = Callable[[str, Any], None]


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

    return check


def number(low: float, high: float, above: bool = False) -> Check:
    """A finite number from `low` to `high`; `above`: more than `low`."""

    def check(name: str, value: Any) -> None:
        if type(value) not in (int, float) or not low <= value <= high or (above and value == low):
            raise refuse(name, f"a number {f'above {low:g} and at most' if above else f'from {low:g} to'} {high:g}", value)

    return check


def boolean(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise refuse(name, "true or false", value)


def text(longest: int, empty: bool = True) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise refuse(name, "a string", value)
        if len(value) > longest or (not value and not empty):
            raise InvalidValue(f"{name} must be {'0' if empty else '1'} to {longest} characters long; got {len(value)}.", param=name)

    return check


def one_of(*allowed: str) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise InvalidValue(f"{name} must be one of {', '.join(allowed)}.", param=name)

    return check


def list_of(item: Check, most: int) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, list):
            raise refuse(name, "a list", value)
        if len(value) > most:
            raise InvalidValue(f"{name} may have at most {most} entries; got {len(value)}.", param=name)
        for entry in value:
            item(name, entry)

    return check


def either(kind: type, first: Check, second: Check) -> Check:
    """`first` when the value is of `kind`, else `second`."""

    def check(name: str, value: Any) -> None:
        (first if isinstance(value, kind) else second)(name, value)

    return check


def mapping(most: int, value_check: Check, key_ok: Callable[[str], bool] = lambda key: True, keys: str = "names") -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise refuse(name, "an object", value)
        if len(value) > most:
            raise InvalidValue(f"{name} may have at most {most} entries; got {len(value)}.", param=name)
        for key, entry in value.items():
            if not key_ok(key):
                raise InvalidValue(f"{name} has a key that is not allowed; its keys are {keys}.", param=name)
            value_check(name, entry)

    return check


def scalar(name: str, value: Any) -> None:
    if isinstance(value, list | dict):
        raise refuse(name, "made of strings, numbers, true, false and null", value)


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

    return check


def _longest(value: Any) -> int:
    if isinstance(value, dict):
        return max(len(value), max(map(_longest, value.values()), default=0))
    if isinstance(value, list):
        return max(len(value), max(map(_longest, value), default=0))
    return 0
