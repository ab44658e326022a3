"""What an engine file is given (`Order`) and what it answers (`Launch`): pure values, nothing is started or written here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.sizing.types import Card, Host, ImageWorkload, ModelSpec, Placement, TextWorkload


class LaunchError(Exception):
    """The placement can't be turned into a command line. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Order:
    """One placement with everything around it.

    `model` is its catalogue row, None when the catalogue doesn't know it (text models can do without). `weights` is a folder or one
    .gguf file. Exactly one of `engine_python` (interpreter of the engine's environment) and `engine_binary` is set.
    `free_bytes` is the card's memory measured just before the start, None where it can't be measured.
    """

    placement: Placement
    card: Card
    host: Host
    model: ModelSpec | None
    weights: Path
    engine_host: str
    engine_port: int
    token: str = field(repr=False)
    token_file: Path
    state_dir: Path
    project: Path
    engine_python: Path | None = None
    engine_binary: Path | None = None
    free_bytes: int | None = None

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names that requests may use, the model's id first."""
        return (self.placement.model_id, *(self.model.aliases if self.model else ()))

    @property
    def cpu_threads(self) -> int:
        return max(1, self.host.cpu_count or 1)

    def text(self) -> TextWorkload:
        if isinstance(self.placement.workload, TextWorkload):
            return self.placement.workload
        raise LaunchError(f"placement {self.placement.id} has an image workload, but {self.placement.choice.engine} serves text.")

    def image(self) -> ImageWorkload:
        if isinstance(self.placement.workload, ImageWorkload):
            return self.placement.workload
        raise LaunchError(f"placement {self.placement.id} has a text workload, but {self.placement.choice.engine} serves images.")

    def python(self) -> str:
        if self.engine_python is None:
            raise LaunchError(f"{self.placement.choice.engine} needs --engine-python, the interpreter of its environment.")
        return str(self.engine_python)


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """A file that only we may read (0600), written before the start and removed after the end."""

    path: Path
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The one real request that makes an engine ready: the smallest that goes through the whole model."""

    path: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start an engine and how to know that it runs.

    `env` is added to the clean environment. The engine's version is that of the first of `packages` in its Python environment, or
    what its own port says: `version` is (path, key of the JSON answer). `stop_grace_s`: from SIGTERM to SIGKILL.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    warm_up: WarmUp
    files: tuple[PrivateFile, ...] = ()
    health_path: str = "/health"
    packages: tuple[str, ...] = ()
    version: tuple[str, str] | None = None
    stop_grace_s: float = 5.0


def chat_warm_up(order: Order) -> WarmUp:
    """One token. By /v1/completions, because a base model has no chat template; an embedding model embeds one word,
    and a reranker ranks one."""
    if order.model and order.model.kind == "embedding":
        return WarmUp("/v1/embeddings", {"model": order.placement.model_id, "input": "Hello"})
    if order.model and order.model.kind == "rerank":
        return WarmUp("/v1/rerank", {"model": order.placement.model_id, "query": "Hello", "documents": ["Hello"]})
    return WarmUp("/v1/completions", {"model": order.placement.model_id, "prompt": "Hello", "max_tokens": 1})
