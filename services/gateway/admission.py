"""May this request go on? Pure decisions: everything they need is handed in, every refusal is an ApiError."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.backends import Backend, Kind
from services.gateway.checks import shown
from services.gateway.directory import Served
from services.gateway.fits import reports_json
from services.gateway.image_request import ImageRequest
from services.gateway.scheduler import Need
from services.gateway.text_request import TextRequest
from services.sizing.types import Engine, FitReport, ModelSpec
from services.wire.errors import (
    ApiError,
    BackendStarting,
    ContextLengthExceeded,
    ImageTooLarge,
    InvalidValue,
    ModelDoesNotFit,
    ModelNotFound,
    NoAvailableWorker,
    QueueFull,
)
from services.wire.worker import WorkerState

COMING_UP = {WorkerState.STARTING, WorkerState.LOADING, WorkerState.WARMING, WorkerState.RESTARTING}
UNKNOWN_LOAD_S = 10.0
RETRY_S = 5.0
LISTED = 20
DOES: dict[Kind, tuple[str, str]] = {
    "text": ("text", "/v1/chat/completions"), "image": ("images", "/v1/images/generations"), "embedding": ("embeddings", "/v1/embeddings"),
    "rerank": ("reranking", "/v1/rerank"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class View:
    """What is known about the model that a request names. `spec` and `reports` (one per card) only when it is not served."""

    name: str
    served: Served | None
    serving: Sequence[str]
    spec: ModelSpec | None = None
    reports: tuple[FitReport, ...] = ()
    nearest: tuple[str, ...] = ()
    draining: bool = False


def admit(view: View, kind: Kind, now: float) -> Served:
    """The served model that takes the request.

    1. The gateway is stopping: 503 no_available_worker.
    2. The model is not served and
       2a. the catalogue does not have it either: 404 model_not_found, listing what is served.
       2b. it fits no card of this rig: 422 model_does_not_fit, with one report per card.
       2c. it would fit: 404 model_not_found, saying on which card and how to add it. (No cards known: as 2a.)
    3. It does not do what the route asks: 400 invalid_value.
    4. None of its backends is ready, nor loaded for those who wait: 503 backend_starting when one is coming up, else 503
       no_available_worker.
    5. No slot is free and its queue is full: 429 queue_full.
    6. Admitted.
    """
    if view.draining:  # 1
        raise NoAvailableWorker("This gateway is stopping; try again in a moment.", retry_after_s=RETRY_S)
    served = view.served
    if served is None:  # 2
        raise _not_served(view)
    if served.kind is not None and served.kind != kind:  # 3
        what, route = DOES[served.kind]
        raise InvalidValue(f"{served.id} is a model for {what}; use {route}.", param="model")
    if not served.ready and not served.loadable(now):  # 4
        raise _not_ready(served, now)
    queue = served.queue
    if len(queue.waiting) >= queue.limit and not any(lane.ready and lane.in_flight < lane.slots for lane in queue.lanes):  # 5
        message = f"{served.id} is busy and {len(queue.waiting)} requests are already waiting for it; try again later."
        raise QueueFull(message, retry_after_s=queue.expected_wait_s(now) or 1.0)
    return served  # 6


def surely_admitted(served: Served, kind: Kind, draining: bool) -> bool:
    """Whether `admit` would say yes to who gets a seat at once: a seat is one on a ready backend, so 4 and 5 are answered by having it."""
    return not draining and (served.kind is None or served.kind == kind)


def _not_served(view: View) -> ApiError:
    listed = ", ".join(view.serving[:LISTED]) or "nothing"
    if view.spec is None or not view.reports:  # 2a
        near = f" In the catalogue, nearest: {', '.join(view.nearest)}." if view.nearest else ""
        return ModelNotFound(f"There is no model named {_quoted(view.name)} here. Served: {listed}.{near}", param="model")
    fitting = [report for report in view.reports if report.fits]
    if not fitting:  # 2b
        return does_not_fit(view.spec.id, view.reports)
    report = fitting[0]  # 2c
    message = (
        f"{view.spec.id} is not in this rig's plan. It would fit {_card(report)} by itself: `rigserve plan --want {view.spec.id}` "
        f"writes a plan that has it, `rigserve serve --plan` obeys it. Served: {listed}."
    )
    return ModelNotFound(message, param="model")


def does_not_fit(model_id: str, reports: tuple[FitReport, ...]) -> ModelDoesNotFit:
    """The 422: the nearest card's reason in words, all cards' arithmetic beside it."""
    nearest = max(reports, key=lambda report: report.headroom_bytes if report.headroom_bytes is not None else -(2**62))
    hints = "; ".join(hint.text for hint in nearest.hints[:3])
    message = f"{model_id} fits none of the {len(reports)} card(s) of this rig. Nearest is {_card(nearest)}: {nearest.reason.rstrip('.')}"
    if hints:
        message += f". What would fit instead: {hints}"
    return ModelDoesNotFit(message.rstrip(".") + ".", param="model", extra={"fit": reports_json(reports)})


def _not_ready(served: Served, now: float) -> ApiError:
    coming = [backend for backend in served.backends if backend.state in COMING_UP]
    if coming:
        soonest = min(coming, key=lambda backend: _until_ready_s(backend, now))
        return BackendStarting(f"{served.id} is {soonest.state}; try again in a moment.", retry_after_s=_until_ready_s(soonest, now))
    hot = next((backend.too_hot for backend in served.backends if backend.too_hot), None)
    if hot is not None:
        return NoAvailableWorker(f"{served.id} waits for its card to cool: {hot.reason}.", retry_after_s=hot.retry_after_s or RETRY_S)
    first = served.backends[0]
    why = "its last requests failed, and it is asked again every few seconds" if first.ejected else first.reason or first.state
    return NoAvailableWorker(f"No worker of {served.id} is ready: {why}.", retry_after_s=RETRY_S)


def _until_ready_s(backend: Backend, now: float) -> float:
    """What is left of the load time as last measured or predicted; 10 s where neither is known."""
    return max(1.0, (backend.predicted_load_s or UNKNOWN_LOAD_S) - (now - backend.since_s))


def check_text(request: TextRequest, served: Served) -> None:
    """0. Embeddings: as `check_embedding` says. 1. Pictures for a model that can't see: 400. 2. More output than the largest context: 400.
    3. More answers at once than any placement holds sequences, where that is known: 400. 4. A token that the model has not: 400.
    5. A constraint that a llama.cpp of the model would not read: 400."""
    if not request.generates:  # 0
        return check_embedding(request, served)
    if request.pictures and not served.takes_pictures:  # 1
        raise InvalidValue(f"{served.id} reads text only; leave the picture parts out.", param=request.prompt_field)
    context = served.context_tokens
    if context is not None and request.output_tokens >= context:  # 2
        raise context_exceeded(request, None, served)
    if request.n > 1:  # 3
        lanes = [backend.lane for backend in served.backends]
        sequences = max(lane.slots for lane in lanes)
        if request.n > sequences and not any(lane.slots_are_learned for lane in lanes):
            raise InvalidValue(f"n must be at most {sequences}: {served.id} holds {sequences} sequences at once.", param="n")
    bias = request.body.get("logit_bias")
    vocabulary = served.spec.text.vocab_size if bias and served.spec and served.spec.text else None
    if bias and vocabulary is not None:  # 4
        for token in bias:
            if int(token) >= vocabulary:
                message = f"logit_bias names the token {shown(int(token))}; {served.id} has the tokens 0 to {vocabulary - 1}."
                raise InvalidValue(message, param="logit_bias")
    if request.body.get("structured_outputs") is not None and any(b.engine is Engine.LLAMACPP for b in served.backends):  # 5
        message = f"structured_outputs is not read by llama.cpp, which serves {served.id}; send response_format with a json_schema instead."
        raise InvalidValue(message, param="structured_outputs")


def check_embedding(request: TextRequest, served: Served) -> None:
    """1. More dimensions than the model has: 400. 2. Fewer than it has, where a llama.cpp would not read that: 400. A model that was not
    made to be cut refuses itself."""
    dimensions = request.body.get("dimensions")
    has = served.spec.text.hidden_size if served.spec and served.spec.text else None
    if dimensions is None or dimensions == has:
        return
    if has is not None and dimensions > has:  # 1
        raise InvalidValue(f"dimensions must be at most {has} for {served.id}; got {dimensions}.", param="dimensions")
    if any(backend.engine is Engine.LLAMACPP for backend in served.backends):  # 2
        message = f"dimensions is not read by llama.cpp, which serves {served.id}; leave it out, and cut the vectors yourself."
        raise InvalidValue(message, param="dimensions")


def context_exceeded(request: TextRequest, prompt_tokens: int | None, served: Served) -> ContextLengthExceeded:
    """The refusal, with both numbers and the card. `prompt_tokens` None: the output alone is more than the context."""
    largest = max(served.backends, key=lambda backend: backend.lane.context_tokens or 0)
    where = f" (on {largest.card.name})" if largest.card else ""
    holds = f"The context of {served.id} is {largest.lane.context_tokens} tokens{where}"
    output = request.output_tokens
    if not request.generates:
        query = " with the query" if request.route == "/v1/rerank" else ""
        longest = f"The longest text of {request.prompt_field} is {prompt_tokens} tokens{query}"
        return ContextLengthExceeded(f"{holds}. {longest}: shorten it, or split it into several.", param=request.prompt_field)
    if prompt_tokens is None:
        name = next((name for name in ("max_completion_tokens", "max_output_tokens") if request.body.get(name)), "max_tokens")
        return ContextLengthExceeded(f"{holds}, but {name} alone asks for {output}; ask for fewer.", param=name)
    message = (
        f"{holds}. The prompt is {prompt_tokens} tokens and {output} more {'are' if output > 1 else 'is'} wanted as output: "
        f"{prompt_tokens + output} in all. Shorten the prompt{' or lower max_tokens' if request.max_tokens else ''}."
    )
    return ContextLengthExceeded(message, param=request.prompt_field)


def largest_image(served: Served) -> Backend | None:
    """The backend that holds the largest image; None when no size is known."""
    known = [backend for backend in served.backends if backend.image is not None]
    return max(known, key=lambda backend: (backend.lane.width_px or 0) * (backend.lane.height_px or 0), default=None)


def image_fits(served: Served, size_px: tuple[int, int]) -> bool:
    """Whether any card holds an image of this size, ready or not."""
    return any(lane.holds(Need(width_px=size_px[0], height_px=size_px[1])) for lane in served.queue.lanes)


def check_image(request: ImageRequest, served: Served, size_px: tuple[int, int] | None, report: FitReport | None) -> None:
    """1. More steps than the placement admits: 400. 2. Larger than any card holds: 400 image_too_large; `report` is its arithmetic."""
    largest = largest_image(served)
    if largest is None or largest.image is None:
        return
    if largest.image.steps is not None and (request.steps or 0) > largest.image.steps:  # 1
        raise InvalidValue(f"steps must be at most {largest.image.steps} for {served.id}; got {request.steps}.", param="steps")
    if size_px is not None and not image_fits(served, size_px):  # 2
        raise image_too_large(size_px, largest, report)


def image_too_large(size_px: tuple[int, int], largest: Backend, report: FitReport | None) -> ImageTooLarge:
    """The refusal, with the largest that fits, on which card, and the arithmetic of the asked size where there is one."""
    assert largest.placement is not None
    lane, own = largest.lane, largest.placement.report
    card = largest.card.name if largest.card else largest.placement.card_id
    message = f"{size_px[0]}x{size_px[1]} is larger than this rig can make; the largest is {lane.width_px}x{lane.height_px}, on {card}."
    if report is not None:
        message += " The card could hold more: the plan gives this placement no more room." if report.fits else f" {report.reason}"
    return ImageTooLarge(message, param="size", extra={"fit": reports_json((report or own,))})


def _card(report: FitReport) -> str:
    return f"card {report.card_id} ({report.card_name}{', simulated' if report.simulated and 'imulated' not in report.card_name else ''})"


def _quoted(name: str) -> str:
    """A client's text inside a sentence: short and on one line."""
    clean = "".join(c if c.isprintable() else "?" for c in name[:80])
    return f"'{clean}'"
