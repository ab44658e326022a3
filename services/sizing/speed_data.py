"""Measured efficiencies and speeds that predictions rest on, each with its source. Order of magnitude, not specification."""

from __future__ import annotations

from dataclasses import dataclass

from services.sizing.types import Engine


@dataclass(frozen=True, slots=True)
class Efficiency:
    """`decode`: share of the spec bandwidth that decoding reaches. `prefill`: multiple of spec fp32 FLOPS that prefill reaches."""

    decode: float
    prefill: float
    source: str


EFFICIENCY: dict[str, Efficiency] = {
    "Pascal": Efficiency(0.45, 0.86, "decode 0.34-0.63 (P104-100, GTX 1050 Ti, 1080 Ti, P40), prefill from 2 x P104-100 (pyys) and P40"),
    "Volta": Efficiency(0.55, 2.0, "V100: Qwen3.8-27B Q4 33.3 tok/s (sudoingX), qwen2 3B pp 5615 (llama.cpp#12183)"),
    "Turing": Efficiency(0.75, 1.5, "RTX 2080, 8B Q4_K_M: 79 % of bandwidth (llmfit); prefill between Volta and Pascal, inferred"),
    "Ampere": Efficiency(0.70, 2.0, "RTX 3060 Ti, 8B Q4_K_M: 66 % (kreier); RTX 3080 pp 1132 on a 27B (sudoingX)"),
    "GCN4 (Polaris)": Efficiency(0.28, 0.36, "RX 580, 3B Q4_K_M, Vulkan: 36.2 tok/s, pp 346.8 (geerlingguy/ai-benchmarks#20)"),
    "RDNA1": Efficiency(0.56, 0.64, "RX 5700 XT, 7B Q4_0, Vulkan: 65.2 tok/s, pp 468 (llama.cpp#13324)"),
    "RDNA2": Efficiency(0.75, 0.86, "RX 6600, 8B: 34.5 tok/s (kreier); RX 6800 XT 13B pp 684 (llama.cpp#2059)"),
}
# On Pascal the 2- and 3-bit k-quants reach less of the bandwidth than 4-bit ones. What they reach, of 346 GB/s on a P40 with LLaMA-7B
# (ggml-org/llama.cpp#4766): Q3_K_S 30.9 tok/s x 2.75 GiB = 0.26, Q2_K 33.5 x 2.36 GiB = 0.25; on P104-100s Q3_K_M 0.34, as pyys states.
# File sizes are this sizing's own for LLaMA-7B; a Q2_K file of that build may have been a tenth larger.
# Their mean is the efficiency to predict with, so the share is of the table's Pascal figure, which is not the P40's own for Q4_0 (0.63).
PASCAL_SMALL_QUANT_DECODE = (0.26, 0.25, 0.34)
PASCAL_SMALL_QUANT_SHARE = sum(PASCAL_SMALL_QUANT_DECODE) / len(PASCAL_SMALL_QUANT_DECODE) / EFFICIENCY["Pascal"].decode
CMP_STOCK: dict[str, Efficiency] = {
    "CMP 90HX": Efficiency(0.23, 0.25, "stock: Qwen3.5-9B Q4_K_XL 30.4 tok/s (Rhonstin), gemma-4-12B pp 224 (WildFlash1st)"),
    "CMP 170HX 8GB": Efficiency(0.10, 0.46, "stock: Mistral 7B Q4_K_M 33 tok/s, pp 400 (kostakoff)"),
    "CMP 170HX 10GB": Efficiency(0.10, 0.46, "stock: Mistral 7B Q4_K_M 33 tok/s, pp 400 (kostakoff)"),
}
# Steps a second, SD 1.5 class, mostly 512 x 512, batch 1, median of submissions (vladmandic system-info data).
SD15_IT_S: dict[str, float] = {
    "P106-100 6GB": 1.32, "P104-100 8GB": 1.71, "P104-100 4GB": 1.71, "P102-100 10GB": 3.04, "P102-100 5GB": 3.04, "CMP 40HX": 3.44,
    "CMP 90HX": 0.93, "CMP 100-210": 0.85, "GTX 1050 Ti 4GB": 0.67, "GTX 1060 3GB": 0.17, "GTX 1060 6GB": 1.21, "GTX 1070 8GB": 1.45,
    "GTX 1070 Ti 8GB": 1.80, "GTX 1080 8GB": 1.87, "GTX 1080 Ti 11GB": 2.04, "GTX 1650 4GB": 0.35, "GTX 1650 Super 4GB": 0.51,
    "GTX 1660 6GB": 0.56, "GTX 1660 Super 6GB": 1.32, "GTX 1660 Ti 6GB": 1.06, "RTX 2060 6GB": 4.11, "RTX 2060 12GB": 5.28,
    "RTX 2060 Super 8GB": 6.13, "RTX 2070 8GB": 5.48, "RTX 2070 Super 8GB": 6.70, "RTX 2080 8GB": 7.76, "RTX 2080 Super 8GB": 8.63,
    "RTX 2080 Ti 11GB": 10.78, "RTX 3050 8GB": 4.30, "RTX 3060 12GB": 6.23, "RTX 3060 Ti 8GB": 7.79, "RTX 3070 8GB": 9.67,
    "RTX 3070 Ti 8GB": 9.73, "RTX 3080 10GB": 11.90, "RTX 3080 12GB": 12.62, "RTX 3080 Ti 12GB": 12.90, "RTX 3090 24GB": 12.95,
    "RTX 3090 Ti 24GB": 15.47, "Tesla V100 16GB": 10.50, "Tesla V100 32GB": 15.37, "A100 40GB": 13.27, "A100 80GB": 23.53,
}  # fmt: skip
# Counted with torch's FlopCounterMode on the modules without weights (diffusers 0.42.1): SD 1.5's UNet at 512 x 512 is 0.8033e12 FLOP a
# pass (two passes a step with guidance), SDXL's at 1024 x 1024 6.761e12, the VAE of both decodes 512 x 512 in 2.515e12.
SD15_STEP_FLOP = 2 * 0.8033e12
VAE_FLOP_PER_MPX = 2.515e12 / 0.25
# FLOP of one pass per denoiser parameter and megapixel (1024 x 1024): the above / 859,520,964 / 0.25 and / 2,567,463,684 / 1.
UNET_FLOP_PER_PARAM_MPX: dict[str, float] = {
    "StableDiffusionPipeline": 3738.0, "LatentConsistencyModelPipeline": 3738.0, "StableDiffusionXLPipeline": 2633.0,
}  # fmt: skip
# Process start to ready, without the transfer of weights: vLLM eager 36-56 s, llama.cpp 0.7-1.3 s (both CPU builds, 135M model);
# the image engine's imports and pipeline on CPU about 10 s.
START_S: dict[Engine, float] = {Engine.VLLM: 43.0, Engine.LLAMACPP: 1.3, Engine.DIFFUSERS: 10.0}

_LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.97e9, 5: 3.94e9, 6: 7.56e9}
_MEASURED_LINK = {(1, 1): 0.20e9, (3, 1): 0.81e9, (1, 4): 0.82e9, (2, 4): 1.70e9, (2, 16): 6.5e9, (1, 16): 1.65e9}
_LINK_SHARE = 0.81


def link_bytes_per_s(generation: int, width: int) -> float:
    """What a PCIe link carries: measured where somebody did (duggasco, kreier, xrip), else 81 % of theory, their usual share.

    Worked number: Gen1 x1 0.20e9, Gen2 x1 0.5e9 x 0.81 = 0.405e9.
    """
    lane = _LANE_BYTES_PER_S.get(generation, _LANE_BYTES_PER_S[1])
    return _MEASURED_LINK.get((generation, width), lane * max(1, width) * _LINK_SHARE)
