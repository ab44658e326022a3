"""Train `digits-sd`: a real text-to-image latent diffusion pipeline small enough to commit.

It learns scikit-learn's handwritten digits (8x8 ink counts, upscaled to 32x32) and answers prompts
such as "a photo of the digit seven", "draw the number 7" or just "7". The result is an ordinary
StableDiffusionPipeline folder (VAE + CLIP text encoder + cross-attention UNet), so what the image
engine does with it is what it does with Stable Diffusion 1.5, in seconds and without a download.

    nice python models/make_digits_sd.py --out models/digits-sd --seed 0
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import random
import string
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from digits_prompts import digitless_prompt, prompt_for, tokenizer_corpus
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

IMAGE_PX = 32
HELD_OUT_IMAGES = 297  # never trained on: they measure the judge and the memorisation check
TEXT_TOKENS = 32
TEXT_WIDTH = 64
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights. Steps are counts, not seconds, so a run can be repeated."""

    seed: int = 0
    batch: int = 64
    vae_steps: int = 300
    unet_steps: int = 3000
    vae_peak_lr: float = 3e-3
    unet_peak_lr: float = 1.5e-3
    kl_weight: float = 1e-4
    augmented_copies: int = 8
    empty_prompt_share: float = 0.10  # classifier-free guidance needs an unconditional answer
    digitless_prompt_share: float = 0.04  # a negative prompt like "blurry" must mean "any digit"
    ema_decay: float = 0.998


# --- data ----------------------------------------------------------------------------------------


def training_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The 1,500 real digits trained on: images (1500, 1, 8, 8) in 0..1 (ink is 1), labels (1500,)."""
    digits = load_digits()
    images, _, labels, _ = train_test_split(
        digits.images / 16.0,
        digits.target,
        test_size=HELD_OUT_IMAGES,
        random_state=0,
        stratify=digits.target,
    )
    return torch.tensor(images, dtype=torch.float32)[:, None], torch.tensor(labels)


def upscale(images: torch.Tensor) -> torch.Tensor:
    """(n, 1, 8, 8) in 0..1 -> RGB (n, 3, 32, 32) in -1..1, bicubic."""
    large = F.interpolate(images, size=IMAGE_PX, mode="bicubic", align_corners=False).clamp(0, 1)
    return large.expand(-1, 3, -1, -1) * 2 - 1


def jitter(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Shift by up to 1.3 px, turn by up to 7 degrees and scale by up to 6 %, each image its own way.

    1,500 pictures are few: without this the UNet sees each one some hundred times and may learn it by heart.
    """
    n = len(images)

    def spread(limit: float) -> torch.Tensor:
        return (torch.rand(n, generator=rng) * 2 - 1) * limit

    angle, scale = spread(math.radians(7)), 1 + spread(0.06)
    shift_x, shift_y = spread(1.3 * 2 / IMAGE_PX), spread(1.3 * 2 / IMAGE_PX)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrices = torch.stack([torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    # +1 and -1: outside the picture there is background (-1), and grid_sample pads with 0.
    return F.grid_sample(images + 1, grid, mode="bilinear", align_corners=False) - 1


# --- the four parts ------------------------------------------------------------------------------


def make_tokenizer(recipe: Recipe) -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer whose merges are learned from the training prompts.

    Words it knows are one token, other Latin words fall apart into letters, and any other character
    is the unknown token (<|endoftext|>, as in CLIP), so no prompt can make it fail.
    """
    characters = sorted(set(string.printable.lower()) - set(string.whitespace))
    draft = Tokenizer(BPE(unk_token=EOS, end_of_word_suffix="</w>"))
    draft.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    # CLIP's own word rule (letters together, digits one by one), so that merges fit its tokenizer.
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    draft.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=768,
        min_frequency=2,
        show_progress=False,
        # Every character, plain and at a word's end: naming them here fixes their numbers, which the trainer
        # otherwise takes from a hash map's order, and with them the run's repeatability.
        special_tokens=[BOS, EOS, *characters, *(c + "</w>" for c in characters)],
        end_of_word_suffix="</w>",
    )
    corpus = tokenizer_corpus(random.Random(recipe.seed))  # noqa: S311 - repeatable, not secret
    draft.train_from_iterator(corpus, trainer)
    model = json.loads(draft.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=TEXT_TOKENS)


def make_text_encoder(vocab_tokens: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_tokens,
            hidden_size=TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_TOKENS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def make_vae() -> AutoencoderKL:
    """32x32x3 -> 8x8x4 latents: a scale factor of 4 (two halvings)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=IMAGE_PX,
    )


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=IMAGE_PX // 4,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # the library's name; for this block type it counts the heads
        norm_num_groups=8,
    )


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction, sampled from the last step down.

    "trailing" starts at t = 999, the only step that looks like the pure noise sampling starts from
    (Lin et al. 2023, arXiv:2305.08891): it is what makes 10 and 20 steps good.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


