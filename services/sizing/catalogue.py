"""The model catalogue: models/*.yaml read strictly into `ModelSpec`s.

A catalogue decides what is downloaded and what is refused, so a typo in it must never pass for a figure: an unknown key, a wrong type,
a duplicate key or a name used twice is a `CatalogueError` that names the file, the line and the key.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from services.sizing.catalogue_rules import broken_rules
from services.sizing.types import ModelSpec

MAX_FILE_BYTES = 256 * 1024
MAX_FILES = 5000
MODELS_FOLDER = Path(__file__).resolve().parents[2] / "models"


class CatalogueError(Exception):
    """A model file that cannot be trusted. The message names the file and the place and says what is wrong."""


class UnknownModelError(KeyError):
    """No model of this name. `nearest` holds up to five ids that look like it, best first."""

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        self.name = name
        self.nearest = nearest
        close = f" Nearest: {', '.join(nearest)}." if nearest else " `rigserve models` lists every model."
        self.sentence = f"The catalogue has no model {name!r}.{close}"
        super().__init__(self.sentence)

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every model known, in the order of their ids. Names are looked up without regard to case."""

    models: tuple[ModelSpec, ...]

    def get(self, name: str) -> ModelSpec:
        """The model with this id or alias. Raises UnknownModelError with the nearest ids."""
        wanted = name.strip().casefold()
        for model in self.models:
            if any(wanted == known.casefold() for known in names_of(model)):
                return model
        raise UnknownModelError(name, self._nearest(wanted))

    def _nearest(self, wanted: str) -> tuple[str, ...]:
        owner = {known.casefold(): model.id for model in reversed(self.models) for known in names_of(model)}
        # The part after the slash too: people type "Qwen2.5-7B-Instrukt" as often as the organisation before it.
        owner |= {known.rpartition("/")[2]: id_ for known, id_ in owner.items()}
        close = difflib.get_close_matches(wanted.rpartition("/")[2][:200], owner, n=20, cutoff=0.5)
        return tuple(dict.fromkeys(owner[known] for known in close))[:5]


def names_of(model: ModelSpec) -> tuple[str, ...]:
    """Its id and its aliases."""
    return (model.id, *model.aliases)


def load_catalogue(folder: Path | None = None) -> Catalogue:
    """Read every *.yaml of `folder` (the project's models/ when None). Raises CatalogueError."""
    folder = MODELS_FOLDER if folder is None else folder
    if not folder.is_dir():
        raise CatalogueError(f"{folder} is not a folder: the model catalogue is a folder of YAML files, one per model.")
    paths = sorted(folder.glob("*.yaml"))
    if not paths or len(paths) > MAX_FILES:
        raise CatalogueError(f"{folder} holds {len(paths)} model files; a catalogue has 1 to {MAX_FILES}.")
    models = tuple(load_model(path) for path in paths)
    _refuse_shared_names(models)
    return Catalogue(tuple(sorted(models, key=lambda model: model.id)))


def load_model(path: Path) -> ModelSpec:
    """Read one model file. Raises CatalogueError naming the file, the line and the key."""
    root = _parse(path)
    try:
        # Through JSON: only there does pydantic's strict mode take a list for a tuple and still refuse "8" for 8.
        model = _ADAPTER.validate_json(json.dumps(_plain(root), allow_nan=False), strict=True, extra="forbid")
    except ValidationError as error:
        raise CatalogueError("; ".join(_places(path, root, error))) from None
    except (ValueError, LookupError, yaml.YAMLError) as error:  # a tag that lies about its value, .nan, .inf
        raise CatalogueError(f"{path.name}: a value cannot be read: {error}") from None
    broken = list(broken_rules(model, path.stem))
    if broken:
        raise CatalogueError(f"{path.name}: {'; '.join(broken)}")
    return model


def _refuse_shared_names(models: tuple[ModelSpec, ...]) -> None:
    owner: dict[str, str] = {}
    for model in models:
        for name in names_of(model):
            other = owner.setdefault(name.casefold(), model.id)
            if other != model.id:
                raise CatalogueError(f"{model.id}.yaml: the name {name!r} already belongs to {other}.yaml; give each name to one model.")


# --- YAML, strictly -----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (they can grow without bound) and without silent duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed here: write the value out", mark)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.composer.ComposerError(None, None, "a key must be a plain word", key.start_mark)
                if key.value in seen:
                    raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return node


def _parse(path: Path) -> yaml.Node:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CatalogueError(f"{path.name}: larger than {MAX_FILE_BYTES} bytes; a model file is a page of text.")
        loader = _Loader(path.read_text(encoding="utf8"))
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise CatalogueError(f"{path.name}{f' line {mark.line + 1}' if mark else ''}: {error.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise CatalogueError(f"{path.name}: cannot be read: {error}") from None
    if not isinstance(root, yaml.MappingNode):
        raise CatalogueError(f"{path.name}: a model file is one YAML mapping (id: ..., title: ..., variants: ...).")
    return root


def _plain(node: yaml.Node) -> Any:
    """A node as JSON data. Dates and the like stay text: a revision such as 2024-01-01 is a name."""
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"):
        return yaml.SafeLoader("").construct_object(node)
    return node.value


def _places(path: Path, root: yaml.Node, error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(step) for step in item["loc"])
        yield f"{path.name} line {_line(root, item['loc'])}: {place}: {item['msg']}"


def _line(node: yaml.Node, steps: tuple[int | str, ...]) -> int:
    """The line of the deepest node on the way that exists (a missing key has only its parent's line)."""
    for step in steps:
        child = None
        if isinstance(node, yaml.MappingNode):
            child = next((value for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            child = node.value[step]
        if child is None:
            break
        node = child
    return int(node.start_mark.line) + 1


_ADAPTER = TypeAdapter(ModelSpec)
