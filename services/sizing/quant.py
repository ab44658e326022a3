"""Quantization schemes of safetensors checkpoints: bytes per parameter. What each costs in quality: quality.py.

A scheme quantizes matrices only; embeddings, lm_head, norms, biases and routers stay at 16 bit (32 for fp32). GGUF files mix types
tensor by tensor: see gguf_mix.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


class UnknownQuantError(ValueError):
    """A quantization that no rule describes."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """`matrix_bytes` per element of a quantized matrix, `other_bytes` per element of everything else.

    `quantizes`: "experts" for schemes that leave attention alone (gpt-oss's MXFP4). `family` is how engines name the method.
    """

    name: str
    family: Literal["none", "awq", "gptq", "bnb", "fp8", "int8", "nvfp4", "mxfp4", "exl", "other"]
    matrix_bytes: float
    other_bytes: float = 2.0
    quantizes: Literal["linear", "experts"] = "linear"
    attention_bytes: float | None = None
    output_bytes: float | None = None
    """Per element of the attention's matrices and of lm_head, where a checkpoint keeps them in another type than the rest."""


# name: (family, bytes per element of a matrix). Derivations: bits / 8 + scales and zeros / group.
_FIXED: dict[str, tuple[Literal["none", "bnb", "fp8", "int8", "nvfp4", "mxfp4"], float]] = {
    "bf16": ("none", 2.0),
    "fp16": ("none", 2.0),
    "fp32": ("none", 4.0),
    "fp8": ("fp8", 1 + 4 / 128**2),  # one fp32 scale for each block of 128 x 128
    "fp8-tensor": ("fp8", 1.0),
    "int8": ("int8", 1 + 4 / 4096),  # one fp32 scale for each output row of about 4096 inputs
    "bnb-int8": ("bnb", 1 + 4 / 4096),
    "bnb-nf4": ("bnb", 0.5 + 4 / 64),  # fp32 absmax for each 64 elements
    "bnb-nf4-dq": ("bnb", 0.5 + 1 / 64 + 4 / 16384),  # absmax itself in 8 bits, its own scale for each 256 blocks
    "nvfp4": ("nvfp4", 0.5 + 1 / 16),  # fp8 scale for each 16 elements
    "mxfp4": ("mxfp4", 0.5 + 1 / 32),  # 8-bit exponent for each 32 elements
}
_ALIASES = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "f16": "fp16", "float32": "fp32", "f32": "fp32", "w8a8": "int8",
    "fp8-block": "fp8", "fp8_e4m3": "fp8", "nf4": "bnb-nf4", "bnb-4bit": "bnb-nf4", "bnb-8bit": "bnb-int8",
}  # fmt: skip
_GROUPED = re.compile(r"(awq|gptq|w4a16|w8a16|moe_wna16)[-_ ]?(?:(?:int|w)?([348])(?:-?bits?)?)?(?:[-_ ]?g(\d{1,4}))?(?:[-_ ](sym))?\b.*")


def parse_scheme(quant: str) -> Scheme:
    """The scheme of a catalogue or hub name ("bf16", "awq-int4-g128", "gptq-int4", "bnb-nf4", "fp8" ...). Raises UnknownQuantError.

    Worked numbers, bytes per element: awq-int4-g128 0.5195 (0.5 + (2 scale + 0.5 zero) / 128); gptq sym g128 0.5156 (0.5 + 2 / 128,
    Marlin drops the zeros); awq g32 0.5781; bnb-nf4 0.5625; bnb-nf4-dq 0.5159; fp8 1.0002.
    """
    name = quant.strip().lower().split(" (")[0]
    name = _ALIASES.get(name, name)
    if name in _FIXED:
        family, size = _FIXED[name]
        other = 4.0 if name == "fp32" else 2.0
        return Scheme(name, family, size, other, "experts" if name == "mxfp4" else "linear")
    match = _GROUPED.fullmatch(name)
    if match is None:
        raise UnknownQuantError(f'"{quant[:60]}" is no quantization that rigserve knows.')
    method, bits_text, group_text, sym = match.groups()
    bits = int(bits_text or (8 if method == "w8a16" else 4))
    group = int(group_text or 128)
    if group == 0:
        raise UnknownQuantError(f'"{quant[:60]}" has a group size of 0.')
    symmetric = sym is not None or method in ("gptq", "w4a16", "w8a16", "moe_wna16")
    size = bits / 8 + (2 + (0 if symmetric else bits / 8)) / group
    return Scheme(name, "awq" if method == "awq" else "gptq", size)
