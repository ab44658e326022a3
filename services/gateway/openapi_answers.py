"""What the routes answer, as JSON Schema. What comes from the sizing library is described by its own types."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaValue

from services.gateway.power_figures import FIGURES
from services.gateway.settings import WINDOWS_S
from services.keys.key import Role
from services.keys.usage import SUMS
from services.sizing.types import Card, FitReport, MemoryBill, Refusal
from services.wire.worker import WorkerState

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
BOOLEAN: Schema = {"type": "boolean"}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    """null: not known, or not there."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def record(needed: dict[str, Schema], **more: Schema) -> Schema:
    """An object that has at least `needed`; `more` may be there too."""
    return {"type": "object", "required": list(needed), "properties": needed | more}


def listing(items: Schema, **more: Schema) -> Schema:
    """OpenAI's list object."""
    return record({"object": {"const": "list"}, "data": listed(items)} | more)


_CHOICE = {"index": COUNT, "finish_reason": nullable(STRING)}
_USAGE = nullable(record({"prompt_tokens": COUNT, "total_tokens": COUNT}, completion_tokens=COUNT))
CHAT = record(
    {"id": STRING, "object": {"const": "chat.completion"}, "created": COUNT, "model": STRING, "usage": _USAGE,
     "choices": listed(record(_CHOICE | {"message": record({"role": STRING}, content=nullable(STRING))}))},
)  # fmt: skip
COMPLETION = record(
    {"id": STRING, "object": {"const": "text_completion"}, "created": COUNT, "model": STRING, "usage": _USAGE,
     "choices": listed(record(_CHOICE | {"text": STRING}))},
)  # fmt: skip
EMBEDDINGS = listing(record({"object": {"const": "embedding"}, "index": COUNT, "embedding": {"anyOf": [listed(NUMBER), STRING]}}),
                     model=STRING, usage=_USAGE)
RERANKING = record({"model": STRING, "results": listed(record({"index": COUNT, "relevance_score": NUMBER},
                                                              document=record({"text": STRING})))}, usage=_USAGE)
_DIALECT_USAGE = nullable(record({"input_tokens": COUNT, "output_tokens": COUNT}))
MESSAGE = record({"type": {"const": "message"}, "role": STRING, "content": listed(record({"type": STRING}))}, usage=_DIALECT_USAGE)
RESPONSE = record({"object": {"const": "response"}, "status": STRING, "output": listed(record({"type": STRING}))}, usage=_DIALECT_USAGE)
IMAGES = record(
    {"created": COUNT, "data": listed({"anyOf": [record({"b64_json": STRING}, url=STRING), record({"url": STRING})]})},
    usage={"type": "object"},
)  # fmt: skip
MODEL = record(
    {"id": STRING, "object": {"const": "model"}, "created": COUNT, "owned_by": STRING, "state": {"enum": [str(s) for s in WorkerState]},
     "kind": nullable({"enum": ["text", "image", "embedding", "rerank"]}), "engines": listed(STRING), "cards": listed(STRING),
     "simulated": BOOLEAN, "aliases": listed(STRING)},
    max_model_len=nullable(COUNT), largest_image=record({"width_px": COUNT, "height_px": COUNT}),
)  # fmt: skip
FIT = record({"object": {"const": "fit"}, "model": STRING, "fits": BOOLEAN, "reports": listed(ref("FitReport"))})

_BACKEND = {
    "id": STRING, "model_id": STRING, "engine": nullable(STRING), "state": {"enum": [str(state) for state in WorkerState]},
    "state_for_s": NUMBER, "reason": nullable(STRING), "breaker": STRING, "ejected": BOOLEAN, "slots": COUNT, "in_flight": COUNT,
    "served": COUNT, "failed": COUNT, "failures": {"type": "object", "additionalProperties": COUNT}, "measured_unit_s": nullable(NUMBER),
}  # fmt: skip
_PLACEMENT = record(_BACKEND | {"variant_id": STRING, "quant": STRING, "choice": {"type": "object"}, "workload": {"type": "object"},
                                "bill": nullable(ref("MemoryBill")), "predicted_speed": {"type": ["object", "null"]},
                                "status": {"type": ["object", "null"]}})
