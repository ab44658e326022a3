"""Measures digits-sd and prints the tables of models/digits-sd/TRAINING.md. Needs diffusers and scikit-learn; a few minutes.

nice python -m tests.models.measure_digits_sd models/digits-sd
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from tests.models.digit_judge import DigitJudge, RealDigits, ink_8x8
from tests.models.draw_digits import draw, load

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a photo of the digit {word}", "{word}", "{numeral}", "a handwritten digit {word}", "draw the number {numeral}")
# Not producible by models/digits_prompts.py: words, word order and scripts it never saw.
UNSEEN = (
    "my lucky number is {word}, sketch it!",
    "Ein Bild von {numeral} – 数字",
    "QUICKLY JOT DOWN {word} USING CRAYON",
    "etch {numeral} into granite",
)
SETTINGS = ((20, 3.0), (20, 2.0), (20, 4.0), (20, 7.5), (10, 3.0), (6, 3.0), (50, 3.0))


def prompts_and_digits(templates: tuple[str, ...], per_digit: int) -> tuple[list[str], np.ndarray]:
    digits = np.repeat(np.arange(10), per_digit)
    prompts = [templates[i % len(templates)].format(word=NAMES[d], numeral=d) for i, d in enumerate(digits)]
    return prompts, digits


def print_accuracy(name: str, asked: np.ndarray, read: np.ndarray) -> None:
    per_digit = " ".join(f"{np.sum(read[asked == d] == d)}" for d in range(10))
    print(f"| {name} | {np.sum(asked == read)}/{len(asked)} | {per_digit} |", flush=True)


def nearest(ink: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Euclidean distance (n,) in ink counts from each of n grids (n, 8, 8) to the nearest of `to` (m, 8, 8)."""
    return np.array([np.sqrt(((to - one) ** 2).sum((1, 2)).min()) for one in ink])


def upscaled(ink: np.ndarray, reach_px: int = 0) -> np.ndarray:
    """Ink grids taken to 32x32 and back, as a drawn picture is, at every shift of up to reach_px in both directions."""
    steps, out = range(-reach_px, reach_px + 1), []
    for grid in ink:
        large = Image.fromarray((grid / 16).astype(np.float32)).resize((32, 32), Image.Resampling.BICUBIC)
        moved = (large.transform((32, 32), Image.Transform.AFFINE, (1, 0, dx, 0, 1, dy)) for dx in steps for dy in steps)
        out += [ink_8x8(np.asarray(picture)) for picture in moved]
    return np.stack(out)


def measure_accuracy(pipe: StableDiffusionPipeline, per_digit: int) -> np.ndarray:
    """Prints one row per setting; returns the ink (n, 8, 8) drawn at the defaults."""
    real, judge = RealDigits.split(), DigitJudge.from_real_digits()
    stranger = DigitJudge.trained_on(real.held_out_ink, real.held_out_labels)
    print_accuracy("judge on the held-out real digits", real.held_out_labels, judge.read_ink(real.held_out_ink))
    print_accuracy("second judge on the training digits", real.train_labels, stranger.read_ink(real.train_ink))
    prompts, asked = prompts_and_digits(TEMPLATES, per_digit)
    seeds, kept, ddim = list(range(len(prompts))), None, pipe.scheduler
    for steps, guidance in SETTINGS:
        ink = np.stack([ink_8x8(p) for p in draw(pipe, prompts, seeds, steps, guidance)])
        kept = ink if kept is None else kept
        print_accuracy(f"DDIM, {steps} steps, guidance {guidance}", asked, judge.read_ink(ink))
    print_accuracy("the first row's pictures, second judge", asked, stranger.read_ink(kept))
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(ddim.config)
    print_accuracy("DPM-Solver++, 10 steps, guidance 3.0", asked, np.array(judge.read(draw(pipe, prompts, seeds, 10, 3.0))))
    pipe.scheduler = ddim
    unseen, asked = prompts_and_digits(UNSEEN, per_digit)
    print_accuracy("unseen sentences, 20 steps, guidance 3.0", asked, np.array(judge.read(draw(pipe, unseen, seeds, 20, 3.0))))
    return kept


