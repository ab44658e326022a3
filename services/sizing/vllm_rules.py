"""What vLLM does by default and what it counts, by version.

Read in vLLM's own code or its pull requests:
- before 0.7, and in V1's first releases (0.8 to 0.9.0), memory outside torch is all that the card has in use less torch's part;
- 0.21: 0.92 of the card by default, and CUDA graphs are estimated inside it (vllm#38284);
- 0.27: dense models go to model runner V2, whose profile may skip top-k and top-p; 0.29: all others too.

Seen in public logs only, so the release where it starts and its cause are inferences:
- 0.17: about 0.28 GiB outside torch on one card, where 0.10 and 0.11 had 0.02-0.07;
- 0.21: weights are larger by what whole 2 MiB blocks waste (Qwen2.5-1.5B 2.89 -> 2.98 GiB, Qwen2.5-7B-AWQ 5.20 -> 5.29);
- 0.28: steps of 8192 tokens on cards of 22 GiB (0.29's start-up line says 8192), 2048 on two small ones; vllm#51726 raised big cards to
  16384. No log showed where between 15 and 22 GiB the line lies;
- runner V2 keeps nothing back for CUDA graphs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.sizing.types import TextGeometry

# A model can't run on a vLLM older than itself, which dates a run that gives no version. The releases are those in which logs of these
# families begin, give or take one.
_FIRST_MINOR: tuple[tuple[str, int], ...] = (
    (r"qwen3[._]?[89]", 27), (r"qwen3[._]?[67]|gemma-?4", 19), (r"qwen3[._]?5", 17), (r"gpt-?oss", 10), (r"qwen3-?next", 11),
)  # fmt: skip
DEFAULT_UTILIZATION = 0.9
DEFAULT_UTILIZATION_21 = 0.92
DEFAULT_SEQUENCES = 256
BIG_CARD_GIB = 70  # from here V1 defaults to 1024 sequences and steps of 8192 tokens (A100 excepted)
LARGE_STEP_CARD_GIB = 20  # between 14.56 GiB (2048 tokens fit the log) and 22.04 (8192)
V1_CHUNK_TOKENS = 2048
V0_CHUNKS_ABOVE_TOKENS = 32768
V0_CHUNK_TOKENS = 2048
OLD_CHUNK_TOKENS = 512
# Gemma 4 takes an image or a video whole: it refused steps below 2496 tokens (vllm#42687), and its published commands give 4096.
GEMMA4_STEP_TOKENS = 4096
# GiB on one card. 0.35: 0.35 and 0.39 in December 2024 logs. 0.06: 0.01-0.11 in nineteen logs of 0.7 to 0.9, 0.02 and 0.07 on V1 0.10 and
# 0.11. 0.28: 0.27, 0.29 (L4), 0.27 (Turing, eager), 0.26, 0.27 (Blackwell).
NON_TORCH_WITH_CONTEXT_GIB = 0.35
NON_TORCH_GIB = 0.06
NON_TORCH_LAZY_GIB = 0.28
# NCCL and its buffers, on every rank of several: 0.30 (TP 2) and 0.20 (TP 16) in all in early 2025.
NCCL_GIB = 0.19
# Bytes a logit of the dummy sampler run. V0: see memory_text. V1: 26.9 and 30.1 (Qwen3.8-27B, a Qwen3.5 hybrid; 256 x 248320 logits).
# V2: 16-bit logits and their fp32 copy.
SAMPLER_BYTES_V0 = 39.2
SAMPLER_BYTES_V1 = 28.5
SAMPLER_BYTES_V2 = 6.0


@dataclass(frozen=True, slots=True)
class Version:
    """`generation`: "old" before 0.7 (2025), "v0" to 0.8 (no sampler in chunked profiles), "v0-sampled", or "v1". `minor` is None when
    neither the version nor the model tells; such a run is counted as today's, with the sampler and the defaults of 2025.
    """

    generation: str
    minor: int | None
    patch: int | None = None

    def since(self, minor: int) -> bool:
        """Is it this release or a later one, as far as is known?"""
        return self.minor is not None and self.minor >= minor

    @property
    def counts_blocks(self) -> bool:
        """Weights in whole blocks of 2 MiB: 0.21 and later, and runs that don't say."""
        return self.generation == "v1" and (self.minor is None or self.minor >= 21)