_CARD = {"allOf": [ref("Card"), record({
    "planned_bytes": nullable(COUNT), "resident_bytes": nullable(COUNT), "placements": listed(_PLACEMENT), "state": nullable(STRING),
    "state_reason": nullable(STRING), "telemetry": {"type": ["object", "null"]},
})]}  # fmt: skip
CARDS = listing(_CARD, backends=listed(record(_BACKEND | {"url": STRING})), refusals=listed(ref("Refusal")), notes=listed(STRING))

_PERCENTILES = record({"p50": nullable(NUMBER), "p95": nullable(NUMBER), "p99": nullable(NUMBER), "n": COUNT})
_REASONS: Schema = {"type": "object", "additionalProperties": STRING}
_RATES = ("requests_per_s", "failed_per_s", "prompt_tokens_per_s", "output_tokens_per_s", "images_per_s", "denoise_steps_per_s")
_ENTRY = {
    "running": COUNT, **{name: nullable(NUMBER) for name in _RATES}, "ttft_s": _PERCENTILES, "tpot_s": _PERCENTILES,
    "queue_s": _PERCENTILES, "reasons": _REASONS, "error_share": nullable(NUMBER),
    "peak_output_tokens_per_s": nullable(record({"value": NUMBER, "at": nullable(STRING), "over_s": NUMBER})),
}  # fmt: skip
_POWER = {name: nullable(NUMBER) for name in FIGURES}
_ENTRY |= {"serving": record({"joules": nullable(NUMBER), **_POWER, "reasons": _REASONS})}
_DRAWN = {"watts": nullable(NUMBER), "energy_source": {"enum": ["counter", "integrated", "mixed", "unavailable"]}, **_POWER}
_CAPACITY = {"capacity": record({
    "knee_rps": nullable(NUMBER), "knee_output_tokens_per_s": nullable(NUMBER), "saturated_rps": nullable(NUMBER),
    "measured_at": nullable(STRING), "report": nullable(STRING), "load": nullable(NUMBER), "reason": nullable(STRING),
})}  # fmt: skip
_PREDICTED = record({
    "output_tokens_per_s": nullable(record({"low": NUMBER, "high": nullable(NUMBER)})), "prompt_tokens_per_s": nullable(NUMBER),
    "images_per_s": nullable(NUMBER), "basis": nullable(STRING), "output_tokens_per_s_per_request": nullable(NUMBER),
    "measured_alone": record({"output_tokens_per_s": nullable(NUMBER), "images_per_min": nullable(NUMBER)}),
    "of_predicted": nullable(NUMBER), "reasons": _REASONS,
})  # fmt: skip
_SEEN = {
    "state": nullable(STRING), "state_reason": nullable(STRING), "total_bytes": COUNT, "used_bytes": nullable(COUNT),
    "temperature_c": nullable(NUMBER), "power_watts": nullable(NUMBER), "throttle_reasons": nullable(listed(STRING)),
    "pcie_generation": nullable(COUNT), "pcie_width": nullable(COUNT), "pcie_replays": nullable(COUNT), "energy_known_s": NUMBER,
}  # fmt: skip
_REFUSED = {"refused": {"type": "object", "additionalProperties": COUNT}}
_WINDOW = record({
    "object": {"const": "throughput"}, "window": {"enum": list(WINDOWS_S)}, "window_s": COUNT, "covered_s": NUMBER, "as_of": STRING,
    "windows": listed(STRING), "counted_from": STRING, "totals": record(_ENTRY | _DRAWN | _REFUSED | {"waiting": COUNT}),
    "tariff": nullable(record({"per_kwh": NUMBER, "currency": STRING})), "tariff_reason": nullable(STRING),
    "cards": listed(record(_ENTRY | _DRAWN | _SEEN | _CAPACITY | {"id": STRING, "name": STRING, "simulated": BOOLEAN,
                                                                  "models": listed(STRING)})),
    "backends": listed(record(_ENTRY | {
        "id": STRING, "card": nullable(STRING), "card_name": nullable(STRING), "simulated": nullable(BOOLEAN), "model": STRING,
        "kind": nullable(STRING), "engine": nullable(STRING), "state": STRING, "slots": nullable(COUNT), "predicted": _PREDICTED,
    })),
    "models": listed(record(_ENTRY | _REFUSED | _CAPACITY | {"id": STRING, "kind": nullable(STRING), "cards": listed(STRING),
                                                             "waiting": COUNT})),
})  # fmt: skip
THROUGHPUT = {"anyOf": [_WINDOW, listing(_WINDOW)]}

