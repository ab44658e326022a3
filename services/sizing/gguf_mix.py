"""Which type each tensor of a GGUF file has, and so its exact size, from the model's geometry and the name of the mix.

Source: the type rules of llama.cpp's quantizer (src/llama-quant.cpp) and the block layouts of ggml. A file made with an importance matrix
or by hand (Unsloth's UD- files) may differ: where a file or a catalogue entry gives the bytes, they win.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.sizing.params import TensorShape
from services.sizing.quant import UnknownQuantError

# Bits per element and elements per block of ggml's types.
BITS: dict[str, tuple[float, int]] = {
    "F32": (32, 1), "F16": (16, 1), "BF16": (16, 1), "Q4_0": (4.5, 32), "Q4_1": (5, 32), "Q5_0": (5.5, 32), "Q5_1": (6, 32),
    "Q8_0": (8.5, 32), "Q2_K": (2.625, 256), "Q3_K": (3.4375, 256), "Q4_K": (4.5, 256), "Q5_K": (5.5, 256), "Q6_K": (6.5625, 256),
    "IQ4_NL": (4.5, 32), "IQ4_XS": (4.25, 256), "IQ3_S": (3.4375, 256), "IQ3_XXS": (3.0625, 256), "IQ2_S": (2.5625, 256),
    "IQ2_XS": (2.3125, 256), "IQ2_XXS": (2.0625, 256), "IQ1_S": (1.5625, 256), "IQ1_M": (1.75, 256),
    "MXFP4": (4.25, 32), "IQ4_K": (4.5, 256), "IQ5_K": (5.5, 256), "IQ6_K": (6.625, 256),
}  # fmt: skip
# Mix: the type that its matrices have unless a rule below says otherwise.
MIXES: dict[str, str] = {
    "F32": "F32", "F16": "F16", "BF16": "BF16", "Q4_0": "Q4_0", "Q4_1": "Q4_1", "Q5_0": "Q5_0", "Q5_1": "Q5_1", "Q8_0": "Q8_0",
    "Q2_K": "Q2_K", "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K", "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K", "Q6_K": "Q6_K", "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS", "IQ3_M": "IQ3_S", "IQ3_XS": "IQ3_S", "IQ3_XXS": "IQ3_XXS",
    "IQ3_S": "IQ3_S", "IQ2_M": "IQ2_S", "IQ2_S": "IQ2_XS", "IQ2_XS": "IQ2_XS", "IQ2_XXS": "IQ2_XXS", "IQ1_M": "IQ1_M", "IQ1_S": "IQ1_S",
    "MXFP4_MOE": "MXFP4", "IQ4_K": "IQ4_K", "IQ5_K": "IQ5_K",
}  # fmt: skip
_ALIASES = {
    "FP16": "F16", "FP32": "F32", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M", "MXFP4": "MXFP4_MOE", "Q2_K_L": "Q2_K",
    "Q3_K_XL": "Q3_K_L", "Q4_K_L": "Q4_K_M", "Q5_K_L": "Q5_K_M", "Q6_K_L": "Q6_K",
}  # fmt: skip
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_K": "IQ4_NL"}
_WIDE_HEADS = 4
# Queries and keys of the three-bit mixes, and where those of two bits and below put more: embeddings, values, first eighth of ffn_down.
_LESS_OF_QUERIES = {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}
_MORE_OF_SMALLEST = {"IQ2_M": "IQ3_S", "IQ2_S": "IQ3_S"} | dict.fromkeys(("IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"), "Q2_K")
_EMBEDDINGS = _MORE_OF_SMALLEST | {"IQ3_XXS": "IQ3_S"}
# With eight experts attention is small, so these mixes spend more on it.
_OUTPUT_OF_EIGHT = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_XS", "IQ4_NL", "IQ3_M", "IQ3_XS", "IQ3_XXS")


def mix_of(quant: str) -> str:
    """The mix that a name means ("q4_k_m" -> "Q4_K_M"). Raises UnknownQuantError."""
    name = quant.strip().upper().split(" ")[0].removeprefix("UD-")
    name = _ALIASES.get(name, name)
    if name not in MIXES:
        raise UnknownQuantError(f'"{quant[:60]}" is no GGUF quantization that rigserve knows.')
    return name


def gguf_bytes(tensors: Iterable[TensorShape], quant: str, *, kv_head_group: int, tied: bool, experts: int) -> dict[str, int]:
    """Bytes of each tensor. `kv_head_group` is attention heads per KV head, `experts` 0 for dense models.

    Worked number: one 4096 x 4096 matrix at Q4_K is 4096 x 4096 x 4.5 / 8 = 9,437,184 bytes.
    """
    mix = mix_of(quant)
    listed = list(tensors)
    blocks = 1 + max((tensor.layer for tensor in listed if tensor.layer is not None), default=0)
    sizes: dict[str, int] = {}
    for tensor in listed:
        kind = _type(tensor, mix, blocks, kv_head_group=kv_head_group, tied=tied, experts=experts)
        bits, _ = BITS[kind]
        sizes[tensor.name] = int(tensor.elements * bits / 8)
    return sizes


def _type(tensor: TensorShape, mix: str, blocks: int, *, kv_head_group: int, tied: bool, experts: int) -> str:
    """The rules of the quantizer, in its order.

    1. Norms, biases, routers and recurrent state stay F32.
    2. The output matrix (or the embedding, when it is tied) is Q6_K in every mix below 8 bits; Q8_0 where rows don't divide by 256.
    3. MXFP4_MOE: experts MXFP4, the rest Q8_0.
    4. What the mix adds for attn_v, attn_output and ffn_down.
    5. Rows that don't divide by the block of their type fall back to a type of 32-blocks.
    """
    base = MIXES[mix]
    # 1
    if tensor.role in ("norm", "bias", "router", "state") or len(tensor.shape) < 2:
        return "F32"
    if base in ("F32", "F16", "BF16"):
        return base
    columns = tensor.shape[-1]
    # 2
    if tensor.role == "output" or (tied and tensor.name == "token_embd"):
        if base in ("Q8_0", "MXFP4") or columns % BITS[base][1]:
            return "Q8_0"
        return _fitting("Q5_K" if base.startswith(("IQ1", "IQ2")) or mix == "IQ3_XXS" else "Q6_K", columns)
    # 3
    if base == "MXFP4":
        return "MXFP4" if tensor.role == "expert" else "Q8_0"
    # 4
    kind = _EMBEDDINGS.get(mix, base) if tensor.name == "token_embd" else base
    if tensor.layer is not None:
        kind = _more(tensor.name.split(".", 2)[2], tensor.layer, blocks, mix, base, kv_head_group, experts)
    # 5
    return _fitting(kind, columns)


def _fitting(kind: str, columns: int) -> str:
    if columns % BITS[kind][1] == 0:
        return kind
    fallback = _FALLBACK.get(kind, "IQ4_NL")
    return fallback if fallback in BITS and columns % 32 == 0 else "F16"


def _favoured(layer: int, blocks: int) -> bool:
    """Layers that the _M mixes give more bits: the first and last eighth, and every third between."""
    return layer < blocks // 8 or layer >= 7 * blocks // 8 or (layer - blocks // 8) % 3 == 2


def _more(part: str, layer: int, blocks: int, mix: str, base: str, kv_head_group: int, experts: int) -> str:
    if part in ("attn_v", "attn_k") and experts == 8:
        return "Q8_0"
    if part == "attn_v":
        return _value_type(layer, blocks, mix, base, kv_head_group)
    if part in ("attn_q", "attn_k"):
        return _LESS_OF_QUERIES.get(mix, base)
    if part in ("ffn_gate", "ffn_up") and mix == "IQ3_XS":
        return "IQ3_XXS" if blocks // 8 <= layer < 7 * blocks // 8 else base
    if part.startswith("ffn_down"):
        return _down_type(layer, blocks, mix, base)
    if part == "attn_output":
        if experts == 8:
            return "Q5_K" if mix in _OUTPUT_OF_EIGHT else base
        more = {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K", "IQ3_XXS": "IQ3_S", "IQ2_M": "IQ3_S", "IQ2_S": "IQ3_S"}
        return more.get(mix, "IQ2_XXS" if base.startswith("IQ1") else base)
    if part == "attn_qkv":
        return {"Q3_K_M": "Q4_K", "Q3_K_L": "Q4_K", "IQ3_M": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}.get(mix, base)
    return base


def _value_type(layer: int, blocks: int, mix: str, base: str, kv_head_group: int) -> str:
    wide = kv_head_group >= _WIDE_HEADS
    if mix in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if _favoured(layer, blocks) else base
    if mix == "Q4_K_S":
        return "Q5_K" if layer < _WIDE_HEADS else base
    if mix == "Q3_K_M":
        return "Q5_K" if layer < 2 else "Q4_K"
    if mix == "Q2_K":
        return "Q4_K" if wide else "Q3_K"
    if mix in ("IQ3_XXS", "IQ3_XS", "IQ3_S") or mix in _MORE_OF_SMALLEST:
        return "Q4_K" if wide else _MORE_OF_SMALLEST.get(mix, base)
    if mix in ("IQ4_NL", "IQ4_XS"):
        return "Q5_K" if wide else base
    return {"Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}.get(mix, base)


def _down_type(layer: int, blocks: int, mix: str, base: str) -> str:
    if mix in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if _favoured(layer, blocks) else base
    if mix == "Q3_K_M":
        return "Q5_K" if layer < blocks // 16 else "Q4_K"
    first = layer < blocks // 8
    if mix in ("Q4_K_S", "IQ4_NL", "IQ4_XS"):
        return "Q5_K" if first else base
    if mix == "IQ3_M":
        return "Q4_K" if first else base
    if mix in _MORE_OF_SMALLEST:
        return _MORE_OF_SMALLEST[mix] if first else base
    return {"Q2_K": "Q3_K", "Q3_K_L": "Q5_K"}.get(mix, base)
