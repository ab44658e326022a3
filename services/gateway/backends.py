"""One engine that answers requests: where it is, what it holds, how it is. From a placement of the plan, or from `--backend`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from services.gateway.breaker import Breaker
from services.gateway.heat import Heat
from services.gateway.scheduler import Lane
from services.gateway.settings import Limits
from services.gateway.upstream import Upstream, parse_origin
from services.sizing.types import Card, Engine, ImageWorkload, ModelSpec, Placement, Plan, TextWorkload
from services.wire.worker import WorkerState

Kind = Literal["text", "image", "embedding", "rerank"]
FAILED_S = 30.0  # what failed is not loaded again before


class EndpointsError(Exception):
    """endpoints.json can't be used; the message is a sentence that says why."""


@dataclass(slots=True, eq=False)
class Backend:
    """`kind` None: not known (a `--backend` that the catalogue does not have), so every route may try it.

    `state` is what the worker says (or what a probe of a `--backend` finds), `reason` why it is not ready, `since_s` (monotonic) since
    when. `status` is the worker's own last WorkerStatus. `heard_s`: when bytes of the engine last came. `serving`: it gets requests, being
    ready and not ejected by its `breaker`. `heartbeats`: [answered, missed]. `names`: the models that its engine listed at first.
    """

    id: str
    model_id: str
    kind: Kind | None
    upstream: Upstream
    lane: Lane
    worker: Upstream | None = None
    engine: Engine | None = None
    placement: Placement | None = None
    card: Card | None = None
    state: WorkerState = WorkerState.STARTING
    reason: str | None = "not asked yet"
    since_s: float = 0.0
    status: dict[str, Any] | None = None
    heard_s: float = 0.0
    held_down_until_s: float = 0.0
    doubted: bool = False  # its worker is to be asked whether the engine hangs
    breaker: Breaker = field(default_factory=Breaker)
    serving: bool = False
    heartbeats: list[int] = field(default_factory=lambda: [0, 0])
    names: frozenset[str] = frozenset()
    named_connects: int = -1  # upstream.connects when the names were last looked at
    heat: Heat | None = None  # None: its card is cool, or nobody watches it
    retired: bool = False  # the configuration does not name it any more; only requests that began before still use it
    strikes: int = 0
    seen: bool = False
    probe_path: str = "/health"
    finished: int = 0
    failed: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    def serves_as(self, other: Backend) -> bool:
        """Whether requests would notice no difference: the same model on the same engine, at the same address, of the same size."""
        workers = self.worker.leads_where(other.worker) if self.worker and other.worker else self.worker is other.worker
        same = (self.model_id, self.kind, self.engine) == (other.model_id, other.kind, other.engine)
        return same and workers and self.upstream.leads_where(other.upstream) and self.lane.holds_as(other.lane)

    @property
    def ejected(self) -> bool:
        """Ready by what it says, but out of service: it fails too often."""
        return self.state is WorkerState.READY and not self.breaker.closed and not self.serving

    @property
    def too_hot(self) -> Heat | None:
        """Ready, but its card may have no new requests until it has cooled: why. Else None."""
        return self.heat if self.state is WorkerState.READY and self.heat is not None and self.heat.share == 0 else None

    @property
    def image(self) -> ImageWorkload | None:
        workload = self.placement.workload if self.placement else None
        return workload if isinstance(workload, ImageWorkload) else None

    @property
    def on_demand(self) -> bool:
        """Whether it is loaded and unloaded as it is needed (roles.py)."""
        return self.placement is not None and self.placement.on_demand and self.worker is not None and self.card is not None

    def loadable(self, now: float) -> bool:
        """On demand, and ready when somebody waits for it: neither silent nor failed just now."""
        if self.state is WorkerState.FAILED:
            return self.on_demand and now - self.since_s >= FAILED_S
        return self.on_demand and self.state is not WorkerState.UNREACHABLE

    @property
    def predicted_load_s(self) -> float | None:
        """How long the engine takes to load: as measured at its last start, else as predicted; None when neither is known."""
        measured = (self.status or {}).get("load_s")
        if isinstance(measured, int | float) and measured > 0:
            return float(measured)
        speed = self.placement.report.speed if self.placement else None
        return speed.load_s if speed else None


def kind_of(spec: ModelSpec) -> Kind:
    """What is asked of a model of the catalogue."""
    return "text" if spec.kind == "chat" else spec.kind


def from_placement(placement: Placement, card: Card | None, endpoint: Mapping[str, Any], spec: ModelSpec | None = None) -> Backend:
    """The backend of one placement; `spec` is its model in the catalogue, None where that has lost it. Raises EndpointsError."""
    token = _token(endpoint.get("token_file"), placement.id)
    try:
        engine, worker = Upstream(parse_origin(endpoint["engine_url"]), token), Upstream(parse_origin(endpoint["worker_url"]), token)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise EndpointsError(f"the endpoint of {placement.id} has no usable engine_url and worker_url: {error}.") from error
    workload, speed = placement.workload, placement.report.speed
    if isinstance(workload, TextWorkload):
        unit_s = 1 / speed.decode_tok_s if speed and speed.decode_tok_s else None
        lane = Lane(placement.id, workload.sequences, unit_s, context_tokens=workload.context_tokens)
    else:
        unit_s = 60 / speed.images_per_min if speed and speed.images_per_min else None
        lane = Lane(placement.id, 1, unit_s, width_px=workload.width_px, height_px=workload.height_px)
    kind: Kind = "image" if isinstance(workload, ImageWorkload) else kind_of(spec) if spec is not None else "text"
    return Backend(placement.id, placement.model_id, kind, engine, lane, worker, placement.choice.engine, placement, card)


def from_flag(number: int, model_id: str, url: str, spec: ModelSpec | None, limits: Limits) -> Backend:
    """The backend of one `--backend MODEL=URL`; slots that nobody has set are learned, an image engine has one.
    Raises ValueError with a sentence, naming the model, when the URL is none."""
    try:
        origin = parse_origin(url)
    except ValueError as error:
        raise ValueError(f"--backend {model_id}: {error}") from None
    kind = None if spec is None else kind_of(spec)
    ident = f"backend-{number}"
    lane = Lane(ident, 1 if kind == "image" else limits.backend_slots)
    return Backend(ident, model_id, kind, Upstream(origin), lane)


def plan_backends(plan: Plan, endpoints: Path, spec_of: Callable[[str], ModelSpec | None]) -> list[Backend]:
    """One backend per placement, with the addresses of endpoints.json; `spec_of` looks a model up in the catalogue. Raises
    EndpointsError."""
    try:
        listed = json.loads(endpoints.read_text(encoding="utf8"))["endpoints"]
        by_id = {entry["placement_id"]: entry for entry in listed}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EndpointsError(f'{endpoints} can\'t be read as {{"endpoints": [{{"placement_id": ...}}]}}: {error}.') from error
    missing = [placement.id for placement in plan.placements if placement.id not in by_id]
    if missing:
        raise EndpointsError(f"{endpoints} has no endpoint for {', '.join(missing)}; it must have one for each placement of the plan.")
    cards = {card.id: card for card in plan.cards}
    return [from_placement(p, cards.get(p.card_id), by_id[p.id], spec_of(p.model_id)) for p in plan.placements]


def _token(token_file: Any, placement_id: str) -> str | None:
    if token_file is None:
        return None
    try:
        token = Path(str(token_file)).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise EndpointsError(f"the token file of {placement_id} can't be read: {error}.") from error
    if not token or not token.isprintable():
        raise EndpointsError(f"the token file of {placement_id} holds no token.")
    return token
