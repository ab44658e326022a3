"""LoRA adapters and bitsandbytes layers, which need libraries that the engine leaves out where they aren't asked for; and a tokenizer
that comes as a sentencepiece model only. Runs in the diffusion environment: `python -m tests.diffusion.tiny_adapters FOLDER`.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes  # noqa: F401 - before the engine leaves it out
import peft
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import T5Tokenizer

from services.diffusion.__main__ import parse
from services.diffusion.contract import Edit, ImageJob, WeightsRefused
from services.diffusion.folder import inspect
from services.diffusion.model.loading import load
from services.diffusion.model.painter import DiffusersPainter
from services.sizing.catalogue import MODELS_FOLDER, load_model
from services.sizing.memory_image import pipeline_bytes
from tests.diffusion.tiny_models import DIGITS, stable_diffusion, words

JOB = ImageJob("seven", None, 32, 32, 2, 3.0, (1,))


def painter_of(folder: Path, *flags: str) -> DiffusersPainter:
    return load(parse([*f"--weights {folder} --model-id tiny --native-px 32".split(), *flags]), inspect(folder))


def paint(painter: DiffusersPainter, job: ImageJob = JOB) -> bytes:
    return painter.generate(job, lambda _: None, lambda: False).pictures[0].data


def make_adapter(pipe: Any, target: Path, seed: int) -> None:
    """An adapter of rank 2 as trainers write it, with random weights that are far from nothing."""
    torch.manual_seed(seed)
    pipe.unet.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"]), "made")
    state = peft.get_peft_model_state_dict(pipe.unet, adapter_name="made")
    pipe.save_lora_weights(target.parent, unet_lora_layers={name: 3 * value for name, value in state.items()}, weight_name=target.name)
    pipe.unet.delete_adapters("made")


def adapters(folder: Path, *flags: str) -> dict[str, bool]:
    without = paint(painter_of(folder, *flags))
    painter = painter_of(folder, *flags, "--lora", f"bold={folder}/bold.safetensors", "--lora", f"thin.v2={folder}/thin.safetensors")
    bold = paint(painter, replace(JOB, lora="bold"))
    start = Edit(Image.new("RGB", (32, 32), "orange"), None, 1.0)
    return {
        "off_again": paint(painter) == without,
        "changes": bold != without,
        "repeats": paint(painter, replace(JOB, lora="bold")) == bold,
        "two_differ": paint(painter, replace(JOB, lora="thin.v2")) != bold,
        "scales_differ": paint(painter, replace(JOB, lora="bold", lora_scale=0.5)) not in (bold, without),
        "scale_0_is_none": paint(painter, replace(JOB, lora="bold", lora_scale=0.0)) == without,
        "in_edits": paint(painter, replace(JOB, edit=start, lora="bold")) != paint(painter, replace(JOB, edit=start)),
    }


def refused(folder: Path) -> dict[str, str]:
    """Files that are no adapters of this model."""
    save_file({"lora_unet_nowhere.lora_up.weight": torch.zeros(2, 2), "lora_unet_nowhere.lora_down.weight": torch.zeros(2, 2)},
              folder / "other.safetensors")
    save_file({}, folder / "empty.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "bold.safetensors").read_bytes()[:-10])
    seen = {}
    for name, file in (("other model", "other"), ("no tensors", "empty"), ("cut", "cut")):
        try:
            painter_of(folder, "--lora", f"x={folder / file}.safetensors")
            seen[name] = "loaded"
        except WeightsRefused as error:
            seen[name] = type(error).__name__ if "'x'" in str(error) else str(error)
    return seen


def held_bytes(module: torch.nn.Module) -> int:
    """Parameters as they lie in memory, with the scales that bitsandbytes keeps beside them."""
    total = 0
    for parameter in module.parameters():
        total += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        scales = state.absmax if state is not None else getattr(parameter, "SCB", None)
        total += 0 if scales is None else scales.numel() * scales.element_size()
    return total


def billed(kind: str) -> tuple[int, int]:
    """What digits-sd's weights take in the engine, and what sizing says they do."""
    model = load_model(MODELS_FOLDER / "digits-sd.yaml")
    assert model.image is not None
    flags = () if kind == "fp32" else ("--quantization", kind)
    parts = painter_of(DIGITS, *flags)._pipe.components.values()
    variant = replace(model.variants[0], quant="fp32" if kind == "fp32" else f"bnb-{kind}")
    return sum(held_bytes(part) for part in parts if isinstance(part, torch.nn.Module)), pipeline_bytes(model.image, variant, "float32")


def spiece(folder: Path) -> list[bool]:
    """PixArt's tokenizer has no tokenizer.json. The model is trained here, on numbers in words."""
    import sentencepiece

    text = folder / "text"
    digits = "zero one two three four five six seven eight nine"
    text.write_text("\n".join(f"a photo of the digit {word}" for word in digits.split(" ") * 30))
    (folder / "tokenizer").mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer" / "spiece"), vocab_size=29, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 100}')
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer" / "spiece.model")).encode("the digit seven")
    ids = T5Tokenizer.from_pretrained(folder / "tokenizer")("the digit seven").input_ids
    return [ids == [*own, 1], 2 not in ids]


def main() -> None:
    target = Path(sys.argv[1])
    torch.manual_seed(0)
    pipe = stable_diffusion(words())
    pipe.save_pretrained(target / "sd", safe_serialization=True)
    for seed, name in enumerate(("bold", "thin")):
        make_adapter(pipe, target / "sd" / f"{name}.safetensors", seed)
    results = {
        "adapters": {kind: adapters(target / "sd", *flags) for kind, flags in (
            ("fp32", ()), ("nf4", ("--quantization", "nf4")), ("int8", ("--quantization", "int8")))},
        "refused": refused(target / "sd"),
        "bytes": {kind: billed(kind) for kind in ("fp32", "nf4", "int8")},
        "spiece": spiece(target),
    }
    shutil.rmtree(target / "sd")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
