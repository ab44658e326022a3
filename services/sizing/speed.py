"""Predicted speed: decode from memory bandwidth, prefill from compute, images from a published table, loading from the PCIe link.

Every efficiency is measured by somebody and named; where there is no source the prediction is None. A measurement on the farm's own
card replaces all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from services.sizing.cards import spec_of
from services.sizing.params import active_params, count_params
from services.sizing.speed_data import (
    CMP_STOCK,
    EFFICIENCY,
    PASCAL_SMALL_QUANT_SHARE,
    SD15_IT_S,
    SD15_STEP_FLOP,
    START_S,
    UNET_FLOP_PER_PARAM_MPX,
    VAE_FLOP_PER_MPX,
    Efficiency,
    link_bytes_per_s,
)
from services.sizing.types import Card, CardSpec, EngineChoice, ImageWorkload, MemoryBill, ModelSpec, Speed, TextGeometry, Workload

# Time of one decode step that does not shrink with the model: launches and sampling. From an RTX 2080, llama.cpp Q4_K_M: 1B 304, 3B 140,
# 8B 71.9 tok/s (a line through 1B and 8B leaves 1.2 ms).
STEP_OVERHEAD_S = 1.2e-3
# A step far smaller than the measured one is bound by launches, whose cost nobody published: below this share nothing is predicted.
SMALLEST_SHARE_OF_A_MEASURED_STEP = 0.25


@dataclass(frozen=True, slots=True)
class _Known:
    spec: CardSpec
    efficiency: Efficiency


def predict(card: Card, model: ModelSpec, choice: EngineChoice, workload: Workload, bill: MemoryBill, quant: str = "") -> Speed:
    """The speed of one placement with one request at a time; None where no source supports a figure."""
    load_s = _load_s(card, choice, bill)
    if isinstance(workload, ImageWorkload):
        images, basis = _images(card, model, choice, workload)
        return Speed(images_per_min=images, load_s=load_s, basis=basis)
    known = _known(card)
    if known is None or model.text is None:
        return Speed(load_s=load_s, basis=_text_basis(known, card, None))
    if known.spec.architecture == "Pascal" and quant.upper().startswith(("Q2_K", "Q3_K")):
        slower = replace(known.efficiency, decode=known.efficiency.decode * PASCAL_SMALL_QUANT_SHARE)
        known = replace(known, efficiency=slower)
    decode = decode_tok_s(known.spec, known.efficiency, model.text, bill.weights_bytes) if model.kind == "chat" else None
    return Speed(
        decode_tok_s=decode, prefill_tok_s=prefill_tok_s(known.spec, known.efficiency, model.text), load_s=load_s,
        basis=_text_basis(known, card, decode),
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _params(text: TextGeometry) -> tuple[int, int]:
    """(parameters that a token meets, all parameters)."""
    return active_params(text), max(1, count_params(text))


def _known(card: Card) -> _Known | None:
    spec = spec_of(card)
    if spec is None:
        return None
    stock = spec.key.startswith("CMP") and card.profile != "unlocked"
    efficiency = CMP_STOCK.get(spec.key) if stock else EFFICIENCY.get(spec.architecture or "")
    return _Known(spec, efficiency) if efficiency else None


def decode_tok_s(spec: CardSpec, efficiency: Efficiency, text: TextGeometry, weights_bytes: int) -> float | None:
    """bandwidth x efficiency / bytes read a token, plus a fixed step time. An MoE token reads its share of the experts only.

    Worked number: RTX 3060 Ti, 8B Q4_K_M on the card (4.62 GB), efficiency 0.70: 448e9 x 0.70 / 4.62e9 -> 14.7 ms + 1.2 ms = 62.8 tok/s
    (60.2 measured).
    """
    if spec.bandwidth_bytes_per_s is None:
        return None
    active, everything = _params(text)
    read_bytes = weights_bytes * active / everything
    return round(1 / (read_bytes / (spec.bandwidth_bytes_per_s * efficiency.decode) + STEP_OVERHEAD_S), 1)


def prefill_tok_s(spec: CardSpec, efficiency: Efficiency, text: TextGeometry) -> float | None:
    """fp32 FLOPS x factor / (2 x active parameters): the factor says what dp4a or tensor cores make of it.

    Worked number: P40-class Pascal, 7B (6.74e9), 11.76e12 x 0.86 / 13.48e9 = 750 tok/s (851-912 measured).
    """
    if spec.fp32_flops is None:
        return None
    return round(spec.fp32_flops * efficiency.prefill / (2 * _params(text)[0]), 1)


def _images(card: Card, model: ModelSpec, choice: EngineChoice, workload: ImageWorkload) -> tuple[float | None, str]:
    """(images a minute, what that rests on).

    1. A card that nobody measured: unknown. 2. A denoiser that is no UNet, or parts that wait in host RAM: nothing measured to scale from.
    3. A step below a quarter of the measured one (a tiny model, a tiny picture): bound by launches, whose cost is not known.
    4. Steps a second of SD 1.5 at 512 x 512 with guidance on this card, scaled by the FLOP of this model's steps and of its VAE.
    """
    spec = spec_of(card)
    # 1
    if card.vendor == "cpu":
        return None, CPU_BASIS
    if spec is None or spec.key not in SD15_IT_S:
        return None, "No published image speed for this card."
    # 2
    if model.image is None or model.image.pipeline not in UNET_FLOP_PER_PARAM_MPX:
        return None, "Not predicted: the published speeds are of UNet models, and this is none."
    if choice.offload != "none":
        return None, "Not predicted: its parts cross the PCIe link for every image."
    # 3
    denoiser = sum(part.params for part in model.image.components if part.role == "denoiser")
    mpx = workload.width_px * workload.height_px / 1024**2
    step_flop = denoiser * mpx * UNET_FLOP_PER_PARAM_MPX[model.image.pipeline] * (2 if model.image.uses_cfg else 1)
    if step_flop < SMALLEST_SHARE_OF_A_MEASURED_STEP * SD15_STEP_FLOP:
        return None, "Not predicted: its steps are so small that the fixed cost of a step, which nobody published, is most of their time."
    # 4
    image_flop = step_flop * (workload.steps or model.image.default_steps) + VAE_FLOP_PER_MPX * mpx
    source = f"{spec.key}: {SD15_IT_S[spec.key]} steps a second of SD 1.5 at 512 x 512 (median of published runs)"
    return round(images_per_min(SD15_IT_S[spec.key], image_flop), 2), f"Predicted from {source}, scaled by the model's FLOP."


def images_per_min(sd15_steps_per_s: float, image_flop: float) -> float:
    """60 s x the FLOP a second of the measured SD 1.5 run / the FLOP of one image (all steps and the VAE; text encoders are left out).

    Worked number: RTX 3060, 6.23 steps/s x 1.607e12 = 1.0e13 FLOP/s; SD 1.5 in 25 steps is 25 x 1.607e12 + 2.515e12 = 4.27e13 FLOP, so
    14.1 images a minute.
    """
    return 60 * sd15_steps_per_s * SD15_STEP_FLOP / image_flop


def _load_s(card: Card, choice: EngineChoice, bill: MemoryBill) -> float | None:
    """Bytes over the link as it is now, plus the engine's own start. None when the link is not known.

    Worked number: 8e9 bytes over Gen1 x1 at 0.20e9 B/s = 40 s.
    """
    start_s = START_S[choice.engine]
    if card.vendor == "cpu":
        return start_s
    if card.link is None or card.link.generation is None or card.link.width is None:
        return None
    return round(bill.weights_bytes / link_bytes_per_s(card.link.generation, card.link.width) + start_s, 1)


CPU_BASIS = "A CPU's speed is not predicted; it is measured while serving."


def _text_basis(known: _Known | None, card: Card, decode: float | None) -> str:
    if card.vendor == "cpu":
        return CPU_BASIS
    if known is None:
        return "No published speed for this card."
    fixed = ""
    if decode is not None and decode * STEP_OVERHEAD_S > 0.5:
        fixed = " Most of a token's time is the fixed cost of a step, taken from one card (1.2 ms): a slow host makes it longer."
    return f"Predicted for one request at a time from {known.spec.key}'s bandwidth and compute; {known.efficiency.source}.{fixed}"
