"""The model catalogue: models/*.yaml read strictly into `ModelSpec`s.

A catalogue decides what is downloaded and what is refused, so a typo in it must never pass for a figure: an unknown key, a wrong type,
a duplicate key or a name used twice is a `CatalogueError` that names the file, the line and the key.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from services.sizing.catalogue_rules import broken_rules
from services.sizing.catalogue_yaml import Node, YamlError, line_of, parse_mapping, plain
from services.sizing.types import ModelSpec

MAX_FILE_BYTES = 256 * 1024
MAX_FILES = 5000
MAX_NAME = 100
# How makers mark the chat model of a base model: "llama-3.1-8b" is read as llama-3.1-8b-instruct where no model has the plain name.
TUNED = ("-instruct", "-it", "-chat")
MODELS_FOLDER = Path(__file__).resolve().parents[2] / "models"


class CatalogueError(Exception):
    """A model file that cannot be trusted. The message names the file and the place and says what is wrong."""


class UnknownModelError(KeyError):
    """No model of this name. `nearest` holds up to five ids that look like it, best first."""

    def __init__(self, name: str, nearest: tuple[str, ...], advice: str = "") -> None:
        self.name = name
        self.nearest = nearest
        close = f" Nearest: {', '.join(nearest)}." if nearest else " `rigserve models` lists every model."
        said = f"The catalogue has no model {name[:MAX_NAME]!r}." if name.strip() else "The name of a model is missing."
        self.sentence = f"{said}{close}{' ' if advice else ''}{advice}"
        super().__init__(self.sentence)

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every model known, in the order of their ids. Names are looked up without regard to case."""

    models: tuple[ModelSpec, ...]

    def get(self, name: str) -> ModelSpec:
        """1. The model with this id or alias. 2. The only one whose name is this with a mark of its tuning (-instruct, -it, -chat).
        Raises UnknownModelError with the nearest ids."""
        wanted = name.strip().casefold()
        # 1
        for model in self.models:
            if any(wanted == known.casefold() for known in names_of(model)):
                return model
        # 2
        marked = {wanted + mark for mark in TUNED} if wanted else set()
        tuned = [model for model in self.models if any(known.casefold() in marked for known in names_of(model))]
        if len(tuned) == 1:
            return tuned[0]
        raise UnknownModelError(name, self._nearest(wanted))

    def _nearest(self, wanted: str) -> tuple[str, ...]:
        owner = {known.casefold(): model.id for model in reversed(self.models) for known in names_of(model)}
        # The part after the slash too: people type "Qwen2.5-7B-Instrukt" as often as the organisation before it.
        owner |= {known.rpartition("/")[2]: id_ for known, id_ in owner.items()}
        typed = wanted.rpartition("/")[2][:200]
        begun = sorted((known for known in owner if typed and known.startswith(typed)), key=len)
        close = difflib.get_close_matches(typed, owner, n=20, cutoff=0.5)
        return tuple(dict.fromkeys(owner[known] for known in [*begun, *close]))[:5]


def names_of(model: ModelSpec) -> tuple[str, ...]:
    """Its id and its aliases."""
    return (model.id, *model.aliases)


def load_catalogue(folder: Path | None = None) -> Catalogue:
    """Read every *.yaml of `folder`; the project's models/ when None, which is read once a process. Raises CatalogueError."""
    return _shipped() if folder is None else _read_folder(folder)


@cache
def _shipped() -> Catalogue:
    return _read_folder(MODELS_FOLDER)


def _read_folder(folder: Path) -> Catalogue:
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
    root = _read(path)
    try:
        # Through JSON: only there does pydantic's strict mode take a list for a tuple and still refuse "8" for 8.
        model = _ADAPTER.validate_json(json.dumps(plain(root), allow_nan=False), strict=True, extra="forbid")
    except ValidationError as error:
        raise CatalogueError("; ".join(_places(path, root, error))) from None
    except ValueError as error:  # .nan and .inf
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


def _read(path: Path) -> Node:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CatalogueError(f"{path.name}: larger than {MAX_FILE_BYTES} bytes; a model file is a page of text.")
        return parse_mapping(path.read_text(encoding="utf8"))
    except YamlError as error:
        raise CatalogueError(f"{path.name}{f' line {error.line}' if error.line else ''}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path.name}: cannot be read: {error}") from None


def _places(path: Path, root: Node, error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(step) for step in item["loc"])
        yield f"{path.name} line {line_of(root, item['loc'])}: {place}: {item['msg']}"


_ADAPTER = TypeAdapter(ModelSpec)
