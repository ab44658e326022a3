"""From a folder on this disk to a pipeline on the device, one part after another.

A rig's host has 4 to 8 GiB: whole pipelines must never lie in its memory. Each part is read (mapped where the numbers stay as they are
stored), quantized, and moved to the device before the next; so the host holds one part at a time, as sizing counts it (bill.host_need).
"""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import torch

from services.diffusion.contract import OutOfMemory, WeightsRefused
from services.diffusion.folder import Part, PipelineFolder
from services.diffusion.model.adapters import Adapters
from services.diffusion.model.denoiser import denoiser_of
from services.diffusion.model.memory import is_out_of_memory
from services.diffusion.model.painter import DiffusersPainter
from services.diffusion.model.quantized import quantize
from services.diffusion.settings import Settings, SettingsError

# Below this many parameters a denoise step is thousands of operations too small to share: two threads took as long as one
# (digits-sd, 1.1 M parameters, 32x32: 0.21 s of 20 steps on 1 thread, 0.29 s on 2).
SMALL_DENOISER_PARAMS = 20_000_000
SAFETY_CHECKER = "safety_checker"
TILE_PX = 512  # of the VAE's tiles, as sizing traced them (models/trace_image_memory.py)


def load(settings: Settings, folder: PipelineFolder) -> DiffusersPainter:
    """Load the folder from this disk onto the device. Raises WeightsRefused, SettingsError or OutOfMemory, each a sentence."""
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"--device {settings.device}: torch {torch.__version__} sees no GPU. Check the driver or use --device cpu.")
    _leave_out(settings)
    try:
        pipe = _assemble(folder, settings, device)
        adapters = Adapters(pipe, settings.loras)
        _place(pipe, settings, device)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{settings.weights} does not fit into the memory of {settings.device} as {settings.dtype}.") from None
        raise WeightsRefused(f"{settings.weights} can't be loaded: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, _safetensors_error()) as error:
        raise WeightsRefused(f"{settings.weights} can't be loaded: {error}") from error
    _set_threads(pipe, settings, device)
    return DiffusersPainter(pipe, settings, device, adapters)


def _leave_out(settings: Settings) -> None:
    """diffusers imports bitsandbytes and peft whenever they are installed, and bitsandbytes alone costs 1.2 s and 25 MB of every start
    (measured). None in sys.modules is Python's own way to say that a module is not there."""
    for name, needed in (("bitsandbytes", settings.quantization != "none"), ("peft", bool(settings.loras))):
        if not needed:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _assemble(folder: PipelineFolder, settings: Settings, device: torch.device) -> Any:
    """The pipeline, its parts on the device (with offload: in host memory). What has no weights diffusers loads itself."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    given: dict[str, Any] = dict.fromkeys(folder.absent)
    if any(part.name == SAFETY_CHECKER for part in folder.parts):
        if not settings.safety_checker:
            given[SAFETY_CHECKER] = None
    elif settings.safety_checker:
        raise SettingsError(f"--safety-checker: {folder.path} ships none. Leave the flag out or choose another model.")
    for part in folder.parts:
        if part.name not in given:
            given[part.name] = _load_part(folder, part, settings, device)
    pipeline_class = getattr(diffusers, folder.pipeline)
    if "requires_safety_checker" in inspect.signature(pipeline_class.__init__).parameters:
        given["requires_safety_checker"] = given.get(SAFETY_CHECKER) is not None
    pipe = pipeline_class.from_pretrained(str(folder.path), dtype=_dtype(settings), use_safetensors=True, local_files_only=True, **given)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _load_part(folder: PipelineFolder, part: Part, settings: Settings, device: torch.device) -> torch.nn.Module:
    """A part that will be packed is read as it is stored, so that the host maps its file and holds no copy of it."""
    text_encoder = settings.quantize_text_encoders and part.name.startswith("text_encoder")
    packed = settings.quantization != "none" and (text_encoder or part.name in ("unet", "transformer"))
    where, dtype = folder.path / part.name, _dtype(settings)
    module: torch.nn.Module = _class_of(part).from_pretrained(
        str(where), dtype=_stored_dtype(where, dtype) if packed else dtype, variant=part.variant, use_safetensors=True,
        local_files_only=True,
    )
    if packed:
        quantize(module, settings.quantization, device, dtype)
    return module.to("cpu" if settings.offload != "none" else device)


def _stored_dtype(where: Path, otherwise: torch.dtype) -> torch.dtype:
    """The dtype of the first tensor of the part's weights; `otherwise` where that is none that a module can have."""
    from safetensors import safe_open

    with safe_open(str(min(where.glob("*.safetensors"))), framework="pt") as file:
        name = file.get_slice(next(iter(file.keys()))).get_dtype()
    return {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}.get(name, otherwise)


def _class_of(part: Part) -> Any:
    """The class that model_index.json names, in the library that it names (folder.py has allowed that)."""
    import diffusers
    import transformers
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    library = {"diffusers": diffusers, "transformers": transformers}.get(part.library)
    found = StableDiffusionSafetyChecker if library is None else getattr(library, part.class_name, None)
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise WeightsRefused(f"the part '{part.name}' is a {part.class_name[:100]}, which the engine's {part.library} doesn't have.")
    return found


def _dtype(settings: Settings) -> torch.dtype:
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    return dtypes[settings.dtype]


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
        _tile(pipe.vae)
    if settings.attention_slicing:
        pipe.enable_attention_slicing()
    torch.backends.cudnn.deterministic = True  # the same seed gives the same bytes


def _tile(vae: Any) -> None:
    """Tiles of TILE_PX, as the bill counts them: by itself a VAE takes the size of its training, 1024 px for SDXL and all later ones."""
    vae.enable_tiling()
    if hasattr(vae, "tile_latent_min_size"):
        vae.tile_latent_min_size = vae.tile_latent_min_size * TILE_PX // vae.tile_sample_min_size
        vae.tile_sample_min_size = TILE_PX


def _set_threads(pipe: Any, settings: Settings, device: torch.device) -> None:
    """How many CPU threads to use.

    1. --threads says it.  2. a GPU does the work -> torch's own choice.  3. a small denoiser -> 1.
    4. OMP_NUM_THREADS, our share of a machine with other engines -> as it says.  5. every core that is ours.
    """
    if settings.threads is not None:  # 1.
        torch.set_num_threads(settings.threads)
    elif device.type != "cpu":  # 2.
        return
    elif sum(p.numel() for p in denoiser_of(pipe).parameters()) < SMALL_DENOISER_PARAMS:  # 3.
        torch.set_num_threads(1)
    elif "OMP_NUM_THREADS" in os.environ:  # 4. torch has read it
        return
    else:  # 5.
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError  # type: ignore[no-any-return]