_SUMS = {name: NUMBER if name == "seconds" else COUNT for name in SUMS} | {"joules": nullable(NUMBER)}
USAGE = listing(record({"day": STRING, "key_id": nullable(STRING), "key_name": nullable(STRING), "model": STRING, "card": nullable(STRING),
                        **_SUMS}), totals=record(_SUMS))
KEY = record({
    "id": STRING, "name": STRING, "prefix": STRING, "role": {"enum": [str(role) for role in Role]},
    "state": {"enum": ["active", "expired", "revoked"]}, "models": nullable(listed(STRING)), "limits": {"type": "object"},
    "created_at": NUMBER, "expires_at": nullable(NUMBER), "revoked_at": nullable(NUMBER),
})  # fmt: skip
NEW_KEY = {"allOf": [KEY, record({"key": {"type": "string", "description": "The secret. It is shown here and never again."}})]}
AUDIT = record({"at": NUMBER, "actor": STRING, "act": STRING, "key_id": nullable(STRING), "detail": {"type": "object"}})
ME = record({"object": {"const": "caller"}, "keyed": BOOLEAN, "key_id": nullable(STRING), "name": nullable(STRING),
             "role": {"enum": [str(role) for role in Role]}, "models": nullable(listed(STRING))})
REFUSAL = record({
    "model": nullable(STRING), "route": STRING, "status": COUNT, "code": STRING, "message": STRING, "param": nullable(STRING),
    "count": COUNT, "first_at": STRING, "at": STRING, "key_id": nullable(STRING), "fit": listed({"type": "object"}),
})  # fmt: skip
CATALOGUE = record({
    "object": {"const": "catalogue"}, "models": listed(record({"id": STRING, "kind": STRING, "variants": listed(record({"id": STRING}))})),
    "cards": listed(record({"key": STRING, "vendor": STRING, "vram_bytes": nullable(COUNT)})),
})  # fmt: skip
_LINES = listed(record({"id": STRING}, output_tokens_per_s=listed(nullable(NUMBER)), denoise_steps_per_s=listed(nullable(NUMBER))))
HISTORY = record({"object": {"const": "throughput_history"}, "bucket_s": COUNT, "ends_s_ago": NUMBER, "cards": _LINES, "models": _LINES})


def components() -> dict[str, Schema]:
    """Schemas that are referred to by name: the sizing library's types, with what its `to_json` adds to them."""
    adapters: list[tuple[str, Any, TypeAdapter[Any]]] = [
        (kind.__name__, "serialization", TypeAdapter(kind)) for kind in (Card, FitReport, MemoryBill, Refusal)
    ]
    _, made = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
    found: dict[str, JsonSchemaValue] = made["$defs"]
    found["FitReport"]["properties"] |= {
        "fits": BOOLEAN, "variant": nullable(STRING), "engine": nullable(STRING), "dtype": nullable(STRING),
    }  # fmt: skip
    found["MemoryBill"]["properties"] |= {"total_bytes": COUNT}
    return found
