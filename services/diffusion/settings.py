"""Everything that one engine process is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Offload = Literal["none", "model", "sequential"]
Quantization = Literal["none", "nf4", "int8"]

MAX_IMAGES = 10  # of one request: the OpenAI API's own limit for `n`
MAX_GUIDANCE_SCALE = 50.0  # far above any use; beyond it latents only saturate
SEED_VALUES = 2**32  # seeds are 0 .. 2**32 - 1; JSON readers keep these exact and the next seed after the last is 0
MAX_BODY_BYTES = 128 * 1024  # two prompts of 4,000 characters, every character escaped, take 96 kB


class SettingsError(Exception):
    """A command line that can't be obeyed. The message says what to change."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`max_batch` bounds what is denoised at once, not `n`: a larger request runs in several batches. The token is kept out of `repr`."""

    weights: Path
    model_id: str
    aliases: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = field(default=None, repr=False)
    device: str = "cpu"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    offload: Offload = "none"
    quantization: Quantization = "none"
    quantize_text_encoders: bool = False
    vae_tiling: bool = False
    attention_slicing: bool = False
    threads: int | None = None
    max_width_px: int = 512
    max_height_px: int = 512
    max_batch: int = 1
    max_steps: int = 150
    multiple_px: int = 8
    native_px: int = 512
    default_steps: int = 25
    default_guidance_scale: float = 7.5
    max_prompt_chars: int = 4000
    max_waiting_jobs: int = 8
    grace_s: int = 5

    def default_size_px(self) -> tuple[int, int]:
        """Width and height where a request names none: the model's native square, cut to what this placement admits."""
        return self._admitted(self.max_width_px), self._admitted(self.max_height_px)

    def _admitted(self, limit_px: int) -> int:
        return min(self.native_px, limit_px) // self.multiple_px * self.multiple_px


def check(settings: Settings) -> Settings:
    """The same settings when they can be obeyed together; SettingsError otherwise."""
    if settings.token is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
        raise SettingsError(f"--host {settings.host} can be reached by others, so a token is needed: add --token-file FILE.")
    if settings.device == "cpu" and settings.offload != "none":
        raise SettingsError(f"--offload {settings.offload} moves parts between a GPU and the host; with --device cpu use --offload none.")
    if settings.quantization != "none" and settings.offload == "sequential":
        raise SettingsError("quantized weights can't be offloaded layer by layer: use --offload none or model.")
    if settings.quantize_text_encoders and settings.quantization == "none":
        raise SettingsError("--quantize-text-encoders needs --quantization nf4 or int8.")
    if min(settings.default_size_px()) < settings.multiple_px:
        raise SettingsError("--native-px, --max-width-px and --max-height-px must each be at least --multiple-px.")
    if settings.default_steps > settings.max_steps:
        raise SettingsError(f"--default-steps {settings.default_steps} is more than --max-steps {settings.max_steps}.")
    return settings


def read_token(path: Path) -> str:
    """The token in a file that only its owner should read. SettingsError when there is none to read."""
    try:
        token = path.read_text(encoding="utf8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--token-file {path} can't be read: {error}.") from None
    if not token or not token.isascii() or not token.isprintable():
        raise SettingsError(f"--token-file {path} must hold one line of printable ASCII characters.")
    return token
