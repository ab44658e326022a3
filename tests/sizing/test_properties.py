"""What must hold for any card, model and workload: more work never needs less, more memory never fits less, bills add up.

The engines' own behaviour is no exception here: vLLM's profile peak does not shrink with context in our bill, although V0's did (chunked
prefill above 32768 tokens); the sizing states the steps of today's engines, which always chunk.
"""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.sizing.bill import make_bill
from services.sizing.cards import load_cards, parse_cards, spec_of
from services.sizing.catalogue import load_catalogue
from services.sizing.engines import EngineRefusal, choices
from services.sizing.fit import fit
from services.sizing.plan import make_plan
from services.sizing.planfile import dump_plan, parse_plan
from services.sizing.types import Card, EngineChoice, Host, ImageWorkload, MemoryBill, ModelSpec, TextWorkload, Variant, Verdict

GIB = 2**30
HOST = Host(64 * GIB, 60 * GIB, "Xeon", 8, ("avx2", "fma", "f16c", "bmi2"), "x86_64")
CATALOGUE = load_catalogue()
NAMES = ("P106-100", "P104-100 8GB", "RTX 3060 Ti", "RTX 2080 Ti", "RTX 3090", "RX 580 8GB", "CMP 50HX", "GTX 1660 Super")
CARDS = tuple(parse_cards(name)[0] for name in NAMES)
Way = tuple[ModelSpec, Variant, EngineChoice]
RANK = {Verdict.DOES_NOT_FIT: 0, Verdict.TIGHT: 1, Verdict.FITS: 2}


def ways(kind: str) -> list[Way]:
    found = []
    for card in (CARDS[1], CARDS[4], CARDS[5]):
        for model in CATALOGUE.models:
            for variant in model.variants:
                answer = choices(card, spec_of(card), HOST, model, variant)
                if (model.image is not None) == (kind == "image") and not isinstance(answer, EngineRefusal):
                    found += [(model, variant, choice) for choice in answer]
    return found


TEXT_WAYS, IMAGE_WAYS = ways("text"), ways("image")
FAST = settings(max_examples=40, deadline=None)
contexts, sequences = st.integers(1, 131072), st.integers(1, 256)
sides = st.integers(1, 512).map(lambda n: 8 * n)


def no_line_shrinks(small: MemoryBill, large: MemoryBill) -> bool:
    return all(getattr(small, field.name) <= getattr(large, field.name) for field in fields(MemoryBill))


@FAST
@given(st.sampled_from(TEXT_WAYS), contexts, contexts, sequences, sequences)
def test_more_context_or_sequences_never_needs_less(way: Way, c1: int, c2: int, s1: int, s2: int) -> None:
    model, variant, choice = way
    small, large = TextWorkload(min(c1, c2), min(s1, s2)), TextWorkload(max(c1, c2), max(s1, s2))
    assert no_line_shrinks(make_bill(model, variant, choice, small), make_bill(model, variant, choice, large))


@FAST
@given(st.sampled_from(IMAGE_WAYS), sides, sides, st.integers(1, 8), st.integers(1, 8))
def test_larger_images_never_need_less(way: Way, w1: int, w2: int, b1: int, b2: int) -> None:
    model, variant, choice = way
    small, large = ImageWorkload(min(w1, w2), min(w1, w2), min(b1, b2)), ImageWorkload(max(w1, w2), max(w1, w2), max(b1, b2))
    before, after = make_bill(model, variant, choice, small), make_bill(model, variant, choice, large)
    # Under offload the peak may move from one component to another, so only the sum is ordered.
    assert before.total_bytes <= after.total_bytes + before.reserve_bytes
    assert before.total_bytes - before.reserve_bytes <= after.total_bytes - after.reserve_bytes


@FAST
@given(st.sampled_from(TEXT_WAYS + IMAGE_WAYS), contexts, sequences)
def test_bills_add_up_and_have_no_negative_line(way: Way, context: int, many: int) -> None:
    model, variant, choice = way
    workload = TextWorkload(context, many) if model.text else ImageWorkload(64, 64)
    bill = make_bill(model, variant, choice, workload)
    lines = [getattr(bill, field.name) for field in fields(MemoryBill)]
    assert bill.total_bytes == sum(lines)
    assert all(isinstance(line, int) and line >= 0 for line in lines)
    assert bill.weights_bytes > 0
    assert bill.reserve_bytes > 0


@FAST
@given(st.sampled_from(CATALOGUE.models), st.sampled_from(CARDS), st.integers(0, 48 * GIB), st.integers(0, 48 * GIB))
def test_more_vram_never_fits_less(model: ModelSpec, card: Card, one: int, two: int) -> None:
    less = fit(card, model, HOST, have_bytes=min(one, two))
    more = fit(card, model, HOST, have_bytes=max(one, two))
    assert RANK[less.verdict] <= RANK[more.verdict]


@FAST
@given(st.sampled_from([model for model in CATALOGUE.models if model.image]), st.sampled_from(CARDS), st.integers(0, 24 * GIB),
       st.integers(0, 24 * GIB))
def test_more_vram_never_draws_smaller_pictures(model: ModelSpec, card: Card, one: int, two: int) -> None:
    asked = ImageWorkload(512, 512)
    less, more = (fit(card, model, HOST, workload=asked, have_bytes=have).largest for have in (min(one, two), max(one, two)))
    if isinstance(less, ImageWorkload):
        assert isinstance(more, ImageWorkload)
        assert more.width_px >= less.width_px


@FAST
@given(st.sampled_from(CATALOGUE.models), st.sampled_from(CARDS), st.integers(0, 32 * GIB))
def test_fits_is_never_said_of_what_does_not(model: ModelSpec, card: Card, have: int) -> None:
    report = fit(card, model, HOST, have_bytes=have)
    if report.verdict is Verdict.FITS:
        assert report.need_bytes is not None
        assert report.need_bytes <= have
    if report.largest is not None:
        assert report.variant_id is not None
        variant_id = report.variant_id if report.largest_by is None else report.largest_by.split(",")[0]
        again = fit(card, model, HOST, variant_id=variant_id, workload=report.largest, have_bytes=have)
        assert again.verdict is Verdict.FITS


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from([spec.key for spec in load_cards() if spec.vram_bytes]), min_size=1, max_size=4), st.integers(2, 64))
def test_any_rig_gets_a_plan_that_reads_back(names: list[str], host_gib: int) -> None:
    cards = parse_cards(",".join(names))
    plan = make_plan(replace(HOST, ram_bytes=host_gib * GIB), cards, CATALOGUE)
    assert parse_plan(dump_plan(plan)) == plan
    for card in cards:
        bills = [placement.report.bill for placement in plan.placements if placement.card_id == card.id]
        assert sum(bill.total_bytes for bill in bills if bill) <= card.total_bytes
