"""Is a mining card (CMP) throttled as sold, or unlocked? Decided from what a micro-benchmark measured, never from the name alone.

Stock firmware slows some instructions and leaves others alone, and differs by product. The measured figures behind the thresholds are
those of engines table section 8 and the card table (xrip, PixelML, WildFlash1st, duggasco, Cyridd, the paper by iluyf).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.sizing.types import CardSpec

# Each lies between the published stock and unlocked figures, as shares of the table's fp32 rate unless said otherwise.
# FMA / mul+add: 50HX stock 0.427 / 5.9 = 0.07, 170HX stock 0.39 / 6.25 = 0.06; where FMA is free it does in one instruction what the
# others do in two: 2.
LEAST_FMA_PER_MUL_ADD = 1.0
# 90HX stock 1/8 to 1/14, 50HX 0.04, 170HX 0.03; 50HX unlocked 13.5 / 11.07 = 1.2, 100-210 12.76 / 11.75 = 1.1.
LEAST_FMA_SHARE = 0.5
# 40HX stock 7.9 / 7.6 = 1.0, unlocked 51.7 / 7.6 = 6.8; 50HX unlocked 87 / 11.07 = 7.9; 100-210 7.1 / 11.75 = 0.6.
LEAST_TENSOR_SHARE = 3.0
# 50HX stock 1.69 / 11.07 = 0.15, unlocked 48 / 11.07 = 4.3; 100-210 17 / 11.75 = 1.4, called full speed; P106-100 16.65 / 4.375 = 3.8.
LEAST_DP4A_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class ProbeFigures:
    """What services/hardware/probe_cuda.py measured on one card. None: could not be measured there."""

    name: str
    total_bytes: int | None = None
    fp32_fma_flops: float | None = None
    fp32_mul_add_flops: float | None = None
    hfma2_flops: float | None = None
    dp4a_ops_per_s: float | None = None
    hgemm_flops: float | None = None
    bandwidth_bytes_per_s: float | None = None
    host_to_card_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """`profile` None: not a card that is sold throttled, or nothing could be measured. `reasons` are sentences with the figures."""

    profile: Literal["stock", "unlocked"] | None
    reasons: tuple[str, ...]


def profile_of(figures: ProbeFigures, spec: CardSpec | None) -> Profile:
    """1. A card that is no CMP card is sold whole: no profile.
    2. FMA slower than mul+add, or than half of the table's fp32 rate: stock.
    3. Tensor cores that the chip has, but that do less than three times fp32: stock.
    4. dp4a below 0.7 of fp32: stock.
    5. A chip without tensor cores has no other profile: stock.
    6. All of 2 to 4 measured, and nothing slow: unlocked. Something not measured: not decided.
    """
    # 1
    if spec is None or not spec.key.startswith("CMP"):
        return Profile(None, (f"{figures.name} is not sold throttled, so it has no profile.",))
    fp32, fma, mul_add = spec.fp32_flops, figures.fp32_fma_flops, figures.fp32_mul_add_flops
    checks = [
        # 2
        _ratio("fp32 FMA", fma, "mul+add", mul_add, LEAST_FMA_PER_MUL_ADD),
        _ratio("fp32 FMA", fma, "the table's fp32 rate", fp32, LEAST_FMA_SHARE),
        # 3
        _ratio("half-precision matrices", figures.hgemm_flops, "the table's fp32 rate", fp32, LEAST_TENSOR_SHARE),
        # 4
        _ratio("dp4a", figures.dp4a_ops_per_s, "the table's fp32 rate", fp32, LEAST_DP4A_SHARE),
    ]
    # 5
    if spec.has_tensor_cores is False:
        return Profile("stock", (f"{spec.key} has no tensor cores: there is nothing to unlock that rigserve would run differently.",))
    slow = tuple(sentence for share, least, sentence in checks if share is not None and share < least)
    if slow:
        return Profile("stock", slow)
    # 6
    if any(share is None for share, _, _ in checks):
        return Profile(None, tuple(sentence for share, _, sentence in checks if share is None))
    return Profile("unlocked", tuple(sentence for _, _, sentence in checks))


def _ratio(what: str, measured: float | None, against: str, other: float | None, least: float) -> tuple[float | None, float, str]:
    """(measured / other, the least that is not throttled, the sentence)."""
    if measured is None or not other:
        return None, least, f"{what} against {against}: not measured."
    share = measured / other
    side = "below" if share < least else "not below"
    return share, least, f"{what}: {measured / 1e12:.2f} T/s, {share:.2f} of {against} ({other / 1e12:.2f} T/s), {side} {least:g}."
