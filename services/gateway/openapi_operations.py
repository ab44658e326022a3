"""Every route with what it takes and what it answers. Who may ask stands in access.py, what a field may be in the tables that check it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from services.gateway import openapi_answers as answers
from services.gateway.checks import Check
from services.gateway.dialects import MESSAGES_API, RESPONSES_API
from services.gateway.fields import CHAT, COMPLETION
from services.gateway.fit_request import FIELDS as FIT
from services.gateway.image_fields import EDIT, IMAGE
from services.gateway.openapi_answers import STRING, Schema, listing
from services.gateway.pooling_fields import EMBEDDING, RERANK
from services.gateway.settings import WINDOWS_S
from services.keys.key import UNITS, Role
from services.keys.key import WINDOWS_S as LIMIT_WINDOWS_S
from services.keys.wish import MAX_LIFE_S, MAX_MODELS, MAX_NAME, MOST
from services.wire.errors import (
    ApiError,
    BackendFailed,
    BackendOutOfMemory,
    BackendStarting,
    ContextLengthExceeded,
    DeadlineExceeded,
    IdempotencyConflict,
    ImageTooLarge,
    KeysUnavailable,
    ModelDoesNotFit,
    ModelNotFound,
    NoAvailableWorker,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    RouteNotFound,
)

JSON = "application/json"
SSE = "text/event-stream"
MODEL_ERRORS: tuple[type[ApiError], ...] = (
    ModelNotFound, IdempotencyConflict, ModelDoesNotFit, QueueFull, RateLimited, QuotaExceeded, BackendOutOfMemory, BackendFailed,
    BackendStarting, NoAvailableWorker, DeadlineExceeded,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operation:
    """`answers`: media type to schema, of the answer `status`. `takes`: schema of the JSON body. `errors`: beside those of every route."""

    summary: str
    answers: dict[str, Schema]
    takes: Schema | None = None
    example: dict[str, Any] | None = None
    errors: tuple[type[ApiError], ...] = ()
    query: dict[str, Schema] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    form: bool = False
    status: int = 200


def body_of(table: dict[str, Check], required: tuple[str, ...], others: bool = True) -> Schema:
    """A table of fields as a schema. null is as good as absent; `others`: what the table lacks is left out, or refused."""
    properties = {name: {"anyOf": [check.schema, {"type": "null"}]} for name, check in table.items()}
    properties |= {name: table[name].schema for name in required}
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": others}


_ORDINARY = {"model": "llama-3.2-1b-instruct", "max_tokens": 32}
_MOST: Schema = {"type": ["integer", "null"], "minimum": 0, "maximum": MOST}
LIMITS: Schema = {"type": ["object", "null"], "additionalProperties": False, "properties": {
    **{unit: {"type": ["object", "null"], "additionalProperties": False, "properties": dict.fromkeys(LIMIT_WINDOWS_S, _MOST)}
       for unit in UNITS},
    "concurrency": _MOST | {"minimum": 1},
}}  # fmt: skip
_NEW_KEY: Schema = {"type": "object", "required": ["name"], "additionalProperties": False, "properties": {
    "name": {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
    "role": {"enum": [*map(str, Role), None]},
    "models": {"anyOf": [{"type": "array", "minItems": 1, "maxItems": MAX_MODELS,
                          "items": {"type": "string", "minLength": 1, "maxLength": 256}}, {"type": "null"}]},
    "limits": LIMITS,
    "expires_in_s": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": MAX_LIFE_S},
}}  # fmt: skip
_DAY = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "description": "A day of UTC, like 2026-11-22."}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/healthz"): Operation("Whether the process lives", {JSON: answers.record({"status": {"const": "ok"}})}),
    ("GET", "/readyz"): Operation("Whether a model can be asked", {JSON: answers.record({"status": {"const": "ready"}})},
                                  errors=(NoAvailableWorker,)),
    ("GET", "/openapi.json"): Operation("This document", {JSON: {"type": "object", "required": ["openapi", "paths"]}}),
    ("GET", "/metrics"): Operation("Prometheus metrics, text format 0.0.4", {"text/plain": STRING}),
    ("POST", "/v1/chat/completions"): Operation(
        "Chat, whole or as a stream", {JSON: answers.CHAT, SSE: STRING}, body_of(CHAT, ("model", "messages")),
        _ORDINARY | {"messages": [{"role": "user", "content": "Say hello."}]}, (ContextLengthExceeded, *MODEL_ERRORS),
        headers=("idempotency-key",),
    ),
    ("POST", "/v1/completions"): Operation(
        "Text that goes on, whole or as a stream", {JSON: answers.COMPLETION, SSE: STRING}, body_of(COMPLETION, ("model", "prompt")),
        _ORDINARY | {"prompt": "Once upon a time"}, (ContextLengthExceeded, *MODEL_ERRORS), headers=("idempotency-key",),
    ),
    ("POST", "/v1/embeddings"): Operation(
        "A vector for each text", {JSON: answers.EMBEDDINGS}, body_of(EMBEDDING, ("model", "input")),
        {"model": "bge-m3", "input": ["What is a riser?", "A riser carries PCIe over a cable."]},
        (ContextLengthExceeded, *MODEL_ERRORS), headers=("idempotency-key",),
    ),
    ("POST", "/v1/rerank"): Operation(
        "Documents by how well they answer a query", {JSON: answers.RERANKING}, body_of(RERANK, ("model", "query", "documents")),
        {"model": "my-reranker", "query": "What is a riser?", "documents": ["A cable.", "A riser carries PCIe over a cable."], "top_n": 1},
        (ContextLengthExceeded, *MODEL_ERRORS), headers=("idempotency-key",),
    ),
    ("POST", "/v1/messages"): Operation(
        "A chat as Anthropic's API has it, whole or as a stream", {JSON: answers.MESSAGE, SSE: STRING},
        body_of(MESSAGES_API, ("model", "max_tokens", "messages")), _ORDINARY | {"messages": [{"role": "user", "content": "Say hello."}]},
        (ContextLengthExceeded, *MODEL_ERRORS), headers=("idempotency-key",),
    ),
    ("POST", "/v1/responses"): Operation(
        "A chat as OpenAI's Responses API has it, whole or as a stream; nothing is kept", {JSON: answers.RESPONSE, SSE: STRING},
        body_of(RESPONSES_API, ("model", "input")), {"model": "llama-3.2-1b-instruct", "max_output_tokens": 32, "input": "Say hello."},
        (ContextLengthExceeded, *MODEL_ERRORS), headers=("idempotency-key",),
    ),
    ("POST", "/v1/images/generations"): Operation(
        "Images from words", {JSON: answers.IMAGES, SSE: STRING}, body_of(IMAGE, ("prompt",)),
        {"model": "sd-1.5", "prompt": "a lighthouse", "steps": 20}, (ImageTooLarge, *MODEL_ERRORS), headers=("idempotency-key",),
    ),
    ("POST", "/v1/images/edits"): Operation(
        "Images from an image", {JSON: answers.IMAGES, SSE: STRING}, body_of(EDIT, ("prompt", "images")),
        {"model": "sd-1.5", "prompt": "at night", "images": [{"image_url": "data:image/png;base64,iVBORw0KGgo..."}]},
        (ImageTooLarge, *MODEL_ERRORS), headers=("idempotency-key",), form=True,
    ),
    ("GET", "/v1/images/files/{name}"): Operation(
        "A picture that was asked for with response_format url, for the key that made it",
        {f"image/{kind}": {"type": "string", "contentMediaType": f"image/{kind}"} for kind in ("png", "jpeg", "webp")},
        errors=(RouteNotFound,),
    ),
    ("GET", "/v1/models"): Operation("The models that this key may use", {JSON: listing(answers.MODEL)}),
    ("GET", "/v1/models/{name:path}"): Operation("One of them", {JSON: answers.MODEL}, errors=(ModelNotFound, RouteNotFound)),
    ("GET", "/v1/cards"): Operation("Cards, and what is placed on them", {JSON: answers.CARDS}),
    ("GET", "/v1/throughput"): Operation(
        "How fast each card and model is, from real traffic", {JSON: answers.THROUGHPUT},
        query={"window": {"type": "string", "enum": [*WINDOWS_S, "all"], "default": "1m"}},
    ),
    ("POST", "/v1/fit"): Operation(
        "Would this model fit these cards? With the arithmetic", {JSON: answers.FIT}, body_of(FIT, ("model",), others=False),
        {"model": "llama-3.2-1b-instruct", "cards": "RTX 3060 Ti:1", "context_tokens": 4096}, (ModelNotFound,),
    ),
    ("GET", "/v1/usage"): Operation(
        "What was used, by day, key, model and card", {JSON: answers.USAGE, "text/csv": STRING}, errors=(KeysUnavailable,),
        query={"from": _DAY, "to": _DAY, "format": {"type": "string", "enum": ["json", "csv"], "default": "json"},
               "key": {"type": "string", "pattern": "^[a-z0-9_]{0,32}$", "description": "Admin keys only: of this key."}},
    ),
    ("GET", "/v1/me"): Operation("Who asks, as far as this gateway is concerned", {JSON: answers.ME}),
    ("GET", "/v1/refusals"): Operation("The last refusals of this key, and why; an admin key sees all", {JSON: listing(answers.REFUSAL)}),
    ("GET", "/v1/catalogue"): Operation("Models and cards that a question to /v1/fit may name", {JSON: answers.CATALOGUE}),
    ("GET", "/v1/throughput/history"): Operation("The last minutes of every card and model", {JSON: answers.HISTORY}),
    ("GET", "/dashboard"): Operation("The dashboard", {"text/html": STRING}),
    ("GET", "/dashboard/{name}"): Operation(
        "Its files", dict.fromkeys(("text/html", "text/javascript", "text/css", "image/svg+xml"), STRING), errors=(RouteNotFound,),
    ),
    ("GET", "/admin/keys"): Operation("All keys, without their secrets", {JSON: listing(answers.KEY)}),
    ("POST", "/admin/keys"): Operation(
        "Make a key", {JSON: answers.NEW_KEY}, _NEW_KEY, {"name": "alice", "limits": {"requests": {"minute": 60}}}, status=201,
    ),
    ("PATCH", "/admin/keys/{key_id}"): Operation(
        "New limits for a key", {JSON: answers.KEY},
        {"type": "object", "required": ["limits"], "additionalProperties": False, "properties": {"limits": LIMITS}},
        {"limits": {"tokens": {"day": 100000}, "concurrency": 4}}, (RouteNotFound,),
    ),
    ("DELETE", "/admin/keys/{key_id}"): Operation("Revoke a key", {JSON: answers.KEY}, errors=(RouteNotFound,)),
    ("POST", "/admin/models/{what}"): Operation(
        "Load, unload, pin or unpin a model that is loaded on demand", {JSON: answers.MODEL},
        {"type": "object", "required": ["model"], "additionalProperties": False, "properties": {"model": {"type": "string"}}},
        {"model": "sd-1.5"}, (ModelNotFound, RouteNotFound), status=202,
    ),
    ("GET", "/admin/audit"): Operation("What administrators did", {JSON: listing(answers.AUDIT)}),
}
