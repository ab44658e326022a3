"""Everything that one engine process is told at its start."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from services.wire.images import MAX_PROMPT_CHARS, MAX_STEPS, MAX_UPLOAD_BYTES

Offload = Literal["none", "model", "sequential"]
Quantization = Literal["none", "nf4", "int8"]

MAX_BODY_BYTES = 128 * 1024  # two prompts of 4,000 characters, every character escaped, take 96 kB
MAX_EDIT_BODY_BYTES = MAX_BODY_BYTES + 2 * MAX_UPLOAD_BYTES * 4 // 3  # and a picture and its mask, as base64
LORA = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.ASCII)


class SettingsError(Exception):
    """A command line that can't be obeyed. The message says what to change."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`max_batch` bounds what is denoised at once, not `n`: a larger request runs in several batches. The token is kept out of `repr`.

    `distilled`: the model needs no classifier-free guidance and its memory was counted without, so no request may switch it on.
    `without`: parts that are left out, with their tokenizers (SD3 works without text_encoder_3, its T5).
    `loras`: the adapters that requests may name, with their files.
    """

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
    without: tuple[str, ...] = ()
    loras: tuple[tuple[str, Path], ...] = ()
    safety_checker: bool = False
    distilled: bool = False
    vae_tiling: bool = False
    attention_slicing: bool = False
    threads: int | None = None
    max_width_px: int = 512
    max_height_px: int = 512
    max_batch: int = 1
    max_steps: int = MAX_STEPS
    multiple_px: int = 8
    native_px: int = 512
    default_steps: int = 25
    default_guidance_scale: float = 7.5
    max_prompt_chars: int = MAX_PROMPT_CHARS
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
    if len({name for name, _ in settings.loras}) < len(settings.loras):
        raise SettingsError("two --lora have the same name; each adapter needs its own.")
    for name, path in settings.loras:
        if path.suffix != ".safetensors" or not path.is_file():
            raise SettingsError(f"--lora {name}: {path} is no .safetensors file. Other formats can run code and are never opened.")
    if min(settings.default_size_px()) < settings.multiple_px:
        raise SettingsError("--native-px, --max-width-px and --max-height-px must each be at least --multiple-px.")
    if settings.default_steps > settings.max_steps:
        raise SettingsError(f"--default-steps {settings.default_steps} is more than --max-steps {settings.max_steps}.")
    return settings


def named_lora(text: str) -> tuple[str, Path]:
    """NAME=FILE. Raises ValueError when it is not."""
    match = LORA.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return match[1], Path(match[2])


def read_token(path: Path) -> str:
    """The token in a file that only its owner should read. SettingsError when there is none to read."""
    try:
        token = path.read_text(encoding="utf8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--token-file {path} can't be read: {error}.") from None
    if not token or not token.isascii() or not token.isprintable():
        raise SettingsError(f"--token-file {path} must hold one line of printable ASCII characters.")
    return token
