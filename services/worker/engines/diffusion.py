"""Our own image engine (services/diffusion), run by the interpreter of the diffusion environment."""

from __future__ import annotations

import re

from services.sizing.types import Variant
from services.sizing.units import gib
from services.worker.engines.order import Launch, LaunchError, Order, WarmUp

LORA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
JOB_GRACE_S = 4  # that a running job gets to finish after SIGTERM; then the engine ends at the next denoise step
MAX_STEPS = 150  # of one image, where the workload doesn't say: more changes nothing that an eye could see


def launch(order: Order) -> Launch:
    """The command line of the placement; the largest image is the plan's: what the card was sized for."""
    workload = order.image()
    if order.model is None or order.model.image is None:
        raise LaunchError(f"{order.placement.model_id} is not an image model of the catalogue; `rigserve models` lists them.")
    shape = order.model.image
    argv = (
        order.python(), "-m", "services.diffusion",
        "--weights", str(order.weights), "--model-id", order.placement.model_id,
        "--host", order.engine_host, "--port", str(order.engine_port), "--token-file", str(order.token_file),
        "--device", "cpu" if order.card.vendor == "cpu" else "cuda:0",  # the only card that it sees
        "--dtype", order.placement.choice.dtype,
        "--max-width-px", str(workload.width_px), "--max-height-px", str(workload.height_px), "--max-batch", str(workload.batch),
        "--max-steps", str(workload.steps or MAX_STEPS),
        "--multiple-px", str(shape.multiple_px), "--native-px", str(shape.native_px),
        "--default-steps", str(shape.default_steps), "--default-guidance-scale", f"{shape.default_guidance_scale:g}",
        "--offload", order.placement.choice.offload,
        *(("--vae-tiling",) if order.placement.choice.vae_tiling else ()),
        *(word for part in _without(order) for word in ("--without", part)),
        *_quantization(order),
        *(() if shape.uses_cfg else ("--distilled",)),
        *_loras(order),
        *(word for alias in order.served_names[1:] for word in ("--alias", alias)),
        "--grace-s", str(JOB_GRACE_S),
    )
    side_px = min(shape.native_px, workload.width_px, workload.height_px)
    smallest = {"model": order.placement.model_id, "prompt": "warm-up", "size": f"{side_px}x{side_px}", "n": 1, "steps": 1,
                "response_format": "b64_json"}
    return Launch(
        argv=argv, env={"PYTHONPATH": str(order.project)}, cwd=order.project,
        warm_up=WarmUp("/v1/images/generations", smallest), packages=("diffusers",),
        stop_grace_s=JOB_GRACE_S + 4.0,
    )


def _quantization(order: Order) -> tuple[str, ...]:
    """bnb-nf4 and bnb-int8: packed while loading, in the denoiser, and in the text encoders where the variant says so."""
    quant = order.placement.report.quant or ""
    if not quant.startswith("bnb-"):
        return ()
    kind = quant.removeprefix("bnb-")
    if kind not in ("nf4", "int8"):
        raise LaunchError(f"the image engine knows bnb-nf4 and bnb-int8, not {quant}; plan another variant of {order.placement.model_id}.")
    variant = _variant(order)
    encoders = variant is not None and "text_encoder" in variant.quantized
    return ("--quantization", kind, *(("--quantize-text-encoders",) if encoders else ()))


def _without(order: Order) -> tuple[str, ...]:
    variant = _variant(order)
    return variant.without if variant is not None else ()


def _variant(order: Order) -> Variant | None:
    """The catalogue's; None where the catalogue has lost it since the plan was made."""
    variants = order.model.variants if order.model is not None else ()
    return next((variant for variant in variants if variant.id == order.placement.variant_id), None)


def _loras(order: Order) -> tuple[str, ...]:
    """Every .safetensors file that the operator has put into the folder `loras` of the weights, under the name of its file.

    They lie on the card all the time, and no bill counts them: together they must be smaller than the plan's headroom. Their files are
    half as wide as a card that computes in float32 holds them.
    """
    files = sorted((order.weights / "loras").glob("*.safetensors"))
    for file in files:
        if LORA_NAME.fullmatch(file.stem) is None:
            raise LaunchError(f"{file} can't be served under its name: use letters, digits, dot, dash and underscore, at most 64.")
    need_bytes = sum(file.stat().st_size for file in files) * (2 if order.placement.choice.dtype == "float32" else 1)
    headroom_bytes = order.placement.report.headroom_bytes
    if headroom_bytes is not None and need_bytes > headroom_bytes:
        raise LaunchError(
            f"the LoRA adapters in {order.weights / 'loras'} take {gib(need_bytes)}, and the plan leaves {gib(headroom_bytes)} free on "
            f"{order.card.name}: take some out, or plan {order.placement.model_id} with smaller images."
        )
    return tuple(word for file in files for word in ("--lora", f"{file.stem}={file}"))
