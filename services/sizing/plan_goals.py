"""What is a good plan: the points of a choice under each goal and for a wish list.

Points are for comparing choices on one rig, nothing else. Every term has a name and words, which `rigserve plan --explain` shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from services.sizing.plan_options import Group, Option
from services.sizing.plan_solve import Term
from services.sizing.quality import ACCEPTABLE_LOSS, BENCHMARK, Merit, acceptable, loss_of, loss_words
from services.sizing.types import Engine, EngineChoice, ModelSpec, Speed, Variant, Verdict
from services.sizing.units import GIB


class Goal(StrEnum):
    """What to plan for where nobody names models."""

    QUALITY = "quality"
    THROUGHPUT = "throughput"
    COVERAGE = "coverage"


RULES = {
    Goal.QUALITY: "On each card the best language model that it serves well; with several cards one of them makes images. Best means the "
    f"published score on {BENCHMARK['chat']} ({BENCHMARK['image']} for images); where none was found, what its size lets expect from the "
    "models that have one, less one standard deviation, and nothing above a larger sibling.",
    Goal.THROUGHPUT: "The most predicted tokens a second over all cards, from models at least half as large as the largest that each card "
    "serves well; with several cards one of them makes images.",
    Goal.COVERAGE: "Every kind of work first (chat, chat with pictures, embeddings, images), then as many different models as there are "
    "cards, the better ones first. Models share a card only where there are fewer cards than kinds of work.",
}
WISH_RULE = "As many of the copies asked for as possible, each on its own card, none cut down, on the smallest card that is enough."
WORKS = ("chat", "chat with pictures", "embedding", "rerank", "image")

# Below this decode speed a model is no use to a person who reads along.
SLOWEST_CHAT_TOK_S = 5.0
# An embedding model (it decodes nothing) must read a query of the usual 512 tokens in a second.
SLOWEST_READING_TOK_S = 512.0
# Under `throughput` a model must have at least this share of the size of the largest that its card serves well: else the smallest toy wins.
SMALLEST_SHARE = 0.5
ONE_IMAGE_MODEL = 1000.0  # more than any sum of the other points: with several cards, one makes images
ONE_MORE_WORK = 100.0
ONE_COPY = 1000.0
FIRST_COPY = 5000.0  # one of each model that was asked for comes before a second of any
LLAMACPP = -0.25  # more than what an acceptable quantization loses: of one model vLLM's variant is taken, as `fit` does
# Tens of points for each unit of relative perplexity: Llama 3 8B in INT4 has 11.9 % more perplexity and 2.4 points less on MMLU
# (62.0 -> 59.6, any4's README, arXiv:2507.04610). Worked number: Q4_K_M, 2.8 % -> 0.06.
LOSS = -0.24 / 0.119
TOOLS = 0.3  # three points of the benchmark: clients of an OpenAI API call tools
FILLER = 0.01  # of a second copy's worth under `coverage`, and of an image a minute under `throughput`
IMAGE_SHARE = 0.1  # an image model has its card for its bonus, or where no language model runs


def work_of(model: ModelSpec) -> str:
    """Which kind of work a model does: one of WORKS."""
    if model.kind == "chat" and model.text is not None and model.text.vision_params:
        return "chat with pictures"
    return model.kind


def served_well(option: Option) -> bool:
    """Whether a way to run a model is worth a card of its own."""
    return uncut(option.verdict, option.variant, option.choice, option.speed) and option.level == 0


def uncut(verdict: Verdict, variant: Variant, choice: EngineChoice, speed: Speed) -> bool:
    """Fits with its reserve, in an acceptable quantization, whole on the card, and fast enough where the speed is known: to read
    along, or to read a query within a second.
    The project's own tiny models (source `repo`) are for trying things out."""
    written, read = speed.decode_tok_s, speed.prefill_tok_s
    slow = written < SLOWEST_CHAT_TOK_S if written is not None else read is not None and read < SLOWEST_READING_TOK_S
    cut = not acceptable(variant) or choice.offload != "none" or variant.source.kind == "repo"
    return verdict is Verdict.FITS and not cut and not slow


