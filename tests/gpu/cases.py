"""What is tried on a GPU: for each emulated card the largest workload that the sizing admits, and the smallest that it says cannot run.

Pure. A card is emulated by its memory alone: kernels, clocks and the driver are the real GPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from services.sizing.bill import make_bill
from services.sizing.catalogue import Catalogue
from services.sizing.fit import default_workloads, ways_of, workload_words
from services.sizing.judge import CONTEXT_STEP_TOKENS, MAX_SEQUENCES, Judged, judge, largest_workload
from services.sizing.types import Card, Engine, FitReport, Host, ModelSpec, Placement, TextWorkload, Verdict, Workload
from services.sizing.units import GIB
from services.worker.observed import estimate_bytes

Side = Literal["limit", "beyond"]
MAX_IMAGES = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One emulated card with one model of the catalogue."""

    card_gib: int
    model_id: str
    variant_id: str
    engine: Engine


# In the order in which they are run: the quick engines first, so that time that runs out costs the fewest rows.
ROWS = (
    Row(4, "sd-1.5", "fp16", Engine.DIFFUSERS),
    Row(6, "qwen2.5-7b-instruct", "q4_k_m-gguf", Engine.LLAMACPP),
    Row(10, "llama-3.1-8b-instruct", "q8_0-gguf", Engine.LLAMACPP),
    Row(12, "sdxl", "fp16", Engine.DIFFUSERS),
    Row(8, "qwen2.5-7b-instruct", "awq-int4", Engine.VLLM),
    Row(24, "llama-3.1-8b-instruct", "bf16", Engine.VLLM),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One run. `beyond` is refused by the sizing, and is forced past it to see whether it was right."""

    row: Row
    side: Side
    model: ModelSpec
    judged: Judged
    have_bytes: int

    @property
    def name(self) -> str:
        return f"{self.row.card_gib} GiB, {self.row.model_id} {self.row.variant_id}, {workload_words(self.judged.workload)} ({self.side})"

    @property
    def predicted_bytes(self) -> int:
        found = estimate_bytes(self.judged.bill)
        assert found is not None
        return found

    def placement(self, card: Card) -> Placement:
        """As a plan would hold it, on the real card. No headroom is said: the launchers refuse what has none, and `beyond` is forced."""
        one, bill = self.judged, self.judged.bill
        report = FitReport(
            self.model.id, card.id, card.name, card.simulated, one.verdict, one.reason, one.variant.id, one.variant.quant, one.choice,
            one.workload, bill, bill.total_bytes, self.have_bytes, None, bill.reserve_bytes, host=one.host,
        )  # fmt: skip
        return Placement("gpu-0", card.id, self.model.id, one.variant.id, one.choice, one.workload, report)


def emulated(card: Card, gib: int) -> Card:
    """The card with so much memory, all of it free. Where the GPU has less there is nothing to emulate: ValueError."""
    size = gib * GIB
    if card.total_bytes < size:
        raise ValueError(f"{card.name} has {card.total_bytes / GIB:.1f} GiB; {gib} GiB can't be emulated on it")
    return replace(card, name=f"{card.name} capped to {gib} GiB", total_bytes=size, free_bytes=size, spec=None, measured=())


def cases_of(row: Row, card: Card, host: Host, catalogue: Catalogue) -> tuple[Case, ...]:
    """The two runs of a row.

    1. The first way to run the variant (whole before offloaded, graphs before eager) by which anything fits at all.
    2. limit: the largest workload whose bill with its reserve is covered. It must run.
    3. beyond: the smallest whose bill is not covered even if the estimate is wrong by the whole reserve. It must run out of memory.
    Raises ValueError with the reason where there is no such pair.
    """
    model, small = catalogue.get(row.model_id), emulated(card, row.card_gib)
    have = small.total_bytes
    ways, refusals = ways_of(small, model, host, row.engine)
    ways = [way for way in ways if way[0].id == row.variant_id]
    if not ways:
        why = " ".join(refusals) or "no such variant"
        raise ValueError(f"{row.model_id} {row.variant_id} can't be run by {row.engine.value} here: {why}")
    for variant, choice in ways:  # 1
        largest = (largest_workload(model, variant, choice, usual, host, small, have) for usual in default_workloads(model))
        most = next((workload for workload in largest if workload is not None), None)
        if most is None:
            continue
        limit = judge(model, variant, choice, most, host, small, have)  # 2
        tried = (judge(model, variant, choice, workload, host, small, have) for workload in larger(model, most))
        over = next((one for one in tried if _surely_over(one, have)), None)  # 3
        if over is None:
            raise ValueError(f"no workload of {row.model_id} is too large for {row.card_gib} GiB")
        return Case(row, "limit", model, limit, have), Case(row, "beyond", model, over, have)
    smallest = min(make_bill(model, v, c, default_workloads(model)[-1]).total_bytes for v, c in ways)
    raise ValueError(f"{row.model_id} {row.variant_id} does not fit {row.card_gib} GiB at all: it needs {smallest / GIB:.2f} GiB")


def _surely_over(one: Judged, have_bytes: int) -> bool:
    """The estimate is `total - reserve`, and the reserve is its stated margin of error.

    Worked number: estimated 8.6 GiB with a reserve of 0.3: above a card of 8 GiB by more than the margin; 8.2 GiB would not be.
    """
    return one.verdict is Verdict.DOES_NOT_FIT and one.bill.total_bytes - 2 * one.bill.reserve_bytes > have_bytes


def larger(model: ModelSpec, start: Workload) -> Iterator[Workload]:
    """Larger and larger: longer contexts, then more sequences; larger pictures up to twice the native side, then more of them."""
    if isinstance(start, TextWorkload):
        assert model.text is not None
        longest = model.text.max_position_embeddings
        for context in range(start.context_tokens + CONTEXT_STEP_TOKENS, longest + 1, CONTEXT_STEP_TOKENS):
            yield replace(start, context_tokens=context)
        for sequences in range(start.sequences + 1, MAX_SEQUENCES + 1):
            yield replace(start, context_tokens=longest, sequences=sequences)
        return
    assert model.image is not None
    for side in range(start.width_px + model.image.multiple_px, 2 * model.image.native_px + 1, model.image.multiple_px):
        yield replace(start, width_px=side, height_px=side)
    side = max(2 * model.image.native_px, start.width_px)
    for batch in range(start.batch + 1, MAX_IMAGES + 1):
        yield replace(start, width_px=side, height_px=side, batch=batch)
