"""The contract between the HTTP side and the pipeline: one job goes in, pictures and timings come out, or one of these errors.

Nothing here imports torch, so everything but pipeline.py can be tested in the light environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from services.wire.images import Format


@dataclass(frozen=True, slots=True)
class Edit:
    """The picture that a job starts from: RGB, of the job's size. `mask` (mode L, the same size): white is painted anew, black stays as it
    is; None: the whole picture is the start. `strength`, above 0 up to 1, is how far from it the result may go."""

    image: Image.Image = field(repr=False)
    mask: Image.Image | None = field(repr=False)
    strength: float


@dataclass(frozen=True, slots=True)
class Output:
    """How the pictures come out. `quality`: 0 to 100, of JPEG and WebP. `partial_images`: how many unfinished ones are sent on the way."""

    format: Format = "png"
    quality: int = 100
    partial_images: int = 0


@dataclass(frozen=True, slots=True)
class ImageJob:
    """A checked request: one image per seed. The prompts stay out of `repr`, so that no log line can hold them.

    `scheduler` is one of wire.images.SCHEDULERS, None the model's own. `lora` names one of the adapters that the engine was given.
    """

    prompt: str = field(repr=False)
    negative_prompt: str | None = field(repr=False)
    width_px: int
    height_px: int
    steps: int
    guidance_scale: float
    seeds: tuple[int, ...]
    scheduler: str | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    edit: Edit | None = None
    output: Output = Output()

    def size(self) -> str:
        """As people say it: 512x512, or 512x512 x 4 for four images."""
        one = f"{self.width_px}x{self.height_px}"
        return one if len(self.seeds) == 1 else f"{one} x {len(self.seeds)}"


@dataclass(frozen=True, slots=True)
class Picture:
    """One image as a file. `filtered`: the safety checker that the model ships with has blackened it."""

    data: bytes
    seed: int
    filtered: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One denoise step of a batch is done: the `done`-th of `total` of the job. `partial`: the unfinished picture of the first image."""

    seconds: float
    done: int
    total: int
    partial: Picture | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job made and what it took.

    `denoise_steps` sums over all images, as counted, not as asked for. `encode_s` is the prompt's text encoding, `vae_s` everything
    from the last step to the finished files. `peak_bytes` is the highest memory while the job ran: allocated device memory on a GPU,
    resident memory of this process on a CPU; None where the system does not tell.
    """

    pictures: tuple[Picture, ...]
    denoise_steps: int
    encode_s: float
    denoise_s: float
    vae_s: float
    total_s: float
    peak_bytes: int | None


class Painter(Protocol):
    """A loaded pipeline. One caller at a time, from any one thread."""

    def generate(self, job: ImageJob, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> Outcome:
        """Make the images. `on_step` is told each denoise step; `should_stop` is asked after each step.

        Raises JobStopped, OutOfMemory (the memory is given back, the next job works), NotFinite, DeviceLost (no job works any more).
        """


class JobStopped(Exception):
    """`should_stop` said yes: nothing was made."""


class OutOfMemory(Exception):
    """The job needed more memory than there is. The message says where."""


class NotFinite(Exception):
    """The model's output holds NaN or infinity: the number format does not suit the card or the model."""


class DeviceLost(Exception):
    """The device answers no more; only a new process can use it again."""


class WeightsRefused(Exception):
    """The folder can't be loaded or must not be. The message says why and what to do."""
