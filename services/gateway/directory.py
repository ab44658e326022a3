"""What this gateway serves: the models, by id and alias, each with its backends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.gateway.backends import Backend, Kind
from services.gateway.card_share import share_cards
from services.gateway.scheduler import ModelQueue
from services.gateway.settings import Limits
from services.sizing.catalogue import Catalogue, UnknownModelError
from services.sizing.types import ModelSpec
from services.wire.worker import WorkerState


@dataclass(slots=True, eq=False)
class Served:
    """One model and everything that serves it. `spec` is None for a `--backend` model that the catalogue does not have."""

    id: str
    spec: ModelSpec | None
    queue: ModelQueue
    backends: list[Backend] = field(default_factory=list)

    @property
    def kind(self) -> Kind | None:
        return self.backends[0].kind

    @property
    def ready(self) -> list[Backend]:
        return [backend for backend in self.backends if backend.state is WorkerState.READY and not backend.ejected and not backend.too_hot]

    def loadable(self, now: float) -> bool:
        """Whether it will be loaded for those who wait for it."""
        return any(backend.loadable(now) for backend in self.backends)

    @property
    def context_tokens(self) -> int | None:
        """The largest context among the placements; None when one of them is not known."""
        contexts = [backend.lane.context_tokens for backend in self.backends]
        return None if None in contexts else max(c for c in contexts if c is not None)

    @property
    def takes_pictures(self) -> bool:
        """Whether a chat may hold picture parts: unknown models may, known ones must have a vision part."""
        return self.spec is None or (self.spec.text is not None and self.spec.text.vision_params > 0)


class Directory:
    """Looks models up. A model's own id comes first, then any alias, without regard to case."""

    def __init__(self, backends: Iterable[Backend], catalogue: Catalogue | None, limits: Limits) -> None:
        self.models: dict[str, Served] = {}
        self._known: dict[str, Served] = {}
        self._limits = limits
        self.replace(backends, catalogue)

    def replace(self, backends: Iterable[Backend], catalogue: Catalogue | None) -> None:
        """These and no others from now on. A model keeps its queue and who waits there, also when it goes and comes back: some may still
        have a seat of it."""
        by_model: dict[str, list[Backend]] = {}
        for backend in backends:
            backend.lane.share = None
            by_model.setdefault(backend.model_id, []).append(backend)
        for served in self.models.values():
            served.queue.lanes = []
        self.models = {model_id: self._serve(model_id, of_model, catalogue) for model_id, of_model in by_model.items()}
        self.catalogue = catalogue
        served_by = [(backend, served) for served in self.models.values() for backend in served.backends]
        share_cards((b.card.id if b.card else None, share_kind(b.kind), b.lane, s.queue) for b, s in served_by)
        self._names = {name.casefold(): served for served in self.models.values() for name in (served.spec.aliases if served.spec else ())}
        self._names |= {served.id.casefold(): served for served in self.models.values()}

    def _serve(self, model_id: str, backends: list[Backend], catalogue: Catalogue | None) -> Served:
        served = self._known.get(model_id)
        if served is None:
            limit = self._limits.image_queue if backends[0].kind == "image" else self._limits.queue
            served = self._known[model_id] = Served(model_id, None, ModelQueue(limit))
        served.spec, served.backends = spec_of(catalogue, model_id), backends
        served.queue.lanes = [backend.lane for backend in backends]
        return served

    def get(self, name: str) -> Served | None:
        return self.models.get(name) or self._names.get(name.casefold())

    def only(self, kind: Kind) -> Served | None:
        """The one model of that kind, when there is exactly one."""
        found = [served for served in self.models.values() if served.kind == kind]
        return found[0] if len(found) == 1 else None

    @property
    def backends(self) -> list[Backend]:
        return [backend for served in self.models.values() for backend in served.backends]


def share_kind(kind: Kind | None) -> str | None:
    """Whose rule a lane of this kind obeys where a card serves texts and images: whatever is no image is short work, like text."""
    return kind if kind is None or kind == "image" else "text"


def spec_of(catalogue: Catalogue | None, name: str) -> ModelSpec | None:
    """The catalogue's entry, None when it has none."""
    if catalogue is None:
        return None
    try:
        return catalogue.get(name)
    except UnknownModelError:
        return None
