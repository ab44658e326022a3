"""What an engine's own error means to the client, and whether another engine may be asked instead. Pure."""

from __future__ import annotations

import re

from services.gateway.stream import engine_message
from services.gateway.upstream import ConnectFailed, UpstreamError
from services.wire.errors import (
    ApiError,
    BackendFailed,
    BackendOutOfMemory,
    ContextLengthExceeded,
    ImageTooLarge,
    InvalidValue,
    NoAvailableWorker,
    QueueFull,
)

_CONTEXT = re.compile(
    rb"exceed_context_size_error|maximum context length|context_length_exceeded|maximum model length|exceeds the available context"
)
_DEAD = re.compile(r"EngineCore|EngineDead|engine is dead", re.IGNORECASE)  # vLLM, before its /health knows
_MEMORY = re.compile(rb"out of memory|OutOfMemory|backend_out_of_memory", re.IGNORECASE)
_LOOKS_LIKE_CODE = re.compile(r"Traceback|File \"|/[a-z]+/[a-z]|0x[0-9a-f]{6}", re.IGNORECASE)


# An engine that says so is well: its queue is full, the token or the name is not what it knows, the request was too much for its card.
SAID_BY_A_WELL_ENGINE = frozenset(("rejected", "busy", "token", "not_served", "out_of_memory"))


class AttemptFailed(Exception):
    """One attempt on one backend gave nothing that could be sent on. `kind` labels the metric; `retry`: another backend may do better;
    `down`: why nothing more should be sent there for now (`refused`: nobody listens there, for certain); `own_500`: the engine itself said
    that it failed on this request, and may be well."""

    def __init__(
        self, error: ApiError, kind: str, retry: bool = True, down: str | None = None, own_500: bool = False, refused: bool = False
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.kind = kind
        self.retry = retry
        self.down = down
        self.own_500 = own_500
        self.refused = refused


def of_answer(status: int, body: bytes, retry_after: bytes = b"") -> AttemptFailed:
    """What an answer other than 200 means.

    1. 401, 403: the engine does not take the gateway's token: our fault, not the client's. 502.
    2. 404: the engine no longer serves the model under this name. 502, try another.
    3. 400 that speaks of the context: context_length_exceeded, in the engine's words.
    4. 429: the engine's own queue is full: queue_full, try another.
    5. Any other 4xx: the request's fault: 400 invalid_value, in the engine's words.
    6. 503: not ready: no_available_worker, try another.
    7. Out of memory: our sizing was wrong: 500 backend_out_of_memory; the same request would fail again.
    8. Anything else: 502, try another.
    """
    message = engine_message(body) or f"the engine answered {status}"
    if status in (401, 403):  # 1
        return AttemptFailed(BackendFailed("The engine does not accept the gateway's token."), "token")
    if status == 404:  # 2
        return AttemptFailed(BackendFailed("The engine no longer serves this model."), "not_served")
    if 400 <= status < 500:
        if _CONTEXT.search(body):  # 3
            return AttemptFailed(ContextLengthExceeded(message, param=_param(body)), "rejected", retry=False)
        if status == 429:  # 4
            return AttemptFailed(QueueFull(f"The engine's own queue is full: {message}", retry_after_s=_seconds(retry_after)), "busy")
        kind = ImageTooLarge if b'"image_too_large"' in body else InvalidValue  # 5
        return AttemptFailed(kind(message, param=_param(body)), "rejected", retry=False)
    if status == 503:  # 6
        return AttemptFailed(NoAvailableWorker("The engine is not ready.", retry_after_s=_seconds(retry_after)), "unready")
    if _MEMORY.search(body):  # 7
        return AttemptFailed(BackendOutOfMemory("The card ran out of memory on this request; ask for less."), "out_of_memory", retry=False)
    said = "" if _LOOKS_LIKE_CODE.search(message) else f": {message}"
    own_500 = status == 500 and not _DEAD.search(message)
    return AttemptFailed(BackendFailed(f"The engine failed with {status}{said}."), "error", own_500=own_500)  # 8


def lacks_route(route: str, status: int, body: bytes) -> bool:
    """Whether the engine answered that it has no such route (a server of another make, an older one, one that was started without it),
    and not that it has no such model."""
    if route in ("/v1/chat/completions", "/v1/completions"):
        return False
    return status in (405, 501) or (status == 404 and b"does not exist" not in body)


def of_lacking(route: str, model_id: str) -> AttemptFailed:
    """The engine is well, and its like would say the same."""
    message = f"The engine that serves {model_id} does not serve {route}."
    return AttemptFailed(InvalidValue(message, param="model"), "rejected", retry=False)


def of_stream(reason: str, told: bool) -> AttemptFailed:
    """What it means that a stream broke. `told`: the engine said so itself; else it sent what is no stream."""
    own_500 = told and not _DEAD.search(reason) and not _MEMORY.search(reason.encode())
    return AttemptFailed(BackendFailed(f"The engine's stream failed: {reason}."), "stream", own_500=own_500)


def of_grammar(param: str) -> AttemptFailed:
    """An engine that is well answered 500 to a request with a schema: it can't use that schema, and its like can't either."""
    message = f"The engine could not use this schema ({param}): it failed while it made a grammar of it. Send a simpler one."
    return AttemptFailed(InvalidValue(message, param=param), "rejected", retry=False)


def of_upstream(error: UpstreamError) -> AttemptFailed:
    """What it means that the exchange itself failed."""
    if isinstance(error, ConnectFailed):
        down = "its port refuses connections: the engine is down" if error.refused else f"it can't be reached: {error}"
        return AttemptFailed(BackendFailed("The engine can't be reached.", retry_after_s=2.0), "connect", down=down, refused=error.refused)
    return AttemptFailed(BackendFailed("The engine broke off before its answer was whole.", retry_after_s=2.0), "cut")


def _param(body: bytes) -> str | None:
    """The field that the engine blames, when it names one."""
    found = re.search(rb'"param"\s*:\s*"([A-Za-z0-9_.\[\]-]{1,64})"', body)
    return found[1].decode() if found else None


def _seconds(value: bytes) -> float:
    return float(value) if value.isdigit() else 5.0
