"""YAML for the catalogue: one mapping a file, no aliases (they can grow without bound), no key given twice, no depth without end.

Nodes are built here from the parser's events: PyYAML's own composer would pass repeated keys, and its fast one recurses in C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_DEPTH = 12
Scalar = str | int | float | bool | None
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBERS = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))


class YamlError(Exception):
    """`line` counts from 1."""

    def __init__(self, line: int | None, sentence: str) -> None:
        super().__init__(sentence)
        self.line = line


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line where it begins (from 1)."""

    line: int
    value: Scalar | list[Node] | dict[str, Node]


def parse_mapping(text: str) -> Node:
    """The one mapping in `text`. Raises YamlError."""
    try:
        events = yaml.parse(text, Loader=_FAST)
        next(events), next(events)
        root = _node(events, next(events), 0)
        next(events)
        following = next(events)
    except yaml.MarkedYAMLError as error:
        raise YamlError(error.problem_mark.line + 1 if error.problem_mark else None, str(error.problem)) from None
    except (yaml.YAMLError, StopIteration) as error:
        raise YamlError(None, str(error) or "the file is empty") from None
    if not isinstance(following, yaml.StreamEndEvent):
        raise YamlError(_line(following), "a second document begins; a model file is one")
    if not isinstance(root.value, dict):
        raise YamlError(1, "a model file is one YAML mapping (id: ..., title: ..., variants: ...)")
    return root


def plain(node: Node) -> Any:
    """A node as JSON data."""
    if isinstance(node.value, dict):
        return {key: plain(value) for key, value in node.value.items()}
    return [plain(item) for item in node.value] if isinstance(node.value, list) else node.value


def line_of(node: Node, steps: tuple[int | str, ...]) -> int:
    """The line of the deepest node on the way that exists (a missing key has only its parent's line)."""
    for step in steps:
        value = node.value
        if isinstance(value, dict) and step in value:
            node = value[str(step)]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            node = value[step]
        else:
            break
    return node.line


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _node(events: Iterator[Any], event: Any, depth: int) -> Node:
    line = _line(event)
    if isinstance(event, yaml.AliasEvent):
        raise YamlError(line, "aliases are not allowed here: write the value out")
    if depth > MAX_DEPTH:
        raise YamlError(line, f"nested more than {MAX_DEPTH} deep; no model file is")
    if isinstance(event, yaml.ScalarEvent):
        return Node(line, _scalar(event, line))
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_node(events, item, depth + 1))
        return Node(line, items)
    if isinstance(event, yaml.MappingStartEvent):
        return Node(line, _mapping(events, depth))
    raise YamlError(None, "the file is empty")


def _scalar(event: Any, line: int) -> Scalar:
    """Numbers, booleans and null by YAML's rules; dates and the like stay text: a revision such as 2024-01-01 is a name."""
    tag = event.tag if event.tag not in (None, "!") else _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag not in _NUMBERS:
        return str(event.value)
    try:
        value: Scalar = yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, event.value))
    except (ValueError, LookupError, yaml.YAMLError):
        raise YamlError(line, f"{event.value[:80]!r} cannot be read as {tag.rpartition(':')[2]}") from None
    return value


def _mapping(events: Iterator[Any], depth: int) -> dict[str, Node]:
    found: dict[str, Node] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        if not isinstance(event, yaml.ScalarEvent):
            raise YamlError(_line(event), "a key must be a plain word")
        if event.value in found:
            raise YamlError(_line(event), f"the key {event.value[:80]!r} is given twice")
        found[event.value] = _node(events, next(events), depth + 1)
    return found


_RESOLVER: Any = yaml.resolver.Resolver()
