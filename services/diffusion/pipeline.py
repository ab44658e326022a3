"""A diffusers pipeline as a Painter. The only file of this room that imports torch and diffusers."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.diffusion import png
from services.diffusion.contract import DeviceLost, ImageJob, JobStopped, NotFinite, Outcome, OutOfMemory, Picture, WeightsRefused
from services.diffusion.folder import PipelineFolder
from services.diffusion.settings import Settings, SettingsError

# Below this many parameters a denoise step is thousands of operations too small to share: two threads took as long as one
# (digits-sd, 1.1 M parameters, 32x32: 0.21 s of 20 steps on 1 thread, 0.29 s on 2).
SMALL_DENOISER_PARAMS = 20_000_000
OUT_OF_MEMORY_SIGNS = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


# --- loading ----------------------------------------------------------------------------------------------------------


def load(settings: Settings, folder: PipelineFolder) -> DiffusersPainter:
    """Load the folder from this disk onto the device. Raises WeightsRefused, SettingsError or OutOfMemory, each a sentence."""
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"--device {settings.device}: torch {torch.__version__} sees no GPU. Check the driver or use --device cpu.")
    try:
        pipe = _from_disk(folder, settings)
        if settings.quantization != "none":
            _quantize(pipe, settings)
        _place(pipe, settings, device)
    except (MemoryError, RuntimeError) as error:
        if _is_out_of_memory(error):
            raise OutOfMemory(f"{settings.weights} does not fit into the memory of {settings.device} as {settings.dtype}.") from None
        raise WeightsRefused(f"{settings.weights} can't be loaded: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, _safetensors_error()) as error:
        raise WeightsRefused(f"{settings.weights} can't be loaded: {error}") from error
    _set_threads(pipe, settings, device)
    return DiffusersPainter(pipe, settings, device)


def _from_disk(folder: PipelineFolder, settings: Settings) -> Any:
    if settings.quantization == "none":
        # diffusers imports bitsandbytes whenever it is installed, and that costs 1.2 s and 25 MB of every start (measured).
        # None in sys.modules is Python's own way to say that a module is not there.
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipeline_class = getattr(diffusers, folder.pipeline)
    pipe = pipeline_class.from_pretrained(
        str(folder.path),
        dtype=getattr(torch, settings.dtype),
        variant=folder.variant,
        use_safetensors=True,
        local_files_only=True,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _place(pipe: Any, settings: Settings, device: torch.device) -> None:
    """Onto the device by the offload mode, with the memory savers that were asked for."""
    if settings.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif settings.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    # One image at a time through the VAE: its activations are the job's memory peak, and they would grow with the batch.
    pipe.vae.enable_slicing()
    if settings.vae_tiling:
        pipe.vae.enable_tiling()
    if settings.attention_slicing:
        pipe.enable_attention_slicing()
    torch.backends.cudnn.deterministic = True  # the same seed gives the same bytes


def _set_threads(pipe: Any, settings: Settings, device: torch.device) -> None:
    """How many CPU threads to use.

    1. --threads says it.  2. a GPU does the work -> torch's own choice.  3. a small denoiser -> 1.
    4. OMP_NUM_THREADS, our share of a machine with other engines -> as it says.  5. every core that is ours.
    """
    if settings.threads is not None:  # 1.
        torch.set_num_threads(settings.threads)
    elif device.type != "cpu":  # 2.
        return
    elif sum(p.numel() for p in _denoiser(pipe).parameters()) < SMALL_DENOISER_PARAMS:  # 3.
        torch.set_num_threads(1)
    elif "OMP_NUM_THREADS" in os.environ:  # 4. torch has read it
        return
    else:  # 5.
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def _denoiser(pipe: Any) -> torch.nn.Module:
    return pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer


# --- quantization -----------------------------------------------------------------------------------------------------


def _quantize(pipe: Any, settings: Settings) -> None:
    """Put bitsandbytes layers in the place of every nn.Linear of the denoiser (and the text encoders when asked).

    diffusers' own bitsandbytes loader refuses to work without a GPU; replacing the layers works on both. The weights are read at full
    width first, so the host needs their unquantized size for a moment.
    """
    parts = [_denoiser(pipe)]
    if settings.quantize_text_encoders:
        parts += [part for name, part in pipe.components.items() if name.startswith("text_encoder") and part is not None]
    for part in parts:
        for parent in list(part.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is torch.nn.Linear:
                    setattr(parent, name, _quantized(child, settings.quantization, torch.device(settings.device)))


def _quantized(layer: torch.nn.Linear, kind: str, device: torch.device) -> torch.nn.Module:
    import bitsandbytes as bnb

    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    new: torch.nn.Module
    if kind == "nf4":
        new = bnb.nn.Linear4bit(*shape, compute_dtype=layer.weight.dtype, quant_type="nf4", device="meta")
        new.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    else:
        new = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, device="meta")
        new.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    if layer.bias is not None:
        new.bias = layer.bias
    return new.to(device)  # this is what quantizes


# --- generating -------------------------------------------------------------------------------------------------------


class DiffusersPainter:
    """A loaded pipeline (see contract.Painter)."""

    def __init__(self, pipe: Any, settings: Settings, device: torch.device) -> None:
        self._pipe = pipe
        self._device = device
        self._max_batch = settings.max_batch
        self._offloaded = settings.offload != "none"
        self._accepts = frozenset(inspect.signature(pipe.__call__).parameters)
        self._peak = PeakMemory(device)

    def generate(self, job: ImageJob, on_step: Callable[[float], None], should_stop: Callable[[], bool]) -> Outcome:
        """See contract.Painter. One image's noise depends on its seed alone, so it looks the same in any batch."""
        try:
            outcome = self._generate(job, on_step, should_stop)
            _trim_heap()
            return outcome
        except (JobStopped, NotFinite):
            self._tidy()
            raise
        except torch.AcceleratorError as error:
            raise DeviceLost(str(error).splitlines()[0]) from error
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                self._tidy()
                raise
        # Only here, behind the except block, are the exception and the frames that it holds gone, and their tensors with them.
        self._tidy()
        raise OutOfMemory(f"on {self._device}")

    def _generate(self, job: ImageJob, on_step: Callable[[float], None], should_stop: Callable[[], bool]) -> Outcome:
        self._peak.reset()
        clock = Clock(self._device, on_step, should_stop)
        pictures: list[Picture] = []
        for first in range(0, len(job.seeds), self._max_batch):
            seeds = job.seeds[first : first + self._max_batch]
            with self._no_gradients(), clock.batch(_denoiser(self._pipe), len(seeds)):
                pictures += self._paint(job, seeds, clock)
        return Outcome(
            pictures=tuple(pictures),
            denoise_steps=clock.steps,
            encode_s=clock.encode_s,
            denoise_s=clock.denoise_s,
            vae_s=clock.vae_s,
            total_s=clock.encode_s + clock.denoise_s + clock.vae_s,
            peak_bytes=self._peak.read(),
        )

    def _paint(self, job: ImageJob, seeds: tuple[int, ...], clock: Clock) -> list[Picture]:
        result = self._pipe(**self._arguments(job, seeds, clock))
        images = result.images  # (batch, height, width, 3), float32 in 0..1
        if not np.isfinite(images).all():
            raise NotFinite(f"{self._pipe.dtype} on {self._device}; float32 is the remedy where a card or a model can't do half precision")
        filtered = getattr(result, "nsfw_content_detected", None) or [False] * len(seeds)
        pixels = (images * 255).round().astype(np.uint8)
        return [Picture(png.encode(p), seed, bool(f)) for p, seed, f in zip(pixels, seeds, filtered, strict=True)]

    def _arguments(self, job: ImageJob, seeds: tuple[int, ...], clock: Clock) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "prompt": job.prompt,
            "num_images_per_prompt": len(seeds),
            "width": job.width_px,
            "height": job.height_px,
            "num_inference_steps": job.steps,
            "guidance_scale": job.guidance_scale,
            # On the CPU whatever the device: the same seed starts from the same noise on every card.
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "np",
        }
        if job.negative_prompt is not None:
            arguments["negative_prompt"] = job.negative_prompt
        if "callback_on_step_end" in self._accepts:
            arguments["callback_on_step_end"] = clock.step_end
        else:  # PixArt's pipelines have the older interface
            arguments |= {"callback": clock.step_end, "callback_steps": 1}
        # PixArt: the size that was admitted is the size that runs, not the nearest one of its training; no HTML cleaning of prompts.
        arguments |= {name: False for name in ("use_resolution_binning", "clean_caption") if name in self._accepts}
        return arguments

    def _no_gradients(self) -> contextlib.AbstractContextManager[Any]:
        # Offloading moves parameters while it runs; moved in inference mode they could not be used outside of it any more.
        context: contextlib.AbstractContextManager[Any] = torch.no_grad() if self._offloaded else torch.inference_mode()
        return context

    def _tidy(self) -> None:
        """After a job that did not end by itself: parts back where they belong, cached memory back to the device."""
        if self._offloaded:
            self._pipe.maybe_free_model_hooks()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        _trim_heap()


