"""Prometheus metrics. Names follow OpenTelemetry's GenAI conventions where one exists; labels never hold a client's text."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter

from services.gateway.directory import Directory
from services.gateway.exposition import Registry
from services.gateway.histogram import Histogram
from services.gateway.outcome import Ending, Outcome
from services.gateway.state_metrics import StateCollector
from services.sizing.types import Card

# Buckets of the OpenTelemetry GenAI metrics.
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TTFT_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0)
TOKENS = tuple(4**i for i in range(14))
IMAGE_OPERATIONS = {"/v1/images/generations": "image_generation", "/v1/images/edits": "image_edit"}
OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/v1/embeddings": "embeddings",
              "/v1/rerank": "rerank", "/v1/messages": "chat", "/v1/responses": "chat", **IMAGE_OPERATIONS}
OTHER = "other"


class OfOneKind:
    """The children of one (operation, model, card): looked up once, kept."""

    def __init__(self, metrics: Metrics, operation: str, model: str, card: str) -> None:
        labels = (operation, model, card)
        self.duration = metrics.duration.of(*labels)
        self.ttft = metrics.ttft.of(*labels)
        self.tpot = metrics.tpot.of(*labels)
        self.queue = metrics.queue.of(operation, model)
        self.prompt_tokens = metrics.token_usage.of(*labels, "input")
        self.output_tokens = metrics.token_usage.of(*labels, "output")
        self.work: ImageWork | None = ImageWork(metrics, model, card) if operation in IMAGE_OPERATIONS.values() else None


class ImageWork:
    """What images were made; text has no part in it, not even a 0."""

    def __init__(self, metrics: Metrics, model: str, card: str) -> None:
        self.images = metrics.images.labels(model, card)
        self.steps = metrics.steps.labels(model, card)
        self.denoise = metrics.denoise.labels(model, card)
        self.vae = metrics.vae.labels(model, card)


class Metrics:
    """One registry per gateway, so that two of them in one process never meet."""

    def __init__(self, directory: Directory, cards: Sequence[Card]) -> None:
        self.registry = registry = Registry()
        kind = ("gen_ai_operation_name", "gen_ai_request_model", "card")
        self.duration = Histogram("gen_ai_server_request_duration_seconds", "Time from arrival to the end of the answer", kind,
                                  SECONDS, registry)
        self.ttft = Histogram("gen_ai_server_time_to_first_token_seconds", "Time from arrival to the first token of a stream", kind,
                              TTFT_SECONDS, registry)
        self.tpot = Histogram("gen_ai_server_time_per_output_token_seconds", "Time per output token after the first", kind,
                              TOKEN_SECONDS, registry)
        self.token_usage = Histogram("gen_ai_client_token_usage", "Tokens per request, as the engine reports them",
                                     (*kind, "gen_ai_token_type"), TOKENS, registry)
        self.queue = Histogram("rigserve_queue_seconds", "Time in the gateway's queue", kind[:2], SECONDS, registry)
        self.requests = Counter("rigserve_requests", "Requests that ended", ("route", "model", "ending", "code"), registry=registry)
        self.retries = Counter("rigserve_retries", "Requests that were tried on a second backend", ("model",), registry=registry)
        self.gone = Counter("rigserve_client_disconnects", "Clients that left before the end", ("phase",), registry=registry)
        self.fit_rejected = Counter("rigserve_fit_rejected", "Refusals because something does not fit", ("reason",), registry=registry)
        self.failures = Counter("rigserve_backend_failures", "Failed attempts by backend and kind", ("backend", "kind"), registry=registry)
        self.edge = Counter("rigserve_edge_refusals", "Refused or cut before it was a request", ("code",), registry=registry)
        self.images = Counter("rigserve_images", "Images made", ("model", "card"), registry=registry)
        self.steps = Counter("rigserve_denoise_steps", "Denoise steps done", ("model", "card"), registry=registry)
        self.denoise = Counter("rigserve_denoise_seconds", "Time in the denoiser", ("model", "card"), registry=registry)
        self.vae = Counter("rigserve_vae_seconds", "Time in the VAE", ("model", "card"), registry=registry)
        self.log_dropped = Counter("rigserve_log_lines_dropped", "Log lines that nobody took in time", registry=registry)
        self.reloads = Counter("rigserve_config_reloads", "Times the configuration was read again", ("result",), registry=registry)
        self.state = StateCollector(directory, cards)
        registry.register(self.state)
        self._kinds: dict[tuple[str, str, str], OfOneKind] = {}
        self._ended: dict[tuple[str, str, str, str], Counter] = {}

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """Counts ended requests."""
        for outcome in outcomes:
            self._count(outcome)

    def _count(self, outcome: Outcome) -> None:
        model = outcome.model_id or OTHER
        route = outcome.route if outcome.route in OPERATIONS else OTHER
        ended = (route, model, outcome.ending.value, outcome.code or "")
        counter = self._ended.get(ended)
        if counter is None:
            counter = self._ended[ended] = self.requests.labels(*ended)
        counter.inc()
        if outcome.attempts > 1:
            self.retries.labels(model).inc()
        if outcome.ending is Ending.CLIENT_GONE:
            self.gone.labels(outcome.phase).inc()
        if outcome.code in ("model_does_not_fit", "context_length_exceeded", "image_too_large"):
            self.fit_rejected.labels(outcome.code).inc()
        if outcome.backend is not None and outcome.route in OPERATIONS:
            self._measured(outcome, self._kind(OPERATIONS[outcome.route], model, outcome.backend.card.id if outcome.backend.card else ""))

    def _measured(self, outcome: Outcome, kind: OfOneKind) -> None:
        if outcome.queue_s is not None:
            kind.queue.observe(outcome.queue_s)
        if outcome.ending is Ending.SERVED and outcome.ended_s is not None:
            kind.duration.observe(outcome.ended_s - outcome.arrived_s)
        if outcome.first_s is not None:
            kind.ttft.observe(outcome.first_s - outcome.arrived_s)
            tpot_s = outcome.tpot_s
            if tpot_s is not None:
                kind.tpot.observe(tpot_s)
        if outcome.tokens is not None:
            kind.prompt_tokens.observe(outcome.tokens.prompt_tokens)
            kind.output_tokens.observe(outcome.tokens.output_tokens)
        if outcome.images is not None and kind.work is not None:
            kind.work.images.inc(outcome.images.images)
            kind.work.steps.inc(outcome.images.steps or 0)
            kind.work.denoise.inc(outcome.images.denoise_s or 0)
            kind.work.vae.inc(outcome.images.vae_s or 0)

    def _kind(self, operation: str, model: str, card: str) -> OfOneKind:
        key = (operation, model, card)
        found = self._kinds.get(key)
        if found is None:
            found = self._kinds[key] = OfOneKind(self, *key)
        return found

    def text(self) -> bytes:
        """The exposition format, with the state as it is now."""
        return self.registry.text()
