"""LoRA adapters: what their slots take beside the weights.

vLLM allocates every slot up front at the highest rank that it will accept (`--max-loras` x `--max-lora-rank`), whatever is loaded later.
llama.cpp loads each adapter's own matrices beside the layers they belong to. Adapters are sized as if they covered every linear layer.
"""

from __future__ import annotations

from functools import lru_cache

from services.sizing.params import tensors_of
from services.sizing.types import TextGeometry

LORA_DTYPE_BYTES = 2  # both engines keep adapters in 16 bit


@lru_cache(maxsize=256)
def _width(geometry: TextGeometry) -> int:
    """Inputs + outputs of every linear layer; experts are left out, as adapters leave them out."""
    return sum(sum(tensor.shape[-2:]) for tensor in tensors_of(geometry) if tensor.role == "linear")


def vllm_lora_bytes(geometry: TextGeometry, slots: int, rank: int) -> int:
    """The buffers of vLLM's slots: rank x (inputs + outputs) of every linear, three of vocabulary width, 16 bit, for each slot.

    Source: two stacked tensors a layer in vllm/lora/layers, (slots, rank, inputs) and (slots, outputs, rank); 6.247 - 6.016 GiB measured
    for one slot of Llama-3.2-3B. Worked number: Qwen3-4B, one slot of rank 64: 64 x 2 B x (36 x 57344 + 3 x 151936) = 322,584,576 bytes.
    """
    return slots * rank * LORA_DTYPE_BYTES * (_width(geometry) + 3 * geometry.vocab_size) if slots else 0


def llamacpp_lora_bytes(geometry: TextGeometry, slots: int, rank: int) -> int:
    """llama.cpp's adapters: rank x (inputs + outputs) of every linear, 16 bit, for each adapter (`--lora`, one file each).

    Source: llama-adapter.cpp allocates A and B of each tensor in that tensor's own buffer. Worked number: Llama-3.1-8B, one of rank 16:
    16 x 2 B x 32 x 81920 = 83,886,080 bytes, as adapters of all linear layers weigh on disk.
    """
    return slots * rank * LORA_DTYPE_BYTES * _width(geometry) if slots else 0
