"""The image engine as a process: one diffusers pipeline behind one port.

Exit codes: 0 after SIGTERM or SIGINT, 2 for arguments or weights that can't be used, 3 when the model doesn't fit into memory,
4 when the device was lost while serving (start a new process).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

import uvicorn

from services.diffusion.app import make_app
from services.diffusion.contract import OutOfMemory, Painter, WeightsRefused
from services.diffusion.folder import Abilities, PipelineFolder, abilities, inspect
from services.diffusion.jobs import JobQueue
from services.diffusion.metrics import Metrics
from services.diffusion.settings import Settings, SettingsError, check, named_lora, read_token
from services.wire.images import MAX_GUIDANCE_SCALE, MAX_STEPS

EXAMPLE = """example:
  python -m services.diffusion --weights models/digits-sd --model-id digits-sd --port 9101 --native-px 32 --max-width-px 64 \\
      --max-height-px 64 --max-batch 10 --default-steps 20 --default-guidance-scale 3
  curl -s localhost:9101/v1/images/generations -H 'content-type: application/json' -d '{"prompt": "a photo of the digit seven", "seed": 7}'
"""
# Read by native libraries when torch is imported. With OpenMP's default, threads spin while they wait for each other; beside any other
# busy process that made 20 steps of digits-sd take 30.9 s instead of 0.3 s (measured, 2 threads on 2 busy cores).
# The libraries' own warnings quote the prompt, so they are off. Nothing is ever fetched.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

log = logging.getLogger("rigserve.diffusion")


def parse(argv: list[str]) -> Settings:
    """The settings of a command line. argparse leaves with code 2 for a bad value, SettingsError says which values don't go together."""
    parser = argparse.ArgumentParser(
        prog="services.diffusion", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="diffusers folder (safetensors) on this disk")
    add("--model-id", required=True, help="the name that requests use")
    add("--alias", action="append", default=[], help="another name for it; may be repeated")
    add("--host", default="127.0.0.1")
    add("--port", type=_number(0, 65535), default=0, help="0 takes a free one and says which (default)")
    add("--token-file", type=Path, help="file with the bearer token that every request must bring; needed unless --host is loopback")
    add("--device", default="cpu", type=_device, help="cpu or cuda:N (default cpu)")
    add("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    add("--offload", choices=("none", "model", "sequential"), default="none", help="keep idle parts in host memory")
    add("--quantization", choices=("none", "nf4", "int8"), default="none", help="bitsandbytes layers in the denoiser")
    add("--quantize-text-encoders", action="store_true", help="the same in the text encoders")
    add("--without", action="append", default=[], metavar="PART", help="a part to leave out (text_encoder_3 of SD3); repeatable")
    add("--lora", action="append", default=[], type=_lora, metavar="NAME=FILE", help="a LoRA adapter that requests may name; repeatable")
    add("--safety-checker", action="store_true", help="load the safety checker that the model ships with; no memory bill counts it")
    add("--distilled", action="store_true", help="refuse guidance above 1: it doubles a step's memory, and the model does without")
    add("--vae-tiling", action="store_true", help="decode in tiles: less memory, seams may show")
    add("--attention-slicing", action="store_true", help="attention head by head: less memory, slower")
    add("--threads", type=_number(1, 1024), help="CPU threads (default: 1 for a tiny model, else OMP_NUM_THREADS or every core)")
    positive = _number(1, 2**20)
    add("--max-width-px", type=positive, default=512)
    add("--max-height-px", type=positive, default=512)
    add("--max-batch", type=positive, default=1, help="images denoised at once; a request for more runs in several batches")
    add("--max-steps", type=positive, default=MAX_STEPS)
    add("--multiple-px", type=positive, default=8, help="every side must be a multiple of this")
    add("--native-px", type=positive, default=512, help="side of the image when a request names no size")
    add("--default-steps", type=positive, default=25)
    add("--default-guidance-scale", type=_guidance_scale, default=7.5)
    add("--max-waiting-jobs", type=_number(0, 1000), default=8, help="more than this get 429")
    add("--grace-s", type=_number(0, 600), default=5, help="seconds that a running job gets to finish after SIGTERM")
    given = vars(parser.parse_args(argv))
    token_file = given.pop("token_file")
    given |= {"aliases": tuple(given.pop("alias")), "loras": tuple(given.pop("lora")), "without": tuple(given["without"])}
    return check(Settings(token=None if token_file is None else read_token(token_file), **given))


def main(argv: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for signum in (signal.SIGTERM, signal.SIGINT):
        # While loading this ends the process; while serving uvicorn stops first and then raises the signal once more, which lands here.
        signal.signal(signum, _leave)
    try:
        settings = parse(argv)
        # This and the port before the slow part: what can't work should be said at once.
        folder = inspect(settings.weights, settings.without)
        listener = _bind(settings)
        started_s = time.monotonic()
        painter = _load(settings, folder)
        title = f"{settings.model_id} on {settings.device} as {settings.dtype}, loaded in {time.monotonic() - started_s:.1f} s"
    except (SettingsError, WeightsRefused) as error:
        log.error("%s", error)
        return 2
    except OutOfMemory as error:
        log.error("%s Choose a smaller model, a quantization or --offload.", error)
        return 3
    lost = _serve(settings, abilities(folder, settings), painter, listener, title)
    return 4 if lost else 0


def _serve(settings: Settings, able: Abilities, painter: Painter, listener: socket.socket, title: str) -> bool:
    """Serve until told to stop; True when that was because the device is lost."""
    lost: list[bool] = []

    def on_device_lost() -> None:
        lost.append(True)
        server.should_exit = True

    queue = JobQueue(painter, Metrics(), max_waiting_jobs=settings.max_waiting_jobs)
    config = uvicorn.Config(make_app(settings, able, queue, on_device_lost), access_log=False, log_level="warning", log_config=None)
    server = Server(config, queue, settings.grace_s, title)
    server.run(sockets=[listener])
    return bool(lost)


class Server(uvicorn.Server):
    """uvicorn's server, which says where it listens once it does, and stops the jobs some seconds after it was told to stop itself."""

    def __init__(self, config: uvicorn.Config, queue: JobQueue, grace_s: float, title: str) -> None:
        super().__init__(config)
        self._queue, self._grace_s, self._title = queue, grace_s, title

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self._grace_s, self._queue.stop)
        await super().shutdown(sockets)  # returns when every request has its answer

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        log.info("%s; ready on http://%s:%d", self._title, address, port)


def _load(settings: Settings, folder: PipelineFolder) -> Painter:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    gc.disable()  # what the imports make stays: looking through it again and again costs 0.7 s of 4.4 s (measured)
    try:
        from services.diffusion.model import loading  # torch is imported here, with the environment set

        return loading.load(settings, folder)
    finally:
        gc.freeze()
        gc.enable()


def _bind(settings: Settings) -> socket.socket:
    """Bound but not yet listening: until the model is loaded a connection is refused, not left waiting."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise SettingsError(f"can't listen on {settings.host} port {settings.port}: {error.strerror}. Choose another --port.") from None
    listener.set_inheritable(False)
    return listener


def _leave(signum: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def _number(low: int, high: int) -> type[int]:
    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}, not {text}")
        return value

    return number  # type: ignore[return-value]  # argparse only calls it


def _guidance_scale(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_GUIDANCE_SCALE:
        raise argparse.ArgumentTypeError(f"must be from 0 to {MAX_GUIDANCE_SCALE:g}, not {text}")
    return value


def _lora(text: str) -> tuple[str, Path]:
    try:
        return named_lora(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be NAME=FILE, the name of letters, digits, dot, dash and underscore, not {text}") from None


def _device(text: str) -> str:
    if text != "cpu" and not (text.startswith("cuda:") and text[5:].isdecimal()):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda:N, not {text}")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