def measure_memory(drawn: np.ndarray) -> None:
    """Is a drawn digit nearer to the training pictures than another real digit is? (Then it was learned by heart.)"""
    real = RealDigits.split()
    train, held_out = upscaled(real.train_ink), upscaled(real.held_out_ink)
    rows = {"drawn -> training": nearest(drawn, train), "held-out real -> training": nearest(held_out, train)}
    rows["drawn -> held-out real"] = nearest(drawn, held_out)
    # Training moved its pictures about by up to 1.3 px: a copy by heart could be a moved one.
    moved = upscaled(real.train_ink, reach_px=1)
    rows |= {"drawn -> training, moved": nearest(drawn, moved), "held-out real -> training, moved": nearest(held_out, moved)}
    for name, distances in rows.items():
        low, middle, high = np.percentile(distances, (1, 50, 99))
        print(f"| {name} | {distances.min():.1f} | {low:.1f} | {middle:.1f} | {high:.1f} |")
    alike = [nearest(drawn[i : i + 1], np.delete(drawn, i, axis=0))[0] for i in range(len(drawn))]
    print(f"drawn -> nearest other drawn: smallest {min(alike):.1f}, median {np.median(alike):.1f}")


def measure_negative(pipe: StableDiffusionPipeline, per_digit: int) -> None:
    judge, prompts = DigitJudge.from_real_digits(), ["a handwritten digit"] * (10 * per_digit)
    seeds = list(range(len(prompts)))
    free = judge.read(draw(pipe, prompts, seeds, 20, 3.0))
    print("no negative prompt, share of each digit:", np.bincount(free, minlength=10) / len(free))
    for digit in (1, 7):
        read = judge.read(draw(pipe, prompts, seeds, 20, 3.0, negative_prompt=f"the digit {NAMES[digit]}"))
        print(f"negative prompt {NAMES[digit]}: {read.count(digit)}/{len(read)} (without: {free.count(digit)}/{len(free)})")
    asked_prompts, asked = prompts_and_digits(TEMPLATES, 10)
    read = judge.read(draw(pipe, asked_prompts, seeds[:100], 20, 3.0, negative_prompt="blurry, low quality, ugly"))
    print_accuracy("negative prompt 'blurry, low quality, ugly'", asked, np.array(read))


def measure_time(pipe: StableDiffusionPipeline) -> None:
    for steps in (10, 20):
        draw(pipe, ["7"], [0], steps, 3.0)
        times = []
        for seed in range(10):
            started_s = time.perf_counter()
            draw(pipe, ["7"], [seed], steps, 3.0)
            times.append(time.perf_counter() - started_s)
        print(f"one picture, {steps} steps, 1 thread: median {np.median(times):.2f} s, slowest of 10 {max(times):.2f} s")
    for size_px in (24, 40, 64, 128):
        print(f"{size_px} px:", draw(pipe, ["7"], [0], 20, 3.0, size_px=size_px).shape)


def grid(pictures: np.ndarray, columns: int) -> Image.Image:
    rows = [np.concatenate(list(pictures[i : i + columns]), axis=1) for i in range(0, len(pictures), columns)]
    return Image.fromarray(np.concatenate(rows)).convert("L")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure digits-sd: accuracy, memorisation, negative prompts, time; write samples.png.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--per-digit", type=int, default=50)
    args = parser.parse_args()
    pipe = load(args.weights)
    for name in ("vae", "text_encoder", "unet"):
        part = getattr(pipe, name)
        size_bytes = sum(f.stat().st_size for f in (args.weights / name).glob("*.safetensors"))
        print(f"| {name} | {sum(p.numel() for p in part.parameters()):,} | {size_bytes:,} |")
    folder_bytes = sum(f.stat().st_size for f in args.weights.rglob("*") if f.is_file())
    print(f"folder: {folder_bytes:,} bytes; VAE scale factor {pipe.vae_scale_factor}; vocabulary {len(pipe.tokenizer)} tokens")
    prompts, asked = prompts_and_digits(("a photo of the digit {word}",), 10)
    pictures = draw(pipe, prompts, list(range(100)), 20, 3.0)
    grid(pictures, 10).save(args.weights / "samples.png", optimize=True)
    print_accuracy("samples.png", asked, np.array(DigitJudge.from_real_digits().read(list(pictures))))
    measure_time(pipe)
    measure_memory(measure_accuracy(pipe, args.per_digit))
    measure_negative(pipe, args.per_digit)


if __name__ == "__main__":
    main()
