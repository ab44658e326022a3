"""What became of one request: filled while it runs, then read once by the meters, the metrics and the log line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.gateway.backends import Backend
from services.gateway.door import Caller
from services.gateway.lane_slots import USUAL_PROMPT_UNITS, Measured
from services.wire.shapes import ImageUsage, TokenUsage


class Ending(StrEnum):
    """`refused`: never reached an engine. `failed`: the engine, or a deadline. `drained`: cut off by the gateway's own end."""

    SERVED = "served"
    REFUSED = "refused"
    FAILED = "failed"
    CLIENT_GONE = "client_gone"
    DRAINED = "drained"


class Phase(StrEnum):
    """Where a request is; the label of deadlines and of clients that left."""

    CHECKING = "checking"
    QUEUED = "queued"
    FIRST_BYTE = "first_byte"
    ANSWER = "answer"
    STREAMING = "streaming"
    WRITING = "writing"


@dataclass(slots=True)
class Outcome:
    """What is known of it so far. Times are monotonic seconds; None where that never happened. `model_id` is None when no served model was
    named. `taken`: it counts against the limits of `caller`'s key, with `images_taken` images, until it has ended. `once`: its
    Idempotency-Key. `level`: requests in flight on its lane when it was seated, itself included; `sequences`: answers that it wants at
    once (`n`)."""

    request_id: str
    engine_request_id: str
    route: str
    arrived_s: float
    model_id: str | None = None
    stream: bool = False
    backend: Backend | None = None
    phase: Phase = Phase.CHECKING
    ending: Ending = Ending.REFUSED
    status: int | None = None
    code: str | None = None
    attempts: int = 0
    queue_s: float | None = None
    seated_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    ended_s: float | None = None
    tokens: TokenUsage | None = None
    images: ImageUsage | None = None
    caller: Caller | None = None
    taken: bool = False
    images_taken: int = 0
    once: tuple[str | None, str] | None = None
    level: int = 1
    sequences: int = 1
    joules: float | None = None  # its share of what its card drew (energy.py); None: not known

    @property
    def key_id(self) -> str | None:
        """Whose request it is; None where there are no keys."""
        return self.caller.id if self.caller is not None else None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from the request's arrival; streams only."""
        return None if self.first_s is None else self.first_s - self.arrived_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (last - first) / (tokens - 1); streams of two tokens or more only.

        Worked number: first at 1.0 s, last at 2.0 s, 21 tokens: 0.05 s.
        """
        if self.first_s is None or self.last_s is None or self.tokens is None or self.tokens.output_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.tokens.output_tokens - 1)

    @property
    def total_s(self) -> float | None:
        return None if self.ended_s is None else self.ended_s - self.arrived_s

    @property
    def unit_s(self) -> float | None:
        """Seconds per token of one sequence, or per image. None for what was not served whole, or holds nothing that tells.

        1. Images: the whole time.
        2. A stream: from its first token to its last.
        3. Another answer, or a stream that came in one piece: the whole time; a prompt token counts USUAL_PROMPT_UNITS of a token.
        Worked number: 2 s for 19 tokens and 50 of prompt: 2 / (19 + 0.02 x 50) = 0.1 s.
        """
        if self.seated_s is None or self.ended_s is None or self.ending is not Ending.SERVED:
            return None
        took_s = self.ended_s - self.seated_s
        if self.images is not None:  # 1
            return took_s / self.images.images if self.images.images else None
        usage = self.tokens
        if usage is None or not usage.output_tokens:
            return None
        tokens = usage.output_tokens / self.sequences
        if self.first_s is not None and self.last_s is not None and tokens > 1 and self.last_s > self.first_s:  # 2
            return (self.last_s - self.first_s) / (tokens - 1)
        return took_s / (tokens + USUAL_PROMPT_UNITS * usage.prompt_tokens)  # 3

    def measured(self) -> Measured | None:
        """What the lane that served it learns of it; None: nothing."""
        unit_s = self.unit_s
        if unit_s is None or unit_s <= 0 or self.seated_s is None or self.ended_s is None:
            return None
        first_s = None if self.first_s is None else self.first_s - self.seated_s
        prompt_tokens = self.tokens.prompt_tokens if self.tokens is not None else 0
        return Measured(unit_s, self.level, self.ended_s - self.seated_s, first_s, prompt_tokens)

    def log_line(self) -> dict[str, object]:
        """One flat line for the log (which sets the time): no prompt, no key, no text of the answer."""
        backend = self.backend
        line: dict[str, object] = {
            "time": "", "event": "request", "request_id": self.request_id, "engine_request_id": self.engine_request_id,
            "route": self.route, "model": self.model_id, "stream": self.stream,
            "key": self.key_id,
            "status": self.status, "code": self.code, "ending": self.ending, "phase": self.phase, "attempts": self.attempts,
            "backend": backend.id if backend else None, "card": backend.card.id if backend and backend.card else None,
        }
        line["queue_s"] = _rounded(self.queue_s)
        line["ttft_s"] = _rounded(self.ttft_s) if self.first_s is not None else None
        line["tpot_s"] = _rounded(self.tpot_s) if self.first_s is not None else None
        line["total_s"] = _rounded(self.total_s)
        if self.tokens is not None:
            line["prompt_tokens"], line["output_tokens"] = self.tokens.prompt_tokens, self.tokens.output_tokens
        if self.images is not None:
            line |= {"images": self.images.images, "steps": self.images.steps}
        return line


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if value else value
