"""The tools of a chat request, and which of them must be called: their shapes, since an engine makes grammars and prompts of them."""

from __future__ import annotations

import re
from typing import Any

from services.gateway.checks import Check, refuse, schema, shown
from services.wire.errors import InvalidValue

MODES = ("none", "auto", "required")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_bounded_tools = schema((list,), most_bytes=2**20)
_bounded_choice = schema((dict,))


def _check_tools(name: str, value: Any) -> None:
    """A list of {"type": "function", "function": {"name": ..., "parameters": {...}}}. Raises InvalidValue with the place as param."""
    _bounded_tools.test(name, value)
    for index, tool in enumerate(value):
        place = f"{name}[{index}]"
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise InvalidValue(f'{place} must be of type function, like {{"type": "function", "function": {{...}}}}.', param=place)
        function = tool.get("function")
        if not isinstance(function, dict):
            raise refuse(f"{place}.function", "an object", function)
        if not _is_name(function.get("name")):
            raise InvalidValue(f"{place}.function.name must be 1 to 64 letters, digits, _, . or -.", param=f"{place}.function.name")
        for part, kind, said in (("parameters", dict, "an object"), ("description", str, "a string"), ("strict", bool, "true or false")):
            if not isinstance(function.get(part), kind | None):
                raise refuse(f"{place}.function.{part}", said, function[part])


def _check_tool_choice(name: str, value: Any) -> None:
    """One of the modes, or {"type": "function", "function": {"name": ...}}. Whether there is such a tool: check_choice."""
    if isinstance(value, dict):
        _bounded_choice.test(name, value)
        function = value.get("function")
        if value.get("type") == "function" and isinstance(function, dict) and _is_name(function.get("name")):
            return
    elif isinstance(value, str) and value in MODES:
        return
    raise InvalidValue(f'{name} must be {", ".join(MODES)} or {{"type": "function", "function": {{"name": ...}}}}; got {shown(value)}.',
                       param=name)


_NAMED = {"type": "string", "pattern": f"^{_NAME.pattern}$"}
TOOLS = Check(_check_tools, {"type": "array", "maxItems": 1000, "items": {
    "type": "object", "required": ["type", "function"], "properties": {
        "type": {"const": "function"},
        "function": {"type": "object", "required": ["name"], "properties": {
            "name": _NAMED, "parameters": {"type": ["object", "null"]}, "description": {"type": ["string", "null"]},
            "strict": {"type": ["boolean", "null"]},
        }},
    },
}})  # fmt: skip
TOOL_CHOICE = Check(_check_tool_choice, {"anyOf": [{"type": "string", "enum": list(MODES)}, {
    "type": "object", "required": ["type", "function"], "properties": {
        "type": {"const": "function"}, "function": {"type": "object", "required": ["name"], "properties": {"name": _NAMED}},
    },
}]})  # fmt: skip


def check_choice(body: dict[str, Any]) -> None:
    """The tools that must be called are among the tools. Both fields were checked before."""
    tools, choice = body.get("tools") or (), body.get("tool_choice")
    if choice == "required" and not tools:
        raise InvalidValue("tool_choice is required, but there are no tools to choose from.", param="tool_choice")
    if isinstance(choice, dict) and choice["function"]["name"] not in {tool["function"]["name"] for tool in tools}:
        raise InvalidValue("tool_choice names a function that is not one of the tools.", param="tool_choice")


def grammar_param(body: dict[str, Any]) -> str | None:
    """The field of which an engine makes a grammar (a schema it may fail on), None when the request has none. JSON without a schema is
    always the same grammar."""
    wanted = body.get("response_format") or {}
    if wanted.get("type", "text") not in ("text", "json_object") or wanted.get("schema"):
        return "response_format"
    if body.get("structured_outputs"):
        return "structured_outputs"
    return "tools" if body.get("tools") and body.get("tool_choice") != "none" else None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None