def tags_of(options: Iterable[Option]) -> tuple[str, ...]:
    """What a set of models brings: bonuses and caps speak of these."""
    return tuple(tag for option in options for tag in (f"model:{option.model.id}", f"work:{work_of(option.model)}"))


def quality_terms(option: Option, merit: Merit) -> tuple[Term, ...] | None:
    """Points under `quality`; None: the goal has no use for this model."""
    if option.model.kind in ("embedding", "rerank"):
        return None
    return (_merit(option, merit, 1.0 if option.model.kind == "chat" else IMAGE_SHARE), *_manner(option))


def throughput_terms(option: Option, fewest_params: float) -> tuple[Term, ...] | None:
    """Points under `throughput`: tokens a second are points. A model without a predicted speed can't be compared and is left out."""
    if option.model.kind == "image":
        images = option.speed.images_per_min or 0.0
        return (Term("predicted images/min", FILLER * images, f"{images:.1f} of {option.model.id}"), *_manner(option))
    if option.model.kind != "chat" or option.speed.decode_tok_s is None or (option.model.params or 0) < fewest_params:
        return None
    return (Term("predicted tok/s", option.speed.decode_tok_s, "one request at a time"), *_manner(option))


def coverage_terms(options: tuple[Option, ...], merit: dict[str, Merit]) -> tuple[Term, ...]:
    """Points under `coverage`, beside the bonuses for each kind of work and each different model."""
    terms = [term for option in options for term in (_merit(option, merit[option.model.id], FILLER), *_manner(option))]
    return (*terms, Term("shared card", -1.0 * (len(options) - 1), "several models on one card")) if len(options) > 1 else tuple(terms)


def wish_terms(group: Group, options: tuple[Option, ...]) -> tuple[Term, ...]:
    """Points of copies that were asked for. Worst first: tight, shared, lossy, offloaded, less than the usual workload; between equals
    the smallest card, then `fit`'s order of ways."""
    terms = [Term("copies placed", ONE_COPY * len(options), ", ".join(option.words for option in options))]
    for points, name, hit in (
        (-300.0, "tight", [o for o in options if o.verdict is Verdict.TIGHT]),
        (-250.0, "shared card", list(options[1:])),
        (-200.0, "lossy quantization", [o for o in options if o.lossy]),
        (-100.0, "offloaded", [o for o in options if o.choice.offload != "none"]),
    ):
        if hit:
            terms.append(Term(name, points * len(hit), ", ".join(o.model.id for o in hit)))
    below = sum(option.level for option in options)
    terms.append(Term("below the usual workload", -50.0 * below, f"{below} step(s)"))
    terms.append(Term("order of ways", -0.001 * sum(option.order for option in options), "as `rigserve fit` tries them"))
    terms.append(Term("size of the card", -0.1 * group.card.total_bytes / GIB, "a smaller card that is enough is preferred"))
    return tuple(term for term in terms if term.points)


def _merit(option: Option, merit: Merit, share: float) -> Term:
    return Term("quality", share * merit.points, f"{option.model.id}: {merit.words}")


def _manner(option: Option) -> tuple[Term, ...]:
    """What decides between ways to run one model, and between equals: quantization, engine, tool calls, speed."""
    speed = option.speed.decode_tok_s or option.speed.images_per_min or 0.0
    lost = loss_of(option.variant)
    terms = (
        Term("quantization", LOSS * (ACCEPTABLE_LOSS if lost is None else lost), f"{option.variant.quant}: {loss_words(option.variant)}"),
        Term("llama.cpp", LLAMACPP if option.choice.engine is Engine.LLAMACPP else 0.0, "vLLM is preferred where it can run the model"),
        Term("tool calls", TOOLS if option.model.tool_parser else 0.0, "the engine can parse this model's"),
        Term("speed", min(speed, 100.0) / 1e6, "breaks ties"),
    )
    return tuple(term for term in terms if term.points)
