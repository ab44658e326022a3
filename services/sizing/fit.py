"""Can this card serve this model at this workload? One question, one FitReport."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from services.sizing.cards import spec_of
from services.sizing.catalogue import Catalogue
from services.sizing.engines import NATIVE_BF16_FLAGS, EngineRefusal, choices
from services.sizing.judge import Judged, best_of, judge, largest_workload
from services.sizing.quality import acceptable, loss_order, loss_words, merits
from services.sizing.speed import predict
from services.sizing.types import (
    Card,
    Engine,
    EngineChoice,
    FitReport,
    Hint,
    Host,
    ImageWorkload,
    ModelSpec,
    TextWorkload,
    Variant,
    Verdict,
    Workload,
)

DEFAULT_CONTEXT_TOKENS = 4096
DEFAULT_SEQUENCES = 4
MAX_HINTS = 6
# Bounds that no machine of this decade goes beyond; they keep nonsense from becoming arithmetic.
MAX_CONTEXT_TOKENS = 2**24
MAX_WORKLOAD_SEQUENCES = 4096
MAX_SIDE_PX = 2**16
MAX_IMAGES = 256
MAX_LORA_SLOTS = 256
MAX_LORA_RANK = 512  # vLLM's highest --max-lora-rank


class WorkloadError(ValueError):
    """A workload that can't be asked for; the message says which value and why."""


_Way = tuple[Variant, EngineChoice]


@dataclass(frozen=True, slots=True)
class _Question:
    card: Card
    model: ModelSpec
    host: Host
    have_bytes: int
    engine: Engine | None


def fit(
    card: Card, model: ModelSpec, host: Host, *, variant_id: str | None = None, workload: Workload | None = None,
    engine: Engine | None = None, have_bytes: int | None = None, catalogue: Catalogue | None = None,
) -> FitReport:
    """The answer, with the arithmetic.

    1. What the card can give: `have_bytes` when the caller knows, else what is free now, else all of it.
    2. Every variant (or the one asked for) with every way to run it. None at all: does not fit, with the reasons.
    3. The workload asked for; without one the usual, and smaller ones where that does not fit anywhere.
    4. The best way: fits before tight before not; variants of acceptable quality first; vLLM before llama.cpp; least quality lost.
    5. For the one chosen: largest workload, speed, host needs; where it is not a plain fit, what would fit instead.

    Raises WorkloadError for a workload of the wrong kind or out of all bounds.
    """
    # 1
    have = have_bytes if have_bytes is not None else card.total_bytes if card.free_bytes is None else min(card.free_bytes, card.total_bytes)
    question = _Question(card, model, host, max(0, have), engine)
    if workload is not None:
        check_workload(model, workload)
    # 2
    ways, refusals = _ways(question, variant_id)
    if not ways:
        hints = _same_model(question, workload) + _other_models(question, catalogue)
        return replace(_refused(question, workload, refusals), hints=hints)
    # 3, 4
    chosen = _choose(question, ways, workload)
    if chosen.choice.engine is Engine.LLAMACPP and engine is None:
        why = tuple(refusals[:2]) + _vllm_short(question, ways, chosen.workload)
        chosen = replace(chosen, choice=replace(chosen.choice, reasons=(*chosen.choice.reasons, *why)))
    # 5
    report = _report(question, chosen, ways)
    if chosen.verdict is Verdict.FITS:
        return report
    hints = _own_hints(question, chosen) + _other_models(question, catalogue)
    return replace(report, hints=hints[:MAX_HINTS])


