"""llama.cpp: its own `llama-server` where --engine-binary names one, else the server inside the xllamacpp package."""

from __future__ import annotations

from pathlib import Path

from services.sizing.memory_text import reads_whole
from services.worker.engines.order import Launch, LaunchError, Order, chat_warm_up

SERVER_PROGRAM = Path(__file__).with_name("llamacpp_server.py")
_CACHE_TYPES = {"auto": "f16", "fp16": "f16", "float16": "f16", "bf16": "bf16", "bfloat16": "bf16"}  # llama.cpp's names


def launch(order: Order) -> Launch:
    """The command line of the placement. The two programs share every flag (llama.cpp build 11549; older builds named some differently).

    1. Not one .gguf file: refused.
    2. The context is given for all slots together: llama.cpp divides it among them.
    3. On a GPU every layer goes to the card: a model that half fits falls to a crawl, so the plan has made it fit.
    """
    # 1
    if order.weights.suffix != ".gguf":
        raise LaunchError(f"llama.cpp serves one .gguf file, not the folder {order.weights.name}; plan a GGUF variant of this model.")
    # 2
    workload = order.text()
    argv = [
        *_program(order),
        "--model", str(order.weights), "--alias", order.placement.model_id,  # one: of several it answers with the first of the alphabet
        "--host", order.engine_host, "--port", str(order.engine_port),
        "--api-key-file", str(order.token_file),  # never --api-key: argv can be read by others
        "--ctx-size", str(workload.context_tokens * workload.sequences), "--parallel", str(workload.sequences),
        "--no-kv-unified",  # every slot has its own share of the context, as the plan counted
        "--cache-ram", "0",  # default: 8 GiB of host RAM for old prompts; a rig has 4 to 8 in all
        "--fit", "off",  # the plan has decided; no silent shrinking
        "--metrics", "--no-slots", "--no-ui", "--offline",
        "--jinja",  # the model's own chat template, tools included
        "--cors-origins", "localhost",  # no web page may use the engine through a visitor's browser
    ]
    if order.model and reads_whole(order.model):  # a longer text than the ubatch would be answered with a 500
        argv += ["--batch-size", str(workload.context_tokens), "--ubatch-size", str(workload.context_tokens)]
    elif workload.batch_tokens is not None:
        argv += ["--batch-size", str(workload.batch_tokens), "--ubatch-size", str(min(512, workload.batch_tokens))]
    if order.model and order.model.kind == "embedding":
        argv += ["--embedding"]
    if order.model and order.model.kind == "rerank":
        argv += ["--reranking"]  # without it the route answers 501, whatever the file says about its pooling
    # 3
    argv += _cpu(order) if order.card.vendor == "cpu" else _gpu(order)
    return Launch(
        argv=tuple(argv), env={}, cwd=order.state_dir, warm_up=chat_warm_up(order),
        packages=() if order.engine_binary else ("xllamacpp",), version=("/props", "build_info"),
        stop_grace_s=2.0,  # it would finish its streams first; the gateway has drained them already, or nobody will
    )


def _program(order: Order) -> list[str]:
    if order.engine_binary is not None:
        return [str(order.engine_binary)]
    # Isolated (-I): the script's own folder holds files called vllm.py and diffusion.py, which must not be found as modules.
    return [order.python(), "-I", "-u", str(SERVER_PROGRAM)]


def _cpu(order: Order) -> list[str]:
    return ["--gpu-layers", "0", "--threads", str(order.cpu_threads), "--flash-attn", "auto", *_cache_types(order)]


def _gpu(order: Order) -> list[str]:
    return [
        "--gpu-layers", "999",
        "--load-mode", "none",  # read, don't map: 2.4-4.6 x faster where RAM is smaller than the model (llama.cpp#14396), as on rigs
        "--threads", str(min(4, order.cpu_threads)),  # the CPU only samples and feeds; more threads fight on a Celeron
        "--flash-attn", _flash_attention(order),
        *_cache_types(order),
    ]


def _flash_attention(order: Order) -> str:
    """On for every NVIDIA card of the catalogue (kernels for Pascal and up; the bill's compute buffer counts on it). On AMD through
    Vulkan llama.cpp looks whether the device has the kernel; a quantized cache needs it, so there it is on and fails loudly."""
    quantized = order.placement.choice.kv_dtype not in _CACHE_TYPES
    return "on" if order.card.vendor == "nvidia" or quantized else "auto"


def _cache_types(order: Order) -> list[str]:
    kind = _CACHE_TYPES.get(order.placement.choice.kv_dtype, order.placement.choice.kv_dtype)
    return ["--cache-type-k", kind, "--cache-type-v", kind]
