"""A loaded diffusers pipeline as a Painter: text to image, image to image, inpainting, all with the same weights."""

from __future__ import annotations

import contextlib
import gc
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from services.diffusion import picture
from services.diffusion.contract import DeviceLost, ImageJob, JobStopped, NotFinite, Outcome, OutOfMemory, Picture, Step
from services.diffusion.model.adapters import Adapters
from services.diffusion.model.clock import Clock
from services.diffusion.model.denoiser import denoiser_of
from services.diffusion.model.memory import PeakMemory, is_out_of_memory, trim_heap
from services.diffusion.model.preview import decoded
from services.diffusion.model.schedulers import Schedulers
from services.diffusion.settings import Settings


class DiffusersPainter:
    """A loaded pipeline (see contract.Painter)."""

    def __init__(self, pipe: Any, settings: Settings, device: torch.device, adapters: Adapters) -> None:
        self._pipe = pipe
        self._device = device
        self._adapters = adapters
        self._schedulers = Schedulers(pipe.scheduler)
        self._max_batch = settings.max_batch
        self._offloaded = settings.offload != "none"
        self._others: dict[bool, Any] = {}  # with a mask or without: pipelines over the same parts
        self._peak = PeakMemory(device)

    def generate(self, job: ImageJob, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> Outcome:
        """See contract.Painter. One image's noise depends on its seed alone, so it looks the same in any batch."""
        try:
            outcome = self._generate(job, on_step, should_stop)
            trim_heap()
            return outcome
        except (JobStopped, NotFinite):
            self._tidy()
            raise
        except torch.AcceleratorError as error:
            raise DeviceLost(str(error).splitlines()[0]) from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                self._tidy()
                raise
        # Only here, behind the except block, are the exception and the frames that it holds gone, and their tensors with them.
        self._tidy()
        raise OutOfMemory(f"on {self._device}")

    def _generate(self, job: ImageJob, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> Outcome:
        self._peak.reset()
        # Several of diffusers' image-to-image pipelines take one picture for several seeds for a mistake, so edits run one by one.
        at_once = self._max_batch if job.edit is None else 1
        batches = [job.seeds[first : first + at_once] for first in range(0, len(job.seeds), at_once)]
        clock = Clock(self._device, on_step, should_stop, len(batches), job.output.partial_images)
        self._adapters.switch(job.lora, job.lora_scale)
        pipe = self._pipeline_of(job)
        pictures: list[Picture] = []
        for seeds in batches:
            pipe.scheduler = self._schedulers.fresh(job.scheduler)
            with self._no_gradients(), clock.batch(
                denoiser_of(pipe), len(seeds), lambda: getattr(pipe, "num_timesteps", None) or job.steps, self._preview_of(job)
            ):
                pictures += self._paint(pipe, job, seeds, clock)
        if pipe is not self._pipe and self._offloaded:
            self._pipe.maybe_free_model_hooks()  # the hooks are the first pipeline's, whichever has run
        return Outcome(
            pictures=tuple(pictures),
            denoise_steps=clock.steps,
            encode_s=clock.encode_s,
            denoise_s=clock.denoise_s,
            vae_s=clock.vae_s,
            total_s=clock.encode_s + clock.denoise_s + clock.vae_s,
            peak_bytes=self._peak.read(),
        )

    def _pipeline_of(self, job: ImageJob) -> Any:
        """The pipeline of the job's task, made when it is first needed: it shares every part and costs no memory."""
        if job.edit is None:
            return self._pipe
        masked = job.edit.mask is not None
        if masked not in self._others:
            import diffusers

            task = diffusers.AutoPipelineForInpainting if masked else diffusers.AutoPipelineForImage2Image
            made = task.from_pipe(self._pipe)
            made.set_progress_bar_config(disable=True)
            self._others[masked] = made
        return self._others[masked]

    def _paint(self, pipe: Any, job: ImageJob, seeds: tuple[int, ...], clock: Clock) -> list[Picture]:
        result = pipe(**self._arguments(pipe, job, seeds, clock))
        images = result.images  # (batch, height, width, 3), float32 in 0..1
        if not np.isfinite(images).all():
            raise NotFinite(f"{pipe.dtype} on {self._device}; float32 is the remedy where a card or a model can't do half precision")
        filtered = getattr(result, "nsfw_content_detected", None) or [False] * len(seeds)
        return [_file(image, job, seed, bool(f)) for image, seed, f in zip(images, seeds, filtered, strict=True)]

    def _arguments(self, pipe: Any, job: ImageJob, seeds: tuple[int, ...], clock: Clock) -> dict[str, Any]:
        accepts = inspect.signature(pipe.__call__).parameters
        arguments: dict[str, Any] = {
            "prompt": job.prompt,
            "num_images_per_prompt": len(seeds),
            "num_inference_steps": job.steps,
            "guidance_scale": job.guidance_scale,
            # On the CPU whatever the device: the same seed starts from the same noise on every card.
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "np",
        }
        if job.edit is not None:
            arguments |= {"image": job.edit.image, "strength": job.edit.strength}
            if job.edit.mask is not None:
                arguments["mask_image"] = job.edit.mask
        if "width" in accepts:  # some image-to-image pipelines take it from the picture, which has the job's size
            arguments |= {"width": job.width_px, "height": job.height_px}
        if job.negative_prompt is not None:
            arguments["negative_prompt"] = job.negative_prompt
        if "callback_on_step_end" in accepts:
            arguments["callback_on_step_end"] = clock.step_end
        else:  # PixArt's pipelines have the older interface
            arguments |= {"callback": clock.step_end, "callback_steps": 1}
        # PixArt: the size that was admitted is the size that runs, not the nearest one of its training; no HTML cleaning of prompts.
        arguments |= {name: False for name in ("use_resolution_binning", "clean_caption") if name in accepts}
        return arguments

    def _preview_of(self, job: ImageJob) -> Callable[[torch.Tensor], Picture | None]:
        """None where the VAE would have to change places with the denoiser for it (offload), and where a safety checker has to see what
        goes out."""
        never = self._offloaded or getattr(self._pipe, "safety_checker", None) is not None

        def preview(latents: torch.Tensor) -> Picture | None:
            image = None if never else decoded(self._pipe, latents[:1])
            return None if image is None or not np.isfinite(image).all() else _file(image[0], job, job.seeds[0], False)

        return preview

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
        trim_heap()


def _file(image: Any, job: ImageJob, seed: int, filtered: bool) -> Picture:
    """`image`: (height, width, 3), float32 in 0..1. What a mask keeps is the original's, to the last bit."""
    pixels = (image * 255).round().astype(np.uint8)
    if job.edit is not None and job.edit.mask is not None:
        pixels = np.where(np.asarray(job.edit.mask)[..., None] == 0, np.asarray(job.edit.image), pixels)
    return Picture(picture.encode(pixels, job.output.format, job.output.quality), seed, filtered)
