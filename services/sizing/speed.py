"""Predicted speed: decode from memory bandwidth, prefill from compute, images from a published table, loading from the PCIe link.

Every efficiency is measured by somebody and named; where there is no source the prediction is None. A measurement on the farm's own
card replaces all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.sizing.cards import spec_of
from services.sizing.params import active_params, count_params
from services.sizing.speed_data import CMP_STOCK, EFFICIENCY, SD15_IT_S, START_S, Efficiency, link_bytes_per_s
from services.sizing.types import Card, CardSpec, EngineChoice, ImageWorkload, MemoryBill, ModelSpec, Speed, TextGeometry, Workload

# Time of one decode step that does not shrink with the model: launches and sampling. From an RTX 2080, llama.cpp Q4_K_M: 1B 304, 3B 140,
# 8B 71.9 tok/s (a line through 1B and 8B leaves 1.2 ms).
STEP_OVERHEAD_S = 1.2e-3
SD15_DENOISER_PARAMS = 859_520_964
SD15_MEGAPIXELS = 0.25


@dataclass(frozen=True, slots=True)
class _Known:
    spec: CardSpec
    efficiency: Efficiency


def predict(card: Card, model: ModelSpec, choice: EngineChoice, workload: Workload, bill: MemoryBill) -> Speed:
    """The speed of one placement with one request at a time; None where no source supports a figure."""
    load_s = _load_s(card, choice, bill)
    known = _known(card)
    if isinstance(workload, ImageWorkload):
        return Speed(images_per_min=_images_per_min(known, model, workload), load_s=load_s, basis=_basis(known, card))
    if known is None or model.text is None:
        return Speed(load_s=load_s, basis=_basis(known, card))
    return Speed(
        decode_tok_s=decode_tok_s(known.spec, known.efficiency, model.text, bill.weights_bytes),
        prefill_tok_s=prefill_tok_s(known.spec, known.efficiency, model.text), load_s=load_s, basis=_basis(known, card),
    )  # fmt: skip


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
    read_bytes = weights_bytes * active_params(text) / max(1, count_params(text))
    return round(1 / (read_bytes / (spec.bandwidth_bytes_per_s * efficiency.decode) + STEP_OVERHEAD_S), 1)


def prefill_tok_s(spec: CardSpec, efficiency: Efficiency, text: TextGeometry) -> float | None:
    """fp32 FLOPS x factor / (2 x active parameters): the factor says what dp4a or tensor cores make of it.

    Worked number: P40-class Pascal, 7B (6.74e9), 11.76e12 x 0.86 / 13.48e9 = 750 tok/s (851-912 measured).
    """
    if spec.fp32_flops is None:
        return None
    return round(spec.fp32_flops * efficiency.prefill / (2 * active_params(text)), 1)


def _images_per_min(known: _Known | None, model: ModelSpec, workload: ImageWorkload) -> float | None:
    """Steps a second of SD 1.5 at 512 x 512 on this card, scaled by denoiser parameters x area (x 1/2 without guidance).

    Worked number: RTX 3060, SD 1.5, 25 steps: 6.23 it/s -> 15.0 images a minute.
    """
    if known is None or model.image is None or known.spec.key not in SD15_IT_S:
        return None
    denoiser = sum(part.params for part in model.image.components if part.role == "denoiser")
    area = workload.width_px * workload.height_px / (1024 * 1024)
    work = denoiser / SD15_DENOISER_PARAMS * area / SD15_MEGAPIXELS * (1.0 if model.image.uses_cfg else 0.5)
    if work <= 0:
        return None
    return round(60 * SD15_IT_S[known.spec.key] / (work * (workload.steps or model.image.default_steps)), 2)


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


def _basis(known: _Known | None, card: Card) -> str:
    if card.vendor == "cpu":
        return "A CPU's speed is not predicted; it is measured while serving."
    if known is None:
        return "No published speed for this card."
    return f"Predicted for one request at a time from {known.spec.key}'s bandwidth and compute; {known.efficiency.source}."
