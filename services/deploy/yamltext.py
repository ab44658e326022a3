"""YAML text with comments: dicts, lists and scalars, plus lines of comment above any key or item. PyYAML can't write comments."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass
from typing import Any

WIDTH = 120
# Words that YAML reads as themselves, whatever parser: no number, no boolean, no indicator in front, no ": " or " #" inside.
_PLAIN = re.compile(
    r"(?!(?:true|false|yes|no|on|off|null|y|n)$)(?:(?:--|\./)?[A-Za-z_/$][A-Za-z0-9_/.=${}:@-]*|[1-9][0-9]*[sm])", re.IGNORECASE | re.ASCII
)
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST_IN_FLOW = 70


@dataclass(frozen=True, slots=True)
class Noted:
    """A value with comment lines above it. A line that starts with a blank is kept as it is, others are wrapped."""

    value: Any
    above: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Raw:
    """Text that is YAML already: an anchor, an alias."""

    text: str


class Spaced(dict[str, Any]):
    """A mapping with a blank line between its keys."""


def document(top: dict[str, Any]) -> str:
    """The whole text, a blank line between the keys of the top."""
    return "\n".join("\n".join(_mapping({key: value}, 0)) + "\n" for key, value in top.items())


def comment(lines: tuple[str, ...], indent: int) -> list[str]:
    """The lines as comments, wrapped at WIDTH columns. Nothing in them can end the comment: a line break becomes a blank."""
    out: list[str] = []
    for line in (_BREAKS.sub(" ", line) for line in lines):
        room = WIDTH - indent - 2
        wrapped = [line] if line.startswith(" ") else textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False)
        out += [f"{' ' * indent}# {text}".rstrip() for text in wrapped]
    return out


def scalar(value: Any) -> str:
    """A number, boolean, null, or text: plain where that is safe, else in double quotes (JSON's escapes are YAML's)."""
    if isinstance(value, Raw):
        return value.text
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) and not text.endswith(":") else json.dumps(text, ensure_ascii=False)


def _mapping(value: dict[str, Any], indent: int) -> list[str]:
    lines: list[str] = []
    for place, (key, item) in enumerate(value.items()):
        if place and isinstance(value, Spaced):
            lines.append("")
        above, item = (item.above, item.value) if isinstance(item, Noted) else ((), item)
        lines += comment(above, indent)
        head = f"{' ' * indent}{scalar(Raw(key) if key == '<<' else key)}:"
        lines += _below(head, item, indent)
    return lines


def _below(head: str, item: Any, indent: int) -> list[str]:
    anchor = ""
    if isinstance(item, tuple):  # (anchor, mapping)
        name, item = item
        anchor = f" &{name}"
    if isinstance(item, dict) and item:
        return [head + anchor, *_mapping(item, indent + 2)]
    if isinstance(item, dict):
        return [f"{head} {{}}"]
    if isinstance(item, list):
        return _list(head, item, indent)
    return [f"{head} {scalar(item)}"]


def _list(head: str, items: list[Any], indent: int) -> list[str]:
    """In brackets, over as many lines as it takes; a line each where an item is long or is more than a scalar."""
    if any(isinstance(word, dict | Noted) or len(str(word)) > _LONGEST_IN_FLOW for word in items):
        return [head, *(line for word in items for line in _item(word, indent + 2))]
    lines, open_at = [f"{head} ["], len(head) + 2
    for place, word in enumerate(items):
        text = _flow(word) + ("," if place < len(items) - 1 else "]")
        if len(lines[-1]) + len(text) + 1 > WIDTH and lines[-1].strip():
            lines.append(" " * open_at)
        lines[-1] += text if lines[-1].endswith("[") or not lines[-1].strip() else f" {text}"
    return lines if items else [f"{head} []"]


def _item(word: Any, indent: int) -> list[str]:
    above, word = (word.above, word.value) if isinstance(word, Noted) else ((), word)
    lines = comment(above, indent)
    if isinstance(word, dict):
        first, *rest = _mapping(word, indent + 2)
        return [*lines, f"{' ' * indent}- {first.lstrip()}", *rest]
    return [*lines, f"{' ' * indent}- {scalar(word)}"]


def _flow(word: Any) -> str:
    """Inside [...]: a comma or bracket ends a plain word there."""
    text = scalar(word)
    return json.dumps(text, ensure_ascii=False) if text[0] != '"' and set(text) & set("{},[]") else text
