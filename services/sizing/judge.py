"""Verdicts: a bill against what a card has, and the largest workload that still fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from services.sizing.bill import host_need, make_bill
from services.sizing.calibration import with_measured_bytes
from services.sizing.types import (
    Card,
    EngineChoice,
    Host,
    HostNeed,
    ImageGeometry,
    ImageWorkload,
    MemoryBill,
    ModelSpec,
    TextWorkload,
    Variant,
    Verdict,
    Workload,
)
from services.sizing.units import gib

CONTEXT_STEP_TOKENS = 256
MAX_SEQUENCES = 256
MAX_BATCH = 4
MOST_NATIVE_SIDES = 2  # diffusion models draw nothing sensible far above the size that they were trained at


@dataclass(frozen=True, slots=True)
class Judged:
    """One way to run a model, with its bill, verdict and the sentence that explains it."""

    variant: Variant
    choice: EngineChoice
    workload: Workload
    bill: MemoryBill
    host: HostNeed
    verdict: Verdict
    reason: str


def judge(
    model: ModelSpec, variant: Variant, choice: EngineChoice, workload: Workload, host: Host, card: Card, have_bytes: int
) -> Judged:
    """1. The host can't hold its part: does not fit. 2. The bill with its reserve is covered: fits. 3. Covered without the reserve: tight.
    4. Anything else does not fit.
    """
    bill, learned = with_measured_bytes(make_bill(model, variant, choice, workload), card, model, variant, choice)
    if learned is not None:
        choice = replace(choice, reasons=(*choice.reasons, learned))
    needed = host_need(model, variant, choice, bill)
    # 1
    host_bytes = host.ram_bytes if host.ram_available_bytes is None else host.ram_available_bytes
    if card.vendor != "cpu" and host_bytes is not None and needed.ram_bytes is not None and needed.ram_bytes > host_bytes:
        reason = f"The host has {gib(host_bytes)} RAM for this; {choice.engine.value} with {model.id} takes {gib(needed.ram_bytes)}."
        return Judged(variant, choice, workload, bill, needed, Verdict.DOES_NOT_FIT, reason)
    short = bill.total_bytes - have_bytes
    lines = bill_words(bill)
    # 2
    if short <= 0:
        reason = f"Needs {gib(bill.total_bytes)} ({lines}) of {gib(have_bytes)}: {gib(-short)} to spare."
        return Judged(variant, choice, workload, bill, needed, Verdict.FITS, reason)
    # 3
    if short <= bill.reserve_bytes:
        margin = gib(bill.reserve_bytes)
        reason = f"Needs {gib(bill.total_bytes)} ({lines}) of {gib(have_bytes)}: inside the {margin} margin of this estimate."
        return Judged(variant, choice, workload, bill, needed, Verdict.TIGHT, reason)
    # 4
    reason = f"Needs {gib(bill.total_bytes)} ({lines}), has {gib(have_bytes)}: {gib(short)} short."
    return Judged(variant, choice, workload, bill, needed, Verdict.DOES_NOT_FIT, reason)


def bill_words(bill: MemoryBill) -> str:
    """The lines that are not zero, in the bill's order."""
    lines = (
        ("weights", bill.weights_bytes), ("LoRA slots", bill.lora_bytes), ("KV cache", bill.kv_cache_bytes),
        ("activations", bill.activation_bytes), ("engine", bill.engine_bytes), ("CUDA graphs", bill.graphs_bytes),
        ("reserve", bill.reserve_bytes), ("measured beyond that", bill.measured_extra_bytes),
    )  # fmt: skip
    return " + ".join(f"{name} {gib(size)}" for name, size in lines if size)


def largest_workload(
    model: ModelSpec, variant: Variant, choice: EngineChoice, workload: Workload, host: Host, card: Card, have_bytes: int
) -> Workload | None:
    """The largest workload of this shape that fits with its reserve; None when not even the smallest does.

    Text: the longest context for this number of sequences (for one, if that many don't fit at all), then, when the model's own limit is
    reached, as many sequences as fit. Image: the largest size of this shape, up to twice the native side, for this batch (else for one).
    """

    def fits(candidate: Workload) -> bool:
        return judge(model, variant, choice, candidate, host, card, have_bytes).verdict is Verdict.FITS

    if isinstance(workload, TextWorkload) and model.text is not None:
        return _largest_text(workload, model.text.max_position_embeddings, fits)
    if isinstance(workload, ImageWorkload) and model.image is not None:
        return _largest_image(workload, model.image, fits)
    return None


def _largest_text(workload: TextWorkload, limit_tokens: int, fits: Callable[[Workload], bool]) -> TextWorkload | None:
    step = min(CONTEXT_STEP_TOKENS, limit_tokens)
    contexts = range(step, limit_tokens + 1, step)
    for sequences in dict.fromkeys((workload.sequences, 1)):
        shape = replace(workload, sequences=sequences)
        context = _most(contexts, lambda n: fits(replace(shape, context_tokens=n)))  # noqa: B023  used at once
        if context is None:
            continue
        found = replace(shape, context_tokens=context)
        if context + step <= limit_tokens:
            return found
        many = _most(range(sequences, MAX_SEQUENCES + 1), lambda n: fits(replace(found, sequences=n)))  # noqa: B023  used at once
        return replace(found, sequences=many or sequences)
    return None


def _largest_image(workload: ImageWorkload, image: ImageGeometry, fits: Callable[[Workload], bool]) -> ImageWorkload | None:
    step = image.multiple_px
    longest = max(workload.width_px, workload.height_px)
    sides = range(1, max(MOST_NATIVE_SIDES * image.native_px, longest) // step + 1)

    def sized(steps: int, batch: int) -> ImageWorkload:
        scale = steps * step / longest
        width, height = (max(step, int(side * scale) // step * step) for side in (workload.width_px, workload.height_px))
        return replace(workload, width_px=width, height_px=height, batch=batch)

    for batch in dict.fromkeys((workload.batch, 1)):
        most = _most(sides, lambda n: fits(sized(n, batch)))  # noqa: B023  used at once
        if most is not None:
            return sized(most, batch)
    return None


def _most(steps: range, fits: Callable[[int], bool]) -> int | None:
    """The largest of the ascending `steps` that fits, by bisection: what fits at n fits below n. None when the first does not."""
    if not steps or not fits(steps[0]):
        return None
    low, high = 0, len(steps)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(steps[middle]) else (low, middle)
    return steps[low]


def best_of(judged: Iterable[Judged]) -> Judged | None:
    """The first that fits, else the first tight one, else the one that misses by least."""
    found = list(judged)
    for verdict in (Verdict.FITS, Verdict.TIGHT):
        for one in found:
            if one.verdict is verdict:
                return one
    return min(found, key=lambda one: one.bill.total_bytes, default=None)