# --- training ------------------------------------------------------------------------------------


def optimiser(
    parameters: list[torch.nn.Parameter], peak_lr: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, warmed up over the first 5 % of the steps and cooled down to nothing on a cosine."""
    adam = torch.optim.AdamW(parameters, lr=peak_lr, betas=(0.9, 0.99), weight_decay=0.01)
    return adam, torch.optim.lr_scheduler.OneCycleLR(adam, peak_lr, steps, pct_start=0.05)


def report(part: str, step: int, steps: int, loss: float, started_s: float) -> None:
    if step % 50 == 0 or step == steps:
        spent_s = time.monotonic() - started_s
        left_s = spent_s / step * (steps - step)
        print(
            f"{part}: step {step}/{steps}, loss {loss:.4f}, {spent_s:.0f} s spent, {left_s:.0f} s left",
            flush=True,
        )


def train_vae(vae: AutoencoderKL, images: torch.Tensor, recipe: Recipe, rng: torch.Generator) -> float:
    """Trains in place and sets the latent scaling factor; returns the last smoothed loss."""
    adam, pace = optimiser(list(vae.parameters()), recipe.vae_peak_lr, recipe.vae_steps)
    started_s, smooth = time.monotonic(), 0.0
    for step in range(1, recipe.vae_steps + 1):
        rows = torch.randint(len(images), (recipe.batch,), generator=rng)
        batch = jitter(images[rows], rng)
        posterior = vae.encode(batch).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=rng)
        loss = F.mse_loss(vae.decode(latents).sample, batch)
        loss = loss + recipe.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        adam.step()
        pace.step()
        smooth = loss.item() if step == 1 else 0.95 * smooth + 0.05 * loss.item()
        report("vae", step, recipe.vae_steps, smooth, started_s)
    vae.eval()
    return smooth


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: torch.Tensor, recipe: Recipe, rng: torch.Generator) -> torch.Tensor:
    """Latents (copies, n, 4, 8, 8) of the images and their jittered copies, scaled to unit spread."""
    copies = [images] + [jitter(images, rng) for _ in range(recipe.augmented_copies)]
    latents = torch.stack([torch.cat([vae.encode(part).latent_dist.mean for part in c.split(100)]) for c in copies])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    return latents * vae.config.scaling_factor


def draw_prompts(labels: list[int], recipe: Recipe, rng: random.Random) -> list[str]:
    prompts = []
    for label in labels:
        lot = rng.random()
        if lot < recipe.empty_prompt_share:
            prompts.append("")
        elif lot < recipe.empty_prompt_share + recipe.digitless_prompt_share:
            prompts.append(digitless_prompt(rng))
        else:
            prompts.append(prompt_for(label, rng))
    return prompts


def train_denoiser(
    pipe: StableDiffusionPipeline,
    latents: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    rng: torch.Generator,
) -> float:
    """Trains UNet and text encoder together, leaves their moving average in them; returns the loss."""
    unet, text, noise_steps = pipe.unet, pipe.text_encoder, pipe.scheduler
    weights = [*unet.parameters(), *text.parameters()]
    average = [w.detach().clone() for w in weights]
    adam, pace = optimiser(weights, recipe.unet_peak_lr, recipe.unet_steps)
    words = random.Random(recipe.seed)  # noqa: S311 - repeatable, not secret
    started_s, smooth = time.monotonic(), 0.0
    for step in range(1, recipe.unet_steps + 1):
        rows = torch.randint(len(labels), (recipe.batch,), generator=rng)
        clean = latents[torch.randint(len(latents), (recipe.batch,), generator=rng), rows]
        noise = torch.randn(clean.shape, generator=rng)
        t = torch.randint(noise_steps.config.num_train_timesteps, (recipe.batch,), generator=rng)
        tokens = pipe.tokenizer(
            draw_prompts(labels[rows].tolist(), recipe, words),
            padding="max_length",
            max_length=TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        guess = unet(noise_steps.add_noise(clean, noise, t), t, text(tokens)[0]).sample
        loss = F.mse_loss(guess, noise_steps.get_velocity(clean, noise, t))
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        pace.step()
        with torch.no_grad():
            # Early weights are noise: the average starts short and lengthens to its full memory.
            decay = min(recipe.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, weights, 1 - decay)
        smooth = loss.item() if step == 1 else 0.98 * smooth + 0.02 * loss.item()
        report("unet + text", step, recipe.unet_steps, smooth, started_s)
    with torch.no_grad():
        for weight, kept in zip(weights, average, strict=True):
            weight.copy_(kept)
    unet.eval()
    text.eval()
    return smooth


# --- the whole run -------------------------------------------------------------------------------


def train(recipe: Recipe) -> tuple[StableDiffusionPipeline, dict[str, object]]:
    """The trained pipeline and a record of the run (recipe, losses, seconds, library versions)."""
    torch.manual_seed(recipe.seed)
    rng = torch.Generator().manual_seed(recipe.seed)
    started_s = time.monotonic()
    small, labels = training_digits()
    images = upscale(small)
    tokenizer = make_tokenizer(recipe)
    pipe = StableDiffusionPipeline(
        vae=make_vae(),
        text_encoder=make_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        unet=make_unet(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    vae_loss = train_vae(pipe.vae, images, recipe, rng)
    vae_s = time.monotonic() - started_s
    latents = encode_all(pipe.vae, images, recipe, rng)
    unet_loss = train_denoiser(pipe, latents, labels, recipe, rng)
    libraries = ("torch", "diffusers", "transformers", "tokenizers", "scikit-learn", "numpy")
    record = {
        "recipe": asdict(recipe),
        "training_images": len(images),
        "vae_loss": round(vae_loss, 5),
        "unet_loss": round(unet_loss, 5),
        "vae_s": round(vae_s),
        "total_s": round(time.monotonic() - started_s),
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in libraries},
    }
    return pipe, record


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train the digits-sd text-to-image pipeline on scikit-learn's digits and save it "
        "as a diffusers folder (safetensors only, under 8 MB). About 16 minutes on one CPU thread."
    )
    defaults = Recipe()
    parser.add_argument("--out", type=Path, required=True, help="folder to write, e.g. models/digits-sd")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--vae-steps", type=int, default=defaults.vae_steps)
    parser.add_argument("--unet-steps", type=int, default=defaults.unet_steps)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    args = parser.parse_args()
    if min(args.vae_steps, args.unet_steps) < 40:
        parser.error("--vae-steps and --unet-steps must be at least 40: the learning rate warms up over their first 5 %")
    torch.set_num_threads(args.threads)
    recipe = Recipe(seed=args.seed, vae_steps=args.vae_steps, unet_steps=args.unet_steps)
    pipe, record = train(recipe)
    pipe.save_pretrained(args.out, safe_serialization=True)
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    size_bytes = sum(f.stat().st_size for f in args.out.rglob("*.safetensors"))
    print(f"saved {args.out}: {size_bytes:,} bytes of weights after {record['total_s']} s")


if __name__ == "__main__":
    main()