def check_workload(model: ModelSpec, workload: Workload) -> None:
    """Raise WorkloadError unless the workload is of the model's kind and within what anybody could mean."""
    if isinstance(workload, TextWorkload):
        if model.text is None:
            raise WorkloadError(f"{model.id} makes images; ask with a size, not with context and sequences.")
        bounds: tuple[tuple[str, int, int], ...] = (
            ("context_tokens", workload.context_tokens, MAX_CONTEXT_TOKENS), ("sequences", workload.sequences, MAX_WORKLOAD_SEQUENCES),
            ("batch_tokens", workload.batch_tokens or 1, MAX_CONTEXT_TOKENS), ("lora_slots", workload.lora_slots or 1, MAX_LORA_SLOTS),
            ("lora_rank", workload.lora_rank, MAX_LORA_RANK),
        )  # fmt: skip
    else:
        if model.image is None:
            raise WorkloadError(f"{model.id} makes text; ask with context and sequences, not with a size.")
        bounds = (
            ("width_px", workload.width_px, MAX_SIDE_PX), ("height_px", workload.height_px, MAX_SIDE_PX),
            ("batch", workload.batch, MAX_IMAGES),
        )  # fmt: skip
    for name, value, most in bounds:
        if not 1 <= value <= most:
            raise WorkloadError(f"{name} is {value}; it must be between 1 and {most}.")
    if isinstance(workload, TextWorkload) and model.text is not None and workload.context_tokens > model.text.max_position_embeddings:
        most = model.text.max_position_embeddings
        raise WorkloadError(f"context_tokens is {workload.context_tokens}; {model.id} was made for at most {most}.")


