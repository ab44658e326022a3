"""The file of observations: what is kept, merged, handed on, and refused."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from services.calibration.attach import with_measured
from services.calibration.record import Observation, ObservationError, dumped, parsed
from services.calibration.store import CalibrationError, Store
from services.sizing.cards import parse_cards
from services.sizing.types import Engine, EngineChoice, ImageWorkload, TextWorkload

pytestmark = pytest.mark.slow

MIB = 2**20
ONE = Observation(
    "RTX 3060 Ti 8GB", "GPU-1", False, "qwen", "q4", EngineChoice(Engine.LLAMACPP, "llamacpp-cuda12", "float16"), TextWorkload(4096, 2),
    "2026-11-22T10:00:00+00:00", "580.95", "b11549", "process", predicted_bytes=5000 * MIB, peak_bytes=5100 * MIB, load_s=12.5, tok_s=60.2,
)


def test_runs_of_one_thing_are_one_row_with_the_highest_peak_and_the_last_speed(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "c.db")
    assert store.all() == []
    assert not store.path.exists()
    store.add(ONE)
    store.add(replace(ONE, peak_bytes=5050 * MIB, tok_s=None, load_s=10.0))
    store.add(replace(ONE, engine_version="b12000"))
    old, new = sorted(store.all(), key=lambda one: one.engine_version or "")
    assert (old.peak_bytes, old.tok_s, old.load_s, old.runs) == (5100 * MIB, 60.2, 10.0, 2)
    assert new.runs == 1
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_an_export_taken_in_twice_changes_nothing_and_never_what_was_measured_here(tmp_path: Path) -> None:
    mine, other = Store(tmp_path / "a.db"), Store(tmp_path / "b.db")
    mine.add(ONE)
    mine.add(replace(ONE, workload=ImageWorkload(512, 512), card_id="GPU-2"))
    text = dumped(mine.all())
    other.add(replace(ONE, peak_bytes=4000 * MIB))
    for _ in range(2):
        assert other.take_in(parsed(text), "rig1.json") == 2
        assert {(one.card_id, one.peak_bytes, one.origin, one.runs) for one in other.all()} == {
            ("GPU-1", 4000 * MIB, "here", 1), ("GPU-2", 5100 * MIB, "rig1.json", 1),
        }  # fmt: skip
    other.add(replace(ONE, workload=ImageWorkload(512, 512), card_id="GPU-2", peak_bytes=1 * MIB))
    assert {(one.origin, one.peak_bytes) for one in other.all()} == {("here", 4000 * MIB), ("here", 1 * MIB)}


@pytest.mark.parametrize(("change", "said"), [
    ({"peak_bytes": -1}, "peak_bytes"), ({"peak_bytes": 2**60}, "peak_bytes"), ({"tok_s": float("nan")}, "JSON"), ({"tok_s": 0}, "tok_s"),
    ({"runs": True}, "runs"), ({"card_kind": "x" * 300}, "card_kind"), ({"choice": {"engine": "bash"}}, "choice"), ({"evil": 1}, "evil"),
    ({"workload": {"kind": "text"}}, "workload"),
], ids=str)  # fmt: skip
def test_a_strangers_file_is_read_strictly(change: dict[str, Any], said: str) -> None:
    text = json.dumps({"format": "rigserve-calibration", "version": 1, "observations": [{**asdict(ONE), **change}]})
    with pytest.raises(ObservationError, match=said if said != "JSON" else "."):
        parsed(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"format": "rigserve-calibration", "version": 2}',
                                  '{"format": "rigserve-calibration", "version": 1, "observations": {}}'])
def test_what_is_no_calibration(text: str) -> None:
    with pytest.raises(ObservationError):
        parsed(text)


def test_a_file_that_is_something_else_is_said(tmp_path: Path) -> None:
    (tmp_path / "c.db").write_text("no database at all, but long enough to be looked at as one" * 20)
    with pytest.raises(CalibrationError, match="can't be used as calibration"):
        Store(tmp_path / "c.db").all()
    with pytest.raises(CalibrationError, match=r"Not a directory|File exists"):
        Store(tmp_path / "c.db" / "below.db").add(ONE)


def _many(path: Path) -> None:
    for _ in range(20):
        Store(path).add(ONE)


def test_workers_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    children = [multiprocessing.get_context("spawn").Process(target=_many, args=(path,)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [one.runs for one in Store(path).all()] == [60]


def test_what_cards_are_told() -> None:
    cards = parse_cards("RTX 3060 Ti:2,P104-100 8GB")
    other_rig = replace(ONE, card_id="GPU-9", peak_bytes=6000 * MIB, origin="rig2.json")
    shared = replace(ONE, model_id="llama", peak_source="card", alone=False)
    lower, unknown = replace(ONE, peak_bytes=5090 * MIB), replace(ONE, model_id="x", peak_bytes=None)
    taught = with_measured(cards, [other_rig, ONE, lower, shared, unknown])
    assert [[(row.model_id, row.peak_bytes, row.origin) for row in card.measured] for card in taught] == [
        [("qwen", 5100 * MIB, "")], [("qwen", 5100 * MIB, "")], [],
    ]  # fmt: skip
    assert with_measured(cards, [other_rig])[0].measured[0].origin == "rig2.json"
