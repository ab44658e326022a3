"""The messages of a chat request: roles, kinds of content, and that nothing in them makes an engine fetch something."""

from __future__ import annotations

from typing import Any

from services.wire.errors import InvalidValue

ORDINARY = {"role", "content"}
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_MESSAGES = 10_000
TEXT_PART_KEYS = {"type", "text", "cache_control"}
MEDIA_PARTS = ("input_audio", "input_image", "audio_url", "video_url", "file", "image", "video", "image_embeds",
               "audio_embeds", "image_pil")
_PARTS = {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["type"], "properties": {
    "type": {"enum": ["text", "refusal", "image_url"]}, "text": {"type": "string"},
    "image_url": {"description": "A data: URL of a PNG, JPEG or WebP picture, or an object with it as url; nothing is fetched."},
}}}  # fmt: skip
# What check_messages looks for, as JSON Schema can say it.
MESSAGES: dict[str, Any] = {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": {
    "type": "object", "required": ["role"], "properties": {
        "role": {"type": "string", "enum": list(ROLES)},
        "content": {"anyOf": [{"type": "string"}, _PARTS, {"type": "null"}]},
        "name": {"type": ["string", "null"]}, "tool_call_id": {"type": ["string", "null"]},
        "tool_calls": {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "null"}]},
    },
}}  # fmt: skip


def check_messages(value: Any) -> int:
    """How many pictures the messages hold. Raises InvalidValue with the place of the fault as param."""
    if not isinstance(value, list):
        raise InvalidValue("messages must be a list of messages.", param="messages")
    if not 1 <= len(value) <= MAX_MESSAGES:
        raise InvalidValue(f"messages must hold 1 to {MAX_MESSAGES} messages; got {len(value)}.", param="messages")
    pictures = 0
    for index, message in enumerate(value):
        if not _is_plain(message):
            pictures += _check_message(message, f"messages[{index}]")
    return pictures


def _is_plain(message: Any) -> bool:
    """Whether it is a role and a text and nothing else, as most are: nothing more to check."""
    return type(message) is dict and message.keys() == ORDINARY and type(message["content"]) is str and message["role"] in ROLES


def _check_message(message: Any, place: str) -> int:
    if not isinstance(message, dict):
        raise InvalidValue(f'{place} must be an object, like {{"role": "user", "content": "..."}}.', param=place)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidValue(f"{place}.role must be one of {', '.join(ROLES)}.", param=f"{place}.role")
    for name in ("name", "tool_call_id"):
        if not isinstance(message.get(name), str | None):
            raise InvalidValue(f"{place}.{name} must be a string.", param=f"{place}.{name}")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise InvalidValue(f"{place}.tool_calls must be a list of objects.", param=f"{place}.tool_calls")
    content = message.get("content")
    if isinstance(content, str):
        return 0
    if isinstance(content, list) and content:
        return sum(_check_part(part, f"{place}.content[{index}]") for index, part in enumerate(content))
    if content is None and role == "assistant" and (calls or message.get("function_call") or message.get("refusal")):
        return 0
    raise InvalidValue(f"{place}.content must be a string or a list of parts.", param=f"{place}.content")


def _check_part(part: Any, place: str) -> int:
    """1 for a picture, 0 for text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise InvalidValue(f"{place}.text must be a string.", param=f"{place}.text")
        if not set(part) <= TEXT_PART_KEYS:
            raise InvalidValue(f"{place} is a text part and may hold type and text only.", param=place)
        return 0
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return 0
    if kind == "image_url":
        return _check_picture(part.get("image_url"), place)
    if kind in MEDIA_PARTS:
        raise InvalidValue(f"{place} is of type {kind}, which is not served; send text.", param=place)
    raise InvalidValue(f'{place} must be a part like {{"type": "text", "text": "..."}}.', param=place)


def _check_picture(value: Any, place: str) -> int:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "data:image/webp;base64,")):
        raise InvalidValue(f"{place}.image_url must be a data: URL of a PNG, JPEG or WebP picture; nothing is fetched for a request.",
                           param=f"{place}.image_url")
    return 1
