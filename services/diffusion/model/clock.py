"""A job's time, split into text encoding, denoise steps and the rest; and the one place where a job can be stopped: between two steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from services.diffusion.contract import JobStopped, Picture, Step

Preview = Callable[[torch.Tensor], Picture | None]


class Clock:
    """`batches`: how many calls of the pipeline the job takes. `partial_images`: how many unfinished pictures are wanted on the way,
    which `preview` makes of the latents."""

    def __init__(
        self, device: torch.device, on_step: Callable[[Step], None], should_stop: Callable[[], bool], batches: int, partial_images: int = 0
    ) -> None:
        self._device, self._on_step, self._should_stop = device, on_step, should_stop
        self._batches, self._partial_images = batches, partial_images
        self._images, self._last_s, self._in_steps, self._begun = 0, 0.0, False, 0
        self._steps_of_batch: Callable[[], int] = lambda: 0
        self._preview: Preview | None = None
        self._done = 0
        self.steps, self.encode_s, self.denoise_s, self.vae_s = 0, 0.0, 0.0, 0.0

    @contextlib.contextmanager
    def batch(self, denoiser: torch.nn.Module, images: int, steps: Callable[[], int], preview: Preview) -> Iterator[None]:
        """Around one call of the pipeline and the encoding of its files. `steps` is asked during the call, when the pipeline knows."""
        self._images, self._last_s, self._in_steps, self._done = images, time.perf_counter(), False, 0
        self._steps_of_batch, self._preview = steps, preview
        self._stop_if_asked()
        hook = denoiser.register_forward_pre_hook(self._first_step_begins)
        try:
            yield
        finally:
            hook.remove()
        self.vae_s += self._lap_s()
        self._begun += 1

    def step_end(self, *given: Any) -> dict[str, Any]:
        """The pipeline's callback, in either of its two forms ((pipeline, index, time, tensors) or (index, time, latents)): count the step,
        tell it, then go on or stop."""
        step_s = self._lap_s()
        self.denoise_s += step_s
        self.steps += self._images
        self._done += 1
        of_batch = max(self._steps_of_batch(), self._done)
        partial = self._partial(given[3]["latents"] if len(given) == 4 else given[2], of_batch)
        self._on_step(Step(step_s, self._begun * of_batch + self._done, self._batches * of_batch, partial))
        self._stop_if_asked()
        return {}

    def _partial(self, latents: torch.Tensor, of_batch: int) -> Picture | None:
        """At equal distances, of the first batch, and never of the last step: that is the picture itself. Worked example: 2 of 9 steps:
        after steps 3 and 6."""
        wanted = {of_batch * (number + 1) // (self._partial_images + 1) for number in range(self._partial_images)}
        if self._begun or self._done not in wanted or self._done == of_batch or self._preview is None:
            return None
        made = self._preview(latents)
        self.vae_s += self._lap_s()
        return made

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
