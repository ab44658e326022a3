"""What an engine takes beside weights, KV cache and activations. One table, every figure measured, each with its source.

`card_bytes` lies on the card: device context, runtime and allocator on a GPU; on a CPU card the whole process tree's own memory.
`host_bytes` is the process tree's host RAM on a GPU, without weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.sizing.units import GIB, MIB


@dataclass(frozen=True, slots=True)
class Overhead:
    """One engine environment's own memory, and the margin of error of the estimate around it.

    reserve = `margin_bytes` + `margin_share` x (weights + KV cache) + `activation_share` x activations.
    """

    card_bytes: int
    host_bytes: int
    margin_bytes: int
    margin_share: float
    activation_share: float
    source: str


_GPU_MARGIN = 150 * MIB  # below 0.15 GiB the same vLLM command was seen to pass and to fail
_LLAMACPP_GPU = Overhead(
    int(0.35 * GIB), int(0.34e9), _GPU_MARGIN, 0.01, 0.10,
    "CUDA context and cuBLAS workspace 0.25-0.5 GiB, which llama.cpp does not print; host 0.34 GB measured with the CPU build",
)  # fmt: skip
_DIFFUSION_GPU = Overhead(
    int(0.45 * GIB), int(1.2e9), _GPU_MARGIN, 0.02, 0.10,
    "CUDA context 0.25-0.5 GiB and allocator slack; host: 0.7 GB of Python and libraries measured on CPU, CUDA libraries estimated on top",
)  # fmt: skip
OVERHEADS: dict[str, Overhead] = {
    "vllm-cpu": Overhead(
        int(1.5e9), int(1.5e9), 64 * MIB, 0.01, 0.10,
        "measured, SmolLM2-135M, worker inside the engine core: PSS 1.94 GB of the tree after 8 x 1,700 tokens, less 0.27 GB weights, "
        "0.38 GB KV and 0.03 GB activations = 1.27 GB; 1.5 leaves room for library pages that were shared with other processes then",
    ),
    "llamacpp-cpu": Overhead(
        int(0.15e9), int(0.15e9), 32 * MIB, 0.01, 0.10,
        "measured, SmolLM2-135M Q4_1, 2 x 2048 tokens: PSS 381 MB after traffic less 97 MB weights, 94 MB KV, 50 MB compute buffer",
    ),
    "diffusion-cpu": Overhead(
        int(0.7e9), int(0.7e9), 32 * MIB, 0.02, 0.10,
        "measured, digits-sd on torch CPU with diffusers and transformers loaded: 0.6-0.7 GB",
    ),
    "vllm-cuda": Overhead(
        int(0.5 * GIB), int(3.4e9), _GPU_MARGIN, 0.01, 0.10,
        "CUDA context 0.25-0.5 GiB + 0.06 GiB non-torch (0.01-0.35 seen on one GPU); host 3.4 GB measured for the process tree",
    ),
    "llamacpp-cuda12": _LLAMACPP_GPU,
    "llamacpp-cuda13": _LLAMACPP_GPU,
    "llamacpp-vulkan": _LLAMACPP_GPU,
    "llamacpp-rocm": _LLAMACPP_GPU,
    "diffusion-cu126": _DIFFUSION_GPU,
    "diffusion-cuda": _DIFFUSION_GPU,
}  # fmt: skip


def graph_sizes(sequences: int) -> int:
    """How many batch sizes vLLM captures: 1, 2, 4, every 8 to 256, every 16 to 512, at most twice the sequences. Worked number: 256 -> 51,
    as V1 logs it; 8 -> 5.
    """
    largest = min(512, 2 * sequences)
    return sum(1 for size in (1, 2, 4) if size <= largest) + min(largest, 256) // 8 + max(0, largest - 256) // 16


def graphs_bytes(sequences: int) -> int:
    """vLLM's CUDA graphs: 0.04 GiB + 0.02 GiB for each captured batch size.

    Source: public logs: 0.01-0.04 GiB with one sequence, 0.17-0.8 GiB with 160-256 (24-51 sizes). Worked number: 8 sequences, sizes
    1 2 4 8 16 = 0.14 GiB.
    """
    return int((0.04 + 0.02 * graph_sizes(sequences)) * GIB)


# What a version that estimates its CUDA graphs keeps back for them: 0.10, 0.17 and 0.36 GiB in logs of single cards up to 32 GB.
GRAPHS_ESTIMATE_BYTES = int(0.2 * GIB)
