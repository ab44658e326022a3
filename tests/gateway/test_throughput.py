"""The report of `GET /v1/throughput` over meters that are filled by hand: energy, costs, predictions, knees, and reasons."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from services.gateway.knees import Knee, KneeError, read_knee, read_knees
from services.gateway.openapi import document
from services.gateway.outcome import Ending, Outcome
from services.gateway.throughput_report import report
from services.keys.usage import Sums
from services.sizing.economics import Tariff
from services.wire.shapes import ImageUsage, TokenUsage
from tests.gateway.metered import NOW, ended, made, stream, watch


def of(told: dict[str, Any], where: str, ident: str) -> dict[str, Any]:
    return next(one for one in told[where] if one["id"] == ident)


def check_shape(told: dict[str, Any]) -> None:
    whole = json.loads(document())
    schema = whole["paths"]["/v1/throughput"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": whole["components"]}).validate(told)


@pytest.mark.parametrize("window", ["10s", "1m", "5m", "1h"])
def test_nothing_measured_is_null_with_a_reason_everywhere(tmp_path: Path, window: str) -> None:
    gateway, _ = made(tmp_path)
    told = report(gateway, window, NOW)
    check_shape(told)
    assert told["tariff"] is None
    assert "--tariff" in told["tariff_reason"]
    excused = {"peak_output_tokens_per_s", "kind", "state", "state_reason", "capacity"}
    telemetry = {"temperature_c", "power_watts", "used_bytes", "throttle_reasons", "pcie_generation", "pcie_width", "pcie_replays"}
    for entry in (told["totals"], *told["cards"], *told["models"], *told["backends"]):
        for name, value in entry.items():
            if value is None and name not in excused:
                reason = entry["reasons"].get("telemetry" if name in telemetry else name)
                assert reason, (name, entry)
        for name, value in entry["serving"].items():
            assert value is not None or entry["serving"]["reasons"][name], name
    simulated = next(card for card in told["cards"] if card["simulated"])
    assert (simulated["watts"], simulated["energy_source"]) == (None, "unavailable")
    assert simulated["reasons"]["watts"] == "a simulated card has no power of its own"


def test_energy_costs_and_joules_of_a_card(tmp_path: Path) -> None:
    """100 W all the time; 10 s of one seat for 500 tokens in the last minute, at 0.30 a kWh."""
    gateway, backends = made(tmp_path, tariff=Tariff(0.30, "EUR"))
    alone = backends["alone"]
    watch(gateway, alone, 100.0)
    outcome = stream(gateway, alone, 20.0, 10.0, 500)
    assert outcome.joules == pytest.approx(1000)
    told = report(gateway, "1m", NOW)
    check_shape(told)
    card, covered = of(told, "cards", alone.card.id), told["covered_s"]  # type: ignore[union-attr]
    assert (card["watts"], card["energy_source"]) == (pytest.approx(100), "counter")
    assert card["power_watts"] == 100.0
    rate = 500 / covered
    assert card["output_tokens_per_s"] == pytest.approx(rate, rel=1e-3)
    assert card["output_tokens_per_joule"] == pytest.approx(rate / 100, rel=1e-3)
    assert card["joules_per_output_token"] == pytest.approx(100 / rate, rel=1e-3), "idle time is in it"
    assert card["cost_per_million_output_tokens"] == pytest.approx(100 / 1000 * 1e6 / rate / 3600 * 0.30, rel=1e-3)
    assert card["joules_per_image"] is None
    assert card["reasons"]["joules_per_image"] == "no images were made in the last 1m"
    serving = of(told, "models", alone.model_id)["serving"]
    assert (serving["joules"], serving["joules_per_output_token"]) == (pytest.approx(1000), pytest.approx(2.0, rel=1e-3))
    assert serving["cost_per_million_output_tokens"] == pytest.approx(2e6 / 3.6e6 * 0.30, rel=1e-3)
    assert of(told, "backends", "alone")["serving"] == serving == card["serving"]
    assert told["totals"]["watts"] is None
    assert "RTX 3060 Ti" in told["totals"]["reasons"]["watts"], "the other cards are not metered"
    assert told["tariff"] == {"per_kwh": 0.30, "currency": "EUR"}


def test_text_and_images_on_one_card_have_their_own_joules_each(tmp_path: Path) -> None:
    gateway, backends = made(tmp_path, tariff=Tariff(0.30, "EUR"))
    watch(gateway, backends["chat"], 80.0, source="integrated")
    stream(gateway, backends["chat"], 30.0, 10.0, 400)
    images = ended(gateway, backends["image"], 15.0, 5.0, images=ImageUsage(2, 40), route="/v1/images/generations")
    assert images.joules == pytest.approx(400)
    told = report(gateway, "1m", NOW)
    check_shape(told)
    card = of(told, "cards", backends["chat"].card.id)  # type: ignore[union-attr]
    assert card["output_tokens_per_joule"] is None
    assert "see serving" in card["reasons"]["output_tokens_per_joule"]
    assert card["serving"]["joules"] == pytest.approx(1200)
    assert card["serving"]["joules_per_output_token"] == pytest.approx(2.0, rel=1e-3)
    assert card["serving"]["joules_per_image"] == pytest.approx(200, rel=1e-3)
    assert card["serving"]["cost_per_image"] == pytest.approx(200 / 3.6e6 * 0.30, rel=1e-3)
    assert card["energy_source"] == "integrated"
    assert "denoise_steps_per_s" not in card["reasons"]
    assert card["capacity"]["reason"] == "several models share this card; see models"


def test_one_request_without_energy_makes_the_sum_unknown(tmp_path: Path) -> None:
    gateway, backends = made(tmp_path)
    watch(gateway, backends["alone"], 100.0)
    stream(gateway, backends["alone"], 20.0, 10.0, 500)
    early = stream(gateway, backends["alone"], 130.0, 125.0, 500)  # seated before the first reading
    assert early.joules is None
    entry = of(report(gateway, "1m", NOW), "backends", "alone")
    assert entry["serving"]["joules"] is None
    assert entry["serving"]["reasons"]["joules"] == "of 1 requests the energy is not known"


def test_energy_of_a_small_part_of_the_window_does_not_stand_for_it(tmp_path: Path) -> None:
    gateway, backends = made(tmp_path)
    watch(gateway, backends["alone"], 100.0, seconds=20)
    ident = backends["alone"].card.id  # type: ignore[union-attr]
    assert of(report(gateway, "10s", NOW), "cards", ident)["watts"] == pytest.approx(100)
    card = of(report(gateway, "5m", NOW), "cards", ident)
    assert card["watts"] is None
    assert card["reasons"]["watts"] == "the energy of this card is known for 20 s of the last 5m only"


def test_joules_reach_the_usage(tmp_path: Path) -> None:
    gateway, backends = made(tmp_path)
    watch(gateway, backends["alone"], 100.0)
    for backend in (backends["alone"], backends["slow"]):
        outcome = Outcome("id", "ours", "/v1/chat/completions", NOW - 9, backend.model_id, backend=backend, ending=Ending.SERVED)
        outcome.seated_s, outcome.ended_s, outcome.tokens = NOW - 9, NOW - 5, TokenUsage(3, 4)
        gateway.record(outcome)
    gateway.recorder.settle()
    joules = {ident.model: sums.joules for ident, sums in gateway.ledger.usage.rows()}
    assert joules == {backends["alone"].model_id: pytest.approx(400), "smollm2-135m-instruct": None}, "a simulated card: null, not 0"


def test_what_a_worker_says_reaches_the_meter(tmp_path: Path) -> None:
    gateway, backends = made(tmp_path)
    alone = backends["alone"]
    assert alone.card is not None
    for age_s, joules in ((2.0, 500.0), (0.0, 700.0)):
        said = {"placement_id": "alone", "state": "starting", "telemetry": {"energy_j": joules, "energy_source": "counter", "age_s": age_s}}
        gateway.fleet._worker_said(alone, said)
    now = time.monotonic()
    drawn = gateway.throughput.energy.drawn(alone.card.id, 60, now)
    assert (drawn.joules, drawn.source) == (pytest.approx(200), "counter")
    assert drawn.known_s == pytest.approx(2.0, abs=0.5)
    for broken in ({}, {"energy_j": None}, {"energy_j": True, "energy_source": "counter", "age_s": 0.0}, {"energy_j": 1.0, "age_s": "x"}):
        gateway.fleet._worker_said(alone, said | {"telemetry": broken})
    assert gateway.throughput.energy.drawn(alone.card.id, 60, now) == drawn


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    known = Sums(1, joules=5.0)
    known.add(Sums(1, joules=7.0))
    assert known.joules == 12.0
    known.add(Sums(1))
    assert known.joules is None


def test_prediction_beside_what_is_measured(tmp_path: Path) -> None:
    gateway, backends = made(tmp_path)
    chat = backends["chat"]
    assert chat.placement is not None
    speed = chat.placement.report.speed
    assert speed is not None
    assert speed.decode_tok_s
    chat.status = {"measured": {"tok_s": 123.4}}
    stream(gateway, chat, 20.0, 5.1, 101)  # 5 s for 100 tokens after the first: 20 tok/s
    told = of(report(gateway, "1m", NOW), "backends", "chat")["predicted"]
    assert told["output_tokens_per_s"] == {"low": speed.decode_tok_s, "high": 4 * speed.decode_tok_s}
    assert told["output_tokens_per_s_per_request"] == pytest.approx(20, rel=1e-3)
    assert told["of_predicted"] == pytest.approx(20 / speed.decode_tok_s, rel=1e-3)
    assert told["measured_alone"]["output_tokens_per_s"] == 123.4
    assert told["basis"] == speed.basis
    slow = of(report(gateway, "1m", NOW), "backends", "slow")["predicted"]
    assert slow["output_tokens_per_s"] is None
    assert slow["reasons"]["prediction"]
    assert slow["reasons"]["measured_alone"] == "its worker has measured no speed"


def test_the_knee_of_a_model(tmp_path: Path) -> None:
    gateway, backends = made(tmp_path)
    alone = backends["alone"]
    assert alone.card is not None
    for second in range(10):
        stream(gateway, alone, 50.0 - second, 2.0, 20)
    assert "no sweep is known" in of(report(gateway, "1m", NOW), "models", alone.model_id)["capacity"]["reason"]
    knee = Knee(alone.model_id, 2.0, 80.0, 3.0, "2026-11-22T10:00:00+00:00", (alone.card.id,), "sweep/result.json")
    gateway.throughput.knees = {knee.model: knee}
    told = report(gateway, "1m", NOW)
    capacity = of(told, "models", alone.model_id)["capacity"]
    assert (capacity["knee_rps"], capacity["knee_output_tokens_per_s"], capacity["reason"]) == (2.0, 80.0, None)
    assert capacity["load"] == pytest.approx(10 / told["covered_s"] / 2, rel=1e-3)
    assert of(told, "cards", alone.card.id)["capacity"]["knee_rps"] == 2.0, "this card is all that the model has, and has nothing else"
    gateway.throughput.knees = {knee.model: replace(knee, cards=("GPU-gone",))}
    capacity = of(report(gateway, "1m", NOW), "models", alone.model_id)["capacity"]
    assert capacity["knee_rps"] is None
    assert "other cards (GPU-gone)" in capacity["reason"]


SWEEP = {"kind": "sweep", "started_at": "2026-11-22T10:00:00+00:00", "models": {"chat": "m", "image": "i"}, "by_kind": {"chat": {}},
         "by_card": {"GPU-1": {}}, "sweep": {"knee_rps": 2.5, "knee_output_tok_s": 80.0, "saturated_rps": None}}


def written(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_knees_are_read_from_results(tmp_path: Path) -> None:
    folder = tmp_path / "monday"
    folder.mkdir()
    old = written(folder / "result.json", SWEEP)
    assert read_knee(old) == Knee("m", 2.5, 80.0, None, SWEEP["started_at"], ("GPU-1",), "monday/result.json")  # type: ignore[arg-type]
    new = written(tmp_path / "new.json", SWEEP | {"started_at": "2026-11-22T11:00:00+00:00", "sweep": {"knee_rps": 3}})
    assert read_knees([new, old])["m"].knee_rps == 3
    images = written(tmp_path / "images.json", SWEEP | {"by_kind": {"image": {}}})
    assert list(read_knees([old, images])) == ["m", "i"]


@pytest.mark.parametrize("value", [
    "{", "[]", "{}", {**SWEEP, "kind": "run"}, {**SWEEP, "by_kind": {"chat": {}, "image": {}}}, {**SWEEP, "models": None},
    {**SWEEP, "sweep": {"knee_rps": -1}}, {**SWEEP, "sweep": {"knee_rps": True}}, {**SWEEP, "started_at": None}, "[" * 100_000,
])  # fmt: skip
def test_what_holds_no_knee_is_refused_with_a_sentence(tmp_path: Path, value: Any) -> None:
    with pytest.raises(KneeError, match=r"--load-result .*x\.json"):
        read_knee(written(tmp_path / "x.json", value))


def test_a_report_is_quick(tmp_path: Path) -> None:
    """It is made in the event loop, once a second for each who looks."""
    gateway, backends = made(tmp_path)
    for backend in backends.values():
        for number in range(500):
            stream(gateway, backend, 60.0 - number / 10, 1.0, 20)
    took_s = []
    for _ in range(5):
        begun = time.process_time()
        report(gateway, "1m", NOW)
        took_s.append(time.process_time() - begun)
    assert min(took_s) < 0.05
