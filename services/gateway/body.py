"""From the bytes of a request to a checked JSON object: size, time, JSON, depth. Everything wrong is a 4xx with a sentence."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
from starlette.requests import Request

from services.wire.errors import BodyTooLarge, InvalidValue

MAX_DEPTH = 64
MAX_FIELDS = 100
# Parsing 10 MB made of small values took 0.4 s (keys) to 2 s (empty lists), in which nobody else is served. Text costs next to nothing.
COUNTED_FROM_BYTES = 256 * 1024
MAX_CONTAINERS = 50_000
MAX_STRINGS = 200_000
MAX_VALUES = 400_000
_VALUE_OF = re.compile(r'"([^"\\]{1,64})"\s*:\s*-?$')


class ClientGone(Exception):
    """The client left before its request was whole: there is nobody to answer."""


async def read_body(request: Request, limit_bytes: int, timeout_s: float) -> bytes:
    """The body. Raises BodyTooLarge as soon as it is known to be, without keeping it; InvalidValue when it is compressed or does not come
    in time."""
    for encoding in ",".join(request.headers.getlist("content-encoding")).lower().split(","):
        if encoding.strip() not in ("", "identity"):
            raise InvalidValue("The request body must not be compressed; send it without Content-Encoding.", param="content-encoding")
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > limit_bytes:
        raise _too_large(limit_bytes)
    parts, size = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise InvalidValue(f"The request body did not come within {timeout_s:g} s.") from None


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {limit_bytes} bytes, the most that is read.")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises InvalidValue, naming the field where the fault is a field's value (NaN, 1e999)."""
    if len(body) > COUNTED_FROM_BYTES:
        _check_parts(body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _bad_json(error) from None
    if not isinstance(value, dict):
        raise InvalidValue('The request body must be a JSON object, like {"model": "..."}.')
    if len(value) > MAX_FIELDS:
        raise InvalidValue(f"The request has {len(value)} fields; at most {MAX_FIELDS} are read.")
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        for name, item in value.items():
            if deeper_than(item, MAX_DEPTH - 1):
                raise InvalidValue(f"{shown_name(name)} is nested deeper than {MAX_DEPTH} levels.", param=shown_name(name))
    return value


def _check_parts(body: bytes) -> None:
    """Before parsing, from the characters that begin or part values (a text may hold them too: the limits leave room for that)."""
    counts = (
        ("lists and objects", body.count(b"[") + body.count(b"{"), MAX_CONTAINERS),
        ("strings", (body.count(b'"') - body.count(b'\\"')) // 2, MAX_STRINGS),
        ("values", body.count(b","), MAX_VALUES),
    )
    for name, count, most in counts:
        if count > most:
            raise InvalidValue(f"The request body holds about {count} {name}; at most {most} are read. Send less at once.")


def deeper_than(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more than `levels` levels. Walks level by level, so depth costs no stack."""
    layer = [value]
    for _ in range(levels + 1):
        following: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                following.extend(item.values())
            elif isinstance(item, list):
                following.extend(item)
        if not following:
            return False
        layer = following
    return any(isinstance(item, dict | list) for item in layer)


def shown_name(name: str) -> str:
    """A client's field name, fit for an error message and a header."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name[:64])


def _bad_json(error: orjson.JSONDecodeError) -> InvalidValue:
    if not error.doc:
        return InvalidValue('The request body is empty or not UTF-8; send a JSON object, like {"model": "..."}.')
    field = _VALUE_OF.search(error.doc[max(0, error.pos - 100) : error.pos])
    text = error.doc[error.pos : error.pos + 8]
    if field and (text.startswith(("NaN", "Infinity")) or "infinity" in error.msg or error.doc[error.pos - 1 : error.pos] == "-"):
        name = shown_name(field[1])
        return InvalidValue(f"{name} must be a finite number.", param=name)
    return InvalidValue(f"The request body is not valid JSON: {error.msg} at character {error.pos}.")
