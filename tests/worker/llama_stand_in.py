"""Takes llama-server's place: the same flags, the fake engine behind them. The weights file's name says how it behaves:

    good.gguf        serves
    slow.gguf        serves after 0.8 s of 503
    paced.gguf       serves, a token every 5 ms
    stuck.gguf       is still loading after a minute
    crash.gguf       prints a reason and ends with code 1
    oom.gguf         has no room for more than 2048 tokens in all its slots, and ends with code 1
    badwarm.gguf     loads, and answers the warm-up with 500
    family.gguf      serves, beside a grandchild in a session of its own that ignores SIGTERM
    stubborn.gguf    serves and ignores SIGTERM
    chatty.gguf      prints its API key, its arguments and its environment, then serves
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fakes import engine as fake

SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--model", "--alias", "--host", "--port", "--api-key-file", "--ctx-size", "--parallel"):
        parser.add_argument(flag, required=True)
    args, _ = parser.parse_known_args()
    mode = Path(args.model).stem
    token = Path(args.api_key_file).read_text().strip()
    if mode == "crash":
        print("llama_model_load: error loading model: tensor 'blk.0.attn_q' data is not within the file bounds", flush=True)
        sys.exit(1)
    if mode == "oom" and int(args.ctx_size) > 2048:
        print("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 512.00 MiB on device 0: cudaMalloc failed: out of memory", flush=True)
        sys.exit(1)
    if mode == "chatty":
        print(f"api key: {token}", sys.argv, dict(os.environ), flush=True)
    if mode == "family":
        child = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
        Path(args.model).with_suffix(".child").write_text(str(child.pid))
    context = int(args.ctx_size) // int(args.parallel)
    settings = fake.Settings(args.alias.split(",")[0], "llama.cpp", itl_s=0.005 if mode == "paced" else 0.0, context=context)
    fault = fake.Fault("error_500" if mode == "badwarm" else None)
    serving = fake.serve(args.host, int(args.port), fake.FakeEngine(settings, token, fault, {"slow": 0.8, "stuck": 60.0}.get(mode, 0.0)))
    if mode == "stubborn":
        asyncio.run(stubborn(serving))
    else:
        asyncio.run(serving)


async def stubborn(serving: object) -> None:
    task = asyncio.ensure_future(serving)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: print("SIGTERM? no.", flush=True))
    await task


if __name__ == "__main__":
    main()
