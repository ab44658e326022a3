"""JSON that nobody vouches for: size, duplicate keys and odd numbers are checked before the values are used.

Deep nesting ends in the parser's own RecursionError; nothing here walks the values recursively.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from services.sizing.checkpoint import CheckpointError

MAX_CONFIG_BYTES = 4 * 1024 * 1024
# Geometry beyond this is no model; it also keeps every product of a few such numbers printable.
MAX_NUMBER = 2**40


def parse_object(raw: bytes, name: str, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError for anything else, for repeated keys and for NaN."""
    if len(raw) > max_bytes:
        raise CheckpointError(f"{name}: {len(raw):,} bytes of JSON, more than the {max_bytes:,} that are read.")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise CheckpointError(f"{name}: the key {twice[:80]!r} is given twice.")
        return found

    def refuse(constant: str) -> NoReturn:
        raise CheckpointError(f"{name}: {constant} is not a number of JSON.")

    try:
        value = json.loads(raw, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: not valid JSON ({str(error)[:120]}).") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name}: a JSON object is needed, this is {type(value).__name__}.")
    return value


def whole(config: dict[str, Any], key: str, name: str, default: int | None = None) -> int | None:
    """A whole number 0 .. 2**40 of a config, `default` where the key is missing or null."""
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise CheckpointError(f"{name}: {key} is {str(value)[:40]!r}; a whole number from 0 to 2**40 is needed.")
    return value


def needed(config: dict[str, Any], key: str, name: str, default: int | None = None) -> int:
    """The same, but it must be there and be at least 1."""
    value = whole(config, key, name, default)
    if not value:
        raise CheckpointError(f"{name}: {key} is missing or 0; without it the model cannot be sized.")
    return value