def default_workloads(model: ModelSpec) -> tuple[Workload, ...]:
    """What is assumed when nobody says: the usual first, then smaller ones for small cards."""
    if model.image is not None:
        side, step = model.image.native_px, model.image.multiple_px
        sides = dict.fromkeys(max(step, side * share // 4 // step * step) for share in (4, 3, 2))
        return tuple(ImageWorkload(side, side) for side in sides)
    limit = model.text.max_position_embeddings if model.text else DEFAULT_CONTEXT_TOKENS
    context = min(DEFAULT_CONTEXT_TOKENS, limit)
    return TextWorkload(context, DEFAULT_SEQUENCES), TextWorkload(context, 1), TextWorkload(min(2048, limit), 1)


def ways_of(card: Card, model: ModelSpec, host: Host, engine: Engine | None = None) -> tuple[list[tuple[Variant, EngineChoice]], list[str]]:
    """Every way to run the model on the card in the order in which `fit` tries them, and the sentences of the refusals."""
    return _ways(_Question(card, model, host, 0, engine), None)


def _ways(question: _Question, variant_id: str | None) -> tuple[list[tuple[Variant, EngineChoice]], list[str]]:
    """Every (variant, choice), best first, and the sentences of the refusals."""
    found: list[tuple[Variant, EngineChoice]] = []
    refusals: list[str] = []
    formats: list[str] = []
    spec = spec_of(question.card)
    for variant in question.model.variants:
        if variant_id is not None and variant.id != variant_id:
            continue
        answer = choices(question.card, spec, question.host, question.model, variant, question.engine)
        if isinstance(answer, EngineRefusal):
            (formats if answer.wrong_format else refusals).append(answer.reason)
        else:
            found += [(variant, choice) for choice in answer]
    refusals = refusals or formats
    if variant_id is not None and not found and not refusals:
        known = ", ".join(variant.id for variant in question.model.variants)
        refusals.append(f"{question.model.id} has no variant {variant_id}; it has {known}.")
    order = {id(pair): index for index, pair in enumerate(found)}
    return sorted(found, key=lambda pair: (*_preference(question, *pair), order[id(pair)])), list(dict.fromkeys(refusals))


def _preference(question: _Question, variant: Variant, choice: EngineChoice) -> tuple[bool, bool, bool, float, bool]:
    """Whole pipelines before offloaded ones, vLLM before llama.cpp, then least quality lost, then the dtype that the CPU is fast in."""
    fast16 = bool(NATIVE_BF16_FLAGS & set(question.host.cpu_flags))
    slow_dtype = question.card.vendor == "cpu" and (choice.dtype == "bfloat16") != fast16
    return not acceptable(variant), choice.offload != "none", choice.engine is Engine.LLAMACPP, loss_order(variant), slow_dtype


def _choose(question: _Question, ways: list[tuple[Variant, EngineChoice]], workload: Workload | None) -> Judged:
    workloads = (workload,) if workload is not None else default_workloads(question.model)
    good = [way for way in ways if acceptable(way[0])]
    last: Judged | None = None
    for some in dict.fromkeys((tuple(good), tuple(ways))):
        for asked in workloads:
            best = best_of(_judged(question, variant, choice, asked) for variant, choice in some)
            if best is not None and best.verdict is not Verdict.DOES_NOT_FIT:
                return best
            last = best or last
    assert last is not None
    return last


def _vllm_short(question: _Question, ways: list[tuple[Variant, EngineChoice]], workload: Workload) -> tuple[str, ...]:
    """Why vLLM, which could run the model here, was passed over: not even its smallest way fits."""
    judged = [_judged(question, variant, choice, workload) for variant, choice in ways if choice.engine is Engine.VLLM]
    if not judged or any(one.verdict is Verdict.FITS for one in judged):
        return ()
    smallest = min(judged, key=lambda one: one.bill.total_bytes)
    return (f"vLLM ({smallest.variant.quant}) would not do: {smallest.reason}",)


def _judged(question: _Question, variant: Variant, choice: EngineChoice, workload: Workload) -> Judged:
    return judge(question.model, variant, choice, workload, question.host, question.card, question.have_bytes)


def _report(question: _Question, chosen: Judged, ways: list[_Way]) -> FitReport:
    card, model, bill = question.card, question.model, chosen.bill
    largest, way = _largest(question, chosen, ways)
    return FitReport(
        model_id=model.id, card_id=card.id, card_name=card.name, simulated=card.simulated, verdict=chosen.verdict, reason=chosen.reason,
        variant_id=chosen.variant.id, quant=chosen.variant.quant, choice=chosen.choice, workload=chosen.workload, bill=bill,
        need_bytes=bill.total_bytes, have_bytes=question.have_bytes, headroom_bytes=question.have_bytes - bill.total_bytes,
        margin_bytes=bill.reserve_bytes,
        largest=largest, largest_by=way_words(*way) if way is not None else None,
        speed=predict(card, model, chosen.choice, chosen.workload, bill, chosen.variant.quant), host=chosen.host,
    )  # fmt: skip


def _largest(question: _Question, chosen: Judged, ways: list[_Way]) -> tuple[Workload | None, _Way | None]:
    """The largest workload, and the way that it takes where that is not the chosen one.

    Text: of the chosen variant and engine. Images: by any way, for the way that is best at the size asked for is not the one that reaches
    furthest, and a larger card must not seem to reach less far because it has no need of offload.
    """

    def by(way: _Way) -> Workload | None:
        return largest_workload(question.model, *way, chosen.workload, question.host, question.card, question.have_bytes)

    own = by((chosen.variant, chosen.choice))
    best: tuple[Workload | None, _Way | None] = own, None
    for way in ways if question.model.image is not None else []:
        found = by(way)
        if _reach(found) > _reach(best[0]):
            best = found, way
    return best


def _reach(workload: Workload | None) -> tuple[int, int]:
    if isinstance(workload, TextWorkload):
        return workload.sequences, workload.context_tokens
    return (workload.batch, workload.width_px * workload.height_px) if workload is not None else (0, 0)


def way_words(variant: Variant, choice: EngineChoice) -> str:
    """`bnb-nf4, model offload, decoded in tiles`: how a pipeline is run, where that matters to what fits."""
    words = [variant.id if variant.format == "diffusers" else variant.quant]
    words += [choice.dtype] if choice.dtype == "float32" else []
    words += [f"{choice.offload} offload"] if choice.offload != "none" else []
    return ", ".join([*words, *(["decoded in tiles"] if choice.vae_tiling else [])])


def _refused(question: _Question, workload: Workload | None, refusals: list[str]) -> FitReport:
    card = question.card
    return FitReport(
        model_id=question.model.id, card_id=card.id, card_name=card.name, simulated=card.simulated, verdict=Verdict.DOES_NOT_FIT,
        reason=" ".join(refusals) or f"{question.model.id} has no variant.", workload=workload, have_bytes=question.have_bytes,
    )  # fmt: skip


def _same_model(question: _Question, workload: Workload | None) -> tuple[Hint, ...]:
    """What was asked for can't run in that form or by that engine: the best way in which the same model does."""
    free = replace(question, engine=None)
    ways, _ = _ways(free, None)
    best = _choose(free, ways, workload) if ways else None
    if best is None or best.verdict is Verdict.DOES_NOT_FIT:
        return ()
    text = f"{_name(best.variant)} ({best.choice.engine.value}) with {workload_words(best.workload)}"
    return (Hint(text, question.model.id, best.variant.id, best.workload, question.card.id),)


def _name(variant: Variant) -> str:
    """Pipelines of one quantization differ in what it is about, which only the id says."""
    return variant.id if variant.format == "diffusers" else variant.quant


def _own_hints(question: _Question, chosen: Judged) -> tuple[Hint, ...]:
    """What of the same model would fit, least quality lost first: a smaller workload, a smaller variant, both."""
    card, model = question.card, question.model
    found: list[Hint] = []
    largest = largest_workload(model, chosen.variant, chosen.choice, chosen.workload, question.host, card, question.have_bytes)
    if largest is not None and largest != chosen.workload:
        found.append(Hint(f"{_name(chosen.variant)} with {workload_words(largest)}", model.id, chosen.variant.id, largest, card.id))
    ways, _ = _ways(question, None)
    by_variant: dict[str, list[_Way]] = {}
    for way in sorted(ways, key=lambda way: loss_order(way[0])):
        by_variant.setdefault(way[0].id, []).append(way)
    for variant_id, mine in by_variant.items():
        if variant_id != chosen.variant.id and (hint := _variant_hint(question, chosen.workload, mine)) is not None:
            found.append(hint)
    return tuple(found[: MAX_HINTS - 2])


def _variant_hint(question: _Question, workload: Workload, ways: list[_Way]) -> Hint | None:
    """A variant at the same workload by the first of its ways that fits, else at the largest that any of them reaches."""
    card, model = question.card, question.model
    for variant, choice in ways:
        if _judged(question, variant, choice, workload).verdict is Verdict.FITS:
            text = f"{_name(variant)} ({choice.engine.value}, {loss_words(variant)}) at the same workload"
            return Hint(text, model.id, variant.id, workload, card.id)
    reached = [(largest_workload(model, *way, workload, question.host, card, question.have_bytes), way) for way in ways]
    most, (variant, choice) = max(reached, key=lambda one: _reach(one[0]))
    if most is None:
        return None
    text = f"{_name(variant)} ({choice.engine.value}, {loss_words(variant)}) with {workload_words(most)}"
    return Hint(text, model.id, variant.id, most, card.id)


def _other_models(question: _Question, catalogue: Catalogue | None) -> tuple[Hint, ...]:
    """The two best other models of the same kind that fit here, by merit: those that lose least."""
    return tuple(islice(_fitting_models(question, catalogue.models), 2)) if catalogue is not None else ()


def _fitting_models(question: _Question, models: tuple[ModelSpec, ...]) -> Iterator[Hint]:
    others = [model for model in models if model.kind == question.model.kind and model.id != question.model.id]
    worth = merits(models)
    for model in sorted(others, key=lambda model: -worth[model.id].points):
        asked = replace(question, model=model)
        ways, _ = _ways(asked, None)
        if not ways:
            continue
        best = _choose(asked, ways, None)
        if best.verdict is Verdict.FITS and acceptable(best.variant):
            text = f"another model: {model.title} ({_name(best.variant)}, {workload_words(best.workload)})"
            yield Hint(text, model.id, best.variant.id, best.workload, question.card.id)


def workload_words(workload: Workload) -> str:
    """A workload as people say it."""
    if isinstance(workload, TextWorkload):
        many = f"{workload.sequences} sequences of " if workload.sequences > 1 else ""
        adapters = f" and {workload.lora_slots} LoRA slots of rank {workload.lora_rank}" if workload.lora_slots else ""
        return f"{many}{workload.context_tokens} tokens of context{adapters}"
    many = f" x {workload.batch}" if workload.batch > 1 else ""
    return f"{workload.width_px}x{workload.height_px} px{many}"
