"""plan.yaml says exactly what was decided, and nothing that we can't read passes for a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from services.sizing.planfile import PlanFileError, dump_plan, load_plan, parse_plan, to_json
from services.sizing.types import Plan
from tests.sizing import sample


def faulty(change: dict[str, object] | None = None, text: str | None = None) -> PlanFileError:
    raw = yaml.safe_load(dump_plan(sample.plan()))
    for path, value in (change or {}).items():
        *parents, last = path.split("/")
        spot = raw
        for part in parents:
            spot = spot[int(part)] if part.isdigit() else spot[part]
        spot[last] = value
    with pytest.raises(PlanFileError) as caught:
        parse_plan(text if text is not None else yaml.safe_dump(raw))
    return caught.value


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(dump_plan(sample.plan()), encoding="utf8")
    assert load_plan(path) == sample.plan()


def test_the_json_form_is_a_plan_too() -> None:
    plain = to_json(sample.plan())
    json.dumps(plain, allow_nan=False)
    assert plain["placements"][0]["report"]["fits"] is True
    assert plain["refusals"][0]["reports"][0]["fits"] is False
    assert plain["placements"][0]["report"]["bill"]["total_bytes"] == sample.BILL.total_bytes
    assert plain["cards"][0]["free_bytes"] is None
    assert parse_plan(json.dumps(plain)) == sample.plan()


def test_an_empty_plan_round_trips() -> None:
    empty = Plan(1, sample.HOST, (), ())
    assert parse_plan(dump_plan(empty)) == empty


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"colour": "red"}, "colour", "unknown key"),
        ({"placements/0/choice/colour": 1}, "placements[0].choice.colour", "unknown key"),
        ({"version": 2}, "version", "1"),
        ({"placements/0/workload/sequences": "many"}, "placements[0].workload.sequences", "integer"),
        ({"placements/1/workload/width_px": "512"}, "placements[1].workload.width_px", "integer"),
        ({"placements/0/workload/sequences": 0}, "placements[0].workload.sequences", "at least 1"),
        ({"placements/0/card_id": "GPU-9"}, "placements[0].card_id", "none of the cards"),
        ({"placements/1/id": "m-0"}, "placements[1].id", "twice"),
        ({"placements/0/id": "../etc"}, "placements[0].id", "letters"),
        ({"placements/0/report/bill/weights_bytes": -1}, "placements[0].report.bill", "negative"),
        ({"placements/1/report/bill/weights_bytes": 8 * 2**30}, "placements", "add up to"),
        ({"placements/0/report/fits": False}, "placements[0].report.fits", "leave it out"),
        ({"placements/0/choice/engine": "tensorrt"}, "placements[0].choice.engine", "vllm"),
        ({"cards": None}, "cards", "array"),
        ({"cards/0/total_bytes": float("nan")}, "", "can't have"),
    ],
)
def test_faults_are_named(change: dict[str, object], place: str, words: str) -> None:
    error = faulty(change)
    assert error.place == place
    assert words in error.sentence


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "version: 1\nversion: 1\n", "a: &x [1]\nb: *x\n", "a: [", "a: !!python/object:os.system x", "\x00",
        "when: 2026-01-01\n", "- " * 9000, "{a: " * 5000,
    ],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    assert faulty(text=text).sentence


def test_a_missing_and_a_binary_file(tmp_path: Path) -> None:
    with pytest.raises(PlanFileError, match="can't be read"):
        load_plan(tmp_path / "none.yaml")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanFileError, match="not UTF-8"):
        load_plan(tmp_path / "b")