class Clock:
    """Splits a job's time into text encoding, denoise steps and the rest, and stops it between two steps."""

    def __init__(self, device: torch.device, on_step: Callable[[float], None], should_stop: Callable[[], bool]) -> None:
        self._device, self._on_step, self._should_stop = device, on_step, should_stop
        self._batch, self._last_s, self._in_steps = 0, 0.0, False
        self.steps, self.encode_s, self.denoise_s, self.vae_s = 0, 0.0, 0.0, 0.0

    @contextlib.contextmanager
    def batch(self, denoiser: torch.nn.Module, images: int) -> Iterator[None]:
        """Around one call of the pipeline and the encoding of its PNGs."""
        self._batch, self._last_s, self._in_steps = images, time.perf_counter(), False
        self._stop_if_asked()
        hook = denoiser.register_forward_pre_hook(self._first_step_begins)
        try:
            yield
        finally:
            hook.remove()
        self.vae_s += self._lap_s()

    def step_end(self, *_: Any) -> dict[str, Any]:
        """The pipeline's callback, in either of its two forms: count the step, then go on or stop."""
        step_s = self._lap_s()
        self.denoise_s += step_s
        self.steps += self._batch
        self._on_step(step_s)
        self._stop_if_asked()
        return {}

    def _first_step_begins(self, *_: Any) -> None:
        if not self._in_steps:
            self._in_steps = True
            self.encode_s += self._lap_s()

    def _stop_if_asked(self) -> None:
        if self._should_stop():
            raise JobStopped

    def _lap_s(self) -> float:
        """Seconds since the last lap. A GPU is waited for: its work has only been queued so far."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now_s = time.perf_counter()
        lap_s, self._last_s = now_s - self._last_s, now_s
        return lap_s


class PeakMemory:
    """The highest memory since `reset`: allocated device memory on a GPU, resident memory of this process on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError):  # read() then tells the peak since the start
                Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM

    def read(self) -> int | None:
        """Bytes; None where the system does not tell."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _trim_heap() -> None:
    """Give freed memory back to the system. glibc keeps it: 140 MB after ten images of 128x128, given back in 20 ms at most (measured)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries don't have it
    if trim is not None:
        trim(0)


# --- foreign errors ---------------------------------------------------------------------------------------------------


def _is_out_of_memory(error: BaseException) -> bool:
    """torch has a class for a GPU's; the CPU allocator and cuBLAS/cuDNN tell theirs in words only."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(sign in str(error) for sign in OUT_OF_MEMORY_SIGNS)


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError  # type: ignore[no-any-return]
