"""Is this a diffusers folder that may be loaded? Read from its JSON and its file names, before torch is imported.

Nothing that can run code is ever opened: no pickles, no Python of the repository, no pipeline class that is not on the list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.diffusion.contract import WeightsRefused
from services.diffusion.settings import Settings
from services.wire.images import SCHEDULERS

PIPELINES = (
    "Flux2KleinPipeline",
    "FluxPipeline",
    "LatentConsistencyModelPipeline",
    "PixArtAlphaPipeline",
    "PixArtSigmaPipeline",
    "StableDiffusion3Pipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "ZImagePipeline",
)
# diffusers has an image-to-image pipeline for these, and an inpainting one for the second group. FLUX.2 klein takes pictures too, but as a
# longer sequence, which no memory bill counts.
STARTS_FROM_IMAGE = ("FluxPipeline", "LatentConsistencyModelPipeline", "StableDiffusion3Pipeline", "StableDiffusionPipeline",
                     "StableDiffusionXLPipeline", "ZImagePipeline")  # fmt: skip
INPAINTS = tuple(name for name in STARTS_FROM_IMAGE if name != "LatentConsistencyModelPipeline")
# Their guidance is an input of the denoiser: it costs nothing, and there is no second pass for a negative prompt.
GUIDANCE_EMBEDDED = ("FluxPipeline", "LatentConsistencyModelPipeline")
# Noise schedules of flow matching, and of latent consistency, know one scheduler: the model's own.
OWN_SCHEDULER_ONLY = ("Flux2KleinPipeline", "FluxPipeline", "LatentConsistencyModelPipeline", "StableDiffusion3Pipeline", "ZImagePipeline")
# Parts that the pipeline also works without, and that a download may have left out.
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
# The same for one pipeline: Stable Diffusion 3 was trained to work without T5 (arXiv:2403.03206, section 5.3).
OPTIONAL_OF = {"StableDiffusion3Pipeline": ("text_encoder_3", "tokenizer_3")}
# The libraries that model_index.json may take its parts from. `stable_diffusion` is how the safety checker's module is named there.
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
# Parts with tensors; every other part (tokenizers, schedulers, image processors) is JSON and text.
WEIGHTLESS = ("scheduler", "feature_extractor")


@dataclass(frozen=True, slots=True)
class Part:
    """One part with weights. `variant` is their name's suffix (fp16) when there is no plain form of them."""

    name: str
    library: str
    class_name: str
    variant: str | None


@dataclass(frozen=True, slots=True)
class PipelineFolder:
    """A folder that has been looked at. `absent`: optional parts that model_index.json names and that are not there."""

    path: Path
    pipeline: str
    parts: tuple[Part, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What requests may ask of the loaded model. `guidance_limit`: None where guidance costs nothing or was counted."""

    edits: bool
    masks: bool
    negative_prompt: bool
    guidance_limit: float | None
    schedulers: tuple[str, ...]
    loras: tuple[str, ...]


def abilities(folder: PipelineFolder, settings: Settings) -> Abilities:
    """By the pipeline's class, and by what the engine was told."""
    embedded = folder.pipeline in GUIDANCE_EMBEDDED
    return Abilities(
        edits=folder.pipeline in STARTS_FROM_IMAGE,
        masks=folder.pipeline in INPAINTS,
        negative_prompt=not embedded and not settings.distilled and folder.pipeline != "Flux2KleinPipeline",
        guidance_limit=1.0 if settings.distilled and not embedded else None,
        schedulers=() if folder.pipeline in OWN_SCHEDULER_ONLY else SCHEDULERS,
        loras=tuple(name for name, _ in settings.loras),
    )


def inspect(path: Path, without: tuple[str, ...] = ()) -> PipelineFolder:
    """Look at the folder; WeightsRefused with what to do when it must not or can't be loaded. `without`: parts to leave out.

    1. no model_index.json -> not a diffusers folder.  2. a pipeline class that is not on the list -> refused.
    3. a part from a library that is not on the list -> refused.  4. Python files, or a config with auto_map -> refused.
    5. a part that is not there, unless it is optional -> refused.  6. a part with weights but without safetensors -> refused.
    7. otherwise it may be loaded.
    """
    # 1.
    if not (path / "model_index.json").is_file():
        raise WeightsRefused(f"{path} is not a diffusers folder: it has no model_index.json. Name the folder that holds it.")
    index = _json(path / "model_index.json")
    # 2.
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise WeightsRefused(f"{path} is a {str(pipeline)[:100]}; this engine runs {', '.join(PIPELINES)}.")
    # 3.
    named = list(_parts(index))
    for name, library, _ in named:
        if not name.isidentifier():
            raise WeightsRefused(f"{path} names a part {name[:100]!r}, which is no name of a folder in it.")
        if library not in LIBRARIES:
            raise WeightsRefused(f"the part '{name}' of {path} comes from {library[:100]!r}, code that this engine never loads.")
    # 4.
    _refuse_code(path)
    # 5.
    left_out = _left_out(path, without, [name for name, _, _ in named])
    absent = tuple(name for name, _, _ in named if name in left_out or not (path / name).is_dir())
    for name in absent:
        if name not in (*OPTIONAL, *OPTIONAL_OF.get(pipeline, ()), *left_out):
            raise WeightsRefused(f"{path} has no folder '{name}', which its model_index.json names. Fetch the model again.")
    # 6.
    parts = tuple(_part(path, *entry) for entry in named if entry[0] not in absent and _has_weights(path / entry[0]))
    # 7.
    return PipelineFolder(path, str(pipeline), parts, absent)


def _left_out(path: Path, without: tuple[str, ...], named: list[str]) -> set[str]:
    """The parts of `without`, each text encoder with its tokenizer."""
    for name in without:
        if name not in named:
            raise WeightsRefused(f"{path} has no part '{name}' to leave out; its parts are {', '.join(named)}.")
    return {*without, *(name.replace("text_encoder", "tokenizer") for name in without)}


def _parts(index: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(name, library, class) of each part that the pipeline has; [null, null] is a part left out."""
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2 and value != [None, None]:
            yield name, str(value[0]), str(value[1])


def _part(path: Path, name: str, library: str, class_name: str) -> Part:
    """diffusers takes the plain form of the weights where a part has both."""
    files = [file.name for file in (path / name).glob("*.safetensors")]
    if not files:
        raise WeightsRefused(
            f"{path / name} has no safetensors weights. Pickles can run code and are never opened: fetch the safetensors."
        )
    return Part(name, library, class_name, "fp16" if all(".fp16." in file for file in files) else None)


def _has_weights(part: Path) -> bool:
    return (part / "config.json").is_file() and part.name not in WEIGHTLESS and not part.name.startswith("tokenizer")


def _refuse_code(path: Path) -> None:
    scripts = sorted(p.relative_to(path).as_posix() for p in path.rglob("*.py"))
    if scripts:
        raise WeightsRefused(f"{path} carries Python code ({scripts[0]}), which this engine never runs. Remove it or choose another model.")
    for config in path.rglob("*config.json"):
        if "auto_map" in _json(config):
            raise WeightsRefused(f"{config} names Python code of its repository (auto_map), which this engine never runs.")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsRefused(f"{path} can't be read as JSON ({type(error).__name__}). Fetch the model again.") from None
    if not isinstance(value, dict):
        raise WeightsRefused(f"{path} does not hold a JSON object. Fetch the model again.")
    return value
