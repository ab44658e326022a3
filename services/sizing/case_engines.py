"""Which of the accountings that rigserve has a named engine is sized with."""

from __future__ import annotations

import re
from typing import Literal

Accounting = Literal["vllm", "llama.cpp", "transformers", "autoawq", "exllama", "image"]

# The first pattern found in the engine's name decides. Engines with a pool of KV blocks (SGLang, TGI, TensorRT-LLM, LMDeploy, Aphrodite)
# are sized as vLLM.
_BY_NAME: tuple[tuple[str, Accounting], ...] = (
    (r"diffusers|(?:stable|easy)[- ]?diffusion|\bsd[.-]?(?:cpp|cli|next)|a1111|automatic1111|comfy|\bforge\b|invokeai", "image"),
    (r"autoawq", "autoawq"),
    (r"exllama|tabby", "exllama"),
    (r"llama[-_.]?(?:cpp|server|bench|cli|box)|ollama|lm ?studio|kobold|gpt4all|llamafile|\bjan\b|ggml|gguf", "llama.cpp"),
    (r"transformers|pytorch|text-generation-webui|oobabooga|unsloth|autogptq|gptqmodel|\bpeft\b", "transformers"),
)  # fmt: skip


def accounting_of(engine: str) -> Accounting:
    """1. By a word of the engine's name. 2. Else as vLLM.

    Worked: "LM Studio" -> "llama.cpp", "ExLlamaV2 (tabbyAPI)" -> "exllama", "SGLang" -> "vllm", "ComfyUI" -> "image".
    """
    name = engine.lower()
    # 1, 2
    return next((accounting for pattern, accounting in _BY_NAME if re.search(pattern, name)), "vllm")
