"""Why each flag of an engine's command line is there, for the comments of a generated file.

The command line itself comes from where it is built, the worker's launchers (`python -m services.worker.engines.shown`). A test holds
this table against them: a flag without a reason here, or a reason for a flag that no launcher gives, fails.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.deploy.stack import Flag
from services.sizing.types import Engine

_LISTEN = {
    "--host": "reached by the gateway over the workers' network only",
    "--port": "the engine's port; the worker's own is 9100",
}
_LLAMACPP = _LISTEN | {
    "--model": "one .gguf file of the weights volume",
    "--alias": "the name that requests use",
    "--api-key-file": "a file, never --api-key: a command line can be read by others",
    "--ctx-size": "tokens of all slots together: the plan's context times its sequences",
    "--parallel": "slots: the plan's sequences",
    "--no-kv-unified": "every slot has its own share of the context, as the plan counted",
    "--cache-ram": "no host RAM for old prompts (default 8 GiB, a rig has 4 to 8)",
    "--fit": "the plan has decided; nothing is made smaller in silence",
    "--metrics": "the worker drains by the count of running requests",
    "--no-slots": "the route shows prompts",
    "--no-ui": "nobody browses an engine",
    "--offline": "weights are on disk; an engine has no business on the network",
    "--jinja": "the model's own chat template, tools included",
    "--cors-origins": "no web page may use the engine through a visitor's browser",
    "--batch-size": "prompt tokens at once, as the bill's compute buffer was counted",
    "--ubatch-size": "at most 512 of them in one step",
    "--embedding": "the model embeds, it does not write",
    "--reranking": "the model scores documents, it does not write",
    "--gpu-layers": "999: every layer, half a model on the card crawls; 0: the card is the CPU",
    "--load-mode": "read, not mapped: 2.4-4.6 x faster where RAM is small (llama.cpp#14396)",
    "--threads": "beside a GPU the CPU only feeds: at most four",
    "--flash-attn": "on: NVIDIA, the bill counts on it; auto: the engine looks for a kernel",
    "--cache-type-k": "KV cache: the plan's type",
    "--cache-type-v": "KV cache: the plan's type",
}
_VLLM = _LISTEN | {
    "--model": "a safetensors folder of the weights volume",
    "--served-model-name": "the names that requests may use",
    "--max-model-len": "the plan's context",
    "--max-num-seqs": "the plan's sequences",
    "--max-num-batched-tokens": "prompt tokens at once, as the bill's activations were counted",
    "--load-format": "never pickles",
    "--disable-uvicorn-access-log": "no line for each request",
    "--disable-fastapi-docs": "no pages on an engine",
    "--kv-cache-memory-bytes": "the bill's KV cache, to the byte",
    "--gpu-memory-utilization": "the bill as a share of the card; at the start no more than what is free then",
    "--dtype": "what the card computes in",
    "--kv-cache-dtype": "the plan's type of the KV cache",
    "--attention-backend": "the one with kernels for this card",
    "--enforce-eager": "no CUDA graphs: the plan left no memory for them, or there is no GPU",
    "--distributed-executor-backend": "the worker inside the engine core: one process less",
    "--quantization": "packed while loading",
    "--runner": "the model embeds, it does not write",
    "--enable-auto-tool-choice": "without it requests with tools are refused",
    "--tool-call-parser": "how this model writes its tool calls",
    "--config": "holds the token: a command line can be read by others",
}
_DIFFUSERS = _LISTEN | {
    "--weights": "a folder of the weights volume, or of the image",
    "--model-id": "the name that requests use",
    "--token-file": "a file: a command line can be read by others",
    "--device": "the only card that it sees",
    "--dtype": "what the card computes in",
    "--max-width-px": "the largest image that the card was sized for",
    "--max-height-px": "the largest image that the card was sized for",
    "--max-batch": "images at once that the card was sized for",
    "--max-steps": "of one image",
    "--multiple-px": "what divides every valid side",
    "--native-px": "the size that the model was trained for",
    "--default-steps": "where a request says nothing",
    "--default-guidance-scale": "where a request says nothing",
    "--offload": "none: all of the pipeline on the card; model, sequential: parts wait in host RAM",
    "--vae-tiling": "pictures are decoded in tiles of 512 px: the decode of a whole one would not fit",
    "--without": "the variant leaves this part out",
    "--quantization": "the denoiser packed while loading, as the bill counts it",
    "--quantize-text-encoders": "the text encoders too",
    "--distilled": "the model was made to work without guidance, and no bill counts it",
    "--lora": "an adapter beside the weights that requests may name",
    "--alias": "another name that requests may use",
    "--grace-s": "what a running job gets to finish after SIGTERM",
}
REASONS = {Engine.LLAMACPP: _LLAMACPP, Engine.VLLM: _VLLM, Engine.DIFFUSERS: _DIFFUSERS}
_PROGRAM = "the engine's own environment, isolated from the worker's"


def flags_of(engine: Engine, argv: Sequence[str]) -> tuple[Flag, ...]:
    """The command line in pieces, the program first: a flag with the words up to the next one, and its reason."""
    pieces: list[list[str]] = [[]]
    for word in argv:
        if word.startswith("--"):
            pieces.append([word])
        else:
            pieces[-1].append(word)
    program, *flags = pieces
    reasons = REASONS[engine]
    return (Flag(tuple(program), _PROGRAM), *(Flag(tuple(piece), reasons.get(piece[0], "")) for piece in flags))
