"""What is known of quality: what each quantization costs, and how good each model is beside the others.

Both come from published measurements, each with its source; what nobody measured is None. They rank; they promise nothing about one task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.sizing.types import ModelSpec, Variant

# A variant that loses more than this is offered only when nothing better fits. Every measured 4-bit scheme is below it (NF4, 0.080, the
# most), every 3-bit and 2-bit mix above (Q3_K_L, 0.089, the least).
ACCEPTABLE_LOSS = 0.085
# How models are rated: the benchmark behind `quality` of models/*.yaml, in percent.
BENCHMARK = {"chat": "MMLU-Pro", "image": "GenEval", "embedding": "MTEB"}
# Fewer than this many published scores of a kind say nothing about how scores follow size; then size alone ranks.
FEWEST_SCORES = 4
# "qwen2.5-coder-7b-instruct" -> family "qwen2.5-coder"; models without a size in their id are alone.
_FAMILY = re.compile(r"(.+?)-e?\d+(?:\.\d+)?[bm](?:-|$)")


@dataclass(frozen=True, slots=True)
class Loss:
    """`share` is the relative rise of perplexity against 16 bit: 0.028 is 2.8 %."""

    share: float
    source: str


@dataclass(frozen=True, slots=True)
class Merit:
    """How good a model is, in tens of points of its kind's benchmark (or log2(1 + billions of parameters) where `rated_by_size`), and the
    words that say what that rests on."""

    points: float
    words: str
    rated_by_size: bool = False


_LLAMA_CPP = "Llama 3 8B, wikitext-2: llama.cpp's perplexity README, scoreboard at f364eb6f (16 bit: 6.2316)"
_QSERVE = "Llama 3 8B, wikitext-2: accuracy table of QServe's README (arXiv:2405.04532; 16 bit: 6.14)"
_ANY4 = "Llama 3 8B, wikitext-2: any4's README (arXiv:2507.04610; 16 bit: 6.14), groups of 128; bitsandbytes' groups of 64 lose no more"
_TORCHAO = "Llama 3 8B, wikitext by lm-eval: torchao's quantization README (16 bit: 7.441)"
_FMS = "Llama 3 8B, lambada_openai: FP8 example of fms-model-optimizer (16 bit: 3.8683)"
_NONE = Loss(0.0, "nothing is quantized")
# GGUF perplexities of the scoreboard, without an importance matrix where there is such a row (the IQ types need one).
_LLAMA_CPP_BASE = 6.231636
_LLAMA_CPP_PERPLEXITY = {
    "q8_0": 6.234284, "q6_k": 6.253382, "q5_k_m": 6.288607, "q5_k_s": 6.336598, "q5_1": 6.337857, "q5_0": 6.363224, "q4_k_m": 6.407115,
    "q4_k_s": 6.500529, "iq4_nl": 6.455593, "iq4_xs": 6.459705, "q4_1": 6.682737, "q4_0": 6.700147, "q3_k_l": 6.787876, "q3_k_m": 6.888498,
    "iq3_m": 6.898327, "iq3_xs": 7.163043, "iq3_xxs": 7.458436, "q3_k_s": 7.863786, "iq2_m": 8.600799, "q2_k": 9.751568,
}  # fmt: skip
LOSSES: dict[str, Loss] = {
    **dict.fromkeys(("fp32", "f32", "bf16", "fp16", "f16", "bf16-gguf"), _NONE),
    **{name: Loss(found / _LLAMA_CPP_BASE - 1, _LLAMA_CPP) for name, found in _LLAMA_CPP_PERPLEXITY.items()},
    "mxfp4": Loss(0.0, "gpt-oss was trained in it and exists in no wider form (OpenAI's model card)"),
    "awq-int4": Loss(6.54 / 6.14 - 1, _QSERVE + ", groups of 128; smaller groups lose no more"),
    "gptq-int4": Loss(6.56 / 6.14 - 1, _QSERVE + ", groups of 128, reordered; smaller groups lose no more"),
    "gptq-int8": Loss(7.447 / 7.441 - 1, _TORCHAO + ", weights in 8 bit a row, rounded to nearest: GPTQ in groups loses no more"),
    "int8": Loss(6.28 / 6.14 - 1, _QSERVE + ", SmoothQuant"),
    "bnb-int8": Loss(14.44 / 14.43 - 1, "C4 perplexity at 2.7 B, LLM.int8() in table 1 of arXiv:2208.07339"),
    "fp8": Loss(3.8915 / 3.8683 - 1, _FMS),
    "bnb-nf4": Loss(6.63 / 6.14 - 1, _ANY4),
    "bnb-nf4-dq": Loss(6.63 / 6.14 - 1, _ANY4 + "; its scales in 8 bit cost nothing that shows (arXiv:2305.14314, section 4)"),
}
_ALIASES = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "w8a8": "int8", "fp8-block": "fp8", "fp8_e4m3": "fp8",
    "nf4": "bnb-nf4", "bnb-4bit": "bnb-nf4", "bnb-8bit": "bnb-int8",
}  # fmt: skip


def quality_loss(quant: str) -> Loss | None:
    """What a scheme costs by name (`Q4_K_M`, `awq-int4-g128`, `bnb-nf4` ...); None where no published measurement was found.

    Worked numbers: Q8_0 0.04 %, Q6_K 0.35 %, Q4_K_M 2.8 %, AWQ 6.5 %, NF4 8.0 %, Q3_K_M 10.5 %, Q2_K 56 %.
    """
    name = quant.strip().lower().split(" (")[0]
    name = _ALIASES.get(name, name)
    for method in ("awq", "gptq"):
        if name.startswith((method, "w4a16", "w8a16", "moe_wna16") if method == "gptq" else method):
            bits = next((bits for bits in (8, 4, 3) if f"int{bits}" in name or f"w{bits}" in name), 4)
            name = f"{method}-int{bits}"
    return LOSSES.get(name)


def loss_of(variant: Variant) -> float | None:
    """Quality lost by a variant: the catalogue's own figure, else its scheme's; None: unknown."""
    if variant.quality_loss is not None:
        return variant.quality_loss
    found = quality_loss(variant.quant)
    return found.share if found else None


def loss_order(variant: Variant) -> float:
    """For sorting: least lost first, what nobody measured after everything that was."""
    lost = loss_of(variant)
    return math.inf if lost is None else lost


def acceptable(variant: Variant) -> bool:
    """Whether a variant's loss is known and small enough to be offered before anything else."""
    return loss_order(variant) <= ACCEPTABLE_LOSS


