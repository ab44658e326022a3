"""Two more ways to ask a chat model, passed through to engines that speak them: Anthropic's /v1/messages and OpenAI's /v1/responses.

What is not in a table here never reaches an engine. What would make one fetch, run or keep something is refused wherever it stands.
"""

from __future__ import annotations

import re
from typing import Any

from services.gateway.checks import Check, boolean, integer, list_of, mapping, number, one_of, scalar, schema, text
from services.gateway.fields import MAX_PRIORITY, MAX_TOKENS
from services.wire.errors import InvalidValue

_bounded = schema((list, dict), most_bytes=2**25, most_entries=10_000)
_PICTURE = re.compile(r"data:image/(png|jpeg|webp);base64,", re.ASCII)
# Kinds of content blocks and items that are text, a picture, or a call of the client's own function.
_MESSAGE_BLOCKS = frozenset(("text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"))
_ITEMS = frozenset(("message", "function_call", "function_call_output", "reasoning", "input_text", "output_text", "input_image", "refusal",
                    "summary_text", "reasoning_text"))  # fmt: skip
_DEEPEST = 6  # messages hold blocks, a tool's result holds blocks


def _typed(allowed: frozenset[str]) -> Check:
    """A text, or a list of objects whose types are all in `allowed`, whatever lies inside them."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, str) and value:
            return
        if not isinstance(value, list) or not value:
            raise InvalidValue(f"{name} must be a string or a list, and not empty.", param=name)
        _bounded.test(name, value)
        for index, item in enumerate(value):
            _walk(item, f"{name}[{index}]", allowed, 0)

    return Check(check, {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "object"}, "minItems": 1}]})


def _walk(item: Any, place: str, allowed: frozenset[str], depth: int) -> None:
    if not isinstance(item, dict) or depth > _DEEPEST:
        raise InvalidValue(f"{place} must be an object.", param=place)
    kind = item.get("type", "message" if "role" in item else None)
    if not isinstance(kind, str) or kind not in allowed:
        raise InvalidValue(f"{place} is of a type that is not served here; served are {', '.join(sorted(allowed))}.", param=place)
    if kind in ("image", "input_image"):
        _check_picture(item, place)
    for part in ("content", "output", "summary"):
        inside = item.get(part)
        if isinstance(inside, list):
            for index, one in enumerate(inside):
                _walk(one, f"{place}.{part}[{index}]", allowed, depth + 1)
        elif not isinstance(inside, str | None):
            raise InvalidValue(f"{place}.{part} must be a string or a list.", param=f"{place}.{part}")


def _check_picture(item: dict[str, Any], place: str) -> None:
    """Its bytes must be in the request: nothing is fetched."""
    source = item.get("source")
    if item["type"] == "image":
        good = isinstance(source, dict) and source.get("type") == "base64" and isinstance(source.get("data"), str) and "url" not in source
        good = good and source is not None and source.get("media_type") in ("image/png", "image/jpeg", "image/webp")
    else:
        url = item.get("image_url")
        good = isinstance(url, str) and _PICTURE.match(url) is not None and item.get("file_id") is None
    if not good:
        raise InvalidValue(f"{place} must hold its PNG, JPEG or WebP picture in base64; nothing is fetched for a request.", param=place)


def _check_turns(name: str, value: Any) -> None:
    """Anthropic's messages: a role, and a text or blocks."""
    if not isinstance(value, list) or not value:
        raise InvalidValue(f"{name} must be a list of messages, and not empty.", param=name)
    for index, turn in enumerate(value):
        place = f"{name}[{index}]"
        if not isinstance(turn, dict) or turn.get("role") not in ("user", "assistant", "system"):
            raise InvalidValue(f'{place} must be like {{"role": "user", "content": "..."}}.', param=place)
        _typed(_MESSAGE_BLOCKS).test(f"{place}.content", turn.get("content"))


def _functions(name: str, value: Any) -> None:
    """Tools that the client itself runs; those that a server would run (search, code, MCP) are refused."""
    _bounded.test(name, value)
    for index, tool in enumerate(value if isinstance(value, list) else [None]):
        if not isinstance(tool, dict) or tool.get("type") not in (None, "custom", "function") or not isinstance(tool.get("name"), str):
            place = f"{name}[{index}]"
            raise InvalidValue(f"{place} must be a function of your own with a name; no tool is run here.", param=place)


def _never(reason: str) -> Check:
    def check(name: str, value: Any) -> None:
        if value is not False:
            raise InvalidValue(f"{name} {reason}.", param=name)

    return Check(check, {"const": False})


_TURN = {"type": "object", "required": ["role", "content"], "properties": {
    "role": {"enum": ["user", "assistant", "system"]}, "content": _typed(_MESSAGE_BLOCKS).schema,
}}  # fmt: skip
_FUNCTIONS = Check(_functions, {"type": "array", "items": {
    "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}},
}})  # fmt: skip
_CHOICE = schema((dict,))
_NOT_KEPT = "is not served: nothing is kept between requests; send the whole conversation in input"

_SHARED: dict[str, Check] = {
    "model": text(256, empty=False), "stream": boolean, "temperature": number(0, 2), "top_p": number(0, 1, above=True),
    "tools": _FUNCTIONS, "priority": integer(0, MAX_PRIORITY),
}  # fmt: skip
MESSAGES_API: dict[str, Check] = _SHARED | {
    "max_tokens": integer(1, MAX_TOKENS),
    "messages": Check(_check_turns, {"type": "array", "items": _TURN, "minItems": 1}),
    "system": _typed(frozenset(("text",))),
    "stop_sequences": list_of(text(1000), 16),
    "top_k": integer(-1, 10**6),
    "tool_choice": _CHOICE,
    "thinking": mapping(4, scalar),
}
RESPONSES_API: dict[str, Check] = _SHARED | {
    "max_output_tokens": integer(1, MAX_TOKENS),
    "input": _typed(_ITEMS),
    "instructions": text(2**20),
    "tool_choice": Check(lambda name, value: None if value in ("none", "auto", "required") else _CHOICE.test(name, value),
                         {"anyOf": [{"enum": ["none", "auto", "required"]}, _CHOICE.schema]}),
    "parallel_tool_calls": boolean,
    "reasoning": mapping(4, scalar),
    "text": _CHOICE,
    "top_logprobs": integer(0, 20),
    "truncation": one_of("auto", "disabled"),
    "user": text(1000),
    "store": boolean,
    "background": _never(_NOT_KEPT), "previous_response_id": _never(_NOT_KEPT), "conversation": _never(_NOT_KEPT),
    "prompt": _never("is not served: no prompts are kept here; send input"),
}  # fmt: skip


def pictures_in(value: Any) -> int:
    """How many pictures a checked request holds."""
    if isinstance(value, list):
        return sum(map(pictures_in, value))
    if not isinstance(value, dict):
        return 0
    return (value.get("type") in ("image", "input_image")) + sum(pictures_in(value.get(part)) for part in ("content", "output"))
