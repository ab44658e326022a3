"""The quantization of a case, however its author spelled it."""

from __future__ import annotations

import re

from services.sizing.memory_weights import scheme_on
from services.sizing.quant import Scheme, UnknownQuantError, parse_scheme
from services.sizing.types import TextGeometry

_GGUF = re.compile(r"\b(?:ud[-_])?((?:i?q|tq)\d(?:_\d|_k|_xxs|_xs|_s|_m|_nl)?(?:_(?:xxs|xs|s|m|l|xl|nl))?)(?![a-z0-9])")
# What the makers of _L and _XL mixes start from.
_WIDE = {"q3_k": "_l", "q4_k": "_m", "q5_k": "_m"}
# The first pattern that is found anywhere in the name gives the scheme; methods before bit counts, because names hold both.
_WORDS: tuple[tuple[str, str], ...] = (
    (r"nvfp4", "nvfp4"),
    (r"mxfp4", "mxfp4"),
    (r"(?:bnb|bitsandbytes|unsloth).*(?:8-?bit|int8)|llm\.int8", "bnb-int8"),
    (r"(?:double|dq)\b.*nf4|nf4.*(?:double|dq)|unsloth.*4-?bit", "bnb-nf4-dq"),
    (r"nf4|bnb|bitsandbytes", "bnb-nf4"),
    (r"(?:awq|gptq|auto-?round|marlin|hqq|w4a16|w8a16|compressed-tensors).*(?:int8|8-?bit|w8(?!a8))|w8a16", "gptq-int8"),
    (r"awq", "awq"),
    (r"gptq|auto-?round|marlin|hqq|w4a16|int4wo|compressed-tensors.*4", "gptq"),
    (r"fp8|e4m3|e5m2|f8\b", "fp8"),
    (r"w8a8|int8|smoothquant|quanto.*8|eetq", "int8"),
    (r"bf16|bfloat16", "bf16"),
    (r"fp16|float16|\bf16\b|half|^none$|^auto$|^$|unquantized|16-?bit|original|full precision", "fp16"),
    (r"fp32|float32|\bf32\b|32-?bit", "fp32"),
)
_GROUP = re.compile(r"(?:g(?:roup)?(?:[-_ ]?size)?[-_ =]?)(16|32|64|128|256|512|1024)\b")
_BITS = re.compile(r"(\d+(?:\.\d+)?)\s*-?(?:bits?|bpw)\b|\bint(\d)\b")


def gguf_type(quant: str) -> str | None:
    """The GGUF type that a name holds ("UD-Q4_K_XL" -> "q4_k_m": the same types, a few tensors wider); None for anything else. "q4" and
    "q8" say no type."""
    found = _GGUF.search(quant.lower())
    if found is None or "_" not in found[1]:
        return None
    base, wide = re.subn(r"_k_(?:l|xl)$", "_k", found[1])
    return base + _WIDE.get(base, "") if wide else found[1]


def case_scheme(quant: str) -> Scheme:
    """1. A name of the catalogue. 2. The method that is named inside, with its group size. 3. Only bits: their bytes and the scales of
    groups of 128. Raises UnknownQuantError when the name tells nothing at all.

    Worked: "w4a16 (QAT, compressed-tensors)" -> 0.5156 bytes, "AWQ 4bit group 32" -> 0.5781, "exl3 4.0bpw" -> 0.5 and the scales.
    """
    # 1
    name = quant.strip().lower()
    group = _GROUP.search(name)
    if group is None or "group" not in name:
        try:
            return parse_scheme(name)
        except UnknownQuantError:
            pass
    # 2
    for pattern, scheme in _WORDS:
        if re.search(pattern, name):
            grouped = f"{scheme}-g{group[1]}" if group and scheme in ("awq", "gptq", "gptq-int8") else scheme
            return parse_scheme(grouped)
    # 3
    bits = _BITS.search(name)
    size = float(bits[1] or bits[2]) if bits else 0.0
    if 1 <= size <= 16:
        return Scheme(name, "other", size / 8 + (2.0 / 128 if size < 16 else 0.0))
    raise UnknownQuantError(f'"{quant[:60]}" is no quantization that rigserve knows.')


def checkpoint_scheme(geometry: TextGeometry, quant: str) -> Scheme:
    """The scheme as it is used on this model (`scheme_on`)."""
    return scheme_on(geometry, case_scheme(quant))