def loss_words(variant: Variant) -> str:
    """`+2.8 % perplexity`, or that nobody measured it."""
    lost = loss_of(variant)
    if variant.quality_loss:
        return f"{100 * variant.quality_loss:.2g} % of quality lost"
    return "quality lost: not measured" if lost is None else "nothing lost" if lost == 0 else f"+{100 * lost:.2g} % perplexity"


def merits(models: Iterable[ModelSpec]) -> dict[str, Merit]:
    """How good each model is beside the others of its kind, by id.

    1. A model with a published score of its kind's benchmark: the score.
    2. Without one: what its size lets expect from those that have one (least squares over log2 of the size), less one standard deviation:
       a model that nobody rated is not taken for better than one that was. Within a family no less than the smaller ones that were
       rated, and no more than the larger ones.
    3. Where fewer than FEWEST_SCORES of a kind have one: log2(1 + billions of parameters) for all of them.

    Worked number for 3: 8 B -> 3.17, 32 B -> 5.04.
    """
    known = list(models)
    found: dict[str, Merit] = {}
    for kind in {model.kind for model in known}:
        mine = [model for model in known if model.kind == kind]
        rated = [model for model in mine if model.quality is not None]
        line = _line([(_size(model), model.quality or 0.0) for model in rated]) if len(rated) >= FEWEST_SCORES else None
        found |= {model.id: _merit(model, line, rated) for model in mine}
    return found


def _merit(model: ModelSpec, line: tuple[float, float, float] | None, rated: list[ModelSpec]) -> Merit:
    billions = f"{model.params / 1e9:.2f} B parameters" if model.params else "size unknown"
    if line is None:
        return Merit(_size(model), f"ranked by size, {billions}: too few published scores", rated_by_size=True)
    name = BENCHMARK[model.kind]
    if model.quality is not None:
        return Merit(model.quality / 10, f"{name} {model.quality:g}, {billions}")
    start, slope, deviation = line
    family = [(_size(other), other.quality or 0.0) for other in rated if _family(other) == _family(model)]
    smaller = [score for size, score in family if size < _size(model)]
    larger = [score for size, score in family if size > _size(model)]
    expected = min([max([1.0, start + slope * _size(model) - deviation, *smaller]), *larger])
    return Merit(expected / 10, f"{name} {expected:.0f} assumed from {billions}: no published score")


def _family(model: ModelSpec) -> str:
    match = _FAMILY.match(model.id)
    return match.group(1) if match else model.id


def _size(model: ModelSpec) -> float:
    return math.log2(1 + (model.params or 0) / 1e9)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Least squares: start, slope and the standard deviation around it. Points of one size give a flat line."""
    count = len(points)
    mean_x, mean_y = (sum(axis) / count for axis in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    start = mean_y - slope * mean_x
    return start, slope, math.sqrt(sum((y - start - slope * x) ** 2 for x, y in points) / count)
