"""digits-sd, the committed text-to-image model: its folder is small and safe, and it draws what the prompt asks for."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.models.digit_judge import DigitJudge, RealDigits, ink_8x8

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "models" / "digits-sd"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def test_folder_is_small_and_holds_no_code() -> None:
    files = [f for f in WEIGHTS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 8_000_000
    assert {"model_index.json", "TRAINING.md", "samples.png"} <= {f.name for f in files}
    assert {f.suffix for f in files} <= {".json", ".txt", ".md", ".png", ".safetensors"}


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
def test_safetensors_headers_describe_the_whole_file(part: str) -> None:
    [path] = (WEIGHTS / part).glob("*.safetensors")
    data = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + header_bytes])
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    assert 8 + header_bytes + max(ends) == len(data)


def test_vocabulary_knows_every_digit_in_words_and_numerals() -> None:
    vocab = json.loads((WEIGHTS / "tokenizer" / "tokenizer.json").read_text(encoding="utf8"))["model"]["vocab"]
    assert {f"{word}</w>" for word in (*NAMES, *"0123456789")} <= vocab.keys()


def test_judge_reads_real_digits_it_never_saw_even_after_upscaling() -> None:
    real, judge = RealDigits.split(), DigitJudge.from_real_digits()
    large = [Image.fromarray((ink / 16 * 255).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC) for ink in real.held_out_ink]
    assert np.mean(judge.read_ink(real.held_out_ink) == real.held_out_labels) >= 0.98
    assert np.mean(np.array(judge.read(large)) == real.held_out_labels) >= 0.98


def test_ink_8x8_is_the_mean_of_each_block() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[0:4, 0:2] = 255  # half of the first 4x4 block
    ink = ink_8x8(picture)
    assert ink[0, 0] == pytest.approx(8.0)  # 8 of 16 pixels
    assert ink.sum() == pytest.approx(8.0)


def test_judge_does_not_call_noise_right() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8)
    asked = np.repeat(np.arange(10), 10)
    assert np.mean(np.array(DigitJudge.from_real_digits().read(list(noise))) == asked) < 0.3


def diffusion_python() -> str:
    """An interpreter that has diffusers: RIGSERVE_DIFFUSION_PYTHON, else this one, else one of .venvs/."""
    named = os.environ.get("RIGSERVE_DIFFUSION_PYTHON")
    candidates = [named] if named else [sys.executable, *map(str, sorted(ROOT.glob(".venvs/*/bin/python")))]
    for python in candidates:
        if subprocess.run([python, "-c", "import diffusers, torch"], capture_output=True, check=False).returncode == 0:
            return python
    pytest.fail(f"no interpreter with diffusers among {candidates}: make the diffusion environment or set RIGSERVE_DIFFUSION_PYTHON")


def pictures_of(tmp_path: Path, prompts: list[str], **settings: object) -> list[np.ndarray]:
    request = {"weights": str(WEIGHTS), "prompts": prompts, "seeds": list(range(len(prompts))), "steps": 20, "guidance": 3.0}
    (tmp_path / "request.json").write_text(json.dumps(request | settings), encoding="utf8")
    command = [diffusion_python(), str(Path(__file__).with_name("draw_digits.py")), "request.json", "out.npz"]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return list(np.load(tmp_path / "out.npz")["pictures"])


@pytest.mark.engine
def test_draws_the_digit_that_was_asked_for(tmp_path: Path) -> None:
    asked = [digit for digit in range(10) for _ in range(10)]
    pictures = pictures_of(tmp_path, [f"a photo of the digit {NAMES[digit]}" for digit in asked])
    read = DigitJudge.from_real_digits().read(pictures)
    right = sum(a == r for a, r in zip(asked, read, strict=True))
    assert right >= 90, f"{right} of 100 right; wrong (asked, read): {[(a, r) for a, r in zip(asked, read, strict=True) if a != r]}"


@pytest.mark.engine
def test_numerals_and_sentences_it_was_not_trained_on(tmp_path: Path) -> None:
    """None of these sentences can come out of models/digits_prompts.py."""
    sentences = ("etch {} into granite", "my lucky number is {}, sketch it!", "Ein Bild von {} – 数字", "QUICKLY JOT DOWN {} USING CRAYON")
    asked = [digit for digit in range(10) for _ in sentences]
    prompts = [s.format(digit) for digit in range(10) for s in sentences]
    read = DigitJudge.from_real_digits().read(pictures_of(tmp_path, prompts))
    assert sum(a == r for a, r in zip(asked, read, strict=True)) >= 36  # of 40


@pytest.mark.engine
def test_a_negative_prompt_pushes_its_digit_out(tmp_path: Path) -> None:
    """Asked for any digit it has a favourite (at least 10 of 100 pictures, there being ten digits); told not to, it avoids it."""
    judge, prompts = DigitJudge.from_real_digits(), ["a handwritten digit"] * 100
    free = judge.read(pictures_of(tmp_path, prompts))
    favourite = max(range(10), key=free.count)
    without = judge.read(pictures_of(tmp_path, prompts, negative_prompt=f"the digit {NAMES[favourite]}"))
    assert free.count(favourite) >= 10
    assert without.count(favourite) <= free.count(favourite) // 5


@pytest.mark.engine
def test_a_seed_repeats_and_twice_the_size_still_draws(tmp_path: Path) -> None:
    first, again = (pictures_of(tmp_path, ["7"], size_px=64)[0] for _ in range(2))
    assert first.shape == (64, 64, 3)
    assert first.std() > 20  # bright strokes on a dark ground, not a flat picture
    assert np.array_equal(first, again)
