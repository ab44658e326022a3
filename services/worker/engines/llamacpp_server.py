"""llama.cpp's HTTP server out of the xllamacpp package. Runs inside the engine's environment: nothing of rigserve can be imported here.

    ENGINE_PYTHON -I llamacpp_server.py --model model.gguf --alias NAME --port 9001 --api-key-file TOKEN [llama-server's flags]

The flags are llama-server's own names, so that both programs take one command line; those that a plan never sets are left out.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from typing import Any


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="llama.cpp's server", epilog="Example: see the top of this file.", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--alias", required=True, help="name of the model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key-file", type=Path, required=True)
    parser.add_argument("--ctx-size", type=int, required=True, help="tokens of all slots together")
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--no-kv-unified", action="store_true")
    parser.add_argument("--cache-ram", type=int, default=0, help="MiB of host RAM for old prompts")
    parser.add_argument("--fit", choices=["on", "off"], default="off")
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--no-slots", action="store_true")
    parser.add_argument("--no-ui", action="store_true")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--jinja", action="store_true")
    parser.add_argument("--embedding", action="store_true")
    parser.add_argument("--reranking", action="store_true")
    parser.add_argument("--cors-origins", default="localhost")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--ubatch-size", type=int)
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--load-mode", choices=["auto", "none", "mmap"], default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--flash-attn", choices=["on", "off", "auto"], default="auto")
    parser.add_argument("--cache-type-k", default="f16")
    parser.add_argument("--cache-type-v", default="f16")
    return parser.parse_args(argv)


def parameters(xllamacpp: Any, args: argparse.Namespace) -> Any:
    """xllamacpp's CommonParams for these arguments."""
    p = xllamacpp.CommonParams()
    p.model.path = str(args.model)
    p.model_alias = {args.alias}
    p.hostnames = [args.host]
    p.port = args.port
    p.api_keys = [args.api_key_file.read_text(encoding="utf8").strip()]
    p.n_ctx = args.ctx_size
    p.n_parallel = args.parallel
    p.kv_unified = not args.no_kv_unified
    p.cache_ram_mib = args.cache_ram
    p.fit_params = args.fit == "on"
    p.endpoint_metrics = args.metrics
    p.endpoint_slots = not args.no_slots
    p.ui = not args.no_ui
    p.offline = args.offline
    p.use_jinja = args.jinja
    p.embedding = args.embedding or args.reranking
    if args.reranking:
        p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    p.cors_origins = args.cors_origins
    p.n_gpu_layers = args.gpu_layers
    p.n_batch = args.batch_size or p.n_batch
    p.n_ubatch = args.ubatch_size or p.n_ubatch
    p.load_mode = xllamacpp.llama_load_mode[f"LLAMA_LOAD_MODE_{args.load_mode.upper()}"]
    flash = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}[args.flash_attn]
    p.flash_attn_type = xllamacpp.llama_flash_attn_type[f"LLAMA_FLASH_ATTN_TYPE_{flash}"]
    p.cache_type_k = xllamacpp.ggml_type[f"GGML_TYPE_{args.cache_type_k.upper()}"]
    p.cache_type_v = xllamacpp.ggml_type[f"GGML_TYPE_{args.cache_type_v.upper()}"]
    if args.threads:
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = args.threads
    return p


def main() -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    args = arguments(sys.argv[1:])
    import xllamacpp  # after the arguments: it is 30 MB, and a bad flag should be said at once

    server = xllamacpp.Server(parameters(xllamacpp, args))  # returns once the model is loaded and the port answers
    print(f"llama.cpp listens on {server.listening_address}", flush=True)
    stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
