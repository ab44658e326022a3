"""The question of `POST /v1/fit`: would this model, at this workload, fit these cards?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from services.gateway.body import parse_object, shown_name
from services.gateway.checks import Check, integer, one_of, text
from services.sizing.cards import CardParseError, parse_cards
from services.sizing.types import Card, Engine, ImageWorkload, ModelSpec, TextWorkload, Workload
from services.wire.errors import InvalidValue

ENGINES = {"vllm": Engine.VLLM, "llamacpp": Engine.LLAMACPP, "llama.cpp": Engine.LLAMACPP, "diffusers": Engine.DIFFUSERS}
DEFAULT_CONTEXT_TOKENS = 4096

FIELDS: dict[str, Check] = {
    "model": text(256, empty=False),
    "variant": text(128, empty=False),
    "engine": one_of(*ENGINES),
    "cards": text(2000, empty=False),
    "context_tokens": integer(1, 2**24),
    "sequences": integer(1, 4096),
    "width_px": integer(8, 2**16),
    "height_px": integer(8, 2**16),
    "batch": integer(1, 256),
    "steps": integer(1, 10_000),
}
TEXT_FIELDS = ("context_tokens", "sequences")
IMAGE_FIELDS = ("width_px", "height_px", "batch", "steps")


@dataclass(frozen=True, slots=True)
class FitRequest:
    """`cards` None: those of the plan."""

    body: dict[str, Any]
    model: str
    engine: Engine | None
    cards: tuple[Card, ...] | None

    def variant_of(self, spec: ModelSpec) -> str | None:
        """The id of the variant that is named by its id or its quantization. Raises InvalidValue when the model has none such."""
        wish = self.body.get("variant")
        if wish is None:
            return None
        for variant in spec.variants:
            if wish.casefold() in (variant.id.casefold(), variant.quant.casefold()):
                return variant.id
        known = ", ".join(sorted({variant.id for variant in spec.variants}))
        raise InvalidValue(f"{spec.id} has no such variant; it has {known}.", param="variant")

    def workload_for(self, spec: ModelSpec) -> Workload | None:
        """The workload asked for; what was left out is the usual. None when nothing was said: the sizing library takes its default."""
        wrong = TEXT_FIELDS if spec.kind == "image" else IMAGE_FIELDS
        for name in wrong:
            if self.body.get(name) is not None:
                right = ", ".join(IMAGE_FIELDS if spec.kind == "image" else TEXT_FIELDS)
                raise InvalidValue(f"{spec.id} is a model of kind {spec.kind}; its workload is {right}.", param=name)
        given = {name: self.body[name] for name in (*TEXT_FIELDS, *IMAGE_FIELDS) if self.body.get(name) is not None}
        if not given:
            return None
        if spec.image is not None:
            width = given.get("width_px") or given.get("height_px") or spec.image.native_px
            return ImageWorkload(width, given.get("height_px") or width, given.get("batch", 1), given.get("steps"))
        limit = spec.text.max_position_embeddings if spec.text else DEFAULT_CONTEXT_TOKENS
        return TextWorkload(given.get("context_tokens") or min(DEFAULT_CONTEXT_TOKENS, limit), given.get("sequences", 1))


def read_fit_request(raw: bytes) -> FitRequest:
    """Parses and checks. An unknown field is an error: a misspelt one would change the answer. Raises InvalidValue with param."""
    body = parse_object(raw)
    for name, value in body.items():
        check = FIELDS.get(name)
        if check is None:
            known = ", ".join(FIELDS)
            raise InvalidValue(f"{shown_name(name)} is not a field of this route; the fields are {known}.", param=shown_name(name))
        if value is not None:
            check.test(name, value)
    if body.get("model") is None:
        raise InvalidValue("model is required.", param="model")
    engine = body.get("engine")
    return FitRequest(body, body["model"], ENGINES[engine] if engine else None, _cards(body.get("cards")))


def _cards(described: str | None) -> tuple[Card, ...] | None:
    if described is None:
        return None
    try:
        return parse_cards(described)
    except CardParseError as error:
        raise InvalidValue(str(error), param="cards") from None