def version_of(written: str, model: str) -> Version:
    """1. The release that is written, or that the date falls into; a word V0 or V1 is believed. 2. Else the oldest that knows the model."""
    numbered = re.search(r"\b0\.(\d+)(?:\.(\d+))?", written)
    dated = re.search(r"(20\d\d)-(\d\d)", written)
    minor = int(numbered[1]) if numbered else None
    patch = int(numbered[2]) if numbered and numbered[2] else None
    month = int(dated[1]) * 12 + int(dated[2]) if dated else None
    v0, v1 = (re.search(rf"\b{name}\b", written, re.IGNORECASE) is not None for name in ("V0", "V1"))
    # 2
    if minor is None and month is None and not v0:
        found = next((first for family, first in _FIRST_MINOR if re.search(family, model.lower())), None)
        return Version("v1", found)
    # 1
    late = (minor is not None and minor >= 8) or (minor is None and month is not None and month >= 2025 * 12 + 4)
    if v1 or (late and not v0):
        return Version("v1", minor, patch)
    if late:
        return Version("v0-sampled", minor, patch)
    old = (minor is not None and minor < 7) or (minor is None and month is not None and month < 2025 * 12 + 1)
    return Version("old" if old else "v0", minor, patch)


def runs_on_v2(version: Version, geometry: TextGeometry) -> bool:
    """Model runner V2 (vLLM's config: dense models that are no hybrids from 0.27, every supported model from 0.29)."""
    dense = not geometry.num_experts and geometry.recurrent is None
    return version.since(29) or (version.since(27) and dense)


def default_utilization(version: Version) -> float:
    """The share of the card that is taken when nobody says."""
    return DEFAULT_UTILIZATION_21 if version.since(21) else DEFAULT_UTILIZATION


def default_sequences(card_gib: float | None, card_name: str) -> int:
    """V1's default for one batch."""
    return 1024 if _big(card_gib, card_name) else DEFAULT_SEQUENCES


def default_step_tokens(version: Version, geometry: TextGeometry, card_gib: float | None, card_name: str) -> int:
    """V1's default step (`vllm serve`), by version and card."""
    if geometry.architecture.startswith("Gemma4") and geometry.vision_params:
        return GEMMA4_STEP_TOKENS
    if _big(card_gib, card_name):
        return 16384 if version.since(28) else 8192
    return 8192 if version.since(28) and (card_gib or 0) >= LARGE_STEP_CARD_GIB else V1_CHUNK_TOKENS


def _big(card_gib: float | None, card_name: str) -> bool:
    return (card_gib or 0) >= BIG_CARD_GIB and "a100" not in card_name.lower()


def sampler_bytes_per_logit(version: Version, geometry: TextGeometry, *, chunked: bool) -> float:
    """What the profile's dummy sampler takes; nothing in the chunked profiles of V0 before 0.8."""
    if version.generation in ("old", "v0") and chunked:
        return 0.0
    if version.generation != "v1":
        return SAMPLER_BYTES_V0
    return SAMPLER_BYTES_V2 if runs_on_v2(version, geometry) else SAMPLER_BYTES_V1


def counts_context(version: Version) -> bool:
    """Is all that the card has in use, less torch's part, taken for vLLM's own? Before 0.7, and in V1's first releases."""
    first_v1 = version.generation == "v1" and (version.minor == 8 or (version.minor == 9 and not version.patch))
    return version.generation == "old" or first_v1


def counts_others(version: Version) -> bool:
    """Does what other programs hold lessen the KV cache? Where the context counts; assumed, as the careful side, of runs that don't say."""
    return counts_context(version) or (version.generation == "v1" and version.minor is None)


def non_torch_gib(version: Version, ranks: int) -> float:
    """Memory that torch does not hold, as the version's profile counts it on one rank."""
    if counts_context(version):
        alone = NON_TORCH_WITH_CONTEXT_GIB
    elif version.generation == "v1" and (version.minor is None or version.minor >= 17):
        alone = NON_TORCH_LAZY_GIB
    else:
        alone = NON_TORCH_GIB
    return alone + (NCCL_GIB if ranks > 1 else 0.0)


def graphs_inside(version: Version, geometry: TextGeometry, *, eager: bool) -> bool:
    """Does the KV cache get what an estimate of the CUDA graphs leaves? 0.21 and later, on runner V1 only."""
    return not eager and version.since(21) and not runs_on_v2(version, geometry)
